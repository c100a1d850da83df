//! Snapshot files that nobody wrote. A peer sends such files too, so their lengths are not believed before they are checked.

use super::*;

/// Makes the checksums of header, blocks and trailer right, as far as `bytes` have such parts.
fn summed(mut bytes: Vec<u8>) -> Vec<u8> {
    let set = |bytes: &mut [u8], at: usize, crc: u32| bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    if bytes.len() < 40 {
        return bytes;
    }
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    let membership = u32_at(&bytes, 32) as usize % 64;
    bytes[32..36].copy_from_slice(&(membership as u32).to_le_bytes());
    let mut at = 36 + membership;
    if at + 4 > bytes.len() {
        return bytes;
    }
    let crc = crc32c::crc32c(&bytes[..at]);
    set(&mut bytes, at, crc);
    at += 4;
    let mut number = 0;
    while at + 8 <= bytes.len() {
        let length = u32_at(&bytes, at) as usize;
        if length == 0 || at + 8 + length > bytes.len() {
            break;
        }
        let crc = block_crc(number, &bytes[at + 8..at + 8 + length]);
        set(&mut bytes, at + 4, crc);
        at += 8 + length;
        number += 1;
    }
    if at + 20 <= bytes.len() {
        bytes.truncate(at + 20);
        bytes[at..at + 4].fill(0);
        let crc = crc32c::crc32c(&bytes[..at]);
        set(&mut bytes, at + 12, crc);
        let crc = crc32c::crc32c(&bytes[at..at + 16]);
        set(&mut bytes, at + 16, crc);
    }
    bytes
}

#[test]
fn snapshots() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(dir.path()).unwrap();
    let path = dir.path().join(name_of(Some(Position { term: 3, index: 8 })));
    quorate_fuzz::fuzz(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/snapshot"), |input| {
        for bytes in [input.to_vec(), summed(input.to_vec())] {
            std::fs::write(&path, &bytes).unwrap();
            let whole = verify(&path);
            let read = snapshots.read(&path).and_then(|pairs| pairs.collect::<Result<Vec<_>, _>>());
            // What passes as a whole can be read, and the other way round.
            assert_eq!(whole.is_ok(), read.is_ok(), "{whole:?}, {read:?}");
            if let (Ok(meta), Ok(pairs)) = (whole, read) {
                assert_eq!(meta.pairs, pairs.len() as u64);
            }
        }
    });
}
