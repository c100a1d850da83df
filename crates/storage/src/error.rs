//! What can go wrong with a disk.

use std::path::{Path, PathBuf};

/// What an operator does about a damaged log or snapshot: the other members hold the same data.
pub(crate) const REPLACE_MEMBER: &str =
    "start this member with an empty data directory: it will be replaced and catch up from the others";

/// Split by what the caller may do: nothing here is retried; a node that meets one stops with the sentence.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// A system call failed. After a failed sync nothing that was not yet acknowledged may be assumed to be on disk.
    #[error("{action} {path}{remedy}", path = path.display(), remedy = full(source))]
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
    /// Another process works in this directory. Stop it, or choose another directory.
    #[error("{path} is in use by another process{}", holder.map(|pid| format!(" (pid {pid})")).unwrap_or_default(), path = path.display())]
    Locked {
        /// The locked directory.
        path: PathBuf,
        /// Who holds it, if the lock file tells.
        holder: Option<u32>,
    },
    /// A frozen view was given up, because too much was overwritten while it was read or the content was replaced.
    /// Nothing is lost: freeze again.
    #[error("the frozen view of the database was given up: {reason}")]
    Thawed {
        /// Why.
        reason: &'static str,
    },
    /// The engine's own failure (sled).
    #[error("the database in {path} failed{remedy}", path = path.display(), remedy = full(&**source))]
    Engine {
        /// The engine's directory.
        path: PathBuf,
        /// Its answer.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The remedy for the one failure of a system call that operators meet. The engine hands on only its text.
fn full(cause: &(dyn std::error::Error + 'static)) -> &'static str {
    if cause.to_string().contains("No space left on device") {
        ": the disk is full; free space on that file system and start again"
    } else {
        ""
    }
}

impl StorageError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> StorageError {
        let path = path.to_path_buf();
        move |source| StorageError::Io { action, path, source }
    }

    /// Damage, with the remedy that there is: the other members.
    pub fn damaged(path: &Path, offset: u64, what: impl Into<String>) -> StorageError {
        StorageError::Damaged { path: path.to_path_buf(), offset, what: what.into(), remedy: REPLACE_MEMBER }
    }

    /// True when it says so.
    pub(crate) fn is_full_disk(&self) -> bool {
        std::error::Error::source(self).is_some_and(|cause| !full(cause).is_empty())
    }

    /// The sentence with its causes, for places that can carry only one string.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }

    /// The kind of the kernel's answer, where there is one.
    pub(crate) fn kind(&self) -> std::io::ErrorKind {
        match self {
            StorageError::Io { source, .. } => source.kind(),
            StorageError::Damaged { .. } => std::io::ErrorKind::InvalidData,
            StorageError::Locked { .. } => std::io::ErrorKind::ResourceBusy,
            StorageError::Thawed { .. } | StorageError::Engine { .. } => std::io::ErrorKind::Other,
        }
    }
}
