//! What a crash leaves of a member's directory.
//!
//! A crash of the simulation drops the member, and what is dropped closes its log in order: that is no crash. So its directory is
//! copied before, and the copy is what the member finds when it starts again. Every thread of it stands still then, so the
//! copy is one state of the disk: everything that was synced, and nothing else.
//!
//! A group that was on its way to the disk was not acknowledged, and the disk may hold any part of it. That part is made up
//! here: bytes behind the end of the newest segment that look like the beginning of a write. Or it is a real one: a write that a
//! broken disk took a part of (`quorate_storage::sim`).
//!
//! Disks rot too ([`rot`]). Spared is the newest group of the newest segment: a group of which nothing follows looks like a torn
//! write when it is damaged, and is cut (`quorate_storage::log` says why no log can do better).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What lies behind the last group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tail {
    /// Nothing: a kill of the process.
    Clean,
    /// A part of a write that nobody was told of: a power cut.
    Torn,
    /// What the disk took of a write that failed, or in the middle of which the power went.
    Midway,
}

/// Copies `from` beside itself; [`restore`] brings it back.
pub(crate) fn keep(from: &Path) -> io::Result<()> {
    let kept = kept(from);
    if kept.exists() {
        std::fs::remove_dir_all(&kept)?;
    }
    copy(from, &kept)
}

/// Puts what was kept in place of what the member left, with `tail` behind its log.
pub(crate) fn restore(dir: &Path, tail: Tail, random: &mut fastrand::Rng) -> io::Result<()> {
    std::fs::remove_dir_all(dir)?;
    std::fs::rename(kept(dir), dir)?;
    match tail {
        Tail::Clean | Tail::Midway => Ok(()),
        Tail::Torn => tear(&dir.join("log"), random),
    }
}

fn kept(dir: &Path) -> PathBuf {
    dir.with_extension("kept")
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Takes from the copy what a power cut takes: zeros where nothing was ever written.
pub(crate) fn forget(dir: &Path, unsynced: &[(PathBuf, u64, u64)]) -> io::Result<()> {
    for (path, at, length) in unsynced {
        let Ok(inside) = path.strip_prefix(dir) else { continue };
        // A segment that was still to get its name has lost it.
        match OpenOptions::new().write(true).open(kept(dir).join(inside)) {
            Ok(file) => file.write_all_at(&vec![0; *length as usize], *at)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Flips a few bits of one file in `dir`, before `last_group` (file, offset) if it is that file. Returns which, and says where.
pub(crate) fn rot(
    dir: &Path,
    last_group: Option<(PathBuf, u64)>,
    random: &mut fastrand::Rng,
) -> io::Result<Option<(PathBuf, String)>> {
    let mut files = Vec::new();
    list(dir, &mut files)?;
    files.sort();
    files.retain(|path| {
        path.extension().is_some_and(|extension| extension == "log" || extension == "snapshot")
    });
    if files.is_empty() {
        return Ok(None);
    }
    let path = files.swap_remove(random.usize(0..files.len()));
    let mut bytes = std::fs::read(&path)?;
    let end = match last_group {
        Some((file, at)) if file == path => usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len()),
        _ => bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1),
    };
    if end == 0 {
        return Ok(None);
    }
    let (at, before) = (random.usize(0..end), bytes.clone());
    for _ in 0..random.usize(1..4) {
        let near = (at + random.usize(0..8)).min(end - 1);
        bytes[near] ^= 1 << random.u8(0..8);
    }
    // Some were flipped back.
    if bytes == before {
        return Ok(None);
    }
    std::fs::write(&path, bytes)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Some((path, format!("bits of {name} flipped at byte {at} of {end}"))))
}

fn list(dir: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            list(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// Segments are zeros behind what was written: the first long run of them that lasts to the end is where the next group goes.
fn tear(log: &Path, random: &mut fastrand::Rng) -> io::Result<()> {
    // It had not begun.
    if !log.is_dir() {
        return Ok(());
    }
    let mut segments: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(log)? {
        segments.push(entry?.path());
    }
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    let Some(newest) = segments.into_iter().max() else { return Ok(()) };
    let bytes = std::fs::read(&newest)?;
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    // The last record may end in zeros of its own; beyond this many nothing of it is left.
    let start = end + 64;
    let room = bytes.len().saturating_sub(start);
    if room == 0 {
        return Ok(());
    }
    let length = random.usize(1..=room.min(3000));
    let mut torn: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
    if random.bool() && length > 512 {
        // A hole: a sector that had not arrived.
        let hole = random.usize(0..length - 512);
        torn[hole..hole + 512].fill(0);
    }
    let file: File = OpenOptions::new().write(true).open(&newest)?;
    file.write_all_at(&torn, start as u64)
}
