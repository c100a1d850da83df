//! Sync names.
/// How standbys are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `FIRST k (…)`: by priority.
    First,
    /// `ANY k (…)`: whoever is fastest.
    Any,
}
/// The value of `synchronous_standby_names`; empty if `members` is or `confirm` is 0.
#[allow(unused_variables, clippy::unimplemented)]
pub fn render<'a>(method: Method, confirm: usize, members: impl IntoIterator<Item = &'a str>) -> String {
    unimplemented!()
}
/// A value under which nothing is acknowledged: what a standby of a synchronous cluster should carry until it is promoted.
pub const NOBODY: &str = "ANY 1 (\"quorate nobody\")";
