//! `/metrics`: Patroni's names for the dashboards that exist, and Quorate's own beside them.
//!
//! The text is written by hand in Prometheus' exposition format 0.0.4. A metrics library would insist on OpenMetrics'
//! `_total` for counters, and `patroni_xlog_location` has been a counter without that suffix since it exists; a name that
//! dashboards know is worth more than a dependency. Everything that Patroni exports comes from the same snapshot as the
//! status document, so the two cannot disagree; what only Quorate knows is counted here.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use quorate_ha::Record;
use quorate_ha::record::{How, Kind, Phase};

use crate::fence::Margin;
use crate::guard::layers::State;
use crate::rest::status::{PATRONI_VERSION, state_number};
use crate::shared::Shared;

/// What the loop counts.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Ticks of the HA loop.
    pub ticks: AtomicU64,
    /// Confirmed renewals of the primary lease.
    pub renewals: AtomicU64,
    /// Renewals of the primary lease that were not confirmed.
    pub renewal_failures: AtomicU64,
    /// Promotions that succeeded here.
    pub promotions: AtomicU64,
    /// Fences, asked for or by the deadline.
    pub fences: AtomicU64,
    /// Actions that failed, and so ended their list.
    pub action_failures: AtomicU64,
    /// How long the last tick took, in microseconds.
    tick_us: AtomicU64,
    /// How long the confirmed renewals took.
    renewal: Histogram,
    /// The last fence's margin.
    margin: Mutex<Option<Margin>>,
    /// Decision records of this node by kind, in the order of [`KINDS`].
    records: [AtomicU64; KINDS.len()],
    /// Promotions of this node, by how the lock became free, in the order of [`How::ALL`].
    failovers: [AtomicU64; How::ALL.len()],
    /// The last promotion of this node.
    failover: Mutex<Option<Failover>>,
}

/// Upper bounds of the buckets of a renewal, in milliseconds: from one undisturbed round trip to the longest sensible lease.
const BOUNDS_MS: [u64; 13] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000];

/// Durations, counted by [`BOUNDS_MS`]; what is longer than all of them is counted last.
#[derive(Debug, Default)]
struct Histogram {
    buckets: [AtomicU64; BOUNDS_MS.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    fn observe(&self, took: Duration) {
        let us = micros(took);
        let bucket = BOUNDS_MS.partition_point(|bound| bound * 1000 < us);
        Metrics::count(&self.buckets[bucket]);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }
}

/// What the last promotion took and cost.
#[derive(Debug, Clone)]
struct Failover {
    phases: Vec<Phase>,
    lost_bytes: Option<u64>,
}

const KINDS: [Kind; 11] = [
    Kind::Suspicion,
    Kind::Withdrawal,
    Kind::Promise,
    Kind::Revocation,
    Kind::Promotion,
    Kind::Refusal,
    Kind::Fence,
    Kind::Release,
    Kind::Hold,
    Kind::Restart,
    Kind::SyncSet,
];

impl Metrics {
    /// One more.
    pub fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// A tick ended.
    pub fn ticked(&self, took: Duration) {
        Metrics::count(&self.ticks);
        self.tick_us.store(micros(took), Ordering::Relaxed);
    }

    /// A renewal was confirmed.
    pub fn renewed(&self, took: Duration) {
        Metrics::count(&self.renewals);
        self.renewal.observe(took);
    }

    /// A fence ended.
    pub fn fenced(&self, margin: Option<Margin>) {
        Metrics::count(&self.fences);
        if margin.is_some() {
            *self.margin.lock() = margin;
        }
    }

    /// A decision record was made here: the same that `quoratectl why` prints.
    pub fn recorded(&self, record: &Record) {
        if let Some(at) = KINDS.iter().position(|kind| *kind == record.kind) {
            Metrics::count(&self.records[at]);
        }
        if let (Kind::Promotion, Some(how)) = (record.kind, record.how) {
            if let Some(at) = How::ALL.iter().position(|known| *known == how) {
                Metrics::count(&self.failovers[at]);
            }
            let (phases, lost_bytes) = (record.phases.clone(), record.lost_bytes);
            *self.failover.lock() = Some(Failover { phases, lost_bytes });
        }
    }

    /// The page.
    #[must_use]
    pub(crate) fn render(shared: &Shared) -> String {
        let snapshot = shared.snapshot();
        let (instance, cluster) = (&snapshot.instance, &snapshot.cluster);
        let me = shared.identity();
        let mut page = Page { text: String::with_capacity(8192), scope: &me.scope, name: &me.name };
        let running = instance.state == "running";
        let (primary, replica) =
            (running && instance.role == "primary", running && instance.role == "replica");
        let synchronous = snapshot.is_synchronous(&me.name) && instance.role == "replica";
        let state = instance.replication_state.as_deref().unwrap_or("");

        page.text("patroni_version", "Patroni semver without periods.", "gauge", &patroni_version());
        page.flag("patroni_postgres_running", "Value is 1 if Postgres is running, 0 otherwise.", running);
        page.real(
            "patroni_postmaster_start_time",
            "Epoch seconds since Postgres started.",
            epoch(instance.started_at),
        );
        page.flag(
            "patroni_primary",
            "Value is 1 if this node is the leader, 0 otherwise.",
            primary && shared.writable(),
        );
        page.counter(
            "patroni_xlog_location",
            "Current location of the Postgres transaction log, 0 if this node is not the leader.",
            instance.location.unwrap_or(0),
        );
        page.flag(
            "patroni_standby_leader",
            "Value is 1 if this node is the standby_leader, 0 otherwise.",
            false,
        );
        page.flag("patroni_replica", "Value is 1 if this node is a replica, 0 otherwise.", replica);
        page.flag(
            "patroni_sync_standby",
            "Value is 1 if this node is a sync standby, 0 otherwise.",
            synchronous && !cluster.quorum_mode,
        );
        page.flag(
            "patroni_quorum_standby",
            "Value is 1 if this node is a quorum standby, 0 otherwise.",
            synchronous && cluster.quorum_mode,
        );
        page.counter(
            "patroni_xlog_received_location",
            "Current location of the received Postgres transaction log, 0 if this node is not a replica.",
            instance.received.unwrap_or(0),
        );
        page.counter(
            "patroni_xlog_replayed_location",
            "Current location of the replayed Postgres transaction log, 0 if this node is not a replica.",
            instance.replayed.unwrap_or(0),
        );
        page.real(
            "patroni_xlog_replayed_timestamp",
            "Current timestamp of the replayed Postgres transaction log, 0 if null.",
            epoch(instance.replayed_at),
        );
        page.flag(
            "patroni_xlog_paused",
            "Value is 1 if the Postgres xlog is paused, 0 otherwise.",
            instance.replay_paused,
        );
        page.flag(
            "patroni_postgres_streaming",
            "Value is 1 if Postgres is streaming, 0 otherwise.",
            state == "streaming",
        );
        page.flag(
            "patroni_postgres_in_archive_recovery",
            "Value is 1 if Postgres is replicating from archive, 0 otherwise.",
            state == "in archive recovery",
        );
        page.gauge(
            "patroni_postgres_server_version",
            "Version of Postgres (if running), 0 otherwise.",
            instance.server_version.unwrap_or(0).into(),
        );
        page.flag(
            "patroni_cluster_unlocked",
            "Value is 1 if the cluster is unlocked, 0 if locked.",
            cluster.known && cluster.leader.is_none(),
        );
        page.flag(
            "patroni_failsafe_mode_is_active",
            "Value is 1 if failsafe mode is active, 0 if inactive.",
            false,
        );
        page.gauge(
            "patroni_postgres_timeline",
            "Postgres timeline of this node (if running), 0 otherwise.",
            instance.timeline.unwrap_or(0).into(),
        );
        page.gauge(
            "patroni_dcs_last_seen",
            "Epoch timestamp when DCS was last contacted successfully by Patroni.",
            u64::try_from(snapshot.store_seen_s).unwrap_or(0),
        );
        page.flag(
            "patroni_pending_restart",
            "Value is 1 if the node needs a restart, 0 otherwise.",
            instance.restart_pending,
        );
        page.flag(
            "patroni_is_paused",
            "Value is 1 if auto failover is disabled, 0 otherwise.",
            cluster.paused,
        );
        page.gauge(
            "patroni_postgres_state",
            "Numeric representation of Postgres state.",
            state_number(&instance.state).into(),
        );

        let own = &shared.metrics;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        page.real(
            "quorate_lease_remaining_seconds",
            "Until the primary lease could expire, 0 without one.",
            shared.lease_remaining().map_or(0.0, |left| left.as_secs_f64()),
        );
        if let Some(margin) = *own.margin.lock() {
            page.real(
                "quorate_fence_margin_seconds",
                "Between the end of PostgreSQL and the end of its lease at the last fence; negative is an alarm.",
                margin.as_secs_f64(),
            );
        }
        page.counter("quorate_fences_total", "Fences of the local PostgreSQL.", read(&own.fences));
        let layers = shared.layers.status();
        if layers.guard != State::Off {
            page.flag(
                "quorate_guard_ready",
                "Value is 1 if a guard process answers and the self-test of fencing passed.",
                matches!(layers.guard, State::Ready { unfit: None, .. }),
            );
        }
        page.counter(
            "quorate_guard_replacements_total",
            "Guard processes that had ended or did not answer.",
            layers.replaced,
        );
        page.counter(
            "quorate_guard_kills_total",
            "Deadlines at which a guard process found PostgreSQL running and stopped it.",
            layers.kills,
        );
        if let Some(margin) = layers.margin {
            page.real(
                "quorate_guard_margin_seconds",
                "Between the end of PostgreSQL and the end of its lease at the guard's last kill; negative is an alarm.",
                margin.as_secs_f64(),
            );
        }
        page.counter(
            "quorate_promotions_total",
            "Promotions of the local PostgreSQL.",
            read(&own.promotions),
        );
        page.counter(
            "quorate_lease_renewals_total",
            "Confirmed renewals of the primary lease.",
            read(&own.renewals),
        );
        page.counter(
            "quorate_lease_renewal_failures_total",
            "Renewals of the primary lease that were not confirmed.",
            read(&own.renewal_failures),
        );
        page.histogram(
            "quorate_lease_renewal_seconds",
            "Duration of confirmed renewals of the primary lease.",
            &own.renewal,
        );
        page.counter("quorate_ticks_total", "Ticks of the HA loop.", read(&own.ticks));
        page.real(
            "quorate_tick_seconds",
            "Duration of the last tick.",
            Duration::from_micros(read(&own.tick_us)).as_secs_f64(),
        );
        page.counter("quorate_action_failures_total", "Actions that failed.", read(&own.action_failures));
        let failovers = How::ALL.iter().zip(&own.failovers).map(|(how, count)| (how.as_str(), read(count)));
        page.labelled(
            "quorate_failovers_total",
            "Promotions of this node, by how the lock became free.",
            "counter",
            "how",
            failovers.map(|(how, count)| (how, count.to_string())),
        );
        let records = KINDS.iter().zip(&own.records).map(|(kind, count)| (kind.as_str(), read(count)));
        page.labelled(
            "quorate_decision_records_total",
            "Decisions of this node that changed something (quoratectl why).",
            "counter",
            "kind",
            records.map(|(kind, count)| (kind, count.to_string())),
        );
        page.counter(
            "quorate_decision_records_dropped_total",
            "Decision records that were lost because the store did not take them for too long.",
            shared.desk.dropped(),
        );
        if let Some(last) = own.failover.lock().clone() {
            page.labelled(
                "quorate_last_failover_phase_seconds",
                "Parts of the last promotion of this node.",
                "gauge",
                "phase",
                last.phases.iter().map(|phase| {
                    (phase.name.as_str(), Duration::from_millis(phase.ms).as_secs_f64().to_string())
                }),
            );
            if let Some(lost) = last.lost_bytes {
                page.gauge(
                    "quorate_last_failover_lost_bytes",
                    "Published by the former primary and not here at the last promotion of this node.",
                    lost,
                );
            }
        }
        if let (Some(last), "replica") = (cluster.last_lsn, instance.role.as_str()) {
            page.gauge(
                "quorate_replay_lag_bytes",
                "Behind the primary's last published position.",
                last.saturating_sub(instance.replayed.unwrap_or(0)),
            );
        }
        page.text
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[allow(clippy::cast_precision_loss)] // microseconds since 1970 fit into 52 bits until the year 2112
fn epoch(at: Option<jiff::Timestamp>) -> f64 {
    at.map_or(0.0, |at| at.as_microsecond() as f64 / 1e6)
}

/// `040105` for 4.1.5.
fn patroni_version() -> String {
    PATRONI_VERSION.split('.').map(|part| format!("{part:0>2}")).collect()
}

/// The page being written: every metric has the labels `scope` and `name`.
struct Page<'a> {
    text: String,
    scope: &'a str,
    name: &'a str,
}

impl Page<'_> {
    fn text(&mut self, metric: &str, help: &str, kind: &str, value: &str) {
        let (scope, name) = (escape(self.scope), escape(self.name));
        // Writing to a String cannot fail.
        let _ = write!(
            self.text,
            "# HELP {metric} {help}\n# TYPE {metric} {kind}\n{metric}{{scope=\"{scope}\",name=\"{name}\"}} {value}\n"
        );
    }
    /// One metric with a further label, a line per value.
    fn labelled<'v>(
        &mut self,
        metric: &str,
        help: &str,
        kind: &str,
        label: &str,
        values: impl Iterator<Item = (&'v str, String)>,
    ) {
        let (scope, name) = (escape(self.scope), escape(self.name));
        let _ = writeln!(self.text, "# HELP {metric} {help}\n# TYPE {metric} {kind}");
        for (which, value) in values {
            let _ = writeln!(
                self.text,
                "{metric}{{scope=\"{scope}\",name=\"{name}\",{label}=\"{}\"}} {value}",
                escape(which)
            );
        }
    }
    fn histogram(&mut self, metric: &str, help: &str, histogram: &Histogram) {
        let (scope, name) = (escape(self.scope), escape(self.name));
        let _ = writeln!(self.text, "# HELP {metric} {help}\n# TYPE {metric} histogram");
        let bounds = BOUNDS_MS.iter().map(|bound| Duration::from_millis(*bound).as_secs_f64().to_string());
        let mut count = 0;
        for (bound, bucket) in bounds.chain(["+Inf".to_owned()]).zip(&histogram.buckets) {
            count += bucket.load(Ordering::Relaxed);
            let _ = writeln!(
                self.text,
                "{metric}_bucket{{scope=\"{scope}\",name=\"{name}\",le=\"{bound}\"}} {count}"
            );
        }
        let sum = Duration::from_micros(histogram.sum_us.load(Ordering::Relaxed)).as_secs_f64();
        let _ = writeln!(
            self.text,
            "{metric}_sum{{scope=\"{scope}\",name=\"{name}\"}} {sum}\n{metric}_count{{scope=\"{scope}\",name=\"{name}\"}} {count}"
        );
    }
    fn gauge(&mut self, metric: &str, help: &str, value: u64) {
        self.text(metric, help, "gauge", &value.to_string());
    }
    fn counter(&mut self, metric: &str, help: &str, value: u64) {
        self.text(metric, help, "counter", &value.to_string());
    }
    fn flag(&mut self, metric: &str, help: &str, value: bool) {
        self.gauge(metric, help, value.into());
    }
    fn real(&mut self, metric: &str, help: &str, value: f64) {
        self.text(metric, help, "gauge", &value.to_string());
    }
}

/// Label values escape backslash, quote and newline.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_look_as_measured_on_patroni() {
        assert_eq!(patroni_version(), "040105");
        let mut page = Page { text: String::new(), scope: "demo", name: "no\"de" };
        page.real("patroni_postmaster_start_time", "h", epoch("2026-11-20T23:14:14.495272Z".parse().ok()));
        assert_eq!(
            page.text.lines().last().unwrap(),
            "patroni_postmaster_start_time{scope=\"demo\",name=\"no\\\"de\"} 1795216454.495272"
        );
    }

    #[test]
    fn buckets_of_a_histogram_are_cumulative_and_a_bound_belongs_to_its_own() {
        let histogram = Histogram::default();
        for us in [300, 1000, 1001, 7_000, 60_000_000] {
            histogram.observe(Duration::from_micros(us));
        }
        let mut page = Page { text: String::new(), scope: "s", name: "n" };
        page.histogram("t_seconds", "h", &histogram);
        let value = |le: &str| {
            let start = format!("t_seconds_bucket{{scope=\"s\",name=\"n\",le=\"{le}\"}} ");
            page.text.lines().find_map(|line| line.strip_prefix(&start)?.parse::<u64>().ok())
        };
        let bounds = ["0.001", "0.002", "0.005", "0.01", "10", "+Inf"];
        assert_eq!(bounds.map(value), [2, 3, 3, 4, 4, 5].map(Some), "{}", page.text);
        assert!(page.text.contains("t_seconds_sum{scope=\"s\",name=\"n\"} 60.009301\n"), "{}", page.text);
        assert!(page.text.ends_with("t_seconds_count{scope=\"s\",name=\"n\"} 5\n"), "{}", page.text);
    }
}
