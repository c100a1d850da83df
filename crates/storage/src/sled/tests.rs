use super::*;

fn put(key: &'static str, value: Vec<u8>) -> Batch {
    Batch { ops: vec![Op::Put { key: Bytes::from_static(key.as_bytes()), value: value.into() }] }
}

fn filled(dir: &Path) {
    let engine = SledEngine::open_at_boot(dir, "boot 1").unwrap().into_engine();
    engine.write(&put("a", b"1".to_vec())).unwrap();
    engine.sync().unwrap();
}

fn reason(dir: &Path, boot: &str) -> RebuildReason {
    match SledEngine::open_at_boot(dir, boot).unwrap() {
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
    match SledEngine::open_at_boot(dir.path(), "boot 1").unwrap() {
        Opened::Reused(engine) => assert_eq!(engine.get(b"a").unwrap().unwrap(), "1"),
        Opened::Rebuild { reason, .. } => panic!("{reason}"),
    }
}

#[test]
fn rebuilt_after_a_reboot_and_then_reused() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    assert_eq!(reason(dir.path(), "boot 2"), RebuildReason::Rebooted);
    assert!(matches!(SledEngine::open_at_boot(dir.path(), "boot 2").unwrap(), Opened::Reused(_)));
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
    let engine = SledEngine::open_at_boot(dir.path(), "boot 1").unwrap().into_engine();
    engine.inner.suspect();
    drop(engine);
    assert!(matches!(reason(dir.path(), "boot 1"), RebuildReason::NotMarked(_)));
}

#[test]
fn a_second_open_is_refused_and_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let engine = SledEngine::open_at_boot(dir.path(), "boot 1").unwrap().into_engine();
    assert!(matches!(SledEngine::open_at_boot(dir.path(), "boot 2"), Err(StorageError::Locked { .. })));
    assert_eq!(engine.get(b"a").unwrap().unwrap(), "1");
}

#[test]
fn a_failed_replace_leaves_the_old_content() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let engine = SledEngine::open_at_boot(dir.path(), "boot 1").unwrap().into_engine();
    let failing = [
        Ok((Bytes::from_static(b"b"), Bytes::from_static(b"2"))),
        Err(StorageError::Thawed { reason: "test" }),
    ];
    assert!(engine.replace(&mut failing.into_iter()).is_err());
    assert_eq!(engine.get(b"a").unwrap().unwrap(), "1");
    assert!(engine.get(b"b").unwrap().is_none());
    drop(engine);
    database(dir.path());
    assert!(matches!(SledEngine::open_at_boot(dir.path(), "boot 1").unwrap(), Opened::Reused(_)));
}

#[test]
fn pieces_of_large_values_are_removed_with_them() {
    let dir = tempfile::tempdir().unwrap();
    let pieces = |engine: &SledEngine| engine.inner.store().db.scan_prefix([CHUNK]).count();
    let engine = SledEngine::open_at_boot(dir.path(), "boot 1").unwrap().into_engine();
    engine.write(&put("a", vec![7; CHUNK_BYTES])).unwrap();
    assert_eq!(pieces(&engine), 0);
    engine.write(&put("a", vec![7; 3 * CHUNK_BYTES + 1])).unwrap();
    assert_eq!(pieces(&engine), 4);
    engine.sync().unwrap();
    drop(engine);
    let engine = SledEngine::open_at_boot(dir.path(), "boot 1").unwrap().into_engine();
    assert_eq!(engine.get(b"a").unwrap().unwrap(), vec![7; 3 * CHUNK_BYTES + 1]);
    engine.write(&put("a", vec![8; CHUNK_BYTES + 1])).unwrap();
    assert_eq!(pieces(&engine), 2);
    engine.write(&Batch { ops: vec![Op::Delete { key: Bytes::from_static(b"a") }] }).unwrap();
    assert_eq!(pieces(&engine), 0);
}
