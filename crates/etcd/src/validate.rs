//! What is refused before it is proposed.
//!
//! Each check depends on the request alone, never on the state: what it refuses here would be refused at apply too, but
//! would have cost a log entry on every member. Sources: etcd, `server/etcdserver/api/v3rpc/key.go`
//! (`checkRangeRequest`, `checkPutRequest`, `checkTxnRequest`, `checkIntervals`).
//!
//! # The two rules that are not obvious
//!
//! *The operation limit is spent on the way down.* A transaction counts as the longest of its three lists. What remains
//! of the limit is what each nested transaction may use.
//!
//! *A key is written once.* In one branch no key may be put twice, nor put and deleted; deleting it twice is harmless.
//! A nested transaction counts with both of its branches, which may share keys with each other since only one runs. The
//! two branches of the outer transaction are independent for the same reason, and both are checked: whether a
//! request is well-formed must not depend on how its compares come out.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;
use quorate_wire::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, range_request, request_op,
};

use crate::status::{self, EtcdError};

/// The range end that stands for "no end" (etcd, `RangeRequest.range_end`).
pub(crate) const FROM_KEY: &[u8] = b"\0";

/// The largest lease TTL: etcd, `server/lease/lessor.go` (`MaxLeaseTTL`), 285 years.
pub(crate) const MAX_LEASE_TTL_S: i64 = 9_000_000_000;

pub(crate) fn range(request: &RangeRequest) -> Result<(), EtcdError> {
    if request.key.is_empty() {
        return Err(status::EMPTY_KEY);
    }
    // An enumeration on the wire is any int32. The JSON gateway cannot produce others, gRPC can.
    if range_request::SortOrder::try_from(request.sort_order).is_err()
        || range_request::SortTarget::try_from(request.sort_target).is_err()
    {
        return Err(status::INVALID_SORT);
    }
    Ok(())
}

pub(crate) fn put(request: &PutRequest) -> Result<(), EtcdError> {
    if request.key.is_empty() {
        return Err(status::EMPTY_KEY);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(status::VALUE_PROVIDED);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(status::LEASE_PROVIDED);
    }
    Ok(())
}

pub(crate) fn delete_range(request: &DeleteRangeRequest) -> Result<(), EtcdError> {
    if request.key.is_empty() { Err(status::EMPTY_KEY) } else { Ok(()) }
}

/// The whole tree of a transaction: operations, limits, then keys.
pub(crate) fn txn(request: &TxnRequest, max_ops: usize) -> Result<(), EtcdError> {
    txn_tree(request, max_ops)?;
    Writes::of(&request.success)?;
    Writes::of(&request.failure)?;
    Ok(())
}

/// A proposal has to fit into one log entry and one peer message.
pub(crate) fn size(request: &impl Message, max_bytes: usize) -> Result<(), EtcdError> {
    if request.encoded_len() > max_bytes { Err(status::REQUEST_TOO_LARGE) } else { Ok(()) }
}

pub(crate) fn lease_ttl(ttl_s: i64) -> Result<(), EtcdError> {
    if ttl_s > MAX_LEASE_TTL_S { Err(status::LEASE_TTL_TOO_LARGE) } else { Ok(()) }
}

fn txn_tree(request: &TxnRequest, max_ops: usize) -> Result<(), EtcdError> {
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len());
    // A transaction that nests another holds at least that one operation, so the depth is bounded as well.
    let Some(left) = max_ops.checked_sub(ops) else { return Err(status::TOO_MANY_OPS) };
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(status::EMPTY_KEY);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(request_op::Request::RequestRange(op)) => range(op)?,
            Some(request_op::Request::RequestPut(op)) => put(op)?,
            Some(request_op::Request::RequestDeleteRange(op)) => delete_range(op)?,
            Some(request_op::Request::RequestTxn(op)) => txn_tree(op, left)?,
            // etcd's answer to an operation that is none.
            None => return Err(status::KEY_NOT_FOUND),
        }
    }
    Ok(())
}

/// What a branch may write, with everything nested in it.
#[derive(Default)]
struct Writes {
    puts: BTreeSet<Bytes>,
    deletions: Vec<(Bytes, Bytes)>,
}

impl Writes {
    fn of(branch: &[RequestOp]) -> Result<Writes, EtcdError> {
        let mut writes = Writes::default();
        // Deletions of this level first: a nested put has to be held against all of them, also the later ones.
        for op in branch {
            if let Some(request_op::Request::RequestDeleteRange(op)) = &op.request {
                writes.deletions.push((op.key.clone(), op.range_end.clone()));
            }
        }
        for op in branch {
            if let Some(request_op::Request::RequestTxn(nested)) = &op.request {
                let then = Writes::of(&nested.success)?;
                let otherwise = Writes::of(&nested.failure)?;
                let mut either: BTreeSet<Bytes> = then.puts;
                either.extend(otherwise.puts);
                for key in either {
                    writes.put(key)?;
                }
                writes.deletions.extend(then.deletions);
                writes.deletions.extend(otherwise.deletions);
            }
        }
        for op in branch {
            if let Some(request_op::Request::RequestPut(op)) = &op.request {
                writes.put(op.key.clone())?;
            }
        }
        Ok(writes)
    }

    fn put(&mut self, key: Bytes) -> Result<(), EtcdError> {
        if self.deletions.iter().any(|(start, end)| covers(start, end, &key)) || !self.puts.insert(key) {
            return Err(status::DUPLICATE_KEY);
        }
        Ok(())
    }
}

/// Whether `key` lies in the range that etcd writes as (`start`, `end`).
fn covers(start: &[u8], end: &[u8], key: &[u8]) -> bool {
    if end.is_empty() { start == key } else { start <= key && (end == FROM_KEY || key < end) }
}

/// Whether a watch on the range can never see a key: the end is given and not behind the start.
pub(crate) fn is_empty_range(start: &[u8], end: &[u8]) -> bool {
    !end.is_empty() && end != FROM_KEY && end <= start
}

#[cfg(test)]
mod tests;
