//! Fault drills on real processes: a cluster is started the way an operator starts it, traffic is written to it, a fault
//! is injected, and what clients were told is compared with what the database holds.
//!
//! ```text
//!   story ──► cluster ──► quorate run node1.yml, node2.yml, node3.yml ──► PostgreSQL
//!     │          │ kill -9, restart                     │ REST, 8008
//!     │          └────────── observer ◄─────────────────┘ one line per change
//!     └──► writer ──► libpq connection string, all three hosts, target_session_attrs=read-write
//!             └──► ledger: acknowledged, unknown        verdict: acknowledged - present = lost
//! ```
//!
//! This crate knows no internals: it starts binaries, reads the public REST API and speaks SQL. What it says about a
//! failover is therefore what an application saw. The write gap is the longest pause between two acknowledgements after
//! the fault, probed every 20 ms; a row is *lost* when its acknowledgement reached the writer and the row is not there
//! at the end; a row whose answer never came is *unknown* and may be there or not.
#![allow(clippy::print_stdout, reason = "the drill talks to the operator's terminal")]

pub mod cluster;
pub mod demo;
pub mod keys;
pub mod observer;
pub mod ports;
pub mod processes;
pub mod report;
pub mod rest;
pub mod stories;
pub mod writer;

pub use cluster::{Cluster, Spec};
