//! The one slot for long-running work: bootstrap, clone, rewind, start, promote, stop, restart.
//!
//! An operation may take hours, a renewal may not wait for it, and two operations on one data directory at a time are
//! never right. So there is one slot; the loop starts an operation, goes on ticking, and sees it in its next observations
//! as a fact: running since, or ended how. The slot wakes the loop when the operation ends.
//!
//! Aborting cancels the operation at its next await; children it started are killed with it (`pg` starts them so). An
//! aborted operation counts as failed.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quorate_ha::{Moment, OperationFacts, OperationKind, Outcome};
use quorate_node::clock::boottime;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinHandle};

/// The slot.
pub(crate) struct Slot {
    state: State,
    wake: Arc<Notify>,
}

enum State {
    Idle,
    Running {
        kind: OperationKind,
        started: Moment,
        abort: AbortHandle,
        end: Arc<Mutex<Option<End>>>,
        watcher: JoinHandle<()>,
    },
    Finished {
        kind: OperationKind,
        end: End,
    },
}

#[derive(Clone)]
struct End {
    at: Moment,
    outcome: Outcome,
}

impl Slot {
    pub(crate) fn new(wake: Arc<Notify>) -> Slot {
        Slot { state: State::Idle, wake }
    }

    /// What runs now. Call [`Slot::observe`] before to see an end that has just come.
    pub(crate) fn running(&self) -> Option<OperationKind> {
        match &self.state {
            State::Running { kind, .. } => Some(*kind),
            State::Idle | State::Finished { .. } => None,
        }
    }

    /// One has ended and [`Slot::observe`] has not told it yet.
    pub(crate) fn has_ended(&self) -> bool {
        match &self.state {
            State::Running { end, .. } => end.lock().is_some(),
            State::Idle | State::Finished { .. } => false,
        }
    }

    /// Waits for the end of the one that runs. False: it has not come.
    pub(crate) async fn ends(&mut self, within: Duration) -> bool {
        let State::Running { watcher, .. } = &mut self.state else { return false };
        let ended = tokio::time::timeout(within, watcher).await.is_ok();
        self.observe();
        ended
    }

    /// Starts an operation.
    ///
    /// # Errors
    /// Another one runs: the kind of it.
    pub(crate) fn start<F>(&mut self, kind: OperationKind, work: F) -> Result<(), OperationKind>
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        if let Some(running) = self.running() {
            return Err(running);
        }
        let wake = Arc::clone(&self.wake);
        let started = Moment(boottime());
        tracing::info!(operation = %kind, "operation started");
        let task = tokio::spawn(work);
        let (abort, end) = (task.abort_handle(), Arc::new(Mutex::new(None)));
        // A second task takes the end in, so that the wake-up comes after the end can be seen, also when it is a panic.
        let watcher = tokio::spawn({
            let end = Arc::clone(&end);
            async move {
                let outcome = match task.await {
                    Ok(Ok(())) => {
                        tracing::info!(operation = %kind, elapsed_ms = elapsed_ms(started), "operation succeeded");
                        Outcome::Succeeded
                    }
                    Ok(Err(why)) => {
                        tracing::error!(operation = %kind, elapsed_ms = elapsed_ms(started), error = why, "operation failed");
                        Outcome::Failed { why }
                    }
                    Err(error) if error.is_cancelled() => Outcome::Failed { why: "aborted".into() },
                    // A defect; the loop must go on, it may be the one that has to fence.
                    Err(error) => Outcome::Failed { why: format!("the operation broke off: {error}") },
                };
                *end.lock() = Some(End { at: Moment(boottime()), outcome });
                wake.notify_one();
            }
        });
        self.state = State::Running { kind, started, abort, end, watcher };
        Ok(())
    }

    /// The slot as a fact. Takes in the end of an operation that has ended.
    pub(crate) fn observe(&mut self) -> OperationFacts {
        if let State::Running { kind, end, .. } = &self.state {
            let (kind, end) = (*kind, end.lock().take());
            if let Some(end) = end {
                self.state = State::Finished { kind, end };
            }
        }
        match &self.state {
            State::Idle => OperationFacts::Idle,
            State::Running { kind, started, .. } => {
                OperationFacts::Running { kind: *kind, started: *started }
            }
            State::Finished { kind, end } => {
                OperationFacts::Finished { kind: *kind, at: end.at, outcome: end.outcome.clone() }
            }
        }
    }

    /// Cancels what runs and waits until it is gone.
    pub(crate) async fn abort(&mut self) {
        if let State::Running { kind, abort, watcher, .. } = &mut self.state {
            tracing::warn!(operation = %kind, "operation aborted");
            abort.abort();
            let _ = watcher.await; // it only takes the end in
        }
        self.observe();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let State::Running { abort, .. } = &self.state {
            abort.abort();
        }
    }
}

fn elapsed_ms(since: Moment) -> u128 {
    Moment(boottime()).since(since).as_millis()
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn one_at_a_time_seen_as_a_fact() {
        let wake = Arc::new(Notify::new());
        let mut slot = Slot::new(Arc::clone(&wake));
        assert_eq!(slot.observe(), OperationFacts::Idle);
        let (finish, finished) = oneshot::channel::<()>();
        slot.start(OperationKind::Clone, async move { finished.await.map_err(|error| error.to_string()) })
            .unwrap();
        assert!(matches!(slot.observe(), OperationFacts::Running { kind: OperationKind::Clone, .. }));
        assert_eq!(slot.start(OperationKind::Stop, async { Ok(()) }), Err(OperationKind::Clone));
        assert!(!slot.has_ended() && !slot.ends(Duration::from_millis(1)).await);
        finish.send(()).unwrap();
        wake.notified().await;
        assert!(slot.has_ended(), "there is an end to be told");
        let OperationFacts::Finished { kind, outcome, .. } = slot.observe() else {
            panic!("woken before the end")
        };
        assert!(!slot.has_ended(), "it has been told");
        assert_eq!((kind, outcome), (OperationKind::Clone, Outcome::Succeeded));
    }

    #[tokio::test]
    async fn an_end_that_is_about_to_come_is_waited_for() {
        let mut slot = Slot::new(Arc::new(Notify::new()));
        assert!(!slot.ends(Duration::from_secs(60)).await, "nothing runs");
        slot.start(OperationKind::Stop, async {
            tokio::task::yield_now().await;
            Ok(())
        })
        .unwrap();
        assert!(slot.ends(Duration::from_secs(60)).await);
        assert!(matches!(slot.observe(), OperationFacts::Finished { outcome: Outcome::Succeeded, .. }));
    }

    #[tokio::test]
    async fn an_aborted_operation_has_failed() {
        let mut slot = Slot::new(Arc::new(Notify::new()));
        slot.start(OperationKind::Clone, std::future::pending()).unwrap();
        slot.abort().await;
        assert!(matches!(slot.observe(), OperationFacts::Finished { outcome: Outcome::Failed { .. }, .. }));
    }
}
