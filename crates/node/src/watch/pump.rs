//! Moves events from the apply thread to the readers of watches.
//!
//! The hub decides; this owns its lock, wakes readers, and reads history for those that lag. History is read on the
//! reader's own task in bounded pages: a reader that stops reading stops costing anything but its queue.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use quorate_consensus::Consensus;
use quorate_state::{Event, Rejection, Revision};
use tokio::sync::Notify;

use crate::watch::hub::{self, Delivery, Hub, Take, WatchId};
use crate::{WatchItem, WatchSpec};

/// Events, and bytes of them, read from history at once: a reader that catches up shares the disk with the apply thread,
/// and holds a page in memory. A single revision may be larger, by the largest request.
const PAGE: usize = 512;
const PAGE_BYTES: usize = 1 << 20;

/// The hub, shared between the apply thread and the readers.
pub(crate) struct Pump {
    state: Mutex<State>,
}

struct State {
    hub: Hub,
    readers: HashMap<WatchId, Arc<Notify>>,
    stopped: bool,
}

impl Pump {
    pub(crate) fn new() -> Pump {
        Pump { state: Mutex::new(State { hub: Hub::new(0), readers: HashMap::new(), stopped: false }) }
    }

    /// Called on the apply thread.
    pub(crate) fn publish(&self, events: &[Arc<Event>], revision: Revision) {
        let mut state = self.state.lock();
        let woken = state.hub.publish(events, revision);
        state.wake(&woken);
    }

    /// Called on the apply thread: the state was replaced.
    pub(crate) fn restored(&self, revision: Revision) {
        let mut state = self.state.lock();
        let woken = state.hub.restored(revision);
        state.wake(&woken);
    }

    /// Everything up to here was applied and published.
    pub(crate) fn revision(&self) -> Revision {
        self.state.lock().hub.revision()
    }

    /// (watches, of which lagging).
    pub(crate) fn count(&self) -> (usize, usize) {
        self.state.lock().hub.count()
    }

    /// Every reader's next item is None.
    pub(crate) fn stop(&self) {
        let mut state = self.state.lock();
        state.stopped = true;
        for reader in state.readers.values() {
            reader.notify_one();
        }
    }

    /// Not `permitted`: it has ended before it begins.
    pub(crate) fn watch(
        self: &Arc<Pump>,
        consensus: Consensus,
        mut spec: WatchSpec,
        permitted: bool,
    ) -> Watcher {
        if spec.key.is_empty() {
            spec.key = bytes::Bytes::from_static(b"\0");
        }
        let notify = Arc::new(Notify::new());
        let mut state = self.state.lock();
        let id = state.hub.watch(spec.clone());
        state.readers.insert(id, Arc::clone(&notify));
        Watcher { pump: Arc::clone(self), consensus, id, spec, notify, ended: !permitted }
    }
}

impl State {
    fn wake(&self, woken: &[WatchId]) {
        for id in woken {
            if let Some(reader) = self.readers.get(id) {
                reader.notify_one();
            }
        }
    }
}

/// One watch. Dropping it cancels.
pub struct Watcher {
    pump: Arc<Pump>,
    consensus: Consensus,
    id: WatchId,
    spec: WatchSpec,
    notify: Arc<Notify>,
    ended: bool,
}

impl Watcher {
    /// The next item; None when the member stops. A slow reader loses nothing: it is re-fed from history. Cancel-safe.
    pub async fn next(&mut self) -> Option<WatchItem> {
        loop {
            if self.ended {
                return None;
            }
            let take = {
                let mut state = self.pump.state.lock();
                if state.stopped { Take::Gone } else { state.hub.take(self.id) }
            };
            // Between a take that hands something out and the return there is no await: cancelling loses nothing.
            match take {
                Take::Deliver(Delivery { events, revision }) => {
                    return Some(WatchItem::Events { events, revision });
                }
                Take::History { from, through } => {
                    if let Some(item) = self.history(from, through) {
                        return Some(item);
                    }
                    tokio::task::yield_now().await;
                }
                Take::Wait => self.notify.notified().await,
                Take::Gone => return None,
            }
        }
    }

    /// Some(revision) when everything up to `revision` has been taken out by `next`; None while it lags.
    #[must_use]
    pub fn progress(&self) -> Option<Revision> {
        self.pump.state.lock().hub.progress(self.id)
    }

    /// A page of history. None: nothing in it matches, or history cannot be read, which has stopped the member anyway.
    fn history(&mut self, from: Revision, through: Revision) -> Option<WatchItem> {
        let spec = &self.spec;
        let page = self.consensus.read(|view| {
            let page = match quorate_state::events_page(view, from, PAGE, PAGE_BYTES)? {
                Ok(page) => page,
                Err(rejection) => return Ok(Err((rejection, quorate_state::compacted(view)?))),
            };
            // A full page ends with a whole revision; the last one ends where history ends.
            let last = page.events.last().map(|event| event.kv.mod_revision);
            let read_to = if page.more { last.unwrap_or(through).min(through) } else { through };
            let mut matching = Vec::new();
            for event in page.events {
                if event.kv.mod_revision <= through && hub::matches(spec, &event) {
                    let event =
                        if spec.prev_kv { quorate_state::event_with_prev(view, event)? } else { event };
                    matching.push(Arc::new(event));
                }
            }
            Ok::<_, quorate_state::Fault>(Ok((matching, read_to)))
        });
        let Some(page) = page else {
            self.ended = true;
            return None;
        };
        match page {
            Ok(Ok((events, read_to))) => {
                self.pump.state.lock().hub.fed(self.id, read_to);
                (!events.is_empty()).then_some(WatchItem::Events { events, revision: read_to })
            }
            Ok(Err((Rejection::Compacted, revision))) => {
                self.ended = true;
                Some(WatchItem::Compacted { revision })
            }
            Ok(Err((rejection, _))) => {
                tracing::error!(?rejection, "history was refused for a watch");
                self.ended = true;
                None
            }
            Err(fault) => {
                tracing::error!(error = %fault, "history cannot be read for a watch");
                self.ended = true;
                None
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut state = self.pump.state.lock();
        state.hub.cancel(self.id);
        state.readers.remove(&self.id);
    }
}
