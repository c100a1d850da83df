//! Between openraft's types, storage's positions and our own messages.
//!
//! One direction cannot fail and is a plain function; the other reads bytes that came from a disk or a peer and
//! returns [`Malformed`], never a panic.

use bytes::Bytes;
use openraft::{EntryPayload, RaftTypeConfig};
use prost::Message;
use quorate_storage as storage;
use quorate_wire::raft as wire;

use crate::types::{Entry, LeaderId, LogId, Membership, Node, Proposal, StoredMembership, TypeConfig, Vote};

/// Bytes that are not what they should be.
#[derive(Debug, thiserror::Error)]
#[error("malformed {what}")]
pub struct Malformed {
    what: &'static str,
    #[source]
    source: Option<prost::DecodeError>,
}

impl Malformed {
    pub(crate) fn new(what: &'static str) -> Malformed {
        Malformed { what, source: None }
    }
}

impl From<Malformed> for std::io::Error {
    fn from(malformed: Malformed) -> std::io::Error {
        std::io::Error::new(std::io::ErrorKind::InvalidData, malformed)
    }
}

pub(crate) fn log_id(at: storage::Position) -> LogId {
    LogId::new_term_index(at.term, at.index)
}

pub(crate) fn position(id: LogId) -> storage::Position {
    storage::Position { term: id.committed_leader_id().term, index: id.index() }
}

pub(crate) fn position_to_wire(id: &LogId) -> wire::Position {
    wire::Position { term: id.committed_leader_id().term, index: id.index() }
}

pub(crate) fn position_from_wire(at: &wire::Position) -> LogId {
    LogId::new_term_index(at.term, at.index)
}

pub(crate) fn vote_to_wire(vote: &Vote) -> wire::Vote {
    wire::Vote { term: vote.leader_id.term, node: vote.leader_id.voted_for, committed: vote.committed }
}

pub(crate) fn vote_from_wire(vote: Option<&wire::Vote>) -> Result<Vote, Malformed> {
    let vote = vote.ok_or(Malformed::new("vote"))?;
    Ok(Vote { leader_id: LeaderId { term: vote.term, voted_for: vote.node }, committed: vote.committed })
}

pub(crate) fn vote_to_storage(vote: &Vote) -> storage::Vote {
    storage::Vote {
        term: vote.leader_id.term,
        node: Some(vote.leader_id.voted_for),
        committed: vote.committed,
    }
}

/// None for a vote without a node: openraft's standard leader id always names one, so we never write such a vote.
pub(crate) fn vote_from_storage(vote: storage::Vote) -> Option<Vote> {
    let voted_for = vote.node?;
    Some(Vote { leader_id: LeaderId { term: vote.term, voted_for }, committed: vote.committed })
}

/// The payload bytes of an entry: shared, not copied, for commands.
pub(crate) fn payload_to_bytes(payload: &<TypeConfig as RaftTypeConfig>::Payload) -> Bytes {
    match payload {
        EntryPayload::Blank => crate::types::blank(),
        EntryPayload::Normal(proposal) => proposal.0.clone(),
        EntryPayload::Membership(membership) => {
            let kind = wire::payload::Kind::Membership(membership_to_wire(membership));
            wire::Payload { kind: Some(kind) }.encode_to_vec().into()
        }
    }
}

pub(crate) fn entry_from_parts(term: u64, index: u64, payload: Bytes) -> Result<Entry, Malformed> {
    let decoded = wire::Payload::decode(payload.clone())
        .map_err(|source| Malformed { what: "log entry", source: Some(source) })?;
    let payload = match decoded.kind.ok_or(Malformed::new("log entry"))? {
        wire::payload::Kind::Blank(_) => EntryPayload::Blank,
        wire::payload::Kind::Command(_) => EntryPayload::Normal(Proposal(payload)),
        wire::payload::Kind::Membership(membership) => {
            EntryPayload::Membership(membership_from_wire(membership)?)
        }
    };
    Ok(Entry { log_id: LogId::new_term_index(term, index), payload })
}

/// The encoded command inside a proposal, sharing its buffer.
pub(crate) fn command_bytes(proposal: &Proposal) -> Result<Bytes, Malformed> {
    let decoded = wire::Payload::decode(proposal.0.clone())
        .map_err(|source| Malformed { what: "command", source: Some(source) })?;
    match decoded.kind {
        Some(wire::payload::Kind::Command(bytes)) => Ok(bytes),
        Some(wire::payload::Kind::Blank(_) | wire::payload::Kind::Membership(_)) | None => {
            Err(Malformed::new("command"))
        }
    }
}

pub(crate) fn entry_to_storage(entry: &Entry) -> storage::Entry {
    storage::Entry { at: position(entry.log_id), payload: payload_to_bytes(&entry.payload) }
}

pub(crate) fn entry_from_storage(entry: storage::Entry) -> Result<Entry, Malformed> {
    entry_from_parts(entry.at.term, entry.at.index, entry.payload)
}

pub(crate) fn entry_to_wire(entry: &Entry) -> wire::Entry {
    wire::Entry {
        term: entry.log_id.committed_leader_id().term,
        index: entry.log_id.index(),
        payload: payload_to_bytes(&entry.payload),
    }
}

pub(crate) fn entry_from_wire(entry: wire::Entry) -> Result<Entry, Malformed> {
    entry_from_parts(entry.term, entry.index, entry.payload)
}

/// A member on its way to a peer or into the log.
#[must_use]
pub fn node_to_wire(id: u64, node: &Node) -> wire::Node {
    let Node { name, url, nonce, vacant, promote } = node.clone();
    wire::Node { id, name, url, nonce, vacant, promote }
}

/// The other end of [`node_to_wire`], without the id.
#[must_use]
pub fn node_from_wire(node: wire::Node) -> Node {
    let wire::Node { id: _, name, url, nonce, vacant, promote } = node;
    Node { name, url, nonce, vacant, promote }
}

pub(crate) fn membership_to_wire(membership: &Membership) -> wire::Membership {
    wire::Membership {
        voters: membership
            .get_joint_config()
            .iter()
            .map(|set| wire::VoterSet { ids: set.iter().copied().collect() })
            .collect(),
        nodes: membership.nodes().map(|(id, node)| node_to_wire(*id, node)).collect(),
    }
}

pub(crate) fn membership_from_wire(membership: wire::Membership) -> Result<Membership, Malformed> {
    let voters = membership.voters.into_iter().map(|set| set.ids.into_iter().collect()).collect();
    let nodes: std::collections::BTreeMap<u64, Node> =
        membership.nodes.into_iter().map(|node| (node.id, node_from_wire(node))).collect();
    if nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(voters, nodes).map_err(|_| Malformed::new("membership"))
}

pub(crate) fn stored_membership_to_wire(stored: &StoredMembership) -> wire::StoredMembership {
    wire::StoredMembership {
        at: stored.log_id().as_ref().map(position_to_wire),
        membership: Some(membership_to_wire(stored.membership())),
    }
}

pub(crate) fn stored_membership_from_wire(
    stored: wire::StoredMembership,
) -> Result<StoredMembership, Malformed> {
    let membership = membership_from_wire(stored.membership.unwrap_or_default())?;
    Ok(StoredMembership::new(stored.at.as_ref().map(position_from_wire), membership))
}

pub(crate) fn stored_membership_to_bytes(stored: &StoredMembership) -> Bytes {
    stored_membership_to_wire(stored).encode_to_vec().into()
}

pub(crate) fn stored_membership_from_bytes(bytes: &[u8]) -> Result<StoredMembership, Malformed> {
    let stored = wire::StoredMembership::decode(bytes)
        .map_err(|source| Malformed { what: "membership", source: Some(source) })?;
    stored_membership_from_wire(stored)
}
