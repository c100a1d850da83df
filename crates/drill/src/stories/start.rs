//! The first start: from empty directories to a cluster that streams.

use std::time::Instant;

use anyhow::Result;

use crate::report::{Round, ms};
use crate::stage::{RESUME, SETTLE, Stage};
use crate::writer;

/// Everything is removed, every node is started, and an application tries to write from the first moment on.
pub(super) async fn first(stage: &mut Stage<'_>) -> Result<Round> {
    stage.cluster.wipe().await?;
    let started = Instant::now();
    stage.timeline.fault(started);
    stage.timeline.event_at(started, "", "every directory is empty; every node is started");
    for index in 0..stage.cluster.nodes.len() {
        stage.cluster.start(index)?;
    }
    let target = stage.target();
    while writer::prepare(&target).await.is_err() {
        anyhow::ensure!(started.elapsed() < RESUME, "no primary takes a write");
    }
    let written = started.elapsed();
    stage.timeline.event("", "the first write is acknowledged");
    stage.cluster.wait_until("streaming standbys", SETTLE, async |cluster| cluster.whole().await).await?;
    let streaming = started.elapsed();
    stage.timeline.event("", "every node streams");
    let primary = stage.primary().await?;
    let mut round = Round {
        fault: "first start".to_owned(),
        to: stage.name(primary),
        timeline: stage
            .cluster
            .view()
            .await
            .and_then(|view| view.members.into_iter().find(|member| member.role == "leader")?.timeline),
        write_gap_ms: ms(written),
        ..Round::default()
    };
    round.time("first write", written);
    round.time("all streaming", streaming);
    Ok(round)
}
