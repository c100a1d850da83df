//! The order of changes, as the watchers of everything saw it, and who asked for each.
//!
//! # Problem
//!
//! To judge an answer one must know what was true. The store's own log would tell, but a checker that reads it believes the
//! store in the very thing that is in doubt. What clients saw is enough: three watchers of everything, one at each member,
//! go on through every fault and report every revision from the first to the last. A revision that they disagree on, a
//! number that is missing, and a change that nobody asked for are findings by themselves.
//!
//! # Who asked for it
//!
//! 1. Every put writes a value that nobody else writes, so a revision with a put names its author; also that of an author who
//!    never got an answer.
//! 2. A deletion that was answered names its revision.
//! 3. What is left are revocations (which name their revision, but not whether they changed anything) and deletions that nobody
//!    was told of: the end of a lease, or a request without an answer. Going up in
//!    revisions, the moment before which it must have happened only grows, so any author that was called in time
//!    fits for good, and the first one is taken.
//!
//! Unknown requests that have no revision never happened, and are never heard of again: their values are in no revision, and
//! everything else is compared with the revisions.

use std::collections::{BTreeMap, HashMap};

use crate::history::{BEGIN, Body, END, Event, History, Kv, Opened, Outcome, Request};
use crate::leases;
use crate::model::{self, Change, State};
use crate::order::{Kind, Point, Position, Proofs};
use crate::verdict::{Checker, Findings};

/// Who changed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Author {
    /// The record of an operation.
    Operation(usize),
    /// The end of a lease, which nobody asked for.
    Lease(i64),
    Nobody,
}

/// One revision.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) changes: Vec<Change>,
    /// A record of a watch that reported it.
    pub(crate) at: usize,
    pub(crate) author: Author,
}

/// Every revision from 2 (1 is the empty store).
#[derive(Debug, Clone, Default)]
pub(crate) struct Log {
    pub(crate) entries: BTreeMap<i64, Entry>,
    /// The revision of each operation that changed something.
    pub(crate) written: HashMap<usize, i64>,
    pub(crate) proofs: Proofs,
}

impl Log {
    pub(crate) fn last(&self) -> i64 {
        self.entries.keys().next_back().copied().unwrap_or(1)
    }

    /// The states before and after every revision, in order.
    pub(crate) fn states(&self) -> impl Iterator<Item = (State, &Entry, i64)> {
        let mut state = State { revision: 1, keys: BTreeMap::new() };
        self.entries.iter().map(move |(revision, entry)| {
            let mut before = state.clone();
            before.revision = revision - 1;
            state.take(*revision, &entry.changes);
            (before, entry, *revision)
        })
    }

    /// What a key was right after a revision.
    pub(crate) fn versions(&self) -> Versions {
        let mut versions: BTreeMap<String, Vec<(i64, Option<Kv>)>> = BTreeMap::new();
        for (revision, entry) in &self.entries {
            for change in &entry.changes {
                versions.entry(change.key.clone()).or_default().push((*revision, change.now.clone()));
            }
        }
        Versions(versions)
    }
}

/// Every version of every key.
#[derive(Debug)]
pub(crate) struct Versions(BTreeMap<String, Vec<(i64, Option<Kv>)>>);

impl Versions {
    pub(crate) fn at(&self, key: &str, revision: i64) -> Option<&Kv> {
        let versions = self.0.get(key)?;
        let after = versions.partition_point(|(written, _)| *written <= revision);
        versions[..after].last()?.1.as_ref()
    }
}

/// Whether the watcher sees everything.
pub(crate) fn sees_everything(opened: &Opened) -> bool {
    opened.key == BEGIN && opened.end == END && !opened.no_put && !opened.no_delete
}

fn change(event: &Event) -> Change {
    Change { key: event.key.clone(), now: event.now.clone() }
}

/// Whether the answer says that something was changed, at the revision of its header.
fn has_changed(request: &Request, body: &Body) -> bool {
    match (request, body) {
        (Request::Put { .. }, Body::Put { .. }) => true,
        (Request::Delete { .. }, Body::Delete { deleted, .. }) => *deleted > 0,
        (Request::Txn { success, failure, .. }, Body::Txn { succeeded, bodies }) => {
            let branch = if *succeeded { success } else { failure };
            branch.iter().zip(bodies).any(|(request, body)| has_changed(request, body))
        }
        // Of a revocation the answer does not say whether the lease had keys: `by_elimination` knows the state.
        _ => false,
    }
}

/// What the watchers of everything reported, by majority.
fn heard(history: &History, findings: &mut Findings) -> BTreeMap<i64, Entry> {
    let complete: HashMap<u32, usize> = history
        .opened()
        .filter(|(_, opened)| sees_everything(opened))
        .map(|(at, opened)| (opened.stream, at))
        .collect();
    // By (revision, stream): what the stream said about it, and the record.
    let mut reports: BTreeMap<(i64, u32), (Vec<Change>, usize)> = BTreeMap::new();
    for (at, heard) in history.heard().filter(|(_, heard)| complete.contains_key(&heard.stream)) {
        for event in &heard.events {
            let report = reports.entry((event.revision, heard.stream)).or_insert((Vec::new(), at));
            report.0.push(change(event));
        }
    }
    let mut entries = BTreeMap::new();
    let reports: Vec<_> = reports.into_iter().collect();
    for group in reports.chunk_by(|a, b| a.0.0 == b.0.0) {
        let revision = group[0].0.0;
        let mut votes: HashMap<&[Change], usize> = HashMap::new();
        for (_, (changes, _)) in group {
            *votes.entry(changes).or_default() += 1;
        }
        // The first of those with the most votes: an order that does not depend on the map's.
        let most = votes.values().max().copied().unwrap_or(0);
        let Some((_, (changes, at))) = group.iter().find(|(_, (changes, _))| votes[&changes[..]] == most)
        else {
            continue;
        };
        if let Some((_, (_, other))) = group.iter().find(|(_, (others, _))| others != changes) {
            let why = format!("two watchers of everything saw different changes at revision {revision}");
            findings.add(Checker::Log, "watchers agree", *at, Some(*other), why);
        }
        entries.insert(revision, Entry { changes: changes.clone(), at: *at, author: Author::Nobody });
    }
    entries
}

/// The order, with everything that is wrong with it by itself.
pub(crate) fn build(history: &History, findings: &mut Findings) -> Log {
    let mut log = Log { entries: heard(history, findings), ..Log::default() };
    gaps(&log, findings);
    by_value(history, &mut log, findings);
    by_answer(history, &mut log, findings);
    log.proofs = Proofs::new(&points(history, &log));
    by_elimination(history, &mut log, findings);
    log
}

fn gaps(log: &Log, findings: &mut Findings) {
    let mut before: Option<(i64, usize)> = None;
    for (revision, entry) in &log.entries {
        let expected = before.map_or(2, |(before, _)| before + 1);
        if *revision != expected {
            let why = format!("no watcher of everything heard of revision {expected}");
            findings.add(Checker::Log, "no revision is missing", entry.at, before.map(|(_, at)| at), why);
        }
        before = Some((*revision, entry.at));
    }
}

/// Who writes which value.
pub(crate) fn writers(history: &History) -> HashMap<&str, usize> {
    history
        .operations()
        .flat_map(|(at, operation)| {
            model::values(&operation.request).into_iter().map(move |value| (value, at))
        })
        .collect()
}

fn by_value(history: &History, log: &mut Log, findings: &mut Findings) {
    let writers = writers(history);
    for (revision, entry) in &mut log.entries {
        for kv in entry.changes.iter().filter_map(|change| change.now.as_ref()) {
            let Some(writer) = writers.get(kv.value.as_str()).copied() else {
                let why = format!("nobody ever wrote the value {:?} of {}", kv.value, kv.key);
                findings.add(Checker::Log, "every change was asked for", entry.at, None, why);
                continue;
            };
            match entry.author {
                Author::Nobody => entry.author = Author::Operation(writer),
                Author::Operation(other) if other == writer => continue,
                Author::Operation(other) => {
                    let why = format!("both changed something at revision {revision}");
                    findings.add(Checker::Log, "one request a revision", other, Some(writer), why);
                    continue;
                }
                Author::Lease(_) => continue,
            }
            if let Some(before) = log.written.insert(writer, *revision) {
                let why = format!("it was applied at revision {before} and again at {revision}");
                findings.add(Checker::Log, "a request happens once", writer, Some(entry.at), why);
            }
            if matches!(history.operation(writer).outcome, Outcome::Refused { .. }) {
                let why = format!("it was refused, and is revision {revision}");
                findings.add(Checker::Log, "a refused request never happens", writer, Some(entry.at), why);
            }
        }
    }
}

fn by_answer(history: &History, log: &mut Log, findings: &mut Findings) {
    for (at, operation) in history.operations() {
        let Outcome::Answered(answer) = &operation.outcome else { continue };
        let revision = answer.revision;
        if !has_changed(&operation.request, &answer.body) {
            if let Some(written) = log.written.get(&at) {
                let why = format!("its answer says that nothing changed, and it is revision {written}");
                let other = log.entries[written].at;
                findings.add(Checker::Log, "an answer is what happened", at, Some(other), why);
            }
            continue;
        }
        match (log.written.get(&at).copied(), log.entries.get_mut(&revision)) {
            (Some(written), _) if written == revision => {}
            (Some(written), entry) => {
                let why = format!("it was acknowledged as revision {revision} and is revision {written}");
                findings.add(
                    Checker::Log,
                    "an answer is what happened",
                    at,
                    entry.map(|entry| entry.at),
                    why,
                );
            }
            (None, Some(entry)) if entry.author == Author::Nobody => {
                entry.author = Author::Operation(at);
                log.written.insert(at, revision);
            }
            (None, Some(entry)) => {
                let why =
                    format!("it was acknowledged as revision {revision}, which is somebody else's change");
                let other = match entry.author {
                    Author::Operation(other) => other,
                    Author::Lease(_) | Author::Nobody => entry.at,
                };
                findings.add(Checker::Log, "an acknowledged write is not lost", at, Some(other), why);
            }
            (None, None) => {
                let why = format!("it was acknowledged as revision {revision}, which nobody ever saw");
                let other = log.entries.range(revision..).next().or(log.entries.iter().next_back());
                let other = other.map(|(_, entry)| entry.at);
                findings.add(Checker::Log, "an acknowledged write is not lost", at, other, why);
            }
        }
    }
}

/// Everything that has a position: see `order.rs`.
pub(crate) fn points(history: &History, log: &Log) -> Vec<Point> {
    let mut points = Vec::new();
    for (at, operation) in history.operations() {
        let written = log.written.get(&at).copied();
        let answer = match &operation.outcome {
            Outcome::Answered(answer) => Some(answer),
            Outcome::Refused { .. } | Outcome::Unknown { .. } => None,
        };
        let return_ns = answer.map(|_| operation.return_ns);
        if let Some(revision) = written {
            let position = Position { revision, kind: Kind::Write };
            points.push(Point { position, call_ns: Some(operation.call_ns), return_ns, at });
            continue;
        }
        let (Some(answer), true) = (answer, speaks_of_a_state(&operation.request)) else { continue };
        let may_be_old = matches!(&operation.request, Request::Range { serializable: true, .. });
        let call_ns = (!may_be_old).then_some(operation.call_ns);
        let position = Position { revision: answer.revision, kind: Kind::Seen };
        points.push(Point { position, call_ns, return_ns, at });
    }
    for (at, heard) in history.heard() {
        let seen = heard.events.iter().map(|event| event.revision).max();
        let promised = heard.is_bookmark().then_some(heard.revision);
        if let Some(revision) = seen.or(promised) {
            let position = Position { revision, kind: Kind::Seen };
            points.push(Point { position, call_ns: None, return_ns: Some(heard.at_ns), at });
        }
    }
    points
}

/// Whether the header's revision is exactly the state that was answered from. Of grants, renewals, compactions and lists it
/// is what the member happened to be at.
pub(crate) fn speaks_of_a_state(request: &Request) -> bool {
    match request {
        Request::Put { .. }
        | Request::Delete { .. }
        | Request::Range { .. }
        | Request::Txn { .. }
        | Request::Revoke { .. } => true,
        Request::Compact { .. } | Request::Grant { .. } | Request::Renew { .. } | Request::Leases => false,
    }
}

fn by_elimination(history: &History, log: &mut Log, findings: &mut Findings) {
    let mut unknown: Vec<usize> = history
        .operations()
        .filter(|(at, operation)| {
            matches!(operation.outcome, Outcome::Unknown { .. })
                && matches!(operation.request, Request::Delete { .. } | Request::Revoke { .. })
                && !log.written.contains_key(at)
        })
        .map(|(at, _)| at)
        .collect();
    let revoked: Vec<(usize, i64, i64)> = history
        .operations()
        .filter_map(|(at, operation)| match (&operation.request, &operation.outcome) {
            (Request::Revoke { lease }, Outcome::Answered(answer)) => Some((at, *lease, answer.revision)),
            _ => None,
        })
        .collect();
    let renewals = leases::confirmed(history);
    let mut authors: Vec<(i64, Author)> = Vec::new();
    for (before, entry, revision) in log.states() {
        if entry.author != Author::Nobody || entry.changes.iter().any(|change| change.now.is_some()) {
            continue;
        }
        let proof_ns = log.proofs.of(revision).map_or(u64::MAX, |(proof_ns, _)| proof_ns);
        let of_lease = entry
            .changes
            .first()
            .and_then(|change| before.keys.get(&change.key))
            .map(|kv| kv.lease)
            .filter(|lease| *lease != 0 && before.end_of_lease(*lease) == entry.changes);
        let is_due = |lease: i64| {
            let of_this = renewals.get(&lease);
            of_this.is_some_and(|all| all.iter().all(|renewal| renewal.until_ns() <= proof_ns))
        };
        let asked = unknown.iter().position(|at| {
            let operation = history.operation(*at);
            let changes = match &operation.request {
                Request::Revoke { lease } => before.end_of_lease(*lease),
                request => before.apply(request).1,
            };
            operation.call_ns < proof_ns && changes == entry.changes
        });
        let told = revoked.iter().find(|(_, lease, at)| *at == revision && Some(*lease) == of_lease);
        if let Some((at, ..)) = told {
            authors.push((revision, Author::Operation(*at)));
            continue;
        }
        let author = match (of_lease, asked) {
            (Some(lease), _) if is_due(lease) => Author::Lease(lease),
            (_, Some(asked)) => Author::Operation(unknown.remove(asked)),
            // Too early: the checker of leases says so.
            (Some(lease), None) => Author::Lease(lease),
            (None, None) => {
                let keys: Vec<&str> = entry.changes.iter().map(|change| change.key.as_str()).collect();
                let why = format!("nobody asked for the deletion of {keys:?} at revision {revision}");
                findings.add(Checker::Log, "every change was asked for", entry.at, None, why);
                Author::Nobody
            }
        };
        authors.push((revision, author));
    }
    for (revision, author) in authors {
        if let Author::Operation(at) = author {
            log.written.insert(at, revision);
        }
        log.entries.get_mut(&revision).expect("it was just seen").author = author;
    }
}
