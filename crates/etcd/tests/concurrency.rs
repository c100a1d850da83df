//! Locks and elections as etcd's clients know them: the two services over gRPC and over JSON, and `etcdctl lock` and `elect`, which
//! build theirs from keys, watches and leases.

mod common;
#[path = "common/http.rs"]
mod http;

use std::process::Stdio;
use std::time::Duration;

use common::{Cluster, PATIENCE, eventually};
use http::{Http, whole};
use quorate_wire::etcdserverpb::kv_client::KvClient;
use quorate_wire::etcdserverpb::lease_client::LeaseClient;
use quorate_wire::etcdserverpb::*;
use quorate_wire::mvccpb;
use quorate_wire::v3electionpb::election_client::ElectionClient;
use quorate_wire::v3electionpb::{CampaignRequest, LeaderKey, LeaderRequest, ProclaimRequest, ResignRequest};
use quorate_wire::v3lockpb::lock_client::LockClient;
use quorate_wire::v3lockpb::{LockRequest, UnlockRequest};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tonic::transport::Channel;
use tonic::{Code, Status};

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, text: &str) {
    let status = answer.expect_err("a refusal");
    assert_eq!((status.code(), status.message()), (code, text));
}

async fn lease(channel: &Channel, id: i64) -> i64 {
    let grant = LeaseGrantRequest { ttl: 60, id };
    LeaseClient::new(channel.clone()).lease_grant(grant).await.expect("a lease").into_inner().id
}

async fn revoke(channel: &Channel, id: i64) {
    LeaseClient::new(channel.clone()).lease_revoke(LeaseRevokeRequest { id }).await.expect("revoked");
}

/// The keys below `prefix`.
async fn keys(channel: &Channel, prefix: &str) -> Vec<mvccpb::KeyValue> {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().expect("a prefix") += 1;
    let range = RangeRequest { key: prefix.to_owned().into(), range_end: end.into(), ..Default::default() };
    KvClient::new(channel.clone()).range(range).await.expect("keys").into_inner().kvs
}

fn lock(name: &str, lease: i64) -> LockRequest {
    LockRequest { name: name.to_owned().into(), lease }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lock_service() {
    let cluster = Cluster::start(3).await;
    let (one, two) = (cluster.channel(0).await, cluster.channel(1).await);
    let mut locks = LockClient::new(one.clone());
    lease(&one, 0x4d).await;
    let held = locks.lock(lock("name", 0x4d)).await.expect("locked").into_inner();
    assert_eq!(&held.key[..], b"name/4d");
    assert_eq!(held.header.expect("a header").revision, 2);
    // Whoever has it gets it again, and nothing changes.
    let again = locks.lock(lock("name", 0x4d)).await.expect("locked").into_inner();
    assert_eq!((&again.key[..], again.header.expect("a header").revision), (&b"name/4d"[..], 2));
    refused(locks.lock(lock("name", 999)).await, Code::Unknown, "etcdserver: requested lease not found");

    // Without a lease there is one of a minute, which is the holder's from now on. It waits at another member.
    let mut other = LockClient::new(two.clone());
    let waiting = tokio::spawn(async move { other.lock(lock("name", 0)).await });
    let waiter = eventually("it waits", || async {
        keys(&two, "name/").await.into_iter().find(|kv| kv.key != "name/4d").map(|kv| kv.lease)
    })
    .await;
    let left = LeaseTimeToLiveRequest { id: waiter, keys: false };
    let left = LeaseClient::new(two.clone()).lease_time_to_live(left).await.expect("a lease").into_inner();
    assert_eq!(left.granted_ttl, 60);
    // A client that goes away leaves the line.
    let gone = {
        let channel = cluster.channel(2).await;
        let id = lease(&channel, 0).await;
        tokio::spawn(async move { LockClient::new(channel).lock(lock("name", id)).await })
    };
    eventually("two wait", || async { (keys(&one, "name/").await.len() == 3).then_some(()) }).await;
    gone.abort();
    eventually("one waits", || async { (keys(&one, "name/").await.len() == 2).then_some(()) }).await;
    // One whose lease ends is told so at once.
    let id = lease(&one, 0).await;
    let mut late = locks.clone();
    let late = tokio::spawn(async move { late.lock(lock("name", id)).await });
    eventually("two wait", || async { (keys(&one, "name/").await.len() == 3).then_some(()) }).await;
    revoke(&one, id).await;
    refused(late.await.expect("no panic"), Code::Unknown, "mutex: session is expired");

    assert!(!waiting.is_finished(), "it is still held");
    locks.unlock(UnlockRequest { key: held.key }).await.expect("unlocked");
    let second = tokio::time::timeout(PATIENCE, waiting).await.expect("in time").expect("no panic");
    assert_eq!(&second.expect("its turn").into_inner().key[..], format!("name/{waiter:x}").as_bytes());
    locks.unlock(UnlockRequest { key: "nothing".into() }).await.expect("a missing key is no error");
    refused(locks.unlock(UnlockRequest::default()).await, Code::Unknown, "etcdserver: key is not provided");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_election_service() {
    let cluster = Cluster::start(3).await;
    let (one, two) = (cluster.channel(0).await, cluster.channel(1).await);
    let mut first = ElectionClient::new(one.clone());
    let mut second = ElectionClient::new(two.clone());
    let office = || LeaderRequest { name: "office".into() };
    refused(first.leader(office()).await, Code::Unknown, "election: no leader");
    let missing = "\"leader\" field must be provided";
    refused(first.proclaim(ProclaimRequest::default()).await, Code::Unknown, missing);
    refused(first.resign(ResignRequest::default()).await, Code::Unknown, missing);
    let campaign =
        |lease, value: &str| CampaignRequest { name: "office".into(), lease, value: value.to_owned().into() };
    refused(first.campaign(campaign(999, "x")).await, Code::Unknown, "etcdserver: requested lease not found");

    let mut observed = second.observe(office()).await.expect("a stream").into_inner();
    lease(&one, 0x4d).await;
    let won = first.campaign(campaign(0x4d, "ann")).await.expect("won").into_inner();
    let ann = won.leader.expect("a key");
    assert_eq!(
        (&ann.name[..], &ann.key[..], ann.rev, ann.lease),
        (&b"office"[..], &b"office/4d"[..], 2, 0x4d)
    );
    lease(&two, 0x5e).await;
    let mut rival = second.clone();
    let request = campaign(0x5e, "bob");
    let waiting = tokio::spawn(async move { rival.campaign(request).await });
    eventually("a rival waits", || async { (keys(&one, "office/").await.len() == 2).then_some(()) }).await;
    let proclaim = |leader: &LeaderKey, value: &str| ProclaimRequest {
        leader: Some(leader.clone()),
        value: value.to_owned().into(),
    };
    first.proclaim(proclaim(&ann, "ann again")).await.expect("in office");
    let found = second.leader(office()).await.expect("somebody").into_inner().kv.expect("a key");
    assert_eq!((&found.key, &found.value[..], found.lease), (&ann.key, &b"ann again"[..], 0x4d));
    let other = LeaderKey { rev: ann.rev + 1, ..ann.clone() };
    refused(first.proclaim(proclaim(&other, "x")).await, Code::Unknown, "election: not leader");
    first.resign(ResignRequest { leader: Some(other) }).await.expect("no error, and no effect");
    assert!(!waiting.is_finished());
    first.resign(ResignRequest { leader: Some(ann.clone()) }).await.expect("resigned");
    let won = tokio::time::timeout(PATIENCE, waiting).await.expect("in time").expect("no panic");
    let bob = won.expect("won").into_inner().leader.expect("a key");
    assert_eq!(&bob.key[..], b"office/5e");
    refused(first.proclaim(proclaim(&ann, "x")).await, Code::Unknown, "election: not leader");
    revoke(&two, 0x5e).await;
    refused(second.proclaim(proclaim(&bob, "x")).await, Code::Unknown, "election: not leader");
    for expected in ["ann", "ann again", "bob"] {
        let next = tokio::time::timeout(PATIENCE, observed.message()).await.expect("in time");
        let next = next.expect("no error").expect("an item");
        assert!(next.header.is_some());
        assert_eq!(next.kv.expect("a key").value, expected);
    }
    cluster.stop().await;
}

/// The bodies are those of etcd, taken from a running one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_over_json() {
    let cluster = Cluster::start(1).await;
    let mut http = Http::connect(&cluster.clients[0]).await;
    let (code, body) = http.post("/v3/election/leader", r#"{"name":"bm0="}"#).await;
    let nobody = "election: no leader";
    assert_eq!((code, body), (500, json!({"error": nobody, "code": 2, "message": nobody})));
    let (code, body) = http.post("/v3/lease/grant", r#"{"TTL":"30","ID":"77"}"#).await;
    assert_eq!((code, &body["ID"]), (200, &json!("77")));
    let asked = r#"{"name":"bm0=","lease":"77","value":"bm0="}"#;
    let (code, body) = http.post("/v3/election/campaign", asked).await;
    let won = json!({"name": "bm0=", "key": "bm0vNGQ=", "rev": "2", "lease": "77"});
    assert_eq!((code, &body["leader"]), (200, &won));
    let (code, mut lines) = http.lines("/v3/election/observe", whole(r#"{"name":"bm0="}"#)).await;
    let line = lines.next().await.expect("a line");
    assert_eq!((code, &line["result"]["kv"]["value"]), (200, &json!("bm0=")));
    let mut http = Http::connect(&cluster.clients[0]).await;
    let (code, body) = http.post("/v3/lock/lock", r#"{"name":"TDI=","lease":"77"}"#).await;
    assert_eq!((code, &body["key"]), (200, &json!("TDIvNGQ=")));
    let (code, body) = http.post("/v3/lock/unlock", r#"{"key":"TDIvNGQ="}"#).await;
    assert_eq!((code, &body["header"]["revision"]), (200, &json!("4")));
    drop(lines);
    cluster.stop().await;
}

/// `etcdctl` with its output line by line; ended by SIGINT, as a person would, or killed with its value.
struct Etcdctl {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Etcdctl {
    fn start(endpoints: &str, arguments: &[&str]) -> Etcdctl {
        let mut child = Command::new("etcdctl")
            .args(["--endpoints", endpoints])
            .args(arguments)
            .env("ETCDCTL_API", "3")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("etcdctl is there: `cargo xtask setup` installs it (Debian: etcd-client)");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Etcdctl { child, lines }
    }

    async fn line(&mut self) -> String {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await.expect("a line in time");
        line.expect("text").expect("a line")
    }

    async fn interrupt(mut self) {
        let pid = self.child.id().expect("it runs").to_string();
        Command::new("kill").args(["-INT", &pid]).status().await.expect("a signal");
        tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it ends").expect("a status");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcdctl_lock() {
    let cluster = Cluster::start(3).await;
    let channel = cluster.channel(0).await;
    let endpoints = cluster.endpoints();
    let mut first = Etcdctl::start(&endpoints, &["lock", "--ttl", "2", "mutex"]);
    let held = first.line().await;
    assert!(held.starts_with("mutex/"), "{held}");
    let mut second =
        Etcdctl::start(&endpoints, &["lock", "mutex", "--", "sh", "-c", "echo has $ETCD_LOCK_KEY"]);
    eventually("the second one waits", || async {
        (keys(&channel, "mutex/").await.len() == 2).then_some(())
    })
    .await;
    // Longer than its time to live: the client keeps its session alive, and nobody gets in between.
    tokio::time::sleep(Duration::from_millis(3_500)).await;
    assert_eq!(keys(&channel, "mutex/").await.len(), 2);
    first.interrupt().await;
    let has = second.line().await;
    assert!(has.starts_with("has mutex/") && has != format!("has {held}"), "{has}");
    let ended =
        tokio::time::timeout(PATIENCE, second.child.wait()).await.expect("it ends").expect("a status");
    assert!(ended.success());
    eventually("nobody has it", || async { keys(&channel, "mutex/").await.is_empty().then_some(()) }).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcdctl_elect_through_the_loss_of_the_leader() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let survivor = cluster.channel((leader + 1) % 3).await;
    let endpoints = cluster.endpoints();
    let mut listening = Etcdctl::start(&endpoints, &["elect", "--listen", "office"]);
    let mut first = Etcdctl::start(&endpoints, &["elect", "office", "ann"]);
    let key = first.line().await;
    assert!(key.starts_with("office/"), "{key}");
    assert_eq!(first.line().await, "ann");
    assert_eq!((listening.line().await, listening.line().await), (key.clone(), "ann".to_owned()));
    let mut second = Etcdctl::start(&endpoints, &["elect", "office", "bob"]);
    eventually("a rival waits", || async { (keys(&survivor, "office/").await.len() == 2).then_some(()) })
        .await;
    cluster.kill(leader);
    cluster.leader().await;
    first.interrupt().await;
    let key = second.line().await;
    assert!(key.starts_with("office/"), "{key}");
    assert_eq!(second.line().await, "bob");
    assert_eq!((listening.line().await, listening.line().await), (key, "bob".to_owned()));
    second.interrupt().await;
    cluster.stop().await;
}

/// What Go's `concurrency` package asks: the oldest of a prefix, and the youngest that is not younger than a revision.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_requests_of_gos_concurrency_package() {
    use range_request::{SortOrder, SortTarget};
    let cluster = Cluster::start(1).await;
    let mut kv = KvClient::new(cluster.channel(0).await);
    // In an order of creation that is not that of their names, and one of them written again.
    for key in ["p/c", "p/a", "p/b", "p/c"] {
        let put = PutRequest { key: key.into(), value: "x".into(), ..Default::default() };
        kv.put(put).await.expect("written");
    }
    let prefix = RangeRequest {
        key: "p/".into(),
        range_end: "p0".into(),
        sort_target: SortTarget::Create.into(),
        limit: 1,
        ..Default::default()
    };
    let first = RangeRequest { sort_order: SortOrder::Ascend.into(), ..prefix.clone() };
    let found = kv.range(first).await.expect("an answer").into_inner();
    assert_eq!((&found.kvs[0].key[..], found.count, found.more), (&b"p/c"[..], 3, true));
    for (max_create_revision, expected) in [(0, "p/b"), (4, "p/b"), (3, "p/a"), (2, "p/c")] {
        let last =
            RangeRequest { sort_order: SortOrder::Descend.into(), max_create_revision, ..prefix.clone() };
        let found = kv.range(last).await.expect("an answer").into_inner();
        assert_eq!(&found.kvs[0].key[..], expected.as_bytes(), "at most {max_create_revision}");
    }
    let none = RangeRequest { max_create_revision: 1, ..prefix };
    assert!(kv.range(none).await.expect("an answer").into_inner().kvs.is_empty());
    cluster.stop().await;
}
