//! One process of a node is killed, and the rest of the node lives on.

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::processes;
use crate::report::Round;
use crate::stage::Stage;

/// Who keeps PostgreSQL within its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keepers {
    /// `quorate` alone; a guard is left.
    Agent,
    /// `quorate` and its guard: the quorum, or nobody.
    Both,
}

/// `kill -9` of the primary's `quorate`, started again at once: no outage, no restart of PostgreSQL.
pub(super) async fn agent_and_restarted(stage: &mut Stage<'_>) -> Result<Round> {
    let old = stage.primary().await?;
    let probes = stage.probes_from_both_ends(old).await?;
    let data_dir = stage.cluster.nodes[old].data_dir();
    let before = processes::postmaster(&data_dir);
    let fault = stage.fault("kill -9 of quorate alone, started again at once", old);
    stage.cluster.kill_agent(old).await?;
    stage.cluster.start(old)?;
    stage.held(fault.at, stage.hold).await?;
    let mut round = stage.close(probes, fault).await?;
    let restarted = before.is_none() || before != processes::postmaster(&data_dir);
    round.figure("restarts of PostgreSQL", f64::from(u8::from(restarted)), "");
    failovers(stage, &mut round, old).await?;
    Ok(round)
}

/// `kill -9` of the agent, or of agent and guard; nobody starts them until somebody else writes and the hold is over.
pub(super) async fn keepers(stage: &mut Stage<'_>, keepers: Keepers) -> Result<Round> {
    let old = stage.primary().await?;
    let probes = stage.probes_from_both_ends(old).await?;
    let what = match keepers {
        Keepers::Agent => "kill -9 of quorate alone",
        Keepers::Both => "kill -9 of quorate and of its guard",
    };
    let mut fault = stage.fault(what, old);
    match keepers {
        Keepers::Agent => stage.cluster.kill_agent(old).await?,
        Keepers::Both => {
            if stage.cluster.kill_keepers(old).await? == 0 {
                stage.timeline.event(&stage.name(old), "there was no guard process");
            }
        }
    }
    stage.taken_over(&probes, &fault).await?;
    stage.held(fault.at, stage.hold).await?;
    stage.cluster.start(old)?;
    stage.healed(&mut fault, &stage.name(old), "quorate started again");
    stage.close(probes, fault).await
}

/// `kill -9` of the primary's guard: another one is started, and nothing else happens.
pub(super) async fn guard(stage: &mut Stage<'_>) -> Result<Round> {
    let old = stage.primary().await?;
    let probes = stage.probes_from_both_ends(old).await?;
    let dir = stage.cluster.nodes[old].dir.clone();
    let before = processes::guards(&dir);
    if before.is_empty() {
        bail!("{} has no guard process (`quorate guard …`): there is nothing to kill", stage.name(old));
    }
    let fault = stage.fault("kill -9 of the guard alone", old);
    processes::signal(&before, Signal::KILL);
    stage
        .cluster
        .wait_until("new guard", crate::stage::RESUME, async |_| {
            processes::guards(&dir).iter().any(|guard| !before.contains(guard))
        })
        .await?;
    let replaced = fault.at.elapsed();
    stage.timeline.event(&stage.name(old), "has another guard");
    stage.held(fault.at, stage.hold).await?;
    let mut round = stage.close(probes, fault).await?;
    round.time("without a guard", replaced);
    failovers(stage, &mut round, old).await?;
    Ok(round)
}

/// `kill -9` of the primary's postmaster: restarted where it was, or taken over, whichever is sooner.
pub(super) async fn postmaster(stage: &mut Stage<'_>) -> Result<Round> {
    let old = stage.primary().await?;
    let probes = stage.probes(&[]).await?;
    let pid = processes::postmaster(&stage.cluster.nodes[old].data_dir())
        .context("the primary's postmaster is not found")?;
    let fault = stage.fault("kill -9 of the postmaster", old);
    processes::signal(&[pid], Signal::KILL);
    // The connection dies with the postmaster, but a write or two may still be answered by a backend.
    stage
        .cluster
        .wait_until("end of the postmaster", crate::stage::RESUME, async |cluster| {
            processes::postmaster(&cluster.nodes[old].data_dir()) != Some(pid)
        })
        .await?;
    let gone = std::time::Instant::now();
    stage.resumed(&probes, gone).await?;
    stage.close(probes, fault).await
}

/// Nobody had to take over. Who is primary at the end tells.
pub(super) async fn failovers(stage: &mut Stage<'_>, round: &mut Round, old: usize) -> Result<()> {
    let moved = stage.primary().await? != old;
    round.figure("failovers", f64::from(u8::from(moved)), "");
    Ok(())
}
