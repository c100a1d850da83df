//! Slots.
/// The physical slot of a member, as Patroni names it.
#[allow(unused_variables, clippy::unimplemented)]
#[must_use]
pub fn slot_name(member: &str) -> String {
    unimplemented!()
}
