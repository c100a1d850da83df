//! The fence: stop accepting writes, by force, before the lease can expire, whatever the rest of the process is doing.
//!
//! # Problem
//!
//! The primary lease says until when this node may let PostgreSQL write. The HA loop is the wrong place to watch that
//! instant: it awaits the store, probes and operations, it shares its executor with the voter and the REST API, and the
//! situation in which the lease runs out is exactly the one in which one of these hangs. So the deadline lives on a
//! dedicated operating system thread that does nothing else, sleeps in the kernel and needs no executor to act.
//!
//! # Model
//!
//! ```text
//!   renewal sent          confirmed                       deadline      valid_until
//!   ├──────────────────────┤                                  │             │
//!   t                      └─ arm(t + ttl)                    └ kill ───────┤ stop budget + margin
//!                                                                           └ from here another node may be primary
//! ```
//!
//! Only [`Fence::confirmed`] moves the deadline, and only forward: it takes the instant *before* the renewal was sent
//! plus the ttl, because the store counts from some instant after that. The thread sleeps on a `timerfd` of
//! `CLOCK_BOOTTIME` set to an absolute time: setting the wall clock does not move it, a suspended machine finds it expired
//! on resume, and re-arming is one system call that any thread may make. When it fires the thread kills PostgreSQL and
//! tries again until it is gone. Then it stays on watch: a start that was on its way when the deadline passed would bring a
//! writable server up after the kill, so the thread looks and kills again until the loop, having aborted whatever it had
//! under way and seen PostgreSQL stopped, disarms it.
//!
//! # Invariants
//!
//! - The deadline is never later than the newest confirmed `valid_until` minus the lead (stop budget + margin).
//! - A fence that has begun is finished: a confirmation that arrives meanwhile does not call it back.
//! - Disarmed only by [`Fence::disarm`], which the loop calls when PostgreSQL is stopped or is a standby (S15).
//! - [`Fence::request`], the loop's own decision, takes the same path as the deadline, so there is one way to die.
//!
//! # What is missing
//!
//! This thread dies with the process and stops with it (SIGKILL, SIGSTOP). Those two are the task of the layers below
//! ([`crate::guard`], [`crate::watchdog`]), which are told of every deadline in the order in which it was set.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::sync::watch;

use quorate_node::clock::boottime;

use crate::error::StartError;
use crate::guard::Order;

/// Between two attempts to kill a PostgreSQL that would not die. Short, because every attempt may be the one before the
/// lease expires, and long enough not to fill the log.
const RETRY: Duration = Duration::from_millis(100);

/// Between two looks while on watch after a fence.
const WATCH: Duration = Duration::from_millis(50);

/// How PostgreSQL is stopped by force: synchronous, bounded, without tokio; an error is tried again. Answers how many of its
/// processes there were.
pub type Kill = Box<dyn FnMut() -> Result<usize, String> + Send>;

/// What is done once after each fence, when PostgreSQL is gone: it makes sure that no start is read-write (S12).
pub type Seal = Box<dyn FnMut() + Send>;

/// Who else is told until when PostgreSQL may write: the layers below this thread ([`crate::guard`]). Must not wait.
pub type Tell = Box<dyn Fn(Order) + Send + Sync>;

/// What the fence is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing may be writing here, or nobody has permitted it yet.
    Disarmed,
    /// Permitted to write until the deadline.
    Armed,
    /// Killing.
    Fencing,
    /// Done. Stays so until the next confirmation or [`Fence::disarm`].
    Fenced(Record),
}

/// One fence that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// When it began.
    pub begun: Duration,
    /// When PostgreSQL was gone.
    pub done: Duration,
    /// The lease's end as known here; None when no lease was held.
    pub valid_until: Option<Duration>,
    /// True when the loop asked for it, false when the deadline passed.
    pub requested: bool,
    /// There was something to stop. Not after a deadline that this process slept through: the guard was there first, and how
    /// late a thread wakes up says nothing about PostgreSQL.
    pub found: bool,
}

impl Record {
    /// Between the end of PostgreSQL and the end of the lease. None when there was no lease, or nothing to stop.
    #[must_use]
    pub fn margin(&self) -> Option<Margin> {
        self.valid_until.filter(|_| self.found).map(|until| match until.checked_sub(self.done) {
            Some(left) => Margin::Before(left),
            None => Margin::After(self.done.saturating_sub(until)),
        })
    }
}

/// How a fence stands to the end of the lease it protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Margin {
    /// As it must be.
    Before(Duration),
    /// Too late: another node may have been writing for so long.
    After(Duration),
}

impl Margin {
    /// Seconds, negative when it was too late: what the metric shows.
    #[must_use]
    pub fn as_secs_f64(self) -> f64 {
        match self {
            Margin::Before(left) => left.as_secs_f64(),
            Margin::After(late) => -late.as_secs_f64(),
        }
    }
}

impl fmt::Display for Margin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Margin::Before(left) => write!(out, "{} ms before the lease could expire", left.as_millis()),
            Margin::After(late) => write!(out, "{} ms AFTER the lease could expire", late.as_millis()),
        }
    }
}

/// The fence's handle; the thread ends when it is dropped (without killing anything).
pub struct Fence {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    timer: OwnedFd,
    inner: Mutex<Inner>,
    state: watch::Sender<State>,
    tell: Tell,
}

struct Inner {
    /// The newest confirmed end of the primary lease.
    valid_until: Option<Duration>,
    /// Stop budget + margin: how long before `valid_until` the killing begins.
    lead: Duration,
    requested: bool,
    stopping: bool,
}

impl Shared {
    /// Tells who listens, if it is a change.
    fn become_state(&self, state: State) {
        self.state.send_if_modified(|now| std::mem::replace(now, state) != state);
    }

    /// Wakes the thread at `at` (absolute), at once if it is past, never for None.
    fn set_timer(&self, at: Option<Duration>) {
        // A zero `it_value` disarms a timerfd, so "at once" is one nanosecond after boot.
        let at = at.map_or(Duration::ZERO, |at| at.max(Duration::from_nanos(1)));
        let value = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec {
                tv_sec: i64::try_from(at.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: at.subsec_nanos().into(),
            },
        };
        // Fails only for a bad descriptor or a bad time; both would be a defect of this file, and a fence that cannot
        // be armed must not let PostgreSQL write.
        rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &value)
            .expect("setting a valid timerfd to a valid time");
    }
}

impl Fence {
    /// Starts the thread, disarmed. `tell` hears of every deadline that this thread is armed with, and of every disarming.
    ///
    /// # Errors
    /// The system gives no timer or no thread.
    pub fn start(lead: Duration, kill: Kill, seal: Seal, tell: Tell) -> Result<Fence, StartError> {
        let timer = rustix::time::timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC)
            .map_err(|errno| StartError::System { what: "no timer for the fence", source: errno.into() })?;
        let shared = Arc::new(Shared {
            timer,
            inner: Mutex::new(Inner { valid_until: None, lead, requested: false, stopping: false }),
            state: watch::Sender::new(State::Disarmed),
            tell,
        });
        let thread = std::thread::Builder::new()
            .name("fence".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || run(&shared, kill, seal)
            })
            .map_err(|source| StartError::System { what: "no thread for the fence", source })?;
        Ok(Fence { shared, thread: Some(thread) })
    }

    /// A confirmed grant or renewal: the lease cannot expire before `valid_until`, which the caller computed from the
    /// instant before it sent the request.
    pub fn confirmed(&self, valid_until: Duration) {
        let mut inner = self.shared.inner.lock();
        // Only forward: two renewals may be confirmed out of order.
        let until = inner.valid_until.map_or(valid_until, |known| known.max(valid_until));
        inner.valid_until = Some(until);
        if inner.requested || *self.shared.state.borrow() == State::Fencing {
            return; // it has begun: it is finished
        }
        self.shared.become_state(State::Armed);
        let deadline = until.saturating_sub(inner.lead);
        self.shared.set_timer(Some(deadline));
        (self.shared.tell)(Order::Armed { deadline, valid_until: until });
    }

    /// PostgreSQL is stopped or is a standby: nothing here can write. Without effect while a fence is under way.
    pub fn disarm(&self) {
        let mut inner = self.shared.inner.lock();
        if inner.requested || *self.shared.state.borrow() == State::Fencing {
            return;
        }
        inner.valid_until = None;
        self.shared.set_timer(None);
        self.shared.become_state(State::Disarmed);
        (self.shared.tell)(Order::Disarmed);
    }

    /// Kills PostgreSQL now, by the fence's own path, and returns when it is gone. Cancelling the future does not stop it.
    pub async fn request(&self) -> Record {
        let mut changes = self.shared.state.subscribe();
        {
            let mut inner = self.shared.inner.lock();
            if *self.shared.state.borrow() != State::Fencing {
                inner.requested = true;
                self.shared.become_state(State::Fencing);
                self.shared.set_timer(Some(Duration::ZERO));
            }
        }
        loop {
            if let State::Fenced(record) = *changes.borrow_and_update() {
                return record;
            }
            if changes.changed().await.is_err() {
                // The sender lives in `self`, so this cannot happen while `self` is borrowed; never claim a fence.
                std::future::pending::<()>().await;
            }
        }
    }

    /// The newest confirmed end of the primary lease, while the fence is armed with it.
    #[must_use]
    pub fn valid_until(&self) -> Option<Duration> {
        self.shared.inner.lock().valid_until
    }

    /// True while PostgreSQL may write: armed, and `now` is before the deadline. What `/primary` answers by: it comes from
    /// the clock and the last confirmation, not from the HA loop being alive.
    #[must_use]
    pub fn permits_writes(&self, now: Duration) -> bool {
        let inner = self.shared.inner.lock();
        *self.shared.state.borrow() == State::Armed
            && inner.valid_until.is_some_and(|until| now < until.saturating_sub(inner.lead))
    }

    /// What it is doing, and changes of that.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<State> {
        self.shared.state.subscribe()
    }
}

impl Drop for Fence {
    fn drop(&mut self) {
        {
            let mut inner = self.shared.inner.lock();
            inner.stopping = true;
            self.shared.set_timer(Some(Duration::ZERO));
        }
        if let Some(thread) = self.thread.take() {
            // A fence under way is finished first; its attempts are bounded by `Kill`.
            let _ = thread.join();
        }
    }
}

/// The thread.
fn run(shared: &Shared, mut kill: Kill, mut seal: Seal) {
    let mut expirations = [0u8; 8];
    loop {
        match rustix::io::read(&shared.timer, &mut expirations) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            // The descriptor is ours and open: anything else is a defect, and silence would be a fence that never fires.
            Err(errno) => panic!("the fence's timer cannot be read: {errno}"),
        }
        let (begun, requested) = {
            let inner = shared.inner.lock();
            if inner.stopping {
                return;
            }
            if let State::Fenced(_) = *shared.state.borrow() {
                // On watch. Nothing can be running here with permission, because a confirmation would have armed it. Under
                // the lock, so that nothing that is started after `disarm` returned can be hit.
                shared.set_timer(Some(boottime() + WATCH));
                if let Err(error) = kill() {
                    tracing::error!(
                        error,
                        "fencing: something of PostgreSQL has come back and is not gone yet"
                    );
                }
                continue;
            }
            let begun = boottime();
            let due = inner.valid_until.is_some_and(|until| begun >= until.saturating_sub(inner.lead));
            let deadline_passed = due && *shared.state.borrow() == State::Armed;
            if !(inner.requested || deadline_passed) {
                continue; // re-armed between the expiry and the lock
            }
            shared.become_state(State::Fencing);
            (begun, inner.requested)
        };
        if !requested {
            tracing::error!(
                "fencing: the primary lease was not renewed in time, stopping PostgreSQL by force"
            );
        }
        let mut found = false;
        loop {
            match kill() {
                Ok(processes) => {
                    found |= processes > 0;
                    break;
                }
                Err(error) => {
                    tracing::error!(error, "fencing: PostgreSQL is not gone yet, trying again");
                    found = true;
                }
            }
            if shared.inner.lock().stopping {
                return;
            }
            std::thread::sleep(RETRY);
        }
        let done = boottime();
        seal();
        let mut inner = shared.inner.lock();
        let record = Record { begun, done, valid_until: inner.valid_until, requested, found };
        inner.requested = false;
        inner.valid_until = None;
        shared.set_timer(Some(boottime() + WATCH));
        shared.become_state(State::Fenced(record));
        drop(inner);
        match record.margin() {
            Some(margin) => {
                tracing::warn!(elapsed_ms = (record.done - record.begun).as_millis(), "fenced {margin}")
            }
            None => tracing::warn!(
                elapsed_ms = (record.done - record.begun).as_millis(),
                "fenced without a lease, or nothing was left to stop"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};
    use std::sync::mpsc;

    use super::*;

    /// A process to kill, and the instant at which it was seen dead.
    fn victim() -> (Child, Kill, mpsc::Receiver<Duration>) {
        let child = Command::new("sleep").arg("600").spawn().expect("sleep starts");
        let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("a pid");
        let (dead, seen) = mpsc::channel();
        let kill: Kill = Box::new(move || {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL)
                .map_err(|errno| errno.to_string())?;
            dead.send(boottime()).map(|()| 1).map_err(|error| error.to_string())
        });
        (child, kill, seen)
    }

    const LONG: Duration = Duration::from_secs(20);

    fn nobody() -> Tell {
        Box::new(|_| {})
    }

    #[test]
    fn the_layers_below_hear_of_every_deadline() {
        let (said, heard) = mpsc::channel();
        let tell: Tell = Box::new(move |order| said.send(order).expect("somebody listens"));
        let fence = Fence::start(Duration::from_secs(1), Box::new(|| Ok(0)), Box::new(|| {}), tell).unwrap();
        let until = boottime() + LONG;
        let armed = Order::Armed { deadline: until - Duration::from_secs(1), valid_until: until };
        fence.confirmed(until);
        // An older confirmation that comes late moves nothing.
        fence.confirmed(until - Duration::from_secs(1));
        fence.disarm();
        assert_eq!(heard.try_iter().collect::<Vec<_>>(), [armed, armed, Order::Disarmed]);
    }

    #[test]
    fn the_deadline_kills_before_the_lease_ends() {
        let (mut child, kill, seen) = victim();
        let lead = Duration::from_millis(400);
        let fence = Fence::start(lead, kill, Box::new(|| {}), nobody()).unwrap();
        let until = boottime() + Duration::from_millis(700);
        fence.confirmed(until);
        assert!(fence.permits_writes(boottime()));
        let killed = seen.recv_timeout(LONG).unwrap();
        assert!(killed >= until - lead, "not before the deadline");
        assert!(killed < until, "before the lease ends");
        child.wait().unwrap();
        assert!(!fence.permits_writes(boottime()));
    }

    #[test]
    fn confirmations_move_the_deadline_and_only_forward() {
        let (mut child, kill, seen) = victim();
        let fence = Fence::start(Duration::from_millis(100), kill, Box::new(|| {}), nobody()).unwrap();
        let first = boottime() + Duration::from_millis(300);
        let second = first + Duration::from_millis(500);
        fence.confirmed(second);
        fence.confirmed(first);
        assert_eq!(fence.valid_until(), Some(second));
        let killed = seen.recv_timeout(LONG).unwrap();
        assert!(killed >= second - Duration::from_millis(100), "the older confirmation did not shorten it");
        child.wait().unwrap();
    }

    #[test]
    fn disarmed_nothing_happens() {
        let (mut child, kill, seen) = victim();
        let fence = Fence::start(Duration::from_millis(100), kill, Box::new(|| {}), nobody()).unwrap();
        fence.confirmed(boottime() + Duration::from_millis(300));
        fence.disarm();
        assert!(seen.recv_timeout(Duration::from_millis(500)).is_err());
        assert_eq!(*fence.watch().borrow(), State::Disarmed);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn a_request_takes_the_same_path_and_records_the_margin() {
        let (mut child, kill, _seen) = victim();
        let fence = Fence::start(Duration::from_millis(100), kill, Box::new(|| {}), nobody()).unwrap();
        let until = boottime() + Duration::from_secs(5);
        fence.confirmed(until);
        let record = tokio::time::timeout(LONG, fence.request()).await.unwrap();
        assert!(record.requested);
        assert!(matches!(record.margin(), Some(Margin::Before(left)) if left > Duration::from_secs(3)));
        child.wait().unwrap();
        fence.confirmed(boottime() + LONG);
        assert_eq!(*fence.watch().borrow(), State::Armed, "a new permission arms it again");
    }

    #[tokio::test]
    async fn what_comes_back_after_a_fence_is_killed_until_the_loop_disarms() {
        let (kills, seen) = mpsc::channel();
        let kill: Kill = Box::new(move || kills.send(()).map(|()| 1).map_err(|error| error.to_string()));
        let fence = Fence::start(Duration::ZERO, kill, Box::new(|| {}), nobody()).unwrap();
        tokio::time::timeout(LONG, fence.request()).await.unwrap();
        for _ in 0..3 {
            seen.recv_timeout(LONG).unwrap();
        }
        fence.disarm();
        while seen.try_recv().is_ok() {}
        assert!(seen.recv_timeout(WATCH * 4).is_err(), "not after it was disarmed");
        assert_eq!(*fence.watch().borrow(), State::Disarmed);
    }

    #[tokio::test]
    async fn an_attempt_that_fails_is_made_again() {
        let mut attempts = 0;
        let kill: Kill = Box::new(move || {
            attempts += 1;
            if attempts < 3 { Err(format!("attempt {attempts}")) } else { Ok(0) }
        });
        let fence = Fence::start(Duration::ZERO, kill, Box::new(|| {}), nobody()).unwrap();
        let record = tokio::time::timeout(LONG, fence.request()).await.unwrap();
        assert!(record.done - record.begun >= RETRY * 2);
    }

    #[tokio::test]
    async fn a_fence_that_finds_nothing_has_no_margin() {
        let fence = Fence::start(Duration::ZERO, Box::new(|| Ok(0)), Box::new(|| {}), nobody()).unwrap();
        let mut state = fence.watch();
        fence.confirmed(boottime() + Duration::from_millis(50));
        let fenced = |state: &State| matches!(state, State::Fenced(_));
        let State::Fenced(record) =
            *tokio::time::timeout(LONG, state.wait_for(fenced)).await.unwrap().unwrap()
        else {
            unreachable!("waited for")
        };
        assert!(!record.found && record.valid_until.is_some());
        assert_eq!(record.margin(), None);
    }
}
