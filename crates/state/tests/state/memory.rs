//! The smallest ordered byte map that is a [`View`].

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use quorate_state::{Batch, Direction, Op, Scan, View, ViewError};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) pairs: BTreeMap<Bytes, Bytes>,
}

impl Memory {
    pub(crate) fn write(&mut self, batch: Batch) {
        for op in batch.ops {
            match op {
                Op::Put { key, value } => self.pairs.insert(key, value),
                Op::Delete { key } => self.pairs.remove(&key),
            };
        }
    }
}

impl View for Memory {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        Ok(self.pairs.get(key).cloned())
    }

    fn scan(&self, start: &[u8], end: &[u8], direction: Direction) -> Scan<'_> {
        let end = if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(end) };
        let pairs = self.pairs.range::<[u8], _>((Bound::Included(start), end));
        let pairs = pairs.map(|(key, value)| Ok((key.clone(), value.clone())));
        match direction {
            Direction::Forward => Box::new(pairs),
            Direction::Backward => Box::new(pairs.rev()),
        }
    }
}
