//! Leases as records: an id, a time to live, the keys attached. Deadlines are the lessor's, outside the replicated state:
//! time enters as a [`LeaseRevoke`] that the leader proposes.

use bytes::Bytes;
use prost::Message;

use crate::apply::Outcome;
use crate::change::Change;
use crate::{
    Direction, Done, Fault, LeaseGrant, LeaseId, LeaseRevoke, Rejection, ReplyBody, View, alarm, keys, record,
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
}

/// What is stored under the id.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct StoredLease {
    #[prost(uint64, tag = "1")]
    ttl_ms: u64,
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
    let stored = StoredLease { ttl_ms: grant.ttl_ms };
    change.view.put(keys::lease(grant.id), stored.encode_to_vec().into());
    Ok(Ok(ReplyBody::LeaseGrant(grant.clone())))
}

/// The keys go in sorted order and in one revision, together with the lease.
pub(crate) fn revoke(change: &mut Change<'_>, revoke: &LeaseRevoke) -> Outcome {
    if let Err(rejection) = alarm::check_write(change) {
        return Ok(Err(rejection));
    }
    if lease(&change.view, revoke.id)?.is_none() {
        return Ok(Err(Rejection::LeaseNotFound));
    }
    for key in lease_keys(&change.view, revoke.id)? {
        let kv = record::latest(&change.view, &key)?;
        change.delete(kv.ok_or(Fault::Inconsistent { what: "a lease holds a key that does not exist" })?);
    }
    change.view.delete(keys::lease(revoke.id));
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
    Ok(LeaseRecord { id, ttl_ms: stored.ttl_ms })
}
