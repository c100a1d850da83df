//! What PostgreSQL's directory holds, in versions that PostgreSQL never wrote.

use std::path::Path;

use crate::control_file::{CRC_AT, ControlFile};
use crate::standby::upstream_of;

#[test]
fn control_file() {
    quorate_fuzz::fuzz(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/control_file"), |input| {
        let path = Path::new("pg_control");
        let _ = ControlFile::parse(input, path);
        // And with the checksum made right, which is as far as most mutations get.
        if input.len() < CRC_AT + 4 {
            return;
        }
        let mut summed = input.to_vec();
        let crc = crc32c::crc32c(&summed[..CRC_AT]);
        summed[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        if let Ok(found) = ControlFile::parse(&summed, path) {
            let _ = found.wal_end();
        }
    });
}

#[test]
fn conninfo() {
    quorate_fuzz::fuzz(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/conninfo"), |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        if let Some(upstream) = upstream_of(text) {
            assert!(!upstream.host.is_empty());
        }
    });
}
