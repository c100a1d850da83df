//! The engine in memory: for tests and for simulation. Nothing survives the process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use quorate_state::{Batch, Direction, Op, Scan, View, ViewError};

use crate::chunked::{Chunked, Source};
use crate::freeze::{self, Freezes, Registry};
use crate::{Engine, Frozen, StorageError};

/// An ordered map behind a lock.
#[derive(Debug, Default, Clone)]
pub struct MemoryEngine {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    map: RwLock<BTreeMap<Bytes, Bytes>>,
    bytes: AtomicU64,
    registry: Registry,
    /// Held for reading by [`Engine::consistent`], for writing by whoever changes the map. Taken before every other lock.
    gate: RwLock<()>,
    /// One writer at a time; readers inside the gate do not know it.
    writer: Mutex<()>,
}

impl MemoryEngine {
    /// An empty engine.
    pub fn new() -> MemoryEngine {
        MemoryEngine::default()
    }
}

impl View for Inner {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        Ok(self.map.read().get(key).cloned())
    }

    fn scan(&self, start: &[u8], end: &[u8], direction: Direction) -> Scan<'_> {
        Box::new(Chunked::new(self, start, end, direction).map(Ok))
    }
}

impl Source for &Inner {
    type Value = Bytes;

    fn map(&self) -> RwLockReadGuard<'_, BTreeMap<Bytes, Bytes>> {
        self.map.read()
    }
}

impl Freezes for Inner {
    fn registry(&self) -> &Registry {
        &self.registry
    }
}

impl View for MemoryEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        self.inner.get(key)
    }

    fn scan(&self, start: &[u8], end: &[u8], direction: Direction) -> Scan<'_> {
        self.inner.scan(start, end, direction)
    }
}

fn weight(key: &Bytes, value: &Bytes) -> u64 {
    (key.len() + value.len()) as u64
}

impl Engine for MemoryEngine {
    fn write(&self, batch: &Batch) -> Result<(), StorageError> {
        let inner = &*self.inner;
        let _writer = inner.writer.lock();
        let _gate = inner.gate.write();
        let _announced = inner
            .registry
            .announce(batch, |key| inner.get(key))
            .map_err(|error| StorageError::Engine { path: Default::default(), source: error.0 })?;
        let mut map = inner.map.write();
        let mut bytes = inner.bytes.load(Ordering::Relaxed);
        for op in &batch.ops {
            let removed = match op {
                Op::Put { key, value } => {
                    bytes += weight(key, value);
                    map.insert(key.clone(), value.clone()).map(|old| weight(key, &old))
                }
                Op::Delete { key } => map.remove(key).map(|old| weight(key, &old)),
            };
            bytes -= removed.unwrap_or(0);
        }
        inner.bytes.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    fn sync(&self) -> Result<(), StorageError> {
        Ok(())
    }

    fn replace(
        &self,
        pairs: &mut dyn Iterator<Item = Result<(Bytes, Bytes), StorageError>>,
    ) -> Result<(), StorageError> {
        let inner = &*self.inner;
        let _writer = inner.writer.lock();
        let fresh = pairs.collect::<Result<BTreeMap<_, _>, _>>()?;
        let _gate = inner.gate.write();
        let _announced = inner.registry.replace();
        inner.bytes.store(fresh.iter().map(|(key, value)| weight(key, value)).sum(), Ordering::Relaxed);
        *inner.map.write() = fresh;
        Ok(())
    }

    fn size_bytes(&self) -> u64 {
        self.inner.bytes.load(Ordering::Relaxed)
    }

    fn freeze(&self) -> Result<Frozen, StorageError> {
        Ok(freeze::freeze(&self.inner))
    }

    fn consistent(&self, read: &mut dyn FnMut(&dyn View)) {
        let _gate = self.inner.gate.read();
        read(self);
    }
}
