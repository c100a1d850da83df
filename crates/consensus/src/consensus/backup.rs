//! Snapshots for operators: out of a running member, and into the directory of a new cluster's.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use quorate_state::keys;
use quorate_storage::{Log, LogOptions, Position, Snapshots, StorageError, write_backup};

use super::{Consensus, Store};
use crate::convert;
use crate::types::{Membership, Node, StoredMembership};

/// Where a restored cluster begins: behind what a cluster that forms itself writes first, before any term.
const BEGINNING: Position = Position { term: 0, index: 1 };

impl Consensus {
    /// Writes the state as of now to `path`, as a backup without its digest; applying goes on meanwhile. Returns its size in
    /// bytes. None when this member has stopped. [`StorageError::Thawed`]: too much was overwritten meanwhile, try again.
    pub fn back_up(&self, path: &Path) -> Option<Result<u64, StorageError>> {
        let engine = self.engine()?;
        let state = self.inner.shared.state.lock();
        // For whoever looks into the file; what counts is in the pairs, which are of one instant by themselves.
        let at = state.applied.map(convert::position);
        let membership = convert::stored_membership_to_bytes(&state.membership);
        drop(state);
        Some(engine.freeze().and_then(|mut pairs| write_backup(path, at, &membership, &mut pairs)))
    }
}

impl Store {
    /// Makes `dir` the store of a member of a new cluster, whose voters are `members`, with `pairs` as its state. What speaks of
    /// the old cluster's members is left out. `dir` must be empty or absent.
    pub fn found(
        dir: &Path,
        members: BTreeMap<u64, Node>,
        pairs: &mut dyn Iterator<Item = Result<(Bytes, Bytes), StorageError>>,
    ) -> Result<(), StorageError> {
        let voters = members.keys().copied().collect();
        let membership = Membership::new(vec![voters], members).expect("every voter has its node");
        let at = Some(convert::log_id(BEGINNING));
        let membership = convert::stored_membership_to_bytes(&StoredMembership::new(at, membership));
        let snapshots = Snapshots::open(&dir.join("snapshots"))?;
        let mut kept = pairs.filter(|pair| !pair.as_ref().is_ok_and(|(key, _)| keys::speaks_of_members(key)));
        snapshots.write(Some(BEGINNING), membership, &mut kept)?;
        // Made here so that what can fail fails here. The first start purges it up to the snapshot.
        let log = Log::open(&dir.join("log"), LogOptions::default())?;
        log.close(super::members::FORCE)
    }
}
