//! The keys that a request names by `key` and `range_end`, etcd's way.

use bytes::Bytes;

use crate::record;
use crate::{Direction, Fault, KeyValue, Scan, View, keys};

/// etcd's `range_end` for "every key from `key` on".
const FROM_KEY: &[u8] = b"\0";

/// Records in key order, each fallible.
pub(crate) type Records<'v> = Box<dyn Iterator<Item = Result<KeyValue, Fault>> + 'v>;

/// `key` is not empty (checked by the requests).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyRange<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) end: End<'a>,
}

/// Where it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End<'a> {
    /// The single key.
    Single,
    /// Below this key. At or below `key`: an empty range, which is no error.
    Before(&'a [u8]),
    /// Every key from `key` on.
    Open,
}

impl<'a> KeyRange<'a> {
    pub(crate) fn new(key: &'a [u8], range_end: &'a [u8]) -> KeyRange<'a> {
        let end = match range_end {
            b"" => End::Single,
            FROM_KEY => End::Open,
            end => End::Before(end),
        };
        KeyRange { key, end }
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        match self.end {
            End::Single => key == self.key,
            End::Before(end) => self.key <= key && key < end,
            End::Open => self.key <= key,
        }
    }

    /// The latest records, in key order. The single key costs one get.
    pub(crate) fn latest_records<'v>(&self, view: &'v dyn View) -> Records<'v> {
        match self.end {
            End::Single => Box::new(record::latest(view, self.key).transpose().into_iter()),
            End::Before(_) | End::Open => {
                Box::new(self.latest_pairs(view).map(|pair| record::decode_latest(pair?.1)))
            }
        }
    }

    /// The stored latest records of a range with an end, not decoded: counting needs no values.
    pub(crate) fn latest_pairs<'v>(&self, view: &'v dyn View) -> Scan<'v> {
        let start = keys::latest(self.key);
        let end = match self.end {
            End::Single => keys::latest(&[self.key, b"\0"].concat()),
            End::Before(end) => keys::latest(end),
            End::Open => keys::latest_end(),
        };
        scan(view, &start, &end)
    }

    /// The version index entries of the range: every version of every key, in (key, revision) order.
    pub(crate) fn version_pairs<'v>(&self, view: &'v dyn View) -> Scan<'v> {
        let start = keys::version_of(self.key).into();
        let end = match self.end {
            End::Single => keys::version_of(&[self.key, b"\0"].concat()).into(),
            End::Before(end) => keys::version_of(end).into(),
            End::Open => keys::version_end(),
        };
        scan(view, &start, &end)
    }
}

/// An inverted range is empty, here and not by each engine's own idea of it.
fn scan<'v>(view: &'v dyn View, start: &Bytes, end: &Bytes) -> Scan<'v> {
    if start >= end { Box::new(std::iter::empty()) } else { view.scan(start, end, Direction::Forward) }
}
