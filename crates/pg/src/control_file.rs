//! `global/pg_control`, read directly.
//!
//! # Why not `pg_controldata`
//!
//! The control file is part of every probe of a stopped instance and of every classification of a data directory, also
//! of one whose binaries are missing or whose file system is slow. A program start costs milliseconds and may hang in
//! `exec`; 300 bytes cost one read. The price is knowledge of the layout, and it is a small one: PostgreSQL 13 to 17 share
//! one (`PG_CONTROL_VERSION` 1300), the version is in the file, and a CRC32C over all fields proves that offset, size and
//! byte order are what this module takes them to be. A version it does not know is an error, never a guess. A test holds
//! it equal to `pg_controldata`.
//!
//! # Torn reads
//!
//! PostgreSQL replaces the file's first 512 bytes in place by one write; a read at that moment may see both versions. A wrong
//! CRC is therefore read again a few times before it counts (as PostgreSQL's own tools do since 16).
//!
//! Source of the layout: PostgreSQL's `src/include/catalog/pg_control.h`.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate_ha::facts::{ControlState, Lsn, Position, SystemId, TimelineId};

/// `PG_CONTROL_VERSION` of PostgreSQL 13 to 17.
const VERSION: u32 = 1300;
/// Offset of the CRC: everything before it is covered.
pub(crate) const CRC_AT: usize = 288;
/// Reads of a file with a wrong CRC before it counts as damaged, and the pause between them.
const READS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(10);

/// The fields that matter here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlFile {
    /// Which cluster this is a copy of.
    pub system_identifier: SystemId,
    /// What the server was doing when it last wrote the file.
    pub state: ControlState,
    /// Start of the latest checkpoint record.
    pub checkpoint: Lsn,
    /// Where replay starts from it.
    pub redo: Lsn,
    /// Timeline of that checkpoint.
    pub timeline: TimelineId,
    /// How far a standby must replay to be consistent; 0 on a primary.
    pub min_recovery_point: Lsn,
    /// Its timeline; 0 on a primary.
    pub min_recovery_timeline: TimelineId,
    /// This is a copy (of `pg_basebackup`, `pg_rewind`) that replay begins here with and that is not consistent yet; 0 otherwise. Not set
    /// before its first start: until then `backup_label` says it.
    pub backup_start_point: Lsn,
    /// `wal_log_hints` of the last run.
    pub wal_log_hints: bool,
    /// Data checksums are on.
    pub data_checksums: bool,
    /// `max_connections` that a standby needs at least; the next four likewise.
    pub max_connections: u32,
    /// `max_worker_processes`.
    pub max_worker_processes: u32,
    /// `max_wal_senders`.
    pub max_wal_senders: u32,
    /// `max_prepared_transactions`.
    pub max_prepared_transactions: u32,
    /// `max_locks_per_transaction`.
    pub max_locks_per_transaction: u32,
    /// Size of a WAL page.
    pub wal_page_bytes: u32,
    /// Size of a WAL segment.
    pub wal_segment_bytes: u32,
}

/// The control file cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ControlFileError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} has {bytes} bytes: it is truncated (restore it from a clone)", path.display())]
    Short { path: PathBuf, bytes: usize },
    #[error("{} has format {version}: PostgreSQL 13 to 17 are supported (format {VERSION})", path.display())]
    Version { path: PathBuf, version: u32 },
    #[error("{} has a wrong checksum: it is damaged (clone this instance again)", path.display())]
    Checksum { path: PathBuf },
    #[error("{} has the unknown state {state}", path.display())]
    State { path: PathBuf, state: u32 },
}

impl ControlFile {
    /// Reads the control file of a data directory.
    ///
    /// # Errors
    /// See [`ControlFileError`]; `NotFound` means that this is no data directory.
    pub fn read(data_dir: &Path) -> Result<ControlFile, ControlFileError> {
        let path = data_dir.join("global/pg_control");
        let mut attempt = 1;
        loop {
            let bytes = std::fs::read(&path)
                .map_err(|source| ControlFileError::Read { path: path.clone(), source })?;
            match ControlFile::parse(&bytes, &path) {
                Err(ControlFileError::Checksum { .. }) if attempt < READS => {
                    attempt += 1;
                    std::thread::sleep(PAUSE);
                }
                result => return result,
            }
        }
    }

    /// Reads the fields from the file's bytes.
    ///
    /// # Errors
    /// As [`ControlFile::read`].
    pub fn parse(bytes: &[u8], path: &Path) -> Result<ControlFile, ControlFileError> {
        let path = || path.to_owned();
        if bytes.len() < CRC_AT + 4 {
            return Err(ControlFileError::Short { path: path(), bytes: bytes.len() });
        }
        let version = u32_at(bytes, 8);
        if version != VERSION {
            return Err(ControlFileError::Version { path: path(), version });
        }
        if crc32c::crc32c(&bytes[..CRC_AT]) != u32_at(bytes, CRC_AT) {
            return Err(ControlFileError::Checksum { path: path() });
        }
        let state = match u32_at(bytes, 16) {
            0 => ControlState::StartingUp,
            1 => ControlState::ShutDown,
            2 => ControlState::ShutDownInRecovery,
            3 => ControlState::ShuttingDown,
            4 => ControlState::InCrashRecovery,
            5 => ControlState::InArchiveRecovery,
            6 => ControlState::InProduction,
            state => return Err(ControlFileError::State { path: path(), state }),
        };
        Ok(ControlFile {
            system_identifier: SystemId(u64_at(bytes, 0)),
            state,
            checkpoint: Lsn(u64_at(bytes, 32)),
            redo: Lsn(u64_at(bytes, 40)),
            timeline: TimelineId(u32_at(bytes, 48)),
            min_recovery_point: Lsn(u64_at(bytes, 136)),
            min_recovery_timeline: TimelineId(u32_at(bytes, 144)),
            backup_start_point: Lsn(u64_at(bytes, 152)),
            wal_log_hints: bytes[176] != 0,
            max_connections: u32_at(bytes, 180),
            max_worker_processes: u32_at(bytes, 184),
            max_wal_senders: u32_at(bytes, 188),
            max_prepared_transactions: u32_at(bytes, 192),
            max_locks_per_transaction: u32_at(bytes, 196),
            wal_page_bytes: u32_at(bytes, 224),
            wal_segment_bytes: u32_at(bytes, 228),
            data_checksums: u32_at(bytes, 252) != 0,
        })
    }

    /// Where the WAL ends, as far as this file tells: after the shutdown checkpoint of a primary that was stopped cleanly,
    /// at the minimum recovery point of a standby, unknown after the crash of a primary.
    #[must_use]
    pub fn wal_end(&self) -> Option<Lsn> {
        match self.state {
            ControlState::ShutDown => Some(self.end_of_checkpoint()),
            ControlState::ShutDownInRecovery | ControlState::InArchiveRecovery => {
                Some(self.min_recovery_point.max(self.redo))
            }
            ControlState::StartingUp
            | ControlState::ShuttingDown
            | ControlState::InCrashRecovery
            | ControlState::InProduction => None,
        }
    }

    /// The minimum recovery point with its timeline; None on a primary.
    #[must_use]
    pub fn consistent_from(&self) -> Option<Position> {
        let position = Position { timeline: self.min_recovery_timeline, lsn: self.min_recovery_point };
        (self.min_recovery_point != Lsn(0)).then_some(position)
    }

    /// The byte after the checkpoint record: 24 bytes of header, 2 of data header, 88 of checkpoint; page headers (24
    /// bytes, 40 at the start of a segment) where it crosses into the next page; aligned to 8.
    fn end_of_checkpoint(&self) -> Lsn {
        const RECORD: u64 = 24 + 2 + 88;
        let (page, segment) =
            (u64::from(self.wal_page_bytes.max(512)), u64::from(self.wal_segment_bytes.max(512)));
        let start = self.checkpoint.0;
        let room = page - start % page;
        let end = if RECORD <= room {
            start + RECORD
        } else {
            let next = start + room;
            next + if next.is_multiple_of(segment) { 40 } else { 24 } + (RECORD - room)
        };
        Lsn(end.next_multiple_of(8))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_ne_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_ne_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut bytes = vec![0_u8; 8192];
        bytes[0..8].copy_from_slice(&7_710_395_948_784_291_904_u64.to_ne_bytes());
        bytes[8..12].copy_from_slice(&VERSION.to_ne_bytes());
        bytes[16..20].copy_from_slice(&1_u32.to_ne_bytes());
        bytes[32..40].copy_from_slice(&0x0200_0028_u64.to_ne_bytes());
        bytes[48..52].copy_from_slice(&3_u32.to_ne_bytes());
        bytes[224..228].copy_from_slice(&8192_u32.to_ne_bytes());
        bytes[228..232].copy_from_slice(&(16_u32 << 20).to_ne_bytes());
        let crc = crc32c::crc32c(&bytes[..CRC_AT]);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_ne_bytes());
        bytes
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = sample();
        let path = Path::new("pg_control");
        let control = ControlFile::parse(&good, path).unwrap();
        assert_eq!(control.timeline, TimelineId(3));
        assert_eq!(control.wal_end(), Some(Lsn(0x0200_00A0)));
        for bit in 0..(CRC_AT + 4) * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(ControlFile::parse(&bad, path).is_err(), "bit {bit}");
        }
        assert!(matches!(ControlFile::parse(&good[..200], path), Err(ControlFileError::Short { .. })));
    }

    #[test]
    fn a_checkpoint_record_that_crosses_a_page_has_a_header_in_it() {
        let mut control = ControlFile::parse(&sample(), Path::new("pg_control")).unwrap();
        control.checkpoint = Lsn(0x0200_2000 - 0x20);
        assert_eq!(
            control.end_of_checkpoint(),
            Lsn(0x0200_2000 + 24 + 88),
            "82 bytes are left, aligned to 88"
        );
        control.checkpoint = Lsn(0x0300_0000 - 0x20);
        assert_eq!(
            control.end_of_checkpoint(),
            Lsn(0x0300_0000 + 40 + 88),
            "long header, 122 aligned to 128"
        );
    }
}
