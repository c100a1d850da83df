//! An election: one of several candidates is in office, and everybody can see who and what it proclaims.
//!
//! The office is held like a lock, by the oldest key of a name; the difference is the value, which the holder
//! may change and everybody may watch. It has nothing to do with the store's own leader.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use quorate_state::{Command, Compare, KeyValue, LeaseId, Put, Revision, Txn, TxnOpBody};

use crate::queue::{self, Place};
use crate::{Applied, Handle, HoldError, ProposeError, ReadError, WatchItem, WatchSpec, Watcher};

/// Between two looks at the office while the store does not answer.
const AGAIN: Duration = Duration::from_millis(100);

/// An election that was won. Dropping it does not resign: the office is held until then or until the lease ends.
#[derive(Clone)]
pub struct Office {
    handle: Handle,
    key: Bytes,
    created: Revision,
    lease: LeaseId,
}

impl Handle {
    /// Stands for `name` with `value` and waits until elected. A lease that is in office already proclaims `value` if it
    /// is another one.
    ///
    /// Waits and gives up like [`Handle::lock`].
    ///
    /// # Errors
    ///
    /// [`HoldError::Lost`] when the lease ended while it waited; a rejection when there is no such lease.
    pub async fn campaign(
        &self,
        name: impl AsRef<[u8]>,
        lease: LeaseId,
        value: impl Into<Bytes>,
        timeout: Duration,
    ) -> Result<Office, HoldError> {
        let value = value.into();
        let (place, stands_with) = Place::take(self, name.as_ref(), lease, value.clone(), timeout).await?;
        let office = Office::resume(self, place.key.clone(), place.created, lease);
        if stands_with != value {
            office.proclaim(value, timeout).await?;
        }
        place.first(timeout).await?;
        place.keep();
        Ok(office)
    }

    /// Who is in office now, linearizably: the key, its value and its lease. None: nobody.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub async fn elected(
        &self,
        name: impl AsRef<[u8]>,
        timeout: Duration,
    ) -> Result<Option<KeyValue>, ReadError> {
        Ok(queue::oldest(self, name.as_ref(), timeout).await?.0)
    }

    /// Follows the office: every holder and every proclamation from now on, the present one first.
    #[must_use]
    pub fn observe(&self, name: impl AsRef<[u8]>, timeout: Duration) -> Observer {
        Observer {
            handle: self.clone(),
            name: Bytes::copy_from_slice(name.as_ref()),
            timeout,
            seen: VecDeque::new(),
            looking: Looking::Anew,
        }
    }
}

impl Office {
    /// An office that was won earlier, by this program or another one: whether it still is held shows with the first use.
    #[must_use]
    pub fn resume(handle: &Handle, key: impl Into<Bytes>, revision: Revision, lease: LeaseId) -> Office {
        Office { handle: handle.clone(), key: key.into(), created: revision, lease }
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

    /// The lease that it was won for.
    #[must_use]
    pub fn lease(&self) -> LeaseId {
        self.lease
    }

    /// For the compares of a transaction: it succeeds only while this office is held.
    #[must_use]
    pub fn held(&self) -> Compare {
        queue::created_at(self.key.clone(), self.created)
    }

    /// Changes the value that observers see.
    ///
    /// # Errors
    ///
    /// [`HoldError::Lost`] when it is no longer held. After [`ProposeError::Indeterminate`] look with [`Handle::elected`].
    pub async fn proclaim(&self, value: impl Into<Bytes>, timeout: Duration) -> Result<Applied, HoldError> {
        let put = Put { key: self.key.clone(), value: value.into(), lease: self.lease, ..Put::default() };
        let txn = Txn {
            compare: vec![self.held()],
            success: vec![queue::operation(TxnOpBody::Put(put))],
            failure: Vec::new(),
        };
        let applied = self.handle.propose(Command::txn(txn), timeout).await?;
        if queue::branch(&applied).0 { Ok(applied) } else { Err(HoldError::Lost) }
    }

    /// Leaves the office to the next candidate. To resign from what is no longer held is no error.
    ///
    /// # Errors
    ///
    /// See [`ProposeError`]; it may be tried again, and the end of the lease is a resignation too.
    pub async fn resign(&self, timeout: Duration) -> Result<Applied, ProposeError> {
        queue::delete(&self.handle, self.key.clone(), self.created, timeout).await
    }
}

/// See [`Handle::observe`].
pub struct Observer {
    handle: Handle,
    name: Bytes,
    timeout: Duration,
    seen: VecDeque<KeyValue>,
    looking: Looking,
}

enum Looking {
    /// Who is it?
    Anew,
    /// Nobody: this watches for the first candidate.
    ForAnybody(Watcher),
    /// Somebody: this watches its key.
    At(Watcher),
}

impl Observer {
    /// The next holder, or the next value of the present one. Values are seen in order; of holders that came and went
    /// while nobody looked only the last is certain to be seen. Cancel-safe.
    ///
    /// # Errors
    ///
    /// [`ReadError::Stopped`], or a rejection. A store without a leader is waited for.
    pub async fn next(&mut self) -> Result<KeyValue, ReadError> {
        loop {
            if let Some(seen) = self.seen.pop_front() {
                return Ok(seen);
            }
            match &mut self.looking {
                Looking::Anew => self.look().await?,
                Looking::ForAnybody(watcher) => match watcher.next().await {
                    Some(WatchItem::Events { events, .. }) => {
                        if let Some(event) = events.iter().find(|event| !event.delete) {
                            // Its later events, those of this delivery too, come with its own watch.
                            let kv = event.kv.clone();
                            self.looking = Looking::At(self.watch(&kv.key, kv.mod_revision));
                            return Ok(kv);
                        }
                    }
                    Some(WatchItem::Compacted { .. }) => self.looking = Looking::Anew,
                    None => return Err(ReadError::Stopped),
                },
                Looking::At(watcher) => match watcher.next().await {
                    Some(WatchItem::Events { events, .. }) => {
                        // What follows a deletion is another holder's, who need not be the next one.
                        let values = events.iter().take_while(|event| !event.delete);
                        self.seen.extend(values.map(|event| event.kv.clone()));
                        if events.iter().any(|event| event.delete) {
                            self.looking = Looking::Anew;
                        }
                    }
                    Some(WatchItem::Compacted { .. }) => self.looking = Looking::Anew,
                    None => return Err(ReadError::Stopped),
                },
            }
        }
    }

    async fn look(&mut self) -> Result<(), ReadError> {
        match queue::oldest(&self.handle, &self.name, self.timeout).await {
            Ok((Some(kv), revision)) => {
                self.looking = Looking::At(self.watch(&kv.key, revision));
                self.seen.push_back(kv);
            }
            Ok((None, revision)) => {
                let prefix = queue::prefix(&self.name);
                let spec = WatchSpec {
                    range_end: queue::end_of(&prefix),
                    key: prefix,
                    start_revision: revision + 1,
                    no_delete: true,
                    ..WatchSpec::default()
                };
                self.looking = Looking::ForAnybody(self.handle.watch(spec));
            }
            Err(ReadError::NoLeader | ReadError::TimedOut) => tokio::time::sleep(AGAIN).await,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn watch(&self, key: &Bytes, after: Revision) -> Watcher {
        let start_revision = after + 1;
        self.handle.watch(WatchSpec { key: key.clone(), start_revision, ..WatchSpec::default() })
    }
}
