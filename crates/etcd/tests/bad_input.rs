//! Clients that are wrong, slow, gone or many: etcd's error where it has one, a bounded cost, and nobody else notices.

mod common;
#[path = "common/http.rs"]
mod http;

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use common::{Cluster, PATIENCE, eventually};
use http::{Body, Http, whole};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use quorate_etcd::ServerOptions;
use quorate_wire::etcdserverpb::kv_client::KvClient;
use quorate_wire::etcdserverpb::lease_client::LeaseClient;
use quorate_wire::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_wire::etcdserverpb::watch_client::WatchClient;
use quorate_wire::etcdserverpb::*;
use quorate_wire::health::health_check_response::ServingStatus;
use quorate_wire::health::health_client::HealthClient;
use quorate_wire::health::{HealthCheckRequest, HealthCheckResponse};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

const TOO_MANY_OPS: &str = "etcdserver: too many operations in txn request";

/// Messages as they are, whatever they are.
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

async fn call(channel: &Channel, path: &'static str, message: impl Into<Bytes>) -> Result<Bytes, Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.expect("a connection");
    let path = path.parse().expect("a path");
    grpc.unary(Request::new(message.into()), path, Raw).await.map(tonic::Response::into_inner)
}

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, text: &str) {
    let status = answer.expect_err("a refusal");
    assert_eq!((status.code(), status.message()), (code, text));
}

/// A transaction within a transaction within …
fn nested(levels: usize) -> TxnRequest {
    let mut txn = TxnRequest::default();
    for _ in 0..levels {
        let op = RequestOp { request: Some(request_op::Request::RequestTxn(txn)) };
        txn = TxnRequest { success: vec![op], ..TxnRequest::default() };
    }
    txn
}

fn nested_json(levels: usize) -> String {
    format!("{}{{}}{}", r#"{"success":[{"request_txn":"#.repeat(levels), "}]}".repeat(levels))
}

fn put(key: &str, bytes: usize) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: vec![b'v'; bytes].into(), ..PutRequest::default() }
}

fn get(key: &str) -> RangeRequest {
    RangeRequest { key: key.to_owned().into(), ..RangeRequest::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_requests_that_cannot_be_served_are_refused_in_etcds_words() {
    let cluster = Cluster::start(1).await;
    let channel = cluster.channel(0).await;
    let mut kv = KvClient::new(channel.clone());
    // Too large: by the option, and beyond what is received at all.
    let text = "etcdserver: request is too large";
    refused(kv.put(put("k", 1_600_000)).await, Code::InvalidArgument, text);
    let large = put("k", 2_200_000);
    let text = format!("grpc: received message larger than max ({} vs. 2097152)", large.encoded_len());
    refused(kv.put(large).await, Code::ResourceExhausted, &text);
    // On a stream too, where it comes behind good ones.
    let (renewals, queue) = tokio::sync::mpsc::channel(2);
    renewals.send(WatchRequest::default()).await.expect("open");
    let key = vec![b'k'; 2_200_000].into();
    let create = WatchCreateRequest { key, ..WatchCreateRequest::default() };
    let union = Some(watch_request::RequestUnion::CreateRequest(create));
    renewals.send(WatchRequest { request_union: union }).await.expect("open");
    let requests = tokio_stream::wrappers::ReceiverStream::new(queue);
    let mut watch = WatchClient::new(channel.clone()).watch(requests).await.expect("a stream").into_inner();
    let ended = tokio::time::timeout(PATIENCE, watch.message()).await.expect("ends in time");
    assert_eq!(ended.expect_err("a refusal").code(), Code::ResourceExhausted);
    // Too deep: within what the decoder reads, and beyond.
    for levels in [33, 49, 60, 127, 3_000] {
        let answer = call(&channel, "/etcdserverpb.KV/Txn", nested_bytes(levels)).await;
        refused(answer, Code::InvalidArgument, TOO_MANY_OPS);
    }
    assert!(kv.txn(nested(20)).await.is_ok());
    // No message, no method, no service.
    let garbage = call(&channel, "/etcdserverpb.KV/Put", &b"\xff\xff\xff"[..]).await.expect_err("refused");
    assert_eq!(garbage.code(), Code::Internal);
    assert!(garbage.message().starts_with("grpc: error unmarshalling request: "), "{garbage:?}");
    let text = "unknown method Nope for service etcdserverpb.KV";
    refused(call(&channel, "/etcdserverpb.KV/Nope", "").await, Code::Unimplemented, text);
    refused(call(&channel, "/nope.Nope/X", "").await, Code::Unimplemented, "unknown service nope.Nope");
    // A version that is no text.
    for method in ["/etcdserverpb.KV/Range", "/etcdserverpb.Lease/LeaseLeases"] {
        let mut request = Request::new(Bytes::new());
        let version = MetadataValue::try_from(&b"3.\xff\xfe"[..]).expect("a value");
        request.metadata_mut().insert("client-api-version", version);
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        grpc.ready().await.expect("a connection");
        let answer = grpc.unary(request, method.parse().expect("a path"), Raw).await;
        refused(answer, Code::InvalidArgument, "etcdserver: invalid client api version");
    }
    assert!(kv.put(put("k", 1)).await.is_ok());
    cluster.stop().await;
}

/// [`nested`], encoded from the inside: its own encoder takes time by the square of the depth.
fn nested_bytes(levels: usize) -> Vec<u8> {
    fn field(tag: u8, inner: &[u8]) -> Vec<u8> {
        let mut outer = vec![tag];
        prost::encoding::encode_varint(inner.len() as u64, &mut outer);
        outer.extend_from_slice(inner);
        outer
    }
    // TxnRequest.success is 2, RequestOp.request_txn is 4; both are messages.
    (0..levels).fold(Vec::new(), |txn, _| field(2 << 3 | 2, &field(4 << 3 | 2, &txn)))
}

#[test]
fn the_short_way_to_nest_is_the_long_one() {
    assert_eq!(nested_bytes(9), nested(9).encode_to_vec());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_out_of_their_range_are_refused_or_mean_what_they_mean_to_etcd() {
    let cluster = Cluster::start(1).await;
    let channel = cluster.channel(0).await;
    let mut kv = KvClient::new(channel.clone());
    let mut lease = LeaseClient::new(channel.clone());
    let mut maintenance = MaintenanceClient::new(channel.clone());
    kv.put(put("k", 1)).await.expect("a put");
    let invalid_sort = "etcdserver: invalid sort option";
    refused(kv.range(RangeRequest { sort_order: 77, ..get("k") }).await, Code::InvalidArgument, invalid_sort);
    refused(
        kv.range(RangeRequest { sort_target: -1, ..get("k") }).await,
        Code::InvalidArgument,
        invalid_sort,
    );
    // Below zero is "now", and "all of them".
    let negative = RangeRequest { revision: i64::MIN, limit: -5, ..get("k") };
    assert_eq!(kv.range(negative).await.expect("an answer").into_inner().count, 1);
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    let compaction = CompactionRequest { revision: -3, physical: true };
    refused(kv.compact(compaction).await, Code::OutOfRange, compacted);
    let compare = Compare { key: "k".into(), result: 77, target: 99, ..Compare::default() };
    let txn = TxnRequest { compare: vec![compare], ..TxnRequest::default() };
    // etcd takes it for one that holds.
    assert!(kv.txn(txn).await.expect("an answer").into_inner().succeeded);
    let granted = lease.lease_grant(LeaseGrantRequest { ttl: i64::MIN, id: -7 }).await.expect("a lease");
    assert_eq!((granted.get_ref().id, granted.get_ref().ttl), (-7, 2));
    refused(
        lease.lease_grant(LeaseGrantRequest { ttl: i64::MAX, id: 8 }).await,
        Code::OutOfRange,
        "etcdserver: too large lease TTL",
    );
    let leased = PutRequest { lease: i64::MIN, ..put("k", 1) };
    refused(kv.put(leased).await, Code::NotFound, "etcdserver: requested lease not found");
    // etcd 3.4 dies of this one.
    let unknown = maintenance.alarm(AlarmRequest { action: 7, member_id: 1, alarm: 1 }).await;
    assert!(
        unknown.is_ok() || unknown.as_ref().is_err_and(|it| it.code() == Code::InvalidArgument),
        "{unknown:?}"
    );
    let now = kv.range(get("k")).await.expect("an answer").into_inner();
    assert_eq!(now.count, 1);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_that_cannot_be_served_is_refused_in_etcds_words() {
    let cluster = Cluster::start(1).await;
    let at = &cluster.clients[0];
    let mut http = Http::connect(at).await;
    let answer = |code: i32, message: &str| json!({"error": message, "message": message, "code": code});
    for levels in [33, 60, 127, 3_000, 100_000] {
        let deep = http.post("/v3/kv/txn", nested_json(levels)).await;
        assert_eq!(deep, (400, answer(3, TOO_MANY_OPS)), "{levels} levels");
    }
    assert_eq!(http.post("/v3/kv/txn", nested_json(20)).await.0, 200);
    let deep = http.post("/v3/kv/range", format!("{{\"x\":{}", "[".repeat(1_000_000))).await;
    assert_eq!(deep, (400, answer(3, "exceeded max depth")));
    let value = |bytes: usize| {
        let text = "dmFs".repeat(bytes / 3);
        format!(r#"{{"key":"Zm9v","value":"{text}"}}"#)
    };
    assert_eq!(http.post("/v3/kv/put", value(1_500_000)).await.0, 200);
    let large = http.post("/v3/kv/put", value(1_600_000)).await;
    assert_eq!(large, (400, answer(3, "etcdserver: request is too large")));
    for bytes in [2_200_000, 9_000_000] {
        // The connection may be given up, since the rest of a body is read for a while only.
        let mut http = Http::connect(at).await;
        let (code, large) = http.post("/v3/kv/put", value(bytes)).await;
        assert_eq!((code, &large["code"]), (429, &json!(8)), "{large}");
        let text = large["message"].as_str().expect("a text");
        assert!(text.starts_with("grpc: received message larger than max ("), "{text}");
    }
    for body in [
        &b"{\"key\":\"\xff\xfe\"}"[..],
        b"{\"key\":\"\\ud800\"}",
        b"{\"limit\":1e400}",
        b"{\"limit\":-}",
        b"{\"key\":\"Zm9v\",}",
        b"{\"kvs\":",
        b"\0\0\0",
    ] {
        let (code, refused) = http.post("/v3/kv/range", body).await;
        assert_eq!((code, &refused["code"]), (400, &json!(3)), "{}: {refused}", body.escape_ascii());
    }
    let mut http = Http::connect(at).await;
    let version = hyper::header::HeaderValue::from_bytes(b"3.\xff").expect("a value");
    let response = http.send_with("/v3/kv/range", "grpc-metadata-client-api-version", version, "{}").await;
    assert_eq!(response, (400, answer(3, "etcdserver: invalid client api version")));
    assert_eq!(Http::connect(at).await.post("/v3/kv/range", r#"{"key":"Zm9v"}"#).await.0, 200);
    cluster.stop().await;
}

/// Most clients read nothing before they have written everything, and a reset would take the answer from them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_before_the_end_of_a_body_arrives_and_no_body_is_read_for_ever() {
    let cluster = Cluster::start(1).await;
    let at = &cluster.clients[0];
    let head = |method: &str, path: &str, length: usize| {
        format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
        )
    };
    let piece = vec![b' '; 1_000_000];
    for (method, path, code) in [
        ("POST", "/v3/kv/put", "429 "),
        ("POST", "/v3/watch", "429 "),
        ("PUT", "/v3/kv/put", "405 "),
        ("POST", "/v3/nothing", "404 "),
    ] {
        let mut stream = TcpStream::connect(at).await.expect("a connection");
        stream.write_all(head(method, path, 32 * piece.len()).as_bytes()).await.expect("room");
        for n in 0..32 {
            let written = tokio::time::timeout(PATIENCE, stream.write_all(&piece)).await;
            written.expect("room in time").unwrap_or_else(|error| panic!("{path} after {n} MB: {error}"));
        }
        let mut answer = String::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await;
        read.expect("closed in time").unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}")), "{path}: {answer}");
    }
    let mut endless = TcpStream::connect(at).await.expect("a connection");
    endless.write_all(head("POST", "/v3/kv/put", usize::MAX >> 12).as_bytes()).await.expect("room");
    let cut_off = async { while endless.write_all(&piece).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, cut_off).await.expect("cut off");
    cluster.stop().await;
}

fn quick() -> ServerOptions {
    ServerOptions {
        head_timeout: Duration::from_secs(3),
        body_timeout: Duration::from_secs(2),
        stall_timeout: Duration::from_secs(3),
        ..ServerOptions::default()
    }
}

/// Open connections as the server counts them, without the one that asks.
async fn connections(address: &str) -> u64 {
    let mut http = Http::connect(address).await;
    let response = http.send("GET", "/metrics", &[], whole("")).await;
    let text = response.into_body().collect().await.expect("metrics").to_bytes();
    let text = std::str::from_utf8(&text).expect("text");
    let line = text.lines().find_map(|line| line.strip_prefix("quorate_client_connections "));
    line.expect("a metric").parse::<u64>().expect("a number") - 1
}

/// What comes until the other side closes.
async fn until_closed(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all)).await;
    // Closed with what we sent unread is a reset.
    let _ = read.expect("closed in time");
    String::from_utf8_lossy(&all).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_does_not_come_to_its_end_is_given_up() {
    let cluster = Cluster::start_with(1, quick()).await;
    let at = &cluster.clients[0];
    let mut healthy = KvClient::new(cluster.channel(0).await);
    let before = connections(at).await;
    let mut waiting = Vec::new();
    for (said, answer) in [
        ("P", ""),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r", ""),
        ("GET /version HTT", ""),
        ("POST /v3/kv/put HTTP/1.1\r\nhost: x\r\nx-slow: ", ""),
        ("POST /v3/kv/put HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{\"key\":", "504"),
        (
            "POST /v3/watch HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n9\r\n{\"create_\r\n",
            "504",
        ),
        ("POST /v3/lease/keepalive HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n", "504"),
    ] {
        let mut stream = TcpStream::connect(at).await.expect("a connection");
        stream.write_all(said.as_bytes()).await.expect("room");
        waiting.push((said, answer, stream));
    }
    // Bytes that keep coming, one at a time, are no progress.
    let mut slow = TcpStream::connect(at).await.expect("a connection");
    slow.write_all(b"POST /v3/kv/put HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n")
        .await
        .expect("room");
    let dripping = tokio::spawn(async move {
        let since = Instant::now();
        while slow.write_all(b" ").await.is_ok() && since.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        since.elapsed()
    });
    healthy.put(put("k", 1)).await.expect("an undisturbed put");
    for (said, answer, mut stream) in waiting {
        let got = until_closed(&mut stream).await;
        assert!(got.contains(answer), "{said}: {got}");
        if !answer.is_empty() {
            assert!(got.contains("quorate: the request did not arrive in time"), "{said}: {got}");
        }
    }
    assert!(dripping.await.expect("no panic") < PATIENCE, "a slow body was taken");
    let back = || async { (connections(at).await == before).then_some(()) };
    eventually("all of them are gone", back).await;
    healthy.put(put("k", 1)).await.expect("an undisturbed put");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_grpc_message_is_waited_for_and_an_idle_stream_is_left_alone() {
    let cluster = Cluster::start_with(1, quick()).await;
    let stream = TcpStream::connect(&cluster.clients[0]).await.expect("a connection");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, Body>(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("a handshake");
    let connection = tokio::spawn(connection);
    let mut open = Vec::new();
    let mut answers = Vec::new();
    for (path, said, ends) in [
        ("/etcdserverpb.KV/Put", &b"\0\0\0\0\x09half"[..], true),
        ("/etcdserverpb.KV/Range", b"", true),
        ("/etcdserverpb.KV/Range", b"\0\0\0", true),
        ("/etcdserverpb.Watch/Watch", b"\0\0\x10\0\0half of a mebibyte", true),
        ("/etcdserverpb.Watch/Watch", b"", false),
        ("/etcdserverpb.Watch/Watch", b"\0\0\0\0\0", false),
    ] {
        let (pieces, queue) = tokio::sync::mpsc::channel(1);
        pieces.send(Ok(Frame::data(Bytes::from_static(said)))).await.expect("open");
        let body = Body::new(StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(queue)));
        let request = hyper::Request::post(format!("http://x{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(body)
            .expect("a request");
        answers.push((path, ends, sender.send_request(request)));
        open.push(pieces);
    }
    for (path, ends, answer) in answers {
        let answered = async {
            let response = answer.await.expect("an answer");
            let status = response.headers().get("grpc-status").cloned();
            let body = response.into_body().collect().await.expect("a body");
            status.or_else(|| body.trailers()?.get("grpc-status").cloned()).expect("a status")
        };
        let status = tokio::time::timeout(Duration::from_secs(if ends { 20 } else { 3 }), answered).await;
        match status {
            Ok(status) => assert!(ends && status == "4", "{path}: {status:?}"),
            Err(_) => assert!(!ends, "{path} was left open"),
        }
    }
    drop(open);
    connection.abort();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_nothing_is_cut_off_and_a_slow_one_is_not() {
    let cluster = Cluster::start_with(1, quick()).await;
    let at = &cluster.clients[0];
    let mut healthy = KvClient::new(cluster.channel(0).await);
    for n in 0..24 {
        healthy.put(put(&format!("large{n:02}"), 1_000_000)).await.expect("a put");
    }
    let before = connections(at).await;
    let range = r#"{"key":"AA==","range_end":"AA=="}"#;
    let watch = r#"{"create_request":{"key":"AA==","range_end":"AA==","start_revision":"1"}}"#;
    let mut deaf = Vec::new();
    for (path, body) in [("kv/range", range), ("watch", watch), ("kv/range", range)] {
        let mut stream = TcpStream::connect(at).await.expect("a connection");
        let length = body.len();
        let request =
            format!("POST /v3/{path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await.expect("room");
        deaf.push(stream);
    }
    // The slow one takes it all, with pauses that are longer than the others have altogether.
    let mut slow = deaf.pop().expect("three");
    let slowly = tokio::spawn(async move {
        let (mut taken, mut buffer) = (0, vec![0; 4 << 20]);
        while taken < 24_000_000 {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let read = slow.read(&mut buffer).await.expect("still open");
            assert!(read > 0, "closed after {taken} bytes");
            taken += read;
        }
    });
    for _ in 0..50 {
        healthy.put(put("k", 1)).await.expect("an undisturbed put");
    }
    slowly.await.expect("the slow one is served");
    // The slow one has gone by itself.
    let back = || async { (connections(at).await == before).then_some(()) };
    eventually("the deaf are gone", back).await;
    let watchers = || async {
        let metrics = cluster.handle(0).metrics();
        metrics.lines().any(|line| line == "etcd_debugging_mvcc_watcher_total 0").then_some(())
    };
    eventually("and the watcher with them", watchers).await;
    drop(deaf);
    cluster.stop().await;
}

/// Resident memory of this process in bytes: both ends of every connection.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("proc");
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("pages");
    pages * rustix::param::page_size() as u64
}

/// The median and the longest of `count` puts.
async fn puts(kv: &mut KvClient<Channel>, count: usize) -> (Duration, Duration) {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let since = Instant::now();
        kv.put(put("k", 100)).await.expect("an undisturbed put");
        times.push(since.elapsed());
    }
    times.sort_unstable();
    (times[count / 2], times[count - 1])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::print_stderr, reason = "figures are printed, not asserted")]
async fn two_thousand_idle_connections_cost_little_and_disturb_nobody() {
    const MANY: usize = 2_000;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let wanted = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, wanted).expect("as many files as allowed");
    let cluster = Cluster::start(1).await;
    let at = &cluster.clients[0];
    let mut healthy = KvClient::new(cluster.channel(0).await);
    puts(&mut healthy, 50).await;
    let (alone, alone_longest) = puts(&mut healthy, 200).await;
    let before = (connections(at).await, resident_bytes());
    let mut idle = Vec::with_capacity(MANY);
    for n in 0..MANY {
        let mut stream = TcpStream::connect(at).await.expect("a connection");
        // A tenth of them hold a watch open, the others have asked something once.
        let body = r#"{"create_request":{"key":"aWRsZQ=="}}"#;
        let request = if n % 10 == 0 {
            format!("POST /v3/watch HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        } else {
            "GET /version HTTP/1.1\r\nhost: x\r\n\r\n".to_owned()
        };
        stream.write_all(request.as_bytes()).await.expect("room");
        let mut answer = [0; 16];
        stream.read_exact(&mut answer).await.expect("an answer");
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", answer.escape_ascii());
        idle.push(stream);
    }
    assert_eq!(connections(at).await - before.0, MANY as u64);
    let (among, among_longest) = puts(&mut healthy, 200).await;
    let grown = resident_bytes().saturating_sub(before.1);
    eprintln!(
        "a put alone: {alone:?}, longest {alone_longest:?}; among {MANY} idle connections: {among:?}, longest \
         {among_longest:?}; {} bytes each, both ends",
        grown / MANY as u64
    );
    assert!(grown < MANY as u64 * 100_000, "{grown} bytes more");
    // Where the kernel has a timer that asks for a silent client, and not only where it waits for an answer.
    assert!(keep_alives(at) >= MANY, "keep-alive is off");
    drop(idle);
    let back = || async { (connections(at).await == before.0).then_some(()) };
    eventually("all of them are gone", back).await;
    cluster.stop().await;
}

/// Connections of the port whose keep-alive timer runs: `/proc/net/tcp`, where the timer's kind is 2.
fn keep_alives(address: &str) -> usize {
    let port = address.rsplit(':').next().and_then(|port| port.parse::<u16>().ok()).expect("a port");
    let table = std::fs::read_to_string("/proc/net/tcp").expect("proc");
    let ours = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields[1].ends_with(&format!(":{port:04X}")) && fields[3] == "01" && fields[5].starts_with("02:")
    };
    table.lines().skip(1).filter(ours).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_the_limit_connections_wait_and_are_served_when_others_go() {
    let options = ServerOptions { max_connections: 3, ..ServerOptions::default() };
    let cluster = Cluster::start_with(1, options).await;
    let at = &cluster.clients[0];
    let mut served = Vec::new();
    for _ in 0..3 {
        let mut http = Http::connect(at).await;
        assert_eq!(http.post("/v3/kv/range", r#"{"key":"Zm9v"}"#).await.0, 200);
        served.push(http);
    }
    let mut waiting = Http::connect(at).await;
    let mut asked = Box::pin(waiting.post("/v3/kv/range", r#"{"key":"Zm9v"}"#));
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut asked).await.is_err(), "one too many");
    assert_eq!(served[0].post("/v3/kv/range", r#"{"key":"Zm9v"}"#).await.0, 200);
    served.pop();
    assert_eq!(tokio::time::timeout(PATIENCE, asked).await.expect("served in time").0, 200);
    drop(served);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpcs_own_health_service_says_that_the_server_serves_until_it_stops() {
    let cluster = Cluster::start(1).await;
    let mut health = HealthClient::new(cluster.channel(0).await);
    let serving = HealthCheckResponse { status: ServingStatus::Serving.into() };
    assert_eq!(health.check(HealthCheckRequest::default()).await.expect("an answer").into_inner(), serving);
    let other = HealthCheckRequest { service: "other".to_owned() };
    refused(health.check(other.clone()).await, Code::NotFound, "unknown service");
    let mut unknown = health.watch(other).await.expect("a stream").into_inner();
    let first = unknown.message().await.expect("an answer").expect("an answer");
    assert_eq!(first.status(), ServingStatus::ServiceUnknown);
    let mut watch = health.watch(HealthCheckRequest::default()).await.expect("a stream").into_inner();
    assert_eq!(watch.message().await.expect("an answer"), Some(serving));
    let stopping = tokio::spawn(cluster.stop());
    refused(watch.message().await, Code::Unavailable, "etcdserver: server stopped");
    drop((unknown, watch, health));
    tokio::time::timeout(PATIENCE, stopping).await.expect("stops in time").expect("no panic");
}
