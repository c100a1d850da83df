//! Cuts without a word, in network namespaces: does the cut-off side ever acknowledge beside the new one, and is anything lost?
//!
//! A client writes on each side of the cut. What must hold is judged by the drill itself: no acknowledgement of the old
//! primary after the first one of the new, nothing lost in a synchronous mode, and nothing younger than the lease in
//! asynchronous mode.

use std::time::Duration;

use quorate_drill::Network;
use quorate_drill::netns;
use quorate_drill::stories::Story;

use super::{Setting, tell};

/// The lease, and how long a cut lasts at least.
const TTL_S: u64 = 4;

fn namespaces(mode: &'static str) -> Setting {
    Setting { network: Network::Namespaces, ttl_s: TTL_S, mode, hold: Some(Duration::from_secs(TTL_S)) }
}

/// Namespaces need root.
fn cannot_cut() -> bool {
    let obstacle = netns::obstacle();
    if let Some(why) = &obstacle {
        println!("skipped: {why}");
    }
    obstacle.is_some()
}

/// A rival was seen to promote the node that came back, ahead on a dead timeline, and lost 3,070 rows.
#[test]
fn of_two_cuts_in_a_row_the_node_that_has_not_rewound_does_not_win() {
    if cannot_cut() {
        return;
    }
    let report = tell(&namespaces("quorum"), Story::TwoCuts, 1, |_| {});
    let [round] = report.rounds.as_slice() else { panic!("one round") };
    assert!(round.margin_ms.is_some(), "the second primary had acknowledged something: {round:?}");
    assert!(round.find("second takeover").is_some(), "somebody took over: {round:?}");
}

/// By time: the isolated primary has only its lease to tell it when to stop.
#[test]
fn a_primary_that_is_cut_off_stops_before_the_next_one_begins_async() {
    if cannot_cut() {
        return;
    }
    let report = tell(&namespaces("off"), Story::Cut, 1, |_| {});
    let [round] = report.rounds.as_slice() else { panic!("one round") };
    assert!(
        round.old_last_ms.is_some_and(|last| last > 0.0),
        "the client beside it was still served after the cut: {round:?}"
    );
    assert!(round.margin_ms.is_some_and(|margin| margin >= 0.0), "{round:?}");
}
