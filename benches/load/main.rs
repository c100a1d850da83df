//! One load against Quorate and against Debian's etcd in the same minute: three nodes each on loopback, a table of ratios.
//!
//! Both clusters are up all the time and are measured in turns, so that what else happens on the machine happens to both.
//! Every client is one task with one request in flight; sixteen clients share a connection, connections are dealt out to the
//! members in turn, for both stores alike. Latencies are from send to answer. Processor time is that of all three members and
//! that of this program, user and system, for each operation that succeeded: on a machine that does other things too it says
//! more than a rate.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a bench prints its table, and its progress")]

mod cluster;
mod election;
mod million;
mod table;
mod watch;
mod work;

use std::time::Duration;

use anyhow::Result;
use clap::{Parser, ValueEnum};

use cluster::Cluster;
use table::{Figure, Report};
use work::Kind;

/// Load for clusters of three on loopback.
#[derive(Debug, Parser)]
struct Cli {
    /// What to measure; with both the table shows ratios.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "quorate,etcd")]
    against: Vec<Store>,
    /// Only these measurements, by the beginning of their names: idle, put, range, keep-alive, watch, election, million.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Length of one measurement.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Concurrent clients. Ranges and keep-alives leave out what is above 256.
    #[arg(long, value_delimiter = ',', default_value = "1,64,256,1000")]
    clients: Vec<usize>,
    /// Bytes of a value.
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// Leaders that are killed.
    #[arg(long, default_value_t = 10)]
    elections: usize,
    /// Keys of the measurement "million".
    #[arg(long, default_value_t = 1_000_000)]
    keys: usize,
    /// How the result is printed.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
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
enum Format {
    /// Markdown, for people.
    Table,
    /// One object, for programs.
    Json,
}

/// Above this many clients only puts are measured.
const CLIENTS_OF_READS: usize = 256;
/// Length of the idle measurement.
const IDLE: Duration = Duration::from_secs(10);

fn main() -> Result<()> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        // Dropping the run ends its members too, and removes their directories.
        tokio::select! {
            outcome = run(&cli) => outcome,
            _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
            _ = terminate.recv() => anyhow::bail!("asked to stop"),
        }
    })
}

impl Cli {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| name.starts_with(only.as_str()))
    }
}

async fn run(cli: &Cli) -> Result<()> {
    let length = Duration::from_secs(cli.seconds);
    let mut report = Report::default();
    let kinds = [Kind::Put, Kind::LinearizableRange, Kind::SerializableRange, Kind::KeepAlive];
    if kinds.iter().any(|kind| cli.wants(kind.name())) || cli.wants("watch") || cli.wants("idle") {
        let mut clusters = Vec::new();
        for &store in &cli.against {
            clusters.push(Cluster::start(store).await?);
        }
        if cli.wants("idle") {
            progress("idle");
            for cluster in &clusters {
                report.idle(cluster.store(), cluster.idle(IDLE).await);
            }
        }
        for kind in kinds.into_iter().filter(|kind| cli.wants(kind.name())) {
            for &clients in &cli.clients {
                if clients > CLIENTS_OF_READS && !matches!(kind, Kind::Put) {
                    continue;
                }
                for cluster in &clusters {
                    progress(&format!("{}, {clients} clients, {}", kind.name(), cluster.store().name()));
                    let before = Cost::now(cluster);
                    let outcome =
                        work::measure(cluster.endpoints(), kind, clients, cli.value_bytes, length).await?;
                    report.load(Figure::of(cluster, kind.name(), clients, &outcome, &before));
                }
            }
        }
        if cli.wants("watch") {
            for cluster in &clusters {
                progress(&format!("watch, {} watchers, {}", watch::WATCHERS, cluster.store().name()));
                let before = Cost::now(cluster);
                let outcome = watch::measure(cluster.endpoints(), cli.value_bytes, length).await?;
                report.load(Figure::of(cluster, "watch delivery", watch::WATCHERS, &outcome, &before));
            }
        }
        // Free slots and buffers go back when they like: what is left after ten seconds of rest.
        progress("after the load");
        tokio::time::sleep(IDLE).await;
        for cluster in &clusters {
            report.rest(cluster.store(), cluster.rss_mb());
        }
        for cluster in clusters {
            cluster.stop().await?;
        }
    }
    if cli.wants("election") {
        let mut clusters = Vec::new();
        for &store in &cli.against {
            clusters.push(Cluster::start(store).await?);
        }
        for round in 1..=cli.elections {
            for cluster in &mut clusters {
                progress(&format!("election {round} of {}, {}", cli.elections, cluster.store().name()));
                let took = election::measure(cluster).await?;
                report.election(cluster.store(), took);
            }
        }
    }
    if cli.wants("million") {
        // One after the other: the memory of a machine is finite.
        for &store in &cli.against {
            progress(&format!("{} keys, {}", cli.keys, store.name()));
            let outcome = million::measure(store, cli.keys, cli.value_bytes).await?;
            report.million(store, outcome);
        }
    }
    match cli.format {
        Format::Table => println!("{}", report.tables(cli.value_bytes, cli.keys)),
        Format::Json => println!("{}", report.json(cli.value_bytes, cli.keys)),
    }
    Ok(())
}

/// To the terminal, so that the result can be piped.
fn progress(what: &str) {
    eprintln!("load: {what}");
}

/// Processor time so far, in seconds.
pub(crate) struct Cost {
    members: f64,
    client: f64,
}

impl Cost {
    fn now(cluster: &Cluster) -> Cost {
        Cost { members: cluster.cpu_seconds(), client: cluster::cpu_seconds(std::process::id()) }
    }

    /// (members, client) in microseconds for each of `operations` since `self`.
    fn per_operation(&self, cluster: &Cluster, operations: u64) -> (f64, f64) {
        let now = Cost::now(cluster);
        let share = 1e6 / operations.max(1) as f64;
        ((now.members - self.members) * share, (now.client - self.client) * share)
    }
}
