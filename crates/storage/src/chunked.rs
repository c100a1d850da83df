//! Iterating an ordered map behind a lock without holding the lock between pairs.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use parking_lot::RwLockReadGuard;
use quorate_state::Direction;

/// A scan takes this many pairs under one lock: few first, because most scans want one.
const FIRST_CHUNK_PAIRS: usize = 8;
const CHUNK_PAIRS: usize = 256;

/// Where the map is.
pub(crate) trait Source {
    /// Cheap to clone.
    type Value: Clone;
    /// The map, locked.
    fn map(&self) -> RwLockReadGuard<'_, BTreeMap<Bytes, Self::Value>>;
}

/// Pairs with `start <= key < end` (an empty `end` is no bound), each as it was when its chunk was taken.
pub(crate) struct Chunked<S: Source> {
    source: S,
    /// What is left.
    bounds: (Bound<Bytes>, Bound<Bytes>),
    direction: Direction,
    chunk: std::vec::IntoIter<(Bytes, S::Value)>,
    size: usize,
    done: bool,
}

impl<S: Source> Chunked<S> {
    pub(crate) fn new(source: S, start: &[u8], end: &[u8], direction: Direction) -> Chunked<S> {
        let bounds = (
            Bound::Included(Bytes::copy_from_slice(start)),
            if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(Bytes::copy_from_slice(end)) },
        );
        Chunked {
            source,
            bounds,
            direction,
            chunk: Vec::new().into_iter(),
            size: FIRST_CHUNK_PAIRS,
            done: false,
        }
    }
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

impl<S: Source> Iterator for Chunked<S> {
    type Item = (Bytes, S::Value);

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(pair) = self.chunk.next() {
            return Some(pair);
        }
        if self.done || is_empty(&self.bounds) {
            return None;
        }
        let map = self.source.map();
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
        self.chunk.next()
    }
}
