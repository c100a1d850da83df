//! A plan is carried out, and repaired.

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal};
use tokio::process::Child;
use tokio::task::JoinHandle;

use super::plan::{Kind, Plan, Strike};
use crate::cluster::Cluster;
use crate::netns::Cut;
use crate::processes;
use crate::stalls::slow_disk;
use crate::stories::planned;

/// A plan for nodes that are known: what happens to which one.
#[derive(Debug)]
pub(super) struct Strikes(Vec<(Kind, usize)>);

/// What goes on until it is repaired.
#[derive(Default)]
pub(super) struct Ongoing {
    pub(super) cuts: Vec<Cut>,
    /// Their `quorate` is to be started again.
    down: Vec<usize>,
    slow: Vec<Child>,
    switchover: Option<JoinHandle<Result<(u16, String)>>>,
}

impl Strikes {
    pub(super) fn of(plan: &Plan, primary: usize, nodes: usize) -> Strikes {
        let node = |strike: &Strike| match strike.kind {
            Kind::Switchover => primary,
            _ => (primary + strike.after) % nodes,
        };
        Strikes(plan.strikes.iter().map(|strike| (strike.kind, node(strike))).collect())
    }

    /// In words.
    pub(super) fn told(&self, cluster: &Cluster, primary: usize) -> String {
        let one = |(kind, node): &(Kind, usize)| {
            let role = if *node == primary { "primary" } else { "standby" };
            format!("{} ({role}): {}", cluster.nodes[*node].name, kind.name())
        };
        self.0.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    /// Now, all at once: first what takes a moment of the kernel, at the end what takes time to begin.
    pub(super) async fn begin(&self, cluster: &mut Cluster) -> Result<Ongoing> {
        let mut ongoing = Ongoing::default();
        ongoing.cuts.extend(self.0.iter().filter_map(|(kind, node)| kind.cut(cluster, *node)));
        if !ongoing.cuts.is_empty() {
            cluster.cut(&ongoing.cuts)?;
        }
        for &(kind, node) in &self.0 {
            let postmaster = || -> Vec<Pid> {
                processes::postmaster(&cluster.nodes[node].data_dir()).into_iter().collect()
            };
            match kind {
                Kind::NodeKilled => {
                    cluster.kill(node).await?;
                    ongoing.down.push(node);
                }
                Kind::AgentKilled => {
                    cluster.kill_agent(node).await?;
                    ongoing.down.push(node);
                }
                Kind::KeepersKilled => {
                    let _ = cluster.kill_keepers(node).await?;
                    ongoing.down.push(node);
                }
                Kind::GuardKilled => {
                    let _ = cluster.kill_guard(node);
                }
                Kind::PostmasterKilled => processes::signal(&postmaster(), Signal::KILL),
                Kind::AgentStopped => cluster.freeze_agent(node, true),
                Kind::PostmasterStopped => processes::signal(&postmaster(), Signal::STOP),
                Kind::BothStopped => {
                    cluster.freeze_agent(node, true);
                    processes::signal(&postmaster(), Signal::STOP);
                }
                Kind::Switchover => ongoing.switchover = Some(planned::ask(&cluster.nodes[node])),
                Kind::Cut
                | Kind::CutOutgoing
                | Kind::CutIncoming
                | Kind::CutBetween
                | Kind::CutStore
                | Kind::CutPostgreSql
                | Kind::SlowDisk => {}
            }
        }
        for (_, node) in self.0.iter().filter(|(kind, _)| *kind == Kind::SlowDisk) {
            ongoing.slow.push(slow_disk(cluster, *node).await?);
        }
        Ok(ongoing)
    }
}

impl Ongoing {
    /// Everything is as before the fault, but for what followed from it. How a switchover was answered, if one was asked for.
    pub(super) async fn end(self, cluster: &mut Cluster) -> Result<Option<String>> {
        for node in &cluster.nodes {
            processes::signal(&processes::of_node(&node.dir), Signal::CONT);
        }
        if !self.cuts.is_empty() {
            cluster.cut(&[])?;
        }
        for mut strace in self.slow {
            strace.kill().await.context("strace")?;
        }
        for node in self.down {
            cluster.start(node)?;
        }
        let Some(switchover) = self.switchover else { return Ok(None) };
        Ok(Some(match switchover.await? {
            Ok((status, text)) => format!("switchover answered with {status}: {}", text.trim()),
            Err(error) => format!("switchover: {error:#}"),
        }))
    }
}
