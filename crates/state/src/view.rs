//! What `apply` reads (a trait) and what it writes (data).

use std::collections::BTreeMap;
use std::iter::Peekable;

use bytes::Bytes;

/// Reading the ordered byte map under the state machine. Storage implements it (sled and memory), [`crate`] reads it.
pub trait View {
    /// The value of `key`, if there is one.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError>;
    /// Pairs with `start <= key < end`, in byte order or against it. An empty `end` means no upper bound.
    fn scan(&self, start: &[u8], end: &[u8], direction: Direction) -> Scan<'_>;
}

/// Pairs in key order, each fallible.
pub type Scan<'v> = Box<dyn Iterator<Item = Result<(Bytes, Bytes), ViewError>> + 'v>;

/// The order of a [`View::scan`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Smallest key first.
    Forward,
    /// Largest key first.
    Backward,
}

/// The engine could not read. Never an expected refusal: the node stops.
#[derive(Debug, thiserror::Error)]
#[error("reading the state failed")]
pub struct ViewError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// One change of the byte map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Insert or overwrite.
    Put {
        /// Full key, key-space prefix included.
        key: Bytes,
        /// New value.
        value: Bytes,
    },
    /// Remove; removing what is absent is no error.
    Delete {
        /// Full key, key-space prefix included.
        key: Bytes,
    },
}

/// Changes that take effect together or not at all. Later ops win over earlier ones on the same key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// In order of effect.
    pub ops: Vec<Op>,
}

impl Batch {
    /// Adds an insertion.
    pub fn put(&mut self, key: Bytes, value: Bytes) {
        self.ops.push(Op::Put { key, value });
    }

    /// Adds a removal.
    pub fn delete(&mut self, key: Bytes) {
        self.ops.push(Op::Delete { key });
    }

    /// Nothing would change.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

/// Read your own batch: a base view with changes on top that are not written yet. Lets many commands of one chunk become
/// one [`Batch`], each key at most once in it, in key order.
pub struct Overlay<'v> {
    base: &'v dyn View,
    /// None is a removal.
    changes: BTreeMap<Bytes, Option<Bytes>>,
}

impl<'v> Overlay<'v> {
    /// No changes yet.
    pub fn new(base: &'v dyn View) -> Overlay<'v> {
        Overlay { base, changes: BTreeMap::new() }
    }

    /// Inserts or overwrites.
    pub fn put(&mut self, key: Bytes, value: Bytes) {
        self.changes.insert(key, Some(value));
    }

    /// Removes.
    pub fn delete(&mut self, key: Bytes) {
        self.changes.insert(key, None);
    }

    /// The changes, as data.
    pub fn into_batch(self) -> Batch {
        let op = |(key, value)| match value {
            Some(value) => Op::Put { key, value },
            None => Op::Delete { key },
        };
        Batch { ops: self.changes.into_iter().map(op).collect() }
    }

    fn own(&self, start: &[u8], end: &[u8], direction: Direction) -> OwnChanges<'_> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        if !end.is_empty() && start >= end {
            return Box::new(std::iter::empty());
        }
        let end = if end.is_empty() { Unbounded } else { Excluded(end) };
        let range = self.changes.range::<[u8], _>((Included(start), end));
        match direction {
            Direction::Forward => Box::new(range),
            Direction::Backward => Box::new(range.rev()),
        }
    }
}

impl View for Overlay<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        match self.changes.get(key) {
            Some(change) => Ok(change.clone()),
            None => self.base.get(key),
        }
    }

    fn scan(&self, start: &[u8], end: &[u8], direction: Direction) -> Scan<'_> {
        let mut own = self.own(start, end, direction).peekable();
        let base = self.base.scan(start, end, direction);
        if own.peek().is_none() {
            return base;
        }
        Box::new(Merge { base: base.peekable(), own, direction })
    }
}

type OwnChanges<'a> = Box<dyn Iterator<Item = (&'a Bytes, &'a Option<Bytes>)> + 'a>;

/// Two ordered sequences as one; an own change hides the base's pair of the same key.
struct Merge<'a> {
    base: Peekable<Scan<'a>>,
    own: Peekable<OwnChanges<'a>>,
    direction: Direction,
}

impl Iterator for Merge<'_> {
    type Item = Result<(Bytes, Bytes), ViewError>;

    fn next(&mut self) -> Option<Self::Item> {
        use std::cmp::Ordering::{Equal, Greater, Less};
        loop {
            let order = match (self.base.peek(), self.own.peek()) {
                (None, None) => return None,
                // An error is handed out where it stands.
                (Some(Err(_)), _) | (Some(_), None) => Less,
                (None, Some(_)) => Greater,
                (Some(Ok((base, _))), Some((own, _))) => match self.direction {
                    Direction::Forward => base.cmp(own),
                    Direction::Backward => (*own).cmp(base),
                },
            };
            match order {
                Less => return self.base.next(),
                Equal => drop(self.base.next()),
                Greater => {}
            }
            if let Some((key, Some(value))) = self.own.next() {
                return Some(Ok((key.clone(), value.clone())));
            }
        }
    }
}
