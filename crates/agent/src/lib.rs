//! The HA loop: observe, [`quorate_ha::decide`], execute; and what stands around it: the fence, the REST API, the metrics.
//!
//! ```text
//!   agent      the loop, start and shutdown            fence     the deadline on its own thread
//!   observe    facts, keys, leases, policy → one value registry  keys → view, writes → guarded transactions (txn)
//!   execute    actions, in order                       operation the one long-running slot
//!   watch      wakes the loop, dates the lock's end    exit      wakes the loop when the postmaster is gone
//!   rest       health checks, status, admin            snapshot  a look in Patroni's words
//!   guard      the process below the fence             watchdog  the device below the guard
//!   chronicle  decision records on their way to the store          callbacks the operator's programs are told
//! ```
//!
//! What is absent: no decision (that is `ha`), no knowledge of how PostgreSQL is driven (that is `pg`), no keep-alive task:
//! the primary lease is renewed by an action of a decision and by nothing else, except while a shutdown waits for
//! PostgreSQL to stop.

mod agent;
pub mod callbacks;
mod chronicle;
pub mod config;
pub mod error;
mod execute;
mod exit;
pub mod fence;
pub mod guard;
pub mod metrics;
mod observe;
mod operation;
mod peer;
mod registry;
pub mod rest;
mod settings;
mod shared;
mod snapshot;
mod suspicion;
mod txn;
mod watch;
pub mod watchdog;

pub use agent::Agent;
pub use config::{AgentConfig, Credentials, GuardConfig, Hook, RestConfig};
pub use error::StartError;
