//! Disks that fail on request (`--cfg quorate_sim`): the next group that a log writes meets what was planned for its directory.
//!
//! What such a write leaves is any part of it, by sectors, as a disk does that reorders what it was not yet told to sync; the
//! log hears an error and acknowledges nothing. The schedule takes the process away afterwards, or in the same step when it is
//! the power that is gone.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

mod rules;

pub use rules::{Rule, break_rule, broken};

/// Written whole or not at all.
const SECTOR: u64 = 512;

/// In every error that comes from here.
pub const SENTENCE: &str = "the simulated disk fails";

/// What happens to the next group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing of it is written.
    NoSpace,
    /// The beginning of it is.
    FailedWrite,
    /// Any sectors of it are, in no order: the pages that could not be synced are gone from memory too.
    FailedSync,
    /// The same, and the machine is off.
    PowerCut,
}

#[derive(Debug, Default)]
struct Disk {
    planned: Option<(Fault, u64)>,
    power_is_gone: bool,
    last_group: Option<(PathBuf, u64)>,
    /// What was planned has happened.
    met: Option<Fault>,
    /// Sectors that only memory has, though the log believes otherwise: a rule is broken.
    unsynced: Vec<(PathBuf, u64, u64)>,
}

static DISKS: Mutex<BTreeMap<PathBuf, Disk>> = Mutex::new(BTreeMap::new());

/// Plans the fault for the log in `dir`; `dice` decides which sectors are written.
pub fn break_next(dir: &Path, fault: Fault, dice: u64) {
    DISKS.lock().entry(dir.to_path_buf()).or_default().planned = Some((fault, dice));
}

/// Whether the power of this log's machine went in the middle of a write.
pub fn power_is_gone(dir: &Path) -> bool {
    DISKS.lock().get(dir).is_some_and(|disk| disk.power_is_gone)
}

/// The fault that this log has met since it was mended.
pub fn met(dir: &Path) -> Option<Fault> {
    DISKS.lock().get(dir).and_then(|disk| disk.met)
}

/// Nothing is planned any more, and the power is back.
pub fn mend(dir: &Path) {
    if let Some(disk) = DISKS.lock().get_mut(dir) {
        (disk.planned, disk.power_is_gone, disk.met) = (None, false, None);
    }
}

/// The file and offset of the newest group that was synced.
pub fn last_group(dir: &Path) -> Option<(PathBuf, u64)> {
    DISKS.lock().get(dir).and_then(|disk| disk.last_group.clone())
}

/// What a power cut takes although the log had called it synced: (file, offset, length).
pub fn take_unsynced(dir: &Path) -> Vec<(PathBuf, u64, u64)> {
    DISKS.lock().get_mut(dir).map(|disk| std::mem::take(&mut disk.unsynced)).unwrap_or_default()
}

/// A group was synced.
pub(crate) fn synced(dir: &Path, file: &Path, group: u64) {
    DISKS.lock().entry(dir.to_path_buf()).or_default().last_group = Some((file.to_path_buf(), group));
}

/// Before a group is written: an error if it meets a fault, of which `file` then shows what it left.
pub(crate) fn about_to_write(
    dir: &Path,
    path: &Path,
    file: &File,
    bytes: &[u8],
    start: u64,
) -> io::Result<()> {
    let mut disks = DISKS.lock();
    let disk = disks.entry(dir.to_path_buf()).or_default();
    if disk.power_is_gone {
        return Err(io::Error::other(SENTENCE));
    }
    let mut sectors = sectors(bytes, start);
    // What is written again is synced again.
    disk.unsynced.retain(|(file, at, _)| {
        file != path || sectors.iter().all(|(again, _)| again / SECTOR != at / SECTOR)
    });
    if broken(Rule::AcknowledgedBeforeSync) {
        disk.unsynced = only_in_memory(path, &sectors);
    }
    let Some((fault, dice)) = disk.planned.take() else { return Ok(()) };
    (disk.power_is_gone, disk.met) = (fault == Fault::PowerCut, Some(fault));
    // Enough of a draw for sectors; whoever wants better dice brings them.
    let mut state = dice | 1;
    let mut draw = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    if fault == Fault::FailedSync && broken(Rule::FailedSyncTriedAgain) {
        sectors.retain(|_| draw() % 2 == 0);
        disk.unsynced.extend(only_in_memory(path, &sectors));
        return Ok(());
    }
    match fault {
        Fault::NoSpace => sectors.clear(),
        Fault::FailedWrite => sectors.truncate((draw() % (sectors.len() as u64 + 1)) as usize),
        Fault::FailedSync | Fault::PowerCut => sectors.retain(|_| draw() % 2 == 0),
    }
    for (at, sector) in sectors {
        file.write_all_at(sector, at)?;
    }
    let kind = match fault {
        Fault::NoSpace => io::ErrorKind::StorageFull,
        Fault::FailedWrite | Fault::FailedSync | Fault::PowerCut => io::ErrorKind::Other,
    };
    Err(io::Error::new(kind, format!("{SENTENCE}: {fault:?}")))
}

fn only_in_memory(path: &Path, sectors: &[(u64, &[u8])]) -> Vec<(PathBuf, u64, u64)> {
    sectors.iter().map(|(at, sector)| (path.to_path_buf(), *at, sector.len() as u64)).collect()
}

/// `bytes` for `start`, cut where the disk's sectors are.
fn sectors(bytes: &[u8], start: u64) -> Vec<(u64, &[u8])> {
    let mut cut = Vec::new();
    let (mut at, mut rest) = (start, bytes);
    while !rest.is_empty() {
        let room = SECTOR - at % SECTOR;
        let (sector, left) = rest.split_at(rest.len().min(room as usize));
        cut.push((at, sector));
        (at, rest) = (at + sector.len() as u64, left);
    }
    cut
}
