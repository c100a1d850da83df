//! Rules that a simulation breaks on purpose, to see that its checkers notice (`tests/README.md`, the mutation gate).
//!
//! A rule is broken at the place that keeps it, by a line or two that ask [`broken`], for the whole life of a process. Like all of
//! this module the lines exist only with `--cfg quorate_sim`: a binary that is shipped has no such switch in it.

use std::sync::OnceLock;

/// What the code keeps, named by how it is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// A leader answers reads without asking whether it still leads.
    ReadWithoutQuorum,
    /// A founder that lost its disk takes its place again, under the id that its disk was a promise for.
    EmptyDiskKeepsItsId,
    /// A member that is sent a snapshot puts in the one that it has, which is older, and calls it the new one.
    StaleSnapshot,
    /// Watchers are not told that a snapshot has skipped revisions.
    WatchersPassedBySnapshots,
    /// A write is acknowledged before it is synced, which then happens with the next one.
    AcknowledgedBeforeSync,
    /// A sync that failed is tried again; it succeeds, because the system has forgotten the pages that failed.
    FailedSyncTriedAgain,
    /// Records of the log are believed whatever their checksums say.
    ChecksumsNotLookedAt,
    /// Votes are not written down.
    VotesNotWritten,
    /// A member that was removed never asks.
    RemovedMemberGoesOn,
    /// A leader counts leases a second short.
    LeasesEndEarly,
    /// A member applies what arrives together in an order of its own.
    OrderOfItsOwn,
}

impl Rule {
    /// All of them.
    pub const ALL: [Rule; 11] = [
        Rule::ReadWithoutQuorum,
        Rule::EmptyDiskKeepsItsId,
        Rule::StaleSnapshot,
        Rule::WatchersPassedBySnapshots,
        Rule::AcknowledgedBeforeSync,
        Rule::FailedSyncTriedAgain,
        Rule::ChecksumsNotLookedAt,
        Rule::VotesNotWritten,
        Rule::RemovedMemberGoesOn,
        Rule::LeasesEndEarly,
        Rule::OrderOfItsOwn,
    ];

    /// The rule that is printed like this.
    pub fn named(name: &str) -> Option<Rule> {
        Rule::ALL.into_iter().find(|rule| format!("{rule:?}") == name)
    }
}

static BROKEN: OnceLock<Rule> = OnceLock::new();

/// From now on this process breaks `rule`.
///
/// # Panics
/// When it breaks one already.
pub fn break_rule(rule: Rule) {
    BROKEN.set(rule).expect("a process breaks one rule at most");
}

/// Whether this process breaks `rule`.
pub fn broken(rule: Rule) -> bool {
    BROKEN.get() == Some(&rule)
}
