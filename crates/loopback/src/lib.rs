//! Ports on loopback for clusters of tests, drills and benches: nobody else takes them while this process lives.
//!
//! # Problem
//!
//! Asking the kernel for a port (bind to 0, look, close) answers with one that is free *now*. Until the server binds it, and
//! whenever a drill kills that server and starts it again, the port belongs to nobody, and the kernel hands out the same
//! range as the source ports of outgoing connections. A cluster that opens a few hundred connections a second meets
//! that sooner or later: "could not bind: Address already in use", from a server that had run there a moment ago.
//!
//! # Model
//!
//! ```text
//!   10000                                             32768 (ip_local_port_range)              60999
//!   ├─ block ─┬─ block ─┬─ block ─┬─ … ───────────────────┤ source ports, kernel's choices ├──────┤
//!     │└ given out one by one
//!     └ held by a listener of the process that owns the block, until it ends
//! ```
//!
//! Ports come from below the range of source ports, in blocks. Owning a block means listening on its first port, so that the
//! kernel gives a block to one process at a time and takes it back however that process ends. Every port is tried
//! before it is given, because strangers listen too.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

use parking_lot::Mutex;

/// The first block begins here: below are the ports of services.
const LOWEST: u16 = 10_000;
/// The holder's own port, and those that it gives.
const BLOCK: u16 = 20;
/// Where source ports begin by Linux's default, for a machine that does not say.
const SOURCE_PORTS: u16 = 32_768;

struct Owned {
    /// Kept open until the process ends.
    holders: Vec<TcpListener>,
    /// What is left of the newest block.
    left: Range<u16>,
}

static OWNED: Mutex<Owned> = Mutex::new(Owned::NONE);

impl Owned {
    const NONE: Owned = Owned { holders: Vec::new(), left: 0..0 };

    fn port(&mut self) -> io::Result<u16> {
        loop {
            for port in self.left.by_ref() {
                if listen(port).is_ok() {
                    return Ok(port);
                }
            }
            let (holder, left) = block()?;
            self.holders.push(holder);
            self.left = left;
        }
    }
}

/// A port of 127.0.0.1 that nobody listens on and nobody else will be given while this process lives. Never the same
/// twice.
///
/// # Errors
/// Every block is taken.
pub fn port() -> io::Result<u16> {
    OWNED.lock().port()
}

/// `count` of them.
///
/// # Errors
/// As [`port`].
pub fn ports(count: usize) -> io::Result<Vec<u16>> {
    (0..count).map(|_| port()).collect()
}

/// `127.x.y.` such that `ports` are free on all of `hosts` in it: a setup with fixed ports runs beside others. The block of
/// addresses is this process's until it ends.
///
/// # Errors
/// A few hundred blocks are all taken.
pub fn addresses(hosts: &[u8], ports: &[u16]) -> io::Result<String> {
    // Who listens here has the block: tests choose theirs at the same time, in this process and in others.
    const RESERVATION: (u8, u16) = (254, 9_999);
    let listen = |block: &str, host: u8, port: u16| TcpListener::bind((format!("{block}{host}"), port));
    let seed = std::process::id();
    for n in seed..seed + 512 {
        let block = format!("127.{}.{}.", 64 + n % 128, n / 128 % 256);
        let Ok(reservation) = listen(&block, RESERVATION.0, RESERVATION.1) else { continue };
        let mut addresses = hosts.iter().flat_map(|host| ports.iter().map(move |port| (*host, *port)));
        if addresses.all(|(host, port)| listen(&block, host, port).is_ok()) {
            OWNED.lock().holders.push(reservation);
            return Ok(block);
        }
    }
    Err(io::Error::new(
        io::ErrorKind::AddrInUse,
        format!("no block of addresses has the ports {ports:?} free"),
    ))
}

fn listen(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
}

/// The first free block, searched from a place that differs from process to process.
fn block() -> io::Result<(TcpListener, Range<u16>)> {
    let blocks = u32::from(source_ports().saturating_sub(LOWEST) / BLOCK);
    for offset in 0..blocks {
        let block = (std::process::id().wrapping_mul(7) + offset) % blocks;
        let first = LOWEST + u16::try_from(block).unwrap_or(0) * BLOCK;
        if let Ok(holder) = listen(first) {
            return Ok((holder, first + 1..first + BLOCK));
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "no free block of ports is left on 127.0.0.1"))
}

/// Where the kernel's own choices begin.
fn source_ports() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok();
    range
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .filter(|lowest| *lowest > LOWEST + BLOCK)
        .unwrap_or(SOURCE_PORTS)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ports_differ_and_are_no_source_ports() {
        let given: BTreeSet<u16> = ports(100).unwrap().into_iter().collect();
        assert_eq!(given.len(), 100);
        assert!(given.iter().all(|port| (LOWEST..source_ports()).contains(port)), "{given:?}");
    }

    #[test]
    fn a_port_that_somebody_listens_on_is_passed_over() {
        let mut owned = Owned::NONE;
        let first = owned.port().unwrap();
        let stranger = listen(first + 1).or_else(|_| listen(first + 2)).unwrap();
        let given: Vec<_> = (0..BLOCK).map(|_| owned.port().unwrap()).collect();
        assert!(!given.contains(&stranger.local_addr().unwrap().port()), "{given:?}");
    }

    #[test]
    fn a_block_has_one_owner() {
        let (holder, left) = block().unwrap();
        let (other, elsewhere) = block().unwrap();
        assert_ne!(holder.local_addr().unwrap(), other.local_addr().unwrap());
        assert!(left.end <= elsewhere.start || elsewhere.end <= left.start);
    }
}
