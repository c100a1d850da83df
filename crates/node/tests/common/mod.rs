//! Members on loopback, in temporary directories, with real syncs; conditions with deadlines.
#![allow(dead_code, missing_docs, unreachable_pub, reason = "each suite uses a part of it")]

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use quorate_node::{Applied, Compaction, Config, Handle, Node, ProposeError, WatchItem, Watcher};
use quorate_state::{Body, Command, Event, Put, Range};
use tokio::time::Instant;

/// Generous: the machine is shared. Only a failure takes this long.
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const STOP: Duration = Duration::from_secs(5);

/// Members of one cluster; each can be started, killed and started again on its directory.
pub struct Cluster {
    pub root: tempfile::TempDir,
    pub configs: Vec<Config>,
    pub nodes: Vec<Option<Node>>,
}

impl Cluster {
    /// Configurations for `size` members.
    pub fn plan(size: usize) -> Cluster {
        let root = tempfile::tempdir().expect("a temporary directory");
        let host = "127.0.0.1";
        let ports = quorate_loopback::ports(size).expect("ports");
        let initial: Vec<(String, String)> = ports
            .iter()
            .enumerate()
            .map(|(n, port)| (format!("m{n}"), format!("http://{host}:{port}")))
            .collect();
        let configs = (0..size).map(|n| {
            let mut config = Config::single(&format!("m{n}"), root.path().join(format!("m{n}")));
            config.peer_listen = vec![format!("{host}:{}", ports[n])];
            config.peer_advertise = initial[n].1.clone();
            config.initial_cluster = initial.clone();
            config.client_urls = vec![format!("http://{host}:1{n}")];
            config.compaction = Compaction::Off;
            config
        });
        let configs = configs.collect();
        Cluster { root, configs, nodes: (0..size).map(|_| None).collect() }
    }

    pub async fn start(size: usize) -> Cluster {
        let mut cluster = Cluster::plan(size);
        cluster.start_all().await;
        cluster
    }

    pub async fn start_all(&mut self) {
        let starting = self.configs.iter().cloned().map(Node::start);
        let started = tokio::time::timeout(PATIENCE, futures_util::future::join_all(starting)).await;
        for (slot, node) in self.nodes.iter_mut().zip(started.expect("members start in time")) {
            *slot = Some(node.expect("a member starts"));
        }
    }

    pub async fn start_one(&mut self, n: usize) {
        let node = tokio::time::timeout(PATIENCE, Node::start(self.configs[n].clone())).await;
        self.nodes[n] = Some(node.expect("the member starts in time").expect("the member starts"));
    }

    pub fn handle(&self, n: usize) -> Handle {
        self.nodes[n].as_ref().expect("the member runs").handle()
    }

    /// Without a word to anybody.
    pub fn kill(&mut self, n: usize) {
        drop(self.nodes[n].take());
    }

    pub async fn stop(&mut self, n: usize) {
        if let Some(node) = self.nodes[n].take() {
            node.shutdown(STOP).await;
        }
    }

    pub async fn stop_all(&mut self) {
        let stopping = self.nodes.iter_mut().filter_map(Option::take).map(|node| node.shutdown(STOP));
        futures_util::future::join_all(stopping).await;
    }

    pub fn running(&self) -> impl Iterator<Item = (usize, Handle)> + '_ {
        self.nodes.iter().enumerate().filter_map(|(n, node)| node.as_ref().map(|node| (n, node.handle())))
    }

    /// The position of the leader that all running members agree on.
    pub async fn leader(&self) -> usize {
        eventually("all members see one leader", || async {
            let seen: Vec<_> = self.running().map(|(_, handle)| *handle.leadership().borrow()).collect();
            let first = seen.first()?;
            let agreed = first.leader.filter(|_| seen.iter().all(|other| other == first))?;
            self.running().find(|(_, handle)| handle.header().member_id == agreed).map(|(n, _)| n)
        })
        .await
    }

    /// A running member that does not lead.
    pub async fn follower(&self) -> usize {
        let leader = self.leader().await;
        self.running().map(|(n, _)| n).find(|n| *n != leader).expect("a follower runs")
    }

    pub fn data_dir(&self, n: usize) -> PathBuf {
        self.configs[n].data_dir.clone()
    }
}

/// Waits until `look` finds something.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, look: impl Fn() -> F) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < until, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn command(body: Body) -> Command {
    Command::new(body)
}

pub fn put(key: &str, value: &str) -> Command {
    let put = Put { key: key.to_owned().into(), value: value.to_owned().into(), ..Put::default() };
    command(Body::Put(put))
}

pub fn put_with_lease(key: &str, value: &str, lease: i64) -> Command {
    let put = Put { key: key.to_owned().into(), value: value.to_owned().into(), lease, ..Put::default() };
    command(Body::Put(put))
}

/// Proposes until it is known to be applied. Only for proposals that may be applied twice.
pub async fn insist(handle: &Handle, command: Command) -> Applied {
    let until = Instant::now() + PATIENCE;
    loop {
        match handle.propose(command.clone(), Duration::from_secs(2)).await {
            Ok(applied) => return applied,
            Err(ProposeError::NoLeader | ProposeError::Indeterminate | ProposeError::Overloaded) => {}
            Err(error) => panic!("the proposal failed: {error}"),
        }
        assert!(Instant::now() < until, "the proposal was not applied in time");
    }
}

/// The value of `key`, read through the leader (or not).
pub async fn get(handle: &Handle, key: &str, serializable: bool) -> Option<String> {
    let range = Range { key: key.to_owned().into(), serializable, ..Range::default() };
    let until = Instant::now() + PATIENCE;
    loop {
        match handle.range(range.clone(), Duration::from_secs(2)).await {
            Ok(reply) => {
                let kv = reply.kvs.into_iter().next();
                return kv.map(|kv| String::from_utf8(kv.value.to_vec()).expect("text"));
            }
            Err(error) => assert!(Instant::now() < until, "the read failed: {error}"),
        }
    }
}

/// All keys and values under `prefix`, in order.
pub async fn get_all(handle: &Handle, prefix: &str) -> Vec<(String, String)> {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().expect("a prefix") += 1;
    let range = Range { key: prefix.to_owned().into(), range_end: end.into(), ..Range::default() };
    let reply = handle.range(range, PATIENCE).await.expect("a read");
    let text = |bytes: bytes::Bytes| String::from_utf8(bytes.to_vec()).expect("text");
    reply.kvs.into_iter().map(|kv| (text(kv.key), text(kv.value))).collect()
}

/// The next `count` events of a watch.
pub async fn events(watcher: &mut Watcher, count: usize) -> Vec<Arc<Event>> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let item = tokio::time::timeout(PATIENCE, watcher.next()).await;
        match item.unwrap_or_else(|_| panic!("{} of {count} events in time", seen.len())) {
            Some(WatchItem::Events { events, .. }) => seen.extend(events),
            Some(WatchItem::Compacted { revision }) => panic!("compacted at {revision}"),
            None => panic!("the watch ended"),
        }
    }
    seen
}
