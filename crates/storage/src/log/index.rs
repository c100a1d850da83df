//! Where every entry is: in memory, waiting for the writer, or at an offset of a segment.
//!
//! The index follows the *calls* (an append is readable at once), the disk follows later. An entry that still waits keeps
//! its payload here; one that is on disk keeps it only while the cache has room. Between a queued append and its arrival on
//! disk the same index may have been truncated and appended anew, so the writer reports arrival by ticket, not by index.

use std::collections::VecDeque;

use bytes::Bytes;

use super::Position;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the writer's queue, under this ticket.
    Queued(u64),
    /// On disk.
    At { segment: u64, offset: u32 },
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    term: u64,
    length: u32,
    place: Place,
}

/// An entry as far as memory knows it.
#[derive(Debug)]
pub(super) enum Found {
    Here { at: Position, payload: Bytes },
    There { at: Position, length: u32, segment: u64, offset: u32 },
}

impl Found {
    pub(super) fn length(&self) -> usize {
        match self {
            Found::Here { payload, .. } => payload.len(),
            Found::There { length, .. } => *length as usize,
        }
    }
}

#[derive(Debug)]
pub(super) struct Index {
    /// The index of the first slot.
    first: u64,
    slots: VecDeque<Slot>,
    /// Payloads of the newest slots, aligned at the back.
    cached: VecDeque<Bytes>,
    cached_bytes: usize,
    /// Most payload bytes kept for entries that are on disk (those that wait are kept regardless; the queue bounds them).
    cache_bytes: usize,
}

impl Index {
    pub(super) fn new(cache_bytes: usize) -> Index {
        Index { first: 0, slots: VecDeque::new(), cached: VecDeque::new(), cached_bytes: 0, cache_bytes }
    }

    pub(super) fn last(&self) -> Option<Position> {
        let slot = self.slots.back()?;
        Some(Position { term: slot.term, index: self.first + self.slots.len() as u64 - 1 })
    }

    pub(super) fn first(&self) -> Option<u64> {
        (!self.slots.is_empty()).then_some(self.first)
    }

    /// A new entry on its way to the writer. The caller has checked that it continues the log.
    pub(super) fn push_queued(&mut self, at: Position, payload: Bytes, ticket: u64) {
        let length = u32::try_from(payload.len()).expect("checked by append");
        self.push(at, length, Place::Queued(ticket));
        self.cached_bytes += payload.len();
        self.cached.push_back(payload);
        self.evict();
    }

    /// An entry found on disk at start.
    pub(super) fn push_found(&mut self, at: Position, length: u32, segment: u64, offset: u32) {
        debug_assert!(self.cached.is_empty(), "recovery does not fill the cache");
        self.push(at, length, Place::At { segment, offset });
    }

    fn push(&mut self, at: Position, length: u32, place: Place) {
        if self.slots.is_empty() {
            self.first = at.index;
        }
        self.slots.push_back(Slot { term: at.term, length, place });
    }

    /// The writer put the entry of `ticket` on disk.
    pub(super) fn arrived(&mut self, index: u64, ticket: u64, segment: u64, offset: u32) {
        let Some(slot) = index.checked_sub(self.first).and_then(|nth| self.slots.get_mut(nth as usize))
        else {
            return;
        };
        if slot.place == Place::Queued(ticket) {
            slot.place = Place::At { segment, offset };
        }
    }

    /// Forgets payloads of entries on disk until the bound holds.
    pub(super) fn evict(&mut self) {
        while self.cached_bytes > self.cache_bytes && !self.cached.is_empty() {
            let oldest = self.slots.len() - self.cached.len();
            match self.slots[oldest].place {
                Place::Queued(_) => return,
                Place::At { .. } => self.forget_oldest(),
            }
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(payload) = self.cached.pop_front() {
            self.cached_bytes -= payload.len();
        }
    }

    /// Drops entries after `last`.
    pub(super) fn truncate_after(&mut self, last: Option<u64>) {
        let keep = last.map_or(0, |last| (last + 1).saturating_sub(self.first)) as usize;
        while self.slots.len() > keep {
            self.slots.pop_back();
            if let Some(payload) = self.cached.pop_back() {
                self.cached_bytes -= payload.len();
            }
        }
    }

    /// Drops entries up to and including `upto`.
    pub(super) fn purge(&mut self, upto: u64) {
        while !self.slots.is_empty() && self.first <= upto {
            if self.cached.len() == self.slots.len() {
                self.forget_oldest();
            }
            self.slots.pop_front();
            self.first += 1;
        }
    }

    pub(super) fn get(&self, index: u64) -> Option<Found> {
        let nth = usize::try_from(index.checked_sub(self.first)?).ok()?;
        let slot = self.slots.get(nth)?;
        let at = Position { term: slot.term, index };
        let uncached = self.slots.len() - self.cached.len();
        if nth >= uncached {
            return Some(Found::Here { at, payload: self.cached[nth - uncached].clone() });
        }
        match slot.place {
            Place::At { segment, offset } => Some(Found::There { at, length: slot.length, segment, offset }),
            Place::Queued(_) => unreachable!("a queued entry keeps its payload"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64) -> Position {
        Position { term: 1, index }
    }

    #[test]
    fn queued_entries_stay_in_memory_beyond_the_bound() {
        let mut index = Index::new(4);
        for i in 1..=3 {
            index.push_queued(at(i), Bytes::from_static(b"abc"), i);
        }
        for i in 1..=3 {
            assert!(matches!(index.get(i), Some(Found::Here { .. })), "{i}");
        }
        for i in 1..=3 {
            index.arrived(i, i, 1, 8 * i as u32);
        }
        index.evict();
        assert!(matches!(index.get(2), Some(Found::There { offset: 16, .. })));
        assert!(matches!(index.get(3), Some(Found::Here { .. })));
    }

    #[test]
    fn arrival_of_a_truncated_entry_is_not_taken_for_its_successor() {
        let mut index = Index::new(0);
        index.push_queued(at(1), Bytes::from_static(b"old"), 1);
        index.truncate_after(None);
        index.push_queued(at(1), Bytes::from_static(b"new"), 2);
        index.arrived(1, 1, 1, 8);
        index.evict();
        assert!(matches!(index.get(1), Some(Found::Here { payload, .. }) if payload == "new"));
    }

    #[test]
    fn purge_and_truncate_keep_cache_and_slots_aligned() {
        let mut index = Index::new(1 << 20);
        for i in 5..=9 {
            index.push_queued(at(i), Bytes::from(vec![i as u8]), i);
        }
        index.purge(6);
        index.truncate_after(Some(8));
        assert_eq!((index.first(), index.last()), (Some(7), Some(at(8))));
        assert!(matches!(index.get(7), Some(Found::Here { payload, .. }) if payload[..] == [7]));
        assert!(index.get(6).is_none() && index.get(9).is_none());
        index.purge(100);
        assert!(index.last().is_none());
        assert_eq!(index.cached_bytes, 0);
    }
}
