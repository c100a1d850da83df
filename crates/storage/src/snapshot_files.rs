//! Snapshot files: written whole beside, synced, renamed, directory synced, checksummed.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::{Position, StorageError};

/// What a snapshot file says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// The last position applied to it.
    pub at: Option<Position>,
    /// The membership, encoded by consensus.
    pub membership: Bytes,
    /// Pairs inside.
    pub pairs: u64,
    /// Size of the file in bytes.
    pub bytes: u64,
}

/// The snapshot directory: at most a few files, the newest whole one counts.
#[derive(Debug, Clone)]
pub struct Snapshots {}

#[allow(unused_variables, missing_docs, clippy::unimplemented)]
impl Snapshots {
    pub fn open(dir: &Path) -> Result<Snapshots, StorageError> {
        unimplemented!()
    }
    /// Writes a file from `pairs`, in key order, and makes it the newest. Old files are removed afterwards.
    pub fn write(
        &self,
        at: Option<Position>,
        membership: Bytes,
        pairs: &mut dyn Iterator<Item = Result<(Bytes, Bytes), StorageError>>,
    ) -> Result<SnapshotMeta, StorageError> {
        unimplemented!()
    }
    /// The newest whole snapshot, verified.
    pub fn newest(&self) -> Result<Option<(SnapshotMeta, PathBuf)>, StorageError> {
        unimplemented!()
    }
    /// A path for a file that arrives from a peer; [`Snapshots::adopt`] verifies and renames it.
    pub fn incoming(&self) -> PathBuf {
        unimplemented!()
    }
    pub fn adopt(&self, incoming: &Path) -> Result<SnapshotMeta, StorageError> {
        unimplemented!()
    }
    /// The pairs of a whole snapshot file.
    pub fn read(&self, path: &Path) -> Result<Box<dyn Iterator<Item = Result<(Bytes, Bytes), StorageError>> + Send>, StorageError> {
        unimplemented!()
    }
}
