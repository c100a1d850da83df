//! Between the wire's messages and the state machine's.
//!
//! The two are alike and kept apart on purpose: the wire belongs to etcd's clients, the command to our log, and neither
//! may change because the other did. Every field is named, so a new one does not compile until it is thought about.
//! Keys and values are shared buffers; nothing here copies them.

use std::sync::Arc;

use quorate_state as state;
use quorate_state::Revision;
use quorate_wire::etcdserverpb::{self as pb, compare, request_op, response_op};
use quorate_wire::mvccpb;

use crate::header;
use crate::status::{EMPTY_KEY, EtcdError, KEY_NOT_FOUND, MALFORMED_REPLY};

pub(crate) fn command(body: state::Body) -> state::Command {
    state::Command::new(body)
}

pub(crate) fn range(request: pb::RangeRequest) -> state::Range {
    state::Range {
        key: request.key,
        range_end: request.range_end,
        limit: request.limit,
        revision: request.revision,
        sort_order: request.sort_order,
        sort_target: request.sort_target,
        serializable: request.serializable,
        keys_only: request.keys_only,
        count_only: request.count_only,
        min_mod_revision: request.min_mod_revision,
        max_mod_revision: request.max_mod_revision,
        min_create_revision: request.min_create_revision,
        max_create_revision: request.max_create_revision,
    }
}

pub(crate) fn put(request: pb::PutRequest) -> state::Put {
    state::Put {
        key: request.key,
        value: request.value,
        lease: request.lease,
        prev_kv: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    }
}

pub(crate) fn delete_range(request: pb::DeleteRangeRequest) -> state::DeleteRange {
    state::DeleteRange { key: request.key, range_end: request.range_end, prev_kv: request.prev_kv }
}

/// `request` has passed [`crate::validate::txn`]; what cannot be translated would have been refused there.
pub(crate) fn txn(request: pb::TxnRequest) -> Result<state::Txn, EtcdError> {
    Ok(state::Txn {
        compare: request.compare.into_iter().map(comparison).collect::<Result<_, _>>()?,
        success: request.success.into_iter().map(txn_op).collect::<Result<_, _>>()?,
        failure: request.failure.into_iter().map(txn_op).collect::<Result<_, _>>()?,
    })
}

/// On the wire the target is an enumeration beside a union, and only the union's member of that name counts: one that
/// is absent, or another one, is zero (etcd, `server/etcdserver/txn/txn.go`, `applyCompare`). An unknown target
/// compares nothing there and holds; so does it here, as "the version is at least 0". An unknown result likewise.
fn comparison(request: pb::Compare) -> Result<state::Compare, EtcdError> {
    use compare::{CompareTarget, TargetUnion};
    if request.key.is_empty() {
        return Err(EMPTY_KEY);
    }
    let union = request.target_union;
    let number = |wanted: CompareTarget| match (&union, wanted) {
        (Some(TargetUnion::Version(number)), CompareTarget::Version)
        | (Some(TargetUnion::CreateRevision(number)), CompareTarget::Create)
        | (Some(TargetUnion::ModRevision(number)), CompareTarget::Mod)
        | (Some(TargetUnion::Lease(number)), CompareTarget::Lease) => *number,
        _ => 0,
    };
    let target = match CompareTarget::try_from(request.target) {
        Ok(CompareTarget::Version) => state::CompareTarget::Version(number(CompareTarget::Version)),
        Ok(CompareTarget::Create) => state::CompareTarget::Create(number(CompareTarget::Create)),
        Ok(CompareTarget::Mod) => state::CompareTarget::Mod(number(CompareTarget::Mod)),
        Ok(CompareTarget::Lease) => state::CompareTarget::Lease(number(CompareTarget::Lease)),
        Ok(CompareTarget::Value) => state::CompareTarget::Value(match union {
            Some(TargetUnion::Value(value)) => value,
            Some(
                TargetUnion::Version(_)
                | TargetUnion::CreateRevision(_)
                | TargetUnion::ModRevision(_)
                | TargetUnion::Lease(_),
            )
            | None => bytes::Bytes::new(),
        }),
        Err(_) => return Ok(always(request.key, request.range_end)),
    };
    if compare::CompareResult::try_from(request.result).is_err() {
        return Ok(always(request.key, request.range_end));
    }
    // The two enumerations have the same numbers: EQUAL, GREATER, LESS, NOT_EQUAL.
    Ok(state::Compare {
        result: request.result,
        key: request.key,
        range_end: request.range_end,
        target: Some(target),
    })
}

/// A comparison that holds whatever the state: no version is below zero.
fn always(key: bytes::Bytes, range_end: bytes::Bytes) -> state::Compare {
    state::Compare {
        result: state::CompareResult::Greater as i32,
        key,
        range_end,
        target: Some(state::CompareTarget::Version(-1)),
    }
}

fn txn_op(request: pb::RequestOp) -> Result<state::TxnOp, EtcdError> {
    let body = match request.request {
        Some(request_op::Request::RequestRange(op)) => state::TxnOpBody::Range(range(op)),
        Some(request_op::Request::RequestPut(op)) => state::TxnOpBody::Put(put(op)),
        Some(request_op::Request::RequestDeleteRange(op)) => state::TxnOpBody::DeleteRange(delete_range(op)),
        Some(request_op::Request::RequestTxn(op)) => state::TxnOpBody::Txn(txn(op)?),
        None => return Err(KEY_NOT_FOUND),
    };
    Ok(state::TxnOp { body: Some(body) })
}

pub(crate) fn key_value(kv: state::KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        value: kv.value,
        lease: kv.lease,
    }
}

/// A deletion carries the key and the revision alone, whatever the store kept of it.
pub(crate) fn event(event: Arc<state::Event>) -> mvccpb::Event {
    let event = Arc::unwrap_or_clone(event);
    let (kind, kv) = if event.delete {
        let kv = mvccpb::KeyValue {
            key: event.kv.key,
            mod_revision: event.kv.mod_revision,
            ..mvccpb::KeyValue::default()
        };
        (mvccpb::event::EventType::Delete, kv)
    } else {
        (mvccpb::event::EventType::Put, key_value(event.kv))
    };
    mvccpb::Event { r#type: kind as i32, kv: Some(kv), prev_kv: event.prev_kv.map(key_value) }
}

/// The header is the caller's: it differs inside and outside of a transaction.
pub(crate) fn range_reply(reply: state::RangeReply, header: pb::ResponseHeader) -> pb::RangeResponse {
    pb::RangeResponse {
        header: Some(header),
        kvs: reply.kvs.into_iter().map(key_value).collect(),
        more: reply.more,
        count: reply.count,
    }
}

pub(crate) fn put_reply(reply: state::PutReply, header: pb::ResponseHeader) -> pb::PutResponse {
    pb::PutResponse { header: Some(header), prev_kv: reply.prev_kv.map(key_value) }
}

pub(crate) fn delete_reply(
    reply: state::DeleteRangeReply,
    header: pb::ResponseHeader,
) -> pb::DeleteRangeResponse {
    pb::DeleteRangeResponse {
        header: Some(header),
        deleted: reply.deleted,
        prev_kvs: reply.prev_kvs.into_iter().map(key_value).collect(),
    }
}

/// `revision` is the store's after the transaction.
pub(crate) fn txn_reply(
    reply: state::TxnReply,
    revision: Revision,
    header: pb::ResponseHeader,
) -> Result<pb::TxnResponse, EtcdError> {
    // One transaction is one revision: the operations before its first change still see the one before.
    let before = if changes(&reply) { revision - 1 } else { revision };
    let mut stamp = Stamp { before, after: revision, changed: false };
    txn_response(reply, header, &mut stamp)
}

/// The revision that the operations of a transaction answer with, in the order they ran.
struct Stamp {
    before: Revision,
    after: Revision,
    changed: bool,
}

impl Stamp {
    fn header(&self) -> pb::ResponseHeader {
        header::nested(if self.changed { self.after } else { self.before })
    }
}

fn changes(reply: &state::TxnReply) -> bool {
    reply.replies.iter().any(|reply| match &reply.body {
        Some(state::TxnOpReplyBody::Put(_)) => true,
        Some(state::TxnOpReplyBody::DeleteRange(reply)) => reply.deleted > 0,
        Some(state::TxnOpReplyBody::Txn(reply)) => changes(reply),
        Some(state::TxnOpReplyBody::Range(_)) | None => false,
    })
}

/// The revision that the first range in it was read at. In a transaction that only reads they are all the same.
pub(crate) fn first_revision(reply: &state::TxnReply) -> Option<Revision> {
    reply.replies.iter().find_map(|reply| match &reply.body {
        Some(state::TxnOpReplyBody::Range(reply)) => Some(reply.revision),
        Some(state::TxnOpReplyBody::Txn(reply)) => first_revision(reply),
        Some(state::TxnOpReplyBody::Put(_) | state::TxnOpReplyBody::DeleteRange(_)) | None => None,
    })
}

fn txn_response(
    reply: state::TxnReply,
    header: pb::ResponseHeader,
    stamp: &mut Stamp,
) -> Result<pb::TxnResponse, EtcdError> {
    let mut responses = Vec::with_capacity(reply.replies.len());
    for reply in reply.replies {
        let response = match reply.body {
            Some(state::TxnOpReplyBody::Range(reply)) => {
                let header = header::nested(reply.revision);
                response_op::Response::ResponseRange(range_reply(reply, header))
            }
            Some(state::TxnOpReplyBody::Put(reply)) => {
                stamp.changed = true;
                response_op::Response::ResponsePut(put_reply(reply, stamp.header()))
            }
            Some(state::TxnOpReplyBody::DeleteRange(reply)) => {
                stamp.changed |= reply.deleted > 0;
                response_op::Response::ResponseDeleteRange(delete_reply(reply, stamp.header()))
            }
            Some(state::TxnOpReplyBody::Txn(reply)) => {
                response_op::Response::ResponseTxn(txn_response(reply, header::nested(0), stamp)?)
            }
            None => return Err(MALFORMED_REPLY),
        };
        responses.push(pb::ResponseOp { response: Some(response) });
    }
    Ok(pb::TxnResponse { header: Some(header), succeeded: reply.succeeded, responses })
}

#[cfg(test)]
mod tests;
