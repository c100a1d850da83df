//! Against the table measured on Patroni 4.1.5.

use serde_json::json;

use super::super::status::{ClusterStatus, InstanceStatus};
use super::*;

/// Path, code on a primary, code on a replica: the HEAD and OPTIONS columns (GET is equal wherever these rules decide).
const MATRIX: &[(&str, u16, u16)] = &[
    ("/", 200, 503),
    ("/primary", 200, 503),
    ("/master", 200, 503),
    ("/read-write", 200, 503),
    ("/leader", 200, 503),
    ("/standby-leader", 503, 503),
    ("/standby_leader", 503, 503),
    ("/replica", 503, 200),
    ("/replica?lag=1MB", 503, 200),
    ("/replica?lag=0", 503, 200),
    ("/replica?tag_clonefrom=true", 503, 503),
    ("/read-only", 200, 200),
    ("/sync", 503, 503),
    ("/synchronous", 503, 503),
    ("/read-only-sync", 200, 503),
    ("/quorum", 503, 503),
    ("/read-only-quorum", 200, 503),
    ("/async", 503, 200),
    ("/asynchronous", 503, 200),
    ("/async?lag=10MB", 503, 200),
    ("/health", 200, 200),
    ("/liveness", 503, 503),
    ("/readiness", 503, 503),
    ("/patroni", 503, 503),
    ("/cluster", 503, 503),
    ("/history", 503, 503),
    ("/config", 503, 503),
    ("/metrics", 503, 503),
    ("/failsafe", 503, 503),
    ("/nonexistent", 503, 503),
    ("/leader-x", 200, 503),
];

fn snapshot(role: &str) -> Snapshot {
    let (location, replayed) = if role == "primary" { (Some(1000), None) } else { (None, Some(1000)) };
    Snapshot {
        instance: InstanceStatus {
            state: "running".into(),
            role: role.into(),
            location,
            received: replayed,
            replayed,
            replication_state: replayed.map(|_| "streaming".into()),
            ..InstanceStatus::default()
        },
        cluster: ClusterStatus {
            known: true,
            reachable: true,
            leader: Some("node1".into()),
            last_lsn: Some(1000),
            maximum_lag_on_failover: 1 << 20,
            ..ClusterStatus::default()
        },
        ..Snapshot::default()
    }
}

fn identity(name: &str) -> Identity {
    Identity { scope: "demo".into(), name: name.into(), tags: serde_json::Map::new() }
}

fn ask(target: &str, snapshot: &Snapshot, me: &Identity, writable: bool) -> u16 {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    code(path, &Query::parse(query), snapshot, me, writable)
}

#[test]
fn codes_are_those_measured_on_patroni() {
    for (target, primary, replica) in MATRIX {
        assert_eq!(
            ask(target, &snapshot("primary"), &identity("node1"), true),
            *primary,
            "{target} on the primary"
        );
        assert_eq!(
            ask(target, &snapshot("replica"), &identity("node2"), false),
            *replica,
            "{target} on the replica"
        );
    }
}

#[test]
fn a_primary_whose_permission_has_run_out_is_no_primary() {
    for target in ["/", "/primary", "/leader", "/read-write", "/read-only"] {
        assert_eq!(ask(target, &snapshot("primary"), &identity("node1"), false), 503, "{target}");
    }
}

#[test]
fn the_lock_alone_is_no_primary() {
    assert_eq!(ask("/primary", &snapshot("replica"), &identity("node2"), true), 503, "promotion is not done");
}

#[test]
fn a_lagging_replica_is_left_out_when_asked() {
    let mut snapshot = snapshot("replica");
    snapshot.cluster.last_lsn = Some(1000 + 2 * 1024 * 1024);
    let me = identity("node2");
    assert_eq!(ask("/replica?lag=1MB", &snapshot, &me, false), 503);
    assert_eq!(ask("/replica?lag=3MB", &snapshot, &me, false), 200);
    assert_eq!(ask("/replica?lag=2097152", &snapshot, &me, false), 200);
    assert_eq!(ask("/replica?lag=nonsense", &snapshot, &me, false), 200);
    assert_eq!(ask("/replica", &snapshot, &me, false), 200);
    assert_eq!(readiness(&Query::parse(""), &snapshot, false), 503);
    assert_eq!(readiness(&Query::parse("lag=3MB"), &snapshot, false), 200);
}

#[test]
fn synchronous_standbys_answer_by_mode() {
    let mut snapshot = snapshot("replica");
    snapshot.cluster.sync_standbys = vec!["Node2".into()];
    let me = identity("node2");
    let codes =
        |snapshot: &Snapshot| ["/sync", "/quorum", "/async"].map(|path| ask(path, snapshot, &me, false));
    assert_eq!(codes(&snapshot), [200, 503, 503], "names are compared without case");
    snapshot.cluster.quorum_mode = true;
    assert_eq!(codes(&snapshot), [503, 200, 503]);
    snapshot.cluster.reachable = false;
    assert_eq!(codes(&snapshot), [503, 503, 503]);
}

#[test]
fn tags_filter_replicas_and_never_the_primary() {
    let mut me = identity("node2");
    me.tags.insert("zone".into(), json!("a"));
    me.tags.insert("clonefrom".into(), json!(true));
    let replica = snapshot("replica");
    assert_eq!(ask("/replica?tag_zone=a&tag_clonefrom=true", &replica, &me, false), 200);
    assert_eq!(ask("/replica?tag_zone=b", &replica, &me, false), 503);
    assert_eq!(ask("/primary?tag_zone=b", &snapshot("primary"), &me, true), 200);
    me.tags.insert("noloadbalance".into(), json!(true));
    assert_eq!(ask("/replica", &replica, &me, false), 503);
    assert_eq!(ask("/health", &replica, &me, false), 200);
}
