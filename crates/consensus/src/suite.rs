//! openraft's own suite on our stores, as they are and with the log closed and opened again before every call.

use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::path::PathBuf;
use std::sync::Arc;

use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{OptionalSend, StorageError};
use quorate_state::{Fault, View};
use quorate_storage::{Engine, Log, LogOptions, MemoryEngine, SledEngine, Snapshots};
use tempfile::TempDir;
use tokio::sync::Mutex;

use crate::apply_thread::{self, Applied, Observer};
use crate::log_store::LogStore;
use crate::state_machine::StateMachine;
use crate::types::{Entry, LogId, TypeConfig, Vote};

pub(crate) struct Nobody;

impl Observer for Nobody {
    fn applied(&mut self, _: Applied) {}
    fn restored(&mut self, _: &dyn View) -> Result<(), Fault> {
        Ok(())
    }
}

fn open_log(dir: &std::path::Path) -> LogStore {
    // Small segments: the suite crosses their ends, and opening is cheap.
    let options = LogOptions { segment_bytes: 1 << 14, ..LogOptions::default() };
    LogStore::new(Log::open(dir, options).expect("the log opens"))
}

fn state_machine(dir: &std::path::Path, engine: Arc<dyn Engine>) -> StateMachine {
    let snapshots = Snapshots::open(&dir.join("snapshots")).expect("the snapshot directory opens");
    let apply_thread::Started { jobs, shared, .. } =
        apply_thread::start(engine, snapshots, None, 0, u64::MAX, Box::new(Nobody))
            .expect("the apply thread starts");
    StateMachine::new(jobs, shared)
}

/// sled, opened once.
struct OnDisk;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for OnDisk {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let engine = SledEngine::open(&dir.path().join("db")).expect("the engine opens").into_engine();
        let machine = state_machine(dir.path(), Arc::new(engine));
        let log = open_log(&dir.path().join("log"));
        Ok((dir, log, machine))
    }
}

/// A log that is closed and opened again before every call.
struct Reopened;

impl StoreBuilder<TypeConfig, ReopenedLog, StateMachine, TempDir> for Reopened {
    async fn build(&self) -> Result<(TempDir, ReopenedLog, StateMachine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let machine = state_machine(dir.path(), Arc::new(MemoryEngine::new()));
        let log = ReopenedLog { dir: dir.path().join("log"), open: Arc::default() };
        Ok((dir, log, machine))
    }
}

#[derive(Clone)]
struct ReopenedLog {
    dir: PathBuf,
    /// The one handle: readers share it, so that dropping it closes the log.
    open: Arc<Mutex<Option<LogStore>>>,
}

impl ReopenedLog {
    async fn reopen(&self) -> tokio::sync::MappedMutexGuard<'_, LogStore> {
        let mut open = self.open.lock().await;
        // Closing waits for the writer, so completions have been called.
        *open = None;
        *open = Some(open_log(&self.dir));
        tokio::sync::MutexGuard::map(open, |open| open.as_mut().expect("just opened"))
    }
}

impl RaftLogReader<TypeConfig> for ReopenedLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        self.reopen().await.try_get_log_entries(range).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.reopen().await.read_vote().await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.reopen().await.limited_get_log_entries(start, end).await
    }
}

impl RaftLogStorage<TypeConfig> for ReopenedLog {
    type LogReader = ReopenedLog;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        self.reopen().await.get_log_state().await
    }

    async fn get_log_reader(&mut self) -> ReopenedLog {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.reopen().await.save_vote(vote).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.reopen().await.save_committed(committed).await
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        self.reopen().await.read_committed().await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.reopen().await.append(entries, callback).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.reopen().await.truncate_after(last).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.reopen().await.purge(upto).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_suite_passes() {
    Suite::test_all(OnDisk).await.expect("the suite passes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_suite_passes_with_a_reopen_before_every_call() {
    Suite::test_all(Reopened).await.expect("the suite passes");
}
