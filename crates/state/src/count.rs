//! Counting the keys, a page at a time: a scan of all of them would hold up whoever applies.

use bytes::Bytes;

use crate::view::Direction;
use crate::{Fault, View, keys};

/// Counts at most `most` keys behind `after` (None: from the first). The number, and the last key that was counted if there may be
/// more behind it.
pub fn count_keys(
    view: &dyn View,
    after: Option<&[u8]>,
    most: usize,
) -> Result<(usize, Option<Bytes>), Fault> {
    let mut start = keys::latest(after.unwrap_or_default()).to_vec();
    if after.is_some() {
        // The first key that can follow.
        start.push(0);
    }
    let mut count = 0;
    for pair in view.scan(&start, &keys::latest_end(), Direction::Forward) {
        let (stored, _) = pair?;
        count += 1;
        if count == most {
            return Ok((count, Some(stored.slice(1..))));
        }
    }
    Ok((count, None))
}
