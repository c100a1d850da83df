//! From a look to what the REST API shows.

use quorate_ha::cluster::{Lock, StoreFacts};
use quorate_ha::facts::{DataDirectory, OperationFacts, OperationKind, Process, Receiver, Role, SyncState};
use quorate_ha::{Decision, InstanceFacts, Key, Keys, Lsn, SynchronousMode};
use serde_json::{Map, Value, json};

use crate::observe::Look;
use crate::registry::Reading;
use crate::rest::status::{ClusterStatus, InstanceStatus, Snapshot};

/// The snapshot after a tick. What the store did not say this time is kept from `before`.
pub(crate) fn of(look: &Look, decision: &Decision, keys: &Keys, before: &Snapshot) -> Snapshot {
    let observation = &look.observation;
    let operation = match observation.operation {
        OperationFacts::Running { kind, .. } => Some(kind),
        OperationFacts::Idle | OperationFacts::Finished { .. } => None,
    };
    let (cluster, store_seen_s) = match (&observation.store, &look.reading) {
        (StoreFacts::Available(view), Some(reading)) => {
            let leader = match &view.lock {
                Lock::Held(held) => Some(held.holder.clone()),
                Lock::Absent { .. } => None,
            };
            // While the set changes nobody is sure to have every commit, and nobody is called synchronous: the same rule as
            // Patroni's fields in `/sync`.
            let settled = view.sync.as_ref().and_then(|sync| sync.value.settled());
            let status = ClusterStatus {
                known: true,
                reachable: true,
                leader,
                members: members(reading, keys),
                last_lsn: view.status.as_ref().map(|status| status.value.optime.0),
                history: document(reading, keys, &Key::History).unwrap_or_else(|| json!([])),
                config: document(reading, keys, &Key::Config),
                failover: document(reading, keys, &Key::Failover),
                sync_standbys: settled.into_iter().flat_map(|entry| entry.members.iter().cloned()).collect(),
                quorum_mode: observation.policy.synchronous_mode == SynchronousMode::Quorum,
                paused: observation.policy.paused,
                maximum_lag_on_failover: observation.policy.maximum_lag_on_failover_bytes,
            };
            (status, jiff::Timestamp::now().as_second())
        }
        _ => (ClusterStatus { reachable: false, ..before.cluster.clone() }, before.store_seen_s),
    };
    Snapshot {
        instance: instance(&observation.instance, operation),
        cluster,
        store_seen_s,
        reason: decision.reason.to_string(),
        operation: operation.map(|kind| kind.to_string()),
    }
}

fn document(reading: &Reading, keys: &Keys, key: &Key) -> Option<Value> {
    serde_json::from_str(reading.text(&keys.path(key))?).ok()
}

fn members(reading: &Reading, keys: &Keys) -> Vec<(String, Value)> {
    let members = reading.kvs.iter().filter_map(|(path, kv)| match keys.parse(path)? {
        Key::Member(name) => Some((name, serde_json::from_slice(&kv.value).ok()?)),
        _ => None,
    });
    members.collect()
}

/// The instance in Patroni's words.
fn instance(facts: &InstanceFacts, operation: Option<OperationKind>) -> InstanceStatus {
    let mut status = InstanceStatus::default();
    if let DataDirectory::Initialised(directory) = &facts.data_directory {
        status.system_id = Some(directory.system_identifier.to_string());
        status.role = "replica".into();
    } else {
        status.role = "uninitialized".into();
    }
    status.state = match &facts.process {
        Process::Stopped => "stopped",
        Process::Starting { .. } => "starting",
        // The last that is known of it; what it is good for is answered by codes, not by this word.
        Process::Running(_) | Process::Unresponsive { .. } => "running",
        Process::Stopping { .. } => "stopping",
    }
    .into();
    match operation {
        Some(OperationKind::Bootstrap) => status.state = "initializing new cluster".into(),
        Some(OperationKind::Clone) => status.state = "creating replica".into(),
        Some(OperationKind::Rewind) => status.state = "running pg_rewind".into(),
        Some(OperationKind::Restart) => status.state = "restarting".into(),
        Some(OperationKind::Stop) => status.state = "stopping".into(),
        Some(OperationKind::StartAsPrimary | OperationKind::StartAsStandby | OperationKind::Promote)
        | None => {}
    }
    let Process::Running(running) = &facts.process else { return status };
    status.server_version = Some(running.server_version);
    status.started_at = timestamp(&running.postmaster_start_time);
    status.timeline = Some(running.timeline.0);
    status.restart_pending = running.pending_restart;
    match &running.role {
        Role::Primary(primary) => {
            status.role = "primary".into();
            status.location = Some(primary.written.0);
            status.replication = primary
                .replicas
                .iter()
                .map(|replica| {
                    let sync_state = match replica.sync_state {
                        SyncState::Async => "async",
                        SyncState::Potential => "potential",
                        SyncState::Sync => "sync",
                        SyncState::Quorum => "quorum",
                    };
                    let mut row = Map::new();
                    row.insert("application_name".into(), json!(replica.name));
                    row.insert(
                        "state".into(),
                        json!(if replica.streaming { "streaming" } else { "catchup" }),
                    );
                    row.insert("sync_state".into(), json!(sync_state));
                    row
                })
                .collect();
        }
        Role::Standby(standby) => {
            let Lsn(received) = standby.received;
            status.role = "replica".into();
            status.received = Some(received);
            status.replayed = Some(standby.replayed.0);
            status.replay_paused = standby.replay_paused;
            status.replication_state = match standby.receiver {
                Receiver::Streaming { .. } => Some("streaming".into()),
                Receiver::Gone | Receiver::Waiting => None,
            };
        }
    }
    status
}

/// As PostgreSQL prints it: `2026-11-20 23:14:14.495272+00`.
fn timestamp(text: &str) -> Option<jiff::Timestamp> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn postgresqls_timestamps_are_read() {
        let at = super::timestamp("2026-11-20 23:14:14.495272+00").unwrap();
        assert_eq!(at.to_string(), "2026-11-20T23:14:14.495272Z");
        assert!(super::timestamp("2026-11-20 23:14:14.495272+05:30").is_some());
    }
}
