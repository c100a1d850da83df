//! One guarded transaction: compare, then write, or nothing at all.
//!
//! Every write of a decision goes through here, so "each key write is one guarded transaction" is a property of a type:
//! a [`Guarded`] without a compare can only be built by the one name that says so.

use std::time::Duration;

use bytes::Bytes;
use quorate_node::{Handle, ProposeError};
use quorate_state::{
    Body, Command, Compare, CompareResult, CompareTarget, DeleteRange, LeaseId, LeaseRevoke, Put, ReplyBody,
    Revision, Txn, TxnOp, TxnOpBody,
};

use crate::error::WriteError;

/// A transaction under construction.
#[derive(Debug, Clone, Default)]
pub(crate) struct Guarded {
    compare: Vec<Compare>,
    success: Vec<TxnOp>,
}

impl Guarded {
    /// A write that needs no guard, because nobody else writes that key.
    pub(crate) fn unconditional() -> Guarded {
        Guarded::default()
    }

    /// The key was last written at this revision; None: it does not exist.
    pub(crate) fn unchanged(key: &str, mod_revision: Option<Revision>) -> Guarded {
        Guarded::default().and_unchanged(key, mod_revision)
    }

    /// And this key too.
    pub(crate) fn and_unchanged(self, key: &str, mod_revision: Option<Revision>) -> Guarded {
        match mod_revision {
            Some(revision) => self.and(key, CompareTarget::Mod(revision)),
            None => self.and(key, CompareTarget::Create(0)),
        }
    }

    /// The key is of the generation created at this revision, and hangs on this lease.
    pub(crate) fn held(key: &str, create_revision: Revision, lease: LeaseId) -> Guarded {
        Guarded::default()
            .and(key, CompareTarget::Create(create_revision))
            .and(key, CompareTarget::Lease(lease))
    }

    /// And this key is of the generation created at this revision.
    pub(crate) fn and_created(self, key: &str, create_revision: Revision) -> Guarded {
        self.and(key, CompareTarget::Create(create_revision))
    }

    fn and(mut self, key: &str, target: CompareTarget) -> Guarded {
        self.compare.push(Compare {
            result: CompareResult::Equal.into(),
            key: Bytes::copy_from_slice(key.as_bytes()),
            range_end: Bytes::new(),
            target: Some(target),
        });
        self
    }

    /// Then write.
    pub(crate) fn put(mut self, key: &str, value: impl Into<Bytes>, lease: LeaseId) -> Guarded {
        let put =
            Put { key: Bytes::copy_from_slice(key.as_bytes()), value: value.into(), lease, ..Put::default() };
        self.success.push(TxnOp { body: Some(TxnOpBody::Put(put)) });
        self
    }

    /// Then delete.
    pub(crate) fn delete(self, key: &str) -> Guarded {
        self.delete_range(key, "")
    }

    /// Then delete everything from `from` on and below `to`; an empty `to` is the one key.
    pub(crate) fn delete_range(mut self, from: &str, to: &str) -> Guarded {
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let delete = DeleteRange { key: bytes(from), range_end: bytes(to), ..DeleteRange::default() };
        self.success.push(TxnOp { body: Some(TxnOpBody::DeleteRange(delete)) });
        self
    }

    /// Performs it. Without any write it is a check of the guard, by a quorum, at one instant.
    ///
    /// # Errors
    /// [`WriteError`] says whether it may have happened.
    pub(crate) async fn commit(self, handle: &Handle, timeout: Duration) -> Result<Revision, WriteError> {
        let txn = Txn { compare: self.compare, success: self.success, failure: Vec::new() };
        let reply = propose(handle, Body::Txn(txn), timeout).await?;
        match reply.body {
            Some(ReplyBody::Txn(txn)) if txn.succeeded => Ok(reply.revision),
            _ => Err(WriteError::GuardFailed),
        }
    }
}

/// Deletes a lease and its keys. A lease that is gone already is what was wanted.
///
/// # Errors
/// The store did not answer.
pub(crate) async fn revoke(handle: &Handle, lease: LeaseId, timeout: Duration) -> Result<(), WriteError> {
    match propose(handle, Body::LeaseRevoke(LeaseRevoke { id: lease, judged: None }), timeout).await {
        Ok(_) | Err(WriteError::Refused(ProposeError::Rejected(quorate_state::Rejection::LeaseNotFound))) => {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

async fn propose(handle: &Handle, body: Body, timeout: Duration) -> Result<quorate_state::Reply, WriteError> {
    match handle.propose(Command::new(body), timeout).await {
        Ok(applied) => Ok(applied.reply),
        Err(error) => Err(classify(error)),
    }
}

/// Which errors leave open whether it happened.
pub(crate) fn classify(error: ProposeError) -> WriteError {
    match error {
        ProposeError::Rejected(_) | ProposeError::TooLarge => WriteError::Refused(error),
        ProposeError::NoLeader
        | ProposeError::Overloaded
        | ProposeError::Indeterminate
        | ProposeError::Stopped => WriteError::Unavailable(error),
    }
}
