//! Very many watchers, very many leases: what one costs, and what it costs the others.
//!
//! Watchers hang on one member, a thousand to a stream, each on a key of its own; then a hundred on one key. Puts go to
//! another member. Latency is from the send of a put to the response in the watching client's hand.
//!
//! Leases are granted by many clients at once, renewed on streams for a while, then left alone; the time to expire is from
//! the end of the first ttl to the last one's disappearance.
#![allow(clippy::print_stdout, reason = "a bench prints its table")]

#[allow(dead_code, reason = "the load bench uses the rest")]
mod cluster;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use comfy_table::{Table, presets};
use hdrhistogram::Histogram;
use quorate_wire::etcdserverpb::kv_client::KvClient;
use quorate_wire::etcdserverpb::lease_client::LeaseClient;
use quorate_wire::etcdserverpb::watch_client::WatchClient;
use quorate_wire::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseLeasesRequest, PutRequest, WatchCreateRequest,
    WatchRequest, watch_request,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use cluster::Cluster;

/// Watchers of one stream.
const PER_STREAM: usize = 1000;
/// Streams and clients that share one connection.
const PER_CONNECTION: usize = 16;
/// Watchers of one key.
const ON_ONE_KEY: usize = 100;
/// Puts whose delivery is timed.
const PUTS: usize = 200;
/// Clients that grant, and streams that renew.
const GRANTERS: usize = 64;
/// Renewals without an answer on one stream.
const PIPELINE: usize = 32;
/// Longer than it takes to grant them all.
const TTL: Duration = Duration::from_secs(60);
/// Nothing takes longer than this.
const PATIENCE: Duration = Duration::from_secs(300);

/// Very many watchers and leases on a cluster of three on loopback.
#[derive(Debug, Parser)]
struct Cli {
    /// What to measure, one after the other.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "quorate")]
    against: Vec<Store>,
    /// Which parts.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "watchers,leases")]
    only: Vec<Part>,
    /// Watchers, and leases.
    #[arg(long, default_value_t = 100_000)]
    count: usize,
    /// For how long the leases are renewed.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Store {
    /// `quorate store`, from beside this program.
    Quorate,
    /// Debian's etcd.
    Etcd,
}

impl Store {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Store::Quorate => "Quorate",
            Store::Etcd => "etcd",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Watchers,
    Leases,
}

/// One line of the table.
struct Figure {
    what: String,
    value: String,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    if cli.count == 0 {
        bail!("--count 0: there is nothing to measure");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        // Dropping the run ends its members too.
        tokio::select! {
            outcome = run(&cli) => outcome,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
            _ = terminate.recv() => bail!("asked to stop"),
        }
    })
}

async fn run(cli: &Cli) -> Result<()> {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(["store", "what", "figure"]);
    for &store in &cli.against {
        for part in &cli.only {
            // A fresh cluster for each: what the one leaves behind is not the other's.
            let cluster = Cluster::start(store).await?;
            let figures = match part {
                Part::Watchers => watchers(&cluster, cli.count).await?,
                Part::Leases => leases(&cluster, cli.count, Duration::from_secs(cli.seconds)).await?,
            };
            for Figure { what, value } in figures {
                table.add_row([store.name().to_owned(), what, value]);
            }
            cluster.stop().await?;
        }
    }
    println!("{table}");
    Ok(())
}

fn figure(what: impl Into<String>, value: impl Into<String>) -> Figure {
    Figure { what: what.into(), value: value.into() }
}

async fn connect(endpoint: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(endpoint.to_owned())?.tcp_nodelay(true);
    endpoint.connect().await.context("a member does not answer")
}

fn quantiles(latency_us: &Histogram<u64>) -> String {
    let ms = |at: f64| latency_us.value_at_quantile(at) as f64 / 1000.0;
    format!("p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms", ms(0.5), ms(0.99), latency_us.max() as f64 / 1000.0)
}

/// Opens streams with `count` watchers in all, on keys that `key` names, and reports the arrival of every event.
async fn watch(
    endpoint: &str,
    count: usize,
    key: impl Fn(usize) -> String,
    arrivals: &mpsc::UnboundedSender<Instant>,
    tasks: &mut JoinSet<()>,
) -> Result<()> {
    let mut channel = connect(endpoint).await?;
    for stream in 0..count.div_ceil(PER_STREAM) {
        if stream > 0 && stream % PER_CONNECTION == 0 {
            channel = connect(endpoint).await?;
        }
        let first = stream * PER_STREAM;
        let mine = PER_STREAM.min(count - first);
        let (requests, queue) = mpsc::channel(PER_STREAM);
        for n in first..first + mine {
            let create = WatchCreateRequest { key: key(n).into(), ..Default::default() };
            let request_union = Some(watch_request::RequestUnion::CreateRequest(create));
            requests.send(WatchRequest { request_union }).await?;
        }
        let answer = WatchClient::new(channel.clone()).watch(ReceiverStream::new(queue)).await?;
        let mut responses = answer.into_inner();
        let mut created = 0;
        while created < mine {
            let response = tokio::time::timeout(PATIENCE, responses.message()).await??;
            match response {
                Some(response) if response.created && !response.canceled => created += 1,
                other => bail!("instead of a watcher: {other:?}"),
            }
        }
        let arrivals = arrivals.clone();
        tasks.spawn(async move {
            // The stream ends when this is dropped.
            let _requests = requests;
            while let Ok(Some(response)) = responses.message().await {
                let now = Instant::now();
                for _ in &response.events {
                    if arrivals.send(now).is_err() {
                        return;
                    }
                }
            }
        });
    }
    Ok(())
}

/// Puts to `key`, one after the other; each has to arrive `copies` times. Latency of every copy.
async fn deliver(
    kv: &mut KvClient<Channel>,
    key: impl Fn(usize) -> String,
    copies: usize,
    arrivals: &mut mpsc::UnboundedReceiver<Instant>,
) -> Result<Histogram<u64>> {
    let mut latency_us = Histogram::new(3)?;
    for n in 0..PUTS {
        let sent = Instant::now();
        kv.put(PutRequest { key: key(n).into(), value: "x".into(), ..Default::default() }).await?;
        for _ in 0..copies {
            let arrived = tokio::time::timeout(PATIENCE, arrivals.recv()).await?;
            let arrived = arrived.context("the streams have ended")?;
            latency_us.record(u64::try_from(arrived.duration_since(sent).as_micros())?)?;
        }
    }
    Ok(latency_us)
}

/// `count` watchers on the second member.
async fn watchers(cluster: &Cluster, count: usize) -> Result<Vec<Figure>> {
    let endpoint = &cluster.endpoints()[1];
    let (send, mut arrivals) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    let mut kv = KvClient::new(connect(&cluster.endpoints()[0]).await?);
    let mut figures = Vec::new();
    let before = cluster.rss_mb();
    let started = Instant::now();
    watch(endpoint, count, |n| format!("many/{n:08}"), &send, &mut tasks).await?;
    let took = started.elapsed();
    let per_watcher = (cluster.rss_mb() - before) * 1024.0 / count as f64;
    figures.push(figure(format!("{count} watchers, created"), format!("{:.1} s", took.as_secs_f64())));
    figures.push(figure("memory of one watcher, on its member", format!("{per_watcher:.2} KB")));
    let spread = |n: usize| format!("many/{:08}", n.wrapping_mul(7919) % count);
    let one = deliver(&mut kv, spread, 1, &mut arrivals).await?;
    figures.push(figure(format!("delivery to one of {count}"), quantiles(&one)));
    watch(endpoint, ON_ONE_KEY, |_| "one".to_owned(), &send, &mut tasks).await?;
    let hundred = deliver(&mut kv, |_| "one".to_owned(), ON_ONE_KEY, &mut arrivals).await?;
    figures.push(figure(format!("delivery to {ON_ONE_KEY} watchers of one key"), quantiles(&hundred)));
    tasks.shutdown().await;
    Ok(figures)
}

/// `count` leases, granted and renewed over all members, then left alone.
async fn leases(cluster: &Cluster, count: usize, renewing: Duration) -> Result<Vec<Figure>> {
    let mut channels = Vec::new();
    for n in 0..GRANTERS.div_ceil(PER_CONNECTION).max(cluster.endpoints().len()) {
        channels.push(connect(&cluster.endpoints()[n % cluster.endpoints().len()]).await?);
    }
    let mut figures = Vec::new();
    let before = cluster.rss_mb();
    let started = Instant::now();
    let mut granting = JoinSet::new();
    for granter in 0..GRANTERS {
        let mut client = LeaseClient::new(channels[granter % channels.len()].clone());
        granting.spawn(async move {
            let mut ids = Vec::new();
            for n in (granter..count).step_by(GRANTERS) {
                let id = i64::try_from(n)? + 1;
                client.lease_grant(LeaseGrantRequest { ttl: i64::try_from(TTL.as_secs())?, id }).await?;
                ids.push(id);
            }
            anyhow::Ok(ids)
        });
    }
    let mut shares = Vec::new();
    while let Some(ids) = granting.join_next().await {
        shares.push(ids??);
    }
    let took = started.elapsed();
    let rate = |count: usize, took: Duration| format!("{:.0} a second", count as f64 / took.as_secs_f64());
    let per_lease = (cluster.rss_mb() - before) * 1024.0 / count as f64;
    figures.push(figure(format!("{count} leases, granted"), rate(count, took)));
    figures.push(figure("memory of one lease, on the largest member", format!("{per_lease:.2} KB")));

    let until = Instant::now() + renewing;
    let started = Instant::now();
    let mut renewals = JoinSet::new();
    for (n, ids) in shares.into_iter().enumerate() {
        renewals.spawn(renew(channels[n % channels.len()].clone(), ids, until));
    }
    let mut renewed = 0;
    while let Some(count) = renewals.join_next().await {
        renewed += count??;
    }
    figures.push(figure(format!("renewals with {count} leases"), rate(renewed, started.elapsed())));

    // The first of them may end now.
    tokio::time::sleep(TTL).await;
    let started = Instant::now();
    let mut client = LeaseClient::new(channels[0].clone());
    loop {
        let left = client.lease_leases(LeaseLeasesRequest {}).await?.into_inner().leases.len();
        if left == 0 {
            break;
        }
        if started.elapsed() > PATIENCE {
            bail!("{left} leases are left");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let took = started.elapsed().as_secs_f64();
    figures.push(figure(format!("{count} leases, gone after the ttl"), format!("{took:.1} s")));
    Ok(figures)
}

/// Renews `ids` round and round on one stream; returns how many answers came.
async fn renew(channel: Channel, ids: Vec<i64>, until: Instant) -> Result<usize> {
    if ids.is_empty() {
        return Ok(0);
    }
    let (requests, queue) = mpsc::channel(PIPELINE);
    let mut client = LeaseClient::new(channel);
    let mut around = ids.iter().copied().cycle();
    let mut next = move || LeaseKeepAliveRequest { id: around.next().unwrap_or_default() };
    for _ in 0..PIPELINE.min(ids.len()) {
        requests.send(next()).await?;
    }
    let mut answers = client.lease_keep_alive(ReceiverStream::new(queue)).await?.into_inner();
    let mut renewed = 0;
    while Instant::now() < until {
        let answer = answers.message().await?.context("the stream has ended")?;
        if answer.ttl == 0 {
            bail!("lease {} is gone while it is renewed", answer.id);
        }
        renewed += 1;
        requests.send(next()).await?;
    }
    Ok(renewed)
}
