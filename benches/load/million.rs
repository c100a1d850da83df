//! What many keys cost: memory, room on disk, and the time of a start.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use quorate_wire::etcdserverpb::kv_client::KvClient;
use quorate_wire::etcdserverpb::request_op::Request;
use quorate_wire::etcdserverpb::{PutRequest, RangeRequest, RequestOp, TxnRequest};
use tonic::transport::Channel;

use crate::Store;
use crate::cluster::Cluster;

/// Puts in one transaction: below every limit, and the loading is not what is measured.
const PUTS: usize = 100;
/// Transactions under way.
const LOADERS: usize = 16;
/// Before memory is read: buffers that go back have gone.
const REST: Duration = Duration::from_secs(15);
/// Longer than any start.
const PATIENCE: Duration = Duration::from_secs(300);

/// What was found.
pub(crate) struct Million {
    pub(crate) loading: Duration,
    pub(crate) rss_mb: f64,
    pub(crate) restart: Duration,
    pub(crate) restarted_rss_mb: f64,
    pub(crate) disk_mb: f64,
}

/// Loads `keys` keys, rests, kills a member and starts it again.
pub(crate) async fn measure(store: Store, keys: usize, value_bytes: usize) -> Result<Million> {
    let mut cluster = Cluster::start(store).await?;
    let began = Instant::now();
    load(&cluster, keys, value_bytes).await?;
    let loading = began.elapsed();
    tokio::time::sleep(REST).await;
    let rss_mb = cluster.rss_mb();
    let disk_mb = cluster.disk_mb(0);

    cluster.kill(0)?;
    let began = Instant::now();
    cluster.restart(0)?;
    let endpoint = cluster.endpoints()[0].clone();
    tokio::time::timeout(PATIENCE, until_it_reads(&endpoint)).await.context("it did not come back")?;
    let restart = began.elapsed();
    let restarted_rss_mb = cluster.member_rss_mb(0);
    cluster.stop().await?;
    Ok(Million { loading, rss_mb, restart, restarted_rss_mb, disk_mb })
}

async fn load(cluster: &Cluster, keys: usize, value_bytes: usize) -> Result<()> {
    let value = Bytes::from(vec![b'v'; value_bytes]);
    let mut loaders = Vec::new();
    for loader in 0..LOADERS {
        let endpoint = cluster.endpoints()[loader % cluster.endpoints().len()].clone();
        let client = KvClient::connect(endpoint).await?;
        let value = value.clone();
        loaders.push(tokio::spawn(load_share(client, loader, keys, value)));
    }
    for loader in loaders {
        loader.await??;
    }
    Ok(())
}

async fn load_share(mut client: KvClient<Channel>, loader: usize, keys: usize, value: Bytes) -> Result<()> {
    for first in (0..keys).step_by(PUTS).skip(loader).step_by(LOADERS) {
        let put = |number: usize| {
            let key = Bytes::from(format!("/million/{number:012}"));
            let put = PutRequest { key, value: value.clone(), ..PutRequest::default() };
            RequestOp { request: Some(Request::RequestPut(put)) }
        };
        let success = (first..keys.min(first + PUTS)).map(put).collect();
        client.txn(TxnRequest { success, ..TxnRequest::default() }).await?;
    }
    Ok(())
}

async fn until_it_reads(endpoint: &str) {
    loop {
        if let Ok(mut client) = KvClient::connect(endpoint.to_owned()).await {
            let request = RangeRequest { key: "/million/000000000000".into(), ..RangeRequest::default() };
            let read = tokio::time::timeout(Duration::from_secs(1), client.range(request)).await;
            if read.is_ok_and(|read| read.is_ok_and(|reply| reply.get_ref().count == 1)) {
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
