//! One embeddable cluster member: propose, linearizable read, watch, lease behind one cheap [`Handle`].
//!
//! A program starts a [`Node`] with a [`Config`] and is a voter of the replicated store from then on. Every copy of it keeps
//! all of the store on a disk of its own; a write is acknowledged when a majority has it there. There is no server to run
//! and no client to configure: requests go to the member in the program, which takes them to the leader.
//!
//! # A walk through it
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! # let directory = tempfile::tempdir()?;
//! # let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
//! use std::time::Duration;
//! use quorate_node::state::{Command, Range};
//! use quorate_node::{Config, Node, WatchItem, WatchSpec};
//!
//! // One member alone. A cluster of three is three programs with the same `initial_cluster`, a name, a directory and an
//! // address each: see `examples/voter.rs`.
//! let mut config = Config::single("one", directory.path().into());
//! # config.peer_listen = vec![free.to_string()];
//! # config.peer_advertise = format!("http://{free}");
//! # config.initial_cluster = vec![("one".to_owned(), config.peer_advertise.clone())];
//! config.snapshot_count = 5_000;
//! let node = Node::start(config).await?;
//!
//! // The handle is cheap to clone and may be used from any task. Every request says how long it may take.
//! let handle = node.handle();
//! let second = Duration::from_secs(1);
//! let written = handle.propose(Command::put("greeting", "hello"), second).await?;
//!
//! // A read sees every write that was acknowledged before, by whichever member.
//! let found = handle.range(Range { key: "greeting".into(), ..Range::default() }, second).await?;
//! assert_eq!(found.kvs[0].value, "hello");
//!
//! // A watch delivers every change once and in order, from a revision of the past on if it is asked to.
//! let start_revision = written.reply.revision;
//! let mut watcher = handle.watch(WatchSpec { key: "greeting".into(), start_revision, ..WatchSpec::default() });
//! let Some(WatchItem::Events { events, .. }) = watcher.next().await else { panic!("the member has stopped") };
//! assert_eq!(events[0].kv.value, "hello");
//!
//! // What hangs on a lease goes when nobody renews it any more. A session renews its lease by itself, as long as this program
//! // lives.
//! let session = handle.session(Duration::from_secs(10), second).await?;
//! handle.propose(Command::put_with_lease("here/one", "", session.lease()), second).await?;
//!
//! // A lock, and an election whose outcome everybody can watch.
//! let lock = handle.lock("jobs/nightly", session.lease(), second).await?;
//! lock.unlock(second).await?;
//! let office = handle.campaign("jobs", session.lease(), "member one", second).await?;
//! assert_eq!(handle.elected("jobs", second).await?.map(|kv| kv.key).as_ref(), Some(office.key()));
//! session.end(second).await?;
//! assert_eq!(handle.elected("jobs", second).await?, None);
//!
//! // Hands leadership over, and closes the disk.
//! node.shutdown(second).await;
//! # Ok(())
//! # })
//! # }
//! ```
//!
//! What an error permits is its first question: nothing happened, or it may still happen ([`ProposeError`]). A read may always
//! be asked again. [`Node::failed`] tells when this member must not go on: a disk that fails ends it, and the others go on.
//!
//! Clients of etcd are served by the crate `quorate-etcd`, from a [`Handle`].
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
mod hearing;
mod identity;
mod key_count;
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
