//! Automatic compaction, on the leader: one member decides, everybody applies.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use quorate_state::{Body, Command, Compact, Revision};

use crate::clock::boottime;
use crate::config::Compaction;
use crate::handle::Inner;

/// How often a revision target is looked at. etcd does so every five minutes; history grows with writes, not with time.
const LOOK: Duration = Duration::from_secs(10);
/// Samples of (time, revision) within one retention period.
const SAMPLES: u32 = 10;
/// A compaction is an entry like any other.
const PROPOSE: Duration = Duration::from_secs(5);
/// A proposal for fewer revisions than this costs more than it frees.
const WORTH: Revision = 100;

pub(crate) async fn run(inner: Arc<Inner>) {
    match inner.config.compaction {
        Compaction::Off => {}
        Compaction::Revisions(keep) => by_revision(&inner, keep).await,
        Compaction::Period(keep) => by_time(&inner, keep).await,
    }
}

async fn by_revision(inner: &Inner, keep: Revision) {
    let mut compacted = 0;
    loop {
        tokio::time::sleep(LOOK).await;
        let target = inner.pump.revision() - keep;
        if target >= compacted + WORTH && compact(inner, target).await {
            compacted = target;
        }
    }
}

async fn by_time(inner: &Inner, keep: Duration) {
    let mut samples: VecDeque<(Duration, Revision)> = VecDeque::new();
    let mut compacted = 0;
    loop {
        tokio::time::sleep((keep / SAMPLES).max(Duration::from_secs(1))).await;
        let now = boottime();
        samples.push_back((now, inner.pump.revision()));
        let mut target = None;
        while samples.front().is_some_and(|(at, _)| *at + keep <= now) {
            target = samples.pop_front().map(|(_, revision)| revision);
        }
        if let Some(target) = target
            && target > compacted
            && compact(inner, target).await
        {
            compacted = target;
        }
    }
}

/// True when history below `revision` is gone, by this or an earlier compaction.
async fn compact(inner: &Inner, revision: Revision) -> bool {
    if !inner.consensus.leads() {
        return false;
    }
    let body = Body::Compact(Compact { revision, physical: false });
    let command = Command::new(body);
    match inner.propose(command, PROPOSE).await {
        Ok(_) => {
            tracing::info!(revision, "compacted");
            true
        }
        Err(crate::ProposeError::Rejected(_)) => true,
        Err(error) => {
            tracing::debug!(error = %error, "compaction is tried again later");
            false
        }
    }
}
