//! A simulation of whole clusters: three nodes' `decide` against a model of the store (revisions, guards, leases that expire,
//! loss of the quorum) and of PostgreSQL (timelines, WAL as a list of records, standbys that confirm). Faults come from a
//! seed; safety is checked at every event; then everything heals and the cluster must come back by itself.
//!
//! What the model keeps from the real thing: an observation is older than the actions that follow from it; an action may take effect
//! although its answer is lost; `pg_rewind` sees timeline numbers only and is blind to two histories under one; the fence has a thread of
//! its own, armed by what renewals confirmed; leases are re-armed when the quorum returns.
//! What it leaves out: pauses of PostgreSQL itself in asynchronous mode (they need the guard process), and clocks that drift.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_ha::cluster::*;
use quorate_ha::facts::*;
use quorate_ha::*;
use serde_json::json;

use crate::scripts::{key, policy};

const NAMES: [&str; 5] = ["n1", "n2", "n3", "n4", "n5"];
const STEP: u64 = 20;
const TTL: u64 = 5_000;
/// How long a start waits until PostgreSQL answers: operators raise it, and nothing may depend on it.
const PG_CTL_TIMEOUT: u64 = 600_000;
/// Schedules within which a broken rule has to be noticed. Some need a pause between two certain actions.
const NOTICED_WITHIN: u64 = 6_000;

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// One WAL record: the timeline it was written on, and which it is.
type Record = (u32, u64);

#[derive(Clone)]
struct Data {
    state: ControlState,
    timeline: u32,
    wal: Vec<Record>,
    /// Where it and its ancestors left their parents.
    forks: Vec<Fork>,
    standby_signal: bool,
    was_primary_on: Option<u32>,
    half_rewound: bool,
    /// The timeline and the length of the WAL from which on it is consistent: until then it is starting, whatever it has.
    consistent: (u32, usize),
    /// PostgreSQL took the end of an older base backup for the end of this copy: it does not say that it is one.
    unsaid: bool,
}

impl Data {
    /// A copy that has not been replayed far enough.
    fn incomplete(&self) -> bool {
        self.wal.len() < self.consistent.1
    }
}

#[derive(Clone, PartialEq)]
enum Server {
    Stopped,
    Primary { since: u64, checkpoint_at: u64 },
    Standby,
}

struct Node {
    up: bool,
    cut: bool,
    /// The agent and the voter stand still (SIGSTOP), PostgreSQL does not.
    frozen_until: u64,
    /// When the store's leader heard it last.
    heard: u64,
    data: Option<Data>,
    server: Server,
    /// The lock's create revision that it was promoted or started under.
    epoch: i64,
    upstream: Option<usize>,
    /// Whom it asked last.
    asked: Option<usize>,
    /// When its server was started last.
    started: u64,
    /// Records that lie here and are not replayed yet in this life of the server.
    unread: usize,
    /// Of a mutation: it streams from there although nobody may know.
    ghost: Option<usize>,
    names: String,
    effective: Option<SyncEffective>,
    /// Commits not acknowledged yet, as lengths of the WAL.
    pending: Vec<(usize, u64)>,
    // The agent.
    next_tick: u64,
    due: Option<(u64, Decision)>,
    operation: OperationFacts,
    ends: Option<(u64, Action)>,
    /// A start whose PostgreSQL runs and is not consistent yet: how long it is waited for.
    waits: Option<u64>,
    member_lease: Option<LeaseFacts>,
    primary_lease: Option<LeaseFacts>,
    armed: Option<u64>,
    watching_since: i64,
    absent_since: Option<(i64, u64)>,
    silent_since: Option<u64>,
    remembered: BTreeMap<String, MemberRecord>,
}

#[derive(Clone)]
struct Lease {
    expires: u64,
}

/// A rule that is broken on purpose, to see that the checks notice.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mutation {
    None,
    /// Fencing does nothing.
    NoFence,
    /// Leases expire in the store long before their holders count with it.
    EarlyExpiry,
    /// A new synchronous set counts alone before it has caught up.
    NoCatchUp,
    /// The first set of a promoted node counts alone at once.
    GrantNotJoint,
    /// `synchronous_standby_names` changes before the store names the new set.
    GucFirst,
    /// The store drops the old set before `synchronous_standby_names` has changed.
    StoreFirst,
    /// A standby promises while its WAL receiver still runs.
    PromiseBeforeStop,
    /// A promiser streams from the suspect again after a restart.
    StreamAfterRestart,
    /// A primary without the store empties its set.
    SelfRelease,
    /// One promise is enough.
    AnyPromise,
    /// A standby that was started publishes how far it has replayed for all that it has.
    PositionWhileReplaying,
    /// A promoted node says that it is primary before its timeline stands in the history.
    HistoryLater,
    /// `pg_rewind` is left out; what lies here is started as if it had run.
    SkippedRewind,
    /// Nobody looks at the lock again when a promotion begins.
    PromoteUnchecked,
    /// A lease is counted from when its renewal was answered.
    CountedFromAnswer,
    /// Deadlines are kept on a clock that somebody may set.
    WallClock,
    /// A node whose disk came back empty takes the place that it had.
    EmptyNode,
    /// What was rewound, and cannot be completed any more, is rewound again.
    RewoundTwice,
}

/// What a cluster is like.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Shape {
    nodes: usize,
    mode: SynchronousMode,
    confirm: usize,
}

impl Shape {
    fn of(seed: u64) -> Shape {
        let mode = [SynchronousMode::Off, SynchronousMode::On, SynchronousMode::Quorum][seed as usize % 3];
        match seed % 5 {
            0 => Shape { nodes: 5, mode, confirm: 2 },
            1 => Shape { nodes: 5, mode, confirm: 1 },
            _ => Shape { nodes: 3, mode, confirm: 1 },
        }
    }
}

/// What happened, so that a run in which nothing did is noticed.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    promotions: u32,
    suspicions: u32,
    cleared: u32,
    revoked: u32,
    lost_disks: u32,
    operated: u32,
    incompletable: u32,
}

impl Counts {
    /// For `cargo xtask sim`, which adds up. What is suspected was crashed, cut off or frozen.
    #[expect(clippy::print_stdout, reason = "for the table of a long run")]
    fn tell(self, runs: u64) {
        let Counts { promotions, suspicions, cleared, revoked, lost_disks, operated, incompletable } = self;
        println!(
            "tally: runs {runs}\ntally: fault suspected {suspicions}\ntally: fault disk lost {lost_disks}\n\
             tally: reached promotions {promotions}"
        );
        println!("tally: reached suspicions cleared {cleared}\ntally: reached locks taken away {revoked}");
        println!("tally: reached clusters that need an operator {operated}");
        println!("tally: reached copies that cannot be completed {incompletable}");
    }
}

struct World {
    mutation: Mutation,
    seed: u64,
    rng: Rng,
    now: u64,
    shape: Shape,
    sync_mode: bool,
    nodes: Vec<Node>,
    // The store.
    revision: i64,
    view: ClusterView,
    lock_deleted_at: i64,
    leases: BTreeMap<i64, Lease>,
    next_lease: i64,
    electing_until: u64,
    available: bool,
    // What was promised.
    next_record: u64,
    acknowledged: BTreeSet<u64>,
    last_epoch: i64,
    promoted: Option<usize>,
    /// A disk was lost already: a second one may take the last copy of a commit along.
    lost_disk: bool,
    /// Faults may come, also right after an action that matters.
    stormy: bool,
    counts: Counts,
    log: Vec<String>,
}

fn at(ms: u64) -> Moment {
    Moment(Duration::from_millis(1_000_000 + ms))
}

fn ms(moment: Moment) -> u64 {
    moment.0.as_millis() as u64 - 1_000_000
}

impl World {
    fn new(seed: u64, shape: Shape, mutation: Mutation) -> World {
        let sync_mode = shape.mode.binds();
        let node = || Node {
            up: true,
            cut: false,
            frozen_until: 0,
            heard: 0,
            data: None,
            server: Server::Stopped,
            epoch: 0,
            upstream: None,
            asked: None,
            started: 0,
            unread: 0,
            ghost: None,
            names: String::new(),
            effective: None,
            pending: Vec::new(),
            next_tick: 0,
            due: None,
            operation: OperationFacts::Idle,
            ends: None,
            waits: None,
            member_lease: None,
            primary_lease: None,
            armed: None,
            watching_since: 1,
            absent_since: None,
            silent_since: None,
            remembered: BTreeMap::new(),
        };
        World {
            mutation,
            seed,
            rng: Rng(seed),
            now: 0,
            shape,
            sync_mode,
            nodes: (0..shape.nodes).map(|_| node()).collect(),
            revision: 1,
            view: ClusterView {
                revision: Revision(1),
                initialize: None,
                lock: Lock::Absent { since_revision: Revision(0), since: at(0) },
                members: BTreeMap::new(),
                config: None,
                sync: None,
                history: None,
                failover: None,
                status: None,
                suspicion: None,
            },
            lock_deleted_at: 0,
            leases: BTreeMap::new(),
            next_lease: 100,
            electing_until: 0,
            available: true,
            next_record: 1,
            acknowledged: BTreeSet::new(),
            last_epoch: 0,
            promoted: None,
            lost_disk: false,
            stormy: false,
            counts: Counts::default(),
            log: Vec::new(),
        }
    }

    fn fail(&self, what: &str) -> ! {
        let tail = self.log.len().saturating_sub(120);
        panic!(
            "{what}\nat {} ms, seed {}, {:?}\n{}",
            self.now,
            self.seed,
            self.shape,
            self.log[tail..].join("\n")
        );
    }

    fn note(&mut self, node: usize, what: String) {
        let line = format!("{:>6} {} {what}", self.now, NAMES[node]);
        self.log.push(line);
    }

    fn connected(&self, a: usize, b: usize) -> bool {
        let (a, b) = (&self.nodes[a], &self.nodes[b]);
        a.up && b.up && !a.cut && !b.cut
    }

    /// Voters that talk to each other.
    fn hearing(&self) -> usize {
        self.nodes.iter().filter(|n| n.up && !n.cut && self.now >= n.frozen_until).count()
    }

    fn quorum(&self) -> bool {
        self.now >= self.electing_until && self.hearing() * 2 > self.nodes.len()
    }

    fn store(&self, node: usize) -> bool {
        self.quorum() && self.nodes[node].up && !self.nodes[node].cut
    }

    fn policy(&self, node: usize) -> Policy {
        policy(
            NAMES[node],
            &json!({
                "ttl": 5, "loop_wait": 1, "retry_timeout": 1, "primary_start_timeout": 30,
                "synchronous_node_count": self.shape.confirm,
                "synchronous_mode": match self.shape.mode {
                    SynchronousMode::Off => "off",
                    SynchronousMode::On => "on",
                    SynchronousMode::Quorum => "quorum",
                },
            }),
        )
    }

    fn wake_all(&mut self) {
        for node in 0..self.nodes.len() {
            let soon = self.now + self.rng.below(40);
            self.nodes[node].next_tick = self.nodes[node].next_tick.min(soon);
        }
    }

    // --- the store --------------------------------------------------------------------------------------------------

    fn changed(&mut self) -> i64 {
        self.revision += 1;
        self.view.revision = Revision(self.revision);
        self.wake_all();
        self.revision
    }

    fn expire(&mut self) {
        let available = self.quorum();
        if available && !self.available {
            for lease in self.leases.values_mut() {
                lease.expires = self.now + TTL;
            }
        }
        self.available = available;
        if !available {
            return;
        }
        let now = self.now;
        let early = if self.mutation == Mutation::EarlyExpiry { TTL / 2 } else { 0 };
        let dead: Vec<i64> =
            self.leases.iter().filter(|(_, l)| l.expires <= now + early).map(|(id, _)| *id).collect();
        for id in dead {
            self.revoke(id);
        }
    }

    fn revoke(&mut self, id: i64) {
        self.leases.remove(&id);
        let lease = Some(LeaseId(id));
        if self.view.held().is_some_and(|held| held.lease == LeaseId(id)) {
            self.delete_lock();
        }
        let gone: Vec<String> =
            self.view.members.iter().filter(|(_, m)| m.lease == lease).map(|(n, _)| n.clone()).collect();
        for name in gone {
            self.view.members.remove(&name);
            self.changed();
        }
        if self.view.initialize.as_ref().is_some_and(|key| key.lease == lease) {
            self.view.initialize = None;
            self.changed();
        }
    }

    fn delete_lock(&mut self) {
        let revision = self.changed();
        self.lock_deleted_at = revision;
        self.view.lock = Lock::Absent { since_revision: Revision(revision), since: at(self.now) };
    }

    fn grant(&mut self) -> LeaseFacts {
        self.next_lease += 1;
        self.leases.insert(self.next_lease, Lease { expires: self.now + TTL });
        LeaseFacts { id: LeaseId(self.next_lease), valid_until: at(self.now + TTL) }
    }

    fn renew(&mut self, id: LeaseId) -> Option<LeaseFacts> {
        let expires = self.now + TTL;
        self.leases.get_mut(&id.0).map(|lease| {
            lease.expires = expires;
            LeaseFacts { id, valid_until: at(expires) }
        })
    }

    fn suspicion(&self) -> KeyGuard {
        KeyGuard::of(self.view.suspicion.as_ref().map(|suspected| &suspected.key))
    }

    /// The last thing before PostgreSQL may write.
    fn check_lock(&self, guard: &LockGuard) -> Result<(), &'static str> {
        let passes = self.mutation == Mutation::PromoteUnchecked || self.guarded(guard);
        if passes { Ok(()) } else { Err("compare failed") }
    }

    fn guarded(&self, guard: &LockGuard) -> bool {
        self.view.held().is_some_and(|held| {
            held.create_revision == guard.create_revision() && held.lease == guard.lease()
        })
    }

    // --- PostgreSQL -------------------------------------------------------------------------------------------------

    fn streams(&self, standby: usize) -> Option<usize> {
        let node = &self.nodes[standby];
        let upstream = node.upstream.or(node.ghost)?;
        if node.server != Server::Standby
            || node.unread > 0
            || upstream == standby
            || !self.connected(standby, upstream)
        {
            return None;
        }
        let source = &self.nodes[upstream];
        if source.server == Server::Stopped {
            return None;
        }
        let (mine, theirs) = (&node.data.as_ref()?.wal, &source.data.as_ref()?.wal);
        theirs.starts_with(mine).then_some(upstream)
    }

    fn work(&mut self) {
        for node in &mut self.nodes {
            node.unread = node.unread.saturating_sub(self.rng.below(2) as usize);
        }
        for node in 0..self.nodes.len() {
            if let Some(upstream) = self.streams(node)
                && !self.rng.one_in(4)
            {
                let (wal, timeline, mut forks) = {
                    let source = self.nodes[upstream].data.as_ref().unwrap();
                    (source.wal.clone(), source.timeline, source.forks.clone())
                };
                let data = self.nodes[node].data.as_mut().unwrap();
                let upto = wal.len().min(data.wal.len() + 1 + self.rng.below(3) as usize);
                let (needed, until) = data.consistent;
                let ended = forks.iter().find(|fork| fork.parent.0 == needed).map(|fork| fork.at.0 as usize);
                if data.incomplete() && ended.is_some_and(|end| end < until && end < upto) {
                    // "unexpected timeline ID, before reaching minimum recovery point"
                    self.note(node, "--- PostgreSQL panics".to_owned());
                    self.kill(node);
                    let outcome = Outcome::Failed { why: "it panicked".to_owned() };
                    let kind = OperationKind::StartAsStandby;
                    self.nodes[node].operation = OperationFacts::Finished { kind, at: at(self.now), outcome };
                    (self.nodes[node].ends, self.nodes[node].waits) = (None, None);
                    self.nodes[node].next_tick = self.now;
                    continue;
                }
                data.wal = wal[..upto].to_vec();
                data.timeline = if upto == wal.len() { timeline } else { data.wal.last().map_or(1, |r| r.0) };
                forks.retain(|fork| fork.parent.0 < data.timeline);
                data.forks = forks;
            }
        }
        for node in 0..self.nodes.len() {
            let Server::Primary { .. } = self.nodes[node].server else { continue };
            if self.rng.one_in(3) {
                let record = self.next_record;
                self.next_record += 1;
                let data = self.nodes[node].data.as_mut().unwrap();
                data.wal.push((data.timeline, record));
                let length = data.wal.len();
                self.nodes[node].pending.push((length, record));
            }
            self.acknowledge(node);
        }
    }

    fn acknowledge(&mut self, node: usize) {
        let (confirm, members) = parse(&self.nodes[node].names);
        let flushed: Vec<usize> = (0..self.nodes.len())
            .filter(|s| members.contains(NAMES[*s]) && self.streams(*s) == Some(node))
            .map(|s| self.nodes[s].data.as_ref().unwrap().wal.len())
            .collect();
        let (done, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.nodes[node].pending)
            .into_iter()
            .partition(|(length, _)| flushed.iter().filter(|f| *f >= length).count() >= confirm);
        self.nodes[node].pending = rest;
        for (_, record) in done {
            let epoch = self.nodes[node].epoch;
            if epoch == 0 {
                continue; // During the bootstrap nobody is connected.
            }
            if epoch < self.last_epoch {
                self.fail(&format!(
                    "S1: {} of lock {epoch} acknowledged after lock {}",
                    NAMES[node], self.last_epoch
                ));
            }
            self.last_epoch = epoch;
            if let Some(new) = self.promoted.filter(|new| self.nodes[*new].epoch > epoch) {
                let theirs = &self.nodes[new].data.as_ref().unwrap().wal;
                if self.sync_mode && !theirs.iter().any(|(_, known)| *known == record) {
                    self.fail(&format!("S1: {} acknowledged what {} lacks", NAMES[node], NAMES[new]));
                }
            }
            let promised = confirm > 0
                || self.view.sync.as_ref().is_some_and(|s| s.value.leader.as_deref() == Some(NAMES[node]));
            if self.sync_mode && promised {
                self.acknowledged.insert(record);
            }
        }
    }

    fn became_primary(&mut self, node: usize) {
        // An agent that stood still between the check of its lock and the promotion comes late, when the lock may be another's. It is
        // no successor to anybody; whatever it acknowledges is a violation of S1, and looked for there.
        let epoch = self.nodes[node].epoch;
        if self.view.held().is_none_or(|held| held.create_revision.0 != epoch) {
            return;
        }
        self.promoted = Some(node);
        let wal: BTreeSet<u64> = self.nodes[node].data.as_ref().unwrap().wal.iter().map(|r| r.1).collect();
        let lost: Vec<u64> = self.acknowledged.difference(&wal).copied().collect();
        if !lost.is_empty() {
            self.fail(&format!(
                "S3: {} became primary without {} acknowledged commits",
                NAMES[node],
                lost.len()
            ));
        }
    }

    fn kill(&mut self, node: usize) {
        let n = &mut self.nodes[node];
        n.server = Server::Stopped;
        n.unread = 0;
        n.pending.clear();
        n.effective = None;
    }

    // --- the agent --------------------------------------------------------------------------------------------------

    fn observe(&mut self, node: usize) -> Observation {
        let now = self.now;
        let store = if self.store(node) {
            let n = &mut self.nodes[node];
            n.silent_since = None;
            let mut view = self.view.clone();
            match &view.lock {
                Lock::Held(_) => n.absent_since = None,
                Lock::Absent { .. } => {
                    let revision = self.lock_deleted_at.max(if self.lock_deleted_at > 0 {
                        n.watching_since.min(self.revision)
                    } else {
                        0
                    });
                    let revision = if self.lock_deleted_at >= n.watching_since {
                        self.lock_deleted_at
                    } else {
                        revision
                    };
                    let (known, since) = *n.absent_since.get_or_insert((revision, now));
                    let revision = known.max(revision);
                    n.absent_since = Some((revision, since));
                    view.lock = Lock::Absent { since_revision: Revision(revision), since: at(since) };
                }
            }
            for (name, record) in &view.members {
                n.remembered.insert(name.clone(), record.value.clone());
            }
            StoreFacts::Available(view)
        } else {
            let since = *self.nodes[node].silent_since.get_or_insert(now);
            StoreFacts::Unavailable { since: at(since) }
        };
        let replicas = (0..self.nodes.len())
            .filter(|s| self.streams(*s) == Some(node))
            .map(|s| {
                let flushed = Lsn(self.nodes[s].data.as_ref().unwrap().wal.len() as u64);
                ReplicaFacts {
                    name: NAMES[s].to_owned(),
                    streaming: true,
                    flushed,
                    replayed: flushed,
                    sync_state: SyncState::Async,
                }
            })
            .collect();
        let n = &self.nodes[node];
        let process = match (&n.server, &n.data) {
            (Server::Stopped, _) | (_, None) => Process::Stopped,
            (Server::Standby, Some(data)) if data.incomplete() => {
                let upstream = n.upstream.map(endpoint);
                Process::Starting { since: at(n.started), as_standby: true, upstream }
            }
            (server, Some(data)) => {
                let end = Lsn((data.wal.len() - n.unread.min(data.wal.len())) as u64);
                let role = match server {
                    Server::Primary { since, checkpoint_at } => Role::Primary(PrimaryFacts {
                        written: end,
                        oldest: None,
                        since: at(*since),
                        checkpointed: now >= *checkpoint_at,
                        replicas,
                        synchronous_standby_names: n.names.clone(),
                        sync_effective: n.effective.clone(),
                        forked: data.forks.clone(),
                    }),
                    Server::Standby | Server::Stopped => Role::Standby(StandbyFacts {
                        received: end,
                        replayed: end,
                        receiver: match (self.streams(node), n.upstream) {
                            (Some(from), _) => Receiver::Streaming { from: endpoint(from) },
                            (None, Some(_)) => Receiver::Waiting,
                            (None, None) => Receiver::Gone,
                        },
                        upstream: n.upstream.map(endpoint),
                        complete: n.unread == 0 || self.mutation == Mutation::PositionWhileReplaying,
                        replay_paused: false,
                    }),
                };
                Process::Running(Running {
                    timeline: TimelineId(data.timeline),
                    role,
                    server_version: 150_018,
                    postmaster_start_time: String::new(),
                    pending_restart: false,
                    slots: Vec::new(),
                })
            }
        };
        let data_directory = n.data.as_ref().map_or(DataDirectory::Missing, |data| {
            DataDirectory::Initialised(Initialised {
                system_identifier: SystemId(7_710_395_948_784_291_904),
                state: data.state,
                timeline: TimelineId(data.timeline),
                redo: Lsn(0),
                wal_end: (data.state == ControlState::ShutDown).then_some(Lsn(data.wal.len() as u64)),
                consistent_from: (data.consistent.1 > 0 && data.standby_signal).then_some(Position {
                    timeline: TimelineId(data.consistent.0),
                    lsn: Lsn(data.consistent.1 as u64),
                }),
                incomplete: data.incomplete() && !data.unsaid,
                asked: n.asked.map(|asked| NAMES[asked].to_owned()),
                standby_signal: data.standby_signal,
                was_primary_on: data.was_primary_on.map(TimelineId),
                rewind_unfinished: data.half_rewound,
            })
        });
        let mut policy = self.policy(node);
        policy.use_slots = false;
        Observation {
            now: at(now),
            policy,
            instance: InstanceFacts { data_directory, process },
            operation: n.operation.clone(),
            store,
            remembered: n.remembered.clone(),
            missing: BTreeMap::new(),
            member_lease: n.member_lease,
            primary_lease: n.primary_lease,
            scheduled_in: None,
            voters: self.voters(node),
        }
    }

    fn voters(&self, node: usize) -> VoterFacts {
        let mut voters = VoterFacts::default();
        if self.store(node) {
            for (other, n) in self.nodes.iter().enumerate().filter(|(other, _)| *other != node) {
                let silent = self.now.saturating_sub(n.heard);
                if silent > STEP {
                    voters.silent.insert(NAMES[other].to_owned(), Duration::from_millis(silent));
                }
                if !n.up {
                    voters.refusing.insert(NAMES[other].to_owned());
                }
            }
        }
        voters
    }

    fn may_write(&self, node: usize) -> bool {
        let n = &self.nodes[node];
        matches!(n.server, Server::Primary { .. })
            || matches!(n.ends, Some((_, Action::Promote { .. } | Action::StartAsPrimary { .. })))
    }

    /// Everything at this moment: the fence first, as its own thread would.
    fn agent(&mut self, node: usize) {
        if !self.nodes[node].up || self.now < self.nodes[node].frozen_until {
            return;
        }
        if let Some(deadline) = self.nodes[node].armed
            && self.now >= deadline
            && self.may_write(node)
        {
            self.note(node, "fence thread".to_owned());
            self.fence(node);
        }
        if self.nodes[node].ends.as_ref().is_some_and(|(at, _)| *at <= self.now) {
            let (_, action) = self.nodes[node].ends.take().unwrap();
            self.finish(node, &action);
        }
        self.wait_for_start(node);
        if self.nodes[node].due.as_ref().is_some_and(|(at, _)| *at <= self.now) {
            let (_, mut decision) = self.nodes[node].due.take().unwrap();
            let mut actions = std::mem::take(&mut decision.actions).into_iter();
            while let Some(action) = actions.next() {
                let text = crate::print::action(&action);
                let matters = matters(&action);
                let result = self.perform(node, action);
                if matters && self.stormy && self.rng.one_in(10) {
                    let victim = self.rng.below(self.nodes.len() as u64) as usize;
                    let victim = if self.rng.one_in(2) { node } else { victim };
                    self.strike(victim);
                }
                let quiet = text.starts_with("renew")
                    || text.starts_with("publish")
                    || text.starts_with("write /status");
                if !quiet || result.is_err() {
                    self.note(node, format!("{text}: {result:?}"));
                }
                if result.is_err() {
                    let soon = self.now + 200;
                    self.nodes[node].next_tick = self.nodes[node].next_tick.min(soon);
                    break;
                }
                let n = &mut self.nodes[node];
                if !n.up {
                    break;
                }
                // It stands still between two actions, and goes on with the next one as if nothing had been.
                if self.now < n.frozen_until {
                    decision.actions = actions.collect();
                    n.due = Some((n.frozen_until, decision));
                    break;
                }
            }
        }
        if self.nodes[node].due.is_none() && self.nodes[node].next_tick <= self.now {
            let mut observation = self.observe(node);
            if self.mutation == Mutation::AnyPromise
                && let StoreFacts::Available(ClusterView { sync: Some(sync), .. }) = &mut observation.store
                && sync.value.leader.as_deref() != Some(NAMES[node])
            {
                for entry in &mut sync.value.entries {
                    entry.confirm = entry.confirm.max(entry.members.len());
                }
            }
            if self.mutation == Mutation::SelfRelease
                && matches!(observation.store, StoreFacts::Unavailable { .. })
                && matches!(self.nodes[node].server, Server::Primary { .. })
            {
                self.nodes[node].names = String::new();
            }
            let mut decision = decide(&observation);
            if self.mutation == Mutation::HistoryLater
                && matches!(self.nodes[node].server, Server::Primary { since, .. } if self.now < since + TTL)
            {
                decision.actions.retain(|action| !matches!(action, Action::WriteHistory { .. }));
            }
            if self.mutation == Mutation::RewoundTwice
                && self.nodes[node].data.as_ref().is_some_and(Data::incomplete)
            {
                for action in &mut decision.actions {
                    if let Action::Clone { from, .. } = action {
                        *action = Action::Rewind { from: from.clone() };
                    }
                }
            }
            if decision.reason.fatal {
                self.fail(&format!("{} ends: {}", NAMES[node], decision.reason));
            }
            let line = format!("says \"{}\"", decision.reason);
            let mark = NAMES[node];
            let said = self.log.iter().rev().find(|l| l.contains(mark) && l.contains("says"));
            if said.is_none_or(|said| !said.ends_with(&line)) {
                self.note(node, line);
            }
            let delay = if self.rng.one_in(60) { self.rng.below(1500) } else { self.rng.below(50) };
            let wake = decision.wake.unwrap_or(Duration::from_secs(1)).as_millis() as u64;
            self.nodes[node].next_tick = self.now + delay + wake.max(STEP);
            self.nodes[node].due = Some((self.now + delay, decision));
        }
    }

    fn fence(&mut self, node: usize) {
        if self.mutation == Mutation::NoFence {
            return;
        }
        self.kill(node);
        let n = &mut self.nodes[node];
        if n.ends.take().is_some() || n.waits.take().is_some() {
            n.operation = match &n.operation {
                OperationFacts::Running { kind, .. } => OperationFacts::Finished {
                    kind: *kind,
                    at: at(self.now),
                    outcome: Outcome::Failed { why: "aborted by the fence".to_owned() },
                },
                other => other.clone(),
            };
        }
        if let Some(data) = &mut n.data {
            data.standby_signal = true;
        }
        n.armed = None;
        n.next_tick = self.now;
    }

    fn begin(&mut self, node: usize, action: Action, longest: u64) -> Result<(), &'static str> {
        let started = matches!(action, Action::Clone { .. }) && self.nodes[node].waits.take().is_some();
        if matches!(self.nodes[node].operation, OperationFacts::Running { .. }) && !started {
            return Err("the slot is taken");
        }
        if let Action::Promote { guard, .. } | Action::StartAsPrimary { guard, .. } = &action
            && !self.guarded(guard)
        {
            self.fail(&format!("S6: {} begins to be primary without the lock", NAMES[node]));
        }
        let kind = action.operation().expect("a long one");
        self.nodes[node].operation = OperationFacts::Running { kind, started: at(self.now) };
        let end = self.now + 50 + self.rng.below(longest);
        self.nodes[node].ends = Some((end, action));
        self.nodes[node].next_tick = self.now;
        Ok(())
    }

    fn arm(&mut self, node: usize) {
        let fence_at =
            self.nodes[node].primary_lease.map(|l| budget::fence_at(&self.policy(node), l.valid_until));
        self.nodes[node].armed = fence_at.map(ms);
    }

    fn perform(&mut self, node: usize, action: Action) -> Result<(), &'static str> {
        let name = NAMES[node].to_owned();
        let talks = match &action {
            Action::Fence
            | Action::Follow { .. }
            | Action::TryStreaming
            | Action::StopReceiver
            | Action::SetSynchronousStandbyNames { .. }
            | Action::ConfirmSyncEffective { .. }
            | Action::SetSlots { .. }
            | Action::Checkpoint
            | Action::MoveStoreLeadership { .. }
            | Action::Bootstrap
            | Action::Clone { .. }
            | Action::Rewind { .. }
            | Action::StartAsStandby { .. }
            | Action::Stop { .. }
            | Action::Restart { .. } => false,
            Action::GrantMemberLease { .. }
            | Action::RenewMemberLease { .. }
            | Action::PublishMember { .. }
            | Action::AcquireLock { .. }
            | Action::RenewPrimaryLease { .. }
            | Action::ReleaseLock { .. }
            | Action::ClaimInitialize { .. }
            | Action::WriteInitialize { .. }
            | Action::AbandonInitialize { .. }
            | Action::WriteConfig { .. }
            | Action::WriteSync { .. }
            | Action::WriteHistory { .. }
            | Action::WriteStatus { .. }
            | Action::NameCandidate { .. }
            | Action::ClearFailoverRequest { .. }
            | Action::Suspect { .. }
            | Action::ClearSuspicion { .. }
            | Action::RevokeLock { .. }
            | Action::StartAsPrimary { .. }
            | Action::Promote { .. } => true,
        };
        if talks && !self.store(node) {
            return Err("the store does not answer");
        }
        // The answer may be lost although it took effect.
        let lost = talks && self.rng.one_in(200);
        match action {
            Action::GrantMemberLease { .. } => {
                let lease = self.grant();
                if !lost {
                    self.nodes[node].member_lease = Some(lease);
                }
            }
            Action::RenewMemberLease { lease, .. } => {
                let renewed = self.renew(lease);
                if !lost {
                    self.nodes[node].member_lease = renewed;
                }
            }
            Action::PublishMember { lease, record } => {
                if !self.leases.contains_key(&lease.0) {
                    return Err("lease not found");
                }
                let before = self.view.members.get(&name).map(|key| key.value.clone());
                let positions = |r: &MemberRecord| MemberRecord {
                    xlog_location: None,
                    receive_lsn: None,
                    replay_lsn: None,
                    ..r.clone()
                };
                if before.as_ref().map(positions) == Some(positions(&record)) {
                    self.revision += 1;
                    self.view.revision = Revision(self.revision);
                } else {
                    self.changed();
                }
                let written = key(record, self.revision, Some(lease.0));
                self.view.members.insert(name, written);
            }
            Action::AcquireLock { sync, .. } => {
                let lease = self.grant();
                if self.view.held().is_some() || KeyGuard::of(self.view.sync.as_ref()) != sync {
                    self.revoke(lease.id.0);
                    return Err("compare failed");
                }
                let create_revision = Revision(self.changed());
                self.view.lock = Lock::Held(Held { holder: name, lease: lease.id, create_revision });
                if !lost {
                    self.nodes[node].primary_lease = Some(lease);
                    if self.nodes[node].epoch == 0
                        || matches!(self.nodes[node].server, Server::Primary { .. })
                    {
                        self.nodes[node].epoch = create_revision.0;
                    }
                    if self.may_write(node) {
                        self.arm(node);
                    }
                }
            }
            Action::RenewPrimaryLease { lock, .. } => {
                let mut renewed = self.renew(lock.lease);
                if self.mutation == Mutation::CountedFromAnswer
                    && let Some(lease) = &mut renewed
                {
                    lease.valid_until.0 += Duration::from_millis(self.rng.below(TTL / 2));
                }
                if lost {
                    return Err("the answer was lost");
                }
                self.nodes[node].primary_lease = renewed;
                if renewed.is_none() {
                    return Err("unknown lease");
                }
                if self.may_write(node) {
                    self.arm(node);
                }
            }
            Action::ReleaseLock { guard, status } => {
                if matches!(self.nodes[node].server, Server::Primary { .. }) {
                    self.fail("released the lock while it may write");
                }
                let held = self.guarded(&guard);
                self.nodes[node].primary_lease = None;
                if !held {
                    return Err("compare failed");
                }
                // One transaction: one revision.
                self.delete_lock();
                if let Some(status) = status {
                    self.view.status = Some(key(status, self.revision, None));
                }
                self.revoke(guard.lease().0);
            }
            Action::ClaimInitialize { lease } => {
                if self.view.initialize.is_some() || !self.leases.contains_key(&lease.0) {
                    return Err("compare failed");
                }
                let revision = self.changed();
                self.view.initialize = Some(key(Initialize::Claimed, revision, Some(lease.0)));
            }
            Action::WriteInitialize { guard, system_identifier } => {
                if KeyGuard::of(self.view.initialize.as_ref()) != guard {
                    return Err("compare failed");
                }
                let revision = self.changed();
                self.view.initialize = Some(key(Initialize::Done(system_identifier), revision, None));
            }
            Action::AbandonInitialize { .. } => {
                self.view.initialize = None;
                self.changed();
            }
            Action::WriteConfig { guard, document } => {
                if KeyGuard::of(self.view.config.as_ref()) != guard {
                    return Err("compare failed");
                }
                let revision = self.changed();
                self.view.config = Some(key(document, revision, None));
            }
            Action::WriteSync { guard, sync, mut document } => {
                let primary = matches!(self.nodes[node].server, Server::Primary { .. });
                if let Some(entries) = document.as_mut().map(|document| &mut document.entries) {
                    let early = match self.mutation {
                        Mutation::GrantNotJoint => !primary,
                        Mutation::StoreFirst => primary,
                        _ => false,
                    };
                    if early {
                        entries.drain(..entries.len().saturating_sub(1));
                    }
                    if self.mutation == Mutation::GucFirst && primary && entries.len() > 1 {
                        self.nodes[node].names = entries.last().map(sync::names).unwrap_or_default();
                        if self.rng.one_in(2) {
                            return Err("the answer was lost");
                        }
                    }
                }
                if !self.guarded(&guard) || KeyGuard::of(self.view.sync.as_ref()) != sync {
                    return Err("compare failed");
                }
                let revision = self.changed();
                self.view.sync = document.map(|document| key(document, revision, None));
            }
            Action::WriteHistory { guard, history, document } => {
                if !self.guarded(&guard) || KeyGuard::of(self.view.history.as_ref()) != history {
                    return Err("compare failed");
                }
                let before = self.view.history.as_ref().map_or(TimelineId(1), |key| key.value.current());
                if document.current() <= before {
                    self.fail(&format!("S5: history goes from timeline {before} to {}", document.current()));
                }
                let revision = self.changed();
                self.view.history = Some(key(document, revision, None));
                self.counts.promotions += 1;
            }
            Action::WriteStatus { guard, status } => {
                if !self.guarded(&guard) {
                    return Err("compare failed");
                }
                self.revision += 1;
                self.view.status = Some(key(status, self.revision, None));
            }
            Action::NameCandidate { guard, document } => {
                if KeyGuard::of(self.view.failover.as_ref()) != guard {
                    return Err("compare failed");
                }
                let revision = self.changed();
                self.view.failover = Some(key(document, revision, None));
            }
            Action::ClearFailoverRequest { guard } => {
                if KeyGuard::of(self.view.failover.as_ref()) != guard {
                    return Err("compare failed");
                }
                let revision = self.changed();
                self.view.failover = Some(key(FailoverRequest::default(), revision, None));
            }
            Action::Suspect { guard, document } => {
                let held = self.view.held().is_some_and(|held| held.create_revision == document.lock);
                if !held || self.suspicion() != guard {
                    return Err("compare failed");
                }
                self.counts.suspicions += 1;
                let revision = self.changed();
                let since = at(self.now);
                self.view.suspicion = Some(Suspected { key: key(document, revision, None), since });
            }
            Action::ClearSuspicion { guard, suspicion } => {
                if !self.guarded(&guard) || self.suspicion() != suspicion {
                    return Err("compare failed");
                }
                let current = self.view.suspicion.as_ref().is_some_and(|s| !s.key.value.revoked);
                self.counts.cleared += u32::from(current);
                self.view.suspicion = None;
                self.changed();
            }
            Action::RevokeLock { lock, suspicion, sync, document } => {
                let held = self.view.held().is_some_and(|held| held.create_revision == lock.create_revision);
                if !held || self.suspicion() != suspicion || KeyGuard::of(self.view.sync.as_ref()) != sync {
                    return Err("compare failed");
                }
                self.counts.revoked += 1;
                self.delete_lock();
                let since = at(self.now);
                self.view.suspicion = Some(Suspected { key: key(document, self.revision, None), since });
                self.leases.remove(&lock.lease.0);
            }
            Action::MoveStoreLeadership { .. }
            | Action::SetSlots { .. }
            | Action::Checkpoint
            | Action::TryStreaming => {}
            Action::Fence => self.fence(node),
            Action::Follow { upstream, .. } => {
                self.nodes[node].ghost = None;
                let upstream = NAMES.iter().position(|n| *n == upstream.name);
                self.nodes[node].upstream = upstream;
                self.nodes[node].asked = upstream;
            }
            Action::StopReceiver => {
                let upstream = self.nodes[node].upstream.take();
                if self.mutation == Mutation::PromiseBeforeStop {
                    self.nodes[node].ghost = upstream;
                }
                self.nodes[node].next_tick = self.now;
            }
            Action::SetSynchronousStandbyNames { names } => {
                self.nodes[node].names = names;
                self.nodes[node].effective = None;
            }
            Action::ConfirmSyncEffective { names } => {
                let Server::Primary { .. } = self.nodes[node].server else { return Err("not a primary") };
                if self.rng.one_in(10) || self.nodes[node].names != names {
                    return Err("a walsender has not read it yet");
                }
                let mut length = self.nodes[node].data.as_ref().unwrap().wal.len() as u64;
                if self.mutation == Mutation::NoCatchUp {
                    length = 0;
                }
                self.nodes[node].effective = Some(SyncEffective { names, at: Lsn(length) });
            }
            Action::StartAsPrimary { ref guard, .. } => {
                self.check_lock(guard)?;
                self.arm(node);
                self.begin(node, action, 1000)?;
            }
            Action::Promote { ref guard, marker, .. } => {
                self.check_lock(guard)?;
                if self.nodes[node].server != Server::Standby {
                    return Err("no standby to promote");
                }
                let current = self.view.history.as_ref().map_or(1, |key| key.value.current().0);
                let data = self.nodes[node].data.as_mut().unwrap();
                let behind = data.timeline < current;
                data.was_primary_on = Some(marker.0);
                if behind {
                    self.fail(&format!("S7: {} is promoted from a timeline behind {current}", NAMES[node]));
                }
                self.arm(node);
                self.begin(node, action, 300)?;
            }
            Action::Bootstrap => self.begin(node, action, 800)?,
            Action::Clone { .. } => {
                self.kill(node);
                self.begin(node, action, 1500)?;
            }
            Action::Rewind { ref from } => {
                self.kill(node);
                // It touches nothing before the source answers.
                let source = NAMES.iter().position(|name| *name == from.name).unwrap();
                let answers = matches!(self.nodes[source].server, Server::Primary { .. })
                    && self.connected(node, source);
                if let Some(data) = self.nodes[node].data.as_mut().filter(|_| answers) {
                    data.half_rewound = true;
                }
                self.begin(node, action, 1000)?;
            }
            Action::StartAsStandby { .. } => {
                if let Some(data) = &mut self.nodes[node].data {
                    data.standby_signal = true;
                }
                self.begin(node, action, 500)?;
            }
            Action::Stop { .. } => self.begin(node, action, 1000)?,
            Action::Restart { .. } => return Err("nobody asks for it here"),
        }
        if lost { Err("the answer was lost") } else { Ok(()) }
    }

    fn finish(&mut self, node: usize, action: &Action) {
        let done = self.complete(node, action);
        let kind = action.operation().expect("a long one");
        self.note(node, format!("{kind}: {done:?}"));
        let incomplete = self.nodes[node].data.as_ref().is_some_and(Data::incomplete);
        if matches!(action, Action::StartAsStandby { .. }) && done.is_ok() && incomplete {
            self.nodes[node].waits = Some(self.now + PG_CTL_TIMEOUT);
            return;
        }
        let outcome = match done {
            Ok(()) => Outcome::Succeeded,
            Err(why) => Outcome::Failed { why: why.to_owned() },
        };
        if let (Action::Rewind { from }, Outcome::Succeeded) = (action, &outcome) {
            // What it was rewound to has more than anybody else, for a moment.
            let often = if self.mutation == Mutation::RewoundTwice { 2 } else { 10 };
            if self.stormy && self.rng.one_in(often) {
                self.strike(NAMES.iter().position(|n| *n == from.name).unwrap());
            }
        }
        self.nodes[node].operation = OperationFacts::Finished { kind, at: at(self.now), outcome };
        self.nodes[node].next_tick = self.now;
    }

    /// The operation ends when PostgreSQL answers, and that is when it is consistent.
    fn wait_for_start(&mut self, node: usize) {
        let Some(until) = self.nodes[node].waits else { return };
        let outcome = match (&self.nodes[node].server, &self.nodes[node].data) {
            (Server::Standby, Some(data)) if !data.incomplete() => Outcome::Succeeded,
            (Server::Standby, Some(_)) if self.now < until => return,
            (Server::Standby, Some(_)) => Outcome::Failed { why: "it is still starting".to_owned() },
            (_, _) => Outcome::Failed { why: "it ended".to_owned() },
        };
        let n = &mut self.nodes[node];
        n.waits = None;
        n.operation =
            OperationFacts::Finished { kind: OperationKind::StartAsStandby, at: at(self.now), outcome };
        n.next_tick = self.now;
    }

    fn complete(&mut self, node: usize, action: &Action) -> Result<(), &'static str> {
        if self.rng.one_in(25) && !matches!(action, Action::Stop { .. }) {
            return Err("bad luck");
        }
        let index = |name: &str| NAMES.iter().position(|n| *n == name).unwrap();
        let now = self.now;
        match action {
            Action::Bootstrap => {
                let record = self.next_record;
                self.next_record += 1;
                self.nodes[node].data = Some(Data {
                    state: ControlState::InProduction,
                    timeline: 1,
                    wal: vec![(1, record)],
                    forks: Vec::new(),
                    standby_signal: false,
                    was_primary_on: Some(1),
                    half_rewound: false,
                    consistent: (1, 0),
                    unsaid: false,
                });
                self.nodes[node].epoch = 0;
                self.nodes[node].server = Server::Primary { since: now, checkpoint_at: now };
            }
            Action::Clone { from, .. } | Action::Rewind { from } => {
                let source = index(&from.name);
                let running = matches!(self.nodes[source].server, Server::Primary { .. });
                if !running || !self.connected(node, source) {
                    return Err("the source is gone");
                }
                let theirs = self.nodes[source].data.clone().unwrap();
                let unsaid = self.rng.one_in(4);
                if let Action::Rewind { .. } = action {
                    let skipped = self.mutation == Mutation::SkippedRewind;
                    if self.nodes[node].data.as_ref().is_some_and(Data::incomplete) {
                        self.fail("S8: blocks are older than the checkpoint that they are replayed from");
                    }
                    let data = self.nodes[node].data.as_mut().unwrap();
                    // By numbers and fork points: blind to two histories of one timeline.
                    if data.timeline != theirs.timeline && !skipped {
                        data.wal.truncate(common(data, &theirs));
                        data.consistent = (theirs.timeline, theirs.wal.len());
                        data.unsaid = unsaid;
                        data.timeline = theirs.timeline;
                        data.forks.clone_from(&theirs.forks);
                    }
                    data.half_rewound = false;
                    data.was_primary_on = None;
                    data.standby_signal = true;
                    data.state = ControlState::InArchiveRecovery;
                } else {
                    let incompletable = self.nodes[node].data.as_ref().is_some_and(Data::incomplete);
                    self.counts.incompletable += u32::from(incompletable);
                    self.nodes[node].data = Some(Data {
                        state: ControlState::InArchiveRecovery,
                        standby_signal: true,
                        was_primary_on: None,
                        half_rewound: false,
                        consistent: (theirs.timeline, theirs.wal.len()),
                        ..theirs
                    });
                }
                self.nodes[node].upstream = Some(source);
                self.nodes[node].asked = Some(source);
            }
            Action::StartAsStandby { upstream, .. } => {
                let upstream = upstream.as_ref().map(|u| index(&u.name));
                self.nodes[node].upstream = upstream;
                self.nodes[node].asked = upstream.or(self.nodes[node].asked);
                self.nodes[node].ghost = None;
                if self.mutation == Mutation::StreamAfterRestart {
                    let primary = |n: &Node| matches!(n.server, Server::Primary { .. });
                    self.nodes[node].ghost = self.nodes.iter().position(primary);
                }
                self.nodes[node].server = Server::Standby;
                self.nodes[node].started = now;
                // Mostly nothing: it was stopped in good order. The mutation is looked for where it matters.
                let much = self.mutation == Mutation::PositionWhileReplaying || self.rng.one_in(3);
                self.nodes[node].unread = if much { self.rng.below(200) as usize } else { 0 };
                self.nodes[node].data.as_mut().unwrap().state = ControlState::InArchiveRecovery;
            }
            Action::StartAsPrimary { guard, names } => {
                let data = self.nodes[node].data.as_mut().unwrap();
                data.was_primary_on.get_or_insert(data.timeline);
                data.standby_signal = false;
                data.state = ControlState::InProduction;
                self.nodes[node].names = names.clone();
                self.nodes[node].epoch = guard.create_revision().0;
                self.nodes[node].server = Server::Primary { since: now, checkpoint_at: now };
                self.became_primary(node);
            }
            Action::Promote { guard, .. } => {
                let data = self.nodes[node].data.as_ref().unwrap();
                if self.nodes[node].server != Server::Standby || data.incomplete() {
                    return Err("it does not run");
                }
                let record = self.next_record;
                self.next_record += 1;
                let checkpoint_at = now + self.rng.below(500);
                let data = self.nodes[node].data.as_mut().unwrap();
                data.forks.push(Fork {
                    parent: TimelineId(data.timeline),
                    at: Lsn(data.wal.len() as u64),
                    why: "no recovery target specified".to_owned(),
                    timestamp: String::new(),
                });
                data.timeline += 1;
                data.wal.push((data.timeline, record));
                data.standby_signal = false;
                data.state = ControlState::InProduction;
                self.nodes[node].upstream = None;
                self.nodes[node].unread = 0;
                self.nodes[node].epoch = guard.create_revision().0;
                self.nodes[node].server = Server::Primary { since: now, checkpoint_at };
                self.became_primary(node);
            }
            Action::Stop { .. } => {
                // The shutdown checkpoint, which every streaming standby confirms.
                let record = self.next_record;
                self.next_record += 1;
                if let Server::Primary { .. } = self.nodes[node].server {
                    let data = self.nodes[node].data.as_mut().unwrap();
                    data.wal.push((data.timeline, record));
                    data.state = ControlState::ShutDown;
                    let (wal, timeline, forks) = (data.wal.clone(), data.timeline, data.forks.clone());
                    for standby in 0..self.nodes.len() {
                        if self.streams(standby) == Some(node) {
                            let data = self.nodes[standby].data.as_mut().unwrap();
                            (data.wal, data.timeline, data.forks) = (wal.clone(), timeline, forks.clone());
                        }
                    }
                    self.acknowledge(node);
                }
                self.kill(node);
            }
            other => panic!("{other:?} is not long"),
        }
        Ok(())
    }

    // --- faults -----------------------------------------------------------------------------------------------------

    fn restart_agent(&mut self, node: usize) {
        let revision = self.revision;
        let n = &mut self.nodes[node];
        n.due = None;
        (n.ends, n.waits) = (None, None);
        n.operation = OperationFacts::Idle;
        n.member_lease = None;
        n.primary_lease = None;
        n.absent_since = None;
        n.silent_since = None;
        n.watching_since = revision;
        n.remembered.clear();
        n.next_tick = self.now + 100;
    }

    fn fault(&mut self) {
        let node = self.rng.below(self.nodes.len() as u64) as usize;
        self.strike(node);
    }

    fn strike(&mut self, node: usize) {
        if self.mutation == Mutation::WallClock {
            // Somebody sets it back; what was counted on it lies an hour ahead.
            let hour = Duration::from_secs(3600);
            self.nodes[node].armed = self.nodes[node].armed.map(|at| at + hour.as_millis() as u64);
            if let Some(lease) = &mut self.nodes[node].primary_lease {
                lease.valid_until.0 += hour;
            }
        }
        if !self.lost_disk && self.rng.one_in(if self.mutation == Mutation::EmptyNode { 4 } else { 30 }) {
            self.lose_disk(node);
            return;
        }
        let fault = match self.mutation {
            // What these break is only seen while PostgreSQL goes on without its agent.
            Mutation::PromiseBeforeStop | Mutation::StreamAfterRestart if self.rng.one_in(2) => 7,
            _ => self.rng.below(10),
        };
        match fault {
            0 | 1 => {
                self.note(node, "--- node crashes".to_owned());
                self.kill(node);
                self.restart_agent(node);
                self.nodes[node].up = false;
                self.nodes[node].armed = None;
            }
            2 | 3 => {
                self.note(node, "--- node cut off".to_owned());
                self.nodes[node].cut = true;
            }
            4 => {
                self.note(node, "--- PostgreSQL crashes".to_owned());
                self.kill(node);
                let soon = self.now + self.rng.below(100);
                self.nodes[node].next_tick = soon;
            }
            5 => {
                self.note(node, "--- agent slow".to_owned());
                let later = self.now + self.rng.below(4000);
                if let Some((at, _)) = &mut self.nodes[node].due {
                    *at = later;
                }
                self.nodes[node].next_tick = later;
            }
            6 => {
                let member = (!self.rng.one_in(3))
                    .then(|| NAMES[self.rng.below(self.nodes.len() as u64) as usize].to_owned());
                let leader = self.view.held().map(|held| held.holder.clone());
                if self.quorum() && leader.is_some() {
                    self.note(node, format!("--- switchover from {leader:?} to {member:?}"));
                    let revision = self.changed();
                    let request = FailoverRequest { leader, member, scheduled_at: None };
                    self.view.failover = Some(key(request, revision, None));
                }
            }
            // Without a set of standbys only a guard process could fence for an agent that stands still.
            7 | 8 if self.sync_mode => {
                let pause = 200 + self.rng.below(12_000);
                self.note(node, format!("--- agent and voter stand still for {pause} ms"));
                self.nodes[node].frozen_until = self.now + pause;
            }
            _ => {
                self.note(node, "--- store elects".to_owned());
                self.electing_until = self.now + 300 + self.rng.below(1500);
            }
        }
    }

    /// PostgreSQL's disk is replaced by an empty one, if no acknowledged commit lies there alone.
    fn lose_disk(&mut self, node: usize) {
        let elsewhere: BTreeSet<u64> = (0..self.nodes.len())
            .filter(|other| *other != node)
            .filter_map(|other| self.nodes[other].data.as_ref())
            // A rewind that breaks off leaves nothing, and one that was made nothing without its source.
            .filter(|data| !data.half_rewound && !data.incomplete())
            .flat_map(|data| data.wal.iter().map(|record| record.1))
            .collect();
        // Nor the last copy that is one: that takes a backup.
        if elsewhere.is_empty() || !self.acknowledged.is_subset(&elsewhere) {
            return;
        }
        self.note(node, "--- disk lost".to_owned());
        self.lost_disk = true;
        self.counts.lost_disks += 1;
        self.kill(node);
        self.restart_agent(node);
        let n = &mut self.nodes[node];
        n.armed = None;
        n.ghost = None;
        n.upstream = None;
        n.asked = None;
        let lost = n.data.take();
        if self.mutation == Mutation::EmptyNode {
            n.data = lost.map(|data| Data { wal: Vec::new(), standby_signal: true, ..data });
        }
    }

    fn repair(&mut self, node: usize) {
        if !self.nodes[node].up || self.nodes[node].cut {
            self.note(node, "--- repaired".to_owned());
            self.nodes[node].up = true;
            self.nodes[node].cut = false;
            self.nodes[node].next_tick = self.now;
        }
    }

    fn step(&mut self) {
        self.now += STEP;
        self.expire();
        let (now, quorum) = (self.now, self.quorum());
        for node in &mut self.nodes {
            // A new leader knows nothing of the time before it.
            if !quorum || node.up && !node.cut && now >= node.frozen_until {
                node.heard = now;
            }
        }
        for node in 0..self.nodes.len() {
            self.agent(node);
        }
        self.work();
    }

    /// One writable primary that holds the lock; the others stream from it, on its timeline.
    fn settled(&self) -> bool {
        let Some(held) = self.view.held() else { return false };
        let Some(holder) = NAMES.iter().position(|n| *n == held.holder) else { return false };
        let primaries =
            (0..self.nodes.len()).filter(|n| matches!(self.nodes[*n].server, Server::Primary { .. })).count();
        let timeline = |n: usize| self.nodes[n].data.as_ref().map(|data| data.timeline);
        let synchronous = !self.sync_mode
            || self
                .view
                .sync
                .as_ref()
                .is_some_and(|s| s.value.settled().is_some_and(|e| e.confirm == self.shape.confirm));
        primaries == 1
            && matches!(self.nodes[holder].server, Server::Primary { .. })
            && synchronous
            && (0..self.nodes.len())
                .filter(|n| *n != holder)
                .all(|n| self.streams(n) == Some(holder) && timeline(n) == timeline(holder))
    }

    /// Nobody may be promoted while a commit, or a whole timeline, may lie on a disk that is gone, and no program can tell that it does
    /// not. After a lost disk that is for an operator: who finds the node that has everything, takes later timelines, and another of
    /// the number that it has, out of `/history`, names it in `/sync`, and has the others cloned.
    fn operate(&mut self, from: u64) {
        let asked = self.lost_disk && self.now > from && self.mutation == Mutation::None;
        // What was rewound to the lost disk's timeline and is not consistent has nobody left to become so from.
        let hopeless = |at: &usize| {
            let data = self.nodes[*at].data.as_ref();
            data.is_some_and(Data::incomplete) && self.streams(*at).is_none()
        };
        if let Some(at) = (0..self.nodes.len()).find(hopeless).filter(|_| asked && self.view.held().is_some())
        {
            self.note(at, "--- an operator has it cloned".to_owned());
            self.counts.operated += 1;
            self.kill(at);
            self.restart_agent(at);
            self.nodes[at].data = None;
        }
        if !asked || self.counts.operated > 0 || self.view.held().is_some() || !self.quorum() {
            return;
        }
        let has_all = |node: &Node| {
            let Some(data) = &node.data else { return false };
            let wal = data.wal.iter().map(|record| record.1).collect();
            !data.incomplete() && !data.half_rewound && self.acknowledged.is_subset(&wal)
        };
        let Some(at) = self.nodes.iter().position(has_all) else { return };
        self.note(at, "--- an operator: this one has everything".to_owned());
        self.counts.operated += 1;
        let newest = self.nodes[at].data.as_ref().map_or(1, |data| data.timeline);
        let revision = self.changed();
        if let Some(history) = &mut self.view.history {
            let mut left = history.value.clone();
            let known = [Some(NAMES[at]), self.nodes[at].asked.map(|asked| NAMES[asked])];
            left.0.retain(|line| {
                let another = line.timeline.0 + 1 == newest && !known.contains(&line.new_leader.as_deref());
                line.timeline.0 < newest && !another
            });
            *history = key(left, revision, None);
        }
        if self.sync_mode {
            let (leader, entries) = (Some(NAMES[at].to_owned()), vec![SyncEntry::default()]);
            self.view.sync = Some(key(SyncDocument { leader, entries }, revision, None));
        }
        for other in (0..self.nodes.len()).filter(|other| *other != at) {
            self.kill(other);
            self.restart_agent(other);
            self.nodes[other].data = None;
        }
    }

    fn settle(&mut self, longest: u64) {
        let end = self.now + longest;
        while !self.settled() {
            self.step();
            self.operate(end - longest / 2);
            if self.now > end {
                self.fail("L1, L2: the cluster does not come back");
            }
        }
    }
}

/// After which a fault hurts most.
fn matters(action: &Action) -> bool {
    matches!(
        action,
        Action::Suspect { .. }
            | Action::RevokeLock { .. }
            | Action::AcquireLock { .. }
            | Action::WriteSync { .. }
            | Action::SetSynchronousStandbyNames { .. }
            | Action::StopReceiver
            | Action::Promote { .. }
    )
}

/// The position from which `pg_rewind` copies: the end of the last timeline that both came along, by number and beginning.
fn common(mine: &Data, theirs: &Data) -> usize {
    let path = |data: &Data| {
        let ends = data.forks.iter().map(|fork| (fork.parent.0, fork.at.0 as usize));
        ends.chain([(data.timeline, data.wal.len())]).collect::<Vec<_>>()
    };
    let (mine, theirs) = (path(mine), path(theirs));
    let mut end = 0;
    for ((a, a_end), (b, b_end)) in mine.into_iter().zip(theirs) {
        if a != b {
            break;
        }
        end = a_end.min(b_end);
        if a_end != b_end {
            break;
        }
    }
    end
}

fn endpoint(node: usize) -> Endpoint {
    Endpoint { host: NAMES[node].to_owned(), port: 5432 }
}

fn parse(names: &str) -> (usize, BTreeSet<String>) {
    let Some((head, list)) = names.split_once(" (") else { return (0, BTreeSet::new()) };
    let confirm = head.rsplit(' ').next().unwrap().parse().unwrap();
    let members = list.trim_end_matches(')').split(',').map(|n| n.trim_matches('"').to_owned()).collect();
    (confirm, members)
}

fn run(seed: u64, mutation: Mutation) -> Counts {
    let mut world = World::new(seed, Shape::of(seed), mutation);
    world.settle(60_000);
    world.stormy = true;
    let faults = 3 + world.rng.below(10);
    for _ in 0..faults {
        world.fault();
        for _ in 0..world.rng.below(300) {
            world.step();
        }
        for node in 0..world.nodes.len() {
            if world.rng.one_in(2) {
                world.repair(node);
            }
        }
    }
    world.stormy = false;
    for node in 0..world.nodes.len() {
        world.repair(node);
    }
    world.settle(90_000);
    world.counts
}

/// Replay one with `QUORATE_SEED=n`; widen with `QUORATE_SCHEDULES=n`.
#[test]
fn no_schedule_of_faults_breaks_a_promise_and_the_cluster_comes_back() {
    #[expect(clippy::disallowed_methods, reason = "which schedules to run is for whoever runs the test")]
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("QUORATE_SEED") {
        run(seed, Mutation::None).tell(1);
        return;
    }
    let schedules = number("QUORATE_SCHEDULES").unwrap_or(400);
    let mut all = Counts::default();
    for counts in (1..=schedules).map(|seed| run(seed, Mutation::None)) {
        all.promotions += counts.promotions;
        all.suspicions += counts.suspicions;
        all.cleared += counts.cleared;
        all.revoked += counts.revoked;
        all.lost_disks += counts.lost_disks;
        all.operated += counts.operated;
        all.incompletable += counts.incompletable;
    }
    all.tell(schedules);
    // A run in which nothing happened proves nothing.
    let enough = |happened: u32, one_in: u64| u64::from(happened) * one_in >= schedules;
    assert!(
        enough(all.promotions, 1)
            && enough(all.suspicions, 3)
            && enough(all.cleared, 20)
            && enough(all.revoked, 4)
            && enough(all.lost_disks, 20),
        "{all:?} in {schedules} schedules"
    );
}

/// The net catches fish: each rule that is broken on purpose is noticed, by the check that it belongs to.
#[test]
#[expect(clippy::print_stdout, reason = "how soon, for the table in tests/README.md")]
fn broken_rules_are_caught() {
    let mutations: [(Mutation, &[&str]); 18] = [
        (Mutation::NoFence, &["S1"]),
        (Mutation::EarlyExpiry, &["S1"]),
        (Mutation::NoCatchUp, &["S3"]),
        (Mutation::GrantNotJoint, &["S3"]),
        (Mutation::GucFirst, &["S3", "S1"]),
        (Mutation::StoreFirst, &["S3", "S1"]),
        (Mutation::PromiseBeforeStop, &["S1", "S3"]),
        (Mutation::StreamAfterRestart, &["S1", "S3"]),
        (Mutation::SelfRelease, &["S1", "S3"]),
        (Mutation::AnyPromise, &["S1", "S3"]),
        (Mutation::PositionWhileReplaying, &["S1", "S3"]),
        (Mutation::HistoryLater, &["L1, L2"]),
        (Mutation::SkippedRewind, &["L1, L2"]),
        (Mutation::PromoteUnchecked, &["S6"]),
        (Mutation::CountedFromAnswer, &["S1"]),
        (Mutation::WallClock, &["S1"]),
        (Mutation::EmptyNode, &["S3", "S1"]),
        (Mutation::RewoundTwice, &["S8"]),
    ];
    let mut missed = Vec::new();
    for (mutation, expected) in mutations {
        let caught = (1..=NOTICED_WITHIN).find_map(|seed| {
            let failure = std::panic::catch_unwind(|| run(seed, mutation)).err()?;
            let text = failure.downcast_ref::<String>().cloned().unwrap_or_default();
            let check = expected.iter().find(|check| text.starts_with(**check))?;
            Some((seed, *check))
        });
        match caught {
            Some((seed, check)) => println!("{mutation:?}: {check} at seed {seed}"),
            None => missed.push(mutation),
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
