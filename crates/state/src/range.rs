//! Range: a pure read, now or at a revision that is not compacted.
//!
//! `count` is the number of keys in the range, whatever the limit and the revision filters. Without filters and in key
//! order the limit stops the decoding (not the counting); filters and sorting fetch all, then filter, sort, cut, in this
//! order (etcd: server/etcdserver/txn, range). `keys_only` drops values after sorting, which may be by value.

use std::cmp::Ordering;

use bytes::Bytes;

use crate::key_range::{End, KeyRange};
use crate::record::{self, Version};
use crate::revision::{self, check_readable};
use crate::{Fault, KeyValue, Range, RangeReply, Rejection, Revision, SortOrder, SortTarget, View, keys};

/// Reads from `view` what is asked. A rejection is an answer: empty key, compacted or future revision, unknown sort.
pub fn range(view: &dyn View, request: &Range) -> Result<Result<RangeReply, Rejection>, Fault> {
    let current = revision::revision(view)?;
    let checked = match check_shape(request) {
        // Reading now needs no look at the compaction.
        Ok(()) if request.revision <= 0 => Ok(()),
        Ok(()) => check_readable(request.revision, current, revision::compacted(view)?),
        refused => refused,
    };
    match checked {
        Ok(()) => read(view, request, current).map(Ok),
        Err(rejection) => Ok(Err(rejection)),
    }
}

/// What is wrong with the request whatever the state is.
pub(crate) fn check_shape(request: &Range) -> Result<(), Rejection> {
    if request.key.is_empty() { Err(Rejection::EmptyKey) } else { Order::of(request).map(|_| ()) }
}

/// After the checks; `current` is what the answer calls the store's revision.
pub(crate) fn read(view: &dyn View, request: &Range, current: Revision) -> Result<RangeReply, Fault> {
    let keys = KeyRange::new(&request.key, &request.range_end);
    let order = Order::of(request).expect("the shape was checked");
    let filter = Filter::of(request);
    let plain = order == Order::ByKey && filter == Filter::default();
    // How many to decode: what the reply can need.
    let wanted = match usize::try_from(request.limit) {
        _ if request.count_only => 0,
        Ok(limit @ 1..) if plain => limit,
        _ => usize::MAX,
    };
    let (mut kvs, count) = if request.revision <= 0 || request.revision >= current {
        collect_latest(view, keys, wanted)?
    } else {
        collect_at(view, keys, request.revision, wanted)?
    };
    kvs.retain(|kv| filter.accepts(kv));
    order.sort(&mut kvs);
    let mut more = !request.count_only && plain && kvs.len() < count;
    if let Ok(limit @ 1..) = usize::try_from(request.limit)
        && kvs.len() > limit
    {
        kvs.truncate(limit);
        more = true;
    }
    if request.keys_only {
        kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
    }
    let count = i64::try_from(count).expect("a count of things in memory");
    Ok(RangeReply { kvs, more, count, revision: current })
}

/// The first `wanted` records and the number of all.
fn collect_latest(
    view: &dyn View,
    keys: KeyRange<'_>,
    wanted: usize,
) -> Result<(Vec<KeyValue>, usize), Fault> {
    if keys.end == End::Single {
        // The hot read: one get, no scan.
        let Some(stored) = view.get(&keys::latest(keys.key))? else { return Ok((Vec::new(), 0)) };
        let kvs = if wanted == 0 { Vec::new() } else { vec![record::decode_latest(stored)?] };
        return Ok((kvs, 1));
    }
    let mut kvs = Vec::new();
    let mut count = 0;
    for pair in keys.latest_pairs(view) {
        let (_, stored) = pair?;
        count += 1;
        if kvs.len() < wanted {
            kvs.push(record::decode_latest(stored)?);
        }
    }
    Ok((kvs, count))
}

/// The same as it stood at `at`: of each key the newest version at or before it, unless that is a tombstone.
fn collect_at(
    view: &dyn View,
    keys: KeyRange<'_>,
    at: Revision,
    wanted: usize,
) -> Result<(Vec<KeyValue>, usize), Fault> {
    let mut kvs = Vec::new();
    let mut count = 0;
    let mut take = |version: Version| -> Result<(), Fault> {
        if !version.tombstone {
            count += 1;
            if kvs.len() < wanted {
                kvs.push(version.event(view)?.kv);
            }
        }
        Ok(())
    };
    if keys.end == End::Single {
        if let Some(version) = record::version_at(view, keys.key, at)? {
            take(version)?;
        }
        return Ok((kvs, count));
    }
    // Versions come in (key, revision) order: a key's last one at or before `at` is known when the next key begins.
    let mut newest: Option<(Bytes, Version)> = None;
    for pair in keys.version_pairs(view) {
        let (stored, value) = pair?;
        let (shared, main) = keys::version_parts(&stored)?;
        if main > at {
            continue;
        }
        let shared = stored.slice(..shared.len());
        let version = Version::decode(main, &value)?;
        match newest.replace((shared, version)) {
            Some((key, version)) if newest.as_ref().is_some_and(|(shared, _)| *shared != key) => {
                take(version)?
            }
            _ => {}
        }
    }
    if let Some((_, version)) = newest {
        take(version)?;
    }
    Ok((kvs, count))
}

/// The revision filters; 0 is no bound.
#[derive(Debug, Default, PartialEq, Eq)]
struct Filter {
    min_mod: Revision,
    max_mod: Revision,
    min_create: Revision,
    max_create: Revision,
}

impl Filter {
    fn of(request: &Range) -> Filter {
        Filter {
            min_mod: request.min_mod_revision,
            max_mod: request.max_mod_revision,
            min_create: request.min_create_revision,
            max_create: request.max_create_revision,
        }
    }

    fn accepts(&self, kv: &KeyValue) -> bool {
        let within = |revision, min, max| (min == 0 || revision >= min) && (max == 0 || revision <= max);
        within(kv.mod_revision, self.min_mod, self.max_mod)
            && within(kv.create_revision, self.min_create, self.max_create)
    }
}

/// The order of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// The order of the map: nothing to do.
    ByKey,
    By(SortTarget, Direction),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Ascending,
    Descending,
}

impl Order {
    /// A target other than the key without an order is ascending (etcd's rule).
    fn of(request: &Range) -> Result<Order, Rejection> {
        let order = SortOrder::try_from(request.sort_order).map_err(|_| Rejection::InvalidSortOption)?;
        let target = SortTarget::try_from(request.sort_target).map_err(|_| Rejection::InvalidSortOption)?;
        Ok(match (target, order) {
            (SortTarget::Key, SortOrder::None | SortOrder::Ascend) => Order::ByKey,
            (target, SortOrder::None | SortOrder::Ascend) => Order::By(target, Direction::Ascending),
            (target, SortOrder::Descend) => Order::By(target, Direction::Descending),
        })
    }

    /// Equal ones stay in key order, in both directions: answers do not depend on a sorting algorithm.
    fn sort(self, kvs: &mut [KeyValue]) {
        let Order::By(target, direction) = self else { return };
        kvs.sort_by(|a, b| {
            let ascending = compare(target, a, b);
            match direction {
                Direction::Ascending => ascending,
                Direction::Descending => ascending.reverse(),
            }
        });
    }
}

fn compare(target: SortTarget, a: &KeyValue, b: &KeyValue) -> Ordering {
    match target {
        SortTarget::Key => a.key.cmp(&b.key),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Create => a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => a.value.cmp(&b.value),
    }
}
