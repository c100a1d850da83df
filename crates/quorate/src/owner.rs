//! Whose a store's data directory is: the cluster token and the member name it was first used with, in a small file.
//!
//! A directory that holds a log continues the cluster the log belongs to, whatever the configuration says. An operator who
//! points a new cluster at an old directory would silently serve the old one's keys, so token and name are compared
//! before anything in the directory is opened, and a difference changes nothing. Peer URLs and the list of initial members
//! are not compared: they change in the life of a cluster, and etcd ignores them after the first start too.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Beside the member's own files in the data directory.
const FILE: &str = "owner";

/// What the file says, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// `dcs.cluster_token`, `--initial-cluster-token`.
    pub cluster_token: String,
    /// `name`, `--name`.
    pub name: String,
}

impl Owner {
    /// Compares with what the directory says. A directory that says nothing was never used, or its first start was cut off
    /// before [`Owner::claim`].
    ///
    /// # Errors
    /// The sentence for the operator; nothing was changed.
    pub fn check(&self, dir: &Path) -> Result<(), String> {
        let path = dir.join(FILE);
        let found: Owner = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| {
                format!(
                    "{} does not say whose directory this is ({error}); restore the file, or start this member with an \
                     empty data directory: it will be replaced and catch up from the others",
                    path.display()
                )
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(format!("{} cannot be read: {error}", path.display())),
        };
        if found == *self {
            return Ok(());
        }
        Err(format!(
            "{} belongs to member {:?} of the cluster {:?}, but this is member {:?} of the cluster {:?}: correct name and \
             cluster token, or name another data directory; nothing was changed",
            dir.display(),
            found.name,
            found.cluster_token,
            self.name,
            self.cluster_token
        ))
    }

    /// Writes the file if it is not there: beside, synced, renamed, directory synced. Called when the member has started, by
    /// the process that holds the directory's lock.
    ///
    /// # Errors
    /// The sentence for the operator.
    pub fn claim(&self, dir: &Path) -> Result<(), String> {
        let path = dir.join(FILE);
        if path.exists() {
            return Ok(());
        }
        let beside = dir.join("owner.new");
        let write = || -> io::Result<()> {
            let mut file = File::create(&beside)?;
            serde_json::to_writer(&mut file, self)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&beside, &path)?;
            File::open(dir)?.sync_all()
        };
        write().map_err(|error| format!("{} cannot be written: {error}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_its_first_owners() {
        let dir = tempfile::tempdir().unwrap();
        let first = Owner { cluster_token: "t1".into(), name: "a".into() };
        first.check(dir.path()).unwrap();
        first.claim(dir.path()).unwrap();
        first.check(dir.path()).unwrap();
        let second = Owner { cluster_token: "t2".into(), name: "a".into() };
        let sentence = second.check(dir.path()).unwrap_err();
        assert!(sentence.contains("\"t1\"") && sentence.contains("\"t2\""), "{sentence}");
        fs::write(dir.path().join(FILE), b"{").unwrap();
        assert!(first.check(dir.path()).unwrap_err().contains("does not say whose"));
    }
}
