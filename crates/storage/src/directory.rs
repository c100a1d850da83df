//! Directories: one process at a time, and names that survive a power cut.
//!
//! A new or renamed file is only safe once the directory that names it was synced too (POSIX says nothing else; ext4 and XFS
//! both lose such names in practice). Every creation and rename of this crate goes through here.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use crate::StorageError;

/// Creates `dir` with its missing parents, and syncs the directories that got a new name.
pub(crate) fn create(dir: &Path) -> Result<(), StorageError> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = parent(dir) {
        create(parent)?;
    }
    match std::fs::create_dir(dir) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && dir.is_dir() => {}
        Err(error) => return Err(StorageError::io("creating", dir)(error)),
    }
    sync(parent(dir).unwrap_or(Path::new("/")))
}

fn parent(dir: &Path) -> Option<&Path> {
    match dir.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Some(Path::new(".")),
        other => other,
    }
}

/// Makes the names in `dir` durable.
pub(crate) fn sync(dir: &Path) -> Result<(), StorageError> {
    File::open(dir).and_then(|handle| handle.sync_all()).map_err(StorageError::io("syncing", dir))
}

/// Renames within one directory and makes the new name durable.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), StorageError> {
    std::fs::rename(from, to).map_err(StorageError::io("renaming", from))?;
    sync(parent(to).unwrap_or(Path::new("/")))
}

/// Writes a small file so that either the old or the new content is there after a crash, never a mixture.
pub(crate) fn write_whole(path: &Path, content: &[u8]) -> Result<(), StorageError> {
    let beside = path.with_extension("tmp");
    let mut file = File::create(&beside).map_err(StorageError::io("creating", &beside))?;
    file.write_all(content).map_err(StorageError::io("writing", &beside))?;
    file.sync_all().map_err(StorageError::io("syncing", &beside))?;
    rename(&beside, path)
}

/// Random bytes from the kernel, for identities.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], StorageError> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; N];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(StorageError::io("reading", path))?;
    Ok(bytes)
}

/// Exclusive use of a directory by one process, until it is dropped or the process ends (the kernel releases it then, so a
/// crash leaves nothing to clean up). [`crate::Log::open`] takes one on its own directory; a node takes one on the whole
/// data directory before it opens anything in it.
#[derive(Debug)]
pub struct DirLock {
    file: File,
    path: PathBuf,
}

impl DirLock {
    /// The file that is locked and tells the holder's pid.
    const NAME: &'static str = "LOCK";

    /// Locks `dir`, creating it if needed. [`StorageError::Locked`] names the holder.
    pub fn acquire(dir: &Path) -> Result<DirLock, StorageError> {
        create(dir)?;
        let path = dir.join(Self::NAME);
        // Not truncated: until the lock is ours the pid inside is somebody else's.
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(StorageError::io("opening", &path))?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let holder = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(StorageError::Locked { path: dir.to_path_buf(), holder });
            }
            Err(error) => return Err(StorageError::io("locking", &path)(error.into())),
        }
        file.set_len(0).map_err(StorageError::io("writing", &path))?;
        writeln!(file, "{}", std::process::id()).map_err(StorageError::io("writing", &path))?;
        Ok(DirLock { file, path })
    }

    /// The lock file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for DirLock {
    /// Closing is not enough: a child that another thread has just forked has the same open file until it runs its own program.
    fn drop(&mut self) {
        if let Err(error) = rustix::fs::flock(&self.file, rustix::fs::FlockOperation::Unlock) {
            tracing::warn!(path = %self.path.display(), %error, "a lock was not released");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_lock_names_the_holder() {
        let dir = tempfile::tempdir().unwrap();
        let held = DirLock::acquire(dir.path()).unwrap();
        match DirLock::acquire(dir.path()) {
            Err(StorageError::Locked { path, holder }) => {
                assert_eq!(path, dir.path());
                assert_eq!(holder, Some(std::process::id()));
            }
            other => panic!("{other:?}"),
        }
        drop(held);
        DirLock::acquire(dir.path()).unwrap();
    }

    #[test]
    fn whole_files_replace_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/MARK");
        create(path.parent().unwrap()).unwrap();
        write_whole(&path, b"one").unwrap();
        write_whole(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert!(!path.with_extension("tmp").exists());
    }
}
