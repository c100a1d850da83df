//! The HA decisions: given one observation of the instance and the cluster, what should this PostgreSQL instance do
//! next, and why. Pure: no clock, no I/O, no randomness.

pub mod action;
pub mod cluster;
pub mod facts;
pub mod keys;
pub mod observation;
pub mod policy;
pub mod reason;

pub use action::{Action, Decision, KeyGuard, LockGuard, StopMode, Upstream};
pub use cluster::{ClusterView, StoreFacts};
pub use facts::{
    InstanceFacts, Lsn, Moment, OperationFacts, OperationKind, Outcome, Position, SystemId, TimelineId,
};
pub use keys::{Key, Keys};
pub use observation::{LeaseFacts, Observation, VoterFacts};
pub use policy::{LocalPolicy, Policy, SynchronousMode};
pub use reason::Reason;
