//! Debian's Prometheus looks at three stores with the alerts of `deploy/prometheus`: every series that they, and the usual
//! dashboards, read is there; nothing fires while all is well; the right things fire when two members are gone.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::cluster::{curl, endpoints, etcdctl, eventually, free_ports, good, plan, start_all};

const PACKAGE: &str = "install Debian's package prometheus";

/// What etcd's mixin, its dashboard and the common ones for gRPC and processes read.
const SERIES: &[&str] = &[
    "etcd_server_has_leader",
    "etcd_server_is_leader",
    "etcd_server_is_learner",
    "etcd_server_id",
    "etcd_server_version",
    "etcd_cluster_version",
    "etcd_server_leader_changes_seen_total",
    "etcd_server_proposals_committed_total",
    "etcd_server_proposals_applied_total",
    "etcd_server_proposals_pending",
    "etcd_server_proposals_failed_total",
    "etcd_server_slow_apply_total",
    "etcd_server_slow_read_indexes_total",
    "etcd_server_read_indexes_failed_total",
    "etcd_server_heartbeat_send_failures_total",
    "etcd_server_quota_backend_bytes",
    "etcd_server_health_success",
    "etcd_server_health_failures",
    "etcd_disk_wal_fsync_duration_seconds_bucket",
    "etcd_disk_wal_fsync_duration_seconds_count",
    "etcd_disk_backend_commit_duration_seconds_bucket",
    "etcd_mvcc_db_total_size_in_bytes",
    "etcd_mvcc_db_total_size_in_use_in_bytes",
    "etcd_mvcc_put_total",
    "etcd_mvcc_delete_total",
    "etcd_mvcc_txn_total",
    "etcd_mvcc_range_total",
    "etcd_debugging_mvcc_db_total_size_in_bytes",
    "etcd_debugging_mvcc_current_revision",
    "etcd_debugging_mvcc_keys_total",
    "etcd_debugging_mvcc_compact_revision",
    "etcd_debugging_mvcc_watcher_total",
    "etcd_debugging_mvcc_slow_watcher_total",
    "etcd_debugging_mvcc_events_total",
    "etcd_debugging_lease_granted_total",
    "etcd_debugging_lease_revoked_total",
    "etcd_debugging_lease_renewed_total",
    "etcd_debugging_server_lease_expired_total",
    "etcd_network_client_grpc_received_bytes_total",
    "etcd_network_client_grpc_sent_bytes_total",
    "etcd_network_peer_round_trip_time_seconds_bucket",
    "etcd_network_peer_sent_bytes_total",
    "etcd_network_peer_received_bytes_total",
    "grpc_server_started_total",
    "grpc_server_handled_total",
    "grpc_server_msg_received_total",
    "grpc_server_msg_sent_total",
    "grpc_server_handling_seconds_bucket",
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_max_fds",
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_start_time_seconds",
    "os_fd_used",
    "os_fd_limit",
];

/// Ends with the test.
struct Prometheus {
    process: Child,
    url: String,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn rules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/prometheus/quorate-alerts.yml")
}

impl Prometheus {
    /// Scrapes and judges every second. Alerts that wait for minutes wait for a second.
    fn start(dir: &Path, targets: &str) -> Prometheus {
        let text = std::fs::read_to_string(rules()).unwrap();
        let hasty = text.replace("for: 3m", "for: 1s").replace("for: 1m", "for: 1s");
        assert_ne!(text, hasty);
        std::fs::write(dir.join("rules.yml"), hasty).unwrap();
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [rules.yml]\n\
             scrape_configs:\n  - job_name: quorate-store\n    static_configs: [{{targets: [{targets}]}}]\n"
        );
        std::fs::write(dir.join("prometheus.yml"), config).unwrap();
        let address = format!("127.0.0.1:{}", free_ports(1)[0]);
        let log = std::fs::File::create(dir.join("prometheus.log")).unwrap();
        let process = Command::new("/usr/bin/prometheus")
            .env_clear()
            .current_dir(dir)
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=series", "--log.level=warn"])
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("/usr/bin/prometheus: {error}; {PACKAGE}"));
        Prometheus { process, url: format!("http://{address}/api/v1") }
    }

    fn ask(&self, path: &str, query: Option<&str>) -> Option<Value> {
        let url = format!("{}/{path}", self.url);
        let query = query.map(|query| format!("query={query}"));
        let mut arguments = vec!["--get", &url];
        if let Some(query) = &query {
            arguments.extend(["--data-urlencode", query]);
        }
        let answer = curl(&arguments);
        let answer: Value = serde_json::from_slice(&answer.stdout).ok()?;
        (answer["status"] == "success").then(|| answer["data"].clone())
    }

    /// (labels, value) of an expression now.
    fn query(&self, expression: &str) -> Vec<(Value, f64)> {
        let data =
            self.ask("query", Some(expression)).unwrap_or_else(|| panic!("{expression} cannot be asked"));
        let found = data["result"].as_array().unwrap().iter();
        found.map(|one| (one["metric"].clone(), one["value"][1].as_str().unwrap().parse().unwrap())).collect()
    }

    fn firing(&self) -> Vec<String> {
        let data = self.ask("alerts", None).expect("alerts can be asked for");
        let alerts = data["alerts"].as_array().unwrap().iter();
        let firing = alerts.filter(|alert| alert["state"] == "firing");
        firing.map(|alert| alert["labels"]["alertname"].as_str().unwrap().to_owned()).collect()
    }
}

#[test]
fn the_rules_are_in_order() {
    let checked = Command::new("/usr/bin/promtool").args(["check", "rules"]).arg(rules()).output();
    let checked = checked.unwrap_or_else(|error| panic!("/usr/bin/promtool: {error}; {PACKAGE}"));
    good(&checked);
    let config = rules().with_file_name("prometheus.yml");
    let checked = Command::new("/usr/bin/promtool").args(["check", "config"]).arg(config).output().unwrap();
    good(&checked);
}

#[test]
fn prometheus_sees_three_stores_and_the_loss_of_two() {
    let dir = tempfile::tempdir().unwrap();
    let mut stores = plan(dir.path(), 3, "http", &[]);
    start_all(&mut stores);
    let all = endpoints(&stores);
    let with = ["--endpoints", &all];
    good(&etcdctl(&[&with[..], &["put", "a", "b"]].concat()));
    good(&etcdctl(&[&with[..], &["get", "a"]].concat()));
    let targets: Vec<String> =
        stores.iter().map(|store| format!("'{}'", store.client.strip_prefix("http://").unwrap())).collect();
    let prometheus = Prometheus::start(dir.path(), &targets.join(","));
    eventually("three targets are up", || {
        let data = prometheus.ask("query", Some("sum(up)"))?;
        (data["result"][0]["value"][1] == "3").then_some(())
    });
    // What follows the leader is at one member, the rest at each.
    for series in SERIES {
        eventually(&format!("{series} is there"), || (!prometheus.query(series).is_empty()).then_some(()));
    }
    let value = |expression: &str| prometheus.query(expression).first().map(|(_, value)| *value);
    assert_eq!(value("sum(etcd_server_has_leader)"), Some(3.0));
    assert_eq!(value("sum(etcd_server_is_leader)"), Some(1.0));
    assert_eq!(value("count(count by (server_id) (etcd_server_id))"), Some(3.0));
    eventually("the put is counted everywhere", || {
        (value("count(etcd_mvcc_put_total >= 1)") == Some(3.0)).then_some(())
    });
    eventually("the key is counted everywhere", || {
        (value("count(etcd_debugging_mvcc_keys_total == 1)") == Some(3.0)).then_some(())
    });
    let ok = "sum(grpc_server_handled_total{grpc_service=\"etcdserverpb.KV\",grpc_method=\"Put\",grpc_code=\"OK\"})";
    eventually("the call is counted once", || (value(ok) == Some(1.0)).then_some(()));
    assert!(value("min(process_resident_memory_bytes)").unwrap() > 1e6);
    assert!(value("max(etcd_network_client_grpc_received_bytes_total)").unwrap() > 0.0);
    // Every rule can be judged.
    eventually("every rule was judged", || {
        let data = prometheus.ask("rules", None)?;
        let rules = data["groups"][0]["rules"].as_array()?;
        assert!(rules.len() >= 10);
        rules.iter().all(|rule| rule["health"] == "ok").then_some(())
    });
    for alert in ["etcdNoLeader", "etcdInsufficientMembers", "etcdDatabaseQuotaLowSpace"] {
        assert!(!prometheus.firing().contains(&alert.to_owned()), "{alert}");
    }
    assert_eq!(value("count(up == 0)"), None);

    // The leader stays: openraft's would go on believing that it leads.
    let leader = stores
        .iter()
        .position(|store| {
            let metrics = good(&curl(&[&format!("{}/metrics", store.client)]));
            metrics.contains("etcd_server_is_leader 1\n")
        })
        .expect("somebody leads");
    for (_, store) in stores.iter_mut().enumerate().filter(|(n, _)| *n != leader) {
        store.kill();
    }
    for alert in ["etcdMembersDown", "etcdInsufficientMembers", "etcdNoLeader"] {
        eventually(&format!("{alert} fires"), || {
            prometheus.firing().contains(&alert.to_owned()).then_some(())
        });
    }
}
