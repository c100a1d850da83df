//! `cargo xtask sim`: a suite in its long form, from one command.
//!
//! A dispatcher and no more: each suite has its own switches (variables, named in `tests/README.md`), prints its own
//! summary, and fails when it found something or when what it was to do did not happen. The exit code is the suite's.

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::packages;
use crate::run::{cargo, cargo_with};

/// What to run, and for how long.
#[derive(Debug, Args)]
pub(crate) struct Sim {
    /// Which suite.
    #[arg(long, value_enum, default_value_t = Suite::Robustness)]
    suite: Suite,
    /// How long, in minutes. The run that is under way then is finished.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    /// Where choices begin; drawn and printed if not given.
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Suite {
    /// Three real processes, recorded histories, faults in turn, checkers.
    Robustness,
    /// The real store on a simulated network, with crashes and torn writes; one process a seed, the same seed the same trace.
    Cluster,
    /// The HA agent's decisions against models of PostgreSQL and of the store.
    Ha,
}

/// Schedules of the HA simulation that fit into a minute, roughly.
const SCHEDULES_A_MINUTE: u64 = 10_000;

/// Everything below the simulated cluster is built for it, beside the ordinary build.
const SIMULATED: (&str, &str) = ("RUSTFLAGS", "--cfg quorate_sim --cfg tokio_unstable");

/// The suite `cluster` with these arguments. Needs no package of the system's.
pub(crate) fn cluster(arguments: &[&str]) -> Result<()> {
    let suite = ["test", "--target-dir", "target/sim", "--package", "quorate-cluster-sim", "--"];
    let environment = [(SIMULATED.0, SIMULATED.1.to_owned())];
    cargo_with(&[&suite[..], arguments].concat(), &environment)
}

pub(crate) fn run(sim: &Sim) -> Result<()> {
    let (seed, minutes) = (sim.seed.map(|seed| seed.to_string()), sim.minutes.to_string());
    match sim.suite {
        Suite::Robustness => robustness(sim),
        Suite::Cluster => match &seed {
            Some(seed) => cluster(&["--seed", seed]),
            None => cluster(&["--minutes", &minutes]),
        },
        Suite::Ha => {
            let schedules = (sim.minutes * SCHEDULES_A_MINUTE).to_string();
            let mut environment = vec![("QUORATE_SCHEDULES", schedules)];
            environment.extend(seed.map(|seed| ("QUORATE_SEED", seed)));
            let suite =
                ["test", "--package", "quorate-ha", "--test", "ha", "no_schedule", "--", "--nocapture"];
            cargo_with(&suite, &environment)
        }
    }
}

fn robustness(sim: &Sim) -> Result<()> {
    packages::for_tests()?;
    // The suites start the real binary.
    cargo(&["build", "--package", "quorate"])?;
    let mut environment = Vec::new();
    if let Some(seed) = sim.seed {
        environment.push(("QUORATE_SEED", seed.to_string()));
    }
    environment.push(("QUORATE_ROBUSTNESS_SECONDS", (sim.minutes * 60).to_string()));
    let suite = ["test", "--package", "quorate-tests", "--test", "robustness"];
    let form = ["a_story_of_faults", "--", "--nocapture"];
    cargo_with(&[&suite[..], &form[..]].concat(), &environment)
}
