//! The HA decisions: given one observation of the instance and the cluster, what should this PostgreSQL instance do
//! next, and why. Pure: no clock, no I/O, no randomness.
//!
//! ```text
//!            facts (pg)     cluster (the store's keys)     leases     policy     now
//!                 └──────────────┬───────────────────────────┴──────────┴─────────┘
//!                            Observation
//!                                │  decide
//!      store silent ── unknown   │
//!      paused ──────── pause     ├── running primary ── primary (sync, slots, switchover)
//!      operation ───── operation ├── running standby ── standby ── candidate (race, promote)
//!                                ├── stopped ────────── rejoin
//!                                └── no data ────────── bootstrap
//!                            Decision { actions, reason, wake }
//! ```
//!
//! What holds everywhere: the lock's lease is renewed by the first action of a list or not at all; what writes cluster keys or lets
//! PostgreSQL write carries the guard it was judged on; whoever may be writing without the lock fences; nobody is promoted in the
//! decision that takes the lock; an ex-primary is checked against `/history` before it follows anybody.

pub mod action;
mod bootstrap;
pub mod budget;
pub mod candidate;
pub mod cluster;
mod context;
mod decide;
pub mod facts;
pub mod forecast;
pub mod keys;
pub mod observation;
mod operation;
mod pause;
pub mod placement;
pub mod policy;
pub mod primary;
pub mod reason;
pub mod record;
pub mod recovery;
mod rejoin;
pub mod slots;
mod standby;
mod switchover;
pub mod sync;
pub mod takeover;
mod timeline;
mod unknown;

pub use action::{Action, Decision, KeyGuard, LockGuard, StopMode, Upstream};
pub use cluster::{ClusterView, StoreFacts};
pub use decide::decide;
pub use facts::{
    InstanceFacts, Lsn, Moment, OperationFacts, OperationKind, Outcome, Position, SystemId, TimelineId,
};
pub use keys::{Key, Keys};
pub use observation::{LeaseFacts, Observation, VoterFacts};
pub use policy::{LocalPolicy, Policy, Preset, SynchronousMode, Unfit};
pub use reason::Reason;
pub use record::{Chronicle, Record};
