//! The apply thread dies at every write it makes, and starts again on what is there: effect and position belong together.
//!
//! # Model
//!
//! An engine that is there only for so many writes stands for a process that ends: what was written stays, the next write fails,
//! and so does everything after it. A second life reads where the state stands, and applies the log from there on, in chunks
//! of another size. In the end the content must be what one life would have come to, byte by byte.
//!
//! The rule that this guards (etcd 3.5 broke it twice: its issues 13766 and 14685) is broken on purpose too: an engine that
//! writes the position before or after the rest of its batch.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use openraft::EntryPayload;
use quorate_state::{Batch, Command, Direction, Op, Scan, View, ViewError, keys};
use quorate_storage::{Engine, Frozen, MemoryEngine, Position, Snapshots, StorageError};
use tokio::sync::oneshot;

use crate::apply_thread::{self, Built, Job, Started};
use crate::convert;
use crate::suite::Nobody;
use crate::types::{Entry, Membership, Node, Proposal, Snapshot};

/// How a batch reaches the engine.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Writes {
    Whole,
    /// Broken on purpose: the position in a write of its own, behind the rest or ahead of it.
    PositionLater,
    PositionFirst,
}

/// Takes so many writes and no more.
struct Mortal {
    content: MemoryEngine,
    left: AtomicUsize,
    writes: Writes,
}

impl Mortal {
    fn write_one(&self) -> Result<(), StorageError> {
        let alive = |left: usize| left.checked_sub(1);
        match self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, alive) {
            Ok(_) => Ok(()),
            Err(_) => Err(StorageError::Io {
                action: "writing",
                path: PathBuf::from("memory"),
                source: io::Error::other("the process has ended"),
            }),
        }
    }
}

impl View for Mortal {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        self.content.get(key)
    }

    fn scan(&self, start: &[u8], end: &[u8], direction: Direction) -> Scan<'_> {
        self.content.scan(start, end, direction)
    }
}

impl Engine for Mortal {
    fn write(&self, batch: &Batch) -> Result<(), StorageError> {
        let of_position = |op: &Op| match op {
            Op::Put { key, .. } | Op::Delete { key } => *key == keys::applied(),
        };
        let (position, rest): (Vec<Op>, Vec<Op>) = batch.ops.iter().cloned().partition(of_position);
        let parts = match self.writes {
            Writes::Whole => vec![batch.ops.clone()],
            Writes::PositionLater => vec![rest, position],
            Writes::PositionFirst => vec![position, rest],
        };
        for ops in parts.into_iter().filter(|ops| !ops.is_empty()) {
            self.write_one()?;
            self.content.write(&Batch { ops })?;
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.content.sync()
    }

    fn replace(
        &self,
        pairs: &mut dyn Iterator<Item = Result<(Bytes, Bytes), StorageError>>,
    ) -> Result<(), StorageError> {
        self.write_one()?;
        self.content.replace(pairs)
    }

    fn size_bytes(&self) -> u64 {
        self.content.size_bytes()
    }

    fn freeze(&self) -> Result<Frozen, StorageError> {
        self.content.freeze()
    }

    fn consistent(&self, read: &mut dyn FnMut(&dyn View)) {
        self.content.consistent(read);
    }
}

/// A running apply thread.
struct Life(Started);

impl Life {
    fn begin(dir: &Path, content: &MemoryEngine, left: usize, writes: Writes) -> Life {
        let engine = Mortal { content: content.clone(), left: AtomicUsize::new(left), writes };
        let snapshots = Snapshots::open(&dir.join("snapshots")).expect("the directory opens");
        let started = apply_thread::start(Arc::new(engine), snapshots, None, 0, u64::MAX, Box::new(Nobody));
        Life(started.expect("the apply thread starts"))
    }

    fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<io::Result<T>>) -> Job) -> io::Result<T> {
        let (done, wait) = oneshot::channel();
        self.0.jobs.send(job(done)).map_err(|_| io::Error::other("it has ended"))?;
        wait.blocking_recv().map_err(io::Error::other)?
    }

    /// What is not applied of `log`, in chunks of `size`.
    fn apply(&self, log: &[Entry], size: usize) -> io::Result<()> {
        let applied = self.0.shared.state.lock().applied;
        let rest: Vec<Entry> = log.iter().filter(|entry| Some(entry.log_id) > applied).cloned().collect();
        rest.chunks(size).try_for_each(|chunk| {
            let chunk = chunk.iter().map(|entry| (entry.clone(), None)).collect();
            self.ask(|done| Job::Apply { chunk, done })
        })
    }

    fn snapshot(&self) -> Snapshot {
        match self.ask(|done| Job::Build { done }).expect("a snapshot") {
            Built::Whole(snapshot) => snapshot,
            Built::Anew => panic!("nobody writes meanwhile"),
        }
    }

    fn end(self) {
        drop(self.0.jobs);
        self.0.handle.join().expect("the apply thread ends");
    }
}

/// Of everything that is there to be applied twice or not at all.
fn log() -> Vec<Entry> {
    let command = |command: Command| EntryPayload::Normal(Proposal::encode(&command));
    let members = |ids: &[u64]| {
        let node = |id: &u64| (*id, Node { name: format!("n{id}"), ..Node::default() });
        let nodes: BTreeMap<u64, Node> = ids.iter().map(node).collect();
        let all = ids.iter().copied().collect();
        EntryPayload::Membership(Membership::new(vec![all], nodes).expect("a membership"))
    };
    let payloads = [
        members(&[1, 2]),
        EntryPayload::Blank,
        command(Command::put("a", "1")),
        command(Command::lease_grant(7, 5000, 1)),
        command(Command::put_with_lease("b", "2", 7)),
        command(Command::put("a", "3")),
        members(&[1]),
        command(Command::delete("a")),
        command(Command::put("a", "4")),
        command(Command::lease_revoke(7)),
        command(Command::put("b", "5")),
    ];
    let entry = |(index, payload)| Entry {
        log_id: convert::log_id(Position { term: 1, index: index as u64 }),
        payload,
    };
    payloads.into_iter().enumerate().map(entry).collect()
}

fn dump(content: &MemoryEngine) -> Vec<(Bytes, Bytes)> {
    content.scan(&[], &[], Direction::Forward).map(|pair| pair.expect("memory")).collect()
}

/// What one life comes to, and in how many writes.
fn whole() -> (Vec<(Bytes, Bytes)>, usize) {
    let dir = tempfile::tempdir().expect("a directory");
    let content = MemoryEngine::new();
    let life = Life::begin(dir.path(), &content, usize::MAX, Writes::Whole);
    let log = log();
    life.apply(&log, 1).expect("it lives");
    life.end();
    (dump(&content), log.len())
}

/// Two lives, the first of so many writes.
fn resumed(left: usize, writes: Writes) -> Vec<(Bytes, Bytes)> {
    let dir = tempfile::tempdir().expect("a directory");
    let content = MemoryEngine::new();
    for (left, size) in [(left, 1), (usize::MAX, 3)] {
        let life = Life::begin(dir.path(), &content, left, writes);
        let applied = life.apply(&log(), size);
        assert_eq!(applied.is_err(), life.0.shared.failure.borrow().is_some(), "{applied:?}");
        life.end();
    }
    dump(&content)
}

#[test]
fn whichever_write_is_the_last_nothing_is_applied_twice_or_left_out() {
    let (expected, writes) = whole();
    for left in 0..=writes {
        assert_eq!(resumed(left, Writes::Whole), expected, "after {left} writes");
    }
}

#[test]
fn a_position_outside_of_its_batch_is_caught() {
    let (expected, writes) = whole();
    for broken in [Writes::PositionLater, Writes::PositionFirst] {
        let caught = (0..=2 * writes).find(|left| resumed(*left, broken) != expected);
        assert!(caught.is_some(), "{broken:?} goes unnoticed");
    }
}

#[test]
fn a_snapshot_is_installed_whole_or_not_at_all() {
    let (expected, _) = whole();
    let log = log();
    for left in 0..3 {
        let dir = tempfile::tempdir().expect("a directory");
        let (theirs, ours) = (MemoryEngine::new(), MemoryEngine::new());
        let source = Life::begin(&dir.path().join("theirs"), &theirs, usize::MAX, Writes::Whole);
        source.apply(&log[..9], 4).expect("it lives");
        let Snapshot { meta, snapshot } = source.snapshot();
        // The three first entries, then as many writes as are left.
        let life = Life::begin(&dir.path().join("ours"), &ours, 3 + left, Writes::Whole);
        life.apply(&log[..3], 1).expect("it lives");
        let before = dump(&ours);
        let installed = life.ask(|done| Job::Install { meta, file: snapshot, done });
        assert_eq!(installed.is_ok(), left == 2, "{installed:?}");
        assert_eq!(dump(&ours) == before, left == 0, "{left}");
        life.end();
        source.end();
        let life = Life::begin(&dir.path().join("ours"), &ours, usize::MAX, Writes::Whole);
        life.apply(&log, 2).expect("it lives");
        life.end();
        assert_eq!(dump(&ours), expected, "after {left} writes");
    }
}
