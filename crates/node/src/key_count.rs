//! How many keys there are, for the metrics, without ever scanning them all at once.
//!
//! At the start, and after a snapshot replaced the state, the keys are counted a page at a time, with pauses; meanwhile and
//! afterwards every event corrects the count. Which events a page has seen already is told by the revision at which it was read:
//!
//! ```text
//!   pages:   [a … f] at 10   [f … m] at 12   (not counted yet)
//!   event:   put d (new) at 11: counts, the page was read before      put g (new) at 11: the page has it
//!            put x (new) at 13: its page will have it
//! ```
//!
//! A page is read and noted under one lock, inside a view that applying waits for, so no event falls between the two. When
//! everything is counted and the events have passed the last page's revision, the pages are forgotten.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_state::{Event, Fault, Revision, View};
use tokio::sync::Notify;

use crate::handle::Inner;

/// Keys in one page: applying waits for well under a millisecond.
const PAGE: usize = 1_024;
/// Between two pages.
const PAUSE: Duration = Duration::from_millis(2);

#[derive(Default)]
pub(crate) struct KeyCount {
    state: Mutex<State>,
    restored: Notify,
}

#[derive(Default)]
struct State {
    keys: i64,
    /// The last key of each page (None: there was nothing behind), and the revision it was read at.
    pages: Vec<(Option<Bytes>, Revision)>,
    /// All pages are there.
    is_whole: bool,
}

impl State {
    fn page_of(&self, key: &[u8]) -> Option<Revision> {
        let at = self.pages.partition_point(|(last, _)| last.as_ref().is_some_and(|last| last[..] < *key));
        self.pages.get(at).map(|(_, revision)| *revision)
    }
}

impl KeyCount {
    /// The whole state is another one.
    pub(crate) fn restored(&self) {
        *self.state.lock() = State::default();
        self.restored.notify_one();
    }

    /// On the apply thread, in the order of the log.
    pub(crate) fn applied(&self, events: &[Arc<Event>], revision: Revision) {
        let mut state = self.state.lock();
        for event in events {
            let change = match (event.delete, event.kv.version) {
                (true, _) => -1,
                (false, 1) => 1,
                (false, _) => continue,
            };
            let counts = if state.pages.is_empty() {
                state.is_whole
            } else {
                state.page_of(&event.kv.key).is_some_and(|read_at| event.kv.mod_revision > read_at)
            };
            if counts {
                state.keys += change;
            }
        }
        if state.is_whole && state.pages.last().is_some_and(|(_, read_at)| revision >= *read_at) {
            state.pages.clear();
        }
    }

    /// The number; None while it is being counted.
    pub(crate) fn value(&self) -> Option<i64> {
        let state = self.state.lock();
        state.is_whole.then_some(state.keys)
    }

    /// Counts one page. True when that was the last.
    fn page(&self, view: &dyn View) -> Result<bool, Fault> {
        let mut state = self.state.lock();
        if state.is_whole {
            return Ok(true);
        }
        let after = state.pages.last().and_then(|(last, _)| last.clone());
        let (count, last) = quorate_state::count_keys(view, after.as_deref(), PAGE)?;
        state.keys += i64::try_from(count).unwrap_or(i64::MAX);
        state.is_whole = last.is_none();
        state.pages.push((last, quorate_state::revision(view)?));
        Ok(state.is_whole)
    }
}

pub(crate) async fn run(inner: Arc<Inner>) {
    loop {
        match inner.read(|view| inner.key_count.page(view)) {
            Ok(false) => tokio::time::sleep(PAUSE).await,
            Ok(true) => inner.key_count.restored.notified().await,
            // Stopped, or about to.
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_state::KeyValue;

    use super::*;

    fn event(key: &str, version: i64, at: Revision) -> Arc<Event> {
        let kv = KeyValue { key: key.to_owned().into(), version, mod_revision: at, ..KeyValue::default() };
        Arc::new(Event { delete: version == 0, kv, ..Event::default() })
    }

    #[test]
    fn an_event_counts_once_whenever_its_page_is_read() {
        let count = KeyCount::default();
        // Before anything is counted: the pages will have it.
        count.applied(&[event("a", 1, 9)], 9);
        {
            let mut state = count.state.lock();
            state.keys = 3;
            state.pages = vec![(Some("f".into()), 10), (Some("m".into()), 12)];
        }
        count.applied(&[event("d", 1, 11), event("g", 1, 11), event("f", 0, 11)], 11);
        assert_eq!(count.state.lock().keys, 3, "one came, one was counted, one went");
        count.applied(&[event("x", 1, 13), event("m", 0, 13), event("d", 2, 13)], 13);
        let keys = count.state.lock().keys;
        assert_eq!((keys, count.value()), (2, None));
        {
            let mut state = count.state.lock();
            state.keys += 1;
            state.pages.push((None, 14));
            state.is_whole = true;
        }
        // Late, the last page has it; then the pages are done with.
        count.applied(&[event("z", 1, 14)], 14);
        assert!(count.state.lock().pages.is_empty());
        assert_eq!(count.value(), Some(3));
        count.applied(&[event("zz", 1, 15), event("a", 0, 15), event("b", 0, 15)], 15);
        assert_eq!(count.value(), Some(2));
        count.restored();
        assert_eq!(count.value(), None);
    }
}
