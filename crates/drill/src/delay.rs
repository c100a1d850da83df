//! Delay where the kernel has none: a forwarder before each port of a node, which holds back what other nodes send there.
//!
//! The kernel's `netem` delays packets, and not every kernel has it. A forwarder delays bytes. It stands in the node's own namespace,
//! where a rule hands it the connections of other nodes (`netns`), and passes on each piece that it has read when it is
//! due, in order. Neither side is told: addresses, ports and configuration are those of a network without it.
//!
//! ```text
//!   node2 ──► 10.99.0.1:2380 ──redirect──► forwarder ── later ──► 10.99.0.1:2380, over the node's own loopback
//!         ◄────────────────────────────────    │   ◄── later ──
//! ```
//!
//! What differs from a slow wire: a connection to a port that refuses is taken and then closed, and what is under way to a node that
//! is killed is lost only with its forwarder's connection. The handshake is charged with its round trip before the first byte.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Read at once.
const PIECE: usize = 16 * 1024;
/// Pieces under way in one direction of a connection: 16 MiB, more than PostgreSQL or the store have on the wire in a second.
const UNDER_WAY: usize = 1024;

/// How long everything is held back, each way; shared by all forwarders of a network, and free to change while they run.
#[derive(Debug, Clone, Default)]
pub struct Delay(Arc<AtomicU64>);

impl Delay {
    /// From now on; what is under way already is not touched.
    pub fn set(&self, delay: Duration) {
        let us = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        self.0.store(us, Ordering::Relaxed);
    }

    fn get(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }
}

/// Passes every connection of `listener`, which does not block, on to `to`, until it is dropped.
///
/// # Errors
/// When the listener cannot be waited for.
pub(crate) async fn forward(
    listener: std::net::TcpListener,
    to: SocketAddr,
    delay: Delay,
) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        match listener.accept().await {
            Ok((from, _)) => {
                tokio::spawn(pass(from, to, delay.clone()));
            }
            // The process has no descriptors left for a moment: the others wait in the backlog.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn pass(from: TcpStream, to: SocketAddr, delay: Delay) {
    tokio::time::sleep(delay.get() * 2).await;
    let Ok(server) = TcpStream::connect(to).await else { return };
    // Nagle's algorithm would add a delay that nobody asked for.
    let (_, _) = (from.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) = (from.into_split(), server.into_split());
    tokio::join!(one_way(from_client, to_server, &delay), one_way(from_server, to_client, &delay));
}

/// Until the reader's end is passed on, or the writer takes nothing more.
async fn one_way(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: &Delay) {
    let (send, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let read = async move {
        let mut piece = vec![0; PIECE];
        while let Ok(length @ 1..) = from.read(&mut piece).await {
            if send.send((Instant::now() + delay.get(), piece[..length].to_vec())).await.is_err() {
                break;
            }
        }
    };
    let write = async move {
        while let Some((at, piece)) = due.recv().await {
            tokio::time::sleep_until(at).await;
            if to.write_all(&piece).await.is_err() {
                break;
            }
        }
        // Also what ends with an error ends for the other side.
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}
