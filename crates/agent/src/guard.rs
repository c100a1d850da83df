//! The guard: a small process that stops PostgreSQL when the lease runs out and this process cannot.
//!
//! # Problem
//!
//! The fence's thread ([`crate::fence`]) dies with the process and stops with it. An agent that is killed, stopped (SIGSTOP, a
//! debugger, a frozen container), starved or out of memory leaves a primary behind that goes on acknowledging while the
//! others wait for the end of its lease and then take over: the split brain that Patroni and its kin show in this test.
//!
//! # Model
//!
//! ```text
//!   quorate run                                        quorate guard (own session, locked memory, nothing else to do)
//!   ┌──────────────────────────────┐   orders: armed until t, disarmed   ┌─────────────────────────────┐
//!   │ loop ─► Fence ─► Layers      │ ───────────────────────────────────►│ poll(orders, timerfd)       │
//!   │          │  (a thread)       │◄─────────────────────────────────── │                             │
//!   │          └ fence thread      │   answers: each order, each kill    │ at t: kill, seal, record    │
//!   └──────────────────────────────┘                                     └─────────────────────────────┘
//!          PostgreSQL ◄── both kill by the same path (`quorate_pg::Fencer`) at the same instant
//! ```
//!
//! The order carries the deadline that the fence's own thread is armed with: `renewal sent + ttl - stop budget - margin`, in
//! `CLOCK_BOOTTIME`, so the two processes need no common notion of anything else. Only a *confirmed* renewal makes a later
//! one. When the deadline passes the guard kills the postmaster and every backend, writes `standby.signal` (S12) and leaves a
//! [`record`] beside the data directory for the next agent to read.
//!
//! The end of the connection, which is the agent's death, disarms nothing: an armed guard goes on to its deadline. An agent
//! that is started again before it finds PostgreSQL running and its own name in the lock, renews, arms a guard of its own, and
//! only then ends the old one: no failover, no restart. Taking over the old guard instead (by a socket in the file system)
//! would save one process for a moment, and cost a listener, a path that may be too long or stale, and a protocol that two
//! versions have to share. A new guard is always this agent's own version, and the way is the same by which a guard that does
//! not answer is replaced: **the new one is armed before the old one ends**.
//!
//! # Invariants
//!
//! - Nothing permits PostgreSQL to write before a guard has answered the order that covers it (`crate::execute`).
//! - A guard is disarmed only by order, and the loop gives that order when it has seen that PostgreSQL is stopped, the last
//!   backend included, or is a standby (S15). There is one exception: a shutdown in a paused cluster leaves PostgreSQL to
//!   the operator, who asked for that.
//! - Between its first order and its end the guard allocates nothing, opens no file but in `/proc`, and waits for nothing
//!   but its orders and its clock; a test counts allocations. What touches the disk comes after the kill.
//! - Old guards are found in the kernel's table of processes by their arguments, not by files: nothing can be stale.
//!
//! # Who watches the guard
//!
//! The agent: each order is answered, one is sent every second at least, and a guard that has ended (pidfd) or has not
//! answered for [`layers::ANSWER`] is replaced. If none can be started, a primary that runs goes on under the other layers
//! and says so (`guard.mode: automatic`) or hands over (`required`); a node without a guard is not promoted in either.
//!
//! If the agent and the guard are killed together, PostgreSQL has no keeper until the agent is started again. The
//! synchronous modes hold all the same, because there the standbys' promises decide and not the clock; in asynchronous mode
//! the restart (systemd: half a second) or the watchdog device decides.
//!
//! | module | question |
//! |---|---|
//! | [`wire`] | what orders and answers look like |
//! | [`process`] | what the guard does |
//! | [`record`] | what it leaves for the next agent |
//! | [`layers`] | how the agent keeps a guard and the watchdog device |
//! | [`child`] | how one is started, found and ended |
//! | [`fitness`] | whether fencing can be relied on here at all |

pub mod child;
pub mod fitness;
pub mod layers;
pub mod process;
pub mod record;
pub mod wire;

pub use layers::{Layers, Order};

/// `guard.mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// No guard process: the fence's own thread and the lease must do.
    Off,
    /// A node is promoted only with a guard. A primary that loses its guard for good goes on and says so.
    #[default]
    Automatic,
    /// A primary that loses its guard for good hands over.
    Required,
}
