//! One keeper for a data directory: a lock on a file beside it, for as long as the keeper lives.
//!
//! PostgreSQL keeps a second postmaster out of its directory, but nothing there keeps out a second *agent*, which by a slip in
//! its configuration would adopt the server, promote or fence it by the keys of another cluster. The kernel drops the lock
//! with the process, however it ends, and PostgreSQL does not inherit it: the next agent adopts a running server as before.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::config::beside;
use crate::error::Error;
use crate::files::failing;
use crate::instance::Instance;

/// The only keeper, until it is dropped.
#[derive(Debug)]
pub struct Hold {
    file: File,
}

impl Instance {
    /// Becomes the only keeper of the data directory. The file lies beside it, because a clone replaces what is inside.
    ///
    /// # Errors
    /// [`Error::WrongDirectory`] names the process that keeps it already; nothing was changed.
    pub fn hold(&self) -> Result<Hold, Error> {
        let path = beside(&self.config().data_dir, ".keeper");
        // Not truncated: until the lock is ours, the pid inside is somebody else's.
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = failing("cannot open", &path, opened)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                failing("cannot read", &path, file.read_to_string(&mut pid))?;
                return Err(self.wrong_directory(format!(
                    "PostgreSQL is kept by another quorate (pid {}): stop it, or correct data_dir",
                    pid.trim()
                )));
            }
            Err(error) => failing("cannot lock", &path, Err(error.into()))?,
        }
        failing(
            "cannot write",
            &path,
            file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())),
        )?;
        Ok(Hold { file })
    }
}

impl Drop for Hold {
    /// Closing is not enough: a child that another thread has just forked has the same open file until it runs its own program.
    fn drop(&mut self) {
        if let Err(error) = flock(&self.file, FlockOperation::Unlock) {
            tracing::warn!(%error, "the data directory is not let go of");
        }
    }
}
