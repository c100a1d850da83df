//! `move-leader`: hands the leadership of the store to another member.
//!
//! This moves the leader of the store, not the primary of PostgreSQL: see `switchover` for that.

use clap::Args;
use futures_util::future::join_all;
use quorate_wire::etcdserverpb::{Member, MoveLeaderRequest};

use super::answer::{Done, Form};
use super::{Context, Failure, Outcome, output};

/// Arguments of `move-leader`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The member that shall lead: its id (hexadecimal) or its name
    #[arg(value_name = "ID | NAME")]
    target: Vec<String>,
    /// Say what would be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    form: Form,
}

impl Arguments {
    /// Does it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn run(&self, context: &Context) -> Outcome {
        let [target] = self.target.as_slice() else {
            return Err(Failure::bad_arguments("move-leader command needs 1 argument"));
        };
        let printer = self.form.printer::<Done<_>>(context)?;
        let members = context.store.members().await?.members;
        let target = find(target, &members)?;
        // The leader is asked itself: it may be behind an endpoint that was not given.
        let mut endpoints = context.store.endpoints().to_vec();
        endpoints.extend(members.iter().flat_map(|member| member.client_ur_ls.iter().cloned()));
        let answers = join_all(endpoints.iter().map(|endpoint| context.store.status(endpoint))).await;
        let leader = endpoints.iter().zip(&answers).find_map(|(endpoint, answer)| {
            let status = answer.as_ref().ok()?;
            let member = status.header.as_ref()?.member_id;
            (member == status.leader && member != 0).then_some((endpoint, member))
        });
        let Some((endpoint, leader)) = leader else {
            return Err(Failure::bad_arguments(format!(
                "no leader endpoint given at [{}]",
                endpoints.join(" ")
            )));
        };
        if self.dry_run {
            output::line(&format!("would transfer leadership from {leader:x} to {target:x}"));
            return Ok(());
        }
        let request = MoveLeaderRequest { target_id: target };
        let message = context
            .store
            .at(endpoint, async |at| at.maintenance().move_leader(request).await)
            .await
            .map_err(Failure::new)?;
        printer.done(&Done {
            name: "etcdserverpb.MoveLeaderResponse",
            header: message.header,
            message,
            sentence: format!("Leadership transferred from {leader:x} to {target:x}"),
        })
    }
}

/// A name wins over an id, as names are chosen by people.
fn find(target: &str, members: &[Member]) -> Result<u64, Failure> {
    if let Some(member) = members.iter().find(|member| member.name == target) {
        return Ok(member.id);
    }
    u64::from_str_radix(target, 16)
        .map_err(|_| Failure::bad_arguments(format!("{target:?} is neither a member's name nor a member ID")))
}
