//! Members that an operator adds, removes, moves and promotes, and a member that goes on alone.

mod common;

use std::time::Duration;

use common::{Cluster, PATIENCE, STOP, eventually, get, insist, put};
use quorate_node::{Handle, Member, MemberError, Node, restore_snapshot, snapshot_status};

/// Long enough for a change and for the leader's patience with members it has not heard yet.
const CHANGE: Duration = Duration::from_secs(10);

/// Plans one more member and returns its place. Its list names everybody planned so far, as `member add` prints it.
fn plan_another(cluster: &mut Cluster) -> usize {
    let n = cluster.configs.len();
    let mut config = cluster.configs[0].clone();
    let host = config.peer_listen[0].rsplit_once(':').expect("host:port").0.to_owned();
    let port = quorate_loopback::port().expect("a port");
    config.name = format!("m{n}");
    config.data_dir = cluster.root.path().join(&config.name);
    config.peer_listen = vec![format!("{host}:{port}")];
    config.peer_advertise = format!("http://{host}:{port}");
    config.client_urls = vec![format!("http://{host}:1{n}")];
    config.initial_cluster.push((config.name.clone(), config.peer_advertise.clone()));
    config.new_cluster = false;
    cluster.configs.push(config);
    cluster.nodes.push(None);
    n
}

async fn add(cluster: &Cluster, at: usize, n: usize, learner: bool) -> Result<Member, MemberError> {
    cluster.handle(at).add_member(&cluster.configs[n].peer_advertise, learner, CHANGE).await
}

fn find(handle: &Handle, id: u64) -> Option<Member> {
    handle.members().into_iter().find(|member| member.id == id)
}

/// Until it votes: what a learner cannot do is lead.
async fn has_vote(handle: &Handle, id: u64) {
    eventually("the member has the vote", || async { handle.can_lead(id).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_one_grows_to_three_without_a_pause_and_shrinks_again() {
    let mut cluster = Cluster::start(1).await;
    let first = cluster.handle(0);
    insist(&first, put("k", "1")).await;

    // A member that was added and never started costs nothing: etcd would stand still here.
    let second = plan_another(&mut cluster);
    let added = add(&cluster, 0, second, false).await.expect("a second member");
    assert!(!added.is_learner && added.name.is_empty(), "{added:?}");
    assert!(!find(&first, added.id).expect("it is listed").is_learner);
    insist(&first, put("k", "2")).await;
    // But a third one would make three voters of which one has started.
    let third = plan_another(&mut cluster);
    let refused = add(&cluster, 0, third, false).await;
    assert!(matches!(refused, Err(MemberError::NotEnoughStarted)), "{refused:?}");
    let refused = first.add_member(&cluster.configs[second].peer_advertise, false, CHANGE).await;
    assert!(matches!(refused, Err(MemberError::UrlExists)), "{refused:?}");
    let refused = first.add_member("10.0.0.1:2380", false, CHANGE).await;
    assert!(matches!(refused, Err(MemberError::InvalidUrl)), "{refused:?}");

    cluster.start_one(second).await;
    assert_eq!(cluster.handle(second).header().member_id, added.id, "the id that was added");
    has_vote(&first, added.id).await;
    add(&cluster, second, third, false).await.expect("a third member, asked for at any member");
    cluster.start_one(third).await;
    let third_id = cluster.handle(third).header().member_id;
    has_vote(&first, third_id).await;
    eventually("everybody is named", || async {
        first.members().iter().all(|member| !member.name.is_empty()).then_some(())
    })
    .await;
    assert_eq!(get(&cluster.handle(third), "k", true).await.as_deref(), Some("2"));

    // The same member after a restart, and after the loss of its disk another one.
    cluster.stop(third).await;
    cluster.start_one(third).await;
    assert_eq!(cluster.handle(third).header().member_id, third_id);
    cluster.stop(third).await;
    std::fs::remove_dir_all(cluster.data_dir(third)).expect("its directory");
    cluster.start_one(third).await;
    let replaced = cluster.handle(third).header().member_id;
    assert_ne!(replaced, third_id, "an id is never used on another disk");
    has_vote(&first, replaced).await;
    assert!(find(&first, third_id).is_none());

    // Removed while it leads: it hands over, and says why it stops.
    let leader = cluster.leader().await;
    let leader_id = cluster.handle(leader).header().member_id;
    let other = (0..3).find(|n| *n != leader).expect("two others");
    cluster.handle(other).remove_member(leader_id, CHANGE).await.expect("the leader is removed");
    let removed = cluster.nodes[leader].take().expect("it runs");
    let sentence = tokio::time::timeout(PATIENCE, removed.failed()).await.expect("it hears of it");
    assert!(sentence.contains("removed it") && sentence.contains("empty data directory"), "{sentence}");
    assert!(removed.handle().range(Default::default(), STOP).await.is_err(), "it serves nothing any more");
    removed.shutdown(STOP).await;
    assert!(find(&cluster.handle(other), leader_id).is_none());
    insist(&cluster.handle(other), put("k", "3")).await;
    let refused = cluster.handle(other).remove_member(leader_id, CHANGE).await;
    assert!(matches!(refused, Err(MemberError::NotFound)), "{refused:?}");

    // Two are left; either may go, the last one may not.
    let last = (0..3).find(|n| *n != leader && *n != other).expect("a third");
    let other_id = cluster.handle(other).header().member_id;
    cluster.handle(last).remove_member(other_id, CHANGE).await.expect("one of two is removed");
    insist(&cluster.handle(last), put("k", "4")).await;
    let last_id = cluster.handle(last).header().member_id;
    let refused = cluster.handle(last).remove_member(last_id, CHANGE).await;
    assert!(matches!(refused, Err(MemberError::NotEnoughStarted)), "{refused:?}");
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_added_waits_beside_a_founder_that_lost_its_disk() {
    let mut cluster = Cluster::start(3).await;
    insist(&cluster.handle(0), put("k", "1")).await;
    let fourth = plan_another(&mut cluster);
    let id = add(&cluster, 0, fourth, false).await.expect("a fourth member").id;

    // A founder with an empty disk, and with the list of its day, is all that the fourth one meets.
    for n in 0..3 {
        cluster.stop(n).await;
    }
    std::fs::remove_dir_all(cluster.data_dir(0)).expect("its directory");
    let lost = tokio::spawn(Node::start(cluster.configs[0].clone()));
    let added = tokio::spawn(Node::start(cluster.configs[fourth].clone()));
    // There is no event to wait for when nothing happens.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!lost.is_finished() && !added.is_finished(), "both wait for somebody who knows");

    let (second, third) =
        tokio::join!(Node::start(cluster.configs[1].clone()), Node::start(cluster.configs[2].clone()));
    cluster.nodes[1] = Some(second.expect("the second starts"));
    cluster.nodes[2] = Some(third.expect("the third starts"));
    cluster.nodes[fourth] = Some(added.await.expect("no panic").expect("it is taken in"));
    cluster.nodes[0] = Some(lost.await.expect("no panic").expect("it is replaced"));
    assert_eq!(cluster.handle(fourth).header().member_id, id);
    assert_eq!(get(&cluster.handle(fourth), "k", true).await.as_deref(), Some("1"));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_is_promoted_when_it_is_in_sync_and_not_before() {
    let mut cluster = Cluster::start(3).await;
    let handle = cluster.handle(0);
    let voter = handle.header().member_id;
    let refused = handle.promote_member(voter, CHANGE).await;
    assert!(matches!(refused, Err(MemberError::NotLearner)), "{refused:?}");
    let refused = handle.promote_member(12345, CHANGE).await;
    assert!(matches!(refused, Err(MemberError::NotFound)), "{refused:?}");

    let n = plan_another(&mut cluster);
    let learner = add(&cluster, 1, n, true).await.expect("a learner");
    assert!(learner.is_learner);
    let refused = handle.promote_member(learner.id, CHANGE).await;
    assert!(matches!(refused, Err(MemberError::LearnerNotReady)), "not started: {refused:?}");
    let another = plan_another(&mut cluster);
    let refused = add(&cluster, 0, another, true).await;
    assert!(matches!(refused, Err(MemberError::TooManyLearners)), "{refused:?}");

    insist(&handle, put("k", "v")).await;
    cluster.start_one(n).await;
    assert!(cluster.handle(n).status().is_learner);
    assert_eq!(get(&cluster.handle(n), "k", false).await.as_deref(), Some("v"), "it reads like any member");

    // Moved while it is a learner: it stays one.
    let url = cluster.configs[n].peer_advertise.clone();
    handle.update_member(learner.id, "http://127.0.0.1:9", CHANGE).await.expect("moved");
    let moved = find(&handle, learner.id).expect("it is listed");
    assert!(moved.is_learner && moved.peer_urls == ["http://127.0.0.1:9"], "{moved:?}");
    let taken = cluster.configs[1].peer_advertise.clone();
    let refused = handle.update_member(learner.id, &taken, CHANGE).await;
    assert!(matches!(refused, Err(MemberError::UrlExists)), "{refused:?}");
    handle.update_member(learner.id, &url, CHANGE).await.expect("moved back");

    eventually("it is in sync", || async {
        match handle.promote_member(learner.id, CHANGE).await {
            Ok(()) => Some(()),
            Err(MemberError::LearnerNotReady) => None,
            Err(error) => panic!("{error}"),
        }
    })
    .await;
    assert!(handle.can_lead(learner.id) && !cluster.handle(n).status().is_learner);
    cluster.handle(1).remove_member(learner.id, CHANGE).await.expect("removed");
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_lose_the_quorum_is_refused() {
    let mut cluster = Cluster::start(3).await;
    let dead = cluster.follower().await;
    let dead_id = cluster.handle(dead).header().member_id;
    let alive = (0..3).find(|n| *n != dead).expect("two others");
    let alive_id = cluster.handle(alive).header().member_id;
    cluster.kill(dead);
    let handle = cluster.handle(alive);
    eventually("the leader misses it", || async {
        // A voter is not added beside a dead one; a learner is, since it touches no quorum.
        match handle.add_member("http://127.0.0.1:9", false, CHANGE).await {
            Err(MemberError::Unhealthy) => Some(()),
            Ok(added) => {
                handle.remove_member(added.id, CHANGE).await.expect("taken back");
                None
            }
            Err(error) => panic!("{error}"),
        }
    })
    .await;
    let refused = handle.remove_member(alive_id, CHANGE).await;
    assert!(matches!(refused, Err(MemberError::Unhealthy)), "one of two that are alive: {refused:?}");
    insist(&handle, put("k", "v")).await;

    // What is safe: a learner, its vote, and then the dead one goes.
    let n = plan_another(&mut cluster);
    let learner = add(&cluster, alive, n, true).await.expect("a learner beside a dead voter");
    cluster.start_one(n).await;
    eventually("it is in sync", || async { handle.promote_member(learner.id, CHANGE).await.ok() }).await;
    handle.remove_member(dead_id, CHANGE).await.expect("the dead one is removed");
    insist(&handle, put("k", "w")).await;

    // Without a quorum the list can still be read, and nothing can be changed.
    let gone: Vec<usize> = (0..4).filter(|m| *m != dead && *m != n).collect();
    for m in gone {
        cluster.kill(m);
    }
    let left = cluster.handle(n);
    assert_eq!(left.members().len(), 3);
    let refused = left.remove_member(alive_id, Duration::from_secs(2)).await;
    assert!(matches!(refused, Err(MemberError::Unhealthy | MemberError::Unanswered(_))), "{refused:?}");
    assert_eq!(get(&left, "k", true).await.as_deref(), Some("w"));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_joins_uninvited() {
    let mut cluster = Cluster::start(1).await;
    let n = plan_another(&mut cluster);
    let error = Node::start(cluster.configs[n].clone()).await.err().expect("nobody added it").to_string();
    assert!(error.contains("no member with the peer URL") && error.contains("member add m1"), "{error}");
    add(&cluster, 0, n, false).await.expect("now it is added");
    cluster.start_one(n).await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_of_three_goes_on_alone_by_force_and_grows_again() {
    let mut cluster = Cluster::start(3).await;
    insist(&cluster.handle(0), put("k", "v")).await;
    let old = cluster.handle(0).header();
    eventually("everybody has it", || async {
        let all = cluster.running().map(|(_, handle)| handle.header().revision);
        all.min().filter(|revision| *revision == old.revision)
    })
    .await;
    for n in 0..3 {
        cluster.kill(n);
    }
    cluster.configs[0].force_new_cluster = true;
    cluster.start_one(0).await;
    let handle = cluster.handle(0);
    assert_eq!(get(&handle, "k", false).await.as_deref(), Some("v"), "alone, and a quorum");
    insist(&handle, put("k", "w")).await;
    let now = handle.header();
    assert_eq!(now.member_id, old.member_id);
    assert_ne!(now.cluster_id, old.cluster_id, "the others must not reach it");
    assert_eq!(handle.members().len(), 1);

    // The order is left in the configuration: it has had its effect.
    let n = plan_another(&mut cluster);
    cluster.configs[n].force_new_cluster = false;
    let added = add(&cluster, 0, n, false).await.expect("a second member");
    cluster.start_one(n).await;
    has_vote(&handle, added.id).await;
    cluster.stop(0).await;
    cluster.start_one(0).await;
    let handle = cluster.handle(0);
    assert_eq!((handle.members().len(), handle.header().cluster_id), (2, now.cluster_id));

    // The dead come back after all: they are of another cluster and elect among themselves, but reach nobody here.
    cluster.start_one(1).await;
    cluster.start_one(2).await;
    insist(&cluster.handle(1), put("k", "ghost")).await;
    assert_eq!(cluster.handle(1).header().cluster_id, old.cluster_id);
    insist(&handle, put("alive", "yes")).await;
    assert_eq!(get(&handle, "k", false).await.as_deref(), Some("w"));
    cluster.stop(1).await;
    cluster.stop(2).await;

    let third = plan_another(&mut cluster);
    cluster.configs[third].force_new_cluster = false;
    let added = add(&cluster, n, third, false).await.expect("back to three");
    cluster.start_one(third).await;
    has_vote(&handle, added.id).await;
    assert_eq!(get(&cluster.handle(third), "k", false).await.as_deref(), Some("w"));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_saved_snapshot_begins_another_cluster() {
    let mut cluster = Cluster::start(3).await;
    let handle = cluster.handle(0);
    for n in 0..300 {
        insist(&handle, put(&format!("k{n:03}"), &"v".repeat(1_000))).await;
    }
    let lease = handle.grant_lease(None, Duration::from_secs(600), PATIENCE).await.expect("a lease");
    insist(&handle, common::put_with_lease("leased", "x", lease)).await;
    let old = handle.header();
    let snapshot = handle.snapshot().await.expect("a snapshot");
    // What comes later is not in it.
    insist(&handle, put("later", "x")).await;
    let file = cluster.root.path().join("snapshot.db");
    save(snapshot, &file);
    assert_eq!(std::fs::read_dir(cluster.data_dir(0).join("snapshots")).expect("a directory").count(), 0);
    cluster.stop_all().await;

    let status = snapshot_status(&file, true).expect("whole");
    assert_eq!(status.revision, old.revision);
    assert!(status.total_keys > 300 && status.total_bytes > 300_000, "{status:?}");

    // Three members of another cluster, each restored by itself.
    let mut again = Cluster::plan(3);
    for config in &mut again.configs {
        config.cluster_token = "restored".to_owned();
        let restore = restore_of(config);
        assert_eq!(restore_snapshot(&file, &restore).expect("restored").revision, old.revision);
        let refused = restore_snapshot(&file, &restore).expect_err("not twice").to_string();
        assert!(refused.contains("not empty or could not be read"), "{refused}");
    }
    again.start_all().await;
    let handle = again.handle(1);
    assert_eq!(get(&handle, "k299", false).await.map(|value| value.len()), Some(1_000));
    assert_eq!(get(&handle, "later", false).await, None);
    assert_eq!(handle.leases(PATIENCE).await.expect("leases"), [lease]);
    let now = handle.header();
    assert_eq!(now.revision, old.revision, "revisions go on");
    assert_ne!(now.cluster_id, old.cluster_id);
    assert!(again.running().all(|(_, handle)| handle.header().cluster_id == now.cluster_id));
    let members = handle.members();
    assert!(members.len() == 3 && members.iter().all(|member| !member.is_learner), "{members:?}");
    insist(&handle, put("k", "new")).await;
    assert_eq!(handle.header().revision, old.revision + 1);
    // They live on like any others: a restart, and the loss of a disk.
    again.stop_all().await;
    again.start_all().await;
    again.stop(2).await;
    std::fs::remove_dir_all(again.data_dir(2)).expect("its directory");
    again.start_one(2).await;
    assert_eq!(get(&again.handle(2), "k", false).await.as_deref(), Some("new"));
    again.stop_all().await;
}

fn restore_of(config: &quorate_node::Config) -> quorate_node::Restore {
    quorate_node::Restore {
        name: config.name.clone(),
        data_dir: config.data_dir.clone(),
        peer_advertise: config.peer_advertise.clone(),
        initial_cluster: config.initial_cluster.clone(),
        cluster_token: config.cluster_token.clone(),
        digest: true,
    }
}

/// As a client saves it: everything, and the digest of that.
fn save(mut snapshot: quorate_node::Snapshot, path: &std::path::Path) {
    use std::io::Read as _;
    let mut content = Vec::new();
    snapshot.file.read_to_end(&mut content).expect("it reads back");
    assert_eq!(content.len() as u64, snapshot.bytes);
    assert_eq!(content.len() % 512, 0);
    let digest = ring::digest::digest(&ring::digest::SHA256, &content);
    content.extend_from_slice(digest.as_ref());
    std::fs::write(path, content).expect("a file");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_snapshot_leaves_nothing_behind() {
    let mut cluster = Cluster::start(1).await;
    insist(&cluster.handle(0), put("k", &"v".repeat(10_000))).await;
    let file = cluster.root.path().join("snapshot.db");
    save(cluster.handle(0).snapshot().await.expect("a snapshot"), &file);
    cluster.stop_all().await;
    let whole = std::fs::read(&file).expect("a file");
    let target = Cluster::plan(1);
    let restore = restore_of(&target.configs[0]);
    let mut damages: Vec<Vec<u8>> =
        [0, 512, whole.len() - 32, whole.len() - 1].iter().map(|end| whole[..*end].to_vec()).collect();
    for at in [0, 20, 700, whole.len() / 2, whole.len() - 40, whole.len() - 1] {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        damages.push(flipped);
    }
    for damage in damages {
        std::fs::write(&file, &damage).expect("a file");
        let error = restore_snapshot(&file, &restore).expect_err("it is damaged");
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        assert!(error.to_string().contains("snapshot.db"), "{error}");
        assert!(source.contains("take another snapshot"), "{source}");
        assert!(snapshot_status(&file, true).is_err());
        assert_eq!(std::fs::read_dir(target.root.path()).expect("a directory").count(), 0, "nothing is left");
    }
    // Without the digest, as a copy of the content alone.
    std::fs::write(&file, &whole[..whole.len() - 32]).expect("a file");
    restore_snapshot(&file, &quorate_node::Restore { digest: false, ..restore })
        .expect("the checksums inside hold");
}
