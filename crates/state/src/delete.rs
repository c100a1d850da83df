//! DeleteRange: a tombstone for every key of the range, in key order, as one revision. Deleting nothing is no change.

use crate::apply::Outcome;
use crate::change::Change;
use crate::key_range::KeyRange;
use crate::{DeleteRange, DeleteRangeReply, Fault, KeyValue, Rejection, ReplyBody, alarm};

pub(crate) fn apply(change: &mut Change<'_>, delete: &DeleteRange) -> Outcome {
    if let Err(rejection) = alarm::check_write(change).and_then(|()| check_shape(delete)) {
        return Ok(Err(rejection));
    }
    Ok(Ok(ReplyBody::DeleteRange(write(change, delete)?)))
}

pub(crate) fn check_shape(delete: &DeleteRange) -> Result<(), Rejection> {
    if delete.key.is_empty() { Err(Rejection::EmptyKey) } else { Ok(()) }
}

pub(crate) fn write(change: &mut Change<'_>, delete: &DeleteRange) -> Result<DeleteRangeReply, Fault> {
    // Collected before the first tombstone: the view must not change under its own scan.
    let keys = KeyRange::new(&delete.key, &delete.range_end);
    let doomed: Vec<KeyValue> = keys.latest_records(&change.view).collect::<Result<_, _>>()?;
    let deleted = i64::try_from(doomed.len()).expect("a count of things in memory");
    let prev_kvs = if delete.prev_kv { doomed.clone() } else { Vec::new() };
    for kv in doomed {
        change.delete(kv);
    }
    Ok(DeleteRangeReply { deleted, prev_kvs })
}
