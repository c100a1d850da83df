//! Snapshot files: written whole beside, synced, renamed, directory synced, checksummed.
//!
//! ```text
//!  ┌ header ───────────────────────────────────────┐┌ block ────────────────────────────┐ … ┌ trailer ───────────────────────┐
//!  │ magic, version, position, membership, crc32c  ││ length, crc32c, (klen vlen k v) … │   │ 0, pairs, crc of all, its crc  │
//!  └───────────────────────────────────────────────┘└───────────────────────────────────┘   └────────────────────────────────┘
//! ```
//!
//! All numbers little endian. A block holds whole pairs, about 64 KiB of them (more if one pair is larger), and its checksum
//! starts from its number, so that a missing or exchanged block is found where it happens. The checksum in the trailer runs
//! over every byte before it: a file passes only as a whole.
//!
//! A file gets its name after it was synced, so a crash leaves a `.tmp`, which the next [`Snapshots::open`] removes. What
//! damages a file under its name is a rotten disk or a hand. Then an older file may still do, but only if the log reaches
//! back to it: nothing purged after its position. [`Snapshots::usable`] decides that, given the log's purged position, and
//! refuses when none is left: a member without its past asks to be replaced.

mod backup;
#[cfg(test)]
mod fuzz;

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

pub use backup::{BackupMeta, DIGEST_BYTES, read_backup, verify_backup, write_backup};

use crate::{Pairs, Position, StorageError, directory};

const MAGIC: [u8; 8] = *b"QRTSNAP\n";
/// The format written; a reader refuses any other.
const VERSION: u32 = 1;
/// A block is closed when it reaches this.
const BLOCK_BYTES: usize = 64 << 10;
/// No block is larger: a length beyond is damage, not a reason to allocate.
const MAX_BLOCK_BYTES: usize = 1 << 30;
/// Membership of any cluster fits; a length beyond is damage.
const MAX_MEMBERSHIP_BYTES: usize = 16 << 20;
/// Files kept: the newest, and one to fall back to while the log still reaches back to it.
const KEPT_FILES: usize = 2;
const SUFFIX: &str = ".snapshot";

/// What a snapshot file says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// The last position applied to it.
    pub at: Option<Position>,
    /// The membership, encoded by consensus.
    pub membership: Bytes,
    /// Reading inside.
    pub pairs: u64,
    /// Size of the file in bytes.
    pub bytes: u64,
}

/// A file under a snapshot's name, with what verifying it brought.
#[derive(Debug)]
pub struct FoundSnapshot {
    /// Where it is.
    pub path: PathBuf,
    /// Its meta, or why it cannot be used.
    pub meta: Result<SnapshotMeta, StorageError>,
}

/// The snapshot directory: at most a few files, the newest whole one counts.
#[derive(Debug, Clone)]
pub struct Snapshots {
    dir: PathBuf,
    temporary: Arc<AtomicU64>,
}

/// Sorts by index, then term: the order in which a member's snapshots grow.
fn name_of(at: Option<Position>) -> String {
    match at {
        None => format!("none{SUFFIX}"),
        Some(at) => format!("{:020}-{:020}{SUFFIX}", at.index, at.term),
    }
}

fn order_of(name: &str) -> Option<Option<(u64, u64)>> {
    let stem = name.strip_suffix(SUFFIX)?;
    if stem == "none" {
        return Some(None);
    }
    let (index, term) = stem.split_once('-')?;
    Some(Some((index.parse().ok()?, term.parse().ok()?)))
}

impl Snapshots {
    /// Opens or creates the directory and removes what never became a snapshot.
    pub fn open(dir: &Path) -> Result<Snapshots, StorageError> {
        directory::create(dir)?;
        for entry in std::fs::read_dir(dir).map_err(StorageError::io("reading", dir))? {
            let path = entry.map_err(StorageError::io("reading", dir))?.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                std::fs::remove_file(&path).map_err(StorageError::io("removing", &path))?;
            }
        }
        Ok(Snapshots { dir: dir.to_path_buf(), temporary: Arc::default() })
    }

    /// Writes a file from `pairs`, in key order, and makes it the newest. Old files are removed afterwards.
    pub fn write(
        &self,
        at: Option<Position>,
        membership: Bytes,
        pairs: &mut dyn Iterator<Item = Result<(Bytes, Bytes), StorageError>>,
    ) -> Result<SnapshotMeta, StorageError> {
        let path = self.incoming();
        let written = write_file(&path, at, &membership, pairs, true).and_then(|(count, bytes)| {
            directory::rename(&path, &self.path_of(at))?;
            Ok(SnapshotMeta { at, membership, pairs: count, bytes })
        });
        if written.is_err() {
            // Best effort: the next open removes it too.
            let _ = std::fs::remove_file(&path);
        }
        let meta = written?;
        self.remove_old();
        Ok(meta)
    }

    /// The newest snapshot, verified. A damaged newest file is an error: see [`Snapshots::usable`].
    pub fn newest(&self) -> Result<Option<(SnapshotMeta, PathBuf)>, StorageError> {
        match self.files()?.pop() {
            None => Ok(None),
            Some(path) => verify(&path).map(|meta| Some((meta, path))),
        }
    }

    /// Every file, newest first, verified.
    pub fn survey(&self) -> Result<Vec<FoundSnapshot>, StorageError> {
        Ok(self.files()?.into_iter().rev().map(|path| FoundSnapshot { meta: verify(&path), path }).collect())
    }

    /// The newest whole snapshot from which a log that was purged up to `purged` goes on without a hole. None: there is
    /// none, and none is needed. Damaged files are reported and passed over; if that leaves nothing to go on from, the damage
    /// is the error.
    pub fn usable(&self, purged: Option<Position>) -> Result<Option<(SnapshotMeta, PathBuf)>, StorageError> {
        let mut damage = None;
        // Newest first, and no further than needed: a whole file is read to be verified.
        for path in self.files()?.into_iter().rev() {
            match verify(&path) {
                Ok(meta) if meta.at.map(|at| at.index) >= purged.map(|purged| purged.index) => {
                    return Ok(Some((meta, path)));
                }
                Ok(_) => break,
                Err(error) => {
                    tracing::error!(error = %error.chain(), "snapshot passed over");
                    damage.get_or_insert(error);
                }
            }
        }
        match (purged, damage) {
            // The log holds everything from the beginning: damaged files are only a loss of time.
            (None, _) => Ok(None),
            (Some(_), Some(error)) => Err(error),
            (Some(purged), None) => {
                let what = format!("no snapshot reaches up to index {}, where the log begins", purged.index);
                Err(StorageError::damaged(&self.dir, 0, what))
            }
        }
    }

    /// Where the snapshot of position `at` is, if there is one.
    pub fn path_of(&self, at: Option<Position>) -> PathBuf {
        self.dir.join(name_of(at))
    }

    /// A path for a file that arrives from a peer; [`Snapshots::adopt`] verifies and renames it.
    pub fn incoming(&self) -> PathBuf {
        self.dir.join(format!("incoming-{}.tmp", self.temporary.fetch_add(1, Ordering::Relaxed)))
    }

    /// Verifies a file written to [`Snapshots::incoming`], syncs it, and gives it its name. A file that does not pass is
    /// removed: a peer or the network damaged it, and it is asked for again.
    pub fn adopt(&self, incoming: &Path) -> Result<SnapshotMeta, StorageError> {
        let adopted = verify(incoming).and_then(|meta| {
            File::open(incoming)
                .and_then(|file| file.sync_all())
                .map_err(StorageError::io("syncing", incoming))?;
            directory::rename(incoming, &self.path_of(meta.at))?;
            Ok(meta)
        });
        if adopted.is_err() {
            let _ = std::fs::remove_file(incoming);
        }
        let meta = adopted?;
        self.remove_old();
        Ok(meta)
    }

    /// The pairs of a whole snapshot file, streamed: every block is verified before its first pair is handed out, the whole
    /// file before the end is reported.
    pub fn read(&self, path: &Path) -> Result<Pairs, StorageError> {
        let mut input = Input::open(path)?;
        read_header(&mut input)?;
        Ok(Box::new(Reading::new(input, false)))
    }

    /// Oldest first.
    fn files(&self) -> Result<Vec<PathBuf>, StorageError> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(StorageError::io("reading", &self.dir))? {
            let entry = entry.map_err(StorageError::io("reading", &self.dir))?;
            if let Some(order) = entry.file_name().to_str().and_then(order_of) {
                found.push((order, entry.path()));
            }
        }
        found.sort();
        Ok(found.into_iter().map(|(_, path)| path).collect())
    }

    /// Keeps the newest files. A file that stays costs only room.
    fn remove_old(&self) {
        let files = match self.files() {
            Ok(files) => files,
            Err(error) => return tracing::warn!(error = %error.chain(), "old snapshots stay"),
        };
        for path in files.iter().rev().skip(KEPT_FILES) {
            if let Err(error) = std::fs::remove_file(path) {
                tracing::warn!(path = %path.display(), %error, "an old snapshot stays");
            }
        }
    }
}

/// Counts and sums what goes through.
struct Output {
    file: BufWriter<File>,
    bytes: u64,
    crc: u32,
}

impl Output {
    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.bytes += bytes.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.file.write_all(bytes)
    }

    fn put_block(&mut self, number: u64, body: &[u8]) -> std::io::Result<()> {
        self.put(&(body.len() as u32).to_le_bytes())?;
        self.put(&block_crc(number, body).to_le_bytes())?;
        self.put(body)
    }
}

fn block_crc(number: u64, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), body)
}

fn write_file(
    path: &Path,
    at: Option<Position>,
    membership: &[u8],
    pairs: &mut dyn Iterator<Item = Result<(Bytes, Bytes), StorageError>>,
    sync: bool,
) -> Result<(u64, u64), StorageError> {
    let io = |error| StorageError::io("writing", path)(error);
    let file = File::create(path).map_err(StorageError::io("creating", path))?;
    let mut out = Output { file: BufWriter::with_capacity(BLOCK_BYTES, file), bytes: 0, crc: 0 };

    let mut header = Vec::with_capacity(64 + membership.len());
    header.extend_from_slice(&MAGIC);
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&u32::from(at.is_some()).to_le_bytes());
    header.extend_from_slice(&at.map_or(0, |at| at.term).to_le_bytes());
    header.extend_from_slice(&at.map_or(0, |at| at.index).to_le_bytes());
    assert!(membership.len() <= MAX_MEMBERSHIP_BYTES, "a membership of {} bytes", membership.len());
    header.extend_from_slice(&(membership.len() as u32).to_le_bytes());
    header.extend_from_slice(membership);
    header.extend_from_slice(&crc32c::crc32c(&header).to_le_bytes());
    out.put(&header).map_err(io)?;

    let (mut block, mut number, mut count) = (Vec::with_capacity(2 * BLOCK_BYTES), 0, 0_u64);
    for pair in pairs {
        let (key, value) = pair?;
        assert!(key.len() + value.len() < MAX_BLOCK_BYTES / 2, "a pair of {} bytes", key.len() + value.len());
        block.extend_from_slice(&(key.len() as u32).to_le_bytes());
        block.extend_from_slice(&(value.len() as u32).to_le_bytes());
        block.extend_from_slice(&key);
        block.extend_from_slice(&value);
        count += 1;
        if block.len() >= BLOCK_BYTES {
            out.put_block(number, &block).map_err(io)?;
            number += 1;
            block.clear();
        }
    }
    if !block.is_empty() {
        out.put_block(number, &block).map_err(io)?;
    }
    let mut trailer = Vec::with_capacity(20);
    trailer.extend_from_slice(&0_u32.to_le_bytes());
    trailer.extend_from_slice(&count.to_le_bytes());
    trailer.extend_from_slice(&out.crc.to_le_bytes());
    trailer.extend_from_slice(&crc32c::crc32c(&trailer).to_le_bytes());
    out.put(&trailer).map_err(io)?;
    let bytes = out.bytes;
    let file = out.file.into_inner().map_err(|error| io(error.into_error()))?;
    if sync {
        file.sync_all().map_err(StorageError::io("syncing", path))?;
    }
    Ok((count, bytes))
}

/// A file being read: knows where it is and the sum so far.
struct Input {
    path: PathBuf,
    file: BufReader<File>,
    length: u64,
    offset: u64,
    crc: u32,
}

impl Input {
    fn open(path: &Path) -> Result<Input, StorageError> {
        let file = File::open(path).map_err(StorageError::io("opening", path))?;
        let length = file.metadata().map_err(StorageError::io("reading", path))?.len();
        Ok(Input {
            path: path.to_path_buf(),
            file: BufReader::with_capacity(BLOCK_BYTES, file),
            length,
            offset: 0,
            crc: 0,
        })
    }

    fn damaged<T>(&self, what: impl Into<String>) -> Result<T, StorageError> {
        Err(StorageError::damaged(&self.path, self.offset, what))
    }

    fn take(&mut self, count: usize) -> Result<Vec<u8>, StorageError> {
        if count as u64 > self.length - self.offset {
            return self.damaged("the file ends too early");
        }
        let mut bytes = vec![0; count];
        self.file.read_exact(&mut bytes).map_err(StorageError::io("reading", &self.path))?;
        self.offset += count as u64;
        self.crc = crc32c::crc32c_append(self.crc, &bytes);
        Ok(bytes)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn read_header(input: &mut Input) -> Result<(Option<Position>, Bytes), StorageError> {
    let mut header = input.take(36)?;
    if header[..8] != MAGIC {
        return Err(StorageError::damaged(&input.path, 0, "not a snapshot"));
    }
    let version = u32_at(&header, 8);
    let length = u32_at(&header, 32) as usize;
    if length > MAX_MEMBERSHIP_BYTES {
        return input.damaged("an impossible membership");
    }
    header.extend(input.take(length)?);
    let crc = input.take(4)?;
    if crc32c::crc32c(&header) != u32_at(&crc, 0) {
        return Err(StorageError::damaged(&input.path, 0, "a header with a wrong checksum"));
    }
    if version != VERSION {
        return Err(StorageError::Damaged {
            path: input.path.clone(),
            offset: 8,
            what: format!("snapshot format {version}, this program knows {VERSION}"),
            remedy: "run the version of quorate that wrote it",
        });
    }
    let at = (u32_at(&header, 12) == 1)
        .then(|| Position { term: u64_at(&header, 16), index: u64_at(&header, 24) });
    Ok((at, Bytes::from(header).slice(36..)))
}

/// Reads a whole file and tells what it says about itself.
fn verify(path: &Path) -> Result<SnapshotMeta, StorageError> {
    let mut input = Input::open(path)?;
    let (at, membership) = read_header(&mut input)?;
    let bytes = input.length;
    let mut pairs = Reading::new(input, false);
    for pair in pairs.by_ref() {
        pair?;
    }
    Ok(SnapshotMeta { at, membership, pairs: pairs.pairs, bytes })
}

struct Reading {
    input: Input,
    /// What is left of the current block.
    block: Bytes,
    number: u64,
    pairs: u64,
    done: bool,
    /// Zeros may follow the trailer, less than a page of them.
    padded: bool,
    /// The checksum of everything before the trailer, once that was reached.
    sum: u32,
}

impl Reading {
    /// Behind the header.
    fn new(input: Input, padded: bool) -> Reading {
        Reading { input, block: Bytes::new(), number: 0, pairs: 0, done: false, padded, sum: 0 }
    }

    /// The next pair; None after a good trailer.
    fn advance(&mut self) -> Result<Option<(Bytes, Bytes)>, StorageError> {
        if self.block.is_empty() && !self.next_block()? {
            return Ok(None);
        }
        if self.block.len() < 8 {
            return self.input.damaged("a pair without its lengths");
        }
        let lengths = self.block.split_to(8);
        let (key, value) = (u32_at(&lengths, 0) as usize, u32_at(&lengths, 4) as usize);
        if key + value > self.block.len() {
            return self.input.damaged("a pair longer than its block");
        }
        let key = self.block.split_to(key);
        let value = self.block.split_to(value);
        self.pairs += 1;
        // Copied: a small pair must not keep its whole block in memory.
        Ok(Some((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value))))
    }

    /// False: the trailer was reached and everything holds.
    fn next_block(&mut self) -> Result<bool, StorageError> {
        let sum = self.input.crc;
        let mut start = self.input.take(4)?;
        let length = u32_at(&start, 0) as usize;
        if length == 0 {
            start.extend(self.input.take(16)?);
            if crc32c::crc32c(&start[..16]) != u32_at(&start, 16) {
                return self.input.damaged("a trailer with a wrong checksum");
            }
            if u32_at(&start, 12) != sum {
                return self.input.damaged("the checksum of the whole file is wrong");
            }
            if u64_at(&start, 4) != self.pairs {
                return self.input.damaged("another number of pairs than was written");
            }
            self.sum = sum;
            let left = self.input.length - self.input.offset;
            let whole = left == 0
                || (self.padded
                    && left < 512
                    && self.input.take(left as usize)?.iter().all(|byte| *byte == 0));
            if !whole {
                return self.input.damaged("bytes behind the trailer");
            }
            return Ok(false);
        }
        if length > MAX_BLOCK_BYTES {
            return self.input.damaged("an impossible length of a block");
        }
        let crc = self.input.take(4)?;
        let body = self.input.take(length)?;
        if block_crc(self.number, &body) != u32_at(&crc, 0) {
            return self.input.damaged("a block with a wrong checksum");
        }
        self.number += 1;
        self.block = Bytes::from(body);
        Ok(true)
    }
}

impl Iterator for Reading {
    type Item = Result<(Bytes, Bytes), StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let next = self.advance();
        self.done = !matches!(next, Ok(Some(_)));
        next.transpose()
    }
}

#[cfg(test)]
mod tests;
