//! What is wanted: the local configuration and the dynamic one (`/config`), resolved into one value per question.

use std::time::Duration;

use serde_json::Value;

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
    /// `failure_timeout`: how long a primary's node may be silent before the standbys take over by quorum. Only in the
    /// synchronous modes. Default 3 s; zero switches the take-over by quorum off.
    pub failure_timeout: Duration,
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
    /// Commits wait for `synchronous_node_count` chosen standbys, all of which must confirm.
    On,
    /// Commits wait for any `synchronous_node_count` of all standbys that stream.
    Quorum,
}

/// The defaults of a new Quorate cluster.
const TTL: Duration = Duration::from_secs(5);
const LOOP_WAIT: Duration = Duration::from_secs(1);
const RETRY_TIMEOUT: Duration = Duration::from_secs(1);
const FAILURE_TIMEOUT: Duration = Duration::from_secs(3);
/// Patroni's defaults for the rest.
const PRIMARY_START_TIMEOUT: Duration = Duration::from_secs(300);
const MAXIMUM_LAG_BYTES: u64 = 1 << 20;

impl Policy {
    /// The policy under a dynamic configuration. A value that is missing or unusable has its default: a bad `/config` must
    /// not stop the loop (what is wrong with it is said where it is written).
    #[must_use]
    pub fn resolve(local: LocalPolicy, dynamic: Option<&Value>) -> Policy {
        let get = |name: &str| dynamic.and_then(|config| config.get(name));
        let postgresql = |name: &str| get("postgresql").and_then(|section| section.get(name));
        let seconds = |name: &str, default: Duration| get(name).and_then(duration).unwrap_or(default);
        let flag = |value: Option<&Value>, default: bool| value.and_then(truth).unwrap_or(default);
        let ttl = seconds("ttl", TTL).max(crate::budget::SHORTEST_TTL);
        Policy {
            ttl,
            loop_wait: seconds("loop_wait", LOOP_WAIT),
            retry_timeout: seconds("retry_timeout", RETRY_TIMEOUT),
            synchronous_mode: match get("synchronous_mode") {
                Some(value) if value.as_str().is_some_and(|word| word.eq_ignore_ascii_case("quorum")) => {
                    SynchronousMode::Quorum
                }
                Some(value) if truth(value) == Some(true) => SynchronousMode::On,
                Some(_) | None => SynchronousMode::Off,
            },
            synchronous_mode_strict: flag(get("synchronous_mode_strict"), false),
            synchronous_node_count: get("synchronous_node_count")
                .and_then(Value::as_u64)
                .and_then(|count| usize::try_from(count).ok())
                .unwrap_or(1)
                .max(1),
            maximum_lag_on_failover_bytes: get("maximum_lag_on_failover")
                .and_then(Value::as_u64)
                .unwrap_or(MAXIMUM_LAG_BYTES),
            failure_timeout: seconds("failure_timeout", FAILURE_TIMEOUT),
            primary_start_timeout: seconds(
                "primary_start_timeout",
                seconds("master_start_timeout", PRIMARY_START_TIMEOUT),
            ),
            use_pg_rewind: flag(postgresql("use_pg_rewind"), true),
            use_slots: flag(postgresql("use_slots"), true),
            paused: flag(get("pause"), false),
            local,
        }
    }

    /// Our name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.local.name
    }
}

fn duration(value: &Value) -> Option<Duration> {
    let seconds = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())?;
    Duration::try_from_secs_f64(seconds).ok()
}

impl SynchronousMode {
    /// Commits wait for standbys, and promotions are judged by `/sync`.
    #[must_use]
    pub fn binds(self) -> bool {
        match self {
            SynchronousMode::Off => false,
            SynchronousMode::On | SynchronousMode::Quorum => true,
        }
    }
}

/// As Patroni reads a switch.
fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(on) => Some(*on),
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "on" | "true" | "yes" | "1" => Some(true),
            "off" | "false" | "no" | "0" => Some(false),
            _ => None,
        },
        Value::Number(number) => Some(number.as_i64() != Some(0)),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
