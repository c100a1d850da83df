//! Who watches what, and how far each one is: a pure state machine.
//!
//! # Model
//!
//! The apply thread publishes the events of each chunk. A watch whose queue has room gets those that match (*synced*). One
//! whose reader is slow does not: it is *lagging* from the first revision it was not given, and is fed from history
//! in the state, by its own reader, at the reader's pace. Nothing is ever dropped, and a slow reader costs one bounded queue.
//!
//! ```text
//!    publish ──► queue ──► next()            synced:   next == revision + 1, queue holds what is not taken
//!                  │ full                    victim:   lagging with something in its queue: that is taken first
//!                  ▼                         lagging:  reads history [next ..= revision], then checks again
//!    history [next ..= revision] ──► next()
//! ```
//!
//! # Invariants
//!
//! 1. What was delivered, then the queue, then [next ..]: contiguous, in this order, never overlapping.
//! 2. `next > revision` exactly when synced. The hand-over happens under the hub's lock: [`Hub::fed`] compares `next` with
//!    the revision that [`Hub::publish`] moves, so between history and live events there is neither gap nor duplicate.
//! 3. A revision is never split between two deliveries.
//! 4. After an installed snapshot everybody behind it is lagging; history says whether it still reaches back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use quorate_state::{Event, Revision};

use crate::WatchSpec;

/// Events in one watch's queue. More than a chunk usually brings, little enough that thousands of stuck readers are
/// affordable: the events are shared, the queue holds references.
pub const QUEUE_EVENTS: usize = 1024;

/// Names a watch of this hub.
pub type WatchId = u64;

/// All watches.
#[derive(Debug, Default)]
pub struct Hub {
    /// Everything up to here was published.
    revision: Revision,
    last_id: WatchId,
    watches: BTreeMap<WatchId, Watch>,
    /// Watches of a single key, by key: most watches, found without asking the others.
    points: BTreeMap<Bytes, BTreeSet<WatchId>>,
    /// Watches of ranges.
    ranges: BTreeSet<WatchId>,
}

#[derive(Debug)]
struct Watch {
    spec: WatchSpec,
    /// The first revision that is neither delivered nor queued.
    next: Revision,
    queue: VecDeque<Delivery>,
    queued: usize,
}

/// Events for one watch: whole revisions.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// In (revision, sub) order.
    pub events: Vec<Arc<Event>>,
    /// Everything that matches up to here is in this or earlier deliveries.
    pub revision: Revision,
}

/// What the reader of a watch does next.
#[derive(Debug)]
pub enum Take {
    /// Hand this out.
    Deliver(Delivery),
    /// Read the history of these revisions, both inclusive, and call [`Hub::fed`].
    History {
        /// The first one.
        from: Revision,
        /// The last one.
        through: Revision,
    },
    /// Sleep until woken.
    Wait,
    /// There is no such watch any more.
    Gone,
}

impl Hub {
    /// At the revision of the state that it will hear of.
    #[must_use]
    pub fn new(revision: Revision) -> Hub {
        Hub { revision, ..Hub::default() }
    }

    /// Everything up to here was published.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Number of watches, and of those among them that lag.
    #[must_use]
    pub fn count(&self) -> (usize, usize) {
        let lagging = self.watches.values().filter(|watch| watch.next <= self.revision).count();
        (self.watches.len(), lagging)
    }

    /// A new watch, from `spec.start_revision` (0: from the next revision on).
    pub fn watch(&mut self, spec: WatchSpec) -> WatchId {
        self.last_id += 1;
        let id = self.last_id;
        if spec.range_end.is_empty() {
            self.points.entry(spec.key.clone()).or_default().insert(id);
        } else {
            self.ranges.insert(id);
        }
        let next = if spec.start_revision <= 0 { self.revision + 1 } else { spec.start_revision };
        self.watches.insert(id, Watch { spec, next, queue: VecDeque::new(), queued: 0 });
        id
    }

    /// Forgets a watch.
    pub fn cancel(&mut self, id: WatchId) {
        let Some(watch) = self.watches.remove(&id) else { return };
        self.ranges.remove(&id);
        if let Some(ids) = self.points.get_mut(&watch.spec.key) {
            ids.remove(&id);
            if ids.is_empty() {
                self.points.remove(&watch.spec.key);
            }
        }
    }

    /// The next chunk's events, which bring the state to `revision`. Returns the watches that have something new.
    pub fn publish(&mut self, events: &[Arc<Event>], revision: Revision) -> Vec<WatchId> {
        let before = self.revision;
        self.revision = self.revision.max(revision);
        if events.is_empty() {
            self.advance_synced(before);
            return Vec::new();
        }
        let mut matched: BTreeMap<WatchId, Vec<Arc<Event>>> = BTreeMap::new();
        for event in events {
            let points = self.points.get(&event.kv.key).into_iter().flatten();
            let ranges = self.ranges.iter();
            for id in points.chain(ranges) {
                let Some(watch) = self.watches.get(id) else { continue };
                let synced = watch.next > before;
                if synced && event.kv.mod_revision >= watch.next && matches(&watch.spec, event) {
                    matched.entry(*id).or_default().push(Arc::clone(event));
                }
            }
        }
        let mut woken = Vec::with_capacity(matched.len());
        for (id, events) in matched {
            let Some(watch) = self.watches.get_mut(&id) else { continue };
            woken.push(id);
            if watch.queued > 0 && watch.queued + events.len() > QUEUE_EVENTS {
                // A victim: `next` stays at the first revision of this chunk, which makes it lagging.
                continue;
            }
            let events = events.into_iter().map(|event| shown(&watch.spec, event)).collect::<Vec<_>>();
            watch.queued += events.len();
            watch.queue.push_back(Delivery { events, revision });
            watch.next = watch.next.max(revision + 1);
        }
        // Those who had nothing to see are as far as the others; victims were just set back and stay.
        let victims: Vec<WatchId> =
            woken.iter().filter(|id| self.watches.get(id).is_some_and(|watch| watch.next <= revision)).copied().collect();
        self.advance_synced_except(before, &victims);
        woken
    }

    fn advance_synced(&mut self, before: Revision) {
        self.advance_synced_except(before, &[]);
    }

    fn advance_synced_except(&mut self, before: Revision, victims: &[WatchId]) {
        for (id, watch) in &mut self.watches {
            if watch.next > before && watch.next <= self.revision && !victims.contains(id) {
                watch.next = self.revision + 1;
            }
        }
    }

    /// A snapshot brought the state to `revision` without the events in between. Everybody is woken.
    pub fn restored(&mut self, revision: Revision) -> Vec<WatchId> {
        self.revision = revision;
        self.watches.keys().copied().collect()
    }

    /// What the reader of `id` does next.
    pub fn take(&mut self, id: WatchId) -> Take {
        let Some(watch) = self.watches.get_mut(&id) else { return Take::Gone };
        if let Some(delivery) = watch.queue.pop_front() {
            watch.queued -= delivery.events.len();
            return Take::Deliver(delivery);
        }
        if watch.next <= self.revision {
            return Take::History { from: watch.next, through: self.revision };
        }
        Take::Wait
    }

    /// The reader of `id` has everything through `through` from history.
    pub fn fed(&mut self, id: WatchId, through: Revision) {
        if let Some(watch) = self.watches.get_mut(&id) {
            watch.next = watch.next.max(through + 1);
        }
    }

    /// The revision up to which everything that matches was taken out; None while something is queued or to be read.
    #[must_use]
    pub fn progress(&self, id: WatchId) -> Option<Revision> {
        let watch = self.watches.get(&id)?;
        (watch.queue.is_empty() && watch.next > self.revision).then_some(self.revision)
    }
}

/// True when `event` belongs to what `spec` watches, whatever its revision.
#[must_use]
pub fn matches(spec: &WatchSpec, event: &Event) -> bool {
    let key = &event.kv.key;
    let inside = if spec.range_end.is_empty() {
        *key == spec.key
    } else {
        *key >= spec.key && (spec.range_end.as_ref() == b"\0" || *key < spec.range_end)
    };
    let wanted = if event.delete { !spec.no_delete } else { !spec.no_put };
    inside && wanted
}

/// The event as this watch shows it. Applied events carry the version before; most watches do not ask for it.
fn shown(spec: &WatchSpec, event: Arc<Event>) -> Arc<Event> {
    if spec.prev_kv || event.prev_kv.is_none() {
        return event;
    }
    Arc::new(Event { prev_kv: None, ..Event::clone(&event) })
}
