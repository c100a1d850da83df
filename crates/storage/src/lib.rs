//! Bytes that survive a crash: the [`Log`] (append, sync, truncate, purge, vote), [`Snapshots`] (files), and the ordered
//! [`Engine`] over sled with a memory twin. Synchronous; knows nothing of Raft beyond positions.

pub mod engine;
pub mod error;
pub mod log;
pub mod snapshot_files;

pub use engine::Engine;
pub use error::StorageError;
pub use log::{Completion, Entry, Log, LogOptions, Position, Vote};
pub use snapshot_files::{SnapshotMeta, Snapshots};
