//! Evidence that the primary's node is gone, gathered while this node follows it.
//!
//! The loop sleeps for up to `loop_wait`; a take-over by quorum is to begin a third of a second after a node was killed. So a
//! task of its own asks the store's leader ten times a second, and at the moment when it begins to matter, for how long it has
//! not heard the holder's voter (a small message to the leader, a look into memory on the leader itself), tries the holder's
//! ports when that is long enough to matter, and wakes the loop when there is something to judge. It judges nothing:
//! `ha::takeover` does.
//!
//! What was found is used while it is fresh. A store without a leader answers nothing, and then nobody is suspected.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quorate_ha::facts::Endpoint;
use quorate_ha::takeover::REFUSED;
use quorate_ha::{Moment, VoterFacts};
use quorate_node::clock::boottime;
use tokio::net::TcpStream;

use crate::shared::Shared;

/// Between two questions, at most and at least.
const ASK: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(10));
/// How long an answer may take, and a connection attempt, on a local network; by how many round trips elsewhere.
pub(crate) const PATIENCE: (Duration, u32) = (Duration::from_millis(150), 1);
/// What was found is forgotten after this: a question or two.
pub(crate) const FRESH: (Duration, u32) = (Duration::from_millis(500), 2);

/// Whom to look at, as the last decision left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Watched {
    /// The holder.
    pub(crate) name: String,
    /// Its PostgreSQL.
    pub(crate) endpoint: Endpoint,
    /// `failure_timeout`.
    pub(crate) limit: Duration,
}

/// Shared between the task and the loop.
#[derive(Default)]
pub(crate) struct Evidence {
    watched: Mutex<Option<Watched>>,
    found: Mutex<Option<Found>>,
}

#[derive(Debug, Clone)]
struct Found {
    at: Moment,
    silent: BTreeMap<String, Duration>,
    refusing: BTreeSet<String>,
}

impl Evidence {
    /// From now on look at this one; None: at nobody.
    pub(crate) fn watch(&self, watched: Option<Watched>) {
        *self.watched.lock() = watched;
    }

    /// What was found, if that is not longer ago than `fresh`.
    pub(crate) fn fill(&self, now: Moment, fresh: Duration, voters: &mut VoterFacts) {
        let found = self.found.lock().clone();
        if let Some(found) = found.filter(|found| now.since(found.at) <= fresh) {
            voters.silent = found.silent;
            voters.refusing = found.refusing;
        }
    }
}

/// Looks for as long as the agent lives.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut nap = ASK.0;
    loop {
        tokio::time::sleep(nap).await;
        nap = ASK.0;
        let watched = shared.evidence.watched.lock().clone();
        let Some(watched) = watched else {
            *shared.evidence.found.lock() = None;
            continue;
        };
        let Ok(silent) = shared.handle.silence(shared.handle.patience(PATIENCE)).await else { continue };
        let heard = boottime();
        let silence = silent.get(&watched.name).copied().unwrap_or_default();
        // A silence that is long enough needs no other evidence, and an attempt at a node that is cut off takes as long as it may.
        let left = watched.limit.saturating_sub(silence);
        let refuses = silence >= REFUSED
            && tokio::time::timeout(left, refuses(&shared, &watched)).await.unwrap_or(false);
        let refusing = if refuses { BTreeSet::from([watched.name.clone()]) } else { BTreeSet::new() };
        *shared.evidence.found.lock() = Some(Found { at: Moment(boottime()), silent, refusing });
        if refuses || silence >= watched.limit {
            shared.wake.notify_one();
        }
        nap = until_next(silence, boottime().saturating_sub(heard), watched.limit);
    }
}

/// Until the next question, when the answer to the last one came `passed` ago: a silence that goes on is asked for when it has come to
/// where it matters, not up to [`ASK`] later.
fn until_next(silence: Duration, passed: Duration, limit: Duration) -> Duration {
    let matters = [REFUSED, limit].into_iter().filter(|at| *at > silence).min();
    matters.map_or(ASK.0, |at| (at - silence).saturating_sub(passed).clamp(ASK.1, ASK.0))
}

/// Nobody listens on either port of the node: its machine is there, and both processes are not.
async fn refuses(shared: &Shared, watched: &Watched) -> bool {
    let members = shared.handle.members();
    let Some(member) = members.iter().find(|member| member.name == watched.name) else { return false };
    let peers: Vec<&str> =
        member.peer_urls.iter().filter_map(|url| url.split_once("://")).map(|u| u.1).collect();
    let postgres = watched.endpoint.to_string();
    if peers.is_empty() {
        return false;
    }
    for address in peers.into_iter().chain([postgres.as_str()]) {
        let patience = shared.handle.patience(PATIENCE);
        let tried = tokio::time::timeout(patience, TcpStream::connect(address.trim_end_matches('/'))).await;
        match tried {
            Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => {}
            Ok(Ok(_) | Err(_)) | Err(_) => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_asked_when_the_answer_begins_to_matter() {
        let ms = Duration::from_millis;
        let limit = ms(3_000);
        let none = Duration::ZERO;
        assert_eq!(until_next(ms(0), none, limit), ASK.0);
        assert_eq!(until_next(REFUSED - ms(40), none, limit), ms(40), "ports are tried from then on");
        assert_eq!(until_next(ms(2_930), none, limit), ms(70));
        assert_eq!(until_next(ms(2_830), ms(150), limit), ms(20), "trying the ports took its time");
        assert_eq!(until_next(ms(2_930), ms(150), limit), ASK.1, "it is late already");
        assert_eq!(until_next(ms(2_999), none, limit), ASK.1, "not a question after the other");
        assert_eq!(until_next(ms(3_000), none, limit), ASK.0, "the loop is awake");
    }
}
