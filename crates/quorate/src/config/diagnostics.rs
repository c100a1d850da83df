//! What is wrong with a configuration, all of it at once.
//!
//! A configuration that is rejected one mistake at a time costs an operator a restart per mistake, so nothing here
//! stops at the first one: every reader records what it found and goes on with the default. The report is printed in
//! the order of the file, one line per finding, in the form that editors and `grep -n` users can jump to:
//!
//! ```text
//! node1.yml:7: error: bootstrap.dcs.ttl: expected a number of seconds, found "soon"
//! node1.yml:12: warning: bootstrap.postgresql: unknown key, ignored with all beneath it; did you mean bootstrap.dcs.postgresql?
//! environment: warning: PATRONI_FOO: unknown variable, ignored
//! ```
//!
//! Values are repeated in a message only where they cannot be a secret.

use std::fmt;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The file as a whole: something is missing.
    File,
    /// Line of the file, from 1.
    Line(u64),
    /// A flag of the command line.
    Flag(String),
    /// A variable of the environment.
    Variable(String),
}

/// Whether the configuration can be used in spite of the finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// It cannot: exit code 2, nothing has been changed.
    Error,
    /// It can, but something that was written has no effect, or not the effect that its writer may expect.
    Warning,
    /// It can, and the operator should know what takes the place of what was written.
    Note,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// See [`Severity`].
    pub severity: Severity,
    /// See [`Origin`].
    pub origin: Origin,
    /// Dotted path of the key, e.g. `bootstrap.dcs.ttl`; the flag or variable for those.
    pub path: String,
    /// What is wrong and, where it can be said, the remedy.
    pub message: String,
}

/// Everything that was found while one configuration was read.
#[derive(Debug, Default)]
pub struct Report {
    findings: Vec<Diagnostic>,
}

impl Report {
    /// Records a finding that makes the configuration unusable.
    pub fn error(&mut self, origin: Origin, path: impl Into<String>, message: impl Into<String>) {
        self.push(Severity::Error, origin, path.into(), message.into());
    }

    /// Records a finding that `--strict` turns into an error.
    pub fn warning(&mut self, origin: Origin, path: impl Into<String>, message: impl Into<String>) {
        self.push(Severity::Warning, origin, path.into(), message.into());
    }

    /// Records what the operator should know.
    pub fn note(&mut self, origin: Origin, path: impl Into<String>, message: impl Into<String>) {
        self.push(Severity::Note, origin, path.into(), message.into());
    }

    fn push(&mut self, severity: Severity, origin: Origin, path: String, message: String) {
        self.findings.push(Diagnostic { severity, origin, path, message });
    }

    /// Adds what another reader found.
    pub fn absorb(&mut self, other: Report) {
        self.findings.extend(other.findings);
    }

    /// Turns every warning into an error, as `--strict` asks.
    pub fn make_strict(&mut self) {
        for finding in &mut self.findings {
            if finding.severity == Severity::Warning {
                finding.severity = Severity::Error;
            }
        }
    }

    /// True when the configuration cannot be used.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Error)
    }

    /// What is missing from the file, its lines in order, then flags and variables.
    #[must_use]
    pub fn findings(&self) -> Vec<&Diagnostic> {
        let mut sorted: Vec<&Diagnostic> = self.findings.iter().collect();
        sorted.sort_by(|left, right| left.origin.cmp(&right.origin));
        sorted
    }

    /// One line per finding, each ended by a line feed.
    #[must_use]
    pub fn render(&self, file: &str) -> String {
        self.findings().into_iter().map(|finding| self.render_one(file, finding) + "\n").collect()
    }

    /// One finding, without a line feed.
    #[must_use]
    pub fn render_one(&self, file: &str, finding: &Diagnostic) -> String {
        let place = match &finding.origin {
            Origin::Line(line) => format!("{file}:{line}: "),
            Origin::File => format!("{file}: "),
            Origin::Variable(_) => "environment: ".to_owned(),
            Origin::Flag(_) => String::new(),
        };
        // A value may come from a variable and be judged under its path in the file: name both.
        let subject = match &finding.origin {
            Origin::Variable(name) | Origin::Flag(name)
                if *name != finding.path && !finding.path.is_empty() =>
            {
                format!("{name} ({})", finding.path)
            }
            Origin::Variable(name) | Origin::Flag(name) => name.clone(),
            Origin::Line(_) | Origin::File => finding.path.clone(),
        };
        let colon = if subject.is_empty() { "" } else { ": " };
        format!("{place}{}: {subject}{colon}{}", finding.severity, finding.message)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        })
    }
}

/// The candidate that `word` most likely was meant to be: at most a third of its letters differ (a swap of two
/// neighbours counts once). None when nothing is that close.
#[must_use]
pub fn closest<'c>(word: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    let bound = (word.chars().count() / 3).max(1);
    candidates
        .map(|candidate| (edit_distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= bound)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Optimal string alignment distance, letters compared without case, `-` and `_` being one letter.
fn edit_distance(left: &str, right: &str) -> usize {
    let fold = |text: &str| -> Vec<char> {
        text.chars().map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() }).collect()
    };
    let (left, right) = (fold(left), fold(right));
    let mut before_previous: Vec<usize> = Vec::new();
    let mut previous: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.iter().enumerate() {
        let mut current = vec![i + 1];
        for (j, b) in right.iter().enumerate() {
            let mut best = (previous[j] + usize::from(a != b)).min(previous[j + 1] + 1).min(current[j] + 1);
            if i > 0 && j > 0 && *a == right[j - 1] && left[i - 1] == *b {
                best = best.min(before_previous[j - 1] + 1);
            }
            current.push(best);
        }
        before_previous = previous;
        previous = current;
    }
    previous[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_slip_is_close_and_another_word_is_not() {
        let keys = ["ttl", "loop_wait", "retry_timeout", "synchronous_mode"];
        assert_eq!(closest("lopo_wait", keys.into_iter()), Some("loop_wait"));
        assert_eq!(closest("loop-wait", keys.into_iter()), Some("loop_wait"));
        assert_eq!(closest("synchronus_mode", keys.into_iter()), Some("synchronous_mode"));
        assert_eq!(closest("tll", keys.into_iter()), Some("ttl"));
        assert_eq!(closest("pg_hba", keys.into_iter()), None);
    }

    #[test]
    fn strict_turns_warnings_into_errors_and_leaves_notes() {
        let mut report = Report::default();
        report.note(Origin::Line(1), "etcd3", "replaced");
        report.warning(Origin::Line(2), "x", "unknown");
        assert!(!report.has_errors());
        report.make_strict();
        assert_eq!(report.render("f.yml"), "f.yml:1: note: etcd3: replaced\nf.yml:2: error: x: unknown\n");
    }
}
