//! What clients saw, and what must be true of it.
//!
//! # The rules
//!
//! Every value is written once, so a value names its write. The store itself numbers changes; what the watchers of all members
//! were told, put together by revision, is the order *H* of all that happened. Nothing is compacted before somebody was told
//! of it, so H has no holes. Then:
//!
//! 1. **Nothing acknowledged is lost**: an acknowledged put is in H, at the revision it was answered with. A put that was refused
//!    ("nothing happened") is not in H. One without an answer is there once or never. A key goes only with its lease.
//! 2. **Real time is kept**: a put that was acknowledged before another one began has the smaller revision.
//! 3. **Linearizable reads**: a read answered at revision r has seen the value of its key in H as of r, and r is not below any
//!    revision that anybody had been told before the read began. A read of the past sees the past, and nothing that was
//!    compacted before it began.
//! 4. **Watches**: what a member's watchers delivered is H, in order, without gap or duplicate, however often it crashed; after
//!    "compacted" it goes on at the revision it was told, which somebody asked to compact.
//! 5. **Leases end neither early nor never**: not before the last confirmed renewal + ttl as the fastest clock counts it (a
//!    leader counts with its own, so ttl / rate is the bound), and in the end.
//! 6. **Members are equal**: at the end every member has the state that H comes to.
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
    /// The revision that it asked for; None: the newest.
    pub(crate) of: Option<i64>,
    pub(crate) begun: Duration,
    pub(crate) at: Duration,
    /// The value and its revision.
    pub(crate) found: Option<(String, i64)>,
    pub(crate) revision: i64,
}

/// A compaction that was asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Compaction {
    pub(crate) revision: i64,
    /// When it was acknowledged, if it was.
    pub(crate) done: Option<Duration>,
}

/// A lease with one key, granted, renewed and left alone or revoked.
#[derive(Debug, Clone)]
pub(crate) struct Lease {
    pub(crate) key: String,
    pub(crate) ttl: Duration,
    /// When the last grant or renewal that was confirmed had been asked for.
    pub(crate) confirmed: Duration,
    /// When its holder asked for its end, if it did.
    pub(crate) revoked: Option<Duration>,
}

/// A change of a key; None: it is gone.
pub(crate) type Change = (i64, String, Option<String>);

/// What a watcher was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    Change(Change),
    /// Everything before this revision is gone.
    Compacted(i64),
}

/// Everything that was seen.
#[derive(Debug, Default, Clone)]
pub(crate) struct History {
    pub(crate) writes: Vec<Write>,
    pub(crate) reads: Vec<Read>,
    pub(crate) compactions: Vec<Compaction>,
    /// By lease id.
    pub(crate) leases: BTreeMap<i64, Lease>,
    /// By member: all its watchers, one after the other.
    pub(crate) watched: BTreeMap<usize, Vec<Told>>,
    /// When the first watcher was told of a revision.
    pub(crate) seen: BTreeMap<i64, Duration>,
    /// Members of the last membership, with everything that they have in the end.
    pub(crate) ends: BTreeMap<usize, State>,
    /// The last revision.
    pub(crate) revision: i64,
    /// The rate of the fastest clock, in thousandths.
    pub(crate) fastest: u32,
}

/// Keys with their values and revisions.
pub(crate) type State = BTreeMap<String, (String, i64)>;

pub(crate) fn change(event: &Event) -> Change {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let value = (!event.delete).then(|| text(&event.kv.value));
    (event.kv.mod_revision, text(&event.kv.key), value)
}

impl History {
    /// A watcher of a member delivers.
    pub(crate) fn deliver(&mut self, member: usize, change: Change, now: Duration) {
        self.seen.entry(change.0).or_insert(now);
        self.watched.entry(member).or_default().push(Told::Change(change));
    }

    /// Where the watcher of a member goes on: behind the last revision it was told of.
    pub(crate) fn next_of(&self, member: usize) -> i64 {
        match self.watched.get(&member).and_then(|told| told.last()) {
            None => 1,
            Some(Told::Change((revision, ..))) => revision + 1,
            Some(Told::Compacted(revision)) => *revision,
        }
    }

    /// H, and what contradicts that there is one.
    fn order(&self, wrong: &mut Vec<String>) -> Vec<Change> {
        let mut order: BTreeMap<i64, &Change> = BTreeMap::new();
        for (member, told) in &self.watched {
            for told in told {
                let Told::Change(change) = told else { continue };
                let known = order.entry(change.0).or_insert(change);
                if *known != change {
                    wrong
                        .push(format!("TWO HISTORIES: m{member} was told {change:?}, another one {known:?}"));
                }
            }
        }
        // The store begins at revision 1, and a change is one revision: no key here shares one with another.
        for revision in 2..=self.revision {
            if !order.contains_key(&revision) {
                wrong.push(format!("NOBODY WAS TOLD of revision {revision} of {}", self.revision));
            }
        }
        order.into_values().cloned().collect()
    }

    /// Everything that contradicts the rules.
    pub(crate) fn violations(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let order = self.order(&mut wrong);
        self.check_writes(&order, &mut wrong);
        self.check_real_time(&mut wrong);
        self.check_reads(&order, &mut wrong);
        self.check_leases(&order, &mut wrong);
        for (member, told) in &self.watched {
            self.check_watch(*member, told, &order, &mut wrong);
        }
        self.check_ends(&order, &mut wrong);
        wrong
    }

    fn check_writes(&self, order: &[Change], wrong: &mut Vec<String>) {
        let mut places: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
        for (revision, _, value) in order {
            let Some(value) = value else { continue };
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
    }

    /// In the order of revisions, no write may begin after a later one was acknowledged.
    fn check_real_time(&self, wrong: &mut Vec<String>) {
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
        let known = Known::of(told_by_writes.chain(told_by_reads).collect());
        let compacted = Known::of(
            self.compactions.iter().filter_map(|it| it.done.map(|done| (done, it.revision))).collect(),
        );
        let mut of_key: BTreeMap<&str, Vec<(i64, Option<&str>)>> = BTreeMap::new();
        for (revision, key, value) in order {
            of_key.entry(key).or_default().push((*revision, value.as_deref()));
        }
        for read in &self.reads {
            let known = known.before(read.begun);
            if read.revision < known {
                wrong.push(format!("STALE: {read:?}, when revision {known} was known before it began"));
            }
            let compacted = compacted.before(read.begun);
            if read.of.is_some_and(|of| of < compacted) {
                wrong.push(format!("READ WHAT IS GONE: {read:?}, compacted up to {compacted}"));
            }
            let versions = of_key.get(read.key.as_str()).map_or(&[][..], Vec::as_slice);
            let of = read.of.unwrap_or(read.revision);
            let upto = versions.partition_point(|(revision, _)| *revision <= of);
            let should = upto
                .checked_sub(1)
                .and_then(|last| versions[last].1.map(|value| (value.to_owned(), versions[last].0)));
            if read.found != should {
                wrong.push(format!("WRONG VALUE: {read:?}, where the history has {should:?}"));
            }
        }
    }

    fn check_leases(&self, order: &[Change], wrong: &mut Vec<String>) {
        let held: BTreeMap<&str, &Lease> =
            self.leases.values().map(|lease| (lease.key.as_str(), lease)).collect();
        for (revision, key, value) in order {
            if value.is_some() {
                continue;
            }
            let Some(lease) = held.get(key.as_str()) else {
                wrong.push(format!("GONE: {key} at revision {revision}, and nobody deletes it"));
                continue;
            };
            let Some(seen) = self.seen.get(revision).copied() else { continue };
            if lease.revoked.is_some_and(|asked| asked <= seen) {
                continue;
            }
            let due = lease.confirmed + lease.ttl * 1000 / self.fastest.max(1000);
            if seen < due {
                wrong.push(format!(
                    "LEASE ENDED EARLY: {key} went at revision {revision}, seen at {seen:?}, not due before {due:?}: {lease:?}"
                ));
            }
        }
        for (member, state) in &self.ends {
            for key in state.keys().filter(|key| held.contains_key(key.as_str())) {
                wrong.push(format!("LEASE NEVER ENDED: {key} is there in the end, at m{member}"));
            }
        }
    }

    fn check_watch(&self, member: usize, told: &[Told], order: &[Change], wrong: &mut Vec<String>) {
        let asked = self.compactions.iter().map(|compaction| compaction.revision).max().unwrap_or(0);
        let mut expected = order.iter().peekable();
        for told in told {
            match told {
                Told::Change(change) if expected.next() == Some(change) => {}
                Told::Change(change) => {
                    wrong.push(format!("WATCH: m{member} delivered {change:?} out of order, or twice"));
                    return;
                }
                Told::Compacted(revision) if *revision <= asked => {
                    while expected.next_if(|(at, ..)| at < revision).is_some() {}
                }
                Told::Compacted(revision) => {
                    wrong.push(format!(
                        "WATCH: m{member} says that {revision} is compacted, nobody asked beyond {asked}"
                    ));
                    return;
                }
            }
        }
        let left = expected.count();
        if left > 0 && self.ends.contains_key(&member) {
            wrong.push(format!("WATCH: m{member} did not deliver the last {left} changes"));
        }
    }

    fn check_ends(&self, order: &[Change], wrong: &mut Vec<String>) {
        let mut state = State::new();
        for (revision, key, value) in order.iter().filter(|(revision, ..)| *revision <= self.revision) {
            match value {
                Some(value) => drop(state.insert(key.clone(), (value.clone(), *revision))),
                None => drop(state.remove(key)),
            }
        }
        for (member, end) in &self.ends {
            if *end != state {
                wrong.push(format!("DIVERGED: m{member} ends with {end:?}, where the history has {state:?}"));
            }
        }
    }
}

/// Which number was known when: the highest that was told before.
struct Known(Vec<(Duration, i64)>);

impl Known {
    fn of(mut told: Vec<(Duration, i64)>) -> Known {
        told.sort_unstable();
        let mut highest = 0;
        for (_, number) in &mut told {
            highest = highest.max(*number);
            *number = highest;
        }
        Known(told)
    }

    fn before(&self, time: Duration) -> i64 {
        let before = self.0.partition_point(|(at, _)| *at < time);
        before.checked_sub(1).map_or(0, |last| self.0[last].1)
    }
}
