//! Three members over gRPC: elections, kills, restarts, leases and watches across changes of the leader.
//! Times and rates are printed, not judged.
#![allow(clippy::print_stderr, reason = "measured values are part of the output")]

mod common;

use std::time::Duration;

use common::{Cluster, PATIENCE, STOP, events, eventually, get, get_all, insist, put, put_with_lease};
use quorate_consensus::{AskError, Peers, message};
use quorate_node::{Node, ReadError, WatchSpec};
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_member_takes_any_request() {
    let mut cluster = Cluster::start(3).await;
    let follower = cluster.follower().await;
    let applied = insist(&cluster.handle(follower), put("k", "from a follower")).await;
    assert!(applied.term > 0 && applied.index > 0);
    // Read-your-writes without asking the leader; elsewhere after a barrier.
    assert_eq!(get(&cluster.handle(follower), "k", true).await.as_deref(), Some("from a follower"));
    for (n, handle) in cluster.running() {
        handle.read_barrier(PATIENCE).await.expect("a barrier");
        assert_eq!(get(&handle, "k", true).await.as_deref(), Some("from a follower"), "member {n}");
    }
    // Everybody announces itself, and everybody knows.
    for (_, handle) in cluster.running() {
        eventually("names and client URLs are known everywhere", || async {
            let members = handle.members();
            let named = members.iter().all(|member| !member.name.is_empty() && member.client_urls.len() == 1);
            (members.len() == 3 && named).then_some(())
        })
        .await;
        assert!(handle.members().iter().all(|member| !member.is_learner));
    }
    let hashes: Vec<_> = {
        let revision = cluster.handle(0).header().revision;
        let mut hashes = Vec::new();
        for (_, handle) in cluster.running() {
            handle.read_barrier(PATIENCE).await.expect("a barrier");
            hashes.push(handle.hash_kv(revision, PATIENCE).await.expect("a hash"));
        }
        hashes
    };
    assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "{hashes:?}");
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_loses_nothing_and_no_watch_notices() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let survivor = (0..3).find(|n| *n != leader).expect("two others");
    let handle = cluster.handle(survivor);
    let mut watcher =
        handle.watch(WatchSpec { key: "k".into(), range_end: "l".into(), ..WatchSpec::default() });
    for n in 0..50 {
        insist(&cluster.handle(leader), put(&format!("k{n:03}"), "before")).await;
    }
    let killed = Instant::now();
    cluster.kill(leader);
    insist(&handle, put("k050", "after")).await;
    eprintln!("first put after the leader was killed: {:?}", killed.elapsed());
    let new = cluster.leader().await;
    assert_ne!(new, leader);
    for n in 51..100 {
        insist(&handle, put(&format!("k{n:03}"), "after")).await;
    }
    assert_eq!(get_all(&handle, "k").await.len(), 100);
    let seen = events(&mut watcher, 100).await;
    let revisions: Vec<i64> = seen.iter().map(|event| event.kv.mod_revision).collect();
    assert!(revisions.windows(2).all(|pair| pair[0] < pair[1]), "in order and nothing twice");
    let mut keys: Vec<_> = seen.iter().map(|event| event.kv.key.clone()).collect();
    keys.dedup();
    assert!(keys.len() == 100, "every key once");

    // The dead one comes back on its directory and catches up.
    cluster.start_one(leader).await;
    assert_eq!(get_all(&cluster.handle(leader), "k").await.len(), 100);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_three_killed_at_once_come_back_with_everything() {
    let mut cluster = Cluster::start(3).await;
    let handle = cluster.handle(0);
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let handle = handle.clone();
        writers.spawn(async move {
            for n in 0..25 {
                insist(&handle, put(&format!("k{writer}-{n:02}"), "x")).await;
            }
        });
    }
    writers.join_all().await;
    let revision = handle.header().revision;
    let term = handle.header().term;
    drop(handle);
    for n in 0..3 {
        cluster.kill(n);
    }
    cluster.start_all().await;
    for (n, handle) in cluster.running() {
        assert_eq!(get_all(&handle, "k").await.len(), 200, "member {n}");
        assert_eq!(handle.header().revision, revision, "member {n}");
        assert!(handle.header().term > term, "a restarted leader asks for votes again");
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_moves_when_asked_and_on_shutdown() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let target = (0..3).find(|n| *n != leader).expect("two others");
    let asked = (0..3).find(|n| *n != leader && *n != target).expect("a third");
    let target_id = cluster.handle(target).header().member_id;
    let started = Instant::now();
    cluster.handle(asked).move_leader(target_id, PATIENCE).await.expect("the leader moves");
    eprintln!("leadership moved in {:?}", started.elapsed());
    assert_eq!(cluster.leader().await, target);

    let started = Instant::now();
    cluster.stop(target).await;
    let put_again = insist(&cluster.handle(asked), put("k", "v")).await;
    eprintln!("shutdown of the leader until the next put: {:?}", started.elapsed());
    assert!(put_again.term > 0);
    assert_ne!(cluster.leader().await, target);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_the_leader_only_lengthens_a_lease() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let follower = (0..3).find(|n| *n != leader).expect("two others");
    let handle = cluster.handle(follower);
    let ttl = Duration::from_secs(3);
    let lease = handle.grant_lease(None, ttl, PATIENCE).await.expect("a lease");
    insist(&handle, put_with_lease("leased", "x", lease)).await;
    // Renewed through a follower.
    assert_eq!(
        handle.renew_lease(lease, PATIENCE).await.expect("an answer").map(|renewal| renewal.ttl),
        Some(ttl)
    );
    let renewed = Instant::now();
    cluster.kill(leader);
    // Whatever happens, the holder that renewed at `renewed` keeps the key until `renewed + ttl`.
    let gone = eventually("the lease expires under the new leader", || async {
        get(&handle, "leased", false).await.is_none().then(Instant::now)
    })
    .await;
    assert!(gone - renewed >= ttl, "it lived for {:?}", gone - renewed);
    assert!(handle.leases(PATIENCE).await.expect("leases").is_empty());
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_nothing_is_confirmed() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    insist(&cluster.handle(leader), put("k", "v")).await;
    let lease =
        cluster.handle(leader).grant_lease(None, Duration::from_secs(60), PATIENCE).await.expect("a lease");
    let others: Vec<usize> = (0..3).filter(|n| *n != leader).collect();
    for n in &others {
        cluster.kill(*n);
    }
    let handle = cluster.handle(leader);
    let second = Duration::from_secs(1);
    let read = handle.read_barrier(second).await;
    assert!(matches!(read, Err(ReadError::TimedOut | ReadError::NoLeader)), "{read:?}");
    let renewed = handle.renew_lease(lease, second).await;
    assert!(matches!(renewed, Err(ReadError::TimedOut | ReadError::NoLeader)), "{renewed:?}");
    assert!(handle.propose(put("k", "w"), second).await.is_err());
    assert_eq!(get(&handle, "k", true).await.as_deref(), Some("v"), "a serializable read still answers");
    // One comes back: a quorum.
    cluster.start_one(others[0]).await;
    insist(&handle, put("k", "x")).await;
    assert!(handle.renew_lease(lease, PATIENCE).await.expect("an answer").is_some());
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_clusters_member_is_refused() {
    let mut cluster = Cluster::start(3).await;
    insist(&cluster.handle(0), put("k", "v")).await;
    cluster.stop(2).await;
    // The same addresses, another token, an empty directory.
    let mut stranger = cluster.configs[2].clone();
    stranger.cluster_token = "another".to_owned();
    stranger.data_dir = cluster.root.path().join("stranger");
    let error = Node::start(stranger).await.err().expect("a stranger was taken in").to_string();
    assert!(error.contains("another cluster") && error.contains("etcd-cluster"), "{error}");
    cluster.start_one(2).await;
    assert_eq!(get(&cluster.handle(2), "k", false).await.as_deref(), Some("v"));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_for_somebody_else_is_refused_unread() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let header = cluster.handle(leader).header();
    let url = &cluster.configs[leader].peer_advertise;
    let peers = Peers::new();
    let ask = |cluster: u64, target: u64| {
        let question = message::question::Question::ReadIndex(message::ReadIndex {});
        peers.ask(cluster, target, url, question, PATIENCE)
    };
    let answer = ask(header.cluster_id, header.member_id).await.expect("the right one answers");
    assert!(matches!(answer.answer, Some(message::answer::Answer::ReadAt(_))), "{answer:?}");
    for (cluster_id, member_id, named) in [
        (header.cluster_id + 1, header.member_id, "quorate-cluster"),
        (header.cluster_id, header.member_id + 1, "quorate-target"),
    ] {
        match ask(cluster_id, member_id).await {
            Err(AskError::Refused(why)) => assert!(why.contains(named), "{why}"),
            other => panic!("instead of a refusal: {other:?}"),
        }
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_share_appends() {
    let mut cluster = Cluster::start(3).await;
    let handle = cluster.handle(cluster.follower().await);
    insist(&handle, put("warm", "up")).await;
    for writers in [1_usize, 64] {
        let each = if writers == 1 { 100 } else { 25 };
        let started = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for writer in 0..writers {
            let handle = handle.clone();
            tasks.spawn(async move {
                for n in 0..each {
                    insist(&handle, put(&format!("r{writer}"), &n.to_string())).await;
                }
            });
        }
        tasks.join_all().await;
        let rate = (writers * each) as f64 / started.elapsed().as_secs_f64();
        eprintln!("{writers} writers on a follower: {rate:.0} puts/s");
    }
    assert_eq!(get_all(&handle, "r").await.len(), 64);
    tokio::time::timeout(STOP * 2, cluster.stop_all()).await.expect("everything stops in time");
}
