//! Segments that nobody wrote. Once as they are, where checksums stop nearly all of them, and once with the checksums of their
//! records made right: whatever then stands in a record must be refused in a sentence or make sense.
//!
//! A seed is what follows a segment's header.

use super::record::{ALIGN, HEADER_BYTES as RECORD_BYTES};
use super::segment::{HEADER_BYTES, Header, Segment, Standing, path_of};
use super::*;

/// A small segment.
const CAPACITY: usize = 16 << 10;

fn segment(body: &[u8]) -> Vec<u8> {
    let header = Header {
        uuid: [5; 16],
        number: 1,
        capacity: CAPACITY as u64,
        previous_end: 0,
        standing: Standing::default(),
    };
    let mut bytes = header.encode();
    bytes.extend_from_slice(&body[..body.len().min(CAPACITY - bytes.len())]);
    bytes.resize(CAPACITY, 0);
    bytes
}

/// Gives every record the checksum that it asks for, and kinds and groups that get it further.
fn summed(mut bytes: Vec<u8>, seed: u32) -> Vec<u8> {
    let mut at = HEADER_BYTES as usize;
    while at + RECORD_BYTES <= bytes.len() && bytes[at..at + RECORD_BYTES].iter().any(|byte| *byte != 0) {
        let length = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize % 512;
        let end = at + record::size_on_disk(length);
        if end > bytes.len() {
            break;
        }
        bytes[at..at + 4].copy_from_slice(&(length as u32).to_le_bytes());
        bytes[at + 12] = 1 + bytes[at + 12] % 6;
        let crc = crc32c::crc32c_append(crc32c::crc32c_append(seed, &bytes[at..at + 4]), &bytes[at + 8..end]);
        bytes[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
        assert!(end.is_multiple_of(ALIGN));
        at = end;
    }
    bytes
}

#[test]
fn segments() {
    let dir = tempfile::tempdir().unwrap();
    let path = path_of(dir.path(), 1);
    quorate_fuzz::fuzz(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/segment"), |input| {
        let plain = segment(input);
        std::fs::write(&path, &plain).unwrap();
        let seed = Segment::open(&path, 1).unwrap().0.seed;
        for bytes in [plain.clone(), summed(plain, seed)] {
            std::fs::write(&path, &bytes).unwrap();
            let Ok(found) = recovery::recover(dir.path(), 1 << 20) else {
                assert_eq!(
                    std::fs::read(&path).unwrap(),
                    bytes,
                    "a log that refuses to start is left as it was"
                );
                continue;
            };
            let standing = found.tail.standing;
            assert!(found.tail.end >= HEADER_BYTES && found.tail.end <= CAPACITY as u64);
            // What was cut is cut for good, and a second look finds the same.
            let again = recovery::recover(dir.path(), 1 << 20).unwrap();
            assert_eq!((again.tail.standing, again.tail.end), (standing, found.tail.end));
        }
    });
}
