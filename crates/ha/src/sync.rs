//! The synchronous set: which standbys confirm commits, and how that changes without ever losing one.
//!
//! # Problem
//!
//! A commit is acknowledged when the standbys named in `synchronous_standby_names` have it. A promotion reads the store,
//! not PostgreSQL. The two change at different moments, either agent or machine may stop between any two steps, and the
//! promoted node must have every acknowledged commit (S3).
//!
//! # Model
//!
//! `/sync` lists *entries* (members, confirm). At rest there is one; while it changes, all that may still be in force:
//!
//! ```text
//!   store   [old]        [old, new]                                       [new]
//!   GUC      old ───────────────── old ► new ──────────────────────────── new
//!                          │            │                                 │
//!                    1 WriteSync   2 SetSynchronousStandbyNames      4 WriteSync
//!                                  3 ConfirmSyncEffective: position P,
//!                                    enough of new have flushed P
//! ```
//!
//! # Invariants
//!
//! - For every acknowledged commit there is a listed entry of which `confirm` members have it. (1 before 2, 3 before 4: a
//!   commit under old lies before P, and P is on `confirm` members of new when old is dropped.)
//! - Known positions form a promotion quorum when, for **every** entry, more than (members - confirm) of its members are
//!   among them: then they meet every commit quorum of every entry, and the best of them has every commit.
//! - An entry that nobody confirms (the primary alone) can be met by nobody: no other node is promoted. Synchronous modes
//!   degrade by losing failover first, never by losing commits.
//! - A promoted node's first entry stands beside the old ones until enough of it has the promotion position, which is the
//!   same rule with P taken after the promotion.
//! - The named leader has every commit acknowledged under the document (it made them, or it was promoted by the rule
//!   above), so it may always be promoted again.
//!
//! Step 3 holds commits up for a moment (the barrier of `pg`). It is not taken before enough of the new entry stream: until then the
//! position could not be reached anyway, and after a promotion the first commits wait for those very standbys.
//!
//! When the standby that commits wait for is gone, the next entry (another standby, or the primary alone) is *appended*
//! and becomes the target: the others stay listed until the target is caught up. Nothing is ever removed from the list but
//! by step 4.
//!
//! Source: the project's exhaustive model of take-over, which shows each rule to be needed by losing a commit without it.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::{SyncDocument, SyncEntry};
use crate::facts::{Lsn, Position, SyncEffective};
use crate::policy::{Policy, SynchronousMode};

/// The next step towards the wanted entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The store and PostgreSQL agree with what is wanted.
    Settled,
    /// Write the document (None: delete it), guarded.
    Write(Option<SyncDocument>),
    /// Change the GUC to this value.
    Set(String),
    /// Too few of those that this value names stream: nothing to make sure of yet.
    Attach(String),
    /// Make sure that this value is in effect everywhere.
    Confirm(String),
    /// The new entry has not caught up with this position yet.
    CatchUp(Lsn),
}

/// `synchronous_standby_names` for an entry: the first `confirm` of the members, which is all of them unless the entry
/// names more than it needs. Names are always quoted.
#[must_use]
pub fn names(entry: &SyncEntry) -> String {
    if entry.confirm == 0 || entry.members.is_empty() {
        return String::new();
    }
    let quoted: Vec<String> =
        entry.members.iter().map(|name| format!("\"{}\"", name.replace('"', "\"\""))).collect();
    let method = if entry.confirm == entry.members.len() { "FIRST" } else { "ANY" };
    format!("{method} {} ({})", entry.confirm, quoted.join(","))
}

/// Do the known members meet every commit quorum of every entry? Without entries nobody is bound.
#[must_use]
pub fn promotion_quorum(entries: &[SyncEntry], known: &BTreeSet<String>) -> bool {
    entries.iter().all(|entry| {
        entry.confirm > 0 && entry.members.intersection(known).count() + entry.confirm > entry.members.len()
    })
}

/// What the primary knows about its setting and its standbys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State<'a> {
    /// We.
    pub me: &'a str,
    /// `/sync`.
    pub document: Option<&'a SyncDocument>,
    /// `synchronous_standby_names` as PostgreSQL has it.
    pub names: &'a str,
    /// The last confirmation.
    pub effective: Option<&'a SyncEffective>,
    /// Flushed positions of the standbys that stream.
    pub flushed: &'a BTreeMap<String, Lsn>,
}

/// One step from what is to `wanted`; None: asynchronous. Pure and memoryless: after any crash it goes on from what it
/// finds.
#[must_use]
pub fn step(state: &State<'_>, wanted: Option<&SyncEntry>) -> Step {
    let Some(wanted) = wanted else {
        return if !state.names.is_empty() {
            Step::Set(String::new())
        } else if state.document.is_some() {
            Step::Write(None)
        } else {
            Step::Settled
        };
    };
    let alone = SyncEntry::default();
    let me = Some(state.me.to_owned());
    let Some(document) = state.document.filter(|document| !document.entries.is_empty()) else {
        // Commits so far waited for nobody: only we are sure to have them.
        return Step::Write(Some(SyncDocument { leader: me, entries: vec![alone] }));
    };
    if document.leader != me {
        // The set that we hold the lock under, beside those that may have acknowledged before us.
        return Step::Write(Some(appended(document, state.me, wanted)));
    }
    let target = document.entries.last().unwrap_or(&alone);
    if target != wanted {
        return Step::Write(Some(appended(document, state.me, wanted)));
    }
    let value = names(target);
    if state.names != value {
        return Step::Set(value);
    }
    if document.entries.len() == 1 {
        return Step::Settled;
    }
    let enough = |at: Lsn| {
        let there = target.members.iter().filter(|member| state.flushed.get(*member) >= Some(&at));
        there.count() >= target.confirm
    };
    match state.effective.filter(|effective| effective.names == value) {
        Some(effective) if enough(effective.at) => {
            Step::Write(Some(SyncDocument { leader: me, entries: vec![target.clone()] }))
        }
        Some(effective) => Step::CatchUp(effective.at),
        None if enough(Lsn::default()) => Step::Confirm(value),
        None => Step::Attach(value),
    }
}

/// The document with `target` as its last entry.
#[must_use]
pub fn appended(document: &SyncDocument, me: &str, target: &SyncEntry) -> SyncDocument {
    let mut entries: Vec<SyncEntry> =
        document.entries.iter().filter(|entry| *entry != target).cloned().collect();
    entries.push(target.clone());
    SyncDocument { leader: Some(me.to_owned()), entries }
}

/// A standby that could be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Its name.
    pub name: String,
    /// It could not be promoted: chosen last.
    pub nofailover: bool,
    /// What it has.
    pub position: Position,
}

/// The entry that is wanted. `on`: `synchronous_node_count` of `choices`, keeping those of `current` (a set does not follow
/// every change of lag), then those that may be promoted, then the most caught up. `quorum`: all of them, of which any
/// `synchronous_node_count` confirm; those that could not be promoted only when the others are too few, because the
/// best of a quorum must be able to take over. None: the primary alone.
#[must_use]
pub fn choose(policy: &Policy, current: Option<&SyncEntry>, mut choices: Vec<Choice>) -> SyncEntry {
    let count = policy.synchronous_node_count;
    if policy.synchronous_mode == SynchronousMode::Quorum {
        if choices.iter().filter(|choice| !choice.nofailover).count() >= count {
            choices.retain(|choice| !choice.nofailover);
        }
        let members: BTreeSet<String> = choices.into_iter().map(|choice| choice.name).collect();
        return SyncEntry { confirm: count.min(members.len()), members };
    }
    let kept = |choice: &Choice| current.is_some_and(|entry| entry.members.contains(&choice.name));
    choices.sort_by(|a, b| {
        (kept(b), !b.nofailover, b.position, &a.name).cmp(&(kept(a), !a.nofailover, a.position, &b.name))
    });
    let members: BTreeSet<String> = choices.into_iter().take(count).map(|choice| choice.name).collect();
    SyncEntry { confirm: members.len(), members }
}
