//! The node: a voter of the store and the keeper of one PostgreSQL.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    quorate::memory::give_back();
    quorate::cli::Cli::parse().run()
}
