//! A planned switchover, asked for as `quoratectl switchover` asks for it.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::cluster::Node;
use crate::report::Round;
use crate::rest;
use crate::stage::Stage;

/// A switchover that is still under way after this long has failed; Patroni's own patience.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks the primary to hand over: the answer's status and text.
pub(crate) fn ask(primary: &Node) -> JoinHandle<Result<(u16, String)>> {
    let (at, document) = (primary.rest(), json!({ "leader": primary.name }));
    tokio::spawn(async move { rest::post(at, "/switchover", &document, PATIENCE).await })
}

/// The primary hands over to whoever has everything, and follows.
pub(super) async fn switchover(stage: &mut Stage<'_>) -> Result<Round> {
    let old = stage.primary().await?;
    let probes = stage.probes(&[]).await?;
    let fault = stage.fault("asked to switch over", old);
    let answer = ask(&stage.cluster.nodes[old]);
    let taken_over = stage.taken_over(&probes, &fault).await;
    let (status, text) = answer.await??;
    if status != 200 {
        bail!("the switchover is answered with {status}: {text}");
    }
    taken_over?;
    stage.close(probes, fault).await
}
