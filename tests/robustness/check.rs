//! Every checker over one history: a pure function.

use crate::history::{History, Outcome};
use crate::log::{self, Log};
use crate::search::Searched;
use crate::verdict::Findings;
use crate::{hashes, leases, revisions, search, watches};

/// What came out.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) findings: Findings,
    pub(crate) searched: Searched,
    pub(crate) log: Log,
}

pub(crate) fn check(history: &History) -> Verdict {
    let mut findings = Findings::default();
    let log = log::build(history, &mut findings);
    revisions::check(history, &log, &mut findings);
    watches::check(history, &log, &mut findings);
    leases::check(history, &log, &mut findings);
    hashes::check(history, &mut findings);
    let searched = search::check(history, &log, &mut findings);
    Verdict { findings, searched, log }
}

/// How much a verdict is worth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) operations: usize,
    pub(crate) answered: usize,
    pub(crate) refused: usize,
    pub(crate) unknown: usize,
    pub(crate) revisions: usize,
    pub(crate) streams: usize,
    pub(crate) events: usize,
    /// Leases that ended without being asked to.
    pub(crate) expiries: usize,
}

impl Figures {
    pub(crate) fn of(history: &History, log: &Log) -> Figures {
        let mut figures = Figures {
            revisions: log.entries.len(),
            streams: history.opened().count(),
            events: history.heard().map(|(_, heard)| heard.events.len()).sum(),
            expiries: log
                .entries
                .values()
                .filter(|entry| matches!(entry.author, log::Author::Lease(_)))
                .count(),
            ..Figures::default()
        };
        for (_, operation) in history.operations() {
            figures.operations += 1;
            match operation.outcome {
                Outcome::Answered(_) => figures.answered += 1,
                Outcome::Refused { .. } => figures.refused += 1,
                Outcome::Unknown { .. } => figures.unknown += 1,
            }
        }
        figures
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Figures { operations, answered, refused, unknown, revisions, streams, events, expiries } = self;
        write!(
            f,
            "{operations} operations ({answered} answered, {refused} refused, {unknown} unknown), {revisions} revisions, \
             {events} events on {streams} watch streams, {expiries} leases expired"
        )
    }
}
