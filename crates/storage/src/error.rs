//! What can go wrong with a disk.

use std::path::PathBuf;

/// Split by what the caller may do: nothing here is retried; a node that meets one stops with the sentence.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// A system call failed. After a failed sync nothing that was not yet acknowledged may be assumed to be on disk.
    #[error("{action} {path}", path = path.display())]
    Io {
        /// A verb in the progressive: "syncing".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// Bytes that were once written whole are no longer what they were.
    #[error("{path}: damaged at byte {offset}: {what}; {remedy}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the damage was met.
        offset: u64,
        /// What was found.
        what: String,
        /// What the operator can do.
        remedy: &'static str,
    },
    /// The engine's own failure (sled).
    #[error("the database in {path} failed", path = path.display())]
    Engine {
        /// The engine's directory.
        path: PathBuf,
        /// Its answer.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
