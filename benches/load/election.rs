//! The gap that a killed leader leaves: from `kill -9` to the first put that succeeds through any of the survivors.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use quorate_wire::etcdserverpb::kv_client::KvClient;
use quorate_wire::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_wire::etcdserverpb::{PutRequest, StatusRequest};
use tonic::transport::Endpoint;

use crate::cluster::Cluster;

/// One try of a put: a member without a leader may hold it for seconds.
const TRY: Duration = Duration::from_millis(100);
/// Longer than any election.
const PATIENCE: Duration = Duration::from_secs(20);

/// Kills the leader, waits for a put, and starts the killed member again.
pub(crate) async fn measure(cluster: &mut Cluster) -> Result<Duration> {
    let leader = leader(cluster).await?;
    let mut survivors = Vec::new();
    for (nth, endpoint) in cluster.endpoints().iter().enumerate() {
        if nth != leader {
            // Connected beforehand: the gap is the store's, not the dialing's.
            survivors.push(KvClient::new(Endpoint::from_shared(endpoint.clone())?.connect().await?));
        }
    }
    let killed = Instant::now();
    cluster.kill(leader)?;
    let tries = survivors.into_iter().map(|client| Box::pin(until_it_takes_a_put(client)));
    tokio::time::timeout(PATIENCE, futures_util::future::select_all(tries))
        .await
        .context("no put succeeded after the leader was killed")?;
    let took = killed.elapsed();
    cluster.restart(leader)?;
    cluster.ready().await?;
    // A cluster that has come to rest, as it would be before it loses its next leader.
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok(took)
}

async fn until_it_takes_a_put(mut client: KvClient<tonic::transport::Channel>) {
    loop {
        let request = PutRequest { key: "election".into(), ..PutRequest::default() };
        match tokio::time::timeout(TRY, client.put(request)).await {
            Ok(Ok(_)) => return,
            Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(_) => {}
        }
    }
}

/// Which of the members leads.
async fn leader(cluster: &Cluster) -> Result<usize> {
    let until = Instant::now() + PATIENCE;
    loop {
        for (nth, endpoint) in cluster.endpoints().iter().enumerate() {
            let Ok(mut client) = MaintenanceClient::connect(endpoint.clone()).await else { continue };
            let Ok(status) = client.status(StatusRequest::default()).await else { continue };
            let status = status.into_inner();
            if status.leader != 0 && status.header.is_some_and(|header| header.member_id == status.leader) {
                return Ok(nth);
            }
        }
        anyhow::ensure!(Instant::now() < until, "nobody leads");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
