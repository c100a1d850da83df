//! Process.
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a fence did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FenceReport {
    /// Processes found at first; 0: nothing was running.
    pub found: usize,
    /// Of them, those that needed SIGKILL.
    pub killed: usize,
    /// Until the last one was gone.
    pub took: Duration,
}

/// The fence could not be completed; call it again.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum FenceError {
    /// Each of them has SIGKILL pending and never runs user code again, but the kernel has not let it go yet.
    #[error("{} of PostgreSQL in {} still there after SIGKILL: {pids:?}", pids.len(), path.display())]
    Survivors { path: PathBuf, pids: Vec<i32> },
    #[error("processes of another user cannot be seen or killed: {} belongs to uid {owner}, this process is uid {uid}", path.display())]
    NotPermitted { path: PathBuf, owner: u32, uid: u32 },
    #[error("cannot look at {}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// Stops PostgreSQL in `data_dir` by force; returns when the last process is gone or `budget` is used up. Synchronous, for
/// a plain thread: it reads no file of the data directory and allocates next to nothing.
#[allow(unused_variables, clippy::unimplemented)]
pub fn fence_now(data_dir: &Path, budget: Duration) -> Result<FenceReport, FenceError> {
    unimplemented!()
}
