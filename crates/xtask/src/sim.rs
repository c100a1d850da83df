//! `cargo xtask sim`: suites in their long form, from one command, with one table at the end.
//!
//! A dispatcher and no more: each suite has its own switches (variables, named in `tests/README.md`), prints its own
//! summary, and fails when it found something or when what it was to do did not happen. What they print for [`tally`]
//! becomes the table. The command fails when a suite did, or when one proves nothing.
//!
//! [`tally`]: crate::tally

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::packages;
use crate::run::{cargo, cargo_tallied};
use crate::tally::{Row, Tally, table};

/// What to run, and for how long.
#[derive(Debug, Args)]
pub(crate) struct Sim {
    /// Which suite.
    #[arg(long, value_enum, default_value_t = Suite::Robustness)]
    suite: Suite,
    /// How long, in minutes; `all` divides them. The run that is under way then is finished.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    /// Everything for an hour: `--suite all --minutes 60`.
    #[arg(long, conflicts_with_all = ["suite", "minutes", "seed"])]
    soak: bool,
    /// Where choices begin; drawn and printed if not given. Of `cluster` this one seed alone, with its trace.
    #[arg(long)]
    seed: Option<u64>,
    /// Of `cluster`: break its rules on purpose, one after the other, and see each noticed.
    #[arg(long, conflicts_with_all = ["minutes", "soak", "seed"])]
    mutations: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Suite {
    /// Three real processes, recorded histories, faults in turn, checkers.
    Robustness,
    /// The real store on a simulated network and disk, with crashes, pauses and changes of the membership; one process a
    /// seed, the same seed the same trace.
    Cluster,
    /// The HA agent's decisions against models of PostgreSQL and of the store.
    Ha,
    /// `kill -9`, power cuts, broken disks and rotten bytes under real processes; again and again.
    Crash,
    /// Three real nodes with PostgreSQL, and every kind of fault in turn; cuts only as root.
    Scenarios,
    /// One after the other, each for a fifth of the time.
    All,
}

/// Schedules of the HA simulation that fit into a minute, roughly.
const SCHEDULES_A_MINUTE: u64 = 10_000;
/// Kills, power cuts and rotten bytes in one run of the crash suite, which takes two minutes or so: above what its own checks
/// of coverage ask for.
const CRASHES: [(&str, &str); 3] =
    [("QUORATE_KILLS", "50"), ("QUORATE_POWER_CUTS", "15"), ("QUORATE_ROT", "60")];

/// Everything below the simulated cluster is built for it, beside the ordinary build.
const SIMULATED: (&str, &str) = ("RUSTFLAGS", "--cfg quorate_sim --cfg tokio_unstable");

/// The suite `cluster` with these arguments. Needs no package of the system's.
pub(crate) fn cluster(arguments: &[&str], tally: &mut Tally) -> Result<()> {
    let suite = ["test", "--target-dir", "target/sim", "--package", "quorate-cluster-sim", "--"];
    let environment = [(SIMULATED.0, SIMULATED.1.to_owned())];
    cargo_tallied(&[&suite[..], arguments].concat(), &environment, tally)
}

pub(crate) fn run(sim: &Sim) -> Result<()> {
    let (suite, minutes) = if sim.soak { (Suite::All, 60) } else { (sim.suite, sim.minutes) };
    match (suite, sim.mutations) {
        (Suite::Cluster, true) => return cluster(&["--mutations"], &mut Tally::default()),
        (_, true) => {
            bail!("--mutations is for --suite cluster; the others' mutations are tests of their own")
        }
        (_, false) => {}
    }
    if let (Suite::Cluster, Some(seed)) = (suite, sim.seed) {
        return cluster(&["--seed", &seed.to_string()], &mut Tally::default());
    }
    let suites = match suite {
        Suite::All => vec![Suite::Cluster, Suite::Ha, Suite::Crash, Suite::Robustness, Suite::Scenarios],
        one => vec![one],
    };
    let share = Duration::from_secs(minutes * 60) / u32::try_from(suites.len())?;
    let mut rows = Vec::new();
    for suite in suites {
        let (begun, mut tally) = (Instant::now(), Tally::default());
        // The others are run all the same: an hour that ends at its first minute has found one thing.
        let failure = suite.run(share, sim.seed, &mut tally).err().map(|error| format!("{error:#}"));
        rows.push(Row { suite: suite.name(), took: begun.elapsed(), tally, failure });
    }
    println!("\n{}", table(&rows));
    match rows.iter().find(|row| row.verdict() != "ok") {
        Some(row) => bail!("{} is {}", row.suite, row.verdict()),
        None => Ok(()),
    }
}

impl Suite {
    fn name(self) -> &'static str {
        match self {
            Suite::Robustness => "robustness",
            Suite::Cluster => "cluster",
            Suite::Ha => "ha",
            Suite::Crash => "crash",
            Suite::Scenarios => "scenarios",
            Suite::All => "all",
        }
    }

    fn run(self, share: Duration, seed: Option<u64>, tally: &mut Tally) -> Result<()> {
        match self {
            Suite::Robustness => robustness(share, seed, tally),
            Suite::Cluster => cluster(&["--seconds", &share.as_secs().to_string()], tally),
            Suite::Ha => ha(share, seed, tally),
            Suite::Crash => crash(share, seed, tally),
            Suite::Scenarios => scenarios(share, seed, tally),
            Suite::All => unreachable!("it was divided"),
        }
    }
}

fn ha(share: Duration, seed: Option<u64>, tally: &mut Tally) -> Result<()> {
    let schedules = seed.map_or((share.as_secs() * SCHEDULES_A_MINUTE).div_ceil(60), |_| 1);
    let mut environment = vec![("QUORATE_SCHEDULES", schedules.to_string())];
    environment.extend(seed.map(|seed| ("QUORATE_SEED", seed.to_string())));
    let suite = ["test", "--package", "quorate-ha", "--test", "ha", "no_schedule", "--", "--nocapture"];
    cargo_tallied(&suite, &environment, tally)
}

/// The suites start the real binary.
fn with_binary() -> Result<()> {
    packages::for_tests()?;
    cargo(&["build", "--package", "quorate"])
}

fn robustness(share: Duration, seed: Option<u64>, tally: &mut Tally) -> Result<()> {
    with_binary()?;
    let mut environment = vec![("QUORATE_ROBUSTNESS_SECONDS", share.as_secs().to_string())];
    environment.extend(seed.map(|seed| ("QUORATE_SEED", seed.to_string())));
    let suite = ["test", "--package", "quorate-tests", "--test", "robustness"];
    let form = ["a_story_of_faults", "--", "--nocapture"];
    cargo_tallied(&[&suite[..], &form[..]].concat(), &environment, tally)
}

/// The drill's chaos, at the times with the least room and in the mode that promises to lose nothing.
fn scenarios(share: Duration, seed: Option<u64>, tally: &mut Tally) -> Result<()> {
    with_binary()?;
    let minutes = share.as_secs().div_ceil(60).to_string();
    let seed = seed.map(|seed| seed.to_string());
    let drill = ["run", "--package", "quorate", "--bin", "quorate", "--", "drill", "chaos"];
    let form = ["--mode", "quorum", "--preset", "fast", "--minutes", &minutes];
    let seed: Vec<&str> = seed.iter().flat_map(|seed| ["--seed", seed]).collect();
    cargo_tallied(&[&drill[..], &form[..], &seed[..]].concat(), &[], tally)
}

/// A run after the other, each with the next seed, until the time is over.
fn crash(share: Duration, seed: Option<u64>, tally: &mut Tally) -> Result<()> {
    with_binary()?;
    let begun = Instant::now();
    // Without a seed each run draws one and prints it.
    let mut next = seed;
    while begun.elapsed() < share {
        let mut environment: Vec<(&str, String)> =
            CRASHES.iter().map(|(name, size)| (*name, (*size).to_owned())).collect();
        environment.extend(next.map(|seed| ("QUORATE_SEED", seed.to_string())));
        let suite = ["test", "--package", "quorate-tests", "--test", "crash", "--", "--nocapture"];
        cargo_tallied(&suite, &environment, tally)?;
        tally.add("runs", 1);
        next = next.map(|seed| seed.wrapping_add(1));
    }
    Ok(())
}
