//! Seeds in processes of their own, and what they came to together.
#![allow(clippy::print_stdout, reason = "a test binary of its own says how it went")]

use std::collections::BTreeMap;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::world::{self, Report};

/// The replicated store under simulated faults.
#[derive(Debug, Parser)]
struct Cli {
    /// Run this one alone and print its trace.
    #[arg(long)]
    seed: Option<u64>,
    /// How many.
    #[arg(long, default_value_t = 40)]
    seeds: u64,
    /// Instead: as many as begin within so many minutes.
    #[arg(long)]
    minutes: Option<u64>,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Side by side.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Run so many of them twice: the same seed gives the same trace.
    #[arg(long, default_value_t = 2)]
    twice: u64,
    /// One seed, for the process that gathers.
    #[arg(long, hide = true)]
    child: Option<u64>,
    /// Passed by `cargo test`, without a meaning here.
    #[arg(long, hide = true)]
    nocapture: bool,
}

pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(seed) = cli.child.or(cli.seed) {
        let report = quorate_consensus::sim::seeded(seed, || world::run(seed, cli.seed.is_some()));
        println!("{}", as_json(seed, &report));
        return if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    match gather(&cli) {
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
        "leaders": report.seen.leaders,
        "installed": report.seen.installed,
        "faults": report.faults,
        "trace": format!("{hash:08x}/{notes}"),
        "violations": report.violations,
    })
}

/// Runs one seed in a process of its own.
fn child(seed: u64) -> Result<Value> {
    let program = std::env::current_exe().context("this program has a path")?;
    let output = Command::new(program)
        .args(["--child", &seed.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .context("starting a process for a seed")?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().last().and_then(|line| serde_json::from_str(line).ok()) {
        Some(report) => Ok(report),
        None => {
            let said = String::from_utf8_lossy(&output.stderr);
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
    let end = cli.minutes.map_or(cli.first + cli.seeds, |_| u64::MAX);
    let until = cli.minutes.map(|minutes| began + std::time::Duration::from_secs(minutes * 60));
    let reports: Mutex<Vec<Value>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..cli.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || until.is_some_and(|until| Instant::now() >= until) {
                        return;
                    }
                    let report = child(seed)
                        .unwrap_or_else(|error| json!({"seed": seed, "violations": [error.to_string()]}));
                    let mut reports = reports.lock();
                    reports.push(report);
                    if reports.len() % 100 == 0 {
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
        let again = child(seed)?;
        if again["trace"] != report["trace"] {
            println!("seed {seed}: NOT THE SAME TRACE: {} and {}", report["trace"], again["trace"]);
            sound = false;
        }
    }
    let sum = |name: &str| reports.iter().filter_map(|report| report[name].as_u64()).sum::<u64>();
    let mut faults: BTreeMap<String, u64> = BTreeMap::new();
    for report in &reports {
        for (fault, count) in report["faults"].as_object().into_iter().flatten() {
            *faults.entry(fault.clone()).or_default() += count.as_u64().unwrap_or_default();
        }
    }
    println!(
        "cluster_sim: {} seeds, {:.2} simulated hours in {:.0} s; {} writes, {} acknowledged, {} reads; {} changes of the leader, {} snapshots installed; {} lies noticed",
        reports.len(),
        sum("simulated_ms") as f64 / 3_600_000.0,
        began.elapsed().as_secs_f64(),
        sum("writes"),
        sum("acknowledged"),
        sum("reads"),
        sum("leaders"),
        sum("installed"),
        sum("lies"),
    );
    let faults: Vec<String> = faults.into_iter().map(|(fault, count)| format!("{fault} {count}")).collect();
    println!("cluster_sim: faults: {}", faults.join(", "));
    // A run in which nothing went wrong proves nothing.
    for needed in ["leaders", "installed", "acknowledged", "reads", "lies"] {
        if sum(needed) == 0 {
            println!("cluster_sim: INVALID: no {needed} in any seed");
            sound = false;
        }
    }
    let failed = reports
        .iter()
        .filter(|report| report["violations"].as_array().is_none_or(|violations| !violations.is_empty()))
        .count();
    println!("\n{} passed, {} failed", reports.len() - failed, failed + usize::from(failed == 0 && !sound));
    Ok(sound)
}
