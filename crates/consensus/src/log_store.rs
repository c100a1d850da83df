//! openraft's log storage over [`quorate_storage::Log`].
//!
//! Nearly everything is translation; what is worth knowing is when something counts as done:
//!
//! - `append` returns as soon as the entries are readable. openraft counts this member's own acknowledgement only when
//!   [`IOFlushed`] is completed, which the log's writer thread does after the one `fdatasync` that covers the whole
//!   group. That is the group commit: no proposal waits for another one's sync.
//! - `save_vote` returns only when the vote is on disk: a vote that is granted and then forgotten elects two leaders.
//! - `save_committed` is not synced. It is a hint for a restart (how far the entries may be re-applied before anybody
//!   is heard), and the record follows the entries it covers in the same stream, so it never points past them.
//! - `purge` is called by openraft only for positions a durable snapshot covers: the builder and the installation
//!   return after [`quorate_storage::Snapshots`] has synced the file and its directory.
//!
//! A failed sync completes every later callback with an error; openraft then stops for good, and the member with it.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};

use futures_util::Stream;
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use quorate_storage::{Completion, Log, StorageError};
use tokio::sync::oneshot;

use crate::convert;
use crate::types::{Entry, LogId, TypeConfig, Vote};

/// Bytes of payload in one message to a follower: large enough to fill the link, small enough that a slow link still
/// answers within the progress deadline of the stream.
const REPLICATION_BYTES: usize = 1 << 20;
/// Bytes of payload read at once for apply: bounds the memory of a member that catches up from its own log.
const APPLY_BYTES: usize = 1 << 20;

/// The log, as openraft wants it. Cheap to clone: clones share one log.
#[derive(Clone)]
pub(crate) struct LogStore {
    log: Log,
}

impl LogStore {
    /// Wraps an open log.
    #[must_use]
    pub(crate) fn new(log: Log) -> LogStore {
        LogStore { log }
    }

    fn read(&self, start: u64, end: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let entries = self.log.entries(start..end, max_bytes).map_err(storage_error)?;
        entries.into_iter().map(|entry| convert::entry_from_storage(entry).map_err(io::Error::from)).collect()
    }
}

/// The storage error as the cause inside the only error type openraft's traits take.
pub(crate) fn storage_error(error: StorageError) -> io::Error {
    io::Error::other(error)
}

/// A completion and the way to wait for it.
fn completion() -> (Completion, oneshot::Receiver<io::Result<()>>) {
    let (done, wait) = oneshot::channel();
    let completion: Completion = Box::new(move |result| {
        // Nobody waits any more when the call was dropped with its task.
        let _ = done.send(result);
    });
    (completion, wait)
}

async fn completed(wait: oneshot::Receiver<io::Result<()>>) -> io::Result<()> {
    wait.await.unwrap_or_else(|_| Err(io::Error::other("the log is closed")))
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let start = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => index + 1,
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        self.read(start, end, usize::MAX)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.log.vote().and_then(convert::vote_from_storage))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end, REPLICATION_BYTES)
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let start = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => index + 1,
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        Pages { log: self.clone(), next: start, end, page: Vec::new().into_iter(), failed: false }
    }
}

/// Entries of a range, read a page at a time. Reading is synchronous (memory or page cache), so the stream is always
/// ready; it ends at the end of the range or at the first entry that is not there.
struct Pages {
    log: LogStore,
    next: u64,
    end: u64,
    page: std::vec::IntoIter<Entry>,
    failed: bool,
}

impl Stream for Pages {
    type Item = io::Result<Entry>;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<io::Result<Entry>>> {
        let this = self.get_mut();
        if let Some(entry) = this.page.next() {
            return std::task::Poll::Ready(Some(Ok(entry)));
        }
        if this.failed || this.next >= this.end {
            return std::task::Poll::Ready(None);
        }
        match this.log.read(this.next, this.end, APPLY_BYTES) {
            Ok(entries) => {
                this.next = entries.last().map_or(this.end, |entry| entry.log_id.index() + 1);
                this.page = entries.into_iter();
                std::task::Poll::Ready(this.page.next().map(Ok))
            }
            Err(error) => {
                this.failed = true;
                std::task::Poll::Ready(Some(Err(error)))
            }
        }
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        Ok(LogState {
            last_purged_log_id: self.log.purged().map(convert::log_id),
            last_log_id: self.log.last().map(convert::log_id),
        })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (done, wait) = completion();
        self.log.save_vote(convert::vote_to_storage(vote), done);
        completed(wait).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.log.save_committed(committed.map(convert::position));
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.log.committed().map(convert::log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().map(|entry| convert::entry_to_storage(&entry)).collect();
        // May block this worker while the writer's queue is full: that is the back pressure of a slow disk.
        self.log.append(entries, Box::new(move |result| callback.io_completed(result)));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let (done, wait) = completion();
        self.log.truncate_after(last.map(convert::position), done);
        completed(wait).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let (done, wait) = completion();
        self.log.purge(convert::position(upto), done);
        completed(wait).await
    }
}
