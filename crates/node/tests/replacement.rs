//! Forming a cluster, and a member whose disk is gone.

mod common;

use std::time::Duration;

use common::{Cluster, PATIENCE, eventually, get, get_all, insist, put};
use quorate_node::{Node, WatchItem, WatchSpec};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_formed_before_every_initial_member_is_there() {
    let mut cluster = Cluster::plan(3);
    let first = tokio::spawn(Node::start(cluster.configs[0].clone()));
    let second = tokio::spawn(Node::start(cluster.configs[1].clone()));
    // Two of three would be a majority. They must not form: the third disk may be anybody's. There is no event to wait
    // for when nothing happens, so this looks for as long as a formation takes many times over.
    let formed =
        tokio::time::timeout(Duration::from_secs(1), async { first.is_finished() || second.is_finished() });
    assert!(!formed.await.expect("no waiting"), "not at once");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!first.is_finished() && !second.is_finished(), "formed without the third");
    let third = Node::start(cluster.configs[2].clone()).await.expect("the third starts");
    let all = [
        first.await.expect("no panic").expect("starts"),
        second.await.expect("no panic").expect("starts"),
        third,
    ];
    cluster.nodes = all.into_iter().map(Some).collect();
    insist(&cluster.handle(0), put("k", "v")).await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_on_an_empty_disk_is_replaced_and_catches_up_by_snapshot() {
    let mut cluster = Cluster::plan(3);
    for config in &mut cluster.configs {
        config.snapshot_count = 30;
    }
    cluster.start_all().await;
    let victim = cluster.follower().await;
    let other = (0..3).find(|n| *n != victim).expect("two others");
    let old_id = cluster.handle(victim).header().member_id;
    insist(&cluster.handle(other), put("k", "first")).await;
    let lease =
        cluster.handle(other).grant_lease(None, Duration::from_secs(600), PATIENCE).await.expect("a lease");

    cluster.kill(victim);
    for n in 0..200 {
        insist(&cluster.handle(other), put(&format!("k{n:03}"), &n.to_string())).await;
    }
    // Wait until its directory is let go of, then the disk is gone.
    let dir = cluster.data_dir(victim);
    eventually("the killed member lets go of its directory", || async {
        quorate_storage::DirLock::acquire(&dir).ok().map(drop)
    })
    .await;
    let old_disk = cluster.root.path().join("old disk");
    std::fs::rename(&dir, &old_disk).expect("the directory is there");
    cluster.start_one(victim).await;

    let handle = cluster.handle(victim);
    let new_id = handle.header().member_id;
    assert_ne!(new_id, old_id, "an id is never used on another disk");
    assert_eq!(get_all(&handle, "k").await.len(), 201);
    assert_eq!(handle.leases(PATIENCE).await.expect("leases"), [lease], "leases come with the snapshot");
    let ids = || {
        cluster
            .handle(other)
            .members()
            .iter()
            .map(|member| (member.id, member.is_learner))
            .collect::<Vec<_>>()
    };
    eventually("the new id has the vote and the old one is gone", || async {
        let ids = ids();
        (ids.len() == 3 && ids.contains(&(new_id, false)) && ids.iter().all(|(id, _)| *id != old_id))
            .then_some(())
    })
    .await;
    let snapshots = dir.join("snapshots");
    let received = std::fs::read_dir(&snapshots).expect("the directory is there").flatten();
    assert!(
        received.into_iter().any(|file| file.path().extension().is_some_and(|e| e == "snapshot")),
        "by snapshot"
    );

    // It counts: with the third one gone it makes the quorum. And it is the same member after a restart.
    let third = (0..3).find(|n| *n != victim && *n != other).expect("a third");
    cluster.stop(third).await;
    insist(&cluster.handle(victim), put("k200", "by the new voter")).await;
    cluster.stop(victim).await;
    cluster.start_one(victim).await;
    assert_eq!(cluster.handle(victim).header().member_id, new_id);
    assert_eq!(get(&cluster.handle(victim), "k200", false).await.as_deref(), Some("by the new voter"));
    cluster.start_one(third).await;

    // The old disk comes back: its id has no place any more, and the member says so.
    cluster.stop(victim).await;
    let mut config = cluster.configs[victim].clone();
    config.data_dir = old_disk;
    let node = Node::start(config).await.expect("it starts, not knowing better");
    assert_eq!(node.handle().header().member_id, old_id);
    let sentence = tokio::time::timeout(PATIENCE, node.failed()).await.expect("it learns of it in time");
    assert!(
        sentence.contains("replaced this member") && sentence.contains("empty data directory"),
        "{sentence}"
    );
    node.shutdown(Duration::from_secs(5)).await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_survives_a_snapshot_that_is_installed_under_it() {
    let mut cluster = Cluster::plan(3);
    for config in &mut cluster.configs {
        config.snapshot_count = 20;
    }
    cluster.start_all().await;
    let slow = cluster.follower().await;
    let other = (0..3).find(|n| *n != slow).expect("two others");
    insist(&cluster.handle(other), put("k", "0")).await;
    let start = cluster.handle(other).header().revision;
    cluster.stop(slow).await;
    for n in 1..=150 {
        insist(&cluster.handle(other), put("k", &n.to_string())).await;
    }
    // It starts behind what the others' logs still hold, so it gets a snapshot while the watch is open.
    cluster.start_one(slow).await;
    let mut watcher = cluster.handle(slow).watch(WatchSpec {
        key: "k".into(),
        start_revision: start,
        ..WatchSpec::default()
    });
    let mut values = Vec::new();
    while values.len() <= 150 {
        match tokio::time::timeout(PATIENCE, watcher.next()).await.expect("events in time") {
            Some(WatchItem::Events { events, .. }) => {
                values
                    .extend(events.iter().map(|event| String::from_utf8_lossy(&event.kv.value).into_owned()));
            }
            other => panic!("instead of events: {other:?}"),
        }
    }
    assert_eq!(values, (0..=150).map(|n| n.to_string()).collect::<Vec<_>>());
    cluster.stop_all().await;
}
