//! What the REST API and the metrics know: one snapshot, replaced whole at the end of every tick.
//!
//! The readers never ask PostgreSQL or the store themselves. A load balancer that probes three nodes every second must not
//! cost a database connection each time, and an answer must not hang because the thing it reports on hangs. What must be
//! judged at the instant of the request (may this node write *now*?) comes from the fence's clock instead.

use serde_json::{Map, Value, json};

/// Everything that is served, as of one tick.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The local instance.
    pub instance: InstanceStatus,
    /// The cluster's keys.
    pub cluster: ClusterStatus,
    /// Seconds since the epoch of the last answer of the store (`dcs_last_seen`).
    pub store_seen_s: i64,
    /// What the loop is doing, and why, in a sentence.
    pub reason: String,
    /// The long operation that is under way, if there is one.
    pub operation: Option<String>,
}

/// The local instance in Patroni's words.
#[derive(Debug, Clone, Default)]
pub struct InstanceStatus {
    /// `running`, `starting`, `stopped`, `creating replica`, …: see [`state_number`].
    pub state: String,
    /// `primary`, `replica` or `uninitialized`.
    pub role: String,
    /// As `server_version_num`: 150018.
    pub server_version: Option<u32>,
    /// When the postmaster started.
    pub started_at: Option<jiff::Timestamp>,
    /// Write position of a primary.
    pub location: Option<u64>,
    /// Received position of a standby.
    pub received: Option<u64>,
    /// Replayed position of a standby.
    pub replayed: Option<u64>,
    /// Commit time of the last replayed transaction.
    pub replayed_at: Option<jiff::Timestamp>,
    /// Replay is paused.
    pub replay_paused: bool,
    /// Timeline.
    pub timeline: Option<u32>,
    /// `streaming` or `in archive recovery`.
    pub replication_state: Option<String>,
    /// Rows of `pg_stat_replication` on a primary.
    pub replication: Vec<Map<String, Value>>,
    /// A changed setting waits for a restart.
    pub restart_pending: bool,
    /// System identifier of the data directory.
    pub system_id: Option<String>,
}

/// The cluster's keys, as the watch delivered them.
#[derive(Debug, Clone, Default)]
pub struct ClusterStatus {
    /// False until the first complete view.
    pub known: bool,
    /// The store answers now: false turns `/sync` and friends to 503, as Patroni does without a DCS.
    pub reachable: bool,
    /// The lock's holder.
    pub leader: Option<String>,
    /// Members in name order: name and document.
    pub members: Vec<(String, Value)>,
    /// The holder's last published position (`/status`).
    pub last_lsn: Option<u64>,
    /// `/history`, `[]` when there is none.
    pub history: Value,
    /// `/config`.
    pub config: Option<Value>,
    /// `/failover`.
    pub failover: Option<Value>,
    /// Members whose confirmation commits wait for, as `/sync` names them.
    pub sync_standbys: Vec<String>,
    /// `synchronous_mode: quorum`.
    pub quorum_mode: bool,
    /// Automatic failover is off.
    pub paused: bool,
    /// Default for `/readiness`, in bytes.
    pub maximum_lag_on_failover: u64,
}

/// This member, as far as answers need to know it.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The cluster.
    pub scope: String,
    /// The member.
    pub name: String,
    /// Its tags as configured.
    pub tags: Map<String, Value>,
}

/// What is reported as Patroni's version: its users' tools read this field and choose by it.
pub const PATRONI_VERSION: &str = "4.1.5";

impl ClusterStatus {
    /// Nothing is known yet.
    #[must_use]
    pub fn unknown() -> ClusterStatus {
        ClusterStatus { history: json!([]), ..ClusterStatus::default() }
    }
}

impl Snapshot {
    /// True when `/sync` names this member as one that commits wait for.
    #[must_use]
    pub fn is_synchronous(&self, name: &str) -> bool {
        self.cluster.sync_standbys.iter().any(|standby| standby.eq_ignore_ascii_case(name))
    }

    /// The status document: Patroni's fields in Patroni's order, and Quorate's own under `quorate`.
    #[must_use]
    pub fn to_json(&self, me: &Identity, quorate: Map<String, Value>) -> Value {
        let instance = &self.instance;
        let mut body = Map::new();
        let mut set = |key: &str, value: Value| {
            body.insert(key.to_owned(), value);
        };
        set("state", json!(instance.state));
        if let Some(started) = instance.started_at {
            set("postmaster_start_time", json!(timestamp(started)));
        }
        set("role", json!(instance.role));
        if let Some(version) = instance.server_version {
            set("server_version", json!(version));
        }
        if let Some(location) = instance.location {
            set("xlog", json!({ "location": location }));
        } else if instance.received.is_some() || instance.replayed.is_some() {
            set(
                "xlog",
                json!({
                    "received_location": instance.received.unwrap_or(0),
                    "replayed_location": instance.replayed.unwrap_or(0),
                    "replayed_timestamp": instance.replayed_at.map(timestamp),
                    "paused": instance.replay_paused,
                }),
            );
        }
        if let Some(timeline) = instance.timeline {
            set("timeline", json!(timeline));
        }
        if !instance.replication.is_empty() {
            set("replication", json!(instance.replication));
        }
        if let Some(state) = &instance.replication_state {
            set("replication_state", json!(state));
        }
        if self.is_synchronous(&me.name) && instance.role == "replica" {
            set(if self.cluster.quorum_mode { "quorum_standby" } else { "sync_standby" }, json!(true));
        }
        if self.cluster.known && self.cluster.leader.is_none() {
            set("cluster_unlocked", json!(true));
        }
        if self.cluster.paused {
            set("pause", json!(true));
        }
        set("dcs_last_seen", json!(self.store_seen_s));
        if !me.tags.is_empty() {
            set("tags", json!(me.tags));
        }
        if let Some(id) = &instance.system_id {
            set("database_system_identifier", json!(id));
        }
        if instance.restart_pending {
            set("pending_restart", json!(true));
        }
        set("patroni", json!({ "version": PATRONI_VERSION, "scope": me.scope, "name": me.name }));
        set("quorate", Value::Object(quorate));
        Value::Object(body)
    }
}

/// `2026-11-20 23:14:14.495272+00:00`, as Python prints a timestamp.
#[must_use]
pub fn timestamp(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S%.6f+00:00").to_string()
}

/// `0/4000060`.
#[must_use]
pub fn lsn_text(lsn: u64) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn & 0xFFFF_FFFF)
}

/// Patroni's numbering for `patroni_postgres_state`.
#[must_use]
pub fn state_number(state: &str) -> u8 {
    match state {
        "initializing new cluster" => 0,
        "initdb failed" => 1,
        "running custom bootstrap script" => 2,
        "custom bootstrap failed" => 3,
        "creating replica" => 4,
        "running" => 5,
        "starting" => 6,
        "starting after custom bootstrap" => 7,
        "start failed" => 8,
        "restarting" => 9,
        "restart failed" => 10,
        "stopping" => 11,
        "stopped" => 12,
        "stop failed" => 13,
        _ => 14,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_and_positions_look_as_in_patroni() {
        let at: jiff::Timestamp = "2026-11-20T23:14:14.495272Z".parse().unwrap();
        assert_eq!(timestamp(at), "2026-11-20 23:14:14.495272+00:00");
        assert_eq!(lsn_text(67_108_960), "0/4000060");
    }
}
