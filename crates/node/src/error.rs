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

/// Why the membership was not changed. Nothing was, except where it says so.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// No member has this id.
    #[error("no member has this id")]
    NotFound,
    /// Another member has this id.
    #[error("another member has this id")]
    IdExists,
    /// Another member has this peer URL.
    #[error("another member has this peer URL")]
    UrlExists,
    /// Not of the form http://host:port.
    #[error("not a peer URL: http://host:port")]
    InvalidUrl,
    /// Only a learner can be promoted.
    #[error("the member is no learner")]
    NotLearner,
    /// The learner has not started, or lags too far behind. Ask again.
    #[error("the learner is not in sync with the leader yet")]
    LearnerNotReady,
    /// The configured number of learners is there.
    #[error("there are as many learners as may be")]
    TooManyLearners,
    /// Too few voters would have started to decide anything.
    #[error("too few voters have started")]
    NotEnoughStarted,
    /// Too few voters are alive now: the change would lose the quorum, or there is none. Bring them back, then ask again.
    #[error("too few voters are alive")]
    Unhealthy,
    /// No leader answered in time: it may still happen. Look at the list before you ask again.
    #[error("{0}")]
    Unanswered(ReadError),
}

/// A command is refused before it is proposed for what its reader would be refused for.
impl From<ReadError> for ProposeError {
    fn from(error: ReadError) -> ProposeError {
        match error {
            ReadError::Rejected(rejection) => ProposeError::Rejected(rejection),
            ReadError::NoLeader | ReadError::TimedOut => ProposeError::NoLeader,
            ReadError::Stopped => ProposeError::Stopped,
        }
    }
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
