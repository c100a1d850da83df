//! The one input of a decision: everything known at one moment. A production decision can be replayed from it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::cluster::{LeaseId, MemberRecord, StoreFacts};
use crate::facts::{InstanceFacts, Moment, OperationFacts};
use crate::policy::Policy;

/// Everything that a decision may depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// When it was made.
    pub now: Moment,
    /// What is wanted.
    pub policy: Policy,
    /// The local instance, first hand.
    pub instance: InstanceFacts,
    /// The operation slot.
    pub operation: OperationFacts,
    /// The cluster, as the store says.
    pub store: StoreFacts,
    /// Last known records of every member this node has ever seen, by name, whether or not their keys still exist.
    pub remembered: BTreeMap<String, MemberRecord>,
    /// Of those whose keys are gone now: when this node first saw them gone.
    pub missing: BTreeMap<String, Moment>,
    /// Our member lease, if we have one.
    pub member_lease: Option<LeaseFacts>,
    /// Our primary lease, if we have one. Kept (and not renewed) after a fence, forgotten when it is released,
    /// answered as unknown by the store, or replaced.
    pub primary_lease: Option<LeaseFacts>,
    /// Time until the `/failover` request is due, zero from then on (the agent compares `scheduled_at` with the wall
    /// clock: a decision has none). None: no request, or no schedule in it.
    pub scheduled_in: Option<Duration>,
    /// What this node knows about the voters of the store.
    pub voters: VoterFacts,
}

/// A lease of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseFacts {
    /// Which.
    pub id: LeaseId,
    /// It cannot expire in the store before this: the moment before the last confirmed renewal (or grant) was SENT,
    /// plus its ttl.
    pub valid_until: Moment,
}

/// For the placement of the store's leader, and for suspicions. Never a permission to write.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VoterFacts {
    /// The store's leader is this node.
    pub leads_here: bool,
    /// The other voters of the store that have just answered its leader, which is this node, by member name.
    pub answering: BTreeSet<String>,
    /// For how long the store's leader has heard nothing from a voter, by member name; the leader itself and voters that
    /// it has just heard are not listed. A new leader counts from its election.
    pub silent: BTreeMap<String, Duration>,
    /// Members whose peer port and PostgreSQL port both refused a connection from this node just now.
    pub refusing: BTreeSet<String>,
}
