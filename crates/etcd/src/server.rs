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
//! requests may rest for [`ServerOptions::head_timeout`], longer than the ten seconds of Patroni's loop, because a connection that closes
//! in the moment of its next use costs the client an error. A dead HTTP/2 peer is found by pings. Clients' own
//! pings, however frequent, are answered and never punished.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use quorate_node::Handle;
use quorate_tls::{Acceptor, ClientName, Rarely, Refusal, Stream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use crate::authority::Mending;
use crate::context::Context;
use crate::http::Http;
use crate::idle::{Note, Noted, keep_alive};
use crate::metrics::Metrics;

/// How long a new connection may be silent.
const FIRST_BYTE: Duration = Duration::from_secs(5);
const FIRST_BYTE_STEPS: u32 = 10;
/// How often an HTTP/2 connection without traffic is pinged, and how long the answer may take.
const PING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));
/// What a client may send before we have read it: a request of the largest size per stream, several per connection.
const WINDOWS: (u32, u32) = (1 << 20, 4 << 20);
/// Calls at once on one connection. Go clients put everything on one; theirs wait in line beyond.
const STREAMS_PER_CONNECTION: u32 = 4_096;
/// Connections to the addresses for metrics: several scrapers, and probes.
const OBSERVERS: usize = 64;
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
    /// How long an HTTP/1.1 connection may rest between requests, and how long the head of one may take. Default 75 s.
    pub head_timeout: Duration,
    /// How long a request that has begun may take to arrive, and a message of a stream. etcd waits for ever.
    /// Default 30 s.
    pub body_timeout: Duration,
    /// How long a client may take nothing of what it is sent before it is cut off. etcd waits for ever. Default 60 s.
    pub stall_timeout: Duration,
    /// Connections served at once; more wait in the kernel's queue. Default 10,000.
    pub max_connections: usize,
    /// What `https://` addresses prove themselves with. Default: none.
    pub tls: Option<Acceptor>,
    /// Addresses, as in [`Server::bind`], where only `/metrics`, `/health`, `/livez` and `/readyz` are answered, also while the
    /// client port has no connection to spare (`--listen-metrics-urls`). Default: none.
    pub listen_metrics: Vec<String>,
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
            head_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(60),
            max_connections: 10_000,
            tls: None,
            listen_metrics: Vec::new(),
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
    /// `https://` without a certificate.
    #[error(
        "cannot listen for clients on {address}: TLS needs a certificate and its key; set cert-file and key-file"
    )]
    NoCertificate {
        /// As configured.
        address: String,
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
    head_timeout: Duration,
    stall_timeout: Duration,
    limit: Arc<Semaphore>,
    limit_observers: Arc<Semaphore>,
    /// For the log, about those who speak the wrong protocol or show the wrong certificate.
    strangers: Arc<Rarely>,
    metrics: Arc<Metrics>,
    /// Taken by the stop, which waits for every connection that watches it.
    graceful: parking_lot::Mutex<Option<GracefulShutdown>>,
    /// Ends connection tasks at once when it changes or goes away.
    cut: watch::Sender<bool>,
}

/// How one listening socket serves.
#[derive(Clone)]
struct Door {
    tls: Option<Acceptor>,
    scope: Scope,
}

/// What is answered behind a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All there is.
    Everything,
    /// Metrics and health alone.
    Observation,
}

impl Server {
    /// Listens on every `host:port` of `listen` (port 0: the kernel's choice, see [`Server::local_addrs`]) and serves: with TLS
    /// where the address begins with `https://`, without where it begins with `http://` or the host. Must be called on a tokio
    /// runtime.
    ///
    /// # Errors
    ///
    /// Names the address and what to do. Nothing is served unless every address is.
    pub fn bind(listen: &[String], handle: Handle, options: ServerOptions) -> Result<Server, BindError> {
        let mut ports = Vec::new();
        for (address, scope) in listen
            .iter()
            .map(|address| (address, Scope::Everything))
            .chain(options.listen_metrics.iter().map(|address| (address, Scope::Observation)))
        {
            let (tls, address) = match address.strip_prefix("https://") {
                None => (None, address.strip_prefix("http://").unwrap_or(address)),
                Some(rest) => match &options.tls {
                    Some(tls) => (Some(tls.clone()), rest),
                    None => return Err(BindError::NoCertificate { address: address.clone() }),
                },
            };
            for listener in bind(address)? {
                ports.push((listener, Door { tls: tls.clone(), scope }));
            }
        }
        if listen.is_empty() || ports.is_empty() {
            return Err(BindError::Nothing);
        }
        let addresses = ports.iter().filter_map(|(listener, _)| listener.local_addr().ok()).collect();
        let (stopping, stop) = watch::channel(false);
        let metrics = Metrics::new();
        let limit = Arc::new(Semaphore::new(options.max_connections));
        let (head_timeout, stall_timeout) = (options.head_timeout, options.stall_timeout);
        let context = Context::new(handle, options, stop.clone());
        let connections = Arc::new(Connections {
            head_timeout,
            stall_timeout,
            http: Http::new(context, metrics.clone()),
            limit,
            // Somebody who watches a full member must still get in, but not without bound either.
            limit_observers: Arc::new(Semaphore::new(OBSERVERS)),
            strangers: Arc::default(),
            metrics,
            graceful: parking_lot::Mutex::new(Some(GracefulShutdown::new())),
            cut: watch::Sender::new(false),
        });
        let mut accepting = JoinSet::new();
        for (listener, door) in ports {
            accepting.spawn(accept(listener, door, connections.clone(), stop.clone()));
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

async fn accept(
    listener: TcpListener,
    door: Door,
    connections: Arc<Connections>,
    stop: watch::Receiver<bool>,
) {
    let stopped = || {
        let mut stop = stop.clone();
        async move {
            let _ = stop.wait_for(|stop| *stop).await;
        }
    };
    let limit = match door.scope {
        Scope::Everything => &connections.limit,
        Scope::Observation => &connections.limit_observers,
    };
    loop {
        let permit = tokio::select! {
            () = stopped() => return,
            permit = limit.clone().acquire_owned() => permit,
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
                if let Err(error) = keep_alive(&stream) {
                    tracing::debug!(%peer, %error, "SO_KEEPALIVE was refused");
                }
                let (connections, door, stop) = (connections.clone(), door.clone(), stop.clone());
                tokio::spawn(welcome(connections, door, stream, peer, permit, stop));
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

/// The handshake, where the door has one, and then the requests. The stop does not wait for handshakes.
async fn welcome(
    connections: Arc<Connections>,
    door: Door,
    stream: TcpStream,
    peer: SocketAddr,
    permit: OwnedSemaphorePermit,
    mut stop: watch::Receiver<bool>,
) {
    let (stream, name) = match &door.tls {
        None => (Stream::Plain(stream), None),
        Some(tls) => {
            let accepted = tokio::select! {
                accepted = tls.accept(stream) => accepted,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            match accepted {
                // A name says who somebody is only if an authority has vouched for it.
                Ok(accepted) => (accepted.stream, accepted.name.filter(|_| tls.verifies_clients())),
                Err(Refusal::Silent) => return,
                Err(refusal) => {
                    if let Some(left_out) = connections.strangers.due() {
                        tracing::warn!(%peer, error = %refusal, left_out, "a client was turned away");
                    }
                    return;
                }
            }
        }
    };
    let Some(watcher) = connections.graceful.lock().as_ref().map(GracefulShutdown::watcher) else { return };
    serve(connections, stream, name, door.scope, peer, permit, watcher).await;
}

async fn serve(
    connections: Arc<Connections>,
    stream: Stream,
    name: Option<ClientName>,
    scope: Scope,
    peer: SocketAddr,
    permit: OwnedSemaphorePermit,
    watcher: Watcher,
) {
    let _open = Open::new(&connections.metrics);
    let _permit = permit;
    let mut cut = connections.cut.subscribe();
    let http = connections.http.clone();
    let (head_timeout, stall_timeout) = (connections.head_timeout, connections.stall_timeout);
    let strangers = connections.strangers.clone();
    // The task keeps no reference to the server: a connection must not hold up its end.
    drop(connections);
    let (stream, note) = Noted::new(stream, stall_timeout);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let http = http.clone();
        if let Some(name) = &name {
            request.extensions_mut().insert(name.clone());
        }
        async move {
            Ok::<_, std::convert::Infallible>(match scope {
                Scope::Everything => http.answer(request).await,
                Scope::Observation => http.observe(&request).await,
            })
        }
    });
    let connection =
        builder(head_timeout).serve_connection(TokioIo::new(Mending::new(stream)), service).into_owned();
    tokio::select! {
        biased;
        served = watcher.watch(connection) => {
            if let Err(error) = served {
                tracing::debug!(error = %error, "a client connection ended");
            }
            if note.is_tls() && let Some(left_out) = strangers.due() {
                tracing::warn!(%peer, left_out, "a client speaks TLS on a port without: it must connect with http://");
            }
        }
        () = silent(&note) => tracing::debug!("a client connected and did not say what it speaks"),
        _ = cut.wait_for(|cut| *cut) => {}
    }
}

/// Resolves when the connection has not said what it speaks in its first moments; never otherwise.
async fn silent(note: &Note) {
    // In steps, and after our own reading (the select is biased): when this process has stood still, what came meanwhile is read
    // before the client is blamed, and the stall counts as one step.
    for _ in 0..FIRST_BYTE_STEPS {
        tokio::time::sleep(FIRST_BYTE / FIRST_BYTE_STEPS).await;
    }
    if note.is_decided() {
        std::future::pending::<()>().await;
    }
}

fn builder(head_timeout: Duration) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(head_timeout);
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
