//! Follows the leadership, expires leases, and notes what remains of those that are not renewed.
//!
//! Becoming leader is not enough to count time: entries of the leader before may still be on their way through apply, a
//! revocation or a checkpoint among them. So a new leader first has a quorum confirm it and waits until everything from
//! before is applied; then the lessor is promoted.
//!
//! # A leader that stood still
//!
//! A lease that is due is not revoked on this member's word alone. A process that was stopped for a minute, or a machine
//! that was suspended, wakes up believing that it leads and that everything is due. Three things stand between that and a
//! massacre:
//!
//! 1. Whatever this task waits for, it looks at the clock every [`NAP`]. A look that comes late by [`STALL`] means that
//!    nobody was heard meanwhile: all deadlines move by as much, and holders whose renewals wait in our sockets get
//!    [`GRACE`], BEFORE anything is judged again.
//! 2. A quorum confirms the leadership after a lease was found due and before its end is proposed.
//! 3. The proposal names the term that the lessor was promoted in. If another member led meanwhile it is refused, even if
//!    this one leads again by then: renewals that the other one took are not known here.
//!
//! A mass expiry is paced: [`REVOKES_AT_ONCE`] in one go, which share appends and syncs, and no more often than every
//! [`PACE`] (2,000 a second; etcd takes 1,000).

use std::sync::Arc;
use std::time::Duration;

use quorate_consensus::{Proposal, ProposeFailure, Role};
use quorate_state::{Command, LeaseId, LeaseRemaining, Rejection};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::boottime;
use crate::forward::millis;
use crate::handle::Inner;
use crate::lessor::Remaining;
use crate::read::Round;

/// Revocations in flight at once: they share appends and syncs, and a mass expiry leaves room for everybody else.
const REVOKES_AT_ONCE: usize = 64;
/// Between two goes of them.
const PACE: Duration = Duration::from_millis(32);
/// Leases in one checkpoint: about 30 KB, and one write each at apply.
const CHECKPOINTS_AT_ONCE: usize = 1000;
/// Waking this much late means that the process, or the machine, did not run.
const STALL: Duration = Duration::from_millis(300);
/// What a holder gets at least after a stall or a change of the leader: to have its renewal read, or to find the new
/// leader. Clients reconnect within a second.
const GRACE: Duration = Duration::from_secs(1);
/// A proposal that takes longer is left alone and its lease looked at again.
const PROPOSAL: Duration = Duration::from_secs(5);
/// What certainly did not happen is due again after this.
const AGAIN: Duration = Duration::from_millis(100);
/// What the state refused (a CORRUPT alarm) is due again after this.
const REFUSED: Duration = Duration::from_secs(5);
/// The clock is looked at this often, so that a stall is measured and not guessed.
const NAP: Duration = Duration::from_millis(200);

/// The task's own state.
struct LeaseTask {
    inner: Arc<Inner>,
    role: watch::Receiver<Role>,
    /// The term in which the lessor counts.
    promoted: Option<u64>,
    /// When the clock was last looked at.
    looked: Duration,
    /// No revocation before this.
    paced: Duration,
}

pub(crate) async fn run(inner: Arc<Inner>) {
    let role = inner.consensus.role();
    let now = boottime();
    let mut task = LeaseTask { inner, role, promoted: None, looked: now, paced: now };
    while task.turn().await {}
}

/// A quorum says that this member leads, and everything that was committed before is applied here.
async fn confirmed(inner: &Inner) -> bool {
    let Round::Confirmed { leader, index } = inner.rounds.next().await else { return false };
    leader == inner.id && inner.wait_applied(index, Instant::now() + Duration::from_secs(1)).await.is_ok()
}

impl LeaseTask {
    /// False when the member stops.
    async fn turn(&mut self) -> bool {
        let now = *self.role.borrow_and_update();
        let leads = now.leader == Some(self.inner.id);
        if (!leads || self.promoted.is_some_and(|term| term != now.term)) && self.promoted.take().is_some() {
            self.inner.lessor.lock().demote();
        }
        if !leads {
            return self.role.changed().await.is_ok();
        }
        let term = match self.promoted {
            Some(term) => term,
            None => {
                if !confirmed(&self.inner).await {
                    tokio::time::sleep(crate::read::RETRY).await;
                    return true;
                }
                if *self.role.borrow() != now {
                    return true;
                }
                let unconfirmed = self.inner.consensus.last_confirmation_before(now.term).unwrap_or_default();
                self.looked = boottime();
                self.inner.lessor.lock().promote(self.looked, GRACE, unconfirmed);
                self.promoted = Some(now.term);
                now.term
            }
        };
        self.expire(term).await;
        self.checkpoint(term).await;
        self.rest().await
    }

    /// Until something may be due.
    async fn rest(&mut self) -> bool {
        let now = self.look();
        let wake = {
            let lessor = self.inner.lessor.lock();
            lessor.next_wake()
        };
        // What is due already waits for its turn.
        let wake = wake.map(|wake| if wake <= now { wake.max(self.paced) } else { wake });
        let nap = wake.map_or(NAP, |wake| wake.saturating_sub(now)).clamp(Duration::from_millis(1), NAP);
        let inner = Arc::clone(&self.inner);
        let goes_on = tokio::select! {
            changed = self.role.changed() => changed.is_ok(),
            () = inner.lease_changed.notified() => true,
            () = tokio::time::sleep(nap) => true,
        };
        self.look();
        goes_on
    }

    /// The time; and if this look is late, the leases are forgiven first.
    fn look(&mut self) -> Duration {
        let now = boottime();
        let lost = now.saturating_sub(self.looked).saturating_sub(NAP);
        self.looked = now;
        if lost > STALL && self.promoted.is_some() {
            tracing::warn!(
                elapsed_ms = lost.as_millis(),
                "this process did not run; leases are lengthened by as much"
            );
            self.inner.lessor.lock().forgive(now, lost, GRACE);
        }
        now
    }

    /// Waits for `work` and goes on looking at the clock.
    async fn attend<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => {
                    self.look();
                    return done;
                }
                () = tokio::time::sleep(NAP) => drop(self.look()),
            }
        }
    }

    /// Revokes what is due, a bounded number at a time, and waits for it.
    async fn expire(&mut self, term: u64) {
        let now = self.look();
        if now < self.paced {
            return;
        }
        #[cfg(quorate_sim)]
        let now = perhaps_early(now);
        let candidates = self.inner.lessor.lock().due(now, REVOKES_AT_ONCE);
        if candidates.is_empty() {
            return;
        }
        let inner = Arc::clone(&self.inner);
        if !self.attend(confirmed(&inner)).await {
            return;
        }
        // Looked at again, on one reading of the clock and under the lock that renewals take.
        let now = self.look();
        #[cfg(quorate_sim)]
        let now = perhaps_early(now);
        let due: Vec<(LeaseId, u64)> = {
            let mut lessor = inner.lessor.lock();
            let begin = |id| lessor.begin_revoke(now, id).map(|stamp| (id, stamp));
            candidates.into_iter().filter_map(begin).collect()
        };
        self.paced = now + PACE;
        let revokes = due.into_iter().map(|(id, stamp)| revoke(&inner, id, stamp, term));
        self.attend(futures_util::future::join_all(revokes)).await;
    }

    /// Notes what remains of leases that nobody renewed for a while: one entry.
    async fn checkpoint(&mut self, term: u64) {
        let now = self.look();
        let judged = self.inner.lessor.lock().due_checkpoints(now, CHECKPOINTS_AT_ONCE);
        if judged.is_empty() {
            return;
        }
        let leases = judged.iter().map(|it| LeaseRemaining {
            id: it.id,
            stamp: it.stamp,
            // Rounded up: never less than what is counted here.
            remaining_ms: millis(it.remaining) + 1,
        });
        let proposal = Proposal::encode(&Command::lease_checkpoint(leases.collect()));
        let inner = Arc::clone(&self.inner);
        let proposed = inner.consensus.propose_in_term(proposal, term);
        let outcome = self.attend(tokio::time::timeout(PROPOSAL, proposed)).await;
        let now = boottime();
        let mut lessor = inner.lessor.lock();
        let mut each = |tell: fn(&mut crate::lessor::Lessor, Duration, &Remaining, Duration)| {
            for it in &judged {
                tell(&mut lessor, now, it, AGAIN);
            }
        };
        match outcome {
            // Applied: the lessor has heard.
            Ok(Ok(_)) => {}
            Ok(Err(ProposeFailure::NotLeader { .. } | ProposeFailure::Stopped)) => {
                each(crate::lessor::Lessor::checkpoint_failed);
            }
            Ok(Err(ProposeFailure::Unknown)) | Err(_) => each(crate::lessor::Lessor::checkpoint_unknown),
        }
    }
}

/// What a leader takes for the time when it looks for leases that are over.
#[cfg(quorate_sim)]
fn perhaps_early(now: Duration) -> Duration {
    use quorate_consensus::sim::{Rule, broken};
    if broken(Rule::LeasesEndEarly) { now + Duration::from_secs(1) } else { now }
}

async fn revoke(inner: &Inner, id: LeaseId, stamp: u64, term: u64) {
    let proposal = Proposal::encode(&Command::lease_expire(id, stamp));
    let outcome = tokio::time::timeout(PROPOSAL, inner.consensus.propose_in_term(proposal, term)).await;
    let mut lessor = inner.lessor.lock();
    match outcome {
        Ok(Ok(committed)) => match committed.reply.rejection() {
            // Applied: the lessor has heard. By now there may be a new lease of the same id.
            None => {
                tracing::debug!(lease = format!("{id:016x}"), "a lease expired");
                inner.metrics.leases_expired.inc();
            }
            // It was gone already.
            Some(Rejection::LeaseNotFound) => {}
            Some(why) => {
                tracing::debug!(lease = format!("{id:016x}"), ?why, "a lease is over and cannot be revoked");
                lessor.revoke_failed(boottime(), id, REFUSED);
            }
        },
        Ok(Err(ProposeFailure::NotLeader { .. } | ProposeFailure::Stopped)) => {
            lessor.revoke_failed(boottime(), id, AGAIN);
        }
        // It may yet be applied: no renewal until it is, or until the leader changes.
        Ok(Err(ProposeFailure::Unknown)) | Err(_) => lessor.revoke_unknown(boottime(), id, AGAIN),
    }
}
