//! The hash that members compare to find out that they hold the same keys.
//!
//! It covers what answers can show: every version up to a revision, except those that the logical compaction hides. It is
//! taken over fields with explicit lengths, in (key, revision) order, not over stored bytes: neither a change of the
//! stored encoding nor the progress of physical compaction shows in it. It is not etcd's number, and need not be: tools
//! check that members agree.

use crate::key_range::KeyRange;
use crate::record::Version;
use crate::revision::{self, check_readable};
use crate::{Fault, KeyValue, Rejection, Revision, View, keys};

/// A hash and what it depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvHash {
    /// CRC-32C.
    pub hash: u32,
    /// Two hashes are comparable if this is equal …
    pub compact_revision: Revision,
    /// … and this.
    pub hash_revision: Revision,
}

/// The hash at `at` (0: now). Reads everything: a maintenance call.
pub fn hash_kv(view: &dyn View, at: Revision) -> Result<Result<KvHash, Rejection>, Fault> {
    let current = revision::revision(view)?;
    let compacted = revision::compacted(view)?;
    if let Err(rejection) = check_readable(at, current, compacted) {
        return Ok(Err(rejection));
    }
    let at = if at <= 0 { current } else { at };
    let mut hash = Hash { crc: 0 };
    // Of each key the newest version at or before the compaction: it counts only if it is what a read there shows.
    let mut hidden_unless_last: Option<(bytes::Bytes, Version)> = None;
    for pair in KeyRange::new(b"\0", b"\0").version_pairs(view) {
        let (stored, value) = pair?;
        let (shared, main) = keys::version_parts(&stored)?;
        let version = Version::decode(main, &value)?;
        let superseded = main <= compacted
            && hidden_unless_last.as_ref().is_some_and(|(older, _)| older.as_ref() == shared);
        if let Some((_, older)) = hidden_unless_last.take()
            && !superseded
        {
            hash.version(view, older)?;
        }
        if main > at {
            continue;
        }
        if main > compacted {
            hash.version(view, version)?;
        } else if !version.tombstone {
            hidden_unless_last = Some((stored.slice(..shared.len()), version));
        }
    }
    if let Some((_, older)) = hidden_unless_last {
        hash.version(view, older)?;
    }
    Ok(Ok(KvHash { hash: hash.crc, compact_revision: compacted, hash_revision: at }))
}

struct Hash {
    crc: u32,
}

impl Hash {
    fn version(&mut self, view: &dyn View, version: Version) -> Result<(), Fault> {
        let KeyValue { key, create_revision, mod_revision, version: number, value, lease } =
            version.event(view)?.kv;
        self.number(version.sub.into());
        self.bytes(&key);
        self.number(create_revision);
        self.number(mod_revision);
        self.number(number);
        self.bytes(&value);
        self.number(lease);
        Ok(())
    }

    fn number(&mut self, number: i64) {
        self.crc = crc32c::crc32c_append(self.crc, &number.to_be_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(i64::try_from(bytes.len()).expect("a length of something in memory"));
        self.crc = crc32c::crc32c_append(self.crc, bytes);
    }
}
