//! A planned switchover, asked for as `quoratectl switchover` asks for it.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::json;

use crate::report::Round;
use crate::rest;
use crate::stage::Stage;

/// A switchover that is still under way after this long has failed; Patroni's own patience.
const PATIENCE: Duration = Duration::from_secs(30);

/// The primary hands over to whoever has everything, and follows.
pub(super) async fn switchover(stage: &mut Stage<'_>) -> Result<Round> {
    let old = stage.primary().await?;
    let probes = stage.probes(&[]).await?;
    let at = stage.cluster.nodes[old].rest();
    let name = stage.name(old);
    let fault = stage.fault("asked to switch over", old);
    let answer =
        tokio::spawn(
            async move { rest::post(at, "/switchover", &json!({ "leader": name }), PATIENCE).await },
        );
    let taken_over = stage.taken_over(&probes, &fault).await;
    let (status, text) = answer.await??;
    if status != 200 {
        bail!("the switchover is answered with {status}: {text}");
    }
    taken_over?;
    stage.close(probes, fault).await
}
