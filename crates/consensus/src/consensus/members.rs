//! What an operator's changes of the membership need, and a store whose quorum is gone for good.
//!
//! Every change is one call of openraft's, on the leader, and returns when it is committed. What may be changed at all is
//! judged by the caller: here a change either fits the membership in force or is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use prost::Message;
use quorate_state::{View, keys};
use quorate_storage::{Completion, Entry, Position, StorageError};
use quorate_wire::raft as wire;

use super::{Consensus, Store};
use crate::convert;
use crate::error::MembershipFailure;
use crate::types::{Membership, Node};

/// One entry on a disk that works. A disk that does not is no reason to wait for ever.
pub(super) const FORCE: Duration = Duration::from_secs(60);

impl Consensus {
    /// Reads while batches go on being applied: each key is whole, but two may be of different instants. For what knows how to
    /// tell. None when this member has stopped.
    pub fn read_loosely<T>(&self, read: impl FnOnce(&dyn View) -> T) -> Option<T> {
        let engine = self.engine()?;
        Some(read(&*engine))
    }

    /// Gives member `id` another name, URL or disk. The peers' connections follow.
    pub async fn set_node(&self, id: u64, node: Node) -> Result<(), MembershipFailure> {
        self.change(ChangeMembers::SetNodes(BTreeMap::from([(id, node)]))).await
    }

    /// Gives learner `id` a vote.
    pub async fn promote(&self, id: u64) -> Result<(), MembershipFailure> {
        let peer = self.members().into_iter().find(|peer| peer.id == id);
        let Some(peer) = peer else {
            return Err(MembershipFailure::Refused(format!("no member has the id {id:x}")));
        };
        let node = Node { promote: false, ..peer.node };
        self.change(ChangeMembers::Batch(vec![
            ChangeMembers::SetNodes(BTreeMap::from([(id, node)])),
            ChangeMembers::AddVoterIds(BTreeSet::from([id])),
        ]))
        .await
    }

    /// Removes a voter altogether, through a joint membership.
    pub async fn remove_voter(&self, id: u64) -> Result<(), MembershipFailure> {
        self.change(ChangeMembers::RemoveVoters(BTreeSet::from([id]))).await
    }

    /// Ends a joint membership that somebody left behind, in favour of its newer voters.
    pub async fn leave_joint(&self) -> Result<(), MembershipFailure> {
        self.change(ChangeMembers::AddVoterIds(BTreeSet::new())).await
    }

    async fn change(&self, change: ChangeMembers<u64, Node>) -> Result<(), MembershipFailure> {
        self.changed(self.inner.raft.change_membership(change, false).await)
    }

    /// How much of the log member `id` has, and how much this member, the leader, has: two indexes. None: this member does
    /// not lead, or has heard nothing of it yet.
    #[must_use]
    pub fn progress(&self, id: u64) -> Option<(u64, u64)> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let matched = metrics.replication.as_ref()?.get(&id)?.as_ref()?;
        Some((matched.index(), metrics.last_log_index.unwrap_or(0)))
    }
}

impl Store {
    /// Whether `id` is the only member.
    pub fn has_single_voter(&self, id: u64) -> Result<bool, StorageError> {
        let (_, membership) = self.newest_membership()?;
        Ok(membership.is_some_and(|membership| {
            membership.voter_ids().eq([id]) && membership.nodes().map(|(id, _)| *id).eq([id])
        }))
    }

    /// For a member whose quorum is gone for good: makes it the only voter of the membership, keeping every entry it has,
    /// whether it was committed or not.
    ///
    /// The others must never be heard again: the caller gives the cluster another id.
    pub fn force_single_voter(&self, id: u64, node: &Node) -> Result<(), StorageError> {
        let (floor, _) = self.newest_membership()?;
        let last = match (self.log.last(), floor) {
            // A snapshot was installed and the process ended before the log was told.
            (last, Some(floor)) if last.is_none_or(|last| last.index < floor.index) => {
                written(|done| self.log.purge(floor, done))?;
                Some(floor)
            }
            (last, _) => last,
        };
        let membership = Membership::new(vec![BTreeSet::from([id])], BTreeMap::from([(id, node.clone())]))
            .expect("one voter with its node");
        let term = self.log.vote().map_or(0, |vote| vote.term).max(last.map_or(0, |at| at.term));
        let at = Position { term, index: last.map_or(0, |at| at.index + 1) };
        let payload = convert::payload_to_bytes(&openraft::EntryPayload::Membership(membership));
        written(|done| self.log.append(vec![Entry { at, payload }], done))
    }

    /// Lets go of a store that consensus was not started on. The log is synced.
    pub fn close(self) -> Result<(), StorageError> {
        self.log.close(FORCE)
    }

    /// Up to where the state is held beside the log, and the newest membership: in the log, else in the state.
    fn newest_membership(&self) -> Result<(Option<Position>, Option<Membership>), StorageError> {
        let mut held = Vec::new();
        if let Some((meta, _)) = self.snapshots.usable(self.log.purged())? {
            held.push((meta.at, meta.membership));
        }
        let get = |key: bytes::Bytes| {
            self.engine.get(&key).map_err(|error| StorageError::Engine { path: "db".into(), source: error.0 })
        };
        if let (Some(at), Some(membership)) = (get(keys::applied())?, get(keys::membership())?) {
            let at = wire::Position::decode(at).map_err(unreadable)?;
            held.push((Some(Position { term: at.term, index: at.index }), membership));
        }
        let newest_held = held.into_iter().max_by_key(|(at, _)| at.map(|at| at.index));
        let floor = newest_held.as_ref().and_then(|(at, _)| *at);

        let first = self.log.purged().map_or(0, |at| at.index + 1);
        let end = self.log.last().map_or(first, |at| at.index + 1);
        let mut newest = None;
        let mut next = first;
        while next < end {
            let entries = self.log.entries(next..end, SCAN_BYTES)?;
            let Some(last) = entries.last() else { break };
            next = last.at.index + 1;
            for entry in entries {
                let entry = convert::entry_from_storage(entry).map_err(unreadable)?;
                if let openraft::EntryPayload::Membership(membership) = entry.payload {
                    newest = Some(membership);
                }
            }
        }
        if newest.is_none()
            && let Some((_, membership)) = newest_held
        {
            let stored = convert::stored_membership_from_bytes(&membership).map_err(unreadable)?;
            newest = Some(stored.membership().clone());
        }
        Ok((floor, newest))
    }
}

fn unreadable(source: impl std::error::Error + Send + Sync + 'static) -> StorageError {
    StorageError::Engine { path: "db".into(), source: Box::new(source) }
}

/// Waits until what `call` asks of the log is on disk.
fn written(call: impl FnOnce(Completion)) -> Result<(), StorageError> {
    let (done, wait) = mpsc::channel();
    call(Box::new(move |result| {
        // Nobody waits any more after the deadline.
        let _ = done.send(result);
    }));
    let result = wait.recv_timeout(FORCE).unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
    result.map_err(|source| StorageError::Io { action: "writing", path: "log".into(), source })
}

/// Bytes of payload read at once from the log.
const SCAN_BYTES: usize = 1 << 20;
