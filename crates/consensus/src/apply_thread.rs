//! The thread that owns the state: it applies, it builds snapshots, it installs them, it compacts.
//!
//! One thread writes to the engine, so that nothing here needs a lock against another writer, and a slow disk under the
//! engine never occupies a worker of the runtime that answers heartbeats. Readers run elsewhere, inside `Engine::consistent`: a
//! read sees the state before a chunk or after it, never half of it.
//!
//! For each chunk of committed entries, in this order:
//!
//! 1. `state::Applier` computes one batch, the replies and the events; nothing is visible yet.
//! 2. The applied position (and the membership, if an entry changed it) joins the batch.
//! 3. The batch is written. BEFORE this a crash re-applies the chunk from the log,
//!    AFTER it the chunk is not applied again: position and effect are one write.
//! 4. The observer hears the events (watch hub, lessor), then everybody who waits for an index.
//! 5. The proposers get their answers. So an answer is never ahead of a watch or of a read on the same member.
//!
//! Between chunks the thread spends a slice on physical compaction. A snapshot does not stop it: the engine freezes a view
//! between two chunks (see [`quorate_storage::engine`]), and a thread of its own writes that view into a file and syncs it
//! while later chunks are applied. If too much is overwritten meanwhile, the view is given up and the snapshot begun anew.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

use openraft::EntryPayload;
use openraft::storage::ApplyResponder;
use parking_lot::Mutex;
use prost::Message;
use quorate_state::{Applier, Batch, Command, Cursor, Event, Fault, Reply, Revision, View, keys};
use quorate_storage::{Engine, Position, Snapshots, StorageError};
use quorate_wire::raft as wire;
use tokio::sync::{Notify, oneshot, watch};

use crate::convert::{self, Malformed};
use crate::error::chain;
use crate::log_store::storage_error;
use crate::progress::Progress;
use crate::state_machine::SnapshotFile;
use crate::types::{Entry, LogId, Outcome, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};

/// Jobs on their way to the thread. openraft's worker waits for each before it sends the next; the builder adds one.
const JOBS: usize = 4;
/// Versions that one slice of compaction looks at: well under a millisecond of work.
const COMPACTION_SLICE: usize = 256;
/// A snapshot costs what the whole state weighs, so a large state is not written anew after every few entries: the log must
/// have grown by half of the last snapshot too. Below [`SMALL_BYTES`] the number of entries alone counts.
const SMALL_BYTES: u64 = 4 << 20;
/// The log has grown by this: a snapshot in any case. What a member that lost its database has to apply again.
const LOG_BYTES: u64 = 128 << 20;

/// Hears what was applied, on the apply thread: it must not block.
pub trait Observer: Send + 'static {
    /// After a chunk became visible, before its proposers are answered.
    fn applied(&mut self, chunk: Applied);
    /// After a snapshot replaced the whole state, and once at start: everything known from before is void.
    fn restored(&mut self, view: &dyn View) -> Result<(), Fault>;
}

/// What one chunk did.
#[derive(Debug)]
pub struct Applied {
    /// In log order.
    pub commands: Vec<(Command, Reply)>,
    /// In revision order.
    pub events: Vec<Arc<Event>>,
    /// The store's revision after the chunk.
    pub revision: Revision,
    /// The index of the chunk's last entry.
    pub index: u64,
    /// How long it took to apply and write it.
    pub took: std::time::Duration,
}

/// What others may look at. The thread writes it, everybody reads.
pub(crate) struct Shared {
    pub(crate) state: Mutex<AppliedState>,
    pub(crate) progress: Progress,
    pub(crate) failure: watch::Sender<Option<String>>,
    /// Told when it is time for a snapshot.
    pub(crate) snapshot_due: Notify,
    /// It was told, and no snapshot has come since.
    snapshot_awaited: AtomicBool,
}

/// Where the state stands.
#[derive(Debug, Clone, Default)]
pub(crate) struct AppliedState {
    pub(crate) applied: Option<LogId>,
    pub(crate) membership: StoredMembership,
    pub(crate) snapshot: Option<Snapshot>,
    /// Size of its file.
    pub(crate) snapshot_bytes: u64,
}

type Done<T> = oneshot::Sender<io::Result<T>>;

/// What the thread can be asked for.
pub(crate) enum Job {
    Apply { chunk: Vec<(Entry, Option<ApplyResponder<TypeConfig>>)>, done: Done<()> },
    Build { done: Done<Built> },
    Install { meta: SnapshotMeta, file: SnapshotFile, done: Done<()> },
}

/// What became of a snapshot.
pub(crate) enum Built {
    Whole(Snapshot),
    /// Too much was overwritten while it was written: ask again.
    Anew,
}

/// Why an applied chunk stops the member.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    State(#[from] Fault),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("an earlier fault stopped the state: {0}")]
    Stopped(String),
    #[error("the snapshot file is of position {found:?}, the leader announced {announced:?}")]
    WrongSnapshot { found: Option<quorate_storage::Position>, announced: Option<quorate_storage::Position> },
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> io::Error {
        io::Error::other(failure)
    }
}

/// The running thread.
pub(crate) struct Started {
    pub(crate) jobs: SyncSender<Job>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) handle: std::thread::JoinHandle<()>,
}

/// What was applied since the last snapshot.
struct Growth {
    entries: u64,
    bytes: u64,
    /// Entries between two snapshots.
    count: u64,
}

impl Growth {
    /// True when it is time to write the next snapshot, `last` bytes after the one before.
    fn calls_for_snapshot(&self, last: u64) -> bool {
        let many = self.entries >= self.count;
        self.bytes >= LOG_BYTES || many && (last <= SMALL_BYTES || self.bytes >= last / 2)
    }
}

/// Starts the thread on an engine that is in order. It ends when every sender of jobs is gone.
pub(crate) fn start(
    engine: Arc<dyn Engine>,
    snapshots: Snapshots,
    purged: Option<Position>,
    log_bytes: u64,
    snapshot_count: u64,
    mut observer: Box<dyn Observer>,
) -> io::Result<Started> {
    let state = load(&*engine, &snapshots, purged)?;
    observer.restored(&*engine).map_err(Failure::from)?;
    let index = state.applied.map_or(0, |at| at.index());
    let covered = state.snapshot.as_ref().and_then(|held| held.meta.last_log_id).map_or(0, |at| at.index());
    let growth = Growth {
        entries: index.saturating_sub(covered),
        // More than what was applied since: the first snapshot after a start comes early rather than late.
        bytes: log_bytes,
        count: snapshot_count.max(1),
    };
    let shared = Arc::new(Shared {
        state: Mutex::new(state),
        progress: Progress::new(index),
        failure: watch::Sender::new(None),
        snapshot_due: Notify::new(),
        snapshot_awaited: AtomicBool::new(false),
    });
    let (jobs, queue) = sync_channel(JOBS);
    let thread = ApplyThread {
        engine,
        shared: Arc::clone(&shared),
        snapshots,
        observer,
        compaction: Compaction::Unknown,
        growth,
        failed: None,
    };
    let handle = std::thread::Builder::new().name("apply".to_owned()).spawn(move || thread.run(&queue))?;
    Ok(Started { jobs, shared, handle })
}

fn load(engine: &dyn Engine, snapshots: &Snapshots, purged: Option<Position>) -> io::Result<AppliedState> {
    let applied = engine.get(&keys::applied()).map_err(Fault::from).map_err(Failure::from)?;
    let applied = match applied {
        Some(bytes) => {
            let at = wire::Position::decode(bytes).map_err(|_| Malformed::new("applied position"))?;
            Some(convert::position_from_wire(&at))
        }
        None => None,
    };
    let membership = engine.get(&keys::membership()).map_err(Fault::from).map_err(Failure::from)?;
    let membership = match membership {
        Some(bytes) => convert::stored_membership_from_bytes(&bytes)?,
        None => StoredMembership::default(),
    };
    let (snapshot, snapshot_bytes) = match snapshots.usable(purged).map_err(storage_error)? {
        Some((meta, path)) => (Some(snapshot_of(&meta, SnapshotFile::held(path))?), meta.bytes),
        None => (None, 0),
    };
    Ok(AppliedState { applied, membership, snapshot, snapshot_bytes })
}

fn snapshot_of(meta: &quorate_storage::SnapshotMeta, snapshot: SnapshotFile) -> Result<Snapshot, Malformed> {
    let last_membership = convert::stored_membership_from_bytes(&meta.membership)?;
    let meta = SnapshotMeta { last_log_id: meta.at.map(convert::log_id), last_membership };
    Ok(Snapshot { meta, snapshot })
}

struct ApplyThread {
    engine: Arc<dyn Engine>,
    shared: Arc<Shared>,
    snapshots: Snapshots,
    observer: Box<dyn Observer>,
    compaction: Compaction,
    growth: Growth,
    failed: Option<String>,
}

/// Where physical compaction stands.
enum Compaction {
    /// To be found out with the first slice: after a start, an installation or a compaction command.
    Unknown,
    Going(Cursor),
    Idle,
}

impl Drop for ApplyThread {
    fn drop(&mut self) {
        self.shared.progress.end();
    }
}

impl ApplyThread {
    fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            self.compact();
            let job = match self.compaction {
                Compaction::Idle => jobs.recv().map_err(|_| TryRecvError::Disconnected),
                Compaction::Unknown | Compaction::Going(_) => jobs.try_recv(),
            };
            match job {
                Ok(job) => self.perform(job),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return,
            }
        }
    }

    fn perform(&mut self, job: Job) {
        match job {
            // A proposer that stopped waiting is no error.
            Job::Apply { chunk, done } => drop(done.send(self.guarded(|this| this.apply(chunk)))),
            Job::Install { meta, file, done } => {
                drop(done.send(self.guarded(|this| this.install(&meta, file))))
            }
            Job::Build { done } => self.build(done),
        }
    }

    /// Runs `work`; the first failure is final, and its sentence is for the operator.
    fn guarded(&mut self, work: impl FnOnce(&mut ApplyThread) -> Result<(), Failure>) -> io::Result<()> {
        if let Some(why) = &self.failed {
            return Err(Failure::Stopped(why.clone()).into());
        }
        work(self).map_err(|failure| {
            let why = chain(&failure);
            tracing::error!(error = %why, "the state machine has stopped");
            self.shared.failure.send_replace(Some(why.clone()));
            self.failed = Some(why);
            failure.into()
        })
    }

    fn apply(&mut self, chunk: Vec<(Entry, Option<ApplyResponder<TypeConfig>>)>) -> Result<(), Failure> {
        let Some(last) = chunk.last().map(|(entry, _)| entry.log_id) else { return Ok(()) };
        #[cfg(quorate_sim)]
        let chunk = crate::sim::perhaps_in_another_order(chunk);
        let begun = std::time::Instant::now();
        let engine = Arc::clone(&self.engine);
        let mut applier = Applier::new(&*engine as &dyn View);
        let mut membership: Option<StoredMembership> = None;
        let mut commands = Vec::new();
        let mut events = Vec::new();
        let mut answers = Vec::with_capacity(chunk.len());
        self.growth.entries += chunk.len() as u64;
        for (entry, responder) in chunk {
            let outcome = match &entry.payload {
                EntryPayload::Blank => Outcome(None),
                EntryPayload::Normal(proposal) => {
                    self.growth.bytes += proposal.len() as u64;
                    let command = Command::decode(convert::command_bytes(proposal)?)
                        .map_err(Fault::UndecodableCommand)?;
                    let (reply, happened) = applier.apply(&command)?;
                    events.extend(happened.into_iter().map(Arc::new));
                    commands.push((command, reply.clone()));
                    Outcome(Some(reply))
                }
                EntryPayload::Membership(changed) => {
                    membership = Some(StoredMembership::new(Some(entry.log_id), changed.clone()));
                    Outcome(None)
                }
            };
            if let Some(responder) = responder {
                answers.push((responder, outcome));
            }
        }
        let mut batch = applier.into_batch();
        self.position(&mut batch, last, membership.as_ref());
        engine.write(&batch)?;
        let took = begun.elapsed();

        let compacted =
            commands.iter().any(|(command, _)| matches!(command.body, Some(quorate_state::Body::Compact(_))));
        if compacted && matches!(self.compaction, Compaction::Idle) {
            self.compaction = Compaction::Unknown;
        }
        {
            let mut state = self.shared.state.lock();
            state.applied = Some(last);
            if let Some(membership) = membership {
                state.membership = membership;
            }
        }
        let revision = quorate_state::revision(&*engine as &dyn View)?;
        self.observer.applied(Applied { commands, events, revision, index: last.index(), took });
        self.shared.progress.moved_to(last.index());
        for (responder, outcome) in answers {
            responder.send(outcome);
        }
        let last_bytes = self.shared.state.lock().snapshot_bytes;
        if self.growth.calls_for_snapshot(last_bytes)
            && !self.shared.snapshot_awaited.swap(true, Ordering::Relaxed)
        {
            self.shared.snapshot_due.notify_one();
        }
        Ok(())
    }

    /// Adds where the state stands to the batch that brings it there.
    fn position(&self, batch: &mut Batch, at: LogId, membership: Option<&StoredMembership>) {
        batch.put(keys::applied(), convert::position_to_wire(&at).encode_to_vec().into());
        let Some(membership) = membership else { return };
        batch.put(keys::membership(), convert::stored_membership_to_bytes(membership));
        for (id, _) in self.shared.state.lock().membership.nodes() {
            if membership.get_node(id).is_none() {
                batch.delete(keys::member(*id));
            }
        }
    }

    /// A slice of physical compaction, if there is something to do.
    fn compact(&mut self) {
        let cursor = match std::mem::replace(&mut self.compaction, Compaction::Idle) {
            Compaction::Idle => return,
            Compaction::Unknown => None,
            Compaction::Going(cursor) => Some(cursor),
        };
        let slice = self.guarded(|this| {
            let engine = &*this.engine;
            let (batch, next) = quorate_state::compact_slice(engine as &dyn View, cursor, COMPACTION_SLICE)?;
            if !batch.is_empty() {
                engine.write(&batch)?;
            }
            if let Some(cursor) = next {
                this.compaction = Compaction::Going(cursor);
            }
            Ok(())
        });
        // Reported where it was met; the next job hears it.
        drop(slice);
    }

    /// Freezes the state as it is now and has it written elsewhere.
    fn build(&mut self, done: Done<Built>) {
        let mut frozen = None;
        let result = self.guarded(|this| {
            frozen = Some(this.engine.freeze()?);
            (this.growth.entries, this.growth.bytes) = (0, 0);
            Ok(())
        });
        let (Ok(()), Some(mut pairs)) = (result, frozen) else {
            drop(done.send(Err(io::Error::other("the state machine has stopped"))));
            return;
        };
        let (at, membership) = {
            let state = self.shared.state.lock();
            (state.applied.map(convert::position), convert::stored_membership_to_bytes(&state.membership))
        };
        let snapshots = self.snapshots.clone();
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name("snapshot".to_owned()).spawn(move || {
            let built = match snapshots.write(at, membership, &mut pairs) {
                Ok(meta) => Ok(meta),
                Err(StorageError::Thawed { reason }) => {
                    tracing::info!(reason, "the snapshot is begun anew");
                    drop(done.send(Ok(Built::Anew)));
                    return;
                }
                Err(error) => Err(storage_error(error)),
            };
            let bytes = built.as_ref().map_or(0, |meta| meta.bytes);
            let built = built.and_then(|meta| {
                let file = SnapshotFile::held(snapshots.path_of(meta.at));
                Ok(snapshot_of(&meta, file)?)
            });
            if let Ok(snapshot) = &built {
                let mut state = shared.state.lock();
                let held = state.snapshot.as_ref().map(|held| held.meta.last_log_id);
                if held.is_none_or(|held| held <= snapshot.meta.last_log_id) {
                    state.snapshot = Some(snapshot.clone());
                    state.snapshot_bytes = bytes;
                }
            }
            shared.snapshot_awaited.store(false, Ordering::Relaxed);
            // Nobody listens any more when the member is stopping.
            drop(done.send(built.map(Built::Whole)));
        });
        #[cfg(quorate_sim)]
        let thread = thread.map(|thread| thread.join().is_ok());
        if let Err(error) = thread {
            tracing::error!(%error, "no thread for a snapshot");
        }
    }

    fn install(&mut self, meta: &SnapshotMeta, file: SnapshotFile) -> Result<(), Failure> {
        let mut path = file.path().to_path_buf();
        if file.is_incoming() {
            let adopted = self.snapshots.adopt(file.path())?;
            let announced = meta.last_log_id.map(convert::position);
            if adopted.at != announced {
                return Err(Failure::WrongSnapshot { found: adopted.at, announced });
            }
            path = self.snapshots.path_of(adopted.at);
        }
        #[cfg(quorate_sim)]
        let path = crate::sim::perhaps_an_older(path, self.shared.state.lock().snapshot.as_ref());
        let mut pairs = self.snapshots.read(&path)?;
        let engine = Arc::clone(&self.engine);
        // The file holds the position and the membership too, as they were written with the last batch before it.
        engine.replace(&mut pairs)?;
        let mut batch = Batch::default();
        if let Some(at) = meta.last_log_id {
            self.position(&mut batch, at, Some(&meta.last_membership));
        }
        engine.write(&batch)?;
        (self.growth.entries, self.growth.bytes) = (0, 0);
        let snapshot_bytes = std::fs::metadata(&path)?.len();
        {
            let mut state = self.shared.state.lock();
            state.applied = meta.last_log_id;
            state.snapshot_bytes = snapshot_bytes;
            state.membership = meta.last_membership.clone();
            state.snapshot = Some(Snapshot { meta: meta.clone(), snapshot: SnapshotFile::held(path) });
        }
        self.compaction = Compaction::Unknown;
        self.observer.restored(&*engine as &dyn View)?;
        self.shared.progress.moved_to(meta.last_log_id.map_or(0, |at| at.index()));
        tracing::info!(index = meta.last_log_id.map(|at| at.index()), "a snapshot was installed");
        Ok(())
    }
}
