//! The clerk: takes decision records from the loop and writes them to the store, after the fact.
//!
//! ```text
//!   loop ── put (never waits) ──► queue of QUEUE, the oldest goes when it is full ──► task ── one transaction per record
//!                                                       why/<last + 1> must not exist · put it · delete all below last + 1 - KEPT
//! ```
//!
//! What makes records (`ha::record`) is pure, what is here only writes. Nothing of it is in the way of a promotion, a fence or a
//! renewal: the loop leaves a record in memory and goes on. A fenced node cannot reach the store when it has most to
//! tell; its records wait here until it can, with the time at which they were made.
//!
//! A write whose outcome is not known is looked up before it is tried again: the key that was tried either holds this record or
//! another one, and then the next number is taken. Records are numbered by the store's order, not by anybody's clock.
//!
//! What is lost: records that the process still holds when it dies, and the oldest of more than [`QUEUE`]; those are counted.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_ha::{Moment, Record};
use quorate_node::ReadError;
use quorate_node::clock::boottime;
use quorate_state::{KeyValue, Range, SortOrder, SortTarget};
use tokio::sync::Notify;

use crate::error::WriteError;
use crate::registry::{Registry, prefix_end};
use crate::shared::Shared;
use crate::txn::Guarded;

/// Records that wait for the store: a node that is cut off makes a handful.
const QUEUE: usize = 64;
/// For one call of the store. Nobody waits for it.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Between two tries while the store does not answer.
const RETRY: Duration = Duration::from_secs(1);

/// A record with its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Numbered {
    pub(crate) number: u64,
    pub(crate) record: Record,
}

/// What waits to be written.
#[derive(Default)]
pub(crate) struct Desk {
    queue: Mutex<VecDeque<Record>>,
    filled: Notify,
    dropped: AtomicU64,
}

impl Desk {
    /// Leaves a record, with the wall clock's time of its moment. Never waits.
    pub(crate) fn put(&self, mut record: Record) {
        record.time = wall_clock(record.at);
        tracing::debug!(kind = record.kind.as_str(), "recording: {}", record.headline());
        let mut queue = self.queue.lock();
        if queue.len() == QUEUE {
            queue.pop_front();
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        queue.push_back(record);
        drop(queue);
        self.filled.notify_one();
    }

    /// Records that were lost because too many waited.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn first(&self) -> Option<Record> {
        self.queue.lock().front().cloned()
    }

    /// Takes this record away, if it has not been dropped meanwhile.
    fn done(&self, record: &Record) {
        let mut queue = self.queue.lock();
        if queue.front() == Some(record) {
            queue.pop_front();
        }
    }
}

/// RFC 3339 in microseconds, always as long as any other: texts compare as times do.
fn wall_clock(at: Moment) -> String {
    let ago = boottime().saturating_sub(at.0);
    let time = jiff::SignedDuration::try_from(ago)
        .ok()
        .and_then(|ago| jiff::Timestamp::now().checked_sub(ago).ok())
        .unwrap_or_else(jiff::Timestamp::now);
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Writes for as long as the agent lives.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        let Some(record) = shared.desk.first() else {
            shared.desk.filled.notified().await;
            continue;
        };
        match write(&shared.registry, &record).await {
            Ok(number) => {
                tracing::debug!(number, kind = record.kind.as_str(), "recorded");
                shared.desk.done(&record);
            }
            Err(error) => {
                tracing::debug!(%error, "a decision record waits for the store");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Why a record is not in the store yet.
#[derive(Debug, thiserror::Error)]
enum Unwritten {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Writes one record under the next free number, unless an earlier try did without an answer.
async fn write(registry: &Registry, record: &Record) -> Result<u64, Unwritten> {
    let json = record.to_json();
    loop {
        let newest = registry.records(QUEUE as u64, TIMEOUT).await?;
        if let Some(written) = newest.iter().rev().find(|it| it.record.to_json() == json) {
            return Ok(written.number);
        }
        let number = newest.last().map_or(1, |last| last.number + 1);
        match registry.write_record(number, &json, TIMEOUT).await {
            Ok(()) => return Ok(number),
            // Another node was quicker.
            Err(WriteError::GuardFailed) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

impl Registry {
    /// The newest `count` records, oldest first. A record of a kind that this version does not know is left out.
    pub(crate) async fn records(&self, count: u64, timeout: Duration) -> Result<Vec<Numbered>, ReadError> {
        let prefix = self.keys().records();
        let request = Range {
            key: Bytes::copy_from_slice(prefix.as_bytes()),
            range_end: prefix_end(&prefix),
            limit: i64::try_from(count).unwrap_or(i64::MAX),
            sort_order: SortOrder::Descend.into(),
            sort_target: SortTarget::Key.into(),
            ..Range::default()
        };
        let reply = tokio::time::timeout(timeout, self.handle().range(request, timeout))
            .await
            .map_err(|_| ReadError::TimedOut)??;
        let parsed = |kv: &KeyValue| {
            let number = self.keys().record_number(std::str::from_utf8(&kv.key).ok()?)?;
            let record = Record::parse(std::str::from_utf8(&kv.value).ok()?).ok()?;
            Some(Numbered { number, record })
        };
        Ok(reply.kvs.iter().rev().filter_map(parsed).collect())
    }

    /// Puts one and deletes what is too old, at once.
    async fn write_record(&self, number: u64, json: &str, timeout: Duration) -> Result<(), WriteError> {
        let key = self.keys().record(number);
        let oldest = (number + 1).saturating_sub(quorate_ha::record::KEPT);
        Guarded::unchanged(&key, None)
            .put(&key, json.to_owned(), 0)
            .delete_range(&self.keys().records(), &self.keys().record(oldest))
            .commit(self.handle(), timeout)
            .await
            .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn record(n: u64) -> Record {
        let json = format!(r#"{{"node":"n1","kind":"hold","trigger":"{n}"}}"#);
        Record { at: Moment(boottime()), ..Record::parse(&json).unwrap() }
    }

    #[test]
    fn a_full_desk_drops_the_oldest_and_counts_it() {
        let desk = Desk::default();
        for n in 0..QUEUE as u64 + 2 {
            desk.put(record(n));
        }
        assert_eq!(desk.dropped(), 2);
        let first = desk.first().unwrap();
        assert_eq!(first.trigger, "2");
        desk.done(&first);
        assert_eq!(desk.first().unwrap().trigger, "3");
        desk.done(&first);
        assert_eq!(desk.first().unwrap().trigger, "3", "only what is there is taken away");
    }

    #[test]
    fn the_time_is_that_of_the_moment_and_compares_as_text() {
        let now = wall_clock(Moment(boottime()));
        let then = wall_clock(Moment(boottime().saturating_sub(Duration::from_secs(90))));
        assert_eq!(now.len(), "2026-11-21T17:20:11.000000Z".len());
        assert!(then < now, "{then} {now}");
    }
}
