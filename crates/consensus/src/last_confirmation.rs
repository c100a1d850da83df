//! When leaders before the present one were confirmed for the last time, as far as a new leader can know it.
//!
//! *Problem.* A leader confirms renewals of leases by a quorum's answers, without an entry in the log. A new leader knows nothing of
//! them, and has to believe that each lease was renewed at the last possible moment. If that is the moment of its own
//! election, every election lengthens every lease by as long as the store was without a leader.
//!
//! *Answer.* The last possible moment is earlier, and the votes know it. Who grants a vote says for how long it has helped nobody
//! to confirm anything:
//!
//! ```text
//!   old leader  ── renewal ── asks ─────────── is answered, tells the holder     ✝
//!   voter       ────────────────── is asked (a) ──────────── s ─────────────────── grants its vote
//!   new leader  ───────────────────────────────────────────────────────────────────── hears it (r) ──► a ≤ r - s
//! ```
//!
//! The quorum that confirmed the renewal and the quorum that elected the new leader have a member in common. That member
//! was asked (a) after the renewal, and said at its vote how long ago that was. So the latest `r - s` of all who
//! voted, the new leader included, is after every renewal that any leader before it ever confirmed.
//!
//! What a voter must not forget, or it would say too much:
//!
//! - It was started a moment ago: what it did before is unknown, so it counts from its start.
//! - It led itself: it was part of each of its own confirmations, until it noticed that it leads no more.
//! - It was asked and has not answered, because its disk is slow: so the question counts, before Raft has it. One that Raft has
//!   after the vote is refused.
//! - It was asked while it was about to vote: so it counts *after* it granted its vote.
//!
//! Times are on a monotonic clock that stands still while a machine is suspended: a silence is never too long. That the voter's
//! clock may run faster than others is what every lease allows for: no more of it is counted here than its ttl.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// What one member knows. Shared by the peer service (questions), the network (votes) and the role's task.
#[derive(Debug)]
pub(crate) struct LastConfirmation {
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    /// The last question of a leader, the end of the last leadership of this member, or its start.
    helped: Instant,
    /// The term that this member leads in.
    leads: Option<u64>,
    /// The votes for this member, in the highest term that it got one in: voter, and when that one had helped last, at the latest.
    term: u64,
    votes: BTreeMap<u64, Instant>,
}

impl LastConfirmation {
    /// Of a member that starts now.
    pub(crate) fn new(now: Instant) -> LastConfirmation {
        LastConfirmation {
            known: Mutex::new(Known { helped: now, leads: None, term: 0, votes: BTreeMap::new() }),
        }
    }

    /// A leader has asked this member, which may answer.
    pub(crate) fn helped(&self, now: Instant) {
        self.known.lock().helped = now;
    }

    /// The term that this member leads in, if it does. To be told before anybody acts on it.
    pub(crate) fn leads(&self, now: Instant, term: Option<u64>) {
        let mut known = self.known.lock();
        if known.leads.is_some() && known.leads != term {
            known.helped = now;
        }
        known.leads = term;
    }

    /// For how long this member, which has just granted its vote, has helped nobody.
    pub(crate) fn silence(&self, now: Instant) -> Duration {
        let known = self.known.lock();
        if known.leads.is_some() { Duration::ZERO } else { now.saturating_duration_since(known.helped) }
    }

    /// `voter` has voted for this member in `term`, and said how long it had been silent; None: it did not say.
    pub(crate) fn voted(&self, now: Instant, term: u64, voter: u64, silence: Option<Duration>) {
        let mut known = self.known.lock();
        if term > known.term {
            known.term = term;
            known.votes.clear();
        }
        if term == known.term {
            let helped = now.checked_sub(silence.unwrap_or_default()).unwrap_or(now);
            known.votes.insert(voter, helped);
        }
    }

    /// This member, `me`, leads in `term`: how long ago the leaderships before it were confirmed for the last time, at the least.
    /// None: the votes that are known here are no quorum of each of `sets`.
    pub(crate) fn ago(&self, now: Instant, term: u64, me: u64, sets: &[BTreeSet<u64>]) -> Option<Duration> {
        let known = self.known.lock();
        if known.leads != Some(term) {
            return None;
        }
        let votes = (known.term == term).then_some(&known.votes);
        let voted = |id: &u64| *id == me || votes.is_some_and(|votes| votes.contains_key(id));
        if sets.is_empty()
            || !sets.iter().all(|set| set.iter().filter(|id| voted(id)).count() * 2 > set.len())
        {
            return None;
        }
        let last = votes.into_iter().flat_map(BTreeMap::values).copied().fold(known.helped, Instant::max);
        Some(now.saturating_duration_since(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn sets(voters: &[u64]) -> Vec<BTreeSet<u64>> {
        vec![voters.iter().copied().collect()]
    }

    #[test]
    fn the_latest_of_a_quorum_counts() {
        let start = Instant::now();
        let at = |ms: u32| start + MS * ms;
        let one = LastConfirmation::new(start);
        one.helped(at(1000));
        one.voted(at(1600), 7, 2, Some(MS * 550));
        one.leads(at(1601), Some(7));
        let ago = |term, voters: &[u64]| one.ago(at(1700), term, 1, &sets(voters));
        assert_eq!(ago(7, &[1, 2, 3]), Some(MS * 650), "voter 2 answered last, at 1050");
        assert_eq!(ago(7, &[1, 2, 3, 4, 5]), None, "two of five are no quorum");
        assert_eq!(ago(8, &[1, 2, 3]), None, "another term");
        assert_eq!(ago(7, &[1]), Some(MS * 650), "a vote more than needed may only shorten it");
        let joint = [sets(&[1, 2, 3]), sets(&[1, 4, 5])].concat();
        assert_eq!(one.ago(at(1700), 7, 1, &joint), None, "no quorum of the second set");
    }

    #[test]
    fn who_does_not_say_was_silent_for_no_time() {
        let start = Instant::now();
        let one = LastConfirmation::new(start);
        one.voted(start + MS * 600, 7, 2, None);
        one.leads(start + MS * 600, Some(7));
        assert_eq!(one.ago(start + MS * 610, 7, 1, &sets(&[1, 2, 3])), Some(MS * 10));
    }

    #[test]
    fn votes_of_an_earlier_term_do_not_count() {
        let start = Instant::now();
        let one = LastConfirmation::new(start);
        one.voted(start + MS * 600, 7, 2, Some(MS * 500));
        one.voted(start + MS * 900, 8, 3, Some(MS * 800));
        one.voted(start + MS * 901, 7, 2, Some(MS * 801));
        one.leads(start + MS * 902, Some(8));
        assert_eq!(one.ago(start + MS * 902, 8, 1, &sets(&[1, 2, 4])), None);
        assert_eq!(one.ago(start + MS * 902, 8, 1, &sets(&[1, 2, 3])), Some(MS * 802));
    }

    #[test]
    fn a_voter_counts_from_its_start_its_help_and_the_end_of_its_leadership() {
        let start = Instant::now();
        let at = |ms: u32| start + MS * ms;
        let voter = LastConfirmation::new(start);
        assert_eq!(voter.silence(at(40)), MS * 40);
        voter.helped(at(50));
        assert_eq!(voter.silence(at(60)), MS * 10);
        voter.leads(at(100), Some(3));
        assert_eq!(voter.silence(at(5000)), Duration::ZERO);
        // It led again before anybody here saw that it had stopped.
        voter.leads(at(6000), Some(5));
        assert_eq!(voter.ago(at(6010), 5, 1, &sets(&[1])), Some(MS * 10));
        voter.leads(at(7000), None);
        assert_eq!(voter.silence(at(7100)), MS * 100);
    }
}
