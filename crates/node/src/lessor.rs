//! Deadlines of leases, as a pure state machine: time comes in, decisions come out.
//!
//! # Model
//!
//! That a lease exists, and which keys hang on it, is replicated. When it expires is not: only the leader's lessor counts
//! time, in memory, on `CLOCK_BOOTTIME`. Followers' lessors know the same leases and are silent.
//!
//! ```text
//!            promote: deadline = now + checkpoint, or            demote: no deadlines
//!                     last possible renewal + ttl
//!   silent ────────────────────────────────────────────► armed ─────────────────────► silent
//!                                                          │ renew: deadline = now + ttl
//!                                                          │ due: deadline passed ──► revoking (a LeaseRevoke is under way)
//! ```
//!
//! # Checkpoints
//!
//! A new leader knows no renewal. It knows when the leaders before it were confirmed for the last time (from the votes, see
//! [`quorate_consensus::Consensus::last_confirmation_before`]): no holder has heard of a renewal that was asked for later, so a change
//! of the leader lengthens a lease that is being renewed by no more than the time since its last renewal. But one
//! that nobody renews would live as long as leaders change often enough. So the leader notes in the log what remains of
//! leases that miss renewals: after half of the ttl (5 minutes at most), then after every further quarter (5 minutes at
//! most). Clients renew after a third: a lease that is renewed costs no entry. One that was checkpointed and is renewed
//! after all costs one more, which takes the checkpoint back *before* the holder hears "renewed".
//!
//! ```text
//!    renewed at t       t + ttl/2                        leader gone      promoted at p
//!       ├──────────────────┼─ checkpoint(r = ttl/2) ─────────┼──────────────────┼────────────────────┤
//!       │                  c                                                    p                  p + r
//!       └── the old leader could have revoked at t + ttl = c + r, not before ──────────┘   p > c, so p + r > c + r
//! ```
//!
//! Why a new leader's deadline is never before one that the old leader, or the holder, could have counted on:
//!
//! - A checkpoint says that at `c` the lease had `r` left. It was judged before it was proposed, and applied here before
//!   `p`: so `p > c` and `p + r > c + r`. What counts are durations of one clock each; no two clocks are compared.
//! - A renewal that was answered after `c` took the checkpoint back, by an entry that was committed before the answer
//!   and so is applied here before `p`: the lease begins in full, at `p`, which is after the renewal was sent.
//! - A renewal that found no checkpoint, neither noted nor on its way, was confirmed by a quorum of the old leader's term,
//!   so it was asked for before the last confirmation, which is where a lease without a checkpoint begins. A checkpoint judged before
//!   it would have been on its way; one judged after it counts it in.
//! - A grant, or a checkpoint that was taken back, is applied here after it was asked for, and such a lease begins no earlier than that:
//!   the entry may have come here, and been committed, without any leader ever having been confirmed since.
//! - A checkpoint that is overtaken (by a renewal, by a new lease under the same id) names a stamp that the record no
//!   longer has, and changes nothing.
//!
//! And not much later either: a lease that nobody renews is checkpointed at the latest after half of its ttl, so every
//! change of the leader gives it at most that, and the time of the change itself (and [`Lessor::promote`]'s `grace`).
//!
//! # Invariants
//!
//! 1. A deadline is never earlier than (grant, last confirmed renewal, when they were asked for) + ttl: a change of the leader only
//!    lengthens.
//!    Nothing but [`Lessor::demote`] takes a deadline back.
//! 2. While a revocation is under way, or its outcome is unknown, the lease cannot be renewed: a holder that hears
//!    "renewed" keeps its lease.
//! 3. Time in which this process did not run is not held against holders ([`Lessor::forgive`]): their renewals could not
//!    be heard, and those that wait in its sockets get the time to be.
//! 4. A lease that is past its deadline but not yet being revoked may still be renewed: existence in the replicated state
//!    is what counts, and nobody has acted on its end yet.
//! 5. No holder hears "renewed" while a checkpoint that does not know of it is noted or on its way.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_state::{LeaseId, LeaseRecord};

/// However long a lease lives, this is the most that a change of the leader gives it back. As in etcd.
const LONGEST_UNCOUNTED: Duration = Duration::from_secs(300);

/// All leases of the store, with deadlines while this member leads. `now` is time since boot.
#[derive(Debug, Default)]
pub struct Lessor {
    armed: bool,
    leases: BTreeMap<LeaseId, Lease>,
    /// (when to look, lease) of every lease that has a deadline and no revocation in flight.
    queue: BTreeSet<(Duration, LeaseId)>,
    /// (when to note what remains, lease).
    checkpoints: BTreeSet<(Duration, LeaseId)>,
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    /// When its grant, or the end of its last checkpoint, was heard of here.
    since: Duration,
    /// As in the record.
    stamp: u64,
    /// As in the record: what a new leader begins with, unless in full.
    noted: Option<Duration>,
    deadline: Option<Duration>,
    /// Its place in the queue: the deadline, or the next attempt to revoke it.
    queued: Option<Duration>,
    /// Its place among the checkpoints.
    checkpoint: Option<Duration>,
    /// The stamp that a checkpoint was proposed on. While the record still has it, the checkpoint may yet be applied.
    proposed: Option<u64>,
    /// A revocation was proposed: no renewal.
    revoking: bool,
    /// … and it is not known what became of it. Until it is applied, or the leader changes, this stays.
    unknown: bool,
}

/// What a renewal comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renew {
    /// By the full ttl.
    Renewed {
        /// The lease's time to live.
        ttl: Duration,
    },
    /// The deadline was moved, but a new leader would not know. Take the checkpoint of this stamp back, in the log, and
    /// ask again; the holder must not hear of a renewal before.
    Noted {
        /// Names the state of the lease, see [`quorate_state::LeaseRemaining::stamp`].
        stamp: u64,
    },
    /// Its end is under way. What becomes of that decides.
    Revoking,
    /// There is no such lease.
    Unknown,
    /// This lessor counts no time.
    Silent,
}

/// What is to be noted of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remaining {
    /// Which lease.
    pub id: LeaseId,
    /// What this was judged on.
    pub stamp: u64,
    /// Never zero.
    pub remaining: Duration,
}

impl Lease {
    fn new(record: &LeaseRecord, since: Duration) -> Lease {
        Lease {
            ttl: Duration::from_millis(record.ttl_ms),
            since,
            stamp: record.stamp,
            noted: record.remaining_ms.map(Duration::from_millis),
            deadline: None,
            queued: None,
            checkpoint: None,
            proposed: None,
            revoking: false,
            unknown: false,
        }
    }

    /// How long it may go without a checkpoint.
    fn uncounted(&self) -> Duration {
        let share = if self.noted.is_some() { self.ttl / 4 } else { self.ttl / 2 };
        share.min(LONGEST_UNCOUNTED)
    }
}

impl Lessor {
    /// Knows no lease, silent.
    #[must_use]
    pub fn new() -> Lessor {
        Lessor::default()
    }

    /// Counts time.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.armed
    }

    /// Number of leases.
    #[must_use]
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// No lease is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// A grant was applied.
    pub fn granted(&mut self, now: Duration, id: LeaseId, ttl: Duration, stamp: u64) {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        self.known(now, &LeaseRecord { id, ttl_ms, stamp, remaining_ms: None });
    }

    /// A revocation was applied.
    pub fn removed(&mut self, id: LeaseId) {
        let Some(lease) = self.leases.remove(&id) else { return };
        if let Some(queued) = lease.queued {
            self.queue.remove(&(queued, id));
        }
        if let Some(at) = lease.checkpoint {
            self.checkpoints.remove(&(at, id));
        }
    }

    /// A checkpoint was applied: `remaining` of lease `id`, judged on `stamp`; None: in full.
    pub fn checkpointed(&mut self, now: Duration, id: LeaseId, stamp: u64, remaining: Option<Duration>) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        if lease.stamp != stamp {
            return;
        }
        lease.stamp = LeaseRecord::next_stamp(stamp);
        lease.noted = remaining.filter(|remaining| *remaining < lease.ttl);
        lease.since = now;
        self.plan_checkpoint(now, id);
    }

    /// The state was replaced. Leases that were known keep their deadlines, new ones start in full.
    pub fn restored(&mut self, now: Duration, leases: impl IntoIterator<Item = LeaseRecord>) {
        let current: BTreeMap<LeaseId, LeaseRecord> =
            leases.into_iter().map(|lease| (lease.id, lease)).collect();
        let gone: Vec<LeaseId> = self.leases.keys().filter(|id| !current.contains_key(id)).copied().collect();
        for id in gone {
            self.removed(id);
        }
        for (id, record) in current {
            match self.leases.get_mut(&id) {
                Some(lease) => {
                    lease.since = now;
                    lease.stamp = record.stamp;
                    lease.noted = record.remaining_ms.map(Duration::from_millis);
                }
                None => self.known(now, &record),
            }
        }
    }

    /// This member leads and has applied what was committed before. Every lease lives from now on for what was last
    /// noted of it; or in full since it was last heard of here, or since leaders were confirmed for the last time, `unconfirmed` ago;
    /// and for `grace` (or its ttl) at least, so that its holder finds this leader.
    pub fn promote(&mut self, now: Duration, grace: Duration, unconfirmed: Duration) {
        self.armed = true;
        let ids: Vec<LeaseId> = self.leases.keys().copied().collect();
        for id in ids {
            let Some(lease) = self.leases.get(&id) else { continue };
            let gone = unconfirmed.min(now.saturating_sub(lease.since));
            let left = lease.noted.unwrap_or(lease.ttl.saturating_sub(gone)).max(grace.min(lease.ttl));
            self.set_deadline(id, now + left);
            self.plan_checkpoint(now, id);
        }
    }

    /// This member leads no more: deadlines are somebody else's.
    pub fn demote(&mut self) {
        self.armed = false;
        self.queue.clear();
        self.checkpoints.clear();
        for lease in self.leases.values_mut() {
            lease.deadline = None;
            lease.queued = None;
            lease.checkpoint = None;
            lease.proposed = None;
            lease.revoking = false;
            lease.unknown = false;
        }
    }

    /// Renews by the full ttl.
    pub fn renew(&mut self, now: Duration, id: LeaseId) -> Renew {
        if !self.armed {
            return Renew::Silent;
        }
        let Some(lease) = self.leases.get(&id) else { return Renew::Unknown };
        if lease.revoking {
            return Renew::Revoking;
        }
        let (ttl, stamp) = (lease.ttl, lease.stamp);
        let noted = lease.noted.is_some() || lease.proposed == Some(stamp);
        self.set_deadline(id, now + ttl);
        self.plan_checkpoint(now, id);
        if noted { Renew::Noted { stamp } } else { Renew::Renewed { ttl } }
    }

    /// True when the lease is known and not being revoked.
    #[must_use]
    pub fn is_alive(&self, id: LeaseId) -> bool {
        self.leases.get(&id).is_some_and(|lease| !lease.revoking)
    }

    /// (ttl, what remains of it). None: unknown, being revoked, or this lessor is silent.
    #[must_use]
    pub fn remaining(&self, now: Duration, id: LeaseId) -> Option<(Duration, Duration)> {
        let lease = self.leases.get(&id)?;
        if lease.revoking {
            return None;
        }
        lease.deadline.map(|deadline| (lease.ttl, deadline.saturating_sub(now)))
    }

    /// When to look again: the earliest deadline or checkpoint.
    #[must_use]
    pub fn next_wake(&self) -> Option<Duration> {
        let first = |queue: &BTreeSet<(Duration, LeaseId)>| queue.first().map(|(at, _)| *at);
        [first(&self.queue), first(&self.checkpoints)].into_iter().flatten().min()
    }

    /// At most `max` leases past their deadline, the longest dead first.
    #[must_use]
    pub fn due(&self, now: Duration, max: usize) -> Vec<LeaseId> {
        self.queue.iter().take_while(|(deadline, _)| *deadline <= now).take(max).map(|(_, id)| *id).collect()
    }

    /// A revocation of `id` is about to be proposed, for the lease of the stamp that is returned: no renewal from here on.
    /// None: it is gone, or renewed meanwhile.
    pub fn begin_revoke(&mut self, now: Duration, id: LeaseId) -> Option<u64> {
        let lease = self.leases.get_mut(&id)?;
        match lease.queued {
            Some(queued) if queued <= now => {
                self.queue.remove(&(queued, id));
                lease.queued = None;
                lease.revoking = true;
                Some(lease.stamp)
            }
            Some(_) | None => None,
        }
    }

    /// The proposal certainly did not happen: look at the lease again `after` now. Until then it may be renewed, unless
    /// an earlier proposal for it is still out.
    pub fn revoke_failed(&mut self, now: Duration, id: LeaseId, after: Duration) {
        // Not being revoked: a new lease of the same id.
        let Some(lease) = self.leases.get_mut(&id).filter(|lease| lease.revoking) else { return };
        lease.revoking = lease.unknown;
        if self.armed {
            self.enqueue(id, now + after);
        }
    }

    /// Nobody knows what became of the proposal: no renewal, and it is proposed again `after` now (twice does no harm).
    pub fn revoke_unknown(&mut self, now: Duration, id: LeaseId, after: Duration) {
        if let Some(lease) = self.leases.get_mut(&id).filter(|lease| lease.revoking) {
            lease.unknown = true;
        }
        self.revoke_failed(now, id, after);
    }

    /// At most `max` leases of which it is time to note what remains. They are about to be proposed: until that is
    /// applied or has failed, a renewal takes them back first.
    pub fn due_checkpoints(&mut self, now: Duration, max: usize) -> Vec<Remaining> {
        let due: Vec<(Duration, LeaseId)> =
            self.checkpoints.iter().take_while(|(at, _)| *at <= now).take(max).copied().collect();
        let mut judged = Vec::with_capacity(due.len());
        for (at, id) in due {
            self.checkpoints.remove(&(at, id));
            let Some(lease) = self.leases.get_mut(&id) else { continue };
            lease.checkpoint = None;
            let remaining = lease.deadline.unwrap_or_default().saturating_sub(now);
            // One that is over is about to be revoked; nothing is noted of it.
            if !lease.revoking && remaining >= Duration::from_millis(1) {
                lease.proposed = Some(lease.stamp);
                judged.push(Remaining { id, stamp: lease.stamp, remaining });
            }
        }
        judged
    }

    /// A checkpoint was proposed and certainly did not happen: it is due again `after` now.
    pub fn checkpoint_failed(&mut self, now: Duration, judged: &Remaining, after: Duration) {
        let Some(lease) = self.leases.get_mut(&judged.id) else { return };
        if lease.proposed == Some(judged.stamp) {
            lease.proposed = None;
        }
        self.retry_checkpoint(now, judged, after);
    }

    /// Nobody knows what became of a checkpoint: renewals go on taking it back, and it is due again `after` now.
    pub fn checkpoint_unknown(&mut self, now: Duration, judged: &Remaining, after: Duration) {
        self.retry_checkpoint(now, judged, after);
    }

    fn retry_checkpoint(&mut self, now: Duration, judged: &Remaining, after: Duration) {
        let waits = |lease: &Lease| lease.stamp == judged.stamp && lease.checkpoint.is_none();
        if self.armed && self.leases.get(&judged.id).is_some_and(waits) {
            self.set_checkpoint(judged.id, Some(now + after));
        }
    }

    /// This process did not run for `lost`: every deadline moves by as much, and is no earlier than `grace` (or the ttl)
    /// from `now`, because renewals that were sent meanwhile wait to be read.
    pub fn forgive(&mut self, now: Duration, lost: Duration, grace: Duration) {
        let queued: Vec<(Duration, LeaseId)> = self.queue.iter().copied().collect();
        for (deadline, id) in queued {
            let Some(lease) = self.leases.get(&id) else { continue };
            let granted = now + grace.min(lease.ttl);
            self.set_deadline(id, (deadline + lost).max(granted));
        }
    }

    fn known(&mut self, now: Duration, record: &LeaseRecord) {
        let id = record.id;
        self.removed(id);
        let lease = Lease::new(record, now);
        let ttl = lease.ttl;
        self.leases.insert(id, lease);
        if self.armed {
            self.set_deadline(id, now + ttl);
            self.plan_checkpoint(now, id);
        }
    }

    /// Lengthens, never shortens.
    fn set_deadline(&mut self, id: LeaseId, deadline: Duration) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        let deadline = lease.deadline.map_or(deadline, |old| old.max(deadline));
        lease.deadline = Some(deadline);
        let in_flight = lease.revoking && lease.queued.is_none();
        if !in_flight {
            self.enqueue(id, deadline);
        }
    }

    fn enqueue(&mut self, id: LeaseId, at: Duration) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        if let Some(old) = lease.queued.replace(at) {
            self.queue.remove(&(old, id));
        }
        self.queue.insert((at, id));
    }

    /// The next one is due when the lease has gone uncounted for its share from now, if it lives that long.
    fn plan_checkpoint(&mut self, now: Duration, id: LeaseId) {
        let Some(lease) = self.leases.get(&id) else { return };
        let at = now + lease.uncounted();
        let at = lease.deadline.filter(|deadline| self.armed && at < *deadline).map(|_| at);
        self.set_checkpoint(id, at);
    }

    fn set_checkpoint(&mut self, id: LeaseId, at: Option<Duration>) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        if let Some(old) = std::mem::replace(&mut lease.checkpoint, at) {
            self.checkpoints.remove(&(old, id));
        }
        if let Some(at) = at {
            self.checkpoints.insert((at, id));
        }
    }
}
