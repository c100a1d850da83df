//! The configuration file of one node of a drill: what an operator would write, and nothing that only a drill would need.

use std::fmt::Write as _;
use std::time::Duration;

use crate::cluster::{Node, PASSWORD, Spec};
use crate::ports::Ports;

/// The times that decide how fast a failover is, and what it tolerates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// The primary lease.
    pub ttl: Duration,
    /// How long the primary's node may be silent before the standbys take over by quorum.
    pub failure_timeout: Duration,
    /// The longest nap between two decisions.
    pub loop_wait: Duration,
    /// The longest that one question to the store or to PostgreSQL may take.
    pub retry_timeout: Duration,
    /// What lies between the voters: `network: wan` of the file's section `dcs`.
    pub wan: bool,
}

impl Timing {
    /// Those of `preset: default`.
    pub const DEFAULT: Timing = Timing::new(5_000, 3_000, 1_000, 1_000);
    /// Those of `preset: fast`: the fastest that still leave room for a stop (0.5 s) and the margin (0.3 s) within the lease.
    pub const FAST: Timing = Timing::new(2_000, 1_000, 250, 350);

    /// Those of `preset: wan`, on a network of that kind.
    pub const WAN: Timing = Timing { wan: true, ..Timing::new(15_000, 10_000, 2_000, 5_000) };

    const fn new(ttl_ms: u64, failure_timeout_ms: u64, loop_wait_ms: u64, retry_timeout_ms: u64) -> Timing {
        Timing {
            ttl: Duration::from_millis(ttl_ms),
            failure_timeout: Duration::from_millis(failure_timeout_ms),
            loop_wait: Duration::from_millis(loop_wait_ms),
            retry_timeout: Duration::from_millis(retry_timeout_ms),
            wan: false,
        }
    }

    /// The defaults with another lease time.
    #[must_use]
    pub fn with_ttl(ttl_s: u64) -> Timing {
        Timing { ttl: Duration::from_secs(ttl_s), ..Timing::DEFAULT }
    }
}

/// The text of `quorate.yml`.
pub(crate) fn configuration(spec: &Spec, nodes: &[Node], node: &Node) -> String {
    let initial: Vec<String> =
        nodes.iter().map(|other| format!("{}={}:{}", other.name, other.address, other.ports.peer)).collect();
    // Everybody who may connect: the nodes, and the application that the drill plays. Nobody else reaches a network of the
    // drill's own, and proving passwords would be half of the probe's work there.
    let (clients, proof) = if node.address.is_loopback() {
        ("127.0.0.1/32", "scram-sha-256")
    } else {
        ("10.99.0.0/24", "trust")
    };
    let Ports { postgres, rest, client, peer } = node.ports;
    let Timing { ttl, failure_timeout, loop_wait, retry_timeout, wan } = spec.timing;
    let network = if wan { "wan" } else { "local" };
    let mut yaml = String::new();
    let _ = write!(
        yaml,
        "\
# Written by `quorate demo`.
scope: demo
name: {name}
user: {user}

restapi:
  listen: {address}:{rest}
  connect_address: {address}:{rest}

dcs:
  data_dir: {dir}/store
  listen_peers: {address}:{peer}
  advertise_peers: {address}:{peer}
  listen_clients: {address}:{client}
  advertise_clients: {address}:{client}
  initial_cluster: {initial}
  network: {network}

bootstrap:
  dcs:
    ttl: {ttl}
    failure_timeout: {failure_timeout}
    loop_wait: {loop_wait}
    retry_timeout: {retry_timeout}
    synchronous_mode: {mode}
    postgresql:
      use_pg_rewind: true
      use_slots: true
      parameters:
        max_connections: 50
  initdb:
    - encoding: UTF8
    - data-checksums

postgresql:
  listen: {address}:{postgres}
  connect_address: {address}:{postgres}
  data_dir: {data}
  bin_dir: {bin}
  pgpass: {dir}/postgres/pgpass
  authentication:
    superuser:
      username: postgres
      password: {PASSWORD}
    replication:
      username: replicator
      password: {PASSWORD}
  parameters:
    unix_socket_directories: {dir}/postgres
    shared_buffers: 32MB
  pg_hba:
    - local all all trust
    - host replication replicator {clients} scram-sha-256
    - host all all {clients} {proof}
",
        name = node.name,
        user = spec.user,
        address = node.address,
        dir = node.dir.display(),
        initial = initial.join(","),
        ttl = ttl.as_secs_f64(),
        failure_timeout = failure_timeout.as_secs_f64(),
        loop_wait = loop_wait.as_secs_f64(),
        retry_timeout = retry_timeout.as_secs_f64(),
        mode = spec.synchronous_mode,
        data = node.data_dir().display(),
        bin = spec.bin_dir.display(),
    );
    yaml
}
