//! The cluster as the store holds it: every key that a decision reads, with the revisions that guards are made of, and
//! the JSON documents in Patroni's exact layout (`documents`), which this crate alone parses and prints.

use std::collections::BTreeMap;

use crate::facts::{Moment, SystemId};

mod documents;

pub use documents::{
    DocumentError, FailoverRequest, History, HistoryLine, MemberRecord, MemberRole, MemberState, RaceStamp,
    Status, Suspicion, SyncDocument, SyncEntry, Tags,
};

/// A revision of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub i64);

/// A lease of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// A key's value with what a transaction can compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<T> {
    /// Parsed.
    pub value: T,
    /// When it was created.
    pub create_revision: Revision,
    /// When it was last written.
    pub mod_revision: Revision,
    /// The lease it hangs on.
    pub lease: Option<LeaseId>,
}

/// What is known of the store.
#[expect(clippy::large_enum_variant, reason = "one value per observation")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreFacts {
    /// It answered. The view may be old (a member cut off from the quorum serves what it has): whoever acts on it
    /// carries guards.
    Available(ClusterView),
    /// It does not answer, or has no view of the cluster yet.
    Unavailable {
        /// Since when.
        since: Moment,
    },
}

/// All keys of the cluster at one revision. A key whose document could not be parsed is reported by the agent and
/// stands here as its last readable version, or as absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterView {
    /// The store's revision when this was read.
    pub revision: Revision,
    /// `/initialize`.
    pub initialize: Option<Versioned<Initialize>>,
    /// `/leader`.
    pub lock: Lock,
    /// `/members/*` that exist now, by name.
    pub members: BTreeMap<String, Versioned<MemberRecord>>,
    /// `/config`, as written.
    pub config: Option<Versioned<serde_json::Value>>,
    /// `/sync`.
    pub sync: Option<Versioned<SyncDocument>>,
    /// `/history`.
    pub history: Option<Versioned<History>>,
    /// `/failover`; `{}` is a request for nothing.
    pub failover: Option<Versioned<FailoverRequest>>,
    /// `/status`.
    pub status: Option<Versioned<Status>>,
    /// `/suspicion`, Quorate's own.
    pub suspicion: Option<Suspected>,
}

/// `/suspicion` as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspected {
    /// The key. Its mod revision is the generation that promises are stamped with.
    pub key: Versioned<Suspicion>,
    /// When this node saw it first.
    pub since: Moment,
}

/// `/initialize`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Initialize {
    /// Empty: a node is bootstrapping. Ours if it hangs on our member lease.
    Claimed,
    /// Bootstrapped.
    Done(SystemId),
}

impl Initialize {
    /// Patroni's rule: decimal digits, at least ten of them; everything else is a claim.
    #[must_use]
    pub fn parse(text: &str) -> Initialize {
        match text.parse() {
            Ok(id) if text.len() >= 10 && text.bytes().all(|b| b.is_ascii_digit()) => {
                Initialize::Done(SystemId(id))
            }
            _ => Initialize::Claimed,
        }
    }
}

/// `/leader`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lock {
    /// Somebody holds it.
    Held(Held),
    /// Nobody does.
    Absent {
        /// The revision at which it vanished, as the watch delivered it; of a node that was not watching then, the
        /// revision of the first view it was absent in. Never less than the true one. Zero: there never was one.
        since_revision: Revision,
        /// When this node saw it vanish.
        since: Moment,
    },
}

/// The lock as a key. Its lease lives in the store, whatever the holder believes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The holder's name.
    pub holder: String,
    /// The lease it hangs on; a key without lease (written by hand) has 0.
    pub lease: LeaseId,
    /// When it was taken. Grows from holder to holder (S5).
    pub create_revision: Revision,
}

impl ClusterView {
    /// The lock, if somebody holds it.
    #[must_use]
    pub fn held(&self) -> Option<&Held> {
        match &self.lock {
            Lock::Held(held) => Some(held),
            Lock::Absent { .. } => None,
        }
    }
}
