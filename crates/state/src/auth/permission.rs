//! Which keys a set of granted ranges covers.
//!
//! A range is taken as an interval of byte strings, `start <= key < end`, a single key K as the interval from K to K with
//! a zero byte appended, which no other key lies in. Granted intervals that overlap or touch are merged, so that a request
//! is covered by the union exactly if one merged interval contains it: a reader of `[a, m)` and `[m, z)` may read
//! `[a, z)`. A `range_end` of one zero byte is "every key from here on", both in a grant and in a request; taking it for
//! a byte string would make it an empty interval, which everything covers (etcd's GHSA-xg4h-6gfc-h4m8).

use super::{Permission, PermissionKind};
use crate::key_range::{End, KeyRange};

/// Not empty: `start` lies in it. No end is open.
type Interval = (Vec<u8>, Option<Vec<u8>>);

/// A union of ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Covered {
    /// By start, with a gap between each two.
    intervals: Vec<Interval>,
}

impl Covered {
    /// What the permissions for which `grants` is true cover together.
    pub(crate) fn by<'p>(
        permissions: impl Iterator<Item = &'p Permission>,
        grants: impl Fn(PermissionKind) -> bool,
    ) -> Covered {
        let mut intervals: Vec<Interval> = permissions
            // A kind of a later build grants nothing here.
            .filter(|held| PermissionKind::try_from(held.kind).is_ok_and(&grants))
            .filter_map(|held| interval(&held.key, &held.range_end))
            .collect();
        intervals.sort();
        let mut merged: Vec<Interval> = Vec::with_capacity(intervals.len());
        for (start, end) in intervals {
            match merged.last_mut() {
                Some((_, last)) if last.as_ref().is_none_or(|last| start <= *last) => {
                    if later(end.as_ref(), last.as_ref()) {
                        *last = end;
                    }
                }
                _ => merged.push((start, end)),
            }
        }
        Covered { intervals: merged }
    }

    /// Every key that the request could name is covered. A request whose range is empty shows nothing, but names its key.
    pub(crate) fn covers(&self, key: &[u8], range_end: &[u8]) -> bool {
        let Some((start, end)) = interval(key, range_end).or_else(|| interval(key, b"")) else {
            return false;
        };
        let after = self.intervals.partition_point(|(from, _)| *from <= start);
        let Some((_, to)) = after.checked_sub(1).map(|at| &self.intervals[at]) else { return false };
        match (to, end) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(to), Some(end)) => end <= *to,
        }
    }
}

/// Whether a permission can be granted: of a known kind, on a range that is not empty.
pub(crate) fn is_valid(permission: &Permission) -> bool {
    PermissionKind::try_from(permission.kind).is_ok()
        && interval(&permission.key, &permission.range_end).is_some()
}

/// None: no key lies in it.
fn interval(key: &[u8], range_end: &[u8]) -> Option<Interval> {
    if key.is_empty() {
        return None;
    }
    match KeyRange::new(key, range_end).end {
        End::Single => Some((key.to_vec(), Some([key, b"\0"].concat()))),
        End::Before(end) if key < end => Some((key.to_vec(), Some(end.to_vec()))),
        End::Before(_) => None,
        End::Open => Some((key.to_vec(), None)),
    }
}

fn later(a: Option<&Vec<u8>>, b: Option<&Vec<u8>>) -> bool {
    match (a, b) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(a), Some(b)) => a > b,
    }
}
