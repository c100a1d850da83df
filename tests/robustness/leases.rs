//! Leases: not ended before their time, not alive after their end, and their keys go with them.
//!
//! A lease has no revision of its own, so time judges it, in the only direction in which a client can: the store got a
//! renewal *after* the client sent it, so the lease lives at least until then plus its time to live. That is asked without
//! any tolerance. There is no such bound from above: a change of the leader may lengthen a lease. Hence "kept too long" is
//! asked only of what is certain: somebody was told that it is gone, or nobody renews it and the run has waited for its end.
//!
//! | rule | what it asks |
//! |---|---|
//! | not before its time | the revision that takes its keys, and "not found", come after every confirmed renewal's sending plus the ttl |
//! | not after its end | no renewal that begins after the end is confirmed, no put after it names the lease |
//! | its keys go with it | no read that begins after the end shows a key of it |
//! | it ends | at the end of the run, when nobody renews, no lease is left |

use std::collections::{BTreeMap, HashMap};

use crate::history::{Body, History, Kv, Outcome, Request};
use crate::log::{Author, Log};
use crate::verdict::{Checker, Findings};

/// A grant or a renewal that was answered with a time to live.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Renewal {
    call_ns: u64,
    ttl_s: i64,
    at: usize,
}

impl Renewal {
    /// Before this the lease cannot end by itself.
    pub(crate) fn until_ns(&self) -> u64 {
        self.call_ns + u64::try_from(self.ttl_s).unwrap_or(0) * 1_000_000_000
    }
}

/// By lease.
pub(crate) fn confirmed(history: &History) -> HashMap<i64, Vec<Renewal>> {
    let mut all: HashMap<i64, Vec<Renewal>> = HashMap::new();
    for (at, operation) in history.operations() {
        let (Request::Grant { lease, .. } | Request::Renew { lease }) = &operation.request else { continue };
        if let Outcome::Answered(answer) = &operation.outcome
            && let Body::Lease { ttl_s } = answer.body
            && ttl_s > 0
        {
            all.entry(*lease).or_default().push(Renewal { call_ns: operation.call_ns, ttl_s, at });
        }
    }
    all
}

/// Somebody knew by then that the lease was gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Gone {
    by_ns: u64,
    at: usize,
}

fn lease_of(request: &Request) -> Option<i64> {
    match request {
        Request::Put { lease, .. } => (*lease != 0).then_some(*lease),
        Request::Txn { success, failure, .. } => success.iter().chain(failure).find_map(lease_of),
        Request::Renew { lease } | Request::Revoke { lease } => Some(*lease),
        Request::Grant { .. }
        | Request::Delete { .. }
        | Request::Range { .. }
        | Request::Compact { .. }
        | Request::Leases => None,
    }
}

/// The pairs that an answer shows.
fn shown(body: &Body) -> Vec<&Kv> {
    match body {
        Body::Range { kvs, .. } => kvs.iter().collect(),
        Body::Txn { bodies, .. } => bodies.iter().flat_map(shown).collect(),
        Body::Put { .. } | Body::Delete { .. } | Body::Lease { .. } | Body::Leases { .. } | Body::Done => {
            Vec::new()
        }
    }
}

/// Linearizable reads that showed a key of a lease: when they were called, the record, the key.
fn reads(history: &History) -> HashMap<i64, Vec<(u64, usize, &str)>> {
    let mut reads: HashMap<i64, Vec<(u64, usize, &str)>> = HashMap::new();
    for (at, operation) in history.operations() {
        let may_be_old = match &operation.request {
            Request::Range { serializable, revision, .. } => *serializable || *revision > 0,
            _ => false,
        };
        if let (Outcome::Answered(answer), false) = (&operation.outcome, may_be_old) {
            for kv in shown(&answer.body).into_iter().filter(|kv| kv.lease != 0) {
                reads.entry(kv.lease).or_default().push((operation.call_ns, at, &kv.key));
            }
        }
    }
    reads
}

pub(crate) fn check(history: &History, log: &Log, findings: &mut Findings) {
    let confirmed = confirmed(history);
    let mut gone: BTreeMap<i64, Vec<Gone>> = BTreeMap::new();
    // When a revocation was first asked for: from then on it may be gone at any time.
    let mut revoked: HashMap<i64, u64> = HashMap::new();
    for (at, operation) in history.operations() {
        let by_ns = operation.return_ns;
        match (&operation.request, &operation.outcome) {
            (Request::Revoke { lease }, outcome) => {
                match outcome {
                    Outcome::Answered(_) => gone.entry(*lease).or_default().push(Gone { by_ns, at }),
                    Outcome::Refused { message } if message.contains("lease not found") => {
                        gone.entry(*lease).or_default().push(Gone { by_ns, at });
                    }
                    Outcome::Refused { .. } | Outcome::Unknown { .. } => {}
                }
                if !matches!(outcome, Outcome::Refused { .. }) {
                    let first = revoked.entry(*lease).or_insert(operation.call_ns);
                    *first = (*first).min(operation.call_ns);
                }
            }
            (Request::Renew { lease }, Outcome::Answered(answer)) => {
                if let Body::Lease { ttl_s } = answer.body
                    && ttl_s <= 0
                {
                    gone.entry(*lease).or_default().push(Gone { by_ns, at });
                }
            }
            (request, Outcome::Refused { message }) if message.contains("lease not found") => {
                if let Some(lease) = lease_of(request) {
                    gone.entry(lease).or_default().push(Gone { by_ns, at });
                }
            }
            (_, Outcome::Answered(_) | Outcome::Refused { .. } | Outcome::Unknown { .. }) => {}
        }
    }
    let mut ended: HashMap<i64, (i64, usize)> = HashMap::new();
    for (revision, entry) in &log.entries {
        let lease = match entry.author {
            Author::Lease(lease) => Some(lease),
            Author::Operation(at) => match &history.operation(at).request {
                Request::Revoke { lease } => Some(*lease),
                _ => None,
            },
            Author::Nobody => None,
        };
        if let Some(lease) = lease {
            ended.entry(lease).or_insert((*revision, entry.at));
            if let Some((by_ns, at)) = log.proofs.of(*revision) {
                gone.entry(lease).or_default().push(Gone { by_ns, at });
            }
        }
        for kv in entry.changes.iter().filter_map(|change| change.now.as_ref()) {
            if let Some((end, at)) = ended.get(&kv.lease) {
                let why = format!("lease {} had ended at revision {end}", kv.lease);
                findings.add(Checker::Leases, "not after its end", *at, Some(entry.at), why);
            }
        }
    }
    let reads = reads(history);
    for (lease, all) in &gone {
        let renewals = confirmed.get(lease).map_or(&[][..], Vec::as_slice);
        let first = all.iter().min().expect("an entry is made with its first element");
        for renewal in renewals {
            let asked = revoked.get(lease).is_some_and(|revoked| *revoked < first.by_ns);
            if renewal.call_ns > first.by_ns {
                let why = format!("lease {lease} was gone, and was renewed");
                findings.add(Checker::Leases, "not after its end", first.at, Some(renewal.at), why);
            } else if !asked && renewal.until_ns() > first.by_ns {
                let early_ms = (renewal.until_ns() - first.by_ns) / 1_000_000;
                let why = format!("lease {lease} was gone at least {early_ms} ms before its time");
                findings.add(Checker::Leases, "not before its time", renewal.at, Some(first.at), why);
            }
        }
        for (call_ns, at, key) in reads.get(lease).into_iter().flatten() {
            if *call_ns > first.by_ns {
                let why = format!("lease {lease} was gone, and {key} was still there");
                findings.add(Checker::Leases, "its keys go with it", first.at, Some(*at), why);
            }
        }
    }
    at_the_end(history, &confirmed, findings);
}

/// The run asks for the list until it is empty or its patience is over, and keeps the last answer of each member.
fn at_the_end(history: &History, confirmed: &HashMap<i64, Vec<Renewal>>, findings: &mut Findings) {
    for (at, operation) in history.operations() {
        let Outcome::Answered(answer) = &operation.outcome else { continue };
        let Body::Leases { leases } = &answer.body else { continue };
        for lease in leases {
            let last = confirmed.get(lease).and_then(|all| all.iter().max_by_key(|one| one.call_ns));
            let why = format!("lease {lease} is still there, and nobody renews it");
            findings.add(Checker::Leases, "it ends", at, last.map(|last| last.at), why);
        }
    }
}
