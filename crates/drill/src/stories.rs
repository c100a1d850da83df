//! The stories: each reads like a runbook, and each returns what clients saw.

mod cut;
mod killed;
mod lost;
pub(crate) mod planned;
mod quorum;
mod rest;
mod start;
mod stopped;
mod store;

use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;

use crate::cluster::Cluster;
use crate::observer::{Timeline, observe};
use crate::report::{Report, Round};
use crate::stage::{SETTLE, Stage};
use crate::writer;

/// What happens to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Story {
    /// The primary's node is lost and comes back; its voter follows
    Failover,
    /// The primary's node is lost while its voter leads the store
    FailoverStoreLeader,
    /// The primary's node is cut off without a word, both ways
    Cut,
    /// What the primary's node sends is lost; it still hears the others
    CutOutgoing,
    /// The primary's node hears nobody; the others hear it
    CutIncoming,
    /// The primary and one standby do not hear each other
    CutBetween,
    /// The primary is cut off; when it is back, before it has rewound, the new one is cut off
    TwoCuts,
    /// The primary's agent is stopped (SIGSTOP) and continued later
    AgentStopped,
    /// The primary's agent alone is killed and started again at once
    AgentRestarted,
    /// The primary's agent alone is killed, and started again when somebody else writes
    AgentKilled,
    /// The primary's guard alone is killed
    GuardKilled,
    /// The primary's agent and guard are killed, PostgreSQL is not (in the synchronous modes)
    BothKilled,
    /// The primary's postmaster is killed
    PostmasterKilled,
    /// A planned switchover
    Switchover,
    /// Two of three nodes are lost, then one returns
    QuorumLoss,
    /// Every node is killed at the same moment and started again
    AllKilled,
    /// The leader of the store, not the primary, is killed
    StoreLeaderKilled,
    /// The first start, from empty directories
    FirstStart,
    /// Nothing happens: what the process takes at rest
    Memory,
    /// What nodes send each other is delayed by 100, then 500 ms
    Delay,
}

impl Story {
    /// As on the command line.
    #[must_use]
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Whether it needs a network that can be cut.
    #[must_use]
    pub fn cuts(self) -> bool {
        match self {
            Story::Cut
            | Story::CutOutgoing
            | Story::CutIncoming
            | Story::CutBetween
            | Story::TwoCuts
            | Story::Delay => true,
            Story::Failover
            | Story::FailoverStoreLeader
            | Story::AgentStopped
            | Story::AgentRestarted
            | Story::AgentKilled
            | Story::GuardKilled
            | Story::BothKilled
            | Story::PostmasterKilled
            | Story::Switchover
            | Story::QuorumLoss
            | Story::AllKilled
            | Story::StoreLeaderKilled
            | Story::FirstStart
            | Story::Memory => false,
        }
    }

    /// Whether nothing but standbys that do not confirm holds the old primary back. In asynchronous mode it would acknowledge to its
    /// clients until somebody starts the node again, which only a watchdog device prevents.
    #[must_use]
    pub fn needs_confirmation(self) -> bool {
        self == Story::BothKilled
    }

    /// How long a cut or a stop is held when nobody says: long enough to see what the old side does after its lease.
    #[must_use]
    pub fn hold(self, ttl: Duration) -> Duration {
        match self {
            Story::AgentStopped => Duration::from_secs(60),
            _ => ttl * 2,
        }
    }

    /// How often a round waits for the whole hold; for estimates.
    #[must_use]
    pub fn holds(self) -> u32 {
        match self {
            Story::Failover
            | Story::FailoverStoreLeader
            | Story::PostmasterKilled
            | Story::Switchover
            | Story::AllKilled
            | Story::FirstStart
            | Story::Memory => 0,
            Story::Cut
            | Story::CutOutgoing
            | Story::CutIncoming
            | Story::CutBetween
            | Story::AgentStopped
            | Story::AgentRestarted
            | Story::AgentKilled
            | Story::GuardKilled
            | Story::BothKilled
            | Story::QuorumLoss
            | Story::StoreLeaderKilled => 1,
            Story::TwoCuts | Story::Delay => 2,
        }
    }

    async fn round(self, stage: &mut Stage<'_>) -> Result<Round> {
        match self {
            Story::Failover => lost::node(stage, lost::Voter::Follows).await,
            Story::FailoverStoreLeader => lost::node(stage, lost::Voter::Leads).await,
            Story::Cut => cut::primary(stage, cut::Direction::Both).await,
            Story::CutOutgoing => cut::primary(stage, cut::Direction::Outgoing).await,
            Story::CutIncoming => cut::primary(stage, cut::Direction::Incoming).await,
            Story::CutBetween => cut::between(stage).await,
            Story::TwoCuts => cut::twice(stage).await,
            Story::AgentStopped => stopped::agent(stage).await,
            Story::AgentRestarted => killed::agent_and_restarted(stage).await,
            Story::AgentKilled => killed::keepers(stage, killed::Keepers::Agent).await,
            Story::GuardKilled => killed::guard(stage).await,
            Story::BothKilled => killed::keepers(stage, killed::Keepers::Both).await,
            Story::PostmasterKilled => killed::postmaster(stage).await,
            Story::Switchover => planned::switchover(stage).await,
            Story::QuorumLoss => quorum::two_lost(stage).await,
            Story::AllKilled => quorum::all_killed(stage).await,
            Story::StoreLeaderKilled => store::leader_killed(stage).await,
            Story::FirstStart => start::first(stage).await,
            Story::Memory => rest::memory(stage).await,
            Story::Delay => rest::delay(stage).await,
        }
    }
}

/// Starts every node and waits until the cluster is at rest.
///
/// # Errors
/// When a node ends by itself or the cluster does not come up.
pub async fn build(cluster: &mut Cluster, timeline: &Timeline) -> Result<()> {
    for index in 0..cluster.nodes.len() {
        cluster.start(index)?;
    }
    let _observer = observe(cluster, timeline);
    cluster.wait_until("primary", SETTLE, async |cluster| cluster.primary().await.is_some()).await?;
    cluster.wait_until("streaming standbys", SETTLE, async |cluster| cluster.whole().await).await
}

/// A drill: what was seen, and the error that ended it early, if one did.
#[derive(Debug)]
pub struct Told {
    /// The rounds that came to their end.
    pub report: Report,
    /// Why there are not more.
    pub failure: Option<anyhow::Error>,
}

impl Told {
    /// The report of a drill that came to its end.
    ///
    /// # Errors
    /// Why it did not.
    pub fn complete(self) -> Result<Report> {
        match self.failure {
            Some(failure) => Err(failure),
            None => Ok(self.report),
        }
    }
}

/// Tells `story` `rounds` times in a row, each time with whoever is primary then. `after` is called when a round is over.
///
/// # Errors
/// When what was written cannot be read at the end. Lost rows are no error here: they are the report's verdict.
pub async fn tell(
    cluster: &mut Cluster,
    timeline: &Timeline,
    story: Story,
    rounds: usize,
    hold: Option<Duration>,
    mut after: impl FnMut(&Round),
) -> Result<Told> {
    let observer = observe(cluster, timeline);
    let hold = hold.unwrap_or_else(|| story.hold(cluster.ttl()));
    // The cluster may have been another story's.
    writer::clear(&cluster.target()).await?;
    let mut stage = Stage::new(cluster, timeline, hold);
    let mut failure = None;
    while stage.rounds() < rounds && failure.is_none() {
        match story.round(&mut stage).await {
            Ok(round) => {
                after(&round);
                stage.done(round);
            }
            Err(error) => failure = Some(error),
        }
    }
    drop(observer);
    match (stage.report(story.name()).await, failure) {
        (Ok(report), failure) => Ok(Told { report, failure }),
        // The first reason is the better one: a cluster that does not come back cannot be read either.
        (Err(_), Some(failure)) => Err(failure),
        (Err(error), None) => Err(error),
    }
}
