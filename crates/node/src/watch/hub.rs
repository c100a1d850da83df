//! Who watches what, and how far each one is: a pure state machine.
//!
//! # Model
//!
//! The apply thread publishes the events of each chunk. A watch whose queue has room gets those that match (*synced*). One
//! whose reader is slow does not: it is *lagging* from the first revision it was not given, and is fed from history
//! in the state, by its own reader, at the reader's pace. Nothing is ever dropped, and a slow reader costs one bounded queue.
//!
//! ```text
//!    publish ──► queue ──► next()            synced:   the queue holds what is published and not taken
//!                  │ full                    victim:   lagging with something in its queue: that is taken first
//!                  ▼                         lagging:  reads history [next ..= revision], then checks again
//!    history [next ..= revision] ──► next()
//! ```
//!
//! # Invariants
//!
//! 1. What was delivered, then the queue, then [next ..]: contiguous, in this order, never overlapping.
//! 2. The hand-over happens under the hub's lock: [`Hub::fed`] compares how far history was read with the revision that
//!    [`Hub::publish`] moves, so between history and live events there is neither gap nor duplicate.
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

/// Bytes of those events, so that large values do not make a stuck reader hold a gigabyte.
pub const QUEUE_BYTES: usize = 1 << 20;

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
    /// Watches of everything that begins alike, by that beginning: found by the beginnings of an event's key.
    prefixes: BTreeMap<Bytes, BTreeSet<WatchId>>,
    /// How many of those beginnings there are of each length: others need not be looked for.
    lengths: BTreeMap<usize, usize>,
    /// Watches of other ranges: each is asked.
    ranges: BTreeSet<WatchId>,
}

/// How a watch is found.
enum Kind {
    Point,
    Prefix,
    Range,
}

impl Kind {
    fn of(spec: &WatchSpec) -> Kind {
        let (key, end) = (&spec.key, &spec.range_end);
        if end.is_empty() {
            return Kind::Point;
        }
        match (key.split_last(), end.split_last()) {
            (Some((last, start)), Some((next, end_start)))
                if start == end_start && last.checked_add(1) == Some(*next) =>
            {
                Kind::Prefix
            }
            _ => Kind::Range,
        }
    }
}

#[derive(Debug)]
struct Watch {
    spec: WatchSpec,
    place: Place,
    queue: VecDeque<Queued>,
    queued: Weight,
}

#[derive(Debug)]
struct Queued {
    delivery: Delivery,
    weight: Weight,
}

/// What a queue is bounded by.
#[derive(Debug, Clone, Copy, Default)]
struct Weight {
    events: usize,
    bytes: usize,
}

impl Weight {
    fn of(events: &[Arc<Event>]) -> Weight {
        let size = |kv: &quorate_state::KeyValue| kv.key.len() + kv.value.len();
        let bytes = events.iter().map(|event| size(&event.kv) + event.prev_kv.as_ref().map_or(0, size)).sum();
        Weight { events: events.len(), bytes }
    }

    fn plus(self, other: Weight) -> Weight {
        Weight { events: self.events + other.events, bytes: self.bytes + other.bytes }
    }

    fn minus(self, other: Weight) -> Weight {
        Weight { events: self.events - other.events, bytes: self.bytes - other.bytes }
    }

    fn fits(self) -> bool {
        self.events <= QUEUE_EVENTS && self.bytes <= QUEUE_BYTES
    }
}

#[derive(Debug, Clone, Copy)]
enum Place {
    /// Gets what is published, from `start` on, which may be in the future.
    Synced { start: Revision },
    /// `next` is the first revision that is neither delivered nor queued.
    Lagging { next: Revision },
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
        let lagging =
            self.watches.values().filter(|watch| matches!(watch.place, Place::Lagging { .. })).count();
        (self.watches.len(), lagging)
    }

    /// A new watch, from `spec.start_revision` (0: from the next revision on).
    pub fn watch(&mut self, spec: WatchSpec) -> WatchId {
        self.last_id += 1;
        let id = self.last_id;
        match Kind::of(&spec) {
            Kind::Point => drop(self.points.entry(spec.key.clone()).or_default().insert(id)),
            Kind::Prefix => {
                let alike = self.prefixes.entry(spec.key.clone()).or_default();
                if alike.is_empty() {
                    *self.lengths.entry(spec.key.len()).or_default() += 1;
                }
                alike.insert(id);
            }
            Kind::Range => drop(self.ranges.insert(id)),
        }
        let place = match spec.start_revision {
            start if start <= 0 => Place::Synced { start: self.revision + 1 },
            start if start > self.revision => Place::Synced { start },
            start => Place::Lagging { next: start },
        };
        self.watches.insert(id, Watch { spec, place, queue: VecDeque::new(), queued: Weight::default() });
        id
    }

    /// Forgets a watch.
    pub fn cancel(&mut self, id: WatchId) {
        let Some(watch) = self.watches.remove(&id) else { return };
        let key = &watch.spec.key;
        match Kind::of(&watch.spec) {
            Kind::Point => drop(leave(&mut self.points, key, id)),
            Kind::Prefix => {
                if leave(&mut self.prefixes, key, id)
                    && let Some(alike) = self.lengths.get_mut(&key.len())
                {
                    *alike -= 1;
                    if *alike == 0 {
                        self.lengths.remove(&key.len());
                    }
                }
            }
            Kind::Range => drop(self.ranges.remove(&id)),
        }
    }

    /// The next chunk's events, which bring the state to `revision`. Returns the watches that have something new.
    pub fn publish(&mut self, events: &[Arc<Event>], revision: Revision) -> Vec<WatchId> {
        let before = self.revision;
        self.revision = self.revision.max(revision);
        let mut matched: BTreeMap<WatchId, Vec<usize>> = BTreeMap::new();
        for (at, event) in events.iter().enumerate() {
            let key = &event.kv.key;
            let points = self.points.get(key).into_iter().flatten();
            let beginnings = self.lengths.keys().take_while(|length| **length <= key.len());
            let prefixes = beginnings.filter_map(|length| self.prefixes.get(&key[..*length])).flatten();
            for id in points.chain(prefixes).chain(&self.ranges) {
                let Some(watch) = self.watches.get(id) else { continue };
                let Place::Synced { start } = watch.place else { continue };
                if event.kv.mod_revision >= start && matches(&watch.spec, event) {
                    matched.entry(*id).or_default().push(at);
                }
            }
        }
        // Applied events carry the version before; most watches do not ask for it, and share one copy without.
        let mut plain: Vec<Option<Arc<Event>>> = vec![None; events.len()];
        for (id, places) in &matched {
            let Some(watch) = self.watches.get_mut(id) else { continue };
            let shown = places.iter().map(|at| match watch.spec.prev_kv {
                true => Arc::clone(&events[*at]),
                false => Arc::clone(plain[*at].get_or_insert_with(|| without_prev(&events[*at]))),
            });
            let shown: Vec<_> = shown.collect();
            let weight = Weight::of(&shown);
            if watch.queued.events > 0 && !watch.queued.plus(weight).fits() {
                // A victim: the whole chunk is history to it.
                watch.place = Place::Lagging { next: before + 1 };
                continue;
            }
            watch.queued = watch.queued.plus(weight);
            watch.queue.push_back(Queued { delivery: Delivery { events: shown, revision }, weight });
        }
        matched.into_keys().collect()
    }

    /// A snapshot brought the state to `revision` without the events in between. Everybody is woken.
    pub fn restored(&mut self, revision: Revision) -> Vec<WatchId> {
        let before = std::mem::replace(&mut self.revision, revision);
        #[cfg(quorate_sim)]
        if quorate_consensus::sim::broken(quorate_consensus::sim::Rule::WatchersPassedBySnapshots) {
            return Vec::new();
        }
        for watch in self.watches.values_mut() {
            if let Place::Synced { start } = watch.place
                && start <= revision
            {
                watch.place = Place::Lagging { next: start.max(before + 1) };
            }
        }
        self.watches.keys().copied().collect()
    }

    /// What the reader of `id` does next.
    pub fn take(&mut self, id: WatchId) -> Take {
        let Some(watch) = self.watches.get_mut(&id) else { return Take::Gone };
        if let Some(Queued { delivery, weight }) = watch.queue.pop_front() {
            watch.queued = watch.queued.minus(weight);
            return Take::Deliver(delivery);
        }
        match watch.place {
            Place::Synced { .. } => Take::Wait,
            Place::Lagging { next } => Take::History { from: next, through: self.revision },
        }
    }

    /// The reader of `id` has everything through `through` from history.
    pub fn fed(&mut self, id: WatchId, through: Revision) {
        let Some(watch) = self.watches.get_mut(&id) else { return };
        if let Place::Lagging { next } = watch.place {
            let next = next.max(through + 1);
            let synced = next > self.revision;
            watch.place = if synced { Place::Synced { start: next } } else { Place::Lagging { next } };
        }
    }

    /// The revision up to which everything that matches was taken out; None while something is queued or to be read.
    #[must_use]
    pub fn progress(&self, id: WatchId) -> Option<Revision> {
        let watch = self.watches.get(&id)?;
        (watch.queue.is_empty() && matches!(watch.place, Place::Synced { .. })).then_some(self.revision)
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

fn without_prev(event: &Arc<Event>) -> Arc<Event> {
    if event.prev_kv.is_none() {
        return Arc::clone(event);
    }
    Arc::new(Event { prev_kv: None, ..Event::clone(event) })
}

/// True when nobody is left under `key`.
fn leave(watches: &mut BTreeMap<Bytes, BTreeSet<WatchId>>, key: &Bytes, id: WatchId) -> bool {
    let Some(alike) = watches.get_mut(key) else { return false };
    alike.remove(&id);
    let empty = alike.is_empty();
    if empty {
        watches.remove(key);
    }
    empty
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_state::KeyValue;

    struct Reader {
        id: WatchId,
        spec: WatchSpec,
        /// The first revision it has to see.
        from: Revision,
        /// (from, through) of a page it has asked for and not reported yet.
        reading: Option<(Revision, Revision)>,
        seen: Vec<Arc<Event>>,
        told: Revision,
        /// Broken on purpose: having fallen behind, it says that it has read what it missed (etcd's issue 17529).
        forgets: bool,
    }

    impl Reader {
        /// One step, as the pump does it; `history` is what the state holds.
        fn step(&mut self, hub: &mut Hub, history: &[Arc<Event>], random: &mut fastrand::Rng) {
            if let Some((from, through)) = self.reading.take() {
                if self.forgets {
                    return hub.fed(self.id, through);
                }
                // A page, cut at a whole revision.
                let rest = &history[history.partition_point(|event| event.kv.mod_revision < from)..];
                let page = random.usize(1..300);
                let cut = rest.get(page - 1).map(|event| event.kv.mod_revision);
                let read_to = cut.map_or(through, |cut| cut.min(through));
                for event in rest.iter().take_while(|event| event.kv.mod_revision <= read_to) {
                    if matches(&self.spec, event) {
                        self.seen.push(Arc::clone(event));
                    }
                }
                hub.fed(self.id, read_to);
                self.told = self.told.max(read_to);
                return;
            }
            match hub.take(self.id) {
                Take::Deliver(delivery) => {
                    self.seen.extend(delivery.events);
                    assert!(delivery.revision > self.told, "what was told before is not told again");
                    self.told = delivery.revision;
                }
                Take::History { from, through } => self.reading = Some((from, through)),
                Take::Wait | Take::Gone => {}
            }
        }
    }

    fn event(key: &str, revision: Revision, sub: u32) -> Arc<Event> {
        let kv = KeyValue { key: key.to_owned().into(), mod_revision: revision, ..KeyValue::default() };
        Arc::new(Event { delete: false, kv, prev_kv: None, sub })
    }

    fn schedule(seed: u64, forgets: bool) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut hub = Hub::new(1);
        let mut history: Vec<Arc<Event>> = Vec::new();
        let mut readers: Vec<Reader> = Vec::new();
        let mut revision = 1;
        for _ in 0..random.usize(20..200) {
            match random.u8(0..10) {
                0 if readers.len() < 6 => {
                    let start =
                        [0, random.i64(1..=revision), revision + random.i64(1..20)][random.usize(0..3)];
                    let (key, range_end) =
                        [("a", ""), ("b", ""), ("a", "c"), ("a", "\0"), ("a", "b"), ("ab", "ac")]
                            [random.usize(0..6)];
                    let spec = WatchSpec {
                        key: key.into(),
                        range_end: range_end.into(),
                        start_revision: start,
                        ..WatchSpec::default()
                    };
                    let id = hub.watch(spec.clone());
                    let from = if start == 0 { revision + 1 } else { start };
                    readers.push(Reader {
                        id,
                        spec,
                        from,
                        reading: None,
                        seen: Vec::new(),
                        told: 0,
                        forgets,
                    });
                }
                1..=4 => {
                    // Now and then a chunk that overflows queues.
                    let revisions = if random.u8(0..8) == 0 { 700 } else { random.i64(0..4) };
                    let mut events = Vec::new();
                    for _ in 0..revisions {
                        revision += 1;
                        for sub in 0..random.u32(1..3) {
                            events.push(event(
                                ["a", "b", "c", "ab", "abc"][random.usize(0..5)],
                                revision,
                                sub,
                            ));
                        }
                    }
                    history.extend(events.iter().cloned());
                    if random.u8(0..10) == 0 {
                        hub.restored(revision);
                    } else {
                        hub.publish(&events, revision);
                    }
                }
                5 if readers.len() > 3 => {
                    let gone = readers.swap_remove(random.usize(0..readers.len()));
                    hub.cancel(gone.id);
                    assert!(matches!(hub.take(gone.id), Take::Gone));
                }
                _ if !readers.is_empty() => {
                    let chosen = random.usize(0..readers.len());
                    readers[chosen].step(&mut hub, &history, &mut random);
                }
                _ => {}
            }
        }
        for reader in &mut readers {
            while hub.progress(reader.id).is_none() || reader.reading.is_some() {
                reader.step(&mut hub, &history, &mut random);
            }
            let place = |event: &Arc<Event>| (event.kv.mod_revision, event.sub);
            let seen: Vec<_> = reader.seen.iter().map(place).collect();
            let due = history
                .iter()
                .filter(|event| event.kv.mod_revision >= reader.from && matches(&reader.spec, event));
            assert_eq!(seen, due.map(place).collect::<Vec<_>>(), "seed {seed}, watch {:?}", reader.spec);
        }
    }

    /// Any interleaving of chunks, installed snapshots and readers of any speed: everybody sees what matches, once, in
    /// order. A failure names its seed.
    #[test]
    fn no_schedule_makes_a_gap_or_a_duplicate() {
        (0..400).for_each(|seed| schedule(seed, false));
    }

    #[test]
    fn a_reader_that_forgets_what_it_missed_is_caught() {
        let caught = (0..400).find(|seed| std::panic::catch_unwind(|| schedule(*seed, true)).is_err());
        assert!(caught.is_some());
    }
}
