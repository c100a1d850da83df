//! First-hand facts about one PostgreSQL instance, as `pg` reports them and a decision reads them.
//!
//! Facts are what is, never what it means: `pg` fills them in without knowing why they matter, and the decision
//! judges them without knowing how they were found. A probe that could not find out says so
//! ([`Process::Unresponsive`], [`DataDirectory::Unreadable`]); nothing is ever guessed.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point on the clock that leases are judged by: time since boot, suspend included (`CLOCK_BOOTTIME`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(pub Duration);

impl Moment {
    /// This moment moved by `by` into the future.
    #[must_use]
    pub fn after(self, by: Duration) -> Moment {
        Moment(self.0.saturating_add(by))
    }
    /// This moment moved by `by` into the past, not before boot.
    #[must_use]
    pub fn before(self, by: Duration) -> Moment {
        Moment(self.0.saturating_sub(by))
    }
    /// Time from `earlier` to this moment; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// A position in the WAL, in bytes. Comparable only on one timeline, or before the point where two timelines part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// A text that is no WAL position (`16/B374D848` is one).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a WAL position")]
pub struct ParseLsnError(pub String);

impl FromStr for Lsn {
    type Err = ParseLsnError;
    fn from_str(text: &str) -> Result<Lsn, ParseLsnError> {
        let bad = || ParseLsnError(text.to_owned());
        let (high, low) = text.split_once('/').ok_or_else(bad)?;
        let high = u32::from_str_radix(high, 16).map_err(|_| bad())?;
        let low = u32::from_str_radix(low, 16).map_err(|_| bad())?;
        Ok(Lsn(u64::from(high) << 32 | u64::from(low)))
    }
}

/// A PostgreSQL timeline, 1 for a fresh `initdb`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TimelineId(pub u32);

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A PostgreSQL system identifier: equal on every copy of one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemId(pub u64);

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A position with the timeline that gives it its meaning. Ordered as the race needs it: timeline first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The timeline of the last record.
    pub timeline: TimelineId,
    /// The end of the last record that is safely here.
    pub lsn: Lsn,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on timeline {}", self.lsn, self.timeline)
    }
}

/// Everything known about the local instance at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceFacts {
    /// What is on disk.
    pub data_directory: DataDirectory,
    /// What runs.
    pub process: Process,
}

/// What is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataDirectory {
    /// No such directory.
    Missing,
    /// A directory without entries (lost+found does not count).
    Empty,
    /// A data directory with a readable control file.
    Initialised(Initialised),
    /// There is something, and it is not a data directory that could be read. Never written over (S9).
    Unreadable {
        /// The sentence for the operator, with the path.
        why: String,
    },
    /// Missing or empty, and an unfinished clone lies beside it (it may be removed or resumed by the next clone).
    CloneInProgress,
}

/// A readable data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Initialised {
    /// From the control file.
    pub system_identifier: SystemId,
    /// From the control file.
    pub state: ControlState,
    /// Timeline of the latest checkpoint. A running standby may already replay a later one.
    pub timeline: TimelineId,
    /// Where replay would begin: the redo point of the latest checkpoint.
    pub redo: Lsn,
    /// Where the WAL ends, as far as it can be told without starting: the end of the shutdown checkpoint of a clean
    /// primary, the minimum recovery point of a standby, None after a crash of a primary.
    pub wal_end: Option<Lsn>,
    /// From where on the files of a standby are consistent: its minimum recovery point. None on a primary.
    pub consistent_from: Option<Position>,
    /// It is a copy (a clone, or what was rewound) that has not been replayed to there yet. May be false too early: PostgreSQL takes
    /// the end of an older base backup that began at the same checkpoint for the end of this one.
    pub incomplete: bool,
    /// The member that WAL was asked from last, whether or not it still is. Survives a rewind and a clone as who was their source.
    pub asked: Option<String>,
    /// `standby.signal` is there: a start will not be read-write.
    pub standby_signal: bool,
    /// Quorate's marker beside the control file: this instance was started or promoted as primary on this timeline,
    /// and has not been rewound to or replaced by a clone of another primary since. Of several timelines that were never
    /// announced it names the first (module `timeline`). Written before [`crate::Action::Promote`] and
    /// [`crate::Action::StartAsPrimary`] take effect, removed by a successful [`crate::Action::Rewind`] or
    /// [`crate::Action::Clone`]. If the marker file is missing, a control file that speaks of a primary without
    /// `standby.signal` counts as the marker.
    pub was_primary_on: Option<TimelineId>,
    /// Quorate's marker that a rewind began and did not end: the directory is good for nothing but a clone (S8).
    pub rewind_unfinished: bool,
}

/// `DBState` of the control file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ControlState {
    StartingUp,
    ShutDown,
    ShutDownInRecovery,
    ShuttingDown,
    InCrashRecovery,
    InArchiveRecovery,
    InProduction,
}

impl ControlState {
    /// The states that only an instance started without `standby.signal` leaves behind.
    #[must_use]
    pub fn of_a_primary(self) -> bool {
        match self {
            ControlState::ShutDown
            | ControlState::ShuttingDown
            | ControlState::InCrashRecovery
            | ControlState::InProduction => true,
            ControlState::StartingUp | ControlState::ShutDownInRecovery | ControlState::InArchiveRecovery => {
                false
            }
        }
    }
}

/// What runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Process {
    /// No postmaster, no backend.
    Stopped,
    /// A postmaster that does not accept connections yet.
    Starting {
        /// When the start was first seen.
        since: Moment,
        /// It starts with `standby.signal`.
        as_standby: bool,
        /// Whom it asks for WAL as a standby: what is not consistent yet gets no further without.
        upstream: Option<Endpoint>,
    },
    /// It answers queries.
    Running(Running),
    /// A postmaster is there and queries get no answer within their deadline.
    Unresponsive {
        /// When the last answer came.
        since: Moment,
    },
    /// A shutdown is under way.
    Stopping {
        /// When it was first seen.
        since: Moment,
    },
}

/// An instance that answers queries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// The timeline it writes (primary) or replays and receives (standby).
    pub timeline: TimelineId,
    /// In recovery or not, with what can only be asked in that role.
    pub role: Role,
    /// `server_version_num`, such as 150018.
    pub server_version: u32,
    /// As PostgreSQL prints it; for the REST API and for telling two incarnations apart.
    pub postmaster_start_time: String,
    /// A changed setting waits for a restart.
    pub pending_restart: bool,
    /// Physical replication slots by name, Quorate's and others'.
    pub slots: Vec<SlotFacts>,
}

/// The role PostgreSQL itself reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Not in recovery: it accepts writes.
    Primary(PrimaryFacts),
    /// In recovery.
    Standby(StandbyFacts),
}

/// Asked of a primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrimaryFacts {
    /// `pg_current_wal_lsn()`.
    pub written: Lsn,
    /// Where the oldest segment in `pg_wal` begins: nobody can stream from before that.
    pub oldest: Option<Lsn>,
    /// When this incarnation was first seen out of recovery.
    pub since: Moment,
    /// A checkpoint on the current timeline has completed: others may rewind from it.
    pub checkpointed: bool,
    /// `pg_stat_replication`, one row per walsender.
    pub replicas: Vec<ReplicaFacts>,
    /// `synchronous_standby_names` as the postmaster has it now.
    pub synchronous_standby_names: String,
    /// The result of the last [`crate::Action::ConfirmSyncEffective`] that succeeded in this incarnation.
    pub sync_effective: Option<SyncEffective>,
    /// Where its timeline and those before left their parents, oldest first, for `/history`: empty on timeline 1.
    pub forked: Vec<Fork>,
}

/// Where a timeline left its parent (one line of a `.history` file).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fork {
    /// The parent.
    pub parent: TimelineId,
    /// The position up to which both are the same.
    pub at: Lsn,
    /// The reason that PostgreSQL wrote ("no recovery target specified").
    pub why: String,
    /// When the file was written, RFC 3339, as Patroni prints it.
    pub timestamp: String,
}

/// From `at` on, every acknowledgement of a commit was given under `names`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncEffective {
    /// The value of `synchronous_standby_names` that every walsender and backend was seen to have.
    pub names: String,
    /// `pg_current_wal_insert_lsn()`, read after that.
    pub at: Lsn,
}

/// One walsender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaFacts {
    /// `application_name`: the member's name.
    pub name: String,
    /// `state` is `streaming` (and not `startup`, `catchup`, `backup`, `stopping`).
    pub streaming: bool,
    /// Received and flushed there, as last reported.
    pub flushed: Lsn,
    /// Replayed there, as last reported.
    pub replayed: Lsn,
    /// `sync_state`.
    pub sync_state: SyncState,
}

/// `pg_stat_replication.sync_state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum SyncState {
    Async,
    Potential,
    Sync,
    Quorum,
}

/// Asked of a standby.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandbyFacts {
    /// The end of what is flushed here (`pg_last_wal_receive_lsn()`, and what lies in `pg_wal`), at least `replayed`.
    pub received: Lsn,
    /// `pg_last_wal_replay_lsn()`.
    pub replayed: Lsn,
    /// The WAL receiver.
    pub receiver: Receiver,
    /// The upstream written in the configuration (`primary_conninfo`), whether or not it is connected.
    pub upstream: Option<Endpoint>,
    /// [`StandbyFacts::end`] counts all that lies here. Not while a standby that was started replays what it received in an earlier
    /// life: where that ends nobody can say before.
    pub complete: bool,
    /// Replay is paused by an operator: a promotion would hang.
    pub replay_paused: bool,
}

impl StandbyFacts {
    /// What this standby has, whatever of it is replayed yet.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.received.max(self.replayed)
    }
}

/// The WAL receiver of a standby.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Receiver {
    /// No such process.
    Gone,
    /// It exists but streams nothing (connecting, waiting).
    Waiting,
    /// It streams.
    Streaming {
        /// From there.
        from: Endpoint,
    },
}

/// Where PostgreSQL listens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Endpoint {
    /// From a member's `conn_url` (`postgres://host:port/database`); None if it is no such URL.
    #[must_use]
    pub fn of_url(url: &str) -> Option<Endpoint> {
        let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"))?;
        let authority = rest.split(['/', '?']).next()?;
        let address = authority.rsplit('@').next()?;
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
            _ => (address, 5432),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        (!host.is_empty()).then(|| Endpoint { host: host.to_owned(), port })
    }
}

/// One replication slot.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SlotFacts {
    pub name: String,
    pub active: bool,
    /// False for logical slots, which are never touched.
    pub physical: bool,
}

/// The one slot for long-running work. What finished last stays visible until the next operation starts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum OperationFacts {
    /// Nothing has run since the agent started.
    #[default]
    Idle,
    /// Something runs.
    Running {
        /// What.
        kind: OperationKind,
        /// Since when.
        started: Moment,
    },
    /// The last one ended.
    Finished {
        /// What.
        kind: OperationKind,
        /// When it ended.
        at: Moment,
        /// How.
        outcome: Outcome,
    },
}

/// What the slot can run: the long-running variants of [`crate::Action`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum OperationKind {
    Bootstrap,
    Clone,
    Rewind,
    StartAsStandby,
    StartAsPrimary,
    Promote,
    Stop,
    Restart,
}

impl fmt::Display for OperationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OperationKind::Bootstrap => "bootstrap",
            OperationKind::Clone => "clone",
            OperationKind::Rewind => "rewind",
            OperationKind::StartAsStandby => "start as standby",
            OperationKind::StartAsPrimary => "start as primary",
            OperationKind::Promote => "promote",
            OperationKind::Stop => "stop",
            OperationKind::Restart => "restart",
        })
    }
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it says.
    Succeeded,
    /// It did not; the instance is as the other facts say.
    Failed {
        /// The sentence for the operator.
        why: String,
    },
}
