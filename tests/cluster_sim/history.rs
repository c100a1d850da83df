//! What clients saw, and what must be true of it.
//!
//! # The rules
//!
//! Every value is written once, so a value names its write. The store itself numbers changes; a watch from revision 1 at the
//! end, the same on every member, is the order *H* of all that happened. Then:
//!
//! 1. **Nothing acknowledged is lost**: an acknowledged put is in H, at the revision it was answered with. A put that was refused
//!    ("nothing happened") is not in H. One without an answer is there once or never.
//! 2. **Real time is kept**: a put that was acknowledged before another one began has the smaller revision.
//! 3. **Linearizable reads**: a read answered at revision r has seen the value of its key in H as of r, and r is not below any
//!    revision that anybody had been told before the read began.
//! 4. **Watches**: what a member's watchers delivered is H, in order, without gap or duplicate, however often it crashed.
//!
//! Linear order plus real time at every operation is linearizability of a single register per key; with revisions as witnesses it is
//! checked in O(n log n) (the method of etcd's robustness suite, where the reference describes it).

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_node::state::Event;

/// A put.
#[derive(Debug, Clone)]
pub(crate) struct Write {
    #[allow(dead_code, reason = "printed with a violation")]
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) begun: Duration,
    pub(crate) outcome: Outcome,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// At this revision, told at this time.
    Acknowledged { revision: i64, at: Duration },
    /// It may have happened, or may yet.
    Unknown,
    /// It did not.
    Refused,
}

/// A linearizable read that was answered.
#[derive(Debug, Clone)]
pub(crate) struct Read {
    #[allow(dead_code, reason = "printed with a violation")]
    pub(crate) member: usize,
    pub(crate) key: String,
    pub(crate) begun: Duration,
    pub(crate) at: Duration,
    /// The value and its revision.
    pub(crate) found: Option<(String, i64)>,
    pub(crate) revision: i64,
}

/// What was delivered, as (revision, key, value).
pub(crate) type Change = (i64, String, String);

/// Everything that was seen.
#[derive(Debug, Default, Clone)]
pub(crate) struct History {
    pub(crate) writes: Vec<Write>,
    pub(crate) reads: Vec<Read>,
    /// By member: all its watchers, one after the other.
    pub(crate) watched: BTreeMap<usize, Vec<Change>>,
}

pub(crate) fn change(event: &Event) -> Change {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (event.kv.mod_revision, text(&event.kv.key), text(&event.kv.value))
}

impl History {
    /// Everything that contradicts the rules; `order` is H.
    pub(crate) fn violations(&self, order: &[Change]) -> Vec<String> {
        let mut wrong = Vec::new();
        self.check_writes(order, &mut wrong);
        self.check_reads(order, &mut wrong);
        for (member, seen) in &self.watched {
            check_watch(*member, seen, order, &mut wrong);
        }
        wrong
    }

    fn check_writes(&self, order: &[Change], wrong: &mut Vec<String>) {
        let mut places: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
        for (revision, _, value) in order {
            places.entry(value).or_default().push(*revision);
        }
        for write in &self.writes {
            let found = places.get(write.value.as_str()).map_or(&[][..], Vec::as_slice);
            match write.outcome {
                Outcome::Acknowledged { revision, .. } if found == [revision] => {}
                Outcome::Acknowledged { revision, .. } if found.is_empty() => {
                    wrong.push(format!("LOST: {write:?}, acknowledged at revision {revision}"));
                }
                Outcome::Acknowledged { .. } => wrong.push(format!("{write:?} is at revisions {found:?}")),
                Outcome::Unknown if found.len() <= 1 => {}
                Outcome::Unknown => wrong.push(format!("{write:?} happened more than once: {found:?}")),
                Outcome::Refused if found.is_empty() => {}
                Outcome::Refused => wrong.push(format!("{write:?} was refused and happened at {found:?}")),
            }
        }
        // In the order of revisions, no write may begin after a later one was acknowledged.
        let mut acknowledged: Vec<(i64, Duration, Duration)> = self
            .writes
            .iter()
            .filter_map(|write| match write.outcome {
                Outcome::Acknowledged { revision, at } => Some((revision, write.begun, at)),
                Outcome::Unknown | Outcome::Refused => None,
            })
            .collect();
        acknowledged.sort_unstable();
        let mut earliest: Option<(Duration, i64)> = None;
        for (revision, begun, at) in acknowledged.into_iter().rev() {
            if let Some((told, later)) = earliest
                && told < begun
            {
                wrong.push(format!(
                    "REAL TIME: revision {revision} began at {begun:?}, when {later} had been acknowledged at {told:?}"
                ));
            }
            if earliest.is_none_or(|(told, _)| at < told) {
                earliest = Some((at, revision));
            }
        }
    }

    fn check_reads(&self, order: &[Change], wrong: &mut Vec<String>) {
        // When which revision was known to somebody outside.
        let told_by_writes = self.writes.iter().filter_map(|write| match write.outcome {
            Outcome::Acknowledged { revision, at } => Some((at, revision)),
            Outcome::Unknown | Outcome::Refused => None,
        });
        let told_by_reads = self.reads.iter().map(|read| (read.at, read.revision));
        let mut told: Vec<(Duration, i64)> = told_by_writes.chain(told_by_reads).collect();
        told.sort_unstable();
        let mut highest = 0;
        for (_, revision) in &mut told {
            highest = highest.max(*revision);
            *revision = highest;
        }
        let mut of_key: BTreeMap<&str, Vec<(i64, &str)>> = BTreeMap::new();
        for (revision, key, value) in order {
            of_key.entry(key).or_default().push((*revision, value));
        }
        for read in &self.reads {
            let before = told.partition_point(|(at, _)| *at < read.begun);
            let known = before.checked_sub(1).map_or(0, |last| told[last].1);
            if read.revision < known {
                wrong.push(format!("STALE: {read:?}, when revision {known} was known before it began"));
            }
            let versions = of_key.get(read.key.as_str()).map_or(&[][..], Vec::as_slice);
            let upto = versions.partition_point(|(revision, _)| *revision <= read.revision);
            let should = upto.checked_sub(1).map(|last| (versions[last].1.to_owned(), versions[last].0));
            if read.found != should {
                wrong.push(format!("WRONG VALUE: {read:?}, where the history has {should:?}"));
            }
        }
    }
}

/// Checkers that find nothing prove something only if they would: each of these lies about a sound history has to be found.
/// Returns those that were not, and how many the history had room for.
pub(crate) fn unnoticed(history: &History, order: &[Change]) -> (Vec<&'static str>, usize) {
    let acknowledged = |write: &Write| matches!(write.outcome, Outcome::Acknowledged { .. });
    let mut told = Vec::new();
    let mut tell = |name: &'static str, lie: Option<(History, Vec<Change>)>| {
        if let Some((history, order)) = lie {
            told.push((name, history.violations(&order).is_empty()));
        }
    };
    let change = |lie: &dyn Fn(&mut History, &mut Vec<Change>) -> Option<()>| {
        let (mut history, mut order) = (history.clone(), order.to_vec());
        lie(&mut history, &mut order).map(|()| (history, order))
    };
    let middle = order.len() / 2;
    tell(
        "an acknowledged write is lost",
        change(&|history, order| {
            let value = &history.writes.iter().find(|write| acknowledged(write))?.value;
            order.retain(|(_, _, found)| found != value);
            history.watched.values_mut().for_each(|seen| seen.clone_from(order));
            history.reads.clear();
            Some(())
        }),
    );
    tell(
        "a write happens twice",
        change(&|history, order| {
            let (last, again) = (order.last()?.0, order.get(middle)?.clone());
            order.push((last + 1, again.1, again.2));
            history.watched.values_mut().for_each(|seen| seen.clone_from(order));
            Some(())
        }),
    );
    tell(
        "a refused write happens",
        change(&|history, _| {
            history.writes.iter_mut().find(|write| acknowledged(write))?.outcome = Outcome::Refused;
            Some(())
        }),
    );
    tell(
        "a write overtakes one that was acknowledged before it began",
        change(&|history, _| {
            let order = |write: &Write| match write.outcome {
                Outcome::Acknowledged { revision, .. } => Some(revision),
                Outcome::Unknown | Outcome::Refused => None,
            };
            let others = history.writes.iter().filter(|write| acknowledged(write)).count();
            let oldest =
                history.writes.iter_mut().filter(|write| acknowledged(write)).min_by_key(|it| order(it));
            let write = oldest.filter(|_| others > 1)?;
            // Begun when all others were over, and yet the oldest revision.
            write.begun += Duration::from_secs(3600);
            Some(())
        }),
    );
    tell(
        "a read is stale",
        change(&|history, _| {
            let read = history.reads.last_mut().filter(|read| read.revision > 0)?;
            (read.revision, read.found) = (0, None);
            Some(())
        }),
    );
    tell(
        "a read finds another value",
        change(&|history, _| {
            history.reads.iter_mut().rev().find_map(|read| read.found.as_mut())?.0.push('x');
            Some(())
        }),
    );
    for (name, lie) in [
        ("a watcher misses a change", Lie::Gap),
        ("a watcher is told twice", Lie::Twice),
        ("a watcher hears in another order", Lie::Order),
    ] {
        tell(
            name,
            change(&|history, _| {
                let seen = history.watched.values_mut().find(|seen| seen.len() > 2)?;
                let at = seen.len() / 2;
                match lie {
                    Lie::Gap => drop(seen.remove(at)),
                    Lie::Twice => seen.insert(at, seen[at].clone()),
                    Lie::Order => seen.swap(at - 1, at),
                }
                Some(())
            }),
        );
    }
    let blind = told.iter().filter(|(_, unnoticed)| *unnoticed).map(|(name, _)| *name).collect();
    (blind, told.len())
}

#[derive(Clone, Copy)]
enum Lie {
    Gap,
    Twice,
    Order,
}

fn check_watch(member: usize, seen: &[Change], order: &[Change], wrong: &mut Vec<String>) {
    for (seen, expected) in seen.iter().zip(order) {
        if seen != expected {
            wrong.push(format!(
                "WATCH: member {member} delivered {seen:?} where the history has {expected:?}"
            ));
            return;
        }
    }
    if seen.len() != order.len() {
        wrong.push(format!("WATCH: member {member} delivered {} of {} changes", seen.len(), order.len()));
    }
}
