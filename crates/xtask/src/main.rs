//! `cargo xtask …`: what a developer and CI run. Each verb prints the commands it runs, so that it can be done by hand.
#![allow(clippy::print_stdout, reason = "a command-line tool talks to its terminal")]

mod packages;
mod python;
mod run;
mod sim;
mod tally;

use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

use run::{cargo, command, step};
use tally::Tally;

/// The version of cargo-deny that CI installs when there is none.
const CARGO_DENY: &str = "0.20.2";

/// Seeds of the simulated cluster in CI.
const CLUSTER_SEEDS: &str = "18";
/// Rules that are broken in it, others every day.
const BROKEN_RULES: &str = "4";

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Set up, demonstrate, test and measure Quorate")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what is missing (Debian packages, by apt), build, and run `quorate demo`.
    #[command(disable_help_flag = true)]
    Demo {
        /// Passed on to `quorate demo`, `--help` too.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Everything that must hold before a change lands: format, lints, licences, every test.
    Ci,
    /// Every test, without the rest of `ci`. Arguments go to `cargo test`.
    Test {
        /// For instance `-p quorate-ha`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Only the architecture's absences that a machine can check.
    Tidy,
    /// A suite in its long form, with a summary; fails when it found something or proved nothing.
    Sim(sim::Sim),
    /// Install what the demo and the tests need, and nothing else.
    Setup,
    /// Build with the `dist` profile and run the load bench. Arguments go to the bench.
    #[command(disable_help_flag = true)]
    Bench {
        /// For instance `--seconds 5`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn main() -> Result<()> {
    run::enter_workspace()?;
    match Cli::parse().verb {
        Verb::Demo { args } => demo(&args),
        Verb::Ci => ci(),
        Verb::Test { args } => {
            packages::for_tests()?;
            test(&args)
        }
        Verb::Tidy => cargo(&["test", "--package", "quorate-tests", "--test", "tidy"]),
        Verb::Sim(sim) => sim::run(&sim),
        Verb::Setup => packages::for_tests(),
        Verb::Bench { args } => {
            packages::install(packages::FOR_TESTS)?;
            cargo(&["build", "--profile", "dist", "--package", "quorate", "--package", "quorate-benches"])?;
            command("target/dist/load", &args)
        }
    }
}

/// The main job of the README.
fn demo(args: &[String]) -> Result<()> {
    packages::install(packages::FOR_DEMO)?;
    cargo(&["build", "--release", "--package", "quorate"])?;
    let mut all = vec!["demo".to_owned()];
    all.extend_from_slice(args);
    command("target/release/quorate", &all)
}

fn test(args: &[String]) -> Result<()> {
    // The scenario suites start the real binaries.
    cargo(&["build", "--package", "quorate"])?;
    let mut all = vec!["test", "--workspace", "--no-fail-fast"];
    if !args.is_empty() {
        all = vec!["test"];
        all.extend(args.iter().map(String::as_str));
    }
    cargo(&all)
}

fn ci() -> Result<()> {
    let start = Instant::now();
    step("packages", packages::for_tests)?;
    step("format", || cargo(&["fmt", "--all", "--check"]))?;
    step("lints", || cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    step("licences", deny)?;
    step("tests", || test(&[]))?;
    step("simulated clusters", || sim::cluster(&["--seeds", CLUSTER_SEEDS], &mut Tally::default()))?;
    step("broken rules", || sim::cluster(&["--mutations", BROKEN_RULES], &mut Tally::default()))?;
    println!("\nci: everything passed in {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Licences, sources, banned crates, and who may name openraft and sled.
fn deny() -> Result<()> {
    if run::output("cargo", &["deny", "--version"]).is_err() {
        // Unoptimised: it runs for a second and would compile for minutes.
        cargo(&["install", "cargo-deny", "--version", CARGO_DENY, "--locked", "--debug"])?;
    }
    cargo(&["deny", "--log-level", "error", "check", "bans", "licenses", "sources"])
        .context("a dependency does not fit .cargo/deny.toml")?;
    if run::output("cargo", &["tree", "--invert", "aws-lc-rs"]).is_ok() {
        bail!("aws-lc-rs is in the tree: TLS is rustls with ring");
    }
    Ok(())
}
