//! Our errors in etcd's codes and exact texts.
//!
//! Clients compare the text (Go's clientv3 maps it back to an error value, Patroni matches substrings), so each is a
//! constant of etcd's API and none may be improved. All of them: etcd, `api/v3rpc/rpctypes/error.go`; what a condition
//! maps to: `server/etcdserver/api/v3rpc/util.go` (`toGRPCErrorMap`).
//!
//! The one rule of our own: what may pass by itself is `Unavailable`, because clientv3 ends a watch or a keep-alive
//! stream for good on any other code but `Internal` (`client/v3/watch.go`, `isHaltErr`). etcd breaks it once (a renewal
//! that races a lost leadership comes out as `Unknown`); we do not repeat that.

use std::fmt::Display;

use quorate_node::{HoldError, LoginError, MemberError, ProposeError, ReadError};
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
pub(crate) const MEMBER_NOT_FOUND: EtcdError = error(Code::NotFound, "etcdserver: member not found");
pub(crate) const MEMBER_EXISTS: EtcdError =
    error(Code::FailedPrecondition, "etcdserver: member ID already exist");
pub(crate) const PEER_URL_EXISTS: EtcdError =
    error(Code::FailedPrecondition, "etcdserver: Peer URLs already exists");
pub(crate) const BAD_MEMBER_URLS: EtcdError =
    error(Code::InvalidArgument, "etcdserver: given member URLs are invalid");
pub(crate) const NOT_LEARNER: EtcdError =
    error(Code::FailedPrecondition, "etcdserver: can only promote a learner member");
pub(crate) const LEARNER_NOT_READY: EtcdError = error(
    Code::FailedPrecondition,
    "etcdserver: can only promote a learner member which is in sync with leader",
);
pub(crate) const TOO_MANY_LEARNERS: EtcdError =
    error(Code::FailedPrecondition, "etcdserver: too many learner members in cluster");
pub(crate) const NOT_ENOUGH_STARTED: EtcdError =
    error(Code::FailedPrecondition, "etcdserver: re-configuration failed due to not enough started members");
pub(crate) const UNHEALTHY: EtcdError = error(Code::Unavailable, "etcdserver: unhealthy cluster");
pub(crate) const BAD_DOWNGRADE_VERSION: EtcdError =
    error(Code::InvalidArgument, "etcdserver: wrong downgrade target version format");
pub(crate) const BAD_DOWNGRADE_TARGET: EtcdError =
    error(Code::InvalidArgument, "etcdserver: invalid downgrade target version");
pub(crate) const NO_DOWNGRADE: EtcdError =
    error(Code::FailedPrecondition, "etcdserver: no inflight downgrade job");
pub(crate) const BAD_TRANSFEREE: EtcdError =
    error(Code::FailedPrecondition, "etcdserver: bad leader transferee");
pub(crate) const ROOT_USER_NOT_EXIST: EtcdError =
    error(Code::FailedPrecondition, "etcdserver: root user does not exist");
pub(crate) const ROOT_ROLE_NOT_EXIST: EtcdError =
    error(Code::FailedPrecondition, "etcdserver: root user does not have root role");
pub(crate) const USER_EXISTS: EtcdError =
    error(Code::FailedPrecondition, "etcdserver: user name already exists");
pub(crate) const USER_EMPTY: EtcdError = error(Code::InvalidArgument, "etcdserver: user name is empty");
pub(crate) const USER_NOT_FOUND: EtcdError =
    error(Code::FailedPrecondition, "etcdserver: user name not found");
pub(crate) const ROLE_EXISTS: EtcdError =
    error(Code::FailedPrecondition, "etcdserver: role name already exists");
pub(crate) const ROLE_NOT_FOUND: EtcdError =
    error(Code::FailedPrecondition, "etcdserver: role name not found");
pub(crate) const ROLE_EMPTY: EtcdError = error(Code::InvalidArgument, "etcdserver: role name is empty");
pub(crate) const AUTH_FAILED: EtcdError =
    error(Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID or password");
pub(crate) const PERMISSION_NOT_GIVEN: EtcdError =
    error(Code::InvalidArgument, "etcdserver: permission not given");
pub(crate) const PERMISSION_DENIED: EtcdError =
    error(Code::PermissionDenied, "etcdserver: permission denied");
pub(crate) const ROLE_NOT_GRANTED: EtcdError =
    error(Code::FailedPrecondition, "etcdserver: role is not granted to the user");
pub(crate) const PERMISSION_NOT_GRANTED: EtcdError =
    error(Code::FailedPrecondition, "etcdserver: permission is not granted to the role");
pub(crate) const AUTH_NOT_ENABLED: EtcdError =
    error(Code::FailedPrecondition, "etcdserver: authentication is not enabled");
pub(crate) const INVALID_AUTH_MANAGEMENT: EtcdError =
    error(Code::InvalidArgument, "etcdserver: invalid auth management");
pub(crate) const AUTH_OLD_REVISION: EtcdError =
    error(Code::InvalidArgument, "etcdserver: revision of auth store is old");
pub(crate) const INVALID_AUTH_TOKEN: EtcdError =
    error(Code::Unauthenticated, "etcdserver: invalid auth token");
/// What etcd's library says, which it passes on without a code of its own.
pub(crate) const PASSWORD_TOO_LONG: EtcdError =
    error(Code::Unknown, "bcrypt: password length exceeds 72 bytes");
/// As above: this member has the public key alone (`server/auth/jwt.go`, `ErrVerifyOnly`).
pub(crate) const VERIFY_ONLY: EtcdError =
    error(Code::Unknown, "auth: token signing attempted with verify-only key");

/// What etcd's lock and election services say in words of their own, which carry no code (etcd,
/// `client/v3/concurrency/{mutex,election}.go`, `server/etcdserver/api/v3election/election.go`).
pub(crate) const SESSION_EXPIRED: EtcdError = error(Code::Unknown, "mutex: session is expired");
pub(crate) const NOT_ELECTED: EtcdError = error(Code::Unknown, "election: not leader");
pub(crate) const NOBODY_ELECTED: EtcdError = error(Code::Unknown, "election: no leader");
pub(crate) const MISSING_LEADER_KEY: EtcdError = error(Code::Unknown, "\"leader\" field must be provided");

pub(crate) const INVALID_CLIENT_VERSION: EtcdError =
    error(Code::InvalidArgument, "etcdserver: invalid client api version");

/// Not an answer of etcd: a reply without the part that belongs to its command. Only a defect can produce it.
pub(crate) const MALFORMED_REPLY: EtcdError =
    error(Code::Internal, "quorate: the reply does not belong to the command");

/// The reasons in `WatchResponse.cancel_reason`, which are plain texts and no gRPC errors
/// (etcd, `server/storage/mvcc/watcher.go`).
pub(crate) const WATCH_DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";
pub(crate) const WATCH_EMPTY_RANGE: &str = "mvcc: watcher range is empty";

impl EtcdError {
    /// As Go prints an error of gRPC, which is what etcd puts into the `cancel_reason` of a watch that is not permitted.
    pub(crate) fn as_go_prints_it(self) -> String {
        format!("rpc error: code = {:?} desc = {}", self.code, self.text)
    }

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

/// gRPC's own word for a message over the limit (grpc-go, `rpc_util.go`, `recvMsg`).
pub(crate) fn message_too_large(size: impl Display, limit: impl Display) -> Status {
    Status::resource_exhausted(format!("grpc: received message larger than max ({size} vs. {limit})"))
}

/// A client that does not finish its request. etcd waits for ever. Not `Cancelled`, which tonic takes for the end of the
/// requests.
pub(crate) fn slow_request() -> Status {
    Status::deadline_exceeded("quorate: the request did not arrive in time")
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
        Rejection::RootUserNotExist => ROOT_USER_NOT_EXIST,
        Rejection::RootRoleNotExist => ROOT_ROLE_NOT_EXIST,
        Rejection::UserExists => USER_EXISTS,
        Rejection::UserEmpty => USER_EMPTY,
        Rejection::UserNotFound => USER_NOT_FOUND,
        Rejection::RoleExists => ROLE_EXISTS,
        Rejection::RoleNotFound => ROLE_NOT_FOUND,
        Rejection::RoleEmpty => ROLE_EMPTY,
        Rejection::AuthFailed => AUTH_FAILED,
        Rejection::PermissionNotGiven => PERMISSION_NOT_GIVEN,
        Rejection::PermissionDenied => PERMISSION_DENIED,
        Rejection::RoleNotGranted => ROLE_NOT_GRANTED,
        Rejection::PermissionNotGranted => PERMISSION_NOT_GRANTED,
        Rejection::AuthNotEnabled => AUTH_NOT_ENABLED,
        Rejection::InvalidAuthManagement => INVALID_AUTH_MANAGEMENT,
        Rejection::AuthOldRevision => AUTH_OLD_REVISION,
        Rejection::InvalidAuthToken => INVALID_AUTH_TOKEN,
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

/// A lock or an office that is not held; `lost` is the service's word for that.
pub(crate) fn of_hold(error: &HoldError, lost: EtcdError) -> EtcdError {
    match error {
        HoldError::Lost => lost,
        HoldError::Propose(error) => in_server(of_proposal(error)),
        HoldError::Read(error) => in_server(of_read(error)),
    }
}

/// An error of the services that are clients of their own server in etcd: what the client says keeps its text and loses its
/// code. Here that holds for refusals; what may pass by itself is `Unavailable` as everywhere.
pub(crate) fn in_server(error: EtcdError) -> EtcdError {
    match error.code {
        Code::Unavailable | Code::Internal => error,
        _ => EtcdError { code: Code::Unknown, ..error },
    }
}

/// A change of the membership that was not made.
pub(crate) fn of_member(error: &MemberError) -> EtcdError {
    match error {
        MemberError::NotFound => MEMBER_NOT_FOUND,
        MemberError::IdExists => MEMBER_EXISTS,
        MemberError::UrlExists => PEER_URL_EXISTS,
        MemberError::InvalidUrl => BAD_MEMBER_URLS,
        MemberError::NotLearner => NOT_LEARNER,
        MemberError::LearnerNotReady => LEARNER_NOT_READY,
        MemberError::TooManyLearners => TOO_MANY_LEARNERS,
        MemberError::NotEnoughStarted => NOT_ENOUGH_STARTED,
        MemberError::Unhealthy => UNHEALTHY,
        MemberError::Unanswered(error) => of_read(error),
    }
}

/// A snapshot that was not taken: as many as may be are on their way, or the disk is full.
pub(crate) fn of_snapshot(error: &ReadError) -> EtcdError {
    match error {
        ReadError::TimedOut => TOO_MANY_REQUESTS,
        other => of_read(other),
    }
}

/// A password that brought no token, or no hash.
pub(crate) fn of_login(error: &LoginError) -> EtcdError {
    match error {
        LoginError::Read(error) => of_read(error),
        LoginError::Propose(error) => of_proposal(error),
        LoginError::VerifyOnly => VERIFY_ONLY,
        LoginError::TooLong => PASSWORD_TOO_LONG,
        LoginError::NotAHash => INVALID_AUTH_MANAGEMENT,
        LoginError::Busy => TOO_MANY_REQUESTS,
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
        let refusals = (1..=31).map(|number| Rejection::try_from(number).expect("a refusal"));
        for rejection in refusals {
            let error = of_rejection(rejection);
            assert!(!is_transient(error), "{rejection:?} became {error:?}");
            assert!(error.text().starts_with("etcdserver: "), "{error:?}");
        }
    }

    #[test]
    fn every_refusal_has_its_own_text() {
        let mut texts: Vec<_> =
            (1..=31).map(|n| of_rejection(Rejection::try_from(n).expect("a refusal")).text()).collect();
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
