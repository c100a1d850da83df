//! Random commands on three stores and the model: `live` is compacted physically in random slices, `untouched` never, and
//! `single` gets every command as a batch of its own. All must answer like the model, at every revision.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{TestRng, TestRunner};
use quorate_state::{
    Alarm, Applier, Body, Command, Compact, Compare, CompareTarget, Cursor, DeleteRange, Direction,
    LeaseCheckpoint, LeaseGrant, LeaseRemaining, LeaseRevoke, Overlay, Put, Range, Txn, TxnOp, TxnOpBody,
    View, compact_slice, event_with_prev, events, hash_kv, lease_keys, leases, range, revision, txn_read,
};

use crate::memory::Memory;
use crate::model::Model;

/// Short, close together, and at the edges of the escape.
const KEYS: [&[u8]; 8] = [b"a", b"a\0", b"a\0\xff", b"a\x01", b"a\xff", b"b", b"\0", b"\xff\xff"];
const ENDS: [&[u8]; 8] = [b"", b"", b"\0", b"a\0", b"a\x01", b"b", b"c", b"\xff\xff\xff"];
const VALUES: [&[u8]; 3] = [b"", b"x", b"y"];
const LEASES: std::ops::RangeInclusive<i64> = 1..=3;

pub(crate) fn key() -> impl Strategy<Value = Bytes> {
    // Rarely none at all, which is refused.
    prop_oneof![40 => select(&KEYS[..]), 1 => Just(&b""[..])].prop_map(Bytes::from_static)
}

pub(crate) fn range_end() -> impl Strategy<Value = Bytes> {
    select(&ENDS[..]).prop_map(Bytes::from_static)
}

fn value() -> impl Strategy<Value = Bytes> {
    select(&VALUES[..]).prop_map(Bytes::from_static)
}

fn a_put() -> impl Strategy<Value = Put> {
    let lease = prop_oneof![3 => Just(0), 1 => LEASES];
    let rarely = || prop::bool::weighted(0.15);
    (key(), value(), lease, any::<bool>(), rarely(), rarely()).prop_map(
        |(key, value, lease, prev_kv, ignore_value, ignore_lease)| Put {
            key,
            value,
            lease,
            prev_kv,
            ignore_value,
            ignore_lease,
        },
    )
}

fn a_delete() -> impl Strategy<Value = DeleteRange> {
    (key(), range_end(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| DeleteRange {
        key,
        range_end,
        prev_kv,
    })
}

pub(crate) fn a_range() -> impl Strategy<Value = Range> {
    let bound = || prop_oneof![3 => Just(0i64), 1 => 1..20i64];
    let rarely = || prop::bool::weighted(0.15);
    let shape = (key(), range_end(), 0..4i64, bound(), 0..3i32, 0..5i32);
    (shape, rarely(), rarely(), (bound(), bound(), bound(), bound())).prop_map(
        |((key, range_end, limit, revision, sort_order, sort_target), keys_only, count_only, bounds)| Range {
            key,
            range_end,
            limit,
            revision,
            sort_order,
            sort_target,
            serializable: false,
            keys_only,
            count_only,
            min_mod_revision: bounds.0,
            max_mod_revision: bounds.1,
            min_create_revision: bounds.2,
            max_create_revision: bounds.3,
        },
    )
}

fn a_compare() -> impl Strategy<Value = Compare> {
    let target = prop_oneof![
        (0..3i64).prop_map(CompareTarget::Version),
        (0..12i64).prop_map(CompareTarget::Create),
        (0..12i64).prop_map(CompareTarget::Mod),
        value().prop_map(CompareTarget::Value),
        (0..3i64).prop_map(CompareTarget::Lease),
    ];
    (0..4i32, key(), range_end(), target).prop_map(|(result, key, range_end, target)| Compare {
        result,
        key,
        range_end,
        target: Some(target),
    })
}

fn a_txn() -> impl Strategy<Value = Txn> {
    let flat = prop_oneof![
        a_range().prop_map(TxnOpBody::Range),
        a_put().prop_map(TxnOpBody::Put),
        a_delete().prop_map(TxnOpBody::DeleteRange),
    ];
    let op = flat.prop_recursive(2, 8, 2, |op| branches(op.boxed()).prop_map(TxnOpBody::Txn));
    branches(op.boxed())
}

fn branches(op: BoxedStrategy<TxnOpBody>) -> impl Strategy<Value = Txn> {
    let ops = vec(op.prop_map(|body| TxnOp { body: Some(body) }), 0..3);
    (vec(a_compare(), 0..3), ops.clone(), ops).prop_map(|(compare, success, failure)| Txn {
        compare,
        success,
        failure,
    })
}

fn a_command() -> impl Strategy<Value = Command> {
    a_body().prop_map(Command::new)
}

pub(crate) fn a_body() -> impl Strategy<Value = Body> {
    prop_oneof![
        8 => a_put().prop_map(Body::Put),
        4 => a_delete().prop_map(Body::DeleteRange),
        8 => a_txn().prop_map(Body::Txn),
        2 => (0..20i64).prop_map(|revision| Body::Compact(Compact { revision, physical: false })),
        3 => (LEASES, 0..3u64).prop_map(|(id, stamp)| Body::LeaseGrant(LeaseGrant { id, ttl_ms: 5000, stamp })),
        3 => vec((LEASES, 0..4u64, 0..6u64), 0..3).prop_map(|leases| {
            let leases = leases.into_iter().map(|(id, stamp, seconds)| LeaseRemaining {
                id,
                stamp,
                remaining_ms: seconds * 1000,
            });
            Body::LeaseCheckpoint(LeaseCheckpoint { leases: leases.collect() })
        }),
        1 => (LEASES, proptest::option::of(0..4u64))
            .prop_map(|(id, judged)| Body::LeaseRevoke(LeaseRevoke { id, judged })),
        1 => (prop::bool::weighted(0.8), 0..3u64, 0..3i32)
            .prop_map(|(clear, member, kind)| Body::Alarm(Alarm { clear, member, kind })),
    ]
}

/// A rule that is broken on purpose, to see that the model notices.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Broken {
    Nothing,
    /// Physical compaction takes what was deleted at the very revision along: a watcher from there misses it (etcd's issues 18089
    /// and 19179).
    DeletionAtCompaction,
    /// A member whose position lags behind its state applies the last command of a chunk again.
    AppliedAgain,
    /// A member walks through the operations of a transaction in another order than the others.
    OrderOfItsOwn,
}

/// Commands applied as one chunk, then what is asked.
#[derive(Debug, Clone)]
struct Chunk {
    commands: Vec<Command>,
    range: Range,
    txn: Txn,
    events: (i64, usize),
    /// Slices of physical compaction, and versions per slice.
    slices: usize,
    slice: usize,
}

fn a_chunk() -> impl Strategy<Value = Chunk> {
    (vec(a_command(), 1..6), a_range(), a_txn(), (-1..20i64, 1..6usize), 0..4usize, 0..8usize).prop_map(
        |(commands, range, txn, events, slices, slice)| Chunk { commands, range, txn, events, slices, slice },
    )
}

fn check_answers(model: &Model, store: &Memory, chunk: &Chunk) {
    assert_eq!(revision(store).unwrap(), model.revision());
    assert_eq!(range(store, &chunk.range).unwrap(), model.range(&chunk.range), "{:?}", chunk.range);
    assert_eq!(txn_read(store, &chunk.txn).unwrap(), model.txn_read(&chunk.txn), "{:?}", chunk.txn);
    let (from, max) = chunk.events;
    let told = events(store, from, max).unwrap();
    assert_eq!(told, model.events(from, max), "events from {from}");
    for event in told.into_iter().flatten() {
        let prev_kv = model.prev_kv(&event);
        assert_eq!(event_with_prev(store, event).unwrap().prev_kv, prev_kv);
    }
}

/// Every key at every revision, the unreadable ones included.
fn check_everything(model: &Model, store: &Memory) {
    for revision in 0..=model.revision() + 1 {
        let everything = Bytes::from_static(b"\0");
        let all = Range { key: everything.clone(), range_end: everything, revision, ..Range::default() };
        assert_eq!(range(store, &all).unwrap(), model.range(&all));
        for key in KEYS {
            let single = Range { key: Bytes::from_static(key), revision, ..Range::default() };
            assert_eq!(range(store, &single).unwrap(), model.range(&single));
        }
    }
    assert_eq!(
        events(store, model.compacted, usize::MAX).unwrap(),
        model.events(model.compacted, usize::MAX)
    );
    let known: Vec<_> = leases(store).unwrap();
    let known =
        known.iter().map(|lease| (lease.id, (lease.ttl_ms, lease.stamp, lease.remaining_ms.unwrap_or(0))));
    assert_eq!(known.collect::<BTreeMap<_, _>>(), model.leases);
    check_leases(store);
}

/// Every attached key names its lease, and every lease knows its keys.
pub(crate) fn check_leases(store: &Memory) {
    let everything = Bytes::from_static(b"\0");
    let all = Range { key: everything.clone(), range_end: everything, ..Range::default() };
    let kvs = range(store, &all).unwrap().unwrap().kvs;
    let leases = leases(store).unwrap();
    assert!(kvs.iter().all(|kv| kv.lease == 0 || leases.iter().any(|lease| lease.id == kv.lease)));
    for lease in leases {
        let attached: Vec<Bytes> =
            kvs.iter().filter(|kv| kv.lease == lease.id).map(|kv| kv.key.clone()).collect();
        assert_eq!(lease_keys(store, lease.id).unwrap(), attached);
    }
}

fn check_hashes(model: &Model, stores: [&Memory; 2]) {
    for revision in 0..=model.revision() + 1 {
        let [a, b] = stores.map(|store| hash_kv(store, revision).unwrap());
        assert_eq!(a, b, "the hash at {revision} shows the progress of physical compaction");
        assert_eq!(a.is_ok(), model.range(&Range { key: "a".into(), revision, ..Range::default() }).is_ok());
    }
}

fn versions(store: &Memory) -> usize {
    let events = store.pairs.keys().filter(|key| key[0] == 3).count();
    assert_eq!(events, store.pairs.keys().filter(|key| key[0] == 4).count(), "one version for each event");
    events
}

/// The pair of the first deletion at the compacted revision.
fn deletion_at(store: &Memory, compacted: i64) -> Option<Bytes> {
    let of_revision = [&[3][..], &compacted.to_be_bytes()].concat();
    let told = events(store, compacted, usize::MAX).unwrap().ok()?;
    let at = told.iter().find(|event| event.delete && event.kv.mod_revision == compacted)?;
    let mut pairs = store.pairs.keys().filter(|key| key.starts_with(&of_revision));
    pairs.find(|key| key[9..] == at.sub.to_be_bytes()).cloned()
}

/// The operations of a transaction from behind, if it is one.
fn reordered(command: &Command) -> Command {
    let mut command = command.clone();
    if let Some(Body::Txn(txn)) = &mut command.body {
        txn.success.reverse();
        txn.failure.reverse();
    }
    command
}

fn run(chunks: &[Chunk], broken: Broken) {
    let mut model = Model::new();
    let (mut live, mut untouched, mut single) = (Memory::default(), Memory::default(), Memory::default());
    let mut cursor: Option<Cursor> = None;
    for chunk in chunks {
        let mut applier = Applier::new(&live);
        for command in &chunk.commands {
            let expected = model.apply(command);
            assert_eq!(applier.apply(command).unwrap(), expected, "{command:?}");
            let mut alone = Applier::new(&single);
            if broken == Broken::OrderOfItsOwn {
                alone.apply(&reordered(command)).unwrap();
            } else {
                assert_eq!(alone.apply(command).unwrap(), expected, "alone: {command:?}");
            }
            let batch = alone.into_batch();
            single.write(batch);
        }
        if broken == Broken::AppliedAgain {
            applier.apply(chunk.commands.last().expect("a command")).unwrap();
        }
        let batch = applier.into_batch();
        untouched.write(batch.clone());
        live.write(batch);
        for _ in 0..chunk.slices {
            let (batch, next) = compact_slice(&live, cursor.take(), chunk.slice).unwrap();
            live.write(batch);
            cursor = next;
        }
        check_answers(&model, &live, chunk);
        check_answers(&model, &untouched, chunk);
    }
    assert_eq!(single, untouched);
    check_everything(&model, &untouched);
    check_everything(&model, &live);
    check_hashes(&model, [&live, &untouched]);
    loop {
        let (batch, next) = compact_slice(&live, cursor.take(), 3).unwrap();
        live.write(batch);
        match next {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    check_everything(&model, &live);
    check_hashes(&model, [&live, &untouched]);
    assert_eq!(versions(&live), model.versions_after_compaction());
    assert_eq!(compact_slice(&live, None, 3).unwrap(), Default::default(), "nothing is left to do");
    if broken == Broken::DeletionAtCompaction
        && let Some(pair) = deletion_at(&live, model.compacted)
    {
        live.pairs.remove(&pair);
        check_everything(&model, &live);
    }
    assert!(live.scan(b"", b"", Direction::Forward).all(|pair| pair.is_ok()));
}

/// Changes over a base; None removes.
fn some_pairs() -> impl Strategy<Value = Vec<(Bytes, Option<Bytes>)>> {
    vec((key(), prop::option::weighted(0.7, value())), 0..8)
}

proptest! {
    /// A scan through an overlay is a scan of the base with the changes written into it.
    #[test]
    fn an_overlay_reads_like_what_it_will_write(
        base in some_pairs(), changes in some_pairs(), start in key(), end in range_end(), backward in any::<bool>(),
    ) {
        let mut store = Memory::default();
        store.pairs.extend(base.into_iter().filter_map(|(key, value)| Some((key, value?))));
        let mut overlay = Overlay::new(&store);
        for (key, value) in changes {
            match value {
                Some(value) => overlay.put(key, value),
                None => overlay.delete(key),
            }
        }
        let direction = if backward { Direction::Backward } else { Direction::Forward };
        // An inverted range is left to the engines, whose own contract it is.
        let end = if end > start { end } else { Bytes::new() };
        let seen: Vec<(Bytes, Bytes)> = overlay.scan(&start, &end, direction).map(|pair| pair.unwrap()).collect();
        let got = KEYS.map(|key| overlay.get(key).unwrap());
        let mut written = store.clone();
        written.write(overlay.into_batch());
        let expected: Vec<(Bytes, Bytes)> = written.scan(&start, &end, direction).map(|pair| pair.unwrap()).collect();
        prop_assert_eq!(seen, expected);
        prop_assert_eq!(got, KEYS.map(|key| written.get(key).unwrap()));
    }

    #[test]
    fn answers_like_the_naive_model(chunks in vec(a_chunk(), 1..10)) {
        run(&chunks, Broken::Nothing);
    }
}

#[test]
fn broken_rules_are_caught() {
    for broken in [Broken::DeletionAtCompaction, Broken::AppliedAgain, Broken::OrderOfItsOwn] {
        let config = ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() };
        let rng = TestRng::deterministic_rng(config.rng_algorithm);
        let noticed = TestRunner::new_with_rng(config, rng).run(&vec(a_chunk(), 1..10), |chunks| {
            run(&chunks, broken);
            Ok(())
        });
        assert!(noticed.is_err(), "{broken:?} goes unnoticed");
    }
}
