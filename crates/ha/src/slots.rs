//! Physical slots: one on the primary for every other member, named as Patroni names them.
//!
//! A slot keeps the WAL that its member still needs, for as long as it exists. So it has to go some time after its member has: after
//! Patroni's `member_slots_ttl`, counted by this agent from when it missed the member's key. A slot is known as a member's by
//! its name; one of a member that this agent has never seen (it left before the agent was started) is left for the operator.

use std::collections::BTreeSet;

use crate::action::Action;
use crate::context::Context;
use crate::facts::Running;

/// PostgreSQL's limit on a slot's name.
const LONGEST: usize = 63;

/// The slot of a member: lower case, `-` and `.` become `_`, anything else outside `[a-z0-9_]` its code point as `u0000`.
#[must_use]
pub fn name(member: &str) -> String {
    let mut slot = String::new();
    for c in member.to_lowercase().chars() {
        match c {
            'a'..='z' | '0'..='9' | '_' => slot.push(c),
            '-' | '.' => slot.push('_'),
            other => slot.push_str(&format!("u{:04}", u32::from(other))),
        }
    }
    slot.truncate(LONGEST);
    slot
}

/// On the primary: a slot for every member that is here, and none for those that left `member_slots_ttl` ago. Our own name's is from
/// the time when we followed somebody else and would hold WAL back forever.
pub(crate) fn wanted(context: &Context<'_>, running: &Running) -> Option<Action> {
    if !context.policy.use_slots {
        return None;
    }
    let create = missing(context, running);
    let kept: BTreeSet<String> = members(context).collect();
    let left = context
        .o
        .missing
        .iter()
        .filter(|(_, since)| context.now.since(**since) >= context.policy.member_slots_ttl);
    let gone = left.map(|(member, _)| name(member)).chain([name(context.me)]);
    let drop = idle(running, gone.filter(|slot| !kept.contains(slot)).collect());
    (!create.is_empty() || !drop.is_empty()).then_some(Action::SetSlots { create, drop })
}

/// Those of other members that are not there, where slots are used.
pub(crate) fn missing(context: &Context<'_>, running: &Running) -> BTreeSet<String> {
    let have: BTreeSet<&str> = running.slots.iter().map(|slot| slot.name.as_str()).collect();
    let members = members(context).filter(|_| context.policy.use_slots);
    members.filter(|slot| !have.contains(slot.as_str())).collect()
}

/// Of every other member that is here.
fn members(context: &Context<'_>) -> impl Iterator<Item = String> {
    context.view.members.keys().filter(|member| *member != context.me).map(|member| name(member))
}

/// On a standby: the slots from the time when we were primary. Nobody streams from here, nothing moves them, and each of them
/// would keep WAL until the disk is full.
pub(crate) fn left_over(context: &Context<'_>, running: &Running) -> Option<Action> {
    let members = context.view.members.keys().chain(context.o.remembered.keys()).map(|member| name(member));
    let drop = idle(running, members.collect());
    (context.policy.use_slots && !drop.is_empty())
        .then_some(Action::SetSlots { create: BTreeSet::new(), drop })
}

/// Those of `names` that are there, physical, and used by nobody.
fn idle(running: &Running, names: BTreeSet<String>) -> BTreeSet<String> {
    let idle = running.slots.iter().filter(|slot| slot.physical && !slot.active);
    idle.map(|slot| slot.name.clone()).filter(|slot| names.contains(slot)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn member_names_become_slot_names_as_in_patroni() {
        assert_eq!(name("Node-1.example"), "node_1_example");
        assert_eq!(name("a b"), "au0032b");
        assert_eq!(name(&"x".repeat(70)).len(), 63);
    }
}
