//! `switchover`: the primary hands over to a standby. Asked of the primary itself, through its REST API.

use clap::Args;
use serde_json::{Map, Value};

use super::cluster::{self, Cluster, Look};
use super::output::{self, Format};
use super::{Context, Failure, Outcome, rest};

/// Arguments of `switchover`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The cluster; by default the one of the configuration, or the only one there is
    cluster: Option<String>,
    /// The present primary
    #[arg(long, visible_alias = "primary", alias = "master")]
    leader: Option<String>,
    /// The standby that shall take over; by default the best one
    #[arg(long)]
    candidate: Option<String>,
    /// When: `now` or a time with its zone, e.g. 2026-11-21T02:00+00:00
    #[arg(long)]
    scheduled: Option<String>,
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
        let Some(leader) = cluster.leader.clone() else {
            return Err(Failure::new(format!(
                "there is no leader in cluster {}: use failover",
                cluster.scope
            )));
        };
        if let Some(named) = &self.leader {
            if *named != leader {
                return Err(Failure::new(format!(
                    "Member {named} is not the leader of cluster {}",
                    cluster.scope
                )));
            }
        } else if !self.force {
            let answer = output::ask(&format!("Primary [{leader}]: ")).unwrap_or_default();
            if !answer.is_empty() && answer != leader {
                return Err(Failure::new(format!(
                    "Member {answer} is not the leader of cluster {}",
                    cluster.scope
                )));
            }
        }
        let names = cluster::candidates(&cluster, Some(&leader));
        if names.is_empty() {
            return Err(Failure::new("No candidates found to switchover to"));
        }
        let mut candidate = self.candidate.clone();
        if candidate.is_none() && !self.force {
            let answer = output::ask(&format!("Candidate {names:?} []: ")).unwrap_or_default();
            candidate = (!answer.is_empty()).then_some(answer);
        }
        if let Some(candidate) = &candidate {
            judge(&cluster, &leader, candidate)?;
        }
        let mut scheduled = self.scheduled.clone();
        if scheduled.is_none() && !self.force {
            scheduled = output::ask("When should the switchover take place (a time with its zone) [now]: ");
        }
        let scheduled = scheduled.filter(|at| !at.is_empty() && at != "now");
        if !self.force && !self.dry_run {
            confirm(&format!(
                "Are you sure you want to {} cluster {}, demoting current leader {leader}?",
                scheduled
                    .as_ref()
                    .map_or("switchover".to_owned(), |at| format!("schedule switchover at {at} of")),
                cluster.scope
            ))?;
        }
        let mut body = Map::new();
        body.insert("leader".into(), leader.clone().into());
        if let Some(candidate) = &candidate {
            body.insert("candidate".into(), candidate.clone().into());
        }
        if let Some(at) = &scheduled {
            body.insert("scheduled_at".into(), at.clone().into());
        }
        perform(context, &cluster, "switchover", Value::Object(body), &leader, self.dry_run).await
    }
}

fn judge(cluster: &Cluster, leader: &str, candidate: &str) -> Outcome {
    if candidate == leader {
        return Err(Failure::new("Switchover target and source are the same."));
    }
    match cluster.member(candidate) {
        None => Err(Failure::new(format!("Member {candidate} does not exist in cluster {}", cluster.scope))),
        Some(member) if !member.may_lead() => Err(Failure::new(format!(
            "Member {candidate} may not become the primary: it is tagged nofailover, or its failover_priority is 0"
        ))),
        Some(_) => Ok(()),
    }
}

/// The table with a line above it.
pub fn show(heading: &str, cluster: &Cluster) {
    if !heading.is_empty() {
        output::line(heading);
    }
    let look = Look { format: Format::Pretty, extended: false, topology: false };
    output::line(&cluster::render(cluster, look));
}

/// Goes on only after a yes.
///
/// # Errors
/// Anything else was answered.
pub fn confirm(question: &str) -> Outcome {
    match output::ask(&format!("{question} [y/N]: ")).as_deref() {
        Some("y" | "Y" | "yes" | "Yes") => Ok(()),
        Some(_) | None => Err(Failure::new("Aborted")),
    }
}

/// Posts the request to `member`'s REST API, prints the answer and then the cluster.
///
/// # Errors
/// The member refused, or cannot be reached.
pub async fn perform(
    context: &Context,
    cluster: &Cluster,
    verb: &str,
    body: Value,
    member: &str,
    dry_run: bool,
) -> Outcome {
    let api = cluster.member(member).and_then(super::cluster::Member::api).ok_or_else(|| {
        Failure::new(format!("member {member} has not published the address of its REST API"))
    })?;
    if dry_run {
        output::line(&format!("would POST http://{api}/{verb} {body}"));
        return Ok(());
    }
    let answer = rest::post(&api, &format!("/{verb}"), &body, context.credentials.as_ref()).await?;
    let text = answer.body.trim();
    if answer.status != 200 && answer.status != 202 {
        let name = if verb == "switchover" { "Switchover" } else { "Failover" };
        return Err(Failure::new(format!("{name} failed, details: {}, {text}", answer.status)));
    }
    let now = jiff::Zoned::now();
    // patronictl cuts the last digit of the microseconds.
    let stamp = format!("{}.{:05}", now.strftime("%Y-%m-%d %H:%M:%S"), now.subsec_nanosecond() / 10_000);
    output::line(&format!("{stamp} {text}"));
    show("", &cluster::read(context, Some(&cluster.scope)).await?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_candidate_must_be_another_member_that_may_lead() {
        let mut cluster = cluster::example();
        assert_eq!(judge(&cluster, "node1", "node2"), Ok(()));
        assert!(judge(&cluster, "node1", "node1").is_err());
        assert!(judge(&cluster, "node1", "node9").is_err());
        cluster.members[1].data["tags"] = serde_json::json!({"nofailover": true});
        assert!(judge(&cluster, "node1", "node2").is_err());
        assert_eq!(cluster::candidates(&cluster, Some("node1")), ["node3"]);
    }
}
