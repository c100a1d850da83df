//! Everything a member is started with.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use quorate_consensus::PeerTls;

use crate::StartError;
use crate::auth::AuthOptions;
use crate::identity::{Owner, initial_id};

/// A member's configuration. Defaults are etcd's where etcd has the setting.
#[derive(Debug, Clone)]
pub struct Config {
    /// Unique in the cluster.
    pub name: String,
    /// Holds the log, the snapshots and the database.
    pub data_dir: PathBuf,
    /// Distinguishes clusters that share addresses; part of the cluster id.
    pub cluster_token: String,
    /// `host:port` or `http://host:port` to listen on for peers; `https://host:port` where they must speak TLS.
    pub peer_listen: Vec<String>,
    /// For peers whose URLs begin with `https`. Default: none.
    pub peer_tls: Option<PeerTls>,
    /// This member's peer URL as in `initial_cluster`.
    pub peer_advertise: String,
    /// URLs that clients reach this member by; published to the cluster.
    pub client_urls: Vec<String>,
    /// (name, peer URL) of every initial member, this one included.
    pub initial_cluster: Vec<(String, String)>,
    /// False: join the cluster that the others already form (etcd's `initial-cluster-state existing`).
    pub new_cluster: bool,
    /// For a member whose quorum is gone for good: go on alone with what it has, as a cluster of one under a new id. Has an
    /// effect once; to force it again, start it without this in between.
    pub force_new_cluster: bool,
    /// Learners that may be added at the same time. Default 1.
    pub max_learners: usize,
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
    /// Tokens and passwords of clients.
    pub auth: AuthOptions,
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
            peer_tls: None,
            peer_advertise: peer.clone(),
            client_urls: vec!["http://127.0.0.1:2379".to_owned()],
            initial_cluster: vec![(name.to_owned(), peer)],
            new_cluster: true,
            force_new_cluster: false,
            max_learners: 1,
            heartbeat: Duration::from_millis(80),
            election: (Duration::from_millis(200), Duration::from_millis(350)),
            snapshot_count: 10_000,
            max_request_bytes: 1_572_864,
            quota_bytes: Some(2 << 30),
            compaction: Compaction::Revisions(10_000),
            auth: AuthOptions::default(),
        }
    }
}

impl Config {
    /// Whom the data directory belongs to.
    pub(crate) fn owner(&self) -> Owner {
        Owner { token: self.cluster_token.clone(), name: self.name.clone() }
    }

    /// Everything that is wrong, in one error.
    pub fn validate(&self) -> Result<(), StartError> {
        let mut wrong = Vec::new();
        if self.name.is_empty() {
            wrong.push("the member has no name".to_owned());
        }
        if self.name.chars().chain(self.cluster_token.chars()).any(char::is_control) {
            wrong.push("the member's name and the cluster token must not have control characters".to_owned());
        }
        if self.peer_listen.is_empty() {
            wrong.push("there is no address to listen on for peers".to_owned());
        }
        for url in
            std::iter::once(&self.peer_advertise).chain(self.initial_cluster.iter().map(|(_, url)| url))
        {
            if !is_peer_url(url) {
                wrong.push(format!(
                    "the peer URL {url:?} is not of the form http://host:port or https://host:port"
                ));
            } else if url.starts_with("https://") && self.peer_tls.is_none() {
                wrong.push(format!(
                    "the peer URL {url} wants TLS, but no certificate for peers is configured"
                ));
            }
        }
        let mut names = BTreeSet::new();
        let mut urls = BTreeSet::new();
        for (name, url) in &self.initial_cluster {
            if !names.insert(name) {
                wrong.push(format!("the initial cluster names {name:?} twice"));
            }
            if !urls.insert(url) {
                wrong.push(format!("the initial cluster has the peer URL {url} twice"));
            }
        }
        match self.initial_cluster.iter().find(|(name, _)| *name == self.name) {
            Some((_, url)) if *url == self.peer_advertise => {}
            Some((_, url)) => wrong.push(format!(
                "the initial cluster has {url} for {:?}, but this member advertises {}",
                self.name, self.peer_advertise
            )),
            None => wrong.push(format!("the initial cluster does not name this member, {:?}", self.name)),
        }
        let ids: BTreeSet<u64> = self
            .initial_cluster
            .iter()
            .map(|(name, url)| initial_id(&self.cluster_token, name, url))
            .collect();
        if ids.len() < names.len().min(urls.len()) {
            wrong.push("two initial members have the same id; change the name of one of them".to_owned());
        }
        let (shortest, longest) = self.election;
        if self.heartbeat < Duration::from_millis(10) {
            wrong.push(format!("a heartbeat interval of {:?} is too short: at least 10 ms", self.heartbeat));
        }
        // openraft needs a heartbeat and a tick (13/64 of it) inside the shortest election timeout.
        if shortest < self.heartbeat * 2 {
            wrong.push(format!(
                "the shortest election timeout, {shortest:?}, must be at least twice the heartbeat interval, {:?}",
                self.heartbeat
            ));
        }
        if longest <= shortest {
            wrong.push(format!(
                "the longest election timeout, {longest:?}, must exceed the shortest, {shortest:?}"
            ));
        }
        if self.snapshot_count == 0 {
            wrong.push("the snapshot count must not be 0".to_owned());
        }
        if self.max_request_bytes == 0 || self.max_request_bytes > MAX_REQUEST_BYTES {
            wrong.push(format!("the largest request must be between 1 byte and {MAX_REQUEST_BYTES} bytes"));
        }
        if let Compaction::Revisions(keep) = self.compaction
            && keep <= 0
        {
            wrong.push("automatic compaction must keep at least one revision".to_owned());
        }
        if wrong.is_empty() { Ok(()) } else { Err(StartError::plain(wrong.join("; "))) }
    }
}

/// A message between peers holds a page of entries and one request: beyond this it would not fit.
const MAX_REQUEST_BYTES: usize = 32 << 20;

pub(crate) fn is_peer_url(url: &str) -> bool {
    let authority = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let Some(authority) = authority else { return false };
    let Some((host, port)) = authority.rsplit_once(':') else { return false };
    !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_member_is_in_order() {
        Config::single("one", PathBuf::from("/nowhere")).validate().unwrap();
    }

    #[test]
    fn everything_wrong_is_said_at_once() {
        let mut config = Config::single("one", PathBuf::from("/nowhere"));
        config.initial_cluster =
            vec![("two".to_owned(), "two:1".to_owned()), ("two".to_owned(), "two:1".to_owned())];
        config.election = (Duration::from_millis(100), Duration::from_millis(90));
        let error = config.validate().unwrap_err().to_string();
        for part in [
            "names \"two\" twice",
            "http://host:port",
            "does not name this member",
            "twice the heartbeat",
            "must exceed",
        ] {
            assert!(error.contains(part), "{part:?} is missing in: {error}");
        }
    }
}
