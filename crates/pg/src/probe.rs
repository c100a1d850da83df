//! Probe.
use std::time::Duration;
/// Longest time a probe takes.
pub const PROBE_DEADLINE: Duration = Duration::from_millis(500);
