//! What a reader sees as one map: two tables in memory over the database.
//!
//! ```text
//!   writes ──► active table ──(it is full)──► flushing table ──► REDO file ──► blocks of the database
//!   reads  ──►      1st            then            2nd             then              3rd
//! ```
//!
//! A write only touches the active table. When that holds [`TABLE_BYTES`] it becomes the flushing table, and a thread of its
//! own brings it into the database: sorted, each block rewritten once for all that falls into it. Nothing on the way changes
//! what a reader sees. While one table is being flushed the next may grow to twice the size; beyond that writes wait.
//!
//! The position applied is one of the pairs, so the database always says itself from where the log goes on. A process that
//! is killed loses at most the two tables, and applies them again from the log.
//!
//! The other way round must not happen. A leader may apply what a quorum of others has on disk while its own log still
//! waits for its disk; killed then, it would come back with a database that is ahead of its log. So a flush begins when
//! the log is on disk up to where the table is ([`Layers::follow`]), and a database that is ahead all the same means that the
//! log has lost its end.

use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, RwLock};
use quorate_state::{Direction, Op};

use super::redo;
use super::seal;
use super::store::{Store, caught};
use super::table::Table;
use crate::chunked::{Chunked, Source};
use crate::{Log, StorageError};

/// A table this large is flushed. Values that are held twice (a key's newest and its history) count twice, and cost once.
pub const TABLE_BYTES: usize = 4 << 20;
/// A table that nobody has added to for so long is flushed too: an idle member has all in its database.
const IDLE: Duration = Duration::from_secs(10);

struct Tables {
    active: Arc<Table>,
    flushing: Option<Arc<Table>>,
    store: Arc<Store>,
}

#[derive(Default)]
struct Flush {
    /// There is a flushing table.
    under_way: bool,
    /// Why nothing is flushed any more.
    failed: Option<String>,
}

/// Shared by the engine and its flush thread.
pub(super) struct Layers {
    tables: RwLock<Tables>,
    flush: Mutex<Flush>,
    flushed: Condvar,
    table_bytes: usize,
    /// The log that leads to the content, if there is one.
    log: OnceLock<Log>,
}

impl Layers {
    pub(super) fn new(store: Store, table_bytes: usize) -> Layers {
        let tables = Tables { active: Arc::default(), flushing: None, store: Arc::new(store) };
        Layers {
            tables: RwLock::new(tables),
            flush: Mutex::default(),
            flushed: Condvar::new(),
            table_bytes,
            log: OnceLock::new(),
        }
    }

    /// From now on nothing reaches the database that `log` does not have on disk. The first one stays.
    pub(super) fn follow(&self, log: Log) {
        self.log.get_or_init(|| log);
    }

    pub(super) fn store(&self) -> Arc<Store> {
        self.tables.read().store.clone()
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, sled::Error> {
        let store = {
            let tables = self.tables.read();
            let known = tables.active.get(key).or_else(|| tables.flushing.as_ref()?.get(key));
            if let Some(value) = known {
                return Ok(value);
            }
            tables.store.clone()
        };
        store.get(key)
    }

    pub(super) fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        direction: Direction,
    ) -> Box<dyn Iterator<Item = Result<(Bytes, Bytes), sled::Error>>> {
        let (tables, store) = {
            let tables = self.tables.read();
            let newest_first = [Some(tables.active.clone()), tables.flushing.clone()];
            (newest_first.into_iter().flatten().filter(|table| !table.is_empty()), tables.store.clone())
        };
        let mut layers: Vec<Layer> = tables
            .map(|table| Layer::new(Box::new(Chunked::new(table, start, end, direction).map(Ok))))
            .collect();
        let blocks = store.scan(start, end, direction);
        if layers.is_empty() {
            return Box::new(blocks);
        }
        let blocks = blocks.map(|pair| pair.map(|(key, value)| (key, Some(value))));
        layers.push(Layer::new(Box::new(blocks)));
        Box::new(Merged { layers, direction })
    }

    /// One writer at a time.
    pub(super) fn write(&self, ops: &[Op]) {
        self.tables.read().active.write(ops);
    }

    /// True when the active table should be flushed, and whether there is time: beyond twice the size a writer has to wait.
    pub(super) fn is_full(&self) -> Option<Patience> {
        match self.tables.read().active.bytes() {
            bytes if bytes >= 2 * self.table_bytes => Some(Patience::Wait),
            bytes if bytes >= self.table_bytes => Some(Patience::NotNow),
            _ => None,
        }
    }

    /// Makes the active table the flushing one and has it flushed. False when another one still is and the caller does not
    /// wait, or when there is nothing to flush.
    pub(super) fn rotate(&self, patience: Patience, flusher: &Flusher) -> Result<bool, String> {
        {
            let mut flush = self.flush.lock();
            while flush.under_way && flush.failed.is_none() {
                if patience == Patience::NotNow {
                    return Ok(false);
                }
                self.flushed.wait(&mut flush);
            }
            if let Some(why) = &flush.failed {
                return Err(why.clone());
            }
            if !self.turn(&mut flush) {
                return Ok(false);
            }
        }
        flusher.send(Chore::Table)?;
        Ok(true)
    }

    fn turn(&self, flush: &mut Flush) -> bool {
        let mut tables = self.tables.write();
        if tables.active.is_empty() {
            return false;
        }
        let full = std::mem::take(&mut tables.active);
        tables.flushing = Some(full);
        flush.under_way = true;
        true
    }

    /// Waits until nothing is being flushed.
    pub(super) fn settle(&self) -> Result<(), String> {
        let mut flush = self.flush.lock();
        while flush.under_way && flush.failed.is_none() {
            self.flushed.wait(&mut flush);
        }
        flush.failed.clone().map_or(Ok(()), Err)
    }

    /// Puts another content in place of all layers. The caller is the only writer. Returns the old database.
    pub(super) fn replace(&self, store: Store) -> Arc<Store> {
        let mut flush = self.flush.lock();
        while flush.under_way && flush.failed.is_none() {
            self.flushed.wait(&mut flush);
        }
        // A database that could not be written is out of the game now.
        *flush = Flush::default();
        let mut tables = self.tables.write();
        let fresh = Tables { active: Arc::default(), flushing: None, store: Arc::new(store) };
        std::mem::replace(&mut *tables, fresh).store
    }

    /// Brings the flushing table into the database, on the flush thread.
    fn flush_table(&self) {
        let (table, store) = {
            let tables = self.tables.read();
            (tables.flushing.clone(), tables.store.clone())
        };
        let Some(table) = table else { return };
        // A panic that took this thread along would leave the writers waiting for a flush that never ends.
        let flushed = caught(|| {
            self.log.get().map_or(Ok(()), Log::written).map_err(|error| error.chain())?;
            flush_into(&table, &store)
        });
        let mut flush = self.flush.lock();
        match flushed {
            Ok(()) => self.tables.write().flushing = None,
            Err(why) => {
                tracing::error!(error = %why, "database: a flush failed");
                flush.failed = Some(why);
            }
        }
        flush.under_way = false;
        drop(flush);
        self.flushed.notify_all();
    }

    /// Flushes the active table if nothing was added to it since it held `seen` bytes. Returns what it holds now.
    fn flush_idle(&self, seen: usize) -> usize {
        let bytes = self.tables.read().active.bytes();
        if bytes == 0 || bytes != seen {
            return bytes;
        }
        let turned = {
            let mut flush = self.flush.lock();
            !flush.under_way && flush.failed.is_none() && self.turn(&mut flush)
        };
        if turned {
            self.flush_table();
        }
        0
    }
}

/// Whether to wait for a flush that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    NotNow,
    Wait,
}

fn flush_into(table: &Arc<Table>, store: &Store) -> Result<(), String> {
    let map = table.map();
    redo::write(&store.path, map.iter()).map_err(|error| error.chain())?;
    store.merge(map.iter()).map_err(|error| error.to_string())?;
    drop(map);
    seal::end_flush(store)?;
    redo::remove(&store.path).map_err(|error| error.chain())
}

/// What the flush thread is asked for.
enum Chore {
    Table,
    /// A sync, and where the answer goes.
    Sync(Arc<Store>, mpsc::Sender<Result<(), String>>),
}

/// The one thread that flushes: concurrent flushes of sled have locked up (spacejam/sled #1308).
pub(super) struct Flusher {
    chores: Option<mpsc::Sender<Chore>>,
    thread: Option<JoinHandle<()>>,
}

impl Flusher {
    pub(super) fn start(layers: Arc<Layers>) -> std::io::Result<Flusher> {
        let (chores, todo) = mpsc::channel();
        let thread =
            std::thread::Builder::new().name("engine-flush".into()).spawn(move || serve(&layers, &todo))?;
        Ok(Flusher { chores: Some(chores), thread: Some(thread) })
    }

    fn send(&self, chore: Chore) -> Result<(), String> {
        let chores = self.chores.as_ref().expect("only taken when dropped");
        chores.send(chore).map_err(|_| "the flush thread is gone".to_owned())
    }

    /// Syncs the database behind `store`.
    pub(super) fn sync(&self, store: Arc<Store>) -> Result<(), String> {
        let (answer, result) = mpsc::channel();
        self.send(Chore::Sync(store, answer))?;
        result.recv().map_err(|_| "the flush thread is gone".to_owned())?
    }
}

fn serve(layers: &Layers, todo: &mpsc::Receiver<Chore>) {
    let mut seen = 0;
    loop {
        match todo.recv_timeout(IDLE) {
            Ok(Chore::Table) => layers.flush_table(),
            Ok(Chore::Sync(store, answer)) => {
                let result = caught(|| sync(&store));
                drop(store);
                // Nobody waits any more: nothing to tell.
                let _ = answer.send(result);
            }
            Err(mpsc::RecvTimeoutError::Timeout) => seen = layers.flush_idle(seen),
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// sled's flush, then the barrier it leaves out.
fn sync(store: &Store) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    store.db.flush()?;
    std::fs::File::open(store.path.join("db"))?.sync_data()?;
    Ok(())
}

impl Drop for Flusher {
    fn drop(&mut self) {
        drop(self.chores.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("database: the flush thread panicked");
        }
    }
}

type Changes = Box<dyn Iterator<Item = Result<(Bytes, Option<Bytes>), sled::Error>>>;

/// One of the maps, with its next pair.
struct Layer {
    rest: Changes,
    next: Option<Result<(Bytes, Option<Bytes>), sled::Error>>,
}

impl Layer {
    fn new(mut rest: Changes) -> Layer {
        let next = rest.next();
        Layer { rest, next }
    }

    fn take(&mut self) -> Option<Result<(Bytes, Option<Bytes>), sled::Error>> {
        let next = self.rest.next();
        std::mem::replace(&mut self.next, next)
    }
}

/// Ordered maps as one: the first that says something about a key decides.
struct Merged {
    layers: Vec<Layer>,
    direction: Direction,
}

impl Iterator for Merged {
    type Item = Result<(Bytes, Bytes), sled::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            // An error ends the iteration, wherever it stands.
            if let Some(failed) = self.layers.iter_mut().find(|layer| matches!(layer.next, Some(Err(_)))) {
                return failed.next.take()?.err().map(Err);
            }
            let mut first: Option<(usize, &Bytes)> = None;
            for (nth, layer) in self.layers.iter().enumerate() {
                let Some(Ok((key, _))) = &layer.next else { continue };
                let earlier = first.is_none_or(|(_, first)| match self.direction {
                    Direction::Forward => key < first,
                    Direction::Backward => key > first,
                });
                if earlier {
                    first = Some((nth, key));
                }
            }
            let nth = first?.0;
            let (key, value) = match self.layers[nth].take()? {
                Ok(pair) => pair,
                Err(error) => return Some(Err(error)),
            };
            for layer in &mut self.layers[nth + 1..] {
                if matches!(&layer.next, Some(Ok((hidden, _))) if *hidden == key) {
                    drop(layer.take());
                }
            }
            if let Some(value) = value {
                return Some(Ok((key, value)));
            }
        }
    }
}

/// The changes of a broken-off flush, brought in again.
pub(super) fn recover(store: &Store) -> Result<(), String> {
    let changes = redo::read(&store.path).map_err(|error: StorageError| error.chain())?;
    seal::check(store, changes.is_some())?;
    let Some(changes) = changes else { return Ok(()) };
    tracing::info!(changes = changes.len(), "database: a flush that was broken off is done again");
    store.end_cut().map_err(|error| error.to_string())?;
    store.merge(changes.iter().map(|(key, value)| (key, value))).map_err(|error| error.to_string())?;
    seal::end_flush(store)?;
    redo::remove(&store.path).map_err(|error| error.chain())
}
