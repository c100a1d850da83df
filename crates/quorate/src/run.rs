//! `quorate run`: a voter, its client port, and the keeper of one PostgreSQL, in this order; stopped in the reverse one.
//!
//! ```text
//!   start   check (programs, user, ports) ─► voter ─► client port ─► agent (REST, fence, loop) ─► READY
//!   SIGHUP  the file is read again, and PostgreSQL reads its own; tags take effect, everything else waits for the next start
//!   stop    agent: PostgreSQL stops, lock released ─► client port ─► voter: leadership handed over
//! ```
//!
//! The agent goes first because it needs the store to release its lock. Three ends are possible. Asked to (0). The voter
//! failed (1): without it no lease can be renewed, so PostgreSQL is stopped in order, while its fence is still armed.
//! The agent refuses to go on (1: another system identifier, a name that is taken): PostgreSQL is left as it is.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use quorate_agent::{Agent, Hook};
use quorate_pg::Instance;
use tokio::sync::Notify;

use crate::cli::EXIT_CONFIGURATION;
use crate::config::settings::Settings;
use crate::instance::{agent_config, check_postgres_port, instance_config, prepare, tags};
use crate::process::{Signals, chain, notify};
use crate::voter::{Plan, Voter, check_ports, listen};

/// Beside the stop of PostgreSQL itself: releasing the lock, ending the loop.
const HAND_OVER: Duration = Duration::from_secs(10);

/// How it ended, other than well.
enum Failure {
    /// Nothing has been changed; starting again changes nothing.
    Configuration(String),
    /// Something failed.
    Node(String),
}

/// Where the settings came from, for a reload.
pub struct Source {
    /// None: `PATRONI_CONFIGURATION`, which does not change.
    pub file: Option<PathBuf>,
}

/// Runs the node until it is asked to stop, or fails.
pub async fn run(settings: &Settings, source: &Source) -> ExitCode {
    if settings.dcs.witness {
        return crate::witness::run(settings).await;
    }
    match keep(settings, source).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Configuration(sentence)) => {
            tracing::error!("{sentence}");
            ExitCode::from(EXIT_CONFIGURATION)
        }
        Err(Failure::Node(sentence)) => {
            tracing::error!("{sentence}");
            ExitCode::FAILURE
        }
    }
}

async fn keep(settings: &Settings, source: &Source) -> Result<(), Failure> {
    let mut signals =
        Signals::catch().map_err(|error| Failure::Node(format!("signals cannot be caught: {error}")))?;
    let instance = instance_config(settings).map_err(Failure::Configuration)?;
    let mut plan = Plan::of_settings(settings);
    plan.open_tls().map_err(Failure::Configuration)?;
    plan.check_ports().map_err(Failure::Node)?;
    check_ports([listen(&settings.restapi.listen)].iter()).map_err(Failure::Node)?;
    let postgres = Instance::new(instance.clone()).map_err(|error| Failure::Configuration(chain(&error)))?;
    check_postgres_port(&postgres).map_err(Failure::Node)?;
    prepare(&instance).map_err(Failure::Node)?;
    // Until the process ends.
    let _hold = postgres.hold().map_err(|error| Failure::Node(chain(&error)))?;

    tracing::info!(
        node = settings.name,
        scope = settings.scope,
        version = env!("CARGO_PKG_VERSION"),
        "starting the node"
    );
    let voter = tokio::select! {
        started = Voter::start(plan) => started.map_err(Failure::Node)?,
        signal = signals.stop() => {
            tracing::info!(signal, "asked to stop before the voter had started");
            return Ok(());
        }
    };
    let reload = Arc::new(Notify::new());
    let hook = {
        let reload = Arc::clone(&reload);
        Hook(Arc::new(move || reload.notify_one()))
    };
    let agent = match Agent::start(agent_config(settings, hook), voter.handle(), postgres).await {
        Ok(agent) => agent,
        Err(error) => {
            voter.shutdown().await;
            return Err(Failure::Node(chain(&error)));
        }
    };
    tracing::info!(node = settings.name, address = %settings.restapi.listen, "the node is running");
    notify("READY=1");

    let deadline = settings.postgresql.pg_ctl_timeout + HAND_OVER;
    let ended = loop {
        tokio::select! {
            asked = signals.stop_or_reload() => match asked {
                Some(signal) => {
                    tracing::info!(signal, "asked to stop");
                    notify("STOPPING=1");
                    agent.shutdown(deadline, false).await;
                    break Ok(());
                }
                None => read_again(settings, source, &agent),
            },
            () = reload.notified() => read_again(settings, source, &agent),
            sentence = voter.failed() => {
                tracing::error!(reason = sentence, "the voter failed: PostgreSQL is stopped, its lease cannot be renewed");
                agent.shutdown(deadline, false).await;
                break Err(Failure::Node(sentence));
            }
            sentence = agent.failed() => {
                agent.shutdown(HAND_OVER, true).await;
                break Err(Failure::Node(sentence));
            }
        }
    };
    voter.shutdown().await;
    tracing::info!(node = settings.name, "stopped");
    ended
}

/// Reads the file again. A file with errors changes nothing.
fn read_again(settings: &Settings, source: &Source, agent: &Agent) {
    let Some(path) = &source.file else {
        tracing::info!("nothing to read again: the configuration came from a variable");
        return;
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            tracing::error!(%error, file = %path.display(), "the configuration cannot be read, nothing was changed");
            return;
        }
    };
    let (mut fresh, report) = crate::config::load(&text, std::env::vars());
    if report.has_errors() {
        for line in report.render(&path.display().to_string()).lines() {
            tracing::error!("{line}");
        }
        tracing::error!("the configuration has errors, nothing was changed");
        return;
    }
    agent.reload(tags(&fresh));
    fresh.tags.clone_from(&settings.tags);
    // What a flag of the command line has set is no change of the file.
    fresh.user.clone_from(&settings.user);
    fresh.log.clone_from(&settings.log);
    // Read once, when the cluster begins.
    fresh.bootstrap.clone_from(&settings.bootstrap);
    if fresh == *settings {
        tracing::info!("the configuration was read again");
    } else {
        tracing::warn!(
            "the configuration was read again: tags are in effect, other changes wait for the next start"
        );
    }
}
