//! One embeddable cluster member: propose, linearizable read, watch, lease behind one cheap [`Handle`].
//!
//! A program starts a [`Node`] with a [`Config`] and is a voter of the replicated store from then on:
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use quorate_node::{Config, Node};
//! use quorate_state::{Body, Command, Put, Range};
//!
//! let node = Node::start(Config::single("one", "/var/lib/example".into())).await?;
//! let handle = node.handle();
//! let put = Put { key: "greeting".into(), value: "hello".into(), ..Put::default() };
//! let second = Duration::from_secs(1);
//! handle.propose(Command::new(Body::Put(put)), second).await?;
//! let found = handle.range(Range { key: "greeting".into(), ..Range::default() }, second).await?;
//! assert_eq!(found.kvs[0].value, "hello");
//! node.shutdown(second).await;
//! # Ok(())
//! # }
//! ```
//!
//! # Model
//!
//! ```text
//!   Handle ──propose──► forward ──► Consensus (the leader's log) ──► apply thread ──► observer ─┬─► watch/hub ──► Watcher
//!     │                    ▲                                                                    ├─► lessor
//!     ├──range──► read: rounds of confirmation ──► own state                                    └─► metrics
//!     └──renew──► forward ──► the leader's lessor
//!
//!   tasks: leadership, read rounds, leases, compaction, quota, announcement        pure: lessor, watch/hub
//! ```
//!
//! # Invariants
//!
//! 1. Replicated state changes only through a proposal; expiry, compaction and alarms are proposals too.
//! 2. Nothing that depends on leadership (reads, renewals, expiry) is decided on this member's belief: a quorum confirms.
//! 3. A change of the leader only lengthens leases.
//! 4. A watch has neither gap nor duplicate, whatever happens to the leader or to this member's log.
//! 5. Every wait has a deadline and every queue a bound, next to its owner.
//! 6. An id is never used on another disk than the one it was first used on.

pub mod auth;
pub mod clock;
mod compactor;
pub mod config;
mod election;
pub mod error;
mod forward;
pub mod handle;
mod hash;
mod identity;
mod lease_task;
pub mod lessor;
mod lock;
mod membership;
mod metrics;
mod node;
mod observer;
mod queue;
mod quota;
mod read;
mod reconfigure;
mod session;
mod snapshot;
pub mod watch;

pub use auth::{AuthOptions, Credential, LoginError};
pub use config::{Compaction, Config};
pub use election::{Observer, Office};
pub use error::{MemberError, ProposeError, ReadError, StartError};
pub use handle::{Applied, Handle, Header, Leadership, Member, Renewal, Status, WatchItem, WatchSpec};
pub use lock::Lock;
pub use node::Node;
pub use queue::HoldError;
pub use quorate_consensus::PeerTls;
pub use session::Session;
pub use snapshot::{Restore, Snapshot, SnapshotStatus, restore_snapshot, snapshot_status};
pub use watch::Watcher;

/// The words of the store: commands, ranges, transactions, replies, events.
pub use quorate_state as state;
