//! Changes of the membership that an operator asks for: what is allowed, and how it is done.
//!
//! # Adding
//!
//! etcd adds a voter at once, and a cluster of one then takes no write until the new member has started. Here an added
//! member is always a learner at first, with a note whether it is to vote; the leader gives it the vote when it has caught
//! up. Clients see what they asked for (a member that is to vote is no learner to them), and no addition can cost the
//! quorum.
//!
//! ```text
//!   add ──► vacant: an id and a URL ──claim──► a disk has it ──catches up──► voter, if it is to vote
//! ```
//!
//! An id is never used on another disk: the leader writes the nonce of the disk that claims a vacant id into the
//! membership, and whoever comes to that URL with another nonce is a lost disk, replaced under an id of its own.
//!
//! # Refusing
//!
//! By etcd's rules (`server/etcdserver/server.go`: `mayAddMember`, `mayRemoveMember`, `mayPromoteMember`;
//! `api/membership/cluster.go`) with two differences. A learner may be added while a voter is dead, because that is how a
//! dead one is replaced and it touches no quorum. And a promotion needs living voters, not only started ones.
//!
//! # Asking
//!
//! Any member takes a change and asks the leader, again and again until the deadline. Every change can be asked for twice:
//! an addition carries its id, and what a repeated removal or promotion finds done is taken for its own work.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use quorate_consensus::message::answer::Answer;
use quorate_consensus::message::question::Question;
use quorate_consensus::message::reconfigure::Change;
use quorate_consensus::message::{self, FailureKind, Refusal};
use quorate_consensus::{Bound, ConfirmFailure, MembershipFailure, Node as PeerNode, Peer};
use tokio::time::Instant;

use crate::config::is_peer_url;
use crate::forward::{NoAnswer, failure, refused};
use crate::handle::Inner;
use crate::{Handle, Member, MemberError, ReadError};

/// A quorum confirms the leader before it judges anything.
const CONFIRM: Duration = Duration::from_secs(1);
/// A voter that answered within this counts as alive. Heartbeats come every 80 ms.
const ALIVE: Bound = (Duration::from_secs(2), 3);
/// A leader that was just elected has not heard everybody yet: it is given this long before it calls anybody dead.
const HEARD: Duration = Duration::from_secs(1);
/// One try at the leader: two entries through the log, or a transfer of the leadership.
const TRY: Duration = Duration::from_secs(3);
/// Between two looks of the leader at who could be given a vote.
const LOOK: Duration = Duration::from_millis(200);
/// A transfer takes a few round trips.
const HAND_OVER: Duration = Duration::from_secs(1);
/// A learner counts as in sync from here on: etcd's `readyPercentThreshold`, in percent of the leader's log.
const IN_SYNC_PERCENT: u64 = 90;

/// Why the leader did not do it.
enum Stop {
    Refused(Refusal),
    Failed(MembershipFailure),
}

impl From<MembershipFailure> for Stop {
    fn from(failure: MembershipFailure) -> Stop {
        Stop::Failed(failure)
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Stop {
        Stop::Refused(refusal)
    }
}

impl Handle {
    /// Whether member `id` has a vote now, and may therefore lead.
    #[must_use]
    pub fn can_lead(&self, id: u64) -> bool {
        self.inner.consensus.members().iter().any(|peer| peer.id == id && peer.voter)
    }

    /// The size of this member's database that raises NOSPACE, in bytes. None: there is no limit.
    #[must_use]
    pub fn quota_bytes(&self) -> Option<u64> {
        self.inner.config.quota_bytes
    }

    /// Adds a member at `peer_url` (http://host:port), as a learner or as one that votes once it has caught up. It has no
    /// name until it has started. Its id is new.
    pub async fn add_member(
        &self,
        peer_url: &str,
        learner: bool,
        timeout: Duration,
    ) -> Result<Member, MemberError> {
        if !is_peer_url(peer_url) {
            return Err(MemberError::InvalidUrl);
        }
        let node = message::Node {
            id: fastrand::u64(1..),
            name: String::new(),
            url: peer_url.to_owned(),
            nonce: 0,
            vacant: true,
            promote: !learner,
        };
        self.inner.reconfigure(Change::Add(node.clone()), timeout).await?;
        Ok(Member {
            id: node.id,
            name: String::new(),
            peer_urls: vec![node.url],
            client_urls: Vec::new(),
            is_learner: learner,
        })
    }

    /// Removes a member, dead or alive; alive, it stops and says why. The leader hands over first.
    pub async fn remove_member(&self, id: u64, timeout: Duration) -> Result<(), MemberError> {
        self.inner.reconfigure(Change::Remove(message::RemoveMember { id }), timeout).await
    }

    /// Gives a member another peer URL. It stays what it is, a voter or a learner; the member itself has to be started with
    /// that URL.
    pub async fn update_member(&self, id: u64, peer_url: &str, timeout: Duration) -> Result<(), MemberError> {
        if !is_peer_url(peer_url) {
            return Err(MemberError::InvalidUrl);
        }
        let update = message::UpdateMember { id, url: peer_url.to_owned() };
        self.inner.reconfigure(Change::Update(update), timeout).await
    }

    /// Gives a learner a vote, if it has nearly everything that the leader has.
    pub async fn promote_member(&self, id: u64, timeout: Duration) -> Result<(), MemberError> {
        self.inner.reconfigure(Change::Promote(message::PromoteMember { id }), timeout).await
    }
}

impl Inner {
    async fn reconfigure(&self, change: Change, timeout: Duration) -> Result<(), MemberError> {
        let deadline = Instant::now() + timeout;
        let request = message::Reconfigure { change: Some(change) };
        // An earlier try may have done it: then "there is nothing to do" is no refusal.
        let mut maybe_done = false;
        let mut outcome = ReadError::NoLeader;
        loop {
            if self.is_stopped() {
                return Err(MemberError::Unanswered(ReadError::Stopped));
            }
            let leader = self.consensus.role().borrow().leader;
            let within = deadline.saturating_duration_since(Instant::now()).min(TRY);
            let answer = match leader {
                None => Err(NoAnswer::NotReceived),
                Some(leader) if leader == self.id => {
                    Ok(self.answer_reconfigure(request.clone(), within).await)
                }
                Some(leader) => self.ask_leader(leader, Question::Reconfigure(request.clone()), within).await,
            };
            match answer {
                Ok(Answer::Done(_)) => {
                    // So that this member's list shows it. It may be the one that was removed.
                    let left = deadline.saturating_duration_since(Instant::now()).min(TRY);
                    let _ = self.read_barrier(left).await;
                    return Ok(());
                }
                Ok(Answer::Failure(failure)) => match failure.kind() {
                    FailureKind::Refused => {
                        let done = match failure.refusal() {
                            Refusal::MemberNotFound => {
                                matches!(&request.change, Some(Change::Remove(_)))
                            }
                            Refusal::NotALearner => matches!(&request.change, Some(Change::Promote(_))),
                            _ => false,
                        };
                        if maybe_done && done {
                            return Ok(());
                        }
                        return Err(MemberError::of(failure.refusal()));
                    }
                    FailureKind::Pending | FailureKind::Indeterminate => {
                        maybe_done = true;
                        outcome = ReadError::TimedOut;
                    }
                    FailureKind::NoQuorum => outcome = ReadError::TimedOut,
                    FailureKind::NotLeader
                    | FailureKind::Overloaded
                    | FailureKind::Stopped
                    | FailureKind::Unspecified => {}
                },
                Ok(_) | Err(NoAnswer::Unknown) => {
                    maybe_done = true;
                    outcome = ReadError::TimedOut;
                }
                Err(NoAnswer::NotReceived) => {}
            }
            if !self.pause(deadline).await {
                return Err(MemberError::Unanswered(outcome));
            }
        }
    }

    /// A change, at the leader. Not passed on.
    pub(crate) async fn answer_reconfigure(&self, request: message::Reconfigure, within: Duration) -> Answer {
        let Some(change) = request.change else { return refused("the request names no change".to_owned()) };
        match tokio::time::timeout(within, self.reconfigure_here(change)).await {
            Ok(Ok(())) => Answer::Done(message::Done {}),
            Ok(Err(Stop::Refused(refusal))) => Answer::Failure(message::Failure {
                kind: FailureKind::Refused.into(),
                leader: 0,
                why: String::new(),
                refusal: refusal.into(),
            }),
            Ok(Err(Stop::Failed(failure))) => answer_of(failure),
            Err(_) => failure(FailureKind::Indeterminate, None),
        }
    }

    async fn reconfigure_here(&self, change: Change) -> Result<(), Stop> {
        self.confirm_leadership().await?;
        // One change at a time; the others ask again.
        let Ok(_one) = self.replacing.try_lock() else { return Err(busy().into()) };
        if self.consensus.is_joint() {
            self.consensus.leave_joint().await?;
        }
        let members = self.consensus.members();
        match change {
            Change::Add(node) => self.add_here(&members, node).await,
            Change::Remove(message::RemoveMember { id }) => self.remove_here(&members, id).await,
            Change::Update(message::UpdateMember { id, url }) => {
                let Some(peer) = members.iter().find(|peer| peer.id == id) else {
                    return Err(Refusal::MemberNotFound.into());
                };
                if members.iter().any(|other| other.id != id && other.node.url == url) {
                    return Err(Refusal::UrlExists.into());
                }
                if peer.node.url != url {
                    // Everything else stays, whether it votes above all.
                    self.consensus.set_node(id, PeerNode { url, ..peer.node.clone() }).await?;
                }
                Ok(())
            }
            Change::Promote(message::PromoteMember { id }) => {
                let Some(peer) = members.iter().find(|peer| peer.id == id) else {
                    return Err(Refusal::MemberNotFound.into());
                };
                if votes(peer) {
                    return Err(Refusal::NotALearner.into());
                }
                let in_sync = self
                    .consensus
                    .progress(id)
                    .is_some_and(|(has, last)| has.saturating_mul(100) >= last * IN_SYNC_PERCENT);
                if peer.node.vacant || !in_sync {
                    return Err(Refusal::LearnerNotReady.into());
                }
                self.check_promote(&members).await?;
                self.consensus.promote(id).await?;
                tracing::info!(member = format!("{id:016x}"), url = peer.node.url, "a learner has the vote");
                Ok(())
            }
        }
    }

    async fn add_here(&self, members: &[Peer], node: message::Node) -> Result<(), Stop> {
        if let Some(known) = members.iter().find(|peer| peer.id == node.id) {
            // Asked for again; or a random id that is taken, which practically never happens.
            return if known.node.url == node.url { Ok(()) } else { Err(Refusal::IdExists.into()) };
        }
        if members.iter().any(|peer| peer.node.url == node.url) {
            return Err(Refusal::UrlExists.into());
        }
        if node.promote {
            let voters = members.iter().filter(|peer| votes(peer)).count() + 1;
            let started = members.iter().filter(|peer| votes(peer) && !peer.node.vacant).count();
            // The second member of a cluster of one cannot have started before it was added.
            if started < voters / 2 + 1 && !(started == 1 && voters == 2) {
                return Err(Refusal::NotEnoughStarted.into());
            }
            let all = members.iter().filter(|peer| peer.voter).count();
            if !self.hear(|alive| alive.len() == all).await {
                return Err(Refusal::Unhealthy.into());
            }
            if voters == 2 {
                tracing::warn!(
                    "two voters tolerate no failure: losing either one stops writes; add a third, or a witness"
                );
            }
        } else if members.iter().filter(|peer| !votes(peer)).count() >= self.config.max_learners {
            return Err(Refusal::TooManyLearners.into());
        }
        let (id, url) = (node.id, node.url.clone());
        self.consensus.add_learner(id, quorate_consensus::node_from_wire(node)).await?;
        tracing::info!(member = format!("{id:016x}"), url, "a member was added");
        Ok(())
    }

    async fn remove_here(&self, members: &[Peer], id: u64) -> Result<(), Stop> {
        let Some(peer) = members.iter().find(|peer| peer.id == id) else {
            return Err(Refusal::MemberNotFound.into());
        };
        if votes(peer) {
            let left = members.iter().filter(|other| votes(other) && other.id != id).count();
            let started =
                members.iter().filter(|other| votes(other) && other.id != id && !other.node.vacant).count();
            if left == 0 || started < left / 2 + 1 {
                return Err(Refusal::NotEnoughStarted.into());
            }
            if left == 2 {
                tracing::warn!(
                    "two voters tolerate no failure: losing either one stops writes; add a third, or a witness"
                );
            }
        }
        if !peer.voter {
            self.consensus.remove_learners(BTreeSet::from([id])).await?;
        } else {
            let left = members.iter().filter(|other| other.voter && other.id != id).count();
            if left == 0 {
                return Err(Refusal::NotEnoughStarted.into());
            }
            let enough =
                |alive: &BTreeSet<u64>| alive.iter().filter(|other| **other != id).count() > left / 2;
            if !self.hear(enough).await {
                return Err(Refusal::Unhealthy.into());
            }
            if id == self.id {
                return Err(self.step_aside().await.into());
            }
            self.consensus.remove_voter(id).await?;
        }
        tracing::info!(member = format!("{id:016x}"), url = peer.node.url, "a member was removed");
        Ok(())
    }

    /// A leader that is to be removed hands over first: a round trip without a leader instead of an election. Whoever leads
    /// then is asked again.
    async fn step_aside(&self) -> MembershipFailure {
        if let Some(successor) = self.consensus.best_successor()
            && self.consensus.hand_over(successor).await.is_ok()
        {
            let mut role = self.consensus.role();
            let moved = role.wait_for(|role| role.leader.is_some_and(|leader| leader != self.id));
            if let Ok(Ok(role)) = tokio::time::timeout(HAND_OVER, moved).await {
                return MembershipFailure::NotLeader { leader: role.leader };
            }
        }
        MembershipFailure::Pending("the leadership is handed over first".to_owned())
    }

    /// A started learner joins the voters: those must be able to decide with it and without luck.
    async fn check_promote(&self, members: &[Peer]) -> Result<(), Stop> {
        let voters = members.iter().filter(|peer| votes(peer) || peer.voter).count() + 1;
        let started = members.iter().filter(|peer| votes(peer) && !peer.node.vacant).count() + 1;
        if started < voters / 2 + 1 {
            return Err(Refusal::NotEnoughStarted.into());
        }
        let voting = members.iter().filter(|peer| peer.voter).count() + 1;
        if !self.hear(|alive| alive.len() + 1 > voting / 2).await {
            return Err(Refusal::Unhealthy.into());
        }
        Ok(())
    }

    /// Whether the voters that are alive are `enough`, now or in a moment.
    async fn hear(&self, enough: impl Fn(&BTreeSet<u64>) -> bool) -> bool {
        let until = Instant::now() + HEARD;
        loop {
            if enough(&self.consensus.healthy_voters(self.peers.patience(ALIVE))) {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A leader that was cut off must not judge by an old membership.
    async fn confirm_leadership(&self) -> Result<(), Stop> {
        match self.consensus.confirm(CONFIRM).await {
            Ok(_) => Ok(()),
            Err(ConfirmFailure::NotLeader { leader }) => Err(MembershipFailure::NotLeader { leader }.into()),
            // Then no change could be decided either.
            Err(ConfirmFailure::NoQuorum) => Err(Refusal::Unhealthy.into()),
            Err(ConfirmFailure::Stopped) => Err(MembershipFailure::Stopped.into()),
        }
    }

    /// A member on an empty disk asks for the id that was added for its URL. Idempotent for one disk.
    pub(crate) async fn answer_claim(&self, claim: message::Claim) -> Answer {
        let Some(node) = claim.node else { return refused("the request names no member".to_owned()) };
        match self.claim(&node).await {
            Ok(id) => Answer::Claimed(message::Claimed { id }),
            Err(failure) => answer_of(failure),
        }
    }

    async fn claim(&self, node: &message::Node) -> Result<u64, MembershipFailure> {
        match self.confirm_leadership().await {
            Ok(()) => {}
            Err(Stop::Failed(failure)) => return Err(failure),
            Err(Stop::Refused(_)) => return Err(MembershipFailure::Pending("no quorum answers".to_owned())),
        }
        let Ok(_one) = self.replacing.try_lock() else { return Err(busy()) };
        let members = self.consensus.members();
        let at_url = |peer: &&Peer| peer.node.url == node.url;
        let Some(peer) = members.iter().find(at_url) else {
            return Err(MembershipFailure::Refused(format!(
                "the cluster has no member with the peer URL {url}; add it first: quoratectl member add {name} \
                 --peer-urls={url}",
                url = node.url,
                name = node.name,
            )));
        };
        if peer.node.vacant {
            let taken =
                PeerNode { name: node.name.clone(), nonce: node.nonce, vacant: false, ..peer.node.clone() };
            self.consensus.set_node(peer.id, taken).await?;
            tracing::info!(
                member = format!("{:016x}", peer.id),
                name = node.name,
                "an added member is there"
            );
            return Ok(peer.id);
        }
        let same_disk = members.iter().filter(at_url).find(|peer| peer.node.nonce == node.nonce);
        Ok(same_disk.filter(|_| node.nonce != 0).map_or(0, |peer| peer.id))
    }
}

/// As clients see it: a learner that is to vote is on its way, not a learner.
pub(crate) fn votes(peer: &Peer) -> bool {
    peer.voter || peer.node.promote
}

fn busy() -> MembershipFailure {
    MembershipFailure::Pending("another change of the membership is under way".to_owned())
}

/// A failure on its way to who asked.
pub(crate) fn answer_of(error: MembershipFailure) -> Answer {
    match error {
        MembershipFailure::NotLeader { leader } => failure(FailureKind::NotLeader, leader),
        MembershipFailure::Pending(why) => Answer::Failure(message::Failure {
            kind: FailureKind::Pending.into(),
            leader: 0,
            why,
            refusal: Refusal::Unspecified.into(),
        }),
        MembershipFailure::Refused(why) => refused(why),
        MembershipFailure::Stopped => failure(FailureKind::Stopped, None),
    }
}

impl MemberError {
    fn of(refusal: Refusal) -> MemberError {
        match refusal {
            Refusal::MemberNotFound => MemberError::NotFound,
            Refusal::UrlExists => MemberError::UrlExists,
            Refusal::NotALearner => MemberError::NotLearner,
            Refusal::LearnerNotReady => MemberError::LearnerNotReady,
            Refusal::TooManyLearners => MemberError::TooManyLearners,
            Refusal::NotEnoughStarted => MemberError::NotEnoughStarted,
            Refusal::IdExists => MemberError::IdExists,
            // A leader of another version has its own reasons: ask again later.
            Refusal::Unhealthy | Refusal::Unspecified => MemberError::Unhealthy,
        }
    }
}

/// On the leader: gives the vote to added members that have caught up, and ends a joint membership that another leader left
/// behind.
pub(crate) async fn promote_when_caught_up(inner: Arc<Inner>) {
    let mut was_joint = false;
    loop {
        tokio::time::sleep(LOOK).await;
        if !inner.consensus.leads() {
            was_joint = false;
            continue;
        }
        let members = inner.consensus.members();
        let joint = inner.consensus.is_joint();
        let ready = members.iter().find(|peer| {
            !peer.voter && peer.node.promote && !peer.node.vacant && inner.consensus.is_caught_up(peer.id)
        });
        if ready.is_none() && !(joint && was_joint) {
            was_joint = joint;
            continue;
        }
        let Ok(_one) = inner.replacing.try_lock() else { continue };
        let done = if joint {
            inner.consensus.leave_joint().await.map_err(Stop::from)
        } else if let Some(peer) = ready {
            inner.give_vote(&members, peer).await
        } else {
            Ok(())
        };
        was_joint = false;
        if let Err(Stop::Failed(error)) = done {
            tracing::debug!(%error, "the membership is looked at again");
        }
    }
}

impl Inner {
    async fn give_vote(&self, members: &[Peer], peer: &Peer) -> Result<(), Stop> {
        let voting = members.iter().filter(|peer| peer.voter).count() + 1;
        // Alive with the new one, or the change would stop the cluster. Then it stays a learner until more are alive.
        if self.consensus.healthy_voters(self.peers.patience(ALIVE)).len() + 1 < voting / 2 + 1 {
            return Err(Refusal::Unhealthy.into());
        }
        self.consensus.promote(peer.id).await?;
        tracing::info!(
            member = format!("{:016x}", peer.id),
            name = peer.node.name,
            "the added member has caught up and has the vote"
        );
        Ok(())
    }
}
