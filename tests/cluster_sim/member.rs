//! What runs on one simulated member: the real node, a few clients of its own, and a watcher.
//!
//! The clients use the member's handle in-process, as the HA agent does: their requests are forwarded, retried and refused by
//! the same code as everybody's. They live and die with the member; what they had asked for when it died is unknown for ever.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use quorate_node::state::{Command, Range};
use quorate_node::{Config, Handle, Node, ProposeError, WatchItem, WatchSpec};

use crate::history::{Change, History, Outcome, Read, Write, change};
use crate::witness::Witness;

/// Of one member.
const CLIENTS: usize = 3;
const KEYS: usize = 6;
/// For one request.
const WITHIN: Duration = Duration::from_secs(2);

/// Where a member's end is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) revision: i64,
    pub(crate) hash: u32,
    pub(crate) order: Vec<Change>,
}

/// What members and schedule share. One thread runs them all.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) history: Mutex<History>,
    pub(crate) witness: Witness,
    /// Clients begin nothing any more; every member writes its last word.
    pub(crate) finishing: AtomicBool,
    /// Members whose last word was acknowledged.
    pub(crate) finished: Mutex<BTreeMap<usize, i64>>,
    pub(crate) ends: Mutex<BTreeMap<usize, End>>,
    values: AtomicU64,
}

impl Shared {
    pub(crate) fn new(witness: Witness) -> Shared {
        Shared { witness, ..Shared::default() }
    }
}

fn now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

/// The software of a host; ends with the host.
pub(crate) async fn run(at: usize, config: Config, members: usize, shared: Rc<Shared>) -> turmoil::Result {
    let node = Node::start(config).await?;
    shared.witness.note(&format!("{:?} m{at} has started", now()));
    let handle = node.handle();
    let clients = (0..CLIENTS).map(|_| {
        let (handle, shared) = (handle.clone(), Rc::clone(&shared));
        let random = fastrand::Rng::with_seed(fastrand::u64(..));
        tokio::task::spawn_local(client(at, handle, shared, random))
    });
    let _clients: Vec<_> = clients.collect();
    let _watching = tokio::task::spawn_local(watch(at, handle.clone(), Rc::clone(&shared)));
    while !shared.finishing.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    finish(at, &handle, members, &shared).await;
    // Until the schedule ends: the others need this member.
    std::future::pending().await
}

async fn client(at: usize, handle: Handle, shared: Rc<Shared>, mut random: fastrand::Rng) {
    while !shared.finishing.load(Ordering::Relaxed) {
        match random.u8(0..10) {
            0..=4 => drop(put(at, &handle, &shared, &format!("k{}", random.usize(0..KEYS))).await),
            5..=8 => read(at, &handle, &shared, &format!("k{}", random.usize(0..KEYS))).await,
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(random.u64(10..250))).await;
    }
}

/// One put; its revision if it was acknowledged.
async fn put(at: usize, handle: &Handle, shared: &Shared, key: &str) -> Option<i64> {
    let value = format!("m{at}-{}", shared.values.fetch_add(1, Ordering::Relaxed));
    let place = {
        let mut history = shared.history.lock();
        let (key, value) = (key.to_owned(), value.clone());
        history.writes.push(Write { key, value, begun: now(), outcome: Outcome::Unknown });
        history.writes.len() - 1
    };
    let outcome = match handle.propose(Command::put(key.to_owned(), value.clone()), WITHIN).await {
        Ok(applied) => Outcome::Acknowledged { revision: applied.reply.revision, at: now() },
        Err(ProposeError::Indeterminate | ProposeError::Stopped) => Outcome::Unknown,
        Err(ProposeError::NoLeader | ProposeError::Overloaded) => Outcome::Refused,
        Err(error @ (ProposeError::Rejected(_) | ProposeError::TooLarge)) => {
            panic!("a put cannot be refused for good: {error}")
        }
    };
    shared.witness.note(&format!("{:?} m{at} put {key}={value}: {outcome:?}", now()));
    shared.history.lock().writes[place].outcome = outcome;
    match outcome {
        Outcome::Acknowledged { revision, .. } => Some(revision),
        Outcome::Unknown | Outcome::Refused => None,
    }
}

async fn read(at: usize, handle: &Handle, shared: &Shared, key: &str) {
    let begun = now();
    let range = Range { key: key.to_owned().into(), ..Range::default() };
    let Ok(reply) = handle.range(range, WITHIN).await else { return };
    let found = reply
        .kvs
        .into_iter()
        .next()
        .map(|kv| (String::from_utf8_lossy(&kv.value).into_owned(), kv.mod_revision));
    shared.witness.note(&format!("{:?} m{at} read {key}: {found:?} at {}", now(), reply.revision));
    let (key, revision) = (key.to_owned(), reply.revision);
    shared.history.lock().reads.push(Read { member: at, key, begun, at: now(), found, revision });
}

fn everything(start_revision: i64) -> WatchSpec {
    WatchSpec { key: "k".into(), range_end: "l".into(), start_revision, ..WatchSpec::default() }
}

/// Goes on where this member's last watcher was when it died.
async fn watch(at: usize, handle: Handle, shared: Rc<Shared>) {
    let last =
        shared.history.lock().watched.entry(at).or_default().last().map_or(0, |(revision, ..)| *revision);
    let mut watcher = handle.watch(everything(last + 1));
    while let Some(item) = watcher.next().await {
        match item {
            WatchItem::Events { events, .. } => {
                let mut history = shared.history.lock();
                let seen = history.watched.entry(at).or_default();
                seen.extend(events.iter().map(|event| change(event)));
            }
            WatchItem::Compacted { revision } => panic!("nothing compacts here, but {revision} is compacted"),
        }
    }
}

/// The network is whole again: every member gets a write through, then all tell what they have.
async fn finish(at: usize, handle: &Handle, members: usize, shared: &Shared) {
    loop {
        if let Some(revision) = put(at, handle, shared, "k-last").await {
            shared.finished.lock().insert(at, revision);
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    while shared.finished.lock().len() < members {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    while handle.read_barrier(WITHIN).await.is_err() {}
    let revision = handle.header().revision;
    let mut order: Vec<Change> = Vec::new();
    let mut watcher = handle.watch(everything(1));
    while order.last().is_none_or(|(last, ..)| *last < revision) {
        match watcher.next().await {
            Some(WatchItem::Events { events, .. }) => order.extend(events.iter().map(|event| change(event))),
            Some(WatchItem::Compacted { .. }) | None => break,
        }
    }
    let hash = handle.hash_kv(revision, WITHIN).await.map_or(0, |(hash, _)| hash);
    shared.ends.lock().insert(at, End { revision, hash, order });
}
