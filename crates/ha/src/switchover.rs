//! A planned change of the primary: checkpoint, stop, and only then let go of the lock.
//!
//! ```text
//!   asked, no candidate ─► name the best one in /failover ─► checkpoint, fast stop ─► release the lock, with the end of all WAL
//!                             writes go on                      sessions end             │ one transaction
//!   the candidate:                                                                       └─► has that end ─► lock ─► promote
//! ```
//!
//! PostgreSQL's fast stop ends the walsenders last, after every streaming standby has confirmed the shutdown checkpoint. The lock is
//! released in one transaction with that position in `/status`. So a `/status` of the very revision at which the lock vanished is the
//! end of everything that the released lock ever permitted to write, and a candidate that has it needs nobody else's position
//! ([`heir`]): whatever was acknowledged, under whichever set, lies before it.

use std::time::Duration;

use crate::action::{Action, Decision, KeyGuard, StopMode};
use crate::candidate;
use crate::cluster::{FailoverRequest, MemberRole, MemberState, Status, Versioned};
use crate::context::{Context, Holding, SOON};
use crate::facts::{ControlState, Initialised, Position, PrimaryFacts, Running, StandbyFacts};
use crate::sync;

/// A request that is due.
fn due<'o>(context: &Context<'o>) -> Option<&'o Versioned<FailoverRequest>> {
    let request = context.view.failover.as_ref().filter(|request| !request.value.is_empty())?;
    let due = request.value.scheduled_at.is_none() || context.o.scheduled_in == Some(Duration::ZERO);
    due.then_some(request)
}

/// On the running primary: Some if a request decides this tick.
pub(crate) fn requested(context: &Context<'_>, primary: &PrimaryFacts) -> Option<Decision> {
    let clear = |key| vec![Action::ClearFailoverRequest { guard: KeyGuard::of(Some(key)) }];
    let old = |key: &&Versioned<FailoverRequest>| match context.holding {
        Holding::Mine { held, .. } => key.mod_revision < held.create_revision && !key.value.is_empty(),
        Holding::Unadopted(_) | Holding::Other(_) | Holding::Absent { .. } => false,
    };
    // It was asked of whoever held the lock then, and was tried, or overtaken. As Patroni has it: a leader who is back because its
    // candidate could not be promoted does not step down once more.
    if let Some(old) = context.view.failover.as_ref().filter(old) {
        return Some(context.tick(clear(old), "cleaning up failover key after acquiring the leader lock"));
    }
    let request = due(context)?;
    let clear = || clear(request);
    let FailoverRequest { leader, member, .. } = &request.value;
    if let Some(leader) = leader.as_deref().filter(|leader| *leader != context.me) {
        return Some(context.tick(
            clear(),
            format!("cleaning up failover key: it names {leader} as leader, and that am I not"),
        ));
    }
    if member.as_deref() == Some(context.me) {
        return Some(context.tick(clear(), "cleaning up failover key: I am already the leader"));
    }
    let refusals: Vec<String> = match member {
        Some(member) => eligible(context, primary, member).err().into_iter().collect(),
        None => {
            let judged: Vec<Result<(), String>> =
                context.others().map(|(name, _)| eligible(context, primary, name)).collect();
            if judged.iter().any(Result::is_ok) {
                Vec::new()
            } else if judged.is_empty() {
                vec!["there is no other member".to_owned()]
            } else {
                judged.into_iter().filter_map(Result::err).collect()
            }
        }
    };
    if !refusals.is_empty() {
        return Some(context.tick(clear(), format!("switchover refused: {}", refusals.join("; "))));
    }
    let Some(to) = member else {
        // Who takes over is settled while this node still writes: afterwards nobody waits for anybody's position.
        let document = FailoverRequest { member: best(context, primary), ..request.value.clone() };
        let reason =
            format!("switchover: the candidate is {}", document.member.as_deref().unwrap_or_default());
        let name = Action::NameCandidate { guard: KeyGuard::of(Some(request)), document };
        return Some(context.tick(vec![name], reason).within(Duration::ZERO));
    };
    let stop = Action::Stop { mode: StopMode::Fast, checkpoint_first: true };
    Some(context.tick(vec![stop], format!("switchover to {to}: stopping PostgreSQL")).within(SOON))
}

/// The eligible member with the most WAL, then of the highest priority, then the first by name.
fn best(context: &Context<'_>, primary: &PrimaryFacts) -> Option<String> {
    let flushed = |name: &str| {
        primary.replicas.iter().filter(|replica| replica.name == name).map(|replica| replica.flushed).max()
    };
    context
        .others()
        .filter(|(name, _)| eligible(context, primary, name).is_ok())
        .max_by_key(|(name, record)| {
            (flushed(name), record.tags.failover_priority(), std::cmp::Reverse(*name))
        })
        .map(|(name, _)| name.to_owned())
}

/// Could this member take over now without loss?
fn eligible(context: &Context<'_>, primary: &PrimaryFacts, name: &str) -> Result<(), String> {
    let Some((_, record)) = context.others().find(|(other, _)| *other == name) else {
        return Err(format!("{name} is not a member"));
    };
    if record.tags.nofailover() {
        return Err(format!("{name} has the tag nofailover"));
    }
    if record.role != MemberRole::Replica || record.state != MemberState::Running {
        return Err(format!("{name} is {} and {}", record.role.as_str(), record.state.as_str()));
    }
    let Some(replica) = primary.replicas.iter().find(|replica| replica.name == name && replica.streaming)
    else {
        return Err(format!("{name} does not stream from here"));
    };
    let lag = primary.written.0.saturating_sub(replica.flushed.0);
    if lag > context.policy.maximum_lag_on_failover_bytes {
        return Err(format!("{name} is {lag} bytes behind"));
    }
    if let Some(document) = context.sync() {
        let streaming = primary.replicas.iter().filter(|replica| replica.streaming);
        let known = streaming.map(|replica| replica.name.clone()).collect();
        let member = document.entries.iter().any(|entry| entry.members.contains(name));
        if !member || !sync::promotion_quorum(&document.entries, &known) {
            return Err(format!("{name} is not in the synchronous set"));
        }
    }
    Ok(())
}

/// We hold the lock, PostgreSQL is stopped: Some if that was for a switchover.
pub(crate) fn stopped(context: &Context<'_>, data: &Initialised) -> Option<Decision> {
    let Holding::Mine { guard, .. } = context.holding else { return None };
    let request = due(context)?;
    if request.value.leader.as_deref().is_some_and(|leader| leader != context.me)
        || request.value.member.as_deref() == Some(context.me)
        || data.state != ControlState::ShutDown
    {
        return None;
    }
    let status = data.wal_end.map(|end| Status {
        optime: end,
        slots: context.view.status.as_ref().map(|status| status.value.slots.clone()).unwrap_or_default(),
    });
    let reason = "switchover: PostgreSQL is stopped, released the leader lock";
    Some(context.first(Action::ReleaseLock { guard, status }, reason))
}

/// Nobody holds the lock, and it was released with the end of everything to somebody else who may still take it: who that is, and
/// for how long it has the right of way.
pub(crate) fn handed_over<'o>(context: &Context<'o>) -> Option<(&'o str, Duration)> {
    let Holding::Absent { since_revision, since } = context.holding else { return None };
    let released = context.view.status.as_ref().is_some_and(|status| status.mod_revision == since_revision);
    let named = due(context)?.value.member.as_deref()?;
    let (heir, _) = context.others().find(|(name, _)| released && *name == named)?;
    let left = candidate::CANDIDATE_PATIENCE.checked_sub(context.now.since(since))?;
    (!left.is_zero()).then_some((heir, left))
}

/// On a running standby while nobody holds the lock: Some if it was released to this node, and nothing is missing here.
pub(crate) fn heir(context: &Context<'_>, running: &Running, standby: &StandbyFacts) -> Option<Decision> {
    let Holding::Absent { since_revision, .. } = context.holding else { return None };
    let released = context.view.status.as_ref().filter(|status| status.mod_revision == since_revision)?;
    let named = due(context)?.value.member.as_deref() == Some(context.me);
    let mine = Position { timeline: running.timeline, lsn: standby.end() };
    // On another timeline the numbers say nothing.
    let everything = mine.timeline == context.history().current() && mine.lsn >= released.value.optime;
    if !named || !everything || candidate::refused(context, standby, mine) {
        return None;
    }
    let acquire =
        Action::AcquireLock { sync: KeyGuard::of(context.view.sync.as_ref()), ttl: context.policy.ttl };
    let reason = "acquiring the leader lock as the requested candidate: everything that was written is here";
    Some(context.first(acquire, reason).within(Duration::ZERO))
}
