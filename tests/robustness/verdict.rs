//! What a checker says: which rule is broken, by which two records of the history, and why they contradict.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::history::History;

/// Who found it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Checker {
    /// `log.rs`: one order of revisions, every change by somebody who asked for it.
    Log,
    /// `revisions.rs`: answers and real time against that order.
    Revisions,
    /// `watches.rs`
    Watches,
    /// `leases.rs`
    Leases,
    /// `hashes.rs`
    Hashes,
    /// `search.rs`: the second oracle.
    Search,
}

impl Checker {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Checker::Log => "log",
            Checker::Revisions => "revisions",
            Checker::Watches => "watches",
            Checker::Leases => "leases",
            Checker::Hashes => "hashes",
            Checker::Search => "search",
        }
    }
}

/// Two records that cannot both be true of a correct store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) checker: Checker,
    pub(crate) rule: &'static str,
    /// Indices of records.
    pub(crate) first: usize,
    /// None where the other side is the absence of a record.
    pub(crate) second: Option<usize>,
    pub(crate) why: String,
}

/// Of one rule no more are kept: the first few tell the story, the count its size.
const KEPT: usize = 5;

/// Everything that was found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Findings {
    kept: Vec<Violation>,
    counts: BTreeMap<(Checker, &'static str), usize>,
}

impl Findings {
    pub(crate) fn add(
        &mut self,
        checker: Checker,
        rule: &'static str,
        first: usize,
        second: Option<usize>,
        why: String,
    ) {
        let count = self.counts.entry((checker, rule)).or_default();
        *count += 1;
        if *count <= KEPT {
            self.kept.push(Violation { checker, rule, first, second, why });
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// How many of all rules.
    pub(crate) fn count(&self) -> usize {
        self.counts.values().sum()
    }

    /// The checkers that found something, each once.
    pub(crate) fn checkers(&self) -> Vec<Checker> {
        let mut all: Vec<Checker> = self.counts.keys().map(|(checker, _)| *checker).collect();
        all.dedup();
        all
    }

    /// The rules that were broken, with who says so.
    pub(crate) fn rules(&self) -> Vec<(&'static str, &'static str)> {
        self.counts.keys().map(|(checker, rule)| (checker.name(), *rule)).collect()
    }

    /// For people: every rule with its count, then the first few with their records.
    pub(crate) fn report(&self, history: &History) -> String {
        let mut text = String::new();
        for ((checker, rule), count) in &self.counts {
            let _ = writeln!(text, "{}: {rule}: {count}", checker.name());
        }
        for violation in &self.kept {
            let Violation { checker, rule, first, second, why } = violation;
            let _ = writeln!(text, "\n{}: {rule}: {why}\n  {}", checker.name(), history.line(*first));
            if let Some(second) = second {
                let _ = writeln!(text, "  {}", history.line(*second));
            }
        }
        text
    }
}
