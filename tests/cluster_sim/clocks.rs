//! Clocks of the members: none is the other's, and none is the truth.
//!
//! Leases are judged by `quorate_node::clock::boottime`, which in a simulation shows what the schedule has put there. Only one
//! member runs at a time, with all its threads, so it is put right whenever another one's turn begins: turmoil enters a span
//! with the member's name then, and [`crate::witness`] sees it.
//!
//! A clock may run at another rate, and it may stand still for a while with its member and be right again afterwards, as
//! after a SIGSTOP: the member then believes that it was away. What stands still is the clock, the network and the clients of
//! the member; Raft's own timers are tokio's and go on, into a network that delivers nothing until the member is back.

use std::time::Duration;

use parking_lot::Mutex;
use quorate_node::clock;

/// No clock begins at zero.
const BOOTED: Duration = Duration::from_secs(1_000);

#[derive(Debug, Clone, Copy)]
struct Clock {
    /// In thousandths of the truth's.
    rate: u32,
    /// It stands still at this reading.
    still: Option<Duration>,
}

#[derive(Debug)]
struct Clocks {
    truth: Duration,
    of: Vec<Clock>,
}

static CLOCKS: Mutex<Clocks> = Mutex::new(Clocks { truth: Duration::ZERO, of: Vec::new() });

impl Clocks {
    fn reading(&self, member: usize) -> Duration {
        let Some(clock) = self.of.get(member) else { return BOOTED + self.truth };
        clock.still.unwrap_or(BOOTED + self.truth * clock.rate / 1000)
    }
}

/// So many clocks that are right, but for one.
pub(crate) fn set_up(members: usize, one: usize, rate: u32) {
    let mut clocks = CLOCKS.lock();
    clocks.of = vec![Clock { rate: 1000, still: None }; members];
    clocks.of[one].rate = rate;
}

/// The rate of the fastest, in thousandths.
pub(crate) fn fastest() -> u32 {
    CLOCKS.lock().of.iter().map(|clock| clock.rate).max().unwrap_or(1000)
}

/// The truth moves, a step of the simulation at a time.
pub(crate) fn pass(truth: Duration) {
    CLOCKS.lock().truth = truth;
}

/// When this step began.
pub(crate) fn truth() -> Duration {
    CLOCKS.lock().truth
}

/// This member's turn begins.
pub(crate) fn turn_of(member: usize) {
    clock::set_boottime(CLOCKS.lock().reading(member));
}

/// The clock of a member stands still, or goes on at where it would be.
pub(crate) fn stand_still(member: usize, still: bool) {
    let mut clocks = CLOCKS.lock();
    let reading = clocks.reading(member);
    clocks.of[member].still = still.then_some(reading);
}

/// Whether a member stands still.
pub(crate) fn stands_still(member: usize) -> bool {
    CLOCKS.lock().of.get(member).is_some_and(|clock| clock.still.is_some())
}
