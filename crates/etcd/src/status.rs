//! Our errors in etcd's codes and exact texts.
//!
//! Clients compare the text (Go's clientv3 maps it back to an error value, Patroni matches substrings), so each is a
//! constant of etcd's API and none may be improved. All of them: etcd, `api/v3rpc/rpctypes/error.go`; what a condition
//! maps to: `server/etcdserver/api/v3rpc/util.go` (`toGRPCErrorMap`).
//!
//! The one rule of our own: what may pass by itself is `Unavailable`, because clientv3 ends a watch or a keep-alive
//! stream for good on any other code but `Internal` (`client/v3/watch.go`, `isHaltErr`). etcd breaks it once (a renewal
//! that races a lost leadership comes out as `Unknown`); we do not repeat that.

use quorate_node::{ProposeError, ReadError};
use quorate_state::Rejection;
use tonic::{Code, Status};

/// A code and its text, before either is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EtcdError {
    code: Code,
    text: &'static str,
}

const fn error(code: Code, text: &'static str) -> EtcdError {
    EtcdError { code, text }
}

pub(crate) const EMPTY_KEY: EtcdError = error(Code::InvalidArgument, "etcdserver: key is not provided");
pub(crate) const KEY_NOT_FOUND: EtcdError = error(Code::InvalidArgument, "etcdserver: key not found");
pub(crate) const VALUE_PROVIDED: EtcdError = error(Code::InvalidArgument, "etcdserver: value is provided");
pub(crate) const LEASE_PROVIDED: EtcdError = error(Code::InvalidArgument, "etcdserver: lease is provided");
pub(crate) const TOO_MANY_OPS: EtcdError =
    error(Code::InvalidArgument, "etcdserver: too many operations in txn request");
pub(crate) const DUPLICATE_KEY: EtcdError =
    error(Code::InvalidArgument, "etcdserver: duplicate key given in txn request");
pub(crate) const INVALID_SORT: EtcdError = error(Code::InvalidArgument, "etcdserver: invalid sort option");
pub(crate) const REQUEST_TOO_LARGE: EtcdError =
    error(Code::InvalidArgument, "etcdserver: request is too large");
pub(crate) const COMPACTED: EtcdError =
    error(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted");
pub(crate) const FUTURE_REVISION: EtcdError =
    error(Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision");
pub(crate) const NO_SPACE: EtcdError =
    error(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
pub(crate) const TOO_MANY_REQUESTS: EtcdError =
    error(Code::ResourceExhausted, "etcdserver: too many requests");
pub(crate) const LEASE_NOT_FOUND: EtcdError = error(Code::NotFound, "etcdserver: requested lease not found");
pub(crate) const LEASE_EXISTS: EtcdError =
    error(Code::FailedPrecondition, "etcdserver: lease already exists");
pub(crate) const LEASE_TTL_TOO_LARGE: EtcdError = error(Code::OutOfRange, "etcdserver: too large lease TTL");
pub(crate) const CORRUPT: EtcdError = error(Code::DataLoss, "etcdserver: corrupt cluster");
pub(crate) const NO_LEADER: EtcdError = error(Code::Unavailable, "etcdserver: no leader");
pub(crate) const TIMED_OUT: EtcdError = error(Code::Unavailable, "etcdserver: request timed out");
pub(crate) const STOPPED: EtcdError = error(Code::Unavailable, "etcdserver: server stopped");
pub(crate) const NOT_LEADER: EtcdError = error(Code::FailedPrecondition, "etcdserver: not leader");
pub(crate) const BAD_TRANSFEREE: EtcdError =
    error(Code::FailedPrecondition, "etcdserver: bad leader transferee");
pub(crate) const AUTH_NOT_ENABLED: EtcdError =
    error(Code::FailedPrecondition, "etcdserver: authentication is not enabled");

/// Not an answer of etcd: a reply without the part that belongs to its command. Only a defect can produce it.
pub(crate) const MALFORMED_REPLY: EtcdError =
    error(Code::Internal, "quorate: the reply does not belong to the command");

/// The reasons in `WatchResponse.cancel_reason`, which are plain texts and no gRPC errors
/// (etcd, `server/storage/mvcc/watcher.go`).
pub(crate) const WATCH_DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";
pub(crate) const WATCH_EMPTY_RANGE: &str = "mvcc: watcher range is empty";

impl EtcdError {
    /// The text alone, for a `cancel_reason` or a health report.
    pub(crate) const fn text(self) -> &'static str {
        self.text
    }
}

impl From<EtcdError> for Status {
    fn from(error: EtcdError) -> Status {
        Status::new(error.code, error.text)
    }
}

/// A replicated refusal.
pub(crate) fn of_rejection(rejection: Rejection) -> EtcdError {
    match rejection {
        // Reserved for "the field was absent": no rule of the state machine yields it.
        Rejection::Unspecified => MALFORMED_REPLY,
        Rejection::EmptyKey => EMPTY_KEY,
        Rejection::KeyNotFound => KEY_NOT_FOUND,
        Rejection::ValueProvided => VALUE_PROVIDED,
        Rejection::LeaseProvided => LEASE_PROVIDED,
        Rejection::LeaseNotFound => LEASE_NOT_FOUND,
        Rejection::LeaseExists => LEASE_EXISTS,
        Rejection::LeaseTtlTooLarge => LEASE_TTL_TOO_LARGE,
        Rejection::DuplicateKey => DUPLICATE_KEY,
        Rejection::Compacted => COMPACTED,
        Rejection::FutureRevision => FUTURE_REVISION,
        Rejection::NoSpace => NO_SPACE,
        Rejection::Corrupt => CORRUPT,
        Rejection::InvalidSortOption => INVALID_SORT,
        // Nesting is bounded by operations in etcd, so this is its word for too much of it.
        Rejection::TooDeep => TOO_MANY_OPS,
    }
}

/// A proposal that brought no answer. An indeterminate one has etcd's own word for it: the request timed out, and
/// clientv3 does not repeat a write for that code by itself (`client/v3/retry.go`, `isSafeRetryMutableRPC`).
pub(crate) fn of_proposal(error: &ProposeError) -> EtcdError {
    match error {
        ProposeError::Rejected(rejection) => of_rejection(*rejection),
        ProposeError::NoLeader => NO_LEADER,
        ProposeError::TooLarge => REQUEST_TOO_LARGE,
        ProposeError::Overloaded => TOO_MANY_REQUESTS,
        ProposeError::Indeterminate => TIMED_OUT,
        ProposeError::Stopped => STOPPED,
    }
}

/// A read that brought no answer.
pub(crate) fn of_read(error: &ReadError) -> EtcdError {
    match error {
        ReadError::Rejected(rejection) => of_rejection(*rejection),
        ReadError::NoLeader => NO_LEADER,
        ReadError::TimedOut => TIMED_OUT,
        ReadError::Stopped => STOPPED,
    }
}

/// What is not served yet, by name: an operator who meets it should know that it is us and not the network.
pub(crate) fn unserved(method: &str) -> Status {
    Status::unimplemented(format!("quorate: {method} is not served yet"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clients' streams survive only these two codes.
    fn is_transient(error: EtcdError) -> bool {
        matches!(error.code, Code::Unavailable | Code::Internal)
    }

    #[test]
    fn conditions_that_pass_by_themselves_are_unavailable() {
        for error in [
            of_proposal(&ProposeError::NoLeader),
            of_proposal(&ProposeError::Indeterminate),
            of_proposal(&ProposeError::Stopped),
            of_read(&ReadError::NoLeader),
            of_read(&ReadError::TimedOut),
            of_read(&ReadError::Stopped),
        ] {
            assert!(is_transient(error), "{error:?}");
        }
    }

    #[test]
    fn refusals_end_a_request_for_good() {
        let refusals = (1..=14).map(|number| Rejection::try_from(number).expect("a refusal"));
        for rejection in refusals {
            let error = of_rejection(rejection);
            assert!(!is_transient(error), "{rejection:?} became {error:?}");
            assert!(error.text().starts_with("etcdserver: "), "{error:?}");
        }
    }

    #[test]
    fn every_refusal_has_its_own_text() {
        let mut texts: Vec<_> =
            (1..=14).map(|n| of_rejection(Rejection::try_from(n).expect("a refusal")).text()).collect();
        texts.sort_unstable();
        let all = texts.len();
        texts.dedup();
        assert_eq!(texts.len(), all);
    }

    #[test]
    fn texts_are_etcds() {
        let status = Status::from(of_rejection(Rejection::LeaseNotFound));
        assert_eq!(
            (status.code(), status.message()),
            (Code::NotFound, "etcdserver: requested lease not found")
        );
        let status = Status::from(of_read(&ReadError::Rejected(Rejection::Compacted)));
        assert_eq!(
            (status.code(), status.message()),
            (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted")
        );
        let status = Status::from(of_proposal(&ProposeError::Indeterminate));
        assert_eq!((status.code(), status.message()), (Code::Unavailable, "etcdserver: request timed out"));
    }
}
