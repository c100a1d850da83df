//! Follows the leadership and expires leases.
//!
//! Becoming leader is not enough to count time: entries of the leader before may still be on their way through apply, a
//! revocation among them. So a new leader first has a quorum confirm it and waits until everything from before is
//! applied; then the lessor is promoted and every lease starts in full.
//!
//! A lease that is due is not revoked on this member's word alone. A process that was stopped for a minute wakes up
//! believing that it leads and that everything is due. BEFORE it revokes anything: a quorum confirms it, and the time that
//! it did not run is taken off the holders' bill. Then deadlines are looked at again, under the lock that renewals take.

use std::sync::Arc;
use std::time::Duration;

use quorate_consensus::{Proposal, ProposeFailure};
use quorate_state::{Body, Command, FORMAT, LeaseId, LeaseRevoke};
use tokio::time::Instant;

use crate::clock::boottime;
use crate::handle::Inner;
use crate::read::Round;

/// Revocations in flight at once: they share appends and syncs, and a mass expiry leaves room for everybody else.
const REVOKES_AT_ONCE: usize = 64;
/// Waking this much late means that the process, or the machine, did not run.
const STALL: Duration = Duration::from_millis(300);
/// A proposal that takes longer is left alone and its lease looked at again.
const REVOKE: Duration = Duration::from_secs(5);
/// A lease whose revocation certainly did not happen is due again after this.
const AGAIN: Duration = Duration::from_millis(100);
/// The longest nap: the clock is looked at this often, so that a stall is measured and not guessed.
const NAP: Duration = Duration::from_millis(200);

pub(crate) async fn run(inner: Arc<Inner>) {
    let mut role = inner.consensus.role();
    let mut promoted: Option<u64> = None;
    loop {
        let now = *role.borrow_and_update();
        let leads = now.leader == Some(inner.id);
        if !leads || promoted.is_some_and(|term| term != now.term) {
            if promoted.take().is_some() {
                inner.lessor.lock().demote();
            }
            if !leads {
                if role.changed().await.is_err() {
                    return;
                }
                continue;
            }
        }
        if promoted.is_none() {
            if !confirmed(&inner).await {
                tokio::time::sleep(crate::read::RETRY).await;
                continue;
            }
            if *role.borrow() != now {
                continue;
            }
            let mut lessor = inner.lessor.lock();
            lessor.promote(boottime());
            promoted = Some(now.term);
        }
        expire(&inner).await;

        let before = boottime();
        let wake = inner.lessor.lock().next_wake();
        let nap = wake.map_or(NAP, |wake| wake.saturating_sub(before)).clamp(Duration::from_millis(1), NAP);
        tokio::select! {
            changed = role.changed() => if changed.is_err() { return },
            () = inner.lease_changed.notified() => {}
            () = tokio::time::sleep(nap) => {}
        }
        let slept = boottime().saturating_sub(before);
        if slept > nap + STALL {
            let lost = slept - nap;
            tracing::warn!(
                elapsed_ms = lost.as_millis(),
                "this process did not run; leases are lengthened by as much"
            );
            inner.lessor.lock().forgive(lost);
        }
    }
}

/// A quorum says that this member leads, and everything that was committed before is applied here.
async fn confirmed(inner: &Inner) -> bool {
    let Round::Confirmed { leader, index } = inner.rounds.next().await else { return false };
    leader == inner.id && inner.wait_applied(index, Instant::now() + Duration::from_secs(1)).await.is_ok()
}

/// Revokes what is due, a bounded number at a time, and waits for it.
async fn expire(inner: &Arc<Inner>) {
    let candidates = inner.lessor.lock().due(boottime(), REVOKES_AT_ONCE);
    if candidates.is_empty() {
        return;
    }
    let asked = boottime();
    if !confirmed(inner).await {
        return;
    }
    let lost = boottime().saturating_sub(asked);
    if lost > STALL {
        inner.lessor.lock().forgive(lost);
    }
    let due: Vec<LeaseId> = {
        let mut lessor = inner.lessor.lock();
        let now = boottime();
        candidates.into_iter().filter(|id| lessor.is_armed() && lessor.begin_revoke(now, *id)).collect()
    };
    let revokes = due.into_iter().map(|id| {
        let inner = Arc::clone(inner);
        async move { revoke(&inner, id).await }
    });
    futures_util::future::join_all(revokes).await;
}

async fn revoke(inner: &Inner, id: LeaseId) {
    let command = Command { format: FORMAT, body: Some(Body::LeaseRevoke(LeaseRevoke { id })) };
    let proposal = Proposal::encode(&command);
    match tokio::time::timeout(REVOKE, inner.consensus.propose(proposal)).await {
        // Applied: the observer has removed it. A rejection says that it was gone already.
        Ok(Ok(_)) => {
            tracing::debug!(lease = format!("{id:016x}"), "a lease expired");
            inner.lessor.lock().removed(id);
        }
        Ok(Err(ProposeFailure::NotLeader { .. } | ProposeFailure::Stopped)) => {
            inner.lessor.lock().revoke_failed(boottime(), id, AGAIN);
        }
        // It may yet be applied: no renewal until it is, or until the leader changes.
        Ok(Err(ProposeFailure::Unknown)) | Err(_) => {
            inner.lessor.lock().revoke_unknown(boottime(), id, AGAIN)
        }
    }
}
