//! The log: the one thing that is synced before anything is acknowledged.
//!
//! # Problem
//!
//! Raft's promise rests on one sentence: what was acknowledged is there after a crash, on every member that acknowledged it.
//! Entries, the vote and the committed index share one stream of records, because Raft requires their writes to be ordered,
//! and because one stream needs one sync.
//!
//! # Model
//!
//! ```text
//!  0000000000000003.log                         0000000000000004.log                        spare.tmp
//! ┌────────┬───────────────────────────────┐   ┌────────┬─────────────┬────────────────┐   ┌──────────────────┐
//! │ header │ E41 E42 V │ E43 C │ T42 E43 … │   │ header │ E77 │ P60 C │ 0 0 0 0 0 0 0  │   │ 0 0 0 0 0 0 0 0  │
//! │ 4 KiB  │  group    │ group │  group    │   │        │     │       │ preallocated   │   │ prepared ahead   │
//! └────────┴───────────────────────────────┘   └────────┴─────────────┴────────────────┘   └──────────────────┘
//!  uuid, number, capacity, end of the          E entry  V vote  C committed index
//!  segment before, standing so far             T truncate  P purge
//! ```
//!
//! One writer thread takes everything that waits (a *group*), writes it with one call, syncs it with one `fdatasync`, and
//! completes every caller in call order. While it syncs, the next group gathers: that is the whole of group commit. Segments
//! are files of zeros, written and synced before use, so the `fdatasync` has data to push and no metadata.
//!
//! A group that does not fit opens the next segment: header and group are written into the spare, synced, and only then does
//! it get its name (rename, directory fsync). A segment under its name is therefore always whole to its first group. The
//! header repeats the standing (vote, committed, purged, last), so older segments can be deleted without losing it, and
//! tells where the segment before ended, so that a cut there is seen.
//!
//! # Invariants
//!
//! 1. A completion is called after its bytes are on disk, in call order, exactly once.
//! 2. After one failed write or sync nothing is acknowledged any more. The kernel may have dropped the dirty pages and report
//!    success the next time (PostgreSQL's fsync surprise of 2018), so a retry would be a lie; the process ends instead.
//! 3. Bytes that were synced are never overwritten; truncation is a record.
//! 4. Recovery cuts only what cannot have been acknowledged: a torn group at the end of the last segment
//!    (`log/recovery.rs` argues how it is told from damage). Anything else refuses to start.
//! 5. Only whole segments whose entries were all purged, on disk, are deleted, oldest first.
//!
//! # What is missing
//!
//! If the *last* group before a kill rots on disk, it looks like a torn write and is cut although it was acknowledged. No
//! local log can tell the two apart (Alagappan et al., "Protocol-aware recovery", FAST 2018); a quorum of whole disks can.
//! An orderly close writes a record behind it, after which such damage refuses too. `fdatasync` is believed: a disk that
//! lies about its cache loses data here as everywhere.
//!
//! # Use
//!
//! Calls may block while [`LogOptions::queue_bytes`] wait; a completion must therefore not append. Vote, committed, purged and
//! last answer what was *called*, not what is on disk.

#[cfg(test)]
mod fuzz;
mod index;
mod record;
mod recovery;
mod segment;
mod writer;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use self::index::{Found, Index};
use self::record::{Content, Parsed};
use self::segment::Segment;
use crate::{DirLock, StorageError, directory};

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
/// After an error every later completion gets one too: a failed sync is never retried. Only a call after
/// [`Log::close`] is completed on the caller's own thread, with `BrokenPipe`.
pub type Completion = Box<dyn FnOnce(Result<(), std::io::Error>) + Send>;

/// Told how long each sync took, from the writer thread.
pub type OnSync = Arc<dyn Fn(Duration) + Send + Sync>;

/// Bounds and sizes.
#[derive(Clone)]
pub struct LogOptions {
    /// Preallocated and zeroed size of a segment, in bytes.
    pub segment_bytes: u64,
    /// Newest entries kept in memory, in payload bytes.
    pub cache_bytes: usize,
    /// Most bytes waiting for the writer; an append beyond blocks the caller.
    pub queue_bytes: usize,
    /// Observes the latency of every sync.
    pub on_sync: Option<OnSync>,
}

impl Default for LogOptions {
    /// 16 MiB segments (two are on disk when idle), 4 MiB of entries in memory, 16 MiB waiting.
    fn default() -> LogOptions {
        LogOptions { segment_bytes: 16 << 20, cache_bytes: 4 << 20, queue_bytes: 16 << 20, on_sync: None }
    }
}

impl fmt::Debug for LogOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogOptions")
            .field("segment_bytes", &self.segment_bytes)
            .field("cache_bytes", &self.cache_bytes)
            .field("queue_bytes", &self.queue_bytes)
            .field("on_sync", &self.on_sync.is_some())
            .finish()
    }
}

/// A command's share of the queue bound beyond its payload.
const COMMAND_BYTES: usize = 64;
/// Segments smaller than this would be mostly header.
const MIN_SEGMENT_BYTES: u64 = 2 * segment::HEADER_BYTES;

/// A cheap handle; clones share one log. Writes are queued in call order and become readable at once. The last handle that
/// is dropped closes the log and waits for it.
#[derive(Clone)]
pub struct Log {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
    writer_id: ThreadId,
}

/// What callers and the writer share.
struct Shared {
    dir: PathBuf,
    options: LogOptions,
    state: Mutex<State>,
    /// Something asks to be synced, or the log is being closed.
    work: Condvar,
    /// The queue got shorter.
    space: Condvar,
    /// The writer ended.
    ended: Condvar,
}

struct State {
    index: Index,
    vote: Option<Vote>,
    committed: Option<Position>,
    purged: Option<Position>,
    segments: BTreeMap<u64, Arc<Segment>>,
    queue: VecDeque<Command>,
    queued_bytes: usize,
    /// Commands in the queue that ask for a sync: all but `Committed`.
    waiting: usize,
    next_ticket: u64,
    failed: Option<Failure>,
    closing: bool,
    ended: bool,
}

enum Command {
    Append {
        entries: Vec<Entry>,
        first_ticket: u64,
        done: Completion,
    },
    Vote(Vote, Completion),
    Committed(Option<Position>),
    Truncate(Option<Position>, Completion),
    Purge(Position, Completion),
    /// Nothing to write: who waits for what was called before.
    Wait(Completion),
}

impl Command {
    fn completion(self) -> Option<Completion> {
        match self {
            Command::Append { done, .. }
            | Command::Vote(_, done)
            | Command::Truncate(_, done)
            | Command::Purge(_, done)
            | Command::Wait(done) => Some(done),
            Command::Committed(_) => None,
        }
    }

    fn size(&self) -> usize {
        match self {
            Command::Append { entries, .. } => {
                COMMAND_BYTES
                    + entries.iter().map(|entry| record::size_on_disk(entry.payload.len())).sum::<usize>()
            }
            Command::Vote(..)
            | Command::Committed(_)
            | Command::Truncate(..)
            | Command::Purge(..)
            | Command::Wait(_) => COMMAND_BYTES,
        }
    }
}

fn closed() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::BrokenPipe, "the log is closed")
}

/// Why nothing is acknowledged any more.
#[derive(Debug, Clone)]
struct Failure {
    kind: std::io::ErrorKind,
    sentence: Arc<str>,
}

impl Failure {
    fn as_io(&self) -> std::io::Error {
        std::io::Error::new(self.kind, self.sentence.to_string())
    }
}

impl Shared {
    fn fail(&self, failure: Failure) {
        self.state.lock().failed = Some(failure);
    }

    fn end(&self) {
        let mut state = self.state.lock();
        state.ended = true;
        state.closing = true;
        if std::thread::panicking() {
            let sentence = "the writer thread panicked".into();
            state.failed.get_or_insert(Failure { kind: std::io::ErrorKind::Other, sentence });
        }
        self.ended.notify_all();
        self.space.notify_all();
        // After an orderly end there is nothing left; after a panic there are those who would wait for ever.
        let left = std::mem::take(&mut state.queue);
        let failure = state.failed.clone();
        drop(state);
        for done in left.into_iter().filter_map(Command::completion) {
            done(Err(failure.as_ref().map_or_else(closed, Failure::as_io)));
        }
    }

    /// Changes the state that readers see and queues the command, as one step. Blocks while the queue is full.
    fn submit(&self, size: usize, change: impl FnOnce(&mut State, Completion) -> Command, done: Completion) {
        let mut state = self.state.lock();
        // A command larger than the bound passes when it is alone. A committed index that waits for company does not count:
        // the writer would not come for it, and this caller would wait for ever.
        while state.waiting > 0 && state.queued_bytes + size > self.options.queue_bytes && !state.closing {
            self.space.wait(&mut state);
        }
        if state.closing {
            drop(state);
            done(Err(closed()));
            return;
        }
        #[cfg(quorate_sim)]
        let (done, completed) = simulated(done);
        let command = change(&mut state, done);
        state.queued_bytes += command.size();
        state.waiting += 1;
        state.queue.push_back(command);
        self.work.notify_one();
        #[cfg(quorate_sim)]
        {
            drop(state);
            let _ = completed.recv(); // an error: the sender is gone, which is the sign
        }
    }
}

/// In a simulation nothing may depend on how fast a thread is: the caller stands still until `done` was called.
#[cfg(quorate_sim)]
fn simulated(done: Completion) -> (Completion, std::sync::mpsc::Receiver<()>) {
    let (send, completed) = std::sync::mpsc::channel();
    let both: Completion = Box::new(move |outcome| {
        done(outcome);
        drop(send);
    });
    (both, completed)
}

impl Log {
    /// Opens or creates the log in `dir`, takes the directory's lock, and replays it. A torn tail is cut in the last segment
    /// only; other damage is [`StorageError::Damaged`], a second process [`StorageError::Locked`].
    pub fn open(dir: &Path, options: LogOptions) -> Result<Log, StorageError> {
        directory::create(dir)?;
        let lock = DirLock::acquire(dir)?;
        let mut options = options;
        options.segment_bytes = options
            .segment_bytes
            .next_multiple_of(segment::HEADER_BYTES)
            .clamp(MIN_SEGMENT_BYTES, segment::MAX_CAPACITY);
        let recovery::Recovered { tail, index, segments } = recovery::recover(dir, options.cache_bytes)?;
        let standing = tail.standing;
        let shared = Arc::new(Shared {
            dir: dir.to_path_buf(),
            options,
            state: Mutex::new(State {
                index,
                vote: standing.vote,
                committed: standing.committed,
                purged: standing.purged,
                segments,
                queue: VecDeque::new(),
                queued_bytes: 0,
                waiting: 0,
                next_ticket: 1,
                failed: None,
                closing: false,
                ended: false,
            }),
            work: Condvar::new(),
            space: Condvar::new(),
            ended: Condvar::new(),
        });
        let writer = writer::Writer::new(shared.clone(), dir, tail, lock)?;
        let thread = std::thread::Builder::new()
            .name("log-writer".into())
            .spawn(move || writer.run())
            .map_err(StorageError::io("starting a thread for", dir))?;
        let writer_id = thread.thread().id();
        Ok(Log { handle: Arc::new(Handle { shared, writer: Mutex::new(Some(thread)), writer_id }) })
    }

    fn shared(&self) -> &Shared {
        &self.handle.shared
    }

    /// The vote saved last.
    pub fn vote(&self) -> Option<Vote> {
        self.shared().state.lock().vote
    }

    /// The committed position saved last. After a crash it may be an older one, never one beyond the log.
    pub fn committed(&self) -> Option<Position> {
        self.shared().state.lock().committed
    }

    /// The last position that was purged: reading at or before it is impossible.
    pub fn purged(&self) -> Option<Position> {
        self.shared().state.lock().purged
    }

    /// The last entry, or what was purged if nothing is left.
    pub fn last(&self) -> Option<Position> {
        self.shared().state.lock().last()
    }

    /// Why the log stopped acknowledging, once it has. The process must end: nothing is retried.
    pub fn failed(&self) -> Option<String> {
        self.shared().state.lock().failed.as_ref().map(|failure| failure.sentence.to_string())
    }

    /// Entries of `range` that are present, cut after `max_bytes` of payload but never empty if the first one exists.
    /// Older ones come from disk, with their checksum verified again.
    pub fn entries(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<Entry>, StorageError> {
        let mut found = Vec::new();
        let mut segments = BTreeMap::new();
        {
            let state = self.shared().state.lock();
            let Some(first) = state.index.first() else { return Ok(Vec::new()) };
            let mut bytes = 0;
            for index in range.start.max(first)..range.end {
                let Some(entry) = state.index.get(index) else { break };
                bytes += entry.length();
                if bytes > max_bytes && !found.is_empty() {
                    break;
                }
                if let Found::There { segment, .. } = &entry {
                    segments.entry(*segment).or_insert_with(|| state.segments[segment].clone());
                }
                found.push(entry);
            }
        }
        // Without the lock: a segment that is purged meanwhile stays readable through its open file.
        found
            .into_iter()
            .map(|found| match found {
                Found::Here { at, payload } => Ok(Entry { at, payload }),
                Found::There { at, length, segment, offset } => {
                    read_entry(&segments[&segment], at, length, offset)
                }
            })
            .collect()
    }

    /// Appends entries that continue the log: the first one follows [`Log::last`].
    ///
    /// # Panics
    /// If the entries leave a hole or overlap what is there: Raft truncates first.
    pub fn append(&self, entries: Vec<Entry>, done: Completion) {
        let size = entries.iter().map(|entry| entry.payload.len()).sum();
        self.shared().submit(
            size,
            |state, done| {
                let first_ticket = state.next_ticket;
                state.next_ticket += entries.len() as u64;
                let mut last = state.last();
                for (entry, ticket) in entries.iter().zip(first_ticket..) {
                    assert!(
                        last.is_none_or(|last| last.index + 1 == entry.at.index),
                        "entry {:?} does not follow {last:?}",
                        entry.at
                    );
                    assert!(
                        entry.payload.len() < segment::MAX_CAPACITY as usize / 2,
                        "an entry of more than 2 GiB"
                    );
                    state.index.push_queued(entry.at, entry.payload.clone(), ticket);
                    last = Some(entry.at);
                }
                Command::Append { entries, first_ticket, done }
            },
            done,
        );
    }

    /// Saves the vote.
    pub fn save_vote(&self, vote: Vote, done: Completion) {
        self.shared().submit(
            COMMAND_BYTES,
            |state, done| {
                state.vote = Some(vote);
                Command::Vote(vote, done)
            },
            done,
        );
    }

    /// Not synced by itself: it rides on the next sync, in its place among the other commands, so that it never names an
    /// entry that is not on disk.
    pub fn save_committed(&self, committed: Option<Position>) {
        let mut state = self.shared().state.lock();
        state.committed = committed;
        if let Some(Command::Committed(queued)) = state.queue.back_mut() {
            *queued = committed;
        } else if !state.closing {
            let command = Command::Committed(committed);
            state.queued_bytes += command.size();
            state.queue.push_back(command);
        }
    }

    /// Drops every entry after `last` (all of them with None).
    pub fn truncate_after(&self, last: Option<Position>, done: Completion) {
        self.shared().submit(
            COMMAND_BYTES,
            |state, done| {
                state.index.truncate_after(last.map(|last| last.index));
                Command::Truncate(last, done)
            },
            done,
        );
    }

    /// Drops entries up to and including `upto`; whole segments are deleted. May also move the log ahead (snapshot install):
    /// the next entry then follows `upto`. Before it: everything up to `upto` is in a durable snapshot.
    pub fn purge(&self, upto: Position, done: Completion) {
        self.shared().submit(
            COMMAND_BYTES,
            |state, done| {
                if state.purged.is_none_or(|purged| purged.index < upto.index) {
                    state.purged = Some(upto);
                }
                state.index.purge(upto.index);
                Command::Purge(upto, done)
            },
            done,
        );
    }

    /// Waits until everything that was called before is on disk. Who keeps something made from it elsewhere asks first, so that
    /// it never stands on what a crash takes away. Not for a completion: it would wait for itself.
    ///
    /// # Errors
    /// The log has failed. What was called may not be there after a restart.
    pub fn written(&self) -> Result<(), StorageError> {
        let (send, answer) = std::sync::mpsc::channel();
        let done: Completion = Box::new(move |result| {
            let _ = send.send(result); // the other end waits below
        });
        self.shared().submit(COMMAND_BYTES, |_, done| Command::Wait(done), done);
        match answer.recv() {
            Ok(Ok(())) => Ok(()),
            // Failed, or closed meanwhile: then the end of the writer tells which.
            Ok(Err(_)) | Err(_) => {
                self.handle.close(None)?;
                self.outcome("writing")
            }
        }
    }

    /// True when nothing was ever written: no entry, no vote, no purge.
    pub fn is_new(&self) -> bool {
        let state = self.shared().state.lock();
        state.segments.is_empty() && state.queue.is_empty()
    }

    /// Bytes of all segments, without the spare.
    pub fn size_bytes(&self) -> u64 {
        self.shared().state.lock().segments.values().map(|segment| segment.capacity).sum()
    }

    /// Waits for the queue to drain, syncs, joins the writer thread. Also the answer of a log that failed earlier.
    pub fn close(&self, deadline: Duration) -> Result<(), StorageError> {
        self.handle.close(Some(deadline))?;
        self.outcome("closing")
    }

    fn outcome(&self, action: &'static str) -> Result<(), StorageError> {
        match &self.shared().state.lock().failed {
            None => Ok(()),
            Some(failure) => {
                Err(StorageError::Io { action, path: self.shared().dir.clone(), source: failure.as_io() })
            }
        }
    }
}

impl State {
    fn last(&self) -> Option<Position> {
        self.index.last().or(self.purged)
    }
}

impl Handle {
    fn close(&self, deadline: Option<Duration>) -> Result<(), StorageError> {
        let until = deadline.map(|deadline| Instant::now() + deadline);
        let mut state = self.shared.state.lock();
        state.closing = true;
        self.shared.work.notify_all();
        self.shared.space.notify_all();
        while !state.ended {
            match until {
                None => self.shared.ended.wait(&mut state),
                Some(until) => {
                    if self.shared.ended.wait_until(&mut state, until).timed_out() && !state.ended {
                        let source = std::io::Error::new(
                            std::io::ErrorKind::TimedOut,
                            "the last sync has not returned",
                        );
                        return Err(StorageError::Io {
                            action: "closing",
                            path: self.shared.dir.clone(),
                            source,
                        });
                    }
                }
            }
        }
        drop(state);
        if let Some(thread) = self.writer.lock().take()
            && thread.join().is_err()
        {
            let source = std::io::Error::other("the writer thread panicked");
            return Err(StorageError::Io { action: "closing", path: self.shared.dir.clone(), source });
        }
        Ok(())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if std::thread::current().id() == self.writer_id {
            // The last handle was inside a completion: the thread cannot wait for itself, but it ends by itself.
            let mut state = self.shared.state.lock();
            state.closing = true;
            self.shared.work.notify_all();
            return;
        }
        if let Err(error) = self.close(None) {
            tracing::error!(error = %error.chain(), "log: not closed in order");
        }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("dir", &self.shared().dir)
            .field("last", &self.last())
            .finish_non_exhaustive()
    }
}

fn read_entry(segment: &Segment, at: Position, length: u32, offset: u32) -> Result<Entry, StorageError> {
    let mut bytes = vec![0; record::size_on_disk(length as usize)];
    segment
        .file
        .read_exact_at(&mut bytes, u64::from(offset))
        .map_err(StorageError::io("reading", &segment.path))?;
    let what = match record::parse(&bytes, segment.seed) {
        Parsed::Whole(whole) => match whole.content {
            Content::Entry { at: found, payload } if found == at && payload.len() == length as usize => {
                let payload = record::HEADER_BYTES..record::HEADER_BYTES + payload.len();
                return Ok(Entry { at, payload: Bytes::from(bytes).slice(payload) });
            }
            Content::Entry { .. }
            | Content::Vote(_)
            | Content::Committed(_)
            | Content::Truncate(_)
            | Content::Purge(_)
            | Content::Closed => "another record than the one written",
        },
        Parsed::Zeros => "zeros",
        Parsed::Bad(what) => what,
    };
    Err(StorageError::damaged(&segment.path, u64::from(offset), what))
}
