//! One member, one agent, one real PostgreSQL.

mod common;

use std::time::{Duration, Instant};

use common::{Cluster, available, dynamic, log, until};
use quorate_node::clock::boottime;
use serde_json::Value;

/// Path and codes of a primary: GET, and HEAD and OPTIONS. Measured on Patroni 4.1.5.
const MATRIX: &[(&str, u16, u16)] = &[
    ("/", 200, 200),
    ("/primary", 200, 200),
    ("/master", 200, 200),
    ("/read-write", 200, 200),
    ("/leader", 200, 200),
    ("/standby-leader", 503, 503),
    ("/standby_leader", 503, 503),
    ("/replica", 503, 503),
    ("/replica?lag=1MB", 503, 503),
    ("/replica?lag=0", 503, 503),
    ("/replica?tag_clonefrom=true", 503, 503),
    ("/read-only", 200, 200),
    ("/sync", 503, 503),
    ("/synchronous", 503, 503),
    ("/read-only-sync", 200, 200),
    ("/quorum", 503, 503),
    ("/read-only-quorum", 200, 200),
    ("/async", 503, 503),
    ("/asynchronous", 503, 503),
    ("/async?lag=10MB", 503, 503),
    ("/health", 200, 200),
    ("/liveness", 200, 503),
    ("/readiness", 200, 503),
    ("/readiness?lag=1MB&mode=write", 200, 503),
    ("/patroni", 200, 503),
    ("/cluster", 200, 503),
    ("/history", 200, 503),
    ("/config", 200, 503),
    ("/metrics", 200, 503),
    ("/failsafe", 502, 503),
    ("/nonexistent", 503, 503),
];

async fn started() -> Cluster {
    log();
    let mut cluster = Cluster::new(&["node1"], dynamic());
    cluster.start().await;
    cluster.primary().await;
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_ends_with_a_writable_primary_and_patronis_rest_api() {
    if !available() {
        return;
    }
    let cluster = started().await;
    let peer = &cluster.peers[0];
    peer.sql("create table t (n int); insert into t values (1)").await.expect("it takes writes");

    for (path, get, head) in MATRIX {
        assert_eq!(peer.code("GET", path).await, Some(*get), "GET {path}");
        for method in ["HEAD", "OPTIONS"] {
            assert_eq!(
                peer.request(method, path, None).await,
                Some((*head, String::new())),
                "{method} {path}"
            );
        }
    }
    // What HAProxy sends: HTTP/1.0, no Host. The answer is of 1.0 too and ends with the connection.
    let answer = peer.raw("OPTIONS /master HTTP/1.0\r\n\r\n").await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.ends_with("\r\n\r\n"), "{answer:?}");

    let status = peer.status().await.unwrap();
    for (field, value) in [("state", "running"), ("role", "primary")] {
        assert_eq!(status[field], value, "{status}");
    }
    assert_eq!(status["patroni"]["name"], "node1");
    assert_eq!(status["timeline"], 1);
    let fields: Vec<_> = status.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        fields,
        [
            "state",
            "postmaster_start_time",
            "role",
            "server_version",
            "xlog",
            "timeline",
            "dcs_last_seen",
            "database_system_identifier",
            "patroni",
            "quorate"
        ],
        "Patroni's fields in Patroni's order, then ours"
    );
    let (_, cluster_body) = peer.request("GET", "/cluster", None).await.unwrap();
    let members: Value = serde_json::from_str(&cluster_body).unwrap();
    assert_eq!(members["members"][0]["role"], "leader", "{members}");
    let (_, metrics) = peer.request("GET", "/metrics", None).await.unwrap();
    for line in [
        "patroni_primary{scope=\"demo\",name=\"node1\"} 1",
        "patroni_postgres_running{scope=\"demo\",name=\"node1\"} 1",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }

    // Administration, in Patroni's words.
    for (method, path, body, code, text) in [
        (
            "POST",
            "/switchover",
            Some("{\"candidate\":\"node2\"}"),
            400,
            "Switchover could be performed only from a specific leader",
        ),
        (
            "POST",
            "/switchover",
            Some("{\"leader\":\"nodeX\",\"candidate\":\"node2\"}"),
            412,
            "leader name does not match",
        ),
        (
            "POST",
            "/switchover",
            Some("{\"leader\":\"node1\",\"candidate\":\"nope\"}"),
            412,
            "candidate does not exists",
        ),
        (
            "POST",
            "/switchover",
            Some("{\"leader\":\"node1\",\"candidate\":\"node1\"}"),
            400,
            "Switchover target and source are the same",
        ),
        (
            "POST",
            "/failover",
            Some("{\"leader\":\"node1\"}"),
            400,
            "Failover could be performed only to a specific candidate",
        ),
        ("DELETE", "/switchover", None, 404, "no switchover is scheduled"),
        ("POST", "/restart", Some("{\"role\":\"replica\"}"), 503, "restart conditions are not satisfied"),
        ("POST", "/reinitialize", None, 503, "I am the leader, can not reinitialize"),
    ] {
        assert_eq!(
            peer.request(method, path, body).await,
            Some((code, text.to_owned())),
            "{method} {path} {body:?}"
        );
    }
    for (method, path, body, code) in [
        ("POST", "/switchover", Some("{}"), 400),
        ("POST", "/switchover", None, 411),
        ("PATCH", "/config", Some("nojson"), 400),
        ("PUT", "/config", Some("{}"), 400),
        ("POST", "/nonexistent", Some("{}"), 501),
    ] {
        assert_eq!(peer.request(method, path, body).await.unwrap().0, code, "{method} {path} {body:?}");
    }

    // A changed parameter reaches PostgreSQL without a restart.
    let patch = "{\"postgresql\":{\"parameters\":{\"work_mem\":\"5MB\"}}}";
    let (code, body) = peer.request("PATCH", "/config", Some(patch)).await.unwrap();
    assert!(code == 200 && body.contains("work_mem"), "{code} {body}");
    until("work_mem", || async { peer.value("show work_mem").await.filter(|value| value == "5MB") }).await;

    // A restart on request keeps the role and the timeline.
    let before = peer.postmaster();
    assert_eq!(
        peer.request("POST", "/restart", Some("{}")).await,
        Some((200, "restarted successfully".to_owned()))
    );
    assert_ne!(peer.postmaster(), before);
    cluster.primary().await;
    assert_eq!(peer.value("select timeline_id from pg_control_checkpoint()").await.as_deref(), Some("1"));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_crashed_adopts_postgresql_without_a_restart() {
    if !available() {
        return;
    }
    let mut cluster = started().await;
    let before = cluster.peers[0].postmaster().unwrap();
    cluster.peers[0].agent = None; // dropped: the crash
    assert!(cluster.peers[0].sql("create table t (n int)").await.is_some(), "PostgreSQL goes on");
    cluster.peers[0].start_agent().await;
    cluster.primary().await;
    assert_eq!(cluster.peers[0].postmaster(), Some(before));
    // And it goes on holding the lock for longer than the lease that it found.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(6) {
        assert_eq!(cluster.peers[0].code("GET", "/primary").await, Some(200));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(cluster.peers[0].postmaster(), Some(before));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_store_the_last_write_comes_before_the_lease_could_end() {
    if !available() {
        return;
    }
    let mut cluster = started().await;
    let peer = &mut cluster.peers[0];
    peer.sql("create table t (n int)").await.unwrap();
    let node = peer.node.take().unwrap();
    node.shutdown(Duration::from_secs(5)).await;
    // Nothing that was sent before this instant can be confirmed later: no renewal is newer.
    let newest_renewal = boottime();
    until("the end of writes", || async {
        peer.sql("insert into t values (1)").await.is_none().then_some(())
    })
    .await;
    // The last write that succeeded was before this.
    assert!(boottime() < newest_renewal + Duration::from_secs(5), "fenced before the lease could have ended");
    assert_ne!(peer.code("GET", "/primary").await, Some(200));
    // It stays so: what comes up again is no primary.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        assert_eq!(peer.sql("insert into t values (2)").await, None);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(cluster);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_postmaster_is_restarted_in_place() {
    if !available() {
        return;
    }
    let cluster = started().await;
    let peer = &cluster.peers[0];
    peer.sql("create table t (n int); insert into t values (1)").await.unwrap();
    let before = peer.postmaster().unwrap();
    let pid = rustix::process::Pid::from_raw(before).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let begun = Instant::now();
    until("writes again", || peer.sql("insert into t values (2)")).await;
    tracing::info!(elapsed_ms = begun.elapsed().as_millis(), "writable again");
    assert_ne!(peer.postmaster(), Some(before));
    assert_eq!(peer.value("select count(*) from t").await.as_deref(), Some("2"));
    cluster.primary().await;
    assert_eq!(peer.status().await.unwrap()["timeline"], 1, "no new timeline");
    cluster.stop().await;
}
