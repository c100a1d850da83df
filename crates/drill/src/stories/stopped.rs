//! An agent that stands still: no renewal, no fence of its own, and a PostgreSQL that knows nothing of it.

use anyhow::Result;

use crate::report::Round;
use crate::stage::{Fault, Probes, Stage};

/// SIGSTOP of the primary's `quorate` for a while, then SIGCONT. Its PostgreSQL must not acknowledge beside the new primary.
pub(super) async fn agent(stage: &mut Stage<'_>) -> Result<Round> {
    let old = stage.primary().await?;
    let probes = stage.probes_from_both_ends(old).await?;
    let mut fault = stage.fault(format!("SIGSTOP of quorate for {} s", stage.hold.as_secs()), old);
    stage.cluster.freeze_agent(old, true);
    let seen = until_continued(stage, &probes, &fault).await;
    // Also when the story fails: what stands still cannot be stopped in order.
    stage.cluster.freeze_agent(old, false);
    stage.healed(&mut fault, &stage.name(old), "SIGCONT");
    seen?;
    stage.close(probes, fault).await
}

async fn until_continued(stage: &mut Stage<'_>, probes: &Probes, fault: &Fault) -> Result<()> {
    stage.taken_over(probes, fault).await?;
    stage.held(fault.at, stage.hold).await
}
