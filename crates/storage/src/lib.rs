//! Bytes that survive a crash: the [`Log`] (append, sync, truncate, purge, vote), [`Snapshots`] (files), and the ordered
//! [`Engine`] over sled with a memory twin. Synchronous; knows nothing of Raft beyond positions.

mod chunked;
mod directory;
pub mod engine;
pub mod error;
mod freeze;
pub mod log;
pub mod memory;
#[cfg(quorate_sim)]
pub mod sim;
pub mod sled;
pub mod snapshot_files;

pub use directory::DirLock;
pub use engine::{Engine, Frozen, Pairs};
pub use error::StorageError;
pub use log::{Completion, Entry, Log, LogOptions, OnSync, Position, Vote};
pub use memory::MemoryEngine;
pub use sled::{Opened, RebuildReason, SledEngine};
pub use snapshot_files::{
    BackupMeta, DIGEST_BYTES, FoundSnapshot, SnapshotMeta, Snapshots, read_backup, verify_backup,
    write_backup,
};
