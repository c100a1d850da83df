//! Clone: a base backup beside the data directory, swapped in when it is complete.
//!
//! ```text
//!   main            main.clone            main.old
//!   last good       growing (pg_basebackup, WAL streamed along, synced by it)
//!   last good       complete, checked (system identifier), configured, standby.signal
//!   complete   ◄══► last good             (one atomic exchange)
//!   complete                              last good, being removed
//! ```
//!
//! The last good copy is touched only after the new one is complete (S9): whatever happens before, the directory is as it was, and
//! what lies beside is removed by the next clone. The exchange is one system call (`RENAME_EXCHANGE`); a file system without it gets
//! two renames, and a crash between them leaves the last good copy under `.old`, which the next clone puts back before anything else.
//!
//! # What is missing
//!
//! A data directory that is itself a mount point cannot be swapped by a rename: the error says so. Tablespaces outside the data directory
//! cannot be cloned beside themselves; `pg_basebackup` refuses, and nothing is changed.

use std::ffi::OsString;
use std::time::Duration;

use quorate_ha::Upstream;
use quorate_ha::facts::{DataDirectory, Endpoint, SystemId};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::command::Run;
use crate::conf;
use crate::config::InstanceConfig;
use crate::control_file::ControlFile;
use crate::data_dir::{Paths, sentence};
use crate::error::{Error, FileError};
use crate::files;
use crate::instance::Instance;
use crate::standby;
use crate::sync_names;

/// A clone that takes longer is given up. Large: a terabyte over a slow line.
const DEADLINE: Duration = Duration::from_secs(3 * 24 * 3600);

/// How far a clone is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes received.
    pub done_bytes: u64,
    /// Bytes expected, as estimated by the source; None until known.
    pub total_bytes: Option<u64>,
}

impl Instance {
    /// Base backup beside, then swap. Leaves `standby.signal` and the upstream written; not started. `progress` is called about
    /// once a second. With `expected_system`, a source of another cluster is refused; so is one that differs from what is here.
    ///
    /// # Errors
    /// The data directory is as it was, whatever the error, except for [`Error::File`] on a rename, which names what lies where.
    pub async fn clone_from(
        &self,
        source: &Upstream,
        slot: Option<&str>,
        expected_system: Option<u64>,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<(), Error> {
        let config = self.config();
        let paths = Paths(config);
        self.nothing_runs()?;
        clean_up(&paths)?;
        let expected = match self.data_directory() {
            DataDirectory::Initialised(found) => Some(found.system_identifier.0),
            DataDirectory::Missing | DataDirectory::Empty | DataDirectory::CloneInProgress => None,
            DataDirectory::Unreadable { why } => return Err(self.wrong_directory(why)),
        };
        files::replace_if_changed(
            &config.pgpass,
            crate::hba::pgpass(config).as_bytes(),
            0o600,
            paths.owner(),
        )?;

        let fresh = paths.clone_dir();
        files::create_dir(&fresh, paths.owner())?;
        let mut args: Vec<OsString> =
            ["--no-password", "-X", "stream", "--checkpoint=fast", "--progress", "-D"].map(Into::into).into();
        args.push((&fresh).into());
        let Endpoint { host, port } = &source.endpoint;
        args.extend(["-h".into(), host.into(), "-p".into(), port.to_string().into()]);
        args.extend(["-U".into(), (&config.replication.username).into()]);
        args.extend(config.basebackup_options.iter().map(Into::into));
        let run = Run { config, program: "pg_basebackup", args, deadline: DEADLINE };
        let copied = run
            .wait_with(|text| {
                if let Some(at) = last_progress(text) {
                    progress(at);
                }
            })
            .await;
        if let Err(error) = copied {
            files::remove_tree(&fresh)?;
            return Err(error.into());
        }

        let control = ControlFile::read(&fresh).map_err(|error| Error::WrongDirectory {
            path: fresh.clone(),
            why: format!("is no complete clone: {}", sentence(&error)),
        })?;
        let SystemId(found) = control.system_identifier;
        if let Some(expected) =
            expected_system.into_iter().chain(expected).find(|expected| *expected != found)
        {
            files::remove_tree(&fresh)?;
            return Err(Error::WrongSystem { expected, found });
        }
        // What the source's files say about itself must not hold here for a moment.
        let inside = InstanceConfig { data_dir: fresh.clone(), ..config.clone() };
        Paths(&inside).write_standby_signal()?;
        standby::write_upstream(&inside, Some(source), slot)?;
        sync_names::write(&inside, sync_names::NOBODY)?;
        conf::write(&inside, &self.settings())?;

        swap(&paths)?;
        files::remove(&paths.primary_marker())?;
        files::remove(&paths.rewinding())?;
        files::remove_tree(&paths.old())?;
        Ok(())
    }
}

/// Puts a last good copy back, and removes what is no good.
fn clean_up(paths: &Paths<'_>) -> Result<(), Error> {
    let there = ControlFile::read(&paths.0.data_dir).is_ok();
    if !there && !paths.0.data_dir.exists() && paths.old().exists() {
        files::rename(&paths.old(), &paths.0.data_dir)?;
    }
    files::remove_tree(&paths.clone_dir())?;
    // Beside a directory that cannot be read the old one may be the last good copy: it stays.
    if ControlFile::read(&paths.0.data_dir).is_ok() {
        files::remove_tree(&paths.old())?;
    }
    Ok(())
}

fn swap(paths: &Paths<'_>) -> Result<(), Error> {
    let (here, fresh, old) = (&paths.0.data_dir, paths.clone_dir(), paths.old());
    if !here.exists() {
        return Ok(files::rename(&fresh, here)?);
    }
    match renameat_with(CWD, &fresh, CWD, here, RenameFlags::EXCHANGE) {
        Ok(()) => {
            files::sync_parent(here)?;
            Ok(files::rename(&fresh, &old)?)
        }
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            files::rename(here, &old)?;
            Ok(files::rename(&fresh, here)?)
        }
        Err(rustix::io::Errno::BUSY) => Err(Error::WrongDirectory {
            path: here.clone(),
            why: "is a mount point and cannot be swapped: set data_dir to a directory below it".to_owned(),
        }),
        Err(source) => {
            Err(FileError { doing: "cannot swap the clone into", path: here.clone(), source: source.into() }
                .into())
        }
    }
}

/// The last "1234/5678 kB (21%)" in what `pg_basebackup` printed.
fn last_progress(text: &str) -> Option<Progress> {
    text.split(['\r', '\n']).rev().find_map(|line| {
        let (numbers, _) = line.trim_start().split_once(" kB")?;
        let (done, total) = numbers.split_once('/')?;
        let bytes = |text: &str| text.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024);
        Some(Progress { done_bytes: bytes(done)?, total_bytes: bytes(total) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_from_what_pg_basebackup_prints() {
        let text = "waiting for checkpoint\n      0/30412 kB (0%), 0/1 tablespace\r  4096/30412 kB (13%), 0/1 tablespace\r";
        assert_eq!(
            last_progress(text),
            Some(Progress { done_bytes: 4096 * 1024, total_bytes: Some(30412 * 1024) })
        );
        assert_eq!(last_progress("pg_basebackup: error: x"), None);
    }
}
