//! Requests on their way to the leader, and what they find there.
//!
//! Any member takes any request. What needs the leader goes over the peer connection to it, and is answered there without
//! being passed on again: a wrong guess comes back as "not leader", nothing happened, and is tried again within the
//! caller's deadline. What must not be tried again is a proposal that may have arrived: it may be in somebody's log.
//!
//! ```text
//!   never sent, refused unread, "not leader", "stopped"   nothing happened     try again until the deadline
//!   connection lost, deadline passed after it was sent    it may still commit  Indeterminate, at once
//! ```

use std::time::Duration;

use quorate_consensus::message::answer::Answer;
use quorate_consensus::message::question::Question;
use quorate_consensus::message::{self, FailureKind};
use quorate_consensus::{AskError, Bound, MembershipFailure, Proposal, ProposeFailure};
use quorate_state::{Command, LeaseId, LeaseRemaining, Rejection, Reply, ReplyBody};
use tokio::time::Instant;

use crate::handle::Inner;
use crate::lessor::Renew;
use crate::read::Round;
use crate::{Applied, ProposeError, ReadError, Renewal};

/// Why a question to another member has no answer.
pub(crate) enum NoAnswer {
    /// Nothing happened there.
    NotReceived,
    /// It may have.
    Unknown,
}

pub(crate) fn failure(kind: FailureKind, leader: Option<u64>) -> Answer {
    let leader = leader.unwrap_or(0);
    Answer::Failure(message::Failure { kind: kind.into(), leader, ..message::Failure::default() })
}

pub(crate) fn refused(why: String) -> Answer {
    Answer::Failure(message::Failure {
        kind: FailureKind::Refused.into(),
        why,
        ..message::Failure::default()
    })
}

impl Inner {
    /// Asks the leader. One that is a leader no longer, as seen from here, is not waited for: a leader that was cut off or
    /// stopped answers nothing, and its successor is known long before a caller's deadline.
    pub(crate) async fn ask_leader(
        &self,
        leader: u64,
        question: Question,
        within: Duration,
    ) -> Result<Answer, NoAnswer> {
        let mut role = self.consensus.role();
        let deposed = async {
            // An error says that this member stops: no answer is worth waiting for either.
            let _ = role.wait_for(|role| role.leader != Some(leader)).await;
            tokio::time::sleep(self.peers.patience(LAST_WORD)).await;
        };
        tokio::select! {
            answer = self.ask(leader, question, within) => answer,
            () = deposed => Err(NoAnswer::Unknown),
        }
    }

    /// Asks member `target`, which must be in the membership.
    async fn ask(&self, target: u64, question: Question, within: Duration) -> Result<Answer, NoAnswer> {
        let Some(url) = self.consensus.url_of(target) else { return Err(NoAnswer::NotReceived) };
        match self.peers.ask(self.cluster, target, &url, question, within).await {
            Ok(answer) => answer.answer.ok_or(NoAnswer::Unknown),
            Err(AskError::Unreachable(_) | AskError::Refused(_)) => Err(NoAnswer::NotReceived),
            Err(AskError::Lost(_)) => Err(NoAnswer::Unknown),
        }
    }

    pub(crate) async fn propose(&self, command: Command, timeout: Duration) -> Result<Applied, ProposeError> {
        // Bytes that no member can decode must not get into the log: every one of them would stop at it.
        command.check_depth().map_err(ProposeError::Rejected)?;
        let proposal = Proposal::encode(&command);
        if proposal.len() > self.config.max_request_bytes {
            return Err(ProposeError::TooLarge);
        }
        let Ok(_pending) = self.pending.try_acquire() else { return Err(ProposeError::Overloaded) };
        self.metrics.proposals_pending.inc();
        let result = self.propose_until(proposal, Instant::now() + timeout).await;
        self.metrics.proposals_pending.dec();
        match &result {
            Ok(_) | Err(ProposeError::Rejected(_)) => {}
            Err(_) => self.metrics.proposals_failed.inc(),
        }
        result
    }

    async fn propose_until(&self, proposal: Proposal, deadline: Instant) -> Result<Applied, ProposeError> {
        loop {
            if self.is_stopped() {
                return Err(ProposeError::Stopped);
            }
            let leader = self.consensus.role().borrow().leader;
            let attempt = match leader {
                None => Attempt::Again,
                Some(leader) if leader == self.id => self.propose_here(proposal.clone(), deadline).await,
                Some(leader) => self.propose_at(leader, &proposal, deadline).await,
            };
            match attempt {
                Attempt::Applied { reply, term, index } => return applied(reply, term, index),
                Attempt::Failed(error) => return Err(error),
                Attempt::Again => {
                    if !self.pause(deadline).await {
                        return Err(ProposeError::NoLeader);
                    }
                }
            }
        }
    }

    async fn propose_here(&self, proposal: Proposal, deadline: Instant) -> Attempt {
        match tokio::time::timeout_at(deadline, self.consensus.propose(proposal)).await {
            Ok(Ok(committed)) => {
                Attempt::Applied { reply: committed.reply, term: committed.term, index: committed.index }
            }
            Ok(Err(ProposeFailure::NotLeader { .. })) => Attempt::Again,
            Ok(Err(ProposeFailure::Unknown)) | Err(_) => Attempt::Failed(ProposeError::Indeterminate),
            Ok(Err(ProposeFailure::Stopped)) => Attempt::Failed(ProposeError::Stopped),
        }
    }

    async fn propose_at(&self, leader: u64, proposal: &Proposal, deadline: Instant) -> Attempt {
        let question = Question::Propose(message::Propose { payload: proposal.bytes() });
        let within = deadline.saturating_duration_since(Instant::now());
        match self.ask_leader(leader, question, within).await {
            Ok(Answer::Proposed(proposed)) => {
                let Some(reply) = quorate_consensus::reply_from_peer(proposed.reply) else {
                    return Attempt::Failed(ProposeError::Indeterminate);
                };
                // Read-your-writes on this member. If it cannot catch up in time the caller has to look again.
                match self.wait_applied(proposed.index, deadline).await {
                    Ok(()) => Attempt::Applied { reply, term: proposed.term, index: proposed.index },
                    Err(_) => Attempt::Failed(ProposeError::Indeterminate),
                }
            }
            Ok(Answer::Failure(failure)) => match failure.kind() {
                FailureKind::NotLeader
                | FailureKind::Stopped
                | FailureKind::NoQuorum
                | FailureKind::Pending => Attempt::Again,
                FailureKind::Overloaded => Attempt::Failed(ProposeError::Overloaded),
                FailureKind::Refused | FailureKind::Indeterminate | FailureKind::Unspecified => {
                    Attempt::Failed(ProposeError::Indeterminate)
                }
            },
            Ok(
                Answer::ReadAt(_)
                | Answer::Lease(_)
                | Answer::Done(_)
                | Answer::Claimed(_)
                | Answer::Silences(_),
            )
            | Err(NoAnswer::Unknown) => Attempt::Failed(ProposeError::Indeterminate),
            Err(NoAnswer::NotReceived) => Attempt::Again,
        }
    }

    /// A proposal that another member forwarded. Not passed on.
    pub(crate) async fn answer_propose(&self, payload: bytes::Bytes, within: Duration) -> Answer {
        let Some(proposal) = Proposal::from_peer(payload) else { return refused("not a command".to_owned()) };
        let Ok(_pending) = self.pending.try_acquire() else { return failure(FailureKind::Overloaded, None) };
        match tokio::time::timeout(within, self.consensus.propose(proposal)).await {
            Ok(Ok(committed)) => Answer::Proposed(message::Proposed {
                reply: quorate_consensus::reply_to_peer(&committed.reply),
                term: committed.term,
                index: committed.index,
            }),
            Ok(Err(ProposeFailure::NotLeader { leader })) => failure(FailureKind::NotLeader, leader),
            Ok(Err(ProposeFailure::Stopped)) => failure(FailureKind::Stopped, None),
            Ok(Err(ProposeFailure::Unknown)) | Err(_) => failure(FailureKind::Indeterminate, None),
        }
    }

    /// A follower's read index: only a confirmation by this member itself counts.
    pub(crate) async fn answer_read_index(&self, within: Duration) -> Answer {
        match tokio::time::timeout(within, self.rounds.next()).await {
            Ok(Round::Confirmed { leader, index }) if leader == self.id => {
                Answer::ReadAt(message::ReadAt { index })
            }
            Ok(Round::Confirmed { leader, .. }) => failure(FailureKind::NotLeader, Some(leader)),
            Ok(Round::NoLeader) => failure(FailureKind::NotLeader, None),
            Ok(Round::NoQuorum) | Err(_) => failure(FailureKind::NoQuorum, None),
            Ok(Round::Stopped) => failure(FailureKind::Stopped, None),
        }
    }

    pub(crate) async fn renew_lease(
        &self,
        id: LeaseId,
        timeout: Duration,
    ) -> Result<Option<Renewal>, ReadError> {
        let question = || Question::RenewLease(message::RenewLease { id });
        let found = self.at_leader(timeout, |within| self.answer_renew(id, within), question).await?;
        Ok(found.found.then(|| Renewal { ttl: Duration::from_millis(found.granted_ms) }))
    }

    /// (granted, remaining). None: unknown or expired.
    pub(crate) async fn time_to_live(
        &self,
        id: LeaseId,
        timeout: Duration,
    ) -> Result<Option<(Duration, Duration)>, ReadError> {
        let question = || Question::LeaseTimeToLive(message::LeaseTimeToLive { id });
        let found = self.at_leader(timeout, |within| self.answer_time_to_live(id, within), question).await?;
        let times = (Duration::from_millis(found.granted_ms), Duration::from_millis(found.remaining_ms));
        Ok(found.found.then_some(times))
    }

    /// Answers at the leader, here or elsewhere, again and again until the deadline: neither a renewal nor a question
    /// does harm twice.
    async fn at_leader<F: Future<Output = Answer>>(
        &self,
        timeout: Duration,
        here: impl Fn(Duration) -> F,
        question: impl Fn() -> Question,
    ) -> Result<message::LeaseFound, ReadError> {
        let deadline = Instant::now() + timeout;
        let mut outcome = ReadError::NoLeader;
        loop {
            if self.is_stopped() {
                return Err(ReadError::Stopped);
            }
            let leader = self.consensus.role().borrow().leader;
            let within = deadline.saturating_duration_since(Instant::now());
            let answer = match leader {
                None => None,
                Some(leader) if leader == self.id => Some(here(within).await),
                // A question that got lost is asked again, so no single one may use up all the time.
                Some(leader) => {
                    self.ask_leader(leader, question(), within.min(self.peers.patience(QUESTION))).await.ok()
                }
            };
            match answer {
                Some(Answer::Lease(found)) => return Ok(found),
                Some(Answer::Failure(failure)) if failure.kind() == FailureKind::NoQuorum => {
                    outcome = ReadError::TimedOut;
                }
                Some(
                    Answer::Failure(_)
                    | Answer::Proposed(_)
                    | Answer::ReadAt(_)
                    | Answer::Done(_)
                    | Answer::Claimed(_)
                    | Answer::Silences(_),
                )
                | None => {}
            }
            if !self.pause(deadline).await {
                return Err(outcome);
            }
        }
    }

    /// Renews here, if this member leads and a quorum says so after the request arrived. A lease whose end is under way is
    /// waited for: what becomes of that is the answer. One that was checkpointed is renewed in the log first (see
    /// [`crate::lessor`]).
    pub(crate) async fn answer_renew(&self, id: LeaseId, within: Duration) -> Answer {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if let Err(answer) = self.confirmed_lessor(left).await {
                return answer;
            }
            let renewed = self.lessor.lock().renew(crate::clock::boottime(), id);
            match renewed {
                Renew::Renewed { ttl } => {
                    self.metrics.leases_renewed.inc();
                    return Answer::Lease(message::LeaseFound {
                        found: true,
                        granted_ms: millis(ttl),
                        remaining_ms: millis(ttl),
                    });
                }
                Renew::Unknown => {
                    return Answer::Lease(message::LeaseFound {
                        found: false,
                        granted_ms: 0,
                        remaining_ms: 0,
                    });
                }
                Renew::Silent => return failure(FailureKind::NotLeader, None),
                Renew::Noted { stamp } => {
                    let full = LeaseRemaining { id, stamp, remaining_ms: 0 };
                    let proposal = Proposal::encode(&Command::lease_checkpoint(vec![full]));
                    match tokio::time::timeout_at(deadline, self.consensus.propose(proposal)).await {
                        Ok(Ok(_)) => {}
                        Ok(Err(ProposeFailure::NotLeader { leader })) => {
                            return failure(FailureKind::NotLeader, leader);
                        }
                        Ok(Err(ProposeFailure::Stopped)) => return failure(FailureKind::Stopped, None),
                        Ok(Err(ProposeFailure::Unknown)) | Err(_) => {
                            return failure(FailureKind::NoQuorum, None);
                        }
                    }
                }
                Renew::Revoking => {
                    if !self.pause(deadline).await {
                        return failure(FailureKind::NoQuorum, None);
                    }
                }
            }
        }
    }

    pub(crate) async fn answer_time_to_live(&self, id: LeaseId, within: Duration) -> Answer {
        match self.confirmed_lessor(within).await {
            Err(answer) => answer,
            Ok(()) => {
                let lessor = self.lessor.lock();
                if !lessor.is_armed() {
                    return failure(FailureKind::NotLeader, None);
                }
                let (found, granted, remaining) = match lessor.remaining(crate::clock::boottime(), id) {
                    Some((granted, remaining)) => (true, granted, remaining),
                    None => (false, Duration::ZERO, Duration::ZERO),
                };
                Answer::Lease(message::LeaseFound {
                    found,
                    granted_ms: millis(granted),
                    remaining_ms: millis(remaining),
                })
            }
        }
    }

    /// A quorum confirms this member, and its state has everything from before: what its lessor says counts.
    async fn confirmed_lessor(&self, within: Duration) -> Result<(), Answer> {
        let deadline = Instant::now() + within;
        match tokio::time::timeout_at(deadline, self.rounds.next()).await {
            Ok(Round::Confirmed { leader, index }) if leader == self.id => {
                self.wait_applied(index, deadline).await.map_err(|_| failure(FailureKind::NoQuorum, None))
            }
            Ok(Round::Confirmed { leader, .. }) => Err(failure(FailureKind::NotLeader, Some(leader))),
            Ok(Round::NoLeader) => Err(failure(FailureKind::NotLeader, None)),
            Ok(Round::NoQuorum) | Err(_) => Err(failure(FailureKind::NoQuorum, None)),
            Ok(Round::Stopped) => Err(failure(FailureKind::Stopped, None)),
        }
    }

    /// Has the leader hand over to `target` and waits until this member sees it lead.
    pub(crate) async fn move_leader(&self, target: u64, timeout: Duration) -> Result<(), ReadError> {
        let deadline = Instant::now() + timeout;
        loop {
            if self.is_stopped() {
                return Err(ReadError::Stopped);
            }
            let leader = self.consensus.role().borrow().leader;
            let within = deadline.saturating_duration_since(Instant::now());
            match leader {
                Some(leader) if leader == target => return Ok(()),
                Some(leader) if leader == self.id => drop(self.answer_move_leader(target).await),
                Some(leader) => {
                    let question = Question::MoveLeader(message::MoveLeader { target });
                    // Whatever the answer, what counts is who leads.
                    drop(self.ask_leader(leader, question, within.min(self.peers.patience(QUESTION))).await);
                }
                None => {}
            }
            // A transfer takes a few round trips; asking again is harmless but not useful before.
            let mut role = self.consensus.role();
            let again = (Instant::now() + self.peers.patience(TRANSFER)).min(deadline);
            let moved = role.wait_for(|role| role.leader == Some(target));
            if tokio::time::timeout_at(again, moved).await.is_ok_and(|role| role.is_ok()) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(if leader.is_none() { ReadError::NoLeader } else { ReadError::TimedOut });
            }
        }
    }

    pub(crate) async fn answer_move_leader(&self, target: u64) -> Answer {
        match self.consensus.hand_over(target).await {
            Ok(()) => Answer::Done(message::Done {}),
            Err(MembershipFailure::NotLeader { leader }) => failure(FailureKind::NotLeader, leader),
            Err(MembershipFailure::Pending(_)) => failure(FailureKind::Pending, None),
            Err(MembershipFailure::Refused(why)) => refused(why),
            Err(MembershipFailure::Stopped) => failure(FailureKind::Stopped, None),
        }
    }
}

/// One try of a question that may be asked again: there and back, and two round trips at most until a quorum has confirmed the
/// leader.
const QUESTION: Bound = (Duration::from_secs(1), 3);
/// An answer that was on its way when the leader changed still counts.
const LAST_WORD: Bound = (Duration::from_millis(100), 1);
/// Before a transfer is asked for again: longer than a transfer takes, shorter than an election.
const TRANSFER: Bound = (Duration::from_millis(300), 4);

/// What one try came to.
enum Attempt {
    Applied {
        reply: Reply,
        term: u64,
        index: u64,
    },
    Failed(ProposeError),
    /// Nothing happened.
    Again,
}

fn applied(reply: Reply, term: u64, index: u64) -> Result<Applied, ProposeError> {
    match reply.body {
        Some(ReplyBody::Rejected(code)) => {
            Err(ProposeError::Rejected(Rejection::try_from(code).unwrap_or(Rejection::Unspecified)))
        }
        _ => Ok(Applied { reply, term, index }),
    }
}

pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
