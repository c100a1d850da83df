//! A snapshot in an operator's hands: the same file as a member's own, made to travel.
//!
//! ```text
//!   ┌ a snapshot file ┐┌ zeros ─────────────────────┐┌ SHA-256 of all before ┐
//!   │ header … trailer ││ up to a multiple of 512    ││ 32 bytes              │
//!   └──────────────────┘└────────────────────────────┘└───────────────────────┘
//! ```
//!
//! The frame is etcd's: its tools take a stream for a snapshot when its size is 32 beyond a multiple of 512, and its clients
//! check the digest. The inside is ours: blocks with checksums, not etcd's B+tree. So `etcdctl snapshot save` saves it, and
//! only `quoratectl` looks into it or restores it.
//!
//! A file is read twice before anything is done with it: once for the digest, once for the blocks. Neither alone says where
//! the damage is and that there is none.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use bytes::Bytes;
use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

use super::{BLOCK_BYTES, Input, Reading, read_header, write_file};
use crate::{Pairs, Position, StorageError};

/// etcd's page: what its tools test the size with.
const PAGE: u64 = 512;
/// Bytes of the digest at the end.
pub const DIGEST_BYTES: usize = SHA256_OUTPUT_LEN;
/// For the operator of a file that cannot be used.
const TAKE_ANOTHER: &str = "take another snapshot, or use an older one";

/// What a backup says about itself, after all of it was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupMeta {
    /// The last position applied to it.
    pub at: Option<Position>,
    /// The membership, encoded by consensus.
    pub membership: Bytes,
    /// Reading inside.
    pub pairs: u64,
    /// Size without the digest, in bytes.
    pub bytes: u64,
    /// Checksum of the snapshot file inside.
    pub crc: u32,
    /// Of everything but itself. Of a file without one: computed.
    pub digest: [u8; DIGEST_BYTES],
}

/// Writes `pairs`, in key order, as a backup without its digest: whoever sends it on computes that on the way. Returns its
/// size in bytes, a multiple of 512. Not synced: it is not kept here.
pub fn write_backup(
    path: &Path,
    at: Option<Position>,
    membership: &[u8],
    pairs: &mut dyn Iterator<Item = Result<(Bytes, Bytes), StorageError>>,
) -> Result<u64, StorageError> {
    let (_, bytes) = write_file(path, at, membership, pairs, false)?;
    let padding = (PAGE - bytes % PAGE) % PAGE;
    let mut file = OpenOptions::new().append(true).open(path).map_err(StorageError::io("opening", path))?;
    file.write_all(&vec![0; padding as usize]).map_err(StorageError::io("writing", path))?;
    Ok(bytes + padding)
}

/// Verifies a backup to its last byte. `digest`: the file must end with a right one; without that only the checksums inside
/// count, as for a file that was cut out of somewhere.
pub fn verify_backup(path: &Path, digest: bool) -> Result<BackupMeta, StorageError> {
    verify(path, digest).map_err(in_operators_words)
}

/// The pairs of a backup, streamed. Verify it first.
pub fn read_backup(path: &Path, digest: bool) -> Result<Pairs, StorageError> {
    let mut input = Input::open(path).map_err(in_operators_words)?;
    input.length = content(path, input.length, digest).map_err(in_operators_words)?;
    read_header(&mut input).map_err(in_operators_words)?;
    Ok(Box::new(Reading::new(input, true).map(|pair| pair.map_err(in_operators_words))))
}

/// The size without the digest.
fn content(path: &Path, length: u64, digest: bool) -> Result<u64, StorageError> {
    match (digest, length % PAGE) {
        (_, rest) if rest == DIGEST_BYTES as u64 && length > rest => Ok(length - rest),
        (false, 0) if length > 0 => Ok(length),
        _ => Err(StorageError::damaged(
            path,
            length,
            "not a whole snapshot: its size must be a multiple of 512 bytes and the 32 bytes of its digest",
        )),
    }
}

fn verify(path: &Path, digest: bool) -> Result<BackupMeta, StorageError> {
    let mut input = Input::open(path)?;
    let whole = input.length;
    input.length = content(path, whole, digest)?;
    let bytes = input.length;
    let (computed, found) = sum(path, bytes)?;
    if digest && found != computed {
        return Err(StorageError::damaged(path, bytes, "the SHA-256 digest of the file is wrong"));
    }
    let (at, membership) = read_header(&mut input)?;
    let mut reading = Reading::new(input, true);
    for pair in reading.by_ref() {
        pair?;
    }
    Ok(BackupMeta { at, membership, pairs: reading.pairs, bytes, crc: reading.sum, digest: computed })
}

/// The digest of the first `bytes`, and what stands behind them (zeros if nothing does).
fn sum(path: &Path, bytes: u64) -> Result<([u8; DIGEST_BYTES], [u8; DIGEST_BYTES]), StorageError> {
    let mut file = File::open(path).map_err(StorageError::io("opening", path))?;
    let mut context = Context::new(&SHA256);
    let mut block = vec![0; BLOCK_BYTES];
    let mut left = bytes;
    while left > 0 {
        let count = left.min(BLOCK_BYTES as u64) as usize;
        file.read_exact(&mut block[..count]).map_err(StorageError::io("reading", path))?;
        context.update(&block[..count]);
        left -= count as u64;
    }
    let mut found = [0; DIGEST_BYTES];
    let mut rest = Vec::new();
    file.read_to_end(&mut rest).map_err(StorageError::io("reading", path))?;
    if rest.len() == DIGEST_BYTES {
        found.copy_from_slice(&rest);
    }
    let computed = context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes");
    Ok((computed, found))
}

/// A member's remedies are not those of somebody who holds a file.
fn in_operators_words(error: StorageError) -> StorageError {
    match error {
        StorageError::Damaged { path, offset, what, .. } => {
            StorageError::Damaged { path, offset, what, remedy: TAKE_ANOTHER }
        }
        other => other,
    }
}
