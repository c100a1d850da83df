//! The watch on the cluster's keys: it wakes the loop, and it knows when exactly the lock vanished.
//!
//! Not every change is worth a tick. Every member publishes its positions every second; if that woke everybody, whose ticks
//! publish their own positions, three idle nodes would keep each other busy forever. So positions wake nobody, and
//! everything that can change a decision does: the lock, the configuration, a request, the sync set, a member that appears,
//! vanishes, or changes in anything but its positions (a race stamp is such a change).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_ha::cluster::{MemberRecord, Revision};
use quorate_ha::{Key, Keys, Moment};
use quorate_node::clock::boottime;
use quorate_node::{Handle, WatchItem, WatchSpec};
use quorate_state::Event;
use tokio::sync::Notify;

use crate::registry::prefix_end;

/// What the watch has seen that a view cannot tell.
#[derive(Default)]
pub(crate) struct Seen {
    /// The newest deletion of the lock: the revision, and when it was delivered.
    vanished: Mutex<Option<(Revision, Moment)>>,
}

impl Seen {
    pub(crate) fn vanished(&self) -> Option<(Revision, Moment)> {
        *self.vanished.lock()
    }
}

/// Follows the keys until the member stops.
pub(crate) async fn follow(handle: Handle, keys: Keys, seen: Arc<Seen>, wake: Arc<Notify>) {
    let mut members = BTreeMap::new();
    let mut start_revision = 0;
    loop {
        let mut watcher = handle.watch(WatchSpec {
            key: Bytes::copy_from_slice(keys.prefix().as_bytes()),
            range_end: prefix_end(keys.prefix()),
            start_revision,
            ..WatchSpec::default()
        });
        loop {
            match watcher.next().await {
                Some(WatchItem::Events { events, revision: _ }) => {
                    let mut matters = false;
                    for event in &events {
                        matters |= judge(event, &keys, &mut members, &seen);
                    }
                    if matters {
                        wake.notify_one();
                    }
                }
                // Missed events: the next tick reads everything anyway, and the lock's absence is then dated by its view.
                Some(WatchItem::Compacted { revision }) => {
                    start_revision = revision;
                    members.clear();
                    wake.notify_one();
                    break;
                }
                None => return,
            }
        }
    }
}

/// Does this change anything that a decision reads?
fn judge(event: &Event, keys: &Keys, members: &mut BTreeMap<String, MemberRecord>, seen: &Seen) -> bool {
    let Some(key) = std::str::from_utf8(&event.kv.key).ok().and_then(|path| keys.parse(path)) else {
        return false;
    };
    match key {
        Key::Leader => {
            if event.delete {
                *seen.vanished.lock() = Some((Revision(event.kv.mod_revision), Moment(boottime())));
            }
            true
        }
        Key::Initialize | Key::Config | Key::Sync | Key::History | Key::Failover | Key::Suspicion => true,
        Key::Status => false,
        Key::Member(name) => {
            let text = String::from_utf8_lossy(&event.kv.value);
            match MemberRecord::parse(&text) {
                Ok(record) if !event.delete => {
                    let record = record.without_positions();
                    members.get(&name) != Some(&record) && {
                        members.insert(name, record);
                        true
                    }
                }
                _ => {
                    members.remove(&name);
                    true
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_state::KeyValue;

    use super::*;

    fn event(key: &str, value: &str, delete: bool) -> Event {
        let kv = KeyValue {
            key: format!("/service/demo/{key}").into(),
            value: Bytes::copy_from_slice(value.as_bytes()),
            mod_revision: 42,
            ..KeyValue::default()
        };
        Event { delete, kv, prev_kv: None, sub: 0 }
    }

    #[test]
    fn positions_wake_nobody_and_everything_else_does() {
        let keys = Keys::new("service", "demo");
        let (seen, mut members) = (Seen::default(), BTreeMap::new());
        let mut judge =
            |key: &str, value: &str, delete| judge(&event(key, value, delete), &keys, &mut members, &seen);
        assert!(judge("members/n1", r#"{"state":"running","xlog_location":1}"#, false));
        assert!(!judge("members/n1", r#"{"state":"running","xlog_location":2,"wal_start":1}"#, false));
        assert!(judge("members/n1", r#"{"state":"stopped","xlog_location":2}"#, false));
        assert!(judge(
            "members/n1",
            r#"{"state":"stopped","race":{"revision":1,"timeline":1,"lsn":1}}"#,
            false
        ));
        assert!(judge("members/n1", "", true));
        assert!(judge("members/n1", r#"{"state":"stopped"}"#, false), "it came back");
        assert!(!judge("status", r#"{"optime":1}"#, false));
        assert!(judge("failover", "{}", false));
        assert!(!judge("something/else", "", false));
        assert!(judge("leader", "", true));
        assert_eq!(seen.vanished().unwrap().0, Revision(42));
    }
}
