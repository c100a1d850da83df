//! Who is next: the line of keys that locks and elections stand in.
//!
//! # Model
//!
//! A name is a prefix. Whoever wants it creates the key `name/hex(lease)`, attached to its lease; keys stand in the order
//! of their create revisions, and the oldest one has the name. Everybody else watches only the key right before its own,
//! so that a departure wakes one waiter and not all of them.
//!
//! ```text
//!   name/1a  created at 7     has it
//!   name/3c  created at 9     watches name/1a
//!   name/2b  created at 12    watches name/3c     (3c gives up: 2b looks again and watches 1a)
//! ```
//!
//! It is the layout of Go's `concurrency` package (etcd, `client/v3/concurrency/{mutex,election,key}.go`), so that programs
//! in-process, over gRPC and with a client library of their own stand in one line.
//!
//! # Invariants
//!
//! 1. A place is had by the create revision, never by the key alone: a key that was deleted and made again is somebody else.
//! 2. "Mine is there and nobody is before it" is read in one linearizable read, after whatever the watch said: a watch
//!    only says when to look.
//! 3. Whoever stops waiting leaves the line, by deleting its key. Should that fail, the lease takes the key with it.
//! 4. A wait ends when the own key is gone: that is its bound, next to the caller's own.
//!
//! One lease has one place under a name. Two waits of one lease for one name share it, and both end with the first that
//! gives up.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_state::{
    Command, Compare, CompareResult, CompareTarget, DeleteRange, KeyValue, LeaseId, Put, Range, RangeReply,
    ReplyBody, Revision, SortOrder, SortTarget, Txn, TxnOp, TxnOpBody, TxnOpReplyBody,
};
use tokio::time::Instant;

use crate::auth::Access;
use crate::{Applied, Handle, ProposeError, ReadError, WatchItem, WatchSpec, Watcher};

/// How long a place that nobody waits at any more is tried to be given up. After that it stands until its lease ends.
const GIVE_UP: Duration = Duration::from_secs(10);
/// Between two tries when the store does not answer. A question takes its own time as well.
const AGAIN: Duration = Duration::from_millis(100);

/// Why something is not held.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// The key is gone: its lease has ended, or somebody deleted it. Whoever held by it holds nothing any more.
    #[error("it is no longer held: its key is gone")]
    Lost,
    /// See [`ProposeError`]. A lease that does not exist is a rejection.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// See [`ReadError`].
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// A key in line, from the moment that it may exist. Dropping it before [`Place::keep`] leaves the line.
pub(crate) struct Place {
    handle: Handle,
    prefix: Bytes,
    pub(crate) key: Bytes,
    /// 0 while it is not known whether the key exists.
    pub(crate) created: Revision,
    kept: bool,
}

impl Place {
    /// Creates the key, or finds the one that this lease has already: then with the value that it has.
    pub(crate) async fn take(
        handle: &Handle,
        name: &[u8],
        lease: LeaseId,
        value: Bytes,
        timeout: Duration,
    ) -> Result<(Place, Bytes), HoldError> {
        let prefix = prefix(name);
        let key = key(&prefix, lease);
        let put = Put { key: key.clone(), value: value.clone(), lease, ..Put::default() };
        let txn = Txn {
            compare: vec![created_at(key.clone(), 0)],
            success: vec![operation(TxnOpBody::Put(put))],
            failure: vec![operation(TxnOpBody::Range(Range { key: key.clone(), ..Range::default() }))],
        };
        let mut place = Place { handle: handle.clone(), prefix, key, created: 0, kept: false };
        let applied = match repeat(handle, Command::txn(txn), timeout).await {
            Ok(applied) => applied,
            Err(error) => {
                // Nothing is to be given up where certainly nothing happened.
                place.kept = !matches!(error, ProposeError::Indeterminate | ProposeError::Stopped);
                return Err(error.into());
            }
        };
        let (succeeded, found) = branch(&applied);
        if succeeded {
            place.created = applied.reply.revision;
            return Ok((place, value));
        }
        // The transaction found the key, so it is in the reply of the same transaction.
        let found = found.ok_or(HoldError::Lost)?;
        place.created = found.create_revision;
        Ok((place, found.value))
    }

    /// Waits until nobody is before it. Every question to the store may take `timeout`; one without an answer is asked
    /// again, since waiting was the task anyway.
    pub(crate) async fn first(&self, timeout: Duration) -> Result<(), HoldError> {
        let mut own = self.deletion_of(self.key.clone(), self.created);
        loop {
            let (before, revision) = match self.before(timeout).await {
                Ok(Some(found)) => found,
                Ok(None) => return Ok(()),
                Err(HoldError::Read(ReadError::NoLeader | ReadError::TimedOut)) => {
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let mut before = self.deletion_of(before, revision);
            tokio::select! {
                item = deleted(&mut before) => item?,
                item = deleted(&mut own) => {
                    item?;
                    // Gone, or history was compacted away below a watch that fell behind: the next look tells which.
                    own = self.deletion_of(self.key.clone(), revision);
                }
            }
        }
    }

    /// Whether nobody is before it now.
    pub(crate) async fn is_first(&self, timeout: Duration) -> Result<bool, HoldError> {
        Ok(self.before(timeout).await?.is_none())
    }

    /// The key before this one and the revision that this was read at; None: nobody. One read answers for this key too.
    async fn before(&self, timeout: Duration) -> Result<Option<(Bytes, Revision)>, HoldError> {
        let line = Range {
            limit: 2,
            sort_order: SortOrder::Descend.into(),
            max_create_revision: self.created,
            ..all(&self.prefix)
        };
        let RangeReply { kvs, revision, .. } = self.handle.range(line, timeout).await?;
        let mut kvs = kvs.into_iter();
        match kvs.next() {
            Some(own) if own.key == self.key && own.create_revision == self.created => {}
            _ => return Err(HoldError::Lost),
        }
        Ok(kvs.next().map(|before| (before.key, revision)))
    }

    fn deletion_of(&self, key: Bytes, after: Revision) -> Watcher {
        let start_revision = after + 1;
        self.handle.watch(WatchSpec { key, start_revision, no_put: true, ..WatchSpec::default() })
    }

    /// The key stays when this is gone.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // Outside of a runtime nothing can be sent: the lease takes the key with it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (handle, key, created) = (self.handle.clone(), self.key.clone(), self.created);
        let own = Handle { inner: Arc::clone(&handle.inner), access: Access::Trusted };
        runtime.spawn(async move {
            let left = match created {
                // It may or may not exist, and whether the client may write it was not decided either.
                0 => repeat(&handle, Command::delete(key), GIVE_UP).await,
                // Its own, whatever the client may do by now: a token does not live as long as a wait may take.
                _ => delete(&own, key, created, GIVE_UP).await,
            };
            if let Err(error) = left {
                tracing::debug!(error = %error, "a place in line was not given up; its lease will end it");
            }
        });
    }
}

/// Deletes the key if it still is the one created at `created`. The answer says what the store did; a key that is not there any
/// more is no error.
pub(crate) async fn delete(
    handle: &Handle,
    key: Bytes,
    created: Revision,
    timeout: Duration,
) -> Result<Applied, ProposeError> {
    let delete = DeleteRange { key: key.clone(), ..DeleteRange::default() };
    let txn = Txn {
        compare: vec![created_at(key, created)],
        success: vec![operation(TxnOpBody::DeleteRange(delete))],
        failure: Vec::new(),
    };
    repeat(handle, Command::txn(txn), timeout).await
}

/// Proposes what does no harm twice, until it is known to have happened.
async fn repeat(handle: &Handle, command: Command, timeout: Duration) -> Result<Applied, ProposeError> {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match handle.propose(command.clone(), left).await {
            Err(ProposeError::Indeterminate) if Instant::now() + AGAIN < deadline => {
                tokio::time::sleep(AGAIN).await;
            }
            result => return result,
        }
    }
}

/// Which branch ran, and the key that it read, if it was a read.
pub(crate) fn branch(applied: &Applied) -> (bool, Option<KeyValue>) {
    let Some(ReplyBody::Txn(reply)) = &applied.reply.body else { return (false, None) };
    let found = match reply.replies.first().and_then(|reply| reply.body.as_ref()) {
        Some(TxnOpReplyBody::Range(range)) => range.kvs.first().cloned(),
        _ => None,
    };
    (reply.succeeded, found)
}

/// The oldest key of a name and the revision that this was read at.
pub(crate) async fn oldest(
    handle: &Handle,
    name: &[u8],
    timeout: Duration,
) -> Result<(Option<KeyValue>, Revision), ReadError> {
    let line = Range { limit: 1, sort_order: SortOrder::Ascend.into(), ..all(&prefix(name)) };
    let reply = handle.range(line, timeout).await?;
    Ok((reply.kvs.into_iter().next(), reply.revision))
}

/// Resolves when the watch has something to say: the deletion, or that it cannot know.
async fn deleted(watcher: &mut Watcher) -> Result<(), ReadError> {
    match watcher.next().await {
        Some(WatchItem::Events { .. } | WatchItem::Compacted { .. }) => Ok(()),
        None => Err(ReadError::Stopped),
    }
}

/// Holds exactly while `key` is the one created at `revision`; 0: while there is none.
pub(crate) fn created_at(key: Bytes, revision: Revision) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        key,
        range_end: Bytes::new(),
        target: Some(CompareTarget::Create(revision)),
    }
}

pub(crate) fn operation(body: TxnOpBody) -> TxnOp {
    TxnOp { body: Some(body) }
}

/// Every key below `prefix`, by create revision.
fn all(prefix: &Bytes) -> Range {
    Range {
        key: prefix.clone(),
        range_end: end_of(prefix),
        sort_target: SortTarget::Create.into(),
        ..Range::default()
    }
}

/// `name/`.
pub(crate) fn prefix(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

/// The first key after all that begin with `prefix`, which ends with a slash: a byte that has a successor.
pub(crate) fn end_of(prefix: &[u8]) -> Bytes {
    let (last, start) = prefix.split_last().expect("a prefix ends with a slash");
    [start, &[last + 1]].concat().into()
}

/// `prefix` and the lease in hex, as Go prints a signed number.
fn key(prefix: &[u8], lease: LeaseId) -> Bytes {
    let sign = if lease < 0 { "-" } else { "" };
    [prefix, format!("{sign}{:x}", lease.unsigned_abs()).as_bytes()].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_gos_concurrency_package() {
        let prefix = prefix(b"nm");
        assert_eq!(key(&prefix, 77), "nm/4d");
        assert_eq!(key(&prefix, 0x7fff_ffff_ffff_ffff), "nm/7fffffffffffffff");
        // Clients may grant leases with negative ids; etcd's own server prints them so.
        assert_eq!(key(&prefix, -77), "nm/-4d");
        assert_eq!(end_of(&prefix), "nm0");
        assert_eq!((super::prefix(b""), end_of(b"/")), ("/".into(), "0".into()));
    }
}
