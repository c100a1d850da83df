//! The second oracle: is there any order at all? Wing and Gong's search with Lowe's memory, on windows, by values alone.
//!
//! # Why a second one
//!
//! The first oracle believes the revisions and judges everything by them. This one does not look at them: it is given what
//! each request asked for, which *values* it was answered, and the two times, and searches for an order in which one map
//! of keys would have answered so. Both share only the history, so an error in one of them shows as a disagreement.
//!
//! # Windows
//!
//! The search is exponential in what overlaps, so it works on pieces. Every few hundred milliseconds the run lets all
//! clients finish, and one reads everything: that read begins a window with a known state and ends the one before. What nobody
//! was answered (an unknown write, the end of a lease) belongs to the window into whose revisions it fell and may take
//! place anywhere behind its call in there; unknown writes that are in no revision are left out, as in etcd's own checker. This is
//! the only use of revisions.
//!
//! # The search
//!
//! ```text
//!   call a ── call b ── return a ── call c ── return b ── return c        one list by time
//!     │ try: apply a to the state. Its answer fits? Take a out of the list, remember where we were, begin anew.
//!     └ no:  try the next call. A return in our way means: what began before it must come first, so go back one step.
//! ```
//!
//! Every (set of operations taken, state) is tried once. States are small: one interned value a key.
//!
//! Sources: Wing and Gong 1993; Lowe, "Testing for linearizability" (2017); porcupine (github.com/anishathalye/porcupine).

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::history::{BETWEEN, Body, Compare, History, Kv, Outcome, Request};
use crate::log::{self, Author, Log};
use crate::model;
use crate::verdict::{Checker, Findings};

/// Applications tried in one window before the search gives up. A window without a lie needs little more than one for each
/// operation, because nearly every answer fits one place only.
const PATIENCE: usize = 300_000;

/// What the search did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Searched {
    pub(crate) windows: usize,
    pub(crate) operations: usize,
    /// Windows that neither fitted nor failed in time.
    pub(crate) given_up: usize,
}

/// Of each key, the writer's number of its value; 0: not there.
type State = Vec<u32>;

/// Who may have written what; numbers instead of strings.
struct Names<'a> {
    keys: BTreeMap<&'a str, usize>,
    values: HashMap<&'a str, u32>,
    /// By number of a value: the lease that it was written with.
    leases: Vec<i64>,
    /// By revision: the values written there. A transaction compares with revisions that its client had read.
    modified: HashMap<(i64, &'a str), u32>,
}

impl<'a> Names<'a> {
    fn new(history: &'a History, log: &'a Log) -> Names<'a> {
        let mut names = Names {
            keys: BTreeMap::new(),
            values: HashMap::new(),
            leases: vec![0],
            modified: HashMap::new(),
        };
        for (_, operation) in history.operations() {
            names.request(&operation.request);
        }
        for entry in log.entries.values() {
            for kv in entry.changes.iter().filter_map(|change| change.now.as_ref()) {
                let value = names.value(&kv.value);
                names.modified.insert((kv.modified, &kv.key), value);
            }
        }
        for (number, place) in names.keys.values_mut().enumerate() {
            *place = number;
        }
        names
    }

    fn value(&mut self, value: &'a str) -> u32 {
        let next = u32::try_from(self.leases.len()).expect("fewer values than numbers");
        *self.values.entry(value).or_insert_with(|| {
            self.leases.push(0);
            next
        })
    }

    fn request(&mut self, request: &'a Request) {
        match request {
            Request::Put { key, value, lease, .. } => {
                self.keys.insert(key, 0);
                let value = self.value(value);
                self.leases[value as usize] = *lease;
            }
            Request::Txn { success, failure, .. } => {
                for request in success.iter().chain(failure) {
                    self.request(request);
                }
            }
            Request::Delete { .. }
            | Request::Range { .. }
            | Request::Compact { .. }
            | Request::Grant { .. }
            | Request::Renew { .. }
            | Request::Revoke { .. }
            | Request::Leases => {}
        }
    }

    /// A value that nobody wrote is like no other.
    fn told(&self, kv: &Kv) -> u32 {
        self.values.get(kv.value.as_str()).copied().unwrap_or(u32::MAX)
    }

    fn state(&self, kvs: &[Kv]) -> State {
        let mut state = vec![0; self.keys.len()];
        for kv in kvs {
            if let Some(place) = self.keys.get(kv.key.as_str()) {
                state[*place] = self.told(kv);
            }
        }
        state
    }

    fn inside<'s>(&'s self, key: &'s str, end: &'s str) -> impl Iterator<Item = usize> + 's {
        self.keys.iter().filter(move |(name, _)| model::is_inside(name, key, end)).map(|(_, place)| *place)
    }

    /// Whether the pairs told are exactly those of the range.
    fn fits(&self, state: &State, key: &str, end: &str, told: &[Kv]) -> bool {
        let mut told = told.iter();
        for place in self.inside(key, end).filter(|place| state[*place] != 0) {
            let fits = told.next().is_some_and(|kv| {
                self.keys.get(kv.key.as_str()) == Some(&place) && self.told(kv) == state[place]
            });
            if !fits {
                return false;
            }
        }
        told.next().is_none()
    }

    fn holds(&self, state: &State, compare: &Compare) -> bool {
        let at = |key: &String| self.keys.get(key.as_str()).map_or(0, |place| state[*place]);
        match compare {
            Compare::Value { key, value } => {
                at(key) != 0 && self.values.get(value.as_str()) == Some(&at(key))
            }
            Compare::Mod { key, revision } => match self.modified.get(&(*revision, key.as_str())) {
                Some(value) => at(key) == *value,
                None => *revision == 0 && at(key) == 0,
            },
            Compare::Absent { key } => at(key) == 0,
        }
    }

    /// Applies a request; false: the answer (if there is one) does not fit.
    fn perform(&self, state: &mut State, request: &Request, answer: Option<&Body>) -> bool {
        match request {
            Request::Put { key, value, prev_kv, .. } => {
                let place = self.keys[key.as_str()];
                let before = std::mem::replace(&mut state[place], self.values[value.as_str()]);
                match answer {
                    Some(Body::Put { previous }) if *prev_kv => {
                        previous.as_ref().map_or(0, |kv| self.told(kv)) == before
                    }
                    Some(_) | None => true,
                }
            }
            Request::Delete { key, end, prev_kv } => {
                let found: Vec<usize> = self.inside(key, end).filter(|place| state[*place] != 0).collect();
                let fits = match answer {
                    Some(Body::Delete { deleted, previous }) => {
                        usize::try_from(*deleted).ok() == Some(found.len())
                            && (!prev_kv || self.fits(state, key, end, previous))
                    }
                    Some(_) | None => true,
                };
                for place in found {
                    state[place] = 0;
                }
                fits
            }
            Request::Range { key, end, .. } => match answer {
                Some(Body::Range { kvs, .. }) => self.fits(state, key, end, kvs),
                Some(_) | None => true,
            },
            Request::Txn { compares, success, failure } => {
                let holds = compares.iter().all(|compare| self.holds(state, compare));
                let (succeeded, bodies) = match answer {
                    Some(Body::Txn { succeeded, bodies }) => (*succeeded, Some(bodies)),
                    Some(_) | None => (holds, None),
                };
                let branch = if holds { success } else { failure };
                succeeded == holds
                    && branch.iter().enumerate().all(|(n, request)| {
                        self.perform(state, request, bodies.and_then(|bodies| bodies.get(n)))
                    })
            }
            Request::Revoke { lease } => {
                self.end(state, *lease);
                true
            }
            Request::Compact { .. } | Request::Grant { .. } | Request::Renew { .. } | Request::Leases => true,
        }
    }

    fn end(&self, state: &mut State, lease: i64) {
        for value in state {
            if lease != 0 && self.leases.get(*value as usize) == Some(&lease) {
                *value = 0;
            }
        }
    }
}

/// One thing to find a place for.
struct Step<'a> {
    call_ns: u64,
    return_ns: u64,
    what: What<'a>,
    /// The record.
    at: usize,
}

enum What<'a> {
    Request(&'a Request, Option<&'a Body>),
    EndOfLease(i64),
}

pub(crate) fn check(history: &History, log: &Log, findings: &mut Findings) -> Searched {
    let names = Names::new(history, log);
    let mut searched = Searched::default();
    let between: Vec<usize> = history
        .operations()
        .filter(|(_, operation)| {
            operation.client == BETWEEN && matches!(operation.outcome, Outcome::Answered(_))
        })
        .map(|(at, _)| at)
        .collect();
    let mut operations: Vec<usize> = history
        .operations()
        .filter(|(_, operation)| {
            let is_old = matches!(&operation.request,
                Request::Range { serializable, revision, .. } if *serializable || *revision > 0);
            matches!(operation.outcome, Outcome::Answered(_))
                && log::speaks_of_a_state(&operation.request)
                && !is_old
        })
        .map(|(at, _)| at)
        .collect();
    operations.sort_by_key(|at| history.operation(*at).call_ns);
    for pair in between.windows(2) {
        let (from, to) = (history.operation(pair[0]), history.operation(pair[1]));
        let (Outcome::Answered(before), Outcome::Answered(after)) = (&from.outcome, &to.outcome) else {
            continue;
        };
        let Body::Range { kvs, .. } = &before.body else { continue };
        let begin = operations.partition_point(|at| history.operation(*at).call_ns <= from.return_ns);
        let mut steps: Vec<Step<'_>> = Vec::new();
        for at in &operations[begin..] {
            let operation = history.operation(*at);
            if operation.call_ns > to.call_ns {
                break;
            }
            let Outcome::Answered(answer) = &operation.outcome else { continue };
            let what = What::Request(&operation.request, Some(&answer.body));
            let (call_ns, return_ns) = (operation.call_ns, operation.return_ns);
            steps.push(Step { call_ns, return_ns, what, at: *at });
        }
        // A history with a lie in it may have them the wrong way round: then nothing lies between.
        let between = before.revision + 1..after.revision.max(before.revision) + 1;
        for (_, entry) in log.entries.range(between) {
            let (what, call_ns) = match entry.author {
                Author::Lease(lease) => (What::EndOfLease(lease), from.return_ns),
                Author::Operation(at) => {
                    let operation = history.operation(at);
                    if matches!(operation.outcome, Outcome::Answered(_)) {
                        continue;
                    }
                    (What::Request(&operation.request, None), operation.call_ns.max(from.return_ns))
                }
                Author::Nobody => continue,
            };
            let at = match entry.author {
                Author::Operation(at) => at,
                Author::Lease(_) | Author::Nobody => entry.at,
            };
            steps.push(Step { call_ns, return_ns: to.return_ns, what, at });
        }
        searched.windows += 1;
        searched.operations += steps.len();
        match search(&names, names.state(kvs), &steps) {
            Verdict::Fits => {}
            Verdict::GaveUp => searched.given_up += 1,
            Verdict::No { furthest, stuck } => {
                let why = format!(
                    "no order of the {} operations between two reads of everything explains the second; \
                     every try ended before it, at best behind the first",
                    steps.len()
                );
                let furthest = furthest.map_or(pair[0], |step: usize| steps[step].at);
                findings.add(Checker::Search, "some order explains it", furthest, Some(steps[stuck].at), why);
            }
        }
    }
    searched
}

enum Verdict {
    Fits,
    GaveUp,
    /// The last step of the longest order, and the one whose return it could not pass.
    No {
        furthest: Option<usize>,
        stuck: usize,
    },
}

/// A doubly linked list of calls and returns by time; nodes are numbers, 0 is the head.
struct List {
    next: Vec<usize>,
    previous: Vec<usize>,
}

impl List {
    fn unlink(&mut self, node: usize) {
        let (previous, next) = (self.previous[node], self.next[node]);
        self.next[previous] = next;
        if next != usize::MAX {
            self.previous[next] = previous;
        }
    }

    fn link(&mut self, node: usize) {
        let (previous, next) = (self.previous[node], self.next[node]);
        self.next[previous] = node;
        if next != usize::MAX {
            self.previous[next] = node;
        }
    }
}

fn search(names: &Names<'_>, start: State, steps: &[Step<'_>]) -> Verdict {
    // Node 2 s + 1 is the call of step s, 2 s + 2 its return. A call before a return at the same instant: they overlap.
    let mut order: Vec<usize> = (1..=steps.len() * 2).collect();
    order.sort_by_key(|node| {
        let step = &steps[(node - 1) / 2];
        if node % 2 == 1 { (step.call_ns, 0) } else { (step.return_ns, 1) }
    });
    let mut list = List { next: vec![usize::MAX; order.len() + 1], previous: vec![0; order.len() + 1] };
    let mut last = 0;
    for node in order {
        list.next[last] = node;
        list.previous[node] = last;
        last = node;
    }
    let mut state = start;
    let mut taken = vec![0_u64; steps.len().div_ceil(64)];
    let mut tried: HashSet<(Vec<u64>, State)> = HashSet::new();
    let mut stack: Vec<(usize, State)> = Vec::new();
    let mut best: (usize, Option<usize>, usize) = (0, None, 0);
    let mut node = list.next[0];
    let mut work = 0;
    while list.next[0] != usize::MAX {
        let step = (node - 1) / 2;
        if node % 2 == 1 {
            work += 1;
            if work > PATIENCE {
                return Verdict::GaveUp;
            }
            let mut after = state.clone();
            let fits = match &steps[step].what {
                What::Request(request, answer) => names.perform(&mut after, request, *answer),
                What::EndOfLease(lease) => {
                    names.end(&mut after, *lease);
                    true
                }
            };
            if fits {
                taken[step / 64] |= 1 << (step % 64);
                if tried.insert((taken.clone(), after.clone())) {
                    stack.push((step, std::mem::replace(&mut state, after)));
                    list.unlink(node);
                    list.unlink(node + 1);
                    node = list.next[0];
                    continue;
                }
                taken[step / 64] &= !(1 << (step % 64));
            }
            node = list.next[node];
        } else {
            // Its call is still in front of us, so nothing that begins later can come first.
            if stack.len() >= best.0 {
                best = (stack.len(), stack.last().map(|(step, _)| *step), step);
            }
            let Some((back, before)) = stack.pop() else {
                return Verdict::No { furthest: best.1, stuck: best.2 };
            };
            state = before;
            taken[back / 64] &= !(1 << (back % 64));
            list.link(back * 2 + 2);
            list.link(back * 2 + 1);
            node = list.next[back * 2 + 1];
        }
    }
    Verdict::Fits
}
