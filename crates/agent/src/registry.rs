//! The registry: the keys under `/<namespace>/<scope>/`, read into a cluster view and written by guarded transactions.
//!
//! # Reading
//!
//! [`Registry::read`] is one linearizable range over the prefix. The store is in this process, so that costs one
//! confirmation by a quorum and a scan of a dozen keys, and it answers two questions at once: what the cluster looks like,
//! and whether the store is there. A cache fed by the watch would be cheaper and would go on answering on a node that is
//! cut off; the watch ([`crate::watch`]) is therefore used to be woken, never to judge by.
//!
//! Documents are parsed by `ha`, which owns their format. One that cannot be parsed stands in the view as its last
//! readable version, with the revisions it had then: whatever is decided on it carries a guard that the store refuses, so
//! a damaged key is never overwritten by accident, and the operator is told once per version.
//!
//! # Writing
//!
//! One function per kind of write, each exactly one transaction, each with the guard its decision was judged on.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use quorate_ha::action::{KeyGuard, LockGuard};
use quorate_ha::cluster::{
    FailoverRequest, Held, History, Initialize, LeaseId, Lock, MemberRecord, Revision, Status, Suspected,
    Suspicion, SyncDocument, Versioned,
};
use quorate_ha::{ClusterView, Key, Keys, LeaseFacts, Moment};
use quorate_node::clock::boottime;
use quorate_node::{Handle, ProposeError, ReadError};
use quorate_state::{KeyValue, Range, Rejection};

use crate::error::WriteError;
use crate::txn::{Guarded, classify, revoke};

/// The cluster's keys in the store.
#[derive(Clone)]
pub(crate) struct Registry {
    handle: Handle,
    keys: Keys,
    name: String,
}

/// The prefix as it is in the store at one revision.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reading {
    pub(crate) revision: i64,
    pub(crate) kvs: BTreeMap<String, KeyValue>,
}

impl Reading {
    /// A key's value as text.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        std::str::from_utf8(&self.kvs.get(key)?.value).ok()
    }
}

/// The end of the range of all keys that start with `prefix`.
pub(crate) fn prefix_end(prefix: &str) -> Bytes {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < 0xFF {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(b"\0")
}

impl Registry {
    pub(crate) fn new(handle: Handle, keys: Keys, name: String) -> Registry {
        Registry { handle, keys, name }
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Everything under the prefix that a decision reads, as a quorum knows it after this call began. The decision records sort
    /// behind it.
    pub(crate) async fn read(&self, timeout: Duration) -> Result<Reading, ReadError> {
        let request = Range {
            key: Bytes::copy_from_slice(self.keys.prefix().as_bytes()),
            range_end: self.keys.records().into(),
            ..Range::default()
        };
        // The bound is the node's to keep; ours stands behind it, because a read that hangs must not hang the loop.
        let reply = tokio::time::timeout(timeout, self.handle.range(request, timeout))
            .await
            .map_err(|_| ReadError::TimedOut)??;
        let kvs = reply
            .kvs
            .into_iter()
            .filter_map(|kv| Some((String::from_utf8(kv.key.to_vec()).ok()?, kv)))
            .collect();
        Ok(Reading { revision: reply.revision, kvs })
    }

    fn path(&self, key: &Key) -> String {
        self.keys.path(key)
    }

    fn leader(&self) -> String {
        self.path(&Key::Leader)
    }

    fn held(&self, guard: &LockGuard) -> Guarded {
        Guarded::held(&self.leader(), guard.create_revision().0, guard.lease().0)
    }

    fn as_observed(&self, key: &Key, guard: &KeyGuard) -> Guarded {
        Guarded::unchanged(&self.path(key), guard.mod_revision().map(|revision| revision.0))
    }

    // --- leases ---------------------------------------------------------------------------------------------------

    /// A fresh lease, valid from the moment before it was asked for; `id` where the caller has chosen one.
    pub(crate) async fn grant(
        &self,
        id: Option<LeaseId>,
        ttl: Duration,
        timeout: Duration,
    ) -> Result<LeaseFacts, WriteError> {
        let sent = boottime();
        let grant = self.handle.grant_lease(id.map(|id| id.0), ttl, timeout);
        let grant = tokio::time::timeout(timeout, grant).await;
        let id = grant.unwrap_or(Err(quorate_node::ProposeError::Indeterminate)).map_err(classify)?;
        Ok(LeaseFacts { id: LeaseId(id), valid_until: Moment(sent + ttl) })
    }

    /// Renews. None: the store does not know the lease (any more). The renewed validity counts from before the request.
    pub(crate) async fn renew(
        &self,
        lease: LeaseId,
        timeout: Duration,
    ) -> Result<Option<LeaseFacts>, ReadError> {
        let sent = boottime();
        let renewal = tokio::time::timeout(timeout, self.handle.renew_lease(lease.0, timeout))
            .await
            .map_err(|_| ReadError::TimedOut)??;
        Ok(renewal.map(|renewal| LeaseFacts { id: lease, valid_until: Moment(sent + renewal.ttl) }))
    }

    /// Forgets a lease in the store.
    pub(crate) async fn revoke(&self, lease: LeaseId, timeout: Duration) -> Result<(), WriteError> {
        revoke(&self.handle, lease.0, timeout).await
    }

    // --- the lock -------------------------------------------------------------------------------------------------

    /// `/leader` = us on a fresh lease, if there is none and `/sync` is as judged. The transaction does not wait for the grant: it
    /// is refused without the lease, so where it has overtaken the grant it is sent again. After a lost compare nothing is left
    /// but a lease that expires, should its revocation fail.
    pub(crate) async fn acquire(
        &self,
        sync: &KeyGuard,
        ttl: Duration,
        timeout: Duration,
    ) -> Result<LeaseFacts, WriteError> {
        let id = LeaseId(fastrand::i64(1..));
        let lock = self.as_observed(&Key::Sync, sync).and_unchanged(&self.leader(), None).put(
            &self.leader(),
            self.name.clone(),
            id.0,
        );
        let granting = self.grant(Some(id), ttl, timeout);
        let (lease, taken) = tokio::join!(granting, lock.clone().commit(&self.handle, timeout));
        let lease = lease?;
        let taken = match taken {
            Err(WriteError::Refused(ProposeError::Rejected(Rejection::LeaseNotFound))) => {
                lock.commit(&self.handle, timeout).await
            }
            taken => taken,
        };
        if let Err(WriteError::GuardFailed) = taken
            && let Err(error) = self.revoke(id, timeout).await
        {
            tracing::debug!(%error, "an unused lease is left to expire");
        }
        taken.map(|_| lease)
    }

    /// The lock is ours at this instant, says a quorum (S6).
    pub(crate) async fn confirm_lock(&self, guard: &LockGuard, timeout: Duration) -> Result<(), WriteError> {
        self.held(guard).commit(&self.handle, timeout).await.map(drop)
    }

    /// The lock is deleted, and the final position published with it.
    pub(crate) async fn release(
        &self,
        guard: &LockGuard,
        status: Option<&Status>,
        timeout: Duration,
    ) -> Result<(), WriteError> {
        let mut txn = self.held(guard);
        if let Some(status) = status {
            txn = txn.put(&self.path(&Key::Status), status.to_json(), 0);
        }
        txn.delete(&self.leader()).commit(&self.handle, timeout).await.map(drop)
    }

    /// `/suspicion`, if it is as observed and the lock is the one it speaks of.
    pub(crate) async fn suspect(
        &self,
        guard: &KeyGuard,
        document: &Suspicion,
        timeout: Duration,
    ) -> Result<(), WriteError> {
        self.as_observed(&Key::Suspicion, guard)
            .and_created(&self.leader(), document.lock.0)
            .put(&self.path(&Key::Suspicion), document.to_json(), 0)
            .commit(&self.handle, timeout)
            .await
            .map(drop)
    }

    /// Takes the lock away from its holder, if nothing has changed since the promises were judged.
    pub(crate) async fn revoke_lock(
        &self,
        lock: &Held,
        suspicion: &KeyGuard,
        sync: &KeyGuard,
        document: &Suspicion,
        timeout: Duration,
    ) -> Result<(), WriteError> {
        self.as_observed(&Key::Suspicion, suspicion)
            .and_unchanged(&self.path(&Key::Sync), sync.mod_revision().map(|revision| revision.0))
            .and_created(&self.leader(), lock.create_revision.0)
            .delete(&self.leader())
            .put(&self.path(&Key::Suspicion), document.to_json(), 0)
            .commit(&self.handle, timeout)
            .await
            .map(drop)
    }

    // --- other keys -----------------------------------------------------------------------------------------------

    pub(crate) async fn publish_member(
        &self,
        lease: LeaseId,
        record: &MemberRecord,
        timeout: Duration,
    ) -> Result<(), WriteError> {
        let key = self.path(&Key::Member(self.name.clone()));
        Guarded::unconditional()
            .put(&key, record.to_json(), lease.0)
            .commit(&self.handle, timeout)
            .await
            .map(drop)
    }

    pub(crate) async fn claim_initialize(&self, lease: LeaseId, timeout: Duration) -> Result<(), WriteError> {
        let key = self.path(&Key::Initialize);
        Guarded::unchanged(&key, None).put(&key, "", lease.0).commit(&self.handle, timeout).await.map(drop)
    }

    /// `value` in `key`, without lease, if the key is as observed.
    pub(crate) async fn write(
        &self,
        key: &Key,
        guard: &KeyGuard,
        value: String,
        timeout: Duration,
    ) -> Result<(), WriteError> {
        self.as_observed(key, guard)
            .put(&self.path(key), value, 0)
            .commit(&self.handle, timeout)
            .await
            .map(drop)
    }

    /// As [`Registry::write`], for callers that hold a revision and no view (the REST API).
    pub(crate) async fn write_at(
        &self,
        key: &Key,
        mod_revision: Option<i64>,
        value: String,
        timeout: Duration,
    ) -> Result<(), WriteError> {
        let path = self.path(key);
        Guarded::unchanged(&path, mod_revision)
            .put(&path, value, 0)
            .commit(&self.handle, timeout)
            .await
            .map(drop)
    }

    /// Deletes `key` if it is as observed.
    pub(crate) async fn delete(
        &self,
        key: &Key,
        guard: &KeyGuard,
        timeout: Duration,
    ) -> Result<(), WriteError> {
        self.as_observed(key, guard).delete(&self.path(key)).commit(&self.handle, timeout).await.map(drop)
    }

    /// Writes (None: deletes) `key` if the lock is ours and, where one is given, the key is as observed.
    pub(crate) async fn write_as_holder(
        &self,
        lock: &LockGuard,
        key: &Key,
        guard: Option<&KeyGuard>,
        value: Option<String>,
        timeout: Duration,
    ) -> Result<(), WriteError> {
        let path = self.path(key);
        let mut txn = self.held(lock);
        if let Some(guard) = guard {
            txn = txn.and_unchanged(&path, guard.mod_revision().map(|revision| revision.0));
        }
        let txn = match value {
            Some(value) => txn.put(&path, value, 0),
            None => txn.delete(&path),
        };
        txn.commit(&self.handle, timeout).await.map(drop)
    }
}

/// What the loop remembers from view to view.
#[derive(Default)]
pub(crate) struct Memory {
    /// The last view, for keys that have become unreadable.
    last: Option<ClusterView>,
    /// The versions that were reported as unreadable.
    reported: BTreeMap<String, i64>,
    /// The suspicion, since when it is seen.
    suspicion: Option<(Revision, Moment)>,
    /// The lock's absence, while it lasts.
    absence: Option<(Revision, Moment)>,
    /// The newest generation of the lock that was seen.
    lock_seen: Revision,
    /// Every member ever seen.
    pub(crate) remembered: BTreeMap<String, MemberRecord>,
    /// Of those whose keys are gone: since when.
    pub(crate) missing: BTreeMap<String, Moment>,
}

impl Memory {
    /// The view of a reading. `vanished` is the newest deletion of the lock that the watch delivered.
    pub(crate) fn view(
        &mut self,
        now: Moment,
        keys: &Keys,
        reading: &Reading,
        vanished: Option<(Revision, Moment)>,
    ) -> ClusterView {
        let mut view = ClusterView {
            revision: Revision(reading.revision),
            initialize: None,
            lock: Lock::Absent { since_revision: Revision(0), since: now },
            members: BTreeMap::new(),
            config: None,
            sync: None,
            history: None,
            failover: None,
            status: None,
            suspicion: None,
        };
        let mut held = None;
        let last = self.last.take();
        let last = last.as_ref();
        for (path, kv) in &reading.kvs {
            let Some(key) = keys.parse(path) else { continue };
            let text = String::from_utf8_lossy(&kv.value);
            let mut unreadable = |why: String| {
                if self.reported.insert(path.clone(), kv.mod_revision) != Some(kv.mod_revision) {
                    tracing::error!(
                        key = path,
                        why,
                        "a key of the cluster cannot be read and is ignored until it is corrected"
                    );
                }
            };
            macro_rules! document {
                ($field:ident, $parse:expr) => {
                    match $parse {
                        Ok(value) => view.$field = Some(versioned(kv, value)),
                        Err(error) => {
                            unreadable(error.to_string());
                            view.$field = last.and_then(|last| last.$field.clone());
                        }
                    }
                };
            }
            match key {
                Key::Initialize => view.initialize = Some(versioned(kv, Initialize::parse(&text))),
                Key::Leader => {
                    held = Some(Held {
                        holder: text.into_owned(),
                        lease: LeaseId(kv.lease),
                        create_revision: Revision(kv.create_revision),
                    });
                }
                Key::Member(name) => match MemberRecord::parse(&text) {
                    Ok(record) => {
                        self.remembered.insert(name.clone(), record.clone());
                        view.members.insert(name, versioned(kv, record));
                    }
                    Err(error) => {
                        unreadable(error.to_string());
                        if let Some(record) = last.and_then(|last| last.members.get(&name)) {
                            view.members.insert(name, record.clone());
                        }
                    }
                },
                Key::Config => document!(config, serde_json::from_str::<serde_json::Value>(&text)),
                Key::Sync => document!(sync, SyncDocument::parse(&text)),
                Key::History => document!(history, History::parse(&text)),
                Key::Failover => document!(failover, FailoverRequest::parse(&text)),
                Key::Status => document!(status, Status::parse(&text)),
                // One that cannot be read binds nobody; it is written anew by whoever suspects next.
                Key::Suspicion => match Suspicion::parse(&text) {
                    Ok(value) => {
                        let key = versioned(kv, value);
                        let known = self.suspicion.filter(|(revision, _)| *revision == key.mod_revision);
                        let (_, since) = *self.suspicion.insert(known.unwrap_or((key.mod_revision, now)));
                        view.suspicion = Some(Suspected { key, since });
                    }
                    Err(error) => unreadable(error.to_string()),
                },
            }
        }
        self.missing.retain(|name, _| !view.members.contains_key(name));
        for name in self.remembered.keys().filter(|name| !view.members.contains_key(*name)) {
            self.missing.entry(name.clone()).or_insert(now);
        }
        view.lock = self.lock(now, held, view.revision, vanished);
        self.last = Some(view.clone());
        view
    }

    /// The lock, with the revision at which it vanished if it did.
    fn lock(
        &mut self,
        now: Moment,
        held: Option<Held>,
        revision: Revision,
        vanished: Option<(Revision, Moment)>,
    ) -> Lock {
        if let Some(held) = held {
            self.absence = None;
            self.lock_seen = self.lock_seen.max(held.create_revision);
            return Lock::Held(held);
        }
        // The watch's word is exact if it speaks of the last generation; otherwise the first view without the lock counts,
        // and the exact revision replaces it when the watch delivers it.
        let exact = vanished.filter(|(at, _)| *at > self.lock_seen && *at <= revision);
        let (since_revision, since) = match (exact, self.absence) {
            (Some((at, when)), Some((_, first))) => (at, when.min(first)),
            (Some(exact), None) => exact,
            (None, Some(known)) => known,
            (None, None) => (revision, now),
        };
        self.absence = Some((since_revision, since));
        Lock::Absent { since_revision, since }
    }
}

fn versioned<T>(kv: &KeyValue, value: T) -> Versioned<T> {
    Versioned {
        value,
        create_revision: Revision(kv.create_revision),
        mod_revision: Revision(kv.mod_revision),
        lease: (kv.lease != 0).then_some(LeaseId(kv.lease)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(revision: i64, keys: &[(&str, &str, i64)]) -> Reading {
        let kvs = keys.iter().map(|(key, value, mod_revision)| {
            let key = format!("/service/demo/{key}");
            let kv = KeyValue {
                key: key.clone().into(),
                value: Bytes::copy_from_slice(value.as_bytes()),
                create_revision: *mod_revision,
                mod_revision: *mod_revision,
                version: 1,
                lease: 7,
            };
            (key, kv)
        });
        Reading { revision, kvs: kvs.collect() }
    }

    fn at(s: u64) -> Moment {
        Moment(Duration::from_secs(s))
    }

    fn keys() -> Keys {
        Keys::new("service", "demo")
    }

    #[test]
    fn the_locks_absence_is_dated_by_the_watch_or_by_the_first_view() {
        let mut memory = Memory::default();
        let held = memory.view(at(1), &keys(), &reading(10, &[("leader", "node1", 9)]), None);
        assert_eq!(held.held().unwrap().create_revision, Revision(9));
        // An old deletion, of an earlier generation, is not taken for this one.
        let absent = memory.view(at(2), &keys(), &reading(20, &[]), Some((Revision(8), at(0))));
        assert_eq!(absent.lock, Lock::Absent { since_revision: Revision(20), since: at(2) });
        let later = memory.view(at(3), &keys(), &reading(25, &[]), None);
        assert_eq!(
            later.lock,
            Lock::Absent { since_revision: Revision(20), since: at(2) },
            "it does not move"
        );
        let exact = memory.view(at(4), &keys(), &reading(25, &[]), Some((Revision(15), at(3))));
        assert_eq!(exact.lock, Lock::Absent { since_revision: Revision(15), since: at(2) });
    }

    #[test]
    fn an_unreadable_document_keeps_its_last_readable_version_and_guard() {
        let mut memory = Memory::default();
        memory.view(at(1), &keys(), &reading(10, &[("status", r#"{"optime":5}"#, 9)]), None);
        let view = memory.view(at(2), &keys(), &reading(11, &[("status", "{", 11)]), None);
        let status = view.status.unwrap();
        assert_eq!((status.value.optime.0, status.mod_revision), (5, Revision(9)));
        let view = memory.view(at(3), &keys(), &reading(12, &[("sync", "nonsense", 12)]), None);
        assert_eq!(view.sync, None);
    }

    #[test]
    fn members_are_remembered_after_their_keys_are_gone() {
        let mut memory = Memory::default();
        memory.view(at(1), &keys(), &reading(10, &[("members/node2", r#"{"api_url":"http://x"}"#, 9)]), None);
        let view = memory.view(at(2), &keys(), &reading(11, &[]), None);
        assert!(view.members.is_empty());
        assert_eq!(memory.remembered["node2"].api_url, "http://x");
        assert_eq!(memory.missing["node2"], at(2));
        memory.view(at(3), &keys(), &reading(12, &[]), None);
        assert_eq!(memory.missing["node2"], at(2), "it does not move");
        memory.view(at(4), &keys(), &reading(13, &[("members/node2", "{}", 13)]), None);
        assert!(memory.missing.is_empty());
    }

    #[test]
    fn prefixes_end_where_they_end() {
        assert_eq!(prefix_end("/service/demo/"), Bytes::from_static(b"/service/demo0"));
    }
}
