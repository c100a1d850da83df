//! kill -9 of a process that writes into the engine, at any moment, in the middle of a flush as well: what is found belongs to
//! one moment, all of it.
//!
//! The child is this binary again. Batch n puts n into every place that n reaches and removes others, so the parent knows
//! from the number that it finds what everything else has to be.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_state::{Batch, Direction, Op, View};
use quorate_storage::{Engine, Opened, SledEngine};

const DIR: &str = "QUORATE_ENGINE_KILL_DIR";
const ROUNDS: u32 = 16;
/// Enough of them that a table is full after a few dozen batches, and their blocks are many.
const KEYS: u64 = 20_000;
const PER_BATCH: u64 = 200;

fn key(number: u64) -> Bytes {
    format!("key/{number:05}").into()
}

/// What batch `n` does, beside saying its number.
fn changes(n: u64) -> impl Iterator<Item = (Bytes, Option<Bytes>)> {
    (0..PER_BATCH).map(move |nth| {
        let number = (n * 7919 + nth * 37) % KEYS;
        let value = (!(n + nth).is_multiple_of(7)).then(|| {
            let length = 100 + (n * 31 + nth * 17) % 700;
            Bytes::from(vec![(n + nth) as u8; length as usize])
        });
        (key(number), value)
    })
}

/// The child's life. A test by name, because that is how a test binary can be told to run one function.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let engine = SledEngine::open(Path::new(&dir)).unwrap().into_engine();
    let first = engine.get(b"batch").unwrap().map_or(1, |found| number(&found) + 1);
    let mut out = std::io::stdout().lock();
    for n in first.. {
        let mut batch = Batch::default();
        for (key, value) in changes(n) {
            match value {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            }
        }
        batch.ops.push(Op::Put { key: Bytes::from_static(b"batch"), value: n.to_string().into() });
        engine.write(&batch).unwrap();
        writeln!(out, "batch {n}").and_then(|()| out.flush()).unwrap();
    }
}

fn number(found: &Bytes) -> u64 {
    std::str::from_utf8(found).unwrap().parse().unwrap()
}

/// Whether the file lies there that says what a flush does.
fn flush_under_way(dir: &Path) -> bool {
    let generations = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    generations.filter(|path| path.is_dir()).any(|path| path.join("REDO").exists())
}

fn wait_for_flush(dir: &Path) {
    let until = Instant::now() + Duration::from_secs(30);
    while !flush_under_way(dir) {
        assert!(Instant::now() < until, "no flush begins");
        std::thread::sleep(Duration::from_micros(200));
    }
}

#[test]
fn what_is_found_after_a_kill_is_one_moment() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(3);
    let mut model: BTreeMap<Bytes, Bytes> = BTreeMap::new();
    let (mut known, mut in_a_flush) = (0, 0);
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        // Held until it is dead: a child that nobody reads ends in good order, by a broken pipe.
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let written =
            lines.by_ref().filter(|line| line.starts_with("batch ")).take(random.usize(1..200)).count();
        assert!(written > 0, "the child ended by itself");
        if round % 4 > 0 {
            wait_for_flush(dir.path());
            std::thread::sleep(Duration::from_micros(random.u64(0..20_000)));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        drop(lines);
        in_a_flush += u32::from(flush_under_way(dir.path()));

        let engine = match SledEngine::open(dir.path()).unwrap() {
            Opened::Reused(engine) => engine,
            Opened::Rebuild { reason, .. } => panic!("round {round}: rebuilt: {reason}"),
        };
        let found = engine.get(b"batch").unwrap().map_or(0, |found| number(&found));
        assert!(found >= known, "round {round}: {known} had been found before, now it is {found}");
        for n in known + 1..=found {
            for (key, value) in changes(n) {
                match value {
                    Some(value) => drop(model.insert(key, value)),
                    None => drop(model.remove(&key)),
                }
            }
        }
        known = found;
        let pairs: BTreeMap<Bytes, Bytes> =
            engine.scan(b"key/", b"key0", Direction::Forward).map(Result::unwrap).collect();
        assert!(pairs == model, "round {round}: not what batch {found} left");
    }
    assert!(known > 60, "hardly anything was flushed: {known} batches");
    assert!(in_a_flush > 2, "killed in the middle of {in_a_flush} flushes");
}
