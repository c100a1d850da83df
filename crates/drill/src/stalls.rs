//! Does the lease survive what the machine does to the primary? A minute each of a disk, a processor and a network that are slow.
//!
//! PostgreSQL and its keeper share a machine, and the lease is only worth something if PostgreSQL's trouble is not the
//! keeper's. Nobody may fail over, nobody may be fenced, and how near it came is what the table shows: every confirmed renewal of the
//! primary lease, and the least that was ever left of the lease.
//!
//! | disturbance | how |
//! |---|---|
//! | nothing | the same load, for comparison |
//! | disk | every `fsync` and `fdatasync` of the primary's PostgreSQL takes 5 s (strace), under `pgbench` and a checkpoint storm |
//! | processor | busy loops, four for each core, in the same places as everything else |
//! | network | what nodes send each other is held back by 20 to 500 ms, each way (`delay`) |
//!
//! A round trip longer than the store's `heartbeat_interval` (80 ms) is more than the defaults are made for: a heartbeat without an
//! answer by then counts as lost. Such a line shows what happens to somebody who has not said `dcs.network: wan` (it fails by lost
//! rows only); the lines of a cluster that has, with `preset: wan`, have to pass.
//!
//! # Reading renewals
//!
//! Every node's `/metrics` is asked every 100 ms: the histogram `quorate_lease_renewal_seconds` grows by a count and a sum, so the
//! one renewal between two looks has an exact duration. Where there were several, each is taken for as long as all of
//! them together: a value that is printed may be too large, and never too small.

use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use tokio::process::{Child, Command};

use crate::cluster::Cluster;
use crate::processes;
use crate::report::ms;
use crate::rest::{self, At};
use crate::soak::{Background, Bench, storm, timeline};
use crate::stage::SETTLE;
use crate::writer::{self, Writer};

/// Of each `fsync`.
const DISK: Duration = Duration::from_secs(5);
/// Busy loops for each core.
const LOOPS: usize = 4;
/// Each way, in milliseconds: for a cluster with the defaults,
const LOCAL: [u64; 2] = [20, 100];
/// and for one that is made for it.
const WAN: [u64; 3] = [100, 300, 500];
/// Round trips that a store with the defaults sits out: its `heartbeat_interval`.
const LOCAL_TRIP: Duration = Duration::from_millis(80);
/// The same with `network: wan`.
const WAN_TRIP: Duration = Duration::from_millis(1_500);
/// Between two looks at the metrics.
const LOOK: Duration = Duration::from_millis(100);
/// strace attaches to a process within milliseconds; a busy machine has many.
const ATTACHED: Duration = Duration::from_secs(30);

/// What is slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disturbance {
    /// Nothing but the load.
    Nothing,
    /// Every fsync of the primary's PostgreSQL.
    Disk,
    /// More that wants to run than there are cores.
    Processor,
    /// What nodes send each other.
    Network(Duration),
}

impl Disturbance {
    /// Those of a cluster without forwarders.
    pub const OF_THE_MACHINE: [Disturbance; 3] =
        [Disturbance::Nothing, Disturbance::Disk, Disturbance::Processor];

    /// Those of a cluster with forwarders.
    #[must_use]
    pub fn of_the_network(wan: bool) -> Vec<Disturbance> {
        let delays: &[u64] = if wan { &WAN } else { &LOCAL };
        delays.iter().map(|ms| Disturbance::Network(Duration::from_millis(*ms))).collect()
    }

    /// Whether a cluster has to sit it out.
    fn is_tolerated(self, wan: bool) -> bool {
        match self {
            Disturbance::Network(delay) => delay * 2 < if wan { WAN_TRIP } else { LOCAL_TRIP },
            Disturbance::Nothing | Disturbance::Disk | Disturbance::Processor => true,
        }
    }

    /// Why it cannot be had on this machine.
    #[must_use]
    pub fn obstacle(self) -> Option<&'static str> {
        let strace = || std::process::Command::new("strace").arg("-V").stdout(Stdio::null()).status();
        match self {
            Disturbance::Disk if strace().is_err() => Some("there is no `strace` (Debian: strace)"),
            Disturbance::Disk | Disturbance::Nothing | Disturbance::Processor | Disturbance::Network(_) => {
                None
            }
        }
    }
}

impl std::fmt::Display for Disturbance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Disturbance::Nothing => f.write_str("pgbench and checkpoints alone"),
            Disturbance::Disk => write!(f, "fsync of the primary takes {} s", DISK.as_secs()),
            Disturbance::Processor => write!(f, "{LOOPS} busy loops for each core"),
            Disturbance::Network(delay) => write!(f, "network {} ms slower, each way", delay.as_millis()),
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// In words.
    pub disturbance: String,
    /// For how long.
    pub seconds: u64,
    /// Whether nobody may fail over for it.
    pub tolerated: bool,
    /// Promotions.
    pub failovers: u32,
    /// Fences by agents and guards, of all nodes.
    pub fences: u64,
    /// Confirmed renewals.
    pub renewals: usize,
    /// Renewals without an answer in time.
    pub unconfirmed: u64,
    /// How long the confirmed ones took, in milliseconds: p50, p99, p99.9 and the longest; None without any.
    pub renewal_ms: Option<[f64; 4]>,
    /// The least that was left of the lease at any look, in milliseconds.
    pub lease_left_ms: Option<f64>,
    /// The longest pause of the client with one write every 20 ms.
    pub longest_pause_ms: u64,
    /// Acknowledged rows that are gone.
    pub lost: usize,
}

impl Line {
    /// Nothing lost, and neither failover nor fence where there should be none.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.lost == 0 && (!self.tolerated || self.failovers == 0 && self.fences == 0)
    }
}

/// Disturbs a running cluster for `long`, under load, and leaves it whole.
///
/// # Errors
/// When it cannot be disturbed, or is not whole afterwards.
pub(crate) async fn disturb(
    cluster: &mut Cluster,
    bench: &Bench,
    what: Disturbance,
    long: Duration,
) -> Result<Line> {
    let target = cluster.target();
    // The one before may have cost the primary its place.
    cluster.wait_until("primary", SETTLE, async |cluster| cluster.primary().await.is_some()).await?;
    cluster.wait_until("streaming standbys", SETTLE, async |cluster| cluster.whole().await).await?;
    let primary = cluster.primary().await.context("no primary before the disturbance")?;
    writer::clear(&target).await?;
    writer::prepare(&target).await?;
    let first = timeline(cluster).await?;
    let writer = Writer::begin(&target, cluster.client())?;
    let load = Background::run(bench.clone().run());
    let storm = Background::run(storm(target.clone()));
    let cause = Cause::begin(cluster, primary, what).await?;
    let looks = Looks::begin(cluster);
    let begun = Instant::now();
    // The disturbance itself.
    tokio::time::sleep(long).await;
    let seen = looks.end();
    let pause = writer.ledger().gap_after(begun).map(|(gap, _)| gap);
    // Without an acknowledgement in all that time there is no pause with an end.
    let pause = pause.unwrap_or(long).max(writer.last().map_or(long, |last| last.at.elapsed()));
    cause.end(cluster).await?;
    drop((load, storm));
    cluster.wait_until("streaming standbys", SETTLE, async |cluster| cluster.whole().await).await?;
    let lost = writer::verify(&target, &writer.stop().await).await?.lost.len();
    let failovers = timeline(cluster).await?.saturating_sub(first);
    let mut line = seen.line(what, long, failovers, pause, lost);
    let wan = cluster.timing().wan;
    line.tolerated = what.is_tolerated(wan);
    if wan {
        line.disturbance += "; wan";
    }
    Ok(line)
}

/// A running disturbance; ended with whatever it runs when it is dropped.
enum Cause {
    Nothing,
    Strace(Child),
    Loops(Vec<Child>),
    Network,
}

impl Cause {
    async fn begin(cluster: &Cluster, primary: usize, what: Disturbance) -> Result<Cause> {
        Ok(match what {
            Disturbance::Nothing => Cause::Nothing,
            Disturbance::Disk => Cause::Strace(slow_disk(cluster, primary).await?),
            Disturbance::Processor => Cause::Loops(busy_loops()?),
            Disturbance::Network(delay) => {
                cluster.delay(delay)?;
                Cause::Network
            }
        })
    }

    async fn end(self, cluster: &Cluster) -> Result<()> {
        match self {
            Cause::Nothing => Ok(()),
            // Killed, and waited for: what it traced runs on by itself.
            Cause::Strace(mut strace) => Ok(strace.kill().await?),
            Cause::Loops(loops) => {
                for mut each in loops {
                    each.kill().await?;
                }
                Ok(())
            }
            Cause::Network => cluster.delay(Duration::ZERO),
        }
    }
}

/// `strace` on every process of a node's PostgreSQL, and on all that it starts from now on.
pub(crate) async fn slow_disk(cluster: &Cluster, node: usize) -> Result<Child> {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e"]);
    command.arg(format!("inject=fsync,fdatasync:delay_enter={}", DISK.as_micros()));
    let all = processes::inside(&cluster.nodes[node].data_dir());
    for pid in &all {
        command.args(["-p", &pid.as_raw_nonzero().to_string()]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let mut strace = command.spawn().context("cannot run strace")?;
    let until = Instant::now() + ATTACHED;
    // One that has ended since needs no tracer.
    while all.iter().any(|pid| processes::tracer(*pid) == Some(0)) {
        if let Some(status) = strace.try_wait()? {
            bail!("strace cannot attach to PostgreSQL ({status})");
        }
        if Instant::now() > until {
            bail!("strace does not attach to PostgreSQL");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(strace)
}

fn busy_loops() -> Result<Vec<Child>> {
    let cores = std::thread::available_parallelism()?.get();
    (0..cores * LOOPS)
        .map(|_| {
            let mut command = Command::new("sh");
            command.args(["-c", "while :; do :; done"]).stdin(Stdio::null()).kill_on_drop(true);
            command.spawn().context("cannot run sh")
        })
        .collect()
}

/// What a node's metrics say at one look.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Look {
    renewals: u64,
    renewal_s: f64,
    unconfirmed: u64,
    fences: u64,
    lease_left_s: f64,
}

impl Look {
    fn parse(text: &str) -> Option<Look> {
        let value = |metric: &str| {
            let line = text.lines().find(|line| {
                line.strip_prefix(metric).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
            })?;
            line.rsplit_once(' ')?.1.parse::<f64>().ok()
        };
        let count = |metric| value(metric).map(|value| value as u64);
        Some(Look {
            renewals: count("quorate_lease_renewal_seconds_count")?,
            renewal_s: value("quorate_lease_renewal_seconds_sum")?,
            unconfirmed: count("quorate_lease_renewal_failures_total")?,
            fences: count("quorate_fences_total")? + count("quorate_guard_kills_total")?,
            lease_left_s: value("quorate_lease_remaining_seconds")?,
        })
    }
}

/// What all looks together say.
#[derive(Debug, Clone, Default)]
struct Seen {
    renewals: Vec<Duration>,
    unconfirmed: u64,
    fences: u64,
    /// Of whoever has a lease.
    lease_left: Option<Duration>,
}

impl Seen {
    /// One look at a node after the one before.
    fn add(&mut self, before: &Look, now: &Look) {
        // A process that was started again begins anew.
        let renewals = now.renewals.saturating_sub(before.renewals);
        let took = Duration::try_from_secs_f64(now.renewal_s - before.renewal_s).unwrap_or_default();
        self.renewals.extend((0..renewals).map(|_| took));
        self.unconfirmed += now.unconfirmed.saturating_sub(before.unconfirmed);
        self.fences += now.fences.saturating_sub(before.fences);
        let held = before.lease_left_s > 0.0 || now.lease_left_s > 0.0;
        if let Ok(left) = Duration::try_from_secs_f64(now.lease_left_s)
            && held
        {
            self.lease_left = Some(self.lease_left.map_or(left, |least| least.min(left)));
        }
    }

    fn line(
        mut self,
        what: Disturbance,
        long: Duration,
        failovers: u32,
        pause: Duration,
        lost: usize,
    ) -> Line {
        self.renewals.sort_unstable();
        let quantile = |of_1000: usize| {
            let rank = (self.renewals.len() * of_1000).div_ceil(1000).max(1);
            self.renewals.get(rank - 1).map(|took| took.as_secs_f64() * 1000.0)
        };
        let renewal_ms = || Some([quantile(500)?, quantile(990)?, quantile(999)?, quantile(1000)?]);
        Line {
            disturbance: what.to_string(),
            seconds: long.as_secs(),
            tolerated: true,
            failovers,
            fences: self.fences,
            renewals: self.renewals.len(),
            unconfirmed: self.unconfirmed,
            renewal_ms: renewal_ms(),
            lease_left_ms: self.lease_left.map(|left| left.as_secs_f64() * 1000.0),
            longest_pause_ms: ms(pause),
            lost,
        }
    }
}

/// The running looks at every node.
struct Looks {
    seen: Arc<Mutex<Seen>>,
    _tasks: Vec<Background>,
}

impl Looks {
    fn begin(cluster: &Cluster) -> Looks {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let tasks =
            cluster.nodes.iter().map(|node| Background::run(look(node.rest(), seen.clone()))).collect();
        Looks { seen, _tasks: tasks }
    }

    fn end(self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn look(at: At, seen: Arc<Mutex<Seen>>) {
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut before: Option<Look> = None;
    loop {
        tick.tick().await;
        // One that does not answer now is asked again: what it counts is not lost.
        let Ok((200, text)) = rest::text(at.clone(), "/metrics", Duration::from_secs(5)).await else {
            continue;
        };
        let Some(now) = Look::parse(&text) else { continue };
        if let Some(before) = before {
            seen.lock().unwrap_or_else(PoisonError::into_inner).add(&before, &now);
        }
        before = Some(now);
    }
}

/// The table, as Markdown.
#[must_use]
pub fn render(lines: &[Line]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header([
        "disturbance",
        "s",
        "failovers",
        "fences",
        "renewals",
        "unconfirmed",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "max ms",
        "lease left, least ms",
        "write pause, longest ms",
        "lost",
    ]);
    for line in lines {
        let renewal = |which: usize| {
            line.renewal_ms.map_or_else(|| "-".to_owned(), |quantiles| format!("{:.1}", quantiles[which]))
        };
        table.add_row([
            line.disturbance.clone(),
            line.seconds.to_string(),
            line.failovers.to_string(),
            line.fences.to_string(),
            line.renewals.to_string(),
            line.unconfirmed.to_string(),
            renewal(0),
            renewal(1),
            renewal(2),
            renewal(3),
            line.lease_left_ms.map_or_else(|| "-".to_owned(), |left| format!("{left:.0}")),
            line.longest_pause_ms.to_string(),
            line.lost.to_string(),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(count: u64, sum_s: f64, left_s: f64) -> String {
        let labels = "{scope=\"demo\",name=\"node1\"}";
        format!(
            "# TYPE quorate_lease_renewal_seconds histogram\n\
             quorate_lease_renewal_seconds_bucket{{scope=\"demo\",name=\"node1\",le=\"+Inf\"}} {count}\n\
             quorate_lease_renewal_seconds_sum{labels} {sum_s}\nquorate_lease_renewal_seconds_count{labels} {count}\n\
             quorate_lease_renewal_failures_total{labels} 1\nquorate_fences_total{labels} 2\n\
             quorate_guard_kills_total{labels} 1\nquorate_lease_remaining_seconds{labels} {left_s}\n"
        )
    }

    #[test]
    fn one_renewal_between_two_looks_is_exact_and_several_are_never_too_short() {
        let look = |count, sum, left| Look::parse(&metrics(count, sum, left)).unwrap();
        let looks = [look(10, 1.0, 4.0), look(11, 1.002, 3.1), look(11, 1.002, 3.0), look(13, 1.009, 4.5)];
        assert_eq!((looks[0].fences, looks[0].unconfirmed), (3, 1), "of agent and guard");
        let mut seen = Seen::default();
        for pair in looks.windows(2) {
            seen.add(&pair[0], &pair[1]);
        }
        let line = seen.line(Disturbance::Nothing, Duration::from_secs(1), 0, Duration::ZERO, 0);
        assert_eq!((line.renewals, line.fences, line.lease_left_ms), (3, 0, Some(3000.0)));
        let rounded = line.renewal_ms.map(|quantiles| quantiles.map(f64::round));
        assert_eq!(rounded, Some([7.0, 7.0, 7.0, 7.0]));
        assert!(line.passed() && render(&[line]).contains("| pgbench and checkpoints alone |"));
    }

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let renewals = (1..=1000).map(Duration::from_millis).collect();
        let seen = Seen { renewals, ..Seen::default() };
        let line = seen.line(Disturbance::Disk, Duration::from_secs(60), 1, Duration::ZERO, 0);
        assert_eq!(line.renewal_ms, Some([500.0, 990.0, 999.0, 1000.0]));
        assert!(!line.passed(), "somebody was promoted");
        assert!(Line { tolerated: false, ..line.clone() }.passed(), "which had to be expected");
        assert!(!Line { tolerated: false, lost: 1, ..line }.passed());
        let tolerated = |(ms, wan)| Disturbance::Network(Duration::from_millis(ms)).is_tolerated(wan);
        let delays = [(39, false), (40, false), (500, true), (750, true)];
        assert_eq!(delays.map(tolerated), [true, false, true, false], "a round trip is two delays");
    }

    #[test]
    fn a_lease_that_is_gone_has_nothing_left_and_one_that_never_was_says_nothing() {
        let look = |left| Look { lease_left_s: left, ..Look::default() };
        let mut seen = Seen::default();
        seen.add(&look(0.0), &look(0.0));
        assert_eq!(seen.lease_left, None);
        seen.add(&look(2.0), &look(0.0));
        assert_eq!(seen.lease_left, Some(Duration::ZERO));
    }
}
