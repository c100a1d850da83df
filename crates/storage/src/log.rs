//! The log: the one thing that is synced before anything is acknowledged.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use crate::StorageError;

/// Where an entry stands: Raft's log id (one leader per term).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Raft term.
    pub term: u64,
    /// Raft index, from 0 or 1 on, without holes.
    pub index: u64,
}

/// Raft's hard state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Vote {
    /// The term voted in.
    pub term: u64,
    /// Whom for.
    pub node: Option<u64>,
    /// The vote won a quorum (openraft's committed vote).
    pub committed: bool,
}

/// One entry; the payload is opaque here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place.
    pub at: Position,
    /// Encoded by the caller, once.
    pub payload: Bytes,
}

/// Called exactly once, from the writer thread, when the write it belongs to is on disk, or with the reason why not.
/// After an error every later completion gets one too: a failed sync is never retried.
pub type Completion = Box<dyn FnOnce(Result<(), std::io::Error>) + Send>;

/// Bounds and sizes.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// Preallocated and zeroed size of a segment, in bytes.
    pub segment_bytes: u64,
    /// Newest entries kept in memory, in payload bytes.
    pub cache_bytes: usize,
    /// Most bytes waiting for the writer; an append beyond blocks the caller.
    pub queue_bytes: usize,
}

/// A cheap handle; clones share one log. Writes are queued in call order and become readable at once.
#[derive(Clone)]
pub struct Log {}

#[allow(unused_variables, missing_docs, clippy::unimplemented)]
impl Log {
    /// Opens or creates the log in `dir` and replays it. A torn tail is cut in the last segment only.
    pub fn open(dir: &Path, options: LogOptions) -> Result<Log, StorageError> {
        unimplemented!()
    }
    pub fn vote(&self) -> Option<Vote> {
        unimplemented!()
    }
    pub fn committed(&self) -> Option<Position> {
        unimplemented!()
    }
    /// The last position that was purged: reading at or before it is impossible.
    pub fn purged(&self) -> Option<Position> {
        unimplemented!()
    }
    /// The last entry, or what was purged if nothing is left.
    pub fn last(&self) -> Option<Position> {
        unimplemented!()
    }
    /// Entries of `range` that are present, cut after `max_bytes` of payload but never empty if the first one exists.
    pub fn entries(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<Entry>, StorageError> {
        unimplemented!()
    }
    pub fn append(&self, entries: Vec<Entry>, done: Completion) {
        unimplemented!()
    }
    pub fn save_vote(&self, vote: Vote, done: Completion) {
        unimplemented!()
    }
    /// Not synced by itself: it rides on the next sync.
    pub fn save_committed(&self, committed: Option<Position>) {
        unimplemented!()
    }
    /// Drops every entry after `last` (all of them with None).
    pub fn truncate_after(&self, last: Option<Position>, done: Completion) {
        unimplemented!()
    }
    /// Drops entries up to and including `upto`; whole segments are deleted. May also move the log ahead (snapshot install).
    pub fn purge(&self, upto: Position, done: Completion) {
        unimplemented!()
    }
    pub fn size_bytes(&self) -> u64 {
        unimplemented!()
    }
    /// Waits for the queue to drain, syncs, joins the writer thread.
    pub fn close(&self, deadline: Duration) -> Result<(), StorageError> {
        unimplemented!()
    }
}
