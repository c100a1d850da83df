//! What clients were told, and what the database says about it at the end.
//!
//! Every row has an id that is used once, so *acknowledged*, *unknown* and *present* are sets that can be compared: an
//! acknowledged row that is not there is **lost**, a row without an answer may be there or not, and a row that nobody sent
//! must not be there. Each acknowledgement also names the server that gave it, and when the answer arrived, on one clock
//! for all clients: that is what tells whether two servers ever acknowledged writes at the same time.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde::Serialize;

/// An acknowledged row.
#[derive(Debug, Clone, Copy)]
pub struct Acknowledged {
    /// The row.
    pub id: i64,
    /// When it was sent.
    pub sent: Instant,
    /// When the answer came.
    pub at: Instant,
    /// The server that answered, by its number in the connection string.
    pub server: usize,
    /// When that server was started, in microseconds by its own wall clock: a name, and no time to reckon with.
    pub started: i64,
}

/// What a client, or all of them together, was told.
#[derive(Debug, Default, Clone)]
pub struct Ledger {
    /// In order of the answers.
    pub acknowledged: Vec<Acknowledged>,
    /// Sent, but no answer came, or one that does not say that the row is not there.
    pub unknown: Vec<i64>,
}

/// A change of the server that acknowledges.
#[derive(Debug, Clone, Copy)]
pub struct Handover {
    /// The last acknowledgement of the old server, if it gave any.
    pub last_old: Option<Acknowledged>,
    /// The first one of another server.
    pub first_new: Acknowledged,
}

/// A server's time as the primary, as clients saw it. PostgreSQL is promoted once at most between its start and its end, and
/// ceases to be the primary only by ending: a server and its start name such a time.
#[derive(Debug, Clone, Copy)]
struct Term {
    server: usize,
    started: i64,
    first: Instant,
    last: Instant,
}

/// Two servers that acknowledged, one after the other, or at the same time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Margin {
    /// Who began first.
    pub old: usize,
    /// Who began later.
    pub new: usize,
    /// From the last acknowledgement of the one to the first of the other, in milliseconds; negative when both acknowledged at
    /// the same time.
    pub ms: f64,
}

impl Ledger {
    /// Several ledgers as one.
    #[must_use]
    pub fn merge(ledgers: impl IntoIterator<Item = Ledger>) -> Ledger {
        let mut all = Ledger::default();
        for ledger in ledgers {
            all.acknowledged.extend(ledger.acknowledged);
            all.unknown.extend(ledger.unknown);
        }
        all.acknowledged.sort_by_key(|row| row.at);
        all
    }

    /// The ledger of a client that was cut off from server `old` until `healed`. What the server had answered on the wire is sent once more
    /// when the cut is healed, by a kernel whose server may be long dead; such an answer is dated to when it was asked for.
    /// Who stands beside the server sees when it stopped.
    #[must_use]
    pub fn cut_off_from(mut self, old: usize, healed: Instant) -> Ledger {
        for row in &mut self.acknowledged {
            if row.server == old && row.sent < healed && row.at >= healed {
                row.at = row.sent;
            }
        }
        Ledger::merge([self])
    }

    /// The longest pause between two acknowledgements that ends after `since`, and what ended it.
    #[must_use]
    pub fn gap_after(&self, since: Instant) -> Option<(Duration, Acknowledged)> {
        longest(self.pauses().filter(|(_, end)| end.at >= since))
    }

    /// The longest pause that ends after `since` and began before `until`.
    #[must_use]
    pub fn gap_between(&self, since: Instant, until: Instant) -> Option<(Duration, Acknowledged)> {
        longest(self.pauses().filter(|(gap, end)| end.at >= since && end.at - *gap < until))
    }

    /// The longest pause that began after `since`.
    #[must_use]
    pub fn gap_from(&self, since: Instant) -> Option<(Duration, Acknowledged)> {
        longest(self.pauses().filter(|(gap, end)| end.at - *gap >= since))
    }

    fn pauses(&self) -> impl Iterator<Item = (Duration, Acknowledged)> {
        self.acknowledged.windows(2).map(|pair| (pair[1].at - pair[0].at, pair[1]))
    }

    /// The last acknowledgement, if there is one.
    #[must_use]
    pub fn last(&self) -> Option<Acknowledged> {
        self.acknowledged.last().copied()
    }

    /// How writes went from `old` to another server after `since`; None when they did not. What `old` acknowledges when it has been
    /// started again, and has perhaps become the primary once more, is another story.
    #[must_use]
    pub fn handover(&self, old: usize, since: Instant) -> Option<Handover> {
        let first_new = self.first_elsewhere(old, since)?;
        let of_old = || self.acknowledged.iter().rev().filter(|row| row.server == old);
        let last_before = of_old().find(|row| row.at <= first_new.at);
        let last_old =
            last_before.and_then(|before| of_old().find(|row| row.started == before.started)).copied();
        Some(Handover { last_old, first_new })
    }

    /// The smallest margin between any two servers, however often writes went to and fro; None when one server acknowledged
    /// everything.
    #[must_use]
    pub fn margin(&self) -> Option<Margin> {
        let terms = self.terms();
        let pairs = terms.iter().enumerate().flat_map(|(index, old)| {
            terms[index + 1..].iter().filter(|new| new.server != old.server).map(move |new| Margin {
                old: old.server,
                new: new.server,
                ms: match new.first.checked_duration_since(old.last) {
                    Some(after) => after.as_secs_f64() * 1000.0,
                    None => -(old.last - new.first).as_secs_f64() * 1000.0,
                },
            })
        });
        pairs.min_by(|one, other| one.ms.total_cmp(&other.ms))
    }

    /// In order of their first acknowledgements.
    fn terms(&self) -> Vec<Term> {
        let mut terms: Vec<Term> = Vec::new();
        for row in &self.acknowledged {
            match terms.iter_mut().find(|term| (term.server, term.started) == (row.server, row.started)) {
                Some(term) => term.last = row.at,
                None => {
                    terms.push(Term { server: row.server, started: row.started, first: row.at, last: row.at })
                }
            }
        }
        terms
    }

    /// The first acknowledgement of a write that was sent after `since`, by a server other than `old`: an answer that an earlier cut
    /// held back is nobody's takeover.
    #[must_use]
    pub fn first_elsewhere(&self, old: usize, since: Instant) -> Option<Acknowledged> {
        self.acknowledged.iter().find(|row| row.sent >= since && row.server != old).copied()
    }

    /// The first acknowledgement after `since`.
    #[must_use]
    pub fn first_after(&self, since: Instant) -> Option<Acknowledged> {
        self.acknowledged.iter().find(|row| row.at > since).copied()
    }

    /// Compares with the ids that the database holds.
    #[must_use]
    pub fn compare(&self, present: &BTreeSet<i64>) -> Verdict {
        let acknowledged: BTreeSet<i64> = self.acknowledged.iter().map(|row| row.id).collect();
        let unknown: BTreeSet<i64> = self.unknown.iter().copied().collect();
        Verdict {
            acknowledged: acknowledged.len(),
            lost: acknowledged.difference(present).copied().collect(),
            unknown_present: unknown.intersection(present).count(),
            unknown_absent: unknown.difference(present).count(),
            unexplained: present
                .iter()
                .copied()
                .filter(|id| !acknowledged.contains(id) && !unknown.contains(id))
                .collect(),
        }
    }
}

fn longest(pauses: impl Iterator<Item = (Duration, Acknowledged)>) -> Option<(Duration, Acknowledged)> {
    pauses.max_by_key(|(gap, _)| *gap)
}

/// What the database holds at the end, against what the clients were told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Rows whose acknowledgement reached a client.
    pub acknowledged: usize,
    /// Acknowledged and not there.
    pub lost: Vec<i64>,
    /// No answer, and there.
    pub unknown_present: usize,
    /// No answer, and not there.
    pub unknown_absent: usize,
    /// There, although the server had refused or nobody sent it.
    pub unexplained: Vec<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(start: Instant, ms: u64, id: i64, server: usize) -> Acknowledged {
        let at = start + Duration::from_millis(ms);
        Acknowledged { id, sent: at, at, server, started: 0 }
    }

    #[test]
    fn the_gap_is_the_longest_pause_that_ends_after_the_fault() {
        let start = Instant::now();
        let acknowledged = [0, 20, 900, 920, 1500, 1520]
            .into_iter()
            .zip(1..)
            .map(|(ms, id)| row(start, ms, id, 0))
            .collect();
        let ledger = Ledger { acknowledged, unknown: vec![] };
        let (gap, first) = ledger.gap_after(start + Duration::from_millis(930)).unwrap();
        assert_eq!((gap, first.id), (Duration::from_millis(580), 5));
        assert!(ledger.gap_after(start + Duration::from_millis(2000)).is_none());
        let (fault, healed) = (start + Duration::from_millis(30), start + Duration::from_millis(910));
        assert_eq!(ledger.gap_between(fault, healed).map(|(gap, _)| gap), Some(Duration::from_millis(880)));
        assert_eq!(ledger.gap_from(healed).map(|(gap, _)| gap), Some(Duration::from_millis(580)));
    }

    #[test]
    fn a_margin_is_negative_when_both_sides_acknowledged() {
        let start = Instant::now();
        let outside =
            Ledger { acknowledged: vec![row(start, 10, 1, 0), row(start, 500, 2, 1)], unknown: vec![] };
        let inside = Ledger { acknowledged: vec![row(start, 400, 11, 0)], unknown: vec![12] };
        let apart = Ledger::merge([outside.clone(), inside]);
        assert_eq!(apart.margin(), Some(Margin { old: 0, new: 1, ms: 100.0 }));
        let late = Ledger { acknowledged: vec![row(start, 600, 11, 0)], unknown: vec![] };
        let both = Ledger::merge([outside.clone(), late]);
        assert_eq!(both.margin(), Some(Margin { old: 0, new: 1, ms: -100.0 }));
        let last = both.handover(0, start).and_then(|handover| handover.last_old);
        assert_eq!(last.map(|row| row.id), Some(11), "also when it comes after the first of the new one");
        assert!(
            outside.handover(0, start + Duration::from_secs(1)).is_none(),
            "nobody else acknowledged since"
        );
    }

    /// Writes may return to a server, once it has been started again; the first of its two times must still be over before
    /// anybody else's begins.
    #[test]
    fn a_server_that_becomes_primary_again_is_not_beside_its_successor() {
        let start = Instant::now();
        let again = |ms, id| Acknowledged { started: 1, ..row(start, ms, id, 0) };
        let there_and_back = vec![row(start, 10, 1, 0), row(start, 500, 2, 1), again(900, 3)];
        let ledger = Ledger { acknowledged: there_and_back, unknown: vec![] };
        assert_eq!(ledger.margin().map(|margin| margin.ms), Some(400.0));
        let last = ledger.handover(0, start).and_then(|handover| handover.last_old);
        assert_eq!(last.map(|row| row.id), Some(1));
        // Too early: the other one is not done.
        let beside = Ledger { acknowledged: vec![row(start, 950, 4, 1)], unknown: vec![] };
        assert_eq!(Ledger::merge([ledger, beside]).margin(), Some(Margin { old: 1, new: 0, ms: -50.0 }));
    }

    /// Seen once: PostgreSQL was dead 4.1 s after the cut, and the answer to its last write from outside came 7.2 s after it.
    #[test]
    fn an_answer_that_the_cut_held_back_is_no_second_primary() {
        let start = Instant::now();
        let healed = start + Duration::from_millis(6000);
        let late = Acknowledged { sent: start, ..row(start, 7200, 2, 0) };
        let before = row(start, 0, 1, 0);
        let outside = Ledger { acknowledged: vec![before, row(start, 5200, 3, 1), late], unknown: vec![] };
        let margin = |ledger: &Ledger| ledger.margin().map(|margin| margin.ms);
        assert_eq!(margin(&outside), Some(-2000.0));
        assert_eq!(margin(&outside.clone().cut_off_from(0, healed)), Some(5200.0));
        // Asked for when the cut was over: it was not held back.
        let alive = Acknowledged { sent: healed, ..late };
        let both = Ledger { acknowledged: vec![before, row(start, 5200, 3, 1), alive], unknown: vec![] };
        assert_eq!(margin(&both.cut_off_from(0, healed)), Some(-2000.0));
        // So early that nothing was healed yet: it came by another way.
        let early = Acknowledged { sent: start, ..row(start, 5900, 2, 0) };
        let both = Ledger { acknowledged: vec![before, row(start, 5200, 3, 1), early], unknown: vec![] };
        assert_eq!(margin(&both.cut_off_from(0, healed)), Some(-700.0));
    }

    #[test]
    fn a_late_answer_to_a_write_before_the_fault_is_no_takeover() {
        let start = Instant::now();
        let fault = start + Duration::from_millis(1000);
        let late = Acknowledged { sent: start, ..row(start, 1100, 1, 2) };
        let ledger = Ledger { acknowledged: vec![late, row(start, 1500, 2, 1)], unknown: vec![] };
        assert_eq!(ledger.first_elsewhere(0, fault).map(|row| row.id), Some(2));
    }

    #[test]
    fn lost_unknown_and_unexplained_are_told_apart() {
        let start = Instant::now();
        let ledger =
            Ledger { acknowledged: vec![row(start, 0, 1, 0), row(start, 1, 2, 0)], unknown: vec![3, 4] };
        let verdict = ledger.compare(&BTreeSet::from([1, 3, 9]));
        assert_eq!((verdict.acknowledged, verdict.lost, verdict.unexplained), (2, vec![2], vec![9]));
        assert_eq!((verdict.unknown_present, verdict.unknown_absent), (1, 1));
    }
}
