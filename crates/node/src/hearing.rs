//! Who the leader hears: for how long each voter has been silent, as only the leader can know.
//!
//! Heartbeats and entries are acknowledged by every follower that lives, so the leader hears each of them many times a second.
//! A program that must act on the loss of another member's node sooner than by a lease asks the leader for that, at any
//! member. It is evidence and never a right: what is decided on it goes through the log.
//!
//! Silence is not counted while the leader itself stood still (a stopped process, a paused machine): when it wakes, everybody
//! seems to have been silent. A new leader counts from its election. Errors are on one side: it may say less than the
//! truth, never more than [`SAMPLE`] too much.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use quorate_consensus::message;
use quorate_consensus::message::answer::Answer;
use quorate_consensus::message::question::Question;

use crate::clock::boottime;
use crate::handle::Inner;
use crate::{Handle, ReadError};

/// Between two looks of the leader.
const SAMPLE: Duration = Duration::from_millis(50);
/// A look that comes later than this after the one before: we stood still.
const STALLED: Duration = Duration::from_millis(250);

/// What the leader has heard. Pure: time is told.
#[derive(Debug, Default)]
pub(crate) struct Hearing {
    leads: bool,
    sampled: Duration,
    heard: BTreeMap<u64, Duration>,
}

impl Hearing {
    /// At `now`, `acknowledged` says of every other voter how long ago it answered, if ever. None: this member does not lead.
    pub(crate) fn sample(&mut self, now: Duration, acknowledged: Option<&BTreeMap<u64, Option<Duration>>>) {
        let Some(acknowledged) = acknowledged else {
            self.leads = false;
            self.heard.clear();
            return;
        };
        if !self.leads || now.saturating_sub(self.sampled) > STALLED {
            self.heard.clear();
        }
        self.leads = true;
        self.sampled = now;
        self.heard.retain(|id, _| acknowledged.contains_key(id));
        for (id, ago) in acknowledged {
            let at = ago.map_or(Duration::ZERO, |ago| now.saturating_sub(ago));
            let known = self.heard.entry(*id).or_insert(now);
            *known = (*known).max(at);
        }
    }

    /// Milliseconds of silence by member id; None: this member does not lead.
    fn silence(&self, now: Duration) -> Option<Vec<message::Silence>> {
        let silent = |(id, at): (&u64, &Duration)| message::Silence {
            id: *id,
            ms: crate::forward::millis(now.saturating_sub(*at)),
        };
        // A reader may come first after a stall.
        let fresh = now.saturating_sub(self.sampled) <= STALLED;
        (self.leads && fresh).then(|| self.heard.iter().map(silent).collect())
    }
}

/// Samples while this member leads.
pub(crate) async fn run(inner: Arc<Inner>) {
    let mut role = inner.consensus.role();
    let id = inner.id;
    loop {
        if role.wait_for(|role| role.leader == Some(id)).await.is_err() {
            return;
        }
        while role.borrow().leader == Some(id) {
            inner.hearing.lock().sample(boottime(), Some(&inner.consensus.acknowledged()));
            tokio::time::sleep(SAMPLE).await;
        }
        inner.hearing.lock().sample(boottime(), None);
    }
}

impl Inner {
    pub(crate) fn answer_silence(&self) -> Answer {
        match self.hearing.lock().silence(boottime()) {
            Some(silences) => Answer::Silences(message::Silences { silences }),
            None => crate::forward::failure(message::FailureKind::NotLeader, None),
        }
    }
}

impl Handle {
    /// For how long the store's leader has heard nothing from each other voter, by member name; voters that have never said
    /// their name are left out, and so is the leader. Answered by the leader, whoever is asked; not confirmed by a quorum.
    ///
    /// # Errors
    /// There is no leader, or it did not answer within `timeout`. Ask again.
    pub async fn silence(&self, timeout: Duration) -> Result<BTreeMap<String, Duration>, ReadError> {
        let inner = &self.inner;
        let leader = inner.consensus.role().borrow().leader;
        let answer = match leader {
            None => return Err(ReadError::NoLeader),
            Some(leader) if leader == inner.id => inner.answer_silence(),
            Some(leader) => {
                let question = Question::Silence(message::AskSilence {});
                inner.ask_leader(leader, question, timeout).await.map_err(|_| ReadError::TimedOut)?
            }
        };
        let Answer::Silences(silences) = answer else { return Err(ReadError::NoLeader) };
        let names: BTreeMap<u64, String> =
            self.members().into_iter().map(|member| (member.id, member.name)).collect();
        let named = silences.silences.into_iter().filter_map(|silence| {
            let name = names.get(&silence.id).filter(|name| !name.is_empty())?;
            Some((name.clone(), Duration::from_millis(silence.ms)))
        });
        Ok(named.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn silence(hearing: &Hearing, now: u64) -> Option<Vec<(u64, u64)>> {
        Some(hearing.silence(ms(now))?.into_iter().map(|silence| (silence.id, silence.ms)).collect())
    }

    #[test]
    fn silence_is_counted_from_the_last_answer_or_the_election() {
        let mut hearing = Hearing::default();
        assert_eq!(silence(&hearing, 0), None, "a follower knows nothing");
        let never = BTreeMap::from([(2, None), (3, Some(ms(10)))]);
        hearing.sample(ms(1_000), Some(&never));
        assert_eq!(silence(&hearing, 1_000), Some(vec![(2, 0), (3, 0)]));
        hearing.sample(ms(1_100), Some(&BTreeMap::from([(2, None), (3, Some(ms(30)))])));
        assert_eq!(silence(&hearing, 1_150), Some(vec![(2, 150), (3, 80)]));
        hearing.sample(ms(1_200), None);
        assert_eq!(silence(&hearing, 1_200), None, "it leads no longer");
    }

    #[test]
    fn a_leader_that_stood_still_blames_nobody() {
        let mut hearing = Hearing::default();
        let mut now = 0;
        let sample = |hearing: &mut Hearing, now: u64, ago: u64| {
            hearing.sample(ms(now), Some(&BTreeMap::from([(2, Some(ms(ago)))])));
        };
        while now < 1_000 {
            sample(&mut hearing, now, now);
            now += 50;
        }
        assert_eq!(silence(&hearing, 1_000), Some(vec![(2, 1_000)]), "it was silent and we were awake");
        assert_eq!(silence(&hearing, 9_000), None, "asked before the first look after a stall");
        sample(&mut hearing, 9_000, 9_000);
        assert_eq!(silence(&hearing, 9_000), Some(vec![(2, 0)]));
        sample(&mut hearing, 9_050, 9_050);
        assert_eq!(silence(&hearing, 9_050), Some(vec![(2, 50)]));
    }
}
