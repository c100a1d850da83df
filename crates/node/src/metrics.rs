//! Metrics, under etcd's names where etcd has them, so that existing dashboards and alerts keep working.
//!
//! What costs nothing to count is counted where it happens, with an atomic each; what somebody else already knows (sizes, the
//! applied index, watchers) is asked for when the metrics are read. Types are etcd's too: some of its gauges are called
//! `_total`, and a dashboard that takes `rate()` of them expects them so.

use std::sync::Arc;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder, exponential_buckets,
};

/// A command, or a read index, that takes longer is counted as slow (etcd: `--warning-apply-duration` and the retry of a read
/// index).
const SLOW_APPLY: Duration = Duration::from_millis(100);
const SLOW_READ_INDEX: Duration = Duration::from_millis(500);

/// Handles that the member's tasks update.
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) has_leader: IntGauge,
    pub(crate) is_leader: IntGauge,
    pub(crate) is_learner: IntGauge,
    pub(crate) leader_changes: IntCounter,
    pub(crate) proposals_committed: IntGauge,
    pub(crate) proposals_applied: IntGauge,
    pub(crate) proposals_pending: IntGauge,
    pub(crate) proposals_failed: IntCounter,
    slow_applies: IntCounter,
    read_indexes_slow: IntCounter,
    read_indexes_failed: IntCounter,
    pub(crate) fsync: Histogram,
    commit: Histogram,
    pub(crate) database_bytes: IntGauge,
    pub(crate) database_in_use_bytes: IntGauge,
    debug_database_bytes: IntGauge,
    pub(crate) log_bytes: IntGauge,
    pub(crate) revision: IntGauge,
    pub(crate) compact_revision: IntGauge,
    pub(crate) keys: IntGauge,
    pub(crate) watchers: IntGauge,
    pub(crate) slow_watchers: IntGauge,
    pub(crate) events: IntCounter,
    pub(crate) put_bytes: IntGauge,
    pub(crate) puts: Twice,
    pub(crate) deletes: Twice,
    pub(crate) txns: Twice,
    pub(crate) ranges: Twice,
    pub(crate) leases_granted: IntCounter,
    pub(crate) leases_revoked: IntCounter,
    pub(crate) leases_renewed: IntCounter,
    pub(crate) leases_expired: IntCounter,
    pub(crate) lease_ttl: Histogram,
    pub(crate) quota_bytes: IntGauge,
    pub(crate) peers: Arc<PeerMetrics>,
}

/// One count under the two names that etcd has it under.
pub(crate) struct Twice(IntCounter, IntCounter);

impl Twice {
    pub(crate) fn inc(&self) {
        self.0.inc();
        self.1.inc();
    }
}

/// What goes to and comes from the other members, by their ids in hexadecimal.
pub(crate) struct PeerMetrics {
    round_trips: HistogramVec,
    sent_bytes: IntCounterVec,
    received_bytes: IntCounterVec,
    sent_failures: IntCounterVec,
    heartbeat_failures: IntCounter,
}

impl quorate_consensus::Meter for PeerMetrics {
    fn round_trip(&self, peer: u64, took: Duration) {
        self.round_trips.with_label_values(&[name(peer)]).observe(took.as_secs_f64());
    }

    fn sent(&self, peer: u64, bytes: usize) {
        self.sent_bytes.with_label_values(&[name(peer)]).inc_by(bytes as u64);
    }

    fn received(&self, peer: u64, bytes: usize) {
        self.received_bytes.with_label_values(&[name(peer)]).inc_by(bytes as u64);
    }

    fn failed(&self, peer: u64, heartbeat: bool) {
        self.sent_failures.with_label_values(&[name(peer)]).inc();
        if heartbeat {
            self.heartbeat_failures.inc();
        }
    }
}

fn name(peer: u64) -> String {
    format!("{peer:x}")
}

/// Registers as it makes. Names and labels are constants of this file: that they are in order is tested.
struct Maker(Registry);

impl Maker {
    fn add<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let made = made.expect("a metric's name is in order");
        self.0.register(Box::new(made.clone())).expect("a metric's name is its own");
        made
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::new(name, help))
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help))
    }

    fn twice(&self, name: &str, help: &str) -> Twice {
        let debugging = format!("etcd_debugging_mvcc_{name}_total");
        Twice(
            self.counter(&format!("etcd_mvcc_{name}_total"), help),
            self.counter(&debugging, &format!("{help} (the older name)")),
        )
    }

    /// `count` buckets, each twice the one before.
    fn histogram(&self, name: &str, help: &str, first: f64, count: usize) -> Histogram {
        let buckets = exponential_buckets(first, 2.0, count).expect("buckets grow");
        self.add(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets)))
    }
}

impl Metrics {
    /// For member `id`.
    pub(crate) fn new(id: u64) -> Arc<Metrics> {
        let m = Maker(Registry::new());
        let ids: IntGaugeVec = m.add(IntGaugeVec::new(
            Opts::new("etcd_server_id", "This member's id, in hexadecimal, as the label; the value is 1"),
            &["server_id"],
        ));
        ids.with_label_values(&[name(id)]).set(1);
        let peers = PeerMetrics {
            round_trips: m.add(HistogramVec::new(
                HistogramOpts::new(
                    "etcd_network_peer_round_trip_time_seconds",
                    "How long heartbeats to a peer and back took",
                )
                .buckets(exponential_buckets(0.0001, 2.0, 16).expect("buckets grow")),
                &["To"],
            )),
            sent_bytes: m.add(IntCounterVec::new(
                Opts::new("etcd_network_peer_sent_bytes_total", "Bytes of log entries sent to a peer"),
                &["To"],
            )),
            received_bytes: m.add(IntCounterVec::new(
                Opts::new(
                    "etcd_network_peer_received_bytes_total",
                    "Bytes of log entries received from a peer",
                ),
                &["From"],
            )),
            sent_failures: m.add(IntCounterVec::new(
                Opts::new(
                    "etcd_network_peer_sent_failures_total",
                    "Streams to a peer that failed or were refused",
                ),
                &["To"],
            )),
            heartbeat_failures: m.counter(
                "etcd_server_heartbeat_send_failures_total",
                "Heartbeats that a leader could not deliver",
            ),
        };
        let metrics = Metrics {
            has_leader: m.gauge("etcd_server_has_leader", "Whether a leader is known (1) or not (0)"),
            is_leader: m.gauge("etcd_server_is_leader", "Whether this member leads (1) or not (0)"),
            is_learner: m
                .gauge("etcd_server_is_learner", "Whether this member has no vote (1) or has one (0)"),
            leader_changes: m.counter("etcd_server_leader_changes_seen_total", "Changes of the leader seen"),
            proposals_committed: m
                .gauge("etcd_server_proposals_committed_total", "The last log index known to be committed"),
            proposals_applied: m.gauge("etcd_server_proposals_applied_total", "The last log index applied"),
            proposals_pending: m.gauge("etcd_server_proposals_pending", "Proposals without an answer yet"),
            proposals_failed: m.counter("etcd_server_proposals_failed_total", "Proposals that got no answer"),
            slow_applies: m
                .counter("etcd_server_slow_apply_total", "Groups of commands that took over 100 ms to apply"),
            read_indexes_slow: m
                .counter("etcd_server_slow_read_indexes_total", "Linearizable reads that waited over 500 ms"),
            read_indexes_failed: m.counter(
                "etcd_server_read_indexes_failed_total",
                "Linearizable reads that no quorum confirmed",
            ),
            fsync: m.histogram(
                "etcd_disk_wal_fsync_duration_seconds",
                "How long syncs of the log took",
                0.001,
                14,
            ),
            commit: m.histogram(
                "etcd_disk_backend_commit_duration_seconds",
                "How long applying a group of commands and writing it to the database took",
                0.001,
                14,
            ),
            database_bytes: m.gauge("etcd_mvcc_db_total_size_in_bytes", "Bytes of the database on disk"),
            database_in_use_bytes: m
                .gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of the database in use"),
            debug_database_bytes: m.gauge(
                "etcd_debugging_mvcc_db_total_size_in_bytes",
                "Bytes of the database on disk (the older name)",
            ),
            log_bytes: m.gauge("quorate_log_size_in_bytes", "Bytes of the log on disk"),
            revision: m.gauge("etcd_debugging_mvcc_current_revision", "The store's revision"),
            compact_revision: m
                .gauge("etcd_debugging_mvcc_compact_revision", "The oldest revision that can be read"),
            keys: m.gauge("etcd_debugging_mvcc_keys_total", "Keys; 0 while they are counted after a start"),
            watchers: m.gauge("etcd_debugging_mvcc_watcher_total", "Open watches"),
            slow_watchers: m
                .gauge("etcd_debugging_mvcc_slow_watcher_total", "Watches that are fed from history"),
            events: m.counter("etcd_debugging_mvcc_events_total", "Events applied"),
            put_bytes: m.gauge(
                "etcd_debugging_mvcc_total_put_size_in_bytes",
                "Bytes of keys and values in all puts applied by this process",
            ),
            puts: m.twice("put", "Puts applied"),
            deletes: m.twice("delete", "Deletes applied"),
            txns: m.twice("txn", "Transactions applied"),
            ranges: m.twice("range", "Ranges read"),
            leases_granted: m.counter("etcd_debugging_lease_granted_total", "Leases granted"),
            leases_revoked: m.counter("etcd_debugging_lease_revoked_total", "Leases revoked"),
            leases_renewed: m
                .counter("etcd_debugging_lease_renewed_total", "Renewals confirmed by this leader"),
            leases_expired: m
                .counter("etcd_debugging_server_lease_expired_total", "Leases that this leader let expire"),
            lease_ttl: m.histogram(
                "etcd_debugging_lease_ttl_total",
                "Times to live of granted leases, in seconds",
                1.0,
                24,
            ),
            quota_bytes: m.gauge("etcd_server_quota_backend_bytes", "The database quota; 0 is no limit"),
            peers: Arc::new(peers),
            registry: m.0,
        };
        Arc::new(metrics)
    }

    /// A group of commands was applied and written.
    pub(crate) fn applied(&self, took: Duration) {
        self.commit.observe(took.as_secs_f64());
        if took > SLOW_APPLY {
            self.slow_applies.inc();
        }
    }

    /// A linearizable read was let through, or not.
    pub(crate) fn read_index(&self, took: Duration, is_confirmed: bool) {
        if !is_confirmed {
            self.read_indexes_failed.inc();
        }
        if took > SLOW_READ_INDEX {
            self.read_indexes_slow.inc();
        }
    }

    /// Bytes of the database, under all its names. What is free in it is used again: all of it is in use.
    pub(crate) fn set_database_bytes(&self, bytes: u64) {
        for gauge in [&self.database_bytes, &self.database_in_use_bytes, &self.debug_database_bytes] {
            gauge.set(value(bytes));
        }
    }

    /// The text form of Prometheus, version 0.0.4.
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text) {
            tracing::warn!(%error, "the metrics cannot be written");
        }
        text
    }
}

/// A size or an index as a gauge's value.
pub(crate) fn value(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use quorate_consensus::Meter as _;

    use super::*;

    #[test]
    fn names_and_types_are_etcds() {
        let metrics = Metrics::new(0xab);
        metrics.puts.inc();
        metrics.peers.failed(0xcd, true);
        metrics.peers.round_trip(0xcd, Duration::from_millis(1));
        let text = metrics.encode();
        for line in [
            "etcd_server_id{server_id=\"ab\"} 1",
            "# TYPE etcd_server_proposals_committed_total gauge",
            "# TYPE etcd_server_leader_changes_seen_total counter",
            "etcd_mvcc_put_total 1",
            "etcd_debugging_mvcc_put_total 1",
            "etcd_server_heartbeat_send_failures_total 1",
            "etcd_network_peer_round_trip_time_seconds_count{To=\"cd\"} 1",
            "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"8.192\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in:\n{text}");
        }
    }
}
