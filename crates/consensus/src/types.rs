//! The types that openraft is instantiated with.
//!
//! An entry's payload is a [`Proposal`]: bytes that were encoded once, by the proposer, and are the same bytes in the
//! log, on the wire and at apply. `leader_id_std` gives one leader per term, so that etcd's `raft_term` means the same
//! on every member.
//!
//! openraft's `serde` feature (on in this workspace) asks for serde implementations; nothing here is ever stored or
//! sent through them.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use quorate_state::{Command, Reply};
use quorate_wire::raft as wire;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::state_machine::{SnapshotFile, StateMachine};

#[cfg(not(quorate_sim))]
openraft::declare_raft_types!(
    /// How this project instantiates openraft.
    pub(crate) TypeConfig:
        D = Proposal,
        R = Outcome,
        NodeId = u64,
        Node = Node,
        Term = u64,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
);

#[cfg(quorate_sim)]
openraft::declare_raft_types!(
    /// How this project instantiates openraft.
    pub(crate) TypeConfig:
        D = Proposal,
        R = Outcome,
        NodeId = u64,
        Node = Node,
        Term = u64,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = crate::sim::Runtime,
);

pub(crate) type Raft = openraft::Raft<TypeConfig, StateMachine>;
pub(crate) type LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>;
type CommittedLeaderId = openraft::vote::leader_id_std::CommittedLeaderId<u64>;
pub(crate) type LogId = openraft::LogId<CommittedLeaderId>;
pub(crate) type Vote = openraft::Vote<LeaderId>;
pub(crate) type Entry = <TypeConfig as openraft::RaftTypeConfig>::Entry;
pub(crate) type Membership = openraft::Membership<u64, Node>;
pub(crate) type StoredMembership = openraft::StoredMembership<CommittedLeaderId, u64, Node>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<CommittedLeaderId, u64, Node>;
pub(crate) type Snapshot = openraft::Snapshot<CommittedLeaderId, u64, Node, SnapshotFile>;

/// A member, as the membership in the log knows it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Node {
    /// Unique in the cluster, chosen by the operator.
    pub name: String,
    /// Where its peer service listens.
    pub url: String,
    /// Of the disk that took an id which an operator had added. 0: the id was never up for taking.
    pub nonce: u64,
    /// Added by an operator, and no disk has taken the id yet.
    pub vacant: bool,
    /// A learner that is to vote as soon as it has caught up.
    pub promote: bool,
}

/// A command on its way into the log: an encoded `Payload` message.
#[derive(Clone, PartialEq, Eq)]
pub struct Proposal(pub(crate) Bytes);

impl Proposal {
    /// Encodes `command`, the only time in its life.
    #[must_use]
    pub fn encode(command: &Command) -> Proposal {
        // By hand what `wire::Payload { kind: Some(Kind::Command(bytes)) }` would encode to, without a second copy.
        let length = command.encoded_len();
        let mut bytes = BytesMut::with_capacity(length + 11);
        prost::encoding::encode_key(2, prost::encoding::WireType::LengthDelimited, &mut bytes);
        prost::encoding::encode_varint(length as u64, &mut bytes);
        command.encode_raw(&mut bytes);
        Proposal(bytes.freeze())
    }

    /// Takes over bytes that another member encoded. None if they are no command.
    #[must_use]
    pub fn from_peer(bytes: Bytes) -> Option<Proposal> {
        match wire::Payload::decode(bytes.clone()).ok()?.kind? {
            wire::payload::Kind::Command(_) => Some(Proposal(bytes)),
            wire::payload::Kind::Blank(_) | wire::payload::Kind::Membership(_) => None,
        }
    }

    /// Encoded size in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Never true for an encoded command.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The encoded form, for a peer.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        self.0.clone()
    }
}

/// Sizes only: values never reach a log line.
impl std::fmt::Debug for Proposal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl std::fmt::Display for Proposal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Proposal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Proposal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Proposal, D::Error> {
        Vec::<u8>::deserialize(deserializer).map(|bytes| Proposal(bytes.into()))
    }
}

/// What applying an entry came to: the state's reply, or nothing for entries that are Raft's own.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outcome(pub(crate) Option<Reply>);

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_ref().map(Message::encode_to_vec).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Outcome {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Outcome, D::Error> {
        let reply = Option::<Vec<u8>>::deserialize(deserializer)?
            .map(|bytes| Reply::decode(bytes.as_slice()))
            .transpose()
            .map_err(serde::de::Error::custom)?;
        Ok(Outcome(reply))
    }
}

/// A blank payload, encoded.
pub(crate) fn blank() -> Bytes {
    let mut bytes = BytesMut::with_capacity(2);
    bytes
        .put_slice(&wire::Payload { kind: Some(wire::payload::Kind::Blank(wire::Blank {})) }.encode_to_vec());
    bytes.freeze()
}

/// A reply on its way to the member that forwarded the command.
#[must_use]
pub fn reply_to_peer(reply: &Reply) -> Bytes {
    reply.encode_to_vec().into()
}

/// The other end of [`reply_to_peer`]. None if it is no reply.
#[must_use]
pub fn reply_from_peer(bytes: Bytes) -> Option<Reply> {
    Reply::decode(bytes).ok()
}
