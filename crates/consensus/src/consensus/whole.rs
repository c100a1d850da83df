//! Is the log whole, as far as what stands beside it tells?
//!
//! ```text
//!   log        ░░░░░░░░│■■■■■■■■■■■■■■■■■■■■■■│         purged up to here, and entries
//!   snapshot   ████████████                             at or behind where the log begins
//!   database   ████████████████████                     never beyond the end of the log …
//!   database   ██████████████████████████████████       … unless a snapshot brought it there
//! ```
//!
//! The log finds a hole in itself, and damage. It cannot find that its newest segment is gone, or all of them: what is left is a
//! shorter log, or a new one. The member would come back without entries that it had acknowledged, and without its vote, which
//! it could give a second time in the same term. The database knows better: it is flushed when the log is on disk
//! (`quorate_storage::SledEngine::follow`), and thrown away after a power cut. openraft would take such a log for one that was
//! purged, and go on.

use std::path::Path;

use prost::Message as _;
use quorate_state::{View, keys};
use quorate_storage::{Log, Position, Snapshots, StorageError};
use quorate_wire::raft as wire;

/// # Errors
/// Entries are missing at the end of the log: the member has to be replaced.
pub(super) fn check(
    dir: &Path,
    log: &Log,
    database: &impl View,
    snapshots: &Snapshots,
) -> Result<(), StorageError> {
    let applied = applied(dir, database)?;
    let lost = |what: String| Err(StorageError::damaged(&dir.join("log"), 0, what));
    if log.is_new() {
        return match applied {
            Some(at) => {
                lost(format!("there is no log, and the database holds entries up to index {}", at.index))
            }
            None if snapshots.newest()?.is_some() => lost("there is no log beside the snapshots".to_owned()),
            None => Ok(()),
        };
    }
    let (end, applied) = (log.last().map_or(0, |at| at.index), applied.map_or(0, |at| at.index));
    if applied <= end {
        return Ok(());
    }
    // Killed between the installation of a snapshot and the purge of the log: the snapshot is on disk.
    let held = snapshots.usable(log.purged())?.and_then(|(meta, _)| meta.at).map_or(0, |at| at.index);
    if applied <= held {
        return Ok(());
    }
    lost(format!("the log ends at index {end}, and the database holds entries up to index {applied}"))
}

fn applied(dir: &Path, database: &impl View) -> Result<Option<Position>, StorageError> {
    let failed = |source| StorageError::Engine { path: dir.join("db"), source };
    let bytes = database.get(&keys::applied()).map_err(|error| failed(error.0))?;
    let position = bytes.map(wire::Position::decode).transpose().map_err(|error| failed(error.into()))?;
    Ok(position.map(|at| Position { term: at.term, index: at.index }))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use quorate_state::{Batch, Op};
    use quorate_storage::{Engine as _, Entry, LogOptions, MemoryEngine};

    use super::*;

    /// A log to this index, a database to that one, a snapshot; None: there is none.
    fn judged(log: Option<u64>, database: Option<u64>, snapshot: Option<u64>) -> Result<(), String> {
        let dir = tempfile::tempdir().unwrap();
        let at = |index| Position { term: 1, index };
        let snapshots = Snapshots::open(&dir.path().join("snapshots")).unwrap();
        let held = Log::open(&dir.path().join("log"), LogOptions::default()).unwrap();
        if let Some(end) = log {
            held.purge(at(1), Box::new(|done| done.unwrap()));
            let entries = (2..=end).map(|index| Entry { at: at(index), payload: "x".into() });
            held.append(entries.collect(), Box::new(|done| done.unwrap()));
        }
        held.close(Duration::from_secs(60)).unwrap();
        drop(held);
        if let Some(index) = snapshot {
            snapshots.write(Some(at(index)), "".into(), &mut std::iter::empty()).unwrap();
        }
        let engine = MemoryEngine::new();
        if let Some(index) = database {
            let value = wire::Position { term: 1, index }.encode_to_vec().into();
            engine.write(&Batch { ops: vec![Op::Put { key: keys::applied(), value }] }).unwrap();
        }
        if log.is_none() {
            std::fs::remove_dir_all(dir.path().join("log")).unwrap();
        }
        let held = Log::open(&dir.path().join("log"), LogOptions::default()).unwrap();
        check(dir.path(), &held, &engine, &snapshots).map_err(|error| error.to_string())
    }

    #[test]
    fn a_log_that_lost_its_end_is_known_by_what_stands_beside_it() {
        for (log, database, snapshot) in [
            (None, None, None),
            (Some(9), None, Some(1)),
            (Some(9), Some(7), Some(5)),
            (Some(9), Some(9), Some(9)),
            // Killed after the installation of a snapshot.
            (Some(9), Some(20), Some(20)),
            (Some(9), Some(7), Some(20)),
        ] {
            assert_eq!(judged(log, database, snapshot), Ok(()), "{log:?} {database:?} {snapshot:?}");
        }
        for (log, database, snapshot, why) in [
            (Some(9), Some(10), Some(5), "ends at index 9, and the database holds entries up to index 10"),
            (Some(9), Some(20), Some(19), "up to index 20"),
            (None, Some(3), None, "there is no log, and the database holds entries up to index 3"),
            (None, Some(3), Some(3), "there is no log"),
            (None, None, Some(3), "there is no log beside the snapshots"),
        ] {
            let refused = judged(log, database, snapshot).unwrap_err();
            assert!(refused.contains(why), "{refused}");
            assert!(refused.contains("start this member with an empty data directory"), "{refused}");
        }
    }
}
