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
//! # Layers and layout
//!
//! sled is not written on the way of a write: changes gather in a table in memory and reach it in the background, sorted, as
//! blocks of neighbouring pairs ([`layers`], [`block`]; measured before: two thirds of a member's processor time under load
//! were sled's). `REDO` makes such a flush one step for a process that is killed ([`redo`]).
//!
//! One tree. `d` + key holds a block, `c` + key + number of the write + number a piece of a block over [`CHUNK_BYTES`] (sled
//! would put it into a file of its own, which it never syncs), `m` what the engine says about itself. A stored block starts
//! with a byte: 0 and the block, or 1 and where its pieces are. The pieces' number is fresh for each write, so a reader that
//! meets an overwrite finds pieces missing, never mixed, and reads again.
//!
//! # Bounds
//!
//! The cache has [`CACHE_BYTES`] (sled's default is 1 GB), the tables [`TABLE_BYTES`] and three times that at the worst. No
//! flusher of sled's own: flushes and [`Engine::sync`] run on one thread.

mod block;
#[cfg(test)]
mod fuzz;
mod layers;
mod redo;
mod seal;
mod store;
mod table;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use quorate_state::{Batch, Direction, Scan, View, ViewError};

pub use layers::TABLE_BYTES;
use layers::{Flusher, Layers, Patience};
use store::{Store, caught};

use crate::freeze::{self, Freezes, Registry};
use crate::{DirLock, Engine, Frozen, Log, StorageError, directory};

/// sled's page cache. The process is to stay under 25 MB when idle.
pub const CACHE_BYTES: u64 = 8 << 20;
/// Larger blocks are split into pieces of this size: sled's own limit is a quarter of its 512 KiB segment.
pub const CHUNK_BYTES: usize = 96 << 10;
const MARK: &str = "MARK";
/// Raised also when databases of before may be wrong: 2 could serve a dead pair after a kill in the middle of a flush ([`store`]).
const MARK_VERSION: &str = "quorate-engine 3";
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
    layers: Arc<Layers>,
    registry: Registry,
    /// Held for reading by [`Engine::consistent`], for writing while a batch is applied. Taken before every other lock but `writer`.
    gate: RwLock<()>,
    /// One writer at a time; holds the number of the newest generation.
    writer: Mutex<u64>,
    suspect: AtomicBool,
    flusher: Flusher,
    _lock: DirLock,
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
        Self::open_at_boot(dir, boot.trim(), TABLE_BYTES)
    }

    /// From now on nothing reaches the disk that `log` does not have on disk: the content never stands on an entry that a
    /// crash can take away.
    pub fn follow(&self, log: Log) {
        self.inner.layers.follow(log);
    }

    fn open_at_boot(dir: &Path, boot: &str, table_bytes: usize) -> Result<Opened, StorageError> {
        directory::create(dir)?;
        let lock = DirLock::acquire(dir)?;
        let generations = generations(dir)?;
        let newest = generations.iter().copied().max().unwrap_or(0);
        let found = match Mark::read(dir) {
            Ok(None) if generations.is_empty() => Err(RebuildReason::New),
            Ok(None) => Err(RebuildReason::NotMarked("an error was met in the last run".into())),
            Err(what) => Err(RebuildReason::NotMarked(what)),
            Ok(Some(mark)) if mark.boot != boot => Err(RebuildReason::Rebooted),
            Ok(Some(mark)) => {
                Store::reopen(&generation_path(dir, mark.generation), &mark.uuid).and_then(|store| {
                    caught(|| layers::recover(&store)).map_err(RebuildReason::SelfCheck)?;
                    Ok((store, mark.generation))
                })
            }
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
        let layers = Arc::new(Layers::new(store, table_bytes));
        let flusher =
            Flusher::start(layers.clone()).map_err(StorageError::io("starting a thread for", dir))?;
        let inner = Inner {
            dir: dir.to_path_buf(),
            boot: boot.to_owned(),
            layers,
            registry: Registry::default(),
            gate: RwLock::new(()),
            writer: Mutex::new(newest.max(generation)),
            suspect: AtomicBool::new(false),
            flusher,
            _lock: lock,
        };
        let engine = SledEngine { inner: Arc::new(inner) };
        Ok(match reason {
            None => Opened::Reused(engine),
            Some(reason) => Opened::Rebuild { engine, reason },
        })
    }
}

impl Inner {
    /// After an error of sled nothing it holds is believed at the next start.
    fn suspect(&self) {
        if !self.suspect.swap(true, Ordering::Relaxed)
            && let Err(error) = std::fs::remove_file(self.dir.join(MARK))
        {
            tracing::warn!(dir = %self.dir.display(), %error, "database: the mark could not be removed after an error");
        }
    }

    /// sled panics at a page that is gone. That ends the process all the same, but with a sentence, and not again at the next
    /// start: the mark is gone.
    fn unreadable(&self, why: &str) -> ViewError {
        self.suspect();
        let error = failed(&self.dir, why);
        // It fails reads too (sled refuses everything after a write that failed), and is no damage.
        if error.is_full_disk() {
            return ViewError(error.into());
        }
        let what = format!(
            "the database in {} is damaged: {why}; start again: it is made anew from snapshot and log",
            self.dir.display()
        );
        ViewError(what.into())
    }

    fn failed(&self, why: String) -> StorageError {
        self.suspect();
        failed(&self.dir, why)
    }
}

impl View for Inner {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        caught(|| self.layers.get(key)).map_err(|why| self.unreadable(&why))
    }

    fn scan(&self, start: &[u8], end: &[u8], direction: Direction) -> Scan<'_> {
        let mut pairs = match caught(|| Ok::<_, sled::Error>(self.layers.scan(start, end, direction))) {
            Ok(pairs) => Some(pairs),
            Err(why) => return Box::new(std::iter::once(Err(self.unreadable(&why)))),
        };
        Box::new(std::iter::from_fn(move || {
            let next = caught(|| pairs.as_mut().and_then(Iterator::next).transpose());
            if !matches!(next, Ok(Some(_))) {
                // Nothing is asked of an iterator that has ended, least of all by a panic.
                pairs = None;
            }
            next.map_err(|why| self.unreadable(&why)).transpose()
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
        // Before the gate: readers go on while this waits for a flush.
        if let Some(patience) = inner.layers.is_full() {
            inner.layers.rotate(patience, &inner.flusher).map_err(|why| inner.failed(why))?;
        }
        let _gate = inner.gate.write();
        let _announced = inner
            .registry
            .announce(batch, |key| inner.get(key))
            .map_err(|error| failed(&inner.dir, error.0))?;
        inner.layers.write(&batch.ops);
        Ok(())
    }

    fn sync(&self) -> Result<(), StorageError> {
        let inner = &*self.inner;
        inner
            .layers
            .rotate(Patience::Wait, &inner.flusher)
            .and_then(|_| inner.layers.settle())
            .and_then(|()| inner.flusher.sync(inner.layers.store()))
            .map_err(|why| inner.failed(why))
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
        let filled = store::fill(&path, pairs).and_then(|(store, uuid)| {
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
        let old = inner.layers.replace(store);
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
        self.inner.layers.store().db.size_on_disk().unwrap_or(0)
    }

    fn freeze(&self) -> Result<Frozen, StorageError> {
        let inner = &*self.inner;
        // The log may be purged up to a snapshot: the database should not be further behind than that.
        inner.layers.rotate(Patience::NotNow, &inner.flusher).map_err(|why| inner.failed(why))?;
        Ok(freeze::freeze(&self.inner))
    }

    fn consistent(&self, read: &mut dyn FnMut(&dyn View)) {
        let _gate = self.inner.gate.read();
        read(self);
    }
}

impl fmt::Debug for SledEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledEngine").field("dir", &self.inner.dir).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
