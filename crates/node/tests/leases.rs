//! Leases on real members: what remains survives changes of the leader, renewals are kept, and a leader that stood still
//! takes nothing from anybody.

mod common;

use std::io::BufRead;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::{Cluster, PATIENCE, STOP, eventually, get, get_all, insist, put, put_with_lease};
use parking_lot::Mutex;
use quorate_consensus::{Peers, Proposal, message};
use quorate_node::{Compaction, Config, Handle, Node, WatchItem, WatchSpec};
use quorate_state::Command;
use rustix::process::{Pid, Signal, kill_process};

async fn remaining(handle: &Handle, lease: i64) -> Duration {
    let found = handle.lease_time_to_live(lease, false, PATIENCE).await.expect("an answer");
    found.expect("the lease is alive").1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_remains_survives_a_change_of_the_leader() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let (second, third) = ((leader + 1) % 3, (leader + 2) % 3);
    let ttl = Duration::from_secs(6);
    let handle = cluster.handle(second);
    let left = handle.grant_lease(None, ttl, PATIENCE).await.expect("a lease");
    let held = handle.grant_lease(None, ttl, PATIENCE).await.expect("a lease");
    insist(&handle, put_with_lease("left", "x", left)).await;
    // One holder renews; the other is gone. A second after the half, what remains of its lease has been noted.
    while remaining(&handle, left).await > ttl / 2 - Duration::from_secs(1) {
        handle.renew_lease(held, PATIENCE).await.expect("an answer").expect("it is alive");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let sent = std::time::Instant::now();
    handle.renew_lease(held, PATIENCE).await.expect("an answer").expect("it is alive");
    for target in [second, third] {
        let id = cluster.handle(target).header().member_id;
        handle.move_leader(id, PATIENCE).await.expect("the leader moves");
        let of_left = handle.lease_time_to_live(left, false, PATIENCE).await.expect("an answer");
        if let Some((_, of_left, _)) = of_left {
            assert!(of_left <= ttl / 2, "{of_left:?} remain of the one that nobody renews");
        }
        let of_held = remaining(&handle, held).await;
        assert!(of_held + sent.elapsed() >= ttl, "{of_held:?} remain of the one that was renewed");
    }
    eventually("the lease that nobody renews ends", || async {
        get(&handle, "left", false).await.is_none().then_some(())
    })
    .await;
    // Neglected until it is noted too, then renewed after all: the next leader knows.
    while remaining(&handle, held).await > ttl / 2 - Duration::from_secs(1) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let sent = std::time::Instant::now();
    let renewal = handle.renew_lease(held, PATIENCE).await.expect("an answer").expect("it is alive");
    assert_eq!(renewal.ttl, ttl);
    cluster.kill(third);
    let of_held = remaining(&handle, held).await;
    assert!(of_held + sent.elapsed() >= ttl, "{of_held:?} remain of the one that was renewed again");
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_is_renewed_costs_no_entry() {
    let mut cluster = Cluster::start(3).await;
    let handle = cluster.handle(cluster.follower().await);
    let lease = handle.grant_lease(None, Duration::from_secs(6), PATIENCE).await.expect("a lease");
    eventually("everybody has announced itself", || async {
        handle.members().iter().all(|member| !member.name.is_empty()).then_some(())
    })
    .await;
    handle.read_barrier(PATIENCE).await.expect("a barrier");
    let before = handle.status().index;
    for _ in 0..16 {
        handle.renew_lease(lease, PATIENCE).await.expect("an answer").expect("it is alive");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    handle.read_barrier(PATIENCE).await.expect("a barrier");
    assert_eq!(handle.status().index, before, "renewals are not in the log");
    cluster.stop_all().await;
}

/// Renewals that race the end, on every member: who hears "renewed" keeps the key for the ttl, and who hears that there is
/// no such lease finds the key gone, not about to go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_that_races_the_end_is_decided_one_way() {
    let mut cluster = Cluster::start(3).await;
    let ttl = Duration::from_secs(2);
    let handle = cluster.handle(0);
    let mut racers = tokio::task::JoinSet::new();
    for n in 0..60_u64 {
        let handle = cluster.handle(usize::try_from(n % 3).expect("small"));
        racers.spawn(async move {
            let lease = handle.grant_lease(None, ttl, PATIENCE).await.expect("a lease");
            let key = format!("k{n:02}");
            insist(&handle, put_with_lease(&key, "x", lease)).await;
            // Around the end, which comes up to half a second after the ttl.
            let granted = handle.lease_time_to_live(lease, false, PATIENCE).await.expect("an answer");
            let left = granted.map_or(Duration::ZERO, |(_, left, _)| left);
            tokio::time::sleep(left + Duration::from_millis(2 * n)).await;
            let sent = tokio::time::Instant::now();
            let renewed = handle.renew_lease(lease, PATIENCE).await.expect("an answer").is_some();
            if renewed {
                tokio::time::sleep_until(sent + ttl - Duration::from_millis(300)).await;
                let kept = get(&handle, &key, false).await.is_some();
                assert!(kept || sent.elapsed() >= ttl, "{key} was renewed and went early");
            } else {
                assert_eq!(get(&handle, &key, false).await, None, "{key} has no lease and is there");
            }
            renewed
        });
    }
    let renewed = racers.join_all().await.into_iter().filter(|renewed| *renewed).count();
    eventually("all of them end", || async { handle_is_empty(&handle).await.then_some(()) }).await;
    assert!(renewed < 60, "not one of the renewals was late");
    cluster.stop_all().await;
}

async fn handle_is_empty(handle: &Handle) -> bool {
    get_all(handle, "k").await.is_empty()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_nobody_is_called_leader() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let followers = [(leader + 1) % 3, (leader + 2) % 3];
    let knows = |handle: Handle, led: bool| async move {
        eventually("the member knows whether there is a leader", || async {
            (handle.leadership().borrow().leader.is_some() == led).then_some(())
        })
        .await;
        let status = handle.status();
        assert_eq!(status.errors.contains(&"etcdserver: no leader".to_owned()), !led, "{status:?}");
        assert_eq!(status.leader.is_some(), led);
        let line = format!("etcd_server_has_leader {}", i32::from(led));
        assert!(handle.metrics().lines().any(|it| it == line), "no line {line:?}");
        assert!(handle.header().term > 0, "the term stays known");
    };
    // A leader whose followers are gone.
    followers.iter().for_each(|n| cluster.kill(*n));
    knows(cluster.handle(leader), false).await;
    for n in followers {
        cluster.start_one(n).await;
    }
    for n in 0..3 {
        knows(cluster.handle(n), true).await;
    }
    // A follower that is left alone.
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    (0..3).filter(|n| *n != follower && *n != leader).for_each(|n| cluster.kill(n));
    knows(cluster.handle(follower), true).await;
    cluster.kill(leader);
    knows(cluster.handle(follower), false).await;
    cluster.start_one(leader).await;
    knows(cluster.handle(follower), true).await;
    cluster.stop_all().await;
}

// --- a member in a process of its own, which can be stopped ------------------------------------------------------------

const MEMBER: &str = "QUORATE_TEST_MEMBER";

/// Not a test but the process that the tests below start and stop. Says who it is, then every event of "k".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::print_stdout, reason = "this is what the parent reads")]
async fn member_of_its_own() {
    let Ok(told) = std::env::var(MEMBER) else { return };
    let mut told = told.split(' ');
    let mut next = || told.next().expect("a word").to_owned();
    let (name, dir) = (next(), PathBuf::from(next()));
    let mut config = Config::single(&name, dir);
    config.peer_listen = vec![next()];
    config.peer_advertise = next();
    config.compaction = Compaction::Off;
    config.snapshot_count = next().parse().expect("a number");
    config.initial_cluster = told
        .map(|member| member.split_once('=').expect("name=url"))
        .map(|(name, url)| (name.to_owned(), url.to_owned()))
        .collect();
    let node = Node::start(config).await.expect("the member starts");
    let handle = node.handle();
    let spec =
        WatchSpec { key: "k".into(), range_end: "l".into(), start_revision: 1, ..WatchSpec::default() };
    let mut watcher = handle.watch(spec);
    let header = handle.header();
    println!("\nmember {} {}", header.cluster_id, header.member_id);
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
    let told = async {
        while let Some(WatchItem::Events { events, .. }) = watcher.next().await {
            for event in events {
                println!("event {}", event.kv.mod_revision);
            }
        }
    };
    tokio::select! {
        _ = ended => {}
        () = told => {}
    }
    node.shutdown(STOP).await;
}

struct Process {
    child: Child,
    _stdin: ChildStdin,
    cluster: u64,
    id: u64,
    url: String,
    /// Revisions of the events that its watch saw.
    seen: Arc<Mutex<Vec<i64>>>,
}

impl Process {
    /// Member `n` of `cluster`. Blocks until it runs, so the others must be starting elsewhere.
    async fn start(config: Config) -> Process {
        tokio::task::spawn_blocking(move || Process::start_here(&config)).await.expect("the process starts")
    }

    fn start_here(config: &Config) -> Process {
        let members: Vec<String> =
            config.initial_cluster.iter().map(|(name, url)| format!("{name}={url}")).collect();
        let told = [
            config.name.clone(),
            config.data_dir.display().to_string(),
            config.peer_listen[0].clone(),
            config.peer_advertise.clone(),
            config.snapshot_count.to_string(),
            members.join(" "),
        ];
        let mut child = std::process::Command::new(std::env::current_exe().expect("this program"))
            .args(["member_of_its_own", "--exact", "--nocapture"])
            .env(MEMBER, told.join(" "))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let stdin = child.stdin.take().expect("its input");
        let mut lines = std::io::BufReader::new(child.stdout.take().expect("its output")).lines();
        let (cluster, id) = loop {
            let line = lines.next().expect("the process runs").expect("text");
            if let Some(ids) = line.strip_prefix("member ") {
                let (cluster, id) = ids.split_once(' ').expect("two ids");
                break (cluster.parse().expect("a number"), id.parse().expect("a number"));
            }
        };
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&seen);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some(revision) = line.strip_prefix("event ") {
                    noted.lock().push(revision.parse().expect("a revision"));
                }
            }
        });
        Process { child, _stdin: stdin, cluster, id, url: config.peer_advertise.clone(), seen }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the process is there");
    }

    /// Asks until there is an answer that is none of Raft's refusals.
    async fn ask(&self, peers: &Peers, question: message::question::Question) -> message::answer::Answer {
        eventually("the process answers", || async {
            let asked = peers.ask(self.cluster, self.id, &self.url, question.clone(), PATIENCE).await;
            match asked.ok()?.answer? {
                message::answer::Answer::Failure(_) => None,
                answer => Some(answer),
            }
        })
        .await
    }

    async fn propose(&self, peers: &Peers, command: Command) {
        let payload = Proposal::encode(&command).bytes();
        self.ask(peers, message::question::Question::Propose(message::Propose { payload })).await;
    }

    async fn renew(&self, peers: &Peers, id: i64) -> bool {
        let question = message::question::Question::RenewLease(message::RenewLease { id });
        match self.ask(peers, question).await {
            message::answer::Answer::Lease(found) => found.found,
            other => panic!("an answer of another kind: {other:?}"),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Ours, by its id; a stopped one too.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const LEASES: i64 = 300;

/// The whole store stands still for longer than the ttl, and the renewals wait in its socket.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_stood_still_hears_the_renewals_first() {
    let cluster = Cluster::plan(1);
    let process = Arc::new(Process::start(cluster.configs[0].clone()).await);
    let peers = Peers::new();
    let mut grants = tokio::task::JoinSet::new();
    for id in 1..=LEASES + 20 {
        let (process, peers) = (Arc::clone(&process), peers.clone());
        grants.spawn(async move { process.propose(&peers, Command::lease_grant(id, 3000, 7)).await });
    }
    grants.join_all().await;
    process.signal(Signal::STOP);
    let renewals: Vec<_> = (1..=LEASES)
        .map(|id| {
            let (process, peers) = (Arc::clone(&process), peers.clone());
            tokio::spawn(async move { (id, process.renew(&peers, id).await) })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(5)).await;
    process.signal(Signal::CONT);
    for renewal in renewals {
        let (id, renewed) = renewal.await.expect("an answer");
        assert!(renewed, "lease {id} was taken from a holder that could not be heard");
    }
    // Those that nobody renews end nevertheless.
    for id in LEASES + 1..=LEASES + 20 {
        eventually("the lease of a holder that is gone ends", || async {
            let question = message::question::Question::LeaseTimeToLive(message::LeaseTimeToLive { id });
            match process.ask(&peers, question).await {
                message::answer::Answer::Lease(found) => (!found.found).then_some(()),
                other => panic!("an answer of another kind: {other:?}"),
            }
        })
        .await;
    }
}

/// The leader stands still, another one takes the renewals, and the first one wakes up believing that everything is over.
/// It is so far behind by then that it gets a snapshot; the watch on it misses nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stood_still_takes_no_lease_and_misses_no_event() {
    let mut cluster = Cluster::plan(3);
    for config in &mut cluster.configs {
        config.snapshot_count = 50;
    }
    let starting = tokio::spawn(Process::start(cluster.configs[2].clone()));
    let (first, second) =
        tokio::join!(Node::start(cluster.configs[0].clone()), Node::start(cluster.configs[1].clone()),);
    cluster.nodes[0] = Some(first.expect("a member starts"));
    cluster.nodes[1] = Some(second.expect("a member starts"));
    let process = starting.await.expect("the process starts");
    let handle = cluster.handle(0);
    handle.move_leader(process.id, PATIENCE).await.expect("the leader moves");
    let ttl = Duration::from_secs(3);
    let grants = (0..40).map(|n| {
        let handle = handle.clone();
        async move {
            let lease = handle.grant_lease(None, ttl, PATIENCE).await.expect("a lease");
            insist(&handle, put_with_lease(&format!("held{n}"), "x", lease)).await;
            lease
        }
    });
    let leases = futures_util::future::join_all(grants).await;
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let holders: Vec<_> = leases
        .iter()
        .map(|lease| {
            let (handle, lease, stop) = (cluster.handle(1), *lease, Arc::clone(&stop));
            tokio::spawn(async move {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let renewed = handle.renew_lease(lease, PATIENCE).await.expect("an answer");
                    assert!(renewed.is_some(), "a lease that was renewed all the time is gone");
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
            })
        })
        .collect();
    insist(&handle, put("k", "before")).await;
    process.signal(Signal::STOP);
    eventually("another one leads", || async {
        handle.leadership().borrow().leader.filter(|leader| *leader != process.id)
    })
    .await;
    for n in 0..300 {
        insist(&handle, put("k", &n.to_string())).await;
    }
    tokio::time::sleep(ttl).await;
    process.signal(Signal::CONT);
    insist(&handle, put("k", "after")).await;
    let all = eventually("the watch on it has seen everything", || async {
        let seen = process.seen.lock().clone();
        (seen.len() >= 302).then_some(seen)
    })
    .await;
    assert!(all.windows(2).all(|pair| pair[0] < pair[1]), "in order, nothing twice: {all:?}");
    assert_eq!(all.len(), 302, "and nothing more than was written");
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for holder in holders {
        holder.await.expect("its lease was there all the time");
    }
    assert_eq!(get_all(&handle, "held").await.len(), leases.len());
    drop(process);
    cluster.stop_all().await;
}
