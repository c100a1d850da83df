//! The ordered byte map under the state machine. A view of log and snapshot, never the truth.

use bytes::Bytes;
use quorate_state::{Batch, View};

use crate::StorageError;

/// Two engines implement it, sled and memory, and obey one set of scripts.
pub trait Engine: View + Send + Sync + 'static {
    /// Applies `batch` atomically. Visible when it returns; durable only after [`Engine::sync`].
    fn write(&self, batch: &Batch) -> Result<(), StorageError>;
    /// Pushes what was written to the disk. Not needed for safety (log + snapshot are the truth), only for a fast restart.
    fn sync(&self) -> Result<(), StorageError>;
    /// Replaces the whole content by `pairs` (a snapshot being installed). A crash in between leaves an engine that its
    /// self-check refuses, so that it is rebuilt.
    fn replace(&self, pairs: &mut dyn Iterator<Item = Result<(Bytes, Bytes), StorageError>>) -> Result<(), StorageError>;
    /// Bytes on disk (memory: bytes held).
    fn size_bytes(&self) -> u64;
}
