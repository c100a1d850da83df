//! What is different in a simulation (`--cfg quorate_sim`): the network is turmoil's, the dice are seeded, and nothing depends on
//! how fast a thread is.
//!
//! The log's writer and the apply thread stay threads; whoever asks them for something stands still until they have done it, so
//! that a schedule is one sequence of steps again. Everything else is the code that runs in production.

use std::future::Future as _;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use openraft::EntryPayload;
use quorate_storage::LogOptions;
/// Disks that fail on request.
pub use quorate_storage::sim as disk;
/// Rules that are broken on purpose.
pub use quorate_storage::sim::{Rule, break_rule, broken};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Uri};
use turmoil::net::{TcpListener, TcpStream};

use crate::types::{Entry, Snapshot};

/// Between two looks at a thread.
const LOOK: Duration = Duration::from_micros(20);

/// openraft's runtime with seeded dice.
pub(crate) type Runtime = openraft_rt::deterministic_rng::DeterministicRng<openraft_rt_tokio::TokioRuntime>;

/// Runs `schedule`, and every member that it steps, with dice of `seed`.
///
/// # Panics
/// Never: the schedule awaits nothing itself.
pub fn seeded<T>(seed: u64, schedule: impl FnOnce() -> T) -> T {
    fastrand::seed(seed);
    let scope = std::pin::pin!(Runtime::scope(seed, async { schedule() }));
    match scope.poll(&mut Context::from_waker(std::task::Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => unreachable!("it awaits nothing"),
    }
}

/// The database is in memory: every start rebuilds it from snapshot and log, which is what a power cut leaves of it.
pub(crate) const IN_MEMORY: bool = true;

/// Small segments, so that a short run has many.
pub(crate) fn log_options(options: LogOptions) -> LogOptions {
    LogOptions { segment_bytes: 256 << 10, ..options }
}

/// Waits for `answer` without letting anybody else run.
pub(crate) fn stand_still<T>(mut answer: oneshot::Receiver<T>) -> oneshot::Receiver<T> {
    loop {
        match answer.try_recv() {
            Ok(value) => {
                let (send, receive) = oneshot::channel();
                let _ = send.send(value); // the receiver is here
                return receive;
            }
            Err(oneshot::error::TryRecvError::Empty) => std::thread::sleep(LOOK),
            Err(oneshot::error::TryRecvError::Closed) => return answer,
        }
    }
}

/// What is applied as one batch; if that rule is broken, sorted by its bytes instead of by its indices.
pub(crate) fn perhaps_in_another_order<R>(mut chunk: Vec<(Entry, R)>) -> Vec<(Entry, R)> {
    if broken(Rule::OrderOfItsOwn) {
        chunk.sort_by_key(|(entry, _)| match &entry.payload {
            EntryPayload::Normal(proposal) => proposal.bytes(),
            EntryPayload::Blank | EntryPayload::Membership(_) => Bytes::new(),
        });
    }
    chunk
}

/// The snapshot to install; if that rule is broken, the one that was `held` until now.
pub(crate) fn perhaps_an_older(newest: PathBuf, held: Option<&Snapshot>) -> PathBuf {
    match held.filter(|_| broken(Rule::StaleSnapshot)) {
        Some(held) if held.snapshot.path().is_file() => held.snapshot.path().to_path_buf(),
        Some(_) | None => newest,
    }
}

/// A channel over the simulated network.
pub(crate) fn connect_lazy(endpoint: &Endpoint, within: Duration) -> Channel {
    let connector = tower::service_fn(move |uri: Uri| async move {
        let address = format!("{}:{}", uri.host().unwrap_or_default(), uri.port_u16().unwrap_or_default());
        let connected = tokio::time::timeout(within, TcpStream::connect(address)).await;
        let stream = connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok::<_, io::Error>(hyper_util::rt::TokioIo::new(stream))
    });
    endpoint.connect_with_connector_lazy(connector)
}

/// A file that is read and written while everybody stands still.
pub(crate) struct File(std::fs::File);

impl File {
    pub(crate) async fn open(path: &Path) -> io::Result<File> {
        std::fs::File::open(path).map(File)
    }

    pub(crate) async fn create(path: &Path) -> io::Result<File> {
        std::fs::File::create(path).map(File)
    }

    pub(crate) async fn metadata(&self) -> io::Result<std::fs::Metadata> {
        self.0.metadata()
    }
}

impl AsyncRead for File {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = (&self.0).read(buffer.initialize_unfilled())?;
        buffer.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for File {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready((&self.0).write(bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Connections as they come in.
pub(crate) fn incoming(listener: TcpListener) -> impl Stream<Item = io::Result<Incoming>> {
    futures_util::stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.map(|(stream, _)| Incoming(stream));
        Some((accepted, listener))
    })
}

/// A connection as tonic's server takes it.
pub(crate) struct Incoming(TcpStream);

impl Connected for Incoming {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Incoming {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Incoming {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
