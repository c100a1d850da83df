//! `member replace`: a dead member's place for a new one, in one command and in the order that risks nothing.
//!
//! ```text
//!   look      everybody's state: is the old one really dead, are enough others alive?
//!   add       the new one as a learner: no quorum is touched
//!   wait      until it has started and caught up; the cluster goes on as it was
//!   promote   and at once
//!   remove    the old one: between these two the cluster tolerates as little as before, for a moment
//! ```
//!
//! The order matters. Adding a voter before it has started, or removing the dead one first, would make the cluster live on
//! exactly its quorum for as long as the new one needs to catch up.
//!
//! Interrupted at any point, the same command goes on where it stopped: it finds the learner by its URL. Under the old
//! address nothing has to be added at all, because a member on an empty disk takes over by itself; then this command
//! checks, says how, and waits.

use std::time::Duration;

use clap::Args;
use quorate_wire::etcdserverpb::{
    Member, MemberAddRequest, MemberPromoteRequest, MemberRemoveRequest, StatusResponse,
};
use tokio::time::Instant;

use super::answer::Unformed;
use super::{Context, Failure, Outcome, output};

/// Between two looks while the new member starts and catches up.
const LOOK: Duration = Duration::from_millis(500);
/// For one member to say how it is.
const ANSWER: Duration = Duration::from_secs(2);

/// Arguments of `member replace`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The dead member's id in hexadecimal, or its name
    #[arg(value_name = "ID|NAME")]
    old: String,
    /// Where the others will reach the new member [default: where the old one was]
    #[arg(long, value_name = "URL")]
    peer_urls: Option<String>,
    /// The new member's name [default: the old one's]
    #[arg(long)]
    name: Option<String>,
    /// Say what would be done, and whether it may be
    #[arg(long)]
    dry_run: bool,
    /// Longest wait for the new member
    #[arg(long, default_value = "10m", value_parser = super::parse_duration)]
    wait: Duration,
    #[command(flatten)]
    unformed: Unformed,
}

/// What is known before anything is done.
struct Plan {
    old: Member,
    members: Vec<Member>,
    name: String,
    url: String,
}

impl Arguments {
    /// Does it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn run(&self, context: &Context) -> Outcome {
        self.unformed.check()?;
        let plan = self.plan(context).await?;
        self.judge(context, &plan).await?;
        if plan.old.peer_ur_ls.contains(&plan.url) {
            return self.in_place(context, &plan).await;
        }
        let begun = plan.members.iter().find(|member| member.peer_ur_ls.contains(&plan.url));
        if self.dry_run {
            let (id, name, url) = (plan.old.id, &plan.name, &plan.url);
            if begun.is_none() {
                say(&format!("would add {name} at {url} as a learner"));
            }
            say(&format!("would wait until {name} has started and caught up, then promote it"));
            say(&format!("would remove member {id:x} ({})", plan.old.name));
            return Ok(());
        }
        let new = match begun {
            Some(member) => {
                say(&format!("{} is a member already ({:x}): going on from there", plan.url, member.id));
                member.clone()
            }
            None => self.add(context, &plan).await?,
        };
        if begun.is_none_or(|member| member.is_learner) {
            self.promote(context, &plan, &new).await?;
        }
        self.remove(context, &plan).await
    }

    async fn plan(&self, context: &Context) -> Result<Plan, Failure> {
        let members = context.store.members().await?.members;
        let id = u64::from_str_radix(&self.old, 16).ok();
        let found: Vec<&Member> = members
            .iter()
            .filter(|member| Some(member.id) == id || (!member.name.is_empty() && member.name == self.old))
            .collect();
        let old = match found.as_slice() {
            [old] => (*old).clone(),
            [] => return Err(Failure::new(format!("no member has the id or the name {:?}", self.old))),
            _ => {
                return Err(Failure::new(format!(
                    "several members are called {:?}: give the id of the one that is meant",
                    self.old
                )));
            }
        };
        let url = match &self.peer_urls {
            Some(url) if url.contains(',') => {
                return Err(Failure::bad_arguments("--peer-urls: a member has one peer URL"));
            }
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => old.peer_ur_ls.first().cloned().unwrap_or_default(),
        };
        let name = self.name.clone().unwrap_or_else(|| old.name.clone());
        Ok(Plan { old, members, name, url })
    }

    /// Refuses what would lose the quorum, with everybody's state as the reason.
    async fn judge(&self, context: &Context, plan: &Plan) -> Outcome {
        let voters: Vec<&Member> = plan.members.iter().filter(|member| !member.is_learner).collect();
        let quorum = voters.len() / 2 + 1;
        let mut alive = 0;
        let mut silent = Vec::new();
        for member in &voters {
            let state = state(context, member).await;
            let word = match &state {
                Some(state) if state.leader == member.id => "alive, leads",
                Some(_) => "alive",
                None => "does not answer",
            };
            say(&format!("  {:x} {} {}: {word}", member.id, member.name, member.peer_ur_ls.join(",")));
            if state.is_none() {
                silent.push(member.name.clone());
                continue;
            }
            alive += 1;
            if member.id == plan.old.id {
                return Err(Failure::new(format!(
                    "member {:x} ({}) is alive: stop it first, or take it out with member remove",
                    member.id, member.name
                )));
            }
        }
        if alive < quorum {
            return Err(Failure::new(format!(
                "{alive} of {} voters are alive ({} do not answer), {quorum} are needed to change anything: bring another \
                 one back first; if all the others are gone for good, start a survivor with --force-new-cluster",
                voters.len(),
                silent.join(", ")
            )));
        }
        Ok(())
    }

    async fn add(&self, context: &Context, plan: &Plan) -> Result<Member, Failure> {
        let request = MemberAddRequest { peer_ur_ls: vec![plan.url.clone()], is_learner: true };
        let response = context.store.tell(async |at| at.cluster().member_add(request.clone()).await).await?;
        let new = response.member.unwrap_or_default();
        say(&format!("added {:x} as a learner at {}; start it now:", new.id, plan.url));
        let initial: Vec<String> = response
            .members
            .iter()
            .filter(|member| member.id != plan.old.id)
            .flat_map(|member| {
                let name = if member.id == new.id { &plan.name } else { &member.name };
                member.peer_ur_ls.iter().map(move |url| format!("{name}={url}"))
            })
            .collect();
        say(&format!("  ETCD_NAME={:?}", plan.name));
        say(&format!("  ETCD_INITIAL_CLUSTER={:?}", initial.join(",")));
        say(&format!("  ETCD_INITIAL_ADVERTISE_PEER_URLS={:?}", plan.url));
        say("  ETCD_INITIAL_CLUSTER_STATE=\"existing\"");
        Ok(new)
    }

    async fn promote(&self, context: &Context, plan: &Plan, new: &Member) -> Outcome {
        let until = Instant::now() + self.wait;
        let mut said = String::new();
        loop {
            let request = MemberPromoteRequest { id: new.id };
            let promoted = context.store.tell(async |at| at.cluster().member_promote(request).await).await;
            let why = match promoted {
                Ok(_) => {
                    say(&format!("{:x} has caught up and votes", new.id));
                    return Ok(());
                }
                Err(failure) => failure.message,
            };
            // Somebody else may have done it, or an answer got lost.
            let members = context.store.members().await.map(|list| list.members).unwrap_or_default();
            let now = members.iter().find(|member| member.id == new.id);
            let state = match now {
                Some(member) if !member.is_learner => {
                    say(&format!("{:x} votes", new.id));
                    return Ok(());
                }
                Some(member) if member.name.is_empty() => format!("waiting for {} to start", plan.name),
                Some(_) if why.contains("in sync") => format!("{} is catching up", plan.name),
                Some(_) => format!("not yet: {why}"),
                None if members.is_empty() => format!("not yet: {why}"),
                None => {
                    return Err(Failure::new(format!("member {:x} was removed meanwhile", new.id)));
                }
            };
            if state != said {
                say(&state);
                said = state;
            }
            if Instant::now() >= until {
                return Err(Failure::new(format!(
                    "{} did not catch up in time ({why}); nothing was lost: repeat the command to go on, or member remove \
                     {:x} to take it back",
                    plan.name, new.id
                )));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn remove(&self, context: &Context, plan: &Plan) -> Outcome {
        let id = plan.old.id;
        let request = MemberRemoveRequest { id };
        context.store.tell(async |at| at.cluster().member_remove(request).await).await.map_err(|failure| {
            Failure::new(format!(
                "{}; the new member votes already, the old one is still there: repeat the command, or member remove {id:x}",
                failure.message
            ))
        })?;
        say(&format!("removed {id:x} ({})", plan.old.name));
        Ok(())
    }

    /// The same address: whoever starts there on an empty disk takes over.
    async fn in_place(&self, context: &Context, plan: &Plan) -> Outcome {
        let (id, url) = (plan.old.id, &plan.url);
        let how = format!(
            "start {} at {url} with an empty data directory: it joins under a new id and takes over the vote of {id:x} by \
             itself",
            plan.name
        );
        say(&how);
        if self.dry_run {
            say("would wait until it has");
            return Ok(());
        }
        let until = Instant::now() + self.wait;
        let mut said = false;
        loop {
            let members = context.store.members().await.map(|list| list.members).unwrap_or_default();
            let there = members.iter().find(|member| member.id != id && member.peer_ur_ls.contains(url));
            match there {
                Some(new) if !new.is_learner && members.iter().all(|member| member.id != id) => {
                    say(&format!("{:x} has caught up and votes in the place of {id:x}", new.id));
                    return Ok(());
                }
                Some(new) if !said => {
                    say(&format!("{:x} is catching up", new.id));
                    said = true;
                }
                Some(_) | None => {}
            }
            if Instant::now() >= until {
                return Err(Failure::new("nobody took over in time; nothing was changed"));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn say(line: &str) {
    output::line(line);
}

/// What a member says of itself, at any of its addresses.
async fn state(context: &Context, member: &Member) -> Option<StatusResponse> {
    let store = context.store.with_timeout(ANSWER);
    for url in &member.client_ur_ls {
        match store.status(url).await {
            // Another one may have taken over the address.
            Ok(status) if status.header.as_ref().is_some_and(|header| header.member_id == member.id) => {
                return Some(status);
            }
            Ok(_) | Err(_) => {}
        }
    }
    None
}
