//! `GET /cluster`: every member with its role, state and lag, as Patroni's `cluster_as_json` prints them.

use serde_json::{Map, Value, json};

use super::status::{Snapshot, lsn_text};

/// The document.
#[must_use]
pub fn to_json(snapshot: &Snapshot, scope: &str) -> Value {
    let cluster = &snapshot.cluster;
    let mut body = Map::new();
    body.insert(
        "members".into(),
        cluster.members.iter().map(|(name, document)| member(snapshot, name, document)).collect(),
    );
    if cluster.paused {
        body.insert("pause".into(), json!(true));
    }
    if let Some(scheduled) =
        cluster.failover.as_ref().filter(|failover| failover.get("scheduled_at").is_some())
    {
        let mut entry = Map::new();
        entry.insert("at".into(), scheduled["scheduled_at"].clone());
        for (from, to) in [("leader", "from"), ("member", "to")] {
            if let Some(name) = scheduled.get(from) {
                entry.insert(to.into(), name.clone());
            }
        }
        body.insert("scheduled_switchover".into(), Value::Object(entry));
    }
    body.insert("scope".into(), json!(scope));
    Value::Object(body)
}

fn member(snapshot: &Snapshot, name: &str, document: &Value) -> Value {
    let cluster = &snapshot.cluster;
    let leads = cluster.leader.as_deref() == Some(name);
    let role = if leads {
        "leader"
    } else if snapshot.is_synchronous(name) {
        if cluster.quorum_mode { "quorum_standby" } else { "sync_standby" }
    } else {
        "replica"
    };
    let text = |key: &str| document.get(key).and_then(Value::as_str).unwrap_or("");
    let replication = if leads { "" } else { text("replication_state") };
    let mut entry = Map::new();
    entry.insert("name".into(), json!(name));
    entry.insert("role".into(), json!(role));
    entry.insert("state".into(), json!(if replication.is_empty() { text("state") } else { replication }));
    entry.insert("api_url".into(), json!(text("api_url")));
    if let Some((host, port)) = address(text("conn_url")) {
        entry.insert("host".into(), json!(host));
        entry.insert("port".into(), json!(port));
    }
    for key in ["timeline", "pending_restart", "pending_restart_reason", "scheduled_restart", "tags"] {
        if let Some(value) = document.get(key) {
            entry.insert(key.into(), value.clone());
        }
    }
    if !leads {
        let number = |key: &str| document.get(key).and_then(Value::as_u64);
        for (source, lag, lsn) in [
            ("receive_lsn", "receive_lag", "receive_lsn"),
            ("replay_lsn", "replay_lag", "replay_lsn"),
            ("xlog_location", "lag", "lsn"),
        ] {
            let position = number(source);
            let behind = cluster.last_lsn.zip(position).map(|(last, position)| last.saturating_sub(position));
            entry.insert(lag.into(), behind.map_or(json!("unknown"), |behind| json!(behind)));
            entry.insert(lsn.into(), position.map_or(json!("unknown"), |position| json!(lsn_text(position))));
        }
    }
    Value::Object(entry)
}

/// Host and port of `postgres://host:port/db`.
fn address(conn_url: &str) -> Option<(&str, u16)> {
    let rest = conn_url.split_once("://")?.1;
    let authority = rest.split(['/', '?']).next()?;
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (host, port) = authority.rsplit_once(':')?;
    Some((host.trim_start_matches('[').trim_end_matches(']'), port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::status::ClusterStatus;
    use super::*;

    #[test]
    fn looks_as_measured_on_patroni() {
        let document = |port: u16, more: Value| {
            let mut document = json!({
                "conn_url": format!("postgres://127.0.0.1:{port}/postgres"),
                "api_url": format!("http://127.0.0.1:{}/patroni", port + 2576), "state": "running", "timeline": 1,
            });
            document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            document
        };
        let snapshot = Snapshot {
            cluster: ClusterStatus {
                known: true,
                leader: Some("node1".into()),
                last_lsn: Some(67_108_960),
                members: vec![
                    ("node1".into(), document(5432, json!({"xlog_location": 67_108_960}))),
                    (
                        "node2".into(),
                        document(
                            5433,
                            json!({"replication_state": "streaming", "xlog_location": 67_108_960, "receive_lsn": 67_108_960,
                                   "replay_lsn": 67_108_960}),
                        ),
                    ),
                ],
                ..ClusterStatus::default()
            },
            ..Snapshot::default()
        };
        let expected = json!({"members": [
            {"name": "node1", "role": "leader", "state": "running", "api_url": "http://127.0.0.1:8008/patroni", "host": "127.0.0.1",
             "port": 5432, "timeline": 1},
            {"name": "node2", "role": "replica", "state": "streaming", "api_url": "http://127.0.0.1:8009/patroni",
             "host": "127.0.0.1", "port": 5433, "timeline": 1, "receive_lag": 0, "receive_lsn": "0/4000060", "replay_lag": 0,
             "replay_lsn": "0/4000060", "lag": 0, "lsn": "0/4000060"}], "scope": "demo"});
        assert_eq!(
            to_json(&snapshot, "demo").to_string(),
            expected.to_string(),
            "also the order of the fields"
        );
    }

    #[test]
    fn addresses_are_read_from_urls() {
        assert_eq!(address("postgres://u:p@db1.example:5433/postgres?x=y"), Some(("db1.example", 5433)));
        assert_eq!(address("postgres://[::1]:5432/postgres"), Some(("::1", 5432)));
        assert_eq!(address(""), None);
    }
}
