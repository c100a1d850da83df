//! The contract of [`Engine`]: the same scripts on both engines, and frozen views against a model.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use goldenscript::{Argument, Command, Context};
use quorate_state::{Batch, Direction, Op, View as _, ViewError};
use quorate_storage::{
    Engine, Frozen, Log, LogOptions, MemoryEngine, OnSync, Opened, Pairs, Position, SledEngine, StorageError,
};

/// How an engine is left and entered again.
trait Subject: Engine + Clone {
    fn open(dir: &Path) -> Self;
    fn reopen(self, dir: &Path) -> Self;
}

impl Subject for MemoryEngine {
    fn open(_: &Path) -> MemoryEngine {
        MemoryEngine::new()
    }

    fn reopen(self, _: &Path) -> MemoryEngine {
        self
    }
}

impl Subject for SledEngine {
    fn open(dir: &Path) -> SledEngine {
        SledEngine::open(dir).unwrap().into_engine()
    }

    fn reopen(self, dir: &Path) -> SledEngine {
        self.sync().unwrap();
        drop(self);
        match SledEngine::open(dir).unwrap() {
            Opened::Reused(engine) => engine,
            Opened::Rebuild { reason, .. } => panic!("rebuilt: {reason}"),
        }
    }
}

struct Script<E> {
    dir: tempfile::TempDir,
    engine: Option<E>,
    frozen: BTreeMap<String, Frozen>,
}

fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.len() <= 20 => text.to_owned(),
        _ => format!("{} bytes, crc {:08x}", bytes.len(), crc(bytes)),
    }
}

fn crc(bytes: &[u8]) -> u32 {
    bytes.iter().fold(7, |sum: u32, byte| sum.wrapping_mul(31).wrapping_add(u32::from(*byte)))
}

fn put(key: &str, value: impl Into<Bytes>) -> Op {
    Op::Put { key: Bytes::copy_from_slice(key.as_bytes()), value: value.into() }
}

/// `key=value` puts, a bare `key` deletes.
fn ops(command: &Command) -> Vec<Op> {
    let op = |argument: &Argument| match argument {
        Argument::KeyValue(key, value) => put(key, value.clone()),
        Argument::Positional(key) => Op::Delete { key: key.clone().into() },
        other => panic!("unknown argument {other}"),
    };
    command.args.iter().map(op).collect()
}

fn pairs(command: &Command) -> Vec<Result<(Bytes, Bytes), StorageError>> {
    let mut pairs = Vec::new();
    for op in ops(command) {
        if let Op::Put { key, value } = op {
            pairs.push(Ok((key, value)));
        }
    }
    pairs
}

impl<E: Subject> Script<E> {
    fn new() -> Script<E> {
        let dir = tempfile::tempdir().unwrap();
        let engine = Some(E::open(dir.path()));
        Script { dir, engine, frozen: BTreeMap::new() }
    }

    fn engine(&self) -> &E {
        self.engine.as_ref().expect("open")
    }

    fn write(&self, ops: Vec<Op>) -> Result<(), StorageError> {
        self.engine().write(&Batch { ops })
    }
}

impl<E: Subject> goldenscript::Runner for Script<E> {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let mut out = String::new();
        let mut args = command.consume_args();
        match command.name.as_str() {
            "write" => self.write(ops(command))?,
            "big" => {
                let key = args.next_pos().ok_or("key")?.to_owned();
                let size: usize = args.next_pos().ok_or("size")?.parse()?;
                let value: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
                self.write(vec![put(&key, value)])?;
            }
            "fill" => {
                let (from, to): (u32, u32) = (
                    args.take_key("from").ok_or("from")?.parse()?,
                    args.take_key("to").ok_or("to")?.parse()?,
                );
                self.write((from..to).map(|n| put(&format!("n{n:06}"), n.to_string())).collect())?;
            }
            "get" => {
                let key = args.next_pos().ok_or("key")?.to_owned();
                let value = self.engine().get(key.as_bytes())?;
                writeln!(
                    out,
                    "{key} {}",
                    value.map_or("absent".into(), |value| format!("= {}", text(&value)))
                )?;
            }
            "scan" | "count" | "lengths" => {
                let start = args.take_key("start").unwrap_or_default().to_owned();
                let end = args.take_key("end").unwrap_or_default().to_owned();
                let reverse = args.take_key("reverse") == Some("true");
                let direction = if reverse { Direction::Backward } else { Direction::Forward };
                let found = self
                    .engine()
                    .scan(start.as_bytes(), end.as_bytes(), direction)
                    .collect::<Result<Vec<_>, ViewError>>()?;
                let in_order = |pair: &[(Bytes, Bytes)]| (pair[0].0 < pair[1].0) != reverse;
                assert!(found.windows(2).all(in_order), "out of order");
                match command.name.as_str() {
                    "count" => writeln!(out, "{} pairs", found.len())?,
                    "lengths" => {
                        for (key, value) in found {
                            writeln!(out, "{} has {}", text(&key), text(&value))?;
                        }
                    }
                    _ if found.is_empty() => writeln!(out, "nothing")?,
                    _ => {
                        for (key, value) in found {
                            writeln!(out, "{} = {}", text(&key), text(&value))?;
                        }
                    }
                }
            }
            "scan_and_delete" => {
                let engine = self.engine();
                for pair in engine.scan(b"", b"", Direction::Forward) {
                    engine.write(&Batch { ops: vec![Op::Delete { key: pair?.0 }] })?;
                }
            }
            "freeze" => {
                let name = args.take_key("name").unwrap_or_default().to_owned();
                let frozen = self.engine().freeze()?;
                self.frozen.insert(name, frozen);
            }
            "take" => {
                let count: usize = args.next_pos().ok_or("count")?.parse()?;
                for pair in self.frozen.get_mut("").ok_or("not frozen")?.take(count) {
                    let (key, value) = pair?;
                    writeln!(out, "{} = {}", text(&key), text(&value))?;
                }
            }
            "rest" => {
                for pair in self.frozen.remove("").ok_or("not frozen")? {
                    match pair {
                        Ok((key, value)) => writeln!(out, "{} = {}", text(&key), text(&value))?,
                        Err(error) => writeln!(out, "error: {error}")?,
                    }
                }
            }
            "summary" => {
                let name = args.take_key("name").unwrap_or_default().to_owned();
                let rest: BTreeMap<Bytes, Bytes> =
                    self.frozen.remove(&name).ok_or("not frozen")?.collect::<Result<_, StorageError>>()?;
                writeln!(out, "{} pairs", rest.len())?;
                while let Some(key) = args.next_pos() {
                    let value = rest.get(key.as_bytes());
                    writeln!(
                        out,
                        "{key} {}",
                        value.map_or("absent".into(), |value| format!("= {}", text(value)))
                    )?;
                }
            }
            "replace" => self.engine().replace(&mut pairs(command).into_iter())?,
            "replace_failing" => {
                let mut all = pairs(command);
                all.push(Err(StorageError::Thawed { reason: "the script wants it" }));
                match self.engine().replace(&mut all.into_iter()) {
                    Ok(()) => return Err("it was accepted".into()),
                    Err(error) => writeln!(out, "refused: {error}")?,
                }
            }
            "reopen" => {
                self.frozen.clear();
                let engine = self.engine.take().expect("open");
                self.engine = Some(engine.reopen(self.dir.path()));
            }
            other => return Err(format!("no such command: {other}").into()),
        }
        Ok(out)
    }
}

fn run_scripts<E: Subject>() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/engine_scripts");
    for entry in std::fs::read_dir(dir).unwrap() {
        goldenscript::run(&mut Script::<E>::new(), entry.unwrap().path()).unwrap();
    }
}

#[test]
fn scripts_on_memory() {
    run_scripts::<MemoryEngine>();
}

#[test]
fn scripts_on_sled() {
    run_scripts::<SledEngine>();
}

/// Random batches, frozen views begun and read at random moments: each shows exactly the model as it was.
fn frozen_views_against_a_model(engine: &impl Engine, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut model: BTreeMap<Bytes, Bytes> = BTreeMap::new();
    let mut views: Vec<(Frozen, std::collections::btree_map::IntoIter<Bytes, Bytes>)> = Vec::new();
    for step in 0..300 {
        let mut batch = Batch::default();
        for _ in 0..random.usize(0..60) {
            let key = Bytes::from(format!("{:04}", random.u32(0..1200)));
            if random.u8(0..3) == 0 {
                model.remove(&key);
                batch.ops.push(Op::Delete { key });
            } else {
                let value = Bytes::from(format!("{step}-{}", "x".repeat(random.usize(0..300))));
                model.insert(key.clone(), value.clone());
                batch.ops.push(Op::Put { key, value });
            }
        }
        engine.write(&batch).unwrap();
        if views.len() < 3 && random.u8(0..10) == 0 {
            views.push((engine.freeze().unwrap(), model.clone().into_iter()));
        }
        for (view, expected) in &mut views {
            for _ in 0..random.usize(0..80) {
                assert_eq!(view.next().map(Result::unwrap), expected.next(), "seed {seed} step {step}");
            }
        }
        views.retain(|(_, expected)| expected.len() > 0);
    }
    for (view, expected) in views {
        assert!(view.map(Result::unwrap).eq(expected), "seed {seed}");
    }
    assert!(all(engine).eq(model), "seed {seed}");
}

fn all(engine: &impl Engine) -> impl Iterator<Item = (Bytes, Bytes)> {
    engine.scan(b"", b"", Direction::Forward).map(Result::unwrap)
}

#[test]
fn frozen_views_in_memory() {
    for seed in 0..8 {
        frozen_views_against_a_model(&MemoryEngine::new(), seed);
    }
}

#[test]
fn frozen_views_in_sled() {
    for seed in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        frozen_views_against_a_model(&SledEngine::open(dir.path()).unwrap().into_engine(), seed);
    }
}

/// While one thread moves a token between two keys, a consistent read always finds exactly one.
fn consistent_reads(engine: &(impl Engine + Clone)) {
    let moved = |from: &'static str, to: &'static str| Batch {
        ops: vec![Op::Delete { key: Bytes::from_static(from.as_bytes()) }, put(to, "token")],
    };
    engine.write(&moved("b", "a")).unwrap();
    let writer = engine.clone();
    let thread = std::thread::spawn(move || {
        for _ in 0..500 {
            writer.write(&moved("a", "b")).unwrap();
            writer.write(&moved("b", "a")).unwrap();
        }
    });
    let mut reads = 0;
    while !thread.is_finished() || reads == 0 {
        engine.consistent(&mut |view| assert_eq!(view.scan(b"", b"", Direction::Forward).count(), 1));
        let frozen: Pairs = engine.freeze().unwrap();
        assert_eq!(frozen.map(Result::unwrap).count(), 1);
        reads += 1;
    }
    thread.join().unwrap();
}

#[test]
fn consistent_reads_in_memory() {
    consistent_reads(&MemoryEngine::new());
}

#[test]
fn consistent_reads_in_sled() {
    let dir = tempfile::tempdir().unwrap();
    consistent_reads(&SledEngine::open(dir.path()).unwrap().into_engine());
}

/// A log that takes everything and puts nothing on the disk any more.
fn failed_log(dir: &Path) -> Log {
    let on_sync: OnSync = Arc::new(|_| panic!("the disk is gone"));
    let log = Log::open(dir, LogOptions { on_sync: Some(on_sync), ..LogOptions::default() }).unwrap();
    let at = Position { term: 1, index: 1 };
    log.append(vec![quorate_storage::Entry { at, payload: "x".into() }], Box::new(drop));
    assert!(log.written().is_err());
    log
}

#[test]
fn the_database_does_not_get_ahead_of_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let mut batch = Batch::default();
    batch.put("key".into(), "value".into());

    // A log that was closed in order has everything.
    let log = Log::open(&dir.path().join("whole"), LogOptions::default()).unwrap();
    let engine = SledEngine::open(&path).unwrap().into_engine();
    engine.follow(log.clone());
    log.close(Duration::from_secs(60)).unwrap();
    engine.write(&batch).unwrap();
    let engine = engine.reopen(&path);
    assert_eq!(engine.get(b"key").unwrap().unwrap(), "value");

    // What this one was told may be gone after a crash: what was made of it must not be there then.
    engine.follow(failed_log(&dir.path().join("failed")));
    batch.put("key".into(), "of an entry that is not on the disk".into());
    engine.write(&batch).unwrap();
    let error = engine.sync().unwrap_err();
    drop(engine);
    assert!(matches!(SledEngine::open(&path).unwrap(), Opened::Rebuild { .. }), "{error}");
}
