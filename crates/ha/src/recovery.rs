//! The primary's postmaster is gone: recover in place, or let a standby be promoted?
//!
//! # Problem
//!
//! PostgreSQL replays the WAL since the redo point of its last checkpoint before it takes connections again. That is nothing after a
//! quiet minute and many seconds under load. A standby has replayed nearly all of it already: promoting it takes about
//! as long whatever the load.
//!
//! # Model
//!
//! ```text
//!   crashed, the lock is ours
//!     ├── little to replay ──────────────────────────────► start in place: same timeline, nobody has to move
//!     ├── much, nobody is bound by `/sync` ──────────────► start in place: only this node is sure to have every commit
//!     ├── much, and no standby of the set could take over ► start in place
//!     └── much, and one could ───────────────────────────► release the lock: the race, judged as always
//! ```
//!
//! How much there is to replay is the distance from the redo point to the position that this node published last, at most a
//! `loop_wait` before. It is an estimate and nothing depends on it but time: should nobody take the lock, this node recovers as a
//! standby and races itself. In asynchronous mode a crash that loses nothing is worth a wait; `primary_start_timeout` bounds it.
//!
//! PostgreSQL replays some 50 to 200 MB/s on one core with its pages in memory, and a take-over after a released lock
//! costs well below a second: the limit is what a slow machine replays in that time.

use std::collections::BTreeSet;

use crate::cluster::{MemberRole, MemberState};
use crate::context::Context;
use crate::facts::{ControlState, Initialised, Lsn};
use crate::sync;

/// With more than this to replay a standby is promoted sooner than this node has recovered.
pub const PROMOTION_IS_SOONER_BYTES: u64 = 64 << 20;

/// What to do, with the reason.
pub(crate) enum Verdict {
    /// Start as primary.
    InPlace(String),
    /// Release the lock to those who are quicker.
    HandOver(String),
}

/// On the holder of the lock, whose PostgreSQL is stopped and was a primary.
pub(crate) fn judge(context: &Context<'_>, data: &Initialised) -> Verdict {
    match data.state {
        ControlState::ShutDown => {
            let why = "starting as leader: PostgreSQL was stopped while I hold the lock";
            return Verdict::InPlace(why.to_owned());
        }
        ControlState::StartingUp
        | ControlState::ShutDownInRecovery
        | ControlState::ShuttingDown
        | ControlState::InCrashRecovery
        | ControlState::InArchiveRecovery
        | ControlState::InProduction => {}
    }
    const IN_PLACE: &str = "doing crash recovery in place, I am the leader with the lock";
    let left = to_replay(context, data);
    if left <= PROMOTION_IS_SOONER_BYTES {
        return Verdict::InPlace(format!("{IN_PLACE}: about {} to replay", size(left)));
    }
    match successor(context) {
        Ok(name) => Verdict::HandOver(format!(
            "crash recovery would replay about {}, a promotion of {name} is sooner",
            size(left)
        )),
        Err(why) => Verdict::InPlace(format!("{IN_PLACE}: about {} to replay, but {why}", size(left))),
    }
}

/// Bytes between the redo point and the last position that was published.
fn to_replay(context: &Context<'_>, data: &Initialised) -> u64 {
    let own = context.view.members.get(context.me).and_then(|key| key.value.xlog_location);
    let status = context.view.status.as_ref().map(|status| status.value.optime);
    let end = own.max(status).unwrap_or(Lsn(0));
    end.0.saturating_sub(data.redo.0)
}

/// A standby that could take over without losing a commit.
fn successor<'c>(context: &'c Context<'_>) -> Result<&'c str, &'static str> {
    let Some(document) = context.sync() else {
        return Err("in asynchronous mode only this node is sure to have every commit");
    };
    let running = || {
        context
            .others()
            .filter(|(_, record)| record.role == MemberRole::Replica && record.state == MemberState::Running)
    };
    let known: BTreeSet<String> = running().map(|(name, _)| name.to_owned()).collect();
    if !sync::promotion_quorum(&document.entries, &known) {
        return Err("too few members of the synchronous set run");
    }
    running()
        .filter(|(_, record)| !record.tags.nofailover())
        .map(|(name, _)| name)
        .find(|name| document.entries.iter().all(|entry| entry.members.contains(*name)))
        .ok_or("no member of the synchronous set may be promoted")
}

fn size(bytes: u64) -> String {
    match bytes >> 20 {
        0 => format!("{} KiB", bytes >> 10),
        mib => format!("{mib} MiB"),
    }
}
