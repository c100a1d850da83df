//! Writers on every member while leaders are killed and come back: what was acknowledged is there, once, on all of them,
//! and a watch on a member that was never killed saw all of it in order.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Cluster, PATIENCE, eventually, get_all, insist, put};
use parking_lot::Mutex;
use quorate_node::{Handle, ProposeError, WatchItem, WatchSpec};
use tokio::task::JoinSet;

const KILLS: usize = 3;
const WRITERS: usize = 4;

/// Writes keys that nobody else writes, each proposed once, and notes those that were acknowledged. Goes to whichever
/// member answers, as a client with several endpoints does.
async fn write(writer: usize, handles: Arc<Mutex<Vec<Handle>>>, stop: Arc<AtomicBool>) -> BTreeSet<String> {
    let mut acknowledged = BTreeSet::new();
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        let handle = {
            let handles = handles.lock();
            handles[(writer + n) % handles.len()].clone()
        };
        let key = format!("k{writer}-{n:05}");
        n += 1;
        match handle.propose(put(&key, "x"), Duration::from_secs(2)).await {
            Ok(_) => drop(acknowledged.insert(key)),
            Err(ProposeError::Rejected(why)) => panic!("a put was rejected: {why:?}"),
            Err(
                ProposeError::NoLeader
                | ProposeError::Indeterminate
                | ProposeError::Overloaded
                | ProposeError::Stopped
                | ProposeError::TooLarge,
            ) => tokio::task::yield_now().await,
        }
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives() {
    let mut cluster = Cluster::plan(3);
    for config in &mut cluster.configs {
        // Snapshots and purges happen meanwhile.
        config.snapshot_count = 200;
    }
    cluster.start_all().await;
    let first = cluster.leader().await;
    let witness = (0..3).find(|n| *n != first).expect("two others");
    let mut watcher = cluster.handle(witness).watch(WatchSpec {
        key: "k".into(),
        range_end: "l".into(),
        ..WatchSpec::default()
    });
    let seen = tokio::spawn(async move {
        let mut keys = Vec::new();
        let mut last = 0;
        while let Some(item) = watcher.next().await {
            let WatchItem::Events { events, revision } = item else { panic!("compacted") };
            for event in events {
                assert!(event.kv.mod_revision > last, "in order, nothing twice");
                last = event.kv.mod_revision;
                keys.push(String::from_utf8_lossy(&event.kv.key).into_owned());
            }
            assert!(revision >= last);
        }
        keys
    });

    let handles: Arc<Mutex<Vec<Handle>>> =
        Arc::new(Mutex::new(cluster.running().map(|(_, handle)| handle).collect()));
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(write(writer, Arc::clone(&handles), Arc::clone(&stop)));
    }
    for _ in 0..KILLS {
        let mut leader = cluster.leader().await;
        if leader == witness {
            // Its watch is the one that must not end: somebody else leads and is killed.
            let other = (0..3).find(|n| *n != witness).expect("two others");
            let id = cluster.handle(other).header().member_id;
            cluster.handle(witness).move_leader(id, PATIENCE).await.expect("the leader moves");
            leader = other;
        }
        let before = cluster.handle(witness).header().revision;
        let dead = cluster.handle(leader).header().member_id;
        cluster.kill(leader);
        eventually("writes go on", || async {
            (cluster.handle(witness).header().revision > before + 50).then_some(())
        })
        .await;
        let answering: Vec<BTreeSet<u64>> =
            cluster.running().map(|(_, handle)| handle.answering(PATIENCE)).collect();
        assert!(answering.iter().all(|voters| !voters.contains(&dead)), "{answering:?}, {dead} is dead");
        assert!(answering.iter().any(|voters| voters.len() == 1), "the leader hears the other one");
        cluster.start_one(leader).await;
        *handles.lock() = cluster.running().map(|(_, handle)| handle).collect();
    }
    stop.store(true, Ordering::Relaxed);
    let acknowledged: BTreeSet<String> = writers.join_all().await.into_iter().flatten().collect();
    assert!(acknowledged.len() > KILLS * 50, "{} writes were acknowledged", acknowledged.len());

    insist(&cluster.handle(witness), put("end", "x")).await;
    let stored: BTreeSet<String> =
        get_all(&cluster.handle(witness), "k").await.into_iter().map(|(key, _)| key).collect();
    let lost: Vec<_> = acknowledged.difference(&stored).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    let revision = cluster.handle(witness).header().revision;
    let mut hashes = Vec::new();
    for (_, handle) in cluster.running() {
        handle.read_barrier(PATIENCE).await.expect("a barrier");
        hashes.push(handle.hash_kv(revision, PATIENCE).await.expect("a hash"));
    }
    assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "{hashes:?}");
    handles.lock().clear();
    cluster.stop_all().await;
    let seen = seen.await.expect("the watch was in order");
    assert_eq!(seen.iter().cloned().collect::<BTreeSet<_>>(), stored, "every write was seen");
    assert_eq!(seen.len(), stored.len(), "and once");
}
