//! Errors of consensus, split by what the caller may do.

use quorate_storage::StorageError;

/// Why a proposal made at this member has no reply.
#[derive(Debug, thiserror::Error)]
pub enum ProposeFailure {
    /// Nothing happened. `leader` may be asked instead.
    #[error("this member does not lead")]
    NotLeader {
        /// As known here.
        leader: Option<u64>,
    },
    /// It may have been appended, and may still commit.
    #[error("the outcome is unknown")]
    Unknown,
    /// Nothing happened: this member has stopped.
    #[error("consensus has stopped")]
    Stopped,
}

/// Why leadership could not be confirmed. Asking again is always allowed.
#[derive(Debug, thiserror::Error)]
pub enum ConfirmFailure {
    /// `leader` may be asked instead.
    #[error("this member does not lead")]
    NotLeader {
        /// As known here.
        leader: Option<u64>,
    },
    /// No quorum answered in time.
    #[error("no quorum")]
    NoQuorum,
    /// This member has stopped.
    #[error("consensus has stopped")]
    Stopped,
}

/// Why the membership was not changed.
#[derive(Debug, thiserror::Error)]
pub enum MembershipFailure {
    /// Nothing happened. `leader` may be asked instead.
    #[error("this member does not lead")]
    NotLeader {
        /// As known here.
        leader: Option<u64>,
    },
    /// Not now: another change is under way, or the entry has no quorum yet. Ask again.
    #[error("{0}")]
    Pending(String),
    /// Not at all, and why.
    #[error("{0}")]
    Refused(String),
    /// This member has stopped.
    #[error("consensus has stopped")]
    Stopped,
}

/// Why consensus did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartFailure {
    /// The disk.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// What was found on it, or the thread that works on it.
    #[error("the stored state cannot be used")]
    State(#[from] std::io::Error),
    /// Timings that contradict each other.
    #[error("the timings cannot be used")]
    Timings(#[from] openraft::ConfigError),
    /// The log and the state do not fit together.
    #[error("consensus cannot continue from what is on disk: {0}")]
    Raft(String),
}

/// Why the peer service does not listen.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for peers on {address}: {source}; {remedy}")]
pub struct BindFailure {
    /// As configured.
    pub address: String,
    /// What the operator can do.
    pub remedy: &'static str,
    /// The kernel's answer.
    #[source]
    pub source: std::io::Error,
}

/// The error and its causes as one sentence.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut sentence = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !sentence.contains(&text) {
            sentence.push_str(": ");
            sentence.push_str(&text);
        }
        cause = error.source();
    }
    sentence
}
