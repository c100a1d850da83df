//! `quorate store`: the store alone, where an `etcd` binary stood.

use std::process::ExitCode;

use quorate_node::Handle;

use crate::config::etcd_flags::StoreOptions;
use crate::process::{Signals, end_at_once, notify};
use crate::voter::{Plan, Voter};

/// Serves until it is asked to stop (0) or the member fails (1).
pub async fn serve(options: &StoreOptions) -> ExitCode {
    match serve_until_asked(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            tracing::error!("{sentence}");
            ExitCode::FAILURE
        }
    }
}

async fn serve_until_asked(options: &StoreOptions) -> Result<(), String> {
    let mut plan = Plan::of_options(options);
    plan.open_tls()?;
    keep(&options.name, plan, &options.listen_clients, |_| std::future::pending()).await
}

/// Keeps a voter with nothing beside it, until it is asked to stop or fails. `beside` runs from when it serves.
///
/// # Errors
/// The sentence for the operator.
pub(crate) async fn keep<A: std::fmt::Display, F: Future<Output = ()>>(
    name: &str,
    plan: Plan,
    addresses: &[A],
    beside: impl FnOnce(Handle) -> F,
) -> Result<(), String> {
    let mut signals = Signals::catch().map_err(|error| format!("signals cannot be caught: {error}"))?;
    plan.check_ports()?;
    tracing::info!(
        node = name,
        version = env!("CARGO_PKG_VERSION"),
        data_dir = %plan.node.data_dir.display(),
        "starting the store"
    );
    // A cluster that is being formed may wait for its members for long; stopping must be possible all the same.
    let voter = tokio::select! {
        started = Voter::start(plan) => started?,
        signal = signals.stop() => {
            tracing::info!(signal, "asked to stop before the member had started");
            return Ok(());
        }
    };
    let ended = tokio::select! {
        ended = async {
            voter.ready().await;
            for address in addresses {
                tracing::info!(node = name, address = %address, "ready to serve client requests");
            }
            notify("READY=1");
            beside(voter.handle()).await;
            std::future::pending::<Result<(), String>>().await
        } => ended,
        sentence = voter.failed() => Err(sentence),
        signal = signals.stop() => {
            tracing::info!(signal, "asked to stop");
            Ok(())
        }
    };
    notify("STOPPING=1");
    tokio::select! {
        () = voter.shutdown() => {}
        signal = signals.stop() => end_at_once(signal),
    }
    if ended.is_ok() {
        tracing::info!(node = name, "stopped");
    }
    ended
}
