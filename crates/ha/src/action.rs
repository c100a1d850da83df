//! What a decision asks for. Every action is complete: who performs it chooses nothing.
//!
//! ```text
//!   Decision { actions: [RenewPrimaryLease, PublishMember, WriteSync, …], reason, wake }
//!                 │  performed in this order; the first one that fails ends the list
//!                 ▼
//!   immediate: bounded by a probe deadline        long: started in the one operation slot, returns at once
//! ```
//!
//! Whoever writes the cluster's keys carries a guard: the revision and the lease that the decision was judged on. The
//! fields of a guard are private and its constructors take the observed key itself, so a guard of one key cannot be
//! put on another, and none can be invented. The store refuses a stale guard, by transaction (invariant 5).

use std::collections::BTreeSet;
use std::time::Duration;

use crate::cluster::{
    FailoverRequest, Held, History, LeaseId, MemberRecord, Revision, Status, Suspicion, SyncDocument,
    Versioned,
};
use crate::facts::{Endpoint, OperationKind, SystemId, TimelineId};
use crate::observation::LeaseFacts;
use crate::reason::Reason;

/// What to do now, why, and when to ask again at the latest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// In order; the first failure ends the list.
    pub actions: Vec<Action>,
    /// One sentence for the operator.
    pub reason: Reason,
    /// Ask again after this time at the latest, whatever happens. None: after `loop_wait`.
    pub wake: Option<Duration>,
}

/// "The lock is still the one that I judged, and it is mine": the leader key's create revision and lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockGuard {
    create_revision: Revision,
    lease: LeaseId,
}

impl LockGuard {
    /// The guard of an observed lock that hangs on a lease of ours; None if they do not belong together.
    #[must_use]
    pub fn new(lock: &Held, lease: &LeaseFacts) -> Option<LockGuard> {
        (lock.lease == lease.id)
            .then_some(LockGuard { create_revision: lock.create_revision, lease: lease.id })
    }
    /// Compare: `create_revision(/leader)` equals this.
    #[must_use]
    pub fn create_revision(&self) -> Revision {
        self.create_revision
    }
    /// Compare: `lease(/leader)` equals this.
    #[must_use]
    pub fn lease(&self) -> LeaseId {
        self.lease
    }
}

/// "This key is as I read it": absent, or at a mod revision. Which key is said by the action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyGuard {
    mod_revision: Option<Revision>,
}

impl KeyGuard {
    /// The guard of a key as observed.
    #[must_use]
    pub fn of<T>(key: Option<&Versioned<T>>) -> KeyGuard {
        KeyGuard { mod_revision: key.map(|key| key.mod_revision) }
    }
    /// Compare: `mod_revision(key)` equals this; None: the key must not exist (`create_revision` 0).
    #[must_use]
    pub fn mod_revision(&self) -> Option<Revision> {
        self.mod_revision
    }
}

/// Another member to stream, clone or rewind from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// The member.
    pub name: String,
    /// Its PostgreSQL.
    pub endpoint: Endpoint,
}

/// How to stop PostgreSQL when nothing forces the hand ([`Action::Fence`] is for when it does).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// `fast`: disconnect sessions, write the shutdown checkpoint, let standbys receive it.
    Fast,
    /// `immediate`: no checkpoint.
    Immediate,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    // --- leases and the lock -------------------------------------------------------------------------------------
    /// Grant a member lease with this ttl and remember it, valid until (the moment before the grant was sent) + ttl.
    GrantMemberLease {
        /// Its time to live.
        ttl: Duration,
    },
    /// Renew the member lease; on success `valid_until` = (the moment before it was sent) + ttl. An unknown lease is
    /// forgotten (the next decision grants a new one), and is no failure of the list.
    RenewMemberLease {
        /// Which.
        lease: LeaseId,
        /// Its time to live.
        ttl: Duration,
    },
    /// Put `/members/<name>` with the member lease, unconditionally (only we write it).
    PublishMember {
        /// The lease it hangs on.
        lease: LeaseId,
        /// The document.
        record: MemberRecord,
    },
    /// Grant a primary lease and create `/leader` = name on it, in one transaction that compares: the leader key does not exist,
    /// and `/sync` is as judged. (It need not wait for the grant: without the lease the store refuses it.) On success the primary lease is (id, moment before the grant + ttl);
    /// a lost compare revokes the fresh lease and ends the list.
    AcquireLock {
        /// `/sync` as judged.
        sync: KeyGuard,
        /// The lease's time to live.
        ttl: Duration,
    },
    /// Renew the primary lease. On success remember (lease, the moment before it was sent + ttl), also when it was
    /// not known before: this is how a restarted agent adopts its lock. An unknown lease is forgotten and ends the list.
    RenewPrimaryLease {
        /// The lock it belongs to, as observed. Never renew a lease that is not the observed lock's.
        lock: Held,
        /// Its time to live.
        ttl: Duration,
    },
    /// Publish `status` (if any) and delete `/leader`, in one transaction guarded by the lock; then revoke the primary
    /// lease and forget it. If the compare fails, forget the lease too.
    ReleaseLock {
        /// The lock.
        guard: LockGuard,
        /// The final position, so that candidates know whether they have everything.
        status: Option<Status>,
    },

    // --- other keys ----------------------------------------------------------------------------------------------
    /// Create `/initialize` = "" on the member lease (a crash during bootstrap frees it); ends the list if it exists.
    ClaimInitialize {
        /// The lease it hangs on until the system identifier is known.
        lease: LeaseId,
    },
    /// Put `/initialize` = system identifier, without lease, if it is as observed.
    WriteInitialize {
        /// As observed.
        guard: KeyGuard,
        /// The identifier.
        system_identifier: SystemId,
    },
    /// Delete our claim, if it is as observed.
    AbandonInitialize {
        /// As observed.
        guard: KeyGuard,
    },
    /// Put `/config`, if it is as observed.
    WriteConfig {
        /// As observed.
        guard: KeyGuard,
        /// The document.
        document: serde_json::Value,
    },
    /// Put `/sync` (None: delete it), if the lock is ours and `/sync` is as observed.
    WriteSync {
        /// The lock.
        guard: LockGuard,
        /// `/sync` as observed.
        sync: KeyGuard,
        /// The document.
        document: Option<SyncDocument>,
    },
    /// Put `/history`, if the lock is ours and the key is as observed.
    WriteHistory {
        /// The lock.
        guard: LockGuard,
        /// `/history` as observed.
        history: KeyGuard,
        /// The document.
        document: History,
    },
    /// Put `/status`, if the lock is ours.
    WriteStatus {
        /// The lock.
        guard: LockGuard,
        /// The document.
        status: Status,
    },
    /// Put `/failover` with the candidate that the holder has chosen, if it is as observed.
    NameCandidate {
        /// `/failover` as observed.
        guard: KeyGuard,
        /// The request, with a member.
        document: FailoverRequest,
    },
    /// Put `/failover` = `{}` (Patroni does not delete it), if it is as observed.
    ClearFailoverRequest {
        /// `/failover` as observed.
        guard: KeyGuard,
    },
    /// Put `/suspicion`, if it is as observed and the lock is still that one.
    Suspect {
        /// `/suspicion` as observed: absent, or left over from another lock.
        guard: KeyGuard,
        /// What to write. `lock` names the lock's create revision.
        document: Suspicion,
    },
    /// Delete `/suspicion`, if it is as observed and the lock is ours: the suspect is here, or the one before it is history.
    ClearSuspicion {
        /// The lock.
        guard: LockGuard,
        /// `/suspicion` as observed.
        suspicion: KeyGuard,
    },
    /// Delete `/leader` and mark `/suspicion` as revoked, in one transaction that compares: the lock is the suspected one,
    /// `/suspicion` and `/sync` are as judged. Then revoke the lock's lease (best effort). The race follows.
    RevokeLock {
        /// The lock as observed: somebody else's.
        lock: Held,
        /// `/suspicion` as judged: the promises are of its generation.
        suspicion: KeyGuard,
        /// `/sync` as judged.
        sync: KeyGuard,
        /// `/suspicion` from then on.
        document: Suspicion,
    },
    /// Ask the store to move its leadership to the first of these voters that takes it; best effort, a refusal does not end
    /// the list.
    MoveStoreLeadership {
        /// By member name, the best first.
        to: Vec<String>,
    },

    // --- PostgreSQL, immediate -----------------------------------------------------------------------------------
    /// Stop accepting writes now: kill the postmaster and every backend (SIGQUIT, then SIGKILL within the stop
    /// budget), write `standby.signal`, and abort any operation in the slot. It keeps the lease as it is: nothing is
    /// revoked and nothing released. Done when the last backend is gone.
    Fence,
    /// Write `primary_conninfo` (and slot name) and reload. The standby need not be connected when this returns.
    Follow {
        /// Whom.
        upstream: Upstream,
        /// Name of our physical slot there; None: without slot.
        slot: Option<String>,
    },
    /// End the startup process' wait between two attempts to stream; nothing is written.
    TryStreaming,
    /// Clear `primary_conninfo`, reload, and wait (bounded by the probe deadline) until the WAL receiver is gone.
    StopReceiver,
    /// Set `synchronous_standby_names` (persistently, by Quorate's configuration file) and reload. Valid on a standby
    /// too: a promotion then starts under it. On a primary it is begun, and shows when it is done, as for the next action.
    SetSynchronousStandbyNames {
        /// The value; empty: asynchronous.
        names: String,
    },
    /// Make sure that no walsender and no backend acknowledges under another value than `names`, then read the WAL
    /// insert position: begun beside the loop. On success it shows in [`crate::facts::PrimaryFacts::sync_effective`].
    ConfirmSyncEffective {
        /// The value that must be in effect.
        names: String,
    },
    /// Create the physical slots in `keep` that are missing, drop Quorate's slots in `drop`.
    SetSlots {
        /// To create.
        create: BTreeSet<String>,
        /// To drop: physical, inactive, and made by Quorate.
        drop: BTreeSet<String>,
    },
    /// Ask for a checkpoint in the background; it shows in [`crate::facts::PrimaryFacts::checkpointed`].
    Checkpoint,

    // --- PostgreSQL, long: started in the operation slot --------------------------------------------------------
    /// `initdb`, configure, start read-write, create users. Only on a missing or empty directory.
    Bootstrap,
    /// Clone beside the data directory, swap when complete, leave `standby.signal` and `upstream` written; not started.
    /// The old directory is kept until the swap (S9).
    Clone {
        /// From this member.
        from: Upstream,
        /// Name of our physical slot there.
        slot: Option<String>,
    },
    /// Stop if running, archive WAL, `pg_rewind` (which finds out itself when there is nothing to do), write
    /// `standby.signal`; not started. Sets and clears the unfinished marker around it (S8).
    Rewind {
        /// From this primary, which has checkpointed on its timeline.
        from: Upstream,
    },
    /// Write `standby.signal` and the upstream (None: no upstream), then start.
    StartAsStandby {
        /// Whom to follow.
        upstream: Option<Upstream>,
        /// Name of our physical slot there.
        slot: Option<String>,
    },
    /// Re-check the lock by a transaction (S6), write the marker, remove `standby.signal`, start read-write with the
    /// given sync names from the first moment on.
    StartAsPrimary {
        /// The lock.
        guard: LockGuard,
        /// `synchronous_standby_names` to start under.
        names: String,
    },
    /// Re-check the lock by a transaction (S6), write the marker, `pg_promote`, wait until it is out of recovery. Meanwhile the slots
    /// are made: one that cannot be is no failure.
    Promote {
        /// The lock.
        guard: LockGuard,
        /// The timeline it is expected to leave.
        from: TimelineId,
        /// What the marker says from then on: [`crate::facts::Initialised::was_primary_on`].
        marker: TimelineId,
        /// The slots that the others will attach by, and that are not there yet.
        slots: BTreeSet<String>,
    },
    /// Stop PostgreSQL.
    Stop {
        /// How.
        mode: StopMode,
        /// Run a checkpoint first (a planned stop: shortens the shutdown).
        checkpoint_first: bool,
    },
    /// Stop fast and start again in the same role (which needs the lock for a primary).
    Restart {
        /// The lock, re-checked right before the start; None for a standby.
        guard: Option<LockGuard>,
    },
}

impl Action {
    /// Some for an action that runs in the operation slot.
    #[must_use]
    pub fn operation(&self) -> Option<OperationKind> {
        match self {
            Action::Bootstrap => Some(OperationKind::Bootstrap),
            Action::Clone { .. } => Some(OperationKind::Clone),
            Action::Rewind { .. } => Some(OperationKind::Rewind),
            Action::StartAsStandby { .. } => Some(OperationKind::StartAsStandby),
            Action::StartAsPrimary { .. } => Some(OperationKind::StartAsPrimary),
            Action::Promote { .. } => Some(OperationKind::Promote),
            Action::Stop { .. } => Some(OperationKind::Stop),
            Action::Restart { .. } => Some(OperationKind::Restart),
            Action::GrantMemberLease { .. }
            | Action::RenewMemberLease { .. }
            | Action::PublishMember { .. }
            | Action::AcquireLock { .. }
            | Action::RenewPrimaryLease { .. }
            | Action::ReleaseLock { .. }
            | Action::ClaimInitialize { .. }
            | Action::WriteInitialize { .. }
            | Action::AbandonInitialize { .. }
            | Action::WriteConfig { .. }
            | Action::WriteSync { .. }
            | Action::WriteHistory { .. }
            | Action::WriteStatus { .. }
            | Action::NameCandidate { .. }
            | Action::ClearFailoverRequest { .. }
            | Action::Suspect { .. }
            | Action::ClearSuspicion { .. }
            | Action::RevokeLock { .. }
            | Action::MoveStoreLeadership { .. }
            | Action::Fence
            | Action::Follow { .. }
            | Action::TryStreaming
            | Action::StopReceiver
            | Action::SetSynchronousStandbyNames { .. }
            | Action::ConfirmSyncEffective { .. }
            | Action::SetSlots { .. }
            | Action::Checkpoint => None,
        }
    }
}
