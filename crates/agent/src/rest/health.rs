//! Which code a health check gets: the contract with load balancers.
//!
//! The rules and their order are Patroni's (`api.py`, `do_GET`), because HAProxy configurations written against them must
//! keep working unchanged: paths are matched by *substring* (`/leader-x` is a leader check), an unknown path is a 503 that
//! carries the status document, never a 404, and HEAD and OPTIONS take these same rules for every path, so that
//! `OPTIONS /patroni` is a 503 although `GET /patroni` is a 200. The table that this file is tested against was measured
//! on Patroni 4.1.5.
//!
//! One thing is stricter: 200 on a primary path needs the permission to write *at this instant*, from the fence's clock
//! (`writable`), and an instance that really is a primary. Patroni answers 200 as soon as the lock is acquired, which sends
//! writers to a server that is still read-only.

use super::query::Query;
use super::status::{Identity, Snapshot};

/// The code for a health path.
#[must_use]
pub fn code(path: &str, query: &Query, snapshot: &Snapshot, me: &Identity, writable: bool) -> u16 {
    let path = if path == "/" { "/primary" } else { path };
    let instance = &snapshot.instance;
    let running = instance.state == "running";

    let limit = query.get("lag").and_then(bytes).unwrap_or(u64::MAX);
    let lagging = is_lagging(snapshot, limit);
    let noloadbalance = me.tags.get("noloadbalance").is_some_and(is_true);
    let replica = running && instance.role == "replica" && !noloadbalance && !lagging;
    let primary = writable && running && instance.role == "primary";
    // Standby clusters are not supported: there is no standby leader.
    let standby_leader = false;

    let mut tags_count = true;
    let ok = if path.contains("standby_leader") || path.contains("standby-leader") {
        tags_count = false;
        standby_leader
    } else if path.contains("leader")
        || ["master", "primary", "read-write"].iter().any(|word| path.contains(word))
    {
        tags_count = false;
        primary
    } else if path.contains("replica") {
        replica
    } else if path.contains("read-only") && !path.contains("sync") && !path.contains("quorum") {
        primary || replica
    } else if path.contains("health") {
        running
    } else if snapshot.cluster.reachable {
        let named = snapshot.is_synchronous(&me.name);
        let quorum = named && snapshot.cluster.quorum_mode;
        let synchronous = named && !snapshot.cluster.quorum_mode;
        match path {
            "/sync" | "/synchronous" => synchronous && replica,
            "/quorum" => quorum && replica,
            "/async" | "/asynchronous" => !synchronous && !quorum && replica,
            "/read-only-quorum" => primary || (quorum && replica),
            "/read-only-sync" | "/read-only-synchronous" => primary || (synchronous && replica),
            _ => false,
        }
    } else {
        false
    };
    if ok
        && (!tags_count
            || query.tags().all(|(tag, want)| me.tags.get(tag).is_some_and(|have| text(have) == want)))
    {
        200
    } else {
        503
    }
}

/// `/readiness`: fit to take traffic, as a primary or as a standby that keeps up.
#[must_use]
pub fn readiness(query: &Query, snapshot: &Snapshot, writable: bool) -> u16 {
    let instance = &snapshot.instance;
    let limit = query.get("lag").and_then(bytes).unwrap_or(snapshot.cluster.maximum_lag_on_failover);
    let ready = instance.state == "running"
        && match instance.role.as_str() {
            "primary" => writable,
            "replica" => {
                let behind = match query.get("mode") {
                    Some("write") => lag(snapshot, instance.received),
                    _ => lag(snapshot, instance.replayed),
                };
                instance.replication_state.as_deref() == Some("streaming") && behind <= limit
            }
            _ => false,
        };
    if ready { 200 } else { 503 }
}

fn is_lagging(snapshot: &Snapshot, limit: u64) -> bool {
    lag(snapshot, snapshot.instance.replayed) > limit
}

/// Bytes behind the primary's last published position; 0 while none is known, as in Patroni.
fn lag(snapshot: &Snapshot, position: Option<u64>) -> u64 {
    snapshot.cluster.last_lsn.map_or(0, |last| last.saturating_sub(position.unwrap_or(0)))
}

/// YAML's and Python's idea of true.
fn is_true(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::Bool(value) => *value,
        serde_json::Value::String(text) => {
            matches!(text.to_ascii_lowercase().as_str(), "true" | "yes" | "on" | "1")
        }
        serde_json::Value::Number(number) => number.as_i64() == Some(1),
        serde_json::Value::Null | serde_json::Value::Array(_) | serde_json::Value::Object(_) => false,
    }
}

/// A tag's value as `?tag_x=` compares it: text as it is, anything else printed in lower case.
fn text(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string().to_lowercase(),
    }
}

/// `16777216`, `16MB`, `1 GB`: a size in PostgreSQL's units. None is no number, which counts as no limit.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let scale = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "kb" => 10,
        "mb" => 20,
        "gb" => 30,
        "tb" => 40,
        _ => return None,
    };
    number.checked_shl(scale).filter(|scaled| scaled >> scale == number)
}

#[cfg(test)]
mod tests;
