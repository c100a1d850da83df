//! The table of speed: every event of the time budget, in both columns, at the presets, with its target beside it.
//!
//! The rows of a column share a cluster, because building and stopping one takes as long as many a round; what a story has
//! written is removed before the next one. A row that fails or violates something says so, leaves its cluster for the
//! post-mortem, and the next one gets another: it does not spoil what follows, but the table as a whole has failed.
//!
//! A cut or a stop is held for a lease and a second ([`hold`]), not for the minute that a single story takes: by then
//! the new side has written, the old side has had to stop, and its clients go on asking it until the end of the round, so that an
//! acknowledgement after its return is seen just as well.
//!
//! One cell is empty: agent and guard killed in asynchronous mode, where nothing but a watchdog device would stop PostgreSQL.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::configuration::Timing;
use crate::report::{Report, Spread};
use crate::stories::Story;

/// A preset of the times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// ttl 2 s, failure_timeout 1 s
    Fast,
    /// ttl 5 s, failure_timeout 3 s
    Default,
    /// ttl 15 s, failure_timeout 10 s, and a store that waits for round trips of a second
    Wan,
}

impl Preset {
    /// As on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Preset::Fast => "fast",
            Preset::Default => "default",
            Preset::Wan => "wan",
        }
    }

    /// Its times.
    #[must_use]
    pub fn timing(self) -> Timing {
        match self {
            Preset::Fast => Timing::FAST,
            Preset::Default => Timing::DEFAULT,
            Preset::Wan => Timing::WAN,
        }
    }
}

/// A line of the table: what a story measures, and what it should be.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The event in an operator's words.
    pub event: &'static str,
    /// The story that makes it happen.
    pub story: Story,
    /// What is looked at.
    pub figure: Measured,
    /// What it should be.
    pub target: fn(synchronous: bool, preset: Preset) -> Target,
}

/// Which value of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measured {
    /// The write gap, in milliseconds.
    Gap,
    /// Last acknowledgement of the old side to the first of the new, in milliseconds.
    Margin,
    /// A figure by its name.
    Named(&'static str, &'static str),
}

/// What a value should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
    /// Nothing is promised; the value is shown.
    None,
}

const fn at_most(ms: f64) -> Target {
    Target::AtMost(ms)
}

/// How long a cut or a stop is held in the table.
#[must_use]
pub fn hold(ttl: Duration) -> Duration {
    ttl + Duration::from_secs(1)
}

/// What `rounds` of a story take on a machine that is not busy, about: to tell how much of a table is left.
#[must_use]
pub fn effort(story: Story, rounds: usize, hold: Duration) -> Duration {
    // Traffic before and after, the takeover, and the return of a node.
    const ROUND: Duration = Duration::from_secs(6);
    (ROUND + hold * story.holds()) * u32::try_from(rounds).unwrap_or(u32::MAX)
}

/// The lease and a little more, in asynchronous mode.
fn lease_and(preset: Preset, more_ms: f64) -> Target {
    at_most(preset.timing().ttl.as_secs_f64() * 1000.0 + more_ms)
}

/// `failure_timeout` and half a second, in the synchronous modes.
fn silence(preset: Preset) -> Target {
    at_most(preset.timing().failure_timeout.as_secs_f64() * 1000.0 + 500.0)
}

/// Every row, in the order of the budget. Rows of one story share its rounds.
pub const ROWS: &[Row] = &[
    Row {
        event: "node lost, its voter follows",
        story: Story::Failover,
        figure: Measured::Gap,
        target: |sync, preset| if sync { at_most(1200.0) } else { lease_and(preset, 300.0) },
    },
    Row {
        event: "node lost, its voter led the store",
        story: Story::FailoverStoreLeader,
        figure: Measured::Gap,
        target: |sync, preset| if sync { at_most(1900.0) } else { lease_and(preset, 300.0) },
    },
    Row {
        event: "silent network cut",
        story: Story::Cut,
        figure: Measured::Gap,
        target: |sync, preset| if sync { silence(preset) } else { lease_and(preset, 300.0) },
    },
    Row {
        event: "… the isolated side stops before",
        story: Story::Cut,
        figure: Measured::Margin,
        target: |_, _| Target::AtLeast(500.0),
    },
    Row {
        event: "agent stopped (SIGSTOP)",
        story: Story::AgentStopped,
        figure: Measured::Gap,
        target: |sync, preset| if sync { silence(preset) } else { lease_and(preset, 500.0) },
    },
    Row {
        event: "… the old side stops before",
        story: Story::AgentStopped,
        figure: Measured::Margin,
        target: |_, _| Target::AtLeast(0.0),
    },
    Row {
        event: "postmaster killed",
        story: Story::PostmasterKilled,
        figure: Measured::Gap,
        target: |_, _| at_most(800.0),
    },
    Row {
        event: "planned switchover",
        story: Story::Switchover,
        figure: Measured::Gap,
        target: |_, _| at_most(300.0),
    },
    Row {
        event: "two of three lost, then back: after the quorum is back",
        story: Story::QuorumLoss,
        figure: Measured::Named("after the quorum is back", "ms"),
        target: |_, _| at_most(2000.0),
    },
    Row {
        event: "leader of the store killed: write gap",
        story: Story::StoreLeaderKilled,
        figure: Measured::Gap,
        // Nothing but the probe's own rhythm and a slow write.
        target: |_, _| at_most(100.0),
    },
    Row {
        event: "… store unavailable",
        story: Story::StoreLeaderKilled,
        figure: Measured::Named("store unavailable", "ms"),
        target: |_, _| at_most(800.0),
    },
    Row {
        event: "first start: first write",
        story: Story::FirstStart,
        figure: Measured::Named("first write", "ms"),
        target: |_, _| at_most(3000.0),
    },
    Row {
        event: "… all streaming",
        story: Story::FirstStart,
        figure: Measured::Named("all streaming", "ms"),
        target: |_, _| at_most(8000.0),
    },
    Row {
        event: "memory of the process, idle",
        story: Story::Memory,
        figure: Measured::Named("resident", "MB"),
        target: |_, _| at_most(25.0),
    },
    Row {
        event: "two cuts in a row: the second takeover",
        story: Story::TwoCuts,
        figure: Measured::Named("second takeover", "ms"),
        target: |_, _| Target::None,
    },
    Row {
        event: "agent killed alone and started again: write gap",
        story: Story::AgentRestarted,
        figure: Measured::Gap,
        target: |_, _| at_most(100.0),
    },
    Row {
        event: "agent killed alone, not started again",
        story: Story::AgentKilled,
        figure: Measured::Gap,
        target: |sync, preset| if sync { silence(preset) } else { lease_and(preset, 500.0) },
    },
    Row {
        event: "guard killed alone: write gap",
        story: Story::GuardKilled,
        figure: Measured::Gap,
        target: |_, _| at_most(100.0),
    },
    Row {
        event: "agent and guard killed",
        story: Story::BothKilled,
        figure: Measured::Gap,
        target: |_, preset| silence(preset),
    },
];

/// The stories of the table, each once, in the order in which they are told: a first start makes the youngest processes, and memory
/// is theirs.
#[must_use]
pub fn stories(only: &[Story]) -> Vec<Story> {
    let mut stories: Vec<Story> = Vec::new();
    for story in [Story::FirstStart, Story::Memory].into_iter().chain(ROWS.iter().map(|row| row.story)) {
        if !stories.contains(&story) && (only.is_empty() || only.contains(&story)) {
            stories.push(story);
        }
    }
    stories
}

/// Those that can be told in a column.
#[must_use]
pub fn of_column(stories: &[Story], synchronous: bool) -> Vec<Story> {
    stories.iter().copied().filter(|story| synchronous || !story.needs_confirmation()).collect()
}

/// Lines of finished stories, in the order of [`ROWS`]; those of a row stay as they came.
#[must_use]
pub fn in_order(mut lines: Vec<Line>) -> Vec<Line> {
    lines.sort_by_key(|line| ROWS.iter().position(|row| row.event == line.event));
    lines
}

/// How a row went in one column.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// What happened.
    pub event: &'static str,
    /// `synchronous_mode`.
    pub mode: String,
    /// The times.
    pub preset: Preset,
    /// `ms` or `MB`.
    pub unit: &'static str,
    /// The values; None when no round came to its end.
    pub spread: Option<Spread>,
    /// In words.
    pub target: String,
    /// How many rounds met it.
    pub met: usize,
    /// Acknowledged rows that were gone at the end.
    pub lost: usize,
    /// The youngest of them was acknowledged so long after its fault.
    pub lost_until_ms: Option<f64>,
    /// What must hold and did not, and why there are not more rounds.
    pub trouble: Vec<String>,
}

/// The lines that a story's report gives. `failure` is why it has not more rounds.
#[must_use]
pub fn lines(
    story: Story,
    mode: &str,
    preset: Preset,
    report: Option<&Report>,
    failure: Option<&str>,
) -> Vec<Line> {
    let rounds = report.map(|report| report.rounds.as_slice()).unwrap_or_default();
    let mut trouble: Vec<String> = report.map(|report| report.violations.clone()).unwrap_or_default();
    trouble.extend(report.and_then(Report::contradiction));
    trouble.extend(failure.map(|why| format!("failed after {} rounds: {why}", rounds.len())));
    ROWS.iter()
        .filter(|row| row.story == story)
        .map(|row| {
            let values: Vec<f64> = rounds
                .iter()
                .filter_map(|round| match row.figure {
                    Measured::Gap => Some(round.write_gap_ms as f64),
                    Measured::Margin => round.margin_ms,
                    Measured::Named(what, _) => round.find(what),
                })
                .collect();
            let target = (row.target)(mode != "off", preset);
            Line {
                event: row.event,
                mode: mode.to_owned(),
                preset,
                unit: match row.figure {
                    Measured::Gap | Measured::Margin => "ms",
                    Measured::Named(_, unit) => unit,
                },
                met: values.iter().filter(|value| target.is_met(**value)).count(),
                spread: Spread::of(values),
                target: target.to_string(),
                lost: report.map_or(0, |report| report.verdict.lost.len()),
                lost_until_ms: rounds.iter().filter_map(|round| round.lost_until_ms).max_by(f64::total_cmp),
                trouble: std::mem::take(&mut trouble),
            }
        })
        .collect()
}

impl Target {
    fn is_met(self, value: f64) -> bool {
        match self {
            Target::AtMost(most) => value <= most,
            Target::AtLeast(least) => value >= least,
            Target::None => true,
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::AtMost(most) => write!(f, "≤ {most:.0}"),
            Target::AtLeast(least) => write!(f, "≥ {least:.0}"),
            Target::None => f.write_str("-"),
        }
    }
}

/// The table, as Markdown.
#[must_use]
pub fn render(lines: &[Line]) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::ASCII_MARKDOWN)
        .set_header(["event", "mode", "preset", "n", "median", "min", "max", "target", "met", "lost"]);
    for line in lines {
        let value = |pick: fn(&Spread) -> f64| {
            line.spread.map_or_else(|| "-".to_owned(), |spread| format!("{:.0}", pick(&spread)))
        };
        let n = line.spread.map_or(0, |spread| spread.n);
        let lost = match line.lost_until_ms {
            Some(until) => format!("{} (up to {until:+.0} ms)", line.lost),
            None => line.lost.to_string(),
        };
        table.add_row([
            line.event.to_owned(),
            line.mode.clone(),
            line.preset.name().to_owned(),
            n.to_string(),
            value(|spread| spread.median),
            value(|spread| spread.min),
            value(|spread| spread.max),
            format!("{} {}", line.target, line.unit),
            format!("{}/{n}", line.met),
            lost,
        ]);
    }
    for column in [3, 4, 5, 6, 7, 8, 9] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = table.to_string();
    for line in lines {
        for trouble in &line.trouble {
            text.push_str(&format!("\n{} ({}, {}): {trouble}", line.event, line.mode, line.preset.name()));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Verdict;
    use crate::report::Round;

    fn report(gaps: &[u64]) -> Report {
        Report {
            drill: "cut".to_owned(),
            mode: "off".to_owned(),
            synchronous: false,
            ttl_s: 2.0,
            namespaces: true,
            rounds: gaps
                .iter()
                .map(|gap| Round { write_gap_ms: *gap, margin_ms: Some(600.0), ..Round::default() })
                .collect(),
            verdict: Verdict {
                acknowledged: 10,
                lost: vec![7],
                unknown_present: 0,
                unknown_absent: 0,
                unexplained: vec![],
            },
            violations: vec![],
            events: vec![],
        }
    }

    #[test]
    fn a_story_gives_its_rows_with_targets_of_the_column() {
        let report = report(&[2100, 2500, 2200]);
        let lines = lines(Story::Cut, "off", Preset::Fast, Some(&report), None);
        assert_eq!(lines.len(), 2, "the gap and the margin");
        assert_eq!((lines[0].target.as_str(), lines[0].met, lines[0].lost), ("≤ 2300", 2, 1));
        assert_eq!((lines[1].target.as_str(), lines[1].met), ("≥ 500", 3));
        assert_eq!(lines[0].spread.map(|spread| spread.median), Some(2200.0));
        let text = render(&lines);
        assert!(text.contains("| silent network cut") && text.contains("2/3"), "{text}");
        assert!(lines[0].trouble.is_empty(), "a row may be lost in asynchronous mode");
    }

    #[test]
    fn a_lost_row_is_trouble_in_a_synchronous_mode() {
        let report = Report { synchronous: true, ..report(&[700]) };
        let lines = lines(Story::Cut, "quorum", Preset::Fast, Some(&report), None);
        assert_eq!(lines[0].trouble, ["acknowledged rows are lost: [7]"]);
        assert!(!report.passed());
    }

    #[test]
    fn lines_come_in_the_order_of_the_rows_and_columns_as_they_were_told() {
        let told = [
            (Story::Memory, Preset::Default),
            (Story::Cut, Preset::Default),
            (Story::Memory, Preset::Fast),
            (Story::Cut, Preset::Fast),
        ];
        let lines = told.into_iter().flat_map(|(story, preset)| lines(story, "off", preset, None, None));
        let ordered: Vec<(&str, Preset)> =
            in_order(lines.collect()).iter().map(|line| (line.event, line.preset)).collect();
        let events: Vec<&str> = ordered.iter().map(|(event, _)| *event).collect();
        let (gap, margin, memory) =
            ("silent network cut", "… the isolated side stops before", "memory of the process, idle");
        assert_eq!(events, [gap, gap, margin, margin, memory, memory]);
        assert!(ordered.chunks(2).all(|pair| pair[0].1 == Preset::Default), "{ordered:?}");
    }

    #[test]
    fn a_row_that_failed_says_why_once() {
        let lines = lines(Story::Cut, "quorum", Preset::Default, None, Some("no primary"));
        let text = render(&lines);
        assert_eq!(text.matches("failed after 0 rounds: no primary").count(), 1, "{text}");
        assert!(lines[0].spread.is_none());
        assert_eq!(lines[0].target, "≤ 3500");
    }

    #[test]
    fn every_event_of_the_budget_has_a_row() {
        assert_eq!(
            stories(&[Story::Cut, Story::Memory, Story::FirstStart]),
            [Story::FirstStart, Story::Memory, Story::Cut],
            "told on young processes first"
        );
        let (both, without) = (of_column(&stories(&[]), true), of_column(&stories(&[]), false));
        assert!(both.len() >= 10 && both.contains(&Story::BothKilled));
        assert_eq!(both.len() - without.len(), 1);
    }
}
