//! The port: listen, accept, serve, drain.
//!
//! # The model
//!
//! One task per listening socket accepts; one task per connection serves it, HTTP/1.1 or HTTP/2 by its first bytes.
//! Our own loop instead of a ready-made server, because three things have to be ours: `TCP_NODELAY` (a put is one small
//! segment each way), the bound on connections, and the order of a stop.
//!
//! # The order of a stop
//!
//! 1. No new connections.
//! 2. Open streams end with `Unavailable`: clients go elsewhere at once and lose nothing.
//! 3. Connections finish what they have and close (`GOAWAY` on HTTP/2).
//! 4. What is left at the deadline is cut off.
//!
//! # Idle connections
//!
//! They cost a task and two timers. A new connection has [`FIRST_BYTE`] to say anything. An HTTP/1.1 connection between
//! requests may rest for [`HTTP1_REST`], longer than the ten seconds of Patroni's loop, because a connection that closes
//! in the moment of its next use costs the client an error. A dead HTTP/2 peer is found by pings. Clients' own
//! pings, however frequent, are answered and never punished.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use quorate_node::Handle;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use crate::context::Context;
use crate::http::Http;
use crate::idle::Noted;
use crate::metrics::Metrics;

/// How long a new connection may be silent.
const FIRST_BYTE: Duration = Duration::from_secs(2);
/// How long an HTTP/1.1 connection may rest between requests, and how long the head of one may take.
const HTTP1_REST: Duration = Duration::from_secs(75);
/// How often an HTTP/2 connection without traffic is pinged, and how long the answer may take.
const PING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));
/// What a client may send before we have read it: a request of the largest size per stream, several per connection.
const WINDOWS: (u32, u32) = (1 << 20, 4 << 20);
/// Calls at once on one connection. Go clients put everything on one; theirs wait in line beyond.
const STREAMS_PER_CONNECTION: u32 = 4_096;
/// Between two tries when accepting fails for lack of file descriptors: the only cure is that others close.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// Defaults are etcd's, where etcd has the setting.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Largest request in bytes (`--max-request-bytes`). Default 1.5 MiB.
    pub max_request_bytes: usize,
    /// Operations in one transaction, nested ones included on their way down (`--max-txn-ops`). Default 128.
    pub max_txn_ops: usize,
    /// How often a watcher that asked for it hears that nothing happened
    /// (`--watch-progress-notify-interval`). Default 10 min.
    pub progress_interval: Duration,
    /// The cluster's longest election timeout: how long a stream outlives its leader, and the shortest lease, follow
    /// from it. Default 350 ms.
    pub election_timeout: Duration,
    /// How long a call may take before it is answered with "request timed out". Default 5 s and two election timeouts,
    /// etcd's rule (`server/config/config.go`, `ReqTimeout`).
    pub request_timeout: Duration,
    /// Connections served at once; more wait in the kernel's queue. Default 10,000.
    pub max_connections: usize,
}

impl Default for ServerOptions {
    fn default() -> ServerOptions {
        let election_timeout = Duration::from_millis(350);
        ServerOptions {
            max_request_bytes: 1_572_864,
            max_txn_ops: 128,
            progress_interval: Duration::from_secs(600),
            election_timeout,
            request_timeout: Duration::from_secs(5) + 2 * election_timeout,
            max_connections: 10_000,
        }
    }
}

/// Why the server does not listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Nowhere to listen.
    #[error("no address to listen on for clients: set listen-client-urls (dcs.listen_clients)")]
    Nothing,
    /// Not an address, or a name that does not resolve.
    #[error("cannot listen for clients on \"{address}\": give it as host:port, with a host of this machine")]
    Address {
        /// As configured.
        address: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Another process has it.
    #[error(
        "cannot listen for clients on {address}: the port is in use; stop the process that has it (ss -ltnp) or set another one"
    )]
    InUse {
        /// As configured.
        address: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Anything else: an address of another machine, a port that needs privileges.
    #[error("cannot listen for clients on {address}: {hint}")]
    Refused {
        /// As configured.
        address: String,
        /// What to do.
        hint: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// A running server. Dropping it cuts everything off; [`Server::shutdown`] is the polite way.
pub struct Server {
    addresses: Vec<SocketAddr>,
    stopping: watch::Sender<bool>,
    accepting: JoinSet<()>,
    connections: Arc<Connections>,
}

/// What the accept loops share.
struct Connections {
    http: Http,
    limit: Arc<Semaphore>,
    metrics: Arc<Metrics>,
    /// Taken by the stop, which waits for every connection that watches it.
    graceful: parking_lot::Mutex<Option<GracefulShutdown>>,
    /// Ends connection tasks at once when it changes or goes away.
    cut: watch::Sender<bool>,
}

impl Server {
    /// Listens on every `host:port` of `listen` (port 0: the kernel's choice, see [`Server::local_addrs`]) and serves.
    /// Must be called on a tokio runtime.
    ///
    /// # Errors
    ///
    /// Names the address and what to do. Nothing is served unless every address is.
    pub fn bind(listen: &[String], handle: Handle, options: ServerOptions) -> Result<Server, BindError> {
        let listeners = listen.iter().map(|address| bind(address)).collect::<Result<Vec<_>, _>>()?;
        let listeners: Vec<TcpListener> = listeners.into_iter().flatten().collect();
        if listeners.is_empty() {
            return Err(BindError::Nothing);
        }
        let addresses = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        let (stopping, stop) = watch::channel(false);
        let metrics = Metrics::new();
        let limit = Arc::new(Semaphore::new(options.max_connections));
        let context = Context::new(handle, options, stop.clone());
        let connections = Arc::new(Connections {
            http: Http::new(context, metrics.clone()),
            limit,
            metrics,
            graceful: parking_lot::Mutex::new(Some(GracefulShutdown::new())),
            cut: watch::Sender::new(false),
        });
        let mut accepting = JoinSet::new();
        for listener in listeners {
            accepting.spawn(accept(listener, connections.clone(), stop.clone()));
        }
        Ok(Server { addresses, stopping, accepting, connections })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Stops in the order of the module's essay. Returns after `deadline` at the latest; then nothing is served any more.
    pub async fn shutdown(mut self, deadline: Duration) {
        let _ = self.stopping.send(true);
        while self.accepting.join_next().await.is_some() {}
        let graceful = self.connections.graceful.lock().take();
        if let Some(graceful) = graceful
            && tokio::time::timeout(deadline, graceful.shutdown()).await.is_err()
        {
            tracing::warn!(
                elapsed_ms = deadline.as_millis(),
                "client connections were cut off at the deadline"
            );
        }
        let _ = self.connections.cut.send(true);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stopping.send(true);
        let _ = self.connections.cut.send(true);
    }
}

/// A name may stand for several addresses ("localhost" often does): all of them.
fn bind(address: &str) -> Result<Vec<TcpListener>, BindError> {
    let wrong = |source| BindError::Address { address: address.to_owned(), source };
    let resolved: Vec<SocketAddr> = address.to_socket_addrs().map_err(wrong)?.collect();
    resolved.into_iter().map(|resolved| listen(resolved).map_err(|error| refused(address, error))).collect()
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = StdListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

fn refused(address: &str, source: io::Error) -> BindError {
    let address = address.to_owned();
    match source.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse { address, source },
        io::ErrorKind::AddrNotAvailable => {
            let hint = "the address is not one of this machine; use one of its own, or 0.0.0.0";
            BindError::Refused { address, hint, source }
        }
        io::ErrorKind::PermissionDenied => {
            let hint = "the port needs privileges; use one above 1023";
            BindError::Refused { address, hint, source }
        }
        _ => BindError::Refused { address, hint: "the system refused it", source },
    }
}

async fn accept(listener: TcpListener, connections: Arc<Connections>, stop: watch::Receiver<bool>) {
    let stopped = || {
        let mut stop = stop.clone();
        async move {
            let _ = stop.wait_for(|stop| *stop).await;
        }
    };
    loop {
        let permit = tokio::select! {
            () = stopped() => return,
            permit = connections.limit.clone().acquire_owned() => permit,
        };
        // The semaphore is never closed.
        let Ok(permit) = permit else { return };
        let accepted = tokio::select! {
            () = stopped() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                // Not fatal: it only costs latency.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%peer, %error, "TCP_NODELAY was refused");
                }
                let Some(watcher) = connections.graceful.lock().as_ref().map(GracefulShutdown::watcher)
                else {
                    return;
                };
                tokio::spawn(serve(connections.clone(), stream, permit, watcher));
            }
            // The peer gave up while it waited: nobody is there to be served.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(%error, "accepting a client connection failed");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

async fn serve(
    connections: Arc<Connections>,
    stream: TcpStream,
    permit: OwnedSemaphorePermit,
    watcher: Watcher,
) {
    let _open = Open::new(&connections.metrics);
    let _permit = permit;
    let mut cut = connections.cut.subscribe();
    let http = connections.http.clone();
    // The task keeps no reference to the server: a connection must not hold up its end.
    drop(connections);
    let (stream, spoken) = Noted::new(stream);
    let service = service_fn(move |request| {
        let http = http.clone();
        async move { Ok::<_, std::convert::Infallible>(http.answer(request).await) }
    });
    let connection = builder().serve_connection(TokioIo::new(stream), service).into_owned();
    tokio::select! {
        served = watcher.watch(connection) => {
            if let Err(error) = served {
                tracing::debug!(error = %error, "a client connection ended");
            }
        }
        () = silent(&spoken) => tracing::debug!("a client connected and said nothing"),
        _ = cut.wait_for(|cut| *cut) => {}
    }
}

/// Resolves when the connection has said nothing in its first moments; never otherwise.
async fn silent(spoken: &AtomicBool) {
    tokio::time::sleep(FIRST_BYTE).await;
    if spoken.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HTTP1_REST);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1);
    builder
}

/// Counts a connection for as long as it lives.
struct Open(Arc<Metrics>);

impl Open {
    fn new(metrics: &Arc<Metrics>) -> Open {
        metrics.connections.inc();
        Open(metrics.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.dec();
    }
}
