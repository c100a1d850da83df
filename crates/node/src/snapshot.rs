//! Snapshots in an operator's hands: taken from a running member, looked into, and made the beginning of a new cluster.
//!
//! # Restoring
//!
//! Every member of the new cluster is restored from the same file with the same list of members, on its own machine and
//! without asking anybody. The ids follow from (token, name, peer URL) as those of a cluster that forms itself do, and in
//! addition from the digest of the file: members that were restored from different files are members of different clusters
//! and refuse each other, instead of agreeing on different keys. For the same reason the new cluster never has the old one's
//! id, and clients notice that they talk to another one.
//!
//! What comes back: every key with its history and revisions, leases (with their full time to live, counted from the first
//! leader on), users, roles. What does not: the members, and alarms, which were raised by members that are no more.
//!
//! One thing nobody can check here: a file restored a second time under the same token and list gives the same ids again.
//! Give every restoration a token of its own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quorate_consensus::{Node as PeerNode, Store};
use quorate_state::Revision;
use quorate_storage::{BackupMeta, Engine, MemoryEngine, StorageError, read_backup, verify_backup};

use crate::identity::{Forced, Identity, Owner, Place, restored_cluster_id, restored_id};
use crate::{Config, Handle, ReadError, StartError};

/// Streams of whole databases at the same time, from one member. Each costs its size on the disk.
pub(crate) const BACKUPS: usize = 2;
/// How often a view that was overwritten too fast is frozen again.
const ATTEMPTS: usize = 5;

/// A snapshot of one instant, ready to be sent. Nobody else sees the file; it is gone when this is dropped.
#[derive(Debug)]
pub struct Snapshot {
    /// At its beginning. Without the digest that ends a saved snapshot.
    pub file: File,
    /// Its size, a multiple of 512.
    pub bytes: u64,
    _one: tokio::sync::OwnedSemaphorePermit,
}

/// What a saved snapshot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotStatus {
    /// A checksum of the content: equal for equal files.
    pub hash: u32,
    /// The store's revision.
    pub revision: Revision,
    /// Everything stored: versions of keys, leases, users and what leads to them.
    pub total_keys: u64,
    /// In bytes, without the digest.
    pub total_bytes: u64,
}

/// Which member of which new cluster a snapshot is restored for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restore {
    /// Its name.
    pub name: String,
    /// Must not exist, or be empty.
    pub data_dir: PathBuf,
    /// Its URL as in `initial_cluster`.
    pub peer_advertise: String,
    /// (name, peer URL) of every member, this one included.
    pub initial_cluster: Vec<(String, String)>,
    /// Of the new cluster.
    pub cluster_token: String,
    /// False: the file has no digest at its end, only the checksums inside are checked.
    pub digest: bool,
}

impl Handle {
    /// Writes down the state as of one instant, while applying goes on. Works on any member, a learner included, and without
    /// a quorum.
    pub async fn snapshot(&self) -> Result<Snapshot, ReadError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let inner = Arc::clone(&self.inner);
        let Ok(one) = Arc::clone(&inner.backups).try_acquire_owned() else { return Err(ReadError::TimedOut) };
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Removed at the next start, should a crash leave it.
        let path = inner.config.data_dir.join("snapshots").join(format!("backup-{number}.tmp"));
        let write = move || {
            for attempt in 1.. {
                if inner.is_stopped() {
                    return Err(ReadError::Stopped);
                }
                let written = inner.consensus.back_up(&path).ok_or(ReadError::Stopped)?;
                // Unlinked at once: it lasts as long as it is open.
                let file = File::open(&path);
                let _ = fs::remove_file(&path);
                match (written, file) {
                    (Ok(bytes), Ok(file)) => return Ok(Snapshot { file, bytes, _one: one }),
                    (Err(StorageError::Thawed { .. }), _) if attempt < ATTEMPTS => {}
                    (Ok(_), Err(error)) => {
                        tracing::error!(%error, path = %path.display(), "the snapshot cannot be opened");
                        return Err(ReadError::TimedOut);
                    }
                    (Err(error), _) => {
                        tracing::error!(%error, path = %path.display(), "the snapshot cannot be written");
                        return Err(ReadError::TimedOut);
                    }
                }
            }
            Err(ReadError::TimedOut)
        };
        tokio::task::spawn_blocking(write).await.unwrap_or(Err(ReadError::Stopped))
    }
}

/// Verifies a saved snapshot to its last byte and tells what it holds.
pub fn snapshot_status(path: &Path, digest: bool) -> Result<SnapshotStatus, StartError> {
    look(path, digest).map(|(status, _)| status)
}

fn look(path: &Path, digest: bool) -> Result<(SnapshotStatus, BackupMeta), StartError> {
    let failed = |error: StorageError| StartError::because(format!("snapshot {}", path.display()), error);
    let meta = verify_backup(path, digest).map_err(failed)?;
    let engine = MemoryEngine::new();
    for pair in read_backup(path, digest).map_err(failed)? {
        let (key, value) = pair.map_err(failed)?;
        // Pairs are in key order and the store's own come first.
        if !quorate_state::keys::is_meta(&key) {
            break;
        }
        let mut batch = quorate_state::Batch::default();
        batch.put(key, value);
        engine.write(&batch).map_err(failed)?;
    }
    let revision = quorate_state::revision(&engine)
        .map_err(|fault| StartError::because(format!("snapshot {}", path.display()), fault))?;
    let status = SnapshotStatus { hash: meta.crc, revision, total_keys: meta.pairs, total_bytes: meta.bytes };
    Ok((status, meta))
}

/// Makes the data directory of one member of a new cluster that begins with a saved snapshot. Everything is checked before
/// anything is written; the directory appears whole or not at all.
pub fn restore_snapshot(snapshot: &Path, restore: &Restore) -> Result<SnapshotStatus, StartError> {
    // Certificates are a matter of the start: here only the form of the URLs counts.
    let plain = |url: &String| url.replacen("https://", "http://", 1);
    let config = Config {
        peer_advertise: plain(&restore.peer_advertise),
        initial_cluster: restore
            .initial_cluster
            .iter()
            .map(|(name, url)| (name.clone(), plain(url)))
            .collect(),
        cluster_token: restore.cluster_token.clone(),
        ..Config::single(&restore.name, restore.data_dir.clone())
    };
    config.validate()?;
    match fs::read_dir(&restore.data_dir).map(|mut found| found.next().is_none()) {
        Ok(true) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Ok(false) | Err(_) => {
            return Err(StartError::plain(format!(
                "data-dir {:?} not empty or could not be read",
                restore.data_dir.display().to_string()
            )));
        }
    }
    let (status, meta) = look(snapshot, restore.digest)?;

    let beside = beside(&restore.data_dir);
    let made = make(snapshot, restore, &meta, &beside);
    if made.is_err() {
        // What cannot be removed says what it is by its name.
        let _ = fs::remove_dir_all(&beside);
    }
    made.map(|()| status)
}

/// In the same directory, so that a rename is enough.
fn beside(dir: &Path) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_os_string();
    name.push(".restoring");
    dir.with_file_name(name)
}

fn make(snapshot: &Path, restore: &Restore, meta: &BackupMeta, beside: &Path) -> Result<(), StartError> {
    let failed = |what: &str, path: &Path, error: io::Error| {
        StartError::because(format!("{what} {}", path.display()), error)
    };
    if beside.exists() {
        fs::remove_dir_all(beside).map_err(|error| failed("removing", beside, error))?;
    }
    let id = |name: &str, url: &str| restored_id(&restore.cluster_token, name, url, &meta.digest);
    let members: BTreeMap<u64, PeerNode> = restore
        .initial_cluster
        .iter()
        .map(|(name, url)| {
            let node = PeerNode { name: name.clone(), url: url.clone(), ..PeerNode::default() };
            (id(name, url), node)
        })
        .collect();
    let place = Place::Joined {
        cluster: restored_cluster_id(&restore.cluster_token, members.keys().copied(), &meta.digest),
        id: id(&restore.name, &restore.peer_advertise),
    };
    let mut pairs = read_backup(snapshot, restore.digest)
        .map_err(|error| StartError::because(format!("snapshot {}", snapshot.display()), error))?;
    Store::found(beside, members, &mut pairs)
        .map_err(|error| StartError::because(format!("writing {}", beside.display()), error))?;
    let owner = Owner { token: restore.cluster_token.clone(), name: restore.name.clone() };
    let identity = Identity { place, owner: Some(owner), forced: Forced::No, ..Identity::fresh() };
    identity.store(beside)?;

    let dir = &restore.data_dir;
    // Empty, as was checked. Renaming onto an empty directory is allowed.
    fs::rename(beside, dir).map_err(|error| failed("renaming", beside, error))?;
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(|error| failed("syncing", parent, error))
}
