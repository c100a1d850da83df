//! One run: three processes, clients, watchers, a story of faults, and the end at which everything has to be there.
//!
//! ```text
//!   traffic ─────────────── fault ─────────────── healed ── traffic ─┐
//!                                                                    ▼
//!   clients stop → leases end by themselves → one puts every key, then deletes every key
//!               → every watcher sees that → the members' hashes
//! ```
//!
//! The last two writes are for the watchers: whoever does not filter puts sees the one, whoever does sees the other, so that
//! "it never came" is a finding and not a matter of when one looked.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use quorate_tests::stores::Stores;
use tokio::task::JoinSet;

use crate::client::{Client, Recorder};
use crate::faults::Story;
use crate::history::{BEGIN, BETWEEN, Body, END, History, Outcome, Record, Request, Start};
use crate::traffic::{self, Rhythm, Tenant, Worker};
use crate::watcher::{End, Plan, Watcher};

/// Clients of keys.
const WORKERS: u32 = 6;
/// Clients of leases.
const TENANTS: u32 = 2;
/// Who compacts.
const COMPACTOR: u32 = 900;
/// How long the end may take: for leases to end, watchers to catch up, members to answer.
const SETTLE: Duration = Duration::from_secs(60);

/// Which store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum System {
    Quorate,
    /// Debian's.
    Etcd,
}

impl System {
    pub(crate) fn name(self) -> &'static str {
        match self {
            System::Quorate => "quorate",
            System::Etcd => "etcd",
        }
    }

    /// What is started, which a variable can change.
    fn program(self) -> String {
        let program = self.command().swap_remove(0);
        Path::new(&program).file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    }

    fn command(self) -> Vec<String> {
        match self {
            System::Quorate => quorate_tests::store_command(),
            System::Etcd => vec!["etcd".to_owned()],
        }
    }

    /// etcd 3.4 answers a request for progress with what the store has, not with what it has delivered (its issue 15220, mended
    /// in 3.4.25 and 3.5.8); Debian has 3.4.23.
    pub(crate) fn promises_progress(self) -> bool {
        match self {
            System::Quorate => true,
            System::Etcd => false,
        }
    }
}

/// What to run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) system: System,
    pub(crate) story: Story,
    pub(crate) seed: u64,
    /// Whether watchers ask for progress.
    pub(crate) progress: bool,
    /// How many answers before, within and after the fault, at least.
    pub(crate) around: usize,
}

/// What came out, and the processes' outputs, which are kept if the test fails while it holds them.
pub(crate) struct Run {
    pub(crate) history: History,
    pub(crate) stores: Stores,
}

pub(crate) async fn run(setup: Setup) -> Run {
    let Setup { system, story, seed, progress, around } = setup;
    let mut random = Rng::with_seed(seed);
    let mut stores = tokio::task::block_in_place(|| Stores::start_as(system.command(), &[]));
    let endpoints = stores.endpoints();
    let start = Start { system: system.program(), seed, members: endpoints.len() };
    let recorder = Recorder::new(Record::Start(start));
    let client = |id: u32, member: usize| Client::new(id, member, &endpoints, &recorder);

    let (end, ended) = tokio::sync::watch::channel(End::None);
    let streams = Arc::new(AtomicU32::new(0));
    let mut watchers = JoinSet::new();
    let mut positions = Vec::new();
    for plan in plans(&mut random, progress) {
        let position = Arc::new(AtomicI64::new(0));
        if plan.watcher < 3 {
            positions.push(Arc::clone(&position));
        }
        let watcher = Watcher {
            plan,
            endpoints: endpoints.clone(),
            recorder: recorder.clone(),
            streams: Arc::clone(&streams),
            position,
            end: ended.clone(),
            random: random.fork(),
        };
        watchers.spawn(watcher.run());
    }

    let rhythm = Rhythm::new((WORKERS + TENANTS) as usize);
    let mut clients = JoinSet::new();
    for id in 0..WORKERS {
        let worker = Worker {
            client: client(id, id as usize % 3),
            random: random.fork(),
            rhythm: Arc::clone(&rhythm),
            seen: Vec::new(),
            newest: 1,
            written: 0,
        };
        clients.spawn(worker.run());
    }
    for id in WORKERS..WORKERS + TENANTS {
        let tenant = Tenant {
            client: client(id, id as usize % 3),
            random: random.fork(),
            rhythm: Arc::clone(&rhythm),
            leases: Vec::new(),
            left: Vec::new(),
            granted: 0,
            written: 0,
        };
        clients.spawn(tenant.run());
    }
    let stop = Arc::new(AtomicBool::new(false));
    let compactor = traffic::compact(client(COMPACTOR, 0), random.fork(), positions, Arc::clone(&stop));
    clients.spawn(compactor);
    let (conductor, stopping) = (client(BETWEEN, 0), Arc::clone(&stop));
    clients.spawn(async move { rhythm.conduct(conductor, &stopping).await });

    tokio::task::block_in_place(|| story.play(&mut stores, &recorder, around));
    stop.store(true, Ordering::Relaxed);
    while let Some(client) = clients.join_next().await {
        client.expect("a client does not panic");
    }
    settle(&client, &end, watchers).await;
    for member in 0..endpoints.len() {
        tokio::task::block_in_place(|| stores.kill(member));
    }
    Run { history: recorder.history(), stores }
}

/// Three that see everything, one at each member, and all kinds of others.
fn plans(random: &mut Rng, progress: bool) -> Vec<Plan> {
    let mut plans = Vec::new();
    for watcher in 0..9 {
        let sees_everything = watcher < 3;
        let (key, end) = match watcher {
            0..5 => (BEGIN.to_owned(), END.to_owned()),
            5..7 => (traffic::key(2), traffic::key(9)),
            _ => (traffic::key(random.usize(0..traffic::KEYS)), String::new()),
        };
        plans.push(Plan {
            watcher,
            member: watcher as usize % 3,
            key,
            end,
            start: if sees_everything || random.bool() { 1 } else { 0 },
            prev_kv: watcher != 1 && watcher != 8,
            no_put: watcher == 3,
            no_delete: watcher == 4 || watcher == 6,
            fragment: watcher == 5,
            restless: !sees_everything,
            curious: progress && watcher != 0,
        });
    }
    plans
}

/// The end of the run.
async fn settle(
    client: &impl Fn(u32, usize) -> Client,
    end: &tokio::sync::watch::Sender<End>,
    mut watchers: JoinSet<()>,
) {
    let until = Instant::now() + SETTLE;
    // Nobody renews any more, so every lease has to end. The last answer of each member is kept, empty or not.
    for member in 0..3 {
        let one = client(BETWEEN + 2, member);
        loop {
            let late = Instant::now() > until;
            let is_last = |outcome: &Outcome| match outcome {
                Outcome::Answered(answer) => late || answer.body == Body::Leases { leases: Vec::new() },
                Outcome::Refused { .. } | Outcome::Unknown { .. } => false,
            };
            let outcome = one.ask_and(Request::Leases, is_last).await;
            if late || is_last(&outcome) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let mut last = client(BETWEEN, 0);
    traffic::read_everything(&mut last).await;
    let writer = client(BETWEEN + 3, 0);
    let all: Vec<Request> = (0..traffic::KEYS + traffic::LEASED_KEYS)
        .map(|number| Request::Put {
            key: traffic::key(number),
            value: format!("last-{number}"),
            lease: 0,
            prev_kv: true,
        })
        .collect();
    let put = Request::Txn { compares: Vec::new(), success: all, failure: Vec::new() };
    let delete = Request::Delete { key: BEGIN.to_owned(), end: END.to_owned(), prev_kv: true };
    let put = writer.ask(put).await;
    let delete = writer.ask(delete).await;
    traffic::read_everything(&mut last).await;
    let (Outcome::Answered(put), Outcome::Answered(deleted)) = (&put, &delete) else {
        panic!("the healed cluster takes no write: {put:?} {delete:?}");
    };
    end.send_replace(Some((put.revision, deleted.revision)));
    // Who does not come to the end is left: the checker sees what is missing.
    let everybody = async { while watchers.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(SETTLE, everybody).await;
    watchers.shutdown().await;
    for member in 0..3 {
        let one = client(BETWEEN + 4, member);
        while Instant::now() < until + SETTLE {
            if let Some(hash) = one.hash(deleted.revision).await {
                one.record(Record::Hash(hash));
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
