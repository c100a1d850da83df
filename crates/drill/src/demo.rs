//! `quorate demo` and `quorate drill`: one command from nothing to a verdict.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use crate::cluster::{Cluster, Spec};
use crate::observer::Timeline;
use crate::report::Report;
use crate::stories;

/// Stopping three nodes in order.
const STOP: Duration = Duration::from_secs(20);

/// What happens to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Story {
    /// The primary's node is lost and comes back.
    Failover,
    /// Two of three nodes are lost, then one returns.
    QuorumLoss,
    /// Every node is killed at the same moment and started again.
    AllKilled,
}

/// The command line of both verbs.
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// The story to tell.
    #[arg(value_enum, default_value = "failover")]
    pub story: Story,
    /// How often the primary's node is lost (failover only).
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub rounds: u16,
    /// Database nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=7))]
    pub nodes: u8,
    /// The primary lease in seconds.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(2..=300))]
    pub ttl: u64,
    /// Whether a commit waits for a standby.
    #[arg(long, value_enum, default_value = "quorum")]
    pub synchronous_mode: SynchronousMode,
    /// Where everything is put; a new directory below the system's temporary one when it is left out.
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Lowest of the ports to use, ten per node; the kernel chooses when it is left out.
    #[arg(long)]
    pub base_port: Option<u16>,
    /// Leave the cluster running at the end.
    #[arg(long)]
    pub keep: bool,
    /// PostgreSQL's programs.
    #[arg(long, default_value = "/usr/lib/postgresql/15/bin")]
    pub bin_dir: PathBuf,
    /// The system user for PostgreSQL when this is run as root.
    #[arg(long, default_value = "postgres")]
    pub user: String,
    /// The report as JSON on standard output instead of the story.
    #[arg(long)]
    pub json: bool,
}

/// Patroni's `synchronous_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SynchronousMode {
    /// Commits wait for nobody.
    Off,
    /// Commits wait for the synchronous standby.
    On,
    /// Commits wait for any one standby.
    Quorum,
}

/// Tells the story. True: nothing acknowledged was lost and nothing was violated.
///
/// # Errors
/// When the cluster cannot be built or does not recover; the sentence names the log files.
pub async fn run(args: &DemoArgs) -> Result<bool> {
    let (dir, ours) = directory(args)?;
    let binary = std::env::current_exe().context("cannot tell where this program is")?;
    let spec = Spec {
        dir: dir.clone(),
        binary,
        bin_dir: args.bin_dir.clone(),
        user: args.user.clone(),
        nodes: usize::from(args.nodes),
        base_port: args.base_port,
        ttl_s: args.ttl,
        synchronous_mode: match args.synchronous_mode {
            SynchronousMode::Off => "off".to_owned(),
            SynchronousMode::On => "on".to_owned(),
            SynchronousMode::Quorum => "quorum".to_owned(),
        },
    };
    let mut cluster = Cluster::prepare(spec)?;
    let end = tokio::select! {
        outcome = tell(args, &mut cluster) => match outcome {
            Ok(report) => End::Told(report),
            Err(error) => End::Failed(error),
        },
        signal = interrupted() => End::Interrupted(signal),
    };
    if let (End::Told(_), true) = (&end, args.keep) {
        if !args.json {
            keep(&cluster);
        }
    } else {
        if let End::Interrupted(signal) = end {
            eprintln_line(&format!("{signal}: stopping every node"));
        }
        cluster.stop(STOP).await?;
    }
    let report = match end {
        End::Told(report) => {
            if ours && !args.keep {
                remove(&dir)?;
            }
            report
        }
        End::Failed(error) => {
            eprintln_line(&format!("the logs stay in {}/node*/quorate.log", dir.display()));
            return Err(error);
        }
        End::Interrupted(signal) => {
            if ours {
                remove(&dir)?;
            }
            bail!("interrupted by {signal}; nothing is left running");
        }
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    }
    Ok(report.passed())
}

/// How a story ended.
enum End {
    Told(Report),
    Failed(anyhow::Error),
    Interrupted(&'static str),
}

fn remove(dir: &Path) -> Result<()> {
    std::fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))
}

async fn tell(args: &DemoArgs, cluster: &mut Cluster) -> Result<Report> {
    let talk = !args.json;
    if talk {
        println!("building a cluster of {} nodes in {}", cluster.nodes.len(), cluster.dir().display());
    }
    let timeline = Timeline::new(talk);
    let start = Instant::now();
    let spinner = spinner(talk);
    let built = stories::build(cluster, &timeline).await;
    spinner.finish_and_clear();
    built?;
    if talk {
        println!(
            "\nready after {:.1} s; connect with\n  {}\n",
            start.elapsed().as_secs_f64(),
            cluster.connection_string()
        );
        table(cluster);
        println!();
    }
    let report = match args.story {
        Story::Failover => stories::failover(cluster, &timeline, usize::from(args.rounds)).await,
        Story::QuorumLoss => stories::quorum_loss(cluster, &timeline).await,
        Story::AllKilled => stories::all_killed(cluster, &timeline).await,
    }?;
    if talk {
        println!();
        table(cluster);
        println!("\n{}", report.closing());
    }
    Ok(report)
}

/// A directory of the demo's own, and whether to remove it at the end.
fn directory(args: &DemoArgs) -> Result<(PathBuf, bool)> {
    let (dir, ours) = match &args.dir {
        Some(dir) => {
            if dir.exists() && std::fs::read_dir(dir)?.next().is_some() {
                bail!("{} is not empty: name a new directory, or leave --dir out", dir.display());
            }
            (dir.clone(), false)
        }
        None => (std::env::temp_dir().join(format!("quorate-demo-{}", std::process::id())), true),
    };
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    // Processes are found by their working directory, which the kernel tells without symbolic links.
    Ok((dir.canonicalize()?, ours))
}

/// `quoratectl list`, as an operator would run it.
fn table(cluster: &Cluster) {
    let Some(ctl) = ctl() else { return };
    let _ = Command::new(ctl).args(["--endpoints", &cluster.endpoints(), "--scope", "demo", "list"]).status();
}

/// The ctl beside this program.
fn ctl() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok()?.parent().map(|dir| dir.join("quoratectl"))?;
    beside.exists().then_some(beside)
}

fn keep(cluster: &Cluster) {
    let ctl = ctl().unwrap_or_else(|| Path::new("quoratectl").to_owned());
    println!("the cluster is left running:");
    println!("  psql '{}'", cluster.connection_string());
    println!("  {} --endpoints {} --scope demo list", ctl.display(), cluster.endpoints());
    let pids: Vec<String> = cluster
        .nodes
        .iter()
        .filter_map(|node| node.pid())
        .map(|pid| pid.as_raw_nonzero().to_string())
        .collect();
    println!("  kill {}    # stops it; then remove {}", pids.join(" "), cluster.dir().display());
}

fn spinner(visible: bool) -> ProgressBar {
    if !visible {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} building {elapsed}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner());
    let spinner = ProgressBar::new_spinner().with_style(style);
    spinner.enable_steady_tick(Duration::from_millis(120));
    spinner
}

async fn interrupted() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => "Ctrl-C",
        _ = terminate.recv() => "SIGTERM",
    }
}

#[allow(clippy::print_stderr, reason = "the story is on standard output, which may be JSON")]
fn eprintln_line(line: &str) {
    eprintln!("{line}");
}
