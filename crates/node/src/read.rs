//! Reads that see everything committed before they began.
//!
//! A linearizable read needs two things: a leader whom a quorum confirms, after the read arrived, and this member's state
//! applied up to the index that the leader had committed then (ReadIndex; Ongaro's thesis, 6.4). On a follower the leader is
//! asked for that index and the read is served here.
//!
//! Confirmations are shared. While one round is under way, whoever arrives waits for the next one, which starts after they
//! arrived and therefore counts for all of them:
//!
//! ```text
//!   reads:   r1        r2 r3 r4                r5
//!   rounds:  [── r1 ──][──── r2 r3 r4 ────][── r5 ──]
//! ```
//!
//! So a thousand readers cost a handful of heartbeat rounds (or questions to the leader), not a thousand. A round that takes
//! longer than [`SLOW`] is waited for no longer: over a line of half a second the next reader would pay for two.

use std::sync::Arc;
use std::time::Duration;

use quorate_consensus::{Bound, ConfirmFailure, message};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::ReadError;
use crate::handle::Inner;

/// Readers that wait for one round. Beyond that a reader waits for its place; each costs a channel.
const WAITING: usize = 16_384;
/// A round that takes longer is given up: readers may try again within their own deadline. One round trip to the leader, one
/// until the heartbeat that is under way there is answered, one for the next.
const ROUND: Bound = (Duration::from_millis(500), 3);
/// The next round begins after this at the latest. Far above a round on a local network, far below one that hurts; with
/// [`ROUND`], a bound on how many are under way.
const SLOW: Duration = Duration::from_millis(50);
/// Before asking again when there was no leader, unless a change of the leader wakes us first.
pub(crate) const RETRY: Duration = Duration::from_millis(20);

/// What a round found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    /// Leadership was confirmed: by the leader `leader`, at this index.
    Confirmed {
        leader: u64,
        index: u64,
    },
    NoLeader,
    NoQuorum,
    Stopped,
}

/// Where readers queue for rounds.
#[derive(Clone)]
pub(crate) struct Rounds {
    queue: mpsc::Sender<oneshot::Sender<Round>>,
}

impl Rounds {
    pub(crate) fn new() -> (Rounds, mpsc::Receiver<oneshot::Sender<Round>>) {
        let (queue, waiting) = mpsc::channel(WAITING);
        (Rounds { queue }, waiting)
    }

    /// A round that starts after this call.
    pub(crate) async fn next(&self) -> Round {
        let (answer, round) = oneshot::channel();
        if self.queue.send(answer).await.is_err() {
            return Round::Stopped;
        }
        round.await.unwrap_or(Round::Stopped)
    }
}

/// Runs rounds for as long as anybody can ask.
pub(crate) async fn run(inner: Arc<Inner>, mut waiting: mpsc::Receiver<oneshot::Sender<Round>>) {
    let mut group = Vec::new();
    // Ended with this task.
    let mut slow = JoinSet::new();
    while waiting.recv_many(&mut group, WAITING).await > 0 {
        let mut one = Box::pin(serve(Arc::clone(&inner), group));
        group = match tokio::time::timeout(SLOW, &mut one).await {
            Ok(served) => served,
            Err(_) => {
                slow.spawn(one);
                Vec::new()
            }
        };
        while slow.try_join_next().is_some() {}
    }
}

/// One round for these readers; gives back what held them.
async fn serve(inner: Arc<Inner>, mut group: Vec<oneshot::Sender<Round>>) -> Vec<oneshot::Sender<Round>> {
    let round = round(&inner).await;
    for reader in group.drain(..) {
        // A reader whose deadline passed has left.
        let _ = reader.send(round);
    }
    group
}

async fn round(inner: &Inner) -> Round {
    let Some(leader) = inner.consensus.role().borrow().leader else { return Round::NoLeader };
    #[cfg(quorate_sim)]
    if leader == inner.id && quorate_consensus::sim::broken(quorate_consensus::sim::Rule::ReadWithoutQuorum) {
        return Round::Confirmed { leader, index: inner.consensus.committed_index() };
    }
    if leader == inner.id {
        return match inner.consensus.confirm(inner.peers.patience(ROUND)).await {
            Ok(index) => Round::Confirmed { leader, index },
            Err(ConfirmFailure::NotLeader { .. }) => Round::NoLeader,
            Err(ConfirmFailure::NoQuorum) => Round::NoQuorum,
            Err(ConfirmFailure::Stopped) => Round::Stopped,
        };
    }
    let question = message::question::Question::ReadIndex(message::ReadIndex {});
    match inner.ask_leader(leader, question, inner.peers.patience(ROUND)).await {
        Ok(message::answer::Answer::ReadAt(at)) => Round::Confirmed { leader, index: at.index },
        Ok(message::answer::Answer::Failure(failure)) if failure.kind() == message::FailureKind::NoQuorum => {
            Round::NoQuorum
        }
        Ok(_) | Err(_) => Round::NoLeader,
    }
}

impl Inner {
    /// Returns when everything that was committed anywhere before the call has been applied here.
    pub(crate) async fn read_barrier(&self, timeout: Duration) -> Result<(), ReadError> {
        let begun = Instant::now();
        let passed = self.confirmed_and_applied(begun + timeout).await;
        self.metrics.read_index(begun.elapsed(), passed.is_ok());
        passed
    }

    async fn confirmed_and_applied(&self, deadline: Instant) -> Result<(), ReadError> {
        let mut outcome = ReadError::NoLeader;
        loop {
            match tokio::time::timeout_at(deadline, self.rounds.next()).await {
                Ok(Round::Confirmed { index, .. }) => return self.wait_applied(index, deadline).await,
                Ok(Round::NoLeader) => outcome = ReadError::NoLeader,
                Ok(Round::NoQuorum) => outcome = ReadError::TimedOut,
                Ok(Round::Stopped) => return Err(ReadError::Stopped),
                Err(_) => return Err(outcome),
            }
            if !self.pause(deadline).await {
                return Err(outcome);
            }
        }
    }

    /// Waits until `index` is applied here.
    pub(crate) async fn wait_applied(&self, index: u64, deadline: Instant) -> Result<(), ReadError> {
        match tokio::time::timeout_at(deadline, self.consensus.reached(index)).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(ReadError::Stopped),
            Err(_) => Err(ReadError::TimedOut),
        }
    }

    /// Waits for a change of the leader, but not long. False when the deadline came first, or no change can come any more.
    pub(crate) async fn pause(&self, deadline: Instant) -> bool {
        let mut role = self.consensus.role();
        role.mark_unchanged();
        let retry = (Instant::now() + RETRY).min(deadline);
        match tokio::time::timeout_at(retry, role.changed()).await {
            // Either way it is worth another look.
            Ok(Ok(())) | Err(_) => Instant::now() < deadline,
            // Consensus has ended (a disk that failed): there would be no wait between two looks.
            Ok(Err(_)) => false,
        }
    }
}
