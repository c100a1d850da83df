//! Physical slots: one on the primary for every other member, named as Patroni names them.

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
            other => slot.push_str(&format!("u{:04}", other as u32)),
        }
    }
    slot.truncate(LONGEST);
    slot
}

/// Slots for every member that is or was lately here. None is dropped in this version but our own name's: a slot that is left
/// from the time when we followed somebody else holds WAL back forever.
pub(crate) fn wanted(context: &Context<'_>, running: &Running) -> Option<Action> {
    if !context.policy.use_slots {
        return None;
    }
    let mine = name(context.me);
    let have: BTreeSet<&str> = running.slots.iter().map(|slot| slot.name.as_str()).collect();
    let create: BTreeSet<String> = context
        .view
        .members
        .keys()
        .filter(|member| *member != context.me)
        .map(|member| name(member))
        .filter(|slot| !have.contains(slot.as_str()))
        .collect();
    let drop: BTreeSet<String> = running
        .slots
        .iter()
        .filter(|slot| slot.physical && !slot.active && slot.name == mine)
        .map(|slot| slot.name.clone())
        .collect();
    (!create.is_empty() || !drop.is_empty()).then_some(Action::SetSlots { create, drop })
}
