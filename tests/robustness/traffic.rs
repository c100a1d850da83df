//! What clients do all day: every kind of request, on few keys, so that they get into each other's way.
//!
//! Every value is written once by one request. That is what lets a checker say whose change it looks at, also when nobody
//! was told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use parking_lot::Mutex;
use tokio::sync::Barrier;

use crate::client::Client;
use crate::history::{BEGIN, BETWEEN, Body, Compare, END, Outcome, Request};

/// Few, so that requests meet.
pub(crate) const KEYS: usize = 12;
/// Behind them keys that nearly only leases take away: on the others something else would be written before a lease ends.
pub(crate) const LEASED_KEYS: usize = 8;

pub(crate) fn key(number: usize) -> String {
    format!("{BEGIN}{number:02}")
}

/// How long clients run between two reads of everything.
const STRETCH: Duration = Duration::from_millis(300);
/// And how many requests each may make, so that the search has windows that it can finish.
const MOST_IN_A_STRETCH: usize = 50;
/// Asked for; the least that etcd grants.
const TTL_S: i64 = 2;

/// All clients stop here together now and then.
pub(crate) struct Rhythm {
    barrier: Barrier,
    until: Mutex<Instant>,
    done: AtomicBool,
}

impl Rhythm {
    pub(crate) fn new(clients: usize) -> Arc<Rhythm> {
        Arc::new(Rhythm {
            barrier: Barrier::new(clients + 1),
            until: Mutex::new(Instant::now()),
            done: AtomicBool::new(false),
        })
    }

    /// Between the stretches: one client reads everything while nobody else asks. Ends with a read when `stop` is set.
    pub(crate) async fn conduct(&self, mut reader: Client, stop: &AtomicBool) {
        loop {
            read_everything(&mut reader).await;
            let done = stop.load(Ordering::Relaxed);
            *self.until.lock() = Instant::now() + STRETCH;
            self.done.store(done, Ordering::Relaxed);
            self.barrier.wait().await;
            if done {
                return;
            }
            self.barrier.wait().await;
        }
    }

    /// False: it is over.
    async fn next(&self) -> bool {
        self.barrier.wait().await;
        !self.done.load(Ordering::Relaxed)
    }

    async fn finish(&self) {
        self.barrier.wait().await;
    }

    fn goes_on(&self, asked: usize) -> bool {
        asked < MOST_IN_A_STRETCH && Instant::now() < *self.until.lock()
    }
}

/// Asks members until one answers; gives up after half a minute, which the checkers then see.
pub(crate) async fn read_everything(reader: &mut Client) {
    debug_assert_eq!(reader.id, BETWEEN);
    let until = Instant::now() + Duration::from_secs(30);
    while Instant::now() < until {
        if let Outcome::Answered(_) = reader.ask(everything()).await {
            return;
        }
        reader.go_elsewhere();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) fn everything() -> Request {
    Request::Range { key: BEGIN.to_owned(), end: END.to_owned(), revision: 0, serializable: false }
}

/// A client of keys.
pub(crate) struct Worker {
    pub(crate) client: Client,
    pub(crate) random: Rng,
    pub(crate) rhythm: Arc<Rhythm>,
    /// What it saw lately: key, value, revision.
    pub(crate) seen: Vec<(String, String, i64)>,
    pub(crate) newest: i64,
    pub(crate) written: usize,
}

impl Worker {
    pub(crate) async fn run(mut self) {
        while self.rhythm.next().await {
            let mut asked = 0;
            while self.rhythm.goes_on(asked) {
                asked += 1;
                let request = self.request();
                let outcome = self.client.ask(request).await;
                self.learn(&outcome).await;
                tokio::time::sleep(Duration::from_micros(self.random.u64(0..6_000))).await;
            }
            self.rhythm.finish().await;
        }
    }

    async fn learn(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Answered(answer) => {
                self.newest = self.newest.max(answer.revision);
                if let Body::Range { kvs, .. } = &answer.body {
                    for kv in kvs {
                        self.seen.retain(|(key, ..)| *key != kv.key);
                        self.seen.push((kv.key.clone(), kv.value.clone(), kv.modified));
                    }
                }
            }
            Outcome::Refused { .. } => {}
            Outcome::Unknown { .. } => {
                // Half of them stay, so that members that come back are asked at once.
                if self.random.bool() {
                    self.client.go_elsewhere();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    fn value(&mut self) -> String {
        self.written += 1;
        format!("{}-{}", self.client.id, self.written)
    }

    fn key(&mut self) -> String {
        key(self.random.usize(0..KEYS))
    }

    /// One key, half of them, or all.
    fn range(&mut self) -> (String, String) {
        match self.random.u8(0..3) {
            0 => (self.key(), String::new()),
            1 => (key(KEYS / 4), key(KEYS * 3 / 4)),
            _ => (BEGIN.to_owned(), END.to_owned()),
        }
    }

    fn put(&mut self, key: String) -> Request {
        Request::Put { key, value: self.value(), lease: 0, prev_kv: self.random.bool() }
    }

    fn request(&mut self) -> Request {
        match self.random.u8(0..100) {
            0..30 => {
                let key = self.key();
                self.put(key)
            }
            30..37 => Request::Delete { key: self.key(), end: String::new(), prev_kv: self.random.bool() },
            37..39 => {
                let begin = self.random.usize(0..KEYS - 2);
                Request::Delete { key: key(begin), end: key(begin + 3), prev_kv: self.random.bool() }
            }
            39..55 => {
                let (key, end) = self.range();
                Request::Range { key, end, revision: 0, serializable: false }
            }
            55..68 => {
                let (key, end) = self.range();
                Request::Range { key, end, revision: 0, serializable: true }
            }
            68..76 => {
                let (key, end) = self.range();
                let revision = (self.newest - self.random.i64(-2..150)).max(1);
                Request::Range { key, end, revision, serializable: self.random.bool() }
            }
            _ => self.txn(),
        }
    }

    fn txn(&mut self) -> Request {
        let read = |key: &str| Request::Range {
            key: key.to_owned(),
            end: String::new(),
            revision: 0,
            serializable: false,
        };
        let seen = self.random.choice(&self.seen).cloned();
        match (self.random.u8(0..4), seen) {
            // Compare and swap, by revision and by value.
            (0, Some((key, _, revision))) => Request::Txn {
                compares: vec![Compare::Mod { key: key.clone(), revision }],
                success: vec![self.put(key.clone())],
                failure: vec![read(&key)],
            },
            (1, Some((key, value, _))) => {
                let other = loop {
                    let other = self.key();
                    if other != key {
                        break other;
                    }
                };
                Request::Txn {
                    compares: vec![Compare::Value { key: key.clone(), value }],
                    success: vec![
                        Request::Delete { key: key.clone(), end: String::new(), prev_kv: true },
                        self.put(other),
                    ],
                    failure: vec![self.put(key.clone()), read(&key)],
                }
            }
            (2, _) => {
                let key = self.key();
                Request::Txn {
                    compares: vec![Compare::Absent { key: key.clone() }],
                    success: vec![self.put(key.clone())],
                    failure: vec![read(&key)],
                }
            }
            // Several keys at once: all of them or none.
            _ => {
                let first = self.random.usize(0..KEYS - 3);
                Request::Txn {
                    compares: Vec::new(),
                    success: vec![
                        read(&key(first)),
                        self.put(key(first)),
                        self.put(key(first + 1)),
                        Request::Delete { key: key(first + 2), end: String::new(), prev_kv: false },
                        read(&key(first + 1)),
                    ],
                    failure: Vec::new(),
                }
            }
        }
    }
}

/// A client of leases: some it keeps, some it revokes, some it forgets.
pub(crate) struct Tenant {
    pub(crate) client: Client,
    pub(crate) random: Rng,
    pub(crate) rhythm: Arc<Rhythm>,
    pub(crate) leases: Vec<i64>,
    /// Not renewed any more, but not forgotten.
    pub(crate) left: Vec<i64>,
    pub(crate) granted: i64,
    pub(crate) written: usize,
}

/// Leases of one client at a time.
const LEASES: usize = 3;

impl Tenant {
    pub(crate) async fn run(mut self) {
        while self.rhythm.next().await {
            let mut asked = 0;
            while self.rhythm.goes_on(asked) {
                asked += 1;
                let request = self.request();
                let outcome = self.client.ask(request.clone()).await;
                self.learn(&request, &outcome);
                if matches!(outcome, Outcome::Unknown { .. }) {
                    self.client.go_elsewhere();
                }
                tokio::time::sleep(Duration::from_millis(self.random.u64(5..40))).await;
            }
            self.rhythm.finish().await;
        }
    }

    fn learn(&mut self, request: &Request, outcome: &Outcome) {
        match (request, outcome) {
            (Request::Grant { lease, .. }, Outcome::Answered(_)) => self.leases.push(*lease),
            (Request::Revoke { lease }, _) => self.leases.retain(|other| other != lease),
            (Request::Renew { lease }, Outcome::Answered(answer)) => {
                if matches!(answer.body, Body::Lease { ttl_s: ..=0 }) {
                    self.leases.retain(|other| other != lease);
                }
            }
            _ => {}
        }
    }

    fn request(&mut self) -> Request {
        if self.leases.len() < LEASES && self.random.bool() {
            self.granted += 1;
            return Request::Grant {
                lease: i64::from(self.client.id) * 1_000_000 + self.granted,
                ttl_s: TTL_S,
            };
        }
        let held = self.random.choice(&self.leases).copied();
        let left = self.random.choice(&self.left).copied();
        match (self.random.u8(0..100), held, left) {
            // Forgotten: it ends by itself, and one is curious now and then.
            (0..6, Some(lease), _) => {
                self.leases.retain(|other| *other != lease);
                self.left.push(lease);
                self.put(lease)
            }
            (6..10, Some(lease), _) => Request::Revoke { lease },
            (10..13, _, Some(lease)) if self.left.len() > 1 => {
                self.left.retain(|other| *other != lease);
                Request::Renew { lease }
            }
            (13..16, _, Some(lease)) => self.put(lease),
            (16..50, Some(lease), _) => self.put(lease),
            (_, Some(lease), _) => Request::Renew { lease },
            (_, None, _) => self.put(0),
        }
    }

    fn put(&mut self, lease: i64) -> Request {
        self.written += 1;
        let value = format!("{}-{}", self.client.id, self.written);
        let number = if lease != 0 && self.random.bool() {
            KEYS + usize::try_from(lease).unwrap_or(0) % LEASED_KEYS
        } else {
            self.random.usize(0..KEYS)
        };
        Request::Put { key: key(number), value, lease, prev_kv: self.random.bool() }
    }
}

/// Compacts now and then what all watchers of everything have, so that the log stays whole.
pub(crate) async fn compact(
    client: Client,
    mut random: Rng,
    positions: Vec<Arc<AtomicI64>>,
    stop: Arc<AtomicBool>,
) {
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(random.u64(300..900))).await;
        let least = positions.iter().map(|position| position.load(Ordering::Relaxed)).min().unwrap_or(0);
        let revision = least - random.i64(20..120);
        if revision > 1 {
            client.ask(Request::Compact { revision }).await;
        }
    }
}
