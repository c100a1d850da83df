//! One revision in the making: what the commands read, and the only place that writes versions of keys.
//!
//! A command opens no revision by itself: the first write does, and [`Change::close`] moves the store's revision if there
//! was one. So a command that changes nothing leaves no trace.

use bytes::Bytes;

use crate::auth::{self, AuthState};
use crate::record::{self, Version};
use crate::revision::{self, INITIAL_REVISION};
use crate::{AlarmKind, Event, Fault, KeyValue, LeaseId, Overlay, Revision, View, alarm, keys};

/// The chunk being applied and the revision being built on top of it.
pub(crate) struct Change<'v> {
    pub(crate) view: Overlay<'v>,
    /// The last closed revision.
    pub(crate) revision: Revision,
    pub(crate) compacted: Revision,
    /// Raised alarms, as (member, kind).
    pub(crate) alarms: Vec<(u64, AlarmKind)>,
    pub(crate) auth: AuthState,
    /// What the open revision did so far, in order of effect.
    events: Vec<Event>,
}

impl<'v> Change<'v> {
    pub(crate) fn open(base: &'v dyn View) -> Result<Change<'v>, Fault> {
        Ok(Change {
            revision: revision::revision(base)?,
            compacted: revision::compacted(base)?,
            alarms: alarm::alarms(base)?,
            auth: auth::auth_state(base)?,
            view: Overlay::new(base),
            events: Vec::new(),
        })
    }

    /// What a read sees now: one more than the closed revision once the open one has written (etcd's rule inside a
    /// transaction).
    pub(crate) fn current(&self) -> Revision {
        if self.events.is_empty() { self.revision } else { self.revision + 1 }
    }

    pub(crate) fn latest(&self, key: &[u8]) -> Result<Option<KeyValue>, Fault> {
        record::latest(&self.view, key)
    }

    /// Writes a version of `key` after `prev`, which must be its latest record.
    pub(crate) fn put(&mut self, key: &Bytes, value: Bytes, lease: LeaseId, prev: Option<KeyValue>) {
        let main = self.revision + 1;
        let (create_revision, version, old_lease) = match &prev {
            Some(prev) => (prev.create_revision, prev.version + 1, prev.lease),
            None => (main, 1, 0),
        };
        if old_lease != lease {
            if old_lease != 0 {
                self.view.delete(keys::lease_key(old_lease, key));
            }
            if lease != 0 {
                self.view.put(keys::lease_key(lease, key), Bytes::new());
            }
        }
        let kv = KeyValue { key: key.clone(), create_revision, mod_revision: main, version, value, lease };
        let stored = self.record(&kv, false);
        self.view.put(keys::latest(key), stored.slice(1..));
        self.push(kv, prev, false);
    }

    /// Writes a tombstone after `prev`, which must be the key's latest record.
    pub(crate) fn delete(&mut self, prev: KeyValue) {
        let key = prev.key.clone();
        if prev.lease != 0 {
            self.view.delete(keys::lease_key(prev.lease, &key));
        }
        self.view.delete(keys::latest(&key));
        let kv = KeyValue { key, mod_revision: self.revision + 1, ..KeyValue::default() };
        self.record(&kv, true);
        self.push(kv, Some(prev), true);
    }

    /// Ends the command: the events of the revision, if it came to one.
    pub(crate) fn close(&mut self) -> Vec<Event> {
        if !self.events.is_empty() {
            self.revision += 1;
            self.view.put(keys::revision(), revision::encode(self.revision));
        }
        std::mem::take(&mut self.events)
    }

    fn record(&mut self, kv: &KeyValue, tombstone: bool) -> Bytes {
        let sub = self.sub();
        let version = Version { main: kv.mod_revision, sub, tombstone };
        let stored = record::encode_event(kv, tombstone);
        self.view.put(keys::event(version.main, sub), stored.clone());
        self.view.put(keys::version(&kv.key, version.main), version.encode());
        stored
    }

    fn push(&mut self, kv: KeyValue, prev_kv: Option<KeyValue>, delete: bool) {
        let sub = self.sub();
        self.events.push(Event { delete, kv, prev_kv, sub });
    }

    /// A revision holds at most one event per key, and keys are in memory: u32 is out of reach.
    fn sub(&self) -> u32 {
        u32::try_from(self.events.len()).expect("fewer than 2^32 changes in one revision")
    }
}

const _: () = assert!(INITIAL_REVISION > 0, "revision 0 means `now` in every request");
