//! How a member finds its place: forming a cluster, taking over from a lost disk, announcing itself.
//!
//! # Forming
//!
//! The ids of the initial members follow from (token, name, peer URL), the cluster's id from the token and the ids, so
//! every member computes the same. A member forms the cluster when **every** initial member has answered `Hello`, from the
//! disk it will vote with: fresh, or formed with exactly this member's nonce.
//!
//! ```text
//!   a: fresh(na)     b: fresh(nb)     c: fresh(nc)
//!   a hears nb, nc  ──► a is a founder with {a: na, b: nb, c: nc}, synced, starts Raft
//!   b hears "formed with {b: nb, …}" from a, and nc ──► founder too
//!   c loses its disk, comes back with nc': hears "formed with {c: nc}" ──► never c again: asks to be replaced
//! ```
//!
//! Why every member, and not a majority: an id is a promise about what a disk remembers. Had a majority been enough, a
//! member that voted and then lost its disk could meet another empty one and form a second quorum with it.
//!
//! # Joining
//!
//! A member on an empty disk, whose cluster is formed without its nonce, first asks the leader for the id that an operator
//! may have added for its URL. The leader writes the disk's nonce beside the id, through the log, before it answers: from
//! then on the id belongs to that disk (`reconfigure.rs` has the rest of an addition).
//!
//! # Replacing
//!
//! If the URL's member has a disk already, that disk is lost. Then the member draws a random id, writes it down, and asks the
//! leader to take the place of the one with its peer URL. The leader adds it as a learner, waits until it has caught up
//! (usually by a snapshot), and changes the membership jointly: new one in, old one out. Each step is asked for again until
//! it is done, and each is idempotent, so neither side has to remember how far it got. The leader refuses, and says
//! why, when the voters that are left could not decide without the one being replaced.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quorate_consensus::message::answer::Answer;
use quorate_consensus::message::hello_response::State;
use quorate_consensus::message::question::Question;
use quorate_consensus::message::{self, FailureKind};
#[cfg(quorate_sim)]
use quorate_consensus::sim::{Rule, broken};
use quorate_consensus::{AskError, Bound, MembershipFailure, Node as PeerNode, Peer, Peers};

use crate::forward::refused;
use crate::handle::Inner;
use crate::identity::{Identity, Place, cluster_id, initial_id};
use crate::reconfigure::answer_of;
use crate::{Config, StartError};

/// One `Hello`. A peer that is up answers at once; one that is not is asked again.
const HELLO: Bound = (Duration::from_millis(500), 5);
/// Between two rounds of `Hello`.
const ROUND: Duration = Duration::from_millis(100);
/// Between two log lines about members that do not answer.
const REPORT: Duration = Duration::from_secs(5);
/// Between two questions of a member whether it still belongs: one small call to the leader.
const BELONGS: Duration = Duration::from_secs(3);
/// The same, of a member whose own log says that it does not; the leader may still take that back.
const SOON: Duration = Duration::from_millis(300);
/// A voter that answered within this counts as alive when a replacement is judged.
const ALIVE: Bound = (Duration::from_secs(2), 3);
/// Asking to be replaced: the leader answers at once with done, pending or refused.
const REPLACE: Bound = (Duration::from_secs(2), 5);
/// A learner catches up for at most this long before its request is answered "pending".
const CATCH_UP: Duration = Duration::from_secs(1);

/// What this member says of itself to others. Shared with the peer service.
pub(crate) struct Standing {
    pub(crate) token: String,
    /// Computed from the configuration.
    pub(crate) initial: BTreeMap<u64, PeerNode>,
    pub(crate) cluster: u64,
    pub(crate) id: u64,
    pub(crate) identity: Mutex<Identity>,
}

impl Standing {
    pub(crate) fn new(config: &Config, identity: Identity) -> Standing {
        let initial: BTreeMap<u64, PeerNode> = config
            .initial_cluster
            .iter()
            .map(|(name, url)| {
                let id = initial_id(&config.cluster_token, name, url);
                (id, PeerNode { name: name.clone(), url: url.clone(), ..PeerNode::default() })
            })
            .collect();
        Standing {
            token: config.cluster_token.clone(),
            cluster: cluster_id(&config.cluster_token, initial.keys().copied()),
            id: initial_id(&config.cluster_token, &config.name, &config.peer_advertise),
            initial,
            identity: Mutex::new(identity),
        }
    }

    /// Answers another member's introduction.
    pub(crate) fn hello(
        &self,
        hello: &message::HelloRequest,
        members: Vec<message::Node>,
    ) -> message::HelloResponse {
        let identity = self.identity.lock().clone();
        let state = if hello.token != self.token {
            State::Refused(format!("this member belongs to another cluster: its token is {:?}", self.token))
        } else {
            match identity.place {
                Place::Fresh => {
                    State::Fresh(message::Fresh { id: self.id, nonce: identity.nonce, cluster: self.cluster })
                }
                Place::Founder { cluster, id, founders } => {
                    let founders =
                        founders.into_iter().map(|(id, nonce)| message::Founder { id, nonce }).collect();
                    State::Formed(message::Formed { cluster, id, founders, members })
                }
                // It knows of no nonce: whoever is fresh beside it was not there at the beginning.
                Place::Replacement { cluster, id } | Place::Joined { cluster, id } => {
                    State::Formed(message::Formed { cluster, id, founders: Vec::new(), members })
                }
            }
        };
        message::HelloResponse { state: Some(state) }
    }
}

/// Decides where a fresh member belongs, and writes it down. Returns at once when that is known already.
pub(crate) async fn find_place(
    config: &Config,
    standing: &Standing,
    peers: &Peers,
) -> Result<Identity, StartError> {
    let identity = standing.identity.lock().clone();
    if identity.place != Place::Fresh {
        return Ok(identity);
    }
    let hello = message::HelloRequest {
        token: standing.token.clone(),
        from: Some(message::Node {
            id: standing.id,
            name: config.name.clone(),
            url: config.peer_advertise.clone(),
            ..message::Node::default()
        }),
        nonce: identity.nonce,
        cluster: standing.cluster,
    };
    let mut report = tokio::time::Instant::now() + REPORT;
    loop {
        let others = standing.initial.iter().filter(|(id, _)| **id != standing.id);
        let asked = others.map(|(id, node)| {
            let hello = hello.clone();
            async move { (*id, node, peers.hello(&node.url, hello, peers.patience(HELLO)).await) }
        });
        let answers = futures_util::future::join_all(asked).await;
        let mut silent = Vec::new();
        let mut founders = BTreeMap::from([(standing.id, identity.nonce)]);
        let mut formed: Option<message::Formed> = None;
        let mut everybody = Vec::new();
        let mut known_by_all = true;
        // Fresh, with another list. Of a cluster that is to be formed somebody has the wrong one; beside one that was formed it may be
        // a founder that has lost its disk, with the list of that day.
        let mut strangers = Vec::new();
        for (id, node, answer) in answers {
            match answer.map(|answer| answer.state) {
                Ok(Some(State::Fresh(fresh))) => {
                    if fresh.cluster == standing.cluster && fresh.id == id {
                        founders.insert(id, fresh.nonce);
                    } else {
                        strangers.push(node.url.clone());
                    }
                }
                Ok(Some(State::Formed(theirs))) => {
                    let ours = theirs.founders.iter().find(|founder| founder.id == standing.id);
                    let same_disk = |founder: &message::Founder| founder.nonce == identity.nonce;
                    #[cfg(quorate_sim)]
                    let same_disk = |founder: &_| same_disk(founder) || broken(Rule::EmptyDiskKeepsItsId);
                    known_by_all &= ours.is_some_and(same_disk);
                    for founder in &theirs.founders {
                        founders.entry(founder.id).or_insert(founder.nonce);
                    }
                    everybody.push((theirs.id, node.url.clone()));
                    everybody.extend(theirs.members.iter().map(|member| (member.id, member.url.clone())));
                    formed = Some(theirs);
                }
                Ok(Some(State::Refused(why))) => {
                    return Err(StartError::plain(format!("{} refused this member: {why}", node.url)));
                }
                Err(AskError::Refused(why)) => return Err(StartError::plain(why)),
                Ok(None) | Err(AskError::Unreachable(_) | AskError::Lost(_)) => silent.push(node.url.clone()),
            }
        }
        if let (Some(url), None, true) = (strangers.first(), &formed, config.new_cluster) {
            return Err(StartError::plain(format!(
                "the member at {url} was started with another initial cluster than this one; give all members the same list"
            )));
        }
        silent.extend(strangers);
        let place = match formed {
            // Somebody formed the cluster without this disk: whoever else is silent cannot change that.
            Some(formed) if !known_by_all => {
                match claim(config, identity.nonce, formed.cluster, everybody, peers).await? {
                    None => {
                        silent.push("the leader".to_owned());
                        None
                    }
                    Some(0) => {
                        let id = loop {
                            let id = fastrand::u64(1..);
                            if !standing.initial.contains_key(&id)
                                && formed.members.iter().all(|member| member.id != id)
                            {
                                break id;
                            }
                        };
                        tracing::warn!(
                            member = format!("{id:016x}"),
                            "the cluster was formed with another disk of this member; \
                            it joins as its replacement"
                        );
                        Some(Place::Replacement { cluster: formed.cluster, id })
                    }
                    Some(id) => Some(Place::Joined { cluster: formed.cluster, id }),
                }
            }
            Some(_) | None if !silent.is_empty() => None,
            Some(formed) => Some(Place::Founder { cluster: formed.cluster, id: standing.id, founders }),
            None if config.new_cluster => {
                Some(Place::Founder { cluster: standing.cluster, id: standing.id, founders })
            }
            None => {
                return Err(StartError::plain(
                    "no member of the existing cluster was found; to form a new one, set the initial cluster state to new",
                ));
            }
        };
        if let Some(place) = place {
            let identity = Identity { place, owner: Some(config.owner()), ..identity };
            identity.store(&config.data_dir)?;
            *standing.identity.lock() = identity.clone();
            return Ok(identity);
        }
        if tokio::time::Instant::now() >= report {
            report = tokio::time::Instant::now() + REPORT;
            tracing::info!(waiting_for = ?silent, "waiting for the initial members");
        }
        tokio::time::sleep(ROUND).await;
    }
}

/// Asks whoever leads for the id that was added for this member's URL. Some(0): that member has a disk already. None: nobody
/// could say.
async fn claim(
    config: &Config,
    nonce: u64,
    cluster: u64,
    everybody: Vec<(u64, String)>,
    peers: &Peers,
) -> Result<Option<u64>, StartError> {
    let node = message::Node {
        name: config.name.clone(),
        url: config.peer_advertise.clone(),
        nonce,
        ..message::Node::default()
    };
    // The peers' lists may be old; a leader that is not among them is met in another round.
    let mut asked: BTreeMap<u64, String> = BTreeMap::new();
    for (id, url) in everybody {
        if url == config.peer_advertise || asked.insert(id, url.clone()).is_some() {
            continue;
        }
        let question = Question::Claim(message::Claim { node: Some(node.clone()) });
        match peers
            .ask(cluster, id, &url, question, peers.patience(REPLACE))
            .await
            .map(|answer| answer.answer)
        {
            Ok(Some(Answer::Claimed(claimed))) => return Ok(Some(claimed.id)),
            Ok(Some(Answer::Failure(failure))) if failure.kind() == FailureKind::Refused => {
                return Err(StartError::plain(failure.why));
            }
            Ok(_) | Err(_) => {}
        }
    }
    Ok(None)
}

/// Waits until the leader has sent this member, which an operator added, the entry that says so. Err: it was removed before
/// that.
pub(crate) async fn taken_in(inner: &Inner) -> Result<(), StartError> {
    let mut failure = inner.consensus.failure();
    let mut report = tokio::time::Instant::now() + REPORT;
    loop {
        if inner.is_stopped() || inner.consensus.members().iter().any(|peer| peer.id == inner.id) {
            return Ok(());
        }
        if let Ok(Ok(sentence)) = tokio::time::timeout(ROUND, failure.wait_for(Option::is_some)).await {
            return Err(StartError::plain(sentence.clone().unwrap_or_default()));
        }
        if tokio::time::Instant::now() >= report {
            report = tokio::time::Instant::now() + REPORT;
            tracing::info!("waiting for the leader's log");
        }
    }
}

/// Asks the leader until this member has taken its place: a vote, if the one before it had one. Err: refused for good.
pub(crate) async fn take_over(inner: Arc<Inner>) -> Result<(), StartError> {
    let node = message::Node {
        id: inner.id,
        name: inner.config.name.clone(),
        url: inner.config.peer_advertise.clone(),
        ..message::Node::default()
    };
    let mut done = false;
    let mut leader: Option<(u64, String)> = None;
    let mut report = tokio::time::Instant::now() + REPORT;
    loop {
        if inner.is_stopped() {
            return Ok(());
        }
        let members = inner.consensus.members();
        if members.iter().any(|peer| peer.id == inner.id && (peer.voter || done))
            && !inner.consensus.is_joint()
        {
            return Ok(());
        }
        if leader.is_none() {
            leader = find_leader(&inner).await;
        }
        if let Some((id, url)) = leader.take() {
            let question = Question::Replace(message::Replace { node: Some(node.clone()) });
            let within = inner.peers.patience(REPLACE);
            let answer = inner.peers.ask(inner.cluster, id, &url, question, within).await;
            match answer.map(|answer| answer.answer) {
                Ok(Some(Answer::Done(_))) => {
                    done = true;
                    leader = Some((id, url));
                }
                Ok(Some(Answer::Failure(failure))) => match failure.kind() {
                    FailureKind::Refused => {
                        return Err(StartError::plain(format!(
                            "the leader refuses to replace this member: {}",
                            failure.why
                        )));
                    }
                    FailureKind::Pending => leader = Some((id, url)),
                    FailureKind::NotLeader
                    | FailureKind::Indeterminate
                    | FailureKind::Overloaded
                    | FailureKind::NoQuorum
                    | FailureKind::Stopped
                    | FailureKind::Unspecified => {}
                },
                Ok(_) | Err(_) => {}
            }
        }
        if tokio::time::Instant::now() >= report {
            report = tokio::time::Instant::now() + REPORT;
            tracing::info!("waiting to be taken in by the leader");
        }
        tokio::time::sleep(ROUND).await;
    }
}

/// Whoever leads, of the members that this one knows of and those of its configuration.
async fn find_leader(inner: &Inner) -> Option<(u64, String)> {
    let (hello, within) = (introduction(inner), inner.peers.patience(HELLO));
    let known = inner.consensus.members();
    let configured = inner.config.initial_cluster.iter().map(|(_, url)| url);
    let urls: std::collections::BTreeSet<&String> =
        known.iter().map(|peer| &peer.node.url).chain(configured).collect();
    for url in urls {
        if *url == inner.config.peer_advertise {
            continue;
        }
        let Ok(message::HelloResponse { state: Some(State::Formed(formed)) }) =
            inner.peers.hello(url, hello.clone(), within).await
        else {
            continue;
        };
        let question = Question::ReadIndex(message::ReadIndex {});
        match inner
            .peers
            .ask(inner.cluster, formed.id, url, question, within)
            .await
            .map(|answer| answer.answer)
        {
            Ok(Some(Answer::ReadAt(_))) => return Some((formed.id, url.clone())),
            Ok(Some(Answer::Failure(failure))) if failure.leader != 0 => {
                let leader = formed.members.into_iter().find(|member| member.id == failure.leader);
                if let Some(leader) = leader {
                    return Some((leader.id, leader.url));
                }
            }
            Ok(_) | Err(_) => {}
        }
    }
    None
}

/// Ends a member that was removed, or whose place was taken: nobody talks to it any more, so it would wait for a leader for
/// good.
///
/// Its own log need not say so (the change may come after it was cut off), and the leader that it remembers is no sign of
/// life: voters refuse to be asked for a vote by somebody who is no member, and it goes on waiting. So it asks, the leader it
/// knows or whoever leads, and believes only one that a quorum confirms.
pub(crate) async fn notice_removal(inner: Arc<Inner>) {
    #[cfg(quorate_sim)]
    if broken(Rule::RemovedMemberGoesOn) {
        return;
    }
    loop {
        let belongs = inner.consensus.members().iter().any(|peer| peer.id == inner.id);
        tokio::time::sleep(if belongs { BELONGS } else { SOON }).await;
        if inner.is_stopped() {
            return;
        }
        if inner.consensus.leads() || !is_missing(&inner).await {
            continue;
        }
        inner.consensus.fail(format!(
            "the cluster has replaced this member ({:016x}) or removed it; to have it back, add it again if it was removed, \
             and start it with an empty data directory, so that it joins under a new id, instead of {}",
            inner.id,
            inner.config.data_dir.display()
        ));
        return;
    }
}

/// True when a confirmed leader does not have this member in its membership.
async fn is_missing(inner: &Inner) -> bool {
    let known = inner.consensus.role().borrow().leader;
    let known = known.and_then(|leader| inner.consensus.members().into_iter().find(|peer| peer.id == leader));
    if let Some(leader) = known
        && let Some(false) = lacks_us(inner, leader.id, &leader.node.url).await
    {
        // Whether it leads or not: it takes us for a member, so somebody will talk to us.
        return false;
    }
    match find_leader(inner).await {
        Some((leader, url)) => lacks_us(inner, leader, &url).await == Some(true),
        None => false,
    }
}

/// None: it did not answer, or is another one than was asked.
async fn lacks_us(inner: &Inner, leader: u64, url: &str) -> Option<bool> {
    let within = inner.peers.patience(HELLO);
    let answer = inner.peers.hello(url, introduction(inner), within).await.ok()?;
    let Some(State::Formed(formed)) = answer.state else { return None };
    let it = formed.id == leader && formed.cluster == inner.cluster && !formed.members.is_empty();
    it.then(|| formed.members.iter().all(|member| member.id != inner.id))
}

fn introduction(inner: &Inner) -> message::HelloRequest {
    message::HelloRequest {
        token: inner.config.cluster_token.clone(),
        from: Some(message::Node {
            id: inner.id,
            name: inner.config.name.clone(),
            url: inner.config.peer_advertise.clone(),
            ..message::Node::default()
        }),
        nonce: inner.standing.identity.lock().nonce,
        cluster: inner.cluster,
    }
}

impl Inner {
    /// A member on an empty disk asks for a place. Each step is idempotent.
    pub(crate) async fn answer_replace(&self, replace: message::Replace) -> Answer {
        let Some(node) = replace.node else { return refused("the request names no member".to_owned()) };
        match self.replace(&node).await {
            Ok(()) => Answer::Done(message::Done {}),
            Err(failure) => answer_of(failure),
        }
    }

    async fn replace(&self, node: &message::Node) -> Result<(), MembershipFailure> {
        if !self.consensus.leads() {
            return Err(MembershipFailure::NotLeader { leader: self.consensus.role().borrow().leader });
        }
        // One replacement at a time; the others ask again.
        let Ok(_one) = self.replacing.try_lock() else {
            return Err(MembershipFailure::Pending("another member is being replaced".to_owned()));
        };
        let members = self.consensus.members();
        let newcomer = members.iter().find(|peer| peer.id == node.id);
        if newcomer.is_some_and(|peer| peer.voter) && !self.consensus.is_joint() {
            return Ok(());
        }
        let old = members.iter().find(|peer| peer.voter && peer.node.url == node.url && peer.id != node.id);
        let Some(old) = old else { return self.replace_learner(node, &members).await };
        let healthy = self.consensus.healthy_voters(self.peers.patience(ALIVE));
        let voters = members.iter().filter(|peer| peer.voter).count();
        let without = healthy.iter().filter(|id| **id != old.id).count();
        if without < voters / 2 + 1 {
            return Err(MembershipFailure::Pending(format!(
                "{without} of {voters} voters are alive without the member that is to be replaced, {} are needed; bring \
                 another member back first",
                voters / 2 + 1
            )));
        }
        // Learners left over from earlier attempts under the same URL will never answer.
        let stale =
            members.iter().filter(|peer| !peer.voter && peer.node.url == node.url && peer.id != node.id);
        let stale: std::collections::BTreeSet<u64> = stale.map(|peer| peer.id).collect();
        if !stale.is_empty() {
            self.consensus.remove_learners(stale).await?;
        }
        if newcomer.is_none() {
            tracing::info!(
                member = format!("{:016x}", node.id),
                replaces = format!("{:016x}", old.id),
                peer = node.url,
                "a member on an empty disk joins as a learner"
            );
            let peer = PeerNode { name: node.name.clone(), url: node.url.clone(), ..PeerNode::default() };
            self.consensus.add_learner(node.id, peer).await?;
        }
        let until = tokio::time::Instant::now() + CATCH_UP;
        while !self.consensus.is_caught_up(node.id) {
            if tokio::time::Instant::now() >= until {
                return Err(MembershipFailure::Pending("it is catching up".to_owned()));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.consensus.replace_voter(old.id, node.id).await?;
        tracing::info!(
            member = format!("{:016x}", node.id),
            replaces = format!("{:016x}", old.id),
            "the member on the new disk has the vote"
        );
        Ok(())
    }

    /// The one that lost its disk has no vote yet: the newcomer takes over what it was to become.
    async fn replace_learner(&self, node: &message::Node, members: &[Peer]) -> Result<(), MembershipFailure> {
        let old: Vec<&Peer> =
            members.iter().filter(|peer| peer.node.url == node.url && peer.id != node.id).collect();
        if members.iter().all(|peer| peer.id != node.id) {
            if old.is_empty() {
                return Err(MembershipFailure::Refused(format!(
                    "no member of this cluster has the peer URL {}",
                    node.url
                )));
            }
            let peer = PeerNode {
                name: node.name.clone(),
                url: node.url.clone(),
                promote: old.iter().any(|peer| peer.node.promote),
                ..PeerNode::default()
            };
            self.consensus.add_learner(node.id, peer).await?;
        }
        let old: std::collections::BTreeSet<u64> = old.iter().map(|peer| peer.id).collect();
        if !old.is_empty() {
            self.consensus.remove_learners(old).await?;
        }
        Ok(())
    }
}
