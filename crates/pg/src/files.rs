//! Small files that must survive a crash whole: written beside, synced, renamed, and the directory synced.
//!
//! A reader (PostgreSQL on reload, the next agent) sees the former content or the new one, never a half. A file becomes
//! PostgreSQL's property when this process is root: it could not read it otherwise.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, chown, fchown};
use std::path::Path;

use crate::config::{RunAs, beside};
use crate::error::FileError;

/// Attaches what was tried and the path.
pub(crate) fn failing<T>(doing: &'static str, path: &Path, result: io::Result<T>) -> Result<T, FileError> {
    result.map_err(|source| FileError { doing, path: path.to_owned(), source })
}

/// Replaces `path` by `content`, durably.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32, owner: Option<RunAs>) -> Result<(), FileError> {
    let fresh = beside(path, ".tmp");
    // A leftover of a crash may have another mode: never write a password into it.
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            failing("cannot remove", &fresh, Err(error))?
        }
        Ok(()) | Err(_) => {}
    }
    let mut file = failing(
        "cannot create",
        &fresh,
        OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh),
    )?;
    if let Some(RunAs { uid, gid }) = owner {
        failing("cannot change the owner of", &fresh, fchown(&file, Some(uid), Some(gid)))?;
    }
    failing("cannot write", &fresh, file.write_all(content).and_then(|()| file.sync_all()))?;
    failing("cannot rename to", path, fs::rename(&fresh, path))?;
    sync_parent(path)
}

/// As [`replace`], but leaves an equal file alone. True: it was changed.
pub(crate) fn replace_if_changed(
    path: &Path,
    content: &[u8],
    mode: u32,
    owner: Option<RunAs>,
) -> Result<bool, FileError> {
    match fs::read(path) {
        Ok(present) if present == content => Ok(false),
        Ok(_) | Err(_) => replace(path, content, mode, owner).map(|()| true),
    }
}

/// Removes a file durably; no error if it is not there.
pub(crate) fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => failing("cannot remove", path, Err(error)),
    }
}

/// Renames a directory or file durably.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    failing("cannot rename to", to, fs::rename(from, to))?;
    sync_parent(to)
}

/// Removes a directory and everything below; no error if it is not there.
pub(crate) fn remove_tree(path: &Path) -> Result<(), FileError> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => failing("cannot remove", path, Err(error)),
    }
}

/// A fresh directory, mode 0700, PostgreSQL's.
pub(crate) fn create_dir(path: &Path, owner: Option<RunAs>) -> Result<(), FileError> {
    use std::os::unix::fs::DirBuilderExt as _;
    failing("cannot create", path, fs::DirBuilder::new().mode(0o700).create(path))?;
    if let Some(RunAs { uid, gid }) = owner {
        failing("cannot change the owner of", path, chown(path, Some(uid), Some(gid)))?;
    }
    sync_parent(path)
}

/// Makes the entry of `path` in its directory durable.
pub(crate) fn sync_parent(path: &Path) -> Result<(), FileError> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    failing("cannot sync", parent, File::open(parent).and_then(|dir| dir.sync_all()))
}
