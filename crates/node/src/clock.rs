//! The one clock that leases are judged by.

use std::time::Duration;

/// Time since boot, suspend included (`CLOCK_BOOTTIME`): jumps of the wall clock change nothing, and a suspended
/// machine knows how long it slept.
#[must_use]
pub fn boottime() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}
