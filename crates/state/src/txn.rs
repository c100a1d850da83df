//! Txn: compares, then one of two branches, as one revision.
//!
//! Four steps, and only the last one writes:
//!
//! 1. shape: keys, sort options, duplicate keys, in both branches of every level ([`crate::txn_check`]);
//! 2. path: every compare, nested ones on the way included, sees the state before the transaction;
//! 3. checks of the branches on the path: leases, `ignore_*`, revisions to read at;
//! 4. operations, in order; a range inside sees the writes before it.
//!
//! Source of the order: etcd, server/etcdserver/txn (compareToPath, checkTxn, executeTxn).

use crate::apply::Outcome;
use crate::change::Change;
use crate::key_range::KeyRange;
use crate::revision::check_readable;
use crate::{
    Compare, CompareResult, CompareTarget, Fault, KeyValue, Rejection, ReplyBody, Txn, TxnOp, TxnOpBody,
    TxnOpReply, TxnOpReplyBody, TxnReply, View, alarm, delete, put, range, txn_check,
};

pub(crate) fn apply(change: &mut Change<'_>, txn: &Txn) -> Outcome {
    let alarmed = if txn.has_put() { alarm::check_put(change) } else { alarm::check_write(change) };
    if let Err(rejection) = alarmed {
        return Ok(Err(rejection));
    }
    Ok(evaluate(change, txn)?.map(ReplyBody::Txn))
}

/// Answers a transaction from `view` without proposing it. Meant for [`Txn::is_read_only`]; of another one it tells what it
/// would answer, and changes nothing.
pub fn txn_read(view: &dyn View, txn: &Txn) -> Result<Result<TxnReply, Rejection>, Fault> {
    evaluate(&mut Change::open(view)?, txn)
}

fn evaluate(change: &mut Change<'_>, txn: &Txn) -> Result<Result<TxnReply, Rejection>, Fault> {
    if let Err(rejection) = txn_check::check_shape(txn) {
        return Ok(Err(rejection));
    }
    let path = Path::choose(change, txn)?;
    if let Err(rejection) = path.check(change, txn)? {
        return Ok(Err(rejection));
    }
    Ok(Ok(path.run(change, txn)?))
}

/// Which branch runs, here and in the nested transactions of that branch, in their order.
struct Path {
    succeeded: bool,
    nested: Vec<Path>,
}

impl Path {
    fn choose(change: &Change<'_>, txn: &Txn) -> Result<Path, Fault> {
        let mut succeeded = true;
        for compare in &txn.compare {
            if !holds(change, compare)? {
                succeeded = false;
                break;
            }
        }
        let nested = branch(txn, succeeded).iter().filter_map(|op| match &op.body {
            Some(TxnOpBody::Txn(nested)) => Some(Path::choose(change, nested)),
            Some(TxnOpBody::Range(_) | TxnOpBody::Put(_) | TxnOpBody::DeleteRange(_)) | None => None,
        });
        Ok(Path { succeeded, nested: nested.collect::<Result<_, _>>()? })
    }

    /// The state's own refusals, before anything is written.
    fn check(&self, change: &Change<'_>, txn: &Txn) -> Result<Result<(), Rejection>, Fault> {
        let mut nested = self.nested.iter();
        for op in branch(txn, self.succeeded) {
            let checked = match &op.body {
                Some(TxnOpBody::Range(range)) => {
                    check_readable(range.revision, change.revision, change.compacted)
                }
                Some(TxnOpBody::Put(put)) if put.lease == 0 && !put.ignore_value && !put.ignore_lease => {
                    Ok(())
                }
                Some(TxnOpBody::Put(put)) => {
                    put::check_state(change, put, change.latest(&put.key)?.as_ref())?
                }
                Some(TxnOpBody::DeleteRange(_)) | None => Ok(()),
                Some(TxnOpBody::Txn(txn)) => next(&mut nested).check(change, txn)?,
            };
            if checked.is_err() {
                return Ok(checked);
            }
        }
        Ok(Ok(()))
    }

    fn run(&self, change: &mut Change<'_>, txn: &Txn) -> Result<TxnReply, Fault> {
        let ops = branch(txn, self.succeeded);
        let mut nested = self.nested.iter();
        let mut replies = Vec::with_capacity(ops.len());
        for op in ops {
            let reply = match op.body.as_ref().expect("the shape was checked") {
                TxnOpBody::Range(range) => {
                    TxnOpReplyBody::Range(range::read(&change.view, range, change.current())?)
                }
                TxnOpBody::Put(put) => {
                    // No operation of this transaction has touched the key: duplicates were refused.
                    let prev = change.latest(&put.key)?;
                    TxnOpReplyBody::Put(put::write(change, put, prev))
                }
                TxnOpBody::DeleteRange(delete) => TxnOpReplyBody::DeleteRange(delete::write(change, delete)?),
                TxnOpBody::Txn(txn) => TxnOpReplyBody::Txn(next(&mut nested).run(change, txn)?),
            };
            replies.push(TxnOpReply { body: Some(reply) });
        }
        Ok(TxnReply { succeeded: self.succeeded, replies })
    }
}

fn branch(txn: &Txn, succeeded: bool) -> &[TxnOp] {
    if succeeded { &txn.success } else { &txn.failure }
}

fn next<'p>(nested: &mut std::slice::Iter<'p, Path>) -> &'p Path {
    nested.next().expect("the path was chosen over the same operations")
}

/// Every key of the range must satisfy it; an empty range is one missing key.
fn holds(change: &Change<'_>, compare: &Compare) -> Result<bool, Fault> {
    let result = CompareResult::try_from(compare.result).expect("the shape was checked");
    // An absent target is etcd's default: the version, compared with 0.
    let target = compare.target.as_ref().unwrap_or(&CompareTarget::Version(0));
    let keys = KeyRange::new(&compare.key, &compare.range_end);
    let mut empty = true;
    for pair in keys.latest_records(&change.view) {
        empty = false;
        if !satisfies(&pair?, target, result) {
            return Ok(false);
        }
    }
    // A missing key has no value, so no compare of values holds, not even NOT_EQUAL; its numbers are 0.
    let missing_holds = || match target {
        CompareTarget::Value(_) => false,
        CompareTarget::Version(_)
        | CompareTarget::Create(_)
        | CompareTarget::Mod(_)
        | CompareTarget::Lease(_) => satisfies(&KeyValue::default(), target, result),
    };
    Ok(!empty || missing_holds())
}

fn satisfies(kv: &KeyValue, target: &CompareTarget, result: CompareResult) -> bool {
    let order = match target {
        CompareTarget::Version(version) => kv.version.cmp(version),
        CompareTarget::Create(revision) => kv.create_revision.cmp(revision),
        CompareTarget::Mod(revision) => kv.mod_revision.cmp(revision),
        CompareTarget::Value(value) => kv.value.cmp(value),
        CompareTarget::Lease(lease) => kv.lease.cmp(lease),
    };
    match result {
        CompareResult::Equal => order.is_eq(),
        CompareResult::Greater => order.is_gt(),
        CompareResult::Less => order.is_lt(),
        CompareResult::NotEqual => order.is_ne(),
    }
}
