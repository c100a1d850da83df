//! Running other programs, visibly.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::tally::Tally;

/// Every verb works from any directory of the checkout.
pub(crate) fn enter_workspace() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::env::set_current_dir(&root).with_context(|| format!("cannot enter {}", root.display()))
}

/// The cargo that runs this.
pub(crate) fn cargo(args: &[&str]) -> Result<()> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    command(&cargo, args)
}

/// The same with variables in its environment, which are shown as one would type them. What it prints passes by a tally.
pub(crate) fn cargo_tallied(args: &[&str], environment: &[(&str, String)], tally: &mut Tally) -> Result<()> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let quoted = |value: &str| if value.contains(' ') { format!("'{value}'") } else { value.to_owned() };
    let shown: String =
        environment.iter().map(|(name, value)| format!("{name}={} ", quoted(value))).collect();
    show(&format!("{shown}cargo"), args);
    let mut child = Command::new(cargo)
        .args(args)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo")?;
    let output = child.stdout.take().context("its output is piped")?;
    for line in BufReader::new(output).lines() {
        let line = line.context("reading what cargo prints")?;
        println!("{line}");
        tally.read(&line);
    }
    let status = child.wait().context("waiting for cargo")?;
    if !status.success() {
        bail!("cargo: {status}");
    }
    Ok(())
}

/// A program with its output on the terminal.
pub(crate) fn command<S: AsRef<str>>(program: &str, args: &[S]) -> Result<()> {
    let args: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
    show(program, &args);
    wait(Command::new(program).args(&args), program)
}

/// A program's standard output, or an error when it fails.
pub(crate) fn output(program: &str, args: &[&str]) -> Result<String> {
    let output =
        Command::new(program).args(args).output().with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!("{program} ended with {}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Names a part of a longer run and says how long it took.
pub(crate) fn step(name: &str, body: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("\n== {name}");
    let start = Instant::now();
    let result = body().with_context(|| format!("step `{name}` failed"));
    println!(
        "== {name}: {} after {:.0} s",
        if result.is_ok() { "ok" } else { "FAILED" },
        start.elapsed().as_secs_f64()
    );
    result
}

fn show(program: &str, args: &[&str]) {
    println!("$ {program} {}", args.join(" "));
}

fn wait(command: &mut Command, name: &str) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {name}"))?;
    if !status.success() {
        bail!("{name}: {status}");
    }
    Ok(())
}
