//! Chaos: one cluster, and one fault after the other, whatever the seed draws, with the ledger compared after each.
//!
//! The stories each ask one question of a cluster that is otherwise well. Here faults of every kind (`plan`) follow one
//! another on a cluster that carries the marks of all that came before: timelines, slots, rewound directories, primaries anywhere,
//! and two nodes may be struck at once. A fault lasts between half a lease and three. Clients write all the while, one outside and
//! one beside every node, and when everything is repaired there must be, within [`SETTLE`] (L1, L2):
//!
//! - a primary, everybody else streaming from it, and acknowledged writes;
//! - every row in its place that was acknowledged since the fault before, in the synchronous modes (S3);
//! - no two servers that ever acknowledged at the same time, on whatever side (S1, S2), and the margin between them;
//! - one PostgreSQL that takes writes, and no more.
//!
//! The first violation ends the run, with the logs as they are then. A run in which nobody failed over has shown nothing and
//! is invalid. Clocks that jump are missing here: a machine has one wall clock, and it is everybody's
//! (the simulation of `ha` has them).
//!
//! [`SETTLE`]: crate::stage::SETTLE

pub mod plan;
mod strike;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;

use self::plan::{Kind, Plan};
use self::strike::Strikes;
use crate::cluster::Cluster;
use crate::observer::{Timeline, observe};
use crate::report::{Report, Round};
use crate::stage::{SETTLE, Stage};
use crate::writer;

/// What the time from the repair until every node streams is called among a round's figures.
const WHOLE_AGAIN: &str = "whole again";

/// A fault that was survived, or not.
#[derive(Debug, Clone)]
pub struct Line {
    /// From 1.
    pub number: usize,
    /// What clients saw of it.
    pub round: Round,
    /// How a switchover was answered, if one was asked for.
    pub switchover: Option<String>,
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Line { number, round, switchover } = self;
        let Round { fault, from, to, timeline, write_gap_ms, margin_ms, lost, .. } = round;
        write!(f, "{number:>4}  {fault}\n      {from} -> {to}")?;
        if let Some(timeline) = timeline {
            write!(f, ", timeline {timeline}")?;
        }
        write!(f, ", write gap {write_gap_ms} ms")?;
        if let Some(margin) = margin_ms {
            write!(f, ", margin {margin:+.0} ms")?;
        }
        if let Some(whole) = round.find(WHOLE_AGAIN) {
            write!(f, ", whole again after {:.1} s", whole / 1000.0)?;
        }
        write!(f, ", lost {lost}")?;
        match switchover {
            Some(answer) => write!(f, "; {answer}"),
            None => Ok(()),
        }
    }
}

/// A whole run.
#[derive(Debug, Clone, Serialize)]
pub struct Chaos {
    /// How often which kind happened.
    pub faults: BTreeMap<&'static str, usize>,
    /// Faults after which somebody else was primary, without being asked.
    pub failovers: usize,
    /// The same, when nothing else had happened than that it was asked for.
    pub switchovers: usize,
    /// What clients saw, and what was violated.
    pub report: Report,
}

impl Chaos {
    /// Somebody failed over, and nothing was violated.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.failovers > 0 && self.report.passed()
    }

    /// The closing lines; those that begin with `tally:` are for `cargo xtask sim`.
    #[must_use]
    pub fn closing(&self) -> String {
        let Chaos { faults, failovers, switchovers, report } = self;
        let (rounds, verdict) = (&report.rounds, &report.verdict);
        let margin = rounds.iter().filter_map(|round| round.margin_ms).min_by(f64::total_cmp);
        let longest = rounds.iter().filter_map(|round| round.find(WHOLE_AGAIN)).max_by(f64::total_cmp);
        let mut text = format!(
            "{} faults, {failovers} failovers, {switchovers} switchovers, acknowledged {}, lost {}, unknown {} ({} of them \
             present)\n",
            rounds.len(),
            verdict.acknowledged,
            verdict.lost.len(),
            verdict.unknown_present + verdict.unknown_absent,
            verdict.unknown_present
        );
        if let (Some(margin), Some(longest)) = (margin, longest) {
            let _ =
                writeln!(text, "smallest margin {margin:+.0} ms, longest way back {:.1} s", longest / 1000.0);
        }
        let lost_until = rounds.iter().filter_map(|round| round.lost_until_ms).max_by(f64::total_cmp);
        if let Some(youngest) = lost_until.filter(|_| !report.synchronous) {
            let _ = writeln!(
                text,
                "the youngest lost row was acknowledged {youngest:+.0} ms after its fault; the bound is the lease, {:.0} ms",
                report.ttl_s * 1000.0
            );
        }
        for violation in report.violations.iter().cloned().chain(report.contradiction()) {
            let _ = writeln!(text, "VIOLATED: {violation}");
        }
        if *failovers == 0 {
            text.push_str("INVALID: nobody failed over\n");
        }
        text.push_str("tally: runs 1\n");
        for (kind, count) in faults {
            let _ = writeln!(text, "tally: fault {kind} {count}");
        }
        let _ = writeln!(text, "tally: reached failovers {failovers}");
        let _ = writeln!(text, "tally: reached switchovers {switchovers}");
        let _ = writeln!(text, "tally: reached acknowledged rows {}", verdict.acknowledged);
        text
    }
}

/// Carries out `plans` one after the other on a cluster at rest, until the first violation; `each` is called after every fault.
///
/// # Errors
/// When the cluster does not come back after a fault, with everything that was seen since, or cannot be read.
pub async fn run(
    cluster: &mut Cluster,
    timeline: &Timeline,
    plans: impl IntoIterator<Item = Plan>,
    mut each: impl FnMut(&Line),
) -> Result<Chaos> {
    let _observer = observe(cluster, timeline);
    writer::clear(&cluster.target()).await?;
    let hold = cluster.ttl();
    let mut stage = Stage::new(cluster, timeline, hold);
    let mut faults: BTreeMap<&'static str, usize> = BTreeMap::new();
    let (mut failovers, mut switchovers) = (0, 0);
    for (plan, number) in plans.into_iter().zip(1..) {
        let before = timeline.lines().len();
        let since = || {
            let lines = timeline.lines();
            lines[before..].iter().map(|line| format!("\n{line}")).collect::<String>()
        };
        let line = match suffer(&mut stage, &plan, number).await {
            Ok(line) => line,
            Err(error) => return Err(error.context(format!("fault {number}, {plan:?}:{}", since()))),
        };
        for strike in &plan.strikes {
            *faults.entry(strike.kind.name()).or_default() += 1;
        }
        if line.round.from != line.round.to {
            let asked = plan.strikes.iter().all(|strike| strike.kind == Kind::Switchover);
            *(if asked { &mut switchovers } else { &mut failovers }) += 1;
        }
        each(&line);
        stage.done(line.round);
        if !stage.is_unharmed() {
            stage.violated(format!("fault {number}, {plan:?}:{}", since()));
            break;
        }
    }
    let report = stage.report("chaos".to_owned()).await?;
    Ok(Chaos { faults, failovers, switchovers, report })
}

async fn suffer(stage: &mut Stage<'_>, plan: &Plan, number: usize) -> Result<Line> {
    stage.cluster.wait_until("primary", SETTLE, async |cluster| cluster.primary().await.is_some()).await?;
    let primary = stage.primary().await?;
    let nodes = stage.cluster.nodes.len();
    let probes = stage.probes(&(0..nodes).collect::<Vec<_>>()).await?;
    let strikes = Strikes::of(plan, primary, nodes);
    let long = stage.hold.mul_f64(plan.leases);
    let told = format!("{} for {:.1} s", strikes.told(stage.cluster, primary), long.as_secs_f64());
    let mut fault = stage.fault(told, primary);
    let ongoing = strikes.begin(stage.cluster).await.context("the fault cannot be made")?;
    fault.cuts.extend(ongoing.cuts.iter().map(|cut| (*cut, None)));
    stage.held(fault.at, long).await?;
    stage.healed(&mut fault, "", "everything is repaired");
    let repaired = Instant::now();
    let switchover = ongoing.end(stage.cluster).await?;
    stage.whole().await?;
    let whole = repaired.elapsed();
    let mut round = stage.close(probes, fault).await?;
    round.time(WHOLE_AGAIN, whole);
    Ok(Line { number, round, switchover })
}
