//! A lease that is renewed for as long as the program that holds it lives and is connected.
//!
//! What hangs on it (locks, offices, keys put with it) goes when the program does. The session renews by itself, on a task of its own: it
//! proves that the process runs, not that the work in it goes well. What must stop when a health check fails needs
//! [`Handle::renew_lease`] called from behind that check instead.
//!
//! How long the lease is certain to live is counted from before a renewal was sent, on the clock that does not stop while the
//! machine sleeps. After a long sleep [`Session::is_alive`] says no at once, before any task has run.

use std::time::Duration;

use quorate_state::{Command, LeaseId, Rejection};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::clock::boottime;
use crate::{Handle, ProposeError, ReadError};

/// A lease is renewed this many times within its time to live, like etcd's clients do it.
const RENEWALS: u32 = 3;
/// Between two tries of a renewal that had no answer.
const AGAIN: Duration = Duration::from_millis(100);

/// A lease that renews itself. Dropping it stops the renewals, and the lease ends in its own time; [`Session::end`] ends it now.
pub struct Session {
    handle: Handle,
    lease: LeaseId,
    standing: watch::Receiver<Standing>,
    keeper: JoinHandle<()>,
}

#[derive(Clone, Copy)]
enum Standing {
    /// Certain to live until then, on [`boottime`]'s clock.
    Until(Duration),
    Lost,
}

impl Handle {
    /// Grants a lease of `ttl` (2 s at least) and keeps it alive.
    ///
    /// # Errors
    ///
    /// As for [`Handle::grant_lease`].
    pub async fn session(&self, ttl: Duration, timeout: Duration) -> Result<Session, ProposeError> {
        let ttl = ttl.max(crate::handle::SHORTEST_LEASE);
        let before = boottime();
        let lease = self.grant_lease(None, ttl, timeout).await?;
        let (sender, standing) = watch::channel(Standing::Until(before + ttl));
        let keeper = tokio::spawn(keep(self.clone(), lease, ttl, sender));
        Ok(Session { handle: self.clone(), lease, standing, keeper })
    }
}

impl Session {
    /// For [`Handle::lock`], [`Handle::campaign`] and puts.
    #[must_use]
    pub fn lease(&self) -> LeaseId {
        self.lease
    }

    /// Whether the lease certainly lives at this moment. False may also mean that nothing was heard for too long.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        match *self.standing.borrow() {
            Standing::Until(until) => boottime() < until,
            Standing::Lost => false,
        }
    }

    /// Resolves when the lease is gone or no longer certain to live: whatever hangs on it must be taken as lost.
    pub async fn lost(&self) {
        let mut standing = self.standing.clone();
        // An error: the keeper has ended, which it does only with the member.
        let _ = standing.wait_for(|standing| matches!(standing, Standing::Lost)).await;
    }

    /// Revokes the lease: everything that hangs on it is gone when this returns. One that has ended already is no error.
    ///
    /// # Errors
    ///
    /// See [`ProposeError`]. The lease ends in its own time then.
    pub async fn end(self, timeout: Duration) -> Result<(), ProposeError> {
        self.keeper.abort();
        match self.handle.propose(Command::lease_revoke(self.lease), timeout).await {
            Ok(_) | Err(ProposeError::Rejected(Rejection::LeaseNotFound)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

async fn keep(handle: Handle, lease: LeaseId, ttl: Duration, standing: watch::Sender<Standing>) {
    let Standing::Until(mut until) = *standing.borrow() else { return };
    loop {
        // A third after the last renewal was sent, which is when `until` was counted from.
        let renew_at = until.saturating_sub(ttl - ttl / RENEWALS);
        tokio::time::sleep(renew_at.saturating_sub(boottime())).await;
        loop {
            let before = boottime();
            let left = until.saturating_sub(before);
            if left.is_zero() {
                break;
            }
            match handle.renew_lease(lease, left).await {
                Ok(Some(renewal)) => {
                    until = before + renewal.ttl;
                    break;
                }
                Ok(None) | Err(ReadError::Stopped | ReadError::Rejected(_)) => {
                    until = Duration::ZERO;
                    break;
                }
                Err(ReadError::NoLeader | ReadError::TimedOut) => tokio::time::sleep(AGAIN).await,
            }
        }
        if boottime() >= until {
            tracing::info!(lease = format!("{lease:x}"), "the lease of a session is lost");
            standing.send_replace(Standing::Lost);
            return;
        }
        standing.send_replace(Standing::Until(until));
    }
}
