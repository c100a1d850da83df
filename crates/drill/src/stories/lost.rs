//! The loss of a machine.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::keys;
use crate::report::Round;
use crate::rest::At;
use crate::stage::{RESUME, Stage};

/// What the lost node's voter was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Voter {
    /// The store goes on without an election.
    Follows,
    /// Primary and store's leader are lost together.
    Leads,
}

/// SIGKILL to every process of the primary's node; writes resume elsewhere; the node comes back as a standby.
pub(super) async fn node(stage: &mut Stage<'_>, voter: Voter) -> Result<Round> {
    let old = stage.primary().await?;
    let probes = stage.probes(&[]).await?;
    place(stage, old, voter).await?;
    let what = match voter {
        Voter::Follows => "kill -9 of everything on the primary's node",
        Voter::Leads => "kill -9 of everything on the primary's node, which leads the store",
    };
    let mut fault = stage.fault(what, old);
    stage.cluster.kill(old).await?;
    stage.taken_over(&probes, &fault).await?;
    stage.cluster.start(old)?;
    stage.healed(&mut fault, &stage.name(old), "started again");
    stage.close(probes, fault).await
}

/// Brings the store's leadership to the primary's node, or away from it. The agent moves it away by itself, so for the
/// unlucky case there is only a moment.
async fn place(stage: &mut Stage<'_>, primary: usize, voter: Voter) -> Result<()> {
    let nodes: Vec<At> = stage.cluster.nodes.iter().map(|node| node.store()).collect();
    let elsewhere = (primary + 1) % nodes.len();
    let wanted = match voter {
        Voter::Follows => None,
        Voter::Leads => Some(primary),
    };
    let until = Instant::now() + RESUME;
    loop {
        let leader = keys::leader(&nodes).await;
        match (wanted, leader) {
            (None, Some(leader)) if leader != primary => return Ok(()),
            (Some(wanted), Some(leader)) if leader == wanted => return Ok(()),
            (_, None | Some(_)) => {}
        }
        if Instant::now() > until {
            bail!("the store's leadership does not go where the story needs it");
        }
        // Refused while an election is under way: tried again.
        let moved = keys::lead(&nodes, wanted.unwrap_or(elsewhere)).await;
        let settled = Instant::now() + Duration::from_secs(1);
        while moved.is_ok() && Instant::now() < settled {
            if keys::leads(&nodes[wanted.unwrap_or(elsewhere)]).await {
                break;
            }
        }
        moved
            .or_else(|error| if Instant::now() > until { Err(error) } else { Ok(()) })
            .context("placement")?;
    }
}
