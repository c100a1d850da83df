//! `REDO` files that nobody wrote: refused, or a list of changes.

use super::redo;

#[test]
fn redo() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("REDO");
    quorate_fuzz::fuzz(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/redo"), |input| {
        // Once as it is, once with the right checksum behind it.
        std::fs::write(&path, input).unwrap();
        let _ = redo::read(dir.path());
        let mut summed = input.to_vec();
        summed.extend_from_slice(&crc32c::crc32c(input).to_le_bytes());
        std::fs::write(&path, &summed).unwrap();
        if let Ok(Some(changes)) = redo::read(dir.path()) {
            let bytes: usize = changes
                .iter()
                .map(|(key, value)| key.len() + value.as_ref().map_or(0, bytes::Bytes::len))
                .sum();
            assert!(bytes <= input.len(), "more came out than went in");
        }
    });
}
