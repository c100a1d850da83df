//! The services over gRPC on three members: what clones of etcd get wrong, one behaviour a test.

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{Cluster, PATIENCE};
use quorate_etcd::ServerOptions;
use quorate_wire::etcdserverpb::auth_client::AuthClient;
use quorate_wire::etcdserverpb::cluster_client::ClusterClient;
use quorate_wire::etcdserverpb::kv_client::KvClient;
use quorate_wire::etcdserverpb::lease_client::LeaseClient;
use quorate_wire::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_wire::etcdserverpb::watch_client::WatchClient;
use quorate_wire::etcdserverpb::*;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() }
}

fn get(key: &str) -> RangeRequest {
    RangeRequest { key: key.to_owned().into(), ..Default::default() }
}

fn put_op(key: &str, value: &str) -> RequestOp {
    RequestOp { request: Some(request_op::Request::RequestPut(put(key, value))) }
}

fn missing(key: &str) -> Compare {
    let key = key.to_owned().into();
    Compare {
        key,
        target: 1,
        target_union: Some(compare::TargetUnion::CreateRevision(0)),
        ..Default::default()
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, text: &str) {
    let status = answer.expect_err("a refusal");
    assert_eq!((status.code(), status.message()), (code, text));
}

/// Both directions of one watch stream.
struct Stream {
    requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
}

impl Stream {
    async fn open(channel: Channel) -> Stream {
        let (requests, queue) = mpsc::channel(16);
        let answer = WatchClient::new(channel).watch(ReceiverStream::new(queue)).await.expect("a stream");
        Stream { requests, responses: answer.into_inner() }
    }

    async fn send(&self, union: watch_request::RequestUnion) {
        let request = WatchRequest { request_union: Some(union) };
        self.requests.send(request).await.expect("an open stream");
    }

    async fn create(&self, request: WatchCreateRequest) {
        self.send(watch_request::RequestUnion::CreateRequest(request)).await;
    }

    async fn cancel(&self, watch_id: i64) {
        self.send(watch_request::RequestUnion::CancelRequest(WatchCancelRequest { watch_id })).await;
    }

    async fn progress(&self) {
        self.send(watch_request::RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
    }

    async fn try_next(&mut self) -> Result<Option<WatchResponse>, Status> {
        tokio::time::timeout(PATIENCE, self.responses.message()).await.expect("a response in time")
    }

    async fn next(&mut self) -> WatchResponse {
        self.try_next().await.expect("no error").expect("a response")
    }
}

fn prefix(key: &str, start_revision: i64) -> WatchCreateRequest {
    let mut end = key.as_bytes().to_vec();
    *end.last_mut().expect("a key") += 1;
    let key = Bytes::copy_from_slice(key.as_bytes());
    WatchCreateRequest { key, range_end: end.into(), start_revision, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_are_complete_and_comparable() {
    let cluster = Cluster::start(3).await;
    cluster.announced().await;
    let mut members = Vec::new();
    let mut clusters = Vec::new();
    let mut term = 0;
    for n in 0..3 {
        let channel = cluster.channel(n).await;
        let answer = KvClient::new(channel.clone()).put(put("k", "v")).await.expect("an answer").into_inner();
        let header = answer.header.expect("a header");
        assert_eq!(header.revision, 2 + i64::try_from(n).expect("small"));
        assert!(header.raft_term >= term, "the term never goes back from member to member");
        term = header.raft_term;
        members.push(header.member_id);
        clusters.push(header.cluster_id);
        let list = ClusterClient::new(channel.clone())
            .member_list(MemberListRequest { linearizable: true })
            .await
            .expect("an answer")
            .into_inner();
        let header = list.header.expect("a header");
        assert_eq!((header.revision, header.member_id, header.raft_term), (0, members[n], term));
        assert_eq!(list.members.len(), 3);
        let me = list.members.iter().find(|member| member.id == members[n]).expect("myself");
        assert_eq!(me.client_ur_ls, [format!("http://{}", cluster.clients[n])]);
        // The revision of a header is now's, also when the past is asked for.
        let past = RangeRequest { revision: 2, ..get("k") };
        let past = KvClient::new(channel).range(past).await.expect("an answer").into_inner();
        assert_eq!(past.kvs[0].mod_revision, 2);
        assert_eq!(past.header.expect("a header").revision, 2 + i64::try_from(n).expect("small"));
    }
    members.sort_unstable();
    members.dedup();
    clusters.dedup();
    assert_eq!((members.len(), clusters.len()), (3, 1));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_refuse_nest_and_stamp_like_etcd() {
    let cluster = Cluster::start(1).await;
    let mut kv = KvClient::new(cluster.channel(0).await);
    refused(kv.put(put("", "v")).await, Code::InvalidArgument, "etcdserver: key is not provided");
    let twice = TxnRequest { success: vec![put_op("a", "1"), put_op("a", "2")], ..Default::default() };
    refused(kv.txn(twice).await, Code::InvalidArgument, "etcdserver: duplicate key given in txn request");
    let many = TxnRequest {
        success: (0..129).map(|n| put_op(&format!("k{n}"), "v")).collect(),
        ..Default::default()
    };
    refused(kv.txn(many).await, Code::InvalidArgument, "etcdserver: too many operations in txn request");
    let large = PutRequest { value: vec![0; 1_600_000].into(), ..put("large", "") };
    refused(kv.put(large).await, Code::InvalidArgument, "etcdserver: request is too large");

    // Patroni's update of the leader key: the failure branch is a transaction of its own, and its compare sees the
    // state before everything.
    let inner = TxnRequest {
        compare: vec![missing("leader")],
        success: vec![put_op("leader", "m1")],
        ..Default::default()
    };
    let outer = TxnRequest {
        compare: vec![Compare {
            key: "leader".into(),
            target: 3,
            target_union: Some(compare::TargetUnion::Value("m1".into())),
            ..Default::default()
        }],
        success: vec![put_op("leader", "m1")],
        failure: vec![RequestOp { request: Some(request_op::Request::RequestTxn(inner)) }],
    };
    let answer = kv.txn(outer.clone()).await.expect("an answer").into_inner();
    assert!(!answer.succeeded, "a missing key has no value to be equal to");
    let Some(response_op::Response::ResponseTxn(nested)) = &answer.responses[0].response else {
        panic!("a nested answer, not {answer:?}");
    };
    assert!(nested.succeeded);
    assert_eq!(nested.header, Some(ResponseHeader::default()));
    let Some(response_op::Response::ResponsePut(written)) = &nested.responses[0].response else {
        panic!("a put's answer, not {nested:?}");
    };
    assert_eq!(written.header.map(|header| (header.revision, header.member_id)), Some((2, 0)));
    assert_eq!(answer.header.expect("a header").revision, 2);
    assert!(kv.txn(outer).await.expect("an answer").into_inner().succeeded);

    // A transaction that changes nothing is no revision; one that only reads is none either.
    let delete = DeleteRangeRequest { key: "none".into(), ..Default::default() };
    let nothing = TxnRequest {
        success: vec![RequestOp { request: Some(request_op::Request::RequestDeleteRange(delete)) }],
        ..Default::default()
    };
    assert_eq!(kv.txn(nothing).await.expect("an answer").into_inner().header.expect("a header").revision, 3);
    let read = RequestOp { request: Some(request_op::Request::RequestRange(get("leader"))) };
    let read = TxnRequest { success: vec![read], ..Default::default() };
    let answer = kv.txn(read).await.expect("an answer").into_inner();
    assert_eq!(answer.header.expect("a header").revision, 3);
    let Some(response_op::Response::ResponseRange(found)) = &answer.responses[0].response else {
        panic!("a range's answer, not {answer:?}");
    };
    assert_eq!((found.kvs[0].version, found.header.expect("a header").revision), (2, 3));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_stream_carries_many_watchers() {
    let cluster = Cluster::start(3).await;
    let channel = cluster.channel(cluster.follower().await).await;
    let mut kv = KvClient::new(channel.clone());
    for value in ["1", "2"] {
        kv.put(put("a/1", value)).await.expect("a put");
    }
    let mut stream = Stream::open(channel).await;

    // `created` first, then history from the start revision, that revision included; numbers from 0.
    stream.create(WatchCreateRequest { prev_kv: true, ..prefix("a/", 3) }).await;
    let created = stream.next().await;
    assert_eq!((created.created, created.watch_id, created.events.len()), (true, 0, 0));
    let replayed = stream.next().await;
    assert_eq!((replayed.watch_id, replayed.events.len()), (0, 1));
    assert_eq!(replayed.events[0].prev_kv.as_ref().expect("the version before").value, "1");

    // From now on, without deletions, under a number of the client's choice.
    let filters = vec![watch_create_request::FilterType::Nodelete as i32];
    stream.create(WatchCreateRequest { watch_id: 7, filters, ..prefix("a/", 0) }).await;
    let created = stream.next().await;
    assert_eq!((created.created, created.watch_id), (true, 7));
    assert_eq!(created.header.expect("a header").revision, 3);

    // Failed creations spoil nothing: their number is -1.
    stream.create(WatchCreateRequest { watch_id: 7, ..prefix("b/", 0) }).await;
    stream.create(WatchCreateRequest { range_end: "a".into(), ..prefix("b", 0) }).await;
    stream.create(prefix("a/", -1)).await;
    for reason in [
        "mvcc: duplicate watch ID provided on the WatchStream",
        "mvcc: watcher range is empty",
        "etcdserver: mvcc: required revision has been compacted",
    ] {
        let failed = stream.next().await;
        assert_eq!((failed.created, failed.canceled, failed.watch_id), (true, true, -1), "{failed:?}");
        assert_eq!(failed.cancel_reason, reason);
    }

    kv.delete_range(DeleteRangeRequest { key: "a/1".into(), ..Default::default() }).await.expect("a delete");
    let deleted = stream.next().await;
    assert_eq!(deleted.watch_id, 0, "the other one filters deletions");
    assert_eq!(deleted.events[0].r#type, 1);
    let kv_of = deleted.events[0].kv.as_ref().expect("a key");
    assert_eq!((kv_of.mod_revision, kv_of.create_revision, kv_of.value.len()), (4, 0, 0));

    // All events of one revision in one response.
    let both = TxnRequest { success: vec![put_op("a/2", "x"), put_op("a/3", "y")], ..Default::default() };
    kv.txn(both).await.expect("a transaction");
    let mut seen = [stream.next().await, stream.next().await];
    seen.sort_by_key(|response| response.watch_id);
    assert_eq!(seen.iter().map(|it| (it.watch_id, it.events.len())).collect::<Vec<_>>(), [(0, 2), (7, 2)]);

    // Cancelled once; what is unknown is ignored; the other one goes on.
    stream.cancel(0).await;
    stream.cancel(12_345).await;
    let cancelled = stream.next().await;
    assert_eq!((cancelled.watch_id, cancelled.canceled, cancelled.compact_revision), (0, true, 0));
    kv.put(put("a/4", "z")).await.expect("a put");
    let event = stream.next().await;
    assert_eq!((event.watch_id, event.events.len()), (7, 1));

    // Progress speaks for the whole stream, and everything up to it has been here.
    stream.progress().await;
    let progress = stream.next().await;
    assert_eq!((progress.watch_id, progress.events.len()), (-1, 0));
    assert_eq!(progress.header.expect("a header").revision, 6);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_of_lost_history_says_from_where_there_is_one() {
    let cluster = Cluster::start(1).await;
    let channel = cluster.channel(0).await;
    let mut kv = KvClient::new(channel.clone());
    for value in ["1", "2", "3", "4"] {
        kv.put(put("a", value)).await.expect("a put");
    }
    kv.compact(CompactionRequest { revision: 4, physical: true }).await.expect("a compaction");
    refused(
        kv.range(RangeRequest { revision: 3, ..get("a") }).await,
        Code::OutOfRange,
        "etcdserver: mvcc: required revision has been compacted",
    );
    let mut stream = Stream::open(channel).await;
    stream.create(prefix("a", 3)).await;
    assert!(stream.next().await.created);
    let gone = stream.next().await;
    assert_eq!((gone.canceled, gone.compact_revision, gone.events.len()), (true, 4, 0));
    let header = gone.header.expect("a header");
    assert_eq!(header.revision, 0);
    assert!(header.raft_term > 0);
    // The compacted revision itself is readable.
    stream.create(prefix("a", 4)).await;
    assert!(stream.next().await.created);
    assert_eq!(stream.next().await.events[0].kv.as_ref().expect("a key").mod_revision, 4);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_of_the_future_waits_and_promises_nothing() {
    let options = ServerOptions { progress_interval: Duration::from_millis(50), ..ServerOptions::default() };
    let cluster = Cluster::start_with(1, options).await;
    let channel = cluster.channel(0).await;
    let mut kv = KvClient::new(channel.clone());
    let mut stream = Stream::open(channel).await;
    stream.create(WatchCreateRequest { progress_notify: true, ..prefix("a", 4) }).await;
    assert!(stream.next().await.created);
    for value in ["1", "2", "3", "4"] {
        kv.put(put("a", value)).await.expect("a put");
    }
    // Revisions 2 and 3 are before it.
    let mut revisions = Vec::new();
    while revisions.len() < 2 {
        let response = stream.next().await;
        let at = response.header.expect("a header").revision;
        assert!(at >= 3, "a promise about {at}");
        revisions.extend(response.events.iter().filter_map(|event| Some(event.kv.as_ref()?.mod_revision)));
    }
    assert_eq!(revisions, [4, 5]);
    // From here on silence is told regularly.
    let notified = stream.next().await;
    assert_eq!((notified.watch_id, notified.events.len()), (0, 0));
    assert_eq!(notified.header.expect("a header").revision, 5);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_revisions_are_split_on_request() {
    let options = ServerOptions { max_request_bytes: 600_000, ..ServerOptions::default() };
    let cluster = Cluster::start_with(1, options).await;
    let channel = cluster.channel(0).await;
    let mut kv = KvClient::new(channel.clone());
    // Two transactions within the request limit; replayed together, with the versions before, they are 1.6 MB.
    let value = "x".repeat(90_000);
    let ops = |mark: &str| (0..6).map(|n| put_op(&format!("a{n}"), &format!("{mark}{value}"))).collect();
    for mark in ["1", "2"] {
        let txn = TxnRequest { success: ops(mark), ..Default::default() };
        kv.txn(txn).await.expect("a transaction");
    }
    let (requests, queue) = mpsc::channel(16);
    let mut client = WatchClient::new(channel).max_decoding_message_size(64 << 20);
    let answer = client.watch(ReceiverStream::new(queue)).await.expect("a stream");
    let mut stream = Stream { requests, responses: answer.into_inner() };
    stream.create(WatchCreateRequest { fragment: true, prev_kv: true, ..prefix("a", 2) }).await;
    assert!(stream.next().await.created);
    let mut events = 0;
    let mut parts = Vec::new();
    while events < 12 {
        let response = stream.next().await;
        events += response.events.len();
        parts.push(response.fragment);
    }
    // Split at 1.1 MB, and every part but the last says that more follows.
    assert_eq!(parts, [true, false]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_answer_on_every_member() {
    let cluster = Cluster::start(3).await;
    let mut lease = LeaseClient::new(cluster.channel(cluster.follower().await).await);
    let granted = lease.lease_grant(LeaseGrantRequest { ttl: 1, id: 0 }).await.expect("a lease").into_inner();
    assert!(granted.ttl == 2 && granted.id > 0, "{granted:?}");
    let own = LeaseGrantRequest { ttl: 60, id: 77 };
    assert_eq!(lease.lease_grant(own).await.expect("a lease").into_inner().id, 77);
    refused(lease.lease_grant(own).await, Code::FailedPrecondition, "etcdserver: lease already exists");
    let endless = LeaseGrantRequest { ttl: 9_000_000_001, id: 0 };
    refused(lease.lease_grant(endless).await, Code::OutOfRange, "etcdserver: too large lease TTL");
    let unknown = LeaseRevokeRequest { id: 4711 };
    refused(lease.lease_revoke(unknown).await, Code::NotFound, "etcdserver: requested lease not found");

    // In order, and an unknown lease is no error.
    let (requests, queue) = mpsc::channel(16);
    let mut answers =
        lease.lease_keep_alive(ReceiverStream::new(queue)).await.expect("a stream").into_inner();
    for id in [77, 4711, 77] {
        requests.send(LeaseKeepAliveRequest { id }).await.expect("an open stream");
    }
    for wanted in [(77, 60), (4711, 0), (77, 60)] {
        let answer = answers.message().await.expect("no error").expect("an answer");
        assert_eq!((answer.id, answer.ttl), wanted);
        assert!(answer.header.expect("a header").raft_term > 0);
    }
    drop(requests);
    assert!(answers.message().await.expect("no error").is_none(), "the stream ends with its requests");

    let mut kv = KvClient::new(cluster.channel(0).await);
    kv.put(PutRequest { lease: 77, ..put("leased", "v") }).await.expect("a put");
    let look = LeaseTimeToLiveRequest { id: 77, keys: true };
    let left = lease.lease_time_to_live(look).await.expect("an answer").into_inner();
    assert_eq!((left.granted_ttl, left.keys), (60, vec![Bytes::from_static(b"leased")]));
    let look = LeaseTimeToLiveRequest { id: 4711, keys: false };
    assert_eq!(lease.lease_time_to_live(look).await.expect("an answer").into_inner().ttl, -1);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_everything_transient_is_unavailable() {
    let options = ServerOptions { request_timeout: Duration::from_secs(1), ..ServerOptions::default() };
    let mut cluster = Cluster::start_with(3, options).await;
    let survivor = cluster.follower().await;
    let channel = cluster.channel(survivor).await;
    let mut kv = KvClient::new(channel.clone());
    kv.put(put("k", "v")).await.expect("a put");
    let (requests, queue) = mpsc::channel(16);
    let mut wanted = Request::new(ReceiverStream::new(queue));
    wanted.metadata_mut().insert("hasleader", "true".parse().expect("ASCII"));
    let answer = WatchClient::new(channel.clone()).watch(wanted).await.expect("a stream");
    let mut stream = Stream { requests, responses: answer.into_inner() };
    stream.create(prefix("k", 0)).await;
    assert!(stream.next().await.created);

    for lost in (0..3).filter(|n| *n != survivor) {
        cluster.kill(lost);
    }
    // The client asked for a leader and there is none: it is sent elsewhere.
    let ended = stream.try_next().await.expect_err("the stream ends with an error");
    assert_eq!((ended.code(), ended.message()), (Code::Unavailable, "etcdserver: no leader"));
    for status in [
        kv.put(put("k", "w")).await.expect_err("no quorum"),
        kv.range(get("k")).await.expect_err("no quorum"),
        LeaseClient::new(channel.clone())
            .lease_grant(LeaseGrantRequest { ttl: 60, id: 0 })
            .await
            .expect_err("no quorum"),
    ] {
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(status.message().starts_with("etcdserver: "), "{status:?}");
    }
    let local = RangeRequest { serializable: true, ..get("k") };
    assert_eq!(kv.range(local).await.expect("a local answer").into_inner().kvs[0].value, "v");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_streams_and_drains() {
    let cluster = Cluster::start(1).await;
    let channel = cluster.channel(0).await;
    let mut watch = Stream::open(channel.clone()).await;
    watch.create(prefix("k", 0)).await;
    assert!(watch.next().await.created);
    let (_requests, queue) = mpsc::channel::<LeaseKeepAliveRequest>(1);
    let mut renewals = LeaseClient::new(channel)
        .lease_keep_alive(ReceiverStream::new(queue))
        .await
        .expect("a stream")
        .into_inner();
    let begun = tokio::time::Instant::now();
    cluster.stop().await;
    assert!(begun.elapsed() < common::STOP, "nothing had to be cut off");
    for ended in
        [watch.try_next().await.expect_err("an error"), renewals.message().await.expect_err("an error")]
    {
        assert_eq!((ended.code(), ended.message()), (Code::Unavailable, "etcdserver: server stopped"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alarms_are_raised_listed_and_cleared() {
    let cluster = Cluster::start(1).await;
    let channel = cluster.channel(0).await;
    let mut maintenance = MaintenanceClient::new(channel.clone());
    let mut kv = KvClient::new(channel.clone());
    let id = cluster.handle(0).header().member_id;
    let request = |action: i32| AlarmRequest { action, member_id: id, alarm: AlarmType::Nospace as i32 };
    let raised = AlarmMember { member_id: id, alarm: AlarmType::Nospace as i32 };
    assert_eq!(maintenance.alarm(request(1)).await.expect("an answer").into_inner().alarms, [raised]);
    assert_eq!(
        maintenance.alarm(AlarmRequest::default()).await.expect("an answer").into_inner().alarms,
        [raised]
    );
    refused(
        kv.put(put("k", "v")).await,
        Code::ResourceExhausted,
        "etcdserver: mvcc: database space exceeded",
    );
    let status = maintenance.status(StatusRequest {}).await.expect("an answer").into_inner();
    assert_eq!(status.errors, [format!("memberID:{id} alarm:NOSPACE ")]);
    assert_eq!(maintenance.alarm(request(2)).await.expect("an answer").into_inner().alarms, [raised]);
    assert_eq!(maintenance.alarm(AlarmRequest::default()).await.expect("an answer").into_inner().alarms, []);
    kv.put(put("k", "v")).await.expect("space again");

    let hash = maintenance.hash_kv(HashKvRequest { revision: 0 }).await.expect("an answer").into_inner();
    assert_eq!(hash.hash_revision, 2);
    let mut auth = AuthClient::new(channel);
    let off = auth.auth_status(AuthStatusRequest {}).await.expect("an answer").into_inner();
    assert!(!off.enabled);
    let ask = AuthenticateRequest { name: "root".into(), password: "x".into() };
    refused(
        auth.authenticate(ask).await,
        Code::FailedPrecondition,
        "etcdserver: authentication is not enabled",
    );
    cluster.stop().await;
}
