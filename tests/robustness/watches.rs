//! What every watch delivered, against the log: etcd's promises, stream by stream.
//!
//! | rule | what it asks |
//! |---|---|
//! | created first | the first message says so, and only the first |
//! | filter | nothing outside the range, and no kind that was filtered out |
//! | ordered | revisions never go down on a stream |
//! | unique | a key has one event a revision |
//! | atomic | a revision is not spread over two responses (unless the response itself comes in fragments) |
//! | reliable | between the first and the last revision of a stream's account nothing is missing |
//! | resumable | a stream that begins at an earlier revision begins with the first event at or after it |
//! | bookmarkable | after "everything up to R was delivered" nothing at or below R comes, and it was delivered |
//! | event | the pair of an event is the pair of that revision, and `create_revision` says whether it is new |
//! | prev_kv | the pair before, exactly; not there if not asked for; missing only if it may be compacted |
//! | compacted | only what somebody compacted is refused, and with that revision |
//! | complete | the last stream of every watcher comes to the end of the log |
//!
//! A stream's account: it begins at the revision it asked for (or behind the one that `created` names) and ends with the
//! last event or promise. Streams of one watcher are judged one by one, and between the account of one and the beginning of
//! the next nothing may lie.

use std::collections::{BTreeMap, HashSet};

use crate::history::{Event, Heard, History, Opened};
use crate::log::{Log, Versions};
use crate::model;
use crate::revisions::compaction_beyond;
use crate::verdict::{Checker, Findings};

pub(crate) fn check(history: &History, log: &Log, findings: &mut Findings) {
    let versions = log.versions();
    let mut heard: BTreeMap<u32, Vec<(usize, &Heard)>> = BTreeMap::new();
    for (at, response) in history.heard() {
        heard.entry(response.stream).or_default().push((at, response));
    }
    let mut last_of: BTreeMap<u32, (usize, &Opened)> = BTreeMap::new();
    for (at, opened) in history.opened() {
        let responses = heard.get(&opened.stream).map_or(&[][..], Vec::as_slice);
        let stream = Stream { history, log, versions: &versions, at, opened };
        stream.check(responses, findings);
        if let Some((before, of_before)) = last_of.insert(opened.watcher, (at, opened)) {
            let responses = heard.get(&of_before.stream).map_or(&[][..], Vec::as_slice);
            let before = Stream { history, log, versions: &versions, at: before, opened: of_before };
            if let Some(account) = before.account(responses) {
                stream.goes_on_after(account, findings);
            }
        }
    }
    for (at, opened) in last_of.into_values() {
        let responses = heard.get(&opened.stream).map_or(&[][..], Vec::as_slice);
        Stream { history, log, versions: &versions, at, opened }.comes_to_the_end(responses, findings);
    }
}

/// One stream of one watcher.
struct Stream<'a> {
    history: &'a History,
    log: &'a Log,
    versions: &'a Versions,
    at: usize,
    opened: &'a Opened,
}

/// A key at a revision, and whether it was deleted.
type Expected<'a> = (i64, &'a str);

impl<'a> Stream<'a> {
    /// The last revision that was accounted for. None: nothing came, and it had not said where it begins.
    fn account(&self, responses: &[(usize, &Heard)]) -> Option<i64> {
        let begin = match (self.opened.start, responses.first()) {
            (0, Some((_, created))) => Some(created.revision),
            (0, None) => None,
            (start, _) => Some(start - 1),
        };
        let told = responses.iter().filter_map(|(_, heard)| match heard.canceled {
            Some(compacted) => Some(compacted - 1),
            None if heard.is_bookmark() => Some(heard.revision),
            None => heard.events.last().map(|event| event.revision),
        });
        begin.into_iter().chain(told).max()
    }

    /// A client goes on where it had come to, so what lies between was never delivered to it.
    fn goes_on_after(&self, account: i64, findings: &mut Findings) {
        if self.opened.start == 0 {
            return;
        }
        if let Some(((revision, key), source)) =
            self.expected(account + 1, self.opened.start - 1).into_iter().next()
        {
            let why = format!("watcher {}: {key} at revision {revision} was left out", self.opened.watcher);
            findings.add(Checker::Watches, "reliable", source, Some(self.at), why);
        }
    }

    fn wants(&self, key: &str, is_put: bool) -> bool {
        model::is_inside(key, &self.opened.key, &self.opened.end)
            && !(if is_put { self.opened.no_put } else { self.opened.no_delete })
    }

    /// The events that match, from `first` to `last`, with a record of each.
    fn expected(&self, first: i64, last: i64) -> Vec<(Expected<'a>, usize)> {
        if first > last {
            return Vec::new();
        }
        let mut all = Vec::new();
        for (revision, entry) in self.log.entries.range(first..=last) {
            for change in &entry.changes {
                if self.wants(&change.key, change.now.is_some()) {
                    all.push(((*revision, change.key.as_str()), entry.at));
                }
            }
        }
        all
    }

    fn check(&self, responses: &[(usize, &Heard)], findings: &mut Findings) {
        let mut add = |rule, first, second, why| findings.add(Checker::Watches, rule, first, second, why);
        let Some(((created_at, created), rest)) = responses.split_first() else { return };
        if !created.created {
            add("created first", self.at, Some(*created_at), "another message came first".to_owned());
        }
        let first = if self.opened.start > 0 { self.opened.start } else { created.revision + 1 };
        // Revision, key, record of what was delivered; and the promises: revision, number of events before, record.
        let mut delivered: Vec<(i64, &str, usize)> = Vec::new();
        let mut promises: Vec<(i64, usize, usize)> = Vec::new();
        let mut seen: HashSet<(i64, &str)> = HashSet::new();
        let mut in_fragments = false;
        let mut last_response: Option<(i64, usize)> = None;
        for (at, response) in rest.iter().copied() {
            if response.created {
                add("created first", *created_at, Some(at), "created twice".to_owned());
            }
            if let Some(compacted) = response.canceled {
                let asked = compaction_beyond(self.history, compacted - 1, response.at_ns);
                if compacted == 0 || asked.is_none() {
                    add("compacted", self.at, Some(at), "nobody had compacted that revision".to_owned());
                } else if compacted <= first {
                    let why = format!("revision {first} is not before {compacted}");
                    add("compacted", self.at, Some(at), why);
                }
            }
            if response.is_bookmark() && !in_fragments {
                promises.push((response.revision, delivered.len(), at));
            }
            for event in &response.events {
                let (revision, key) = (event.revision, event.key.as_str());
                if !self.wants(key, event.now.is_some()) {
                    add(
                        "filter",
                        self.at,
                        Some(at),
                        format!("{key} at revision {revision} was not asked for"),
                    );
                    continue;
                }
                if let Some((before, _, other)) = delivered.last().filter(|(before, ..)| *before > revision) {
                    let why = format!("revision {revision} came after {before}");
                    add("ordered", *other, Some(at), why);
                }
                if !seen.insert((revision, key)) {
                    let other = delivered.iter().find(|(r, k, _)| (*r, *k) == (revision, key));
                    let why = format!("{key} at revision {revision} came twice");
                    add("unique", other.map_or(self.at, |(.., other)| *other), Some(at), why);
                }
                if let Some((before, other)) = last_response
                    && before == revision
                    && !in_fragments
                {
                    add("atomic", other, Some(at), format!("revision {revision} came in two responses"));
                }
                if let Some((promised, _, other)) = promises.last().filter(|(p, ..)| *p >= revision) {
                    let why = format!(
                        "revision {revision} came after everything up to {promised} was said to be delivered"
                    );
                    add("bookmarkable", *other, Some(at), why);
                }
                self.event(at, event, response, &mut add);
                delivered.push((revision, key, at));
            }
            if let Some(last) = response.events.last() {
                last_response = Some((last.revision, at));
                if response.revision < last.revision {
                    let why = format!("its header is of revision {}", response.revision);
                    add("event", at, None, why);
                }
            }
            in_fragments = response.fragment;
        }
        self.nothing_is_missing(first, &delivered, &promises, findings);
    }

    /// From the start to the last revision that is accounted for.
    fn nothing_is_missing(
        &self,
        first: i64,
        delivered: &[(i64, &str, usize)],
        promises: &[(i64, usize, usize)],
        findings: &mut Findings,
    ) {
        let mut add = |rule, first, second, why| findings.add(Checker::Watches, rule, first, second, why);
        let told: HashSet<Expected<'_>> =
            delivered.iter().map(|(revision, key, _)| (*revision, *key)).collect();
        let last_event = delivered.iter().map(|(revision, ..)| *revision).max().unwrap_or(0);
        for ((revision, key), source) in self.expected(first, last_event) {
            if !told.contains(&(revision, key)) {
                // Whatever came next.
                let next = delivered.iter().find(|(other, ..)| *other >= revision).map(|(.., at)| *at);
                let is_first = delivered.iter().all(|(other, ..)| *other > revision);
                let rule = if is_first && self.opened.start > 0 { "resumable" } else { "reliable" };
                add(rule, source, next, format!("{key} at revision {revision} was left out"));
            }
        }
        for (promised, before, at) in promises {
            if let Some((last, _, other)) = delivered[..*before].last().filter(|(last, ..)| last > promised) {
                let why = format!("revision {last} had come, and only up to {promised} was promised");
                add("bookmarkable", *other, Some(*at), why);
            }
            let told: HashSet<Expected<'_>> =
                delivered[..*before].iter().map(|(revision, key, _)| (*revision, *key)).collect();
            // What came before the promise is judged above; here: what lies between the last event and the promise.
            let from = delivered[..*before].last().map_or(first, |(last, ..)| *last).max(first);
            if let Some(((revision, key), source)) =
                self.expected(from, *promised).into_iter().find(|(expected, _)| !told.contains(expected))
            {
                let why = format!(
                    "{key} at revision {revision} had not come when everything up to {promised} was promised"
                );
                add("bookmarkable", source, Some(*at), why);
            }
        }
        for (revision, key, at) in delivered {
            let entry = self.log.entries.get(revision);
            if !entry.is_some_and(|entry| entry.changes.iter().any(|change| change.key == *key)) {
                let why = format!("nothing happened to {key} at revision {revision}");
                add("event", *at, entry.map(|entry| entry.at), why);
            }
            if *revision < first {
                add("resumable", self.at, Some(*at), format!("revision {revision} is before {first}"));
            }
        }
    }

    /// The pair and the pair before.
    fn event(
        &self,
        at: usize,
        event: &Event,
        response: &Heard,
        add: &mut impl FnMut(&'static str, usize, Option<usize>, String),
    ) {
        let Event { key, revision, now, previous } = event;
        let other = self.log.entries.get(revision).map(|entry| entry.at).filter(|other| *other != at);
        let truth = self.versions.at(key, *revision);
        if now.as_ref() != truth {
            add("event", at, other, format!("{key} at revision {revision} is {truth:?}"));
        }
        let before = self.versions.at(key, revision - 1);
        if now.as_ref().is_some_and(|now| (now.create == *revision) != before.is_none()) {
            add("event", at, other, format!("create_revision says otherwise than {before:?}"));
        }
        let who_wrote = before.and_then(|kv| self.log.entries.get(&kv.modified)).map(|entry| entry.at);
        match (previous, before, self.opened.prev_kv) {
            (None, _, false) | (None, None, true) => {}
            (Some(_), _, false) => add("prev_kv", self.at, Some(at), "nobody asked for it".to_owned()),
            (Some(previous), Some(before), true) if previous == before => {}
            // The revision before is gone once something at or beyond this one is compacted.
            (None, Some(_), true)
                if compaction_beyond(self.history, revision - 1, response.at_ns).is_some() => {}
            (previous, before, true) => {
                let why = format!("before revision {revision}, {key} was {before:?}, not {previous:?}");
                add("prev_kv", at, who_wrote.or(other), why);
            }
        }
    }

    /// The run waits until every watcher has what the last writes were for.
    fn comes_to_the_end(&self, responses: &[(usize, &Heard)], findings: &mut Findings) {
        let last = self.expected(1, self.log.last()).pop();
        let Some(((revision, key), source)) = last else { return };
        if revision < self.opened.start {
            return;
        }
        let came = responses
            .iter()
            .any(|(_, heard)| heard.events.iter().any(|e| (e.revision, e.key.as_str()) == (revision, key)));
        if !came {
            let why = format!("watcher {}: {key} at revision {revision} never came", self.opened.watcher);
            let last = responses.last().map_or(self.at, |(at, _)| *at);
            findings.add(Checker::Watches, "complete", source, Some(last), why);
        }
    }
}
