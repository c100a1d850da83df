//! The end of a drill: what the operator reads, and the same as JSON.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use crate::ledger::Verdict;
use crate::observer::Line;

/// One fault and what clients saw of it. Times count from the fault, in milliseconds; before it they are negative.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Round {
    /// What was done.
    pub fault: String,
    /// The primary before.
    pub from: String,
    /// The primary afterwards.
    pub to: String,
    /// Its timeline.
    pub timeline: Option<u32>,
    /// Longest pause between two acknowledgements, as the application outside saw it.
    pub write_gap_ms: u64,
    /// The last acknowledgement of the old primary, on any side of a cut.
    pub old_last_ms: Option<f64>,
    /// The first acknowledgement of the new one.
    pub new_first_ms: Option<f64>,
    /// Between those two; negative when both acknowledged at the same time.
    pub margin_ms: Option<f64>,
    /// Acknowledged rows of this round that are gone at its end.
    pub lost: usize,
    /// When the youngest of them had been acknowledged.
    pub lost_until_ms: Option<f64>,
    /// What else was measured.
    pub figures: Vec<Figure>,
}

/// A measured value with a name and a unit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// What was measured.
    pub what: &'static str,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
}

impl Round {
    /// Adds a figure in milliseconds.
    pub fn time(&mut self, what: &'static str, value: Duration) {
        self.figures.push(Figure { what, value: value.as_secs_f64() * 1000.0, unit: "ms" });
    }

    /// Adds any other figure.
    pub fn figure(&mut self, what: &'static str, value: f64, unit: &'static str) {
        self.figures.push(Figure { what, value, unit });
    }

    /// A figure by its name.
    #[must_use]
    pub fn find(&self, what: &str) -> Option<f64> {
        self.figures.iter().find(|figure| figure.what == what).map(|figure| figure.value)
    }
}

/// A whole drill.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The story's name.
    pub drill: String,
    /// `synchronous_mode`.
    pub mode: String,
    /// Whether commits wait for a standby.
    pub synchronous: bool,
    /// The lease time in seconds.
    pub ttl_s: f64,
    /// Whether every node had an address of its own and could be cut off.
    pub namespaces: bool,
    /// One per fault.
    pub rounds: Vec<Round>,
    /// The comparison at the end, over all rounds.
    pub verdict: Verdict,
    /// Sentences that must hold and did not.
    pub violations: Vec<String>,
    /// Every line of the timeline.
    pub events: Vec<Line>,
}

impl Report {
    /// Nothing that must hold was violated. A lost row is a violation in the synchronous modes; in asynchronous mode it is one beyond
    /// the bound, and the story has said so.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.violations.is_empty() && self.contradiction().is_none()
    }

    /// What the database holds against what clients were told, if that cannot be.
    #[must_use]
    pub fn contradiction(&self) -> Option<String> {
        let Verdict { lost, unexplained, .. } = &self.verdict;
        if self.synchronous && !lost.is_empty() {
            return Some(format!("acknowledged rows are lost: {lost:?}"));
        }
        (!unexplained.is_empty()).then(|| format!("rows that nobody was promised are there: {unexplained:?}"))
    }

    /// The closing lines.
    #[must_use]
    pub fn closing(&self) -> String {
        let verdict = &self.verdict;
        let mut text = String::new();
        text.push_str(
            "round  primary         timeline  write gap  old's last  new's first     margin  lost\n",
        );
        for (index, round) in self.rounds.iter().enumerate() {
            let _ = write!(
                text,
                "{:>5}  {:<14}  {:>8}  {:>6} ms  {:>10}  {:>11}  {:>9}  {:>4}",
                index + 1,
                format!("{} -> {}", round.from, round.to),
                round.timeline.map_or_else(|| "?".to_owned(), |timeline| timeline.to_string()),
                round.write_gap_ms,
                signed(round.old_last_ms),
                signed(round.new_first_ms),
                signed(round.margin_ms),
                round.lost,
            );
            for figure in &round.figures {
                let _ = write!(text, "  {} {:.0} {}", figure.what, figure.value, figure.unit);
            }
            text.push('\n');
        }
        if let Some(gaps) = Spread::of(self.rounds.iter().map(|round| round.write_gap_ms as f64))
            && self.rounds.len() > 1
        {
            let _ = writeln!(text, "write gap: {gaps} ms");
        }
        let _ = writeln!(
            text,
            "acknowledged {}, lost {}, unknown {} ({} of them present)",
            verdict.acknowledged,
            verdict.lost.len(),
            verdict.unknown_present + verdict.unknown_absent,
            verdict.unknown_present
        );
        if !self.synchronous && !verdict.lost.is_empty() {
            let youngest =
                self.rounds.iter().filter_map(|round| round.lost_until_ms).fold(f64::MIN, f64::max);
            let _ = writeln!(
                text,
                "the youngest lost row was acknowledged {youngest:+.0} ms after its fault; the bound is the lease, {:.0} ms",
                self.ttl_s * 1000.0
            );
        }
        for violation in &self.violations {
            let _ = writeln!(text, "VIOLATED: {violation}");
        }
        if let Some(contradiction) = self.contradiction() {
            let _ = writeln!(text, "VIOLATED: {contradiction}");
        }
        text
    }
}

fn signed(ms: Option<f64>) -> String {
    ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:+.0} ms"))
}

/// How measured values lie.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// How many.
    pub n: usize,
    /// The middle one, the mean of the two middle ones of an even number.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// None without values.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Spread { n: values.len(), median, min, max })
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "n {}, min {:.0}, median {:.0}, max {:.0}", self.n, self.min, self.median, self.max)
    }
}

/// Milliseconds of a pause, for tables.
#[must_use]
pub fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        let spread = |values: &[f64]| Spread::of(values.iter().copied()).map(|s| (s.min, s.median, s.max));
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[3.0]), Some((3.0, 3.0, 3.0)));
        assert_eq!(spread(&[9.0, 1.0, 2.0]), Some((1.0, 2.0, 9.0)));
        assert_eq!(spread(&[9.0, 1.0, 2.0, 4.0]), Some((1.0, 3.0, 9.0)));
    }
}
