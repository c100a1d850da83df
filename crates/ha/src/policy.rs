//! What is wanted: the local configuration and the dynamic one (`/config`), resolved into one value per question.

use std::time::Duration;

use crate::cluster::Tags;

/// Everything from configuration that a decision reads. Built by [`Policy::resolve`], so that two nodes with the same
/// `/config` hold the same policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// What only this node's file says.
    pub local: LocalPolicy,
    /// The store's lease time for both leases.
    pub ttl: Duration,
    /// The longest nap between two decisions.
    pub loop_wait: Duration,
    /// The longest that one call of the store may take; the probe deadline of PostgreSQL too.
    pub retry_timeout: Duration,
    /// `synchronous_mode`.
    pub synchronous_mode: SynchronousMode,
    /// `synchronous_mode_strict`: rather no commits than commits on the primary alone.
    pub synchronous_mode_strict: bool,
    /// `synchronous_node_count`, at least 1.
    pub synchronous_node_count: usize,
    /// `maximum_lag_on_failover`.
    pub maximum_lag_on_failover_bytes: u64,
    /// `primary_start_timeout`: how long the holder may start or recover before it hands the lock over.
    pub primary_start_timeout: Duration,
    /// `postgresql.use_pg_rewind`.
    pub use_pg_rewind: bool,
    /// `postgresql.use_slots`.
    pub use_slots: bool,
    /// `pause`.
    pub paused: bool,
}

/// What only this node's file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalPolicy {
    /// The member's name.
    pub name: String,
    /// The cluster's name.
    pub scope: String,
    /// `postgres://host:port/postgres`, for the member record.
    pub conn_url: String,
    /// `http://host:port/patroni`, for the member record.
    pub api_url: String,
    /// Tags.
    pub tags: Tags,
    /// The longest that a fence may take from its decision until the last backend is gone.
    pub stop_budget: Duration,
    /// Time kept free between the last possible acknowledgement here and the earliest possible one elsewhere:
    /// clock-rate differences, scheduling.
    pub margin: Duration,
    /// `bootstrap.dcs`: the first `/config`, written by the node that bootstraps.
    pub bootstrap_config: serde_json::Value,
    /// Quorate's version, for the member record.
    pub version: String,
}

/// `synchronous_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SynchronousMode {
    /// Commits wait for nobody; loss is bounded by time and lag.
    Off,
    /// Commits wait for `synchronous_node_count` standbys, all of which must confirm.
    On,
}
