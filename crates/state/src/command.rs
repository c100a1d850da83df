//! What can be proposed and what is answered. Every type here is a prost message with explicit tags: this module is
//! the format of the log and of forwarded proposals. Tags are never reused; [`Command::format`] names the version.

use bytes::Bytes;
use prost::Message;

use crate::Fault;
use crate::auth::{Auth, AuthState};

/// A revision of the store: 1 when empty, +1 for every transaction that changed something.
pub type Revision = i64;
/// A lease's id; 0 is no lease.
pub type LeaseId = i64;

/// The version that this build writes into [`Command::format`]. 2 added the actor, authentication and lease checkpoints.
pub const FORMAT: u32 = 2;

/// How deep transactions may be nested, the outermost one counted. A decoder gives up at 100 nested messages and a nested
/// transaction takes two: a deeper command could be proposed but not applied, which would stop every member.
pub const MAX_TXN_DEPTH: usize = 32;

/// One version of a key.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct KeyValue {
    /// User key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Revision of the creation of this generation.
    #[prost(int64, tag = "2")]
    pub create_revision: Revision,
    /// Revision of this version.
    #[prost(int64, tag = "3")]
    pub mod_revision: Revision,
    /// 1 at creation, +1 with each put; 0 is a tombstone.
    #[prost(int64, tag = "4")]
    pub version: i64,
    /// User value.
    #[prost(bytes = "bytes", tag = "5")]
    pub value: Bytes,
    /// The attached lease, or 0.
    #[prost(int64, tag = "6")]
    pub lease: LeaseId,
}

/// What happened to one key at one revision.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Event {
    /// True for a deletion: then `kv` holds the key and the revision only.
    #[prost(bool, tag = "1")]
    pub delete: bool,
    /// The new version.
    #[prost(message, required, tag = "2")]
    pub kv: KeyValue,
    /// The version before, if there was one.
    #[prost(message, optional, tag = "3")]
    pub prev_kv: Option<KeyValue>,
    /// Position inside the revision: 0, 1, … in order of effect.
    #[prost(uint32, tag = "4")]
    pub sub: u32,
}

/// The envelope of everything that is replicated.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Command {
    /// See [`FORMAT`]. A format that is newer than this build's stops the node at apply.
    #[prost(uint32, tag = "1")]
    pub format: u32,
    /// What to do.
    #[prost(oneof = "Body", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 13")]
    pub body: Option<Body>,
    /// Who asks. Absent: the program that runs the member, which may do everything. A client's command always has one,
    /// the nameless actor if need be: whether authentication is on is decided where the command is applied.
    #[prost(message, optional, tag = "14")]
    pub actor: Option<Actor>,
}

/// Who asks for a command or a read, as the member that took the request found out.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Actor {
    /// Empty: a client that showed nothing. It may do what it likes while authentication is off, and nothing else.
    #[prost(string, tag = "1")]
    pub user: String,
    /// The auth revision at which the identity was established. Older than the store's: refused.
    #[prost(uint64, tag = "2")]
    pub auth_revision: u64,
}

impl Command {
    /// In this build's format, asked for by the program itself.
    pub fn new(body: Body) -> Command {
        Command { format: FORMAT, body: Some(body), actor: None }
    }

    /// Writes `key` without a lease.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Command {
        Command::put_with_lease(key, value, 0)
    }

    /// Writes `key`, attached to `lease`.
    pub fn put_with_lease(key: impl Into<Bytes>, value: impl Into<Bytes>, lease: LeaseId) -> Command {
        Command::new(Body::Put(Put { key: key.into(), value: value.into(), lease, ..Put::default() }))
    }

    /// Deletes the single `key`.
    pub fn delete(key: impl Into<Bytes>) -> Command {
        Command::delete_range(key, Bytes::new())
    }

    /// Deletes a range; `range_end` as in [`Range`].
    pub fn delete_range(key: impl Into<Bytes>, range_end: impl Into<Bytes>) -> Command {
        let delete = DeleteRange { key: key.into(), range_end: range_end.into(), prev_kv: false };
        Command::new(Body::DeleteRange(delete))
    }

    /// Compares, then runs one of the branches.
    pub fn txn(txn: Txn) -> Command {
        Command::new(Body::Txn(txn))
    }

    /// Forgets history below `revision`.
    pub fn compact(revision: Revision) -> Command {
        Command::new(Body::Compact(Compact { revision, physical: false }))
    }

    /// Creates a lease. `stamp` is random.
    pub fn lease_grant(id: LeaseId, ttl_ms: u64, stamp: u64) -> Command {
        Command::new(Body::LeaseGrant(LeaseGrant { id, ttl_ms, stamp }))
    }

    /// Notes what remains of leases.
    pub fn lease_checkpoint(leases: Vec<LeaseRemaining>) -> Command {
        Command::new(Body::LeaseCheckpoint(LeaseCheckpoint { leases }))
    }

    /// Deletes a lease and its keys.
    pub fn lease_revoke(id: LeaseId) -> Command {
        Command::new(Body::LeaseRevoke(LeaseRevoke { id, judged: None }))
    }

    /// Deletes the lease that had this stamp, because it is over.
    pub fn lease_expire(id: LeaseId, stamp: u64) -> Command {
        Command::new(Body::LeaseRevoke(LeaseRevoke { id, judged: Some(stamp) }))
    }

    /// To be asked before a command is proposed by other means than [`Command::encode_to_bytes`]: what no member could decode
    /// must not get into the log, where it would stop them all. Refused with [`Rejection::TooDeep`].
    pub fn check_depth(&self) -> Result<(), Rejection> {
        match &self.body {
            Some(Body::Txn(txn)) if txn.is_deeper_than(MAX_TXN_DEPTH) => Err(Rejection::TooDeep),
            _ => Ok(()),
        }
    }

    /// The bytes of the log. Refused as by [`Command::check_depth`].
    pub fn encode_to_bytes(&self) -> Result<Bytes, Rejection> {
        self.check_depth()?;
        Ok(self.encode_to_vec().into())
    }

    /// Reads the bytes of the log. Values stay slices of `bytes`.
    pub fn decode_bytes(bytes: Bytes) -> Result<Command, Fault> {
        let command = Command::decode(bytes).map_err(Fault::UndecodableCommand)?;
        command.check_format()?;
        Ok(command)
    }

    pub(crate) fn check_format(&self) -> Result<&Body, Fault> {
        if !(1..=FORMAT).contains(&self.format) {
            return Err(Fault::UnknownFormat { format: self.format });
        }
        // The format is bumped for every new kind, so this is damage or a mistake of a newer build.
        self.body.as_ref().ok_or(Fault::UnknownCommand)
    }
}

/// The kinds of commands.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Body {
    /// Write a key.
    #[prost(message, tag = "2")]
    Put(Put),
    /// Delete a range.
    #[prost(message, tag = "3")]
    DeleteRange(DeleteRange),
    /// Compare, then one of two branches, as one revision.
    #[prost(message, tag = "4")]
    Txn(Txn),
    /// Forget history below a revision.
    #[prost(message, tag = "5")]
    Compact(Compact),
    /// Create a lease.
    #[prost(message, tag = "6")]
    LeaseGrant(LeaseGrant),
    /// Delete a lease and its keys, as one revision.
    #[prost(message, tag = "7")]
    LeaseRevoke(LeaseRevoke),
    /// Raise or clear an alarm.
    #[prost(message, tag = "8")]
    Alarm(Alarm),
    /// A member announces its name and client URLs.
    #[prost(message, tag = "9")]
    PublishMember(PublishMember),
    /// Note what remains of leases, for the leader after this one.
    #[prost(message, tag = "10")]
    LeaseCheckpoint(LeaseCheckpoint),
    /// Users, roles, permissions, tokens.
    #[prost(message, tag = "13")]
    Auth(Auth),
}

/// See etcd's `PutRequest`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[allow(missing_docs)]
pub struct Put {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
    #[prost(int64, tag = "3")]
    pub lease: LeaseId,
    #[prost(bool, tag = "4")]
    pub prev_kv: bool,
    #[prost(bool, tag = "5")]
    pub ignore_value: bool,
    #[prost(bool, tag = "6")]
    pub ignore_lease: bool,
}

/// See etcd's `DeleteRangeRequest`. `range_end` as in [`Range`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[allow(missing_docs)]
pub struct DeleteRange {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub range_end: Bytes,
    #[prost(bool, tag = "3")]
    pub prev_kv: bool,
}

/// See etcd's `RangeRequest`. An empty `range_end` is the single key; `"\0"` is every key from `key` on.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[allow(missing_docs)]
pub struct Range {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub range_end: Bytes,
    #[prost(int64, tag = "3")]
    pub limit: i64,
    #[prost(int64, tag = "4")]
    pub revision: Revision,
    #[prost(enumeration = "SortOrder", tag = "5")]
    pub sort_order: i32,
    #[prost(enumeration = "SortTarget", tag = "6")]
    pub sort_target: i32,
    /// Answered from this member's state, without asking for the leader. Without effect inside `state`.
    #[prost(bool, tag = "7")]
    pub serializable: bool,
    #[prost(bool, tag = "8")]
    pub keys_only: bool,
    #[prost(bool, tag = "9")]
    pub count_only: bool,
    #[prost(int64, tag = "10")]
    pub min_mod_revision: Revision,
    #[prost(int64, tag = "11")]
    pub max_mod_revision: Revision,
    #[prost(int64, tag = "12")]
    pub min_create_revision: Revision,
    #[prost(int64, tag = "13")]
    pub max_create_revision: Revision,
}

/// See [`Range::sort_order`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
#[allow(missing_docs)]
pub enum SortOrder {
    None = 0,
    Ascend = 1,
    Descend = 2,
}

/// See [`Range::sort_target`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
#[allow(missing_docs)]
pub enum SortTarget {
    Key = 0,
    Version = 1,
    Create = 2,
    Mod = 3,
    Value = 4,
}

/// See etcd's `TxnRequest`.
#[derive(Clone, PartialEq, prost::Message)]
#[allow(missing_docs)]
pub struct Txn {
    #[prost(message, repeated, tag = "1")]
    pub compare: Vec<Compare>,
    #[prost(message, repeated, tag = "2")]
    pub success: Vec<TxnOp>,
    #[prost(message, repeated, tag = "3")]
    pub failure: Vec<TxnOp>,
}

impl Txn {
    /// Nothing can change, whichever branch runs.
    pub fn is_read_only(&self) -> bool {
        self.operations().all(|op| match &op.body {
            Some(TxnOpBody::Range(_)) | None => true,
            Some(TxnOpBody::Put(_) | TxnOpBody::DeleteRange(_)) => false,
            Some(TxnOpBody::Txn(nested)) => nested.is_read_only(),
        })
    }

    /// Every operation of both branches is a serializable range (etcd's rule: one linearizable range makes it linearizable).
    pub fn is_serializable(&self) -> bool {
        self.operations().all(|op| match &op.body {
            Some(TxnOpBody::Range(range)) => range.serializable,
            Some(TxnOpBody::Put(_) | TxnOpBody::DeleteRange(_)) => false,
            Some(TxnOpBody::Txn(nested)) => nested.is_serializable(),
            None => true,
        })
    }

    /// Some branch, nested ones included, puts.
    pub(crate) fn has_put(&self) -> bool {
        self.operations().any(|op| match &op.body {
            Some(TxnOpBody::Put(_)) => true,
            Some(TxnOpBody::Range(_) | TxnOpBody::DeleteRange(_)) | None => false,
            Some(TxnOpBody::Txn(nested)) => nested.has_put(),
        })
    }

    /// Stops descending at `depth`, so that the check itself is bounded.
    pub(crate) fn is_deeper_than(&self, depth: usize) -> bool {
        depth == 0
            || self.operations().any(|op| match &op.body {
                Some(TxnOpBody::Txn(nested)) => nested.is_deeper_than(depth - 1),
                Some(TxnOpBody::Range(_) | TxnOpBody::Put(_) | TxnOpBody::DeleteRange(_)) | None => false,
            })
    }

    fn operations(&self) -> impl Iterator<Item = &TxnOp> {
        self.success.iter().chain(&self.failure)
    }
}

/// See etcd's `Compare`: every key of the range must satisfy it; an empty range counts as one missing key.
#[derive(Clone, PartialEq, prost::Message)]
#[allow(missing_docs)]
pub struct Compare {
    #[prost(enumeration = "CompareResult", tag = "1")]
    pub result: i32,
    #[prost(bytes = "bytes", tag = "2")]
    pub key: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub range_end: Bytes,
    #[prost(oneof = "CompareTarget", tags = "4, 5, 6, 7, 8")]
    pub target: Option<CompareTarget>,
}

/// What is compared, and with what.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
#[allow(missing_docs)]
pub enum CompareTarget {
    #[prost(int64, tag = "4")]
    Version(i64),
    #[prost(int64, tag = "5")]
    Create(Revision),
    #[prost(int64, tag = "6")]
    Mod(Revision),
    #[prost(bytes = "bytes", tag = "7")]
    Value(Bytes),
    #[prost(int64, tag = "8")]
    Lease(LeaseId),
}

/// How a compare must come out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
#[allow(missing_docs)]
pub enum CompareResult {
    Equal = 0,
    Greater = 1,
    Less = 2,
    NotEqual = 3,
}

/// One operation of a branch.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TxnOp {
    /// Absent is etcd's "key not found" for an empty RequestOp.
    #[prost(oneof = "TxnOpBody", tags = "1, 2, 3, 4")]
    pub body: Option<TxnOpBody>,
}

/// The kinds of operations of a branch.
#[derive(Clone, PartialEq, prost::Oneof)]
#[allow(missing_docs)]
pub enum TxnOpBody {
    #[prost(message, tag = "1")]
    Range(Range),
    #[prost(message, tag = "2")]
    Put(Put),
    #[prost(message, tag = "3")]
    DeleteRange(DeleteRange),
    #[prost(message, tag = "4")]
    Txn(Txn),
}

/// History below `revision` may go; `revision` itself stays readable.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[allow(missing_docs)]
pub struct Compact {
    #[prost(int64, tag = "1")]
    pub revision: Revision,
    #[prost(bool, tag = "2")]
    pub physical: bool,
}

/// The id is chosen before it is proposed (never 0): apply is deterministic.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[allow(missing_docs)]
pub struct LeaseGrant {
    #[prost(int64, tag = "1")]
    pub id: LeaseId,
    #[prost(uint64, tag = "2")]
    pub ttl_ms: u64,
    /// Random: tells this lease from an earlier one of the same id. See [`LeaseRemaining::stamp`].
    #[prost(fixed64, tag = "3")]
    pub stamp: u64,
}

/// What remains of leases, as the leader counted it. Proposed by the leader's lease task only.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[allow(missing_docs)]
pub struct LeaseCheckpoint {
    #[prost(message, repeated, tag = "1")]
    pub leases: Vec<LeaseRemaining>,
}

/// One lease of a checkpoint.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct LeaseRemaining {
    /// Unknown ones are passed over.
    #[prost(int64, tag = "1")]
    pub id: LeaseId,
    /// The lease's stamp when this was judged. With any other stamp the lease was checkpointed, renewed or granted anew
    /// meanwhile, and this says nothing about it.
    #[prost(fixed64, tag = "2")]
    pub stamp: u64,
    /// Counted before it was proposed. 0: the full time to live, because the lease was renewed.
    #[prost(uint64, tag = "3")]
    pub remaining_ms: u64,
}

/// Asked for by a client, or proposed by the leader's lessor when the lease is due.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[allow(missing_docs)]
pub struct LeaseRevoke {
    #[prost(int64, tag = "1")]
    pub id: LeaseId,
    /// The lease's stamp when the lessor judged that it was over: a new lease of the same id is not meant. A client means
    /// whatever has the id.
    #[prost(fixed64, optional, tag = "2")]
    pub judged: Option<u64>,
}

/// Alarms stand until they are cleared; there is at most one of a kind per member.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[allow(missing_docs)]
pub struct Alarm {
    /// False raises, true clears.
    #[prost(bool, tag = "1")]
    pub clear: bool,
    /// 0 with `clear`: every member's.
    #[prost(uint64, tag = "2")]
    pub member: u64,
    #[prost(enumeration = "AlarmKind", tag = "3")]
    pub kind: i32,
}

/// etcd's alarm types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
#[allow(missing_docs)]
pub enum AlarmKind {
    None = 0,
    NoSpace = 1,
    Corrupt = 2,
}

/// The attributes of a member that only it knows.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[allow(missing_docs)]
pub struct PublishMember {
    #[prost(uint64, tag = "1")]
    pub member: u64,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(string, repeated, tag = "3")]
    pub client_urls: Vec<String>,
}

/// What a command came to: an answer, or a refusal that is an answer too (both are replicated decisions).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Reply {
    /// The store's revision after the command (for a change: the revision of the change).
    #[prost(int64, tag = "1")]
    pub revision: Revision,
    /// Absent only in a message that is malformed.
    #[prost(oneof = "ReplyBody", tags = "2, 3, 4, 5, 6, 7, 8")]
    pub body: Option<ReplyBody>,
}

/// The kinds of answers.
#[derive(Clone, PartialEq, prost::Oneof)]
#[allow(missing_docs)]
pub enum ReplyBody {
    #[prost(enumeration = "Rejection", tag = "2")]
    Rejected(i32),
    #[prost(message, tag = "3")]
    Put(PutReply),
    #[prost(message, tag = "4")]
    DeleteRange(DeleteRangeReply),
    #[prost(message, tag = "5")]
    Txn(TxnReply),
    /// Compact, LeaseRevoke, Alarm, PublishMember, LeaseCheckpoint.
    #[prost(message, tag = "6")]
    Done(Done),
    #[prost(message, tag = "7")]
    LeaseGrant(LeaseGrant),
    /// Of every auth command: where authentication stands after it.
    #[prost(message, tag = "8")]
    Auth(AuthState),
}

/// Nothing to say beyond the revision.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Done {}

/// Why a command or a read was refused. The etcd crate maps each to etcd's code and exact text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
#[allow(missing_docs)]
pub enum Rejection {
    Unspecified = 0,
    EmptyKey = 1,
    KeyNotFound = 2,
    ValueProvided = 3,
    LeaseProvided = 4,
    LeaseNotFound = 5,
    LeaseExists = 6,
    LeaseTtlTooLarge = 7,
    DuplicateKey = 8,
    Compacted = 9,
    FutureRevision = 10,
    NoSpace = 11,
    Corrupt = 12,
    InvalidSortOption = 13,
    /// Transactions nested deeper than [`MAX_TXN_DEPTH`].
    TooDeep = 14,
    RootUserNotExist = 15,
    RootRoleNotExist = 16,
    UserExists = 17,
    /// A client that showed nothing while authentication is on; also a user without a name.
    UserEmpty = 18,
    UserNotFound = 19,
    RoleExists = 20,
    RoleNotFound = 21,
    RoleEmpty = 22,
    AuthFailed = 23,
    PermissionNotGiven = 24,
    PermissionDenied = 25,
    RoleNotGranted = 26,
    PermissionNotGranted = 27,
    AuthNotEnabled = 28,
    /// What would lock everybody out, or a permission on no range at all.
    InvalidAuthManagement = 29,
    /// The actor was established before the last change of users, roles or permissions.
    AuthOldRevision = 30,
    /// No answer of the state machine: the member that took the request does not know the token.
    InvalidAuthToken = 31,
}

impl Reply {
    /// Why it was refused, if it was.
    pub fn rejection(&self) -> Option<Rejection> {
        match self.body {
            Some(ReplyBody::Rejected(code)) => {
                Some(Rejection::try_from(code).unwrap_or(Rejection::Unspecified))
            }
            _ => None,
        }
    }
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
#[allow(missing_docs)]
pub struct PutReply {
    #[prost(message, optional, tag = "1")]
    pub prev_kv: Option<KeyValue>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
#[allow(missing_docs)]
pub struct DeleteRangeReply {
    #[prost(int64, tag = "1")]
    pub deleted: i64,
    #[prost(message, repeated, tag = "2")]
    pub prev_kvs: Vec<KeyValue>,
}

/// `count` is the number of keys in the range, whatever the limit and the filters (see reference, etcd semantics).
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[allow(missing_docs)]
pub struct RangeReply {
    #[prost(message, repeated, tag = "1")]
    pub kvs: Vec<KeyValue>,
    #[prost(bool, tag = "2")]
    pub more: bool,
    #[prost(int64, tag = "3")]
    pub count: i64,
    /// The store's revision when it was read (inside a transaction: +1 once an earlier op has written).
    #[prost(int64, tag = "4")]
    pub revision: Revision,
}

#[derive(Clone, PartialEq, prost::Message)]
#[allow(missing_docs)]
pub struct TxnReply {
    #[prost(bool, tag = "1")]
    pub succeeded: bool,
    #[prost(message, repeated, tag = "2")]
    pub replies: Vec<TxnOpReply>,
}

#[derive(Clone, PartialEq, prost::Message)]
#[allow(missing_docs)]
pub struct TxnOpReply {
    #[prost(oneof = "TxnOpReplyBody", tags = "1, 2, 3, 4")]
    pub body: Option<TxnOpReplyBody>,
}

/// The answers inside a transaction, one per operation of the branch that ran.
#[derive(Clone, PartialEq, prost::Oneof)]
#[allow(missing_docs)]
pub enum TxnOpReplyBody {
    #[prost(message, tag = "1")]
    Range(RangeReply),
    #[prost(message, tag = "2")]
    Put(PutReply),
    #[prost(message, tag = "3")]
    DeleteRange(DeleteRangeReply),
    #[prost(message, tag = "4")]
    Txn(TxnReply),
}
