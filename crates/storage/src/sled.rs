//! The engine over sled 0.34.7.
//!
//! # Problem
//!
//! sled is a fast ordered map that must not be believed after a power cut: its `flush` ends in `sync_file_range`, never in an
//! fsync (measured: of twelve simulated power cuts with a flush per batch, five came back whole). So nothing here is the
//! truth. Log and newest snapshot are; this is a view of them that is fast to reuse and always safe to throw away.
//!
//! # When the content is reused
//!
//! ```text
//!   dir/LOCK     one process
//!   dir/MARK     generation, uuid, boot id: replaced as a whole, the only file that decides
//!   dir/db-7/    the sled database of generation 7; any other db-* is rubbish and removed
//! ```
//!
//! After a mere crash of the process the page cache is whole: sled comes back with a prefix of what was written (what it had
//! not yet handed to the kernel is gone, batch by batch, last first) and consensus feeds it the log from the position it
//! finds inside. If that position is older than what the log still holds, consensus loads the snapshot instead. When the
//! kernel's boot id is another than at the last open, unsynced pages may be gone and nothing inside can be trusted: rebuilt.
//! So it is when sled does not open (its recovery panics as often as it fails: caught), when the uuid inside is not the one
//! in MARK, and after any error sled reported while running (MARK is removed then).
//!
//! [`Engine::replace`] fills the next generation beside and switches MARK: old or new, never a mixture.
//!
//! # Layout
//!
//! One tree. `d` + key holds data, `c` + key + generation + number a piece of a value over [`CHUNK_BYTES`] (sled would put it
//! into a blob file of its own, which it never syncs and pays a file for), `m` what the engine says about itself. A value
//! starts with a byte: 0 and the bytes, or 1 and where its pieces are. The pieces' generation is fresh for each write, so a
//! reader that meets an overwrite finds pieces missing, never mixed, and reads again.
//!
//! # Bounds
//!
//! The cache has [`CACHE_BYTES`] (sled's default is 1 GB). No background flusher: [`Engine::sync`] runs on one thread of its own,
//! because concurrent flushes have locked up (spacejam/sled #1308).

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use parking_lot::{Mutex, RwLock};
use quorate_state::{Batch, Direction, Op, Scan, View, ViewError};
use sled::IVec;

use crate::freeze::{self, Freezes, Registry};
use crate::{DirLock, Engine, Frozen, StorageError, directory};

/// sled's page cache. The process is to stay under 25 MB when idle.
pub const CACHE_BYTES: u64 = 8 << 20;
/// Larger values are split into pieces of this size: sled's own limit is a quarter of its 512 KiB segment.
pub const CHUNK_BYTES: usize = 96 << 10;
/// [`Engine::replace`] writes batches of about this size.
const REPLACE_BATCH_BYTES: usize = 1 << 20;

/// How long sled may take to let go of its file. It takes microseconds; beyond this the database is rebuilt.
const RELEASE_DEADLINE: Duration = Duration::from_secs(5);
const RELEASE_POLL: Duration = Duration::from_millis(1);

const DATA: u8 = b'd';
const CHUNK: u8 = b'c';
const UUID_KEY: &[u8] = b"muuid";
const INLINE: u8 = 0;
const SPLIT: u8 = 1;
const SPLIT_BYTES: usize = 17;
const MARK: &str = "MARK";
const MARK_VERSION: &str = "quorate-engine 1";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What [`SledEngine::open`] found.
#[derive(Debug)]
pub enum Opened {
    /// The content of the last run, possibly without its newest batches.
    Reused(SledEngine),
    /// An empty engine: to be filled from snapshot and log.
    Rebuild {
        /// Empty.
        engine: SledEngine,
        /// Why the old content does not count.
        reason: RebuildReason,
    },
}

impl Opened {
    /// The engine, however it was found.
    pub fn into_engine(self) -> SledEngine {
        match self {
            Opened::Reused(engine) | Opened::Rebuild { engine, .. } => engine,
        }
    }
}

/// Why the database starts empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RebuildReason {
    /// There was none.
    #[error("there was no database")]
    New,
    /// No readable mark: an error was met in the last run, or the format is another.
    #[error("the database is not marked as usable: {0}")]
    NotMarked(String),
    /// The machine was started anew since the last open.
    #[error("the machine was started anew since the database was last opened, unsynced pages may be gone")]
    Rebooted,
    /// sled refused or panicked.
    #[error("the database does not open: {0}")]
    DoesNotOpen(String),
    /// It opened, but is not what it should be.
    #[error("the database fails its self-check: {0}")]
    SelfCheck(String),
}

/// The engine on disk. Clones share it.
#[derive(Clone)]
pub struct SledEngine {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    boot: String,
    store: RwLock<Arc<Store>>,
    registry: Registry,
    /// Held for reading by [`Engine::consistent`], for writing while a batch is applied. Taken before every other lock but `writer`.
    gate: RwLock<()>,
    /// One writer at a time; holds the number of the newest generation.
    writer: Mutex<u64>,
    suspect: AtomicBool,
    flusher: Flusher,
    _lock: DirLock,
}

/// One generation.
struct Store {
    db: sled::Db,
    path: PathBuf,
    /// Some value may be split. While false, no write looks for pieces to remove.
    split: AtomicBool,
    next_split: AtomicU64,
}

/// MARK's content.
#[derive(Debug, PartialEq, Eq)]
struct Mark {
    generation: u64,
    uuid: String,
    boot: String,
}

impl Mark {
    fn read(dir: &Path) -> Result<Option<Mark>, String> {
        let text = match std::fs::read_to_string(dir.join(MARK)) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let mut lines = text.lines();
        if lines.next() != Some(MARK_VERSION) {
            return Err("another format".into());
        }
        let mut value = |name: &str| lines.next().and_then(|line| line.strip_prefix(name)).map(str::to_owned);
        let (generation, uuid, boot) = (value("generation "), value("uuid "), value("boot "));
        match (generation.and_then(|text| text.parse().ok()), uuid, boot) {
            (Some(generation), Some(uuid), Some(boot)) => Ok(Some(Mark { generation, uuid, boot })),
            _ => Err("the mark is not whole".into()),
        }
    }

    fn write(&self, dir: &Path) -> Result<(), StorageError> {
        let text = format!(
            "{MARK_VERSION}\ngeneration {}\nuuid {}\nboot {}\n",
            self.generation, self.uuid, self.boot
        );
        directory::write_whole(&dir.join(MARK), text.as_bytes())
    }
}

fn generation_path(dir: &Path, generation: u64) -> PathBuf {
    dir.join(format!("db-{generation}"))
}

fn generation_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("db-")?.parse().ok()
}

/// Generations on disk.
fn generations(dir: &Path) -> Result<Vec<u64>, StorageError> {
    let entries = std::fs::read_dir(dir).map_err(StorageError::io("reading", dir))?;
    let mut found = Vec::new();
    for entry in entries {
        found.extend(generation_of(&entry.map_err(StorageError::io("reading", dir))?.path()));
    }
    Ok(found)
}

fn remove_generation(dir: &Path, generation: u64) -> Result<(), StorageError> {
    let path = generation_path(dir, generation);
    std::fs::remove_dir_all(&path).map_err(StorageError::io("removing", &path))
}

fn failed(path: &Path, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StorageError {
    StorageError::Engine { path: path.to_path_buf(), source: source.into() }
}

impl SledEngine {
    /// Opens or creates the engine in `dir`. An error is about the directory or a fresh database; whatever is wrong with an
    /// old one is a reason to rebuild.
    pub fn open(dir: &Path) -> Result<Opened, StorageError> {
        let path = Path::new(BOOT_ID);
        let boot = std::fs::read_to_string(path).map_err(StorageError::io("reading", path))?;
        Self::open_at_boot(dir, boot.trim())
    }

    fn open_at_boot(dir: &Path, boot: &str) -> Result<Opened, StorageError> {
        directory::create(dir)?;
        let lock = DirLock::acquire(dir)?;
        let generations = generations(dir)?;
        let newest = generations.iter().copied().max().unwrap_or(0);
        let found = match Mark::read(dir) {
            Ok(None) if generations.is_empty() => Err(RebuildReason::New),
            Ok(None) => Err(RebuildReason::NotMarked("an error was met in the last run".into())),
            Err(what) => Err(RebuildReason::NotMarked(what)),
            Ok(Some(mark)) if mark.boot != boot => Err(RebuildReason::Rebooted),
            Ok(Some(mark)) => Store::reopen(&generation_path(dir, mark.generation), &mark.uuid)
                .map(|store| (store, mark.generation)),
        };
        let (store, generation, reason) = match found {
            Ok((store, generation)) => (store, generation, None),
            Err(reason) => {
                tracing::info!(dir = %dir.display(), %reason, "database: starting empty");
                // Before anything is removed: a crash on the way must not find the old mark again.
                match std::fs::remove_file(dir.join(MARK)) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(StorageError::io("removing", &dir.join(MARK))(error));
                    }
                    _ => directory::sync(dir)?,
                }
                let generation = newest + 1;
                let (store, uuid) = Store::create(&generation_path(dir, generation))?;
                Mark { generation, uuid, boot: boot.to_owned() }.write(dir)?;
                (store, generation, Some(reason))
            }
        };
        for old in generations.into_iter().filter(|old| *old != generation) {
            remove_generation(dir, old)?;
        }
        let inner = Inner {
            dir: dir.to_path_buf(),
            boot: boot.to_owned(),
            store: RwLock::new(Arc::new(store)),
            registry: Registry::default(),
            gate: RwLock::new(()),
            writer: Mutex::new(newest.max(generation)),
            suspect: AtomicBool::new(false),
            flusher: Flusher::start(dir)?,
            _lock: lock,
        };
        let engine = SledEngine { inner: Arc::new(inner) };
        Ok(match reason {
            None => Opened::Reused(engine),
            Some(reason) => Opened::Rebuild { engine, reason },
        })
    }
}

impl Store {
    fn open(path: &Path) -> Result<Store, String> {
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let db = sled::Config::new()
                .path(path)
                .cache_capacity(CACHE_BYTES)
                .mode(sled::Mode::LowSpace)
                .flush_every_ms(None)
                .open()?;
            let split = db.scan_prefix([CHUNK]).next().transpose()?.is_some();
            // Reads both ends of the tree, where a lost root or a lost page would show.
            for pair in db.iter().take(1).chain(db.iter().rev().take(1)) {
                pair?;
            }
            Ok::<_, sled::Error>((db, split))
        }));
        let (db, split) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(panic) => {
                let text = panic
                    .downcast_ref::<String>()
                    .map(String::as_str)
                    .or(panic.downcast_ref::<&str>().copied());
                return Err(format!("it panicked: {}", text.unwrap_or("without a word")));
            }
        };
        let seed = u64::from_le_bytes(directory::random().map_err(|error| error.chain())?);
        Ok(Store {
            db,
            path: path.to_path_buf(),
            split: AtomicBool::new(split),
            next_split: AtomicU64::new(seed),
        })
    }

    fn reopen(path: &Path, uuid: &str) -> Result<Store, RebuildReason> {
        if !path.is_dir() {
            return Err(RebuildReason::SelfCheck("its directory is gone".into()));
        }
        wait_for_release(path);
        let store = Store::open(path).map_err(RebuildReason::DoesNotOpen)?;
        match store.db.get(UUID_KEY) {
            Ok(Some(found)) if found == uuid.as_bytes() => Ok(store),
            Ok(Some(_)) => Err(RebuildReason::SelfCheck("it carries another uuid".into())),
            Ok(None) => Err(RebuildReason::SelfCheck("it carries no uuid".into())),
            Err(error) => Err(RebuildReason::SelfCheck(error.to_string())),
        }
    }

    /// An empty one, with its uuid inside.
    fn create(path: &Path) -> Result<(Store, String), StorageError> {
        let store = Store::open(path).map_err(|what| failed(path, what))?;
        let random: [u8; 16] = directory::random()?;
        let uuid: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        store
            .db
            .insert(UUID_KEY, uuid.as_bytes())
            .and_then(|_| store.db.flush())
            .map_err(|error| failed(path, error))?;
        Ok((store, uuid))
    }

    /// Translates a batch into sled's. Later ops win.
    fn apply(&self, ops: &[Op]) -> Result<(), sled::Error> {
        let mut last = BTreeMap::new();
        for op in ops {
            match op {
                Op::Put { key, value } => last.insert(key, Some(value)),
                Op::Delete { key } => last.insert(key, None),
            };
        }
        let mut batch = sled::Batch::default();
        for (key, value) in last {
            let stored = prefixed(DATA, key);
            if self.split.load(Ordering::Relaxed)
                && let Some(old) = self.db.get(&stored)?
                && let Some(split) = Split::decode(&old)
            {
                for number in 0..split.count() {
                    batch.remove(split.chunk_key(key, number));
                }
            }
            match value {
                None => batch.remove(stored),
                Some(value) if value.len() <= CHUNK_BYTES => {
                    let mut tagged = Vec::with_capacity(value.len() + 1);
                    tagged.push(INLINE);
                    tagged.extend_from_slice(value);
                    batch.insert(stored, tagged);
                }
                Some(value) => {
                    self.split.store(true, Ordering::Relaxed);
                    let split = Split {
                        length: value.len() as u64,
                        id: self.next_split.fetch_add(1, Ordering::Relaxed),
                    };
                    for (number, chunk) in value.chunks(CHUNK_BYTES).enumerate() {
                        batch.insert(split.chunk_key(key, number as u32), chunk);
                    }
                    batch.insert(stored, &split.encode()[..]);
                }
            }
        }
        self.db.apply_batch(batch)
    }

    /// The value behind `raw`, which was read under `key`. None: the key was removed meanwhile.
    fn value(&self, key: &[u8], mut raw: IVec) -> Result<Option<Bytes>, sled::Error> {
        loop {
            let Some(split) = Split::decode(&raw) else {
                return Ok(Some(Bytes::copy_from_slice(raw.get(1..).unwrap_or_default())));
            };
            let mut value = BytesMut::with_capacity(split.length as usize);
            let mut whole = true;
            for number in 0..split.count() {
                match self.db.get(split.chunk_key(key, number))? {
                    Some(chunk) => value.extend_from_slice(&chunk),
                    None => {
                        whole = false;
                        break;
                    }
                }
            }
            if whole && value.len() as u64 == split.length {
                return Ok(Some(value.freeze()));
            }
            // Overwritten or removed while it was read? Then the key says something else by now.
            match self.db.get(prefixed(DATA, key))? {
                None => return Ok(None),
                Some(again) if again == raw => {
                    return Err(sled::Error::ReportableBug("a piece of a split value is missing".into()));
                }
                Some(again) => raw = again,
            }
        }
    }
}

/// sled's own threads keep its file open, and locked, for a moment after the database was dropped. Nobody else can hold it (we
/// hold the directory), so an engine opened anew in the same process waits instead of taking that for damage.
fn wait_for_release(path: &Path) {
    let Ok(file) = std::fs::File::open(path.join("db")) else { return };
    let until = Instant::now() + RELEASE_DEADLINE;
    // Dropping the file gives the lock back.
    while rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err()
        && Instant::now() < until
    {
        std::thread::sleep(RELEASE_POLL);
    }
}

/// Where the pieces of a large value are.
#[derive(Debug, PartialEq, Eq)]
struct Split {
    length: u64,
    /// Drawn anew for every write.
    id: u64,
}

impl Split {
    fn encode(&self) -> [u8; SPLIT_BYTES] {
        let mut out = [SPLIT; SPLIT_BYTES];
        out[1..9].copy_from_slice(&self.length.to_le_bytes());
        out[9..].copy_from_slice(&self.id.to_le_bytes());
        out
    }

    fn decode(raw: &[u8]) -> Option<Split> {
        let raw: &[u8; SPLIT_BYTES] = raw.try_into().ok()?;
        let number = |at: usize| u64::from_le_bytes(raw[at..at + 8].try_into().expect("eight bytes"));
        (raw[0] == SPLIT).then(|| Split { length: number(1), id: number(9) })
    }

    fn count(&self) -> u32 {
        self.length.div_ceil(CHUNK_BYTES as u64) as u32
    }

    /// The last twelve bytes are of fixed width, so no two keys share a piece.
    fn chunk_key(&self, key: &[u8], number: u32) -> Vec<u8> {
        let mut out = prefixed(CHUNK, key);
        out.extend_from_slice(&self.id.to_be_bytes());
        out.extend_from_slice(&number.to_be_bytes());
        out
    }
}

fn prefixed(space: u8, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len() + 13);
    out.push(space);
    out.extend_from_slice(key);
    out
}

impl Inner {
    fn store(&self) -> Arc<Store> {
        self.store.read().clone()
    }

    /// After an error of sled nothing it holds is believed at the next start.
    fn suspect(&self) {
        if !self.suspect.swap(true, Ordering::Relaxed)
            && let Err(error) = std::fs::remove_file(self.dir.join(MARK))
        {
            tracing::warn!(dir = %self.dir.display(), %error, "database: the mark could not be removed after an error");
        }
    }

    fn unreadable(&self, error: sled::Error) -> ViewError {
        self.suspect();
        ViewError(Box::new(error))
    }

    fn failed(&self, error: sled::Error) -> StorageError {
        self.suspect();
        failed(&self.dir, error)
    }
}

impl View for Inner {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        let store = self.store();
        let value = match store.db.get(prefixed(DATA, key)) {
            Ok(None) => return Ok(None),
            Ok(Some(raw)) => store.value(key, raw),
            Err(error) => Err(error),
        };
        value.map_err(|error| self.unreadable(error))
    }

    fn scan(&self, start: &[u8], end: &[u8], direction: Direction) -> Scan<'_> {
        let store = self.store();
        let start = prefixed(DATA, start);
        let end = if end.is_empty() { vec![DATA + 1] } else { prefixed(DATA, end) };
        if start >= end {
            return Box::new(std::iter::empty());
        }
        let range = store.db.range(start..end);
        let range: Box<dyn Iterator<Item = sled::Result<(IVec, IVec)>>> = match direction {
            Direction::Forward => Box::new(range),
            Direction::Backward => Box::new(range.rev()),
        };
        Box::new(range.filter_map(move |pair| {
            let pair = pair.and_then(|(stored, raw)| {
                let key = Bytes::copy_from_slice(&stored[1..]);
                Ok(store.value(&key, raw)?.map(|value| (key, value)))
            });
            pair.map_err(|error| self.unreadable(error)).transpose()
        }))
    }
}

impl Freezes for Inner {
    fn registry(&self) -> &Registry {
        &self.registry
    }
}

impl View for SledEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        self.inner.get(key)
    }

    fn scan(&self, start: &[u8], end: &[u8], direction: Direction) -> Scan<'_> {
        self.inner.scan(start, end, direction)
    }
}

impl Engine for SledEngine {
    fn write(&self, batch: &Batch) -> Result<(), StorageError> {
        let inner = &*self.inner;
        let _writer = inner.writer.lock();
        let _gate = inner.gate.write();
        let _announced = inner
            .registry
            .announce(batch, |key| inner.get(key))
            .map_err(|error| failed(&inner.dir, error.0))?;
        inner.store().apply(&batch.ops).map_err(|error| inner.failed(error))
    }

    fn sync(&self) -> Result<(), StorageError> {
        let store = self.inner.store();
        self.inner.flusher.flush(store).map_err(|what| {
            self.inner.suspect();
            failed(&self.inner.dir, what)
        })
    }

    fn replace(
        &self,
        pairs: &mut dyn Iterator<Item = Result<(Bytes, Bytes), StorageError>>,
    ) -> Result<(), StorageError> {
        let inner = &*self.inner;
        let mut newest = inner.writer.lock();
        let generation = *newest + 1;
        *newest = generation;
        let path = generation_path(&inner.dir, generation);
        let filled = fill(&path, pairs).and_then(|(store, uuid)| {
            Mark { generation, uuid, boot: inner.boot.clone() }.write(&inner.dir)?;
            Ok(store)
        });
        let store = match filled {
            Ok(store) => store,
            Err(error) => {
                // Best effort: the next open removes it too.
                let _ = std::fs::remove_dir_all(&path);
                return Err(error);
            }
        };
        let gate = inner.gate.write();
        let announced = inner.registry.replace();
        let old = std::mem::replace(&mut *inner.store.write(), Arc::new(store));
        drop(announced);
        drop(gate);
        inner.suspect.store(false, Ordering::Relaxed);
        // A scan may still hold it open; its files go when the last one ends.
        let old_path = old.path.clone();
        drop(old);
        if let Err(error) = std::fs::remove_dir_all(&old_path) {
            tracing::warn!(path = %old_path.display(), %error, "database: a replaced generation stays until the next start");
        }
        Ok(())
    }

    fn size_bytes(&self) -> u64 {
        self.inner.store().db.size_on_disk().unwrap_or(0)
    }

    fn freeze(&self) -> Result<Frozen, StorageError> {
        Ok(freeze::freeze(&self.inner))
    }

    fn consistent(&self, read: &mut dyn FnMut(&dyn View)) {
        let _gate = self.inner.gate.read();
        read(self);
    }
}

/// A new generation with `pairs` in it.
fn fill(
    path: &Path,
    pairs: &mut dyn Iterator<Item = Result<(Bytes, Bytes), StorageError>>,
) -> Result<(Store, String), StorageError> {
    let (store, uuid) = Store::create(path)?;
    let mut ops = Vec::new();
    let mut bytes = 0;
    for pair in pairs {
        let (key, value) = pair?;
        bytes += key.len() + value.len();
        ops.push(Op::Put { key, value });
        if bytes >= REPLACE_BATCH_BYTES {
            store.apply(&ops).map_err(|error| failed(path, error))?;
            ops.clear();
            bytes = 0;
        }
    }
    store.apply(&ops).and_then(|()| store.db.flush()).map_err(|error| failed(path, error))?;
    Ok((store, uuid))
}

impl fmt::Debug for SledEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledEngine").field("dir", &self.inner.dir).finish_non_exhaustive()
    }
}

/// A request to flush, and where the answer goes.
type Flush = (Arc<Store>, mpsc::Sender<Result<(), String>>);

/// The one thread that flushes.
struct Flusher {
    requests: Option<mpsc::Sender<Flush>>,
    thread: Option<JoinHandle<()>>,
}

impl Flusher {
    fn start(dir: &Path) -> Result<Flusher, StorageError> {
        let (requests, todo) = mpsc::channel::<Flush>();
        let thread = std::thread::Builder::new()
            .name("engine-flush".into())
            .spawn(move || {
                for (store, answer) in todo {
                    let result = flush(&store).map_err(|error| error.to_string());
                    drop(store);
                    // Nobody waits any more: nothing to tell.
                    let _ = answer.send(result);
                }
            })
            .map_err(StorageError::io("starting a thread for", dir))?;
        Ok(Flusher { requests: Some(requests), thread: Some(thread) })
    }

    fn flush(&self, store: Arc<Store>) -> Result<(), String> {
        let (answer, result) = mpsc::channel();
        let requests = self.requests.as_ref().expect("only taken when dropped");
        let gone = || "the flush thread is gone".to_owned();
        requests.send((store, answer)).map_err(|_| gone())?;
        result.recv().map_err(|_| gone())?
    }
}

/// sled's flush, then the barrier it leaves out.
fn flush(store: &Store) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    store.db.flush()?;
    std::fs::File::open(store.path.join("db"))?.sync_data()?;
    Ok(())
}

impl Drop for Flusher {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("database: the flush thread panicked");
        }
    }
}

#[cfg(test)]
mod tests;
