//! `quorate guard`: the process that stops PostgreSQL when the agent cannot. Started by the agent, for nobody else.
//!
//! No runtime, no thread, no logging: what it does is in `quorate_agent::guard::process`. Its orders come over standard input,
//! which must be the socket that the agent has made; anything else ends it at once.

use std::ffi::OsString;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::ExitCode;

use quorate_agent::guard::process::{self, Options};
use rustix::net::SocketType;

use crate::cli::EXIT_CONFIGURATION;
use crate::ctl::output;

/// Runs until nothing is left to guard.
pub fn run(arguments: &[OsString]) -> ExitCode {
    let options = match Options::parse(arguments) {
        Ok(options) => options,
        Err(sentence) => {
            output::complain(&format!("error: {sentence}; `quorate run` starts this process by itself"));
            return ExitCode::from(EXIT_CONFIGURATION);
        }
    };
    let ended = orders().and_then(|orders| process::run(&options, orders));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            output::complain(&format!("error: {sentence}"));
            ExitCode::FAILURE
        }
    }
}

/// Standard input, if it is the agent's socket.
fn orders() -> Result<OwnedFd, String> {
    let stdin = std::io::stdin();
    match rustix::net::sockopt::socket_type(stdin.as_fd()) {
        Ok(SocketType::SEQPACKET) => {}
        Ok(_) | Err(_) => {
            return Err(
                "standard input is not the agent's socket: `quorate run` starts this process by itself"
                    .into(),
            );
        }
    }
    stdin.as_fd().try_clone_to_owned().map_err(|error| format!("no descriptor is left: {error}"))
}
