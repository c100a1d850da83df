//! Deadlines of leases, as a pure state machine: time comes in, decisions come out.
//!
//! # Model
//!
//! That a lease exists, and which keys hang on it, is replicated. When it expires is not: only the leader's lessor counts
//! time, in memory, on `CLOCK_BOOTTIME`. Followers' lessors know the same leases and are silent.
//!
//! ```text
//!            promote: every deadline = now + ttl           demote: no deadlines
//!   silent ──────────────────────────────────────► armed ─────────────────────► silent
//!                                                    │ renew: deadline = now + ttl
//!                                                    │ due: deadline passed ──► revoking (a LeaseRevoke is under way)
//! ```
//!
//! # Invariants
//!
//! 1. A deadline is never earlier than (promotion, grant, last confirmed renewal) + ttl: a change of the leader only
//!    lengthens. Nothing but [`Lessor::demote`] takes a deadline back.
//! 2. While a revocation is under way, or its outcome is unknown, the lease cannot be renewed: a holder that hears
//!    "renewed" keeps its lease.
//! 3. Time in which this process did not run is not held against holders ([`Lessor::forgive`]): their renewals could not
//!    be heard.
//! 4. A lease that is past its deadline but not yet being revoked may still be renewed: existence in the replicated state
//!    is what counts, and nobody has acted on its end yet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_state::LeaseId;

/// All leases of the store, with deadlines while this member leads. `now` is time since boot.
#[derive(Debug, Default)]
pub struct Lessor {
    armed: bool,
    leases: BTreeMap<LeaseId, Lease>,
    /// (when to look, lease) of every lease that has a deadline and no revocation in flight.
    queue: BTreeSet<(Duration, LeaseId)>,
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    deadline: Option<Duration>,
    /// Its place in the queue: the deadline, or the next attempt to revoke it.
    queued: Option<Duration>,
    /// A revocation was proposed: no renewal.
    revoking: bool,
    /// … and it is not known what became of it. Until it is applied, or the leader changes, this stays.
    unknown: bool,
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

    /// A grant was applied.
    pub fn granted(&mut self, now: Duration, id: LeaseId, ttl: Duration) {
        self.removed(id);
        self.leases.insert(id, Lease { ttl, deadline: None, queued: None, revoking: false, unknown: false });
        if self.armed {
            self.set_deadline(id, now + ttl);
        }
    }

    /// A revocation was applied.
    pub fn removed(&mut self, id: LeaseId) {
        if let Some(lease) = self.leases.remove(&id)
            && let Some(queued) = lease.queued
        {
            self.queue.remove(&(queued, id));
        }
    }

    /// The state was replaced. Leases that were known keep their deadlines, new ones start in full.
    pub fn restored(&mut self, now: Duration, leases: impl IntoIterator<Item = (LeaseId, Duration)>) {
        let current: BTreeMap<LeaseId, Duration> = leases.into_iter().collect();
        let gone: Vec<LeaseId> = self.leases.keys().filter(|id| !current.contains_key(id)).copied().collect();
        for id in gone {
            self.removed(id);
        }
        for (id, ttl) in current {
            if !self.leases.contains_key(&id) {
                self.granted(now, id, ttl);
            }
        }
    }

    /// This member leads and has applied what was committed before: every lease lives for at least its full ttl from now.
    pub fn promote(&mut self, now: Duration) {
        self.armed = true;
        let ids: Vec<(LeaseId, Duration)> = self.leases.iter().map(|(id, lease)| (*id, lease.ttl)).collect();
        for (id, ttl) in ids {
            self.set_deadline(id, now + ttl);
        }
    }

    /// This member leads no more: deadlines are somebody else's.
    pub fn demote(&mut self) {
        self.armed = false;
        self.queue.clear();
        for lease in self.leases.values_mut() {
            lease.deadline = None;
            lease.queued = None;
            lease.revoking = false;
            lease.unknown = false;
        }
    }

    /// Renews by the full ttl, which is returned. None: unknown, being revoked, or this lessor is silent.
    pub fn renew(&mut self, now: Duration, id: LeaseId) -> Option<Duration> {
        let lease = self.leases.get(&id)?;
        if !self.armed || lease.revoking {
            return None;
        }
        let ttl = lease.ttl;
        self.set_deadline(id, now + ttl);
        Some(ttl)
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

    /// When to look again: the earliest deadline.
    #[must_use]
    pub fn next_wake(&self) -> Option<Duration> {
        self.queue.first().map(|(deadline, _)| *deadline)
    }

    /// At most `max` leases past their deadline, the longest dead first.
    #[must_use]
    pub fn due(&self, now: Duration, max: usize) -> Vec<LeaseId> {
        self.queue.iter().take_while(|(deadline, _)| *deadline <= now).take(max).map(|(_, id)| *id).collect()
    }

    /// A revocation of `id` is about to be proposed: no renewal from here on. False: it is gone, or renewed meanwhile.
    pub fn begin_revoke(&mut self, now: Duration, id: LeaseId) -> bool {
        let Some(lease) = self.leases.get_mut(&id) else { return false };
        match lease.queued {
            Some(queued) if queued <= now => {
                self.queue.remove(&(queued, id));
                lease.queued = None;
                lease.revoking = true;
                true
            }
            Some(_) | None => false,
        }
    }

    /// The proposal certainly did not happen: look at the lease again `after` now. Until then it may be renewed, unless
    /// an earlier proposal for it is still out.
    pub fn revoke_failed(&mut self, now: Duration, id: LeaseId, after: Duration) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        lease.revoking = lease.unknown;
        if self.armed {
            self.enqueue(id, now + after);
        }
    }

    /// Nobody knows what became of the proposal: no renewal, and it is proposed again `after` now (twice does no harm).
    pub fn revoke_unknown(&mut self, now: Duration, id: LeaseId, after: Duration) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.unknown = true;
        }
        self.revoke_failed(now, id, after);
    }

    /// This process did not run for `lost`: every deadline moves by as much.
    pub fn forgive(&mut self, lost: Duration) {
        let queued: Vec<(Duration, LeaseId)> = self.queue.iter().copied().collect();
        for (deadline, id) in queued {
            self.set_deadline(id, deadline + lost);
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
}
