//! Compaction, in two halves.
//!
//! Logical, replicated, at once: the compacted revision moves, and every answer is given by it alone. Physical, local, in
//! slices: versions that no answer can show any more are removed between applied chunks, so that a large compaction never
//! stalls the apply thread. Members may stand at different places of it.
//!
//! After compaction at C a version (key, m) goes if m < C and it is a tombstone or a later version of the key exists at or
//! before C. What is left at or below C is what a read at C shows, and every event of C itself: watching from C is
//! allowed, so a deletion at C stays until the next compaction (etcd lost such events: etcd-io/etcd#19179).
//!
//! ```text
//!  key a    put 2      put 5      delete 7               compact 7:   2 and 5 go, the delete stays (an event of 7)
//!  key b    put 3                           put 9                     both stay: 3 is what a read at 7 shows
//!  key c    put 4      delete 6                                       both go
//! ```
//!
//! Versions of one key go oldest first, so a tombstone never disappears before what it hides. A pass decides by the
//! compacted revision it began with; if that has moved meanwhile, the next pass follows at once.

use bytes::Bytes;

use crate::apply::Outcome;
use crate::change::Change;
use crate::record::Version;
use crate::revision::{self, compacted, load};
use crate::{Batch, Compact, Direction, Done, Fault, Rejection, ReplyBody, Revision, View, alarm, keys};

pub(crate) fn apply(change: &mut Change<'_>, compact: &Compact) -> Outcome {
    if let Err(rejection) = alarm::check_write(change) {
        return Ok(Err(rejection));
    }
    if compact.revision <= change.compacted {
        return Ok(Err(Rejection::Compacted));
    }
    if compact.revision > change.revision {
        return Ok(Err(Rejection::FutureRevision));
    }
    change.compacted = compact.revision;
    change.view.put(keys::compacted(), revision::encode(compact.revision));
    Ok(Ok(ReplyBody::Done(Done {})))
}

/// Where a physical pass stands. Not persisted: after a restart a pass begins anew and finds less to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// What the pass decides by.
    compacted: Revision,
    /// The first version that is not decided yet.
    next: Bytes,
}

/// One slice of physical compaction: looks at no more than `max_versions` (at least 2) of the version index, from `cursor`
/// on (None: a new pass), and returns what to remove. The caller writes the batch before it applies the next chunk and calls
/// again while there is a cursor. Costs two reads when there is nothing to do.
pub fn compact_slice(
    view: &dyn View,
    cursor: Option<Cursor>,
    max_versions: usize,
) -> Result<(Batch, Option<Cursor>), Fault> {
    let mut batch = Batch::default();
    let current = compacted(view)?;
    let begin = Cursor { compacted: current, next: keys::version_start() };
    let cursor = match cursor {
        Some(cursor) => cursor,
        None if load(view, &keys::removed(), 0)? >= current => return Ok((batch, None)),
        None => begin.clone(),
    };
    // Decided when its successor is known.
    let mut undecided: Option<(Bytes, Version)> = None;
    let mut looked_at = 0;
    for pair in view.scan(&cursor.next, &keys::version_end(), Direction::Forward) {
        let (stored, value) = pair?;
        let (shared, main) = keys::version_parts(&stored)?;
        let version = Version::decode(main, &value)?;
        if let Some((older, at)) = undecided.take() {
            let superseded = keys::version_parts(&older)?.0 == shared && main <= cursor.compacted;
            remove_if_dead(&mut batch, older, at, superseded, cursor.compacted);
        }
        looked_at += 1;
        if looked_at >= max_versions.max(2) {
            return Ok((batch, Some(Cursor { compacted: cursor.compacted, next: stored })));
        }
        undecided = Some((stored, version));
    }
    if let Some((last, at)) = undecided {
        remove_if_dead(&mut batch, last, at, false, cursor.compacted);
    }
    batch.put(keys::removed(), revision::encode(cursor.compacted));
    let again = if current > cursor.compacted { Some(begin) } else { None };
    Ok((batch, again))
}

fn remove_if_dead(batch: &mut Batch, stored: Bytes, version: Version, superseded: bool, compacted: Revision) {
    if version.main < compacted && (superseded || version.tombstone) {
        batch.delete(stored);
        batch.delete(keys::event(version.main, version.sub));
    }
}
