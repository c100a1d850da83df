//! One segment file: its header, its preallocation, its place among the others.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{Position, Vote};
use crate::StorageError;

/// The header's size: one page, so that the first record never shares a sector with it.
pub(super) const HEADER_BYTES: u64 = 4096;
/// The format written; a reader refuses any other.
const VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"QRTLOG\r\n";
/// Where the header's checksum stands: its last four bytes, covering all others.
const CRC_AT: usize = HEADER_BYTES as usize - 4;
/// Zeros are written in pieces of this size.
const ZERO_BYTES: usize = 256 << 10;
/// Offsets inside a segment are 32 bits.
pub(super) const MAX_CAPACITY: u64 = u32::MAX as u64 & !4095;

/// What the log amounts to at one point of its stream, apart from the entries themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Standing {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<Position>,
    pub(super) purged: Option<Position>,
    pub(super) last: Option<Position>,
}

/// What a segment says about itself and what stood before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// The log's identity, drawn when it was created.
    pub(super) uuid: [u8; 16],
    /// 1, 2, 3, … without holes.
    pub(super) number: u64,
    /// Size of the file.
    pub(super) capacity: u64,
    /// Where the records of the segment before ended.
    pub(super) previous_end: u64,
    /// The standing when this segment began: what earlier, deleted segments held.
    pub(super) standing: Standing,
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES as usize);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.uuid);
        let vote = self.standing.vote;
        let mut numbers = vec![
            self.number,
            self.capacity,
            self.previous_end,
            u64::from(vote.is_some()),
            vote.map_or(0, |vote| vote.term),
            u64::from(vote.is_some_and(|vote| vote.node.is_some())),
            vote.and_then(|vote| vote.node).unwrap_or(0),
            u64::from(vote.is_some_and(|vote| vote.committed)),
        ];
        for at in [self.standing.committed, self.standing.purged, self.standing.last] {
            numbers.extend([
                u64::from(at.is_some()),
                at.map_or(0, |at| at.term),
                at.map_or(0, |at| at.index),
            ]);
        }
        for number in numbers {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.resize(CRC_AT, 0);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8], path: &Path) -> Result<Header, StorageError> {
        let bad = |what: &str| Err(StorageError::damaged(path, 0, what));
        if bytes.len() < HEADER_BYTES as usize {
            return bad("a log segment without a whole header");
        }
        if bytes[..8] != MAGIC {
            return bad("not a log segment");
        }
        let crc = u32::from_le_bytes(bytes[CRC_AT..CRC_AT + 4].try_into().expect("four bytes"));
        if crc32c::crc32c(&bytes[..CRC_AT]) != crc {
            return bad("a segment header with a wrong checksum");
        }
        let version = u32::from_le_bytes(bytes[8..12].try_into().expect("four bytes"));
        if version != VERSION {
            return Err(StorageError::Damaged {
                path: path.to_path_buf(),
                offset: 8,
                what: format!("log format {version}, this program knows {VERSION}"),
                remedy: "run the version of quorate that wrote it",
            });
        }
        let mut numbers = bytes[32..CRC_AT]
            .chunks_exact(8)
            .map(|eight| u64::from_le_bytes(eight.try_into().expect("eight bytes")));
        let mut next = || numbers.next().expect("the header is longer than its numbers");
        let (number, capacity, previous_end) = (next(), next(), next());
        let (has_vote, term, has_node, node, committed) = (next(), next(), next(), next(), next());
        let vote = (has_vote == 1).then_some(Vote {
            term,
            node: (has_node == 1).then_some(node),
            committed: committed == 1,
        });
        let mut position = || {
            let (present, term, index) = (next(), next(), next());
            (present == 1).then_some(Position { term, index })
        };
        let standing = Standing { vote, committed: position(), purged: position(), last: position() };
        let uuid = bytes[16..32].try_into().expect("sixteen bytes");
        Ok(Header { uuid, number, capacity, previous_end, standing })
    }
}

/// An open segment. Readers share it; its bytes never change once they were synced.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) capacity: u64,
    /// Where the checksums of its records start from.
    pub(super) seed: u32,
}

/// The name of segment `number` in `dir`.
pub(super) fn path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.log"))
}

/// The number in a segment's name.
pub(super) fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log")?;
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

fn seed_of(uuid: &[u8; 16], number: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(uuid), &number.to_le_bytes())
}

impl Segment {
    pub(super) fn new(header: &Header, path: PathBuf, file: File) -> Segment {
        Segment {
            number: header.number,
            path,
            file,
            capacity: header.capacity,
            seed: seed_of(&header.uuid, header.number),
        }
    }

    /// Opens an existing segment and believes its header only when every check holds.
    pub(super) fn open(path: &Path, number: u64) -> Result<(Segment, Header), StorageError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(StorageError::io("opening", path))?;
        let length = file.metadata().map_err(StorageError::io("reading", path))?.len();
        let mut bytes = vec![0; HEADER_BYTES.min(length) as usize];
        file.read_exact_at(&mut bytes, 0).map_err(StorageError::io("reading", path))?;
        let header = Header::decode(&bytes, path)?;
        if header.number != number {
            return Err(StorageError::damaged(
                path,
                0,
                format!("segment {} under the name of segment {number}", header.number),
            ));
        }
        // The whole size was on disk before the file got its name: no crash shortens it.
        if length != header.capacity {
            return Err(StorageError::damaged(
                path,
                length,
                format!("{length} bytes long instead of {}", header.capacity),
            ));
        }
        Ok((Segment::new(&header, path.to_path_buf(), file), header))
    }
}

/// A file of zeros with all its blocks written and synced, waiting to become a segment.
#[derive(Debug)]
pub(super) struct Spare {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) capacity: u64,
}

impl Spare {
    /// Writes zeros instead of asking for an allocation: an unwritten extent would have to be converted, and its metadata
    /// journalled, by the very fdatasync that is meant to be cheap.
    pub(super) fn prepare(dir: &Path, name: &str, capacity: u64) -> Result<Spare, StorageError> {
        let path = dir.join(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(StorageError::io("creating", &path))?;
        let zeros = vec![0; ZERO_BYTES.min(capacity as usize)];
        let mut offset = 0;
        while offset < capacity {
            let piece = zeros.len().min((capacity - offset) as usize);
            file.write_all_at(&zeros[..piece], offset).map_err(StorageError::io("preallocating", &path))?;
            offset += piece as u64;
        }
        file.sync_all().map_err(StorageError::io("preallocating", &path))?;
        Ok(Spare { path, file, capacity })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_comes_back_and_every_flipped_bit_is_noticed() {
        let header = Header {
            uuid: [7; 16],
            number: 12,
            capacity: 8192,
            previous_end: 4160,
            standing: Standing {
                vote: Some(Vote { term: 4, node: Some(2), committed: true }),
                committed: Some(Position { term: 3, index: 8 }),
                purged: None,
                last: Some(Position { term: 4, index: 9 }),
            },
        };
        let mut bytes = header.encode();
        assert_eq!(bytes.len() as u64, HEADER_BYTES);
        assert_eq!(Header::decode(&bytes, Path::new("x")).unwrap(), header);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&bytes, Path::new("x")).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn names_carry_the_number() {
        let path = path_of(Path::new("/d"), 0x1f);
        assert_eq!(number_of(path.file_name().unwrap().to_str().unwrap()), Some(0x1f));
        assert_eq!(number_of("1f.log"), None);
        assert_eq!(number_of("spare.tmp"), None);
    }
}
