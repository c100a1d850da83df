//! How far this member has applied, and who waits for it to get further.
//!
//! Waiters are kept by the index they wait for, so that a chunk that was applied wakes those it concerns and nobody else. A
//! watch channel would wake every forwarded write and every read of this member for every chunk, most of them to no end.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

/// Waiters that gave up are looked for when there are this many, and again at twice what is left.
const SWEEP: usize = 4_096;

/// The applied index. Written by the apply thread, read and awaited by everybody.
#[derive(Debug)]
pub(crate) struct Progress {
    index: watch::Sender<u64>,
    waiting: Mutex<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    by_index: BTreeMap<u64, Vec<oneshot::Sender<()>>>,
    count: usize,
    sweep_at: usize,
    ended: bool,
}

impl Progress {
    pub(crate) fn new(index: u64) -> Progress {
        let waiting = Waiting { by_index: BTreeMap::new(), count: 0, sweep_at: SWEEP, ended: false };
        Progress { index: watch::Sender::new(index), waiting: Mutex::new(waiting) }
    }

    pub(crate) fn index(&self) -> u64 {
        *self.index.borrow()
    }

    /// The index as it moves, for who cares for every step of it.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.index.subscribe()
    }

    /// What `index` covers is visible to every reader from now on.
    pub(crate) fn moved_to(&self, index: u64) {
        self.index.send_replace(index);
        let reached = {
            let mut waiting = self.waiting.lock();
            let beyond = waiting.by_index.split_off(&(index + 1));
            let reached = std::mem::replace(&mut waiting.by_index, beyond);
            waiting.count -= reached.values().map(Vec::len).sum::<usize>();
            reached
        };
        for waiter in reached.into_values().flatten() {
            // One whose deadline passed has left.
            let _ = waiter.send(());
        }
    }

    /// Nothing will be applied any more: whoever waits is told.
    pub(crate) fn end(&self) {
        let mut waiting = self.waiting.lock();
        waiting.ended = true;
        waiting.by_index.clear();
        waiting.count = 0;
    }

    /// Waits until `index` is applied. False: it never will be, here.
    pub(crate) async fn reached(&self, index: u64) -> bool {
        if self.index() >= index {
            return true;
        }
        let reached = {
            let mut waiting = self.waiting.lock();
            // Looked at again under the lock: `moved_to` stores before it locks.
            if self.index() >= index {
                return true;
            }
            if waiting.ended {
                return false;
            }
            if waiting.count >= waiting.sweep_at {
                waiting.sweep();
            }
            let (waiter, reached) = oneshot::channel();
            waiting.by_index.entry(index).or_default().push(waiter);
            waiting.count += 1;
            reached
        };
        reached.await.is_ok()
    }
}

impl Waiting {
    fn sweep(&mut self) {
        self.by_index.retain(|_, waiters| {
            waiters.retain(|waiter| !waiter.is_closed());
            !waiters.is_empty()
        });
        self.count = self.by_index.values().map(Vec::len).sum();
        self.sweep_at = (2 * self.count).max(SWEEP);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn a_waiter_hears_of_its_index_and_of_the_end() {
        let progress = Arc::new(Progress::new(3));
        assert!(progress.reached(3).await, "it is there already");
        let waiters: Vec<_> = [4, 5, 9]
            .map(|index| {
                let progress = Arc::clone(&progress);
                tokio::spawn(async move { progress.reached(index).await })
            })
            .into();
        while progress.waiting.lock().count < 3 {
            tokio::task::yield_now().await;
        }
        progress.moved_to(5);
        assert_eq!(progress.waiting.lock().count, 1, "those up to 5 are gone");
        progress.end();
        let mut heard = Vec::new();
        for waiter in waiters {
            heard.push(waiter.await.expect("no panic"));
        }
        assert_eq!(heard, [true, true, false]);
        assert!(!progress.reached(10).await, "nothing comes after the end");
    }

    #[tokio::test]
    async fn waiters_that_left_do_not_gather() {
        let progress = Progress::new(0);
        for _ in 0..10 * SWEEP {
            let mut wait = Box::pin(progress.reached(1));
            assert!(futures_util::poll!(&mut wait).is_pending(), "nothing was applied");
        }
        assert!(progress.waiting.lock().count <= SWEEP, "{} are held", progress.waiting.lock().count);
    }
}
