//! What is going to happen to a cluster, as data: drawn by a seed, or written down by a test.
//!
//! A plan names roles and not nodes (`after` the primary, whoever that is by then), so that it means the same after a
//! failover. Kinds come from a shuffled deck: when it is empty every kind has happened once, and it is shuffled again.

use crate::cluster::Cluster;
use crate::netns::Cut;

/// What is done to one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Cut off, both ways.
    Cut,
    /// What it sends is lost.
    CutOutgoing,
    /// What is sent to it is lost.
    CutIncoming,
    /// It and the node after it do not hear each other.
    CutBetween,
    /// Its store and the other stores do not hear each other; everything else does.
    CutStore,
    /// Its PostgreSQL, and its connections to the others'.
    CutPostgreSql,
    /// SIGKILL to everything, started again later.
    NodeKilled,
    /// SIGKILL to `quorate`, started again later.
    AgentKilled,
    /// SIGKILL to the guard.
    GuardKilled,
    /// SIGKILL to both, started again later.
    KeepersKilled,
    /// SIGKILL to the postmaster.
    PostmasterKilled,
    /// SIGSTOP to `quorate`.
    AgentStopped,
    /// SIGSTOP to the postmaster; its backends run on.
    PostmasterStopped,
    /// SIGSTOP to both.
    BothStopped,
    /// Every fsync of its PostgreSQL takes seconds.
    SlowDisk,
    /// The primary, whichever node it is, is asked to switch over.
    Switchover,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 16] = [
        Kind::Cut,
        Kind::CutOutgoing,
        Kind::CutIncoming,
        Kind::CutBetween,
        Kind::CutStore,
        Kind::CutPostgreSql,
        Kind::NodeKilled,
        Kind::AgentKilled,
        Kind::GuardKilled,
        Kind::KeepersKilled,
        Kind::PostmasterKilled,
        Kind::AgentStopped,
        Kind::PostmasterStopped,
        Kind::BothStopped,
        Kind::SlowDisk,
        Kind::Switchover,
    ];

    /// In an operator's words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Cut => "cut",
            Kind::CutOutgoing => "cut outgoing",
            Kind::CutIncoming => "cut incoming",
            Kind::CutBetween => "cut between two",
            Kind::CutStore => "cut store",
            Kind::CutPostgreSql => "cut PostgreSQL",
            Kind::NodeKilled => "node killed",
            Kind::AgentKilled => "agent killed",
            Kind::GuardKilled => "guard killed",
            Kind::KeepersKilled => "agent and guard killed",
            Kind::PostmasterKilled => "postmaster killed",
            Kind::AgentStopped => "agent stopped",
            Kind::PostmasterStopped => "postmaster stopped",
            Kind::BothStopped => "agent and postmaster stopped",
            Kind::SlowDisk => "slow disk",
            Kind::Switchover => "switchover",
        }
    }

    /// What the switch lets no longer through for it; None: it is no cut.
    #[must_use]
    pub fn cut(self, cluster: &Cluster, node: usize) -> Option<Cut> {
        let ports = cluster.nodes[node].ports;
        match self {
            Kind::Cut => Some(Cut::Host(node)),
            Kind::CutOutgoing => Some(Cut::Outgoing(node)),
            Kind::CutIncoming => Some(Cut::Incoming(node)),
            Kind::CutBetween => Some(Cut::Between(node, (node + 1) % cluster.nodes.len())),
            Kind::CutStore => Some(Cut::Port(node, ports.peer)),
            Kind::CutPostgreSql => Some(Cut::Port(node, ports.postgres)),
            Kind::NodeKilled
            | Kind::AgentKilled
            | Kind::GuardKilled
            | Kind::KeepersKilled
            | Kind::PostmasterKilled
            | Kind::AgentStopped
            | Kind::PostmasterStopped
            | Kind::BothStopped
            | Kind::SlowDisk
            | Kind::Switchover => None,
        }
    }

    /// Whether a cluster can be made to suffer it, and has to bear it.
    fn is_possible(self, links: bool, disks: bool, synchronous: bool) -> bool {
        match self {
            Kind::Cut
            | Kind::CutOutgoing
            | Kind::CutIncoming
            | Kind::CutBetween
            | Kind::CutStore
            | Kind::CutPostgreSql => links,
            Kind::SlowDisk => disks,
            // In asynchronous mode nobody is left who would stop PostgreSQL.
            Kind::KeepersKilled => synchronous,
            Kind::NodeKilled
            | Kind::AgentKilled
            | Kind::GuardKilled
            | Kind::PostmasterKilled
            | Kind::AgentStopped
            | Kind::PostmasterStopped
            | Kind::BothStopped
            | Kind::Switchover => true,
        }
    }
}

/// One thing that happens to one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strike {
    /// What.
    pub kind: Kind,
    /// To whom: so many nodes after the primary, in the order of their names; 0 is the primary itself.
    pub after: usize,
}

/// A fault: everything in it happens at once, and is repaired at once.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// One node's, or two nodes' at once.
    pub strikes: Vec<Strike>,
    /// When it is repaired, in leases.
    pub leases: f64,
}

/// Plans without an end; the same seed draws the same ones for clusters of one kind.
#[derive(Debug)]
pub struct Draw {
    random: fastrand::Rng,
    kinds: Vec<Kind>,
    deck: Vec<Kind>,
    nodes: usize,
}

/// The shortest time until a fault is repaired, in leases, and how much longer it may be.
const LEASES: (f64, f64) = (0.5, 2.5);
/// One fault in so many happens to two nodes at once.
const TWICE_IN: u8 = 4;

impl Draw {
    /// For a cluster of so many `nodes`. Without `links` nothing is cut, without `disks` none is slow.
    #[must_use]
    pub fn new(seed: u64, nodes: usize, links: bool, disks: bool, synchronous: bool) -> Draw {
        let kinds = Kind::ALL.into_iter().filter(|kind| kind.is_possible(links, disks, synchronous));
        let random = fastrand::Rng::with_seed(seed);
        Draw { random, kinds: kinds.collect(), deck: Vec::new(), nodes }
    }

    fn kind(&mut self) -> Kind {
        if self.deck.is_empty() {
            self.deck.clone_from(&self.kinds);
            self.random.shuffle(&mut self.deck);
        }
        self.deck.pop().expect("some kinds are possible anywhere")
    }
}

impl Iterator for Draw {
    type Item = Plan;

    fn next(&mut self) -> Option<Plan> {
        // Half of all faults are the primary's.
        let first = if self.random.bool() { 0 } else { self.random.usize(1..self.nodes) };
        let mut strikes = vec![Strike { kind: self.kind(), after: first }];
        if self.random.u8(..TWICE_IN) == 0 {
            let after = (first + self.random.usize(1..self.nodes)) % self.nodes;
            strikes.push(Strike { kind: self.kind(), after });
        }
        Some(Plan { strikes, leases: LEASES.0 + LEASES.1 * self.random.f64() })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn kinds(plans: &[Plan]) -> BTreeSet<Kind> {
        plans.iter().flat_map(|plan| plan.strikes.iter().map(|strike| strike.kind)).collect()
    }

    #[test]
    fn a_seed_draws_the_same_plans_and_a_deck_leaves_no_kind_out() {
        let draw = |seed| Draw::new(seed, 3, true, true, true).take(16).collect::<Vec<_>>();
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert_eq!(kinds(&draw(7)).len(), Kind::ALL.len());
    }

    #[test]
    fn plans_strike_the_primary_and_others_once_each_and_not_for_ever() {
        let plans: Vec<Plan> = Draw::new(3, 3, true, true, true).take(400).collect();
        for Plan { strikes, leases } in &plans {
            assert!((0.5..=3.0).contains(leases), "{leases}");
            let nodes: BTreeSet<usize> = strikes.iter().map(|strike| strike.after).collect();
            assert!(nodes.len() == strikes.len() && nodes.iter().all(|after| *after < 3), "{strikes:?}");
        }
        let twice = plans.iter().filter(|plan| plan.strikes.len() == 2).count();
        let primary = plans.iter().filter(|plan| plan.strikes[0].after == 0).count();
        assert!((60..140).contains(&twice) && (150..250).contains(&primary), "{twice} {primary}");
    }

    #[test]
    fn what_cannot_be_had_is_not_drawn() {
        let drawn = |links, disks, synchronous| {
            kinds(&Draw::new(1, 3, links, disks, synchronous).take(32).collect::<Vec<_>>())
        };
        let all: BTreeSet<Kind> = Kind::ALL.into_iter().collect();
        assert_eq!(&all - &drawn(true, true, false), BTreeSet::from([Kind::KeepersKilled]));
        assert_eq!(&all - &drawn(true, false, true), BTreeSet::from([Kind::SlowDisk]));
        let cuts = &all - &drawn(false, true, true);
        assert!(cuts.len() == 6 && cuts.iter().all(|kind| kind.name().starts_with("cut")), "{cuts:?}");
    }
}
