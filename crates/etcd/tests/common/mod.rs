//! Members with their servers on loopback, on an address of their own and ports from the kernel.
#![allow(dead_code, missing_docs, unreachable_pub, reason = "each suite uses a part of it")]

use std::future::Future;
use std::time::Duration;

use quorate_etcd::{Server, ServerOptions};
use quorate_node::{Compaction, Config, Handle, Node};
use tokio::time::Instant;
use tonic::transport::Channel;

/// Generous: the machine is shared. Only a failure takes this long.
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const STOP: Duration = Duration::from_secs(5);

pub struct Member {
    pub node: Node,
    pub server: Server,
}

pub struct Cluster {
    _root: tempfile::TempDir,
    configs: Vec<Config>,
    options: ServerOptions,
    pub clients: Vec<String>,
    pub members: Vec<Option<Member>>,
}

impl Cluster {
    pub async fn start(size: usize) -> Cluster {
        Cluster::start_with(size, ServerOptions::default()).await
    }

    pub async fn start_with(size: usize, options: ServerOptions) -> Cluster {
        Cluster::start_as(size, options, |_| {}).await
    }

    /// Members configured in a way of their own.
    pub async fn start_as(size: usize, options: ServerOptions, adjust: impl Fn(&mut Config)) -> Cluster {
        let root = tempfile::tempdir().expect("a temporary directory");
        let ports = quorate_loopback::ports(2 * size).expect("ports");
        let addresses: Vec<String> = ports.into_iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let (peers, clients) = addresses.split_at(size);
        let initial: Vec<(String, String)> =
            peers.iter().enumerate().map(|(n, peer)| (format!("m{n}"), format!("http://{peer}"))).collect();
        let configs = (0..size).map(|n| {
            let mut config = Config::single(&format!("m{n}"), root.path().join(format!("m{n}")));
            config.peer_listen = vec![peers[n].clone()];
            config.peer_advertise = initial[n].1.clone();
            config.initial_cluster = initial.clone();
            config.client_urls = vec![format!("http://{}", clients[n])];
            config.compaction = Compaction::Off;
            adjust(&mut config);
            config
        });
        let configs: Vec<_> = configs.collect();
        let clients = clients.to_vec();
        let members = (0..size).map(|_| None).collect();
        let mut cluster = Cluster { _root: root, configs, options, clients, members };
        let starting = cluster.configs.iter().cloned().map(Node::start);
        let started = tokio::time::timeout(PATIENCE, futures_util::future::join_all(starting)).await;
        for (n, node) in started.expect("members start in time").into_iter().enumerate() {
            cluster.serve(n, node.expect("a member starts"));
        }
        cluster.leader().await;
        cluster
    }

    fn serve(&mut self, n: usize, node: Node) {
        let listen = [self.clients[n].clone()];
        let server = Server::bind(&listen, node.handle(), self.options.clone()).expect("a free port");
        self.members[n] = Some(Member { node, server });
    }

    pub fn handle(&self, n: usize) -> Handle {
        self.members[n].as_ref().expect("the member runs").node.handle()
    }

    /// Without a word to anybody.
    pub fn kill(&mut self, n: usize) {
        drop(self.members[n].take());
    }

    pub async fn restart(&mut self, n: usize) {
        let node = tokio::time::timeout(PATIENCE, Node::start(self.configs[n].clone())).await;
        self.serve(n, node.expect("the member starts in time").expect("the member starts"));
    }

    pub async fn stop(mut self) {
        for member in self.members.iter_mut().filter_map(Option::take) {
            member.server.shutdown(STOP).await;
            member.node.shutdown(STOP).await;
        }
    }

    pub fn endpoints(&self) -> String {
        self.clients.join(",")
    }

    pub async fn channel(&self, n: usize) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.clients[n])).expect("a URL");
        endpoint.connect().await.expect("a connection")
    }

    fn running(&self) -> impl Iterator<Item = (usize, Handle)> + '_ {
        self.members.iter().enumerate().filter_map(|(n, it)| it.as_ref().map(|it| (n, it.node.handle())))
    }

    /// The leader that all running members agree on.
    pub async fn leader(&self) -> usize {
        eventually("all members see one leader", || async {
            let seen: Vec<_> = self.running().map(|(_, handle)| *handle.leadership().borrow()).collect();
            let first = seen.first()?;
            let agreed = first.leader.filter(|_| seen.iter().all(|other| other == first))?;
            self.running().find(|(_, handle)| handle.header().member_id == agreed).map(|(n, _)| n)
        })
        .await
    }

    pub async fn follower(&self) -> usize {
        let leader = self.leader().await;
        self.running().map(|(n, _)| n).find(|n| *n != leader).expect("a follower runs")
    }

    /// Until every member's announcement is known everywhere.
    pub async fn announced(&self) {
        eventually("names and client URLs are known everywhere", || async {
            let known = |handle: Handle| {
                handle.members().iter().all(|one| !one.name.is_empty() && !one.client_urls.is_empty())
            };
            self.running().all(|(_, handle)| known(handle)).then_some(())
        })
        .await;
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
