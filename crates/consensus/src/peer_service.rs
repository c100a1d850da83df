//! The server side of the peer protocol.
//!
//! It listens before the member knows its id (formation is a conversation between members without one), so Raft is
//! plugged in later: until then Raft's calls are answered `Unavailable`. Every call but `Hello` names the cluster and
//! the member it is meant for and is refused when that is somebody else. Addresses are re-used, by operators and by
//! kernels; ids never are. A message for the member that had this address yesterday must not move today's vote.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt};
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, TransferLeaderError, TransferLeaderRequest, VoteRequest,
};
use parking_lot::RwLock;
use prost::Message;
use quorate_storage::Snapshots;
use quorate_wire::raft as wire;
use quorate_wire::raft::peer_server::PeerServer as PeerGrpc;
use quorate_wire::raft::raft_server::RaftServer as RaftGrpc;
#[cfg(not(quorate_sim))]
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
#[cfg(not(quorate_sim))]
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tonic::{Request, Response, Status, Streaming};

use crate::conversation::Conversation;
use crate::convert::{self, Malformed};
use crate::error::BindFailure;
use crate::last_confirmation::LastConfirmation;
use crate::network::{CLUSTER, MAX_MESSAGE, Meter, TARGET};
#[cfg(quorate_sim)]
use crate::sim::File;
use crate::state_machine::SnapshotFile;
use crate::types::{Raft, Snapshot, SnapshotMeta, TypeConfig};
#[cfg(quorate_sim)]
use turmoil::net::TcpListener;

/// How long a port in use is waited for.
const PORT: Duration = Duration::from_secs(1);
/// A connection whose other end does not answer a ping for so long is closed: only to clean up, so longer than any line is slow.
const PONG: Duration = Duration::from_secs(5);
/// Calls one connection may have open.
const CONCURRENT_STREAMS: u32 = 4096;
/// A leader abandons a heartbeat that is not answered in time, and each is a stream: a process that was stopped for a
/// minute finds this many, and must not take its leader for an attacker.
const ABANDONED_STREAMS: usize = 4096;
/// Flow control windows: a page of entries in flight without waiting for an update.
const WINDOW: u32 = 4 << 20;

/// Answers for the member that is built on consensus: formation, and requests forwarded to the leader.
pub trait PeerHandler: Send + Sync + 'static {
    /// Another member introduces itself.
    fn hello(&self, hello: wire::HelloRequest) -> wire::HelloResponse;
    /// A question for this member, which was meant for it. The asker waits for `deadline`.
    fn ask(&self, question: wire::question::Question, deadline: Duration)
    -> BoxFuture<'static, wire::Answer>;
}

/// Whom calls must be meant for, and what answers them.
pub(crate) struct Plugged {
    pub(crate) cluster: u64,
    pub(crate) id: u64,
    pub(crate) raft: Raft,
    pub(crate) snapshots: Snapshots,
    pub(crate) meter: Option<Arc<dyn Meter>>,
    pub(crate) heard: Heard,
    pub(crate) last: Arc<LastConfirmation>,
}

/// When this member last took a message of the leader that it follows.
pub(crate) type Heard = Arc<parking_lot::Mutex<Option<tokio::time::Instant>>>;

/// Where a started Raft is plugged in. Cheap to clone.
#[derive(Clone)]
pub struct Socket {
    plugged: Arc<RwLock<Option<Arc<Plugged>>>>,
    /// True ends the streams that would otherwise live as long as a leadership.
    unplugged: watch::Sender<bool>,
}

impl Default for Socket {
    fn default() -> Socket {
        Socket { plugged: Arc::default(), unplugged: watch::Sender::new(false) }
    }
}

impl Socket {
    pub(crate) fn plug(&self, plugged: Plugged) {
        *self.plugged.write() = Some(Arc::new(plugged));
    }

    pub(crate) fn unplug(&self) {
        *self.plugged.write() = None;
        self.unplugged.send_replace(true);
    }

    /// Resolves when this member stops taking part.
    fn ended(&self) -> BoxFuture<'static, ()> {
        Box::pin(self.clone().wait_unplugged())
    }

    async fn wait_unplugged(self) {
        let mut unplugged = self.unplugged.subscribe();
        // An error says that the sender is gone, and it is held here.
        let _ = unplugged.wait_for(|unplugged| *unplugged).await;
    }
}

/// Sockets that listen for peers.
pub struct PeerListener {
    listeners: Vec<(TcpListener, Option<quorate_tls::Acceptor>)>,
}

impl PeerListener {
    /// Listens on every address: `host:port` with or without `http://`, or `https://host:port` where peers must speak TLS.
    pub async fn bind(
        addresses: &[String],
        tls: Option<&quorate_tls::Acceptor>,
    ) -> Result<PeerListener, BindFailure> {
        let mut listeners = Vec::new();
        for address in addresses {
            let (bare, acceptor) = match address.strip_prefix("https://") {
                None => (address.strip_prefix("http://").unwrap_or(address), None),
                Some(bare) if tls.is_some() => (bare, tls.cloned()),
                Some(_) => {
                    let source = io::Error::new(io::ErrorKind::InvalidInput, "TLS needs a certificate");
                    let remedy = "configure the certificate and key for peers";
                    return Err(BindFailure { address: address.clone(), remedy, source });
                }
            };
            let listener = listen(bare).await.map_err(|source| BindFailure {
                address: bare.to_owned(),
                remedy: match source.kind() {
                    io::ErrorKind::AddrInUse => {
                        "stop the process that has the port, or configure another one"
                    }
                    io::ErrorKind::AddrNotAvailable => "configure an address of this machine",
                    io::ErrorKind::PermissionDenied => "configure a port above 1023",
                    _ => "configure the address as host:port",
                },
                source,
            })?;
            listeners.push((listener, acceptor));
        }
        Ok(PeerListener { listeners })
    }

    /// Where it listens; with the port that the kernel chose for port 0.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|(listener, _)| listener.local_addr().ok()).collect()
    }

    /// Serves until [`PeerServer::shutdown`].
    #[must_use]
    pub fn serve(self, socket: Socket, handler: Arc<dyn PeerHandler>) -> PeerServer {
        let tasks = self.listeners.into_iter().map(|(listener, tls)| {
            let (stop, stopped) = oneshot::channel::<()>();
            let service = Service { socket: socket.clone(), handler: Arc::clone(&handler) };
            let server = tonic::transport::Server::builder()
                .tcp_nodelay(true)
                .initial_stream_window_size(WINDOW)
                .initial_connection_window_size(WINDOW)
                .max_concurrent_streams(CONCURRENT_STREAMS)
                .http2_max_pending_accept_reset_streams(Some(ABANDONED_STREAMS))
                .http2_keepalive_interval(Some(Duration::from_secs(2)))
                .http2_keepalive_timeout(Some(PONG))
                .add_service(RaftGrpc::new(service.clone()).max_decoding_message_size(MAX_MESSAGE))
                .add_service(PeerGrpc::new(service).max_decoding_message_size(MAX_MESSAGE));
            let task = tokio::spawn(async move {
                let stopped = async { drop(stopped.await) };
                let served = match tls {
                    None => {
                        #[cfg(not(quorate_sim))]
                        let incoming =
                            tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
                        #[cfg(quorate_sim)]
                        let incoming = crate::sim::incoming(listener);
                        server.serve_with_incoming_shutdown(incoming, stopped).await
                    }
                    #[cfg(quorate_sim)]
                    Some(_) => unreachable!("a simulation speaks plainly"),
                    #[cfg(not(quorate_sim))]
                    Some(tls) => {
                        let incoming = crate::peer_tls::incoming(listener, tls);
                        server.serve_with_incoming_shutdown(incoming, stopped).await
                    }
                };
                if let Err(error) = served {
                    tracing::error!(error = %crate::error::chain(&error), "the peer service has ended");
                }
            });
            (stop, task)
        });
        PeerServer { tasks: tasks.collect() }
    }
}

/// A process that was just killed, or a member of this process that was just dropped, lets go of its port in a moment.
async fn listen(address: &str) -> io::Result<TcpListener> {
    let until = tokio::time::Instant::now() + PORT;
    loop {
        match TcpListener::bind(address).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tokio::time::Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            listening => return listening,
        }
    }
}

/// A running peer service. Dropping it aborts.
pub struct PeerServer {
    tasks: Vec<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl PeerServer {
    /// Stops accepting and lets calls end, for at most `deadline`.
    pub async fn shutdown(mut self, deadline: Duration) {
        let until = tokio::time::Instant::now() + deadline;
        for (stop, mut task) in self.tasks.drain(..) {
            let _ = stop.send(());
            if tokio::time::timeout_at(until, &mut task).await.is_err() {
                task.abort();
                // The socket is closed when this returns.
                let _ = task.await;
            }
        }
    }
}

impl Drop for PeerServer {
    fn drop(&mut self) {
        for (_, task) in &self.tasks {
            task.abort();
        }
    }
}

#[derive(Clone)]
struct Service {
    socket: Socket,
    handler: Arc<dyn PeerHandler>,
}

impl Service {
    /// What is plugged in, if the call is meant for it.
    fn meant_for_us<T>(&self, request: &Request<T>) -> Result<Arc<Plugged>, Status> {
        let plugged = self.socket.plugged.read().clone();
        let plugged =
            plugged.ok_or_else(|| Status::unavailable("this member has not joined its cluster yet"))?;
        for (name, ours) in [(CLUSTER, plugged.cluster), (TARGET, plugged.id)] {
            let theirs = request.metadata().get(name).and_then(|value| value.to_str().ok());
            let theirs = theirs.and_then(|value| u64::from_str_radix(value, 16).ok());
            if theirs != Some(ours) {
                let theirs = theirs.map_or_else(|| "none".to_owned(), |id| format!("{id:016x}"));
                return Err(Status::failed_precondition(format!(
                    "the call names {name} {theirs}, this member has {ours:016x}"
                )));
            }
        }
        Ok(plugged)
    }
}

fn malformed(error: Malformed) -> Status {
    Status::invalid_argument(error.to_string())
}

fn stopped(error: &(dyn std::error::Error + 'static)) -> Status {
    Status::unavailable(crate::error::chain(error))
}

fn append_from_wire(request: wire::AppendRequest) -> Result<AppendEntriesRequest<TypeConfig>, Malformed> {
    Ok(AppendEntriesRequest {
        vote: convert::vote_from_wire(request.vote.as_ref())?,
        prev_log_id: request.previous.as_ref().map(convert::position_from_wire),
        entries: request.entries.into_iter().map(convert::entry_from_wire).collect::<Result<_, _>>()?,
        leader_commit: request.commit.as_ref().map(convert::position_from_wire),
    })
}

fn vote_from_wire(request: &wire::VoteRequest) -> Result<VoteRequest<TypeConfig>, Malformed> {
    let mut vote = VoteRequest::new(
        convert::vote_from_wire(request.vote.as_ref())?,
        request.last.as_ref().map(convert::position_from_wire),
    );
    vote.leadership_transfer = request.leadership_transfer;
    Ok(vote)
}

fn vote_to_wire(
    response: &openraft::raft::VoteResponse<TypeConfig>,
    silence: Option<Duration>,
) -> wire::VoteResponse {
    wire::VoteResponse {
        vote: Some(convert::vote_to_wire(&response.vote)),
        granted: response.vote_granted,
        last: response.last_log_id.as_ref().map(convert::position_to_wire),
        // Rounded down: never more than it was.
        silent_ms: silence.map(|silence| u64::try_from(silence.as_millis()).unwrap_or(u64::MAX)),
    }
}

type Appended = Pin<Box<dyn Stream<Item = Result<wire::AppendResponse, Status>> + Send>>;

#[tonic::async_trait]
impl wire::raft_server::Raft for Service {
    type AppendStream = Appended;

    async fn append(
        &self,
        request: Request<Streaming<wire::AppendRequest>>,
    ) -> Result<Response<Appended>, Status> {
        let plugged = self.meant_for_us(&request)?;
        let (meter, last) = (plugged.meter.clone(), Arc::clone(&plugged.last));
        // The stream ends at the first message that cannot be read; the leader opens another one.
        let requests = request.into_inner().map(move |message| {
            // Before Raft has it: its answer may come long after a vote that was granted meanwhile.
            last.helped(tokio::time::Instant::now());
            match message.map(|append| {
                if let (Some(meter), Some(vote)) = (&meter, &append.vote) {
                    meter.received(vote.node, append.encoded_len());
                }
                append_from_wire(append)
            }) {
                Ok(Ok(append)) => Some(append),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "an append from a peer was dropped");
                    None
                }
                Err(_) => None,
            }
        });
        let requests =
            requests.take_while(|append| std::future::ready(append.is_some())).filter_map(std::future::ready);
        let requests = requests.take_until(self.socket.ended());
        let heard = Arc::clone(&plugged.heard);
        let responses = plugged.raft.stream_append(requests).map(move |answer| {
            use wire::append_response::Result as Wire;
            let answer = answer.map_err(|fatal| stopped(&fatal))?;
            if !matches!(answer, Err(StreamAppendError::HigherVote(_))) {
                *heard.lock() = Some(tokio::time::Instant::now());
            }
            let result = match answer {
                Ok(at) => Wire::Matched(wire::Matched { at: at.as_ref().map(convert::position_to_wire) }),
                Err(StreamAppendError::Conflict(at)) => Wire::Conflict(convert::position_to_wire(&at)),
                Err(StreamAppendError::HigherVote(vote)) => Wire::HigherVote(convert::vote_to_wire(&vote)),
            };
            Ok(wire::AppendResponse { result: Some(result) })
        });
        Ok(Response::new(Box::pin(responses)))
    }

    async fn vote(
        &self,
        request: Request<wire::VoteRequest>,
    ) -> Result<Response<wire::VoteResponse>, Status> {
        let plugged = self.meant_for_us(&request)?;
        let vote = vote_from_wire(request.get_ref()).map_err(malformed)?;
        let response = plugged.raft.vote(vote).await.map_err(|error| stopped(&error))?;
        // Only now: until the vote was granted this member may have helped somebody.
        let silence = response.vote_granted.then(|| plugged.last.silence(tokio::time::Instant::now()));
        Ok(Response::new(vote_to_wire(&response, silence)))
    }

    async fn pre_vote(
        &self,
        request: Request<wire::VoteRequest>,
    ) -> Result<Response<wire::VoteResponse>, Status> {
        let plugged = self.meant_for_us(&request)?;
        let vote = vote_from_wire(request.get_ref()).map_err(malformed)?;
        let response = plugged.raft.pre_vote(vote).await.map_err(|error| stopped(&error))?;
        Ok(Response::new(vote_to_wire(&response, None)))
    }

    async fn transfer_leader(
        &self,
        request: Request<wire::TransferRequest>,
    ) -> Result<Response<wire::TransferResponse>, Status> {
        use wire::transfer_response::Refused;
        let plugged = self.meant_for_us(&request)?;
        let message = request.get_ref();
        let transfer = TransferLeaderRequest::new(
            convert::vote_from_wire(message.from.as_ref()).map_err(malformed)?,
            message.to,
            message.last.as_ref().map(convert::position_from_wire),
        );
        let answer = plugged.raft.handle_transfer_leader(transfer).await.map_err(|fatal| stopped(&fatal))?;
        let refused = answer.err().map(|error| match error {
            TransferLeaderError::VoteChanged { expected, actual } => {
                Refused::VoteChanged(wire::VoteChanged {
                    expected: Some(convert::vote_to_wire(&expected)),
                    actual: Some(convert::vote_to_wire(&actual)),
                })
            }
            TransferLeaderError::LogNotFlushed { expected, actual } => {
                Refused::LogNotFlushed(wire::LogNotFlushed {
                    expected: expected.as_ref().map(convert::position_to_wire),
                    actual: actual.as_ref().map(convert::position_to_wire),
                })
            }
        });
        Ok(Response::new(wire::TransferResponse { refused }))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<wire::SnapshotChunk>>,
    ) -> Result<Response<wire::SnapshotResponse>, Status> {
        use wire::snapshot_chunk::Part;
        let plugged = self.meant_for_us(&request)?;
        let mut chunks = request.into_inner();
        let Some(wire::SnapshotChunk { part: Some(Part::Header(header)) }) = chunks.message().await? else {
            return Err(Status::invalid_argument("a snapshot begins with its header"));
        };
        let vote = convert::vote_from_wire(header.vote.as_ref()).map_err(malformed)?;
        let meta = SnapshotMeta {
            last_log_id: header.at.as_ref().map(convert::position_from_wire),
            last_membership: convert::stored_membership_from_wire(header.membership.unwrap_or_default())
                .map_err(malformed)?,
        };
        let path = plugged.snapshots.incoming();
        tracing::info!(index = meta.last_log_id.map(|at| at.index()), "receiving a snapshot");
        let received = match receive(&path, &mut chunks).await {
            Ok(()) => verify(&plugged.snapshots, &path).await,
            Err(status) => Err(status),
        };
        if let Err(status) = received {
            // Best effort: the next start removes it too.
            let _ = tokio::fs::remove_file(&path).await;
            return Err(status);
        }
        let snapshot = Snapshot { meta, snapshot: SnapshotFile::incoming(path) };
        plugged.last.helped(tokio::time::Instant::now());
        let response =
            plugged.raft.install_full_snapshot(vote, snapshot).await.map_err(|fatal| stopped(&fatal))?;
        Ok(Response::new(wire::SnapshotResponse { vote: Some(convert::vote_to_wire(&response.vote)) }))
    }
}

/// Writes what arrives into `path`. Not synced here: adopting the file verifies and syncs it.
async fn receive(path: &std::path::Path, chunks: &mut Streaming<wire::SnapshotChunk>) -> Result<(), Status> {
    use wire::snapshot_chunk::Part;
    let write_error = |error: io::Error| {
        tracing::error!(path = %path.display(), %error, "a snapshot from a peer cannot be written");
        Status::internal(format!("writing the snapshot: {error}"))
    };
    let mut file = File::create(path).await.map_err(write_error)?;
    while let Some(chunk) = chunks.message().await? {
        match chunk.part {
            Some(Part::Data(data)) => file.write_all(&data).await.map_err(write_error)?,
            Some(Part::Header(_)) | None => {
                return Err(Status::invalid_argument("a snapshot has one header"));
            }
        }
    }
    file.flush().await.map_err(write_error)
}

/// Reads the file to its end, checksums included, BEFORE Raft hears of it: what the network damaged is asked for again,
/// while a file that fails during the installation stops the member.
async fn verify(snapshots: &Snapshots, path: &std::path::Path) -> Result<(), Status> {
    let (snapshots, path) = (snapshots.clone(), path.to_path_buf());
    let verify = move || snapshots.read(&path)?.try_for_each(|pair| pair.map(drop));
    #[cfg(quorate_sim)]
    let verified = std::future::ready(Ok::<_, tokio::task::JoinError>(verify()));
    #[cfg(not(quorate_sim))]
    let verified = tokio::task::spawn_blocking(verify);
    match verified.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Status::data_loss(crate::error::chain(&error))),
        Err(_) => Err(Status::internal("verifying the snapshot failed")),
    }
}

#[tonic::async_trait]
impl wire::peer_server::Peer for Service {
    async fn hello(
        &self,
        request: Request<wire::HelloRequest>,
    ) -> Result<Response<wire::HelloResponse>, Status> {
        Ok(Response::new(self.handler.hello(request.into_inner())))
    }

    type ConverseStream = Conversation;

    async fn converse(
        &self,
        request: Request<Streaming<wire::Questions>>,
    ) -> Result<Response<Conversation>, Status> {
        self.meant_for_us(&request)?;
        let questions = request.into_inner();
        Ok(Response::new(Conversation::new(questions, Arc::clone(&self.handler), self.socket.ended())))
    }
}
