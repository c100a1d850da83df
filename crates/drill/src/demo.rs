//! `quorate demo` and `quorate drill`: one command from nothing to a verdict.
//!
//! A story (`quorate drill cut --rounds 10`) builds one cluster and tells the story so many times. `table` does that for every
//! event of the time budget, with a cluster for each line, and `soak` keeps one cluster under load for as long as
//! it is told to. Whatever way it ends, also by Ctrl-C or a panic, nothing is left running: a cluster that is dropped kills its
//! processes and removes its network.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use crate::cluster::{Cluster, Network, Spec};
use crate::configuration::Timing;
use crate::netns;
use crate::observer::Timeline;
use crate::report::{Report, Round};
use crate::soak;
use crate::stories::{self, Story, Told};
use crate::table::{self, Preset};

/// Stopping three nodes in order.
const STOP: Duration = Duration::from_secs(20);
/// Rounds of a line of the table when nobody says.
const TABLE_ROUNDS: u16 = 10;

/// Which verb was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// To look at: on loopback, so that one can connect.
    Demo,
    /// To measure: in network namespaces when this is root.
    Drill,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// One story.
    Story(Story),
    /// Every event of the time budget.
    Table,
    /// Load and stalls.
    Soak,
}

impl ValueEnum for What {
    fn value_variants<'a>() -> &'a [What] {
        static ALL: LazyLock<Vec<What>> = LazyLock::new(|| {
            let stories = Story::value_variants().iter().copied().map(What::Story);
            stories.chain([What::Table, What::Soak]).collect()
        });
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            What::Story(story) => story.to_possible_value(),
            What::Table => {
                Some(PossibleValue::new("table").help("Every event of the time budget, with its target"))
            }
            What::Soak => Some(
                PossibleValue::new("soak")
                    .help("pgbench, checkpoint storms and a stall of 2 s every minute: nobody may fail over"),
            ),
        }
    }
}

/// The command line of both verbs.
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// What to do
    #[arg(value_enum, default_value = "failover")]
    pub what: What,
    /// How often [default: 1; table: 10]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub rounds: Option<u16>,
    /// Database nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=7))]
    pub nodes: u8,
    /// Whether a commit waits for a standby [default: quorum; table: quorum and off]
    #[arg(long, value_enum, alias = "synchronous-mode")]
    pub mode: Option<SynchronousMode>,
    /// Lease and timeouts [default: default; table: both]
    #[arg(long, value_enum)]
    pub preset: Option<Preset>,
    /// The primary lease in seconds, instead of the preset's
    #[arg(long, value_parser = clap::value_parser!(u64).range(2..=300))]
    pub ttl: Option<u64>,
    /// How long a cut or a stop is held, in seconds [default: two leases; agent-stopped: 60]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub hold: Option<u64>,
    /// Where the nodes live
    #[arg(long, value_enum, default_value = "auto")]
    pub network: NetworkArg,
    /// Only these events (table only)
    #[arg(long, value_enum, value_name = "STORY", value_delimiter = ',')]
    pub only: Vec<Story>,
    /// How long (soak only)
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub minutes: u32,
    /// Draws the same stalls again (soak only) [default: another one each time]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Where everything is put; a new directory below the system's temporary one when it is left out
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Lowest of the ports on loopback, ten per node; free ones are chosen when it is left out
    #[arg(long)]
    pub base_port: Option<u16>,
    /// Leave the cluster running at the end (on loopback)
    #[arg(long)]
    pub keep: bool,
    /// PostgreSQL's programs
    #[arg(long, default_value = "/usr/lib/postgresql/15/bin")]
    pub bin_dir: PathBuf,
    /// The system user for PostgreSQL when this is run as root
    #[arg(long, default_value = "postgres")]
    pub user: String,
    /// The story as it happens, or a report for programs on standard output
    #[arg(long, value_enum, default_value = "pretty")]
    pub format: Format,
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

impl SynchronousMode {
    fn yaml(self) -> &'static str {
        match self {
            SynchronousMode::Off => "off",
            SynchronousMode::On => "on",
            SynchronousMode::Quorum => "quorum",
        }
    }
}

/// Where the nodes live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NetworkArg {
    /// Drills in namespaces when that is possible, demos on loopback.
    Auto,
    /// All on 127.0.0.1.
    Loopback,
    /// Each in a namespace of its own.
    Namespaces,
}

/// How the end is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Pretty,
    /// For programs.
    Json,
}

/// Does it. True: nothing acknowledged was lost, nothing was violated, and every story came to its end.
///
/// # Errors
/// When the cluster cannot be built or does not recover; the sentence names the log files.
pub async fn run(args: &DemoArgs, verb: Verb) -> Result<bool> {
    let network = network(args, verb)?;
    if let What::Story(story) = args.what
        && story.cuts()
        && network == Network::Loopback
    {
        bail!(
            "{} cuts the network, and on loopback nothing can be cut: `quorate drill` as root, without --network and --keep",
            story.name()
        );
    }
    let (dir, ours) = directory(args)?;
    let drill = Drill { args, network, dir: &dir };
    // Whoever is dropped here kills what it has started.
    let outcome = tokio::select! {
        outcome = drill.perform() => outcome,
        signal = interrupted() => {
            if ours {
                remove_when_quiet(&dir).await?;
            }
            bail!("interrupted by {signal}; nothing is left running");
        }
    };
    match &outcome {
        Ok(true) if ours && !args.keep => remove(&dir)?,
        Ok(_) if args.keep => {}
        Ok(_) => eprintln_line(&format!("the logs stay in {}", dir.display())),
        Err(_) => eprintln_line(&format!("the logs stay in {}/node*/quorate.log", dir.display())),
    }
    outcome
}

fn network(args: &DemoArgs, verb: Verb) -> Result<Network> {
    let obstacle = netns::obstacle();
    match (args.network, verb, obstacle) {
        (NetworkArg::Loopback, _, _) | (NetworkArg::Auto, Verb::Demo, _) => Ok(Network::Loopback),
        (NetworkArg::Namespaces, _, _) if args.keep => {
            bail!("--keep needs --network loopback: a namespace ends with the drill")
        }
        (NetworkArg::Auto, Verb::Drill, None) if args.keep => Ok(Network::Loopback),
        (NetworkArg::Namespaces, _, Some(why)) => bail!("{why}"),
        (NetworkArg::Auto, Verb::Drill, Some(why)) => {
            eprintln_line(&why);
            Ok(Network::Loopback)
        }
        (NetworkArg::Auto | NetworkArg::Namespaces, _, None) => Ok(Network::Namespaces),
    }
}

struct Drill<'a> {
    args: &'a DemoArgs,
    network: Network,
    dir: &'a Path,
}

impl Drill<'_> {
    async fn perform(&self) -> Result<bool> {
        match self.args.what {
            What::Story(story) => self.story(story).await,
            What::Table => self.table().await,
            What::Soak => self.soak().await,
        }
    }

    fn pretty(&self) -> bool {
        self.args.format == Format::Pretty
    }

    fn prepare(&self, dir: PathBuf, mode: SynchronousMode, preset: Preset) -> Result<Cluster> {
        let timing = preset.timing();
        let timing = match self.args.ttl {
            Some(ttl) => Timing { ttl: Duration::from_secs(ttl), ..timing },
            None => timing,
        };
        Cluster::prepare(Spec {
            dir,
            binary: std::env::current_exe().context("cannot tell where this program is")?,
            bin_dir: self.args.bin_dir.clone(),
            user: self.args.user.clone(),
            nodes: usize::from(self.args.nodes),
            base_port: self.args.base_port,
            timing,
            synchronous_mode: mode.yaml().to_owned(),
            network: self.network,
        })
    }

    /// A cluster as a single story or the soak has it.
    fn one(&self) -> Result<Cluster> {
        let (mode, preset) = (self.args.mode, self.args.preset);
        let mode = mode.unwrap_or(SynchronousMode::Quorum);
        self.prepare(self.dir.to_owned(), mode, preset.unwrap_or(Preset::Default))
    }

    fn hold(&self) -> Option<Duration> {
        self.args.hold.map(Duration::from_secs)
    }

    async fn story(&self, story: Story) -> Result<bool> {
        let mut cluster = self.one()?;
        let told = self.tell(&mut cluster, story).await;
        if self.args.keep && told.is_ok() {
            if self.pretty() {
                keep(&cluster);
            }
            cluster.keep();
        } else {
            cluster.stop(STOP).await?;
        }
        let report = told?;
        if !self.pretty() {
            println!("{}", serde_json::to_string_pretty(&report)?);
        }
        Ok(report.passed())
    }

    async fn tell(&self, cluster: &mut Cluster, story: Story) -> Result<Report> {
        let timeline = Timeline::new(self.pretty());
        self.build(cluster, &timeline).await?;
        let rounds = usize::from(self.args.rounds.unwrap_or(1));
        let told = stories::tell(cluster, &timeline, story, rounds, self.hold(), |_| {}).await?;
        if self.pretty() {
            println!();
            list(cluster);
            println!("\n{}", told.report.closing());
        }
        told.complete()
    }

    async fn build(&self, cluster: &mut Cluster, timeline: &Timeline) -> Result<()> {
        if self.pretty() {
            println!("building a cluster of {} nodes in {}", cluster.nodes.len(), cluster.dir().display());
        }
        let start = Instant::now();
        let spinner = spinner(self.pretty(), "building");
        let built = stories::build(cluster, timeline).await;
        spinner.finish_and_clear();
        built?;
        if self.pretty() {
            let (prefix, string) = (cluster.prefix(), cluster.connection_string());
            println!("\nready after {:.1} s; connect with", start.elapsed().as_secs_f64());
            println!("  {prefix}psql '{string}'\n");
            list(cluster);
            println!();
        }
        Ok(())
    }

    async fn table(&self) -> Result<bool> {
        let modes =
            self.args.mode.map_or(vec![SynchronousMode::Quorum, SynchronousMode::Off], |mode| vec![mode]);
        let presets = self.args.preset.map_or(vec![Preset::Default, Preset::Fast], |preset| vec![preset]);
        let stories = table::stories(&self.args.only);
        if stories.is_empty() {
            bail!("--only names no event of the table");
        }
        let rounds = usize::from(self.args.rounds.unwrap_or(TABLE_ROUNDS));
        let mut lines = Vec::new();
        for story in &stories {
            for &preset in &presets {
                for &mode in &modes {
                    lines.extend(self.cell(*story, mode, preset, rounds).await);
                }
            }
        }
        match self.args.format {
            Format::Pretty => println!("\n{}", table::render(&lines)),
            Format::Json => println!("{}", serde_json::to_string_pretty(&lines)?),
        }
        Ok(lines.iter().all(|line| line.trouble.is_empty()))
    }

    /// One event in one column, whatever happens to it.
    async fn cell(
        &self,
        story: Story,
        mode: SynchronousMode,
        preset: Preset,
        rounds: usize,
    ) -> Vec<table::Line> {
        let column = format!("{}, {}, {preset:?}", story.name(), mode.yaml());
        let told = self.row(story, mode, preset, rounds, &column).await;
        let (report, failure) = match &told {
            Ok(told) => (Some(&told.report), told.failure.as_ref()),
            Err(error) => (None, Some(error)),
        };
        let failure = failure.map(|error| format!("{error:#}"));
        let lines = table::lines(story, mode.yaml(), preset, report, failure.as_deref());
        // A table takes hours: what is done is told at once.
        eprintln_line(&table::render(&lines));
        lines
    }

    async fn row(
        &self,
        story: Story,
        mode: SynchronousMode,
        preset: Preset,
        rounds: usize,
        column: &str,
    ) -> Result<Told> {
        let dir = self.dir.join(format!("{}-{}-{preset:?}", story.name(), mode.yaml()).to_lowercase());
        let mut cluster = self.prepare(dir.clone(), mode, preset)?;
        let spinner = spinner(true, column);
        let timeline = Timeline::new(false);
        let told = async {
            stories::build(&mut cluster, &timeline).await?;
            let mut done = 0;
            stories::tell(&mut cluster, &timeline, story, rounds, self.hold(), |round: &Round| {
                done += 1;
                spinner.set_message(format!("{column}: {done} of {rounds}, {} ms", round.write_gap_ms));
            })
            .await
        }
        .await;
        spinner.finish_and_clear();
        let stopped = cluster.stop(STOP).await;
        if matches!(&told, Ok(told) if told.failure.is_none() && told.report.passed())
            && self.args.dir.is_none()
        {
            remove(&dir)?;
        }
        stopped.and(told)
    }

    async fn soak(&self) -> Result<bool> {
        let mut cluster = self.one()?;
        let soaked = async {
            self.build(&mut cluster, &Timeline::new(self.pretty())).await?;
            let seed = self.args.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
            if self.pretty() {
                println!("seed {seed}");
            }
            let pretty = self.pretty();
            let each = |minute: &soak::Minute| {
                if pretty {
                    println!("{minute}");
                }
            };
            soak::soak(&mut cluster, self.args.minutes, seed, each).await
        }
        .await;
        cluster.stop(STOP).await?;
        let soaked = soaked?;
        match self.args.format {
            Format::Pretty => println!(
                "{} minutes, {} failovers, acknowledged {}, lost {}",
                soaked.minutes.len(),
                soaked.failovers,
                soaked.verdict.acknowledged,
                soaked.verdict.lost.len()
            ),
            Format::Json => println!("{}", serde_json::to_string_pretty(&soaked)?),
        }
        Ok(soaked.passed())
    }
}

fn remove(dir: &Path) -> Result<()> {
    std::fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))
}

/// Removes a directory in which processes that were just killed may still make a file: tried again for a moment.
async fn remove_when_quiet(dir: &Path) -> Result<()> {
    let until = Instant::now() + STOP;
    loop {
        match remove(dir) {
            Err(_) if dir.exists() && Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            removed => return removed,
        }
    }
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
fn list(cluster: &Cluster) {
    let Ok(ctl) = cluster.ctl() else { return };
    let mut command = Command::new(ctl);
    command.args(["--endpoints", &cluster.endpoints(), "--scope", "demo", "list"]);
    // For the reader; the story goes on without it.
    let _ = cluster.outside().inside(|| command.status());
}

fn keep(cluster: &Cluster) {
    let ctl = cluster.ctl().unwrap_or_else(|_| Path::new("quoratectl").to_owned());
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

fn spinner(visible: bool, what: &str) -> ProgressBar {
    if !visible {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner());
    let spinner = ProgressBar::new_spinner().with_style(style).with_message(what.to_owned());
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
