//! How versions of keys are stored and found.
//!
//! The bytes of an event are one kind byte and the encoded [`KeyValue`]; the latest record is the same bytes without the
//! kind, so that a put encodes once. The version index holds the event's sub-revision and whether it is a tombstone: a
//! count, a compaction or a hash then finds out what is live without loading values.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use crate::{Direction, Event, Fault, KeyValue, Revision, View, keys};

const PUT: u8 = 0;
const TOMBSTONE: u8 = 1;

/// The encoded event; `[1..]` is the latest record.
pub(crate) fn encode_event(kv: &KeyValue, tombstone: bool) -> Bytes {
    let mut bytes = BytesMut::with_capacity(1 + kv.encoded_len());
    bytes.put_u8(if tombstone { TOMBSTONE } else { PUT });
    kv.encode_raw(&mut bytes);
    bytes.freeze()
}

pub(crate) fn decode_latest(bytes: Bytes) -> Result<KeyValue, Fault> {
    KeyValue::decode(bytes).map_err(|error| Fault::Undecodable { what: "latest record", source: Some(error) })
}

/// Without `prev_kv`.
pub(crate) fn decode_event(sub: u32, bytes: Bytes) -> Result<Event, Fault> {
    let delete = match bytes.first() {
        Some(&PUT) => false,
        Some(&TOMBSTONE) => true,
        _ => return Err(Fault::shape("event")),
    };
    let kv = KeyValue::decode(bytes.slice(1..))
        .map_err(|error| Fault::Undecodable { what: "event", source: Some(error) })?;
    Ok(Event { delete, kv, prev_kv: None, sub })
}

/// What the version index says about one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) main: Revision,
    pub(crate) sub: u32,
    pub(crate) tombstone: bool,
}

impl Version {
    pub(crate) fn encode(self) -> Bytes {
        let [a, b, c, d] = self.sub.to_be_bytes();
        Bytes::copy_from_slice(&[a, b, c, d, if self.tombstone { TOMBSTONE } else { PUT }])
    }

    pub(crate) fn decode(main: Revision, bytes: &[u8]) -> Result<Version, Fault> {
        let (sub, kind) = bytes.split_first_chunk::<4>().ok_or(Fault::shape("version"))?;
        let tombstone = match kind {
            [PUT] => false,
            [TOMBSTONE] => true,
            _ => return Err(Fault::shape("version")),
        };
        Ok(Version { main, sub: u32::from_be_bytes(*sub), tombstone })
    }

    /// The event this version came with.
    pub(crate) fn event(self, view: &dyn View) -> Result<Event, Fault> {
        let bytes = view.get(&keys::event(self.main, self.sub))?;
        decode_event(self.sub, bytes.ok_or(Fault::Inconsistent { what: "a version without its event" })?)
    }
}

pub(crate) fn latest(view: &dyn View, key: &[u8]) -> Result<Option<KeyValue>, Fault> {
    view.get(&keys::latest(key))?.map(decode_latest).transpose()
}

/// The newest version of `key` at or before `main`, tombstones included: one step of a backward scan.
pub(crate) fn version_at(view: &dyn View, key: &[u8], main: Revision) -> Result<Option<Version>, Fault> {
    let start = keys::version_of(key);
    let end = keys::version(key, main.saturating_add(1));
    let Some(newest) = view.scan(&start, &end, Direction::Backward).next() else { return Ok(None) };
    let (stored, value) = newest?;
    let (_, main) = keys::version_parts(&stored)?;
    Version::decode(main, &value).map(Some)
}
