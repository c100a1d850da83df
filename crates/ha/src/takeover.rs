//! Take-over by quorum: nobody waits for the lease of a primary that the standbys can disarm together.
//!
//! # Problem
//!
//! A lease bounds how long a lost primary may go on acknowledging, and everybody has to wait that long. In the synchronous modes time is not
//! what protects a commit: a commit is acknowledged only with standbys of the set in `/sync`. Take those standbys away, and
//! the old primary can acknowledge nothing, wherever it is, also when its agent stands still and fences nobody.
//!
//! # Model
//!
//! ```text
//!            the store's leader has heard nothing from the holder's node for failure_timeout (or it is surely gone)
//!   suspect  ── /suspicion {suspect, lock} ──► generation G = its revision           changes nothing by itself
//!               │                    ▲ the suspect reads it: it is here ──► ClearSuspicion, everybody follows again
//!   promise  every standby: StopReceiver ─► receiver gone ─► member key {G, position}
//!               │                    nobody follows a suspected holder, also after a restart: `Context::announced` is None
//!   revoke   promises meet every commit quorum of every entry of /sync, and I am the best of them:
//!               │  RevokeLock  (one transaction: that lock, that G, that /sync)
//!   race     the lock is absent: what is known from `candidate`, with the same positions, judged by the same rule
//! ```
//!
//! Granting the lock to the winner in the transaction that takes it away would save a round trip and cost a second kind of race.
//!
//! # Why it is safe
//!
//! *Nothing acknowledged is lost (S3).* The race that follows promotes only the best of positions that meet every commit
//! quorum of every listed entry, each published after its WAL receiver was gone. That argument (`candidate`, `sync`) never
//! used time. The promises before it decide only *when* the race begins.
//!
//! *The old primary acknowledges nothing that the new one lacks (S1).* Each commit needs `confirm` members of an entry that
//! is listed. A quorum of them streams from nobody from its promise until a new primary is announced: it would have to
//! follow the old one again, and `Context::announced` and `Context::primary` name nobody while the suspicion stands, and
//! only the new holder after. A promise holds across restarts because nothing of it is in memory: the upstream is
//! cleared on disk, the suspicion stands in the store, and an agent without the store follows nobody new.
//! To narrow its set the old primary needs the store, with the lock it no longer has.
//!
//! *A late return costs nothing.* ClearSuspicion and RevokeLock compare the same revision of the same key: one of them wins.
//! Sessions that lowered `synchronous_commit` are outside all of this; the lease bounds them as before.
//!
//! # What suspicion is made of
//!
//! What the store's leader heard, not what this node heard: a cut between two standbys and the primary must not
//! stop a cluster whose leader sees everybody. Hard evidence (both of the node's ports refuse, and its replication connection here is
//! gone) shortens the wait to [`REFUSED`]. An agent that crashed alone is no such evidence: its PostgreSQL still streams.
//!
//! Source: the project's exhaustive model of take-over; its mutations are mutations of the simulation.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::action::{Action, Decision, KeyGuard, LockGuard};
use crate::candidate::{self, Round};
use crate::cluster::{Held, Suspicion};
use crate::context::{Context, SOON};
use crate::facts::{Position, Receiver, Running, StandbyFacts};
use crate::sync;

/// How long a node must have been silent when its ports refuse: longer than the listeners of a process that is started again at
/// once are away.
pub const REFUSED: Duration = Duration::from_millis(300);

/// What there is to suspect the holder by; None: nothing.
fn evidence(context: &Context<'_>, held: &Held, standby: &StandbyFacts) -> Option<String> {
    // Without a set that binds nobody, promises protect nothing: take-over is by time.
    context.sync()?;
    let limit = context.policy.failure_timeout;
    if limit.is_zero() {
        return None;
    }
    let voters = &context.o.voters;
    let silent = *voters.silent.get(&held.holder)?;
    if silent >= limit {
        return Some(format!("the store's leader has heard nothing from it for {} ms", silent.as_millis()));
    }
    let streaming = matches!(standby.receiver, Receiver::Streaming { .. });
    let refuses = voters.refusing.contains(&held.holder);
    (refuses && !streaming && silent >= REFUSED).then(|| {
        format!("its ports refuse and the store's leader has heard nothing for {} ms", silent.as_millis())
    })
}

/// On a standby that follows `held`: Some if there is reason to suspect it.
pub(crate) fn suspect(context: &Context<'_>, held: &Held, standby: &StandbyFacts) -> Option<Decision> {
    let why = evidence(context, held, standby)?;
    let document = Suspicion {
        suspect: held.holder.clone(),
        lock: held.create_revision,
        by: context.me.to_owned(),
        why: why.clone(),
        revoked: false,
    };
    let guard = KeyGuard::of(context.view.suspicion.as_ref().map(|suspected| &suspected.key));
    let suspect = Action::Suspect { guard, document };
    Some(context.first(suspect, format!("suspecting {}: {why}", held.holder)).within(SOON))
}

/// On a standby while the holder is suspected: promise, and take the lock away when the promises suffice.
pub(crate) fn promise(
    context: &Context<'_>,
    held: &Held,
    running: &Running,
    standby: &StandbyFacts,
) -> Decision {
    let (Some(suspected), Some(document)) = (context.suspected(), context.sync()) else {
        unreachable!("asked only when both are there");
    };
    let suspect = &held.holder;
    if standby.receiver != Receiver::Gone || standby.upstream.is_some() {
        let reason = format!("{suspect} is suspected: stopping the WAL receiver before I promise");
        return context.idle(vec![Action::StopReceiver], reason).within(Duration::ZERO);
    }
    if !standby.complete {
        return context.idle(Vec::new(), candidate::REPLAYING).within(SOON);
    }
    let mine = Position { timeline: running.timeline, lsn: standby.end() };
    let generation = suspected.key.mod_revision;
    let promised: BTreeSet<String> = context
        .others()
        .filter(|(_, record)| record.race.is_some_and(|race| race.revision == generation))
        .map(|(name, _)| name)
        .chain([context.me])
        .map(str::to_owned)
        .collect();
    if !sync::promotion_quorum(&document.entries, &promised) {
        let promised: Vec<&str> = promised.iter().map(String::as_str).collect();
        let reason = format!(
            "{suspect} is suspected ({}), I have promised to stream from nobody; promises of ({}) are not enough",
            suspected.key.value.why,
            promised.join(", ")
        );
        return context.idle(Vec::new(), reason).within(SOON * 4);
    }
    // Nobody takes a lock away for whom there is no successor; the successor does it itself.
    let round = Round { revision: generation, since: suspected.since, revoked: Some(suspect) };
    match candidate::judge(context, standby, mine, &round) {
        Ok(_) => {
            let revoke = Action::RevokeLock {
                lock: held.clone(),
                suspicion: KeyGuard::of(Some(&suspected.key)),
                sync: KeyGuard::of(context.view.sync.as_ref()),
                document: Suspicion { revoked: true, ..suspected.key.value.clone() },
            };
            context
                .first(revoke, format!("taking the leader lock away from {suspect}: promises suffice"))
                .within(Duration::ZERO)
        }
        Err(refusal) => context.idle(Vec::new(), refusal.why).within(refusal.again.unwrap_or(SOON * 4)),
    }
}

/// On the holder: the suspicion is answered, or an old one tidied away.
pub(crate) fn answer(context: &Context<'_>, guard: LockGuard) -> Option<Action> {
    let suspected = context.view.suspicion.as_ref()?;
    Some(Action::ClearSuspicion { guard, suspicion: KeyGuard::of(Some(&suspected.key)) })
}
