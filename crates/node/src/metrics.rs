//! Metrics, under etcd's names where etcd has them, so that existing dashboards and alerts keep working.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Handles that the member's tasks update.
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    pub(crate) has_leader: Gauge,
    pub(crate) is_leader: Gauge,
    pub(crate) leader_changes: Counter,
    pub(crate) proposals_committed: Gauge,
    pub(crate) proposals_applied: Gauge,
    pub(crate) proposals_pending: Gauge,
    pub(crate) proposals_failed: Counter,
    pub(crate) fsync: Histogram,
    pub(crate) database_bytes: Gauge,
    pub(crate) database_in_use_bytes: Gauge,
    pub(crate) log_bytes: Gauge,
    pub(crate) revision: Gauge,
    pub(crate) watchers: Gauge,
    pub(crate) slow_watchers: Gauge,
    pub(crate) events: Counter,
    pub(crate) puts: Counter,
    pub(crate) deletes: Counter,
    pub(crate) txns: Counter,
    pub(crate) leases_granted: Counter,
    pub(crate) leases_revoked: Counter,
    pub(crate) quota_bytes: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Arc<Metrics> {
        let mut registry = Registry::default();
        let gauge = |registry: &mut Registry, name: &str, help: &str| {
            let gauge = Gauge::<i64>::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let r = &mut registry;
        let has_leader = gauge(r, "etcd_server_has_leader", "Whether a leader is known (1) or not (0)");
        let is_leader = gauge(r, "etcd_server_is_leader", "Whether this member leads (1) or not (0)");
        let proposals_committed =
            gauge(r, "etcd_server_proposals_committed_total", "Entries known to be committed");
        let proposals_applied = gauge(r, "etcd_server_proposals_applied_total", "Entries applied");
        let proposals_pending = gauge(r, "etcd_server_proposals_pending", "Proposals without an answer yet");
        let database_bytes = gauge(r, "etcd_mvcc_db_total_size_in_bytes", "Bytes of the database on disk");
        let database_in_use_bytes =
            gauge(r, "etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of the database in use");
        let log_bytes = gauge(r, "quorate_log_size_in_bytes", "Bytes of the log on disk");
        let revision = gauge(r, "etcd_debugging_mvcc_current_revision", "The store's revision");
        let watchers = gauge(r, "etcd_debugging_mvcc_watcher_total", "Open watches");
        let slow_watchers =
            gauge(r, "etcd_debugging_mvcc_slow_watcher_total", "Watches that are fed from history");
        let quota_bytes = gauge(r, "etcd_server_quota_backend_bytes", "The database quota");
        // The encoder appends `_total` to a counter's name.
        let counter = |registry: &mut Registry, name: &str, help: &str| {
            let counter = Counter::<u64, AtomicU64>::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let leader_changes = counter(r, "etcd_server_leader_changes_seen", "Changes of the leader seen");
        let proposals_failed = counter(r, "etcd_server_proposals_failed", "Proposals that got no answer");
        let events = counter(r, "etcd_debugging_mvcc_events", "Events applied");
        let puts = counter(r, "etcd_mvcc_put", "Puts applied");
        let deletes = counter(r, "etcd_mvcc_delete", "Deletes applied");
        let txns = counter(r, "etcd_mvcc_txn", "Transactions applied");
        let leases_granted = counter(r, "etcd_debugging_lease_granted", "Leases granted");
        let leases_revoked = counter(r, "etcd_debugging_lease_revoked", "Leases revoked");
        // 1 ms to about 8 s, as etcd's.
        let fsync = Histogram::new(exponential_buckets(0.001, 2.0, 14));
        registry.register(
            "etcd_disk_wal_fsync_duration_seconds",
            "How long syncs of the log took",
            fsync.clone(),
        );
        Arc::new(Metrics {
            registry: Mutex::new(registry),
            has_leader,
            is_leader,
            leader_changes,
            proposals_committed,
            proposals_applied,
            proposals_pending,
            proposals_failed,
            fsync,
            database_bytes,
            database_in_use_bytes,
            log_bytes,
            revision,
            watchers,
            slow_watchers,
            events,
            puts,
            deletes,
            txns,
            leases_granted,
            leases_revoked,
            quota_bytes,
        })
    }

    /// The registry's text form.
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        // Writing into a string cannot fail.
        let _ = encode(&mut text, &self.registry.lock());
        text
    }
}

/// A size or an index as a gauge's value.
pub(crate) fn value(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
