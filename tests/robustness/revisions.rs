//! The first oracle: every answer against the state it claims to be of, and the order of revisions against real time.
//!
//! The search for *some* order that explains a history is exponential. Here the store names the order itself, since every
//! answer carries the revision it speaks of; to check one order is a walk along it. What remains is a sort.
//!
//! | rule | what it asks |
//! |---|---|
//! | a change follows from the state | the change at revision R is what the request does to the state of R - 1, versions and all |
//! | an answer is what happened | previous pairs, counts, the branch of a transaction, what its reads saw |
//! | a read is of one state | the body is the state at its revision, also at an old revision, also from a member that is behind |
//! | acknowledged, so seen | whoever begins after an acknowledgement stands behind it |
//! | asked for, so seen | nobody is told of what nobody had asked for yet |
//! | a member does not go back | its revisions and terms only grow while its process lives |
//! | a refusal has a reason | "compacted" only after a compaction, "future" only of what nobody was told of |

use std::collections::{BTreeMap, HashMap};

use crate::history::{Body, Fault, FaultKind, History, Operation, Outcome, Request};
use crate::log::{self, Author, Log};
use crate::model::State;
use crate::order;
use crate::verdict::{Checker, Findings};

pub(crate) fn check(history: &History, log: &Log, findings: &mut Findings) {
    answers(history, log, findings);
    real_time(history, log, findings);
    members(history, findings);
    refusals(history, log, findings);
}

/// The first key that a request names.
fn key(request: &Request) -> &str {
    match request {
        Request::Put { key, .. } | Request::Delete { key, .. } | Request::Range { key, .. } => key,
        Request::Txn { success, failure, .. } => success.iter().chain(failure).map(key).next().unwrap_or(""),
        Request::Compact { .. }
        | Request::Grant { .. }
        | Request::Renew { .. }
        | Request::Revoke { .. }
        | Request::Leases => "",
    }
}

/// The state that an answered request was answered from, if it changed nothing.
fn seen_at(operation: &Operation) -> Option<i64> {
    let Outcome::Answered(answer) = &operation.outcome else { return None };
    match &operation.request {
        Request::Range { revision, .. } if *revision > 0 => Some(*revision),
        request => log::speaks_of_a_state(request).then_some(answer.revision),
    }
}

fn answers(history: &History, log: &Log, findings: &mut Findings) {
    let mut readers: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    for (at, operation) in history.operations() {
        if let Some(revision) = seen_at(operation).filter(|_| !log.written.contains_key(&at)) {
            readers.entry(revision).or_default().push(at);
        }
    }
    let mut state = State { revision: 1, keys: BTreeMap::new() };
    // Who wrote a key last: the other half of a contradiction.
    let mut wrote: HashMap<String, usize> = HashMap::new();
    let mut read = |state: &State, wrote: &HashMap<String, usize>, findings: &mut Findings| {
        for at in readers.remove(&state.revision).unwrap_or_default() {
            reader(history, at, state, wrote, findings);
        }
    };
    read(&state, &wrote, findings);
    for (revision, entry) in &log.entries {
        state.revision = revision - 1;
        if let Author::Operation(at) = entry.author {
            let operation = history.operation(at);
            let (body, changes) = match &operation.request {
                Request::Revoke { lease } => (Body::Done, state.end_of_lease(*lease)),
                request => state.apply(request),
            };
            if changes != entry.changes {
                let why = format!("revision {revision} should have been {changes:?}");
                findings.add(Checker::Revisions, "a change follows from the state", at, Some(entry.at), why);
            }
            if let Outcome::Answered(answer) = &operation.outcome
                && answer.body != body
            {
                let why = format!("at revision {revision} the answer is {body:?}");
                let other = wrote.get(key(&operation.request)).copied().or(Some(entry.at));
                findings.add(Checker::Revisions, "an answer is what happened", at, other, why);
            }
        }
        state.take(*revision, &entry.changes);
        for change in &entry.changes {
            let who = match entry.author {
                Author::Operation(at) => at,
                Author::Lease(_) | Author::Nobody => entry.at,
            };
            wrote.insert(change.key.clone(), who);
        }
        read(&state, &wrote, findings);
    }
    let last = log.entries.values().next_back().map(|entry| entry.at);
    for (revision, all) in readers {
        for at in all {
            let why = format!("it speaks of revision {revision}, which nobody ever saw");
            findings.add(Checker::Revisions, "a read is of one state", at, last, why);
        }
    }
}

fn reader(
    history: &History,
    at: usize,
    state: &State,
    wrote: &HashMap<String, usize>,
    findings: &mut Findings,
) {
    let operation = history.operation(at);
    let Outcome::Answered(answer) = &operation.outcome else { return };
    if let Request::Revoke { lease } = &operation.request {
        if let Some(change) = state.end_of_lease(*lease).first() {
            let why = format!("{} was still attached at revision {}", change.key, state.revision);
            let other = wrote.get(&change.key).copied();
            findings.add(Checker::Revisions, "an answer is what happened", at, other, why);
        }
        return;
    }
    let (body, changes) = state.apply(&operation.request);
    if answer.body == body && changes.is_empty() {
        return;
    }
    // The key that shows the difference, for who wrote it.
    let differs = match (&answer.body, &body) {
        (Body::Range { kvs: told, .. }, Body::Range { kvs: truth, .. }) => told
            .iter()
            .find(|kv| !truth.contains(kv))
            .or_else(|| truth.iter().find(|kv| !told.contains(kv)))
            .map(|kv| kv.key.as_str()),
        _ => None,
    };
    let other = wrote.get(differs.unwrap_or(key(&operation.request))).copied();
    let why = format!("the state of revision {} gives {body:?}", state.revision);
    findings.add(Checker::Revisions, "a read is of one state", at, other, why);
}

fn real_time(history: &History, log: &Log, findings: &mut Findings) {
    for (earlier, later) in order::contradictions(log::points(history, log)) {
        let (rule, why) = if log.written.contains_key(&later) {
            (
                "asked for, so seen",
                "the second was called when the first, which stands behind it, had returned",
            )
        } else {
            ("acknowledged, so seen", "the first had returned when the second was called, and is not in it")
        };
        findings.add(Checker::Revisions, rule, earlier, Some(later), why.to_owned());
    }
}

/// How often the member had been started anew before.
pub(crate) fn life(faults: &[&Fault], member: usize, at_ns: u64) -> usize {
    let of_this = faults.iter().filter(|fault| fault.member == member && fault.kind == FaultKind::Killed);
    of_this.filter(|fault| fault.at_ns < at_ns).count()
}

fn members(history: &History, findings: &mut Findings) {
    let faults: Vec<&Fault> = history.faults().map(|(_, fault)| fault).collect();
    let mut lives: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
    for (at, operation) in history.operations() {
        if matches!(operation.outcome, Outcome::Answered(_)) {
            let life = life(&faults, operation.member, operation.call_ns);
            lives.entry((operation.member, life)).or_default().push(at);
        }
    }
    for ((member, _), of_life) in lives {
        let answer = |at: usize| match &history.operation(at).outcome {
            Outcome::Answered(answer) => answer,
            Outcome::Refused { .. } | Outcome::Unknown { .. } => {
                unreachable!("only answered ones were taken")
            }
        };
        let mut called = of_life.clone();
        called.sort_by_key(|at| history.operation(*at).call_ns);
        let mut returned = of_life;
        returned.sort_by_key(|at| history.operation(*at).return_ns);
        let mut returned = returned.into_iter().peekable();
        let (mut revision, mut term) = ((0, 0), (0, 0));
        for at in called {
            let call_ns = history.operation(at).call_ns;
            while let Some(before) = returned.next_if(|at| history.operation(*at).return_ns < call_ns) {
                term = term.max((answer(before).term, before));
                if log::speaks_of_a_state(&history.operation(before).request) {
                    revision = revision.max((answer(before).revision, before));
                }
            }
            if log::speaks_of_a_state(&history.operation(at).request) && answer(at).revision < revision.0 {
                let why = format!("member {member} went back to revision {}", answer(at).revision);
                findings.add(Checker::Revisions, "a member does not go back", revision.1, Some(at), why);
            }
            if answer(at).term < term.0 {
                let why = format!("member {member} went back to term {}", answer(at).term);
                findings.add(Checker::Revisions, "a member does not go back", term.1, Some(at), why);
            }
        }
    }
}

fn refusals(history: &History, log: &Log, findings: &mut Findings) {
    const RULE: &str = "a refusal has a reason";
    let points = log::points(history, log);
    for (at, operation) in history.operations() {
        let Outcome::Refused { message } = &operation.outcome else { continue };
        match &operation.request {
            Request::Range { revision, serializable, .. } if message.contains("future revision") => {
                let told = points.iter().find(|point| {
                    point.position.revision >= *revision
                        && point.return_ns.is_some_and(|return_ns| return_ns < operation.call_ns)
                });
                if let (Some(told), false) = (told, *serializable) {
                    let why = format!("revision {revision} had been told of before");
                    findings.add(Checker::Revisions, RULE, told.at, Some(at), why);
                }
            }
            Request::Range { revision, .. } if message.contains("compacted") => {
                if compaction_beyond(history, *revision, operation.return_ns).is_none() {
                    let why = format!("nobody had compacted revision {revision}");
                    findings.add(Checker::Revisions, RULE, at, None, why);
                }
            }
            // Two compactors overtake each other.
            Request::Compact { .. } if message.contains("compacted") => {}
            // Whether the lease was gone is the checker of leases' business.
            Request::Put { .. } | Request::Txn { .. } | Request::Revoke { .. }
                if message.contains("lease not found") => {}
            Request::Put { .. }
            | Request::Delete { .. }
            | Request::Range { .. }
            | Request::Txn { .. }
            | Request::Compact { .. }
            | Request::Grant { .. }
            | Request::Renew { .. }
            | Request::Revoke { .. }
            | Request::Leases => {
                let why = format!("nothing explains {message:?}");
                findings.add(Checker::Revisions, RULE, at, None, why);
            }
        }
    }
}

/// A compaction that may have taken `revision` by `at_ns`.
pub(crate) fn compaction_beyond(history: &History, revision: i64, at_ns: u64) -> Option<usize> {
    let mut all = history.operations();
    all.find(|(_, operation)| match &operation.request {
        Request::Compact { revision: compacted } => {
            *compacted > revision
                && operation.call_ns < at_ns
                && !matches!(operation.outcome, Outcome::Refused { .. })
        }
        _ => false,
    })
    .map(|(at, _)| at)
}
