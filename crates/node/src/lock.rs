//! A lock: one holder of a name at a time, first come, first served.
//!
//! A lock belongs to a lease, not to a value in memory: it is held until it is unlocked or the lease ends, whichever
//! comes first, and neither a crash nor a dropped [`Lock`] changes that. So a holder that was stopped for a while cannot
//! know by itself whether it still holds: what it writes under the lock should carry [`Lock::held`], which lets the store refuse
//! a stale holder's write.

use std::time::Duration;

use bytes::Bytes;
use quorate_state::{Compare, LeaseId, Revision};

use crate::queue::{self, Place};
use crate::{Applied, Handle, HoldError, ProposeError};

/// A lock that was had when this was returned. Dropping it does not unlock.
#[derive(Clone)]
pub struct Lock {
    handle: Handle,
    key: Bytes,
    created: Revision,
}

impl Handle {
    /// Waits for the lock `name` and takes it for `lease`. A lease that has it already gets it again.
    ///
    /// Dropping the future gives the place in line up, so the wait may be put into a `tokio::time::timeout`. Every single
    /// request may take `timeout`; the wait as a whole ends at the latest when the lease does.
    ///
    /// # Errors
    ///
    /// [`HoldError::Lost`] when the lease ended while it waited; a rejection when there is no such lease.
    pub async fn lock(
        &self,
        name: impl AsRef<[u8]>,
        lease: LeaseId,
        timeout: Duration,
    ) -> Result<Lock, HoldError> {
        let (place, _) = Place::take(self, name.as_ref(), lease, Bytes::new(), timeout).await?;
        place.first(timeout).await?;
        Ok(Lock::had(self, place))
    }

    /// Like [`Handle::lock`], but does not wait: None when somebody else has it.
    ///
    /// # Errors
    ///
    /// As for [`Handle::lock`]. Whoever gets an error has no place in line either.
    pub async fn try_lock(
        &self,
        name: impl AsRef<[u8]>,
        lease: LeaseId,
        timeout: Duration,
    ) -> Result<Option<Lock>, HoldError> {
        let (place, _) = Place::take(self, name.as_ref(), lease, Bytes::new(), timeout).await?;
        if place.is_first(timeout).await? { Ok(Some(Lock::had(self, place))) } else { Ok(None) }
    }
}

impl Lock {
    fn had(handle: &Handle, place: Place) -> Lock {
        let lock = Lock { handle: handle.clone(), key: place.key.clone(), created: place.created };
        place.keep();
        lock
    }

    /// The key that stands for it: `name/hex(lease)`.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        &self.key
    }

    /// Grows from holder to holder: a fencing token for resources outside the store.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.created
    }

    /// For the compares of a transaction: it succeeds only while this lock is held.
    #[must_use]
    pub fn held(&self) -> Compare {
        queue::created_at(self.key.clone(), self.created)
    }

    /// Gives it to the next in line. To unlock what is no longer held is no error.
    ///
    /// # Errors
    ///
    /// See [`ProposeError`]; it may be tried again, and the end of the lease unlocks too.
    pub async fn unlock(&self, timeout: Duration) -> Result<Applied, ProposeError> {
        queue::delete(&self.handle, self.key.clone(), self.created, timeout).await
    }
}
