//! Cuts: nothing is refused, nothing is closed, and both sides run on. Clients stand on both.

use std::time::Instant;

use anyhow::Result;

use crate::netns::Cut;
use crate::report::Round;
use crate::stage::{Fault, Stage};

/// Which way the primary's node is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Both,
    Outgoing,
    Incoming,
}

/// The primary's node is cut off and stays so for a while after somebody else has taken over; then the cut is healed.
pub(super) async fn primary(stage: &mut Stage<'_>, direction: Direction) -> Result<Round> {
    let old = stage.primary().await?;
    let probes = stage.probes(&[old]).await?;
    let (cut, what) = match direction {
        Direction::Both => (Cut::Host(old), "cut off, both ways, silently"),
        Direction::Outgoing => (Cut::Outgoing(old), "nothing that it sends arrives any more"),
        Direction::Incoming => (Cut::Incoming(old), "nothing arrives there any more"),
    };
    let mut fault = stage.fault(what, old);
    fault.cuts.push((cut, None));
    stage.cluster.cut(&[cut])?;
    stage.taken_over(&probes, &fault).await?;
    stage.held(fault.at, stage.hold).await?;
    stage.healed(&mut fault, &stage.name(old), "reachable again");
    stage.cluster.cut(&[])?;
    stage.close(probes, fault).await
}

/// The primary and one standby lose each other; everybody else hears both. Nobody has to take over.
pub(super) async fn between(stage: &mut Stage<'_>) -> Result<Round> {
    let old = stage.primary().await?;
    let standby = stage.others(old)[0];
    let probes = stage.probes(&[old]).await?;
    let what = format!("does not hear {} and is not heard by it", stage.name(standby));
    let mut fault = stage.fault(what, old);
    let cut = Cut::Between(old, standby);
    fault.cuts.push((cut, None));
    stage.cluster.cut(&[cut])?;
    stage.held(fault.at, stage.hold).await?;
    stage.cluster.cut(&[])?;
    stage.healed(&mut fault, "", "everybody hears everybody again");
    stage.close(probes, fault).await
}

/// The story that cost a rival 3,070 rows: the first primary comes back at the moment at which its successor is cut off, with a
/// longer log on a dead timeline. The third node is the only one that may win.
pub(super) async fn twice(stage: &mut Stage<'_>) -> Result<Round> {
    let first = stage.primary().await?;
    let everywhere: Vec<usize> = (0..stage.cluster.nodes.len()).collect();
    let probes = stage.probes(&everywhere).await?;
    let fault = stage.fault("cut off, both ways, silently", first);
    stage.cluster.cut(&[Cut::Host(first)])?;
    let second = stage.taken_over(&probes, &fault).await?;
    // Before that the old set is listed too, and nobody may follow a primary whose set is still changing.
    stage.settled(second.server).await?;
    stage.held(fault.at, stage.hold).await?;
    // One transaction of the kernel: at no moment does the first one hear the second one.
    let again = Instant::now();
    stage.cluster.cut(&[Cut::Host(second.server)])?;
    let (old, new) = (stage.name(first), stage.name(second.server));
    stage.timeline.event_at(again, &new, format!("cut off; at the same moment {old} is back, not rewound"));
    let cuts = vec![(Cut::Host(first), Some(again)), (Cut::Host(second.server), None)];
    let mut second_fault =
        Fault { what: "the second cut".to_owned(), old: second.server, at: again, healed: None, cuts };
    let third = stage.taken_over(&probes, &second_fault).await?;
    if third.server == first {
        stage.violated(format!("{old} was promoted although it had not rewound"));
    }
    stage.held(again, stage.hold).await?;
    stage.healed(&mut second_fault, &new, "reachable again");
    stage.cluster.cut(&[])?;
    let mut round = stage.close(probes, second_fault).await?;
    round.fault = "two cuts in a row".to_owned();
    round.from = format!("{old}, {new}");
    round.time("first takeover", second.at - fault.at);
    round.time("second takeover", third.at - again);
    Ok(round)
}
