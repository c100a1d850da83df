//! Leases as records: an id, a time to live, the keys attached. Deadlines are the lessor's, outside the replicated state:
//! time enters as a [`LeaseRevoke`] that the leader proposes, and as a [`LeaseCheckpoint`] that tells the leader after it
//! how far it had counted.
//!
//! A checkpoint may reach apply late: behind a renewal that took it back, or behind a new lease under the same id. So
//! every record has a stamp, random at first and moved by every checkpoint, and a checkpoint names the stamp that it was
//! judged on. With any other it changes nothing.

use bytes::Bytes;
use prost::Message;

use crate::apply::Outcome;
use crate::change::Change;
use crate::{
    Direction, Done, Fault, LeaseCheckpoint, LeaseGrant, LeaseId, LeaseRevoke, Rejection, ReplyBody, View,
    alarm, keys, record,
};

/// etcd's bound (lease/lessor.go, MaxLeaseTTL: 9,000,000,000 seconds).
pub const MAX_LEASE_TTL_MS: u64 = 9_000_000_000 * 1000;

/// A lease as granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseRecord {
    /// Never 0.
    pub id: LeaseId,
    /// The full time to live.
    pub ttl_ms: u64,
    /// Names this state of this lease, see [`crate::LeaseRemaining::stamp`].
    pub stamp: u64,
    /// What remained when a leader last counted, if that is not the full time to live.
    pub remaining_ms: Option<u64>,
}

impl LeaseRecord {
    /// The stamp after the one of a record that was just checkpointed.
    #[must_use]
    pub fn next_stamp(stamp: u64) -> u64 {
        stamp.wrapping_add(1)
    }

    /// True when this is the lease that had `stamp`, however often it was checkpointed since; not another of the same id.
    #[must_use]
    pub fn descends_from(&self, stamp: u64) -> bool {
        self.stamp.wrapping_sub(stamp) <= u64::from(u32::MAX)
    }
}

/// What is stored under the id.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct StoredLease {
    #[prost(uint64, tag = "1")]
    ttl_ms: u64,
    #[prost(fixed64, tag = "2")]
    stamp: u64,
    /// 0: in full.
    #[prost(uint64, tag = "3")]
    remaining_ms: u64,
}

pub(crate) fn grant(change: &mut Change<'_>, grant: &LeaseGrant) -> Outcome {
    if let Err(rejection) = alarm::check_put(change) {
        return Ok(Err(rejection));
    }
    if grant.id == 0 {
        // The proposer chooses the id; 0 would be a lease that no put can name.
        return Ok(Err(Rejection::Unspecified));
    }
    if grant.ttl_ms > MAX_LEASE_TTL_MS {
        return Ok(Err(Rejection::LeaseTtlTooLarge));
    }
    if lease(&change.view, grant.id)?.is_some() {
        return Ok(Err(Rejection::LeaseExists));
    }
    let stored = StoredLease { ttl_ms: grant.ttl_ms, stamp: grant.stamp, remaining_ms: 0 };
    change.view.put(keys::lease(grant.id), stored.encode_to_vec().into());
    Ok(Ok(ReplyBody::LeaseGrant(grant.clone())))
}

/// The keys go in sorted order and in one revision, together with the lease.
pub(crate) fn revoke(change: &mut Change<'_>, revoke: &LeaseRevoke) -> Outcome {
    if let Err(rejection) = alarm::check_write(change) {
        return Ok(Err(rejection));
    }
    match lease(&change.view, revoke.id)? {
        Some(lease) if revoke.judged.is_none_or(|stamp| lease.descends_from(stamp)) => {}
        Some(_) | None => return Ok(Err(Rejection::LeaseNotFound)),
    }
    for key in lease_keys(&change.view, revoke.id)? {
        let kv = record::latest(&change.view, &key)?;
        change.delete(kv.ok_or(Fault::Inconsistent { what: "a lease holds a key that does not exist" })?);
    }
    change.view.delete(keys::lease(revoke.id));
    Ok(Ok(ReplyBody::Done(Done {})))
}

/// No alarm stands in its way: it touches no key.
pub(crate) fn checkpoint(change: &mut Change<'_>, checkpoint: &LeaseCheckpoint) -> Outcome {
    for judged in &checkpoint.leases {
        let Some(lease) = lease(&change.view, judged.id)? else { continue };
        if lease.stamp != judged.stamp {
            continue;
        }
        let remaining_ms = if judged.remaining_ms < lease.ttl_ms { judged.remaining_ms } else { 0 };
        let stamp = LeaseRecord::next_stamp(lease.stamp);
        let stored = StoredLease { ttl_ms: lease.ttl_ms, stamp, remaining_ms };
        change.view.put(keys::lease(lease.id), stored.encode_to_vec().into());
    }
    Ok(Ok(ReplyBody::Done(Done {})))
}

/// Every lease, by id.
pub fn leases(view: &dyn View) -> Result<Vec<LeaseRecord>, Fault> {
    view.scan(&keys::lease_start(), &keys::lease_end(), Direction::Forward)
        .map(|pair| {
            let (key, value) = pair?;
            decode(keys::lease_id(&key)?, value)
        })
        .collect()
}

/// The lease, if it was granted and not revoked.
pub fn lease(view: &dyn View, id: LeaseId) -> Result<Option<LeaseRecord>, Fault> {
    view.get(&keys::lease(id))?.map(|value| decode(id, value)).transpose()
}

/// The keys attached to a lease, sorted. Empty for an unknown one.
pub fn lease_keys(view: &dyn View, id: LeaseId) -> Result<Vec<Bytes>, Fault> {
    view.scan(&keys::lease_key(id, b""), &keys::lease_key_end(id), Direction::Forward)
        .map(|pair| keys::lease_key_user_key(&pair?.0))
        .collect()
}

fn decode(id: LeaseId, value: Bytes) -> Result<LeaseRecord, Fault> {
    let stored = StoredLease::decode(value)
        .map_err(|error| Fault::Undecodable { what: "lease", source: Some(error) })?;
    let remaining_ms = (stored.remaining_ms > 0).then_some(stored.remaining_ms);
    Ok(LeaseRecord { id, ttl_ms: stored.ttl_ms, stamp: stored.stamp, remaining_ms })
}
