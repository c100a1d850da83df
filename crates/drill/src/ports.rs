//! Ports for a cluster on loopback.

use std::net::TcpListener;

use anyhow::{Context, Result, bail};

/// The four ports of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// PostgreSQL.
    pub postgres: u16,
    /// Patroni's REST API.
    pub rest: u16,
    /// etcd's client port.
    pub client: u16,
    /// Raft.
    pub peer: u16,
}

impl Ports {
    /// Each of them.
    #[must_use]
    pub fn all(self) -> [u16; 4] {
        let Ports { postgres, rest, client, peer } = self;
        [postgres, rest, client, peer]
    }
}

/// `nodes` sets of ports: from `base` upwards (ten per node, checked to be free), or some that are this process's alone.
///
/// # Errors
/// Names the port that is in use.
pub fn choose(nodes: usize, base: Option<u16>) -> Result<Vec<Ports>> {
    match base {
        Some(base) => (0..nodes).map(|node| from_base(base, node)).collect(),
        None => own(nodes),
    }
}

fn from_base(base: u16, node: usize) -> Result<Ports> {
    let first = u16::try_from(node * 10)
        .ok()
        .and_then(|offset| base.checked_add(offset))
        .filter(|first| *first < u16::MAX - 10)
        .with_context(|| format!("--base-port {base} leaves no room for node {}", node + 1))?;
    let ports = Ports { postgres: first, rest: first + 1, client: first + 2, peer: first + 3 };
    for port in ports.all() {
        if TcpListener::bind(("127.0.0.1", port)).is_err() {
            bail!(
                "port {port} is in use: choose another --base-port, or leave it out and free ones are chosen"
            );
        }
    }
    Ok(ports)
}

fn own(nodes: usize) -> Result<Vec<Ports>> {
    let port = || quorate_loopback::port().context("no port on 127.0.0.1");
    (0..nodes)
        .map(|_| Ok(Ports { postgres: port()?, rest: port()?, client: port()?, peer: port()? }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn own_ports_differ() {
        let ports = choose(3, None).unwrap();
        let all: BTreeSet<u16> = ports.iter().flat_map(|p| [p.postgres, p.rest, p.client, p.peer]).collect();
        assert_eq!(all.len(), 12);
    }

    #[test]
    fn a_port_in_use_is_named() {
        let held = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = held.local_addr().unwrap().port();
        let error = choose(1, Some(port)).unwrap_err().to_string();
        assert!(error.contains(&format!("port {port} is in use")), "{error}");
    }
}
