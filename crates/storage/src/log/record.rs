//! One record: the unit of checksumming. [`super`] shows where it stands in a segment.
//!
//! ```text
//!  0        4        8        12   13  16        24        32
//!  ├ length ┼ crc32c ┼ group  ┼type┼ 0 ┼ term    ┼ index   ┼ payload … zero padding to 8 ┤
//! ```
//!
//! All numbers little endian. `length` counts the payload without padding. The checksum starts from a seed made of the log's
//! uuid and the segment's number, so that a record copied from elsewhere does not pass, and covers everything but itself,
//! padding included. `group` is the offset in the segment at which the write that carried this record began.

use bytes::Bytes;

use super::{Position, Vote};

/// Bytes before the payload.
pub(super) const HEADER_BYTES: usize = 32;
/// Records start at multiples of it, which bounds the search for records behind damage.
pub(super) const ALIGN: usize = 8;

/// What can be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    Entry {
        at: Position,
        payload: Bytes,
    },
    Vote(Vote),
    Committed(Option<Position>),
    Truncate(Option<Position>),
    Purge(Position),
    /// The log was closed in order: nothing before it can be a torn write.
    Closed,
}

const ENTRY: u8 = 1;
const VOTE: u8 = 2;
const COMMITTED: u8 = 3;
const TRUNCATE: u8 = 4;
const PURGE: u8 = 5;
const CLOSED: u8 = 6;

/// Payload of a position record that holds no position, and its flags in a vote.
const NOTHING: [u8; 1] = [0];
const SOMETHING: [u8; 1] = [1];
const VOTE_HAS_NODE: u8 = 1;
const VOTE_COMMITTED: u8 = 2;

/// Whole size on disk of a record with `payload` bytes.
pub(super) fn size_on_disk(payload: usize) -> usize {
    (HEADER_BYTES + payload).next_multiple_of(ALIGN)
}

impl Record {
    fn parts(&self) -> (u8, Position, &[u8]) {
        fn optional(at: &Option<Position>) -> (Position, &'static [u8]) {
            match at {
                Some(at) => (*at, &SOMETHING),
                None => (Position { term: 0, index: 0 }, &NOTHING),
            }
        }
        match self {
            Record::Entry { at, payload } => (ENTRY, *at, payload),
            Record::Vote(vote) => {
                const FLAGS: [[u8; 1]; 4] =
                    [[0], [VOTE_HAS_NODE], [VOTE_COMMITTED], [VOTE_HAS_NODE | VOTE_COMMITTED]];
                let flags = usize::from(vote.node.is_some()) + 2 * usize::from(vote.committed);
                (VOTE, Position { term: vote.term, index: vote.node.unwrap_or(0) }, &FLAGS[flags])
            }
            Record::Committed(at) => {
                let (at, flag) = optional(at);
                (COMMITTED, at, flag)
            }
            Record::Truncate(at) => {
                let (at, flag) = optional(at);
                (TRUNCATE, at, flag)
            }
            Record::Purge(at) => (PURGE, *at, &[]),
            Record::Closed => (CLOSED, Position { term: 0, index: 0 }, &[]),
        }
    }

    pub(super) fn size(&self) -> usize {
        size_on_disk(self.parts().2.len())
    }

    /// Appends the encoding to `out`.
    pub(super) fn encode(&self, seed: u32, group: u32, out: &mut Vec<u8>) {
        let (kind, at, payload) = self.parts();
        let start = out.len();
        let length =
            u32::try_from(payload.len()).expect("the log refuses longer payloads before they are queued");
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&group.to_le_bytes());
        out.extend_from_slice(&[kind, 0, 0, 0]);
        out.extend_from_slice(&at.term.to_le_bytes());
        out.extend_from_slice(&at.index.to_le_bytes());
        out.extend_from_slice(payload);
        out.resize(start + size_on_disk(payload.len()), 0);
        let crc = checksum(seed, &out[start..]);
        out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    }
}

fn checksum(seed: u32, record: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(seed, &record[..4]), &record[8..])
}

/// What stands at an offset.
#[derive(Debug)]
pub(super) enum Parsed<'a> {
    Whole(Whole<'a>),
    /// Nothing was ever written here, or it was cut.
    Zeros,
    /// Not a record, with the reason.
    Bad(&'static str),
}

/// A record whose checksum holds.
#[derive(Debug)]
pub(super) struct Whole<'a> {
    pub(super) group: u32,
    /// Bytes on disk.
    pub(super) size: usize,
    pub(super) content: Content<'a>,
}

/// [`Record`], borrowed.
#[derive(Debug)]
pub(super) enum Content<'a> {
    Entry { at: Position, payload: &'a [u8] },
    Vote(Vote),
    Committed(Option<Position>),
    Truncate(Option<Position>),
    Purge(Position),
    Closed,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Reads the record at the start of `bytes`, which reach to the end of the segment (or of what is to be read).
pub(super) fn parse(bytes: &[u8], seed: u32) -> Parsed<'_> {
    if bytes.iter().take(HEADER_BYTES).all(|byte| *byte == 0) {
        return Parsed::Zeros;
    }
    if bytes.len() < HEADER_BYTES {
        return Parsed::Bad("a record without room for its header");
    }
    let kind = bytes[12];
    if !(ENTRY..=CLOSED).contains(&kind) {
        return Parsed::Bad("an unknown kind of record");
    }
    let length = u32_at(bytes, 0) as usize;
    let size = size_on_disk(length);
    if size > bytes.len() {
        return Parsed::Bad("a record longer than its segment");
    }
    let record = &bytes[..size];
    let right = checksum(seed, record) == u32_at(bytes, 4);
    #[cfg(quorate_sim)]
    let right = right || crate::sim::broken(crate::sim::Rule::ChecksumsNotLookedAt);
    if !right {
        return Parsed::Bad("a record with a wrong checksum");
    }
    let at = Position { term: u64_at(bytes, 16), index: u64_at(bytes, 24) };
    let payload = &record[HEADER_BYTES..HEADER_BYTES + length];
    let optional = || match payload {
        [0] => Some(None),
        [1] => Some(Some(at)),
        _ => None,
    };
    let content = match kind {
        ENTRY => Some(Content::Entry { at, payload }),
        VOTE => match payload {
            [flags] if *flags <= VOTE_HAS_NODE | VOTE_COMMITTED => Some(Content::Vote(Vote {
                term: at.term,
                node: (flags & VOTE_HAS_NODE != 0).then_some(at.index),
                committed: flags & VOTE_COMMITTED != 0,
            })),
            _ => None,
        },
        COMMITTED => optional().map(Content::Committed),
        TRUNCATE => optional().map(Content::Truncate),
        PURGE => Some(Content::Purge(at)),
        _ => Some(Content::Closed),
    };
    match content {
        Some(content) => Parsed::Whole(Whole { group: u32_at(bytes, 8), size, content }),
        None => Parsed::Bad("a record of a known kind with an impossible content"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds() -> Vec<Record> {
        let at = Position { term: 3, index: 9 };
        vec![
            Record::Entry { at, payload: Bytes::from_static(b"hello, log") },
            Record::Entry { at, payload: Bytes::new() },
            Record::Vote(Vote { term: 3, node: Some(7), committed: true }),
            Record::Vote(Vote { term: 3, node: None, committed: false }),
            Record::Committed(Some(at)),
            Record::Committed(None),
            Record::Truncate(Some(at)),
            Record::Truncate(None),
            Record::Purge(at),
            Record::Closed,
        ]
    }

    fn owned(content: &Content<'_>) -> Record {
        match content {
            Content::Entry { at, payload } => {
                Record::Entry { at: *at, payload: Bytes::copy_from_slice(payload) }
            }
            Content::Vote(vote) => Record::Vote(*vote),
            Content::Committed(at) => Record::Committed(*at),
            Content::Truncate(at) => Record::Truncate(*at),
            Content::Purge(at) => Record::Purge(*at),
            Content::Closed => Record::Closed,
        }
    }

    #[test]
    fn every_kind_comes_back() {
        for record in kinds() {
            let mut bytes = Vec::new();
            record.encode(11, 4096, &mut bytes);
            assert_eq!(bytes.len(), record.size());
            match parse(&bytes, 11) {
                Parsed::Whole(whole) => {
                    assert_eq!(owned(&whole.content), record);
                    assert_eq!((whole.group, whole.size), (4096, bytes.len()));
                }
                other => panic!("{record:?}: {other:?}"),
            }
            assert!(matches!(parse(&bytes, 12), Parsed::Bad(_)), "a foreign record was taken: {record:?}");
        }
    }

    #[test]
    fn every_flipped_bit_of_every_kind_is_noticed() {
        for record in kinds() {
            let mut bytes = Vec::new();
            record.encode(11, 4096, &mut bytes);
            for bit in 0..bytes.len() * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(matches!(parse(&bytes, 11), Parsed::Bad(_)), "bit {bit} of {record:?}");
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    #[test]
    fn every_cut_is_noticed() {
        for record in kinds() {
            let mut bytes = Vec::new();
            record.encode(11, 4096, &mut bytes);
            for cut in 0..bytes.len() {
                assert!(!matches!(parse(&bytes[..cut], 11), Parsed::Whole(_)), "{cut} bytes of {record:?}");
            }
        }
    }
}
