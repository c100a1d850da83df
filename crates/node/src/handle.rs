//! The member and its handle.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_state::{Command, Event, LeaseId, Range, RangeReply, Reply, Revision};

use crate::{Config, ProposeError, ReadError, StartError};

/// A running member: owns every task. Dropping it without [`Node::shutdown`] aborts them.
pub struct Node {}

/// Cheap to clone; every method may be called from any task. Any member takes any request and forwards to the leader.
#[derive(Clone)]
pub struct Handle {}

/// The answer to a proposal, with where it stands.
#[derive(Debug, Clone)]
pub struct Applied {
    /// Never a rejection (that is [`ProposeError::Rejected`]).
    pub reply: Reply,
    /// Raft term known when it was answered.
    pub term: u64,
    /// Raft index of the entry.
    pub index: u64,
}

/// What stamps every answer to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Header {
    pub cluster_id: u64,
    pub member_id: u64,
    pub revision: Revision,
    pub term: u64,
}

/// Who leads the store, as this member knows it. Never a permission to write PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leadership {
    /// Raft term.
    pub term: u64,
    /// Raft node id of the leader.
    pub leader: Option<u64>,
}

/// This member's state for `Maintenance.Status`, metrics and the ctl.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Status {
    pub header: Header,
    pub leader: Option<u64>,
    pub is_learner: bool,
    pub index: u64,
    pub applied: u64,
    pub database_bytes: u64,
    pub database_in_use_bytes: u64,
    pub log_bytes: u64,
    /// Alarm lines as etcd prints them.
    pub errors: Vec<String>,
}

/// A member as the membership and its own publication say.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Member {
    pub id: u64,
    /// Empty until it has started.
    pub name: String,
    pub peer_urls: Vec<String>,
    pub client_urls: Vec<String>,
    pub is_learner: bool,
}

/// A confirmed renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewal {
    /// The lease's full time to live: it cannot expire before (the caller's clock when the call was made) + `ttl`.
    pub ttl: Duration,
}

/// What to watch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WatchSpec {
    /// As in [`Range::key`]; empty is `"\0"`.
    pub key: Bytes,
    /// As in [`Range::range_end`].
    pub range_end: Bytes,
    /// Inclusive; 0 is "from now on".
    pub start_revision: Revision,
    /// Fill [`Event::prev_kv`].
    pub prev_kv: bool,
    /// Leave out puts.
    pub no_put: bool,
    /// Leave out deletions.
    pub no_delete: bool,
}

/// What a watcher delivers, in revision order, without gap or duplicate.
#[derive(Debug, Clone)]
pub enum WatchItem {
    /// All matching events of one or more whole revisions, the last of which is `revision`.
    Events {
        /// In (revision, sub) order.
        events: Vec<Arc<Event>>,
        /// Everything up to here that matches has been delivered.
        revision: Revision,
    },
    /// The history it needs is gone. The last item.
    Compacted {
        /// The oldest revision that is still readable.
        revision: Revision,
    },
}

/// One watch. Dropping it cancels.
pub struct Watcher {}

#[allow(unused_variables, clippy::unimplemented)]
impl Watcher {
    /// The next item; None when the member stops. A slow reader loses nothing: it is re-fed from history. Cancel-safe.
    pub async fn next(&mut self) -> Option<WatchItem> {
        unimplemented!()
    }
    /// Some(revision) when everything up to `revision` has been taken out by `next`; None while it lags.
    pub fn progress(&self) -> Option<Revision> {
        unimplemented!()
    }
}

#[allow(unused_variables, clippy::unimplemented)]
impl Node {
    /// Opens the data directory, joins or forms the cluster, starts every task. Returns when it can serve serializable
    /// reads; a leader may not be known yet.
    pub async fn start(config: Config) -> Result<Node, StartError> {
        unimplemented!()
    }
    /// The handle.
    pub fn handle(&self) -> Handle {
        unimplemented!()
    }
    /// Hands leadership over, drains, joins every task, syncs. Bounded by `deadline`.
    pub async fn shutdown(self, deadline: Duration) {
        unimplemented!()
    }
    /// Resolves when the member has failed (a failed sync, a fault in apply) with the sentence for the operator.
    pub async fn failed(&self) -> String {
        unimplemented!()
    }
}

#[allow(unused_variables, clippy::unimplemented)]
impl Handle {
    /// Proposes at the leader (forwarded if need be) and waits until this member has applied it.
    pub async fn propose(&self, command: Command, timeout: Duration) -> Result<Applied, ProposeError> {
        unimplemented!()
    }
    /// Linearizable unless `request.serializable`.
    pub async fn range(&self, request: Range, timeout: Duration) -> Result<RangeReply, ReadError> {
        unimplemented!()
    }
    /// Returns when everything that was committed anywhere before the call has been applied here (ReadIndex).
    pub async fn read_barrier(&self, timeout: Duration) -> Result<(), ReadError> {
        unimplemented!()
    }
    /// A watch on this member's state; works on followers and survives leader changes and snapshot installs.
    pub fn watch(&self, spec: WatchSpec) -> Watcher {
        unimplemented!()
    }
    /// Creates a lease with an id of the store's choosing. The caller's deadline starts before the call.
    pub async fn grant_lease(&self, id: Option<LeaseId>, ttl: Duration, timeout: Duration) -> Result<LeaseId, ProposeError> {
        unimplemented!()
    }
    /// Renews by its full ttl at the leader, whose leadership a quorum has confirmed. None: unknown or expired.
    pub async fn renew_lease(&self, id: LeaseId, timeout: Duration) -> Result<Option<Renewal>, ReadError> {
        unimplemented!()
    }
    /// (granted ttl, remaining, attached keys if asked). None: unknown or expired.
    pub async fn lease_time_to_live(
        &self,
        id: LeaseId,
        keys: bool,
        timeout: Duration,
    ) -> Result<Option<(Duration, Duration, Vec<Bytes>)>, ReadError> {
        unimplemented!()
    }
    /// Every lease, as applied here.
    pub fn leases(&self) -> Result<Vec<LeaseId>, ReadError> {
        unimplemented!()
    }
    /// CRC of the keys and their history up to `revision` (0: now), with the compaction revision.
    pub async fn hash_kv(&self, revision: Revision, timeout: Duration) -> Result<(u32, Revision), ReadError> {
        unimplemented!()
    }
    /// The stamp of an answer given now.
    pub fn header(&self) -> Header {
        unimplemented!()
    }
    /// This member's state.
    pub fn status(&self) -> Status {
        unimplemented!()
    }
    /// Changes of the leader, as known here.
    pub fn leadership(&self) -> tokio::sync::watch::Receiver<Leadership> {
        unimplemented!()
    }
    /// The membership.
    pub fn members(&self) -> Vec<Member> {
        unimplemented!()
    }
    /// Asks the leader, which may be another member, to hand over to `target`.
    pub async fn move_leader(&self, target: u64, timeout: Duration) -> Result<(), ReadError> {
        unimplemented!()
    }
    /// Raised alarms as (member, kind).
    pub fn alarms(&self) -> Result<Vec<(u64, quorate_state::AlarmKind)>, ReadError> {
        unimplemented!()
    }
}
