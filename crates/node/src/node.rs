//! A member from start to end: what is opened, which tasks run, in which order they stop.
//!
//! Start: lock the directory, read who we are, listen for peers, find our place in the cluster, open the store, start
//! consensus, start the tasks. Peers are listened to before the place is known, because finding it is a conversation.
//!
//! Stop, in this order: hand the leadership over (an outage of a round trip instead of an election), stop answering, end
//! the tasks, stop consensus, close the log. Every step is bounded; what the deadline cuts off is what a crash would have
//! cut off, and the log is made for that.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use quorate_consensus::{Consensus, Options, PeerListener, PeerServer, PeerTls, Peers, Socket, Store};
use quorate_state::{Body, Command, PublishMember};
use quorate_storage::{DirLock, StorageError};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::auth::{Access, Auth};
use crate::handle::{Answerer, Inner, PENDING_PROPOSALS};
use crate::identity::{Forced, Identity, Place};
use crate::key_count::{self, KeyCount};
use crate::lessor::Lessor;
use crate::membership::{self, Standing};
use crate::metrics::Metrics;
use crate::observer::NodeObserver;
use crate::read::Rounds;
use crate::snapshot::BACKUPS;
use crate::watch::pump::Pump;
use crate::{
    Config, Handle, Leadership, StartError, compactor, hearing, lease_task, quota, read, reconfigure,
};

/// A process that was just killed, or a node of this process that was just dropped, lets go of its directory in a moment.
const LOCK: Duration = Duration::from_secs(5);
/// A transfer takes a few round trips.
const HAND_OVER: Duration = Duration::from_secs(1);
/// One announcement of the own name and URLs.
const PUBLISH: Duration = Duration::from_secs(5);
/// Before an announcement that failed is tried again.
const PUBLISH_AGAIN: Duration = Duration::from_millis(500);

/// A running member: owns every task. Dropping it without `shutdown` aborts them.
pub struct Node {
    inner: Arc<Inner>,
    server: Option<PeerServer>,
    tasks: JoinSet<()>,
    /// Held until everything that works in the directory has ended.
    lock: Option<DirLock>,
    failure: watch::Receiver<Option<String>>,
}

impl Node {
    /// Opens the data directory, joins or forms the cluster, starts every task. Returns when it can serve serializable
    /// reads; a leader may not be known yet.
    pub async fn start(config: Config) -> Result<Node, StartError> {
        config.validate()?;
        let auth = Arc::new(Auth::new(&config.auth)?);
        if config.initial_cluster.len() == 2 {
            tracing::warn!(
                "two voters tolerate no failure: losing either one stops writes; add a third, or a witness"
            );
        }
        let lock = lock_directory(&config.data_dir).await?;
        let mut identity = Identity::load(&config.data_dir, &config.owner())?;
        match identity.forced {
            Forced::Begun => identity = force_new_cluster(&config, identity).await?,
            Forced::No if config.force_new_cluster && identity.place != Place::Fresh => {
                identity = force_new_cluster(&config, identity).await?;
            }
            Forced::Done if config.force_new_cluster => tracing::warn!(
                "force-new-cluster has had its effect already and is ignored: take it out of the configuration"
            ),
            Forced::Done => {
                identity.forced = Forced::No;
                identity.store(&config.data_dir)?;
            }
            Forced::No => {}
        }
        let standing = Arc::new(Standing::new(&config, identity));
        let listener =
            PeerListener::bind(&config.peer_listen, config.peer_tls.as_ref().map(PeerTls::acceptor))
                .await
                .map_err(|error| StartError { what: error.to_string(), source: None })?;
        let socket = Socket::default();
        let answering: Arc<OnceLock<std::sync::Weak<Inner>>> = Arc::default();
        let answerer = Answerer { standing: Arc::clone(&standing), inner: Arc::clone(&answering) };
        let server = listener.serve(socket.clone(), Arc::new(answerer));
        let peers = config.peer_tls.as_ref().map_or_else(Peers::new, |tls| Peers::with_tls(tls.client()));
        let peers = peers.over(config.heartbeat);

        let identity = membership::find_place(&config, &standing, &peers).await?;
        let (cluster, id) = match identity.place {
            Place::Founder { cluster, id, .. }
            | Place::Replacement { cluster, id }
            | Place::Joined { cluster, id } => (cluster, id),
            Place::Fresh => return Err(StartError::plain("this member found no place in a cluster")),
        };

        let metrics = Metrics::new(id);
        let key_count = Arc::new(KeyCount::default());
        let peers = peers.metered(metrics.peers.clone());
        let fsync = metrics.fsync.clone();
        let on_sync: quorate_storage::OnSync =
            Arc::new(move |took: Duration| fsync.observe(took.as_secs_f64()));
        let directory = config.data_dir.clone();
        let opening = format!("opening the data directory {}", directory.display());
        let open = move || Store::open(&directory, Some(on_sync));
        #[cfg(quorate_sim)]
        let store = Ok::<_, tokio::task::JoinError>(open());
        #[cfg(not(quorate_sim))]
        let store = tokio::task::spawn_blocking(open).await;
        let store = match store {
            Ok(store) => store.map_err(|error| StartError::because(opening, error))?,
            Err(panic) => return Err(StartError::because(opening, panic)),
        };
        let pump = Arc::new(Pump::new());
        let lessor = Arc::new(Mutex::new(Lessor::new()));
        let lease_changed = Arc::new(Notify::new());
        let observer = NodeObserver {
            pump: Arc::clone(&pump),
            lessor: Arc::clone(&lessor),
            lease_changed: Arc::clone(&lease_changed),
            metrics: Arc::clone(&metrics),
            key_count: Arc::clone(&key_count),
            auth: Arc::clone(&auth),
        };
        let options = Options {
            id,
            cluster,
            cluster_name: config.cluster_token.clone(),
            heartbeat: config.heartbeat,
            election: config.election,
            snapshot_count: config.snapshot_count,
        };
        let consensus =
            Consensus::start(options, store, peers.clone(), socket, Box::new(observer)).await.map_err(
                |error| StartError::because(format!("starting on {}", config.data_dir.display()), error),
            )?;
        if matches!(identity.place, Place::Founder { .. }) && consensus.members().is_empty() {
            consensus
                .form(standing.initial.clone())
                .await
                .map_err(|error| StartError::because("forming the cluster", error))?;
        }

        let (rounds, waiting) = Rounds::new();
        let (leadership_sender, leadership) = watch::channel(Leadership { term: 0, leader: None });
        let failure = consensus.failure();
        let inner = Arc::new(Inner {
            config,
            id,
            cluster,
            consensus,
            peers,
            standing,
            pump,
            lessor,
            lease_changed,
            rounds,
            hearing: Mutex::default(),
            auth,
            pending: Semaphore::new(PENDING_PROPOSALS),
            replacing: tokio::sync::Mutex::new(()),
            backups: Arc::new(Semaphore::new(BACKUPS)),
            leadership,
            metrics,
            key_count,
            stopped: AtomicBool::new(false),
        });
        // Set once, here.
        let _ = answering.set(Arc::downgrade(&inner));

        let mut tasks = JoinSet::new();
        tasks.spawn(follow_leadership(Arc::clone(&inner), leadership_sender));
        tasks.spawn(follow_failure(Arc::clone(&inner)));
        tasks.spawn(read::run(Arc::clone(&inner), waiting));
        tasks.spawn(lease_task::run(Arc::clone(&inner)));
        tasks.spawn(hearing::run(Arc::clone(&inner)));
        tasks.spawn(compactor::run(Arc::clone(&inner)));
        tasks.spawn(quota::run(Arc::clone(&inner)));
        tasks.spawn(key_count::run(Arc::clone(&inner)));
        tasks.spawn(reconfigure::promote_when_caught_up(Arc::clone(&inner)));
        let mut node = Node { inner, server: Some(server), tasks, lock: Some(lock), failure };
        let taken_in = match identity.place {
            Place::Replacement { .. } => {
                let taken_in = membership::take_over(Arc::clone(&node.inner)).await;
                node.tasks.spawn(membership::notice_removal(Arc::clone(&node.inner)));
                taken_in
            }
            Place::Joined { .. } => {
                // It may have been removed before it was ever heard of.
                node.tasks.spawn(membership::notice_removal(Arc::clone(&node.inner)));
                membership::taken_in(&node.inner).await
            }
            Place::Founder { .. } | Place::Fresh => {
                node.tasks.spawn(membership::notice_removal(Arc::clone(&node.inner)));
                Ok(())
            }
        };
        if let Err(error) = taken_in {
            node.shutdown(Duration::from_secs(1)).await;
            return Err(error);
        }
        node.tasks.spawn(publish(Arc::clone(&node.inner)));
        tracing::info!(
            member = format!("{id:016x}"),
            cluster = format!("{cluster:016x}"),
            name = node.inner.config.name,
            "the member has started"
        );
        Ok(node)
    }

    /// The handle.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle { inner: Arc::clone(&self.inner), access: Access::Trusted }
    }

    /// Hands leadership over, drains, joins every task, syncs. Bounded by `deadline`.
    pub async fn shutdown(mut self, deadline: Duration) {
        let until = Instant::now() + deadline;
        self.hand_over(until).await;
        self.inner.stopped.store(true, Ordering::Release);
        self.inner.pump.stop();
        let left = |until: Instant| until.saturating_duration_since(Instant::now());
        self.tasks.abort_all();
        while self.tasks.join_next().await.is_some() {}
        self.inner.consensus.shutdown(left(until)).await;
        if let Some(server) = self.server.take() {
            server.shutdown(left(until).min(Duration::from_millis(500))).await;
        }
        self.lock.take();
        tracing::info!(member = format!("{:016x}", self.inner.id), "the member has stopped");
    }

    /// Tries the most caught-up voter. Bounded: an election is cheaper than waiting for a successor that is going too.
    async fn hand_over(&self, until: Instant) {
        let consensus = &self.inner.consensus;
        // The rest of the time is for closing.
        let half = until.saturating_duration_since(Instant::now()) / 2;
        let until = Instant::now() + HAND_OVER.min(half);
        let mut role = consensus.role();
        while consensus.leads() && Instant::now() < until {
            let Some(target) = consensus.best_successor() else { return };
            if consensus.hand_over(target).await.is_err() {
                return;
            }
            let id = self.inner.id;
            let attempt = (Instant::now() + Duration::from_millis(500)).min(until);
            let moved = role.wait_for(|role| role.leader.is_some_and(|leader| leader != id));
            if tokio::time::timeout_at(attempt, moved).await.is_ok() {
                return;
            }
        }
    }

    /// Resolves when the member has failed (a failed sync, a fault in apply) with the sentence for the operator.
    pub async fn failed(&self) -> String {
        let mut failure = self.failure.clone();
        let failed = match failure.wait_for(Option::is_some).await {
            Ok(sentence) => sentence.clone(),
            // Stopped in order: then it never fails.
            Err(_) => None,
        };
        match failed {
            Some(sentence) => sentence,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Node {
    /// Like a crash, as far as the others are concerned; the directory is let go of when consensus has ended.
    fn drop(&mut self) {
        let Some(lock) = self.lock.take() else { return };
        self.inner.stopped.store(true, Ordering::Release);
        self.inner.pump.stop();
        self.tasks.abort_all();
        drop(self.server.take());
        let consensus = self.inner.consensus.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                consensus.shutdown(LOCK).await;
                drop(lock);
            });
        }
    }
}

/// Makes a member whose quorum is gone for good a cluster of one. The cluster gets another id first: should the others come
/// back after all, neither they nor their leader can reach this member's log, nor it theirs.
async fn force_new_cluster(config: &Config, identity: Identity) -> Result<Identity, StartError> {
    let (old, id) = match identity.place {
        Place::Founder { cluster, id, .. }
        | Place::Replacement { cluster, id }
        | Place::Joined { cluster, id } => (cluster, id),
        Place::Fresh => return Ok(identity),
    };
    let node = quorate_consensus::Node {
        name: config.name.clone(),
        url: config.peer_advertise.clone(),
        ..quorate_consensus::Node::default()
    };
    let force = |only_look: bool| {
        let (directory, node) = (config.data_dir.clone(), node.clone());
        async move {
            let why = format!("forcing a new cluster on {}", directory.display());
            let forced = tokio::task::spawn_blocking(move || {
                let store = Store::open(&directory, None)?;
                let alone = store.has_single_voter(id)?;
                if !alone && !only_look {
                    store.force_single_voter(id, &node)?;
                }
                store.close()?;
                Ok::<bool, StorageError>(alone)
            });
            match forced.await {
                Ok(alone) => alone.map_err(|error| StartError::because(why, error)),
                Err(panic) => Err(StartError::because(why, panic)),
            }
        }
    };
    let mut identity = identity;
    if identity.forced == Forced::No {
        if force(true).await? {
            tracing::warn!("force-new-cluster had nothing to do: this member is alone already");
            identity.forced = Forced::Done;
            identity.store(&config.data_dir)?;
            return Ok(identity);
        }
        let cluster = fastrand::u64(1..);
        identity = Identity { place: Place::Joined { cluster, id }, forced: Forced::Begun, ..identity };
        identity.store(&config.data_dir)?;
        tracing::warn!(
            member = format!("{id:016x}"),
            old_cluster = format!("{old:016x}"),
            cluster = format!("{cluster:016x}"),
            "FORCED: this member goes on ALONE as a new cluster with the data it has; what only the others had is lost; \
             the others must never be started on their old data directories again; remove force-new-cluster from the \
             configuration and add new members one by one"
        );
    }
    force(false).await?;
    identity.forced = Forced::Done;
    identity.store(&config.data_dir)?;
    Ok(identity)
}

async fn lock_directory(dir: &Path) -> Result<DirLock, StartError> {
    let until = Instant::now() + LOCK;
    loop {
        match DirLock::acquire(dir) {
            Ok(lock) => return Ok(lock),
            Err(StorageError::Locked { .. }) if Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error @ StorageError::Locked { .. }) => {
                let what = format!("{error}; stop it, or configure another data directory");
                return Err(StartError { what, source: None });
            }
            Err(error) => return Err(StartError::because(format!("locking {}", dir.display()), error)),
        }
    }
}

/// Tells the handle's users, and the metrics, who leads: the leader that Raft names, while anything confirms it. Raft goes
/// on naming one that is dead, or that no quorum answers, until there is another; and that takes the quorum which may be
/// gone. After two election timeouts without a word this member says what it knows: nobody.
async fn follow_leadership(inner: Arc<Inner>, leadership: watch::Sender<Leadership>) {
    let longest = inner.config.election.1;
    let mut role = inner.consensus.role();
    let mut named = *role.borrow();
    let mut since = Instant::now();
    loop {
        let now = *role.borrow_and_update();
        if named != now {
            (named, since) = (now, Instant::now());
        }
        let known = since.elapsed();
        let silence = inner.consensus.silence().map_or(known, |silence| silence.min(known));
        let leader = now.leader.filter(|_| silence < 2 * longest);
        let before = *leadership.borrow();
        if (now.term, leader) != (before.term, before.leader) {
            inner.metrics.has_leader.set(i64::from(leader.is_some()));
            inner.metrics.is_leader.set(i64::from(leader == Some(inner.id)));
            match leader {
                Some(leader) if before.leader != Some(leader) => {
                    inner.metrics.leader_changes.inc();
                    tracing::info!(
                        member = format!("{:016x}", inner.id),
                        leader = format!("{leader:016x}"),
                        term = now.term,
                        "the store has a leader"
                    );
                }
                None if before.leader.is_some() => {
                    let member = format!("{:016x}", inner.id);
                    tracing::warn!(member, term = now.term, "the store has no leader that is known here");
                }
                Some(_) | None => {}
            }
            leadership.send_replace(Leadership { term: now.term, leader });
        }
        tokio::select! {
            changed = role.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(longest / 2) => {}
        }
    }
}

/// A member that cannot go on answers nothing any more.
async fn follow_failure(inner: Arc<Inner>) {
    let mut failure = inner.consensus.failure();
    if let Ok(sentence) = failure.wait_for(Option::is_some).await {
        tracing::error!(error = sentence.as_deref().unwrap_or_default(), "the member has failed");
        inner.stopped.store(true, Ordering::Release);
        inner.pump.stop();
    }
}

/// Announces the name and the client URLs of this member, until that is applied.
async fn publish(inner: Arc<Inner>) {
    let published = || {
        let members = inner.read(quorate_state::members).unwrap_or_default();
        members.into_iter().any(|member| {
            member.id == inner.id
                && member.name == inner.config.name
                && member.client_urls == inner.config.client_urls
        })
    };
    loop {
        if inner.read_barrier(PUBLISH).await.is_ok() && published() {
            return;
        }
        let body = Body::PublishMember(PublishMember {
            member: inner.id,
            name: inner.config.name.clone(),
            client_urls: inner.config.client_urls.clone(),
        });
        let command = Command::new(body);
        if let Err(error) = inner.propose(command, PUBLISH).await {
            tracing::debug!(error = %error, "announcing this member is tried again");
            tokio::time::sleep(PUBLISH_AGAIN).await;
        }
    }
}
