//! The replicated state machine, as a pure function: given a readable [`View`] and a [`Command`], which bytes
//! change ([`Batch`]), what is answered ([`Reply`]), which [`Event`]s happened. No clock, no randomness, no I/O.

mod alarm;
mod apply;
mod change;
pub mod command;
mod compact;
mod delete;
mod fault;
mod hash;
mod history;
mod key_range;
pub mod keys;
mod lease;
mod member;
mod put;
mod range;
mod record;
mod revision;
mod txn;
mod txn_check;
pub mod view;

pub use alarm::alarms;
pub use apply::Applier;
pub use command::*;
pub use compact::{Cursor, compact_slice};
pub use fault::Fault;
pub use hash::{KvHash, hash_kv};
pub use history::{event_with_prev, events};
pub use lease::{LeaseRecord, MAX_LEASE_TTL_MS, lease, lease_keys, leases};
pub use member::{MemberRecord, members};
pub use range::range;
pub use revision::{INITIAL_REVISION, compacted, revision};
pub use txn::txn_read;
pub use view::{Batch, Direction, Op, Overlay, Scan, View, ViewError};
