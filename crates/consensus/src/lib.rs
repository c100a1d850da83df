//! Consensus: openraft, adapted. The only crate that names it.
//!
//! # Model
//!
//! ```text
//!             propose, confirm, role, members, hand_over               (our words, for `node`)
//!   ┌──────────────────────────── consensus.rs ───────────────────────────────┐
//!   │                              openraft                                   │
//!   │   log_store.rs              state_machine.rs          network.rs        │
//!   └───────┬─────────────────────────┬─────────────────────────┬─────────────┘
//!      storage::Log             apply_thread.rs            4 connections a peer ──► peer_service.rs of the peer
//!    (one writer thread)   (state::Applier, Engine,
//!                            Snapshots, Observer)
//! ```
//!
//! A command is encoded once, by its proposer, into a [`Proposal`]; the same bytes go into the log, over the wire and to
//! apply. Formats (`proto/quorate/raft.proto`) are ours: openraft's serde forms change with its releases.
//!
//! # Invariants
//!
//! 1. Nothing is acknowledged before it is on disk on a quorum: openraft counts a member when its log's sync completed.
//! 2. A vote is on disk before it is given.
//! 3. State and applied position are one write; the log is purged only up to a synced snapshot; so the database can
//!    always be thrown away and rebuilt.
//! 4. Every message names cluster and target and is refused by anybody else.
//! 5. A leader that lost its quorum is still called leader by openraft. Nobody may conclude anything from
//!    [`Consensus::leads`]; [`Consensus::confirm`] asks a quorum, now.
//! 6. A failed sync is never retried: [`Consensus::failure`] resolves and the process ends.
//!
//! # Choices among openraft's settings
//!
//! Pre-vote is on and its call implemented (the default implementation would grant everything); a restarted leader asks
//! for votes again; a leader without a quorum stops keeping reachable followers from electing; one leader per term, so
//! that etcd's `raft_term` means the same everywhere; committed indexes are saved, so that a restart re-applies before
//! anybody is heard. Heartbeats and votes have a connection of their own.

mod apply_thread;
mod consensus;
mod conversation;
mod convert;
#[cfg(test)]
mod crash_points;
mod error;
mod last_confirmation;
mod line;
mod log_store;
mod network;
mod peer_service;
mod peer_tls;
mod progress;
#[cfg(quorate_sim)]
pub mod sim;
mod state_machine;
#[cfg(test)]
mod suite;
mod types;

pub use apply_thread::{Applied, Observer};
pub use consensus::{Committed, Consensus, Options, Peer, Role, Store};
pub use convert::{node_from_wire, node_to_wire};
pub use error::{BindFailure, ConfirmFailure, MembershipFailure, ProposeFailure, StartFailure};
pub use network::{AskError, Bound, Meter, Peers};
pub use peer_service::{PeerHandler, PeerListener, PeerServer, Socket};
pub use peer_tls::PeerTls;
pub use types::{Node, Proposal, reply_from_peer, reply_to_peer};

/// What members ask each other, as plain messages.
pub use quorate_wire::raft as message;
