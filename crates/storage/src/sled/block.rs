//! A block: neighbouring pairs in one value of the database.
//!
//! ```text
//!   per pair:  shared  unshared  length  (varints)   unshared bytes of the key   value
//! ```
//!
//! `shared` is what the key has in common with the one before it in the block, so that the many versions of one key cost a
//! few bytes each. A block is read from its beginning; at [`BLOCK_BYTES`] that is a microsecond.

use std::ops::Range;

use bytes::Bytes;

/// A block is split above this, into parts of about equal size. sled keeps up to 16 values on one page and writes a page
/// above 128 KiB into a file of its own, which it never syncs.
pub(super) const BLOCK_BYTES: usize = 4 << 10;

/// Damage inside a block: only a bug of sled or of ours can bring it about.
#[derive(Debug, thiserror::Error)]
#[error("a block of the database is malformed")]
pub(super) struct Malformed;

/// Pairs in the making, in key order, and the size they will have.
#[derive(Debug, Default)]
pub(super) struct Builder<'v> {
    /// All keys, one after the other.
    keys: Vec<u8>,
    pairs: Vec<Pair<'v>>,
    bytes: usize,
}

#[derive(Debug)]
struct Pair<'v> {
    key: Range<usize>,
    value: &'v [u8],
    size: usize,
}

impl<'v> Builder<'v> {
    pub(super) fn push(&mut self, key: &[u8], value: &'v [u8]) {
        let shared = self.pairs.last().map_or(0, |last| shared(&self.keys[last.key.clone()], key));
        let size = size(shared, key.len() - shared, value.len());
        let start = self.keys.len();
        self.keys.extend_from_slice(key);
        self.pairs.push(Pair { key: start..self.keys.len(), value, size });
        self.bytes += size;
    }

    /// The blocks, each with the key of its first pair.
    pub(super) fn blocks(self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let parts = if self.bytes <= BLOCK_BYTES { 1 } else { self.bytes.div_ceil(BLOCK_BYTES * 3 / 4) };
        let part = self.bytes.div_ceil(parts);
        let mut blocks: Vec<(Vec<u8>, Vec<u8>)> = Vec::with_capacity(parts);
        let mut last: &[u8] = &[];
        for Pair { key, value, size } in self.pairs {
            let key = &self.keys[key];
            let fits = blocks
                .last()
                .is_some_and(|(_, block)| block.len() < part && block.len() + size <= BLOCK_BYTES);
            if !fits {
                blocks.push((key.to_vec(), Vec::with_capacity(part.max(size) + 64)));
                last = &[];
            }
            let (_, block) = blocks.last_mut().expect("one was pushed if there was none");
            let shared = shared(last, key);
            varint(block, shared);
            varint(block, key.len() - shared);
            varint(block, value.len());
            block.extend_from_slice(&key[shared..]);
            block.extend_from_slice(value);
            last = key;
        }
        blocks
    }
}

fn shared(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

fn size(shared: usize, unshared: usize, value: usize) -> usize {
    varint_size(shared) + varint_size(unshared) + varint_size(value) + unshared + value
}

fn varint_size(number: usize) -> usize {
    (usize::BITS - (number | 1).leading_zeros()).div_ceil(7) as usize
}

fn varint(out: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Walks through a block. The key is rebuilt in one buffer: who wants to keep it copies it.
pub(super) struct Pairs<'b> {
    rest: &'b [u8],
    key: Vec<u8>,
}

impl<'b> Pairs<'b> {
    pub(super) fn new(block: &'b [u8]) -> Pairs<'b> {
        Pairs { rest: block, key: Vec::new() }
    }

    /// The next value; its key is in [`Pairs::key`].
    pub(super) fn next(&mut self) -> Result<Option<&'b [u8]>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (shared, unshared, length) = (self.number()?, self.number()?, self.number()?);
        if shared > self.key.len() || unshared.saturating_add(length) > self.rest.len() {
            return Err(Malformed);
        }
        self.key.truncate(shared);
        let (unshared, rest) = self.rest.split_at(unshared);
        self.key.extend_from_slice(unshared);
        let (value, rest) = rest.split_at(length);
        self.rest = rest;
        Ok(Some(value))
    }

    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }

    fn number(&mut self) -> Result<usize, Malformed> {
        let mut number = 0;
        for (nth, byte) in self.rest.iter().enumerate().take(9) {
            number |= usize::from(byte & 0x7F) << (7 * nth);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[nth + 1..];
                return Ok(number);
            }
        }
        Err(Malformed)
    }
}

/// The value of `key` in `block`.
pub(super) fn find<'b>(block: &'b [u8], key: &[u8]) -> Result<Option<&'b [u8]>, Malformed> {
    let mut pairs = Pairs::new(block);
    while let Some(value) = pairs.next()? {
        match pairs.key().cmp(key) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => return Ok(Some(value)),
            std::cmp::Ordering::Greater => break,
        }
    }
    Ok(None)
}

/// All pairs of `block` in `start <= key < end` (an empty `end` is no bound).
pub(super) fn within(block: &[u8], start: &[u8], end: &[u8]) -> Result<Vec<(Bytes, Bytes)>, Malformed> {
    let mut found = Vec::new();
    let mut pairs = Pairs::new(block);
    while let Some(value) = pairs.next()? {
        if !end.is_empty() && pairs.key() >= end {
            break;
        }
        if pairs.key() >= start {
            found.push((Bytes::copy_from_slice(pairs.key()), Bytes::copy_from_slice(value)));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(count: u32, value: usize) -> Vec<(Bytes, Bytes)> {
        let pair = |n: u32| (Bytes::from(format!("key/{n:06}")), Bytes::from(vec![n as u8; value]));
        (0..count).map(pair).collect()
    }

    #[test]
    fn what_goes_in_comes_out_in_parts_of_equal_size() {
        for (count, value, parts) in
            [(0, 0, 0), (1, 0, 1), (3, 200, 1), (100, 256, 9), (3, 3 * BLOCK_BYTES, 3)]
        {
            let pairs = pairs(count, value);
            let mut builder = Builder::default();
            for (key, value) in &pairs {
                builder.push(key, value);
            }
            let blocks = builder.blocks();
            assert_eq!(blocks.len(), parts, "{count} of {value} bytes");
            let mut found = Vec::new();
            for (key, block) in &blocks {
                let inside = within(block, b"", b"").unwrap();
                assert_eq!(inside[0].0, &key[..]);
                assert!(inside.len() == 1 || block.len() <= BLOCK_BYTES);
                found.extend(inside);
            }
            assert_eq!(found, pairs);
        }
    }

    #[test]
    fn a_key_is_found_or_not() {
        let pairs = pairs(20, 10);
        let mut builder = Builder::default();
        for (key, value) in &pairs {
            builder.push(key, value);
        }
        let (_, block) = builder.blocks().remove(0);
        assert_eq!(find(&block, b"key/000007").unwrap(), Some(&[7; 10][..]));
        for absent in ["", "key/", "key/0000070", "key/000099"] {
            assert_eq!(find(&block, absent.as_bytes()).unwrap(), None, "{absent}");
        }
        assert_eq!(within(&block, b"key/000003", b"key/000005").unwrap().len(), 2);
    }

    #[test]
    fn damage_is_an_error_not_a_panic() {
        let pairs = pairs(20, 10);
        let mut builder = Builder::default();
        for (key, value) in &pairs {
            builder.push(key, value);
        }
        let (_, block) = builder.blocks().remove(0);
        for cut in 1..block.len() {
            // A cut at the end of a pair cannot be seen; everything else must be.
            let _ = within(&block[..cut], b"", b"");
            let mut damaged = block.clone();
            damaged[cut] ^= 0xFF;
            let _ = within(&damaged, b"", b"");
        }
        assert!(within(&[5, 1, 1, b'a'], b"", b"").is_err(), "nothing to share with");
        assert!(within(&[0x80; 12], b"", b"").is_err(), "a number without an end");
    }
}
