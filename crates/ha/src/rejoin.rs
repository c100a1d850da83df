//! Becoming a standby again: start, rewind, or clone.
//!
//! ```text
//!   stopped ── was primary? ── no ──► start as standby ── ahead of the branch? ── yes ──► rewind
//!                  │ yes                                       │ no
//!                  │                                           └──► follow
//!                  ├── its timeline has ended ──► rewind (unless it was stopped cleanly, at that end or before)
//!                  ├── its timeline is another's ──► clone (two histories under one number: rewind is blind)
//!                  └── its timeline is current ── nobody leads: start as standby, race · somebody does: wait for its promotion
//!   rewind failed or was interrupted ──► clone beside
//!   rewound, and what it lacks is on a branch that was left ──► clone beside
//! ```
//!
//! A rewind waits until its source has checkpointed on its timeline: before, pg_rewind would read the old timeline from the
//! control file and find nothing to do.
//!
//! # A copy that nobody can complete
//!
//! What was rewound is a mixture of blocks until it has replayed up to where its source was then. If that source is replaced by a
//! standby that had less, no history leads there any more:
//!
//! ```text
//!   n1, timeline 2 ─────────────●──────────x    n3 is rewound, and needs timeline 2 up to x
//!   n2, timeline 3               ╲─────────     promoted at ●
//! ```
//!
//! PostgreSQL waits for ever, or panics as soon as it meets timeline 3. A second pg_rewind would make it worse: it replays from the last
//! checkpoint before ●, and blocks that the first one did not copy may be older than that. Only a clone helps.

use crate::action::{Action, Decision};
use crate::bootstrap;
use crate::context::{Context, Holding, SOON};
use crate::facts::{ControlState, Initialised, OperationKind};
use crate::recovery::{self, Verdict};
use crate::switchover;
use crate::sync;
use crate::timeline;

/// Between two tries to start.
const RETRY: std::time::Duration = std::time::Duration::from_secs(2);

/// Release the lock without a position: whoever is fit may take it.
pub(crate) fn hand_over(context: &Context<'_>, why: &str) -> Decision {
    match context.holding {
        Holding::Mine { guard, .. } => context.idle(
            vec![Action::ReleaseLock { guard, status: None }],
            format!("released the leader lock: {why}"),
        ),
        Holding::Unadopted(_) | Holding::Other(_) | Holding::Absent { .. } => context.idle(Vec::new(), why),
    }
}

/// Stopped, with a readable data directory.
pub(crate) fn stopped(context: &Context<'_>, data: &Initialised) -> Decision {
    match context.holding {
        Holding::Mine { .. } => holder(context, data),
        Holding::Unadopted(_) => {
            context.tick(Vec::new(), "adopting the leader lock from before a restart").within(SOON)
        }
        Holding::Other(_) => follower(context, data),
        Holding::Absent { .. } => alone(context, data),
    }
}

/// We hold the lock and PostgreSQL is down.
fn holder(context: &Context<'_>, data: &Initialised) -> Decision {
    let Holding::Mine { guard, .. } = context.holding else { unreachable!("the holder") };
    if data.rewind_unfinished {
        return hand_over(context, "the data directory here is half rewound");
    }
    if let Some(decision) = switchover::stopped(context, data) {
        return decision;
    }
    for kind in [OperationKind::StartAsPrimary, OperationKind::StartAsStandby, OperationKind::Restart] {
        if let Some((_, why)) = context.failed(kind) {
            return hand_over(context, &format!("{kind} failed: {why}"));
        }
    }
    if context.fence_at().is_some_and(|at| context.now >= at) {
        return context
            .tick(Vec::new(), "renewing the leader lock before PostgreSQL is started")
            .within(SOON);
    }
    let superseded =
        context.history().current() > timeline::of(context, data) || timeline::usurped(context).is_some();
    if data.standby_signal || !data.state.of_a_primary() || superseded {
        // Fenced, or never a primary: never read-write again without a promotion (S12).
        let start = Action::StartAsStandby { upstream: None, slot: None };
        return context.tick(vec![start], "starting as a standby, I hold the leader lock").within(SOON * 2);
    }
    if let Some(unfit) = &context.policy.local.unfit {
        return hand_over(context, &unfit.why);
    }
    let reason = match recovery::judge(context, data) {
        Verdict::InPlace(reason) => reason,
        Verdict::HandOver(why) => return hand_over(context, &why),
    };
    let names =
        context.sync().and_then(|document| document.entries.last()).map(sync::names).unwrap_or_default();
    let start = Action::StartAsPrimary { guard, names };
    context.tick(vec![start], reason).within(SOON * 2)
}

/// Somebody else holds the lock.
fn follower(context: &Context<'_>, data: &Initialised) -> Decision {
    if data.rewind_unfinished {
        return bootstrap::clone(context, "an unfinished rewind");
    }
    if context.failed(OperationKind::Rewind).is_some() || context.failed(OperationKind::Clone).is_some() {
        return bootstrap::clone(context, "the rewind failed");
    }
    if let Some(why) = timeline::forsaken(context) {
        return bootstrap::clone(context, &why);
    }
    let current = context.history().current();
    if let Some(timeline) = data.was_primary_on {
        if timeline < current && data.timeline >= current {
            return start(
                context,
                "starting as a secondary: I have followed the current timeline since I was primary",
            );
        }
        if timeline >= current {
            let reason = "waiting for the leader to be promoted: I was primary on the current timeline";
            return context.idle(Vec::new(), reason);
        }
        // Stopped cleanly, and where the timeline ended: a prefix of what everybody has.
        let ended = context.history().end_of(timeline);
        if data.state == ControlState::ShutDown
            && data.timeline == timeline
            && data.wal_end.is_some_and(|end| Some(end) <= ended)
        {
            let reason = format!(
                "starting as a secondary: nothing was written here after the end of timeline {timeline}"
            );
            return start(context, &reason);
        }
        return rewind(context, &format!("I was primary on timeline {timeline}"));
    }
    if let Some(why) = hopeless(context, data, context.failed(OperationKind::StartAsStandby).is_some()) {
        return bootstrap::clone(context, &why);
    }
    // Whether a standby went too far is judged when it runs: its control file speaks of its last restart point, and pg_rewind wants
    // everything here replayed.
    start(context, "starting as a secondary")
}

/// Why a standby will never run with what lies here: its files are consistent only from a position on that the cluster has left, and
/// it is a copy that has not come there, or `tried` in vain (whatever it is, and if PostgreSQL lost sight of what it copied).
pub(crate) fn hopeless(context: &Context<'_>, data: &Initialised, tried: bool) -> Option<String> {
    let at = data.consistent_from.filter(|at| context.diverged(at.timeline, at.lsn))?;
    match (data.incomplete, tried) {
        (true, _) => Some(format!("this copy needs WAL up to {at}, and that was left")),
        (false, true) => Some(format!("it does not start, and its files are from {at}, which was left")),
        (false, false) => None,
    }
}

/// Nobody holds the lock.
fn alone(context: &Context<'_>, data: &Initialised) -> Decision {
    if data.rewind_unfinished {
        return context.idle(Vec::new(), "waiting for a leader to clone from: an unfinished rewind");
    }
    if timeline::usurped(context).is_some() {
        return context.idle(Vec::new(), "waiting for a leader to clone from: my timeline has two histories");
    }
    if let Some(why) = hopeless(context, data, false) {
        return context.idle(Vec::new(), format!("waiting for a leader to clone from: {why}"));
    }
    let behind = context.history().current() > timeline::of(context, data);
    if behind && data.was_primary_on.is_some() {
        return context
            .idle(Vec::new(), "waiting for a leader to rewind from: I was primary on an old timeline");
    }
    // Once the heir has the lock, its promotion is waited for anyhow; a start in between would only be in its way.
    if let Some((heir, left)) = switchover::handed_over(context) {
        let reason = format!("waiting for {heir} to take the leader lock: it was released to it");
        return context.idle(Vec::new(), reason).within(left);
    }
    start(context, "starting as a standby, nobody holds the leader lock")
}

fn start(context: &Context<'_>, reason: &str) -> Decision {
    if let Some((at, why)) = context.failed(OperationKind::StartAsStandby)
        && context.now.since(at) < RETRY
    {
        return context.idle(Vec::new(), format!("failed to start PostgreSQL: {why}"));
    }
    // Whoever is new is asked once it runs, and its timeline is known (`timeline::mistaken`).
    let upstream = context.announced().filter(|upstream| timeline::may_be_asked(context, upstream));
    let slot = upstream.as_ref().and_then(|_| context.slot());
    context.idle(vec![Action::StartAsStandby { upstream, slot }], reason).within(SOON * 4)
}

/// Rewind from the primary once it has checkpointed, or clone where rewinding is not wanted.
pub(crate) fn rewind(context: &Context<'_>, why: &str) -> Decision {
    if !context.policy.use_pg_rewind {
        return bootstrap::clone(context, why);
    }
    let current = context.history().current();
    match context.primary() {
        Some((from, record)) if record.checkpoint_after_promote && record.timeline == Some(current) => {
            let reason = format!("running pg_rewind from {}: {why}", from.name);
            context.idle(vec![Action::Rewind { from }], reason)
        }
        Some((from, _)) => context
            .idle(Vec::new(), format!("waiting for checkpoint on {} before rewind: {why}", from.name))
            .within(SOON * 4),
        None => context.idle(Vec::new(), format!("waiting for a primary to rewind from: {why}")),
    }
}
