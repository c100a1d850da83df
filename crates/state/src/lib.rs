//! The replicated state machine, as a pure function: given a readable [`View`] and a [`Command`], which bytes
//! change ([`Batch`]), what is answered ([`Reply`]), which [`Event`]s happened. No clock, no randomness, no I/O.
//!
//! # Problem
//!
//! Every member applies the same commands in the same order and must come to the same keys, the same answers and the
//! same refusals, on any engine, whether it was there from the beginning, restarted in between or came by a snapshot.
//! Clients expect etcd's semantics to the letter: revisions, generations, leases, transactions, history.
//!
//! # Model
//!
//! The state is one ordered map from bytes to bytes. A chunk of committed commands goes through an [`Applier`], which
//! reads the map through an [`Overlay`] of its own changes and ends as one batch; the caller (consensus) adds its own
//! position to the batch and writes it atomically. Reads ([`range()`], [`txn_read`], [`events`], …) are functions of a view.
//!
//! ```text
//!                     ┌──────────────── one chunk ────────────────┐
//!  committed commands │ apply ─► Overlay ─► apply ─► Overlay ─► … │ into_batch ─► + applied position ─► engine.write
//!                     └──┬───────── reads ▲ ─┬────────────────────┘
//!                        ▼                │  ▼
//!                  (Reply, Events)      View (the engine)  ◄── range, txn_read, events, leases, hash_kv
//! ```
//!
//! A *revision* is one transaction that changed something: 1 is the empty store, 2 the first change. Inside a revision
//! changes are numbered 0, 1, … (sub). A key's versions between its creation and its deletion are a *generation*; the
//! deletion is a *tombstone*, a version of its own.
//!
//! # Layout
//!
//! The first byte is the key space; integers are big-endian; `esc` escapes a user key so that its end is found and
//! order is kept ([`keys`]).
//!
//! ```text
//!  01 revision                      main                        the store's revision
//!  01 compacted                     main                        below it nothing is readable (logical compaction)
//!  01 removed                       main                        up to it nothing is left to remove (physical, local)
//!  01 consensus/applied             opaque                      owned by consensus
//!  01 consensus/membership          opaque                      owned by consensus
//!  02 key                           KeyValue                    latest:   what a range reads now, in one scan
//!  03 main sub                      kind KeyValue               event:    what happened, in order
//!  04 esc(key) main                 sub kind                    version:  where a key's past is
//!  05 lease                         ttl stamp remaining         leases (records; deadlines are the lessor's)
//!  06 lease key                     -                           the keys attached to a lease
//!  07 member                        name, client URLs           what members announced
//!  08 kind member                   -                           raised alarms
//!  09 00                            enabled, revision           authentication ([`auth`])
//!  09 01 name                       password hash, roles        users
//!  09 02 name                       permissions                 roles
//!
//!  put a=1, put b=1, txn { put a=2; del b }:
//!
//!  02 a → a=2 (mod 4)        03 2.0 → put a=1      04 a 2 → 0 put
//!                            03 3.0 → put b=1      04 a 4 → 0 put
//!                            03 4.0 → put a=2      04 b 3 → 0 put
//!                            03 4.1 → del b        04 b 4 → 1 tombstone
//! ```
//!
//! A put reads the latest record and writes three pairs, whatever the length of the history; latest record and event
//! share one encoding. A read now scans latest records only. A read in the past walks the version index.
//!
//! # Invariants
//!
//! - A refusal ([`Rejection`]) is an answer like any other and changes nothing; a [`Fault`] stops the node. There is no
//!   third way out of apply.
//! - A key changes at most once in a revision (duplicates are refused across nesting, in both branches).
//! - Every latest record is the newest version of its key, every version has its event, a key is attached to the lease
//!   that its latest record names and to no other.
//! - Answers depend on the logical compaction only, never on how far the physical removal got ([`compact_slice`]), nor on
//!   how commands were cut into chunks.
//! - Time enters as commands: a lease ends by a [`LeaseRevoke`], and what remains of it at a change of the leader was
//!   counted by a [`LeaseCheckpoint`]; never inside apply.
//!
//! # What is missing
//!
//! Limits on sizes and on the number of operations are the proposer's (etcd crate); only what apply must
//! decide the same everywhere is decided here. A snapshot needs no code of its own: it is every pair of the map.
//!
//! Sources: etcd, server/storage/mvcc and server/etcdserver/txn, for semantics; toyDB for the shape of keys and scripts.

mod alarm;
mod apply;
pub mod auth;
mod change;
pub mod command;
mod compact;
mod count;
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
pub use count::count_keys;
pub use fault::Fault;
pub use hash::{KvHash, hash_kv};
pub use history::{Page, event_with_prev, events, events_page};
pub use lease::{LeaseRecord, MAX_LEASE_TTL_MS, lease, lease_keys, leases};
pub use member::{MemberRecord, members};
pub use range::range;
pub use revision::{INITIAL_REVISION, compacted, revision};
pub use txn::txn_read;
pub use view::{Batch, Direction, Op, Overlay, Scan, View, ViewError};
