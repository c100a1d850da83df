//! History: events from a revision on, for watches that replay.

use crate::record::{self, decode_event};
use crate::revision::{self, compacted};
use crate::{Direction, Event, Fault, Rejection, Revision, View, keys};

/// Events with revision `from` or later, in (main, sub) order, without `prev_kv` (see [`event_with_prev`]). Stops after the
/// revision in which `max_events` is reached: a revision is never split, so the answer may be longer by the rest of one
/// revision. Go on with the last event's revision + 1; empty means that nothing happened since. Refused with
/// [`Rejection::Compacted`] if `from` is below the compacted revision; the compacted revision itself is still told.
pub fn events(
    view: &dyn View,
    from: Revision,
    max_events: usize,
) -> Result<Result<Vec<Event>, Rejection>, Fault> {
    Ok(events_page(view, from, max_events, usize::MAX)?.map(|page| page.events))
}

/// A part of history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Whole revisions, in (main, sub) order.
    pub events: Vec<Event>,
    /// There are more events, of later revisions.
    pub more: bool,
}

/// Like [`events`], and stops also after the revision in which `max_bytes` of stored events are reached.
pub fn events_page(
    view: &dyn View,
    from: Revision,
    max_events: usize,
    max_bytes: usize,
) -> Result<Result<Page, Rejection>, Fault> {
    if from < compacted(view)? {
        return Ok(Err(Rejection::Compacted));
    }
    let mut events: Vec<Event> = Vec::new();
    let mut bytes = 0;
    for pair in view.scan(&keys::event(from.max(0), 0), &keys::event_end(), Direction::Forward) {
        let (stored, value) = pair?;
        let (main, sub) = keys::event_parts(&stored)?;
        let full = events.len() >= max_events || bytes >= max_bytes;
        if full && events.last().is_none_or(|last| last.kv.mod_revision != main) {
            return Ok(Ok(Page { events, more: true }));
        }
        bytes += value.len();
        events.push(decode_event(sub, value)?);
    }
    Ok(Ok(Page { events, more: false }))
}

/// Fills `prev_kv`: the version before the event, if the key was there and that version's revision is not compacted (etcd
/// reads it at the event's revision - 1).
pub fn event_with_prev(view: &dyn View, mut event: Event) -> Result<Event, Fault> {
    let before = event.kv.mod_revision - 1;
    let created = !event.delete && event.kv.version == 1;
    event.prev_kv = None;
    if !created && before >= revision::compacted(view)?.max(1) {
        let version = record::version_at(view, &event.kv.key, before)?;
        event.prev_kv = match version {
            Some(version) if !version.tombstone => Some(version.event(view)?.kv),
            _ => None,
        };
    }
    Ok(event)
}
