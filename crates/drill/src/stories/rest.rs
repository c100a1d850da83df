//! A cluster at which nothing is broken: what it takes, and what it puts up with.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::processes;
use crate::report::Round;
use crate::stage::Stage;

use super::killed::failovers;

/// Caches of the start are given back by then.
const AT_REST: Duration = Duration::from_secs(10);
/// Between two looks at a process that is at rest.
const BETWEEN: Duration = Duration::from_secs(2);
/// By how much what nodes send each other is delayed, one after the other.
const DELAYS: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(500)];

/// Resident memory of the largest `quorate`, without PostgreSQL, while nobody writes.
pub(super) async fn memory(stage: &mut Stage<'_>) -> Result<Round> {
    let primary = stage.primary().await?;
    let rest = if stage.rounds() == 0 { AT_REST } else { BETWEEN };
    stage.held(std::time::Instant::now(), rest).await?;
    let mut largest = 0.0_f64;
    for node in &stage.cluster.nodes {
        let pid = node.pid().with_context(|| format!("{} does not run", node.name))?;
        let bytes = processes::resident_bytes(pid).with_context(|| format!("{} has ended", node.name))?;
        largest = largest.max(bytes as f64 / 1e6);
    }
    let name = stage.name(primary);
    let mut round = Round { fault: "none".to_owned(), from: name.clone(), to: name, ..Round::default() };
    round.figure("resident", largest, "MB");
    let guards: Vec<u64> = stage
        .cluster
        .nodes
        .iter()
        .flat_map(|node| processes::guards(&node.dir))
        .filter_map(processes::resident_bytes)
        .collect();
    if let Some(guard) = guards.into_iter().max() {
        round.figure("guard resident", guard as f64 / 1e6, "MB");
    }
    Ok(round)
}

/// A slow network is no reason for a failover.
pub(super) async fn delay(stage: &mut Stage<'_>) -> Result<Round> {
    let old = stage.primary().await?;
    let probes = stage.probes(&[]).await?;
    let fault = stage.fault("what nodes send each other is delayed", old);
    let seen = delays(stage).await;
    let healed = stage.cluster.delay(Duration::ZERO);
    // The first reason is the one to tell.
    seen.and(healed)?;
    let mut round = stage.close(probes, fault).await?;
    failovers(stage, &mut round, old).await?;
    Ok(round)
}

async fn delays(stage: &mut Stage<'_>) -> Result<()> {
    for delay in DELAYS {
        stage.cluster.delay(delay)?;
        stage.timeline.event("", format!("delay {} ms", delay.as_millis()));
        stage.held(std::time::Instant::now(), stage.hold).await?;
    }
    Ok(())
}
