//! The JSON gateway over HTTP/1.1: what JSON clients see, alone and beside Debian's etcd.

mod common;
#[path = "common/http.rs"]
mod http;

use std::time::Duration;

use bytes::Bytes;
use common::{Cluster, PATIENCE, eventually};
use futures_util::StreamExt;
use http::{Body, Http, whole};
use http_body_util::StreamBody;
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// "foo", "bar", "fop": a key, a value and the end of the key's prefix.
const FOO: &str = "Zm9v";
const BAR: &str = "YmFy";
const FOP: &str = "Zm9w";

/// A body that the test goes on writing.
fn open_body() -> (mpsc::Sender<&'static str>, Body) {
    let (sender, pieces) = mpsc::channel(16);
    let frames = ReceiverStream::new(pieces).map(|piece: &str| Ok(Frame::data(Bytes::from(piece))));
    (sender, Body::new(StreamBody::new(frames)))
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("{pointer} in {value}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patronis_calls_are_answered_as_patroni_reads_them() {
    let cluster = Cluster::start(1).await;
    cluster.announced().await;
    let mut http = Http::connect(&cluster.clients[0]).await;
    let (code, members) = http.post("/v3/cluster/member/list", "{}").await;
    assert_eq!(code, 200);
    assert_eq!(members["members"][0]["clientURLs"], json!([format!("http://{}", cluster.clients[0])]));
    let (code, refused) = http.post("/v3/auth/authenticate", r#"{"name":"a","password":"b"}"#).await;
    let message = "etcdserver: authentication is not enabled";
    assert_eq!((code, refused), (400, json!({"error": message, "message": message, "code": 9})));

    let (_, lease) = http.post("/v3/lease/grant", r#"{"TTL":30}"#).await;
    let id = text(&lease, "/ID").to_owned();
    assert_eq!(lease["TTL"], "30");
    let (code, mut lines) = http.lines("/v3/lease/keepalive", whole(json!({ "ID": id }).to_string())).await;
    assert_eq!(code, 200);
    assert_eq!(lines.next().await.expect("a line")["result"]["TTL"], "30");
    assert_eq!(lines.next().await, None);

    let acquire = json!({
        "compare": [{"target": "CREATE", "key": FOO, "create_revision": "0"}],
        "success": [{"request_put": {"key": FOO, "value": BAR, "lease": id}}],
    });
    let (_, first) = http.post("/v3/kv/txn", acquire.to_string()).await;
    assert_eq!(first["succeeded"], true);
    let (_, second) = http.post("/v3/kv/txn", acquire.to_string()).await;
    assert_eq!(second.get("succeeded"), None);
    let (_, found) = http
        .post("/v3/kv/range", json!({"key": FOO, "range_end": FOP, "serializable": true}).to_string())
        .await;
    assert_eq!(found["kvs"][0]["lease"], id.as_str());
    assert_eq!(found["kvs"][0]["mod_revision"], first["header"]["revision"]);
    assert_eq!(found["count"], "1");
    // The update of the leader key: compare fails, and the nested transaction finds the key there.
    let update = json!({
        "compare": [{"target": "VALUE", "key": FOO, "value": "eA=="}],
        "success": [{"request_put": {"key": FOO, "value": "eA==", "lease": id}}],
        "failure": [{"request_txn": {
            "compare": [{"target": "CREATE", "key": FOO, "create_revision": "0"}],
            "success": [{"request_put": {"key": FOO, "value": "eA==", "lease": id}}],
        }}],
    });
    let (_, updated) = http.post("/v3/kv/txn", update.to_string()).await;
    assert_eq!(updated.get("succeeded"), None);
    assert_eq!(updated["responses"][0]["response_txn"].get("succeeded"), None);
    let (_, deleted) = http.post("/v3/kv/deleterange", json!({ "key": FOO }).to_string()).await;
    assert_eq!(deleted["deleted"], "1");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_is_a_line_an_answer_and_takes_more_requests() {
    let cluster = Cluster::start(1).await;
    let mut writer = Http::connect(&cluster.clients[0]).await;
    writer.post("/v3/kv/put", json!({"key": FOO, "value": BAR}).to_string()).await;
    let mut http = Http::connect(&cluster.clients[0]).await;
    let (requests, body) = open_body();
    requests.send(r#"{"create_request":{"key":"Zm9v","start_revision":"2"}}"#).await.expect("open");
    let response = http.send("POST", "/v3/watch", &[], body).await;
    assert_eq!(response.headers()["transfer-encoding"], "chunked");
    assert_eq!(response.headers()["content-type"], "application/json");
    let mut lines = http::Lines::new(response);
    let mut next = async || lines.next().await.expect("a line");
    let created = next().await;
    assert_eq!(created["result"]["created"], true);
    assert_eq!(created["result"].get("watch_id"), None);
    let event = next().await;
    assert_eq!(event["result"]["events"][0]["kv"]["value"], BAR);
    assert_eq!(event["result"]["events"][0].get("type"), None);
    // Two in one piece, the second cut in its middle.
    requests.send(r#"{"createRequest":{"key":"eA==","watchId":"7"}} {"cancel_req"#).await.expect("open");
    assert_eq!(next().await["result"]["watch_id"], "7");
    requests.send(r#"uest":{"watch_id":7}}"#).await.expect("open");
    let canceled = next().await;
    assert_eq!(
        (&canceled["result"]["canceled"], &canceled["result"]["watch_id"]),
        (&json!(true), &json!("7"))
    );
    // The body ends, the watch goes on.
    drop(requests);
    writer.post("/v3/kv/deleterange", json!({ "key": FOO }).to_string()).await;
    let deleted = next().await;
    assert_eq!(deleted["result"]["events"][0]["type"], "DELETE");
    assert_eq!(deleted["result"]["header"]["raft_term"], created["result"]["header"]["raft_term"]);
    drop(http);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_takes_its_watcher_along() {
    let cluster = Cluster::start(1).await;
    let watchers = || async {
        let metrics = cluster.handle(0).metrics();
        let line = metrics.lines().find(|line| line.starts_with("etcd_debugging_mvcc_watcher_total "));
        line.and_then(|line| line.split(' ').nth(1)?.parse::<u64>().ok()).expect("a number of watchers")
    };
    for body_is_open in [false, true] {
        let mut http = Http::connect(&cluster.clients[0]).await;
        let request = r#"{"create_request":{"key":"Zm9v"}}"#;
        let (sender, body) = open_body();
        sender.send(request).await.expect("open");
        let body = if body_is_open { body } else { whole(request) };
        let (code, mut lines) = http.lines("/v3/watch", body).await;
        assert_eq!(code, 200);
        assert_eq!(lines.next().await.expect("a line")["result"]["created"], true);
        eventually("it watches", || async { (watchers().await == 1).then_some(()) }).await;
        drop((http, lines));
        let what = format!("nobody watches (body open: {body_is_open})");
        eventually(&what, || async { (watchers().await == 0).then_some(()) }).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_a_stream_with_a_line_that_says_why() {
    let cluster = Cluster::start(1).await;
    let mut http = Http::connect(&cluster.clients[0]).await;
    let (_, mut lines) = http.lines("/v3/watch", whole(r#"{"create_request":{"key":"Zm9v"}}"#)).await;
    assert_eq!(lines.next().await.expect("a line")["result"]["created"], true);
    let stopping = tokio::spawn(cluster.stop());
    let last = lines.next().await.expect("a reason");
    assert_eq!(
        last,
        json!({"error": {
            "grpc_code": 14,
            "http_code": 503,
            "message": "etcdserver: server stopped",
            "http_status": "Service Unavailable",
            "code": 14,
        }})
    );
    assert_eq!(lines.next().await, None);
    tokio::time::timeout(PATIENCE, stopping).await.expect("stops in time").expect("no panic");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_refused_at_once_is_refused_with_a_status() {
    let options = quorate_etcd::ServerOptions {
        request_timeout: Duration::from_secs(1),
        ..quorate_etcd::ServerOptions::default()
    };
    let mut cluster = Cluster::start_with(3, options).await;
    let leader = cluster.leader().await;
    for other in (0..3).filter(|n| *n != leader) {
        cluster.kill(other);
    }
    let at = cluster.clients[leader].clone();
    let refused = eventually("the member knows that it is alone", || async {
        let mut http = Http::connect(&at).await;
        let headers = [("grpc-metadata-hasleader", "true")];
        let response =
            http.send("POST", "/v3/watch", &headers, whole(r#"{"create_request":{"key":"Zm9v"}}"#)).await;
        let code = response.status().as_u16();
        let first = http::Lines::new(response).whole(code != 200).await;
        (code != 200).then_some((code, first))
    })
    .await;
    let message = "etcdserver: no leader";
    assert_eq!(refused, (503, json!({"error": message, "message": message, "code": 14})));
    // A put is not sent anywhere.
    let mut http = Http::connect(&at).await;
    let (code, answer) = http.post("/v3/kv/put", json!({"key": FOO}).to_string()).await;
    assert_eq!((code, &answer["code"]), (503, &json!(14)), "{answer}");
    cluster.stop().await;
}
