use std::collections::BTreeMap;

use quorate_state::Op;

use super::store::{CHUNK, Store};
use super::*;

fn open(dir: &Path, boot: &str) -> Result<Opened, StorageError> {
    SledEngine::open_at_boot(dir, boot, TABLE_BYTES)
}

fn put(key: &'static str, value: Vec<u8>) -> Batch {
    Batch { ops: vec![Op::Put { key: Bytes::from_static(key.as_bytes()), value: value.into() }] }
}

fn filled(dir: &Path) {
    let engine = open(dir, "boot 1").unwrap().into_engine();
    engine.write(&put("a", b"1".to_vec())).unwrap();
    engine.sync().unwrap();
}

fn reason(dir: &Path, boot: &str) -> RebuildReason {
    match open(dir, boot).unwrap() {
        Opened::Rebuild { engine, reason } => {
            assert!(engine.get(b"a").unwrap().is_none(), "a rebuilt engine is empty");
            reason
        }
        Opened::Reused(_) => panic!("it was reused"),
    }
}

fn database(dir: &Path) -> PathBuf {
    let generations = generations(dir).unwrap();
    assert_eq!(generations.len(), 1);
    generation_path(dir, generations[0])
}

#[test]
fn reused_after_a_stop_of_the_process() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(reason(dir.path(), "boot 1"), RebuildReason::New);
    filled(dir.path());
    match open(dir.path(), "boot 1").unwrap() {
        Opened::Reused(engine) => assert_eq!(engine.get(b"a").unwrap().unwrap(), "1"),
        Opened::Rebuild { reason, .. } => panic!("{reason}"),
    }
}

#[test]
fn rebuilt_after_a_reboot_and_then_reused() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    assert_eq!(reason(dir.path(), "boot 2"), RebuildReason::Rebooted);
    assert!(matches!(open(dir.path(), "boot 2").unwrap(), Opened::Reused(_)));
}

#[test]
fn rebuilt_without_a_readable_mark() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    std::fs::remove_file(dir.path().join(MARK)).unwrap();
    assert!(matches!(reason(dir.path(), "boot 1"), RebuildReason::NotMarked(_)));
    filled(dir.path());
    std::fs::write(dir.path().join(MARK), "quorate-engine 9\n").unwrap();
    assert!(matches!(reason(dir.path(), "boot 1"), RebuildReason::NotMarked(_)));
}

#[test]
fn rebuilt_when_the_database_is_gone_foreign_or_rubbish() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    std::fs::remove_dir_all(database(dir.path())).unwrap();
    assert!(matches!(reason(dir.path(), "boot 1"), RebuildReason::SelfCheck(_)));

    filled(dir.path());
    let other = tempfile::tempdir().unwrap();
    filled(other.path());
    std::fs::remove_dir_all(database(dir.path())).unwrap();
    let generation = Mark::read(dir.path()).unwrap().unwrap().generation;
    std::fs::rename(database(other.path()), generation_path(dir.path(), generation)).unwrap();
    assert!(matches!(reason(dir.path(), "boot 1"), RebuildReason::SelfCheck(_)));

    filled(dir.path());
    std::fs::write(database(dir.path()).join("conf"), [0xff; 100]).unwrap();
    assert!(matches!(reason(dir.path(), "boot 1"), RebuildReason::DoesNotOpen(_)));
}

#[test]
fn an_error_while_running_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let engine = open(dir.path(), "boot 1").unwrap().into_engine();
    engine.inner.suspect();
    drop(engine);
    assert!(matches!(reason(dir.path(), "boot 1"), RebuildReason::NotMarked(_)));
}

#[test]
fn a_second_open_is_refused_and_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let engine = open(dir.path(), "boot 1").unwrap().into_engine();
    assert!(matches!(open(dir.path(), "boot 2"), Err(StorageError::Locked { .. })));
    assert_eq!(engine.get(b"a").unwrap().unwrap(), "1");
}

#[test]
fn a_failed_replace_leaves_the_old_content() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let engine = open(dir.path(), "boot 1").unwrap().into_engine();
    let failing = [
        Ok((Bytes::from_static(b"b"), Bytes::from_static(b"2"))),
        Err(StorageError::Thawed { reason: "test" }),
    ];
    assert!(engine.replace(&mut failing.into_iter()).is_err());
    assert_eq!(engine.get(b"a").unwrap().unwrap(), "1");
    assert!(engine.get(b"b").unwrap().is_none());
    drop(engine);
    database(dir.path());
    assert!(matches!(open(dir.path(), "boot 1").unwrap(), Opened::Reused(_)));
}

#[test]
fn pieces_of_large_values_are_removed_with_them() {
    let dir = tempfile::tempdir().unwrap();
    let pieces = |engine: &SledEngine| {
        engine.sync().unwrap();
        engine.inner.layers.store().db.scan_prefix([CHUNK]).count()
    };
    let engine = open(dir.path(), "boot 1").unwrap().into_engine();
    engine.write(&put("a", vec![7; CHUNK_BYTES - 100])).unwrap();
    assert_eq!(pieces(&engine), 0);
    engine.write(&put("a", vec![7; 3 * CHUNK_BYTES + 1])).unwrap();
    assert_eq!(pieces(&engine), 4);
    drop(engine);
    let engine = open(dir.path(), "boot 1").unwrap().into_engine();
    assert_eq!(engine.get(b"a").unwrap().unwrap(), vec![7; 3 * CHUNK_BYTES + 1]);
    engine.write(&put("a", vec![8; CHUNK_BYTES + 1])).unwrap();
    assert_eq!(pieces(&engine), 2);
    engine.write(&Batch { ops: vec![Op::Delete { key: Bytes::from_static(b"a") }] }).unwrap();
    assert_eq!(pieces(&engine), 0);
}

type Model = BTreeMap<Bytes, Bytes>;

/// A batch that hits the same few hundred keys again and again, with values from nothing to several blocks.
fn random_batch(random: &mut fastrand::Rng) -> Batch {
    let mut batch = Batch::default();
    for _ in 0..random.usize(1..40) {
        let key = Bytes::from(format!("{}/{:04}", random.u8(0..3), random.u16(0..400)));
        if random.u8(0..4) == 0 {
            batch.delete(key);
        } else {
            let length = if random.u8(0..50) == 0 { random.usize(0..20_000) } else { random.usize(0..300) };
            batch.put(key, vec![random.u8(..); length].into());
        }
    }
    batch
}

fn apply(model: &mut Model, batch: &Batch) {
    for op in &batch.ops {
        match op {
            Op::Put { key, value } => drop(model.insert(key.clone(), value.clone())),
            Op::Delete { key } => drop(model.remove(key)),
        }
    }
}

/// Every key, every pair both ways, and a range in the middle.
fn compare(engine: &SledEngine, model: &Model, when: &str) {
    let scan = |start: &[u8], end: &[u8], direction| -> Vec<(Bytes, Bytes)> {
        engine.scan(start, end, direction).map(Result::unwrap).collect()
    };
    let all: Vec<(Bytes, Bytes)> = model.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    assert_eq!(scan(b"", b"", Direction::Forward), all, "{when}");
    let mut backward = scan(b"", b"", Direction::Backward);
    backward.reverse();
    assert_eq!(backward, all, "{when}: backward");
    let middle =
        || all.iter().filter(|(key, _)| key[..] >= b"0/0350"[..] && key[..] < b"1/0123"[..]).cloned();
    assert_eq!(scan(b"0/0350", b"1/0123", Direction::Forward), middle().collect::<Vec<_>>(), "{when}");
    let backward = scan(b"0/0350", b"1/0123", Direction::Backward);
    assert_eq!(backward, middle().rev().collect::<Vec<_>>(), "{when}: backward");
    for number in 0..400 {
        let key = format!("1/{number:04}");
        assert_eq!(engine.get(key.as_bytes()).unwrap().as_ref(), model.get(key.as_bytes()), "{when}: {key}");
    }
}

#[test]
fn tables_blocks_and_what_is_between_them_are_one_map() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(11);
    let mut model = Model::new();
    for round in 0..6 {
        // A table of a few batches: flushes are under way nearly all the time.
        let engine = SledEngine::open_at_boot(dir.path(), "boot 1", 20_000).unwrap().into_engine();
        compare(&engine, &model, "opened again");
        for step in 0..150 {
            let batch = random_batch(&mut random);
            engine.write(&batch).unwrap();
            apply(&mut model, &batch);
            if step % 10 == 0 {
                compare(&engine, &model, &format!("round {round}, step {step}"));
            }
        }
        engine.sync().unwrap();
        compare(&engine, &model, "synced");
    }
}

/// Readers go through the blocks, both ways and to single ones, while a flush cuts them again and again.
#[test]
fn what_lies_still_is_found_while_blocks_are_cut() {
    let still = |number: usize| (Bytes::from(format!("{number:04}")), Bytes::from(vec![b'x'; 60]));
    let all: Vec<(Bytes, Bytes)> = (0..2_000).map(still).collect();
    let whole: BTreeMap<Bytes, Option<Bytes>> =
        all.iter().cloned().map(|(key, value)| (key, Some(value))).collect();
    for round in 0..4 {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::create(&dir.path().join("db")).unwrap().0);
        store.merge(whole.iter()).unwrap();
        std::thread::scope(|scope| {
            let cutting = scope.spawn(|| {
                for wave in 0..12 {
                    let between = |number: usize| Bytes::from(format!("{number:04}/{wave:02}"));
                    let changes: BTreeMap<Bytes, Option<Bytes>> = (0..all.len())
                        .map(|number| (between(number), Some(vec![b'y'; 100].into())))
                        .collect();
                    store.merge(changes.iter()).unwrap();
                }
            });
            let mut number = 0;
            while !cutting.is_finished() {
                for direction in [Direction::Forward, Direction::Backward] {
                    let pairs = store.clone().scan(b"", b"", direction).map(Result::unwrap);
                    let mut found: Vec<(Bytes, Bytes)> = pairs.filter(|(key, _)| key.len() == 4).collect();
                    if direction == Direction::Backward {
                        found.reverse();
                    }
                    assert!(found == all, "round {round}, {direction:?}: {} of {}", found.len(), all.len());
                }
                for _ in 0..100 {
                    number = (number + 7) % all.len();
                    let (key, value) = &all[number];
                    assert!(store.get(key).unwrap().as_ref() == Some(value), "round {round}: {key:?}");
                }
            }
            cutting.join().unwrap();
        });
        assert!(store.cuts() > 100, "nothing was cut");
    }
}

/// The process ends in the middle of a flush, after any of the blocks that it writes: `REDO` is there, and what was written.
#[test]
fn a_broken_off_flush_is_done_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(12);
    let mut model = Model::new();
    let store = Arc::new(Store::create(&dir.path().join("db")).unwrap().0);
    let mut broken_off = 0;
    for round in 0..100 {
        // New pairs between the old ones, so that blocks are cut.
        let mut changes: BTreeMap<Bytes, Option<Bytes>> = BTreeMap::new();
        for _ in 0..random.usize(1..400) {
            let value = (random.u8(0..4) > 0).then(|| vec![random.u8(..); random.usize(0..700)].into());
            changes.insert(format!("{:05}", random.u16(0..20_000)).into(), value);
        }
        redo::write(&store.path, changes.iter()).unwrap();
        store.left.store(random.u64(0..100), Ordering::Relaxed);
        broken_off += u32::from(store.merge(changes.iter()).is_err());
        // And in the middle of doing it again.
        store.left.store(random.u64(0..100), Ordering::Relaxed);
        broken_off += u32::from(layers::recover(&store).is_err());
        store.left.store(u64::MAX, Ordering::Relaxed);
        layers::recover(&store).unwrap();
        assert!(redo::read(&store.path).unwrap().is_none(), "it is done");
        for (key, value) in changes {
            match value {
                Some(value) => drop(model.insert(key, value)),
                None => drop(model.remove(&key)),
            }
        }
        let found: Model = store.clone().scan(b"", b"", Direction::Forward).map(Result::unwrap).collect();
        assert!(found == model, "round {round}");
        for (key, value) in &model {
            assert!(store.get(key).unwrap().as_ref() == Some(value), "round {round}: {key:?}");
        }
    }
    assert!(broken_off > 60, "{broken_off}");
}

/// sled takes a part that fails its checksums for the end of its log, and says nothing.
#[test]
fn a_database_that_has_lost_its_end_is_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    for lost in [40, 400, 4_000] {
        let engine = open(dir.path(), "boot 1").unwrap().into_engine();
        for number in 0..20_u8 {
            engine.write(&put("a", vec![number; 3_000])).unwrap();
            engine.sync().unwrap();
        }
        drop(engine);
        let path = database(dir.path()).join("db");
        let bytes = std::fs::read(&path).unwrap();
        // The newest records are the last that are not zeros.
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        let mut damaged = bytes.clone();
        damaged[end - lost] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        match open(dir.path(), "boot 1").unwrap() {
            Opened::Rebuild { .. } => {}
            Opened::Reused(engine) => {
                assert_eq!(engine.get(b"a").unwrap().unwrap(), vec![19; 3_000], "{lost}")
            }
        }
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (entry, to) = (entry.as_ref().unwrap(), to.join(entry.as_ref().unwrap().file_name()));
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// sled remembers where its pages are and looks at them when somebody asks, with a panic if need be. Doing a flush again asks.
#[test]
fn a_rotten_page_under_a_broken_off_flush_is_no_panic() {
    let kept = tempfile::tempdir().unwrap();
    let key = |number: usize| Bytes::from(format!("{number:03}"));
    let pairs = |value: u8| (0..200).map(move |number| (key(number), Bytes::from(vec![value; 3_000])));
    let engine = open(kept.path(), "boot 1").unwrap().into_engine();
    engine.write(&Batch { ops: pairs(1).map(|(key, value)| Op::Put { key, value }).collect() }).unwrap();
    engine.sync().unwrap();
    drop(engine);
    drop(open(kept.path(), "boot 1").unwrap());
    let changes: BTreeMap<Bytes, Option<Bytes>> = pairs(2).map(|(key, value)| (key, Some(value))).collect();
    redo::write(&database(kept.path()), changes.iter()).unwrap();
    let mut rebuilt = 0;
    for part in 0..24 {
        let dir = tempfile::tempdir().unwrap();
        copy(kept.path(), dir.path());
        let path = database(dir.path()).join("db");
        let mut bytes = std::fs::read(&path).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        for byte in &mut bytes[end * part / 24..][..end / 240] {
            *byte ^= 0x55;
        }
        std::fs::write(&path, &bytes).unwrap();
        match open(dir.path(), "boot 1").unwrap() {
            Opened::Rebuild { .. } => rebuilt += 1,
            Opened::Reused(engine) => {
                for (key, value) in pairs(2) {
                    assert_eq!(engine.get(&key).unwrap().unwrap(), value, "part {part}");
                }
            }
        }
    }
    assert!(rebuilt > 0, "nothing was hit");
}

#[test]
fn a_damaged_redo_is_a_reason_to_rebuild() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    std::fs::write(database(dir.path()).join("REDO"), b"QRTREDO\n and then nothing of use").unwrap();
    assert!(matches!(reason(dir.path(), "boot 1"), RebuildReason::SelfCheck(_)));
}

#[test]
fn a_panic_below_is_an_error_and_not_the_end_of_a_thread() {
    let number = 7;
    let said = store::caught(|| -> Result<(), String> { panic!("page {number}") });
    assert_eq!(said, Err("it panicked: page 7".to_owned()));
    assert_eq!(store::caught(|| Err::<(), _>("no room")), Err("no room".to_owned()));
    assert_eq!(store::caught(|| Ok::<_, String>(number)), Ok(7));
}
