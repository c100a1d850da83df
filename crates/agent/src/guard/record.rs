//! What a guard leaves beside the data directory when it has fenced: one line of `name=value` pairs.
//!
//! ```text
//!   deadline_ms=101200 begun_ms=101201 done_ms=101219 valid_until_ms=102000 found=9 killed=3 sealed=1 wall_s=1795216454
//! ```
//!
//! Times are since boot except `wall_s`, which is for people. Written by system calls from a fixed buffer (the guard allocates
//! nothing) to a neighbour and renamed, so that it is whole or not there; read, told and removed by the next agent.
//! When nothing was running at the deadline there is nothing to tell, and no record.

use std::ffi::CString;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags};

use crate::fence::Margin;

/// What happened when a deadline passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// When PostgreSQL had to be killed.
    pub deadline: Duration,
    /// When the guard began.
    pub begun: Duration,
    /// When the last process was gone.
    pub done: Duration,
    /// When the lease could expire.
    pub valid_until: Duration,
    /// Processes of PostgreSQL at the beginning.
    pub found: usize,
    /// SIGKILLs sent.
    pub killed: usize,
    /// `standby.signal` is written.
    pub sealed: bool,
    /// Seconds since 1970 by the wall clock, at the end.
    pub wall_s: u64,
}

/// Where: `data_dir.fenced`.
#[must_use]
pub fn path(data_dir: &Path) -> PathBuf {
    beside(data_dir, ".fenced")
}

fn beside(data_dir: &Path, suffix: &str) -> PathBuf {
    let mut name = data_dir.file_name().unwrap_or_default().to_os_string();
    name.push(suffix);
    data_dir.with_file_name(name)
}

/// The place of a record, prepared: writing to it allocates nothing.
#[derive(Debug)]
pub struct Place {
    path: CString,
    draft: CString,
}

/// Longer than any record.
const LINE_BYTES: usize = 320;

impl Place {
    /// Beside `data_dir`; None for a path that no file can have.
    #[must_use]
    pub fn new(data_dir: &Path) -> Option<Place> {
        let name = |suffix| CString::new(beside(data_dir, suffix).as_os_str().as_bytes()).ok();
        Some(Place { path: name(".fenced")?, draft: name(".fenced.new")? })
    }

    /// Writes it durably enough to be read by the next agent; a machine that loses its power has no need of it.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn write(&self, record: &Record) -> Result<(), rustix::io::Errno> {
        let mut line = [0_u8; LINE_BYTES];
        let mut rest = &mut line[..];
        // Cannot run out: eight numbers of at most twenty digits.
        let _ = writeln!(
            rest,
            "deadline_ms={} begun_ms={} done_ms={} valid_until_ms={} found={} killed={} sealed={} wall_s={}",
            record.deadline.as_millis(),
            record.begun.as_millis(),
            record.done.as_millis(),
            record.valid_until.as_millis(),
            record.found,
            record.killed,
            u8::from(record.sealed),
            record.wall_s,
        );
        let left = rest.len();
        let text = &line[..LINE_BYTES - left];
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::open(self.draft.as_c_str(), flags, Mode::RUSR | Mode::WUSR)?;
        rustix::io::write(&file, text)?;
        rustix::fs::renameat(CWD, self.draft.as_c_str(), CWD, self.path.as_c_str())
    }
}

impl Record {
    /// How it stands to the end of the lease.
    #[must_use]
    pub fn margin(&self) -> Margin {
        match self.valid_until.checked_sub(self.done) {
            Some(left) => Margin::Before(left),
            None => Margin::After(self.done.saturating_sub(self.valid_until)),
        }
    }

    /// From its line; None: not one of ours.
    fn parse(line: &str) -> Option<Record> {
        let field = |name: &str| -> Option<u64> {
            line.split_ascii_whitespace()
                .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?
                .parse()
                .ok()
        };
        let time = |name| field(name).map(Duration::from_millis);
        Some(Record {
            deadline: time("deadline_ms")?,
            begun: time("begun_ms")?,
            done: time("done_ms")?,
            valid_until: time("valid_until_ms")?,
            found: usize::try_from(field("found")?).ok()?,
            killed: usize::try_from(field("killed")?).ok()?,
            sealed: field("sealed")? == 1,
            wall_s: field("wall_s")?,
        })
    }
}

/// Takes the record that a guard has left beside `data_dir`, if there is one: it is told once.
#[must_use]
pub fn take(data_dir: &Path) -> Option<Record> {
    let path = path(data_dir);
    let line = std::fs::read_to_string(&path).ok()?;
    let _ = std::fs::remove_file(&path); // told twice is better than not at all
    Record::parse(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_once() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        let ms = Duration::from_millis;
        let record = Record {
            deadline: ms(101_200),
            begun: ms(101_201),
            done: ms(102_010),
            valid_until: ms(102_000),
            found: 9,
            killed: 3,
            sealed: true,
            wall_s: 1_795_216_454,
        };
        Place::new(&data_dir).unwrap().write(&record).unwrap();
        assert_eq!(take(&data_dir), Some(record));
        assert_eq!(record.margin(), Margin::After(ms(10)));
        assert_eq!(take(&data_dir), None);
    }

    #[test]
    fn the_longest_one_fits() {
        let dir = tempfile::tempdir().unwrap();
        let longest = Duration::from_millis(u64::MAX);
        let record = Record {
            deadline: longest,
            begun: longest,
            done: longest,
            valid_until: longest,
            found: usize::MAX,
            killed: usize::MAX,
            sealed: true,
            wall_s: u64::MAX,
        };
        Place::new(dir.path()).unwrap().write(&record).unwrap();
        assert_eq!(take(dir.path()), Some(record));
    }
}
