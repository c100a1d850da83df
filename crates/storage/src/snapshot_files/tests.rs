use super::*;

fn at(index: u64) -> Option<Position> {
    Some(Position { term: 1, index })
}

fn pairs(count: u32, size: usize) -> Vec<(Bytes, Bytes)> {
    (0..count).map(|n| (Bytes::from(format!("key{n:06}")), Bytes::from(vec![n as u8; size]))).collect()
}

fn write(snapshots: &Snapshots, index: u64, content: &[(Bytes, Bytes)]) -> SnapshotMeta {
    snapshots.write(at(index), Bytes::from_static(b"members"), &mut content.iter().cloned().map(Ok)).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn flip(path: &Path, byte: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[byte] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn what_was_written_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(dir.path()).unwrap();
    assert!(snapshots.newest().unwrap().is_none());
    for (index, content) in
        [(1, pairs(0, 0)), (2, pairs(3, 0)), (3, pairs(500, 1000)), (4, pairs(2, 3 << 20))]
    {
        let written = write(&snapshots, index, &content);
        assert_eq!(written.pairs, content.len() as u64);
        let (found, path) = snapshots.newest().unwrap().unwrap();
        assert_eq!(found, written);
        assert_eq!(found.bytes, std::fs::metadata(&path).unwrap().len());
        let read: Vec<_> = snapshots.read(&path).unwrap().map(Result::unwrap).collect();
        assert_eq!(read, content);
    }
    assert_eq!(names(dir.path()).len(), KEPT_FILES);
}

#[test]
fn every_flipped_byte_and_every_cut_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(dir.path()).unwrap();
    write(&snapshots, 7, &pairs(5, 10));
    let (_, path) = snapshots.newest().unwrap().unwrap();
    let whole = std::fs::read(&path).unwrap();
    for byte in 0..whole.len() {
        flip(&path, byte);
        assert!(matches!(snapshots.newest(), Err(StorageError::Damaged { .. })), "byte {byte}");
        std::fs::write(&path, &whole[..byte]).unwrap();
        assert!(matches!(snapshots.newest(), Err(StorageError::Damaged { .. })), "cut at {byte}");
        std::fs::write(&path, &whole).unwrap();
    }
    std::fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
    assert!(matches!(snapshots.newest(), Err(StorageError::Damaged { .. })), "a longer file");
}

#[test]
fn an_older_file_does_only_if_the_log_reaches_back() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(dir.path()).unwrap();
    assert!(snapshots.usable(None).unwrap().is_none());
    assert!(snapshots.usable(at(3)).is_err(), "the log begins at 4 and nothing tells what was before");
    write(&snapshots, 10, &pairs(3, 10));
    write(&snapshots, 20, &pairs(3, 10));
    let (_, newest) = snapshots.newest().unwrap().unwrap();
    let usable = |purged| snapshots.usable(purged).map(|found| found.map(|(meta, _)| meta.at.unwrap().index));
    assert_eq!(usable(at(20)).unwrap(), Some(20));
    assert!(usable(at(21)).is_err());
    flip(&newest, 50);
    assert_eq!(usable(at(10)).unwrap(), Some(10));
    assert_eq!(usable(None).unwrap(), Some(10));
    assert!(matches!(usable(at(11)), Err(StorageError::Damaged { path, .. }) if path == newest));
    let survey = snapshots.survey().unwrap();
    assert!(survey[0].meta.is_err() && survey[1].meta.is_ok());
}

#[test]
fn a_file_from_a_peer_is_adopted_only_whole() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (ours, theirs) = (Snapshots::open(here.path()).unwrap(), Snapshots::open(there.path()).unwrap());
    let meta = write(&theirs, 9, &pairs(100, 1000));
    let bytes = std::fs::read(theirs.newest().unwrap().unwrap().1).unwrap();

    let incoming = ours.incoming();
    std::fs::write(&incoming, &bytes[..bytes.len() - 1]).unwrap();
    assert!(ours.adopt(&incoming).is_err());
    assert!(!incoming.exists() && ours.newest().unwrap().is_none());

    let incoming = ours.incoming();
    std::fs::write(&incoming, &bytes).unwrap();
    assert_eq!(ours.adopt(&incoming).unwrap(), meta);
    assert_eq!(ours.newest().unwrap().unwrap().0, meta);
    assert!(!incoming.exists());
}

#[test]
fn a_failed_or_interrupted_write_leaves_no_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(dir.path()).unwrap();
    let failing =
        [Ok((Bytes::from_static(b"a"), Bytes::new())), Err(StorageError::Thawed { reason: "test" })];
    assert!(snapshots.write(at(1), Bytes::new(), &mut failing.into_iter()).is_err());
    assert!(names(dir.path()).is_empty());
    std::fs::write(snapshots.incoming(), b"half").unwrap();
    let snapshots = Snapshots::open(dir.path()).unwrap();
    assert!(names(dir.path()).is_empty());
    assert!(snapshots.newest().unwrap().is_none());
}

#[test]
fn names_sort_by_index() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(dir.path()).unwrap();
    snapshots.write(None, Bytes::new(), &mut std::iter::empty()).unwrap();
    write(&snapshots, 9, &[]);
    write(&snapshots, 10, &[]);
    assert_eq!(snapshots.newest().unwrap().unwrap().0.at, at(10));
}
