//! What runs on one simulated member: the real node, a few clients of its own, a lessee, an operator and a watcher.
//!
//! They use the member's handle in-process, as the HA agent does: their requests are forwarded, retried and refused by the same
//! code as everybody's. They live and die with the member; what they had asked for when it died is unknown for ever.
//!
//! A host whose place nobody takes is idle. What ends a member, or keeps it from starting, is told to the schedule, which does
//! what an operator would ([`crate::world`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use quorate_node::state::{Command, Range, Rejection};
use quorate_node::{Config, Handle, MemberError, Node, ProposeError, WatchItem, WatchSpec};

use crate::clocks;
use crate::history::{Compaction, History, Lease, Outcome, Read, State, Told, Write, change};
use crate::witness::Witness;

/// Of one member.
const CLIENTS: usize = 3;
const KEYS: usize = 6;
/// For one request.
const WITHIN: Duration = Duration::from_secs(2);
/// For a change of the membership: two elections and a transfer fit.
const CHANGE: Duration = Duration::from_secs(6);
/// Between two looks at the membership.
const LOOK: Duration = Duration::from_millis(500);

/// What the schedule asks of whichever member takes it first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Add { place: usize, learner: bool },
    Promote { id: u64 },
    Remove { id: u64 },
}

/// What became of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    /// The id of the one that was added, removed, promoted.
    Yes(u64),
    Refused,
    /// It may have happened, or may yet.
    Unknown,
}

/// Where a member's end is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) revision: i64,
    pub(crate) hash: Option<u32>,
    pub(crate) state: State,
    /// Places of the membership.
    pub(crate) members: BTreeSet<usize>,
}

/// What members and schedule share. One thread runs them all.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) history: Mutex<History>,
    pub(crate) witness: Witness,
    /// Places whose host is a member, or wants to be.
    pub(crate) taken: Mutex<BTreeSet<usize>>,
    /// Places whose member runs, with its id.
    pub(crate) running: Mutex<BTreeMap<usize, u64>>,
    /// The id that a place was heard of under last.
    pub(crate) ids: Mutex<BTreeMap<usize, u64>>,
    /// Places whose member ended or did not start, with its sentence, for the schedule.
    pub(crate) ended: Mutex<VecDeque<(usize, Ended)>>,
    pub(crate) orders: Mutex<VecDeque<Order>>,
    /// Who is carrying out what.
    pub(crate) under_way: Mutex<Option<(usize, Order)>>,
    pub(crate) done: Mutex<VecDeque<(Order, Done)>>,
    /// Who has a vote, as a member saw it that had everything.
    pub(crate) voters: Mutex<BTreeSet<u64>>,
    /// The highest term that any member has seen, and who led when somebody looked last; 0: nobody.
    pub(crate) term: AtomicU64,
    pub(crate) leader: AtomicU64,
    /// Clients begin nothing any more; every member writes its last word.
    pub(crate) finishing: AtomicBool,
    /// Members whose last word was acknowledged.
    pub(crate) finished: Mutex<BTreeSet<usize>>,
    pub(crate) ends: Mutex<BTreeMap<usize, End>>,
    values: AtomicU64,
}

/// How a member's life ended without the schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It did not start.
    NotStarted(String),
    /// It failed, or was removed.
    Failed(String),
}

impl Shared {
    pub(crate) fn new(witness: Witness) -> Shared {
        Shared { witness, ..Shared::default() }
    }

    fn note(&self, note: &str) {
        self.witness.note(&format!("{:?} {note}", clocks::truth()));
    }

    fn is_finishing(&self) -> bool {
        self.finishing.load(Ordering::Relaxed)
    }
}

pub(crate) fn url_of(place: usize) -> String {
    format!("http://m{place}:2380")
}

fn place_of(url: &str) -> Option<usize> {
    url.strip_prefix("http://m")?.strip_suffix(":2380")?.parse().ok()
}

/// A member with what its clients need.
#[derive(Clone)]
struct Host {
    at: usize,
    handle: Handle,
    shared: Rc<Shared>,
}

/// The software of a host; ends with the host.
pub(crate) async fn run(at: usize, config: Config, shared: Rc<Shared>) -> turmoil::Result {
    if !shared.taken.lock().contains(&at) {
        return std::future::pending().await;
    }
    // Another one in every process; a trace has to be the same.
    let place = config.data_dir.display().to_string();
    let node = match Node::start(config).await {
        Ok(node) => node,
        Err(error) => {
            let mut sentence = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(deeper) = cause {
                sentence = format!("{sentence}: {deeper}");
                cause = deeper.source();
            }
            let sentence = sentence.replace(&place, "its directory");
            shared.note(&format!("m{at} does not start: {sentence}"));
            shared.ended.lock().push_back((at, Ended::NotStarted(sentence)));
            return std::future::pending().await;
        }
    };
    let id = node.handle().header().member_id;
    shared.note(&format!("m{at} has started as {id:016x}"));
    shared.running.lock().insert(at, id);
    let host = Host { at, handle: node.handle(), shared: Rc::clone(&shared) };
    for _ in 0..CLIENTS {
        tokio::task::spawn_local(host.clone().client(fastrand::Rng::with_seed(fastrand::u64(..))));
    }
    tokio::task::spawn_local(host.clone().lessee(fastrand::Rng::with_seed(fastrand::u64(..))));
    tokio::task::spawn_local(host.clone().operator());
    tokio::task::spawn_local(host.clone().watch());
    let last_word = async {
        while !shared.is_finishing() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        host.finish().await;
        // Until the schedule ends: the others need this member.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = last_word => {}
        sentence = node.failed() => {
            let sentence = sentence.replace(&place, "its directory");
            shared.note(&format!("m{at} has ended: {sentence}"));
            shared.running.lock().remove(&at);
            shared.ended.lock().push_back((at, Ended::Failed(sentence)));
        }
    }
    std::future::pending().await
}

impl Host {
    /// Clients of a member that is over, or stands still, begin nothing.
    async fn may_begin(&self) -> bool {
        while clocks::stands_still(self.at) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        !self.shared.is_finishing() && self.shared.running.lock().contains_key(&self.at)
    }

    async fn client(self, mut random: fastrand::Rng) {
        while self.may_begin().await {
            let key = format!("k{}", random.usize(0..KEYS));
            match random.u8(0..100) {
                0..=44 => drop(self.put(&key, None).await),
                45..=79 => self.read(&key, None).await,
                80..=87 => {
                    let newest = self.handle.header().revision;
                    self.read(&key, Some((newest - random.i64(0..30)).max(1))).await;
                }
                88..=91 => self.compact(random.i64(0..40)).await,
                _ => {}
            }
            tokio::time::sleep(Duration::from_millis(random.u64(10..250))).await;
        }
    }

    /// One put, on a lease if there is one; its revision if it was acknowledged.
    async fn put(&self, key: &str, lease: Option<i64>) -> Option<i64> {
        let (at, shared) = (self.at, &self.shared);
        let value = format!("m{at}-{}", shared.values.fetch_add(1, Ordering::Relaxed));
        let place = {
            let mut history = shared.history.lock();
            let (key, value) = (key.to_owned(), value.clone());
            history.writes.push(Write { key, value, begun: clocks::truth(), outcome: Outcome::Unknown });
            history.writes.len() - 1
        };
        let command = match lease {
            None => Command::put(key.to_owned(), value.clone()),
            Some(lease) => Command::put_with_lease(key.to_owned(), value.clone(), lease),
        };
        let outcome = match self.handle.propose(command, WITHIN).await {
            Ok(applied) => Outcome::Acknowledged { revision: applied.reply.revision, at: clocks::truth() },
            Err(ProposeError::Indeterminate | ProposeError::Stopped) => Outcome::Unknown,
            Err(ProposeError::NoLeader | ProposeError::Overloaded) => Outcome::Refused,
            Err(ProposeError::Rejected(Rejection::LeaseNotFound)) if lease.is_some() => Outcome::Refused,
            Err(error @ (ProposeError::Rejected(_) | ProposeError::TooLarge)) => {
                panic!("a put cannot be refused for good: {error}")
            }
        };
        shared.note(&format!("m{at} put {key}={value}: {outcome:?}"));
        shared.history.lock().writes[place].outcome = outcome;
        match outcome {
            Outcome::Acknowledged { revision, .. } => Some(revision),
            Outcome::Unknown | Outcome::Refused => None,
        }
    }

    async fn read(&self, key: &str, of: Option<i64>) {
        let (member, begun) = (self.at, clocks::truth());
        let range = Range { key: key.to_owned().into(), revision: of.unwrap_or(0), ..Range::default() };
        let Ok(reply) = self.handle.range(range, WITHIN).await else { return };
        let found = reply
            .kvs
            .into_iter()
            .next()
            .map(|kv| (String::from_utf8_lossy(&kv.value).into_owned(), kv.mod_revision));
        self.shared.note(&format!("m{member} read {key} of {of:?}: {found:?} at {}", reply.revision));
        let (key, revision) = (key.to_owned(), reply.revision);
        let read = Read { member, key, of, begun, at: clocks::truth(), found, revision };
        self.shared.history.lock().reads.push(read);
    }

    /// Compacts what the watcher of this member has delivered, but for the last few revisions: H keeps no holes.
    async fn compact(&self, keep: i64) {
        let place = {
            let mut history = self.shared.history.lock();
            let revision = history.next_of(self.at) - 1 - keep;
            if revision < 2 {
                return;
            }
            history.compactions.push(Compaction { revision, done: None });
            history.compactions.len() - 1
        };
        let revision = self.shared.history.lock().compactions[place].revision;
        if self.handle.propose(Command::compact(revision), WITHIN).await.is_ok() {
            self.shared.note(&format!("m{} compacted {revision}", self.at));
            self.shared.history.lock().compactions[place].done = Some(clocks::truth());
        }
    }

    /// One lease after the other: granted, renewed a few times, then forgotten or revoked.
    async fn lessee(self, mut random: fastrand::Rng) {
        while self.may_begin().await {
            let (id, ttl) = (random.i64(1..), Duration::from_millis(random.u64(2000..3000)));
            self.hold_a_lease(id, ttl, &mut random).await;
            tokio::time::sleep(Duration::from_millis(random.u64(10..500))).await;
        }
    }

    async fn hold_a_lease(&self, id: i64, ttl: Duration, random: &mut fastrand::Rng) {
        let shared = &self.shared;
        let key = format!("kl-{id:016x}");
        let confirmed = clocks::truth();
        if self.handle.grant_lease(Some(id), ttl, WITHIN).await.is_err() {
            return;
        }
        shared.note(&format!("m{} holds the lease {id:016x} for {ttl:?}", self.at));
        let lease = Lease { key: key.clone(), ttl, confirmed, revoked: None };
        shared.history.lock().leases.insert(id, lease);
        self.put(&key, Some(id)).await;
        for _ in 0..random.usize(0..6) {
            tokio::time::sleep(ttl / 3).await;
            if !self.may_begin().await {
                return;
            }
            let begun = clocks::truth();
            match self.handle.renew_lease(id, WITHIN).await {
                Ok(Some(_)) => {
                    shared.note(&format!("m{} renewed {id:016x}", self.at));
                    let mut history = shared.history.lock();
                    history.leases.get_mut(&id).expect("it was granted").confirmed = begun;
                }
                Ok(None) => return,
                Err(_) => {}
            }
        }
        if random.u8(0..4) == 0 {
            let begun = clocks::truth();
            shared.history.lock().leases.get_mut(&id).expect("it was granted").revoked = Some(begun);
            let _ = self.handle.propose(Command::lease_revoke(id), WITHIN).await; // it ends one way or the other
        }
    }

    /// Carries out what the schedule asks for, and looks at the membership afterwards.
    async fn operator(self) {
        let (at, shared, handle) = (self.at, &self.shared, &self.handle);
        let mut look = Duration::ZERO;
        while self.may_begin().await {
            tokio::time::sleep(Duration::from_millis(40)).await;
            let leadership = *handle.leadership().borrow();
            shared.term.fetch_max(leadership.term, Ordering::Relaxed);
            shared.leader.store(leadership.leader.unwrap_or(0), Ordering::Relaxed);
            if clocks::truth() >= look {
                look = clocks::truth() + LOOK;
                if handle.read_barrier(WITHIN).await.is_ok() {
                    self.look();
                }
            }
            let Some(order) = shared.orders.lock().pop_front() else { continue };
            *shared.under_way.lock() = Some((at, order));
            let done = self.carry_out(order).await;
            shared.note(&format!("m{at} {order:?}: {done:?}"));
            while handle.read_barrier(WITHIN).await.is_err() {
                if !self.may_begin().await {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(40)).await;
            }
            self.look();
            *shared.under_way.lock() = None;
            shared.done.lock().push_back((order, done));
        }
    }

    /// Notes who has a vote.
    fn look(&self) {
        let members = self.handle.members().into_iter().map(|member| member.id);
        *self.shared.voters.lock() = members.filter(|id| self.handle.can_lead(*id)).collect();
    }

    async fn carry_out(&self, order: Order) -> Done {
        let (asked, outcome) = match order {
            Order::Add { place, learner } => {
                match self.handle.add_member(&url_of(place), learner, CHANGE).await {
                    Ok(member) => (member.id, Ok(())),
                    Err(error) => (0, Err(error)),
                }
            }
            Order::Promote { id } => (id, self.handle.promote_member(id, CHANGE).await),
            Order::Remove { id } => (id, self.handle.remove_member(id, CHANGE).await),
        };
        match outcome {
            Ok(()) => Done::Yes(asked),
            Err(MemberError::Unanswered(_)) => Done::Unknown,
            Err(_) => Done::Refused,
        }
    }

    /// Goes on where this place's last watcher was when it died.
    async fn watch(self) {
        let shared = &self.shared;
        loop {
            let next = shared.history.lock().next_of(self.at);
            let mut watcher = self.handle.watch(WatchSpec {
                key: "k".into(),
                range_end: "l".into(),
                start_revision: next,
                ..WatchSpec::default()
            });
            loop {
                match watcher.next().await {
                    Some(WatchItem::Events { events, .. }) => {
                        let mut history = shared.history.lock();
                        for event in &events {
                            history.deliver(self.at, change(event), clocks::truth());
                        }
                    }
                    Some(WatchItem::Compacted { revision }) => {
                        shared.note(&format!(
                            "m{}: a watch at {next} hears of a compaction up to {revision}",
                            self.at
                        ));
                        let mut history = shared.history.lock();
                        history.watched.entry(self.at).or_default().push(Told::Compacted(revision));
                        break;
                    }
                    None => return,
                }
            }
        }
    }

    fn places(&self) -> BTreeSet<usize> {
        let members = self.handle.members();
        members.iter().flat_map(|member| &member.peer_urls).filter_map(|url| place_of(url)).collect()
    }

    /// The network is whole again: every member gets a write through, every lease comes to its end, then all tell what they have.
    async fn finish(&self) {
        let (at, shared) = (self.at, &self.shared);
        while self.put("k-last", None).await.is_none() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        shared.finished.lock().insert(at);
        let members = loop {
            let in_order = self.handle.read_barrier(WITHIN).await.is_ok();
            let members = self.places();
            if in_order
                && members.is_subset(&shared.finished.lock())
                && self.handle.leases(WITHIN).await.is_ok_and(|leases| leases.is_empty())
            {
                break members;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let everything = Range { key: "k".into(), range_end: "l".into(), ..Range::default() };
        let reply = loop {
            match self.handle.range(everything.clone(), WITHIN).await {
                Ok(reply) => break reply,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let state: State =
            reply.kvs.iter().map(|kv| (text(&kv.key), (text(&kv.value), kv.mod_revision))).collect();
        let hash = self.handle.hash_kv(reply.revision, WITHIN).await.ok().map(|(hash, _)| hash);
        shared.ends.lock().insert(at, End { revision: reply.revision, hash, state, members });
    }
}
