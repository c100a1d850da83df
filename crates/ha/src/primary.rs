//! A running primary: the lock first, then what only its holder may write.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::action::{Action, Decision, KeyGuard, LockGuard, StopMode};
use crate::bootstrap;
use crate::cluster::{HistoryLine, Status, SyncEntry};
use crate::context::{Context, Holding, SOON};
use crate::facts::{Lsn, Position, PrimaryFacts, Running, TimelineId};
use crate::placement;
use crate::policy::SynchronousMode;
use crate::slots;
use crate::switchover;
use crate::sync::{self, Choice, Step};

/// How long a fresh primary waits for the standbys of its first set to attach, before it looks for others. Commits wait
/// meanwhile: a standby needs about this long to notice the promotion.
pub const ATTACH_PATIENCE: Duration = Duration::from_secs(3);

/// How long a fresh primary tries to make the slots of the others before it announces itself.
pub const SLOTS_PATIENCE: Duration = Duration::from_secs(1);

pub(crate) fn decide(context: &Context<'_>, running: &Running, primary: &PrimaryFacts) -> Decision {
    match context.holding {
        Holding::Mine { guard, .. } => holder(context, guard, running, primary),
        Holding::Unadopted(_) => {
            let overdue = context.fence_at().is_some_and(|at| context.now >= at);
            if overdue {
                return context.fence("demoting self because the lease could not be renewed in time");
            }
            context
                .tick(
                    Vec::new(),
                    "adopting the leader lock: PostgreSQL runs as primary and the lock has my name",
                )
                .within(SOON)
        }
        Holding::Other(held) => {
            context.fence(format!("demoting self because {} holds the leader lock", held.holder))
        }
        Holding::Absent { .. } => bootstrap::finish(context, running)
            .unwrap_or_else(|| context.fence("demoting self because the leader lock is gone")),
    }
}

fn holder(context: &Context<'_>, guard: LockGuard, running: &Running, primary: &PrimaryFacts) -> Decision {
    if context.fence_at().is_some_and(|at| context.now >= at) {
        return context.fence("demoting self because the lease could not be renewed in time");
    }
    // Two nodes were promoted to one timeline number, and the other one announced it (S5).
    if let Some(other) = context.history().leader_of(running.timeline).filter(|leader| *leader != context.me)
    {
        return context.fence(format!("demoting self because timeline {} is {other}'s", running.timeline));
    }
    if running.timeline < context.history().current() {
        return context.fence(format!(
            "demoting self because my timeline {} is behind the cluster's timeline {}",
            running.timeline,
            context.history().current()
        ));
    }
    // History before anything is announced (S7): the record says primary only once the line is there.
    if let Some(write) = history(context, guard, running, primary) {
        // Standbys attach as soon as they read "primary", by their slots: one that is missing costs them PostgreSQL's retry
        // interval. A slot that cannot be made does not hold the announcement up for longer than this.
        let fresh = context.now.since(primary.since) < SLOTS_PATIENCE;
        let slots = if fresh { slots::wanted(context, running) } else { None };
        let mut decision = context.tick(Vec::new(), "promoted: writing the history of the cluster");
        decision.actions.retain(|action| !matches!(action, Action::PublishMember { .. }));
        // The first commit waits for a standby that waits for this.
        let leases = [context.o.primary_lease, context.o.member_lease];
        if leases.into_iter().all(|lease| context.as_good_as_new(lease)) {
            decision.actions.clear();
        }
        decision.actions.extend(slots);
        decision.actions.push(write);
        // A list ends at its first failure: nothing is announced that is not written.
        decision.actions.extend(context.announce());
        return decision.within(Duration::ZERO);
    }
    if let Some(decision) = switchover::requested(context, primary) {
        return decision;
    }
    if let Some(unfit) = context.policy.local.unfit.as_ref().filter(|unfit| unfit.step_down) {
        // The lock is released when it is stopped (`rejoin`), which a node that is unfit does instead of starting again.
        let stop = Action::Stop { mode: StopMode::Fast, checkpoint_first: false };
        return context.tick(vec![stop], format!("stepping down: {}", unfit.why)).within(SOON);
    }
    let mut actions = restore(context);
    let mut reason = format!("no action. I am ({}), the leader with the lock", context.me);
    let mut soon = false;
    match sync::step(
        &sync::State {
            me: context.me,
            document: context.view.sync.as_ref().map(|sync| &sync.value),
            names: &primary.synchronous_standby_names,
            effective: primary.sync_effective.as_ref(),
            flushed: &flushed(primary),
        },
        wanted(context, primary).as_ref(),
    ) {
        Step::Settled => {}
        Step::Write(document) => {
            reason = match &document {
                Some(document) => format!("changing the synchronous set to {}", document.to_json()),
                None => "synchronous mode is off".to_owned(),
            };
            let sync = KeyGuard::of(context.view.sync.as_ref());
            actions.push(Action::WriteSync { guard, sync, document });
            soon = true;
        }
        Step::Set(names) => {
            reason = format!("setting synchronous_standby_names to '{names}'");
            actions.push(Action::SetSynchronousStandbyNames { names: names.clone() });
            actions.push(Action::ConfirmSyncEffective { names });
            soon = true;
        }
        Step::Attach(names) => {
            reason = format!("waiting until enough of '{names}' stream");
            soon = true;
        }
        Step::Confirm(names) => {
            reason = format!("making sure that '{names}' is in effect");
            actions.push(Action::ConfirmSyncEffective { names });
            soon = true;
        }
        Step::CatchUp(lsn) => {
            reason = format!("waiting until the new synchronous set has {lsn}");
            soon = true;
        }
    }
    actions.extend(slots::wanted(context, running));
    if !primary.checkpointed {
        actions.push(Action::Checkpoint);
        soon = true;
    }
    actions.extend(status(context, guard, primary));
    actions.extend(placement::away(context));
    let decision = context.tick(actions, reason);
    if soon { decision.within(SOON * 2) } else { decision }
}

/// `/history` has a line for the timeline that ours left, and for those before it: what was promoted and never announced, and
/// the numbers that PostgreSQL skipped because it found a history file of that number (module `timeline`).
fn history(
    context: &Context<'_>,
    guard: LockGuard,
    running: &Running,
    primary: &PrimaryFacts,
) -> Option<Action> {
    let known = context.history();
    let last = primary.forked.last()?;
    if running.timeline <= known.current() && known.end_of(last.parent).is_some() {
        return None;
    }
    // Without a marker only the last promotion is known to be ours.
    let mine = context.initialised().and_then(|data| data.was_primary_on).unwrap_or(running.timeline);
    let mut document = known.clone();
    let ends = primary.forked.iter().skip(1).map(|next| next.parent).chain([running.timeline]);
    for (fork, end) in primary.forked.iter().zip(ends) {
        for parent in fork.parent.0..end.0 {
            let (timeline, next) = (TimelineId(parent), TimelineId(parent + 1));
            if known.end_of(timeline).is_some() {
                continue;
            }
            document.0.push(HistoryLine {
                timeline,
                ended_at: fork.at,
                why: fork.why.clone(),
                timestamp: Some(fork.timestamp.clone()),
                new_leader: (next >= mine).then(|| context.me.to_owned()),
            });
        }
    }
    document.0.sort_by_key(|line| line.timeline);
    Some(Action::WriteHistory { guard, history: KeyGuard::of(context.view.history.as_ref()), document })
}

/// Keys that only the holder may bring back.
fn restore(context: &Context<'_>) -> Vec<Action> {
    let mut actions = Vec::new();
    if context.view.initialize.as_ref().is_none_or(|key| key.value == crate::cluster::Initialize::Claimed)
        && let Some(data) = context.initialised()
    {
        actions.push(Action::WriteInitialize {
            guard: KeyGuard::of(context.view.initialize.as_ref()),
            system_identifier: data.system_identifier,
        });
    }
    if context.view.config.is_none() {
        actions.push(Action::WriteConfig {
            guard: KeyGuard::of(context.view.config.as_ref()),
            document: context.policy.local.bootstrap_config.clone(),
        });
    }
    actions
}

/// What the others need to know whether they have everything.
fn status(context: &Context<'_>, guard: LockGuard, primary: &PrimaryFacts) -> Option<Action> {
    let status = Status { optime: primary.written, slots: BTreeMap::new() };
    let published = context.view.status.as_ref().map(|status| status.value.optime);
    (published != Some(status.optime)).then_some(Action::WriteStatus { guard, status })
}

fn flushed(primary: &PrimaryFacts) -> BTreeMap<String, Lsn> {
    let streaming = primary.replicas.iter().filter(|replica| replica.streaming);
    streaming.map(|replica| (replica.name.clone(), replica.flushed)).collect()
}

/// The set that we want now; None: asynchronous.
fn wanted(context: &Context<'_>, primary: &PrimaryFacts) -> Option<SyncEntry> {
    match context.policy.synchronous_mode {
        SynchronousMode::Off => return None,
        SynchronousMode::On | SynchronousMode::Quorum => {}
    }
    let target =
        context.sync().and_then(|document| document.entries.last()).filter(|entry| entry.confirm > 0);
    let choices: Vec<Choice> = primary
        .replicas
        .iter()
        .filter(|replica| replica.streaming)
        .filter_map(|replica| {
            let (_, record) = context.others().find(|(name, _)| *name == replica.name)?;
            let position = Position { timeline: record.timeline?, lsn: replica.flushed };
            let nofailover = record.tags.nofailover();
            (!record.tags.nosync()).then(|| Choice { name: replica.name.clone(), nofailover, position })
        })
        .collect();
    if let Some(target) = target {
        let fresh = context.now.since(primary.since) < ATTACH_PATIENCE;
        let attached = choices.iter().filter(|choice| target.members.contains(&choice.name)).count();
        let expected = match context.policy.synchronous_mode {
            SynchronousMode::Off | SynchronousMode::On => 1,
            SynchronousMode::Quorum => target.members.len(),
        };
        if (fresh && attached < expected) || (choices.is_empty() && context.policy.synchronous_mode_strict) {
            return Some(target.clone());
        }
    }
    Some(sync::choose(context.policy, target, choices))
}
