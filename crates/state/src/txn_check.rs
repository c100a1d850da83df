//! What is wrong with a transaction whatever the state is. Both branches of every level are looked at, so that the answer
//! does not depend on which one would run.
//!
//! The rule on duplicates keeps one change per key and revision, which the version index relies on: in one branch no key
//! is put twice or both put and deleted, nested branches included; deletes may overlap (the second finds nothing), and the
//! two branches of one transaction may name the same keys, since only one runs. etcd refuses the same except for one
//! order that its check overlooks (a nested put, then a delete of the same key in a later nested transaction:
//! checkIntervals in server/etcdserver/api/v3rpc/key.go); here that is refused as well.

use std::collections::BTreeSet;

use crate::key_range::KeyRange;
use crate::{CompareResult, MAX_TXN_DEPTH, Rejection, Txn, TxnOp, TxnOpBody, delete, put, range};

pub(crate) fn check_shape(txn: &Txn) -> Result<(), Rejection> {
    if txn.is_deeper_than(MAX_TXN_DEPTH) {
        return Err(Rejection::TooDeep);
    }
    check_operations(txn)?;
    if txn.success.len() > 1 || has_nested(&txn.success) {
        check_duplicates(&txn.success)?;
    }
    if txn.failure.len() > 1 || has_nested(&txn.failure) {
        check_duplicates(&txn.failure)?;
    }
    Ok(())
}

/// Each operation for itself.
fn check_operations(txn: &Txn) -> Result<(), Rejection> {
    for compare in &txn.compare {
        if compare.key.is_empty() {
            return Err(Rejection::EmptyKey);
        }
        CompareResult::try_from(compare.result).map_err(|_| Rejection::Unspecified)?;
    }
    for op in txn.success.iter().chain(&txn.failure) {
        match &op.body {
            Some(TxnOpBody::Range(request)) => range::check_shape(request)?,
            Some(TxnOpBody::Put(request)) => put::check_shape(request)?,
            Some(TxnOpBody::DeleteRange(request)) => delete::check_shape(request)?,
            Some(TxnOpBody::Txn(nested)) => check_operations(nested)?,
            // etcd's answer to an empty operation (checkRequestOp).
            None => return Err(Rejection::KeyNotFound),
        }
    }
    Ok(())
}

fn has_nested(ops: &[TxnOp]) -> bool {
    ops.iter().any(|op| matches!(op.body, Some(TxnOpBody::Txn(_))))
}

/// What a branch may write.
#[derive(Default)]
struct Writes<'t> {
    puts: BTreeSet<&'t [u8]>,
    deletes: Vec<KeyRange<'t>>,
}

impl<'t> Writes<'t> {
    fn put(key: &'t [u8]) -> Writes<'t> {
        Writes { puts: BTreeSet::from([key]), deletes: Vec::new() }
    }

    fn delete(range: KeyRange<'t>) -> Writes<'t> {
        Writes { puts: BTreeSet::new(), deletes: vec![range] }
    }

    /// Of something that runs as well.
    fn and(self, other: Writes<'t>) -> Result<Writes<'t>, Rejection> {
        let deleted = |key: &[u8], deletes: &[KeyRange<'_>]| deletes.iter().any(|range| range.contains(key));
        let clash = other.puts.iter().any(|key| self.puts.contains(key) || deleted(key, &self.deletes))
            || (!other.deletes.is_empty() && self.puts.iter().any(|key| deleted(key, &other.deletes)));
        if clash { Err(Rejection::DuplicateKey) } else { Ok(self.or(other)) }
    }

    /// Of something that runs instead.
    fn or(mut self, mut other: Writes<'t>) -> Writes<'t> {
        self.puts.append(&mut other.puts);
        self.deletes.append(&mut other.deletes);
        self
    }
}

fn check_duplicates(ops: &[TxnOp]) -> Result<Writes<'_>, Rejection> {
    let mut all = Writes::default();
    for op in ops {
        all = all.and(match &op.body {
            Some(TxnOpBody::Put(put)) => Writes::put(&put.key),
            Some(TxnOpBody::DeleteRange(delete)) => {
                Writes::delete(KeyRange::new(&delete.key, &delete.range_end))
            }
            Some(TxnOpBody::Txn(nested)) => {
                check_duplicates(&nested.success)?.or(check_duplicates(&nested.failure)?)
            }
            Some(TxnOpBody::Range(_)) | None => Writes::default(),
        })?;
    }
    Ok(all)
}
