//! Watches under everything at once, checked against what was written: writers on three members, watchers with random
//! ranges, starts, filters and speeds that go away and come back, compactions, a leader killed and restarted.
//!
//! The truth is what the writers were answered, and a watch of everything that is never interrupted; the two must agree,
//! and every revision must be in it. Then each watcher must have received exactly what its request matches, in order,
//! once, from its start to where it was told it is, except for what a compaction took before it came back.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Cluster, PATIENCE, eventually};
use parking_lot::Mutex;
use quorate_wire::etcdserverpb::kv_client::KvClient;
use quorate_wire::etcdserverpb::watch_client::WatchClient;
use quorate_wire::etcdserverpb::*;
use quorate_wire::mvccpb::{Event, KeyValue, event};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

const WATCHERS: u64 = 16;
const WRITERS: u64 = 3;

/// What happened to a key at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Change {
    key: String,
    /// None: deleted.
    value: Option<String>,
}

type History = BTreeMap<i64, Vec<Change>>;

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

fn change(event: &Event) -> (i64, Change) {
    let kv = event.kv.as_ref().expect("a key");
    let value = (event.r#type() == event::EventType::Put).then(|| text(&kv.value));
    (kv.mod_revision, Change { key: text(&kv.key), value })
}

/// The members that run, by their client addresses.
#[derive(Clone)]
struct Alive(Arc<Mutex<Vec<String>>>);

impl Alive {
    /// A connection to one of them, or not.
    async fn any(&self, random: &mut fastrand::Rng) -> Option<Channel> {
        let address = {
            let alive = self.0.lock();
            alive[random.usize(0..alive.len())].clone()
        };
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("a URL");
        endpoint.connect_timeout(Duration::from_secs(1)).connect().await.ok()
    }
}

fn put_op(key: &str, value: &str) -> RequestOp {
    let put = PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() };
    RequestOp { request: Some(request_op::Request::RequestPut(put)) }
}

fn delete_op(key: &str) -> RequestOp {
    let delete = DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() };
    RequestOp { request: Some(request_op::Request::RequestDeleteRange(delete)) }
}

fn key(random: &mut fastrand::Rng) -> String {
    format!("{}/{}", random.choice(["a", "ab", "b"]).expect("one"), random.u8(0..4))
}

/// Transactions of one to three keys; returns the puts that were acknowledged, by revision.
async fn write(seed: u64, alive: Alive, stop: Arc<AtomicBool>) -> Vec<(i64, Change)> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut acknowledged = Vec::new();
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        let Some(channel) = alive.any(&mut random).await else { continue };
        let mut kv = KvClient::new(channel);
        for _ in 0..random.usize(1..40) {
            let mut ops = BTreeMap::new();
            for _ in 0..random.usize(1..4) {
                n += 1;
                let value = (random.u8(0..4) > 0).then(|| format!("{seed}-{n}"));
                ops.insert(key(&mut random), value);
            }
            let success = ops.iter().map(|(key, value)| match value {
                Some(value) => put_op(key, value),
                None => delete_op(key),
            });
            let txn = TxnRequest { success: success.collect(), ..Default::default() };
            let answer = tokio::time::timeout(Duration::from_secs(2), kv.txn(txn)).await;
            let Ok(Ok(answer)) = answer else { break };
            let revision = answer.into_inner().header.expect("a header").revision;
            let puts = ops.into_iter().filter(|(_, value)| value.is_some());
            acknowledged.extend(puts.map(|(key, value)| (revision, Change { key, value })));
        }
    }
    acknowledged
}

/// What one watcher asked for, and what it got.
struct Watched {
    spec: WatchCreateRequest,
    /// Where its account begins and ends, both inclusive.
    from: i64,
    to: i64,
    seen: Vec<(i64, Change, Option<KeyValue>)>,
    /// (revision, how many events had been seen when it was promised that everything up to it was).
    promises: Vec<(i64, usize)>,
    /// Revisions [from, to) that a compaction took.
    lost: Vec<(i64, i64)>,
}

impl Watched {
    fn new(spec: WatchCreateRequest, from: i64) -> Watched {
        Watched { spec, from, to: from - 1, seen: Vec::new(), promises: Vec::new(), lost: Vec::new() }
    }

    fn matches(&self, change: &Change) -> bool {
        let key = change.key.as_bytes();
        let inside = match &self.spec.range_end[..] {
            [] => key == &self.spec.key[..],
            [0] => key >= &self.spec.key[..],
            end => key >= &self.spec.key[..] && key < end,
        };
        let kind = if change.value.is_some() {
            watch_create_request::FilterType::Noput
        } else {
            watch_create_request::FilterType::Nodelete
        };
        inside && !self.spec.filters.contains(&(kind as i32))
    }

    /// Follows one stream for a while. True: it has been told that it is at `until`.
    async fn follow(&mut self, channel: Channel, random: &mut fastrand::Rng, until: Option<i64>) -> bool {
        let (requests, queue) = mpsc::channel(16);
        let mut client = WatchClient::new(channel).max_decoding_message_size(64 << 20);
        let Ok(answer) = client.watch(ReceiverStream::new(queue)).await else { return false };
        let mut responses: Streaming<WatchResponse> = answer.into_inner();
        let request = |union| WatchRequest { request_union: Some(union) };
        let create = WatchCreateRequest { start_revision: self.to + 1, watch_id: 7, ..self.spec.clone() };
        let create = request(watch_request::RequestUnion::CreateRequest(create));
        let progress = || request(watch_request::RequestUnion::ProgressRequest(WatchProgressRequest {}));
        if requests.send(create.clone()).await.is_err() {
            return false;
        }
        let mut created = false;
        let mut fragments = Vec::new();
        let patience = if until.is_some() { 400 } else { random.usize(1..60) };
        for _ in 0..patience {
            if random.u8(0..4) == 0 || until.is_some() {
                let _ = requests.send(progress()).await;
            }
            if random.u8(0..20) == 0 && until.is_none() {
                // A slow reader.
                tokio::time::sleep(Duration::from_millis(random.u64(1..150))).await;
            }
            let next = tokio::time::timeout(Duration::from_millis(100), responses.message()).await;
            let response = match next {
                Ok(Ok(Some(response))) => response,
                Ok(Ok(None) | Err(_)) => return false,
                Err(_) => continue,
            };
            if response.created {
                assert!(!created, "created once");
                created = true;
                continue;
            }
            let at = response.header.expect("a header").revision;
            if response.canceled {
                assert!(created && response.compact_revision > self.to + 1, "{response:?}");
                self.lost.push((self.to + 1, response.compact_revision));
                self.to = response.compact_revision - 1;
                return false;
            }
            assert!(created, "created comes first: {response:?}");
            if response.watch_id == -1 {
                self.promises.push((at, self.seen.len()));
                self.to = self.to.max(at);
                assert!(fragments.is_empty(), "in the middle of a response");
                if until.is_some_and(|until| self.to >= until) {
                    return true;
                }
                continue;
            }
            assert_eq!(response.watch_id, 7);
            fragments.extend(response.events);
            if response.fragment {
                continue;
            }
            for event in fragments.drain(..) {
                let (revision, change) = change(&event);
                assert!(revision > self.to, "revision {revision} after everything up to {}", self.to);
                self.seen.push((revision, change, event.prev_kv));
            }
            // As clients do: what the last event says. The header may say more and is no promise about others.
            self.to = self.seen.last().map_or(self.to, |(revision, ..)| self.to.max(*revision));
            if random.u8(0..30) == 0 && until.is_none() {
                // Cancelled and created anew under the same number: the old one says its last word first.
                let cancel = WatchCancelRequest { watch_id: 7 };
                let cancel = request(watch_request::RequestUnion::CancelRequest(cancel));
                let _ = requests.send(cancel).await;
                let _ = requests.send(create.clone()).await;
                loop {
                    match tokio::time::timeout(PATIENCE, responses.message()).await.expect("in time") {
                        Ok(Some(response)) if response.canceled => break,
                        Ok(Some(response)) => assert!(!response.created, "before the old one has gone"),
                        Ok(None) | Err(_) => return false,
                    }
                }
                loop {
                    match tokio::time::timeout(PATIENCE, responses.message()).await.expect("in time") {
                        // An answer to a progress request may still be under way.
                        Ok(Some(response)) if response.watch_id == -1 && !response.created => {}
                        Ok(Some(response)) => {
                            assert!(response.created && !response.canceled, "{response:?}");
                            break;
                        }
                        Ok(None) | Err(_) => return false,
                    }
                }
                return false;
            }
        }
        false
    }

    fn check(&self, truth: &History, seed: u64) {
        if self.to < self.from {
            assert!(self.seen.is_empty(), "seed {seed}: nothing before the start");
            return;
        }
        let due: Vec<(i64, &Change)> = truth
            .range(self.from..=self.to)
            .flat_map(|(revision, changes)| changes.iter().map(|change| (*revision, change)))
            .filter(|(_, change)| self.matches(change))
            .collect();
        let lost = |revision: i64| self.lost.iter().any(|(from, to)| (*from..*to).contains(&revision));
        let seen: Vec<(i64, &Change)> =
            self.seen.iter().map(|(revision, change, _)| (*revision, change)).collect();
        let wanted: Vec<(i64, &Change)> = due.iter().copied().filter(|(at, _)| !lost(*at)).collect();
        assert_eq!(
            seen, wanted,
            "seed {seed}, {:?} from {} to {}, lost {:?}",
            self.spec, self.from, self.to, self.lost
        );
        for (promised, count) in &self.promises {
            let late = self.seen[*count..].iter().find(|(revision, ..)| revision <= promised);
            assert!(
                late.is_none(),
                "seed {seed}: {late:?} came after everything up to {promised} was promised"
            );
        }
        for (revision, change, prev) in &self.seen {
            let Some(prev) = prev else { continue };
            assert!(self.spec.prev_kv, "nobody asked for it");
            let before = truth.range(..*revision).rev().find_map(|(at, changes)| {
                let it = changes.iter().find(|it| it.key == change.key)?;
                Some((*at, it.value.clone()))
            });
            assert_eq!(before, Some((prev.mod_revision, Some(text(&prev.value)))), "before {revision}");
        }
    }
}

fn spec(random: &mut fastrand::Rng) -> WatchCreateRequest {
    let ranges =
        [("a/", "a0"), ("a", "b"), ("ab/", "ab0"), ("a/1", ""), ("b/2", ""), ("a/2", "b/1"), ("\0", "\0")];
    let (key, range_end) = *random.choice(&ranges).expect("one");
    let filters = match random.u8(0..5) {
        0 => vec![watch_create_request::FilterType::Noput as i32],
        1 => vec![watch_create_request::FilterType::Nodelete as i32],
        _ => Vec::new(),
    };
    WatchCreateRequest {
        key: key.into(),
        range_end: range_end.into(),
        filters,
        prev_kv: random.bool(),
        fragment: random.bool(),
        ..Default::default()
    }
}

async fn watch(seed: u64, alive: Alive, stop: Arc<AtomicBool>, end: Arc<Mutex<Option<i64>>>) -> Watched {
    let mut random = fastrand::Rng::with_seed(seed);
    // From the beginning, or from somewhere that may still be in the future.
    let from = if random.bool() { 2 } else { random.i64(2..600) };
    let mut watched = Watched::new(spec(&mut random), from);
    loop {
        let end = if stop.load(Ordering::Relaxed) { *end.lock() } else { None };
        if end.is_some_and(|end| end < watched.from) {
            return watched;
        }
        let Some(channel) = alive.any(&mut random).await else { continue };
        if watched.follow(channel, &mut random, end).await {
            return watched;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_watcher_gets_what_was_written() {
    let seed = fastrand::u64(..1_000_000);
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let witness = cluster.follower().await;
    let alive = Alive(Arc::new(Mutex::new(cluster.clients.clone())));

    // The witness sees everything, from the beginning, on a member that is never killed.
    let (requests, queue) = mpsc::channel(1);
    let answer = WatchClient::new(cluster.channel(witness).await).watch(ReceiverStream::new(queue)).await;
    let mut everything = answer.expect("a stream").into_inner();
    let all = WatchCreateRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        start_revision: 1,
        ..Default::default()
    };
    let create = watch_request::RequestUnion::CreateRequest(all);
    requests.send(WatchRequest { request_union: Some(create) }).await.expect("an open stream");
    let truth = Arc::new(Mutex::new(History::new()));
    let noted = Arc::clone(&truth);
    let listening = tokio::spawn(async move {
        while let Ok(Some(response)) = everything.message().await {
            let mut noted = noted.lock();
            assert!(!response.canceled, "{response:?}");
            for event in &response.events {
                let (revision, change) = change(event);
                noted.entry(revision).or_default().push(change);
            }
        }
    });

    let stop = Arc::new(AtomicBool::new(false));
    let stop_watching = Arc::new(AtomicBool::new(false));
    let end = Arc::new(Mutex::new(None));
    let writers: Vec<_> =
        (0..WRITERS).map(|n| tokio::spawn(write(seed + n, alive.clone(), Arc::clone(&stop)))).collect();
    let watchers: Vec<_> = (0..WATCHERS)
        .map(|n| {
            let watching = watch(seed + 100 + n, alive.clone(), Arc::clone(&stop_watching), Arc::clone(&end));
            tokio::spawn(watching)
        })
        .collect();
    let mut random = fastrand::Rng::with_seed(seed + 1000);
    let mut kv = KvClient::new(cluster.channel(witness).await);
    for round in 0..9 {
        let before = cluster.handle(witness).header().revision;
        eventually("writes go on", || async {
            (cluster.handle(witness).header().revision > before + 40).then_some(())
        })
        .await;
        let revision = (before - random.i64(0..60)).max(1);
        // It may be compacted already, and there may be no leader at the moment.
        let _ = kv.compact(CompactionRequest { revision, physical: random.bool() }).await;
        if round == 3 {
            alive.0.lock().retain(|address| *address != cluster.clients[leader]);
            cluster.kill(leader);
        }
        if round == 6 {
            cluster.restart(leader).await;
            alive.0.lock().push(cluster.clients[leader].clone());
        }
    }
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.expect("a writer"));
    }
    let last =
        kv.put(PutRequest { key: "z".into(), ..Default::default() }).await.expect("a put").into_inner();
    let last = last.header.expect("a header").revision;
    eventually("the witness has seen everything", || async {
        truth.lock().contains_key(&last).then_some(())
    })
    .await;
    let truth = truth.lock().clone();
    assert!(truth.keys().copied().eq(2..=last), "seed {seed}: every revision has its events, once");
    for (revision, change) in acknowledged {
        let there = truth.get(&revision).is_some_and(|changes| changes.contains(&change));
        assert!(there, "seed {seed}: {change:?} was acknowledged at {revision} and is not there");
    }
    *end.lock() = Some(last);
    stop_watching.store(true, Ordering::Relaxed);
    let mut events = 0;
    for watcher in watchers {
        let watched = tokio::time::timeout(PATIENCE, watcher).await;
        let watched =
            watched.unwrap_or_else(|_| panic!("seed {seed}: a watcher never gets there")).expect("a watcher");
        watched.check(&truth, seed);
        events += watched.seen.len();
    }
    assert!(events > 500, "seed {seed}: {events} events are no test");
    listening.abort();
    cluster.stop().await;
}
