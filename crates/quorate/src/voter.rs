//! One voter of the store and its client port: what `quorate run` and `quorate store` have in common.

use std::net::ToSocketAddrs as _;
use std::time::Duration;

use quorate_etcd::{Server, ServerOptions};
use quorate_node::{Compaction, Config, Handle, Node};

use crate::config::etcd_flags::{AutoCompaction, StoreOptions};
use crate::config::settings::{ClusterState, HostPort, Peer, Settings};
use crate::owner::Owner;
use crate::process::chain;

/// Client connections may finish what they are at.
const DRAIN: Duration = Duration::from_secs(2);
/// The leadership is handed over, then everything is synced.
const LEAVE: Duration = Duration::from_secs(5);

/// Running; both stop together.
pub struct Voter {
    node: Node,
    server: Server,
}

/// What it is started with.
pub struct Plan {
    /// For the node.
    pub node: Config,
    /// `host:port` to listen on for clients.
    pub clients: Vec<String>,
    /// For the server.
    pub server: ServerOptions,
}

impl Plan {
    /// From a node's file.
    #[must_use]
    pub fn of_settings(settings: &Settings) -> Plan {
        let dcs = &settings.dcs;
        let base = Config::single(&settings.name, dcs.data_dir.clone());
        let node = Config {
            cluster_token: dcs.cluster_token.clone(),
            peer_listen: vec![listen(&dcs.listen_peers)],
            peer_advertise: dcs.advertise_peers.url(),
            client_urls: vec![dcs.advertise_clients.url()],
            initial_cluster: urls(&dcs.initial_cluster),
            new_cluster: dcs.initial_cluster_state == ClusterState::New,
            heartbeat: dcs.heartbeat_interval,
            election: dcs.election_timeout,
            snapshot_count: dcs.snapshot_count,
            quota_bytes: (dcs.quota_backend_bytes > 0).then_some(dcs.quota_backend_bytes),
            ..base
        };
        let server = ServerOptions { max_request_bytes: node.max_request_bytes, ..server_options(&node) };
        Plan { node, clients: vec![listen(&dcs.listen_clients)], server }
    }

    /// From etcd's flags.
    #[must_use]
    pub fn of_options(options: &StoreOptions) -> Plan {
        let base = Config::single(&options.name, options.data_dir.clone());
        let node = Config {
            cluster_token: options.cluster_token.clone(),
            peer_listen: options.listen_peers.iter().map(listen).collect(),
            peer_advertise: options.advertise_peer.url(),
            client_urls: options.advertise_clients.iter().map(HostPort::url).collect(),
            initial_cluster: urls(&options.initial_cluster),
            new_cluster: options.cluster_state == ClusterState::New,
            heartbeat: options.heartbeat,
            election: options.election,
            snapshot_count: options.snapshot_count,
            max_request_bytes: options.max_request_bytes,
            quota_bytes: options.quota_bytes,
            compaction: match options.compaction {
                AutoCompaction::Default => base.compaction,
                AutoCompaction::Off => Compaction::Off,
                AutoCompaction::Revisions(kept) => Compaction::Revisions(kept),
                AutoCompaction::Period(kept) => Compaction::Period(kept),
            },
            ..base
        };
        let server = ServerOptions {
            max_request_bytes: options.max_request_bytes,
            max_txn_ops: options.max_txn_ops,
            ..server_options(&node)
        };
        Plan { node, clients: options.listen_clients.iter().map(listen).collect(), server }
    }

    /// Whether every address can be listened on, before anything is written: a port in use must change nothing.
    ///
    /// # Errors
    /// The sentence with the address and the remedy.
    pub fn check_ports(&self) -> Result<(), String> {
        check_ports(self.node.peer_listen.iter().chain(&self.clients))
    }
}

/// See [`Plan::check_ports`].
///
/// # Errors
/// The sentence with the address and the remedy.
pub fn check_ports<'a>(addresses: impl Iterator<Item = &'a String>) -> Result<(), String> {
    for address in addresses {
        let resolved = address
            .to_socket_addrs()
            .map_err(|error| format!("cannot listen on {address}: {error}; give it as host:port"))?;
        for one in resolved {
            if let Err(error) = std::net::TcpListener::bind(one) {
                let remedy = match error.kind() {
                    std::io::ErrorKind::AddrInUse => {
                        "the port is in use; stop the process that has it (ss -ltnp) or set another one"
                    }
                    std::io::ErrorKind::AddrNotAvailable => "it is not an address of this machine",
                    std::io::ErrorKind::PermissionDenied => "the port needs privileges; use one above 1023",
                    _ => "the system refuses",
                };
                return Err(format!("cannot listen on {address}: {remedy} ({error})"));
            }
        }
    }
    Ok(())
}

fn server_options(node: &Config) -> ServerOptions {
    let election_timeout = node.election.1;
    ServerOptions {
        election_timeout,
        request_timeout: Duration::from_secs(5) + 2 * election_timeout,
        ..ServerOptions::default()
    }
}

/// PostgreSQL's word for every interface is none of the system's.
#[must_use]
pub fn listen(address: &HostPort) -> String {
    if address.host == "*" { format!("0.0.0.0:{}", address.port) } else { address.to_string() }
}

fn urls(peers: &[Peer]) -> Vec<(String, String)> {
    peers.iter().map(|peer| (peer.name.clone(), peer.address.url())).collect()
}

impl Voter {
    /// Starts the member and then its client port.
    ///
    /// # Errors
    /// The sentence for the operator.
    pub async fn start(plan: Plan) -> Result<Voter, String> {
        let dir = plan.node.data_dir.clone();
        let owner = Owner { cluster_token: plan.node.cluster_token.clone(), name: plan.node.name.clone() };
        owner.check(&dir)?;
        let node = Node::start(plan.node).await.map_err(|error| chain(&error))?;
        if let Err(sentence) = owner.claim(&dir) {
            node.shutdown(LEAVE).await;
            return Err(sentence);
        }
        match Server::bind(&plan.clients, node.handle(), plan.server) {
            Ok(server) => Ok(Voter { node, server }),
            Err(error) => {
                node.shutdown(LEAVE).await;
                Err(chain(&error))
            }
        }
    }

    /// The member's handle.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.node.handle()
    }

    /// Resolves when a leader is known for the first time: from then on clients are answered.
    pub async fn ready(&self) {
        let mut leadership = self.node.handle().leadership();
        // The sender lives as long as the node, which this borrows.
        let _ = leadership.wait_for(|leadership| leadership.leader.is_some()).await;
    }

    /// Resolves when the member has failed, with the sentence for the operator.
    pub async fn failed(&self) -> String {
        self.node.failed().await
    }

    /// Hands the leadership over and stops. The client port goes first: its requests need the member.
    pub async fn shutdown(self) {
        self.server.shutdown(DRAIN).await;
        self.node.shutdown(LEAVE).await;
    }
}
