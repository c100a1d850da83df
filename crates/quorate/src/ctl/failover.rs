//! `failover`: a standby becomes the primary although the primary was not asked, or is gone.

use clap::Args;
use serde_json::json;

use super::switchover::{confirm, perform, show};
use super::{Context, Failure, Outcome, cluster, output};

/// Arguments of `failover`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The cluster; by default the one of the configuration, or the only one there is
    cluster: Option<String>,
    /// The standby that shall become the primary
    #[arg(long)]
    candidate: Option<String>,
    /// Ask nothing
    #[arg(long)]
    force: bool,
    /// Say what would be done
    #[arg(long)]
    dry_run: bool,
}

impl Arguments {
    /// Does it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn run(&self, context: &Context) -> Outcome {
        let cluster = cluster::read(context, self.cluster.as_deref()).await?;
        show("Current cluster topology", &cluster);
        let names = cluster::candidates(&cluster, cluster.leader.as_deref());
        if names.is_empty() {
            return Err(Failure::new("No candidates found to failover to"));
        }
        let candidate = match &self.candidate {
            Some(candidate) => candidate.clone(),
            None if self.force => {
                return Err(Failure::new("Failover could be performed only to a specific candidate"));
            }
            None => output::ask(&format!("Candidate {names:?}: ")).unwrap_or_default(),
        };
        if candidate.is_empty() {
            return Err(Failure::new("Failover could be performed only to a specific candidate"));
        }
        if !names.contains(&candidate) {
            return Err(Failure::new(format!(
                "Member {candidate} does not exist in cluster {} or may not become the primary",
                cluster.scope
            )));
        }
        if !self.force && !self.dry_run {
            let demoting =
                cluster.leader.as_ref().map(|leader| format!(", demoting current leader {leader}"));
            confirm(&format!(
                "Are you sure you want to failover cluster {}{}?",
                cluster.scope,
                demoting.unwrap_or_default()
            ))?;
        }
        // The holder of the lease, if it is there; without one the candidate itself.
        let asked = cluster.leader_member().map_or(candidate.as_str(), |leader| leader.name.as_str());
        perform(context, &cluster, "failover", json!({"candidate": candidate}), asked, self.dry_run).await
    }
}
