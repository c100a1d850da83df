//! Real time against the order of revisions: one sweep.
//!
//! # Model
//!
//! Revisions are the order in which the store says that things happened. So everything a client learned has a position in
//! it: a write at revision R stands at (R, write), whatever saw the state of R stands behind it at (R, seen). Linearizable
//! means that real time does not contradict: if `a` had returned before `b` was called, `a` stands not behind `b`.
//!
//! Read backwards that is one comparison: going down from the highest position, remember the earliest return seen so far;
//! an operation that was called later than that began when the world already had been beyond it. The sort is the whole cost.
//!
//! Serializable reads and watches may be old, so nothing is asked of when they *began*; but they cannot see what nobody
//! has written yet, so they count as the `a`. An unknown write has no return, so it is only ever a `b`.

use std::collections::BTreeMap;

/// Where in the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) revision: i64,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Write,
    Seen,
}

/// Something that somebody did or saw.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Point {
    pub(crate) position: Position,
    /// None: it may be old, whenever it was asked for.
    pub(crate) call_ns: Option<u64>,
    /// None: nobody was told.
    pub(crate) return_ns: Option<u64>,
    /// The record.
    pub(crate) at: usize,
}

/// The earliest moment at which somebody had been told something at or beyond a revision: by then it had happened.
#[derive(Debug, Clone, Default)]
pub(crate) struct Proofs(BTreeMap<i64, (u64, usize)>);

impl Proofs {
    pub(crate) fn new(points: &[Point]) -> Proofs {
        let mut earliest = BTreeMap::new();
        for point in points {
            let Some(return_ns) = point.return_ns else { continue };
            let entry = earliest.entry(point.position.revision).or_insert((return_ns, point.at));
            *entry = (*entry).min((return_ns, point.at));
        }
        let mut best = None;
        for proof in earliest.values_mut().rev() {
            let now = best.map_or(*proof, |best: (u64, usize)| best.min(*proof));
            *proof = now;
            best = Some(now);
        }
        Proofs(earliest)
    }

    /// When, and by which record. None: nobody ever saw it.
    pub(crate) fn of(&self, revision: i64) -> Option<(u64, usize)> {
        self.0.range(revision..).next().map(|(_, proof)| *proof)
    }
}

/// Pairs (a, b) of records: `a` stands behind `b` and had returned before `b` was called.
pub(crate) fn contradictions(mut points: Vec<Point>) -> Vec<(usize, usize)> {
    points.sort_by_key(|point| std::cmp::Reverse(point.position));
    let mut found = Vec::new();
    let mut earliest: Option<(u64, usize)> = None;
    for group in points.chunk_by(|a, b| a.position == b.position) {
        for point in group {
            if let (Some(call_ns), Some((return_ns, at))) = (point.call_ns, earliest)
                && return_ns < call_ns
            {
                found.push((at, point.at));
            }
        }
        for point in group {
            if let Some(return_ns) = point.return_ns {
                let this = (return_ns, point.at);
                earliest = Some(earliest.map_or(this, |earliest| earliest.min(this)));
            }
        }
    }
    found
}
