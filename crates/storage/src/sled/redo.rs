//! The file that makes a flush one step for a process that is killed in it.
//!
//! Blocks are changed one at a time; a database in which some are and some are not is neither the old state nor the new one,
//! and must not be applied to. So all changes are written into `REDO` first, beside the blocks; the file has its name before
//! the first block is touched and loses it after sled has handed the last one to the kernel. Who opens the database and finds
//! it there brings the changes in again, which comes to the same however far it had got. It is not synced, like everything
//! here: what a power cut leaves is thrown away.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::StorageError;

const MAGIC: [u8; 8] = *b"QRTREDO\n";
/// In place of a value's length: the key is removed.
const REMOVED: u32 = u32::MAX;

/// In key order; None is a removal.
pub(super) type Changes = Vec<(Bytes, Option<Bytes>)>;

fn path_of(generation: &Path) -> PathBuf {
    generation.join("REDO")
}

/// Writes `changes` beside the blocks of `generation`.
pub(super) fn write<'c>(
    generation: &Path,
    changes: impl Iterator<Item = (&'c Bytes, &'c Option<Bytes>)>,
) -> Result<(), StorageError> {
    let path = generation.join("REDO.tmp");
    let written = (|| {
        let mut file = BufWriter::with_capacity(64 << 10, File::create(&path)?);
        let mut crc = 0;
        let mut put = |bytes: &[u8]| {
            crc = crc32c::crc32c_append(crc, bytes);
            file.write_all(bytes)
        };
        put(&MAGIC)?;
        for (key, value) in changes {
            put(&(key.len() as u32).to_le_bytes())?;
            put(&value.as_ref().map_or(REMOVED, |value| value.len() as u32).to_le_bytes())?;
            put(key)?;
            put(value.as_deref().unwrap_or_default())?;
        }
        file.write_all(&crc.to_le_bytes())?;
        file.into_inner().map_err(|error| error.into_error())?;
        std::fs::rename(&path, path_of(generation))
    })();
    written.map_err(StorageError::io("writing", &path))
}

/// What was written and not removed. None: there is nothing to be done again.
pub(super) fn read(generation: &Path) -> Result<Option<Changes>, StorageError> {
    let path = path_of(generation);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => Bytes::from(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StorageError::io("reading", &path)(error)),
    };
    match parse(&bytes) {
        Some(changes) => Ok(Some(changes)),
        None => Err(StorageError::damaged(&path, 0, "it is not whole")),
    }
}

fn parse(bytes: &Bytes) -> Option<Changes> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*crc) || !body.starts_with(&MAGIC) {
        return None;
    }
    let mut rest = bytes.slice(MAGIC.len()..body.len());
    let mut changes = Vec::new();
    while !rest.is_empty() {
        if rest.len() < 8 {
            return None;
        }
        let lengths = rest.split_to(8);
        let number = |at: usize| u32::from_le_bytes(lengths[at..at + 4].try_into().expect("four bytes"));
        let (key, value) = (number(0) as usize, number(4));
        let length = if value == REMOVED { 0 } else { value as usize };
        if key.checked_add(length)? > rest.len() {
            return None;
        }
        let key = rest.split_to(key);
        let content = rest.split_to(length);
        changes.push((key, (value != REMOVED).then_some(content)));
    }
    Some(changes)
}

/// AFTER sled has handed over the last block.
pub(super) fn remove(generation: &Path) -> Result<(), StorageError> {
    let path = path_of(generation);
    std::fs::remove_file(&path).map_err(StorageError::io("removing", &path))
}
