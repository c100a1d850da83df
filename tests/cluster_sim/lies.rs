//! Checkers that find nothing prove something only if they would: each of these lies about a sound history has to be found.

use std::time::Duration;

use crate::history::{History, Outcome, Told, Write};

/// Longer than any run.
const LATER: Duration = Duration::from_secs(3600);

/// A sound history with one thing in it that is not so; None: this one has no room for it.
type Lie = fn(&mut History) -> Option<()>;

const LIES: &[(&str, Lie)] = &[
    ("an acknowledged write is lost", |history| {
        let lost = revision_of(history.writes.iter().find(|write| revision_of(write).is_some())?)?;
        retell(history, |told| !matches!(told, Told::Change((revision, ..)) if *revision == lost));
        history.reads.clear();
        Some(())
    }),
    ("a write happens twice", |history| {
        let value = history.writes.iter().find(|write| revision_of(write).is_some())?.value.clone();
        let again = (history.revision + 1, "k0".to_owned(), Some(value));
        for told in history.watched.values_mut() {
            told.push(Told::Change(again.clone()));
        }
        Some(())
    }),
    ("a refused write happens", |history| {
        history.writes.iter_mut().find(|write| revision_of(write).is_some())?.outcome = Outcome::Refused;
        Some(())
    }),
    ("a write overtakes one that was acknowledged before it began", |history| {
        let others = history.writes.iter().filter(|write| revision_of(write).is_some()).count();
        let acknowledged = history.writes.iter_mut().filter(|write| revision_of(write).is_some());
        let oldest = acknowledged.min_by_key(|write| revision_of(write)).filter(|_| others > 1)?;
        // Begun when all others were over, and yet the oldest revision.
        oldest.begun += LATER;
        Some(())
    }),
    ("a key goes without a lease", |history| {
        let key = "k0".to_owned();
        let gone = Told::Change((history.revision + 1, key.clone(), None));
        history.revision += 1;
        history.ends.values_mut().for_each(|state| drop(state.remove(&key)));
        history.watched.values_mut().for_each(|told| told.push(gone.clone()));
        Some(())
    }),
    ("a read is stale", |history| {
        let read = history.reads.iter_mut().rev().find(|read| read.revision > 1 && read.of.is_none())?;
        (read.revision, read.found) = (1, None);
        Some(())
    }),
    ("a read finds another value", |history| {
        history.reads.iter_mut().rev().find_map(|read| read.found.as_mut())?.0.push('x');
        Some(())
    }),
    ("a read of the past finds the present", |history| {
        let newest = history.reads.iter().rev().find(|read| read.of.is_none() && read.found.is_some())?;
        let (key, found) = (newest.key.clone(), newest.found.clone());
        let of = found.as_ref().map_or(0, |(_, revision)| revision - 1);
        let read = history.reads.iter_mut().find(|read| read.of.is_some())?;
        (read.key, read.of, read.found) = (key, Some(of), found);
        Some(())
    }),
    ("what was compacted is read", |history| {
        let read = history.reads.iter().find_map(|read| read.of.map(|of| (of, read.begun)))?;
        let before = read.1.checked_sub(Duration::from_nanos(1))?;
        history.compactions.push(crate::history::Compaction { revision: read.0 + 1, done: Some(before) });
        Some(())
    }),
    ("a watcher misses a change", |history| {
        let (told, at) = middle(history)?;
        told.remove(at);
        Some(())
    }),
    ("a watcher is told twice", |history| {
        let (told, at) = middle(history)?;
        told.insert(at, told[at].clone());
        Some(())
    }),
    ("a watcher hears in another order", |history| {
        let (told, at) = middle(history)?;
        told.swap(at - 1, at);
        Some(())
    }),
    ("a watcher skips what nobody compacted", |history| {
        let asked = history.compactions.iter().map(|compaction| compaction.revision).max().unwrap_or(0);
        let told = history.watched.values_mut().find(|told| told.len() > 2)?;
        told.insert(0, Told::Compacted(asked + 1));
        Some(())
    }),
    ("a watcher stops before the end", |history| {
        let member = *history.ends.keys().next()?;
        history.watched.get_mut(&member)?.pop().map(drop)
    }),
    ("a lease ends early", |history| {
        let (revision, confirmed, ttl) = an_expiry(history)?;
        history.seen.insert(revision, confirmed + ttl / 2);
        Some(())
    }),
    ("a lease is renewed after its end", |history| {
        let (revision, ..) = an_expiry(history)?;
        let end = *history.seen.get(&revision)?;
        let key = key_of(history, revision)?;
        history.leases.values_mut().find(|lease| lease.key == key)?.confirmed = end;
        Some(())
    }),
    ("a lease never ends", |history| {
        let (revision, ..) = an_expiry(history)?;
        let key = key_of(history, revision)?;
        history.ends.values_mut().next()?.insert(key, ("forgotten".to_owned(), revision - 1));
        Some(())
    }),
    ("a member holds something else", |history| {
        let state = history.ends.values_mut().next_back()?;
        state.values_mut().next()?.0.push('x');
        Some(())
    }),
];

/// Tries them all on a sound history. Returns those that nobody noticed, and how many there was room for.
pub(crate) fn unnoticed(history: &History) -> (Vec<&'static str>, usize) {
    let (mut blind, mut told) = (Vec::new(), 0);
    for (name, lie) in LIES {
        let mut lying = history.clone();
        if lie(&mut lying).is_some() {
            told += 1;
            if lying.violations().is_empty() {
                blind.push(*name);
            }
        }
    }
    (blind, told)
}

fn revision_of(write: &Write) -> Option<i64> {
    match write.outcome {
        Outcome::Acknowledged { revision, .. } => Some(revision),
        Outcome::Unknown | Outcome::Refused => None,
    }
}

fn retell(history: &mut History, keep: impl Fn(&Told) -> bool) {
    history.watched.values_mut().for_each(|told| told.retain(&keep));
}

/// A watcher that was told something, and the middle of that: two changes with nothing in between.
fn middle(history: &mut History) -> Option<(&mut Vec<Told>, usize)> {
    history.watched.values_mut().find_map(|told| {
        let change = |at: usize| matches!(told.get(at), Some(Told::Change(_)));
        let at = (1..told.len().saturating_sub(1))
            .rev()
            .find(|at| change(at - 1) && change(*at) && change(at + 1))?;
        Some((told, at))
    })
}

fn key_of(history: &History, revision: i64) -> Option<String> {
    history.watched.values().flatten().find_map(|told| match told {
        Told::Change((at, key, _)) if *at == revision => Some(key.clone()),
        Told::Change(_) | Told::Compacted(_) => None,
    })
}

/// (revision, last renewal, ttl) of a lease that nobody revoked.
fn an_expiry(history: &History) -> Option<(i64, Duration, Duration)> {
    history.watched.values().flatten().find_map(|told| {
        let Told::Change((revision, key, None)) = told else { return None };
        let lease = history.leases.values().find(|lease| lease.key == *key && lease.revoked.is_none())?;
        Some((*revision, lease.confirmed, lease.ttl))
    })
}
