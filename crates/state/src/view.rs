//! What `apply` reads (a trait) and what it writes (data).

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
