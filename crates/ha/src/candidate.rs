//! The race: who may take the lock that nobody holds, and the promotion of who has taken it.
//!
//! # Problem
//!
//! When the lock vanishes, several standbys could take it. The best of them must, and everybody must come to that
//! conclusion alone, from what the store says: in synchronous modes because only the best of a promotion quorum is sure to have
//! every commit, in asynchronous mode because it loses the least. Positions published while streaming are old.
//!
//! # Model
//!
//! ```text
//!   lock vanishes at revision R
//!     every standby:  StopReceiver ─► position is final ─► publish {R, timeline, lsn} in its member key
//!     a candidate:    reads the others' positions of R, is the best ─► AcquireLock  (guard: no lock, /sync as judged)
//!     next decision:  holds the lock, runs as standby ─► WriteSync, GUC, Promote  (guard: the lock, by transaction)
//! ```
//!
//! Acquire and promote are different decisions, so that each is a function of what is true then. A standby publishes its
//! position also when it may not be promoted: others need it to form a quorum.
//!
//! R is the revision at which the lock vanished as the watch delivered it; a node that came later knows only an upper bound.
//! Everybody who sees a higher R repeats its position under that one, so positions meet at the highest.
//!
//! # The refusals, in order
//!
//! tags; replay paused by hand; behind `/history` or another's timeline (S7); beyond the end of a timeline; not in the synchronous
//! set, or too few positions known (S3); lag over the limit (asynchronous); another member still says that it runs as primary;
//! a named candidate has the right of way, for a while; positions of others still missing, for a while; another member is
//! ahead.
//!
//! Source of the order: the design's list, after Patroni's `is_healthiest_node`.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::action::{Action, Decision, KeyGuard};
use crate::cluster::{MemberRecord, MemberRole, MemberState, Revision, SyncDocument, SyncEntry};
use crate::context::{Context, Holding, SOON};
use crate::facts::{Lsn, Moment, OperationKind, Position, Receiver, Running, StandbyFacts};
use crate::policy::SynchronousMode;
use crate::rejoin;
use crate::slots;
use crate::switchover;
use crate::sync::{self, Choice};
use crate::timeline;

/// How long the positions of the other standbys are waited for in asynchronous mode: a member that lives publishes within
/// a few round trips, and one that does not must not stop the cluster.
pub const POSITIONS_PATIENCE: Duration = Duration::from_millis(500);
/// How long a candidate that was named in `/failover` has the right of way.
pub const CANDIDATE_PATIENCE: Duration = Duration::from_secs(3);
/// How long the winner of a tie has to take the lock, before the next one may.
pub const TIE_PATIENCE: Duration = Duration::from_secs(1);
/// After a promotion that failed, others go first.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// Why a standby that was started a moment ago has no position yet. Too low a position would let another one win that lacks what was
/// confirmed from here.
pub(crate) const REPLAYING: &str =
    "replaying the WAL that lies here: my position is known when there is no more of it";

/// Nobody holds the lock.
pub(crate) fn race(context: &Context<'_>, running: &Running, standby: &StandbyFacts) -> Decision {
    if let Some(decision) = switchover::heir(context, running, standby) {
        return decision;
    }
    if standby.receiver != Receiver::Gone || standby.upstream.is_some() {
        return context
            .idle(vec![Action::StopReceiver], "the leader lock is gone: stopping the WAL receiver")
            .within(Duration::ZERO);
    }
    if !standby.complete {
        return context.idle(Vec::new(), REPLAYING).within(SOON);
    }
    let position = Position { timeline: running.timeline, lsn: standby.end() };
    let Holding::Absent { since_revision, since } = context.holding else { unreachable!("nobody holds it") };
    let suspicion = context.view.suspicion.as_ref().map(|suspected| &suspected.key.value);
    let round = Round {
        revision: context.race_revision(since_revision),
        since,
        revoked: suspicion.filter(|it| it.revoked).map(|it| it.suspect.as_str()),
    };
    match judge(context, standby, position, &round) {
        Ok(reason) => {
            let acquire = Action::AcquireLock {
                sync: KeyGuard::of(context.view.sync.as_ref()),
                ttl: context.policy.ttl,
            };
            context.first(acquire, reason).within(Duration::ZERO)
        }
        Err(Refusal { why, again }) => {
            let decision = context.idle(Vec::new(), why);
            match again {
                Some(again) => decision.within(again),
                None => decision,
            }
        }
    }
}

/// What positions belong to.
pub(crate) struct Round<'o> {
    /// Positions with this stamp or a newer one count.
    pub(crate) revision: Revision,
    /// When this node saw it begin.
    pub(crate) since: Moment,
    /// Whose lock was, or is to be, taken away by promises: what its record says of a running primary is no obstacle.
    pub(crate) revoked: Option<&'o str>,
}

/// Why not, and when it may be different without anything happening.
pub(crate) struct Refusal {
    pub(crate) why: String,
    pub(crate) again: Option<Duration>,
}

fn no<T>(why: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { why: why.into(), again: None })
}

fn not_yet<T>(why: impl Into<String>, left: Duration) -> Result<T, Refusal> {
    Err(Refusal { why: why.into(), again: Some(left.clamp(SOON, Duration::from_secs(1))) })
}

/// Am I the one to take the lock, by the positions of this round?
pub(crate) fn judge(
    context: &Context<'_>,
    standby: &StandbyFacts,
    mine: Position,
    round: &Round<'_>,
) -> Result<String, Refusal> {
    let waited = context.now.since(round.since);
    able(context, standby, mine)?;
    let fresh: Vec<(&str, &MemberRecord, Position)> = context
        .others()
        .filter_map(|(name, record)| Some((name, record, record.race?)))
        .filter(|(_, _, race)| race.revision >= round.revision)
        .map(|(name, record, race)| (name, record, race.position))
        .collect();

    // Synchronous: the promotion quorum.
    if let Some(document) = context.sync() {
        in_sync(context, document, mine, &fresh)?;
    }

    if let Some((name, _)) = context
        .others()
        .filter(|(name, _)| round.revoked != Some(*name))
        .find(|(_, record)| record.role == MemberRole::Primary && record.state == MemberState::Running)
    {
        return not_yet(format!("primary ({name}) is still alive"), SOON);
    }

    // A named candidate.
    let request = context
        .view
        .failover
        .as_ref()
        .map(|key| &key.value)
        .filter(|r| r.scheduled_at.is_none() || context.o.scheduled_in == Some(Duration::ZERO));
    let candidate = request.and_then(|request| request.member.as_deref());
    let optime = context.view.status.as_ref().map(|status| status.value.optime);
    let lag = optime.map_or(0, |optime| optime.0.saturating_sub(mine.lsn.0));
    if candidate == Some(context.me) {
        if waited < CANDIDATE_PATIENCE && lag > 0 {
            return not_yet(
                "switchover: not everything that the old leader wrote has arrived here",
                CANDIDATE_PATIENCE,
            );
        }
        if lag <= context.policy.maximum_lag_on_failover_bytes {
            return Ok("acquiring the leader lock as the requested candidate".to_owned());
        }
    }
    if waited < CANDIDATE_PATIENCE {
        if let Some(candidate) =
            candidate.filter(|candidate| context.others().any(|(name, _)| name == *candidate))
        {
            return not_yet(
                format!("waiting for the requested candidate {candidate} to take the lock"),
                CANDIDATE_PATIENCE - waited,
            );
        }
        if request.and_then(|request| request.leader.as_deref()) == Some(context.me) {
            return not_yet("I was asked to step down: others go first", CANDIDATE_PATIENCE - waited);
        }
    }

    // Who was asked to step down goes last.
    let stepped_down =
        request.filter(|_| waited < CANDIDATE_PATIENCE).and_then(|request| request.leader.as_deref());
    let bound = context.sync().is_some();
    let quorum = context
        .sync()
        .is_some_and(|document| sync::promotion_quorum(&document.entries, &known(context, document, &fresh)));
    if !bound && lag > context.policy.maximum_lag_on_failover_bytes {
        return no(format!("my wal position exceeds maximum replication lag: {lag} bytes behind"));
    }
    if !bound && waited < POSITIONS_PATIENCE {
        let known: BTreeSet<&str> = fresh.iter().map(|(name, ..)| *name).collect();
        let missing: Vec<&str> =
            standbys(context).filter(|name| !known.contains(name) && Some(*name) != stepped_down).collect();
        if !missing.is_empty() {
            let reason = format!("waiting for the positions of: {}", missing.join(", "));
            return not_yet(reason, POSITIONS_PATIENCE - waited);
        }
    }
    let current = context.history().current();
    for (name, record, theirs) in &fresh {
        let eligible = !record.tags.nofailover()
            && theirs.timeline >= current
            && Some(*name) != stepped_down
            && context.sync().is_none_or(|document| may_win(document, quorum, name));
        if !eligible {
            continue;
        }
        if *theirs > mine {
            return no(format!("my wal position is not the best: {name} has {theirs}, I have {mine}"));
        }
        let priority = |tags: &crate::cluster::Tags| tags.failover_priority();
        let (other, own) = (priority(&record.tags), priority(&context.policy.local.tags));
        if *theirs == mine && waited < TIE_PATIENCE && (other > own || other == own && *name < context.me) {
            return not_yet(format!("{name} has the same position and goes first"), TIE_PATIENCE - waited);
        }
    }
    Ok(format!("acquiring the leader lock: my position is the best, {mine}"))
}

/// Something here is against it, whatever the others have.
pub(crate) fn refused(context: &Context<'_>, standby: &StandbyFacts, mine: Position) -> bool {
    able(context, standby, mine).is_err()
}

fn able(context: &Context<'_>, standby: &StandbyFacts, mine: Position) -> Result<(), Refusal> {
    // A node that could not be stopped is published as `nofailover`: here is the better reason.
    if context.policy.local.unfit.is_some() {
        fit(context, standby, mine)?;
    }
    if context.policy.local.tags.nofailover() {
        return no("following a different leader because I am not allowed to promote");
    }
    fit(context, standby, mine)?;
    for kind in [OperationKind::Promote, OperationKind::StartAsPrimary] {
        if let Some((at, why)) = context.failed(kind)
            && context.now.since(at) < AFTER_FAILURE
        {
            return not_yet(format!("others go first, because {kind} failed here: {why}"), AFTER_FAILURE);
        }
    }
    Ok(())
}

/// Fit to be promoted at all, whoever else there is.
fn fit(context: &Context<'_>, standby: &StandbyFacts, mine: Position) -> Result<(), Refusal> {
    if let Some(unfit) = &context.policy.local.unfit {
        return no(format!("not promoting: {}", unfit.why));
    }
    if standby.replay_paused {
        return no("not promoting: replay is paused here");
    }
    let current = context.history().current();
    if mine.timeline < current {
        return no(format!("my timeline {} is behind the cluster's timeline {current}", mine.timeline));
    }
    if timeline::usurped(context).is_some() {
        return no("my timeline has two histories, waiting for a leader to clone from");
    }
    if let Some(why) = timeline::mistaken(context, mine.timeline) {
        return no(format!("{why}, waiting for a leader to clone from"));
    }
    Ok(())
}

/// The members of the set whose positions are known, we among them.
fn known(
    context: &Context<'_>,
    document: &SyncDocument,
    fresh: &[(&str, &MemberRecord, Position)],
) -> BTreeSet<String> {
    fresh
        .iter()
        .map(|(name, ..)| *name)
        .chain([context.me])
        .filter(|name| named(document, name))
        .map(str::to_owned)
        .collect()
}

/// Some entry names it.
fn named(document: &SyncDocument, name: &str) -> bool {
    document.entries.iter().any(|entry| entry.members.contains(name))
}

/// The named leader has every commit; anybody else that is named may win as the best of a quorum. Who cannot win is no
/// obstacle, however far ahead.
fn may_win(document: &SyncDocument, quorum: bool, name: &str) -> bool {
    document.leader.as_deref() == Some(name) || quorum && named(document, name)
}

fn in_sync(
    context: &Context<'_>,
    document: &SyncDocument,
    mine: Position,
    fresh: &[(&str, &MemberRecord, Position)],
) -> Result<(), Refusal> {
    if document.leader.as_deref() == Some(context.me) {
        return Ok(());
    }
    if !named(document, context.me) {
        return no("not promoting: I am not in the synchronous set");
    }
    let known = known(context, document, fresh);
    if !sync::promotion_quorum(&document.entries, &known) {
        let entries: Vec<String> = document
            .entries
            .iter()
            .map(|entry| {
                let members: Vec<&str> = entry.members.iter().map(String::as_str).collect();
                format!("{} of ({})", entry.confirm, members.join(", "))
            })
            .collect();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        return no(format!(
            "not promoting: commits may have been confirmed by {}, and only the positions of ({}) are known",
            entries.join(" and "),
            known.join(", ")
        ));
    }
    // The best of the members has every commit. That may also be one that cannot win.
    match fresh.iter().find(|(name, _, theirs)| named(document, name) && *theirs > mine) {
        Some((name, _, theirs)) => {
            no(format!("my wal position is not the best: {name} has {theirs}, I have {mine}"))
        }
        None => Ok(()),
    }
}

/// The other standbys whose positions matter: running when last heard of, also if their keys have expired since.
fn standbys<'c>(context: &'c Context<'_>) -> impl Iterator<Item = &'c str> {
    let record = |name: &String| context.view.members.get(name).map(|key| &key.value);
    context
        .o
        .remembered
        .iter()
        .map(move |(name, last)| (name.as_str(), record(name).unwrap_or(last)))
        .filter(|(name, record)| {
            *name != context.me
                && record.role == MemberRole::Replica
                && record.state == MemberState::Running
                && !record.tags.nofailover()
        })
        .map(|(name, _)| name)
}

/// We hold the lock and run as a standby.
pub(crate) fn promote(context: &Context<'_>, running: &Running, standby: &StandbyFacts) -> Decision {
    let Holding::Mine { guard, .. } = context.holding else { unreachable!("the holder") };
    let mine = Position { timeline: running.timeline, lsn: standby.end() };
    if let Err(Refusal { why, .. }) = fit(context, standby, mine) {
        return rejoin::hand_over(context, &why);
    }
    if let Some((at, why)) = context.failed(OperationKind::Promote)
        && context.now.since(at) < AFTER_FAILURE
    {
        return rejoin::hand_over(context, &format!("the promotion failed: {why}"));
    }
    if context.fence_at().is_some_and(|at| context.now >= at) {
        return context.tick(Vec::new(), "renewing the leader lock before the promotion").within(SOON);
    }
    let mut actions = Vec::new();
    // A candidate of the race has stopped it; to the heir of a planned switchover nobody can send anything any more.
    if let Receiver::Streaming { .. } = standby.receiver {
        actions.push(Action::StopReceiver);
    }
    let names = match context.policy.synchronous_mode {
        SynchronousMode::Off => String::new(),
        SynchronousMode::On | SynchronousMode::Quorum => {
            let (document, names) = first_set(context);
            if context.view.sync.as_ref().map(|sync| &sync.value) != Some(&document) {
                actions.push(Action::WriteSync {
                    guard,
                    sync: KeyGuard::of(context.view.sync.as_ref()),
                    document: Some(document),
                });
            }
            names
        }
    };
    // Before the promotion: its first commit waits for its first set.
    actions.push(Action::SetSynchronousStandbyNames { names });
    let marker = timeline::marker(context, running.timeline);
    let slots = slots::missing(context, running);
    actions.push(Action::Promote { guard, from: running.timeline, marker, slots });
    let reason = "promoted self to leader by acquiring session lock";
    if !context.as_good_as_new(context.o.primary_lease) {
        return context.tick(actions, reason).within(SOON);
    }
    // The lease is as good as new, and every round trip before the promotion is one without a primary.
    let mut decision = context.idle(Vec::new(), reason).within(SOON);
    decision.actions.splice(0..0, actions);
    decision
}

/// The set to be promoted under, beside all that may have confirmed commits before.
fn first_set(context: &Context<'_>) -> (SyncDocument, String) {
    let bound = context.sync();
    if let Some(document) = bound.filter(|document| document.leader.as_deref() == Some(context.me)) {
        let names = document.entries.last().map(sync::names).unwrap_or_default();
        return (document.clone(), names);
    }
    let choices = context
        .others()
        .filter(|(_, record)| record.role == MemberRole::Replica && record.state == MemberState::Running)
        .filter(|(_, record)| !record.tags.nosync())
        .filter_map(|(name, record)| {
            let last = Position { timeline: record.timeline?, lsn: record.xlog_location.unwrap_or(Lsn(0)) };
            let position = record.race.map_or(last, |race| race.position);
            Some(Choice { name: name.to_owned(), nofailover: record.tags.nofailover(), position })
        })
        .collect();
    let entry = sync::choose(context.policy, None, choices);
    let before = match bound {
        Some(document) => document.clone(),
        // Commits so far waited for nobody: only we are known to have what we have.
        None => SyncDocument { leader: None, entries: vec![SyncEntry::default()] },
    };
    let names = sync::names(&entry);
    (sync::appended(&before, context.me, &entry), names)
}
