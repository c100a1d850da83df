//! The measurements: closed loops of clients, one request in flight each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use hdrhistogram::Histogram;
use quorate_wire::etcdserverpb::kv_client::KvClient;
use quorate_wire::etcdserverpb::lease_client::LeaseClient;
use quorate_wire::etcdserverpb::{LeaseGrantRequest, LeaseKeepAliveRequest, PutRequest, RangeRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

/// Clients that share one connection.
pub(crate) const CLIENTS_PER_CONNECTION: usize = 16;
/// Distinct keys.
const KEYS: u64 = 10_000;

/// One kind of request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Put,
    LinearizableRange,
    SerializableRange,
    KeepAlive,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Put => "put",
            Kind::LinearizableRange => "range, linearizable",
            Kind::SerializableRange => "range, serializable",
            Kind::KeepAlive => "keep-alive",
        }
    }
}

/// What all clients together saw.
pub(crate) struct Outcome {
    pub(crate) latency_us: Histogram<u64>,
    pub(crate) errors: u64,
    pub(crate) elapsed: Duration,
}

/// Runs `clients` closed loops for `length`.
pub(crate) async fn measure(
    endpoints: &[String],
    kind: Kind,
    clients: usize,
    value_bytes: usize,
    length: Duration,
) -> Result<Outcome> {
    let value = Bytes::from(vec![b'v'; value_bytes]);
    let mut channels = Vec::new();
    for index in 0..clients.div_ceil(CLIENTS_PER_CONNECTION) {
        let endpoint = Endpoint::from_shared(endpoints[index % endpoints.len()].clone())?.tcp_nodelay(true);
        channels.push(endpoint.connect().await.context("a member does not answer")?);
    }
    let start = Instant::now();
    let until = start + length;
    let value = Arc::new(value);
    let mut tasks = Vec::new();
    for client in 0..clients {
        let channel = channels[client % channels.len()].clone();
        let value = value.clone();
        tasks.push(tokio::spawn(
            async move { closed_loop(channel, kind, client as u64, &value, until).await },
        ));
    }
    let mut latency_us = Histogram::new(3)?;
    let mut errors = 0;
    for task in tasks {
        let (histogram, failed) = task.await??;
        latency_us.add(histogram)?;
        errors += failed;
    }
    Ok(Outcome { latency_us, errors, elapsed: start.elapsed() })
}

async fn closed_loop(
    channel: Channel,
    kind: Kind,
    client: u64,
    value: &Bytes,
    until: Instant,
) -> Result<(Histogram<u64>, u64)> {
    let mut histogram = Histogram::new(3)?;
    let mut errors = 0;
    let mut kv = KvClient::new(channel.clone());
    let mut keep_alive = match kind {
        Kind::KeepAlive => Some(KeepAlive::open(channel).await?),
        Kind::Put | Kind::LinearizableRange | Kind::SerializableRange => None,
    };
    let mut turn: u64 = client;
    while Instant::now() < until {
        // A stride that is coprime to the number of keys visits all of them.
        turn = turn.wrapping_add(7919);
        let key = Bytes::from(format!("/bench/{:08}", turn % KEYS));
        let start = Instant::now();
        let ok = match kind {
            Kind::Put => {
                kv.put(PutRequest { key, value: value.clone(), ..PutRequest::default() }).await.is_ok()
            }
            Kind::LinearizableRange | Kind::SerializableRange => {
                let serializable = matches!(kind, Kind::SerializableRange);
                kv.range(RangeRequest { key, serializable, ..RangeRequest::default() }).await.is_ok()
            }
            Kind::KeepAlive => match keep_alive.as_mut() {
                Some(stream) => stream.renew().await.is_ok(),
                None => false,
            },
        };
        if ok {
            histogram.record(u64::try_from(start.elapsed().as_micros())?)?;
        } else {
            errors += 1;
        }
    }
    Ok((histogram, errors))
}

/// One lease and its stream, as a client library holds it.
struct KeepAlive {
    id: i64,
    requests: mpsc::Sender<LeaseKeepAliveRequest>,
    answers: tonic::Streaming<quorate_wire::etcdserverpb::LeaseKeepAliveResponse>,
}

impl KeepAlive {
    async fn open(channel: Channel) -> Result<KeepAlive> {
        let mut client = LeaseClient::new(channel);
        let id = client.lease_grant(LeaseGrantRequest { ttl: 60, id: 0 }).await?.into_inner().id;
        let (requests, receiver) = mpsc::channel(1);
        requests.send(LeaseKeepAliveRequest { id }).await?;
        let mut answers = client.lease_keep_alive(ReceiverStream::new(receiver)).await?.into_inner();
        answers.message().await?.context("the stream ended")?;
        Ok(KeepAlive { id, requests, answers })
    }

    async fn renew(&mut self) -> Result<()> {
        self.requests.send(LeaseKeepAliveRequest { id: self.id }).await?;
        let answer = self.answers.message().await?.context("the stream ended")?;
        anyhow::ensure!(answer.ttl > 0, "the lease is gone");
        Ok(())
    }
}
