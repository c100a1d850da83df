//! The client side of the peer protocol: channels, and openraft's network over them.
//!
//! To each peer there are four connections (lanes), opened when first used:
//!
//! ```text
//!   Append    one long-lived bidirectional stream per leadership, pipelined; entries
//!   Urgent    heartbeats, votes, pre-votes, leadership transfer: never behind a burst
//!   Snapshot  files
//!   Request   one stream of questions and answers: forwarded proposals, read indexes, renewals; formation
//! ```
//!
//! A heartbeat that waits behind a megabyte of entries or a snapshot is an election; separate connections have separate
//! TCP windows and separate HTTP/2 flow control. A channel reconnects by itself when it is used again; connecting takes
//! at most [`CONNECT`], and HTTP/2 pings find a peer that died without closing.
//!
//! Every call ends within a deadline. For the append stream, which lives as long as a leadership, the deadline is on
//! progress: requests that are out and unanswered for [`PROGRESS`] end the stream, and openraft opens another one.
//!
//! The bounds are those of a local network. Where round trips are long the operator says so by the heartbeat interval, which has to
//! exceed one; every bound then makes room for as many of them as what it bounds is made of ([`Peers::patience`]).
//!
//! A peer that is down is tried again every [`RETRY`]. openraft waits that long *inside* the stream of requests, before it
//! yields the first one; a connect that fails before anybody asks for a request would never wait. So the first request is
//! taken before the connection is looked at.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use parking_lot::Mutex;
use prost::Message;
use quorate_wire::raft as wire;
use quorate_wire::raft::peer_client::PeerClient;
use quorate_wire::raft::raft_client::RaftClient;
use tokio::io::AsyncReadExt;
use tonic::transport::{Channel, Endpoint};

use crate::convert;
use crate::last_confirmation::LastConfirmation;
use crate::line::Line;
use crate::state_machine::SnapshotFile;
use crate::types::{Node, Snapshot, TypeConfig, Vote};
#[cfg(not(quorate_sim))]
use tokio::fs::File;

#[cfg(quorate_sim)]
use crate::sim::File;

/// A bound on a local network, and the round trips that what it bounds is made of.
pub type Bound = (Duration, u32);

/// A peer on a healthy network answers a connect in well under a millisecond; waiting longer only delays the retry.
const CONNECT: Bound = (Duration::from_millis(100), 1);
/// The TLS handshake after it: two round trips, and some milliseconds of arithmetic on a slow and busy machine.
const HANDSHAKE: Bound = (Duration::from_millis(350), 2);
/// Opening a stream, connecting included.
pub(crate) const SETUP: Bound = (Duration::from_millis(500), 5);
/// How often the append stream looks for progress; it ends after two looks without any. Longer than a sync on a bad disk.
const PROGRESS: Bound = (Duration::from_secs(2), 2);
/// HTTP/2 pings on idle connections, so that a peer that vanished is known before it is needed.
const PING: Duration = Duration::from_secs(1);
const PING_TIMEOUT: Bound = (Duration::from_secs(1), 2);
/// Between two attempts at a peer that refuses connections: small beside an election, and a refused connect is cheap.
const RETRY: Duration = Duration::from_millis(100);
/// A snapshot may take this long plus a second for each [`SNAPSHOT_RATE`] bytes.
const SNAPSHOT_BASE: Duration = Duration::from_secs(10);
const SNAPSHOT_RATE: u64 = 4 << 20;
/// Bytes of a snapshot file in one message.
const SNAPSHOT_CHUNK: usize = 256 << 10;
/// Chunks read ahead of the connection.
const SNAPSHOT_READ_AHEAD: usize = 4;
/// Largest message between peers: a page of entries (1 MiB) plus one entry of the largest size anybody configures.
pub(crate) const MAX_MESSAGE: usize = 64 << 20;

/// Names in the metadata of every call but `Hello`.
pub(crate) const CLUSTER: &str = "quorate-cluster";
pub(crate) const TARGET: &str = "quorate-target";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Lane {
    Append,
    Urgent,
    Snapshot,
    Request,
}

type Lines = HashMap<(u64, u64), Arc<Line>>;

/// Channels to peers. Cheap to clone; clones share the connections.
#[derive(Clone)]
pub struct Peers {
    channels: Arc<Mutex<HashMap<(String, Lane), Channel>>>,
    /// Where members are by the membership in force: openraft keeps its clients when a member gets another URL.
    addresses: Arc<Mutex<HashMap<u64, String>>>,
    tls: Option<quorate_tls::Client>,
    /// By cluster and member.
    lines: Arc<Mutex<Lines>>,
    pub(crate) meter: Option<Arc<dyn Meter>>,
    /// The longest that is to be expected; zero on a local network.
    round_trip: Duration,
}

impl Default for Peers {
    fn default() -> Peers {
        Peers::new()
    }
}

/// Hears what goes over the connections to peers: it must not block.
pub trait Meter: Send + Sync + 'static {
    /// A heartbeat was answered.
    fn round_trip(&self, peer: u64, took: Duration);
    /// Entries, or a heartbeat, were sent.
    fn sent(&self, peer: u64, bytes: usize);
    /// Entries, or a heartbeat, came in.
    fn received(&self, peer: u64, bytes: usize);
    /// A stream could not be opened, or a heartbeat stayed without an answer on a connection that is there.
    fn failed(&self, peer: u64, heartbeat: bool);
}

/// Why a question to a peer has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It was never sent: nothing happened there.
    #[error("{0} cannot be reached")]
    Unreachable(String),
    /// The peer refused it unread: a wrong cluster or target, or it is not ready.
    #[error("{0}")]
    Refused(String),
    /// It may have been received, and acted on.
    #[error("{0} did not answer")]
    Lost(String),
}

impl Peers {
    /// No connection yet.
    #[must_use]
    pub fn new() -> Peers {
        Peers {
            channels: Arc::default(),
            addresses: Arc::default(),
            lines: Arc::default(),
            tls: None,
            meter: None,
            round_trip: Duration::ZERO,
        }
    }

    /// The same, for peers whose URLs begin with `https`: each new connection is opened by the certificates of that moment.
    #[must_use]
    pub fn with_tls(tls: quorate_tls::Client) -> Peers {
        Peers { tls: Some(tls), ..Peers::new() }
    }

    /// The same, over a network on which a round trip may take this long. To be said before the first connection.
    #[must_use]
    pub fn over(self, round_trip: Duration) -> Peers {
        Peers { round_trip, ..self }
    }

    /// A bound on this network: that of a local one, or as many of its round trips, whichever is longer.
    #[must_use]
    pub fn patience(&self, (local, round_trips): Bound) -> Duration {
        local.max(self.round_trip * round_trips)
    }

    /// The same connections, with somebody who counts what goes over them.
    #[must_use]
    pub fn metered(mut self, meter: Arc<dyn Meter>) -> Peers {
        self.meter = Some(meter);
        self
    }

    /// Takes over the URLs of the membership in force.
    pub(crate) fn moved<'n>(&self, nodes: impl Iterator<Item = (&'n u64, &'n Node)>) {
        let mut addresses = self.addresses.lock();
        addresses.clear();
        addresses.extend(nodes.map(|(id, node)| (*id, node.url.clone())));
    }

    /// The lane's channel to `url`, connected when first used.
    fn channel(&self, url: &str, lane: Lane) -> Result<Channel, tonic::Status> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(&(url.to_owned(), lane)) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(|error| tonic::Status::invalid_argument(format!("{url} is not a URL: {error}")))?;
        let window = match lane {
            Lane::Append | Lane::Snapshot | Lane::Request => 4 << 20,
            Lane::Urgent => 64 << 10,
        };
        let endpoint = endpoint
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING)
            .keep_alive_timeout(self.patience(PING_TIMEOUT))
            .keep_alive_while_idle(true)
            .initial_stream_window_size(window)
            .initial_connection_window_size(window);
        let connect = self.patience(CONNECT);
        let channel = if url.starts_with("https://") {
            // Its errors are tonic's for a connection that was never there, so that nothing counts as sent.
            endpoint.connect_with_connector_lazy(quorate_tls::Connector::new(
                self.tls.clone(),
                connect,
                self.patience(HANDSHAKE),
            ))
        } else {
            #[cfg(not(quorate_sim))]
            let channel = endpoint.connect_timeout(connect).connect_lazy();
            #[cfg(quorate_sim)]
            let channel = crate::sim::connect_lazy(&endpoint, connect);
            channel
        };
        channels.insert((url.to_owned(), lane), channel.clone());
        Ok(channel)
    }

    /// Introduces this member to whoever listens at `url`.
    pub async fn hello(
        &self,
        url: &str,
        hello: wire::HelloRequest,
        deadline: Duration,
    ) -> Result<wire::HelloResponse, AskError> {
        let channel = self.channel(url, Lane::Request).map_err(|status| refused(url, &status))?;
        let mut client = PeerClient::new(channel);
        match tokio::time::timeout(deadline, client.hello(hello)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(ask_error(url, &status)),
            Err(_) => Err(AskError::Lost(url.to_owned())),
        }
    }

    /// Asks member `target` of cluster `cluster` at `url`.
    pub async fn ask(
        &self,
        cluster: u64,
        target: u64,
        url: &str,
        question: wire::question::Question,
        deadline: Duration,
    ) -> Result<wire::Answer, AskError> {
        self.line(cluster, target, url)?.ask(question, deadline).await
    }

    /// The open line to member `target`, or a new one. Opened by its first question.
    fn line(&self, cluster: u64, target: u64, url: &str) -> Result<Arc<Line>, AskError> {
        let mut lines = self.lines.lock();
        if let Some(line) = lines.get(&(cluster, target))
            && line.leads_to(url)
        {
            return Ok(Arc::clone(line));
        }
        let channel = self.channel(url, Lane::Request).map_err(|status| refused(url, &status))?;
        let client = PeerClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        let setup = self.patience(SETUP);
        let line = Line::open(client, url, setup, |request| address(request, cluster, target));
        lines.insert((cluster, target), Arc::clone(&line));
        Ok(line)
    }
}

fn refused(url: &str, status: &tonic::Status) -> AskError {
    AskError::Refused(format!("{url}: {}", status.message()))
}

pub(crate) fn ask_error(url: &str, status: &tonic::Status) -> AskError {
    if never_connected(status) {
        return AskError::Unreachable(url.to_owned());
    }
    match status.code() {
        // Our own server answers these before it looks at the question.
        tonic::Code::FailedPrecondition | tonic::Code::InvalidArgument | tonic::Code::Unimplemented => {
            refused(url, status)
        }
        _ => AskError::Lost(url.to_owned()),
    }
}

/// True when there was no connection to send anything over.
fn never_connected(status: &tonic::Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Says whom a call is meant for. The receiver refuses what is not meant for it: addresses are re-used, ids are not.
fn address<T>(request: &mut tonic::Request<T>, cluster: u64, target: u64) {
    for (name, value) in [(CLUSTER, cluster), (TARGET, target)] {
        if let Ok(value) = format!("{value:016x}").parse() {
            request.metadata_mut().insert(name, value);
        }
    }
}

/// Makes openraft's clients.
pub(crate) struct NetworkFactory {
    peers: Peers,
    cluster: u64,
    last: Arc<LastConfirmation>,
}

impl NetworkFactory {
    /// For a member of `cluster`.
    #[must_use]
    pub(crate) fn new(peers: Peers, cluster: u64, last: Arc<LastConfirmation>) -> NetworkFactory {
        NetworkFactory { peers, cluster, last }
    }

    fn network(&self, target: u64, node: &Node, lane: Lane) -> Network {
        let (peers, url) = (self.peers.clone(), node.url.clone());
        Network {
            peers,
            cluster: self.cluster,
            last: Arc::clone(&self.last),
            target,
            name: node.name.clone(),
            url,
            lane,
            link: Link::Untried,
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for NetworkFactory {
    type Network = Network;

    async fn new_client(&mut self, target: u64, node: &Node) -> Network {
        self.network(target, node, Lane::Append)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Node) -> Network {
        self.network(target, node, Lane::Urgent)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Node) -> Network {
        self.network(target, node, Lane::Snapshot)
    }
}

/// openraft's view of one peer.
pub(crate) struct Network {
    peers: Peers,
    cluster: u64,
    /// What voters say is kept here.
    last: Arc<LastConfirmation>,
    target: u64,
    name: String,
    url: String,
    /// Where `stream_append` goes; votes and transfers always take the urgent lane.
    lane: Lane,
    link: Link,
}

/// Whether the last append stream could be opened: one log line for each change, not for each attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Untried,
    Up,
    Lost,
}

impl Network {
    fn note<T>(&mut self, opened: &Result<T, RPCError<TypeConfig>>) {
        let now = if opened.is_ok() { Link::Up } else { Link::Lost };
        let before = std::mem::replace(&mut self.link, now);
        if let (Link::Lost, Some(meter)) = (now, &self.peers.meter) {
            meter.failed(self.target, false);
        }
        // Entries and heartbeats go to the same peer: one of them speaks.
        if self.lane != Lane::Append || before == now {
            return;
        }
        match opened {
            Ok(_) if before == Link::Lost => {
                tracing::info!(peer = %self.name, url = %self.url, "peer is back")
            }
            Ok(_) => tracing::debug!(peer = %self.name, url = %self.url, "peer reached"),
            Err(error) => tracing::warn!(peer = %self.name, url = %self.url, %error, "peer lost"),
        }
    }

    fn client(&self, lane: Lane) -> Result<RaftClient<Channel>, RPCError<TypeConfig>> {
        let moved = self.peers.addresses.lock().get(&self.target).cloned();
        let url = moved.as_deref().unwrap_or(&self.url);
        let channel = self.peers.channel(url, lane).map_err(|status| rpc_error(&status))?;
        Ok(RaftClient::new(channel).max_decoding_message_size(MAX_MESSAGE))
    }

    fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        address(&mut request, self.cluster, self.target);
        request
    }
}

fn rpc_error(status: &tonic::Status) -> RPCError<TypeConfig> {
    match status.code() {
        // No connection, or a peer that is not (or no longer) who we mean: back off.
        tonic::Code::Unavailable | tonic::Code::FailedPrecondition => {
            RPCError::Unreachable(Unreachable::from_string(status.message()))
        }
        _ => RPCError::Network(NetworkError::from_string(format!("{}: {}", status.code(), status.message()))),
    }
}

fn malformed(error: &convert::Malformed) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::new(error))
}

/// `call`, ended at `deadline`.
async fn within<T>(
    deadline: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, RPCError<TypeConfig>> {
    match tokio::time::timeout(deadline, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(rpc_error(&status)),
        Err(_) => Err(RPCError::Network(NetworkError::from_string(format!("no answer within {deadline:?}")))),
    }
}

fn append_to_wire(request: &AppendEntriesRequest<TypeConfig>) -> wire::AppendRequest {
    wire::AppendRequest {
        vote: Some(convert::vote_to_wire(&request.vote)),
        previous: request.prev_log_id.as_ref().map(convert::position_to_wire),
        entries: request.entries.iter().map(convert::entry_to_wire).collect(),
        commit: request.leader_commit.as_ref().map(convert::position_to_wire),
    }
}

fn append_from_wire(
    response: wire::AppendResponse,
) -> Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>> {
    use wire::append_response::Result as Wire;
    match response.result {
        Some(Wire::Matched(matched)) => Ok(Ok(matched.at.as_ref().map(convert::position_from_wire))),
        Some(Wire::Conflict(at)) => Ok(Err(StreamAppendError::Conflict(convert::position_from_wire(&at)))),
        Some(Wire::HigherVote(vote)) => {
            let vote = convert::vote_from_wire(Some(&vote)).map_err(|error| malformed(&error))?;
            Ok(Err(StreamAppendError::HigherVote(vote)))
        }
        None => Err(malformed(&convert::Malformed::new("append response"))),
    }
}

fn vote_request_to_wire(request: &VoteRequest<TypeConfig>) -> wire::VoteRequest {
    wire::VoteRequest {
        vote: Some(convert::vote_to_wire(&request.vote)),
        last: request.last_log_id.as_ref().map(convert::position_to_wire),
        leadership_transfer: request.leadership_transfer,
    }
}

fn vote_response_from_wire(
    response: &wire::VoteResponse,
) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
    let vote = convert::vote_from_wire(response.vote.as_ref()).map_err(|error| malformed(&error))?;
    let last = response.last.as_ref().map(convert::position_from_wire);
    Ok(VoteResponse::new(vote, last, response.granted))
}

/// What is under way on one stream.
struct Traffic {
    unanswered: AtomicU64,
    target: u64,
    meter: Option<Arc<dyn Meter>>,
    /// When each request left, on the lane of heartbeats: entries wait for a disk, and their time says nothing of the network.
    left: Option<Mutex<VecDeque<Instant>>>,
}

impl Traffic {
    fn new(network: &Network) -> Traffic {
        let meter = network.peers.meter.clone();
        let is_timed = network.lane == Lane::Urgent && meter.is_some();
        Traffic {
            unanswered: AtomicU64::new(0),
            target: network.target,
            meter,
            left: is_timed.then(Mutex::default),
        }
    }

    fn sent(&self, message: &wire::AppendRequest) {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
        if let Some(meter) = &self.meter {
            meter.sent(self.target, message.encoded_len());
        }
        if let Some(left) = &self.left {
            left.lock().push_back(Instant::now());
        }
    }

    fn answered(&self) {
        self.unanswered.fetch_sub(1, Ordering::Relaxed);
        let left = self.left.as_ref().and_then(|left| left.lock().pop_front());
        if let (Some(meter), Some(left)) = (&self.meter, left) {
            meter.round_trip(self.target, left.elapsed());
        }
    }

    fn is_waiting(&self) -> bool {
        self.unanswered.load(Ordering::Relaxed) > 0
    }
}

impl RaftNetworkV2<TypeConfig> for Network {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let input = futures_util::stream::once(std::future::ready(request));
        let deadline = option.soft_ttl();
        let meter = self.peers.meter.clone().filter(|_| self.lane == Lane::Urgent);
        let target = self.target;
        let mut output = self.stream_append(Box::pin(input), option).await?;
        match tokio::time::timeout(deadline, output.next()).await {
            Ok(Some(result)) => Ok(result?.into()),
            Ok(None) | Err(_) => {
                if let Some(meter) = meter {
                    meter.failed(target, true);
                }
                Err(RPCError::Network(NetworkError::from_string("no answer")))
            }
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        _option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<
            BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>,
            RPCError<TypeConfig>,
        >,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            // Here openraft's pause between attempts happens.
            let Some(first) = input.next().await else {
                let nothing: BoxStream<'s, _> = Box::pin(futures_util::stream::empty());
                return Ok(nothing);
            };
            let traffic = Arc::new(Traffic::new(self));
            let outgoing = Arc::clone(&traffic);
            let requests = futures_util::stream::once(std::future::ready(first)).chain(input);
            let requests = requests.map(move |request| {
                let message = append_to_wire(&request);
                outgoing.sent(&message);
                message
            });
            let mut client = self.client(self.lane)?;
            let opened = within(self.peers.patience(SETUP), client.append(self.request(requests))).await;
            self.note(&opened);
            let responses = opened?;
            let look = self.peers.patience(PROGRESS);
            let answers = futures_util::stream::unfold(Some((responses, traffic)), move |state| async move {
                let (mut responses, traffic) = state?;
                let mut stalled = false;
                loop {
                    match tokio::time::timeout(look, responses.message()).await {
                        Ok(Ok(Some(response))) => {
                            traffic.answered();
                            let answer = append_from_wire(response);
                            let end = !matches!(answer, Ok(Ok(_)));
                            return Some((answer, (!end).then_some((responses, traffic))));
                        }
                        Ok(Ok(None)) => return None,
                        Ok(Err(status)) => return Some((Err(rpc_error(&status)), None)),
                        Err(_) if !traffic.is_waiting() => stalled = false,
                        Err(_) if !stalled => stalled = true,
                        Err(_) => {
                            let error = NetworkError::from_string(format!("no progress for {look:?}"));
                            return Some((Err(RPCError::Network(error)), None));
                        }
                    }
                }
            });
            let answers: BoxStream<'s, _> = Box::pin(answers);
            Ok(answers)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let mut client = self.client(Lane::Urgent)?;
        let call = client.vote(self.request(vote_request_to_wire(&request)));
        let response = within(option.soft_ttl(), call).await?;
        if response.granted {
            let (now, term) = (tokio::time::Instant::now(), request.vote.leader_id.term);
            self.last.voted(now, term, self.target, response.silent_ms.map(Duration::from_millis));
        }
        vote_response_from_wire(&response)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let mut client = self.client(Lane::Urgent)?;
        let call = client.pre_vote(self.request(vote_request_to_wire(&request)));
        vote_response_from_wire(&within(option.soft_ttl(), call).await?)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let path = snapshot.snapshot.path().to_path_buf();
        // The open file stays readable when a newer snapshot replaces it.
        let mut file = File::open(&path).await.map_err(|error| NetworkError::new(&error))?;
        let bytes = file.metadata().await.map_err(|error| NetworkError::new(&error))?.len();
        let header = wire::SnapshotHeader {
            vote: Some(convert::vote_to_wire(&vote)),
            at: snapshot.meta.last_log_id.as_ref().map(convert::position_to_wire),
            membership: Some(convert::stored_membership_to_wire(&snapshot.meta.last_membership)),
        };
        let (send, receive) = tokio::sync::mpsc::channel(SNAPSHOT_READ_AHEAD);
        let reader = async move {
            let chunk = |part| wire::SnapshotChunk { part: Some(part) };
            if send.send(chunk(wire::snapshot_chunk::Part::Header(header))).await.is_err() {
                return Ok(());
            }
            loop {
                let mut data = bytes::BytesMut::with_capacity(SNAPSHOT_CHUNK);
                while data.len() < SNAPSHOT_CHUNK && file.read_buf(&mut data).await? > 0 {}
                if data.is_empty()
                    || send.send(chunk(wire::snapshot_chunk::Part::Data(data.freeze()))).await.is_err()
                {
                    return Ok(());
                }
            }
        };
        let mut client = self.client(Lane::Snapshot).map_err(StreamingError::from)?;
        let deadline = SNAPSHOT_BASE + Duration::from_secs(bytes / SNAPSHOT_RATE);
        let requests = tokio_stream::wrappers::ReceiverStream::new(receive);
        let call = within(deadline, client.snapshot(self.request(requests)));
        let send_all = async {
            let (read, answer): (std::io::Result<()>, _) = tokio::join!(reader, call);
            // A file that ends early is refused by the receiver's checksum; say why here.
            read.map_err(|error| NetworkError::new(&error))?;
            let answer: wire::SnapshotResponse = answer.map_err(StreamingError::from)?;
            let vote =
                convert::vote_from_wire(answer.vote.as_ref()).map_err(|error| NetworkError::new(&error))?;
            Ok(SnapshotResponse::new(vote))
        };
        tokio::select! {
            answer = send_all => answer,
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        use wire::transfer_response::Refused;
        let mut client = self.client(Lane::Urgent)?;
        let message = wire::TransferRequest {
            from: Some(convert::vote_to_wire(request.from_leader())),
            to: *request.to_node_id(),
            last: request.last_log_id().map(convert::position_to_wire),
        };
        let response = within(option.soft_ttl(), client.transfer_leader(self.request(message))).await?;
        Ok(match response.refused {
            None => Ok(()),
            Some(Refused::VoteChanged(changed)) => Err(TransferLeaderError::VoteChanged {
                expected: convert::vote_from_wire(changed.expected.as_ref())
                    .map_err(|error| malformed(&error))?,
                actual: convert::vote_from_wire(changed.actual.as_ref())
                    .map_err(|error| malformed(&error))?,
            }),
            Some(Refused::LogNotFlushed(positions)) => Err(TransferLeaderError::LogNotFlushed {
                expected: positions.expected.as_ref().map(convert::position_from_wire),
                actual: positions.actual.as_ref().map(convert::position_from_wire),
            }),
        })
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(RETRY)))
    }
}
