//! A witness: a voter of the store that keeps no PostgreSQL.
//!
//! Two database nodes cannot decide which of them is left when they lose each other; a third vote can, and it needs neither
//! the disk nor the memory of a database. `dcs.witness: true` in a node's file makes that of it: the store's voter and its
//! client port, nothing else. `quorate store` with the same token, name and list of members would do as well; the file keeps
//! all nodes of a cluster alike, and the witness announces itself, so that `quoratectl list` shows it.
//!
//! The announcement is a key of the cluster, `witness/NAME`, on a lease: it is there while the witness is. Patroni's tools
//! pass over keys they do not know.

use std::process::ExitCode;
use std::time::Duration;

use quorate_node::Handle;
use quorate_node::state::Command;

use crate::cli::EXIT_CONFIGURATION;
use crate::config::settings::Settings;
use crate::store;
use crate::voter::Plan;

/// How long a witness that is gone is still shown.
const LEASE: Duration = Duration::from_secs(30);
/// One request of the announcement, and the pause before it is tried again.
const TRY: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_secs(1);

/// Serves until it is asked to stop, or the voter fails.
pub async fn run(settings: &Settings) -> ExitCode {
    let mut plan = Plan::of_settings(settings);
    if let Err(sentence) = plan.open_tls() {
        tracing::error!("{sentence}");
        return ExitCode::from(EXIT_CONFIGURATION);
    }
    tracing::info!(
        node = settings.name,
        scope = settings.scope,
        "this node is a witness: it votes, and runs no PostgreSQL"
    );
    let address = settings.dcs.advertise_clients.to_string();
    let key =
        format!("/{}/{}/witness/{}", settings.namespace.trim_matches('/'), settings.scope, settings.name);
    let key = key.replace("//", "/");
    match store::keep(&settings.name, plan, &[address], |handle| announce(handle, key)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            tracing::error!("{sentence}");
            ExitCode::FAILURE
        }
    }
}

/// Keeps the key in the store, for as long as it is polled.
async fn announce(handle: Handle, key: String) {
    loop {
        if let Ok(session) = handle.session(LEASE, TRY).await {
            let put = Command::put_with_lease(key.clone(), "{}", session.lease());
            if handle.propose(put, TRY).await.is_ok() {
                session.lost().await;
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}
