//! Put: one read of the latest record, then its new version.

use crate::apply::Outcome;
use crate::change::Change;
use crate::{Fault, KeyValue, Put, PutReply, Rejection, ReplyBody, alarm, lease};

pub(crate) fn apply(change: &mut Change<'_>, put: &Put) -> Outcome {
    if let Err(rejection) = alarm::check_put(change).and_then(|()| check_shape(put)) {
        return Ok(Err(rejection));
    }
    let prev = change.latest(&put.key)?;
    if let Err(rejection) = check_state(change, put, prev.as_ref())? {
        return Ok(Err(rejection));
    }
    Ok(Ok(ReplyBody::Put(write(change, put, prev))))
}

/// What is wrong with the request whatever the state is.
pub(crate) fn check_shape(put: &Put) -> Result<(), Rejection> {
    if put.key.is_empty() {
        Err(Rejection::EmptyKey)
    } else if put.ignore_value && !put.value.is_empty() {
        Err(Rejection::ValueProvided)
    } else if put.ignore_lease && put.lease != 0 {
        Err(Rejection::LeaseProvided)
    } else {
        Ok(())
    }
}

/// What is wrong with it in this state, where `prev` is the key's latest record. The lease is looked at first (etcd's
/// order: server/etcdserver/txn, put).
pub(crate) fn check_state(
    change: &Change<'_>,
    put: &Put,
    prev: Option<&KeyValue>,
) -> Result<Result<(), Rejection>, Fault> {
    if put.lease != 0 && lease::lease(&change.view, put.lease)?.is_none() {
        return Ok(Err(Rejection::LeaseNotFound));
    }
    if (put.ignore_value || put.ignore_lease) && prev.is_none() {
        return Ok(Err(Rejection::KeyNotFound));
    }
    Ok(Ok(()))
}

/// After both checks. Lease 0 detaches what was attached.
pub(crate) fn write(change: &mut Change<'_>, put: &Put, prev: Option<KeyValue>) -> PutReply {
    let kept = prev.as_ref();
    let value = match kept {
        Some(kept) if put.ignore_value => kept.value.clone(),
        _ => put.value.clone(),
    };
    let lease = match kept {
        Some(kept) if put.ignore_lease => kept.lease,
        _ => put.lease,
    };
    let prev_kv = if put.prev_kv { prev.clone() } else { None };
    change.put(&put.key, value, lease, prev);
    PutReply { prev_kv }
}
