//! No data directory yet: one node makes the cluster, the others clone it. Nothing is ever written over (S9).

use std::time::Duration;

use crate::action::{Action, Decision, KeyGuard, Upstream};
use crate::cluster::{Initialize, Versioned};
use crate::context::{Context, Holding, SOON};
use crate::facts::{OperationFacts, OperationKind, Outcome, Running};

/// Between two tries of what has failed.
pub(crate) const RETRY: Duration = Duration::from_secs(5);

/// `/initialize` is our own claim.
fn claimed(context: &Context<'_>, key: &Versioned<Initialize>) -> bool {
    key.value == Initialize::Claimed
        && key.lease.is_some()
        && key.lease == context.o.member_lease.map(|lease| lease.id)
}

pub(crate) fn empty(context: &Context<'_>) -> Decision {
    match context.holding {
        Holding::Mine { guard, .. } => {
            return context.idle(
                vec![Action::ReleaseLock { guard, status: None }],
                "released leader key voluntarily as data dir empty and currently leader",
            );
        }
        Holding::Unadopted(_) => {
            return context
                .tick(Vec::new(), "adopting the leader lock to release it: the data directory is empty");
        }
        Holding::Other(_) | Holding::Absent { .. } => {}
    }
    let Some(lease) = context.o.member_lease else {
        return context.idle(Vec::new(), "waiting for a member lease");
    };
    match &context.view.initialize {
        None => {
            if let Some(unfit) = &context.policy.local.unfit {
                let reason = format!("not bootstrapping a new cluster: {}", unfit.why);
                return context.idle(Vec::new(), reason);
            }
            if let Some((at, why)) = context.failed(OperationKind::Bootstrap)
                && context.now.since(at) < RETRY
            {
                return context.idle(Vec::new(), format!("failed to bootstrap a new cluster: {why}"));
            }
            context
                .idle(vec![Action::ClaimInitialize { lease: lease.id }], "trying to bootstrap a new cluster")
                .within(SOON)
        }
        Some(key) if claimed(context, key) => match context.failed(OperationKind::Bootstrap) {
            Some((at, why)) if context.now.since(at) < RETRY => context.idle(
                vec![Action::AbandonInitialize { guard: KeyGuard::of(Some(key)) }],
                format!("removing initialize key after failed attempt to bootstrap the cluster: {why}"),
            ),
            Some(_) | None => {
                context.idle(vec![Action::Bootstrap], "bootstrapping a new cluster").within(SOON * 4)
            }
        },
        Some(Versioned { value: Initialize::Claimed, .. }) => {
            context.idle(Vec::new(), "waiting for leader to bootstrap")
        }
        Some(Versioned { value: Initialize::Done(_), .. }) => clone(context, "no data directory"),
    }
}

/// Clone beside, from a willing replica or from the primary; the old directory stays until the clone is complete.
pub(crate) fn clone(context: &Context<'_>, why: &str) -> Decision {
    if let Some((at, failure)) = context.failed(OperationKind::Clone)
        && context.now.since(at) < RETRY
    {
        return context.idle(Vec::new(), format!("failed to clone: {failure}"));
    }
    let Some((primary, _)) = context.primary() else {
        return context.idle(Vec::new(), format!("waiting for leader to bootstrap ({why})"));
    };
    let from: Upstream = primary;
    let reason = format!("bootstrap from leader '{}' in progress ({why})", from.name);
    context.idle(vec![Action::Clone { from, slot: context.slot() }], reason)
}

pub(crate) fn unreadable(context: &Context<'_>, why: &str) -> Decision {
    match context.holding {
        Holding::Mine { guard, .. } => context.idle(
            vec![Action::ReleaseLock { guard, status: None }],
            format!("released leader key voluntarily as data dir is not readable: {why}"),
        ),
        Holding::Unadopted(_) => context
            .tick(Vec::new(), "adopting the leader lock to release it: the data directory is not readable"),
        Holding::Other(_) | Holding::Absent { .. } => {
            if context.view.initialize.as_ref().is_some_and(|key| claimed(context, key)) {
                let guard = KeyGuard::of(context.view.initialize.as_ref());
                return context.idle(
                    vec![Action::AbandonInitialize { guard }],
                    format!("removing initialize key after failed attempt to bootstrap the cluster: {why}"),
                );
            }
            context
                .idle(Vec::new(), format!("the data directory is not readable and is left as it is: {why}"))
        }
    }
}

/// A running primary that nobody has locked yet: the end of our own bootstrap, or an instance from before Quorate in a
/// cluster without keys. Some: it may take the lock.
pub(crate) fn finish(context: &Context<'_>, _running: &Running) -> Option<Decision> {
    let system_identifier = context.initialised()?.system_identifier;
    let acquire =
        Action::AcquireLock { sync: KeyGuard::of(context.view.sync.as_ref()), ttl: context.policy.ttl };
    match &context.view.initialize {
        Some(key) if claimed(context, key) => {
            let done = match &context.o.operation {
                OperationFacts::Finished { kind: OperationKind::Bootstrap, outcome, .. } => match outcome {
                    Outcome::Succeeded => true,
                    Outcome::Failed { .. } => false,
                },
                OperationFacts::Finished { .. } | OperationFacts::Idle | OperationFacts::Running { .. } => {
                    true
                }
            };
            if !done {
                return None;
            }
            let mut actions = Vec::new();
            if context.view.config.is_none() {
                actions.push(Action::WriteConfig {
                    guard: KeyGuard::of(context.view.config.as_ref()),
                    document: context.policy.local.bootstrap_config.clone(),
                });
            }
            // The lock first: the others look for a holder as soon as they read an identifier.
            actions.push(acquire);
            actions.push(Action::WriteInitialize { guard: KeyGuard::of(Some(key)), system_identifier });
            Some(context.idle(actions, "initialized a new cluster").within(SOON))
        }
        Some(_) => None,
        None => Some(
            context
                .idle(vec![acquire], "acquired session lock as a leader of a cluster without keys")
                .within(SOON),
        ),
    }
}
