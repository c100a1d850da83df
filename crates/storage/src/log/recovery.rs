//! Reading the log back: what is whole, what is a torn tail, what is damage.
//!
//! A write that was under way when the machine stopped may be on disk in any mixture of sectors, but nobody was told that it
//! is there: it is cut. Everything else was synced, perhaps acknowledged, and must be whole. The two are told apart by the
//! `group` of a record. The writer starts a group only after the one before was synced, so a whole record that begins its
//! group *behind* a bad spot proves that the spot had been synced: damage, whatever it looks like (zeros too: a lost sector
//! reads as zeros). A bad spot with nothing but its own group behind it is a torn tail.
//!
//! After a cut the rest of the segment is zeroed and synced before anything is written: a later, shorter write must not be
//! followed by a stale record that happens to fit.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::index::Index;
use super::record::{self, Content, Parsed};
use super::segment::{self, HEADER_BYTES, Header, Segment, Standing};
use crate::{StorageError, directory};

/// Where the writer goes on.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) uuid: [u8; 16],
    pub(super) standing: Standing,
    /// The segment being written, if the log is not new.
    pub(super) current: Option<Arc<Segment>>,
    /// Where its next record goes.
    pub(super) end: u64,
    /// The highest entry index in each segment, the current one included.
    pub(super) highest: BTreeMap<u64, u64>,
}

/// A log as it was found.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) tail: Tail,
    pub(super) index: Index,
    pub(super) segments: BTreeMap<u64, Arc<Segment>>,
}

/// Reads every segment of `dir`, oldest first.
pub(super) fn recover(dir: &Path, cache_bytes: usize) -> Result<Recovered, StorageError> {
    let (paths, leftovers) = list(dir)?;
    let mut segments = Vec::with_capacity(paths.len());
    for (number, path) in &paths {
        segments.push(Segment::open(path, *number)?);
    }
    let Some((_, oldest)) = segments.first() else {
        let tail = Tail {
            uuid: directory::random()?,
            standing: Standing::default(),
            current: None,
            end: 0,
            highest: BTreeMap::new(),
        };
        remove(&leftovers)?;
        return Ok(Recovered { tail, index: Index::new(cache_bytes), segments: BTreeMap::new() });
    };
    let oldest = *oldest;
    for pair in segments.windows(2) {
        let ((before, _), (segment, header)) = (&pair[0], &pair[1]);
        if header.uuid != oldest.uuid {
            return Err(StorageError::damaged(&segment.path, 0, "a segment of another log"));
        }
        if header.number != before.number + 1 {
            let missing = segment::path_of(dir, before.number + 1);
            return Err(StorageError::damaged(&missing, 0, "the segment is missing"));
        }
    }

    let mut replay = Replay {
        index: Index::new(cache_bytes),
        standing: oldest.standing,
        // Entries up to here stand in segments that are gone; they must turn out to be purged or truncated.
        absent: oldest.standing.last.map(|last| last.index),
        highest: BTreeMap::new(),
    };
    let (mut end, mut torn) = (HEADER_BYTES, 0);
    for nth in 0..segments.len() {
        let (segment, header) = &segments[nth];
        if replay.standing != header.standing {
            return Err(StorageError::damaged(
                &segment.path,
                0,
                "the segment does not continue the one before",
            ));
        }
        (end, torn) = match segments.get(nth + 1) {
            Some((_, next)) => (replay.whole_segment(segment, next)?, 0),
            None => replay.last_segment(segment)?,
        };
    }
    replay.check(dir, &oldest)?;
    // Only now: a log that refuses to start is left exactly as it was found.
    if let Some((newest, _)) = segments.last() {
        cut(newest, end, torn)?;
    }
    remove(&leftovers)?;

    let segments: BTreeMap<u64, Arc<Segment>> =
        segments.into_iter().map(|(segment, _)| (segment.number, Arc::new(segment))).collect();
    let current = segments.last_key_value().map(|(_, segment)| segment.clone());
    let tail = Tail { uuid: oldest.uuid, standing: replay.standing, current, end, highest: replay.highest };
    Ok(Recovered { tail, index: replay.index, segments })
}

/// The segments by their numbers, and spares that never became a segment: nothing in those was acknowledged.
fn list(dir: &Path) -> Result<(BTreeMap<u64, PathBuf>, Vec<PathBuf>), StorageError> {
    let (mut found, mut leftovers) = (BTreeMap::new(), Vec::new());
    for entry in std::fs::read_dir(dir).map_err(StorageError::io("reading", dir))? {
        let entry = entry.map_err(StorageError::io("reading", dir))?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if let Some(number) = segment::number_of(name) {
            found.insert(number, entry.path());
        } else if name.ends_with(".tmp") {
            leftovers.push(entry.path());
        }
    }
    Ok((found, leftovers))
}

fn remove(leftovers: &[PathBuf]) -> Result<(), StorageError> {
    leftovers
        .iter()
        .try_for_each(|path| std::fs::remove_file(path).map_err(StorageError::io("removing", path)))
}

struct Replay {
    index: Index,
    standing: Standing,
    absent: Option<u64>,
    highest: BTreeMap<u64, u64>,
}

impl Replay {
    /// A segment that was followed by another: whole up to the end its successor tells.
    fn whole_segment(&mut self, segment: &Segment, next: &Header) -> Result<u64, StorageError> {
        let end = next.previous_end;
        if end < HEADER_BYTES || end > segment.capacity || !end.is_multiple_of(record::ALIGN as u64) {
            let path = segment.path.with_file_name(format!("{:016x}.log", next.number));
            return Err(StorageError::damaged(&path, 0, "an impossible end of the segment before"));
        }
        let bytes = read(segment, end)?;
        match self.records(segment, &bytes)? {
            None => Ok(end),
            Some((offset, what)) => Err(StorageError::damaged(&segment.path, offset as u64, what)),
        }
    }

    /// The newest segment: where its records end, and how many bytes behind that are a torn tail.
    fn last_segment(&mut self, segment: &Segment) -> Result<(u64, usize), StorageError> {
        let bytes = read(segment, segment.capacity)?;
        let Some((stop, what)) = self.records(segment, &bytes)? else {
            return Ok((segment.capacity, 0));
        };
        if let Some(later) = later_group(&bytes, stop, segment.seed) {
            let what =
                format!("{what}, and a later write at byte {later} proves that this place had been synced");
            return Err(StorageError::damaged(&segment.path, stop as u64, what));
        }
        let torn = written(&bytes[stop..]);
        if torn > 0 {
            tracing::warn!(
                path = %segment.path.display(),
                offset = stop,
                bytes = torn,
                reason = what,
                "log: a torn write that was never acknowledged"
            );
        }
        Ok((stop as u64, torn))
    }

    /// Applies records from the header on; tells where and why it stopped before the end of `bytes`.
    fn records(
        &mut self,
        segment: &Segment,
        bytes: &[u8],
    ) -> Result<Option<(usize, &'static str)>, StorageError> {
        let mut offset = HEADER_BYTES as usize;
        while offset < bytes.len() {
            match record::parse(&bytes[offset..], segment.seed) {
                Parsed::Whole(whole) => {
                    if whole.group as usize > offset {
                        return Ok(Some((offset, "a record that claims to be older than its place")));
                    }
                    self.apply(segment, offset, &whole.content)?;
                    offset += whole.size;
                }
                Parsed::Zeros => return Ok(Some((offset, "zeros"))),
                Parsed::Bad(what) => return Ok(Some((offset, what))),
            }
        }
        Ok(None)
    }

    fn apply(&mut self, segment: &Segment, offset: usize, content: &Content<'_>) -> Result<(), StorageError> {
        match content {
            // Raft counts one by one: nobody gets there, and whoever goes on from there would overflow.
            Content::Entry { at, .. } | Content::Purge(at) if at.index == u64::MAX => {
                return Err(StorageError::damaged(&segment.path, offset as u64, "an impossible index"));
            }
            Content::Entry { at, payload } => {
                if self.standing.last.is_some_and(|last| at.index != last.index + 1) {
                    let what = format!("entry {} does not follow {:?}", at.index, self.standing.last);
                    return Err(StorageError::damaged(&segment.path, offset as u64, what));
                }
                self.index.push_found(*at, payload.len() as u32, segment.number, offset as u32);
                self.standing.last = Some(*at);
                self.highest.insert(
                    segment.number,
                    at.index.max(self.highest.get(&segment.number).copied().unwrap_or(0)),
                );
            }
            Content::Vote(vote) => self.standing.vote = Some(*vote),
            Content::Committed(at) => self.standing.committed = *at,
            Content::Truncate(last) => {
                let keep = last.map(|last| last.index);
                self.index.truncate_after(keep);
                self.absent = self.absent.and_then(|absent| keep.map(|keep| absent.min(keep)));
                self.standing.truncate_after(*last);
            }
            Content::Purge(upto) => {
                self.index.purge(upto.index);
                self.standing.purge(*upto);
            }
            Content::Closed => {}
        }
        Ok(())
    }

    /// No entry may be missing between what was purged and what was found.
    fn check(&self, dir: &Path, oldest: &Header) -> Result<(), StorageError> {
        let purged = self.standing.purged.map(|purged| purged.index);
        let missing = match (self.absent, purged) {
            (Some(absent), Some(purged)) => absent > purged,
            (Some(_), None) => true,
            (None, _) => false,
        };
        // Segments are deleted only after a purge.
        if missing || (oldest.number != 1 && purged.is_none()) {
            let path = segment::path_of(dir, oldest.number.saturating_sub(1));
            return Err(StorageError::damaged(
                &path,
                0,
                "the segment is missing, and entries that were not purged with it",
            ));
        }
        Ok(())
    }
}

impl Standing {
    pub(super) fn truncate_after(&mut self, last: Option<super::Position>) {
        self.last = match (self.last, last) {
            // Never behind what was purged: that is no longer the log's to drop.
            (Some(now), Some(to)) if to.index < now.index => self.purged.max(Some(to)),
            (now, Some(_)) => now,
            (_, None) => self.purged,
        };
    }

    pub(super) fn purge(&mut self, upto: super::Position) {
        if self.purged.is_none_or(|purged| purged.index < upto.index) {
            self.purged = Some(upto);
        }
        if self.last.is_none_or(|last| last.index <= upto.index) {
            self.last = Some(upto);
        }
    }
}

/// Zeroes a torn tail.
fn cut(segment: &Segment, end: u64, torn: usize) -> Result<(), StorageError> {
    if torn == 0 {
        return Ok(());
    }
    let failed = |error| StorageError::io("cutting the torn tail of", &segment.path)(error);
    segment.file.write_all_at(&vec![0; torn], end).map_err(failed)?;
    segment.file.sync_data().map_err(failed)
}

fn read(segment: &Segment, end: u64) -> Result<Vec<u8>, StorageError> {
    let mut bytes = vec![0; end as usize];
    segment.file.read_exact_at(&mut bytes, 0).map_err(StorageError::io("reading", &segment.path))?;
    Ok(bytes)
}

/// Bytes up to the last one that is not zero. Most of a segment is zeros: compared a page at a time.
fn written(bytes: &[u8]) -> usize {
    const PAGE: usize = 4 << 10;
    let zeros = [0; PAGE];
    let pages = bytes.chunks(PAGE).rposition(|page| *page != zeros[..page.len()]).map_or(0, |last| last + 1);
    let start = pages.saturating_sub(1) * PAGE;
    let end = bytes.len().min(pages * PAGE);
    bytes[start..end].iter().rposition(|byte| *byte != 0).map_or(0, |last| start + last + 1)
}

/// A whole record behind `stop` whose group began behind `stop`.
fn later_group(bytes: &[u8], stop: usize, seed: u32) -> Option<usize> {
    let mut offset = stop + record::ALIGN;
    // No record begins in zeros.
    let end = stop + written(&bytes[stop..]);
    while offset < end {
        if let Parsed::Whole(whole) = record::parse(&bytes[offset..], seed)
            && whole.group as usize > stop
        {
            return Some(offset);
        }
        offset += record::ALIGN;
    }
    None
}
