//! A log line that strangers can provoke must not fill the disk.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Lets one through in [`Rarely::INTERVAL`] and counts the others.
#[derive(Debug, Default)]
pub struct Rarely {
    state: Mutex<(Option<Instant>, u64)>,
}

impl Rarely {
    /// Between two lines.
    pub const INTERVAL: Duration = Duration::from_secs(10);

    /// Some: say it now, and that it happened so many times more since the last time.
    pub fn due(&self) -> Option<u64> {
        let mut state = self.state.lock();
        let (last, left_out) = &mut *state;
        if last.is_some_and(|last| last.elapsed() < Rarely::INTERVAL) {
            *left_out += 1;
            return None;
        }
        *last = Some(Instant::now());
        Some(std::mem::take(left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_speaks_the_others_are_counted() {
        let rarely = Rarely::default();
        assert_eq!(rarely.due(), Some(0));
        assert_eq!((rarely.due(), rarely.due()), (None, None));
        assert_eq!(rarely.state.lock().1, 2);
    }
}
