//! Paused: an operator works. PostgreSQL is neither started, stopped, promoted nor demoted; a primary keeps its lock.

use crate::action::{Action, Decision, KeyGuard};
use crate::context::{Context, Holding};
use crate::facts::Role;

pub(crate) fn decide(context: &Context<'_>) -> Decision {
    let primary = context.running().is_some_and(|running| matches!(running.role, Role::Primary(_)));
    match (context.holding, primary) {
        (Holding::Mine { .. }, true) => context
            .tick(Vec::new(), format!("PAUSE: no action. I am ({}), the leader with the lock", context.me)),
        (Holding::Unadopted(_), _) => context.tick(Vec::new(), "PAUSE: adopting the leader lock"),
        (Holding::Mine { guard, .. }, false) if context.underway().is_none() => context.idle(
            vec![Action::ReleaseLock { guard, status: None }],
            "PAUSE: released the leader lock because PostgreSQL is not running as primary",
        ),
        (Holding::Mine { .. }, false) => {
            context.tick(Vec::new(), "PAUSE: waiting for the operation under way")
        }
        (Holding::Absent { .. }, true) => context.idle(
            vec![Action::AcquireLock {
                sync: KeyGuard::of(context.view.sync.as_ref()),
                ttl: context.policy.ttl,
            }],
            "PAUSE: acquired session lock as a leader",
        ),
        (Holding::Other(_), true) => {
            context.idle(Vec::new(), "PAUSE: continue to run as primary without lock")
        }
        (Holding::Other(held), false) => context.idle(
            Vec::new(),
            format!(
                "PAUSE: no action. I am ({}), a secondary, and following a leader ({})",
                context.me, held.holder
            ),
        ),
        (Holding::Absent { .. }, false) => {
            context.idle(Vec::new(), format!("PAUSE: no action. I am ({})", context.me))
        }
    }
}
