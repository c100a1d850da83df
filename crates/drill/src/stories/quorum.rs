//! The store loses its quorum, and with it everybody's right to write.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::cluster::Cluster;
use crate::keys::{self, KeyWriter};
use crate::report::{Round, ms};
use crate::rest::{self, At};
use crate::stage::{Fault, Probes, Stage};

/// Two of three nodes are lost while writes run: the remaining primary stops acknowledging before its lease could have
/// expired, and serves again when one node is back.
pub(super) async fn two_lost(stage: &mut Stage<'_>) -> Result<Round> {
    let primary = stage.primary().await?;
    let probes = stage.probes(&[]).await?;
    let others = stage.others(primary);
    let mut fault = stage.fault("keeps running while both others are lost", primary);
    for &index in &others {
        stage.cluster.kill(index).await?;
        stage.timeline.event(&stage.name(index), "kill -9 of everything");
    }
    let quorum_lost = Instant::now();
    fenced_in_time(stage, &probes, &fault, quorum_lost).await;
    let returned = Instant::now();
    stage.cluster.start(others[0])?;
    stage.timeline.event(&stage.name(others[0]), "started again: two of three");
    // Counted from the moment at which the store has a quorum: the start of a process is not the store's doing.
    let survivors = [stage.cluster.nodes[primary].store(), stage.cluster.nodes[others[0]].store()];
    stage
        .cluster
        .wait_until("quorum of the store", crate::stage::RESUME, async |_| {
            keys::leader(&survivors).await.is_some()
        })
        .await?;
    let quorum = Instant::now();
    stage.timeline.event_at(quorum, "", "the store has a quorum");
    let first = stage.resumed(&probes, returned).await?;
    stage.cluster.start(others[1])?;
    stage.healed(&mut fault, &stage.name(others[1]), "started again: three of three");
    let mut round = stage.close(probes, fault).await?;
    round.time("after the quorum is back", first.at.saturating_duration_since(quorum));
    round.time("after the start of the node", first.at.saturating_duration_since(returned));
    Ok(round)
}

/// PostgreSQL must be gone or read-only before the last renewal can have expired, however that is done.
async fn fenced_in_time(stage: &mut Stage<'_>, probes: &Probes, fault: &Fault, quorum_lost: Instant) {
    let ttl = stage.cluster.ttl();
    let (primary, name) = (fault.old, stage.name(fault.old));
    let mut fenced = None;
    while fenced.is_none() && quorum_lost.elapsed() < ttl * 3 {
        match stage.cluster.takes_writes(primary).await {
            Some(false) => fenced = Some(Instant::now()),
            Some(true) | None => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    match fenced {
        Some(at) => {
            let until = (quorum_lost - fault.at + ttl).as_secs_f64();
            let what = format!("takes no writes any more; its lease could have lived until {until:+.3} s");
            stage.timeline.event_at(at, &name, what);
            if at > quorum_lost + ttl {
                let late = ms(at - quorum_lost - ttl);
                stage.violated(format!("{name} took writes {late} ms beyond its lease"));
            }
        }
        None => stage.violated(format!(
            "{name} still takes writes {} s after the quorum was lost",
            (ttl * 3).as_secs()
        )),
    }
    if let Some(last) = probes.application().last() {
        let after = last.at.saturating_duration_since(fault.at).as_secs_f64();
        stage.timeline.event(&name, format!("had acknowledged its last write at {after:+.3} s"));
        if last.at > quorum_lost + ttl {
            let late = ms(last.at - quorum_lost - ttl);
            stage.violated(format!("a write was acknowledged {late} ms after the lease had expired"));
        }
    }
    let at = stage.cluster.nodes[primary].rest();
    if let Ok((200, _)) = rest::get(at, "/primary", Duration::from_secs(1)).await {
        stage.violated(format!("{name} still answers 200 on /primary without a quorum"));
    }
}

/// All nodes are killed at the same moment during writes and started again: every acknowledged row and every acknowledged
/// key of the store is there, and the timeline has not moved.
pub(super) async fn all_killed(stage: &mut Stage<'_>) -> Result<Round> {
    let primary = stage.primary().await?;
    let nodes: Vec<At> = stage.cluster.nodes.iter().map(|node| node.store()).collect();
    let puts = KeyWriter::start(nodes.clone(), stage.cluster.client());
    let probes = stage.probes(&[]).await?;
    let before = leader_timeline(stage.cluster).await;
    let fault = stage.fault("kill -9 of everything on every node", primary);
    stage.cluster.kill_all().await?;
    let killed = Instant::now();
    for index in 0..stage.cluster.nodes.len() {
        stage.cluster.start(index)?;
    }
    stage.timeline.event("", "every node started again");
    let first = stage.resumed(&probes, killed).await?;
    stage.whole().await?;
    let after = leader_timeline(stage.cluster).await;
    let puts = puts.stop().await;
    let missing = keys::missing(nodes[first.server].clone(), &puts).await?;
    stage
        .timeline
        .event("", format!("keys of the store: acknowledged {}, lost {}", puts.len(), missing.len()));
    if puts.is_empty() || !missing.is_empty() {
        stage.violated(format!("of {} acknowledged keys the store lacks {missing:?}", puts.len()));
    }
    if before != after {
        stage.violated(format!(
            "the timeline moved from {before:?} to {after:?} although nobody was lost for good"
        ));
    }
    stage.close(probes, fault).await
}

async fn leader_timeline(cluster: &Cluster) -> Option<u32> {
    let view = cluster.view().await.context("nobody answers").ok()?;
    view.members.into_iter().find(|member| member.role == "leader")?.timeline
}
