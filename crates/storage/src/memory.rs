//! The engine in memory: for tests and for simulation. Nothing survives the process.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use quorate_state::{Batch, Direction, Op, Scan, View, ViewError};

use crate::freeze::{self, Freezes, Registry};
use crate::{Engine, Frozen, StorageError};

/// A scan takes this many pairs under one lock: few first, because most scans want one.
const FIRST_CHUNK_PAIRS: usize = 8;
const CHUNK_PAIRS: usize = 256;

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
        let bounds = (
            Bound::Included(Bytes::copy_from_slice(start)),
            if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(Bytes::copy_from_slice(end)) },
        );
        Box::new(Chunked {
            inner: self,
            bounds,
            direction,
            chunk: Vec::new().into_iter(),
            size: FIRST_CHUNK_PAIRS,
            done: false,
        })
    }
}

struct Chunked<'e> {
    inner: &'e Inner,
    /// What is left.
    bounds: (Bound<Bytes>, Bound<Bytes>),
    direction: Direction,
    chunk: std::vec::IntoIter<(Bytes, Bytes)>,
    size: usize,
    done: bool,
}

/// `BTreeMap::range` panics on these.
fn is_empty((start, end): &(Bound<Bytes>, Bound<Bytes>)) -> bool {
    match (start, end) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (Bound::Included(start) | Bound::Excluded(start), Bound::Included(end) | Bound::Excluded(end)) => {
            start >= end
        }
    }
}

impl Iterator for Chunked<'_> {
    type Item = Result<(Bytes, Bytes), ViewError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(pair) = self.chunk.next() {
            return Some(Ok(pair));
        }
        if self.done || is_empty(&self.bounds) {
            return None;
        }
        let map = self.inner.map.read();
        let range = map.range(self.bounds.clone()).map(|(key, value)| (key.clone(), value.clone()));
        let chunk: Vec<_> = match self.direction {
            Direction::Forward => range.take(self.size).collect(),
            Direction::Backward => range.rev().take(self.size).collect(),
        };
        drop(map);
        self.done = chunk.len() < self.size;
        self.size = CHUNK_PAIRS;
        if let Some((last, _)) = chunk.last() {
            match self.direction {
                Direction::Forward => self.bounds.0 = Bound::Excluded(last.clone()),
                Direction::Backward => self.bounds.1 = Bound::Excluded(last.clone()),
            }
        }
        self.chunk = chunk.into_iter();
        self.chunk.next().map(Ok)
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
