//! While something long is under way: the lock is renewed, and nothing else is begun.
//!
//! A start as a standby is over, for this, as soon as PostgreSQL runs: it is told whom to ask, and what can never start is cloned
//! instead, which ends the wait.

use crate::action::{Action, Decision};
use crate::bootstrap;
use crate::context::{Context, Holding, SOON};
use crate::facts::{Endpoint, Moment, OperationKind, Process, Role};
use crate::rejoin;
use crate::timeline;

/// May PostgreSQL accept writes, now or at the end of the operation?
fn may_write(context: &Context<'_>, kind: OperationKind) -> bool {
    let running_primary = context.running().is_some_and(|running| matches!(running.role, Role::Primary(_)));
    let standby = context.standby().is_some() || context.initialised().is_some_and(|d| d.standby_signal);
    match kind {
        OperationKind::StartAsPrimary | OperationKind::Promote => true,
        OperationKind::Restart => running_primary || !standby,
        OperationKind::Stop => running_primary,
        OperationKind::Bootstrap
        | OperationKind::Clone
        | OperationKind::Rewind
        | OperationKind::StartAsStandby => false,
    }
}

pub(crate) fn decide(context: &Context<'_>, kind: OperationKind, started: Moment) -> Decision {
    // The rest is PostgreSQL's: it may take its whole pg_ctl_timeout, and need somebody who was not there when it was begun.
    if let (OperationKind::StartAsStandby, Process::Starting { since, as_standby: true, upstream }) =
        (kind, &context.o.instance.process)
    {
        return starting(context, *since, true, upstream.as_ref());
    }
    let writes = may_write(context, kind);
    match context.holding {
        Holding::Mine { .. } => {
            if writes && context.fence_at().is_some_and(|at| context.now >= at) {
                return context.fence("demoting self because the lease could not be renewed in time");
            }
            let patience = match kind {
                // Nothing to hand over to before there is data, and a stop is bounded by PostgreSQL.
                OperationKind::Bootstrap | OperationKind::Stop => {
                    return context.tick(Vec::new(), going_on(context, kind));
                }
                OperationKind::StartAsPrimary
                | OperationKind::StartAsStandby
                | OperationKind::Promote
                | OperationKind::Restart => context.policy.primary_start_timeout,
                // The holder has no good data directory: the lock belongs to somebody who has.
                OperationKind::Clone | OperationKind::Rewind => {
                    return rejoin::hand_over(context, "its data directory is being replaced");
                }
            };
            if context.now.since(started) < patience {
                return context.tick(Vec::new(), going_on(context, kind));
            }
            // The next decision finds it stopped with standby.signal.
            context.fence(format!("{kind} has not finished within primary_start_timeout, giving up"))
        }
        Holding::Unadopted(_) => context.tick(Vec::new(), going_on(context, kind)),
        Holding::Other(held) if writes => {
            context.fence(format!("demoting self because {} holds the leader lock", held.holder))
        }
        Holding::Absent { .. } if writes => context.fence("demoting self because the leader lock is gone"),
        Holding::Other(_) | Holding::Absent { .. } => context.idle(Vec::new(), going_on(context, kind)),
    }
}

fn going_on(context: &Context<'_>, kind: OperationKind) -> String {
    let lock = match context.holding {
        Holding::Mine { .. } | Holding::Unadopted(_) => "updated leader lock during",
        Holding::Other(_) | Holding::Absent { .. } => "waiting for the end of",
    };
    format!("{lock} {kind}")
}

/// PostgreSQL starts: as a standby, or not by an operation of this agent (it was restarted meanwhile, or somebody else started it).
pub(crate) fn starting(
    context: &Context<'_>,
    since: Moment,
    as_standby: bool,
    upstream: Option<&Endpoint>,
) -> Decision {
    match context.holding {
        Holding::Mine { .. } => {
            if !as_standby && context.fence_at().is_some_and(|at| context.now >= at) {
                return context.fence("demoting self because the lease could not be renewed in time");
            }
            if context.now.since(since) >= context.policy.primary_start_timeout {
                return context.fence("PostgreSQL has not started within primary_start_timeout, giving up");
            }
            context.tick(Vec::new(), "PostgreSQL is still starting up, I hold the leader lock")
        }
        Holding::Unadopted(_) => {
            context.tick(Vec::new(), "PostgreSQL is still starting up, adopting the leader lock")
        }
        Holding::Other(held) if !as_standby => context
            .fence(format!("PostgreSQL starts as a primary, and {} holds the leader lock", held.holder)),
        Holding::Absent { .. } if !as_standby => {
            context.fence("PostgreSQL starts as a primary, and nobody holds the leader lock")
        }
        Holding::Other(_) | Holding::Absent { .. } => {
            let tried = context.now.since(since) >= context.policy.primary_start_timeout;
            let data = context.initialised();
            if let Some(why) = data.and_then(|data| rejoin::hopeless(context, data, tried)) {
                return bootstrap::clone(context, &why);
            }
            let reason = "PostgreSQL is still starting up";
            // A clone, or what was rewound, is not consistent before it has WAL that only the primary has; it may have been started when
            // nobody was one. Not what may have a history of its own under a number of the cluster's, as when it runs.
            // What is no copy needs nobody, and whom it may ask is judged by its timeline, which shows when it runs.
            let needy =
                context.now.since(since) >= context.policy.ttl || data.is_some_and(|data| data.incomplete);
            let may_follow = timeline::usurped(context).is_none() && timeline::unanswered(context).is_none();
            let wanted = context.announced().filter(|wanted| upstream != Some(&wanted.endpoint));
            match wanted.filter(|it| may_follow && (needy || timeline::may_be_asked(context, it))) {
                Some(upstream) => {
                    context.first(Action::Follow { upstream, slot: context.slot() }, reason).within(SOON * 4)
                }
                None => context.idle(Vec::new(), reason).within(SOON * 4),
            }
        }
    }
}

/// PostgreSQL stops, and not by an operation of this agent; or its postmaster is gone and the last backends are about to notice.
pub(crate) fn stopping(context: &Context<'_>) -> Decision {
    if let Holding::Mine { .. } = context.holding
        && context.fence_at().is_some_and(|at| context.now >= at)
    {
        return context.fence("demoting self because the lease could not be renewed in time");
    }
    let Process::Stopping { since } = context.o.instance.process else { unreachable!("asked for no other") };
    // Backends whose postmaster was killed end within milliseconds, a shutdown checkpoint may take minutes.
    let again = if context.now.since(since) < SOON * 20 { SOON } else { SOON * 4 };
    context.tick(Vec::new(), "PostgreSQL is being stopped by somebody else").within(again)
}

/// A postmaster that answers nothing. It may still acknowledge commits on connections that it has.
pub(crate) fn unresponsive(context: &Context<'_>, since: Moment) -> Decision {
    let Process::Unresponsive { .. } = context.o.instance.process else { unreachable!("asked for no other") };
    let standby = context.initialised().is_some_and(|initialised| initialised.standby_signal);
    match context.holding {
        Holding::Mine { .. } if !standby => {
            let overdue = context.fence_at().is_some_and(|at| context.now >= at);
            // A stall shorter than a ttl demotes nobody (L3); a longer one is no primary any more.
            if overdue || context.now.since(since) >= context.policy.ttl {
                return context.fence("demoting self because PostgreSQL does not answer");
            }
            context.tick(Vec::new(), "PostgreSQL does not answer, I hold the leader lock").within(SOON * 4)
        }
        Holding::Mine { guard, .. } => {
            let release: Vec<Action> = vec![Action::ReleaseLock { guard, status: None }];
            context.idle(release, "released the leader lock because the standby here does not answer")
        }
        Holding::Unadopted(_) => {
            context.tick(Vec::new(), "PostgreSQL does not answer, adopting the leader lock")
        }
        Holding::Other(held) if !standby => {
            context.fence(format!("PostgreSQL does not answer, and {} holds the leader lock", held.holder))
        }
        Holding::Absent { .. } if !standby => {
            context.fence("PostgreSQL does not answer, and nobody holds the leader lock")
        }
        Holding::Other(_) | Holding::Absent { .. } => context.idle(Vec::new(), "PostgreSQL does not answer"),
    }
}
