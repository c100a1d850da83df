//! Three members, three agents, three real PostgreSQL: the life of a cluster, once through.

mod common;

use std::time::Instant;

use common::{Cluster, available, dynamic, log, until};
use serde_json::json;

async fn all_streaming(cluster: &Cluster, replicas: usize) {
    until("the replicas stream", || async {
        let mut streaming = 0;
        for peer in cluster.peers.iter().filter(|peer| peer.agent.is_some()) {
            let status = peer.status().await?;
            streaming +=
                usize::from(status["replication_state"] == "streaming" && status["state"] == "running");
        }
        (streaming == replicas).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cluster_forms_fails_over_rejoins_and_switches_over() {
    if !available() {
        return;
    }
    log();
    let mut cluster = Cluster::new(&["node1", "node2", "node3"], dynamic());
    let begun = Instant::now();
    cluster.start().await;
    let first = cluster.primary().await;
    cluster.peers[first].sql("create table t (n int); insert into t values (1)").await.unwrap();
    tracing::info!(elapsed_ms = begun.elapsed().as_millis(), "first write");
    all_streaming(&cluster, 2).await;
    tracing::info!(elapsed_ms = begun.elapsed().as_millis(), "all streaming");

    // The primary's node is lost.
    let begun = Instant::now();
    cluster.peers[first].kill();
    let second = cluster.primary().await;
    assert_ne!(second, first);
    until("writes again", || cluster.peers[second].sql("insert into t values (2)")).await;
    tracing::info!(elapsed_ms = begun.elapsed().as_millis(), "failed over");
    all_streaming(&cluster, 1).await;

    // It comes back as a standby.
    let begun = Instant::now();
    cluster.peers[first].start_node().await;
    cluster.peers[first].start_agent().await;
    all_streaming(&cluster, 2).await;
    tracing::info!(elapsed_ms = begun.elapsed().as_millis(), "rejoined");
    until("the row", || async {
        cluster.peers[first].value("select count(*) from t").await.filter(|count| count == "2")
    })
    .await;

    // A planned switchover back.
    let begun = Instant::now();
    let names = [second, first].map(|at| cluster.peers[at].name.clone());
    let body = json!({"leader": names[0], "candidate": names[1]}).to_string();
    let answer = cluster.peers[second].request("POST", "/switchover", Some(&body)).await.unwrap();
    assert_eq!(answer, (200, format!("Successfully switched over to \"{}\"", names[1])));
    tracing::info!(elapsed_ms = begun.elapsed().as_millis(), "switched over");
    assert_eq!(cluster.primary().await, first);
    until("writes", || cluster.peers[first].sql("insert into t values (3)")).await;
    all_streaming(&cluster, 2).await;
    for peer in &cluster.peers {
        until("the rows everywhere", || async {
            peer.value("select count(*) from t").await.filter(|count| count == "3")
        })
        .await;
    }
    cluster.stop().await;
}
