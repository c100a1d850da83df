//! The layers below the fence's own thread, from the agent's side: a guard process that always lives and is always told.
//!
//! A thread of its own keeps it, for the same reason that the fence has one: starting a process and waiting for an answer must
//! not depend on an executor that hangs, nor hold a tick up.
//!
//! ```text
//!   Fence ─ order ─► wanted ─ wake ─►┐
//!                                    │   thread: start · send · hear · judge · retire
//!   status ◄─────────────────────────┘        │ guard ◄── the one that is told
//!     who waits for "in force"                └ old ◄──── those before it, ended once the new one has obeyed
//! ```
//!
//! The newest order wins; orders that were overtaken are never sent. The current one is sent again every [`BEAT`], and a guard
//! that leaves something unanswered for [`ANSWER`] is taken for hung and replaced. The one that is replaced stays alive until
//! its successor has obeyed: there is no moment without a keeper that is not announced by a death.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use quorate_node::clock::boottime;
use quorate_pg::RunAs;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use tokio::sync::watch;

use super::child::{self, Child, Process};
use super::fitness::{Subject, fits};
use super::process::Options;
use super::record::{self, Record};
use super::wire::{Answer, BYTES, Device, Message};
use super::{Mode, wire};
use crate::error::StartError;
use crate::fence::Margin;

pub use wire::Order;

/// The longest time between two messages to the guard.
pub const BEAT: Duration = Duration::from_secs(1);
/// A guard that leaves a message unanswered for longer is replaced. Long for a process with nothing else to do, and short
/// enough that a hung guard is gone before it could be the only one left.
pub const ANSWER: Duration = Duration::from_secs(2);
/// Until a new guard's first answer.
const FIRST_ANSWER: Duration = Duration::from_secs(5);
/// Between two attempts to start one.
const RETRY: Duration = Duration::from_secs(1);
/// How long a primary may be without a guard before it hands over (`guard.mode: required`).
const MISSED: Duration = Duration::from_secs(3);

/// How long a required device that could not be used is not tried again.
const DEVICE_FAILURE: Duration = Duration::from_secs(30);

/// What keeps a guard.
#[derive(Debug, Clone)]
pub struct Config {
    /// `guard.mode`.
    pub mode: Mode,
    /// The program that has the verb `guard`.
    pub program: PathBuf,
    /// What a guard is told.
    pub options: Options,
    /// A primary needs the watchdog device (`watchdog.mode: required`).
    pub device_required: bool,
    /// PostgreSQL's user, when this is root.
    pub user: Option<RunAs>,
}

/// The handle. Dropping it ends the thread and the connection: an armed guard goes on to its deadline.
pub struct Layers {
    mode: Mode,
    device_required: bool,
    inner: Arc<Inner>,
    thread: Option<JoinHandle<()>>,
}

struct Inner {
    wake: OwnedFd,
    wanted: Mutex<Wanted>,
    status: watch::Sender<Status>,
}

/// What the guard has to be told.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    order: Order,
    /// 0: nothing has been ordered yet.
    seq: u64,
    stopping: bool,
}

/// How it stands with the layers.
#[derive(Debug, Clone)]
pub struct Status {
    /// The newest order that is in force, with nothing left of those before.
    in_force: u64,
    /// How the device took it.
    device: Device,
    /// What was wrong with a device that is required, when it was last tried or looked at: when, and the error number.
    device_failure: Option<(Duration, i32)>,
    /// The guard.
    pub guard: State,
    /// Guards that had to be replaced.
    pub replaced: u64,
    /// Deadlines at which a guard of this data directory found PostgreSQL running and stopped it.
    pub kills: u64,
    /// The margin of the last of them.
    pub margin: Option<Margin>,
    /// When PostgreSQL was gone then.
    pub killed_at: Option<Duration>,
}

/// The guard, as the agent knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Not wanted.
    Off,
    /// Its first answer is waited for.
    Starting,
    /// It answers. `unfit` says what the self-test found wrong.
    Ready {
        /// Its process id.
        pid: i32,
        /// Why fencing cannot be relied on all the same.
        unfit: Option<Arc<str>>,
    },
    /// There is none.
    Missing {
        /// Why.
        why: Arc<str>,
        /// Since when.
        since: Duration,
    },
}

/// The layers do not hold what they were told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unsettled(String);

impl Layers {
    /// Starts the thread, and with it the first guard, disarmed. Guards that earlier agents have left go on until the first
    /// order is in force.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(config: Config) -> Result<Layers, StartError> {
        let system = |what| move |source| StartError::System { what, source };
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| system("no eventfd for the guard's keeper")(errno.into()))?;
        let guard = match config.mode {
            Mode::Off => State::Off,
            Mode::Automatic | Mode::Required => State::Starting,
        };
        let mut status = Status {
            in_force: 0,
            device: Device::Idle,
            device_failure: None,
            guard,
            replaced: 0,
            kills: 0,
            margin: None,
            killed_at: None,
        };
        if let Some(record) = record::take(&config.options.data_dir) {
            tell(&record, &mut status);
        }
        let inner = Arc::new(Inner {
            wake,
            wanted: Mutex::new(Wanted { order: Order::Disarmed, seq: 0, stopping: false }),
            status: watch::Sender::new(status),
        });
        let (mode, device_required) = (config.mode, config.device_required);
        let thread = match mode {
            Mode::Off => None,
            Mode::Automatic | Mode::Required => Some(
                std::thread::Builder::new()
                    .name("layers".into())
                    .spawn({
                        let inner = Arc::clone(&inner);
                        move || Keeper::new(config, inner).run()
                    })
                    .map_err(system("no thread for the guard's keeper"))?,
            ),
        };
        Ok(Layers { mode, device_required, inner, thread })
    }

    /// What gives it orders.
    pub(crate) fn orders(&self) -> Box<dyn Fn(Order) + Send + Sync> {
        let inner = Arc::clone(&self.inner);
        Box::new(move |order| inner.order(order))
    }

    /// Waits until the newest order is in force in every layer and the guards before it are gone.
    ///
    /// # Errors
    /// Not within `patience`: why.
    pub async fn settled(&self, patience: Duration) -> Result<(), Unsettled> {
        let Wanted { order, seq, .. } = *self.inner.wanted.lock();
        if self.mode == Mode::Off || seq == 0 {
            return Ok(());
        }
        let mut status = self.inner.status.subscribe();
        let known = |status: &Status| status.in_force >= seq || matches!(status.guard, State::Missing { .. });
        match tokio::time::timeout(patience, status.wait_for(known)).await {
            Ok(Ok(status)) if status.in_force < seq => Err(Unsettled("there is no guard process".to_owned())),
            Ok(Ok(status)) => match (order, status.device) {
                (Order::Armed { .. }, Device::Failed(_) | Device::Idle) if self.device_required => {
                    Err(Unsettled(device_sentence(status.device)))
                }
                (Order::Armed { .. } | Order::Disarmed, _) => Ok(()),
            },
            Ok(Err(_)) => Err(Unsettled("the guard's keeper has ended".to_owned())),
            Err(_) => {
                let ms = patience.as_millis();
                Err(Unsettled(format!("the guard process has not answered within {ms} ms")))
            }
        }
    }

    /// Waits for the result of the self-test, at most so long.
    pub async fn tested(&self, patience: Duration) {
        let mut status = self.inner.status.subscribe();
        let tested = status.wait_for(|status| status.guard != State::Starting);
        let _ = tokio::time::timeout(patience, tested).await; // what is not known then is not fit
    }

    /// How it stands.
    #[must_use]
    pub fn status(&self) -> Status {
        self.inner.status.borrow().clone()
    }

    /// Why this node should not be primary, and whether that goes for a primary that runs too.
    #[must_use]
    pub fn unfit(&self, now: Duration) -> Option<quorate_ha::Unfit> {
        let status = self.inner.status.borrow();
        let armed = matches!(self.inner.wanted.lock().order, Order::Armed { .. });
        let unfit = |why: String, step_down: bool| Some(quorate_ha::Unfit { why, step_down });
        match &status.guard {
            State::Off => None,
            State::Starting => unfit("the guard process has not answered yet".to_owned(), false),
            State::Missing { why, since } => {
                let late = now.saturating_sub(*since) >= MISSED;
                unfit(format!("there is no guard process: {why}"), self.mode == Mode::Required && late)
            }
            State::Ready { unfit: Some(why), .. } => unfit(why.to_string(), false),
            State::Ready { unfit: None, .. } => {
                let (_, errno) = status.device_failure?;
                unfit(device_sentence(Device::Failed(errno)), armed)
            }
        }
    }
}

fn device_sentence(device: Device) -> String {
    match device {
        Device::Failed(errno) => {
            format!("the watchdog device cannot be used: {}", Errno::from_raw_os_error(errno))
        }
        Device::Idle | Device::Active => "the watchdog device does not count".to_owned(),
    }
}

impl Inner {
    fn order(&self, order: Order) {
        {
            let mut wanted = self.wanted.lock();
            if wanted.seq > 0 && wanted.order == order {
                return;
            }
            (wanted.order, wanted.seq) = (order, wanted.seq + 1);
        }
        self.wake();
    }

    fn wake(&self) {
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes()); // full means that it is awake already
    }
}

impl Drop for Layers {
    fn drop(&mut self) {
        self.inner.wanted.lock().stopping = true;
        self.inner.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Says what a guard has done, and counts it.
fn tell(record: &Record, status: &mut Status) {
    let margin = record.margin();
    status.kills += 1;
    (status.margin, status.killed_at) = (Some(margin), Some(record.done));
    tracing::error!(
        processes = record.found,
        killed = record.killed,
        began_late_ms = record.begun.saturating_sub(record.deadline).as_millis(),
        elapsed_ms = record.done.saturating_sub(record.begun).as_millis(),
        sealed = record.sealed,
        at_s = record.wall_s,
        "the guard stopped PostgreSQL by force because the primary lease was not renewed in time, {margin}"
    );
}

/// The thread's own state.
struct Keeper {
    config: Config,
    inner: Arc<Inner>,
    guard: Option<Link>,
    /// Of earlier agents: they know their deadline, and nobody talks to them.
    left_behind: Vec<Process>,
    /// Ours, that did not answer.
    hung: Vec<Child>,
    /// Not before this the next attempt to start.
    retry_at: Duration,
    /// The result of the first self-test that could be made.
    reached: Option<Result<(), Arc<str>>>,
}

/// The connection to the guard.
struct Link {
    child: Child,
    born: Duration,
    /// How long it took to look at all processes once it has answered.
    ready: Option<Duration>,
    /// What it was asked to reach.
    subject: Option<Subject>,
    /// The number of the last order that was sent, and when.
    sent: Option<(u64, Duration)>,
    /// Since when something is unanswered.
    waiting: Option<Duration>,
    /// The newest order that it has obeyed.
    obeyed: Option<u64>,
    device: Device,
}

impl Keeper {
    fn new(config: Config, inner: Arc<Inner>) -> Keeper {
        let left_behind = child::left_behind(&config.options.data_dir);
        for process in &left_behind {
            tracing::info!(pid = process.pid, "an earlier agent's guard process is still here");
        }
        Keeper {
            config,
            inner,
            guard: None,
            left_behind,
            hung: Vec::new(),
            retry_at: Duration::ZERO,
            reached: None,
        }
    }

    fn run(mut self) {
        loop {
            let wanted = *self.inner.wanted.lock();
            let now = boottime();
            if wanted.stopping {
                // The last order may not have been sent.
                if let Some(guard) = &mut self.guard {
                    guard.tell(now, wanted);
                }
                return;
            }
            if self.guard.is_none() && now >= self.retry_at {
                self.start(now);
            }
            if let Some(guard) = &mut self.guard {
                guard.tell(now, wanted);
            }
            self.wait(now);
            self.hear();
            self.judge();
            // Before the self-test has its result: they are one.
            self.look_at_device(now);
            self.retire(wanted);
        }
    }

    fn start(&mut self, now: Duration) {
        self.retry_at = now + RETRY;
        match Child::start(&self.config.program, &self.config.options) {
            Ok(child) => {
                self.guard = Some(Link {
                    child,
                    born: now,
                    ready: None,
                    subject: None,
                    sent: None,
                    waiting: None,
                    obeyed: None,
                    device: Device::Idle,
                });
            }
            Err(error) => self.missing(&format!("it cannot be started: {error}")),
        }
    }

    /// For news, or until something is due.
    fn wait(&self, now: Duration) {
        let due = match &self.guard {
            None => self.retry_at,
            Some(guard) => {
                let beat = guard.sent.map_or(now, |(_, at)| at + BEAT);
                let patience = match (guard.ready, guard.waiting) {
                    (None, _) => guard.born + FIRST_ANSWER,
                    (Some(_), Some(since)) => since + ANSWER,
                    (Some(_), None) => beat,
                };
                beat.min(patience)
            }
        };
        // A millisecond more than needed, so that what is due is due.
        let left = due.saturating_sub(boottime()) + Duration::from_millis(1);
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut fds = vec![PollFd::new(&self.inner.wake, PollFlags::IN)];
        if let Some(guard) = &self.guard {
            fds.push(PollFd::new(&guard.child.socket, PollFlags::IN));
            fds.push(PollFd::new(&guard.child.process.fd, PollFlags::IN));
        }
        fds.extend(self.left_behind.iter().map(|process| PollFd::new(&process.fd, PollFlags::IN)));
        let _ = poll(&mut fds, Some(&timeout)); // an error: everything is looked at again anyhow
        let mut woken = [0; 8];
        let _ = rustix::io::read(&self.inner.wake, &mut woken); // not woken is as good
    }

    /// What the guard has said.
    fn hear(&mut self) {
        let Some(guard) = &mut self.guard else { return };
        let mut bytes = [0; BYTES];
        loop {
            match rustix::net::recv(guard.child.socket.as_fd(), &mut bytes[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => return, // its end is seen by the pidfd
                Ok((length, _)) => match Answer::unpack(&bytes[..length.min(BYTES)]) {
                    Some(Answer::Ready { scan }) => {
                        guard.ready = Some(scan);
                        guard.waiting = guard.sent.map(|_| boottime());
                        if self.reached.is_none() {
                            match Subject::start(self.config.user) {
                                Ok(subject) => {
                                    guard.send(Message::Reach(subject.pid()));
                                    guard.subject = Some(subject);
                                }
                                Err(error) => {
                                    let why =
                                        format!("/bin/sh cannot be started as PostgreSQL's user: {error}");
                                    self.reached = Some(Err(why.into()));
                                }
                            }
                        }
                    }
                    Some(Answer::Reached(errno)) => {
                        guard.subject = None;
                        self.reached = Some(match errno {
                            0 => Ok(()),
                            errno => Err(format!(
                                "the guard process cannot signal a process of PostgreSQL's user: {}; run quorate as \
                                 that user, or as root with CAP_KILL",
                                Errno::from_raw_os_error(errno)
                            )
                            .into()),
                        });
                    }
                    Some(Answer::Obeyed(seq, device)) => {
                        guard.obeyed = Some(seq);
                        guard.device = device;
                        let newest = guard.sent.is_none_or(|(sent, _)| seq >= sent);
                        guard.waiting = (!newest).then(boottime);
                    }
                    Some(Answer::Fenced) => self.inner.read_record(&self.config.options.data_dir),
                    None => {}
                },
                Err(_) => return,
            }
        }
    }

    /// Is it alive, and does it answer?
    fn judge(&mut self) {
        let Some(guard) = &mut self.guard else { return };
        let now = boottime();
        if guard.child.process.ended(Duration::ZERO) {
            let why = format!("it has ended ({})", guard.child.exit());
            let (at_start, born) = (guard.ready.is_none(), guard.born);
            self.guard = None;
            if at_start {
                self.missing(&why);
            } else {
                // At once: this one has shown that a guard can run here. Unless it has only just begun.
                self.retry_at = now.max(born + RETRY);
                self.replacing(&why);
            }
            return;
        }
        let late = match (guard.ready, guard.waiting) {
            (None, _) => (now >= guard.born + FIRST_ANSWER).then_some(FIRST_ANSWER),
            (Some(_), Some(since)) => (now >= since + ANSWER).then_some(ANSWER),
            (Some(_), None) => None,
        };
        let Some(patience) = late else { return };
        let (why, ready) =
            (format!("it has not answered for {} s", patience.as_secs()), guard.ready.is_some());
        if let Some(link) = self.guard.take() {
            self.hung.push(link.child);
        }
        if ready {
            self.retry_at = now;
            self.replacing(&why);
        } else {
            self.missing(&why);
        }
    }

    /// Ends those before, once the present one has obeyed an order; and tells how it stands.
    fn retire(&mut self, wanted: Wanted) {
        let Some(guard) = &self.guard else { return };
        if let Some(scan) = guard.ready {
            let stop_budget = self.config.options.stop_budget;
            let verdict = self
                .reached
                .clone()
                .map(|reached| reached.and_then(|()| fits(scan, stop_budget).map_err(Arc::from)).err());
            if let Some(unfit) = verdict {
                self.inner.become_state(State::Ready { pid: guard.child.process.pid, unfit });
            }
        }
        // The order that was sent is the one that is wanted, and it is in force.
        let in_force = guard.obeyed == Some(wanted.seq) && guard.ready.is_some();
        let gone = |process: &Process| process.ended(Duration::ZERO);
        if in_force {
            for child in self.hung.drain(..) {
                child.end();
            }
            if wanted.seq > 0 {
                for process in self.left_behind.drain(..) {
                    tracing::info!(
                        pid = process.pid,
                        "ending an earlier agent's guard process: a new one is told"
                    );
                    process.kill();
                }
                let device = guard.device;
                self.inner.status.send_if_modified(|status| {
                    let changed = (status.in_force, status.device) != (wanted.seq, device);
                    (status.in_force, status.device) = (wanted.seq, device);
                    changed
                });
            }
        } else if self.left_behind.iter().any(gone) {
            // By itself: what it did, it has written down.
            self.left_behind.retain(|process| !gone(process));
            self.inner.read_record(&self.config.options.data_dir);
        }
    }

    /// A device that is required must be there before it is needed; opening it would start it. What opening it said is
    /// believed for a while.
    fn look_at_device(&mut self, now: Duration) {
        let Some((path, _)) = self.config.options.watchdog.as_ref().filter(|_| self.config.device_required)
        else {
            return;
        };
        let there = rustix::fs::access(path, rustix::fs::Access::WRITE_OK).map_err(Errno::raw_os_error);
        self.inner.status.send_if_modified(|status| {
            let failure = match (status.device, there) {
                (Device::Active, _) => None,
                (Device::Failed(errno), _) | (Device::Idle, Err(errno)) => Some((now, errno)),
                (Device::Idle, Ok(())) => status.device_failure.filter(|(at, _)| now < *at + DEVICE_FAILURE),
            };
            let changed = status.device_failure.map(|(_, errno)| errno) != failure.map(|(_, errno)| errno);
            status.device_failure = failure;
            changed
        });
    }

    /// It was there, and another one will be.
    fn replacing(&mut self, why: &str) {
        tracing::warn!(why, "replacing the guard process");
        self.inner.status.send_modify(|status| status.replaced += 1);
    }

    /// There is none, and the next attempt is later.
    fn missing(&mut self, why: &str) {
        let since = match &self.inner.status.borrow().guard {
            State::Missing { since, .. } => *since,
            State::Off | State::Starting | State::Ready { .. } => boottime(),
        };
        self.inner.become_state(State::Missing { why: why.into(), since });
    }
}

impl Inner {
    /// Tells who listens, and the log.
    fn become_state(&self, state: State) {
        let changed = self.status.send_if_modified(|status| {
            let changed = status.guard != state;
            status.guard = state.clone();
            changed
        });
        if !changed {
            return;
        }
        match state {
            State::Ready { pid, unfit: None } => tracing::info!(pid, "the guard process is ready"),
            State::Ready { pid, unfit: Some(why) } => {
                tracing::error!(
                    pid,
                    "the self-test of fencing failed, this node will not be promoted: {why}"
                );
            }
            State::Missing { why, .. } => {
                tracing::error!("there is no guard process, this node will not be promoted: {why}");
            }
            State::Off | State::Starting => {}
        }
    }

    fn read_record(&self, data_dir: &Path) {
        if let Some(record) = record::take(data_dir) {
            self.status.send_modify(|status| tell(&record, status));
        }
    }
}

impl Link {
    /// The order, when it is new or a beat is due.
    fn tell(&mut self, now: Duration, wanted: Wanted) {
        let due = self.sent.is_none_or(|(seq, at)| seq != wanted.seq || now >= at + BEAT);
        if due {
            self.send(Message::Order(wanted.seq, wanted.order));
            self.sent = Some((wanted.seq, now));
            self.waiting.get_or_insert(now);
        }
    }

    /// A socket that is full belongs to a guard that does not read: it is judged by its silence.
    fn send(&self, message: Message) {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let _ = rustix::net::send(self.child.socket.as_fd(), &message.pack(), flags);
    }
}
