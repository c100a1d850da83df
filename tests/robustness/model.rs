//! The store as a specification: what a request changes and what it is answered, given the state before it.
//!
//! Deliberately the shortest program that says it, and deliberately not `quorate-state`: a checker that runs the code it
//! checks finds nothing. Only what the traffic uses is here. Leases are known by the keys that hang on them.

use std::collections::BTreeMap;

use crate::history::{Body, Compare, Kv, Request};

/// The keys at one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) revision: i64,
    pub(crate) keys: BTreeMap<String, Kv>,
}

/// What happened to a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Change {
    pub(crate) key: String,
    /// None: deleted.
    pub(crate) now: Option<Kv>,
}

/// Whether `key` is in the range, by etcd's rule: no end, one key.
pub(crate) fn is_inside(key: &str, begin: &str, end: &str) -> bool {
    if end.is_empty() { key == begin } else { key >= begin && key < end }
}

impl State {
    pub(crate) fn range(&self, begin: &str, end: &str) -> Vec<Kv> {
        self.keys.values().filter(|kv| is_inside(&kv.key, begin, end)).cloned().collect()
    }

    /// Which branch a transaction takes.
    pub(crate) fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Value { key, value } => self.keys.get(key).is_some_and(|kv| kv.value == *value),
            Compare::Mod { key, revision } => self.keys.get(key).map_or(0, |kv| kv.modified) == *revision,
            Compare::Absent { key } => !self.keys.contains_key(key),
        }
    }

    /// What would be answered, and what changes, at the next revision if anything does. Requests that are not about keys
    /// change nothing and are answered `Done`.
    pub(crate) fn apply(&self, request: &Request) -> (Body, Vec<Change>) {
        let mut next = self.clone();
        let mut changes = Vec::new();
        let body = next.perform(request, self.revision + 1, &mut changes);
        (body, changes)
    }

    /// What the end of a lease changes.
    pub(crate) fn end_of_lease(&self, lease: i64) -> Vec<Change> {
        let attached = self.keys.values().filter(|kv| lease != 0 && kv.lease == lease);
        attached.map(|kv| Change { key: kv.key.clone(), now: None }).collect()
    }

    /// Takes what happened at `revision`.
    pub(crate) fn take(&mut self, revision: i64, changes: &[Change]) {
        self.revision = revision;
        for change in changes {
            match &change.now {
                Some(kv) => drop(self.keys.insert(change.key.clone(), kv.clone())),
                None => drop(self.keys.remove(&change.key)),
            }
        }
    }

    fn perform(&mut self, request: &Request, revision: i64, changes: &mut Vec<Change>) -> Body {
        match request {
            Request::Put { key, value, lease, prev_kv } => {
                let previous = self.keys.get(key).cloned();
                let kv = Kv {
                    key: key.clone(),
                    value: value.clone(),
                    create: previous.as_ref().map_or(revision, |kv| kv.create),
                    modified: revision,
                    version: previous.as_ref().map_or(1, |kv| kv.version + 1),
                    lease: *lease,
                };
                self.keys.insert(key.clone(), kv.clone());
                changes.push(Change { key: key.clone(), now: Some(kv) });
                Body::Put { previous: previous.filter(|_| *prev_kv) }
            }
            Request::Delete { key, end, prev_kv } => {
                let found = self.range(key, end);
                for kv in &found {
                    self.keys.remove(&kv.key);
                    changes.push(Change { key: kv.key.clone(), now: None });
                }
                let deleted = i64::try_from(found.len()).expect("a few keys");
                Body::Delete { deleted, previous: if *prev_kv { found } else { Vec::new() } }
            }
            Request::Range { key, end, .. } => {
                let kvs = self.range(key, end);
                Body::Range { count: i64::try_from(kvs.len()).expect("a few keys"), kvs }
            }
            Request::Txn { compares, success, failure } => {
                let succeeded = compares.iter().all(|compare| self.holds(compare));
                let branch = if succeeded { success } else { failure };
                let bodies = branch.iter().map(|request| self.perform(request, revision, changes)).collect();
                Body::Txn { succeeded, bodies }
            }
            Request::Compact { .. }
            | Request::Grant { .. }
            | Request::Renew { .. }
            | Request::Revoke { .. }
            | Request::Leases => Body::Done,
        }
    }
}

/// Every value that the request may write, in whichever branch.
pub(crate) fn values(request: &Request) -> Vec<&str> {
    match request {
        Request::Put { value, .. } => vec![value],
        Request::Txn { success, failure, .. } => success.iter().chain(failure).flat_map(values).collect(),
        Request::Delete { .. }
        | Request::Range { .. }
        | Request::Compact { .. }
        | Request::Grant { .. }
        | Request::Renew { .. }
        | Request::Revoke { .. }
        | Request::Leases => Vec::new(),
    }
}
