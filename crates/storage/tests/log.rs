//! The log's contract, readable: scripts with reopening between steps, and what happens when the disk fails.

use std::error::Error;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::Command as Process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use goldenscript::{Command, Context};
use quorate_storage::{Completion, Entry, Log, LogOptions, Position, StorageError, Vote};

/// Any single wait in these tests.
const DEADLINE: Duration = Duration::from_secs(60);

fn small() -> LogOptions {
    LogOptions { segment_bytes: 8192, cache_bytes: 256, queue_bytes: 1 << 20, on_sync: None }
}

/// A completion and where its answer arrives.
fn wait() -> (Completion, impl FnOnce() -> std::io::Result<()>) {
    let (tell, told) = mpsc::channel();
    let done: Completion = Box::new(move |result| tell.send(result).expect("somebody waits"));
    (done, move || told.recv_timeout(DEADLINE).expect("a completion"))
}

fn entry(term: u64, index: u64, payload: impl Into<Bytes>) -> Entry {
    Entry { at: Position { term, index }, payload: payload.into() }
}

fn append(log: &Log, entries: Vec<Entry>) -> std::io::Result<()> {
    let (done, answer) = wait();
    log.append(entries, done);
    answer()
}

struct Script {
    dir: tempfile::TempDir,
    log: Option<Log>,
}

fn position(at: Option<Position>) -> String {
    at.map_or("none".into(), |at| format!("{}@{}", at.index, at.term))
}

/// `index@term`, or `none`.
fn parse(text: &str) -> Result<Option<Position>, Box<dyn Error>> {
    if text == "none" {
        return Ok(None);
    }
    let (index, term) = text.split_once('@').ok_or("index@term")?;
    Ok(Some(Position { term: term.parse()?, index: index.parse()? }))
}

impl goldenscript::Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let mut out = String::new();
        let mut args = command.consume_args();
        if command.name == "reopen" {
            self.log.take().expect("open").close(DEADLINE)?;
            self.log = Some(Log::open(self.dir.path(), small())?);
            return Ok(out);
        }
        let log = self.log.as_ref().expect("open");
        match command.name.as_str() {
            "append" => {
                let term = args.take_key("term").ok_or("term")?.parse()?;
                let size: usize = args.take_key("size").unwrap_or("10").parse()?;
                let (from, to) =
                    args.next_pos().and_then(|range| range.split_once("..")).ok_or("from..to")?;
                let (from, to): (u64, u64) = (from.parse()?, to.parse()?);
                append(log, (from..to).map(|index| entry(term, index, vec![index as u8; size])).collect())?;
            }
            "vote" => {
                let term = args.take_key("term").ok_or("term")?.parse()?;
                let node = args.take_key("node").map(str::parse).transpose()?;
                let committed = args.take_key("committed") == Some("true");
                let (done, answer) = wait();
                log.save_vote(Vote { term, node, committed }, done);
                answer()?;
            }
            "committed" => log.save_committed(parse(args.next_pos().ok_or("position")?)?),
            "truncate" => {
                let (done, answer) = wait();
                log.truncate_after(parse(args.next_pos().ok_or("position")?)?, done);
                answer()?;
            }
            "purge" => {
                let (done, answer) = wait();
                log.purge(parse(args.next_pos().ok_or("position")?)?.ok_or("position")?, done);
                answer()?;
            }
            "state" => {
                let vote = log.vote().map_or("none".into(), |vote| {
                    let node = vote.node.map_or("nobody".into(), |node| format!("node {node}"));
                    format!(
                        "term {} for {node}{}",
                        vote.term,
                        if vote.committed { ", committed" } else { "" }
                    )
                });
                let (committed, purged, last) = (log.committed(), log.purged(), log.last());
                writeln!(out, "vote {vote}; committed {}", position(committed))?;
                writeln!(out, "purged {}; last {}", position(purged), position(last))?;
            }
            "entries" => {
                let max = args.take_key("max_bytes").map_or(Ok(usize::MAX), str::parse)?;
                let (from, to) =
                    args.next_pos().and_then(|range| range.split_once("..")).unwrap_or(("0", "1000000"));
                let found = log.entries(from.parse()?..to.parse()?, max)?;
                for entry in &found {
                    assert!(
                        entry.payload.iter().all(|byte| *byte == entry.at.index as u8),
                        "another payload: {entry:?}"
                    );
                }
                let found: Vec<_> = found.iter().map(|entry| position(Some(entry.at))).collect();
                writeln!(out, "{}", if found.is_empty() { "nothing".into() } else { found.join(" ") })?;
            }
            "segments" => {
                // Removal happens behind; it is waited for by closing.
                log.close(DEADLINE)?;
                let count = segments(self.dir.path()).len();
                self.log = Some(Log::open(self.dir.path(), small())?);
                writeln!(out, "{count}")?;
            }
            other => return Err(format!("no such command: {other}").into()),
        }
        Ok(out)
    }
}

fn segments(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    found.sort();
    found
}

#[test]
fn scripts() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/log_scripts");
    for script in std::fs::read_dir(dir).unwrap() {
        let dir = tempfile::tempdir().unwrap();
        let log = Some(Log::open(dir.path(), small()).unwrap());
        goldenscript::run(&mut Script { dir, log }, script.unwrap().path()).unwrap();
    }
}

#[test]
fn one_sync_completes_everything_that_waited_in_call_order() {
    let dir = tempfile::tempdir().unwrap();
    let syncs = Arc::new(AtomicU64::new(0));
    let (seen, counter) = (syncs.clone(), syncs.clone());
    let (gate, opened) = mpsc::channel::<()>();
    let opened = parking_lot::Mutex::new(opened);
    let options = LogOptions {
        on_sync: Some(Arc::new(move |_| {
            // The first group is held back until the others wait.
            if counter.fetch_add(1, Ordering::SeqCst) == 0 {
                opened.lock().recv().expect("the test opens the gate");
            }
        })),
        ..LogOptions::default()
    };
    let log = Log::open(dir.path(), options).unwrap();
    let (tell, told) = mpsc::channel();
    let done = |nth: u64| -> Completion {
        let tell = tell.clone();
        Box::new(move |result| tell.send((nth, result.is_ok())).expect("somebody waits"))
    };
    log.append(vec![entry(1, 1, "first")], done(1));
    while seen.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    for index in 2..100 {
        log.append(vec![entry(1, index, "later")], done(index));
        assert_eq!(log.last().unwrap().index, index, "readable at once");
    }
    log.save_vote(Vote { term: 1, node: None, committed: false }, done(100));
    gate.send(()).unwrap();
    for nth in 1..=100 {
        assert_eq!(told.recv_timeout(DEADLINE).unwrap(), (nth, true));
    }
    assert_eq!(seen.load(Ordering::SeqCst), 2, "one sync for the first, one for all others");
}

#[test]
fn committed_alone_costs_no_sync_and_rides_on_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let syncs = Arc::new(AtomicU64::new(0));
    let counter = syncs.clone();
    let on_sync: Option<quorate_storage::OnSync> = Some(Arc::new(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
    }));
    let log = Log::open(dir.path(), LogOptions { on_sync, ..small() }).unwrap();
    append(&log, vec![entry(1, 1, "a")]).unwrap();
    log.save_committed(Some(Position { term: 1, index: 1 }));
    append(&log, vec![entry(1, 2, "b")]).unwrap();
    assert_eq!(syncs.load(Ordering::SeqCst), 2);
    drop(log);
    assert_eq!(Log::open(dir.path(), small()).unwrap().committed(), Some(Position { term: 1, index: 1 }));
}

#[test]
fn who_waits_when_the_writer_dies_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (entered, is_entered) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel();
    let ends = std::sync::Mutex::new((entered, may_go_on));
    let on_sync: quorate_storage::OnSync = Arc::new(move |_| {
        let ends = ends.lock().unwrap();
        ends.0.send(()).unwrap();
        ends.1.recv().unwrap();
        panic!("the disk is gone");
    });
    let log = Log::open(dir.path(), LogOptions { on_sync: Some(on_sync), ..small() }).unwrap();
    log.append(vec![entry(1, 1, "a")], Box::new(drop));
    is_entered.recv_timeout(DEADLINE).unwrap();
    let (tell, told) = mpsc::channel();
    log.append(vec![entry(1, 2, "b")], Box::new(move |result| tell.send(result.is_ok()).unwrap()));
    go_on.send(()).unwrap();
    assert!(!told.recv_timeout(DEADLINE).unwrap(), "acknowledged by a writer that is dead");
    let error = log.written().unwrap_err();
    assert!(error.to_string().contains(dir.path().to_str().unwrap()), "{error}");
}

#[test]
fn an_entry_larger_than_a_segment_gets_one_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), small()).unwrap();
    append(&log, vec![entry(1, 1, "a"), entry(1, 2, vec![2; 100_000]), entry(1, 3, "c")]).unwrap();
    append(&log, vec![entry(1, 4, "d")]).unwrap();
    drop(log);
    let log = Log::open(dir.path(), small()).unwrap();
    let sizes: Vec<_> =
        log.entries(0..9, usize::MAX).unwrap().iter().map(|entry| entry.payload.len()).collect();
    assert_eq!(sizes, [1, 100_000, 1, 1]);
}

#[test]
fn a_full_queue_holds_the_caller_back_and_an_oversized_append_passes_alone() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), LogOptions { queue_bytes: 100, ..small() }).unwrap();
    append(&log, vec![entry(1, 1, "a")]).unwrap();
    log.save_committed(log.last());
    append(&log, vec![entry(1, 2, vec![2; 1000])]).unwrap();
    let (tell, told) = mpsc::channel();
    for index in 3..200 {
        let tell = tell.clone();
        let done = Box::new(move |result: std::io::Result<()>| {
            tell.send((index, result.is_ok())).expect("somebody waits")
        });
        log.append(vec![entry(1, index, vec![3; 90])], done);
    }
    for index in 3..200 {
        assert_eq!(told.recv_timeout(DEADLINE).unwrap(), (index, true));
    }
}

#[test]
fn a_second_open_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), small()).unwrap();
    match Log::open(dir.path(), small()) {
        Err(error @ StorageError::Locked { .. }) => {
            assert!(error.to_string().contains(&std::process::id().to_string()))
        }
        other => panic!("{other:?}"),
    }
    log.close(DEADLINE).unwrap();
    Log::open(dir.path(), small()).unwrap();
}

#[test]
fn a_call_after_close_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), small()).unwrap();
    log.close(DEADLINE).unwrap();
    log.close(DEADLINE).unwrap();
    assert_eq!(append(&log, vec![entry(1, 1, "late")]).unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
}

#[test]
fn after_a_failed_write_nothing_is_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = Log::open(&path, small()).unwrap();
    append(&log, vec![entry(1, 1, "fine")]).unwrap();
    assert!(log.failed().is_none());
    // Renamed, not removed: the next segment may just be being prepared in it.
    std::fs::rename(&path, dir.path().join("gone")).unwrap();
    // Fills the segment until the next one is needed, which has no directory to be in.
    let mut index = 1;
    let error = loop {
        index += 1;
        if let Err(error) = append(&log, vec![entry(1, index, vec![0; 1000])]) {
            break error;
        }
        assert!(index < 100, "the missing directory was not noticed");
    };
    assert_eq!(log.failed().as_deref(), Some(error.to_string().as_str()));
    std::fs::create_dir(&path).unwrap();
    assert!(append(&log, vec![entry(1, index + 1, "again")]).is_err(), "a failed write was retried");
    let (done, answer) = wait();
    log.save_vote(Vote { term: 9, node: None, committed: false }, done);
    assert_eq!(answer().unwrap_err().to_string(), error.to_string());
    assert!(log.close(DEADLINE).is_err());
}

/// Unmounts what it mounted.
struct Mounted<'d>(&'d Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let status = Process::new("umount").arg(self.0).status();
        assert!(status.is_ok_and(|status| status.success()), "umount {}", self.0.display());
    }
}

#[test]
fn a_full_disk_is_named_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mounted =
        Process::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(dir.path()).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        writeln!(
            std::io::stderr(),
            "skipped a_full_disk_is_named_and_loses_nothing: needs the right to mount a tmpfs"
        )
        .unwrap();
        return;
    }
    let _mounted = Mounted(dir.path());
    let options = LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() };
    let path = dir.path().join("log");
    let log = Log::open(&path, options.clone()).unwrap();
    let mut index = 0;
    let error = loop {
        index += 1;
        if let Err(error) = append(&log, vec![entry(1, index, vec![index as u8; 10_000])]) {
            break error;
        }
        assert!(index < 1000, "a disk of 1 MiB took everything");
    };
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
    assert!(error.to_string().contains("No space left on device"), "{error}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    assert!(log.failed().is_some());
    assert!(log.close(DEADLINE).is_err());
    drop(log);
    let grown = Process::new("mount").args(["-o", "remount,size=2m"]).arg(dir.path()).status().unwrap();
    assert!(grown.success());
    let log = Log::open(&path, options).unwrap();
    assert_eq!(log.last().unwrap().index, index - 1);
    assert!(
        log.entries(1..index, usize::MAX)
            .unwrap()
            .iter()
            .all(|e| e.payload == vec![e.at.index as u8; 10_000])
    );
    append(&log, vec![entry(1, index, "there is room again")]).unwrap();
}

#[test]
fn a_foreign_missing_or_renamed_segment_refuses() {
    let build = || {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path(), small()).unwrap();
        for index in 1..40 {
            append(&log, vec![entry(1, index, vec![1; 500])]).unwrap();
        }
        drop(log);
        assert!(segments(dir.path()).len() >= 4);
        dir
    };
    let refused = |dir: &Path, what: &str| match Log::open(dir, small()) {
        Err(error @ StorageError::Damaged { .. }) => {
            let sentence = error.to_string();
            assert!(sentence.contains(what) && sentence.contains("empty data directory"), "{sentence}");
        }
        other => panic!("{what}: {other:?}"),
    };
    let (one, two) = (build(), build());
    std::fs::copy(&segments(two.path())[1], &segments(one.path())[1]).unwrap();
    refused(one.path(), "another log");

    let dir = build();
    std::fs::remove_file(&segments(dir.path())[1]).unwrap();
    refused(dir.path(), "missing");

    let dir = build();
    std::fs::remove_file(&segments(dir.path())[0]).unwrap();
    refused(dir.path(), "missing");

    let dir = build();
    let all = segments(dir.path());
    std::fs::copy(&all[0], &all[1]).unwrap();
    refused(dir.path(), "under the name of");

    let dir = build();
    let last = segments(dir.path()).pop().unwrap();
    std::fs::OpenOptions::new().write(true).open(&last).unwrap().set_len(5000).unwrap();
    refused(dir.path(), "bytes long");
}

#[test]
fn damage_of_an_old_entry_is_met_when_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), small()).unwrap();
    for index in 1..10 {
        append(&log, vec![entry(1, index, vec![index as u8; 500])]).unwrap();
    }
    let path = &segments(dir.path())[0];
    let mut bytes = std::fs::read(path).unwrap();
    bytes[4096 + 100] ^= 1;
    std::fs::write(path, bytes).unwrap();
    assert!(matches!(log.entries(1..2, usize::MAX), Err(StorageError::Damaged { offset: 4096, .. })));
    assert_eq!(log.entries(2..4, usize::MAX).unwrap().len(), 2);
}
