//! A running standby: follow the holder, or race for the lock, or be promoted.

use crate::action::{Action, Decision};
use crate::bootstrap;
use crate::candidate;
use crate::context::{Context, Holding, SOON};
use crate::facts::{OperationKind, Running, StandbyFacts};
use crate::rejoin;

pub(crate) fn decide(context: &Context<'_>, running: &Running, standby: &StandbyFacts) -> Decision {
    match context.holding {
        Holding::Mine { .. } => candidate::promote(context, running, standby),
        Holding::Unadopted(_) => {
            context.tick(Vec::new(), "adopting the leader lock from before a restart").within(SOON)
        }
        Holding::Absent { .. } => candidate::race(context, running, standby),
        Holding::Other(_) => follow(context, running, standby),
    }
}

fn follow(context: &Context<'_>, running: &Running, standby: &StandbyFacts) -> Decision {
    if context.failed(OperationKind::Rewind).is_some() || context.failed(OperationKind::Clone).is_some() {
        return bootstrap::clone(context, "the rewind failed");
    }
    if let Some(timeline) = context.usurped() {
        return bootstrap::clone(context, &format!("timeline {timeline} has two histories"));
    }
    if context.diverged(running.timeline, standby.end()) {
        return rejoin::rewind(
            context,
            &format!("my WAL goes beyond the end of timeline {}", running.timeline),
        );
    }
    let Some(upstream) = context.holder() else {
        return context.idle(Vec::new(), "waiting for the leader to publish its address");
    };
    let reason =
        format!("no action. I am ({}), a secondary, and following a leader ({})", context.me, upstream.name);
    if standby.upstream.as_ref() == Some(&upstream.endpoint) {
        return context.idle(Vec::new(), reason);
    }
    context.idle(vec![Action::Follow { upstream, slot: context.slot() }], reason)
}
