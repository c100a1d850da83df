//! The operator's tool.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    quorate::ctl::Cli::parse().run()
}
