//! One load against three nodes on loopback: puts, ranges, keep-alives; rate, latency, memory, idle cost.
//!
//! `--against etcd` starts Debian's etcd with the same layout in the same minute, so that two columns of one table come
//! from one machine. Every client is one task with one request in flight; clients share connections, sixteen to one, and
//! connections are spread over the members, as real clients do. Latencies are from send to answer.
#![allow(clippy::print_stdout, reason = "a bench prints its table")]

mod cluster;
mod work;

use std::time::Duration;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use comfy_table::{CellAlignment, Table, presets};

use cluster::Cluster;
use work::{Kind, Outcome};

/// Load for a cluster of three on loopback.
#[derive(Debug, Parser)]
struct Cli {
    /// What to measure, one after the other.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "quorate")]
    against: Vec<Store>,
    /// Length of one measurement.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Concurrent clients.
    #[arg(long, value_delimiter = ',', default_value = "1,64,256")]
    clients: Vec<usize>,
    /// Bytes of a value.
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// Kinds of work, by the beginning of their names.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Length of the idle measurement before any load.
    #[arg(long, default_value_t = 10)]
    idle_seconds: u64,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Store {
    /// `quorate store`, from beside this program.
    Quorate,
    /// Debian's etcd.
    Etcd,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        // Dropping the run ends its members too.
        tokio::select! {
            outcome = run(&cli) => outcome,
            _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
            _ = terminate.recv() => anyhow::bail!("asked to stop"),
        }
    })
}

async fn run(cli: &Cli) -> Result<()> {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header([
        "store",
        "work",
        "clients",
        "per second",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "max ms",
        "errors",
        "RSS MB",
        "server µs/op",
        "client µs/op",
    ]);
    for column in 2..12 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for &store in &cli.against {
        let cluster = Cluster::start(store).await?;
        let idle = cluster.idle(Duration::from_secs(cli.idle_seconds)).await?;
        println!("{store:?}, idle for {} s: {idle}", cli.idle_seconds);
        for kind in [Kind::Put, Kind::LinearizableRange, Kind::SerializableRange, Kind::KeepAlive] {
            if !cli.only.is_empty() && !cli.only.iter().any(|only| kind.name().starts_with(only.as_str())) {
                continue;
            }
            for &clients in &cli.clients {
                let before = (cluster.cpu_seconds(), cluster::cpu_seconds(std::process::id()));
                let outcome = work::measure(
                    cluster.endpoints(),
                    kind,
                    clients,
                    cli.value_bytes,
                    Duration::from_secs(cli.seconds),
                )
                .await?;
                let per_op = 1e6 / outcome.latency_us.len().max(1) as f64;
                let server = (cluster.cpu_seconds() - before.0) * per_op;
                let client = (cluster::cpu_seconds(std::process::id()) - before.1) * per_op;
                let mut cells = row(store, kind, clients, &outcome, cluster.rss_mb());
                cells.extend([format!("{server:.1}"), format!("{client:.1}")]);
                table.add_row(cells);
            }
        }
        cluster.stop().await?;
    }
    println!("{table}");
    Ok(())
}

fn row(store: Store, kind: Kind, clients: usize, outcome: &Outcome, rss_mb: f64) -> Vec<String> {
    let ms = |quantile: f64| format!("{:.2}", outcome.latency_us.value_at_quantile(quantile) as f64 / 1000.0);
    vec![
        format!("{store:?}").to_lowercase(),
        kind.name().to_owned(),
        clients.to_string(),
        format!("{:.0}", outcome.latency_us.len() as f64 / outcome.elapsed.as_secs_f64()),
        ms(0.5),
        ms(0.99),
        ms(0.999),
        format!("{:.2}", outcome.latency_us.max() as f64 / 1000.0),
        outcome.errors.to_string(),
        format!("{rss_mb:.0}"),
    ]
}
