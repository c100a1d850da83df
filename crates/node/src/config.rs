//! Everything a member is started with.

use std::path::PathBuf;
use std::time::Duration;

/// A member's configuration. Defaults are etcd's where etcd has the setting.
#[derive(Debug, Clone)]
pub struct Config {
    /// Unique in the cluster.
    pub name: String,
    /// Holds the log, the snapshots and the database.
    pub data_dir: PathBuf,
    /// Distinguishes clusters that share addresses; part of the cluster id.
    pub cluster_token: String,
    /// `host:port` to listen on for peers.
    pub peer_listen: Vec<String>,
    /// This member's peer URL as in `initial_cluster`.
    pub peer_advertise: String,
    /// URLs that clients reach this member by; published to the cluster.
    pub client_urls: Vec<String>,
    /// (name, peer URL) of every initial member, this one included.
    pub initial_cluster: Vec<(String, String)>,
    /// False: join the cluster that the others already form (etcd's `initial-cluster-state existing`).
    pub new_cluster: bool,
    /// Raft heartbeat interval. Default 80 ms.
    pub heartbeat: Duration,
    /// Shortest and longest election timeout. Default 200 to 350 ms.
    pub election: (Duration, Duration),
    /// Applied entries between two snapshots. Default 10,000.
    pub snapshot_count: u64,
    /// Largest proposal in bytes. Default 1.5 MiB.
    pub max_request_bytes: usize,
    /// Database size that raises NOSPACE, in bytes; None is no limit. Default 2 GiB.
    pub quota_bytes: Option<u64>,
    /// Automatic compaction.
    pub compaction: Compaction,
}

/// See etcd's `--auto-compaction-mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compaction {
    /// Never.
    Off,
    /// Keep this many revisions.
    Revisions(i64),
    /// Keep this much time.
    Period(Duration),
}

impl Config {
    /// One member alone on the usual ports, data in `data_dir`.
    #[must_use]
    pub fn single(name: &str, data_dir: PathBuf) -> Config {
        let peer = "http://127.0.0.1:2380".to_owned();
        Config {
            name: name.to_owned(),
            data_dir,
            cluster_token: "etcd-cluster".to_owned(),
            peer_listen: vec!["127.0.0.1:2380".to_owned()],
            peer_advertise: peer.clone(),
            client_urls: vec!["http://127.0.0.1:2379".to_owned()],
            initial_cluster: vec![(name.to_owned(), peer)],
            new_cluster: true,
            heartbeat: Duration::from_millis(80),
            election: (Duration::from_millis(200), Duration::from_millis(350)),
            snapshot_count: 10_000,
            max_request_bytes: 1_572_864,
            quota_bytes: Some(2 << 30),
            compaction: Compaction::Revisions(10_000),
        }
    }
}
