//! openraft's state machine: a mailbox in front of the apply thread.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use futures_util::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use tokio::sync::oneshot;

use crate::apply_thread::{Built, Job, Shared};
use crate::types::{LogId, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};

/// Entries, and bytes of commands, that are applied as one batch: large enough to share the batch's cost, small enough
/// that answers do not wait for a catch-up.
const CHUNK_ENTRIES: usize = 512;
const CHUNK_BYTES: usize = 1 << 20;

/// A snapshot as openraft passes it around: a file, not its bytes.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotFile {
    path: PathBuf,
    incoming: bool,
}

impl SnapshotFile {
    /// One of this member's own, whole and synced.
    pub(crate) fn held(path: PathBuf) -> SnapshotFile {
        SnapshotFile { path, incoming: false }
    }

    /// One that a peer sent, neither verified nor named yet.
    pub(crate) fn incoming(path: PathBuf) -> SnapshotFile {
        SnapshotFile { path, incoming: true }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn is_incoming(&self) -> bool {
        self.incoming
    }
}

/// Sends jobs to the apply thread and waits for them.
pub(crate) struct StateMachine {
    jobs: SyncSender<Job>,
    shared: Arc<Shared>,
}

impl StateMachine {
    pub(crate) fn new(jobs: SyncSender<Job>, shared: Arc<Shared>) -> StateMachine {
        StateMachine { jobs, shared }
    }
}

async fn perform<T>(
    jobs: &SyncSender<Job>,
    job: impl FnOnce(oneshot::Sender<io::Result<T>>) -> Job,
) -> io::Result<T> {
    let (done, wait) = oneshot::channel();
    // At most two callers, and each waits for its answer: the queue has room.
    jobs.send(job(done)).map_err(|_| io::Error::other("the apply thread has ended"))?;
    #[cfg(quorate_sim)]
    let wait = crate::sim::stand_still(wait);
    wait.await.unwrap_or_else(|_| Err(io::Error::other("the apply thread dropped the job")))
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let state = self.shared.state.lock();
        Ok((state.applied, state.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let mut chunk = Vec::new();
        let mut bytes = 0;
        while let Some(item) = entries.next().await {
            let item = item?;
            if let EntryPayload::Normal(proposal) = &item.0.payload {
                bytes += proposal.len();
            }
            chunk.push(item);
            if chunk.len() >= CHUNK_ENTRIES || bytes >= CHUNK_BYTES {
                let full = std::mem::take(&mut chunk);
                bytes = 0;
                perform(&self.jobs, |done| Job::Apply { chunk: full, done }).await?;
            }
        }
        if chunk.is_empty() {
            return Ok(());
        }
        perform(&self.jobs, |done| Job::Apply { chunk, done }).await
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder { jobs: self.jobs.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> io::Result<()> {
        let meta = meta.clone();
        perform(&self.jobs, |done| Job::Install { meta, file: snapshot, done }).await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.shared.state.lock().snapshot.clone())
    }
}

/// Asks the apply thread for a snapshot.
pub(crate) struct SnapshotBuilder {
    jobs: SyncSender<Job>,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        loop {
            match perform(&self.jobs, |done| Job::Build { done }).await? {
                Built::Whole(snapshot) => return Ok(snapshot),
                Built::Anew => {}
            }
        }
    }
}
