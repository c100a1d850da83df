//! One watcher of a watch stream: pulls from the store, writes responses, obeys its stream.
//!
//! It is a task of its own so that a watcher that waits, replays a long history or reports its progress stops no other.
//! What it knows about its position comes from the store alone: it reports a revision only when the store says that
//! everything up to there has been taken out, and what was taken out has been written before.
//!
//! There may be a hundred thousand of them, and nearly all wait nearly always. So what a waiting one holds is small:
//! its orders are a flag and a list instead of a queue, timers exist while they run, and the futures that write a
//! response are boxed, that is, there only while one is written.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prost::Message;
use quorate_node::{Handle, WatchItem, Watcher};
use quorate_state::Revision;
use quorate_wire::etcdserverpb::WatchResponse;
use quorate_wire::mvccpb::Event;
use tokio::sync::{Notify, oneshot};
use tokio::time::Sleep;

use crate::responses::Responses;
use crate::{convert, header, status};

/// How often a watcher that lags looks again whether it has caught up, while somebody waits for its report. The store
/// wakes it for events only, and catching up may pass over none.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What a stream asks of one watcher.
#[derive(Default)]
pub(crate) struct Orders {
    pending: Mutex<Pending>,
    given: Notify,
}

#[derive(Default)]
struct Pending {
    cancel: bool,
    reports: Vec<oneshot::Sender<Revision>>,
    ended: bool,
}

impl Orders {
    /// End with `canceled`.
    pub(crate) fn cancel(&self) {
        self.pending.lock().cancel = true;
        self.given.notify_one();
    }

    /// Say how far everything has been delivered, as soon as it is. A watcher that ends first never does: the sender is
    /// dropped.
    pub(crate) fn report(&self, report: oneshot::Sender<Revision>) {
        let mut pending = self.pending.lock();
        if !pending.ended {
            pending.reports.push(report);
            self.given.notify_one();
        }
    }

    /// The watcher writes nothing any more.
    pub(crate) fn is_ended(&self) -> bool {
        self.pending.lock().ended
    }
}

/// See the module.
pub(crate) struct WatcherTask {
    pub(crate) id: i64,
    pub(crate) start_revision: Revision,
    pub(crate) watcher: Watcher,
    pub(crate) handle: Handle,
    pub(crate) responses: Responses,
    pub(crate) orders: Arc<Orders>,
    /// Some: an empty response when nothing else was sent for so long.
    pub(crate) notify_every: Option<Duration>,
    /// Some: a response over this size is split.
    pub(crate) fragment_bytes: Option<usize>,
}

impl Drop for WatcherTask {
    fn drop(&mut self) {
        let mut pending = self.orders.pending.lock();
        pending.ended = true;
        pending.reports.clear();
    }
}

/// A timer that may not be there.
type Timer = Option<Pin<Box<Sleep>>>;

fn timer(after: Option<Duration>) -> Timer {
    after.map(|after| Box::pin(tokio::time::sleep(after)))
}

async fn rung(timer: &mut Timer) {
    match timer {
        Some(timer) => timer.as_mut().await,
        None => std::future::pending().await,
    }
}

/// What a watcher has to do next.
enum Step {
    Item(Option<WatchItem>),
    Obey,
    Notify,
    LookAgain,
}

impl WatcherTask {
    /// Returns its id.
    pub(crate) async fn run(mut self) -> i64 {
        let mut waiting: Vec<oneshot::Sender<Revision>> = Vec::new();
        // Nothing was sent since the last tick.
        let mut quiet = true;
        // A tenth of jitter spreads the watchers that were created together (etcd, `v3rpc/watch.go`).
        let period = self.notify_every.map(|every| every + every.mul_f64(jitter(self.id) / 10.0));
        let mut notify = timer(period);
        loop {
            if !waiting.is_empty()
                && let Some(revision) = self.progress()
            {
                for report in waiting.drain(..) {
                    // A stream that no longer asks is no concern of ours.
                    let _ = report.send(revision);
                }
            }
            let mut again = timer((!waiting.is_empty()).then_some(LOOK_AGAIN));
            let step = tokio::select! {
                item = self.watcher.next() => Step::Item(item),
                () = self.orders.given.notified() => Step::Obey,
                () = rung(&mut notify) => Step::Notify,
                () = rung(&mut again) => Step::LookAgain,
            };
            let written = match step {
                Step::Item(Some(WatchItem::Events { events, revision })) => {
                    quiet = false;
                    let events = events.into_iter().map(convert::event).collect();
                    Box::pin(self.deliver(events, revision)).await
                }
                Step::Item(Some(WatchItem::Compacted { revision })) => {
                    Box::pin(self.cancel(0, revision)).await;
                    return self.id;
                }
                Step::Item(None) => {
                    // The member has stopped: the whole stream ends.
                    let _ = Box::pin(self.responses.send(Err(status::STOPPED.into()))).await;
                    return self.id;
                }
                Step::Obey => {
                    let cancel = {
                        let mut pending = self.orders.pending.lock();
                        waiting.append(&mut pending.reports);
                        pending.cancel
                    };
                    if cancel {
                        Box::pin(self.cancel(self.handle.header().revision, 0)).await;
                        return self.id;
                    }
                    true
                }
                Step::Notify => {
                    notify = timer(period);
                    let silent = std::mem::replace(&mut quiet, true);
                    match self.progress() {
                        Some(revision) if silent => Box::pin(self.send(revision, Vec::new(), false)).await,
                        Some(_) | None => true,
                    }
                }
                Step::LookAgain => true,
            };
            if !written {
                return self.id;
            }
        }
    }

    /// None while it lags, and also while the store has not reached the revision it waits for: a promise about revisions
    /// before its start would be kept, but a client would resume from there and see what it did not ask for (etcd's
    /// issue 20221).
    fn progress(&self) -> Option<Revision> {
        self.watcher.progress().filter(|revision| *revision + 1 >= self.start_revision)
    }

    /// False when nobody reads any more.
    async fn deliver(&self, events: Vec<Event>, revision: Revision) -> bool {
        let Some(limit) = self.fragment_bytes else { return self.send(revision, events, false).await };
        let mut parts = fragments(events, limit).into_iter().peekable();
        while let Some(part) = parts.next() {
            if !self.send(revision, part, parts.peek().is_some()).await {
                return false;
            }
        }
        true
    }

    async fn send(&self, revision: Revision, events: Vec<Event>, fragment: bool) -> bool {
        let response = WatchResponse {
            header: Some(header::at(self.handle.header(), revision)),
            watch_id: self.id,
            fragment,
            events,
            ..WatchResponse::default()
        };
        self.responses.send(Ok(response)).await.is_ok()
    }

    async fn cancel(&self, revision: Revision, compact_revision: Revision) {
        let response = WatchResponse {
            header: Some(header::at(self.handle.header(), revision)),
            watch_id: self.id,
            canceled: true,
            compact_revision,
            ..WatchResponse::default()
        };
        // The task ends here, whether anybody reads it or not.
        let _ = self.responses.send(Ok(response)).await;
    }
}

/// From 0 to 1, the same for the same watcher: it has to spread, not to surprise.
fn jitter(id: i64) -> f64 {
    // The golden ratio's fraction spreads consecutive numbers evenly.
    (id as f64 * 0.618_033_988_749_894_9).rem_euclid(1.0)
}

/// The events in runs of at most `limit` encoded bytes each, or one event alone where it is larger.
fn fragments(events: Vec<Event>, limit: usize) -> Vec<Vec<Event>> {
    let mut parts = Vec::new();
    let mut part = Vec::new();
    let mut bytes = 0;
    for event in events {
        let size = event.encoded_len();
        if bytes + size > limit && !part.is_empty() {
            parts.push(std::mem::take(&mut part));
            bytes = 0;
        }
        bytes += size;
        part.push(event);
    }
    if !part.is_empty() {
        parts.push(part);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_wire::mvccpb::KeyValue;

    fn event(size: usize) -> Event {
        let kv = KeyValue { value: vec![0; size].into(), ..KeyValue::default() };
        Event { kv: Some(kv), ..Event::default() }
    }

    fn sizes(parts: &[Vec<Event>]) -> Vec<usize> {
        parts.iter().map(Vec::len).collect()
    }

    #[test]
    fn what_fits_stays_together() {
        let events = vec![event(100); 5];
        assert_eq!(sizes(&fragments(events, 10_000)), [5]);
    }

    #[test]
    fn a_run_ends_before_the_limit() {
        let one = event(100).encoded_len();
        assert_eq!(sizes(&fragments(vec![event(100); 5], 2 * one)), [2, 2, 1]);
        assert_eq!(sizes(&fragments(vec![event(100); 4], 2 * one)), [2, 2]);
    }

    #[test]
    fn an_event_over_the_limit_goes_alone() {
        assert_eq!(sizes(&fragments(vec![event(10), event(500), event(10)], 100)), [1, 1, 1]);
        assert!(fragments(Vec::new(), 100).is_empty());
    }

    #[test]
    fn jitter_spreads_and_stays_in_its_bounds() {
        let spread: Vec<f64> = (0..100).map(jitter).collect();
        assert!(spread.iter().all(|value| (0.0..1.0).contains(value)));
        assert!(spread.iter().any(|value| *value < 0.1) && spread.iter().any(|value| *value > 0.9));
        assert!((0.0..1.0).contains(&jitter(i64::MIN)));
    }
}
