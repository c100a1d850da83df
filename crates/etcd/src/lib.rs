//! etcd's v3 surface for a [`quorate_node::Handle`]: validate, translate, map errors. It decides nothing.
//!
//! # The problem
//!
//! Patroni, `etcdctl`, Go's clientv3 and everything built on it must not notice that no etcd answers them. What they
//! depend on is wider than the protobuf: the texts of errors (clients compare strings), the code of every transient
//! condition (anything but `Unavailable` ends their streams), ids and a comparable Raft term in every header, the order
//! of the messages on a watch stream, and an HTTP side on the same port.
//!
//! # The model
//!
//! ```text
//!   accept loop (server) ─► one hyper connection, HTTP/1.1 or h2c by preface
//!        │                       │
//!        │            application/grpc over h2?
//!        │              yes │            │ no
//!        │                  ▼            ▼
//!        │            calls ◄── gateway ◄── http: /version /health /livez /readyz /metrics
//!        │                  │      JSON under /v3/
//!        │                  │  metrics, access, punctual ► tonic ► words
//!        │                  ▼
//!        │      kv watch lease cluster maintenance auth lock election serving      one file per service
//!        │                  │  validate ─► convert ─► Handle ─► convert ─► header
//!        └── stop ──────────┴─► streams end with Unavailable, requests drain
//! ```
//!
//! # Invariants
//!
//! - No state of its own beyond open streams: any member gives the same answers, and a restarted server loses nothing.
//! - Every error that leaves here is built in [`status`]; every header in [`header`]. What tonic answers by itself is put
//!   into etcd's words in [`words`]; what is wrong with JSON is said in [`gateway`].
//! - Whatever may pass by itself is `Unavailable`.
//! - Nothing here is unbounded: request size, depth and time, bytes of unfinished requests, operations per transaction,
//!   connections, streams per connection, responses waiting on a watch stream, writes that do not move, concurrent
//!   renewals of a keep-alive stream each have a constant or an option.
//!
//! # Where it differs from etcd, on purpose
//!
//! - A learner serves like any member, since every request is forwarded or waits for a read index; etcd refuses.
//! - `Defragment` succeeds at once: there is nothing that an operator would have to defragment.
//! - A request with a plain token does not fail because users or roles changed under it: it is judged as of now. One with
//!   an old signed token fails for whatever it asks, in etcd only if that is about keys.
//!
//! - A member has one peer URL; more are refused.
//! - A voter that is added votes when it has caught up, so that an addition never costs the quorum; the list shows it as a
//!   voter from the beginning. A learner may be added beside a dead voter.
//! - The inside of a snapshot is our own format: `etcdctl snapshot save` takes it, `quoratectl snapshot` reads it.
//!
//! Sources: etcd's `server/etcdserver/api/v3rpc`, `api/v3rpc/rpctypes/error.go` and `server/embed/serve.go` for the
//! behaviour, each rule with its file where it is used.

mod access;
mod auth;
mod authority;
mod calls;
mod cluster;
mod context;
mod convert;
mod election;
mod gateway;
mod header;
mod health;
mod http;
mod idle;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod metrics;
mod process_metrics;
mod punctual;
mod responses;
mod server;
mod serving;
mod status;
mod validate;
mod watch;
mod watcher;
mod words;

pub use server::{BindError, Server, ServerOptions};

/// The etcd release whose behaviour is spoken. Digits and dots only: Patroni calls `int()` on every part, and from
/// 3.4 on it uses the `/v3` prefix.
pub const ETCD_VERSION: &str = "3.5.21";

/// The cluster version that goes with [`ETCD_VERSION`].
pub const ETCD_CLUSTER_VERSION: &str = "3.5.0";
