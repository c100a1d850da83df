//! What was written lately, in memory: changes that are not in the database yet. None stands for a removal.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::{RwLock, RwLockReadGuard};
use quorate_state::Op;

use crate::chunked::Source;

/// What a change costs beside its bytes: its place in the tree and two reference counts.
const CHANGE_BYTES: usize = 64;

/// Changes in key order. One writer; readers at any time.
#[derive(Debug, Default)]
pub(super) struct Table {
    map: RwLock<BTreeMap<Bytes, Option<Bytes>>>,
    bytes: AtomicUsize,
}

impl Table {
    /// The outer None: nothing is said about `key` here.
    pub(super) fn get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        self.map.read().get(key).cloned()
    }

    pub(super) fn write(&self, ops: &[Op]) {
        let mut map = self.map.write();
        let mut bytes = self.bytes.load(Ordering::Relaxed);
        for op in ops {
            let (key, value) = match op {
                Op::Put { key, value } => (key, Some(value.clone())),
                Op::Delete { key } => (key, None),
            };
            bytes += key.len() + value.as_ref().map_or(0, Bytes::len) + CHANGE_BYTES;
            if let Some(old) = map.insert(key.clone(), value) {
                bytes -= key.len() + old.map_or(0, |old| old.len()) + CHANGE_BYTES;
            }
        }
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// About what it holds.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.map.read().is_empty()
    }
}

impl Source for std::sync::Arc<Table> {
    type Value = Option<Bytes>;

    fn map(&self) -> RwLockReadGuard<'_, BTreeMap<Bytes, Option<Bytes>>> {
        self.map.read()
    }
}
