//! Peers that come in by TLS.
//!
//! The handshake happens in a task of its own, so that a stranger who says nothing holds up nobody; the peer service only
//! sees connections that are open.
#![cfg_attr(quorate_sim, allow(dead_code, reason = "a simulation speaks plainly"))]

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream as Incoming;
use quorate_tls::{Acceptor, Client, ClientOptions, Rarely, Refusal, ServerOptions, Stream, TlsError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

/// Handshakes under way: four lanes of a few peers, and strangers.
const HANDSHAKES: usize = 64;
/// Open connections that the service has not taken yet.
const WAITING: usize = 16;
/// Between two tries when accepting fails for lack of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// Both sides of TLS between peers: every member listens and connects.
#[derive(Clone)]
pub struct PeerTls {
    acceptor: Acceptor,
    client: Client,
}

impl std::fmt::Debug for PeerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerTls").finish_non_exhaustive()
    }
}

impl PeerTls {
    /// Reads the files, and again whenever they change.
    ///
    /// # Errors
    /// Names the file and the remedy.
    pub fn open(listen: ServerOptions, connect: ClientOptions) -> Result<PeerTls, TlsError> {
        let acceptor = Acceptor::open("peers' port", listen)?;
        let client = Client::open("connections to peers", connect, true)?;
        Ok(PeerTls { acceptor, client })
    }

    /// For [`crate::PeerListener::bind`].
    #[must_use]
    pub fn acceptor(&self) -> &Acceptor {
        &self.acceptor
    }

    /// For [`crate::Peers::with_tls`].
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }
}

/// The connections of `listener` whose handshake has succeeded. The task behind it ends with the stream.
pub(crate) fn incoming(
    listener: TcpListener,
    tls: Acceptor,
) -> impl Incoming<Item = io::Result<PeerStream>> + Send + Unpin + 'static {
    let (open, opened) = mpsc::channel(WAITING);
    tokio::spawn(accept(listener, tls, open));
    ReceiverStream::new(opened)
}

async fn accept(listener: TcpListener, tls: Acceptor, open: mpsc::Sender<io::Result<PeerStream>>) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    let strangers = Arc::new(Rarely::default());
    loop {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = open.closed() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accepting a peer's connection failed");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let (tls, open, strangers) = (tls.clone(), open.clone(), Arc::clone(&strangers));
        tokio::spawn(async move {
            // Not fatal: it only costs latency.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%peer, %error, "TCP_NODELAY was refused");
            }
            let accepted = tokio::select! {
                accepted = tls.accept(stream) => accepted,
                () = open.closed() => return,
            };
            drop(permit);
            match accepted {
                // The service may have ended meanwhile.
                Ok(accepted) => drop(open.send(Ok(PeerStream(accepted.stream))).await),
                Err(Refusal::Silent) => {}
                Err(refusal) => {
                    if let Some(left_out) = strangers.due() {
                        tracing::warn!(%peer, error = %refusal, left_out, "a peer was turned away");
                    }
                }
            }
        });
    }
}

/// A connection as tonic's server takes it.
pub(crate) struct PeerStream(Stream);

impl Connected for PeerStream {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
