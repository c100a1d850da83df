//! One generation: a sled tree whose values are blocks of neighbouring pairs.
//!
//! Why blocks: sled pays for every insertion with a copy of the leaf it touches and a record in its log, some ten
//! microseconds whatever the size; a put changes three pairs. Changes arrive here thousands at a time and sorted
//! (see [`super::layers`]), so that a block is rewritten once for all that falls into it.
//!
//! A block's key is at or below the key of its first pair, and a pair is in the last block whose key is not above its own:
//! that is the whole index. Blocks are split, never joined; one that becomes empty is removed. While one is split its right
//! parts are written first: a reader that goes forward may see a pair twice, never miss one, and [`Blocks`] skips what it has
//! handed out; one that goes backward looks again ([`Store::last_block`]).
//!
//! ```text
//!   K [a b c d e]                        U
//!   K [a b c d e]  R1 [c d]  R2 [e]      U     the process is killed before the left part is written
//! ```
//!
//! Nothing may be believed of K's c, d and e any more: R1 and R2 may change and be removed, and K need not be touched again. So K's key is
//! noted before a cut begins, and what the right parts have is taken out of it before anything else is done ([`Store::end_cut`]).

use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use quorate_state::Direction;
use sled::IVec;

use super::block::{self, BLOCK_BYTES, Builder, Malformed};
use super::seal;
use super::{CACHE_BYTES, CHUNK_BYTES, RebuildReason, failed};
use crate::{StorageError, directory};

/// How long sled may take to let go of its file. It takes microseconds; beyond this the database is rebuilt.
const RELEASE_DEADLINE: Duration = Duration::from_secs(5);
const RELEASE_POLL: Duration = Duration::from_millis(1);

const DATA: u8 = b'd';
pub(super) const CHUNK: u8 = b'c';
const UUID_KEY: &[u8] = b"muuid";
/// The block that was cut last.
const CUT_KEY: &[u8] = b"mcut";
const INLINE: u8 = 0;
const SPLIT: u8 = 1;
const SPLIT_BYTES: usize = 17;

/// One generation.
pub(super) struct Store {
    pub(super) db: sled::Db,
    pub(super) path: PathBuf,
    /// Some block may be in pieces. While false, no write looks for pieces to remove.
    split: AtomicBool,
    next_split: AtomicU64,
    /// How often a block was cut into several. See [`Store::last_block`].
    cuts: AtomicU64,
    /// So many blocks are written, and then the process "is killed".
    #[cfg(test)]
    pub(super) left: AtomicU64,
}

/// A block, as sled holds it or put together from its pieces.
enum Block {
    Inline(IVec),
    Whole(Bytes),
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        match self {
            Block::Inline(raw) => raw.get(1..).unwrap_or_default(),
            Block::Whole(bytes) => bytes,
        }
    }
}

impl From<Malformed> for sled::Error {
    fn from(malformed: Malformed) -> sled::Error {
        sled::Error::ReportableBug(malformed.to_string())
    }
}

/// sled panics as often as it fails: both come out as a sentence.
pub(super) fn caught<T, E: ToString>(work: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_or_else(
        |panic| {
            let text =
                panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            Err(format!("it panicked: {}", text.unwrap_or("without a word")))
        },
        |done| done.map_err(|error| error.to_string()),
    )
}

impl Store {
    fn open(path: &Path) -> Result<Store, String> {
        let (db, split) = caught(|| {
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
        })?;
        let seed = u64::from_le_bytes(directory::random().map_err(|error| error.chain())?);
        Ok(Store {
            db,
            path: path.to_path_buf(),
            split: AtomicBool::new(split),
            next_split: AtomicU64::new(seed),
            cuts: AtomicU64::new(0),
            #[cfg(test)]
            left: AtomicU64::new(u64::MAX),
        })
    }

    pub(super) fn reopen(path: &Path, uuid: &str) -> Result<Store, RebuildReason> {
        if !path.is_dir() {
            return Err(RebuildReason::SelfCheck("its directory is gone".into()));
        }
        wait_for_release(path);
        let store = Store::open(path).map_err(RebuildReason::DoesNotOpen)?;
        match caught(|| store.db.get(UUID_KEY)) {
            Ok(Some(found)) if found == uuid.as_bytes() => Ok(store),
            Ok(Some(_)) => Err(RebuildReason::SelfCheck("it carries another uuid".into())),
            Ok(None) => Err(RebuildReason::SelfCheck("it carries no uuid".into())),
            Err(why) => Err(RebuildReason::SelfCheck(why)),
        }
    }

    /// How often a block was cut since it was opened.
    #[cfg(test)]
    pub(super) fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::SeqCst)
    }

    /// An empty one, with its uuid inside.
    pub(super) fn create(path: &Path) -> Result<(Store, String), StorageError> {
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

    /// Puts a block in place of what was under its key.
    fn put(&self, key: &[u8], block: &[u8]) -> Result<(), sled::Error> {
        #[cfg(test)]
        if self.left.fetch_sub(1, Ordering::Relaxed) == 0 {
            return Err(sled::Error::Unsupported("broken off".into()));
        }
        let stored = prefixed(DATA, key);
        let old = self.pieces(&stored)?;
        if block.len() <= CHUNK_BYTES {
            let mut tagged = Vec::with_capacity(block.len() + 1);
            tagged.push(INLINE);
            tagged.extend_from_slice(block);
            self.db.insert(stored, tagged)?;
        } else {
            self.split.store(true, Ordering::Relaxed);
            let split =
                Split { length: block.len() as u64, id: self.next_split.fetch_add(1, Ordering::Relaxed) };
            for (number, chunk) in block.chunks(CHUNK_BYTES).enumerate() {
                self.db.insert(split.chunk_key(key, number as u32), chunk)?;
            }
            self.db.insert(stored, &split.encode()[..])?;
        }
        self.remove_pieces(key, old)
    }

    fn remove(&self, key: &[u8]) -> Result<(), sled::Error> {
        let stored = prefixed(DATA, key);
        let old = self.pieces(&stored)?;
        self.db.remove(stored)?;
        self.remove_pieces(key, old)
    }

    fn pieces(&self, stored: &[u8]) -> Result<Option<Split>, sled::Error> {
        if !self.split.load(Ordering::Relaxed) {
            return Ok(None);
        }
        Ok(self.db.get(stored)?.and_then(|raw| Split::decode(&raw)))
    }

    /// AFTER the key says something else.
    fn remove_pieces(&self, key: &[u8], split: Option<Split>) -> Result<(), sled::Error> {
        let Some(split) = split else { return Ok(()) };
        for number in 0..split.count() {
            self.db.remove(split.chunk_key(key, number))?;
        }
        Ok(())
    }

    /// The block behind `raw`, which was read under `key`. None: it was overwritten or removed while it was read. What the key
    /// says by now may be the left part of it only: look for the block again.
    fn block(&self, key: &[u8], raw: IVec) -> Result<Option<Block>, sled::Error> {
        let Some(split) = Split::decode(&raw) else { return Ok(Some(Block::Inline(raw))) };
        let mut block = BytesMut::with_capacity(split.length as usize);
        for number in 0..split.count() {
            let Some(chunk) = self.db.get(split.chunk_key(key, number))? else { break };
            block.extend_from_slice(&chunk);
        }
        if block.len() as u64 == split.length {
            return Ok(Some(Block::Whole(block.freeze())));
        }
        if self.db.get(prefixed(DATA, key))? == Some(raw) {
            return Err(sled::Error::ReportableBug("a piece of a split value is missing".into()));
        }
        Ok(None)
    }

    /// The last block within `upper`, with its key.
    ///
    /// A block that outgrows its size is cut: its right parts come first, and the left one takes its key last, so that whoever
    /// goes forward meets all of them. Who goes backward, in sled from page to page, may have passed the place of the right parts
    /// before they were there, and find the left one alone: there was a cut meanwhile, and it looks again.
    fn last_block(&self, upper: Bound<Vec<u8>>) -> Result<Option<(Bytes, Block)>, sled::Error> {
        loop {
            let cuts = self.cuts.load(Ordering::SeqCst);
            let range = (Bound::Included(vec![DATA]), upper.clone());
            let mut found = None;
            if let Some((stored, raw)) = self.db.range::<Vec<u8>, _>(range).next_back().transpose()? {
                let key = Bytes::copy_from_slice(&stored[1..]);
                let Some(block) = self.block(&key, raw)? else { continue };
                found = Some((key, block));
            }
            if self.cuts.load(Ordering::SeqCst) == cuts {
                return Ok(found);
            }
        }
    }

    /// The block that `key` is in, if it is anywhere, with the block's key.
    fn block_of(&self, key: &[u8]) -> Result<Option<(Bytes, Block)>, sled::Error> {
        self.last_block(Bound::Included(prefixed(DATA, key)))
    }

    /// The key of the first block after `key`.
    fn after(&self, key: &[u8]) -> Result<Option<Bytes>, sled::Error> {
        use Bound::Excluded;
        let range = (Excluded(prefixed(DATA, key)), Excluded(vec![DATA + 1]));
        let found = self.db.range::<Vec<u8>, _>(range).next().transpose()?;
        Ok(found.map(|(stored, _)| Bytes::copy_from_slice(&stored[1..])))
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, sled::Error> {
        let Some((_, block)) = self.block_of(key)? else { return Ok(None) };
        Ok(block::find(block.as_ref(), key)?.map(Bytes::copy_from_slice))
    }

    /// Pairs with `start <= key < end` (an empty `end` is no bound), as they are when the iteration comes to them.
    pub(super) fn scan(self: Arc<Store>, start: &[u8], end: &[u8], direction: Direction) -> Blocks {
        Blocks {
            start: Bytes::copy_from_slice(start),
            end: Bytes::copy_from_slice(end),
            direction,
            store: self,
            blocks: None,
            before: None,
            pairs: Vec::new().into_iter(),
            last: None,
            done: !end.is_empty() && start >= end,
        }
    }

    /// Brings `changes`, in key order, into the blocks. One block at a time: doing it again from the beginning, after it was
    /// broken off anywhere and [`Store::end_cut`], comes to the same.
    pub(super) fn merge<'c>(
        &self,
        changes: impl Iterator<Item = (&'c Bytes, &'c Option<Bytes>)>,
    ) -> Result<(), sled::Error> {
        let mut changes = changes.peekable();
        while let Some((first, _)) = changes.peek() {
            let found = self.block_of(first)?;
            let upper = self.after(found.as_ref().map_or(first, |(key, _)| key))?;
            let mut builder = Builder::default();
            if let Some((_, block)) = &found {
                let mut pairs = block::Pairs::new(block.as_ref());
                while let Some(value) = pairs.next()? {
                    while let Some((key, change)) = changes.next_if(|(key, _)| &key[..] < pairs.key()) {
                        if let Some(value) = change {
                            builder.push(key, value);
                        }
                    }
                    match changes.next_if(|(key, _)| &key[..] == pairs.key()) {
                        Some((key, Some(value))) => builder.push(key, value),
                        Some((_, None)) => {}
                        None => builder.push(pairs.key(), value),
                    }
                }
            }
            while let Some((key, change)) =
                changes.next_if(|(key, _)| upper.as_ref().is_none_or(|upper| *key < upper))
            {
                if let Some(value) = change {
                    builder.push(key, value);
                }
            }
            let blocks = builder.blocks();
            if let (true, Some((key, _))) = (blocks.is_empty(), &found) {
                self.remove(key)?;
            }
            if let (2.., Some((key, _))) = (blocks.len(), &found) {
                self.db.insert(CUT_KEY, &key[..])?;
            }
            // The left part keeps the block's key, and comes last: BEFORE it the others are there, and the cut is counted.
            for (nth, (key, block)) in blocks.iter().enumerate().rev() {
                match &found {
                    Some((kept, _)) if nth == 0 => {
                        self.cuts.fetch_add(u64::from(blocks.len() > 1), Ordering::SeqCst);
                        self.put(kept, block)?;
                    }
                    _ => self.put(key, block)?,
                }
            }
        }
        Ok(())
    }

    /// Ends a cut that was broken off: what the right parts have is theirs alone. BEFORE: nobody reads yet.
    pub(super) fn end_cut(&self) -> Result<(), sled::Error> {
        let Some(key) = self.db.get(CUT_KEY)? else { return Ok(()) };
        let (Some((found, block)), Some(next)) = (self.block_of(&key)?, self.after(&key)?) else {
            return Ok(());
        };
        if found[..] != key[..] {
            return Ok(()); // It became empty since.
        }
        let mut builder = Builder::default();
        let pairs = block::within(block.as_ref(), b"", &next)?;
        pairs.iter().for_each(|(key, value)| builder.push(key, value));
        match builder.blocks().as_slice() {
            [] => self.remove(&key),
            [(_, left)] => self.put(&key, left),
            _ => Err(sled::Error::ReportableBug("a part of a block is larger than the block".into())),
        }
    }
}

/// Fills an empty store with pairs that come in key order.
pub(super) fn fill(
    path: &Path,
    pairs: &mut dyn Iterator<Item = Result<(Bytes, Bytes), StorageError>>,
) -> Result<(Store, String), StorageError> {
    let (store, uuid) = Store::create(path)?;
    let mut gathered: Vec<(Bytes, Bytes)> = Vec::new();
    let mut bytes = 0;
    let write = |gathered: &mut Vec<(Bytes, Bytes)>| {
        let mut builder = Builder::default();
        for (key, value) in gathered.iter() {
            builder.push(key, value);
        }
        let written = builder.blocks().iter().try_for_each(|(key, block)| store.put(key, block));
        gathered.clear();
        written.map_err(|error| failed(path, error))
    };
    for pair in pairs {
        let (key, value) = pair?;
        // Parts of equal size are made of it.
        if bytes + key.len() + value.len() > 16 * BLOCK_BYTES && !gathered.is_empty() {
            write(&mut gathered)?;
            bytes = 0;
        }
        bytes += key.len() + value.len();
        gathered.push((key, value));
    }
    write(&mut gathered)?;
    seal::end_flush(&store).map_err(|why| failed(path, why))?;
    Ok((store, uuid))
}

/// See [`Store::scan`].
pub(super) struct Blocks {
    store: Arc<Store>,
    start: Bytes,
    end: Bytes,
    direction: Direction,
    /// Forward; None before the first block was looked for.
    blocks: Option<sled::Iter>,
    /// Backward: the block that was read last.
    before: Option<Vec<u8>>,
    pairs: std::vec::IntoIter<(Bytes, Bytes)>,
    /// Handed out last.
    last: Option<Bytes>,
    done: bool,
}

impl Blocks {
    /// The next block's pairs. None: that was all.
    fn next_block(&mut self) -> Result<Option<Vec<(Bytes, Bytes)>>, sled::Error> {
        use Bound::{Excluded, Included};
        let end = if self.end.is_empty() { vec![DATA + 1] } else { prefixed(DATA, &self.end) };
        let (key, block) = match (&mut self.blocks, self.direction) {
            (None, Direction::Forward) => {
                let first = self.store.block_of(&self.start)?;
                let from = match &first {
                    Some((key, _)) => Excluded(prefixed(DATA, key)),
                    None => Included(prefixed(DATA, &self.start)),
                };
                if matches!(&from, Excluded(from) | Included(from) if *from >= end) {
                    self.done = true;
                }
                if !self.done {
                    self.blocks = Some(self.store.db.range::<Vec<u8>, _>((from, Excluded(end))));
                }
                match first {
                    Some(first) => first,
                    None => return Ok((!self.done).then(Vec::new)),
                }
            }
            (_, Direction::Backward) => {
                let upper = self.before.take().unwrap_or(end);
                let Some((key, block)) = self.store.last_block(Excluded(upper))? else { return Ok(None) };
                self.before = Some(prefixed(DATA, &key));
                (key, block)
            }
            (Some(blocks), Direction::Forward) => {
                let Some((stored, raw)) = blocks.next().transpose()? else { return Ok(None) };
                let key = Bytes::copy_from_slice(&stored[1..]);
                match self.store.block(&key, raw)? {
                    Some(block) => (key, block),
                    None => {
                        // sled goes on from a page as it was; from here on as it is.
                        let from = Included(prefixed(DATA, &key));
                        self.blocks = Some(self.store.db.range::<Vec<u8>, _>((from, Excluded(end))));
                        return Ok(Some(Vec::new()));
                    }
                }
            }
        };
        let mut pairs = block::within(block.as_ref(), &self.start, &self.end)?;
        if self.direction == Direction::Backward {
            pairs.reverse();
            // It is the block that the start is in.
            self.done |= key <= self.start;
        }
        Ok(Some(pairs))
    }
}

impl Iterator for Blocks {
    type Item = Result<(Bytes, Bytes), sled::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            for (key, value) in self.pairs.by_ref() {
                let again = self.last.as_ref().is_some_and(|last| match self.direction {
                    Direction::Forward => key <= *last,
                    Direction::Backward => key >= *last,
                });
                if !again {
                    self.last = Some(key.clone());
                    return Some(Ok((key, value)));
                }
            }
            if self.done {
                return None;
            }
            match self.next_block() {
                Ok(Some(pairs)) => self.pairs = pairs.into_iter(),
                Ok(None) => self.done = true,
                Err(error) => {
                    self.done = true;
                    return Some(Err(error));
                }
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
