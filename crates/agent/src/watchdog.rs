//! The watchdog device: the kernel or a chip restarts the machine when nobody says in time that all is well.
//!
//! # Problem
//!
//! The last layer. A guard that cannot run (the kernel stalls, memory thrashes) cannot kill, and PostgreSQL on the same machine
//! may still find a moment to acknowledge. Only something outside of the scheduler ends that: `/dev/watchdog`, as Patroni uses
//! it. The guard process drives it, because the guard is the one who can say "the last backend is gone".
//!
//! # Model
//!
//! ```text
//!   confirmed                         deadline: the guard kills        bite        valid_until
//!   ├─ pet ───────────── pet ──────────────┤ stop budget ├───────────────┤ safety ├──────┤
//!   now                  due = bite - timeout                         the machine restarts
//! ```
//!
//! A device counts whole seconds from its last pet; a lease ends at a millisecond. So a confirmed renewal earns two pets: one at
//! once, which is always allowed because it bites earlier, and one at the instant from which the device's timeout ends at
//! `valid_until - safety`. The device then bites after the guard had its chance and before another node may be primary.
//! There is no pet without a confirmed renewal (a free-running pet is the hung agent's best friend), and none that would let
//! the device bite too late.
//!
//! # Invariants
//!
//! - Petted only on the strength of a confirmed renewal, and only if the bite falls before `valid_until`.
//! - Disarmed ("magic close": a `V` before the close) only when PostgreSQL is stopped, the last backend included, or is a
//!   standby (S15). A device that a dead guard held goes on counting.
//! - Opening it starts it, so it is opened with the first permission to write and not before.
//!
//! # What is missing
//!
//! Whether the driver heeds the magic close (`nowayout`) is not asked: if it does not, the machine restarts after a planned
//! demotion, which is loud and not unsafe. A `safety_margin` that is longer than stop budget and margin together lets the
//! device bite before the guard's deadline.
//!
//! Sources: the kernel's `watchdog-api.rst`; Patroni `watchdog/base.py`, `watchdog/linux.py`.

pub mod device;

use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;

pub use device::Linux;

/// `watchdog.mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Not used.
    #[default]
    Off,
    /// Used if it can be.
    Automatic,
    /// No primary without it.
    Required,
}

/// `watchdog.safety_margin`: how long before the lease's end the device bites.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Safety {
    /// So long.
    Before(Duration),
    /// Half of the lease (Patroni's -1).
    Half,
}

/// Behind the guard's kill (the margin of [`crate::config::MARGIN`] is free then), with room for a clock that ticks coarsely.
pub const SAFETY: Safety = Safety::Before(Duration::from_millis(150));

/// The section `watchdog` of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchdogConfig {
    /// Whether.
    pub mode: Mode,
    /// Which. `/dev/watchdog` by default.
    pub device: PathBuf,
    /// [`SAFETY`] by default.
    pub safety: Safety,
}

impl Default for WatchdogConfig {
    fn default() -> WatchdogConfig {
        WatchdogConfig { mode: Mode::Off, device: PathBuf::from("/dev/watchdog"), safety: SAFETY }
    }
}

/// What a device can do. Nothing in it allocates.
pub trait Device {
    /// Opens it: from here on it counts.
    ///
    /// # Errors
    /// There is none, somebody else has it, or it may not be opened.
    fn open(&mut self) -> Result<(), Errno>;
    /// Asks for a timeout in seconds, which is also a pet; answers the one that the device has.
    ///
    /// # Errors
    /// The device refuses.
    fn set_timeout(&mut self, seconds: u32) -> Result<u32, Errno>;
    /// All is well: count from the beginning.
    ///
    /// # Errors
    /// The device is gone.
    fn pet(&mut self) -> Result<(), Errno>;
    /// Stops counting and closes.
    ///
    /// # Errors
    /// The device goes on counting.
    fn disarm(&mut self) -> Result<(), Errno>;
}

/// A device that is fed.
#[derive(Debug)]
pub struct Watchdog<D> {
    device: D,
    safety: Safety,
    /// Its timeout while it is open.
    timeout: Option<Duration>,
    /// When the second pet of the last renewal is due.
    due: Option<Duration>,
}

impl<D: Device> Watchdog<D> {
    /// Closed.
    #[must_use]
    pub fn new(device: D, safety: Safety) -> Watchdog<D> {
        Watchdog { device, safety, timeout: None, due: None }
    }

    /// True while the device counts.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.timeout.is_some()
    }

    /// When [`Watchdog::pet_if_due`] has something to do.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        self.due
    }

    /// A renewal was confirmed: the lease cannot expire before `valid_until`.
    ///
    /// # Errors
    /// The device could not be opened or does not take a timeout that is short enough; it is closed then. It could not be
    /// petted: it bites in time all the same.
    pub fn renewed(&mut self, now: Duration, valid_until: Duration) -> Result<(), Errno> {
        let left = valid_until.saturating_sub(now);
        let bite_in = match self.safety {
            Safety::Before(safety) => left.saturating_sub(safety),
            Safety::Half => left / 2,
        };
        let wished = u32::try_from(bite_in.as_secs()).unwrap_or(u32::MAX);
        if wished == 0 {
            // Confirmed late, or too short a lease. What was petted before bites in time.
            return if self.is_active() { Ok(()) } else { Err(Errno::RANGE) };
        }
        if self.timeout.is_none() {
            self.device.open()?;
        }
        if self.timeout != Some(Duration::from_secs(wished.into())) {
            let taken = self.device.set_timeout(wished);
            match taken {
                Ok(taken) if (1..=wished).contains(&taken) => {
                    self.timeout = Some(Duration::from_secs(taken.into()));
                }
                Ok(_) => return self.give_up(Errno::RANGE),
                Err(errno) => return self.give_up(errno),
            }
        }
        let timeout = Duration::from_secs(wished.into()).min(self.timeout.unwrap_or_default());
        self.due = Some(now + (bite_in - timeout));
        self.device.pet()
    }

    /// The second pet, at its instant; too late it is not given.
    ///
    /// # Errors
    /// The device is gone.
    pub fn pet_if_due(&mut self, now: Duration) -> Result<(), Errno> {
        let Some(due) = self.due.filter(|due| now >= *due) else { return Ok(()) };
        self.due = None;
        let slack = match self.safety {
            Safety::Before(safety) => safety / 2,
            Safety::Half => Duration::from_millis(100),
        };
        if self.is_active() && now <= due + slack { self.device.pet() } else { Ok(()) }
    }

    /// PostgreSQL is stopped or is a standby.
    ///
    /// # Errors
    /// The device goes on counting.
    pub fn disarm(&mut self) -> Result<(), Errno> {
        self.due = None;
        if self.timeout.take().is_some() { self.device.disarm() } else { Ok(()) }
    }

    fn give_up(&mut self, why: Errno) -> Result<(), Errno> {
        (self.timeout, self.due) = (None, None);
        let _ = self.device.disarm(); // what cannot be stopped is said by `why` already
        Err(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Did {
        Open,
        Timeout(u32),
        Pet,
        Disarm,
    }

    /// A device that writes down what is done to it.
    #[derive(Debug, Default)]
    struct Recorder {
        did: Vec<Did>,
        /// The shortest timeout that it can do.
        shortest: u32,
        missing: bool,
    }

    impl Device for Recorder {
        fn open(&mut self) -> Result<(), Errno> {
            if self.missing {
                return Err(Errno::NOENT);
            }
            self.did.push(Did::Open);
            Ok(())
        }
        fn set_timeout(&mut self, seconds: u32) -> Result<u32, Errno> {
            self.did.push(Did::Timeout(seconds));
            Ok(seconds.max(self.shortest))
        }
        fn pet(&mut self) -> Result<(), Errno> {
            self.did.push(Did::Pet);
            Ok(())
        }
        fn disarm(&mut self) -> Result<(), Errno> {
            self.did.push(Did::Disarm);
            Ok(())
        }
    }

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn watchdog() -> Watchdog<Recorder> {
        Watchdog::new(Recorder::default(), SAFETY)
    }

    impl Watchdog<Recorder> {
        fn take(&mut self) -> Vec<Did> {
            std::mem::take(&mut self.device.did)
        }
    }

    #[test]
    fn a_renewal_earns_two_pets_and_the_second_bites_right_before_the_lease_ends() {
        let mut watchdog = watchdog();
        watchdog.renewed(at(100_010), at(105_000)).unwrap();
        assert_eq!(watchdog.take(), [Did::Open, Did::Timeout(4), Did::Pet]);
        let due = watchdog.due().unwrap();
        assert_eq!(due + at(4_000), at(105_000) - at(150));
        watchdog.pet_if_due(due - at(1)).unwrap();
        assert_eq!(watchdog.take(), [], "not before");
        watchdog.pet_if_due(due).unwrap();
        watchdog.pet_if_due(due + at(1)).unwrap();
        assert_eq!(watchdog.take(), [Did::Pet], "and once");
        watchdog.renewed(at(101_010), at(106_000)).unwrap();
        assert_eq!(watchdog.take(), [Did::Pet]);
    }

    #[test]
    fn without_a_renewal_there_is_no_pet() {
        let mut watchdog = watchdog();
        watchdog.renewed(at(100_010), at(105_000)).unwrap();
        watchdog.take();
        watchdog.pet_if_due(at(104_000)).unwrap();
        assert_eq!(watchdog.take(), [], "too late for the second: the device would bite after the lease");
        watchdog.renewed(at(104_500), at(105_000)).unwrap();
        assert_eq!(watchdog.take(), [], "nor for a confirmation that came as late");
        assert!(watchdog.is_active());
    }

    #[test]
    fn every_bite_falls_before_the_end_of_the_lease() {
        for ttl_ms in (2_000..31_000).step_by(250) {
            for late_ms in [0, 5, 400, 1_100] {
                for safety in [SAFETY, Safety::Half, Safety::Before(at(1_000))] {
                    let mut watchdog = Watchdog::new(Recorder::default(), safety);
                    let (now, until) = (at(100_000 + late_ms), at(100_000 + ttl_ms));
                    if watchdog.renewed(now, until).is_err() {
                        assert!(!watchdog.is_active());
                        continue;
                    }
                    let timeout = watchdog.timeout.unwrap();
                    assert!(now + timeout < until);
                    assert!(watchdog.due().unwrap() >= now && watchdog.due().unwrap() + timeout < until);
                }
            }
        }
    }

    #[test]
    fn the_timeout_follows_the_lease() {
        let mut watchdog = watchdog();
        watchdog.renewed(at(100_010), at(105_000)).unwrap();
        watchdog.take();
        watchdog.renewed(at(101_010), at(131_000)).unwrap();
        assert_eq!(watchdog.take(), [Did::Timeout(29), Did::Pet]);
    }

    #[test]
    fn it_is_disarmed_once_and_only_if_it_counts() {
        let mut watchdog = watchdog();
        watchdog.disarm().unwrap();
        assert_eq!(watchdog.take(), []);
        watchdog.renewed(at(100_010), at(105_000)).unwrap();
        watchdog.take();
        watchdog.disarm().unwrap();
        watchdog.disarm().unwrap();
        assert_eq!(watchdog.take(), [Did::Disarm]);
        watchdog.pet_if_due(at(100_900)).unwrap();
        assert_eq!(watchdog.take(), [], "a pet that was still due is off");
    }

    #[test]
    fn a_device_that_cannot_bite_in_time_is_not_used() {
        let mut watchdog = Watchdog::new(Recorder { shortest: 60, ..Recorder::default() }, SAFETY);
        assert_eq!(watchdog.renewed(at(100_010), at(105_000)), Err(Errno::RANGE));
        assert_eq!(watchdog.take(), [Did::Open, Did::Timeout(4), Did::Disarm]);
        let mut watchdog = Watchdog::new(Recorder { missing: true, ..Recorder::default() }, SAFETY);
        assert_eq!(watchdog.renewed(at(100_010), at(105_000)), Err(Errno::NOENT));
        assert!(!watchdog.is_active());
    }
}
