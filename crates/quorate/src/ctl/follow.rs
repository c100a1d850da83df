//! The two streams that outlive an endpoint: a watch and the renewals of a lease.
//!
//! When the endpoint goes away they go on at the next one. A watch does so from the revision after the last event it has
//! handed out: nothing is missed and nothing is shown twice. Renewals do so as long as the lease can still be alive.

use std::time::Duration;

use quorate_wire::etcdserverpb::watch_request::RequestUnion;
use quorate_wire::etcdserverpb::{
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, WatchCreateRequest, WatchProgressRequest, WatchRequest,
    WatchResponse,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Code, Request, Status, Streaming};

use super::Failure;
use super::store::{Store, is_lost, sentence};

/// Between two attempts to find an endpoint.
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);
/// Requests on their way: one creates the watch, others ask for its progress.
const REQUESTS: usize = 16;

/// A watch on one range.
pub struct Watcher {
    store: Store,
    create: WatchCreateRequest,
    stream: Option<(mpsc::Sender<WatchRequest>, Streaming<WatchResponse>)>,
    begun: bool,
    /// Asked for before there was a stream to ask on.
    progress: bool,
}

impl Watcher {
    /// Nothing is asked before [`Watcher::next`].
    #[must_use]
    pub fn new(store: &Store, create: WatchCreateRequest) -> Watcher {
        Watcher { store: store.clone(), create, stream: None, begun: false, progress: false }
    }

    /// The next batch of events, notice of progress, or cancellation (after which there is nothing more). A call that is
    /// dropped loses nothing.
    ///
    /// # Errors
    /// The store cannot be reached at the beginning, or refuses.
    pub async fn next(&mut self) -> Result<WatchResponse, Failure> {
        loop {
            let Some((_, answers)) = &mut self.stream else {
                self.open().await?;
                continue;
            };
            let response = match answers.message().await {
                Ok(Some(response)) => response,
                Ok(None) => {
                    self.lost().await;
                    continue;
                }
                Err(status) if is_final(&status, &self.store) => return Err(Failure::new(sentence(&status))),
                Err(_) => {
                    self.lost().await;
                    continue;
                }
            };
            let revision = response.header.as_ref().map_or(0, |header| header.revision);
            if response.canceled {
                return Ok(response);
            }
            if response.created {
                self.begun = true;
                // From now on means from this moment, also after a change of the endpoint.
                if self.create.start_revision == 0 {
                    self.create.start_revision = revision + 1;
                }
                if self.progress {
                    self.request_progress();
                }
                continue;
            }
            let last = response.events.iter().filter_map(|event| event.kv.as_ref()).map(|kv| kv.mod_revision);
            if let Some(last) = last.max() {
                self.create.start_revision = self.create.start_revision.max(last + 1);
            }
            return Ok(response);
        }
    }

    /// Asks how far the watch is; the answer comes from [`Watcher::next`].
    pub fn request_progress(&mut self) {
        let request = RequestUnion::ProgressRequest(WatchProgressRequest {});
        self.progress = self.stream.is_none();
        if let Some((requests, _)) = &self.stream {
            // Whoever asks faster than the store answers is answered once.
            let _ = requests.try_send(WatchRequest { request_union: Some(request) });
        }
    }

    async fn open(&mut self) -> Result<(), Failure> {
        let connection = match self.store.any().await {
            Ok(connection) => connection,
            Err(failure) if !self.begun => return Err(failure),
            // It was there a moment ago: an outage is what one watches through.
            Err(_) => {
                tokio::time::sleep(RECONNECT_PAUSE).await;
                return Ok(());
            }
        };
        let (requests, receiver) = mpsc::channel(REQUESTS);
        let create = RequestUnion::CreateRequest(self.create.clone());
        // The channel is empty; it is kept open, because closing it ends the watch.
        let _ = requests.try_send(WatchRequest { request_union: Some(create) });
        let mut request = Request::new(ReceiverStream::new(receiver));
        // A member without a leader says so instead of leaving the watch in the dark.
        request.metadata_mut().insert("hasleader", AsciiMetadataValue::from_static("true"));
        match timeout(self.store.timeout(), connection.watch().watch(request)).await {
            Ok(Ok(answers)) => self.stream = Some((requests, answers.into_inner())),
            Ok(Err(status)) if is_final(&status, &self.store) => return Err(Failure::new(sentence(&status))),
            Ok(Err(_)) | Err(_) => self.lost().await,
        }
        Ok(())
    }

    async fn lost(&mut self) {
        self.stream = None;
        self.store.forget();
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

/// Whether asking again would bring the same (clientv3 halts a stream unless the code is Unavailable or Internal). A token
/// that is not known any more is replaced, where there is a user to ask for another.
fn is_final(status: &Status, store: &Store) -> bool {
    match status.code() {
        Code::Unavailable | Code::Internal => false,
        Code::Unauthenticated => !store.has_user(),
        _ => !is_lost(status),
    }
}

/// The renewals of one lease, three in every ttl.
pub struct Renewals {
    store: Store,
    lease: i64,
    stream: Option<(mpsc::Sender<LeaseKeepAliveRequest>, Streaming<LeaseKeepAliveResponse>)>,
    next: Instant,
    /// Nothing may be known of the lease after this.
    deadline: Instant,
}

impl Renewals {
    /// `ttl` is what is known of it before the first answer.
    #[must_use]
    pub fn new(store: &Store, lease: i64, ttl: Duration) -> Renewals {
        let now = Instant::now();
        Renewals { store: store.clone(), lease, stream: None, next: now, deadline: now + ttl }
    }

    /// Waits until the next renewal is due, renews, and hands out the answer. None when the lease is gone.
    ///
    /// # Errors
    /// The store cannot be reached for as long as the lease lasts, or refuses.
    pub async fn next(&mut self) -> Result<Option<LeaseKeepAliveResponse>, Failure> {
        sleep_until(self.next).await;
        loop {
            match timeout_at(self.deadline, self.renew()).await {
                Err(_) => return Ok(None),
                Ok(Ok(Some(response))) if response.ttl <= 0 => return Ok(None),
                Ok(Ok(Some(response))) => {
                    let now = Instant::now();
                    let ttl = Duration::from_secs(u64::try_from(response.ttl).unwrap_or_default());
                    (self.next, self.deadline) = (now + ttl / 3, now + ttl);
                    return Ok(Some(response));
                }
                Ok(Ok(None)) => {}
                Ok(Err(status)) if is_final(&status, &self.store) => {
                    return Err(Failure::new(sentence(&status)));
                }
                Ok(Err(_)) => {}
            }
            self.stream = None;
            self.store.forget();
            if Instant::now() >= self.deadline {
                return Ok(None);
            }
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    }

    async fn renew(&mut self) -> Result<Option<LeaseKeepAliveResponse>, Status> {
        if self.stream.is_none() {
            let Ok(connection) = self.store.any().await else { return Ok(None) };
            let (requests, receiver) = mpsc::channel(1);
            let _ = requests.try_send(LeaseKeepAliveRequest { id: self.lease });
            let answers = connection.lease().lease_keep_alive(ReceiverStream::new(receiver)).await?;
            self.stream = Some((requests, answers.into_inner()));
        } else if let Some((requests, _)) = &self.stream
            && requests.send(LeaseKeepAliveRequest { id: self.lease }).await.is_err()
        {
            return Ok(None);
        }
        match &mut self.stream {
            Some((_, answers)) => answers.message().await,
            None => Ok(None),
        }
    }
}
