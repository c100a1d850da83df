//! Several instances on real PostgreSQL: clone, stream, change the sync set, promote, rewind.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use crate::lab::*;
use quorate_ha::Upstream;
use quorate_ha::facts::{DataDirectory, Endpoint, Lsn, Receiver, Role, SyncState, TimelineId};
use quorate_pg::sync_names::{Method, NOBODY, render};
use quorate_pg::{Error, Progress, Rewound, StopMode};
use rustix::process::Signal;

const DEADLINE: Duration = PATIENCE;

async fn permitted() -> Result<(), Error> {
    Ok(())
}

#[tokio::test]
async fn clone_stream_promote_rewind() {
    let Some(mut lab) = lab() else { return };
    let old = lab.primary("n1").await;
    run(&old, "CREATE TABLE t AS SELECT n FROM generate_series(1, 1000) n").await;

    // An interrupted clone lies beside: recognised, and no reason to fail.
    let new = lab.instance("n2").await;
    std::fs::create_dir(lab.path().join("n2.clone")).unwrap();
    std::fs::write(lab.path().join("n2.clone/half"), "").unwrap();
    assert_eq!(new.data_directory(), DataDirectory::CloneInProgress);
    assert!(matches!(new.bootstrap(&options()).await, Err(Error::WrongDirectory { .. })));
    let seen = Mutex::new(Vec::<Progress>::new());
    let upstream = source(&old);
    new.clone_from(&upstream, None, None, &|at| seen.lock().unwrap().push(at)).await.unwrap();
    let last = *seen.lock().unwrap().last().expect("progress is told");
    assert!(
        last.done_bytes > 1 << 20 && last.total_bytes.is_some_and(|total| total >= last.done_bytes),
        "{last:?}"
    );
    assert!(!lab.path().join("n2.clone").exists());
    let DataDirectory::Initialised(on_disk) = new.data_directory() else { panic!() };
    assert!(on_disk.standby_signal && on_disk.was_primary_on.is_none());

    // A task of its own: the futures can be sent.
    let (task, from) = (new.clone(), upstream.clone());
    tokio::spawn(async move { task.start_as_standby(Some(&from), None).await }).await.unwrap().unwrap();
    eventually("the standby streams", async || {
        as_standby(&new).await.receiver == Receiver::Streaming { from: upstream.endpoint.clone() }
    })
    .await;
    assert_eq!(as_standby(&new).await.upstream, Some(upstream.endpoint.clone()));
    assert_eq!(running(&new).await.timeline, TimelineId(1));
    eventually("the primary sees it", async || {
        as_primary(&old).await.replicas.iter().any(|replica| {
            replica.name == "n2" && replica.streaming && replica.sync_state == SyncState::Async
        })
    })
    .await;

    // A clone of another cluster is refused, and what was there stays.
    let mut strangers = lab.config("n9");
    strangers.parameters.insert("work_mem".to_owned(), "5MB".to_owned());
    let error = new.clone_from(&upstream, None, Some(42), &|_| {}).await.unwrap_err();
    assert!(matches!(error, Error::WrongState { .. }), "it runs: {error}");

    // Stop the receiver, also while replay is paused: the standby streams from nobody, and the primary goes on without it.
    run(&new, "SELECT pg_wal_replay_pause()").await;
    eventually("paused", async || as_standby(&new).await.replay_paused).await;
    run(&old, "INSERT INTO t VALUES (0)").await;
    let (task, wait) = (new.clone(), DEADLINE);
    tokio::spawn(async move { task.stop_receiver(wait).await }).await.unwrap().unwrap();
    assert_eq!(as_standby(&new).await.receiver, Receiver::Gone);
    assert_eq!(as_standby(&new).await.upstream, None);
    let asked = |instance: &quorate_pg::Instance| match instance.data_directory() {
        DataDirectory::Initialised(found) => found.asked,
        other => panic!("{other:?}"),
    };
    assert_eq!(asked(&new).as_deref(), Some("n1"), "whom it asked is not forgotten");
    assert_eq!(pids(&new, "walreceiver"), Vec::<i32>::new());
    run(&new, "SELECT pg_wal_replay_resume()").await;
    // Still so after a restart of the server.
    new.restart().await.unwrap();
    assert_eq!(as_standby(&new).await.receiver, Receiver::Gone);
    new.follow(&upstream, None).await.unwrap();
    eventually("it streams again", async || {
        matches!(as_standby(&new).await.receiver, Receiver::Streaming { .. })
    })
    .await;
    new.stop_receiver(DEADLINE).await.unwrap();

    // The two histories part: the old primary writes on, the new one is promoted.
    let parted = as_standby(&new).await.end();
    run(&old, "INSERT INTO t SELECT n FROM generate_series(5001, 6000) n").await;
    new.set_sync_names("", DEADLINE).await.unwrap();
    // Who is not permitted to changes nothing.
    let refused = async { Err(Error::WrongState { path: PathBuf::new(), is: "not permitted" }) };
    assert!(matches!(
        new.promote(TimelineId(2), &BTreeSet::new(), refused).await,
        Err(Error::WrongState { is: "not permitted", .. })
    ));
    let DataDirectory::Initialised(on_disk) = new.data_directory() else { panic!() };
    assert_eq!(on_disk.was_primary_on, None);
    assert!(matches!(running(&new).await.role, Role::Standby(_)));
    // The slots are made on the way: one of them cannot be.
    let slots = BTreeSet::from(["n1".to_owned(), "no name for a slot".to_owned()]);
    let task = new.clone();
    let promoted = async move { task.promote(TimelineId(2), &slots, permitted()).await };
    let promoted = tokio::spawn(promoted).await.unwrap().unwrap();
    assert_eq!(promoted.timeline, TimelineId(2));
    assert_eq!(value(&new, "SELECT string_agg(slot_name, ' ') FROM pg_replication_slots").await, "n1");
    let fork = promoted.fork.expect("a history file");
    assert_eq!(fork.parent, TimelineId(1));
    assert!(fork.at <= as_primary(&new).await.written && fork.at >= Lsn(parted.0.saturating_sub(1 << 20)));
    assert!(!fork.why.is_empty() && fork.timestamp.ends_with("+00:00"), "{fork:?}");
    new.checkpoint(DEADLINE).await.unwrap();
    let facts = as_primary(&new).await;
    assert!(facts.checkpointed);
    assert_eq!(facts.forked, [fork]);
    let DataDirectory::Initialised(on_disk) = new.data_directory() else { panic!() };
    assert_eq!(on_disk.was_primary_on, Some(TimelineId(2)));
    run(&new, "INSERT INTO t SELECT n FROM generate_series(7001, 7100) n").await;

    // The old primary is fenced, with writes that nobody has; it is rewound and follows.
    old.fence(DEADLINE).await.unwrap();
    let source = source(&new);
    let (task, from) = (old.clone(), source.clone());
    let outcome = tokio::spawn(async move { task.rewind(&from, DEADLINE).await }).await.unwrap().unwrap();
    assert_eq!(outcome, Rewound::Done);
    let DataDirectory::Initialised(on_disk) = old.data_directory() else { panic!() };
    assert!(on_disk.standby_signal && on_disk.was_primary_on.is_none() && !on_disk.rewind_unfinished);
    assert_eq!(asked(&old).as_deref(), Some("n2"), "of the source's files, ours again");
    old.start_as_standby(Some(&source), None).await.unwrap();
    eventually("the old primary follows on the new timeline", async || {
        let running = running(&old).await;
        running.timeline == TimelineId(2)
            && matches!(as_standby(&old).await.receiver, Receiver::Streaming { .. })
    })
    .await;
    assert_eq!(value(&old, "SHOW port").await, old.config().port.to_string(), "its own configuration");
    let sums = "SELECT count(*) || ' ' || sum(n) FROM t";
    let (here, there) = (value(&old, sums).await, value(&new, sums).await);
    eventually("both have the same rows", async || value(&old, sums).await == there).await;
    drop(here);

    // Once more there is nothing to do.
    assert_eq!(old.rewind(&source, DEADLINE).await.unwrap(), Rewound::NotRequired);

    // A rewind that cannot reach its source leaves the directory good.
    let endpoint = quorate_ha::facts::Endpoint { host: "127.0.0.1".to_owned(), port: free_port() };
    let nobody = quorate_ha::Upstream { name: "nobody".to_owned(), endpoint };
    assert!(matches!(old.rewind(&nobody, DEADLINE).await, Err(Error::Command(_))));
    let DataDirectory::Initialised(on_disk) = old.data_directory() else { panic!() };
    assert!(!on_disk.rewind_unfinished);

    // An interrupted one is only good for a clone: no start, no further rewind.
    std::fs::write(lab.path().join("n1.rewinding"), "").unwrap();
    let DataDirectory::Initialised(on_disk) = old.data_directory() else { panic!() };
    assert!(on_disk.rewind_unfinished);
    assert!(matches!(old.start_as_standby(Some(&source), None).await, Err(Error::RewindUnfinished { .. })));
    assert!(matches!(old.start_as_primary("").await, Err(Error::RewindUnfinished { .. })));
    assert!(matches!(old.rewind(&source, DEADLINE).await, Err(Error::RewindUnfinished { .. })));
    // A clone that fails, by its system identifier or its source, does not touch it …
    assert!(matches!(
        old.clone_from(&source, None, Some(42), &|_| {}).await,
        Err(Error::WrongSystem { expected: 42, .. })
    ));
    assert!(old.clone_from(&nobody, None, None, &|_| {}).await.is_err());
    let DataDirectory::Initialised(on_disk) = old.data_directory() else { panic!() };
    assert!(on_disk.rewind_unfinished);
    // … and one that succeeds replaces it.
    old.clone_from(&source, None, Some(on_disk.system_identifier.0), &|_| {}).await.unwrap();
    let DataDirectory::Initialised(on_disk) = old.data_directory() else { panic!() };
    assert!(!on_disk.rewind_unfinished && on_disk.was_primary_on.is_none());
    old.start_as_standby(Some(&source), None).await.unwrap();
    eventually("the clone follows", async || value(&old, sums).await == there).await;
    for leftover in ["n1.clone", "n1.old", "n1.rewinding", "n1.primary"] {
        assert!(!lab.path().join(leftover).exists(), "{leftover}");
    }
    old.stop(StopMode::Fast).await.unwrap();
}

#[tokio::test]
async fn a_change_of_the_sync_set_is_in_effect_or_an_error() {
    let Some(mut lab) = lab() else { return };
    let primary = lab.primary("p").await;
    run(&primary, "CREATE TABLE t (n int)").await;
    let a = lab.standby("a", &primary).await;
    let b = lab.standby("b", &primary).await;
    let streaming = async |names: &[&str]| {
        eventually("the standbys stream", async || {
            let replicas = as_primary(&primary).await.replicas;
            names.iter().all(|name| replicas.iter().any(|replica| replica.name == *name && replica.streaming))
        })
        .await;
    };
    streaming(&["a", "b"]).await;

    // From nothing to a.
    let only_a = render(Method::Any, 1, ["a"]);
    let (task, names) = (primary.clone(), only_a.clone());
    tokio::spawn(async move { task.set_sync_names(&names, DEADLINE).await }).await.unwrap().unwrap();
    assert_eq!(as_primary(&primary).await.sync_effective, None, "set, not yet confirmed");
    let effective = primary.confirm_sync_effective(&only_a, DEADLINE).await.unwrap();
    assert!(effective.at > Lsn(0));
    let facts = as_primary(&primary).await;
    assert_eq!((facts.synchronous_standby_names, facts.sync_effective), (only_a.clone(), Some(effective)));
    run(&primary, "INSERT INTO t VALUES (1)").await;

    // The old standby is stuck and the set changes to the other: commits go on, without it.
    for pid in pids(&a, "") {
        signal(pid, Signal::STOP);
    }
    let waiter = client(&primary).await.unwrap();
    let waiting = tokio::spawn(async move { waiter.batch_execute("INSERT INTO t VALUES (2)").await });
    eventually("a commit waits for the stuck standby", async || {
        value(&primary, "SELECT count(*)::text FROM pg_stat_activity WHERE wait_event = 'SyncRep'").await
            == "1"
    })
    .await;
    let only_b = render(Method::Any, 1, ["b"]);
    primary.set_sync_names(&only_b, DEADLINE).await.unwrap();
    let effective = primary.confirm_sync_effective(&only_b, DEADLINE).await.unwrap();
    waiting.await.unwrap().unwrap();
    run(&primary, "INSERT INTO t VALUES (3)").await;
    eventually("b has confirmed the position", async || {
        as_primary(&primary)
            .await
            .replicas
            .iter()
            .any(|replica| replica.name == "b" && replica.flushed >= effective.at)
    })
    .await;
    for pid in pids(&a, "") {
        signal(pid, Signal::CONT);
    }

    // A walsender of the old set that is stopped may act by the old value when it wakes: no success, the old value is back.
    let sender =
        value(&primary, "SELECT pid::text FROM pg_stat_replication WHERE application_name = 'b'").await;
    let sender: i32 = sender.parse().unwrap();
    signal(sender, Signal::STOP);
    let both = render(Method::Any, 2, ["a", "b"]);
    let error = primary.set_sync_names(&both, Duration::from_millis(700)).await.unwrap_err();
    assert!(
        matches!(&error, Error::NotEffective { who, .. } if who.contains(&sender.to_string())),
        "{error}"
    );
    eventually("the former value is back", async || {
        as_primary(&primary).await.synchronous_standby_names == only_b
    })
    .await;
    let error = primary.confirm_sync_effective(&both, Duration::from_millis(700)).await.unwrap_err();
    assert!(matches!(error, Error::NotEffective { .. }), "{error}");
    signal(sender, Signal::CONT);
    streaming(&["a", "b"]).await;
    primary.set_sync_names(&both, DEADLINE).await.unwrap();
    primary.confirm_sync_effective(&both, DEADLINE).await.unwrap();
    run(&primary, "INSERT INTO t VALUES (4)").await;

    // What both have confirmed while nobody counted is let go by the change, and not by their next answer ten seconds later.
    primary.set_sync_names(NOBODY, DEADLINE).await.unwrap();
    let waiter = client(&primary).await.unwrap();
    let waiting = tokio::spawn(async move { waiter.batch_execute("INSERT INTO t VALUES (40)").await });
    eventually("both have it, and it waits", async || {
        let waits = "SELECT count(*)::text FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        let confirmed =
            "SELECT count(*)::text FROM pg_stat_replication WHERE flush_lsn >= pg_current_wal_insert_lsn()";
        value(&primary, waits).await == "1" && value(&primary, confirmed).await == "2"
    })
    .await;
    primary.set_sync_names(&both, DEADLINE).await.unwrap();
    let let_go = tokio::time::timeout(Duration::from_secs(5), waiting).await;
    let_go.expect("the standbys answer before their interval has passed").unwrap().unwrap();

    // An override by ALTER SYSTEM is named, not waited for.
    run(&primary, "ALTER SYSTEM SET synchronous_standby_names = 'a'").await;
    let error = primary.confirm_sync_effective(&only_a, DEADLINE).await.unwrap_err();
    assert!(matches!(error, Error::Overridden { name: "synchronous_standby_names", .. }), "{error}");
    run(&primary, "ALTER SYSTEM RESET synchronous_standby_names").await;

    // Nobody: commits wait. Empty: they do not.
    primary.set_sync_names(NOBODY, DEADLINE).await.unwrap();
    let waiter = client(&primary).await.unwrap();
    let mut waiting = tokio::spawn(async move { waiter.batch_execute("INSERT INTO t VALUES (5)").await });
    eventually("a commit waits for nobody", async || {
        value(&primary, "SELECT count(*)::text FROM pg_stat_activity WHERE wait_event = 'SyncRep'").await
            == "1"
    })
    .await;
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut waiting).await.is_err());
    primary.set_sync_names("", DEADLINE).await.unwrap();
    waiting.await.unwrap().unwrap();
    primary.confirm_sync_effective("", DEADLINE).await.unwrap();

    // On a standby it is what a promotion starts under.
    assert!(matches!(b.confirm_sync_effective(&only_a, DEADLINE).await, Err(Error::WrongState { .. })));
    b.set_sync_names(NOBODY, DEADLINE).await.unwrap();
    primary.fence(DEADLINE).await.unwrap();
    b.promote(TimelineId(2), &BTreeSet::new(), permitted()).await.unwrap();
    assert_eq!(as_primary(&b).await.synchronous_standby_names, NOBODY);
    let writer = client(&b).await.unwrap();
    let write = writer.batch_execute("INSERT INTO t VALUES (6)");
    assert!(
        tokio::time::timeout(Duration::from_millis(100), write).await.is_err(),
        "nothing is acknowledged"
    );
}

/// The request comes with the start of a receiver, in one breath of the postmaster. The startup process then takes back the receiver
/// that is not there yet, and PostgreSQL alone would let it wait until `wal_retrieve_retry_interval` is over.
#[tokio::test]
async fn a_promotion_does_not_wait_for_the_next_attempt_to_stream() {
    const DOES: &str = "SELECT pid, wait_event FROM pg_stat_activity WHERE backend_type = 'startup'";
    const SESSIONS: &str = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'";
    let Some(mut lab) = lab() else { return };
    let primary = lab.primary("primary").await;
    let heir = lab.standby("heir", &primary).await;
    run(&heir, "ALTER SYSTEM SET wal_retrieve_retry_interval = '1h'").await;
    let nowhere = Endpoint { host: "127.0.0.1".to_owned(), port: free_port() };
    heir.follow(&Upstream { name: "nowhere".to_owned(), endpoint: nowhere }, None).await.unwrap();

    let observer = client(&heir).await.unwrap();
    let startup = async || {
        let row = observer.query_one(DOES, &[]).await.unwrap();
        (row.get::<_, i32>(0), row.get::<_, Option<String>>(1).unwrap_or_default())
    };
    let dozes = "RecoveryRetrieveRetryInterval";
    eventually("an attempt has failed", async || startup().await.1 == dozes).await;
    let sessions = async || observer.query_one(SESSIONS, &[]).await.unwrap().get::<_, i64>(0);
    let before = sessions().await;

    let postmaster = postmaster(&heir);
    let permission = async {
        // It is asked for while the session of the promotion is made, which needs the postmaster.
        eventually("the session of the promotion", async || sessions().await > before).await;
        signal(postmaster, Signal::STOP);
        signal(startup().await.0, Signal::HUP);
        eventually("it asks for a receiver", async || startup().await.1 == "RecoveryWalStream").await;
        Ok::<(), Error>(())
    };
    let requested = async {
        let request = heir.config().data_dir.join("promote");
        eventually("the request", async || request.exists()).await;
        signal(postmaster, Signal::CONT);
    };
    let slots = BTreeSet::new();
    let promotion = async { tokio::join!(heir.promote(TimelineId(2), &slots, permission), requested).0 };
    let promoted = tokio::time::timeout(DEADLINE, promotion).await.expect("within the deadline").unwrap();
    assert_eq!(promoted.timeline, TimelineId(2));
}

/// What was rewound needs WAL up to where its source was then. When that source is replaced by a standby that had less, nobody can
/// give it: PostgreSQL does not come up, and the facts say why before anybody has tried.
#[tokio::test]
async fn a_copy_whose_source_is_replaced_cannot_be_completed() {
    let Some(mut lab) = lab() else { return };
    let first = lab.primary("first").await;
    run(&first, "CREATE TABLE t AS SELECT n FROM generate_series(1, 100) n").await;
    let old = lab.standby("source", &first).await;
    let heir = lab.standby("heir", &first).await;
    // A checkpoint that all have in common, later than those that the clones began with.
    first.checkpoint(DEADLINE).await.unwrap();
    let written = as_primary(&first).await.written;
    eventually("both have it", async || {
        as_standby(&old).await.end() >= written && as_standby(&heir).await.end() >= written
    })
    .await;
    // The heir first: the first primary writes of its own accord now and then, and who has that is beyond the fork.
    heir.stop_receiver(DEADLINE).await.unwrap();
    old.stop_receiver(DEADLINE).await.unwrap();
    old.set_sync_names("", DEADLINE).await.unwrap();
    old.promote(TimelineId(2), &BTreeSet::new(), permitted()).await.unwrap();
    old.checkpoint(DEADLINE).await.unwrap();
    let address = source(&old);
    heir.follow(&address, None).await.unwrap();
    run(&old, "SELECT pg_switch_wal()").await;
    run(&old, "INSERT INTO t SELECT n FROM generate_series(101, 200) n").await;
    let segment = value(&old, "SELECT pg_walfile_name(pg_current_wal_lsn())").await;
    let count = "SELECT count(*)::text FROM t";
    eventually("the heir follows", async || value(&heir, count).await == "200").await;

    // The source writes what the heir does not get, and the first primary, which went on for itself, is rewound to that.
    heir.stop_receiver(DEADLINE).await.unwrap();
    run(&old, "INSERT INTO t SELECT n FROM generate_series(201, 300) n").await;
    run(&first, "INSERT INTO t SELECT n FROM generate_series(901, 1000) n").await;
    first.fence(DEADLINE).await.unwrap();
    assert_eq!(first.rewind(&address, DEADLINE).await.unwrap(), Rewound::Done);
    let copy = |instance: &quorate_pg::Instance| match instance.data_directory() {
        DataDirectory::Initialised(found) => (found.incomplete, found.consistent_from),
        other => panic!("{other:?}"),
    };
    let (incomplete, needed) = copy(&first);
    let needed = needed.expect("a minimum recovery point");
    assert!(incomplete && needed.timeline == TimelineId(2), "{needed:?}");

    // As if that segment had been begun after pg_rewind had listed them.
    std::fs::remove_file(first.config().data_dir.join("pg_wal").join(&segment)).unwrap();

    // Completed by whoever it was copied from, it is one no longer.
    let twin = lab.instance("twin").await;
    twin.clone_from(&address, None, None, &|_| {}).await.unwrap();
    assert!(copy(&twin).0);
    twin.start_as_standby(Some(&address), None).await.unwrap();
    assert!(!copy(&twin).0 && copy(&twin).1.is_some_and(|at| at.timeline == TimelineId(2)));
    assert_eq!(copy(&old), (false, None));

    old.fence(DEADLINE).await.unwrap();
    heir.promote(TimelineId(3), &BTreeSet::new(), permitted()).await.unwrap();
    heir.checkpoint(DEADLINE).await.unwrap();
    let left = as_primary(&heir).await.forked.pop().expect("the end of timeline 2");
    assert!(left.parent == needed.timeline && left.at < needed.lsn, "{left:?} and {needed:?}");

    let address = source(&heir);
    let started = first.start_as_standby(Some(&address), None).await;
    let Err(Error::StartFailed { log_tail, .. }) = started else { panic!("{started:?}") };
    assert!(log_tail.contains("before reaching minimum recovery point"), "{log_tail}");
    assert_eq!(copy(&first), (true, Some(needed)), "also after an attempt");
    first.fence(DEADLINE).await.unwrap();
    first.clone_from(&address, None, None, &|_| {}).await.unwrap();
    first.start_as_standby(Some(&address), None).await.unwrap();
    assert_eq!(value(&first, count).await, "200");
    assert!(!copy(&first).0);
}
