//! The handle: everything a program asks of its member.
//!
//! ```text
//!   propose, grant_lease      forward.rs ──► the leader's log ──► apply here ──► the answer
//!   range, read_barrier       read.rs: a quorum confirms the leader, then this member's own state
//!   watch                     watch/: this member's own state, live or from history
//!   renew, time to live       forward.rs ──► the leader's lessor, confirmed by a quorum
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_consensus::{Bound, Consensus, Peers, message};
use quorate_state::auth::permit;
use quorate_state::{
    Actor, Command, Event, Fault, LeaseId, Range, RangeReply, Rejection, Reply, Revision, View,
};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

use crate::auth::{Access, Auth};
use crate::hearing::Hearing;
use crate::key_count::KeyCount;
use crate::lessor::Lessor;
use crate::membership::Standing;
use crate::metrics::{Metrics, value};
use crate::read::Rounds;
use crate::watch::pump::Pump;
use crate::{Config, ProposeError, ReadError, Watcher};

/// Proposals without an answer: each holds a command of at most the request limit. etcd refuses beyond 5,000 entries
/// between commit and apply; this is counted earlier.
pub(crate) const PENDING_PROPOSALS: usize = 8_192;
/// The shortest time to live: a shorter one could not be told from an election.
pub(crate) const SHORTEST_LEASE: Duration = Duration::from_secs(2);

/// Cheap to clone; every method may be called from any task. Any member takes any request and forwards to the leader.
#[derive(Clone)]
pub struct Handle {
    pub(crate) inner: Arc<Inner>,
    /// Who it acts for.
    pub(crate) access: Access,
}

/// What the handle, the tasks and the peer service share.
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) id: u64,
    pub(crate) cluster: u64,
    pub(crate) consensus: Consensus,
    pub(crate) peers: Peers,
    pub(crate) standing: Arc<Standing>,
    pub(crate) pump: Arc<Pump>,
    pub(crate) lessor: Arc<Mutex<Lessor>>,
    pub(crate) lease_changed: Arc<Notify>,
    pub(crate) rounds: Rounds,
    pub(crate) hearing: Mutex<Hearing>,
    pub(crate) auth: Arc<Auth>,
    pub(crate) pending: Semaphore,
    pub(crate) replacing: tokio::sync::Mutex<()>,
    pub(crate) backups: Arc<Semaphore>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) key_count: Arc<KeyCount>,
    pub(crate) stopped: AtomicBool,
}

impl Inner {
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// A read of the state. A fault stops the member where it is applied; a reader only hears of it.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&dyn View) -> Result<T, Fault>) -> Result<T, ReadError> {
        if self.is_stopped() {
            return Err(ReadError::Stopped);
        }
        self.consensus.read(read).ok_or(ReadError::Stopped)?.map_err(|fault| {
            tracing::error!(error = %fault, "the state cannot be read");
            ReadError::Stopped
        })
    }
}

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
pub struct Header {
    /// The same at every member, for as long as the cluster lives.
    pub cluster_id: u64,
    /// This member's.
    pub member_id: u64,
    /// The store's, as applied here.
    pub revision: Revision,
    /// Raft term, as known here. Never goes back.
    pub term: u64,
}

/// Who leads the store, as this member knows it. Never a permission to write PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leadership {
    /// Raft term.
    pub term: u64,
    /// Raft node id of the leader. None also when nothing was heard of it (or, if this member leads, of a quorum) for two
    /// election timeouts.
    pub leader: Option<u64>,
}

/// This member's state for `Maintenance.Status`, metrics and the ctl.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// As of now.
    pub header: Header,
    /// See [`Leadership::leader`].
    pub leader: Option<u64>,
    /// It has no vote yet.
    pub is_learner: bool,
    /// Raft index of the last entry of this member's log.
    pub index: u64,
    /// Raft index of the last entry that was applied here.
    pub applied: u64,
    /// The database on disk.
    pub database_bytes: u64,
    /// The part of it that holds something.
    pub database_in_use_bytes: u64,
    /// The log on disk.
    pub log_bytes: u64,
    /// Alarm lines as etcd prints them.
    pub errors: Vec<String>,
}

/// A member as the membership and its own publication say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Never used again, not for another disk either.
    pub id: u64,
    /// Empty until it has started.
    pub name: String,
    /// Where the other members reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it, as it announced. Empty until it has started.
    pub client_urls: Vec<String>,
    /// It has no vote yet.
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

impl Handle {
    /// Proposes at the leader (forwarded if need be) and waits until this member has applied it.
    pub async fn propose(&self, command: Command, timeout: Duration) -> Result<Applied, ProposeError> {
        let deadline = Instant::now() + timeout;
        let mut actor = self.proposer(deadline).await?;
        if !self.shows_something() {
            return self.inner.propose(Command { actor, ..command }, timeout).await;
        }
        loop {
            let command = Command { actor: actor.clone(), ..command.clone() };
            match self.inner.propose(command, deadline.saturating_duration_since(Instant::now())).await {
                Err(ProposeError::Rejected(rejection)) => {
                    actor = self.later(actor, rejection, deadline).await?;
                }
                answer => return answer,
            }
        }
    }

    /// Linearizable unless `request.serializable`.
    pub async fn range(&self, request: Range, timeout: Duration) -> Result<RangeReply, ReadError> {
        let deadline = Instant::now() + timeout;
        if !request.serializable {
            self.inner.read_barrier(timeout).await?;
        }
        self.inner.metrics.ranges.inc();
        let single = request.range_end.is_empty();
        let read = move |view: &dyn View, actor: Option<&Actor>| {
            let permitted = permit(view, actor)?.and_then(|may| may.read(&request.key, &request.range_end));
            match permitted {
                Ok(()) => quorate_state::range(view, &request),
                Err(rejection) => Ok(Err(rejection)),
            }
        };
        // A large range takes its time; it takes it on a thread that answers nobody else.
        if single { self.read_as(deadline, read).await } else { self.read_as_blocking(deadline, read).await }
    }

    /// Evaluates a transaction that only reads, like [`Handle::range`] on one instant of this member's state.
    pub async fn read_txn(
        &self,
        txn: quorate_state::Txn,
        serializable: bool,
        timeout: Duration,
    ) -> Result<quorate_state::TxnReply, ReadError> {
        let deadline = Instant::now() + timeout;
        if !serializable {
            self.inner.read_barrier(timeout).await?;
        }
        let read = move |view: &dyn View, actor: Option<&Actor>| {
            let permitted = match permit(view, actor)? {
                Ok(permit) => permit.txn(view, &txn)?,
                Err(rejection) => Err(rejection),
            };
            match permitted {
                Ok(()) => quorate_state::txn_read(view, &txn),
                Err(rejection) => Ok(Err(rejection)),
            }
        };
        self.read_as_blocking(deadline, read).await
    }

    /// Returns when everything that was committed anywhere before the call has been applied here (ReadIndex).
    pub async fn read_barrier(&self, timeout: Duration) -> Result<(), ReadError> {
        self.inner.read_barrier(timeout).await
    }

    /// A watch on this member's state; works on followers and survives leader changes and snapshot installs. A client that
    /// may not read the range gets a watch that has ended; [`Handle::check_read`] says why.
    #[must_use]
    pub fn watch(&self, spec: WatchSpec) -> Watcher {
        let permitted = self.may_watch(&spec.key, &spec.range_end);
        self.inner.pump.watch(self.inner.consensus.clone(), spec, permitted)
    }

    /// Creates a lease with an id of the store's choosing. The caller's deadline starts before the call.
    pub async fn grant_lease(
        &self,
        id: Option<LeaseId>,
        ttl: Duration,
        timeout: Duration,
    ) -> Result<LeaseId, ProposeError> {
        let ttl_ms = crate::forward::millis(ttl.max(SHORTEST_LEASE));
        // Random ids practically never collide; if one does, the store says so and another is drawn.
        loop {
            let chosen = id.unwrap_or_else(|| fastrand::i64(1..));
            let command = Command::lease_grant(chosen, ttl_ms, fastrand::u64(..));
            match self.propose(command, timeout).await {
                Ok(_) => return Ok(chosen),
                Err(ProposeError::Rejected(Rejection::LeaseExists)) if id.is_none() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Renews by its full ttl at the leader, whose leadership a quorum has confirmed. None: unknown or expired.
    pub async fn renew_lease(&self, id: LeaseId, timeout: Duration) -> Result<Option<Renewal>, ReadError> {
        self.check_renew(id, Instant::now() + timeout).await?;
        self.inner.renew_lease(id, timeout).await
    }

    /// (granted ttl, remaining, attached keys if asked). None: unknown or expired.
    pub async fn lease_time_to_live(
        &self,
        id: LeaseId,
        keys: bool,
        timeout: Duration,
    ) -> Result<Option<(Duration, Duration, Vec<Bytes>)>, ReadError> {
        let deadline = Instant::now() + timeout;
        self.check_user(timeout).await?;
        let Some((granted, remaining)) = self.inner.time_to_live(id, timeout).await? else { return Ok(None) };
        let keys = if keys {
            self.inner.read_barrier(timeout).await?;
            self.read_as(deadline, |view, actor| {
                let permitted = match permit(view, actor)? {
                    Ok(permit) => permit.read_lease(view, id)?,
                    Err(rejection) => Err(rejection),
                };
                match permitted {
                    Ok(()) => Ok(Ok(quorate_state::lease_keys(view, id)?)),
                    Err(rejection) => Ok(Err(rejection)),
                }
            })
            .await?
        } else {
            Vec::new()
        };
        Ok(Some((granted, remaining, keys)))
    }

    /// Every lease, as applied here. A client has to be one that may read every key that hangs on any of them (etcd's rule).
    pub async fn leases(&self, timeout: Duration) -> Result<Vec<LeaseId>, ReadError> {
        let read = |view: &dyn View, actor: Option<&Actor>| {
            let permit = match permit(view, actor)? {
                Ok(permit) => permit,
                Err(rejection) => return Ok(Err(rejection)),
            };
            let ids: Vec<LeaseId> = quorate_state::leases(view)?.into_iter().map(|lease| lease.id).collect();
            for id in &ids {
                if let Err(rejection) = permit.read_lease(view, *id)? {
                    return Ok(Err(rejection));
                }
            }
            Ok(Ok(ids))
        };
        self.read_as_blocking(Instant::now() + timeout, read).await
    }

    /// The stamp of an answer given now.
    #[must_use]
    pub fn header(&self) -> Header {
        Header {
            cluster_id: self.inner.cluster,
            member_id: self.inner.id,
            revision: self.inner.pump.revision(),
            term: self.inner.leadership.borrow().term,
        }
    }

    /// This member's state.
    #[must_use]
    pub fn status(&self) -> Status {
        let consensus = &self.inner.consensus;
        let leader = self.inner.leadership.borrow().leader;
        let database_bytes = consensus.database_bytes();
        let mut errors: Vec<String> = Vec::new();
        if leader.is_none() {
            errors.push("etcdserver: no leader".to_owned());
        }
        for (member, kind) in self.alarms().unwrap_or_default() {
            let kind = match kind {
                quorate_state::AlarmKind::None => continue,
                quorate_state::AlarmKind::NoSpace => "NOSPACE",
                quorate_state::AlarmKind::Corrupt => "CORRUPT",
            };
            // As etcd prints its protobuf message.
            errors.push(format!("memberID:{member} alarm:{kind} "));
        }
        Status {
            header: self.header(),
            leader,
            is_learner: consensus
                .members()
                .iter()
                .any(|peer| peer.id == self.inner.id && !crate::reconfigure::votes(peer)),
            index: consensus.last_index(),
            applied: *consensus.applied().borrow(),
            database_bytes,
            database_in_use_bytes: database_bytes,
            log_bytes: consensus.log_bytes(),
            errors,
        }
    }

    /// Changes of the leader, as known here.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// The membership.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        let published = self.inner.read(quorate_state::members).unwrap_or_default();
        let peers = self.inner.consensus.members();
        let members = peers.into_iter().map(|peer| {
            let published = published.iter().find(|member| member.id == peer.id);
            let is_learner = !crate::reconfigure::votes(&peer);
            Member {
                id: peer.id,
                name: published.map(|member| member.name.clone()).unwrap_or_default(),
                peer_urls: vec![peer.node.url],
                client_urls: published.map(|member| member.client_urls.clone()).unwrap_or_default(),
                is_learner,
            }
        });
        members.collect()
    }

    /// The other voters that have answered this member within `recent`. None while it does not lead, and a new leader knows of none
    /// before each has answered it: that a member is not yet silent says nothing.
    #[must_use]
    pub fn answering(&self, recent: Duration) -> BTreeSet<u64> {
        let consensus = &self.inner.consensus;
        let mut answering =
            if consensus.leads() { consensus.healthy_voters(recent) } else { BTreeSet::new() };
        answering.remove(&self.inner.id);
        answering
    }

    /// A bound on the network between members: that of a local one, or as many round trips (each at most as long as the heartbeat
    /// interval, which is configured for it), whichever is longer.
    #[must_use]
    pub fn patience(&self, bound: Bound) -> Duration {
        self.inner.peers.patience(bound)
    }

    /// Asks the leader, which may be another member, to hand over to `target`.
    pub async fn move_leader(&self, target: u64, timeout: Duration) -> Result<(), ReadError> {
        self.inner.move_leader(target, timeout).await
    }

    /// Raised alarms as (member, kind).
    pub fn alarms(&self) -> Result<Vec<(u64, quorate_state::AlarmKind)>, ReadError> {
        self.inner.read(quorate_state::alarms)
    }

    /// This member's metrics in Prometheus' text form, under etcd's names where it has them.
    #[must_use]
    pub fn metrics(&self) -> String {
        let consensus = &self.inner.consensus;
        let metrics = &self.inner.metrics;
        metrics.proposals_committed.set(value(consensus.committed_index()));
        metrics.set_database_bytes(consensus.database_bytes());
        let is_learner = consensus.members().iter().any(|peer| peer.id == self.inner.id && !peer.voter);
        metrics.is_learner.set(i64::from(is_learner));
        if let Ok(compacted) = self.inner.read(quorate_state::compacted) {
            metrics.compact_revision.set(compacted);
        }
        if let Some(keys) = self.inner.key_count.value() {
            metrics.keys.set(keys);
        }
        metrics.log_bytes.set(value(consensus.log_bytes()));
        let (watchers, lagging) = self.inner.pump.count();
        metrics.watchers.set(value(watchers as u64));
        metrics.slow_watchers.set(value(lagging as u64));
        metrics.encode()
    }
}

/// Answers peers. Before this member has found its place it only introduces itself.
pub(crate) struct Answerer {
    pub(crate) standing: Arc<Standing>,
    pub(crate) inner: Arc<std::sync::OnceLock<std::sync::Weak<Inner>>>,
}

impl Answerer {
    fn inner(&self) -> Option<Arc<Inner>> {
        self.inner.get().and_then(std::sync::Weak::upgrade)
    }
}

impl quorate_consensus::PeerHandler for Answerer {
    fn hello(&self, hello: message::HelloRequest) -> message::HelloResponse {
        let peers = self.inner().map(|inner| inner.consensus.members()).unwrap_or_default();
        let members =
            peers.into_iter().map(|peer| quorate_consensus::node_to_wire(peer.id, &peer.node)).collect();
        self.standing.hello(&hello, members)
    }

    fn ask(
        &self,
        question: message::question::Question,
        deadline: Duration,
    ) -> futures_util::future::BoxFuture<'static, message::Answer> {
        use message::question::Question;
        let inner = self.inner();
        Box::pin(async move {
            let answer = match inner {
                None => crate::forward::failure(message::FailureKind::Stopped, None),
                Some(inner) if inner.is_stopped() => {
                    crate::forward::failure(message::FailureKind::Stopped, None)
                }
                Some(inner) => match question {
                    Question::Propose(propose) => inner.answer_propose(propose.payload, deadline).await,
                    Question::ReadIndex(_) => inner.answer_read_index(deadline).await,
                    Question::RenewLease(renew) => inner.answer_renew(renew.id, deadline).await,
                    Question::LeaseTimeToLive(lease) => inner.answer_time_to_live(lease.id, deadline).await,
                    Question::MoveLeader(transfer) => inner.answer_move_leader(transfer.target).await,
                    Question::Replace(replace) => inner.answer_replace(replace).await,
                    Question::Claim(claim) => inner.answer_claim(claim).await,
                    Question::Silence(_) => inner.answer_silence(),
                    Question::Reconfigure(change) => inner.answer_reconfigure(change, deadline).await,
                },
            };
            message::Answer { answer: Some(answer) }
        })
    }
}
