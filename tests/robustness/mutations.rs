//! Lies, put into a true history: what a store with a known kind of bug would have made clients write down.
//!
//! A checker that finds nothing may be blind. So every history that was found clean is told again with one lie in it, at a
//! random place where that lie is one, and somebody has to object. What each lie stands for is in its line of [`ALL`].

use fastrand::Rng;

use crate::history::{
    Answer, BETWEEN, Body, Event, FaultKind, Heard, History, Kv, Operation, Outcome, Record, Request,
};
use crate::log::{Author, Log};
use crate::model::State;
use crate::revisions::compaction_beyond;

/// A lie: its name, and the history with it; None where this history has no place for it.
pub(crate) struct Mutation {
    pub(crate) name: &'static str,
    pub(crate) tell: fn(&Truth<'_>, &mut Rng) -> Option<History>,
}

const fn lie(name: &'static str, tell: fn(&Truth<'_>, &mut Rng) -> Option<History>) -> Mutation {
    Mutation { name, tell }
}

pub(crate) const ALL: &[Mutation] = &[
    lie("watch: an event is left out", event_left_out),
    lie("watch: an event comes twice", event_twice),
    lie("watch: two events change places", events_swapped),
    lie("watch: a revision comes in two responses", revision_split),
    lie("watch: a resumed stream skips its first event", resumption_skips),
    lie("watch: the end never comes", tail_lost),
    lie("watch: a filtered event comes through", filter_leaks),
    lie("watch: progress is promised before the events", progress_too_early),
    lie("watch: prev_kv of another version", previous_wrong),
    lie("watch: prev_kv is missing", previous_missing),
    lie("watch: a revision that nobody is told of", revision_hidden),
    lie("read: of an old state, old revision", read_stale),
    lie("read: of an old state, new revision", read_stale_disguised),
    lie("read: of two states at once", read_torn),
    lie("read: of a state that nobody has made yet", read_ahead),
    lie("read: at a revision, another value", read_at_revision_wrong),
    lie("read: a member goes back", member_goes_back),
    lie("write: acknowledged too early", acknowledged_early),
    lie("write: happens before it is asked for", happens_early),
    lie("write: acknowledged and lost", write_lost),
    lie("write: applied twice", applied_twice),
    lie("write: refused and applied", refused_and_applied),
    lie("write: prev_kv of another version", put_previous_wrong),
    lie("write: a deletion that nobody asked for", deleted_by_nobody),
    lie("txn: the other branch", other_branch),
    lie("lease: ends before its time", lease_early),
    lie("lease: renewed after its end", lease_renewed_late),
    lie("lease: its key outlives it", lease_key_stays),
    lie("lease: never ends", lease_never_ends),
    lie("members: one holds something else", hash_differs),
];

/// A clean history and what is known of it.
pub(crate) struct Truth<'a> {
    pub(crate) history: &'a History,
    pub(crate) log: &'a Log,
    /// By revision - 1.
    states: Vec<State>,
}

impl<'a> Truth<'a> {
    pub(crate) fn new(history: &'a History, log: &'a Log) -> Truth<'a> {
        let mut state = State { revision: 1, ..State::default() };
        let mut states = vec![state.clone()];
        for (revision, entry) in &log.entries {
            state.take(*revision, &entry.changes);
            states.push(state.clone());
        }
        Truth { history, log, states }
    }

    fn state(&self, revision: i64) -> Option<&State> {
        self.states.get(usize::try_from(revision).ok()?.checked_sub(1)?)
    }

    /// A copy in which `change` was made to one of the records.
    fn with(&self, at: usize, change: impl FnOnce(&mut Record)) -> Option<History> {
        let mut history = self.history.clone();
        change(&mut history.records[at]);
        Some(history)
    }

    fn with_operation(&self, at: usize, change: impl FnOnce(&mut Operation)) -> Option<History> {
        self.with(at, |record| match record {
            Record::Operation(operation) => change(operation),
            other => panic!("an operation was chosen: {other:?}"),
        })
    }

    fn with_heard(&self, at: usize, change: impl FnOnce(&mut Heard)) -> Option<History> {
        self.with(at, |record| match record {
            Record::Heard(heard) => change(heard),
            other => panic!("a response was chosen: {other:?}"),
        })
    }

    fn with_new(&self, at: usize, record: Record) -> Option<History> {
        let mut history = self.history.clone();
        history.records.insert(at, record);
        Some(history)
    }

    fn without(&self, at: usize) -> Option<History> {
        let mut history = self.history.clone();
        history.records.remove(at);
        Some(history)
    }

    /// Linearizable reads of now: record, revision.
    fn reads(&self) -> Vec<(usize, i64)> {
        self.operations(|operation, answer| match &operation.request {
            Request::Range { revision: 0, serializable: false, .. } => Some(answer.revision),
            _ => None,
        })
    }

    /// Acknowledged puts: record, revision.
    fn puts(&self) -> Vec<(usize, i64)> {
        self.operations(|operation, answer| match &operation.request {
            Request::Put { .. } => Some(answer.revision),
            _ => None,
        })
    }

    fn operations<T>(&self, take: impl Fn(&Operation, &Answer) -> Option<T>) -> Vec<(usize, T)> {
        let all = self.history.operations().filter_map(|(at, operation)| match &operation.outcome {
            Outcome::Answered(answer) => take(operation, answer).map(|taken| (at, taken)),
            Outcome::Refused { .. } | Outcome::Unknown { .. } => None,
        });
        all.collect()
    }

    /// What a read would have been answered.
    fn answer(&self, at: usize, revision: i64) -> Option<Body> {
        Some(self.state(revision)?.apply(&self.history.operation(at).request).0)
    }
}

fn one<T>(mut all: Vec<T>, random: &mut Rng) -> Option<T> {
    (!all.is_empty()).then(|| all.swap_remove(random.usize(0..all.len())))
}

/// Tries the candidates in random order until one of them gives something.
fn some<T: Clone, U>(all: &[T], random: &mut Rng, mut make: impl FnMut(&T) -> Option<U>) -> Option<U> {
    let mut all = all.to_vec();
    random.shuffle(&mut all);
    all.iter().find_map(&mut make)
}

fn body(operation: &mut Operation) -> &mut Answer {
    match &mut operation.outcome {
        Outcome::Answered(answer) => answer,
        other => panic!("an answered operation was chosen: {other:?}"),
    }
}

fn heard_with(truth: &Truth<'_>, fits: impl Fn(&Heard) -> bool) -> Vec<usize> {
    truth
        .history
        .heard()
        .filter(|(_, heard)| !heard.events.is_empty() && fits(heard))
        .map(|(at, _)| at)
        .collect()
}

fn get(truth: &Truth<'_>, at: usize) -> Heard {
    match &truth.history.records[at] {
        Record::Heard(heard) => heard.clone(),
        other => panic!("a response was chosen: {other:?}"),
    }
}

fn event_left_out(truth: &Truth<'_>, random: &mut Rng) -> Option<History> {
    let at = one(heard_with(truth, |_| true), random)?;
    if get(truth, at).events.len() == 1 {
        return truth.without(at);
    }
    let place = random.usize(0..get(truth, at).events.len());
    truth.with_heard(at, |heard| drop(heard.events.remove(place)))
}

fn event_twice(truth: &Truth<'_>, random: &mut Rng) -> Option<History> {
    let at = one(heard_with(truth, |_| true), random)?;
    let last = get(truth, at).events.last()?.clone();
    truth.with_heard(at, |heard| heard.events.push(last))
}

fn events_swapped(truth: &Truth<'_>, random: &mut Rng) -> Option<History> {
    // Two responses of one stream, one after the other, or two revisions in one response.
    let all = heard_with(truth, |_| true);
    some(&all, random, |at| {
        let heard = get(truth, *at);
        if heard.events.first()?.revision != heard.events.last()?.revision {
            return truth.with_heard(*at, |heard| heard.events.reverse());
        }
        let next = truth
            .history
            .heard()
            .find(|(next, other)| next > at && other.stream == heard.stream && !other.events.is_empty());
        let (next, _) = next?;
        let mut history = truth.with_heard(*at, |heard| heard.events = get(truth, next).events)?;
        if let Record::Heard(second) = &mut history.records[next] {
            second.events = heard.events;
        }
        Some(history)
    })
}

fn revision_split(truth: &Truth<'_>, random: &mut Rng) -> Option<History> {
    let all = heard_with(truth, |heard| {
        let [.., a, b] = &heard.events[..] else { return false };
        a.revision == b.revision && !heard.fragment
    });
    let at = one(all, random)?;
    let mut second = get(truth, at);
    let mut history = truth.with_heard(at, |heard| drop(heard.events.pop()))?;
    second.events = second.events.split_off(second.events.len() - 1);
    history.records.insert(at + 1, Record::Heard(second));
    Some(history)
}

fn resumption_skips(truth: &Truth<'_>, random: &mut Rng) -> Option<History> {
    let resumed: Vec<u32> = truth
        .history
        .opened()
        .filter(|(_, opened)| opened.start > 0)
        .map(|(_, opened)| opened.stream)
        .collect();
    some(&resumed, random, |stream| {
        let mut of_stream =
            truth.history.heard().filter(|(_, h)| h.stream == *stream && !h.events.is_empty());
        let (first, heard) = of_stream.next()?;
        of_stream.next()?;
        if heard.events.len() == 1 {
            return truth.without(first);
        }
        truth.with_heard(first, |heard| drop(heard.events.remove(0)))
    })
}

fn tail_lost(truth: &Truth<'_>, random: &mut Rng) -> Option<History> {
    let watchers: Vec<u32> = truth.history.opened().map(|(_, opened)| opened.watcher).collect();
    some(&watchers, random, |watcher| {
        let (_, last) = truth.history.opened().filter(|(_, opened)| opened.watcher == *watcher).last()?;
        let mut of_stream = truth.history.heard().filter(|(_, h)| h.stream == last.stream);
        let (at, heard) = of_stream.by_ref().filter(|(_, heard)| !heard.events.is_empty()).last()?;
        let revision = heard.events.last()?.revision;
        let mut history = truth.history.clone();
        // With everything behind it, a promise for instance.
        let mut place = 0;
        history.records.retain(|record| {
            let keep = place < at || !matches!(record, Record::Heard(heard) if heard.stream == last.stream);
            place += 1;
            keep
        });
        (revision > 1).then_some(history)
    })
}

fn filter_leaks(truth: &Truth<'_>, random: &mut Rng) -> Option<History> {
    let filtered: Vec<(u32, bool, bool)> = truth
        .history
        .opened()
        .filter(|(_, o)| o.no_put != o.no_delete)
        .map(|(_, o)| (o.stream, o.no_put, o.prev_kv))
        .collect();
    some(&filtered, random, |(stream, no_put, prev_kv)| {
        // Between two responses of the stream lies something of the kind that it filters.
        let all = heard_with(truth, |heard| heard.stream == *stream);
        all.windows(2).find_map(|pair| {
            let from = get(truth, pair[0]).events.last()?.revision + 1;
            let next = get(truth, pair[1]);
            let until = next.events.first()?.revision.max(from);
            let (revision, change) = truth.log.entries.range(from..until).find_map(|(revision, entry)| {
                let change = entry.changes.iter().find(|change| change.now.is_some() == *no_put)?;
                Some((*revision, change.clone()))
            })?;
            let previous = truth.state(revision - 1)?.keys.get(&change.key).cloned().filter(|_| *prev_kv);
            let event = Event { key: change.key, revision, now: change.now, previous };
            truth.with_new(pair[1], Record::Heard(Heard { events: vec![event], ..next }))
        })
    })
}

fn progress_too_early(truth: &Truth<'_>, random: &mut Rng) -> Option<History> {
    let at = one(heard_with(truth, |_| true), random)?;
    let heard = get(truth, at);
    let revision = heard.events.last()?.revision;
    let promise = Heard { events: Vec::new(), fragment: false, revision, ..heard };
    truth.with_new(at, Record::Heard(promise))
}

fn previous_wrong(truth: &Truth<'_>, random: &mut Rng) -> Option<History> {
    let at = one(heard_with(truth, |heard| heard.events.iter().any(|e| e.previous.is_some())), random)?;
    truth.with_heard(at, |heard| {
        if let Some(previous) = heard.events.iter_mut().find_map(|event| event.previous.as_mut()) {
            previous.modified -= 1;
            previous.value.push('?');
        }
    })
}

fn previous_missing(truth: &Truth<'_>, random: &mut Rng) -> Option<History> {
    let all = heard_with(truth, |heard| {
        heard.events.iter().any(|event| {
            event.previous.is_some()
                && compaction_beyond(truth.history, event.revision - 1, heard.at_ns).is_none()
        })
    });
    let at = one(all, random)?;
    truth.with_heard(at, |heard| {
        let at_ns = heard.at_ns;
        let event = heard.events.iter_mut().find(|event| {
            event.previous.is_some() && compaction_beyond(truth.history, event.revision - 1, at_ns).is_none()
        });
        event.expect("it was looked for").previous = None;
    })
}

fn revision_hidden(truth: &Truth<'_>, random: &mut Rng) -> Option<History> {
    let revision = random.i64(2..truth.log.last());
    let mut history = truth.history.clone();
    history.records.retain_mut(|record| match record {
        Record::Heard(heard) if !heard.events.is_empty() => {
            heard.events.retain(|event| event.revision != revision);
            !heard.events.is_empty()
        }
        _ => true,
    });
    Some(history)
}

/// A read, and an earlier revision that it must not be of, because a write behind that one had been acknowledged: one that
/// shows in the read's range.
fn stale(truth: &Truth<'_>, random: &mut Rng) -> Option<(usize, i64)> {
    let puts = truth.puts();
    some(&truth.reads(), random, |(at, revision)| {
        let read = truth.history.operation(*at);
        let (_, overtaken) = puts.iter().rev().find(|(put, written)| {
            written <= revision
                && truth.history.operation(*put).return_ns < read.call_ns
                && truth.answer(*at, written - 1) != truth.answer(*at, *revision)
        })?;
        Some((*at, overtaken - 1))
    })
}

fn read_stale(truth: &Truth<'_>, random: &mut Rng) -> Option<History> {
    let (at, revision) = stale(truth, random)?;
    let old = truth.answer(at, revision)?;
    truth.with_operation(at, |operation| {
        let answer = body(operation);
        answer.body = old;
        answer.revision = revision;
    })
}

fn read_stale_disguised(truth: &Truth<'_>, random: &mut Rng) -> Option<History> {
    let (at, revision) = stale(truth, random)?;
    let old = truth.answer(at, revision)?;
    truth.with_operation(at, |operation| body(operation).body = old)
}

fn read_torn(truth: &Truth<'_>, random: &mut Rng) -> Option<History> {
    // One key as it was before the revision at which it was written last, the others as they are.
    let several = truth.operations(|operation, answer| match (&operation.request, &answer.body) {
        (Request::Range { revision: 0, .. }, Body::Range { kvs, .. }) if kvs.len() > 1 => {
            let place = kvs.iter().position(|kv| kv.version > 1)?;
            Some((place, kvs[place].clone()))
        }
        _ => None,
    });
    let (at, (place, kv)) = one(several, random)?;
    let old = truth.state(kv.modified - 1)?.keys.get(&kv.key)?.clone();
    truth.with_operation(at, |operation| {
        if let Body::Range { kvs, .. } = &mut body(operation).body {
            kvs[place] = old;
        }
    })
}

fn read_ahead(truth: &Truth<'_>, random: &mut Rng) -> Option<History> {
    let reads = truth.operations(|operation, _| match &operation.request {
        Request::Range { revision: 0, .. } => Some(()),
        _ => None,
    });
    let puts = truth.puts();
    some(&reads, random, |(at, ())| {
        let returned = truth.history.operation(*at).return_ns;
        let (_, revision) = puts.iter().find(|(put, _)| truth.history.operation(*put).call_ns > returned)?;
        let ahead = truth.answer(*at, *revision)?;
        truth.with_operation(*at, |operation| {
            let answer = body(operation);
            answer.body = ahead;
            answer.revision = *revision;
        })
    })
}

fn read_at_revision_wrong(truth: &Truth<'_>, random: &mut Rng) -> Option<History> {
    let reads = truth.operations(|operation, answer| match (&operation.request, &answer.body) {
        (Request::Range { revision, .. }, Body::Range { kvs, .. }) if *revision > 0 && !kvs.is_empty() => {
            Some(())
        }
        _ => None,
    });
    let (at, ()) = one(reads, random)?;
    truth.with_operation(at, |operation| {
        if let Body::Range { kvs, .. } = &mut body(operation).body {
            kvs[0].value.push('?');
        }
    })
}

fn member_goes_back(truth: &Truth<'_>, random: &mut Rng) -> Option<History> {
    let reads = truth.operations(|operation, answer| match &operation.request {
        Request::Range { revision: 0, serializable: true, .. } => Some(answer.revision),
        _ => None,
    });
    some(&reads, random, |(at, revision)| {
        let read = truth.history.operation(*at);
        // Somebody had been told this revision by the same member before, and nobody killed it meanwhile.
        let told = truth.history.operations().any(|(_, other)| {
            other.member == read.member
                && other.return_ns < read.call_ns
                && matches!(&other.outcome, Outcome::Answered(answer) if answer.revision == *revision)
                && matches!(other.request, Request::Range { .. } | Request::Put { .. })
                && !truth.history.faults().any(|(_, fault)| {
                    fault.kind == FaultKind::Killed && (other.call_ns..read.call_ns).contains(&fault.at_ns)
                })
        });
        let before = revision - 1;
        let old = truth.answer(*at, before).filter(|_| told)?;
        truth.with_operation(*at, |operation| {
            let answer = body(operation);
            answer.body = old;
            answer.revision = before;
        })
    })
}

fn acknowledged_early(truth: &Truth<'_>, random: &mut Rng) -> Option<History> {
    let reads = truth.reads();
    some(&truth.puts(), random, |(at, revision)| {
        let write = truth.history.operation(*at);
        let (read, _) = reads
            .iter()
            .rev()
            .find(|(read, seen)| seen < revision && truth.history.operation(*read).call_ns < write.call_ns)?;
        let read_ns = truth.history.operation(*read).call_ns;
        truth.with_operation(*at, |operation| {
            operation.call_ns = read_ns.saturating_sub(2);
            operation.return_ns = read_ns.saturating_sub(1);
        })
    })
}

fn happens_early(truth: &Truth<'_>, random: &mut Rng) -> Option<History> {
    let reads = truth.reads();
    some(&truth.puts(), random, |(at, revision)| {
        let (read, _) = reads.iter().find(|(_, seen)| seen >= revision)?;
        let read_ns = truth.history.operation(*read).return_ns;
        truth.with_operation(*at, |operation| {
            operation.call_ns = read_ns + 1;
            operation.return_ns = read_ns + 2;
        })
    })
}

fn write_lost(truth: &Truth<'_>, random: &mut Rng) -> Option<History> {
    let (at, _) = one(truth.puts(), random)?;
    let mut lost = truth.history.operation(at).clone();
    lost.client = BETWEEN + 1;
    if let Request::Put { value, prev_kv, lease, .. } = &mut lost.request {
        *value = "lost".to_owned();
        (*prev_kv, *lease) = (false, 0);
    }
    body(&mut lost).body = Body::Put { previous: None };
    truth.with_new(at + 1, Record::Operation(lost))
}

fn applied_twice(truth: &Truth<'_>, random: &mut Rng) -> Option<History> {
    // The second of two puts to one key never arrived; what came instead was the first one again.
    let puts = truth.puts();
    let named = |at: usize| match &truth.history.operation(at).request {
        Request::Put { key, value, lease, .. } => (key.clone(), value.clone(), *lease),
        other => panic!("a put was chosen: {other:?}"),
    };
    let (first, second) = some(&puts, random, |(at, revision)| {
        let (key, _, lease) = named(*at);
        let (other, _) = puts
            .iter()
            .find(|(other, later)| later > revision && named(*other).0 == key && named(*other).2 == lease)?;
        Some((*at, *other))
    })?;
    let (again, lost) = (named(first).1, named(second).1);
    let mut history = truth.history.clone();
    for (at, record) in history.records.iter_mut().enumerate() {
        if at == second {
            if let Record::Operation(operation) = record {
                operation.outcome = Outcome::Unknown { message: "timed out".to_owned() };
            }
            continue;
        }
        let told =
            serde_json::to_string(record).ok()?.replace(&format!("\"{lost}\""), &format!("\"{again}\""));
        *record = serde_json::from_str(&told).ok()?;
    }
    Some(history)
}

fn refused_and_applied(truth: &Truth<'_>, random: &mut Rng) -> Option<History> {
    let (at, _) = one(truth.puts(), random)?;
    truth.with_operation(at, |operation| {
        operation.outcome = Outcome::Refused { message: "etcdserver: request is too large".to_owned() };
    })
}

fn put_previous_wrong(truth: &Truth<'_>, random: &mut Rng) -> Option<History> {
    let puts = truth.operations(|_, answer| match &answer.body {
        Body::Put { previous: Some(_) } => Some(()),
        _ => None,
    });
    let (at, ()) = one(puts, random)?;
    truth.with_operation(at, |operation| {
        if let Body::Put { previous: Some(previous) } = &mut body(operation).body {
            previous.value.push('?');
        }
    })
}

fn deleted_by_nobody(truth: &Truth<'_>, random: &mut Rng) -> Option<History> {
    // Nothing else may explain it: no lease on the key, and nobody who waits for the outcome of a deletion of it.
    let deletions = truth.operations(|operation, answer| match (&operation.request, &answer.body) {
        (Request::Delete { .. }, Body::Delete { deleted: 1.., .. }) => Some(answer.revision),
        _ => None,
    });
    some(&deletions, random, |(at, revision)| {
        let before = truth.state(revision - 1)?;
        let gone = &truth.log.entries.get(revision)?.changes;
        let leased = gone.iter().any(|change| before.keys.get(&change.key).is_none_or(|kv| kv.lease != 0));
        let waiting = truth.history.operations().any(|(_, other)| {
            let covers = |key: &str, end: &str| {
                gone.iter().all(|change| crate::model::is_inside(&change.key, key, end))
            };
            matches!(&other.request, Request::Delete { key, end, .. } if covers(key, end))
                && matches!(other.outcome, Outcome::Unknown { .. })
        });
        (!leased && !waiting).then(|| truth.without(*at))?
    })
}

fn other_branch(truth: &Truth<'_>, random: &mut Rng) -> Option<History> {
    let all = truth.operations(|operation, answer| match (&operation.request, &answer.body) {
        (Request::Txn { compares, .. }, Body::Txn { .. }) if !compares.is_empty() => Some(()),
        _ => None,
    });
    let (at, ()) = one(all, random)?;
    truth.with_operation(at, |operation| {
        if let Body::Txn { succeeded, .. } = &mut body(operation).body {
            *succeeded = !*succeeded;
        }
    })
}

/// Leases that ended by themselves, with their keys: lease, revision, when that was known, one of the keys.
fn expiries(truth: &Truth<'_>) -> Vec<(i64, i64, u64, Kv)> {
    let all = truth.log.entries.iter().filter_map(|(revision, entry)| {
        let Author::Lease(lease) = entry.author else { return None };
        let (known_ns, _) = truth.log.proofs.of(*revision)?;
        let kv = truth.state(revision - 1)?.keys.get(&entry.changes.first()?.key)?.clone();
        Some((lease, *revision, known_ns, kv))
    });
    all.collect()
}

fn renewal(truth: &Truth<'_>, lease: i64, call_ns: u64) -> Option<History> {
    let answer = Answer { revision: 1, term: u64::MAX, body: Body::Lease { ttl_s: 2 } };
    let operation = Operation {
        client: BETWEEN + 1,
        // A member of its own: nothing is said about terms.
        member: usize::MAX,
        call_ns,
        return_ns: call_ns + 1_000_000,
        request: Request::Renew { lease },
        outcome: Outcome::Answered(answer),
    };
    truth.with_new(truth.history.records.len(), Record::Operation(operation))
}

fn lease_early(truth: &Truth<'_>, random: &mut Rng) -> Option<History> {
    let (lease, _, known_ns, _) = one(expiries(truth), random)?;
    renewal(truth, lease, known_ns - 500_000_000)
}

fn lease_renewed_late(truth: &Truth<'_>, random: &mut Rng) -> Option<History> {
    let (lease, _, known_ns, _) = one(expiries(truth), random)?;
    renewal(truth, lease, known_ns + 500_000_000)
}

fn lease_key_stays(truth: &Truth<'_>, random: &mut Rng) -> Option<History> {
    let reads = truth.reads();
    some(&expiries(truth), random, |(_, revision, known_ns, kv)| {
        // A read of everything, right after, in which the key is not there again.
        let (at, _) = reads.iter().find(|(at, seen)| {
            let read = truth.history.operation(*at);
            seen >= revision
                && read.call_ns > *known_ns
                && matches!(&read.outcome, Outcome::Answered(Answer { body: Body::Range { kvs, .. }, .. })
                    if !kvs.iter().any(|other| other.key == kv.key))
                && matches!(&read.request, Request::Range { key, end, .. }
                    if crate::model::is_inside(&kv.key, key, end))
        })?;
        truth.with_operation(*at, |operation| {
            if let Body::Range { kvs, count } = &mut body(operation).body {
                kvs.push(kv.clone());
                kvs.sort_by(|a, b| a.key.cmp(&b.key));
                *count += 1;
            }
        })
    })
}

fn lease_never_ends(truth: &Truth<'_>, random: &mut Rng) -> Option<History> {
    let lists = truth.operations(|_, answer| match &answer.body {
        Body::Leases { .. } => Some(()),
        _ => None,
    });
    let (lease, ..) = one(expiries(truth), random)?;
    let (at, ()) = one(lists, random)?;
    truth.with_operation(at, |operation| {
        if let Body::Leases { leases } = &mut body(operation).body {
            leases.push(lease);
        }
    })
}

fn hash_differs(truth: &Truth<'_>, random: &mut Rng) -> Option<History> {
    let (at, _) = one(truth.history.hashes().collect(), random)?;
    truth.with(at, |record| {
        if let Record::Hash(hash) = record {
            hash.hash ^= 1;
        }
    })
}
