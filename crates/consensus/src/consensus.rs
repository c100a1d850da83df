//! Consensus for one member: openraft, its stores, its network, behind one cheap handle in our own words.

mod backup;
mod members;
mod whole;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{
    ChangeMembershipError, ClientWriteError, InitializeError, LinearizableReadError, RaftError,
};
use openraft::impls::ProgressResponder;
use openraft::metrics::WaitError;
use openraft::raft::ClientWriteResponse;
use openraft::{ChangeMembers, Instant, LinearizerOption, ServerState, SnapshotPolicy};
use parking_lot::{Mutex, RwLock};
use quorate_state::{Reply, View};
use quorate_storage::{Engine, Log, LogOptions, OnSync, Opened, SledEngine, Snapshots, StorageError};
use tokio::sync::watch;

use crate::apply_thread::{self, Observer, Shared};
use crate::error::{ConfirmFailure, MembershipFailure, ProposeFailure, StartFailure, chain};
use crate::last_confirmation::LastConfirmation;
use crate::log_store::LogStore;
use crate::network::{NetworkFactory, Peers};
use crate::peer_service::{Heard, Plugged, Socket};
use crate::state_machine::StateMachine;
use crate::types::{Node, Proposal, Raft, TypeConfig};

/// Entries kept behind the newest snapshot, so that a follower that was away for a moment catches up from the log (etcd
/// keeps as many).
const KEPT_ENTRIES: u64 = 5_000;
/// Entries in one message to a follower; its bytes are bounded too (see the log store).
const MESSAGE_ENTRIES: u64 = 4_096;
/// Proposals on their way into the core: beyond that a proposer waits its turn.
const PROPOSALS: u64 = 8_192;
/// A learner counts as caught up when it is at most this many entries behind: the rest goes with the change itself.
const CAUGHT_UP: u64 = 64;

/// How a member takes part.
#[derive(Debug, Clone)]
pub struct Options {
    /// This member.
    pub id: u64,
    /// The cluster: checked on every message.
    pub cluster: u64,
    /// For log lines.
    pub cluster_name: String,
    /// Between two heartbeats of a leader.
    pub heartbeat: Duration,
    /// Shortest and longest election timeout.
    pub election: (Duration, Duration),
    /// Applied entries between two snapshots, at the least: a large state is written when the log has grown by a share of it.
    pub snapshot_count: u64,
}

impl Options {
    fn to_openraft(&self) -> Result<openraft::Config, openraft::ConfigError> {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let longest = millis(self.election.1);
        openraft::Config {
            cluster_name: self.cluster_name.clone(),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: millis(self.election.0),
            election_timeout_max: longest,
            max_payload_entries: MESSAGE_ENTRIES,
            api_channel_size: Some(PROPOSALS),
            // The apply thread knows what has grown, and says when.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: self.snapshot_count.min(KEPT_ENTRIES),
            purge_batch_size: 1,
            replication_lag_threshold: self.snapshot_count.max(KEPT_ENTRIES),
            // The network bounds a transfer by the size of the file; this only has to be longer.
            install_snapshot_timeout: 3_600_000,
            // A returning member must not force an election: it asks first whether it would win.
            enable_pre_vote: Some(true),
            // A restarted leader asks for votes like everybody else: others may have led meanwhile.
            enable_leader_restore: Some(false),
            // A leader without a quorum that still reaches some followers would keep them from electing another one.
            quorum_loss_probe_interval: Some(2 * longest),
            ..openraft::Config::default()
        }
        .validate()
    }
}

/// What a member keeps on disk, opened.
pub struct Store {
    log: Log,
    engine: Arc<dyn Engine>,
    snapshots: Snapshots,
}

impl Store {
    /// Opens or creates `dir/log`, `dir/snapshots` and `dir/db`. A database that cannot be trusted comes back empty: it is
    /// filled again from snapshot and log when consensus starts.
    pub fn open(dir: &Path, on_sync: Option<OnSync>) -> Result<Store, StorageError> {
        let options = LogOptions { on_sync, ..LogOptions::default() };
        #[cfg(quorate_sim)]
        let options = crate::sim::log_options(options);
        let log = Log::open(&dir.join("log"), options)?;
        let snapshots = Snapshots::open(&dir.join("snapshots"))?;
        #[cfg(quorate_sim)]
        if crate::sim::IN_MEMORY {
            return Ok(Store { log, engine: Arc::new(quorate_storage::MemoryEngine::new()), snapshots });
        }
        let opened = SledEngine::open(&dir.join("db"))?;
        if let Opened::Rebuild { reason, .. } = &opened
            && log.last().is_some()
        {
            tracing::info!(%reason, "the database is rebuilt from snapshot and log");
        }
        let engine = opened.into_engine();
        engine.follow(log.clone());
        whole::check(dir, &log, &engine, &snapshots)?;
        Ok(Store { log, engine: Arc::new(engine), snapshots })
    }

    /// For tests and simulation: any engine.
    #[must_use]
    pub fn from_parts(log: Log, engine: Arc<dyn Engine>, snapshots: Snapshots) -> Store {
        Store { log, engine, snapshots }
    }
}

/// Who leads, as this member knows it. Never a permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Role {
    /// Raft term.
    pub term: u64,
    /// The leader of that term, if known.
    pub leader: Option<u64>,
}

/// A member of the membership in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Never re-used.
    pub id: u64,
    /// Its name and address.
    pub node: Node,
    /// Has a vote, in any of the sets of a joint membership.
    pub voter: bool,
}

/// A reply and where its entry stands.
#[derive(Debug, Clone)]
pub struct Committed {
    /// The state's, possibly a rejection.
    pub reply: Reply,
    /// Raft term of the entry.
    pub term: u64,
    /// Raft index of the entry.
    pub index: u64,
}

/// One member's consensus. Cheap to clone.
#[derive(Clone)]
pub struct Consensus {
    inner: Arc<Inner>,
}

struct Inner {
    raft: Raft,
    id: u64,
    shared: Arc<Shared>,
    /// Taken at shutdown: a handle that somebody keeps does not keep the database open.
    engine: RwLock<Option<Arc<dyn Engine>>>,
    log: Log,
    socket: Socket,
    heard: Heard,
    last: Arc<LastConfirmation>,
    role: watch::Receiver<Role>,
    apply: Mutex<Option<std::thread::JoinHandle<()>>>,
    role_task: tokio::task::JoinHandle<()>,
    snapshot_task: tokio::task::JoinHandle<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.role_task.abort();
        self.snapshot_task.abort();
    }
}

impl Consensus {
    /// Starts on an open store and plugs itself into the peer service. Committed entries that the state has not seen are
    /// applied before it returns.
    pub async fn start(
        options: Options,
        store: Store,
        peers: Peers,
        socket: Socket,
        observer: Box<dyn Observer>,
    ) -> Result<Consensus, StartFailure> {
        let config = Arc::new(options.to_openraft()?);
        let Store { log, engine, snapshots } = store;
        let apply_thread::Started { jobs, shared, handle: apply } = apply_thread::start(
            Arc::clone(&engine),
            snapshots.clone(),
            log.purged(),
            log.size_bytes(),
            options.snapshot_count,
            observer,
        )?;
        let machine = StateMachine::new(jobs, Arc::clone(&shared));
        let meter = peers.meter.clone();
        let last = Arc::new(LastConfirmation::new(tokio::time::Instant::now()));
        let network = NetworkFactory::new(peers.clone(), options.cluster, Arc::clone(&last));
        let raft = Raft::new(options.id, config, network, LogStore::new(log.clone()), machine).await;
        let raft = raft.map_err(|fatal| {
            let state = shared.failure.borrow().clone();
            StartFailure::Raft(state.unwrap_or_else(|| chain(&fatal)))
        })?;
        let (cluster, id) = (options.cluster, options.id);
        let heard = Heard::default();
        socket.plug(Plugged {
            cluster,
            id,
            raft: raft.clone(),
            snapshots,
            meter,
            heard: Arc::clone(&heard),
            last: Arc::clone(&last),
        });

        let (send, role) = watch::channel(Role::default());
        let (failure, followed) = (shared.failure.clone(), Arc::clone(&last));
        let metrics = follow_metrics(raft.clone(), log.clone(), peers, followed, send, failure);
        let role_task = tokio::spawn(metrics);
        let snapshot_task = tokio::spawn(write_snapshots(raft.clone(), Arc::clone(&shared)));
        let apply = Mutex::new(Some(apply));
        let engine = RwLock::new(Some(engine));
        let inner = Inner {
            raft,
            id: options.id,
            shared,
            engine,
            log,
            socket,
            heard,
            last,
            role,
            apply,
            role_task,
            snapshot_task,
        };
        Ok(Consensus { inner: Arc::new(inner) })
    }

    /// This member.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.inner.id
    }

    /// Changes of term and leader.
    #[must_use]
    pub fn role(&self) -> watch::Receiver<Role> {
        self.inner.role.clone()
    }

    /// True while this member believes that it leads. Not a confirmation: see [`Consensus::confirm`].
    #[must_use]
    pub fn leads(&self) -> bool {
        self.inner.role.borrow().leader == Some(self.inner.id)
    }

    /// How long nothing has confirmed the leader that [`Consensus::role`] names: to a follower, a message of it; to the
    /// leader, answers of a quorum. None: nothing has yet.
    #[must_use]
    pub fn silence(&self) -> Option<Duration> {
        if !self.leads() {
            return self.inner.heard.lock().map(|at| at.elapsed());
        }
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let mut voters = metrics.membership_config.membership().voter_ids();
        if voters.all(|id| id == self.inner.id) {
            return Some(Duration::ZERO);
        }
        metrics.last_quorum_acked.as_ref().map(|at| at.elapsed())
    }

    /// This member leads in `term`: how long ago, at the least, anything was confirmed by a leader of an earlier term. None: it
    /// cannot be told, and may have been a moment ago.
    #[must_use]
    pub fn last_confirmation_before(&self, term: u64) -> Option<Duration> {
        let sets: Vec<BTreeSet<u64>> = {
            let metrics = self.inner.raft.server_metrics();
            let metrics = metrics.borrow_watched();
            metrics.membership_config.membership().get_joint_config().clone()
        };
        self.inner.last.ago(tokio::time::Instant::now(), term, self.inner.id, &sets)
    }

    /// The index that has been applied here, as it moves. Who waits for one index asks [`Consensus::reached`].
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.inner.shared.progress.subscribe()
    }

    /// Waits until `index` has been applied here. False: this member has stopped.
    pub async fn reached(&self, index: u64) -> bool {
        self.inner.shared.progress.reached(index).await
    }

    /// Resolves to the sentence for the operator when this member cannot go on: a failed sync, a fault in apply.
    #[must_use]
    pub fn failure(&self) -> watch::Receiver<Option<String>> {
        self.inner.shared.failure.subscribe()
    }

    fn engine(&self) -> Option<Arc<dyn Engine>> {
        self.inner.engine.read().clone()
    }

    /// Ends this member for a reason that consensus cannot see itself. The first sentence stands.
    pub fn fail(&self, sentence: String) {
        self.inner.shared.failure.send_if_modified(|known| {
            let first = known.is_none();
            if first {
                *known = Some(sentence);
            }
            first
        });
    }

    /// Reads several keys as of one instant. Applying waits for it: keep it short. None when this member has stopped.
    pub fn read<T>(&self, read: impl FnOnce(&dyn View) -> T) -> Option<T> {
        let mut read = Some(read);
        let mut result = None;
        self.engine()?.consistent(&mut |view| {
            if let Some(read) = read.take() {
                result = Some(read(view));
            }
        });
        result
    }

    /// Bytes of the database on disk.
    #[must_use]
    pub fn database_bytes(&self) -> u64 {
        self.engine().map_or(0, |engine| engine.size_bytes())
    }

    /// The last index known here to be committed.
    #[must_use]
    pub fn committed_index(&self) -> u64 {
        let metrics = self.inner.raft.data_metrics();
        let metrics = metrics.borrow_watched();
        metrics.local_committed.as_ref().map_or(0, openraft::LogId::index)
    }

    /// Bytes of the log on disk.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        self.inner.log.size_bytes()
    }

    /// The last index in the log here.
    #[must_use]
    pub fn last_index(&self) -> u64 {
        self.inner.log.last().map_or(0, |at| at.index)
    }

    /// Proposes here, which works on the leader only, and waits until it is applied here.
    pub async fn propose(&self, proposal: Proposal) -> Result<Committed, ProposeFailure> {
        self.committed(self.inner.raft.client_write(proposal).await)
    }

    fn committed(
        &self,
        outcome: Result<ClientWriteResponse<TypeConfig>, RaftError<TypeConfig, ClientWriteError<TypeConfig>>>,
    ) -> Result<Committed, ProposeFailure> {
        match outcome {
            Ok(written) => match written.data.0 {
                Some(reply) => {
                    let (term, index) = (written.log_id.committed_leader_id().term, written.log_id.index());
                    Ok(Committed { reply, term, index })
                }
                None => Err(ProposeFailure::Unknown),
            },
            Err(RaftError::APIError(error)) => Err(match error {
                ClientWriteError::ForwardToLeader(forward) => {
                    ProposeFailure::NotLeader { leader: forward.leader_id.filter(|id| *id != self.inner.id) }
                }
                ClientWriteError::LogEntryDiscarded(_) => ProposeFailure::Unknown,
                // Neither is an answer to a normal entry.
                ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_) => {
                    ProposeFailure::Unknown
                }
            }),
            // It may have been on its way when the core stopped.
            Err(RaftError::Fatal(_)) => Err(ProposeFailure::Unknown),
        }
    }

    /// [`Consensus::propose`], provided that this member leads in `term` when the proposal reaches the log: what was judged
    /// as the leader of one term is not done as the leader of another.
    pub async fn propose_in_term(&self, proposal: Proposal, term: u64) -> Result<Committed, ProposeFailure> {
        let (responder, answer) = ProgressResponder::complete_only();
        let write = self.inner.raft.write(proposal).responder(responder).with_leader(term);
        if write.await.is_err() {
            return Err(ProposeFailure::Stopped);
        }
        match answer.await {
            Ok(result) => self.committed(result.map_err(RaftError::APIError)),
            Err(_) => Err(ProposeFailure::Unknown),
        }
    }

    /// Has a quorum confirm that this member leads, now. Returns the index up to which state must be applied so that a
    /// read shows everything that was committed anywhere before the call.
    pub async fn confirm(&self, within: Duration) -> Result<u64, ConfirmFailure> {
        let option = LinearizerOption::new(Some(Duration::ZERO), true).with_wait_timeout(within);
        match self.inner.raft.get_read_linearizer(option).await {
            Ok(linearizer) => Ok(linearizer.read_log_id().index()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Err(ConfirmFailure::NotLeader { leader: forward.leader_id.filter(|id| *id != self.inner.id) })
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                Err(ConfirmFailure::NoQuorum)
            }
            Err(RaftError::Fatal(_)) => Err(ConfirmFailure::Stopped),
        }
    }

    /// Writes the first membership, on every initial member alike. Nothing happens if the log is not empty.
    pub async fn form(&self, members: BTreeMap<u64, Node>) -> Result<(), MembershipFailure> {
        match self.inner.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(RaftError::APIError(error @ InitializeError::NotInMembers(_))) => {
                Err(MembershipFailure::Refused(error.to_string()))
            }
            Err(RaftError::Fatal(_)) => Err(MembershipFailure::Stopped),
        }
    }

    /// The membership in force here: the newest in the log, committed or not.
    #[must_use]
    pub fn members(&self) -> Vec<Peer> {
        let metrics = self.inner.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        membership
            .nodes()
            .map(|(id, node)| Peer { id: *id, node: node.clone(), voter: voters.contains(id) })
            .collect()
    }

    /// Where member `id` listens for peers. None: it is not in the membership.
    #[must_use]
    pub fn url_of(&self, id: u64) -> Option<String> {
        let metrics = self.inner.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.membership().get_node(&id).map(|node| node.url.clone())
    }

    /// True while two voter sets are in force.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        self.inner
            .raft
            .server_metrics()
            .borrow_watched()
            .membership_config
            .membership()
            .get_joint_config()
            .len()
            > 1
    }

    /// Voters that have answered the leader, which is this member, within `recent` (this member included).
    #[must_use]
    pub fn healthy_voters(&self, recent: Duration) -> BTreeSet<u64> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let heard = metrics.heartbeat.clone().unwrap_or_default();
        let voters = metrics.membership_config.membership().voter_ids();
        let healthy = voters.filter(|id| {
            *id == self.inner.id
                || heard.get(id).is_some_and(|at| at.as_ref().is_some_and(|at| at.elapsed() < recent))
        });
        healthy.collect()
    }

    /// Of every other voter: how long ago it last answered the leader, which is this member; None: never.
    #[must_use]
    pub fn acknowledged(&self) -> BTreeMap<u64, Option<Duration>> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let heard = metrics.heartbeat.as_ref();
        let ago = |id: u64| heard?.get(&id)?.as_ref().map(|at| at.elapsed());
        let voters = metrics.membership_config.membership().voter_ids().filter(|id| *id != self.inner.id);
        voters.map(|id| (id, ago(id))).collect()
    }

    /// Adds a learner, or leaves it as it is.
    pub async fn add_learner(&self, id: u64, node: Node) -> Result<(), MembershipFailure> {
        self.changed(self.inner.raft.add_learner(id, node, false).await)
    }

    /// True when `id` has nearly everything that this member, the leader, has.
    #[must_use]
    pub fn is_caught_up(&self, id: u64) -> bool {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_log_index.unwrap_or(0);
        let matched = metrics.replication.as_ref().and_then(|all| all.get(&id)).and_then(Option::as_ref);
        matched.is_some_and(|at| at.index() + CAUGHT_UP >= last)
    }

    /// Makes `new` a voter and removes `old` altogether, through a joint membership.
    pub async fn replace_voter(&self, old: u64, new: u64) -> Result<(), MembershipFailure> {
        let voters: BTreeSet<u64> = {
            let metrics = self.inner.raft.server_metrics();
            let metrics = metrics.borrow_watched();
            metrics.membership_config.membership().voter_ids().collect()
        };
        let mut target = voters;
        target.remove(&old);
        target.insert(new);
        self.changed(self.inner.raft.change_membership(ChangeMembers::ReplaceAllVoters(target), false).await)
    }

    /// Removes nodes that have no vote.
    pub async fn remove_learners(&self, ids: BTreeSet<u64>) -> Result<(), MembershipFailure> {
        self.changed(self.inner.raft.change_membership(ChangeMembers::RemoveNodes(ids), false).await)
    }

    fn changed<T>(
        &self,
        result: Result<T, RaftError<crate::types::TypeConfig, ClientWriteError<crate::types::TypeConfig>>>,
    ) -> Result<(), MembershipFailure> {
        match result {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                Err(MembershipFailure::NotLeader {
                    leader: forward.leader_id.filter(|id| *id != self.inner.id),
                })
            }
            Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_))) => {
                Err(MembershipFailure::Pending("the leader changed meanwhile".to_owned()))
            }
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))) => Err(match error {
                ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_) => {
                    MembershipFailure::Pending("another change of the membership is under way".to_owned())
                }
                ChangeMembershipError::EmptyMembership(_)
                | ChangeMembershipError::LearnerNotFound(_)
                | ChangeMembershipError::UnsupportedMembershipTransition(_)
                | ChangeMembershipError::NodeMetadataChanged(_) => {
                    MembershipFailure::Refused(error.to_string())
                }
            }),
            Err(RaftError::APIError(error @ ClientWriteError::PreconditionFailed(_))) => {
                Err(MembershipFailure::Refused(error.to_string()))
            }
            Err(RaftError::Fatal(_)) => Err(MembershipFailure::Stopped),
        }
    }

    /// Asks this member, which must lead, to hand over. Returns when the request is under way; follow [`Consensus::role`].
    pub async fn hand_over(&self, target: u64) -> Result<(), MembershipFailure> {
        let member = self.members().into_iter().find(|peer| peer.id == target);
        match member {
            Some(peer) if peer.voter => {}
            Some(_) => return Err(MembershipFailure::Refused("a learner cannot lead".to_owned())),
            None => return Err(MembershipFailure::Refused(format!("no member has the id {target:x}"))),
        }
        if !self.leads() {
            return Err(MembershipFailure::NotLeader { leader: self.inner.role.borrow().leader });
        }
        self.inner.raft.trigger().transfer_leader(target).await.map_err(|_| MembershipFailure::Stopped)
    }

    /// The voter, other than this member, that has the most of the log: who should lead next.
    #[must_use]
    pub fn best_successor(&self) -> Option<u64> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let replication = metrics.replication.as_ref()?;
        let voters: BTreeSet<u64> = metrics.membership_config.membership().voter_ids().collect();
        let others = replication.iter().filter(|(id, _)| **id != self.inner.id && voters.contains(id));
        others.max_by_key(|(_, matched)| matched.as_ref().map(|at| at.index())).map(|(id, _)| *id)
    }

    /// Has a snapshot written now. For tests and the operator.
    pub async fn snapshot(&self) {
        // The core has stopped otherwise: then there is nothing to write.
        let _ = self.inner.raft.trigger().snapshot().await;
    }

    /// Waits until no snapshot is older than `index`.
    pub async fn wait_for_snapshot(&self, index: u64, within: Duration) -> bool {
        let wait = self.inner.raft.wait(Some(within));
        let reached = wait.metrics(
            |metrics| metrics.snapshot.is_some_and(|at| at.index() >= index),
            "a snapshot was written",
        );
        match reached.await {
            Ok(_) => true,
            Err(WaitError::Timeout(..) | WaitError::ShuttingDown) => false,
        }
    }

    /// Stops: no vote, no append, no answer after this. The log is synced and closed.
    pub async fn shutdown(&self, deadline: Duration) {
        self.inner.socket.unplug();
        self.inner.role_task.abort();
        self.inner.snapshot_task.abort();
        if tokio::time::timeout(deadline, self.inner.raft.shutdown()).await.is_err() {
            tracing::warn!("consensus did not stop in time");
        }
        let apply = self.inner.apply.lock().take();
        let log = self.inner.log.clone();
        let mut engine = self.inner.engine.write().take();
        if self.inner.shared.failure.borrow().is_some()
            && let Some(engine) = engine.take()
        {
            // After an I/O error sled's flush may never return, and its database is only a view that the log makes again: it is
            // closed by a thread that nobody waits for.
            std::thread::spawn(move || drop(engine));
        }
        let closing = tokio::task::spawn_blocking(move || {
            // The core has dropped its end of the queue, so the thread ends after what it is doing.
            if let Some(apply) = apply
                && apply.join().is_err()
            {
                tracing::error!("the apply thread had panicked");
            }
            if let Some(engine) = engine
                && let Err(error) = engine.sync()
            {
                tracing::warn!(error = %chain(&error), "the database was not synced; it will catch up from the log");
            }
            if let Err(error) = log.close(deadline) {
                tracing::error!(error = %chain(&error), "the log was not closed in order");
            }
        });
        if tokio::time::timeout(deadline, closing).await.is_err() {
            tracing::warn!("the log and the database were not closed in time");
        }
    }
}

/// Passes on that it is time for a snapshot.
async fn write_snapshots(raft: Raft, shared: Arc<Shared>) {
    loop {
        shared.snapshot_due.notified().await;
        if raft.trigger().snapshot().await.is_err() {
            return;
        }
    }
}

/// Turns openraft's metrics into roles, and its end into the member's failure.
///
/// openraft publishes its last words and then drops what they are published with: either may be noticed first. So after the
/// end of a channel the last words are read once more. An end without any (a panic) is a failure too: an orderly end
/// aborts this task before.
async fn follow_metrics(
    raft: Raft,
    log: Log,
    peers: Peers,
    last: Arc<LastConfirmation>,
    role: watch::Sender<Role>,
    failure: watch::Sender<Option<String>>,
) {
    let mut servers = raft.server_metrics();
    let mut metrics = raft.metrics();
    let mut known = None;
    let mut goes_on = true;
    drop(raft);
    loop {
        {
            let server = servers.borrow_and_update();
            let leads = server.state == ServerState::Leader;
            let leader =
                if leads { Some(server.id) } else { server.current_leader.filter(|id| *id != server.id) };
            let seen = Role { term: server.vote.leader_id.term, leader };
            last.leads(tokio::time::Instant::now(), leads.then_some(seen.term));
            role.send_if_modified(|known| std::mem::replace(known, seen) != seen);
            let membership = &server.membership_config;
            if known.as_ref() != Some(membership.log_id()) {
                known = Some(*membership.log_id());
                peers.moved(membership.membership().nodes());
            }
        }
        let stopped = {
            let metrics = metrics.borrow_and_update();
            metrics.running_state.as_ref().err().map(|fatal| chain(fatal))
        };
        let stopped = match (stopped, goes_on) {
            (Some(last_words), _) => Some(last_words),
            (None, false) => Some("consensus has ended without a word".to_owned()),
            (None, true) => None,
        };
        if let Some(last_words) = stopped {
            // A fault of the state or the disk has its own sentence; openraft's is the last resort.
            failure.send_if_modified(|known| {
                let first = known.is_none();
                if first {
                    *known = log.failed().or(Some(last_words));
                }
                first
            });
            last.leads(tokio::time::Instant::now(), None);
            role.send_modify(|known| known.leader = None);
            return;
        }
        goes_on = tokio::select! {
            changed = servers.changed() => changed.is_ok(),
            changed = metrics.changed() => changed.is_ok(),
        };
    }
}
