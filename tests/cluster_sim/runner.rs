//! Seeds in processes of their own, and what they came to together.
#![allow(clippy::print_stdout, reason = "a test binary of its own says how it went")]

use std::collections::BTreeMap;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use parking_lot::Mutex;
use quorate_consensus::sim::{Rule, break_rule};
use serde_json::{Value, json};

use crate::mutations;
use crate::world::{self, Report};

/// One seed takes ten seconds or so of a processor: whoever takes this long goes round in a circle in which no simulated time
/// passes. A busy machine is no reason.
const LONGEST: Duration = Duration::from_secs(120);
/// Whoever takes this long, however little of a processor, waits for something that does not come.
const STUCK: Duration = Duration::from_secs(1800);

/// What has to be done to the members, in so many seeds at least once,
const FAULTS: &[(&str, usize)] = &[
    ("kill", 1),
    ("power cut", 10),
    ("link cut", 10),
    ("link cut one way", 10),
    ("member alone", 10),
    ("messages held back", 10),
    ("member stands still", 10),
    ("clock of another rate", 10),
    ("to be added", 10),
    ("to be removed", 10),
    ("disk lost", 50),
    ("flipped bits", 50),
    ("ENOSPC", 50),
    ("EIO of a write", 50),
    ("EIO of a sync", 50),
    ("power cut in a write", 50),
];
/// and what they have to come to.
const REACHED: &[(&str, usize)] = &[
    ("leaders", 1),
    ("compactions", 1),
    ("leases", 1),
    ("snapshots installed", 10),
    ("torn writes cut", 10),
    ("members added", 10),
    ("members removed", 10),
    ("votes given", 10),
    ("removed members ended", 10),
    ("removals in peace", 50),
    ("disks replaced", 50),
    ("broken disks noticed", 50),
    ("rotten disks refused", 50),
    ("stalls noticed", 50),
];

/// The replicated store under simulated faults.
#[derive(Debug, Parser)]
struct Cli {
    /// Run this one alone and print its trace.
    #[arg(long)]
    seed: Option<u64>,
    /// How many.
    #[arg(long, default_value_t = 40)]
    seeds: u64,
    /// Instead: as many as begin within so many seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Side by side.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Run so many of them twice: the same seed gives the same trace.
    #[arg(long, default_value_t = 2)]
    twice: u64,
    /// Instead: break so many rules, one after the other, and see each noticed; all of them, if not given.
    #[arg(long, value_name = "HOW MANY", num_args = 0..=1, default_missing_value = "1000")]
    mutations: Option<usize>,
    /// One seed, for the process that gathers.
    #[arg(long, hide = true)]
    child: Option<u64>,
    /// In a run of one seed, this rule of [`Rule`] is broken.
    #[arg(long = "break", value_name = "RULE", value_parser = rule)]
    broken: Option<Rule>,
    /// Passed by `cargo test`, without a meaning here.
    #[arg(long, hide = true)]
    nocapture: bool,
}

fn rule(name: &str) -> Result<Rule, String> {
    Rule::named(name).ok_or_else(|| format!("one of {:?}", Rule::ALL))
}

pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(rule) = cli.broken {
        break_rule(rule);
    }
    if let Some(seed) = cli.child.or(cli.seed) {
        std::thread::spawn(move || {
            let began = Instant::now();
            let worked = || rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
            while worked().tv_sec.unsigned_abs() < LONGEST.as_secs() && began.elapsed() < STUCK {
                std::thread::sleep(Duration::from_secs(1));
            }
            let what = format!("it hangs: {:?} and no end", began.elapsed());
            println!("{}", json!({"seed": seed, "violations": [what]}));
            std::process::exit(1);
        });
        let report = quorate_consensus::sim::seeded(seed, || world::run(seed, cli.seed.is_some()));
        println!("{}", as_json(seed, &report));
        return if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let outcome = match cli.mutations {
        Some(rules) => mutations::are_noticed(rules, cli.jobs),
        None => gather(&cli),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("cluster_sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn as_json(seed: u64, report: &Report) -> Value {
    let (hash, notes) = report.trace;
    json!({
        "seed": seed,
        "members": report.members,
        "simulated_ms": u64::try_from(report.simulated.as_millis()).unwrap_or(u64::MAX),
        "writes": report.writes,
        "acknowledged": report.acknowledged,
        "reads": report.reads,
        "lies": report.lies,
        "seen": report.seen,
        "faults": report.faults,
        "trace": format!("{hash:08x}/{notes}"),
        "violations": report.violations,
    })
}

/// Runs one seed in a process of its own, which breaks a rule if it is given one.
pub(crate) fn child(seed: u64, broken: Option<Rule>) -> Result<Value> {
    let program = std::env::current_exe().context("this program has a path")?;
    let output = Command::new(program)
        .args(["--child", &seed.to_string()])
        .args(broken.map(|rule| format!("--break={rule:?}")))
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .context("starting a process for a seed")?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().last().and_then(|line| serde_json::from_str(line).ok()) {
        Some(report) => Ok(report),
        None => {
            let said = String::from_utf8_lossy(&output.stderr);
            // Of a panic the place and the sentence.
            let place = said.lines().position(|line| line.contains("panicked at"));
            let said = said.lines().skip(place.unwrap_or(0)).take(place.map_or(usize::MAX, |_| 2));
            let said = said.collect::<Vec<_>>().join(" ");
            Ok(json!({"seed": seed, "violations": [format!("it broke off: {}", said.trim())]}))
        }
    }
}

/// True when nothing was violated and everything that has to happen did.
fn gather(cli: &Cli) -> Result<bool> {
    if cli.seeds == 0 {
        bail!("--seeds 0: there is nothing to run");
    }
    let began = Instant::now();
    let next = AtomicU64::new(cli.first);
    let end = cli.seconds.map_or(cli.first + cli.seeds, |_| u64::MAX);
    let until = cli.seconds.map(|seconds| began + Duration::from_secs(seconds));
    let reports: Mutex<Vec<Value>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..cli.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || until.is_some_and(|until| Instant::now() >= until) {
                        return;
                    }
                    let report = child(seed, None)
                        .unwrap_or_else(|error| json!({"seed": seed, "violations": [error.to_string()]}));
                    let mut reports = reports.lock();
                    reports.push(report);
                    if reports.len().is_multiple_of(100) {
                        println!("cluster_sim: {} seeds", reports.len());
                    }
                }
            });
        }
    });
    let mut reports = reports.into_inner();
    reports.sort_by_key(|report| report["seed"].as_u64());
    let mut sound = true;
    for report in &reports {
        for violation in report["violations"].as_array().into_iter().flatten() {
            println!("seed {}: {}", report["seed"], violation.as_str().unwrap_or_default());
            sound = false;
        }
    }
    for report in reports.iter().take(usize::try_from(cli.twice)?) {
        let seed = report["seed"].as_u64().unwrap_or_default();
        let again = child(seed, None)?;
        if again["trace"] != report["trace"] {
            println!("seed {seed}: NOT THE SAME TRACE: {} and {}", report["trace"], again["trace"]);
            sound = false;
        }
    }
    let sum = |name: &str| reports.iter().filter_map(|report| report[name].as_u64()).sum::<u64>();
    let sums = |of: &str| {
        let mut sums: BTreeMap<String, u64> = BTreeMap::new();
        for report in &reports {
            for (what, count) in report[of].as_object().into_iter().flatten() {
                *sums.entry(what.clone()).or_default() += count.as_u64().unwrap_or_default();
            }
        }
        sums
    };
    let (faults, seen) = (sums("faults"), sums("seen"));
    let line = |sums: &BTreeMap<String, u64>| {
        sums.iter().map(|(what, count)| format!("{what} {count}")).collect::<Vec<_>>().join(", ")
    };
    println!(
        "cluster_sim: {} seeds, {:.2} simulated hours in {:.0} s; {} writes, {} acknowledged, {} reads; {} lies noticed",
        reports.len(),
        sum("simulated_ms") as f64 / 3_600_000.0,
        began.elapsed().as_secs_f64(),
        sum("writes"),
        sum("acknowledged"),
        sum("reads"),
        sum("lies"),
    );
    println!("cluster_sim: faults: {}", line(&faults));
    println!("cluster_sim: reached: {}", line(&seen));
    // For `cargo xtask sim`.
    println!("tally: runs {}\ntally: simulated_s {}", reports.len(), sum("simulated_ms") / 1000);
    for (kind, sums) in [("fault", &faults), ("reached", &seen)] {
        sums.iter().for_each(|(what, count)| println!("tally: {kind} {what} {count}"));
    }
    // A run in which nothing went wrong proves nothing.
    let counted = ["acknowledged", "reads", "lies"].map(|name| (name, sum(name)));
    let counted = counted.iter().filter(|(_, count)| *count == 0).map(|(name, _)| *name);
    let lacking = |needed: &'static [(&'static str, usize)], sums: &BTreeMap<String, u64>| {
        let due = needed.iter().filter(|(_, seeds)| reports.len() >= *seeds);
        let lacking = due.filter(|(name, _)| sums.get(*name).is_none_or(|count| *count == 0));
        lacking.map(|(name, _)| *name).collect::<Vec<_>>()
    };
    let missing = counted.chain(lacking(FAULTS, &faults)).chain(lacking(REACHED, &seen));
    for needed in missing {
        println!("cluster_sim: INVALID: no {needed} in any seed");
        sound = false;
    }
    let failed = reports
        .iter()
        .filter(|report| report["violations"].as_array().is_none_or(|violations| !violations.is_empty()))
        .count();
    println!("\n{} passed, {} failed", reports.len() - failed, failed + usize::from(failed == 0 && !sound));
    Ok(sound)
}
