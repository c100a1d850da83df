//! What suites came to, added up in one table.
//!
//! A suite in its long form prints what it did in lines that a machine can add up, beside those for people:
//!
//! ```text
//!   tally: runs 24
//!   tally: simulated_s 518
//!   tally: fault power cut 17
//!   tally: reached snapshots installed 35
//! ```
//!
//! The last word is the number, the first says what kind of thing it counts. No violations are counted: a suite that has one
//! fails, and a failure is a row of the table.

use std::collections::BTreeMap;
use std::time::Duration;

/// Anywhere in a line: the harness of tests prints a test's name before its first line.
const MARK: &str = "tally: ";

/// What one suite did.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    counts: BTreeMap<String, u64>,
}

impl Tally {
    /// Takes a line of a suite's output; most are none of ours.
    pub(crate) fn read(&mut self, line: &str) {
        let Some((_, told)) = line.split_once(MARK) else { return };
        if let Some((what, number)) = told.trim_end().rsplit_once(' ')
            && let Ok(number) = number.parse::<u64>()
        {
            self.add(what, number);
        }
    }

    pub(crate) fn add(&mut self, what: &str, number: u64) {
        *self.counts.entry(what.to_owned()).or_default() += number;
    }

    fn count(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or(0)
    }

    /// Everything of one kind, as `name count, …`.
    fn of(&self, kind: &str) -> String {
        let begins = format!("{kind} ");
        let named = self.counts.iter().filter_map(|(what, count)| Some((what.strip_prefix(&begins)?, count)));
        named.map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
    }
}

/// A suite that was run.
pub(crate) struct Row {
    pub(crate) suite: &'static str,
    pub(crate) took: Duration,
    pub(crate) tally: Tally,
    /// Why it failed, if it did.
    pub(crate) failure: Option<String>,
}

impl Row {
    /// A suite that found nothing because nothing went wrong proves nothing.
    pub(crate) fn verdict(&self) -> &str {
        if self.failure.is_some() {
            "FAILED"
        } else if self.tally.count("runs") == 0 || self.tally.of("fault").is_empty() {
            "INVALID"
        } else {
            "ok"
        }
    }
}

/// The table, and below it what was done to whom and what came of it.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text =
        format!("{:<12} {:>8} {:>10} {:>16}  verdict\n", "suite", "minutes", "runs", "simulated hours");
    for row in rows {
        let simulated = row.tally.count("simulated_s") as f64 / 3600.0;
        text += &format!(
            "{:<12} {:>8.1} {:>10} {:>16.2}  {}{}\n",
            row.suite,
            row.took.as_secs_f64() / 60.0,
            row.tally.count("runs"),
            simulated,
            row.verdict(),
            row.failure.as_ref().map(|why| format!(": {why}")).unwrap_or_default()
        );
    }
    for row in rows {
        for kind in ["fault", "reached"] {
            let of_kind = row.tally.of(kind);
            if !of_kind.is_empty() {
                text += &format!("{}, {kind}: {of_kind}\n", row.suite);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(lines: &[&str], failure: Option<&str>) -> Row {
        let mut tally = Tally::default();
        lines.iter().for_each(|line| tally.read(line));
        Row { suite: "crash", took: Duration::from_secs(90), tally, failure: failure.map(str::to_owned) }
    }

    #[test]
    fn lines_add_up_wherever_they_stand() {
        let lines = [
            "test kills ... tally: runs 2",
            "tally: fault power cut 3",
            "tally: fault power cut 4",
            "tally: none",
        ];
        let row = row(&lines, None);
        assert_eq!(row.verdict(), "ok");
        assert_eq!(
            table(&[row]),
            "suite         minutes       runs  simulated hours  verdict\n\
             crash             1.5          2             0.00  ok\n\
             crash, fault: power cut 7\n"
        );
    }

    #[test]
    fn a_suite_in_which_nothing_went_wrong_proves_nothing() {
        assert_eq!(row(&["tally: runs 2"], None).verdict(), "INVALID");
        assert_eq!(row(&["tally: fault kill 2"], None).verdict(), "INVALID");
        assert_eq!(row(&["tally: runs 1", "tally: fault kill 2"], Some("it broke")).verdict(), "FAILED");
    }
}
