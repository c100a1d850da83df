//! `quorate demo` and `quorate drill`: one command from nothing to a verdict.
//!
//! A story (`quorate drill cut --rounds 10`) builds one cluster and tells the story so many times. `table` does that for every
//! event of the time budget, with a cluster for each column, `soak` keeps one cluster under load for as long as
//! it is told to, `stalls` looks at the lease while disk, processor and network are slow, and `chaos` draws one fault after
//! the other. Whatever way it ends, also by Ctrl-C or a panic, nothing is left running: a cluster that is dropped kills its
//! processes and removes its network.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use crate::chaos;
use crate::chaos::plan::Draw;
use crate::cluster::{Cluster, Network, Spec};
use crate::configuration::Timing;
use crate::netns;
use crate::observer::Timeline;
use crate::report::{Report, Round};
use crate::soak::{self, Bench};
use crate::stalls::{self, Disturbance};
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
    /// A slow disk, processor and network.
    Stalls,
    /// Faults of every kind in a row.
    Chaos,
}

impl ValueEnum for What {
    fn value_variants<'a>() -> &'a [What] {
        static ALL: LazyLock<Vec<What>> = LazyLock::new(|| {
            let stories = Story::value_variants().iter().copied().map(What::Story);
            stories.chain([What::Table, What::Soak, What::Stalls, What::Chaos]).collect()
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
            What::Stalls => Some(PossibleValue::new("stalls").help(
                "A disk, a processor and a network that are slow: how near the lease of the primary comes to its end",
            )),
            What::Chaos => Some(PossibleValue::new("chaos").help(
                "Faults of every kind, one after the other as the seed draws them, on one cluster; what clients were told is compared after each",
            )),
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
    /// How long a cut or a stop is held, in seconds [default: two leases; agent-stopped: 60; table: a lease and 1 s]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub hold: Option<u64>,
    /// Where the nodes live
    #[arg(long, value_enum, default_value = "auto")]
    pub network: NetworkArg,
    /// Only these events (table only)
    #[arg(long, value_enum, value_name = "STORY", value_delimiter = ',')]
    pub only: Vec<Story>,
    /// How long (soak and chaos only)
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub minutes: u32,
    /// How many faults, however long they take (chaos only)
    #[arg(long, conflicts_with = "minutes", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub faults: Option<u32>,
    /// How long each disturbance lasts (stalls only)
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..=86_400))]
    pub seconds: u64,
    /// Draws the same stalls or faults again (soak and chaos only) [default: another one each time]
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
    if let What::Story(story) = args.what
        && story.needs_confirmation()
        && args.mode == Some(SynchronousMode::Off)
    {
        bail!(
            "{}: in asynchronous mode nobody is left who would stop PostgreSQL, and its clients stay with it; a watchdog device is for that",
            story.name()
        );
    }
    let (dir, ours) = directory(args)?;
    let drill = Drill { args, network, dir: &dir, lines: RefCell::default() };
    // Whoever is dropped here kills what it has started.
    let outcome = tokio::select! {
        outcome = drill.perform() => outcome,
        signal = interrupted() => {
            if !drill.lines.borrow().is_empty() {
                drill.print_table()?;
            }
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
    /// Of the table, as far as it has come.
    lines: RefCell<Vec<table::Line>>,
}

/// A column of the table.
#[derive(Debug, Clone, Copy)]
struct Column {
    mode: SynchronousMode,
    preset: Preset,
}

impl std::fmt::Display for Column {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.preset.name(), self.mode.yaml())
    }
}

/// How far a table has come.
struct Progress {
    begun: Instant,
    /// Of [`table::effort`].
    done: Duration,
    all: Duration,
}

impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let gone = self.begun.elapsed();
        let part = self.done.as_secs_f64() / self.all.as_secs_f64();
        let left = gone.as_secs_f64() / part - gone.as_secs_f64();
        write!(
            f,
            "{:.0} % after {} min, about {:.0} min left",
            part * 100.0,
            gone.as_secs() / 60,
            left / 60.0
        )
    }
}

impl Drill<'_> {
    async fn perform(&self) -> Result<bool> {
        match self.args.what {
            What::Story(story) => self.story(story).await,
            What::Table => self.table().await,
            What::Soak => self.soak().await,
            What::Stalls => self.stalls().await,
            What::Chaos => self.chaos().await,
        }
    }

    fn pretty(&self) -> bool {
        self.args.format == Format::Pretty
    }

    fn prepare(
        &self,
        dir: PathBuf,
        mode: SynchronousMode,
        timing: Timing,
        network: Network,
    ) -> Result<Cluster> {
        Cluster::prepare(Spec {
            dir,
            binary: std::env::current_exe().context("cannot tell where this program is")?,
            bin_dir: self.args.bin_dir.clone(),
            user: self.args.user.clone(),
            nodes: usize::from(self.args.nodes),
            base_port: self.args.base_port,
            timing,
            synchronous_mode: mode.yaml().to_owned(),
            network,
        })
    }

    fn timing(&self, preset: Preset) -> Timing {
        let timing = preset.timing();
        match self.args.ttl {
            Some(ttl) => Timing { ttl: Duration::from_secs(ttl), ..timing },
            None => timing,
        }
    }

    /// A cluster as a single story or the soak has it.
    fn one(&self, dir: PathBuf, network: Network) -> Result<Cluster> {
        self.prepare(dir, self.mode(), self.timing(self.preset()), network)
    }

    /// Of whatever has one column only.
    fn mode(&self) -> SynchronousMode {
        self.args.mode.unwrap_or(SynchronousMode::Quorum)
    }

    fn preset(&self) -> Preset {
        // Who asks how a slow network is sat out means a cluster that is made for one.
        let slow = matches!(self.args.what, What::Story(Story::Delay));
        self.args.preset.unwrap_or(if slow { Preset::Wan } else { Preset::Default })
    }

    fn hold(&self) -> Option<Duration> {
        self.args.hold.map(Duration::from_secs)
    }

    async fn story(&self, story: Story) -> Result<bool> {
        let network = match story {
            Story::Delay => Network::Forwarded,
            _ => self.network,
        };
        let mut cluster = self.one(self.dir.to_owned(), network)?;
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
            ctl(cluster, &["list"]);
            println!("\nquoratectl why:");
            ctl(cluster, &["why"]);
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
            ctl(cluster, &["list"]);
            println!();
        }
        Ok(())
    }

    async fn table(&self) -> Result<bool> {
        let modes =
            self.args.mode.map_or(vec![SynchronousMode::Quorum, SynchronousMode::Off], |mode| vec![mode]);
        let presets = self.args.preset.map_or(vec![Preset::Default, Preset::Fast], |preset| vec![preset]);
        let stories = table::stories(&self.args.only);
        let columns: Vec<(Column, Vec<Story>)> = presets
            .iter()
            .flat_map(|&preset| modes.iter().map(move |&mode| Column { mode, preset }))
            .map(|column| (column, table::of_column(&stories, column.mode != SynchronousMode::Off)))
            .collect();
        if columns.iter().all(|(_, stories)| stories.is_empty()) {
            bail!("--only names no event of the table that this mode has");
        }
        let rounds = usize::from(self.args.rounds.unwrap_or(TABLE_ROUNDS));
        let all: Duration = columns
            .iter()
            .flat_map(|(column, stories)| stories.iter().map(|story| self.effort(*story, *column, rounds)))
            .sum();
        let mut progress = Progress { begun: Instant::now(), done: Duration::ZERO, all };
        for (column, stories) in columns {
            let mut cluster = None;
            for story in stories {
                let lines = self.cell(&mut cluster, story, column, rounds).await;
                progress.done += self.effort(story, column, rounds);
                // A table takes long: what is done is told at once.
                eprintln_line(&format!("{}\n{progress}", table::render(&lines)));
                self.lines.borrow_mut().extend(lines);
            }
            if let Some(cluster) = cluster {
                self.dismiss(cluster).await?;
            }
        }
        self.print_table()?;
        Ok(self.lines.borrow().iter().all(|line| line.trouble.is_empty()))
    }

    /// The lines so far, which are all of them unless the table was cut short.
    fn print_table(&self) -> Result<()> {
        let lines = table::in_order(self.lines.borrow().clone());
        match self.args.format {
            Format::Pretty => println!("\n{}", table::render(&lines)),
            Format::Json => println!("{}", serde_json::to_string_pretty(&lines)?),
        }
        Ok(())
    }

    fn table_hold(&self, column: Column) -> Duration {
        self.hold().unwrap_or_else(|| table::hold(self.timing(column.preset).ttl))
    }

    fn effort(&self, story: Story, column: Column, rounds: usize) -> Duration {
        table::effort(story, rounds, self.table_hold(column))
    }

    /// One event in one column, whatever happens to it. A cluster at which nothing went wrong is left to the next one.
    async fn cell(
        &self,
        kept: &mut Option<Cluster>,
        story: Story,
        column: Column,
        rounds: usize,
    ) -> Vec<table::Line> {
        let told = match kept.take() {
            Some(cluster) => self.row(cluster, story, column, rounds).await,
            None => match self.fresh(story, column).await {
                Ok(cluster) => self.row(cluster, story, column, rounds).await,
                Err(error) => Err(error),
            },
        };
        let (report, failure) = match &told {
            Ok((told, _)) => (Some(&told.report), told.failure.as_ref()),
            Err(error) => (None, Some(error)),
        };
        let failure = failure.map(|error| format!("{error:#}"));
        let mode = column.mode.yaml();
        let lines = table::lines(story, mode, column.preset, report, failure.as_deref());
        *kept = told.ok().and_then(|(_, cluster)| cluster);
        lines
    }

    /// A cluster for a column, named after the first story that it is for.
    async fn fresh(&self, story: Story, column: Column) -> Result<Cluster> {
        let dir = self.dir.join(format!("{column}-{}", story.name()));
        let mut cluster = self.prepare(dir, column.mode, self.timing(column.preset), self.network)?;
        match stories::build(&mut cluster, &Timeline::new(false)).await {
            Ok(()) => Ok(cluster),
            Err(error) => {
                cluster.stop(STOP).await?;
                Err(error)
            }
        }
    }

    /// The story, and the cluster if it is as good as before. One that is not is stopped, and its directory stays.
    async fn row(
        &self,
        mut cluster: Cluster,
        story: Story,
        column: Column,
        rounds: usize,
    ) -> Result<(Told, Option<Cluster>)> {
        let title = format!("{}, {column}", story.name());
        let spinner = spinner(true, &title);
        let timeline = Timeline::new(false);
        let hold = Some(self.table_hold(column));
        let mut done = 0;
        let told = stories::tell(&mut cluster, &timeline, story, rounds, hold, |round: &Round| {
            done += 1;
            spinner.set_message(format!("{title}: {done} of {rounds}, {} ms", round.write_gap_ms));
        })
        .await;
        spinner.finish_and_clear();
        match told {
            Ok(told) if told.failure.is_none() && told.report.passed() => Ok((told, Some(cluster))),
            told => {
                let stopped = cluster.stop(STOP).await;
                let told = told?;
                stopped?;
                Ok((told, None))
            }
        }
    }

    /// A cluster at which nothing went wrong has nothing to tell.
    async fn dismiss(&self, mut cluster: Cluster) -> Result<()> {
        cluster.stop(STOP).await?;
        if self.args.dir.is_none() { remove(cluster.dir()) } else { Ok(()) }
    }

    async fn soak(&self) -> Result<bool> {
        let mut cluster = self.one(self.dir.to_owned(), self.network)?;
        let soaked = async {
            self.build(&mut cluster, &Timeline::new(self.pretty())).await?;
            let seed = self.seed();
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

    /// As given, or another one; said before anything else happens.
    fn seed(&self) -> u64 {
        let seed = self.args.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
        eprintln_line(&format!("seed {seed}"));
        seed
    }

    async fn chaos(&self) -> Result<bool> {
        let disks = Disturbance::Disk.obstacle();
        if let Some(why) = disks {
            eprintln_line(&format!("no slow disk: {why}"));
        }
        let seed = self.seed();
        let mut cluster = self.one(self.dir.to_owned(), self.network)?;
        let (nodes, links) = (cluster.nodes.len(), cluster.can_cut());
        let draw = Draw::new(seed, nodes, links, disks.is_none(), cluster.synchronous());
        let outcome = async {
            self.build(&mut cluster, &Timeline::new(false)).await?;
            let pretty = self.pretty();
            let each = |line: &chaos::Line| {
                if pretty {
                    println!("{line}");
                }
            };
            let until = Instant::now() + Duration::from_secs(60) * self.args.minutes;
            let (count, until) = match self.args.faults {
                Some(faults) => (usize::try_from(faults)?, None),
                None => (usize::MAX, Some(until)),
            };
            let plans = draw.take(count).take_while(|_| until.is_none_or(|until| Instant::now() < until));
            chaos::run(&mut cluster, &Timeline::new(false), plans, each).await
        }
        .await;
        cluster.stop(STOP).await?;
        let chaos = outcome.with_context(|| format!("seed {seed}"))?;
        match self.args.format {
            Format::Pretty => println!("{}", chaos.closing()),
            Format::Json => println!("{}", serde_json::to_string_pretty(&chaos)?),
        }
        Ok(chaos.passed())
    }

    async fn stalls(&self) -> Result<bool> {
        let mut lines = Vec::new();
        let machine = self.one(self.dir.join("machine"), self.network)?;
        let mut complete = self.stalled(&mut lines, machine, &Disturbance::OF_THE_MACHINE).await?;
        if self.network == Network::Namespaces {
            let slow = self.one(self.dir.join("network"), Network::Forwarded)?;
            complete &= self.stalled(&mut lines, slow, &Disturbance::of_the_network(false)).await?;
            let wan = self.prepare(self.dir.join("wan"), self.mode(), Timing::WAN, Network::Forwarded)?;
            complete &= self.stalled(&mut lines, wan, &Disturbance::of_the_network(true)).await?;
        } else {
            eprintln_line("no network of the drill's own: it is not slowed down");
        }
        match self.args.format {
            Format::Pretty => println!("{}", stalls::render(&lines)),
            Format::Json => println!("{}", serde_json::to_string_pretty(&lines)?),
        }
        Ok(complete && lines.iter().all(stalls::Line::passed))
    }

    /// One cluster, and one disturbance after the other. False: it did not come to the end, and the others go on.
    async fn stalled(
        &self,
        lines: &mut Vec<stalls::Line>,
        mut cluster: Cluster,
        disturbances: &[Disturbance],
    ) -> Result<bool> {
        let told = async {
            self.build(&mut cluster, &Timeline::new(false)).await?;
            let bench = Bench::filled(&cluster).await?;
            let long = Duration::from_secs(self.args.seconds);
            for &what in disturbances {
                if let Some(why) = what.obstacle() {
                    eprintln_line(&format!("{what}: skipped, {why}"));
                    continue;
                }
                let line = stalls::disturb(&mut cluster, &bench, what, long).await?;
                eprintln_line(&stalls::render(std::slice::from_ref(&line)));
                lines.push(line);
            }
            anyhow::Ok(())
        }
        .await;
        cluster.stop(STOP).await?;
        if let Err(error) = &told {
            eprintln_line(&format!("{error:#}"));
        }
        Ok(told.is_ok())
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

/// A verb of `quoratectl`, as an operator would run it.
fn ctl(cluster: &Cluster, verb: &[&str]) {
    let Ok(ctl) = cluster.ctl() else { return };
    let mut command = Command::new(ctl);
    command.args(["--endpoints", &cluster.endpoints(), "--scope", "demo"]).args(verb);
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
