//! Errors, split by what the caller may do.

use quorate_state::Rejection;

/// Why a proposal did not come back with an answer to its question.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// A replicated decision: asking again gives the same until the state changes.
    #[error("rejected: {0:?}")]
    Rejected(Rejection),
    /// Nothing happened. Retry, here or elsewhere.
    #[error("no leader")]
    NoLeader,
    /// Nothing happened: the request is larger than the limit.
    #[error("the request is too large")]
    TooLarge,
    /// Nothing happened: too much is in flight.
    #[error("too many requests")]
    Overloaded,
    /// It may still commit. Read before you retry.
    #[error("no answer in time: it may still commit")]
    Indeterminate,
    /// This member is shutting down or has failed.
    #[error("the member has stopped")]
    Stopped,
}

/// Why a read has no answer. Reading again is always allowed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The state refuses (compacted, future revision, …).
    #[error("rejected: {0:?}")]
    Rejected(Rejection),
    /// No leader is known.
    #[error("no leader")]
    NoLeader,
    /// No quorum confirmed in time.
    #[error("no answer in time")]
    TimedOut,
    /// This member is shutting down or has failed.
    #[error("the member has stopped")]
    Stopped,
}

/// Why a member did not start. The sentence names the path or address and the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct StartError {
    /// For the operator.
    pub what: String,
    /// The cause.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl StartError {
    pub(crate) fn plain(what: impl Into<String>) -> StartError {
        StartError { what: what.into(), source: None }
    }

    pub(crate) fn because(
        what: impl Into<String>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> StartError {
        StartError { what: what.into(), source: Some(Box::new(source)) }
    }
}
