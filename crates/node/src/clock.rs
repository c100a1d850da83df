//! The one clock that leases are judged by.

#[cfg(not(quorate_sim))]
use std::time::Duration;

/// Time since boot, suspend included (`CLOCK_BOOTTIME`): jumps of the wall clock change nothing, and a suspended
/// machine knows how long it slept.
#[cfg(not(quorate_sim))]
#[must_use]
pub fn boottime() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(quorate_sim)]
pub use simulated::{boottime, set_boottime};

/// In a simulation the clock stands where the schedule has put it, for every member and every thread.
#[cfg(quorate_sim)]
mod simulated {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    static NANOS: AtomicU64 = AtomicU64::new(0);

    /// Where the schedule has put it.
    #[must_use]
    pub fn boottime() -> Duration {
        Duration::from_nanos(NANOS.load(Ordering::Relaxed))
    }

    /// Puts it there.
    pub fn set_boottime(now: Duration) {
        NANOS.store(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}
