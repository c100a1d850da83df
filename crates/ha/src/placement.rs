//! Where the store's leader should sit: not on the primary's node.
//!
//! # Problem
//!
//! Losing the leader of the store costs an election, and losing the primary costs a failover. Losing both with one machine costs
//! one after the other: the standbys can suspect nobody before there is a leader to say who is silent. And the primary's
//! slow disk would be in the path of every write of the store.
//!
//! # Model
//!
//! The primary's own loop hands the leadership away when it finds it here, to the first of:
//!
//! ```text
//!   a witness that answers ─► a standby that answers, the most caught up first ─► nobody: it stays here
//! ```
//!
//! A witness is a voter that has never been a member of this cluster. "Answers" is what the leader itself has just heard from it:
//! any other voter is never asked, because the store would stand still until it elects again. That one is not silent yet is
//! not enough: a leader that was just elected has heard nobody, and one of the others may be why it was elected. With nobody
//! else the two coincide, and nothing is tried. Losing the store's leader demotes nobody: renewals wait for the next one within the
//! lease.

use std::cmp::Reverse;

use crate::action::Action;
use crate::context::Context;

/// On the primary: Some if the store's leader is here and could be elsewhere.
pub(crate) fn away(context: &Context<'_>) -> Option<Action> {
    let voters = &context.o.voters;
    if !voters.leads_here {
        return None;
    }
    let mut to: Vec<&String> = voters.answering.iter().collect();
    let record = |name: &str| {
        context.view.members.get(name).map(|key| &key.value).or_else(|| context.o.remembered.get(name))
    };
    to.sort_by_key(|name| {
        let record = record(name);
        (record.is_some(), Reverse(record.and_then(|record| record.xlog_location)), *name)
    });
    let to: Vec<String> = to.into_iter().cloned().collect();
    (!to.is_empty()).then_some(Action::MoveStoreLeadership { to })
}
