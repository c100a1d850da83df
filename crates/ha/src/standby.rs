//! A running standby: follow the holder, or race for the lock, or be promoted.

use crate::action::{Action, Decision};
use crate::bootstrap;
use crate::candidate;
use crate::cluster::Held;
use crate::context::{Context, Holding, SOON};
use crate::facts::{OperationKind, Receiver, Running, StandbyFacts};
use crate::rejoin;
use crate::slots;
use crate::takeover;
use crate::timeline;

pub(crate) fn decide(context: &Context<'_>, running: &Running, standby: &StandbyFacts) -> Decision {
    match context.holding {
        Holding::Mine { .. } => candidate::promote(context, running, standby),
        Holding::Unadopted(_) => {
            context.tick(Vec::new(), "adopting the leader lock from before a restart").within(SOON)
        }
        Holding::Absent { .. } => candidate::race(context, running, standby),
        Holding::Other(held) => follow(context, held, running, standby),
    }
}

fn follow(context: &Context<'_>, held: &Held, running: &Running, standby: &StandbyFacts) -> Decision {
    if context.suspected().is_some() {
        return takeover::promise(context, held, running, standby);
    }
    if let Some(decision) = takeover::suspect(context, held, standby) {
        return decision;
    }
    if context.failed(OperationKind::Rewind).is_some() || context.failed(OperationKind::Clone).is_some() {
        return bootstrap::clone(context, "the rewind failed");
    }
    if let Some(why) = timeline::forsaken(context).or_else(|| timeline::mistaken(context, running.timeline)) {
        return bootstrap::clone(context, &why);
    }
    if context.diverged(running.timeline, standby.end()) {
        return rejoin::rewind(
            context,
            &format!("my WAL goes beyond the end of timeline {}", running.timeline),
        );
    }
    let Some(upstream) = context.announced() else {
        let stop = if standby.upstream.is_some() { vec![Action::StopReceiver] } else { Vec::new() };
        return context.idle(stop, "waiting for the leader to announce itself as primary");
    };
    if let Some(why) = left_behind(context, standby) {
        return bootstrap::clone(context, &why);
    }
    let reason =
        format!("no action. I am ({}), a secondary, and following a leader ({})", context.me, upstream.name);
    if standby.upstream.as_ref() == Some(&upstream.endpoint) {
        // A primary that died before it wrote its line leaves a gap in `/history`: whether we are beyond the end of our
        // timeline is for pg_rewind to find out. Who streams is not.
        let streaming = matches!(standby.receiver, Receiver::Streaming { .. });
        let history = context.history();
        if !streaming && running.timeline < history.current() && history.end_of(running.timeline).is_none() {
            let why = format!("/history does not say where timeline {} ended", running.timeline);
            return rejoin::rewind(context, &why);
        }
        // PostgreSQL waits between two attempts to stream. As soon as the upstream says that it runs there is nothing to wait for.
        let runs = context.primary().is_some_and(|(primary, _)| primary == upstream);
        let again = (runs && standby.receiver == Receiver::Gone).then_some(Action::TryStreaming);
        let actions = again.into_iter().chain(slots::left_over(context, running)).collect();
        return context.idle(actions, reason);
    }
    if let Some(timeline) = timeline::unanswered(context) {
        let reason = format!("waiting for a primary of timeline {timeline} or later: I was primary on it");
        return context.idle(Vec::new(), reason);
    }
    context.first(Action::Follow { upstream, slot: context.slot() }, reason)
}

/// Why this standby can never stream again: the primary has removed the WAL that would come next. While a standby that was restarted
/// replays its own WAL, its position says nothing.
fn left_behind(context: &Context<'_>, standby: &StandbyFacts) -> Option<String> {
    let (primary, record) = context.primary()?;
    let (oldest, end) = (record.wal_start?, standby.end());
    let streams = matches!(standby.receiver, Receiver::Streaming { .. });
    (standby.complete && !streams && end < oldest)
        .then(|| format!("{} has no WAL before {oldest} any more, and mine ends at {end}", primary.name))
}
