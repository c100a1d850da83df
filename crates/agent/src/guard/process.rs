//! What the guard process does: obey orders, watch a clock, and kill when it passes.
//!
//! ```text
//!              armed(t)                 t passes: kill ─► seal ─► record ─► answer
//!   Disarmed ───────────► Armed(t) ──────────────────────────────────────────────► Fenced
//!      ▲        disarmed    │  ▲ armed(t')                                         │    │ every 50 ms: kill what came back
//!      └────────────────────┘  └───────────────────────────────────────────────────┘    │
//!      └────────────────────────────────── disarmed ────────────────────────────────────┘
//! ```
//!
//! Orders are heard before the clock is judged, always: a guard that was stopped or starved while later orders came obeys
//! them and does not act on the old one. A kill that has begun is finished; an order that comes meanwhile is heard after it.
//!
//! The agent's end of the connection means that the agent is gone. A disarmed guard then ends; an armed one goes on to its
//! deadline and ends [`LINGER`] after it has fenced, so that a start which was under way when the agent died comes to nothing
//! too.
//!
//! Everything in the loop is a system call on what was had before it began. Only after the kill the disk is touched: a disk
//! that hangs delays the seal and the record, and a data directory on it starts nothing meanwhile.

use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate_node::clock::boottime;
use quorate_pg::Fencer;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use rustix::process::{Pid, test_kill_process};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags};

use super::record::{Place, Record};
use super::wire::{Answer, BYTES, Device, Message, Order};
use crate::watchdog::{self, Linux, Safety, Watchdog};

/// Between two attempts to kill what would not die.
const RETRY: Duration = Duration::from_millis(50);
/// Between two looks for what came back after a fence.
const WATCH: Duration = Duration::from_millis(50);
/// How long a guard whose agent is gone looks for what comes back.
pub const LINGER: Duration = Duration::from_secs(2);

/// What a guard is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whose PostgreSQL.
    pub data_dir: PathBuf,
    /// The longest that one attempt to kill takes before the next one begins.
    pub stop_budget: Duration,
    /// The device to feed, and how long before the lease's end it must bite.
    pub watchdog: Option<(PathBuf, Safety)>,
}

/// What is in force.
#[derive(Debug, Clone, Copy)]
enum State {
    Disarmed,
    Armed {
        deadline: Duration,
        valid_until: Duration,
    },
    /// The deadline that it was for, when it was done, and whether `standby.signal` is there.
    Fenced {
        deadline: Duration,
        at: Duration,
        sealed: bool,
    },
}

/// A guard, prepared. Its device is the kernel's, but for tests.
pub struct Guard<D = Linux> {
    /// The agent's; None when the agent is gone.
    orders: Option<OwnedFd>,
    timer: OwnedFd,
    fencer: Fencer,
    place: Option<Place>,
    watchdog: Option<Watchdog<D>>,
    stop_budget: Duration,
    state: State,
}

/// Runs as the guard process: never with other threads beside it. Returns when nothing is left to guard.
///
/// # Errors
/// It could not be prepared; nothing was promised then, for no order has been answered.
pub fn run(options: &Options, orders: OwnedFd) -> Result<(), String> {
    become_guard();
    let mut guard = Guard::new(options, orders)?;
    // The pages of the kill are touched before they are locked: a fence of nothing, nowhere.
    if let Ok(mut nowhere) = Fencer::new(Path::new("/nowhere/at/all")) {
        let _ = nowhere.fence(Duration::ZERO);
    }
    lock_memory();
    guard.watch();
    Ok(())
}

impl Guard {
    /// Gets everything that will ever be needed.
    ///
    /// # Errors
    /// The sentence why not.
    pub fn new(options: &Options, orders: OwnedFd) -> Result<Guard, String> {
        let device = options.watchdog.as_ref();
        let watchdog = device.and_then(|(path, safety)| Some(Watchdog::new(Linux::new(path)?, *safety)));
        Guard::with_device(options, orders, watchdog)
    }
}

impl<D: watchdog::Device> Guard<D> {
    /// The same with this device, whatever the options name.
    ///
    /// # Errors
    /// As there.
    pub fn with_device(
        options: &Options,
        orders: OwnedFd,
        watchdog: Option<Watchdog<D>>,
    ) -> Result<Guard<D>, String> {
        let fencer = Fencer::new(&options.data_dir).map_err(|error| error.to_string())?;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC)
            .map_err(|errno| format!("no timer: {errno}"))?;
        Ok(Guard {
            orders: Some(orders),
            timer,
            fencer,
            place: Place::new(&options.data_dir),
            watchdog,
            stop_budget: options.stop_budget,
            state: State::Disarmed,
        })
    }

    /// Obeys until nothing is left to guard.
    pub fn watch(&mut self) {
        let begun = boottime();
        // The process table as it is when PostgreSQL does not run yet; the agent judges how long it took.
        let _ = self.fencer.rehearse();
        self.answer(Answer::Ready { scan: boottime().saturating_sub(begun) });
        loop {
            self.hear();
            let now = boottime();
            match self.state {
                State::Disarmed if self.orders.is_none() => return,
                State::Disarmed => {}
                State::Armed { deadline, valid_until } if now >= deadline => {
                    self.fence(deadline, valid_until)
                }
                State::Armed { .. } => {
                    if let Some(watchdog) = &mut self.watchdog {
                        let _ = watchdog.pet_if_due(now); // unpetted it bites in time
                    }
                }
                State::Fenced { at, .. } if self.orders.is_none() && now >= at + LINGER => return,
                State::Fenced { .. } => self.look_again(),
            }
            self.wait();
        }
    }

    /// Until an order comes or something is due.
    fn wait(&self) {
        let at = match self.state {
            State::Disarmed => None,
            State::Armed { deadline, .. } => {
                let pet = self.watchdog.as_ref().and_then(Watchdog::due);
                Some(pet.map_or(deadline, |pet| pet.min(deadline)))
            }
            State::Fenced { .. } => Some(boottime() + WATCH),
        };
        // A zero time would switch the timer off; setting it forgets an expiry that was not read.
        let at = at.map_or(Duration::ZERO, |at| at.max(Duration::from_nanos(1)));
        let it_value = Timespec {
            tv_sec: i64::try_from(at.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: at.subsec_nanos().into(),
        };
        let value = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        if rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &value).is_err() {
            // Cannot be: the descriptor is ours and the time is valid. Better a guard that spins than one that sleeps on.
            return;
        }
        let timer = PollFd::new(&self.timer, PollFlags::IN);
        // An error is a signal that was caught, and everything is looked at again anyhow.
        let _ = match &self.orders {
            Some(orders) => poll(&mut [timer, PollFd::new(orders, PollFlags::IN)], None),
            None => poll(&mut [timer], None),
        };
    }

    /// All orders that are there.
    fn hear(&mut self) {
        let mut bytes = [0_u8; BYTES];
        loop {
            let Some(orders) = &self.orders else { return };
            match rustix::net::recv(orders, &mut bytes[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => self.orders = None,
                Ok((length, _)) => match Message::unpack(&bytes[..length.min(BYTES)]) {
                    Some(Message::Order(seq, order)) => {
                        let device = self.obey(order);
                        self.answer(Answer::Obeyed(seq, device));
                    }
                    Some(Message::Reach(pid)) => self.answer(Answer::Reached(reach(pid))),
                    None => {}
                },
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                // Reset: the agent died with answers unread.
                Err(_) => self.orders = None,
            }
        }
    }

    fn obey(&mut self, order: Order) -> Device {
        let now = boottime();
        match order {
            Order::Disarmed => {
                self.state = State::Disarmed;
                let disarmed = self.watchdog.as_mut().map_or(Ok(()), Watchdog::disarm);
                match disarmed {
                    Ok(()) => Device::Idle,
                    Err(errno) => Device::Failed(errno.raw_os_error()),
                }
            }
            Order::Armed { deadline, valid_until } => {
                if let State::Fenced { deadline: passed, .. } = self.state
                    && deadline <= passed
                {
                    return Device::Idle; // the order that was acted on, repeated
                }
                let renewed = match self.state {
                    // The same order again is a beat, and a beat earns no pet.
                    State::Armed { valid_until: known, .. } => known != valid_until,
                    State::Disarmed | State::Fenced { .. } => {
                        // Another directory may lie there by now. Not later: while it is armed nobody changes it.
                        self.fencer.look_again();
                        true
                    }
                };
                self.state = State::Armed { deadline, valid_until };
                let Some(watchdog) = &mut self.watchdog else { return Device::Idle };
                let fed = if renewed || !watchdog.is_active() {
                    watchdog.renewed(now, valid_until)
                } else {
                    Ok(())
                };
                match fed {
                    Ok(()) => Device::Active,
                    Err(errno) => Device::Failed(errno.raw_os_error()),
                }
            }
        }
    }

    /// The deadline has passed.
    fn fence(&mut self, deadline: Duration, valid_until: Duration) {
        let begun = boottime();
        let (mut found, mut killed) = (0, 0);
        let report = loop {
            match self.fencer.fence(self.stop_budget) {
                Ok(report) => break report,
                Err(_) => {
                    found = found.max(self.fencer.rehearse().unwrap_or(0));
                    killed += found;
                    std::thread::sleep(RETRY);
                }
            }
        };
        let done = boottime();
        // The last backend is gone (S15): the machine need not go too.
        if let Some(watchdog) = &mut self.watchdog {
            let _ = watchdog.disarm();
        }
        let sealed = self.fencer.seal().is_ok();
        let record = Record {
            deadline,
            begun,
            done,
            valid_until,
            found: found.max(report.found),
            killed: killed + report.killed,
            sealed,
            wall_s: std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
        };
        if let Some(place) = self.place.as_ref().filter(|_| record.found > 0) {
            let _ = place.write(&record); // the kill is what counts; there is nobody to tell
        }
        self.state = State::Fenced { deadline, at: boottime(), sealed };
        self.answer(Answer::Fenced);
        say(&record);
    }

    /// After a fence: what comes back is killed too, until an order says otherwise.
    fn look_again(&mut self) {
        let State::Fenced { deadline, at, sealed } = self.state else { return };
        if self.fencer.rehearse() != Ok(0) {
            let _ = self.fencer.fence(self.stop_budget); // the next look is soon
        }
        let sealed = sealed || self.fencer.seal().is_ok();
        self.state = State::Fenced { deadline, at, sealed };
    }

    /// Without waiting: an agent that does not listen must not hold the guard up.
    fn answer(&self, answer: Answer) {
        if let Some(orders) = &self.orders {
            let _ =
                rustix::net::send(orders.as_fd(), &answer.pack(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
    }
}

/// 0, or why a process could not be killed.
fn reach(pid: i32) -> i32 {
    match Pid::from_raw(pid).map(test_kill_process) {
        Some(Ok(())) => 0,
        Some(Err(errno)) => errno.raw_os_error(),
        None => Errno::INVAL.raw_os_error(),
    }
}

/// One line for the log, if there is somebody who reads it: a pipe that is full must not stop the watch.
fn say(record: &Record) {
    let mut line = [0_u8; 256];
    let mut rest = &mut line[..];
    let _ = writeln!(
        rest,
        "quorate guard: the primary lease was not renewed in time: stopped PostgreSQL by force ({} processes), {}",
        record.found,
        record.margin()
    );
    let length = 256 - rest.len();
    let stderr = std::io::stderr();
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    if record.found > 0 && matches!(poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], Some(&now)), Ok(1)) {
        let _ = rustix::io::write(&stderr, &line[..length]);
    }
}

/// Apart from whatever may strike the agent, as far as the system lets us; what it refuses costs nothing but that.
fn become_guard() {
    // Neither a terminal's Ctrl-C nor a kill of the agent's process group is for us.
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(c"quorate-guard");
    // Nobody's directory is held.
    let _ = rustix::process::chdir(c"/");
    // The last to go when memory runs out, the first to run when it does not.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
    let _ = rustix::process::setpriority_process(None, -20);
    real_time();
}

/// Ahead of everything that is not real-time. A guard runs for microseconds a second.
#[cfg(target_env = "gnu")]
#[allow(
    unsafe_code,
    reason = "rustix has no scheduling policies; integers and one reference go in, an integer comes out"
)]
fn real_time() {
    /// `struct sched_param` of glibc.
    #[repr(C)]
    struct Parameters {
        priority: i32,
    }
    unsafe extern "C" {
        safe fn sched_setscheduler(pid: i32, policy: i32, parameters: &Parameters) -> i32;
    }
    /// The lowest of the real-time priorities is above all others.
    const FIFO: i32 = 1;
    let _ = sched_setscheduler(0, FIFO, &Parameters { priority: 1 });
}

/// Other C libraries do not have it.
#[cfg(not(target_env = "gnu"))]
fn real_time() {}

/// What has been touched stays in memory, and what will be touched from now on. Not all of the program: it is large, and
/// most of it is not the guard's.
fn lock_memory() {
    use rustix::mm::{MlockAllFlags, mlockall};
    let _ = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT);
}
