//! One member alone: everything the handle offers, and what survives a restart.

mod common;

use std::time::Duration;

use common::{Cluster, PATIENCE, command, events, eventually, get, get_all, insist, put, put_with_lease};
use quorate_node::{Config, Node, ProposeError, WatchItem, WatchSpec};
use quorate_state::{Body, Command, Compact, MAX_TXN_DEPTH, Rejection, Txn, TxnOp, TxnOpBody};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn puts_survive_a_stop_and_a_kill() {
    let mut cluster = Cluster::start(1).await;
    for n in 0..20 {
        insist(&cluster.handle(0), put(&format!("k{n:02}"), &n.to_string())).await;
    }
    let before = cluster.handle(0).header();
    cluster.stop(0).await;
    cluster.start_one(0).await;
    assert_eq!(get_all(&cluster.handle(0), "k").await.len(), 20);
    let after = cluster.handle(0).header();
    assert_eq!(
        (after.cluster_id, after.member_id, after.revision),
        (before.cluster_id, before.member_id, before.revision)
    );

    insist(&cluster.handle(0), put("k99", "after")).await;
    cluster.kill(0);
    cluster.start_one(0).await;
    assert_eq!(get(&cluster.handle(0), "k99", false).await.as_deref(), Some("after"));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_replays_history_and_goes_on_live() {
    let mut cluster = Cluster::start(1).await;
    let handle = cluster.handle(0);
    let first = insist(&handle, put("w1", "a")).await.reply.revision;
    insist(&handle, put("other", "x")).await;
    insist(&handle, put("w2", "b")).await;
    let spec =
        WatchSpec { key: "w".into(), range_end: "x".into(), start_revision: first, ..WatchSpec::default() };
    let mut watcher = handle.watch(spec);
    let replayed = events(&mut watcher, 2).await;
    assert_eq!([&replayed[0].kv.key[..], &replayed[1].kv.key[..]], [b"w1", b"w2"]);
    insist(&handle, put("w1", "c")).await;
    let live = events(&mut watcher, 1).await;
    assert_eq!((&live[0].kv.value[..], live[0].kv.version), (&b"c"[..], 2));
    assert!(live[0].prev_kv.is_none(), "it did not ask for the version before");
    assert_eq!(watcher.progress(), Some(handle.header().revision));

    // From before the compacted revision there is nothing to replay.
    let compact = Compact { revision: handle.header().revision, physical: false };
    insist(&handle, command(Body::Compact(compact))).await;
    let mut late =
        handle.watch(WatchSpec { key: "w1".into(), start_revision: first, ..WatchSpec::default() });
    assert!(matches!(late.next().await, Some(WatchItem::Compacted { .. })));
    assert!(late.next().await.is_none(), "that was the last item");
    cluster.stop_all().await;
    assert!(watcher.next().await.is_none(), "a stopped member ends its watches");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_watcher_misses_nothing() {
    let mut cluster = Cluster::start(1).await;
    let handle = cluster.handle(0);
    let mut watcher = handle.watch(WatchSpec {
        key: "s".into(),
        range_end: "t".into(),
        prev_kv: true,
        ..WatchSpec::default()
    });
    // More than a queue holds, while nobody reads.
    let many = quorate_node::watch::hub::QUEUE_EVENTS * 2;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..32 {
        let handle = handle.clone();
        writers.spawn(async move {
            for n in 0..many / 32 {
                insist(&handle, put(&format!("s{writer}"), &n.to_string())).await;
            }
        });
    }
    writers.join_all().await;
    assert_eq!(watcher.progress(), None, "it lags");
    let seen = events(&mut watcher, many).await;
    let revisions: Vec<i64> = seen.iter().map(|event| event.kv.mod_revision).collect();
    assert!(revisions.windows(2).all(|pair| pair[0] + 1 == pair[1]), "in order, without gap or duplicate");
    assert!(
        seen.iter().all(|event| (event.kv.version > 1) == event.prev_kv.is_some()),
        "with the version before"
    );
    assert_eq!(watcher.progress(), Some(handle.header().revision));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_expires_unless_it_is_renewed() {
    let mut cluster = Cluster::start(1).await;
    let handle = cluster.handle(0);
    cluster.leader().await;
    let renewed = handle.grant_lease(None, Duration::from_secs(2), PATIENCE).await.expect("a lease");
    let left = handle.grant_lease(None, Duration::from_secs(2), PATIENCE).await.expect("a lease");
    insist(&handle, put_with_lease("renewed", "x", renewed)).await;
    insist(&handle, put_with_lease("left", "x", left)).await;
    let started = tokio::time::Instant::now();
    eventually("the lease that nobody renews expires", || async {
        let renewal = handle.renew_lease(renewed, PATIENCE).await.expect("an answer").expect("it is alive");
        assert_eq!(renewal.ttl, Duration::from_secs(2));
        get(&handle, "left", false).await.is_none().then_some(())
    })
    .await;
    assert!(started.elapsed() >= Duration::from_secs(1), "not before its time: {:?}", started.elapsed());
    assert_eq!(get(&handle, "renewed", false).await.as_deref(), Some("x"));
    assert_eq!(handle.leases(PATIENCE).await.expect("leases"), [renewed]);
    assert!(handle.renew_lease(left, PATIENCE).await.expect("an answer").is_none());
    let (granted, remaining, keys) =
        handle.lease_time_to_live(renewed, true, PATIENCE).await.expect("an answer").expect("it is alive");
    assert_eq!((granted, keys.len()), (Duration::from_secs(2), 1));
    assert!(remaining > Duration::from_millis(500) && remaining <= granted);
    insist(&handle, quorate_state::Command::lease_revoke(renewed)).await;
    assert_eq!(get(&handle, "renewed", false).await, None);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused() {
    let mut cluster = Cluster::plan(1);
    cluster.configs[0].max_request_bytes = 1000;
    cluster.start_all().await;
    let handle = cluster.handle(0);
    cluster.leader().await;
    let large = handle.propose(put("large", &"x".repeat(2000)), PATIENCE).await;
    assert!(matches!(large, Err(ProposeError::TooLarge)), "{large:?}");
    let orphan = handle.propose(put_with_lease("k", "v", 12345), PATIENCE).await;
    assert!(matches!(orphan, Err(ProposeError::Rejected(Rejection::LeaseNotFound))), "{orphan:?}");
    assert!(handle.metrics().contains("etcd_server_has_leader 1"), "{}", handle.metrics());
    assert!(handle.metrics().contains("etcd_disk_wal_fsync_duration_seconds_bucket"));

    // The port is taken, and says so with a remedy.
    let mut second = Config::single("m0", cluster.root.path().join("second"));
    second.peer_listen = cluster.configs[0].peer_listen.clone();
    let error = Node::start(second).await.err().expect("two members on one port").to_string();
    assert!(
        error.contains(&cluster.configs[0].peer_listen[0]) && error.contains("stop the process"),
        "{error}"
    );
    cluster.stop_all().await;
    assert!(matches!(handle.propose(put("k", "v"), PATIENCE).await, Err(ProposeError::Stopped)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_purged_behind_snapshots_and_the_state_comes_back() {
    let mut cluster = Cluster::plan(1);
    cluster.configs[0].snapshot_count = 20;
    cluster.start_all().await;
    for n in 0..200 {
        insist(&cluster.handle(0), put(&format!("k{n:03}"), &n.to_string())).await;
    }
    let snapshots = cluster.data_dir(0).join("snapshots");
    eventually("a snapshot is written", || async {
        std::fs::read_dir(&snapshots)
            .ok()?
            .flatten()
            .any(|file| file.path().extension().is_some_and(|e| e == "snapshot"))
            .then_some(())
    })
    .await;
    cluster.stop(0).await;
    // The database is only a view: without it the state comes from snapshot and log.
    std::fs::remove_dir_all(cluster.data_dir(0).join("db")).expect("the database is there");
    cluster.start_one(0).await;
    let all = get_all(&cluster.handle(0), "k").await;
    assert_eq!(all.len(), 200);
    assert!(all.iter().enumerate().all(|(n, (_, value))| *value == n.to_string()));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_in_apply_ends_the_member_with_a_sentence() {
    let mut cluster = Cluster::start(1).await;
    let handle = cluster.handle(0);
    insist(&handle, put("k", "v")).await;
    let mut watcher = handle.watch(WatchSpec { key: "k".into(), ..WatchSpec::default() });
    // What a newer build might propose during an upgrade.
    let newer = quorate_state::Command { format: 99, ..put("k", "w") };
    let outcome = handle.propose(newer, PATIENCE).await;
    assert!(matches!(outcome, Err(ProposeError::Indeterminate | ProposeError::Stopped)), "{outcome:?}");
    let node = cluster.nodes[0].as_ref().expect("it is there");
    let sentence = tokio::time::timeout(PATIENCE, node.failed()).await.expect("it fails in time");
    assert!(sentence.contains("format 99") && sentence.contains("upgrade"), "{sentence}");
    eventually("the handle says so", || async {
        matches!(handle.propose(put("k", "x"), PATIENCE).await, Err(ProposeError::Stopped)).then_some(())
    })
    .await;
    assert!(tokio::time::timeout(PATIENCE, watcher.next()).await.expect("the watch ends").is_none());
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_quota_raises_nospace_and_old_history_is_compacted() {
    let mut cluster = Cluster::plan(1);
    cluster.configs[0].quota_bytes = Some(1);
    cluster.configs[0].compaction = quorate_node::Compaction::Period(Duration::from_secs(2));
    cluster.start_all().await;
    let handle = cluster.handle(0);
    let first = insist(&handle, put("k", "0")).await.reply.revision;
    // NOSPACE stops what grows the store …
    let alarm =
        eventually("NOSPACE is raised", || async { handle.alarms().expect("alarms").first().copied() }).await;
    assert_eq!(alarm, (handle.header().member_id, quorate_state::AlarmKind::NoSpace));
    let refused = handle.propose(put("k", "1"), PATIENCE).await;
    assert!(matches!(refused, Err(ProposeError::Rejected(Rejection::NoSpace))), "{refused:?}");
    assert!(
        handle.status().errors.iter().any(|error| error.contains("NOSPACE")),
        "{:?}",
        handle.status().errors
    );
    // … and not what makes room.
    let delete = quorate_state::DeleteRange { key: "k".into(), ..quorate_state::DeleteRange::default() };
    insist(&handle, command(Body::DeleteRange(delete))).await;
    eventually("history older than the period is gone", || async {
        let mut past =
            handle.watch(WatchSpec { key: "k".into(), start_revision: first, ..WatchSpec::default() });
        matches!(past.next().await, Some(WatchItem::Compacted { .. })).then_some(())
    })
    .await;
    cluster.stop_all().await;
}

/// What no member could decode must never be committed: it would stop every one of them, after each restart again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_nested_too_deep_does_not_reach_the_log() {
    let mut cluster = Cluster::start(1).await;
    let handle = cluster.handle(0);
    let nested = |depth: usize| {
        (1..depth).fold(Txn::default(), |inner, _| Txn {
            success: vec![TxnOp { body: Some(TxnOpBody::Txn(inner)) }],
            ..Txn::default()
        })
    };
    let propose = |depth: usize| handle.propose(Command::txn(nested(depth)), PATIENCE);
    assert!(propose(MAX_TXN_DEPTH).await.is_ok(), "as deep as is allowed");
    let refused = propose(10 * MAX_TXN_DEPTH).await;
    assert!(matches!(refused, Err(ProposeError::Rejected(Rejection::TooDeep))), "{refused:?}");

    insist(&handle, put("after", "1")).await;
    cluster.kill(0);
    cluster.start_one(0).await;
    assert_eq!(get(&cluster.handle(0), "after", false).await.as_deref(), Some("1"));
    cluster.stop_all().await;
}
