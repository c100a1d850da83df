//! The store loses its leader, and PostgreSQL must not notice.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::keys::{self, KeyWriter};
use crate::report::Round;
use crate::rest::At;
use crate::stage::{RESUME, Stage};

use super::killed::failovers;

/// `kill -9` of the `quorate` that leads the store, on a node that is not the primary; its PostgreSQL lives on.
pub(super) async fn leader_killed(stage: &mut Stage<'_>) -> Result<Round> {
    let old = stage.primary().await?;
    let nodes: Vec<At> = stage.cluster.nodes.iter().map(|node| node.store()).collect();
    let leader = away_from(&nodes, old).await?;
    let probes = stage.probes(&[]).await?;
    // Through the others: a client that asks the dead one first would measure its own patience.
    let survivors: Vec<At> = stage.others(leader).into_iter().map(|index| nodes[index].clone()).collect();
    let puts = KeyWriter::start(survivors.clone(), stage.cluster.client());
    stage.written(&probes).await?;
    let mut fault =
        stage.fault(format!("{} leads the store: kill -9 of its quorate", stage.name(leader)), old);
    stage.cluster.kill_agent(leader).await?;
    let surviving: Vec<usize> = stage.others(leader);
    stage
        .cluster
        .wait_until("leader of the store", RESUME, async |cluster| {
            for index in &surviving {
                if keys::leads(&cluster.nodes[*index].store()).await {
                    return true;
                }
            }
            false
        })
        .await?;
    stage.timeline.event("", "the store has a leader again");
    stage.held(fault.at, stage.hold).await?;
    let puts = puts.stop().await;
    let missing = keys::missing(survivors[0].clone(), &puts).await?;
    if !missing.is_empty() {
        stage.violated(format!("of {} acknowledged keys the store lacks {missing:?}", puts.len()));
    }
    let pause = keys::longest_pause(&puts, fault.at).context("the store took no key after the fault")?;
    stage.cluster.start(leader)?;
    stage.healed(&mut fault, &stage.name(leader), "started again");
    let mut round = stage.close(probes, fault).await?;
    round.time("store unavailable", pause);
    failovers(stage, &mut round, old).await?;
    Ok(round)
}

/// A leader that is not on the primary's node: placement brings that about by itself, or it is asked for.
async fn away_from(nodes: &[At], primary: usize) -> Result<usize> {
    let until = Instant::now() + RESUME;
    loop {
        match keys::leader(nodes).await {
            Some(leader) if leader != primary => return Ok(leader),
            Some(_) => keys::lead(nodes, (primary + 1) % nodes.len()).await?,
            None => {}
        }
        anyhow::ensure!(Instant::now() < until, "the store's leadership does not leave the primary's node");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
