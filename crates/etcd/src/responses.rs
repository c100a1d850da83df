//! The way out of one watch stream: a bounded queue, and what a promise needs to know about it.
//!
//! The answer to a progress request says "everything up to R has been delivered", for all watchers of the stream at once.
//! It is made of the watchers' reports, and between a report and the answer a watcher may write a newer event. The promise
//! would still be true, but it would come behind an event that lies beyond it: a client that takes its position from the last
//! message (as Kubernetes' watch cache does) would go back. etcd cannot do that, since it writes both under one lock.
//!
//! So the queue knows the highest revision of which an event went in, and a promise below it is not written. The lock is held
//! for the write alone: room in the queue is waited for before.

use std::sync::Arc;

use parking_lot::Mutex;
use quorate_state::Revision;
use quorate_wire::etcdserverpb::WatchResponse;
use tokio::sync::mpsc;
use tonic::Status;

/// Responses written and not yet taken by the connection. Small: each may hold many events, and what waits here
/// cannot be taken back. The connection has buffers of its own.
const WAITING_RESPONSES: usize = 16;

/// What the connection takes from.
pub(crate) type Queue = mpsc::Receiver<Result<WatchResponse, Status>>;

/// Nobody reads the responses any more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClientGone;

/// Whether a promise was written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    Written,
    /// An event beyond it had been written first.
    Overtaken,
}

/// Cheap to clone: one for each watcher of the stream.
#[derive(Clone)]
pub(crate) struct Responses {
    queue: mpsc::Sender<Result<WatchResponse, Status>>,
    /// The highest revision of an event in the queue or taken from it. Written to together with the queue.
    newest: Arc<Mutex<Revision>>,
}

impl Responses {
    pub(crate) fn new() -> (Responses, Queue) {
        let (queue, taken) = mpsc::channel(WAITING_RESPONSES);
        (Responses { queue, newest: Arc::default() }, taken)
    }

    /// Behind everything that was written before; waits for room.
    pub(crate) async fn send(&self, item: Result<WatchResponse, Status>) -> Result<(), ClientGone> {
        let room = self.queue.reserve().await.map_err(|_| ClientGone)?;
        let events = item.as_ref().map_or(&[][..], |response| &response.events);
        let last = events.last().and_then(|event| event.kv.as_ref()).map_or(0, |kv| kv.mod_revision);
        let mut newest = self.newest.lock();
        *newest = last.max(*newest);
        room.send(item);
        Ok(())
    }

    /// Writes a promise about `revision`, unless an event beyond it went in before.
    pub(crate) async fn promise(
        &self,
        revision: Revision,
        response: WatchResponse,
    ) -> Result<Promise, ClientGone> {
        let room = self.queue.reserve().await.map_err(|_| ClientGone)?;
        let newest = self.newest.lock();
        if *newest > revision {
            return Ok(Promise::Overtaken);
        }
        room.send(Ok(response));
        Ok(Promise::Written)
    }

    /// When nobody takes from the queue any more.
    pub(crate) async fn closed(&self) {
        self.queue.closed().await;
    }
}

#[cfg(test)]
mod tests {
    use quorate_wire::mvccpb::{Event, KeyValue};

    use super::*;

    fn event(revision: Revision) -> WatchResponse {
        let kv = KeyValue { mod_revision: revision, ..KeyValue::default() };
        let event = Event { kv: Some(kv), ..Event::default() };
        WatchResponse { events: vec![event], ..WatchResponse::default() }
    }

    #[tokio::test]
    async fn a_promise_does_not_come_behind_an_event_beyond_it() {
        let (responses, mut queue) = Responses::new();
        let promise = WatchResponse::default;
        assert_eq!(responses.promise(4, promise()).await, Ok(Promise::Written));
        responses.send(Ok(event(5))).await.expect("the queue is there");
        assert_eq!(responses.promise(4, promise()).await, Ok(Promise::Overtaken));
        assert_eq!(responses.promise(5, promise()).await, Ok(Promise::Written));
        let mut taken = Vec::new();
        while let Ok(item) = queue.try_recv() {
            taken.push(item.expect("no error was sent").events.len());
        }
        assert_eq!(taken, [0, 1, 0]);
        drop(queue);
        assert_eq!(responses.promise(6, promise()).await, Err(ClientGone));
    }
}
