//! Decision records: what changed, why, on what evidence, and how long each part took. For people, after the fact.
//!
//! # Problem
//!
//! Logs of three machines tell a failover in nine places, and the machine that knew most is the one that died. At three in the
//! morning one command is to say what happened, and the store, which outlives any one node, is where it is kept.
//!
//! # Model
//!
//! ```text
//!   tick ─► Observation, Decision, performed? ─► Chronicle::note (pure fold) ─► Records ─► bounded queue ─► /service/<scope>/why/<number>
//!                                                                                                 (its own task: nobody waits)
//! ```
//!
//! A record is written when what it tells has been *seen*, not when it was decided: a decision may fail while it is performed, and
//! the phases of a failover are known only at its end. The node on which something happened writes it: the suspicion by who
//! suspected, the promise by who promised, the promotion by who was promoted, with the reasons why the others were not. A
//! fence is written by the fenced node, as soon as it reaches the store again.
//!
//! # Invariants
//!
//! - No decision reads a record, and none waits for one: without any of this the cluster does exactly the same.
//! - The same ticks give the same records. The wall clock is no part of the fold; the adapter writes the time beside it.
//! - At rest nothing is recorded. Records are bounded: [`KEPT`] in the store, a few refusals per race.
//!
//! # What it cannot say
//!
//! A node that dies between its promotion and its first write takes that record with it; the revocation or the next promotion
//! tells the rest. Bytes lost in asynchronous mode are counted against the last position that the lost primary published,
//! once per `loop_wait`: what it wrote after that nobody knows before it comes back.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::facts::{Lsn, Moment, Position, TimelineId};

mod chronicle;
mod incident;
mod story;

pub use chronicle::{Chronicle, Fencer};
pub use incident::{incident, tell, when};
pub(crate) use story::seconds;

/// How many records the store keeps: weeks of a healthy cluster, and some ten failovers with all that belongs to them.
pub const KEPT: u64 = 100;

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A standby suspects the primary's node. Changes nothing by itself.
    Suspicion,
    /// The suspect was heard again in time: promises are released, everybody follows it again.
    Withdrawal,
    /// A standby streams from nobody until the suspicion is decided.
    Promise,
    /// Enough promises: the lock was taken away.
    Revocation,
    /// A node became the primary.
    Promotion,
    /// A request was refused, or nobody is promoted although nobody is primary.
    Refusal,
    /// PostgreSQL was stopped by force.
    Fence,
    /// The lock was given back in an orderly way.
    Release,
    /// The store was away, and the primary went on under its lease.
    Hold,
    /// PostgreSQL was gone and was started again in place.
    Restart,
    /// Commits wait for others than before.
    SyncSet,
}

impl Kind {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Suspicion => "suspicion",
            Kind::Withdrawal => "withdrawal",
            Kind::Promise => "promise",
            Kind::Revocation => "revocation",
            Kind::Promotion => "promotion",
            Kind::Refusal => "refusal",
            Kind::Fence => "fence",
            Kind::Release => "release",
            Kind::Hold => "hold",
            Kind::Restart => "restart",
            Kind::SyncSet => "sync_set",
        }
    }

    /// Does it tell of writes that stood still, or of somebody who wants to know why they do? `quoratectl why` prints
    /// the last one of these; the others are its details.
    #[must_use]
    pub fn is_news(self) -> bool {
        match self {
            Kind::Promotion | Kind::Refusal | Kind::Fence | Kind::Restart => true,
            // Nobody noticed.
            Kind::Hold
            | Kind::Suspicion
            | Kind::Withdrawal
            | Kind::Promise
            | Kind::Revocation
            | Kind::Release
            | Kind::SyncSet => false,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How the lock became free for a promotion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// There was none before: the cluster was made.
    First,
    /// The standbys took it away together.
    Quorum,
    /// Its lease ended.
    Expiry,
    /// Its holder was stopped in an orderly way.
    HandOver,
    /// Somebody asked for a switchover.
    Switchover,
    /// Somebody asked for a failover.
    Failover,
}

impl How {
    /// All of them.
    pub const ALL: [How; 6] =
        [How::First, How::Quorum, How::Expiry, How::HandOver, How::Switchover, How::Failover];

    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            How::First => "first",
            How::Quorum => "quorum",
            How::Expiry => "expiry",
            How::HandOver => "hand_over",
            How::Switchover => "switchover",
            How::Failover => "failover",
        }
    }
}

/// Parts of a gap, in the order in which they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PhaseName {
    /// From the first sign of trouble to the suspicion.
    Detect,
    /// From the suspicion until the lock was taken away.
    Promises,
    /// From the first sign of trouble until the lease had ended.
    LeaseWait,
    /// From the free lock to a new holder.
    Race,
    /// From the lock until PostgreSQL was out of recovery.
    Promote,
    /// From then until a commit could be confirmed.
    FirstWrite,
    /// Until PostgreSQL answered again.
    Restart,
    /// Until the store answered again.
    Away,
}

impl PhaseName {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            PhaseName::Detect => "detect",
            PhaseName::Promises => "promises",
            PhaseName::LeaseWait => "lease_wait",
            PhaseName::Race => "race",
            PhaseName::Promote => "promote",
            PhaseName::FirstWrite => "first_write",
            PhaseName::Restart => "restart",
            PhaseName::Away => "away",
        }
    }
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// Which.
    pub name: PhaseName,
    /// How long, in milliseconds.
    pub ms: u64,
}

/// What was known of a node at that moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// Its name.
    pub node: String,
    /// Its member key was there: it has been heard by the store within the ttl.
    pub present: bool,
    /// Its role, in Patroni's words, as of its last sign of life.
    pub role: String,
    /// Its state, likewise.
    pub state: String,
    /// Where it was: fresh where it had stopped receiving, else as last published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// For how long the store's leader had heard nothing from it, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent_ms: Option<u64>,
    /// Its ports refused connections.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refuses: bool,
}

/// Who was not promoted, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// Who.
    pub node: String,
    /// One sentence.
    pub why: String,
}

/// One decision that changed something, after the fact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When it was over, by the writer's wall clock, RFC 3339. Empty until the adapter fills it in; never compared.
    #[serde(default)]
    pub time: String,
    /// The same by the writer's own clock; not written.
    #[serde(skip)]
    pub at: Moment,
    /// Who writes.
    pub node: String,
    /// What about.
    pub kind: Kind,
    /// Promotions: how the lock became free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub how: Option<How>,
    /// Why, in one sentence.
    pub trigger: String,
    /// Whom it was done to: the suspect, the former primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The create revision of the lock that it is about: of a promotion, the one that was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<i64>,
    /// Where the writer was then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// Promotions: the timeline that began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<TimelineId>,
    /// What was known of each node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<Evidence>,
    /// Promotions: who was not promoted, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<Rejected>,
    /// How long each part took, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<Phase>,
    /// Promotions: commits had waited for standbys, and only a member of the set was promoted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub synchronous: bool,
    /// Promotions: bytes that the former primary had published and the new one does not have. Zero in the synchronous modes,
    /// None where nothing had been published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_bytes: Option<u64>,
    /// Fences: from PostgreSQL's end to the end of its lease, in milliseconds; negative is an alarm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence_margin_ms: Option<i64>,
}

impl Record {
    pub(crate) fn new(at: Moment, node: &str, kind: Kind, trigger: impl Into<String>) -> Record {
        Record {
            time: String::new(),
            at,
            node: node.to_owned(),
            kind,
            how: None,
            trigger: trigger.into(),
            from: None,
            lock: None,
            position: None,
            timeline: None,
            evidence: Vec::new(),
            rejected: Vec::new(),
            phases: Vec::new(),
            synchronous: false,
            lost_bytes: None,
            fence_margin_ms: None,
        }
    }

    /// The sum of its phases, in milliseconds.
    #[must_use]
    pub fn total_ms(&self) -> u64 {
        self.phases.iter().map(|phase| phase.ms).sum()
    }

    /// One line of JSON, as the store keeps it.
    #[must_use]
    pub fn to_json(&self) -> String {
        // A plain structure of strings and numbers has a JSON form.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads what [`Record::to_json`] wrote; fields of later versions are ignored.
    ///
    /// # Errors
    /// It is none: written by hand, or of a kind that this version does not know.
    pub fn parse(json: &str) -> Result<Record, serde_json::Error> {
        serde_json::from_str(json)
    }

    /// The same as JSON in memory.
    #[must_use]
    pub fn to_value(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// Bytes from `from` to `to`; zero if `to` is not ahead.
pub(crate) fn behind(from: Lsn, to: Lsn) -> u64 {
    to.0.saturating_sub(from.0)
}
