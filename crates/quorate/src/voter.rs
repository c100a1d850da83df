//! One voter of the store and its client port: what `quorate run` and `quorate store` have in common.

use std::net::ToSocketAddrs as _;
use std::time::Duration;

use quorate_etcd::{Server, ServerOptions};
use quorate_node::{Compaction, Config, Handle, Node, PeerTls};
use quorate_tls::Acceptor;

use crate::config::etcd_flags::{AutoCompaction, StoreOptions, Url};
use crate::config::settings::{ClusterState, HostPort, Settings};
use crate::config::tls::TlsFiles;
use crate::process::chain;

/// Client connections may finish what they are at.
const DRAIN: Duration = Duration::from_secs(2);
/// The leadership is handed over, then everything is synced.
const LEAVE: Duration = Duration::from_secs(5);
/// One question to the cluster whether it answers, and the pause before the next.
const PROBE: Duration = Duration::from_secs(1);
const PROBE_AGAIN: Duration = Duration::from_millis(20);

/// Running; both stop together.
pub struct Voter {
    node: Node,
    server: Server,
}

/// What it is started with.
pub struct Plan {
    /// For the node.
    pub node: Config,
    /// Where to listen for clients, as [`Server::bind`] takes it.
    pub clients: Vec<String>,
    /// For the server.
    pub server: ServerOptions,
    /// Read when the plan is carried out.
    pub tls: TlsFiles,
}

impl Plan {
    /// From a node's file.
    #[must_use]
    pub fn of_settings(settings: &Settings) -> Plan {
        let dcs = &settings.dcs;
        let base = Config::single(&settings.name, dcs.data_dir.clone());
        // All voters of a node's file speak alike: with certificates, TLS.
        let peers = scheme(dcs.tls.peers().is_some());
        let clients = scheme(dcs.tls.clients().is_some());
        let node = Config {
            cluster_token: dcs.cluster_token.clone(),
            peer_listen: vec![format!("{peers}{}", listen(&dcs.listen_peers))],
            peer_advertise: format!("{peers}{}", dcs.advertise_peers),
            client_urls: vec![format!("{clients}{}", dcs.advertise_clients)],
            initial_cluster: dcs
                .initial_cluster
                .iter()
                .map(|peer| (peer.name.clone(), format!("{peers}{}", peer.address)))
                .collect(),
            new_cluster: dcs.initial_cluster_state == ClusterState::New,
            heartbeat: dcs.heartbeat_interval,
            election: dcs.election_timeout,
            snapshot_count: dcs.snapshot_count,
            quota_bytes: (dcs.quota_backend_bytes > 0).then_some(dcs.quota_backend_bytes),
            ..base
        };
        let server = ServerOptions { max_request_bytes: node.max_request_bytes, ..server_options(&node) };
        let clients = vec![format!("{clients}{}", listen(&dcs.listen_clients))];
        Plan { node, clients, server, tls: dcs.tls.clone() }
    }

    /// From etcd's flags.
    #[must_use]
    pub fn of_options(options: &StoreOptions) -> Plan {
        let base = Config::single(&options.name, options.data_dir.clone());
        let node = Config {
            cluster_token: options.cluster_token.clone(),
            peer_listen: options.listen_peers.iter().map(listen_url).collect(),
            peer_advertise: options.advertise_peer.to_string(),
            client_urls: options.advertise_clients.iter().map(Url::to_string).collect(),
            initial_cluster: options
                .initial_cluster
                .iter()
                .map(|(name, url)| (name.clone(), url.to_string()))
                .collect(),
            new_cluster: options.cluster_state == ClusterState::New,
            force_new_cluster: options.force_new_cluster,
            max_learners: options.max_learners,
            heartbeat: options.heartbeat,
            election: options.election,
            snapshot_count: options.snapshot_count,
            max_request_bytes: options.max_request_bytes,
            quota_bytes: options.quota_bytes,
            auth: options.auth.clone(),
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
            progress_interval: options.progress_interval,
            listen_metrics: options.listen_metrics.iter().map(listen_url).collect(),
            ..server_options(&node)
        };
        let clients = options.listen_clients.iter().map(listen_url).collect();
        Plan { node, clients, server, tls: options.tls.clone() }
    }

    /// Whether every address can be listened on, before anything is written: a port in use must change nothing.
    ///
    /// # Errors
    /// The sentence with the address and the remedy.
    pub fn check_ports(&self) -> Result<(), String> {
        check_ports(self.node.peer_listen.iter().chain(&self.clients).chain(&self.server.listen_metrics))
    }

    /// Reads the certificates, BEFORE anything is written: a file that is missing must change nothing.
    ///
    /// # Errors
    /// The sentence with the file and the remedy.
    pub fn open_tls(&mut self) -> Result<(), String> {
        if let Some(options) = self.tls.clients() {
            let acceptor = Acceptor::open("client port", options).map_err(|error| chain(&error))?;
            self.server.tls = Some(acceptor);
        }
        if let Some((listen, connect)) = self.tls.peers() {
            self.node.peer_tls = Some(PeerTls::open(listen, connect).map_err(|error| chain(&error))?);
        }
        Ok(())
    }
}

/// See [`Plan::check_ports`].
///
/// # Errors
/// The sentence with the address and the remedy.
pub fn check_ports<'a>(addresses: impl Iterator<Item = &'a String>) -> Result<(), String> {
    for url in addresses {
        let address = url.split_once("://").map_or(url.as_str(), |(_, address)| address);
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

fn listen_url(url: &Url) -> String {
    format!("{}{}", scheme(url.tls), listen(&url.address))
}

const fn scheme(tls: bool) -> &'static str {
    if tls { "https://" } else { "http://" }
}

impl Voter {
    /// Starts the member and then its client port.
    ///
    /// # Errors
    /// The sentence for the operator.
    pub async fn start(plan: Plan) -> Result<Voter, String> {
        let node = Node::start(plan.node).await.map_err(|error| chain(&error))?;
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

    /// Resolves when this member has answered a linearizable read of its own: from then on clients are answered. A leader that is
    /// known is not enough, it may be one that a vote on this disk remembers.
    pub async fn ready(&self) {
        let handle = self.node.handle();
        while handle.read_barrier(PROBE).await.is_err() {
            tokio::time::sleep(PROBE_AGAIN).await;
        }
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
