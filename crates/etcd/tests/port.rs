//! The port itself: HTTP beside gRPC, the paths that probes and scrapers use, connections that say nothing.

mod common;

use std::time::Duration;

use common::{Cluster, PATIENCE};
use quorate_etcd::{BindError, Server, ServerOptions};
use quorate_wire::etcdserverpb::kv_client::KvClient;
use quorate_wire::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_wire::etcdserverpb::{AlarmRequest, PutRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One request over HTTP/1.1: status line, head and body.
async fn ask(address: &str, method: &str, path: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let request = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("a request");
    let mut answer = String::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await;
    read.expect("an answer in time").expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let code = head.split(' ').nth(1).expect("a code").parse().expect("a number");
    (code, head.to_lowercase(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_paths_answer_as_etcds_do() {
    let cluster = Cluster::start(1).await;
    let at = cluster.clients[0].clone();
    let (code, head, body) = ask(&at, "GET", "/version").await;
    assert_eq!((code, body.as_str()), (200, "{\"etcdserver\":\"3.5.21\",\"etcdcluster\":\"3.5.0\"}"));
    assert!(head.contains("content-type: application/json"), "{head}");
    for path in ["/health", "/health?serializable=true"] {
        let (code, head, body) = ask(&at, "GET", path).await;
        assert_eq!((code, body.as_str()), (200, "{\"health\":\"true\",\"reason\":\"\"}"));
        assert!(head.contains("content-type: text/plain"), "{head}");
    }
    for path in ["/livez", "/readyz", "/readyz/linearizable_read", "/livez/serializable_read"] {
        assert_eq!(ask(&at, "GET", path).await.2, "ok\n", "{path}");
    }
    let every =
        "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\nok\n";
    for (path, printed) in [
        ("/readyz?verbose", every),
        ("/readyz?verbose=1&exclude=nothing", every),
        (
            "/readyz?verbose&exclude=data_corruption&exclude=linearizable_read&exclude=non_learner",
            "[+]serializable_read ok\nok\n",
        ),
        ("/readyz?allowlist=non_learner&verbose", "[+]non_learner ok\nok\n"),
        ("/readyz/non_learner?verbose", "[+]non_learner ok\nok\n"),
        ("/livez?verbose", "[+]serializable_read ok\nok\n"),
    ] {
        let (code, head, body) = ask(&at, "GET", path).await;
        assert_eq!((code, body.as_str()), (200, printed), "{path}");
        assert!(head.contains("content-type: text/plain"), "{path}: {head}");
    }
    for path in ["/version", "/health", "/metrics", "/readyz"] {
        let (code, head, _) = ask(&at, "POST", path).await;
        assert!(code == 405 && head.contains("allow: get"), "{path}: {head}");
    }
    for path in ["/", "/nope", "/livez/nope", "/versions", "/etcdserverpb.KV/Range"] {
        let (code, _, body) = ask(&at, "GET", path).await;
        assert_eq!((code, body.as_str()), (404, "404 page not found\n"), "{path}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_shows_in_health_unless_it_is_excluded() {
    let cluster = Cluster::start(1).await;
    let at = cluster.clients[0].clone();
    let mut maintenance = MaintenanceClient::new(cluster.channel(0).await);
    maintenance.alarm(AlarmRequest { action: 1, member_id: 1, alarm: 1 }).await.expect("an alarm");
    let (code, _, body) = ask(&at, "GET", "/health").await;
    assert_eq!((code, body.as_str()), (503, "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}\n"));
    assert_eq!(ask(&at, "GET", "/health?exclude=CORRUPT").await.0, 503);
    assert_eq!(ask(&at, "GET", "/health?exclude=CORRUPT&exclude=NOSPACE").await.0, 200);
    let metrics = ask(&at, "GET", "/metrics").await.2;
    for line in ["etcd_server_health_success 1", "etcd_server_health_failures 2"] {
        assert!(metrics.contains(line), "{line} is missing in:\n{metrics}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_tells_a_lost_quorum_and_an_alive_process() {
    let options = ServerOptions { request_timeout: Duration::from_secs(1), ..ServerOptions::default() };
    let mut cluster = Cluster::start_with(3, options).await;
    let at = cluster.clients[0].clone();
    cluster.kill(1);
    cluster.kill(2);
    let (code, _, body) = ask(&at, "GET", "/health").await;
    assert_eq!(code, 503, "{body}");
    let known =
        ["RAFT NO LEADER", "RANGE ERROR:etcdserver: request timed out", "RANGE ERROR:etcdserver: no leader"];
    assert!(known.iter().any(|reason| body.contains(reason)), "{body}");
    assert_eq!(ask(&at, "GET", "/health?serializable=true").await.0, 200);
    assert_eq!(ask(&at, "GET", "/livez").await.2, "ok\n");
    let (code, _, body) = ask(&at, "GET", "/readyz").await;
    assert!(code == 503 && body.contains("[-]linearizable_read failed: etcdserver: "), "{body}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_carry_the_members_numbers_and_the_calls() {
    let cluster = Cluster::start(1).await;
    let mut kv = KvClient::new(cluster.channel(0).await);
    kv.put(PutRequest { key: "k".into(), ..Default::default() }).await.expect("a put");
    kv.put(PutRequest::default()).await.expect_err("no key");
    let (code, head, text) = ask(&cluster.clients[0], "GET", "/metrics").await;
    assert!(code == 200 && head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    let put = "grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"";
    for line in [
        "etcd_server_has_leader 1".to_owned(),
        "etcd_server_is_leader 1".to_owned(),
        format!("grpc_server_started_total{{{put}}} 2"),
        format!("grpc_server_handled_total{{grpc_code=\"OK\",{put}}} 1"),
        format!("grpc_server_handled_total{{grpc_code=\"InvalidArgument\",{put}}} 1"),
    ] {
        assert!(text.contains(&line), "{line} is missing in:\n{text}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_connection_is_closed_and_a_resting_one_is_not() {
    let cluster = Cluster::start(1).await;
    let at = &cluster.clients[0];
    let mut silent = TcpStream::connect(at).await.expect("a connection");
    let mut resting = TcpStream::connect(at).await.expect("a connection");
    let request = format!("GET /version HTTP/1.1\r\nhost: {at}\r\n\r\n");
    let mut buffer = [0; 1024];
    resting.write_all(request.as_bytes()).await.expect("a request");
    assert!(resting.read(&mut buffer).await.expect("an answer") > 0);
    let closed = tokio::time::timeout(PATIENCE, silent.read(&mut buffer)).await.expect("closed in time");
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    // The other one is as old by now and still serves.
    resting.write_all(request.as_bytes()).await.expect("a request");
    assert!(resting.read(&mut buffer).await.expect("an answer") > 0);
    drop(resting);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_cannot_be_had_is_named_with_a_remedy() {
    let cluster = Cluster::start(1).await;
    let bind = |address: &str| {
        let listen = [address.to_owned()];
        Server::bind(&listen, cluster.handle(0), ServerOptions::default()).err().expect("an error")
    };
    let taken = bind(&cluster.clients[0]);
    assert!(matches!(taken, BindError::InUse { .. }), "{taken}");
    assert!(taken.to_string().contains(&cluster.clients[0]), "{taken}");
    let foreign = bind("192.0.2.1:2379");
    assert!(
        foreign.to_string().contains("192.0.2.1:2379: the address is not one of this machine"),
        "{foreign}"
    );
    assert!(matches!(bind("2379"), BindError::Address { .. }));
    let nothing = Server::bind(&[], cluster.handle(0), ServerOptions::default()).err().expect("an error");
    assert!(matches!(nothing, BindError::Nothing), "{nothing}");
    cluster.stop().await;
}
