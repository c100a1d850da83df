//! Where the store stands: its revision and its logical compaction. Both live in the meta space, eight bytes big-endian;
//! what is absent has its initial value (revision 1, compacted 0), so an empty byte map is a valid empty store.

use bytes::Bytes;

use crate::{Fault, Rejection, Revision, View, keys};

/// The revision of a store that never changed; the first change is 2 (etcd's rule).
pub const INITIAL_REVISION: Revision = 1;

/// The store's revision.
pub fn revision(view: &dyn View) -> Result<Revision, Fault> {
    load(view, &keys::revision(), INITIAL_REVISION)
}

/// The oldest revision that is still readable; 0 if nothing was compacted.
pub fn compacted(view: &dyn View) -> Result<Revision, Fault> {
    load(view, &keys::compacted(), 0)
}

pub(crate) fn load(view: &dyn View, key: &[u8], initial: Revision) -> Result<Revision, Fault> {
    match view.get(key)? {
        Some(bytes) => {
            let bytes = bytes.as_ref().try_into().map_err(|_| Fault::shape("revision"))?;
            Ok(Revision::from_be_bytes(bytes))
        }
        None => Ok(initial),
    }
}

pub(crate) fn encode(revision: Revision) -> Bytes {
    Bytes::copy_from_slice(&revision.to_be_bytes())
}

/// Refuses to read at `asked` (0 or below: now). The compacted revision itself is readable.
pub(crate) fn check_readable(
    asked: Revision,
    current: Revision,
    compacted: Revision,
) -> Result<(), Rejection> {
    if asked <= 0 {
        Ok(())
    } else if asked > current {
        Err(Rejection::FutureRevision)
    } else if asked < compacted {
        Err(Rejection::Compacted)
    } else {
        Ok(())
    }
}
