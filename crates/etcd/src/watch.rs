//! `etcdserverpb.Watch`: many watchers on one stream.
//!
//! # The model
//!
//! ```text
//!   requests ─► stream task ── one per watch stream: numbers watchers, creates, cancels, asks for progress
//!                  │   ▲
//!           Orders │   │ joined when it ended
//!                  ▼   │
//!               watcher task ── one per watcher: pulls from the store, writes responses
//!                  │
//!                  ▼
//!               responses ── one bounded queue, in the order written ─► the client
//! ```
//!
//! The queue is the only way out, so the order of messages on the wire is the order in which they were put there.
//! A client that does not read fills it, its watchers stop pulling, and the store feeds them from history later: nothing
//! is dropped and nothing piles up here.
//!
//! # What a client may rely on
//!
//! 1. `created` is the first message of a watcher, written by the stream task before the watcher's task exists; several
//!    creations are answered in their order.
//! 2. The revision in `created` is where it starts: a watch from "now" delivers everything after exactly that revision.
//! 3. A creation that fails is answered with `created` and `canceled`, a reason and the id -1, and spoils nothing else.
//! 4. After `canceled` no message of that watcher follows, and before it no message of another one with the same id. An
//!    unknown id is ignored.
//! 5. A history that is gone: `created`, then `canceled` with `compact_revision`; the header's revision is 0.
//! 6. An answer to a progress request has the id -1 and is written when every watcher of the stream has delivered
//!    everything up to its revision: each watcher writes its events before it reports, so events cannot come behind the
//!    promise (etcd once had it the other way round: its issue 15220), and a promise that a newer event has overtaken
//!    is not written but asked for again (`responses.rs`), so the last message of a stream is never behind one before.
//! 7. Whether a client may read the range is looked at when the watch is created, and not again (etcd's rule): a watch goes
//!    on when the permission is taken back or the token ends.
//! 8. A stream ends only with `Unavailable`: the member stops, or it has no leader and the client asked for one.
//!
//! Sources: etcd, `server/etcdserver/api/v3rpc/watch.go`, `server/storage/mvcc/watcher.go`, `watchable_store.go`.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt, join_all};
use futures_util::{Stream, StreamExt};
use quorate_node::{Handle, WatchSpec};
use quorate_state::Revision;
use quorate_wire::etcdserverpb::watch_server::Watch;
use quorate_wire::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchRequest, WatchResponse, watch_create_request, watch_request,
};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::context::{Context, requires_leader};
use crate::responses::{ClientGone, Promise, Responses};
use crate::watcher::{Orders, WatcherTask};
use crate::{header, status, validate};

/// Watchers of one stream. etcd has no limit; without one a single connection could take all memory.
const WATCHERS_PER_STREAM: usize = 100_000;

/// The id of an answer that belongs to no watcher (etcd, `client/v3/watch.go`, `InvalidWatchID`).
const NO_WATCHER: i64 = -1;

/// Beyond the request limit a response may be this much larger before it is split (etcd, `embed/config.go`).
pub(crate) const FRAGMENT_ALLOWANCE: usize = 512 * 1024;

/// How often a promise may be overtaken by an event before the request for it is dropped. Reports are gathered in far less than
/// the time between two events, so this is reached by a stream only whose watchers are never at one revision together;
/// etcd answers none of those either, and clients ask again.
const OVERTAKEN: u32 = 1_000;

/// The service.
pub(crate) struct WatchService(pub(crate) Arc<Context>);

#[tonic::async_trait]
impl Watch for WatchService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.0.admit(request.metadata())?;
        let leaderless = self.0.leaderless(requires_leader(request.metadata())).boxed();
        let (responses, queue) = Responses::new();
        let stream = WatchStream {
            context: self.0.clone(),
            caller: self.0.caller(&request),
            responses,
            watchers: HashMap::new(),
            leaving: HashMap::new(),
            tasks: JoinSet::new(),
            next_id: 0,
            progress: None,
            overtaken: 0,
        };
        // Ends with the client: its going away closes the queue, which every sender notices.
        tokio::spawn(stream.run(request.into_inner(), leaderless));
        Ok(Response::new(Box::pin(ReceiverStream::new(queue))))
    }
}

/// The stream task's own state.
struct WatchStream {
    context: Arc<Context>,
    /// A handle that acts for the client.
    caller: Handle,
    responses: Responses,
    watchers: HashMap<i64, Arc<Orders>>,
    /// Cancelled, and perhaps not done writing: their numbers are not free yet.
    leaving: HashMap<i64, Arc<Orders>>,
    tasks: JoinSet<i64>,
    next_id: i64,
    /// One at a time: a request that arrives while another waits is answered by the same message.
    progress: Option<BoxFuture<'static, Option<Revision>>>,
    /// How often the answer to this request was too late.
    overtaken: u32,
}

/// The answer of a pending progress request. Not called without one; without one it would wait for ever.
async fn answered(progress: &mut Option<BoxFuture<'static, Option<Revision>>>) -> Option<Revision> {
    match progress {
        Some(progress) => progress.await,
        None => std::future::pending().await,
    }
}

impl WatchStream {
    async fn run(mut self, mut requests: Streaming<WatchRequest>, mut leaderless: BoxFuture<'static, ()>) {
        let stopped = self.context.stopped().shared();
        let mut requests_ended = false;
        let last = loop {
            let gone = self.responses.clone();
            tokio::select! {
                biased;
                () = gone.closed() => return,
                () = stopped.clone() => break Some(status::STOPPED),
                () = &mut leaderless => break Some(status::NO_LEADER),
                Some(ended) = self.tasks.join_next() => self.left(ended),
                revision = answered(&mut self.progress), if self.progress.is_some() => {
                    self.progress = None;
                    // None: the watchers that were asked have all ended since.
                    let revision = revision.unwrap_or_else(|| self.context.handle.header().revision);
                    match self.promise(revision).await {
                        Err(ClientGone) => return,
                        Ok(Promise::Overtaken) if self.overtaken < OVERTAKEN => {
                            self.overtaken += 1;
                            self.ask_progress();
                        }
                        Ok(Promise::Written | Promise::Overtaken) => self.overtaken = 0,
                    }
                }
                request = requests.next(), if !requests_ended => match request {
                    Some(Ok(request)) => {
                        if self.accept(request).await.is_err() {
                            return;
                        }
                    }
                    // A half-closed stream goes on: the client has said all it wanted and listens.
                    None => requests_ended = true,
                    // A message that cannot be taken is the client's to know. If it has gone, nobody listens.
                    Some(Err(status)) => {
                        self.tasks.shutdown().await;
                        let _ = self.responses.send(Err(status)).await;
                        return;
                    }
                },
            }
        };
        if let Some(reason) = last {
            // The watchers first, so that this is the last item; then whatever room the queue has.
            self.tasks.shutdown().await;
            let _ = self.responses.send(Err(reason.into())).await;
        }
    }

    async fn accept(&mut self, request: WatchRequest) -> Result<(), ClientGone> {
        use watch_request::RequestUnion;
        match request.request_union {
            Some(RequestUnion::CreateRequest(request)) => self.create(request).await,
            Some(RequestUnion::CancelRequest(WatchCancelRequest { watch_id })) => {
                if let Some(watcher) = self.watchers.remove(&watch_id) {
                    // Its task writes `canceled` behind what it has written; it may just have ended by itself.
                    watcher.cancel();
                    if !watcher.is_ended() {
                        self.leaving.insert(watch_id, watcher);
                    }
                }
                Ok(())
            }
            Some(RequestUnion::ProgressRequest(_)) => {
                self.ask_progress();
                Ok(())
            }
            // etcd ignores what it does not know.
            None => Ok(()),
        }
    }

    async fn create(&mut self, request: WatchCreateRequest) -> Result<(), ClientGone> {
        let now = header::full(self.context.handle.header());
        let refused = |reason: &str| WatchResponse {
            header: Some(now),
            watch_id: NO_WATCHER,
            created: true,
            canceled: true,
            cancel_reason: reason.to_owned(),
            ..WatchResponse::default()
        };
        let key = if request.key.is_empty() { validate::FROM_KEY.into() } else { request.key };
        let timeout = self.context.options.request_timeout;
        if let Err(error) = self.caller.check_read(&key, &request.range_end, timeout).await {
            return self.send(refused(&status::of_read(&error).as_go_prints_it())).await;
        }
        let id = match self.number(request.watch_id) {
            Ok(id) => id,
            Err(reason) => return self.send(refused(reason)).await,
        };
        if validate::is_empty_range(&key, &request.range_end) {
            return self.send(refused(status::WATCH_EMPTY_RANGE)).await;
        }
        if request.start_revision < 0 {
            return self.send(refused(status::COMPACTED.text())).await;
        }
        let filtered = |filter: watch_create_request::FilterType| request.filters.contains(&(filter as i32));
        // "From now on" is made exact here: after the revision that `created` names, not after the one at which
        // the store gets to register the watch.
        let start_revision =
            if request.start_revision == 0 { now.revision + 1 } else { request.start_revision };
        let spec = WatchSpec {
            key,
            range_end: request.range_end,
            start_revision,
            prev_kv: request.prev_kv,
            no_put: filtered(watch_create_request::FilterType::Noput),
            no_delete: filtered(watch_create_request::FilterType::Nodelete),
        };
        self.farewell(id).await?;
        self.send(WatchResponse {
            header: Some(now),
            watch_id: id,
            created: true,
            ..WatchResponse::default()
        })
        .await?;
        let orders = Arc::new(Orders::default());
        let options = &self.context.options;
        let task = WatcherTask {
            id,
            start_revision,
            watcher: self.caller.watch(spec),
            handle: self.context.handle.clone(),
            responses: self.responses.clone(),
            orders: Arc::clone(&orders),
            notify_every: request.progress_notify.then_some(options.progress_interval),
            fragment_bytes: request.fragment.then_some(options.max_request_bytes + FRAGMENT_ALLOWANCE),
        };
        self.watchers.insert(id, orders);
        self.tasks.spawn(task.run());
        Ok(())
    }

    /// The client's number if it brings one, else the next that is free.
    fn number(&mut self, wanted: i64) -> Result<i64, &'static str> {
        if self.watchers.len() >= WATCHERS_PER_STREAM {
            return Err("quorate: too many watchers on one stream");
        }
        let taken = |id: &i64| self.watchers.get(id).is_some_and(|watcher| !watcher.is_ended());
        if wanted != 0 {
            return if taken(&wanted) { Err(status::WATCH_DUPLICATE_ID) } else { Ok(wanted) };
        }
        let mut id = self.next_id;
        while taken(&id) || self.leaving.contains_key(&id) {
            id += 1;
        }
        self.next_id = id + 1;
        Ok(id)
    }

    /// A watcher's task has ended.
    fn left(&mut self, ended: Result<i64, tokio::task::JoinError>) {
        let Ok(id) = ended else { return };
        // The number may already belong to a newer watcher.
        for watchers in [&mut self.watchers, &mut self.leaving] {
            if watchers.get(&id).is_some_and(|watcher| watcher.is_ended()) {
                watchers.remove(&id);
            }
        }
    }

    /// Waits until a cancelled watcher has written its last message, if its number is given to another one: on the wire
    /// nothing of the old one may come after `created` of the new one.
    async fn farewell(&mut self, id: i64) -> Result<(), ClientGone> {
        while self.leaving.get(&id).is_some_and(|watcher| !watcher.is_ended()) {
            let gone = self.responses.clone();
            tokio::select! {
                () = gone.closed() => return Err(ClientGone),
                () = self.context.stopped() => return Ok(()),
                Some(ended) = self.tasks.join_next() => self.left(ended),
            }
        }
        self.leaving.remove(&id);
        Ok(())
    }

    fn ask_progress(&mut self) {
        if self.progress.is_some() {
            return;
        }
        let mut reports = Vec::with_capacity(self.watchers.len());
        for watcher in self.watchers.values() {
            let (report, reported) = oneshot::channel();
            watcher.report(report);
            reports.push(reported);
        }
        // A watcher that ends meanwhile has nothing more to deliver and holds nobody back.
        let slowest = join_all(reports).map(|reports| reports.into_iter().filter_map(Result::ok).min());
        self.progress = Some(slowest.boxed());
    }

    /// To the stream as a whole.
    async fn promise(&mut self, revision: Revision) -> Result<Promise, ClientGone> {
        let header = header::at(self.context.handle.header(), revision);
        let response =
            WatchResponse { header: Some(header), watch_id: NO_WATCHER, ..WatchResponse::default() };
        self.responses.promise(revision, response).await
    }

    async fn send(&mut self, response: WatchResponse) -> Result<(), ClientGone> {
        self.responses.send(Ok(response)).await
    }
}
