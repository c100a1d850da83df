//! Documents that somebody else wrote: whatever is in them is read or refused, and what was read is written so that it
//! reads the same again.

use quorate_ha::Policy;
use quorate_ha::budget::{self, Event};
use quorate_ha::cluster::{
    FailoverRequest, History, MemberRecord, Status, Suspicion, SyncDocument, SyncEntry,
};
use quorate_ha::facts::TimelineId;
use serde_json::json;

use crate::scripts::policy;

/// `print` of what was read is read again, to the same print.
fn settles<T, E>(
    input: &[u8],
    read: impl Fn(&str) -> Result<T, E>,
    print: impl Fn(&T) -> String,
) -> Option<T> {
    let text = std::str::from_utf8(input).ok()?;
    let document = read(text).ok()?;
    let printed = print(&document);
    let Ok(again) = read(&printed) else { panic!("{printed} was written and is refused") };
    assert_eq!(print(&again), printed);
    Some(document)
}

fn corpus(name: &str) -> String {
    format!("{}/fuzz/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn sync() {
    quorate_fuzz::fuzz(corpus("sync"), |input| {
        let Some(document) = settles(input, SyncDocument::parse, SyncDocument::to_json) else { return };
        assert_eq!(SyncDocument::parse(&document.to_json()).unwrap().entries, document.entries);
        let all: Vec<&SyncEntry> = document.entries.iter().collect();
        assert_eq!(document.settled(), if all.len() == 1 { Some(all[0]) } else { None });
    });
}

#[test]
fn history() {
    quorate_fuzz::fuzz(corpus("history"), |input| {
        let Some(history) = settles(input, History::parse, History::to_json) else { return };
        let current = history.current();
        assert!(history.0.iter().all(|line| line.timeline <= current), "{current:?}");
        for timeline in [current, TimelineId(0), TimelineId(u32::MAX)] {
            let _ = (history.end_of(timeline), history.leader_of(timeline));
        }
    });
}

#[test]
fn suspicion() {
    quorate_fuzz::fuzz(corpus("suspicion"), |input| {
        settles(input, Suspicion::parse, Suspicion::to_json);
    });
}

#[test]
fn member() {
    quorate_fuzz::fuzz(corpus("member"), |input| {
        let Some(member) = settles(input, MemberRecord::parse, MemberRecord::to_json) else { return };
        let tags = &member.tags;
        let _ = (
            tags.nofailover(),
            tags.failover_priority(),
            tags.noloadbalance(),
            tags.clonefrom(),
            tags.nosync(),
        );
    });
}

#[test]
fn failover() {
    quorate_fuzz::fuzz(corpus("failover"), |input| {
        settles(input, FailoverRequest::parse, FailoverRequest::to_json);
    });
}

#[test]
fn status() {
    quorate_fuzz::fuzz(corpus("status"), |input| {
        settles(input, Status::parse, Status::to_json);
    });
}

/// `/config`: every agent works with whatever stands there, and with times that fit.
#[test]
fn config() {
    let local = policy("n1", &json!({})).local;
    quorate_fuzz::fuzz(corpus("config"), |input| {
        let Ok(config) = serde_json::from_slice(input) else { return };
        let told = budget::check_config(&local, &config);
        let policy = Policy::resolve(local.clone(), Some(&config));
        assert_eq!(budget::check(&policy), Ok(()), "{told:?}");
        let _ =
            (budget::tolerated_stall(&policy), Event::ALL.map(|event| budget::expected_gap(&policy, event)));
    });
}
