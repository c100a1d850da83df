//! Sessions, locks and elections on members of one cluster: who has what, when, and who hears of it.

mod common;

use std::time::Duration;

use common::{Cluster, PATIENCE, eventually, get, get_all, insist};
use quorate_node::{Handle, HoldError, Office, ProposeError};
use quorate_state::{Command, Put, Rejection, ReplyBody, Txn, TxnOp, TxnOpBody};
use tokio::task::JoinHandle;

const TTL: Duration = Duration::from_secs(60);

async fn lease(handle: &Handle) -> i64 {
    handle.grant_lease(None, TTL, PATIENCE).await.expect("a lease")
}

async fn revoke(handle: &Handle, id: i64) {
    insist(handle, Command::lease_revoke(id)).await;
}

/// How many stand in line for `name`.
async fn line(handle: &Handle, name: &str) -> usize {
    get_all(handle, &format!("{name}/")).await.len()
}

async fn joined(handle: &Handle, name: &str, count: usize) {
    eventually("the line has its length", || async { (line(handle, name).await == count).then_some(()) })
        .await;
}

async fn soon<T>(task: JoinHandle<T>) -> T {
    tokio::time::timeout(PATIENCE, task).await.expect("in time").expect("no panic")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_goes_from_member_to_member_in_the_order_of_arrival_through_the_loss_of_the_leader() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let (one, two) = ((leader + 1) % 3, (leader + 2) % 3);
    let first = cluster.handle(one);
    let held = first.lock("jobs", lease(&first).await, PATIENCE).await.expect("nobody else has it");

    // Two wait at different members; the one that came first is served first.
    let (sender, mut order) = tokio::sync::mpsc::unbounded_channel();
    let mut waiters = Vec::new();
    for (number, member) in [(2, two), (3, one)] {
        let (handle, sender) = (cluster.handle(member), sender.clone());
        let lease = lease(&handle).await;
        waiters.push(tokio::spawn(async move {
            let lock = handle.lock("jobs", lease, PATIENCE).await.expect("its turn comes");
            sender.send((number, lock.revision())).expect("somebody listens");
            lock
        }));
        joined(&first, "jobs", number).await;
    }
    let other = lease(&first).await;
    assert!(first.try_lock("jobs", other, PATIENCE).await.expect("an answer").is_none(), "it is taken");
    joined(&first, "jobs", 3).await;

    cluster.kill(leader);
    cluster.leader().await;
    assert!(order.try_recv().is_err(), "an election unlocks nothing");
    held.unlock(PATIENCE).await.expect("unlocked");
    let second = soon(waiters.remove(0)).await;
    assert!(order.try_recv().is_ok_and(|(number, revision)| number == 2 && revision > held.revision()));
    assert!(order.try_recv().is_err(), "one at a time");
    second.unlock(PATIENCE).await.expect("unlocked");
    let third = soon(waiters.remove(0)).await;
    assert!(order.try_recv().is_ok_and(|(number, revision)| number == 3 && revision > second.revision()));
    third.unlock(PATIENCE).await.expect("unlocked");
    third.unlock(PATIENCE).await.expect("twice is no error");
    assert_eq!(line(&first, "jobs").await, 0);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_gives_up_leaves_the_line_and_the_next_one_moves_up() {
    let mut cluster = Cluster::start(1).await;
    let handle = cluster.handle(0);
    cluster.leader().await;
    let holder = lease(&handle).await;
    let held = handle.lock("l", holder, PATIENCE).await.expect("nobody else has it");
    let again = handle.lock("l", holder, PATIENCE).await.expect("it has it already");
    assert_eq!((held.key(), held.revision()), (again.key(), again.revision()));
    assert_eq!(held.key(), &format!("l/{holder:x}"));

    let mut waiting = Vec::new();
    for n in 2..=4 {
        let (handle, lease) = (handle.clone(), lease(&handle).await);
        let task = handle.clone();
        waiting.push((lease, tokio::spawn(async move { task.lock("l", lease, PATIENCE).await })));
        joined(&handle, "l", n).await;
    }
    // The second of three gives up, the first one's lease ends while it waits.
    waiting[1].1.abort();
    joined(&handle, "l", 3).await;
    let (lost, first) = waiting.remove(0);
    revoke(&handle, lost).await;
    assert!(matches!(soon(first).await, Err(HoldError::Lost)), "it hears at once, not when its turn comes");
    // The holder's lease ends: the last one has it, and the old holder's writes are refused by the store.
    revoke(&handle, holder).await;
    let (_, last) = waiting.pop().expect("three waited");
    let last = soon(last).await.expect("its turn");
    let write = |compare| {
        let put = Put { key: "guarded".into(), value: "x".into(), ..Put::default() };
        let put = TxnOp { body: Some(TxnOpBody::Put(put)) };
        Command::txn(Txn { compare: vec![compare], success: vec![put], failure: Vec::new() })
    };
    for (lock, expected) in [(&held, false), (&last, true)] {
        let applied = insist(&handle, write(lock.held())).await;
        let Some(ReplyBody::Txn(reply)) = applied.reply.body else { panic!("{applied:?}") };
        assert_eq!(reply.succeeded, expected);
    }
    let nobody = handle.lock("l", 12345, PATIENCE).await.map(|lock| lock.revision());
    assert!(
        matches!(nobody, Err(HoldError::Propose(ProposeError::Rejected(Rejection::LeaseNotFound)))),
        "{nobody:?}"
    );
    assert_eq!(line(&handle, "l").await, 1);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn observers_see_every_holder_and_every_proclamation() {
    let mut cluster = Cluster::start(3).await;
    cluster.leader().await;
    let handle = cluster.handle(0);
    assert_eq!(handle.elected("chair", PATIENCE).await.expect("an answer"), None);
    let observing = cluster.handle(1);
    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let observer = tokio::spawn(async move {
        let mut observer = observing.observe("chair", PATIENCE);
        while let Ok(kv) = observer.next().await {
            sender.send(String::from_utf8(kv.value.to_vec()).expect("text")).expect("somebody listens");
        }
    });

    let first = handle.campaign("chair", lease(&handle).await, "ann", PATIENCE).await.expect("elected");
    first.proclaim("ann, speaking", PATIENCE).await.expect("still in office");
    let rival = cluster.handle(2);
    let rivals = lease(&rival).await;
    let campaign = rival.clone();
    let second = tokio::spawn(async move { campaign.campaign("chair", rivals, "bob", PATIENCE).await });
    joined(&handle, "chair", 2).await;
    let elected = handle.elected("chair", PATIENCE).await.expect("an answer").expect("somebody");
    assert_eq!((&elected.value[..], elected.lease), (&b"ann, speaking"[..], first.lease()));
    first.resign(PATIENCE).await.expect("resigned");
    let second = soon(second).await.expect("elected");
    let late = first.proclaim("ann, again", PATIENCE).await;
    assert!(matches!(late, Err(HoldError::Lost)), "{late:?}");
    // Whoever knows the key and its revision can go on with it; with another revision it is another office.
    let same = Office::resume(&handle, second.key().clone(), second.revision(), second.lease());
    same.proclaim("bob, speaking", PATIENCE).await.expect("the same office");
    let other = Office::resume(&handle, second.key().clone(), second.revision() - 1, second.lease());
    assert!(matches!(other.proclaim("nobody", PATIENCE).await, Err(HoldError::Lost)));
    other.resign(PATIENCE).await.expect("no error");
    // To stand again while in office proclaims.
    rival.campaign("chair", rivals, "bob, third", PATIENCE).await.expect("in office already");
    revoke(&rival, rivals).await;
    let third = lease(&handle).await;
    handle.campaign("chair", third, "cid", PATIENCE).await.expect("elected");
    for expected in ["ann", "ann, speaking", "bob", "bob, speaking", "bob, third", "cid"] {
        let value = tokio::time::timeout(PATIENCE, seen.recv()).await.expect("in time");
        assert_eq!(value.as_deref(), Some(expected));
    }
    cluster.stop_all().await;
    soon(observer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_lives_as_long_as_its_holder_and_its_store() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let handle = cluster.handle((leader + 1) % 3);
    let short = Duration::from_secs(2);
    let session = handle.session(short, PATIENCE).await.expect("a session");
    let dropped = handle.session(short, PATIENCE).await.expect("a session");
    for session in [&session, &dropped] {
        let key = format!("by/{:x}", session.lease());
        insist(&handle, Command::put_with_lease(key, "x", session.lease())).await;
    }
    // Longer than its time to live, with an election in between.
    drop(dropped);
    cluster.kill(leader);
    cluster.leader().await;
    joined(&handle, "by", 1).await;
    assert!(session.is_alive());
    let key = format!("by/{:x}", session.lease());
    assert_eq!(get(&handle, &key, false).await.as_deref(), Some("x"), "it is the dropped one that ended");

    // The loss is told, whatever caused it.
    revoke(&handle, session.lease()).await;
    tokio::time::timeout(PATIENCE, session.lost()).await.expect("in time");
    assert!(!session.is_alive());
    session.end(PATIENCE).await.expect("what is over may be ended");

    // Without a quorum nobody can know, and a session that cannot know says so when its time is over.
    let alone = handle.session(short, PATIENCE).await.expect("a session");
    let before = tokio::time::Instant::now();
    cluster.kill((leader + 2) % 3);
    tokio::time::timeout(PATIENCE, alone.lost()).await.expect("in time");
    assert!(!alone.is_alive() && before.elapsed() >= short / 2, "{:?}", before.elapsed());
    cluster.stop_all().await;
}
