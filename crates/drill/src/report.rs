//! The end of a drill: what the operator reads, and the same as JSON.

use std::time::Duration;

use serde::Serialize;

use crate::observer::Line;
use crate::writer::Verdict;

/// One fault and what clients saw of it.
#[derive(Debug, Clone, Serialize)]
pub struct Round {
    /// What was done.
    pub fault: String,
    /// The primary before and after, and the timeline after.
    pub from: String,
    /// The primary afterwards.
    pub to: String,
    /// Its timeline.
    pub timeline: Option<u32>,
    /// Longest pause between two acknowledgements, in milliseconds.
    pub write_gap_ms: u64,
    /// Acknowledged rows that are gone, counted after this round.
    pub lost: usize,
}

/// A whole drill.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The story's name.
    pub drill: &'static str,
    /// `synchronous_mode` and `ttl`.
    pub synchronous: bool,
    /// The lease time in seconds.
    pub ttl_s: u64,
    /// One per fault.
    pub rounds: Vec<Round>,
    /// The comparison at the end.
    pub verdict: Verdict,
    /// Sentences that must hold and did not.
    pub violations: Vec<String>,
    /// Every line of the timeline.
    pub events: Vec<Line>,
}

impl Report {
    /// Nothing acknowledged is missing and nothing else was violated.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.verdict.lost.is_empty() && self.verdict.unexplained.is_empty() && self.violations.is_empty()
    }

    /// The closing lines.
    #[must_use]
    pub fn closing(&self) -> String {
        let verdict = &self.verdict;
        let mut text = String::new();
        if self.rounds.len() > 1 {
            text.push_str("round  primary          timeline  write gap     lost\n");
            for (index, round) in self.rounds.iter().enumerate() {
                text.push_str(&format!(
                    "{:>5}  {:<15}  {:>8}  {:>7} ms  {:>7}\n",
                    index + 1,
                    format!("{} -> {}", round.from, round.to),
                    round.timeline.map_or_else(|| "?".to_owned(), |timeline| timeline.to_string()),
                    round.write_gap_ms,
                    round.lost
                ));
            }
            let mut gaps: Vec<u64> = self.rounds.iter().map(|round| round.write_gap_ms).collect();
            gaps.sort_unstable();
            text.push_str(&format!(
                "write gap: n {}, min {} ms, median {} ms, max {} ms\n",
                gaps.len(),
                gaps[0],
                gaps[gaps.len() / 2],
                gaps[gaps.len() - 1]
            ));
        } else if let Some(round) = self.rounds.first() {
            text.push_str(&format!("write gap {} ms ({} -> {})\n", round.write_gap_ms, round.from, round.to));
        }
        text.push_str(&format!(
            "acknowledged {}, lost {}, unknown {} ({} of them present)\n",
            verdict.acknowledged,
            verdict.lost.len(),
            verdict.unknown_present + verdict.unknown_absent,
            verdict.unknown_present
        ));
        for violation in &self.violations {
            text.push_str(&format!("VIOLATED: {violation}\n"));
        }
        if !verdict.unexplained.is_empty() {
            text.push_str(&format!(
                "VIOLATED: rows that nobody was promised are there: {:?}\n",
                verdict.unexplained
            ));
        }
        text
    }
}

/// Milliseconds of a pause, for tables.
#[must_use]
pub fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
