//! Delivery to watchers: from the moment a put is sent to the moment each watcher has its event.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use quorate_wire::etcdserverpb::kv_client::KvClient;
use quorate_wire::etcdserverpb::watch_client::WatchClient;
use quorate_wire::etcdserverpb::watch_request::RequestUnion;
use quorate_wire::etcdserverpb::{PutRequest, WatchCreateRequest, WatchRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use crate::work::{CLIENTS_PER_CONNECTION, Outcome};

/// Watchers of the prefix that is written to.
pub(crate) const WATCHERS: usize = 100;
const PREFIX: &str = "/watch/";
/// A delivery that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// When put number n was sent.
type Sent = Arc<Mutex<Vec<Instant>>>;

/// One writer, which waits for its put before it sends the next, for `length`.
pub(crate) async fn measure(endpoints: &[String], value_bytes: usize, length: Duration) -> Result<Outcome> {
    let mut channels = Vec::new();
    for index in 0..WATCHERS.div_ceil(CLIENTS_PER_CONNECTION) {
        let endpoint = Endpoint::from_shared(endpoints[index % endpoints.len()].clone())?.tcp_nodelay(true);
        channels.push(endpoint.connect().await?);
    }
    let sent: Sent = Arc::default();
    let mut watchers = Vec::new();
    for watcher in 0..WATCHERS {
        let watching = Watching::open(channels[watcher % channels.len()].clone()).await?;
        watchers.push(tokio::spawn(watching.run(sent.clone())));
    }
    let mut kv =
        KvClient::new(Endpoint::from_shared(endpoints[0].clone())?.tcp_nodelay(true).connect().await?);
    let start = Instant::now();
    let mut errors = 0;
    let put = |number: usize| {
        let mut value = vec![b'v'; value_bytes.max(8)];
        value[..8].copy_from_slice(&(number as u64).to_be_bytes());
        PutRequest { key: format!("{PREFIX}{number}").into(), value: value.into(), ..PutRequest::default() }
    };
    while start.elapsed() < length {
        let number = {
            let mut sent = sent.lock();
            sent.push(Instant::now());
            sent.len() - 1
        };
        errors += u64::from(kv.put(put(number)).await.is_err());
    }
    let elapsed = start.elapsed();
    // The last one, which tells the watchers to go.
    kv.put(put(usize::MAX)).await?;
    let mut latency_us = Histogram::new(3)?;
    for watcher in watchers {
        latency_us.add(tokio::time::timeout(PATIENCE, watcher).await.context("a watcher lost events")???)?;
    }
    Ok(Outcome { latency_us, errors, elapsed })
}

struct Watching {
    answers: tonic::Streaming<quorate_wire::etcdserverpb::WatchResponse>,
    _requests: mpsc::Sender<WatchRequest>,
}

impl Watching {
    async fn open(channel: Channel) -> Result<Watching> {
        let (requests, receiver) = mpsc::channel(1);
        let create = WatchCreateRequest {
            key: PREFIX.into(),
            range_end: Bytes::from_static(b"/watch0"),
            ..WatchCreateRequest::default()
        };
        requests.send(WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }).await?;
        let mut answers = WatchClient::new(channel).watch(ReceiverStream::new(receiver)).await?.into_inner();
        let created = answers.message().await?.context("the stream ended")?;
        anyhow::ensure!(created.created, "the watch was not created");
        Ok(Watching { answers, _requests: requests })
    }

    async fn run(mut self, sent: Sent) -> Result<Histogram<u64>> {
        let mut latency_us = Histogram::new(3)?;
        loop {
            let message = self.answers.message().await?.context("the stream ended")?;
            let now = Instant::now();
            for event in message.events {
                let value = event.kv.context("an event without its pair")?.value;
                let number =
                    value.first_chunk().map(|bytes| u64::from_be_bytes(*bytes)).context("a short value")?;
                if number == usize::MAX as u64 {
                    return Ok(latency_us);
                }
                let sent = sent.lock()[usize::try_from(number)?];
                latency_us.record(u64::try_from(now.duration_since(sent).as_micros())?)?;
            }
        }
    }
}
