//! How far the database had come, said twice: inside, as the last thing of each flush, and in a file beside the blocks.
//!
//! When sled opens and meets a part of its log that does not pass its checksums, it takes that for the end of the log and goes
//! on without a word from what came before: an older state, or the middle of an older flush, which never was the state of
//! anything. So every flush ends with its number inside, written after its blocks, and after sled has handed that to the
//! kernel with the same number in `SEAL`. What is found inside must have come as far as `SEAL` says; while `REDO` lies there it
//! may be one further. Not synced, like everything here.
//!
//! Missing: one of sled's files for large pages that is *gone* is passed over by sled, and what came after it is kept. A hand
//! does that, not a disk.

use sled::IVec;

use super::store::Store;
use crate::StorageError;

/// Inside the database: 8 bytes, little endian.
const KEY: &[u8] = b"mseal";
const FILE: &str = "SEAL";

/// The number inside; 0 before the first flush.
fn inside(store: &Store) -> Result<u64, sled::Error> {
    let found: Option<IVec> = store.db.get(KEY)?;
    Ok(found.and_then(|bytes| bytes.as_ref().try_into().ok()).map_or(0, u64::from_le_bytes))
}

/// Ends a flush. BEFORE: its blocks are in sled. AFTER: sled has handed all of it to the kernel.
pub(super) fn end_flush(store: &Store) -> Result<(), String> {
    let number = inside(store).map_err(|error| error.to_string())? + 1;
    store.db.insert(KEY, &number.to_le_bytes()).map_err(|error| error.to_string())?;
    store.db.flush().map_err(|error| error.to_string())?;
    let (path, beside) = (store.path.join(FILE), store.path.join("SEAL.tmp"));
    let written =
        std::fs::write(&beside, format!("{number:016x}\n")).and_then(|()| std::fs::rename(&beside, &path));
    written.map_err(|error| StorageError::io("writing", &path)(error).chain())
}

/// Whether everything is there that was flushed. `redo`: a flush was broken off, and is going to be done again.
pub(super) fn check(store: &Store, redo: bool) -> Result<(), String> {
    let path = store.path.join(FILE);
    let sealed = match std::fs::read_to_string(&path) {
        Ok(text) => text.strip_suffix('\n').and_then(|digits| u64::from_str_radix(digits, 16).ok()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some(0),
        Err(error) => return Err(StorageError::io("reading", &path)(error).chain()),
    };
    let Some(sealed) = sealed else { return Err(format!("{} is not whole", path.display())) };
    let inside = inside(store).map_err(|error| error.to_string())?;
    if inside < sealed || (inside > sealed && !redo) {
        return Err(format!("flush {sealed} was its last one, and it has come to flush {inside}"));
    }
    Ok(())
}
