//! Fault drills on real processes: a cluster is started the way an operator starts it, traffic is written to it, a fault
//! is injected, and what clients were told is compared with what the database holds.
//!
//! ```text
//!   story ──► stage ──► cluster ──► quorate run node1.yml, node2.yml, node3.yml ──► PostgreSQL
//!               │          │ kill -9, SIGSTOP, cut (netns), restart    │ REST, 8008
//!               │          └────────── observer ◄──────────────────────┘ one line per change
//!               └──► writers, one on each side ──► libpq connection string, all hosts, target_session_attrs=read-write
//!                       └──► ledger: acknowledged (when, by whom), unknown     verdict: acknowledged - present = lost
//! ```
//!
//! This crate knows no internals: it starts binaries, reads the public REST API and speaks SQL and the store's JSON. What it
//! says about a failover is therefore what an application saw. The write gap is the longest pause between two
//! acknowledgements after the fault, probed every 20 ms; a row is *lost* when its acknowledgement reached a writer and the row
//! is not there at the end; a row whose answer never came is *unknown* and may be there or not. The *margin* lies between the
//! last acknowledgement of the old primary, on whatever side, and the first one of the new; it must not be negative.
//!
//! As root every node lives in a network namespace of its own (`netns`), where it can be cut off without a word; without root
//! everything is on loopback and stories that cut are refused.
#![allow(clippy::print_stdout, reason = "the drill talks to the operator's terminal")]

pub mod chaos;
pub mod cluster;
pub mod configuration;
pub mod delay;
pub mod demo;
pub mod keys;
pub mod ledger;
pub mod netns;
pub mod observer;
pub mod place;
pub mod ports;
pub mod processes;
pub mod report;
pub mod rest;
pub mod soak;
pub mod stage;
pub mod stalls;
pub mod stories;
pub mod table;
pub mod writer;

pub use cluster::{Cluster, Network, Spec};
pub use configuration::Timing;
