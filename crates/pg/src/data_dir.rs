//! What lies on disk: the data directory, and Quorate's markers beside it.
//!
//! ```text
//!   /var/lib/pg/main             the data directory
//!   /var/lib/pg/main.keeper      locked by the agent that keeps this instance
//!   /var/lib/pg/main.primary     "started or promoted as primary": system identifier and timeline
//!   /var/lib/pg/main.rewinding   a rewind began and has not ended: only a clone may follow
//!   /var/lib/pg/main.clone       a clone that grows, or after the swap what it replaced
//!   /var/lib/pg/main.old         what a clone replaced
//!   /var/lib/pg/main.bootstrap   an initdb that has not ended
//! ```
//!
//! They lie beside and not inside because `pg_rewind` makes the inside equal to the source's: it would remove our markers
//! and bring the source's. They are files and not memory because the agent may die at any instruction.
//!
//! Nothing here is ever guessed: a directory with something in it that cannot be read is [`DataDirectory::Unreadable`],
//! and no operation of this crate writes over that (S9).

use std::fs;
use std::io;
use std::path::PathBuf;

use quorate_ha::facts::{DataDirectory, Initialised, Lsn, SystemId, TimelineId};

use crate::config::{InstanceConfig, beside};
use crate::control_file::{ControlFile, ControlFileError};
use crate::error::{Error, FileError};
use crate::files;

/// The paths around one data directory.
pub(crate) struct Paths<'a>(pub(crate) &'a InstanceConfig);

impl Paths<'_> {
    pub(crate) fn inside(&self, name: &str) -> PathBuf {
        self.0.data_dir.join(name)
    }
    pub(crate) fn primary_marker(&self) -> PathBuf {
        beside(&self.0.data_dir, ".primary")
    }
    pub(crate) fn rewinding(&self) -> PathBuf {
        beside(&self.0.data_dir, ".rewinding")
    }
    pub(crate) fn clone_dir(&self) -> PathBuf {
        beside(&self.0.data_dir, ".clone")
    }
    pub(crate) fn old(&self) -> PathBuf {
        beside(&self.0.data_dir, ".old")
    }
    pub(crate) fn bootstrap(&self) -> PathBuf {
        beside(&self.0.data_dir, ".bootstrap")
    }
    pub(crate) fn standby_signal(&self) -> PathBuf {
        self.inside("standby.signal")
    }

    /// Says durably that this instance is, or is about to be, a primary on `timeline`.
    pub(crate) fn mark_primary(&self, system: SystemId, timeline: TimelineId) -> Result<(), FileError> {
        let text = format!("{system} {timeline}\n");
        files::replace_if_changed(&self.primary_marker(), text.as_bytes(), 0o600, self.owner()).map(|_| ())
    }

    /// The timeline of the marker, if it speaks of this system.
    pub(crate) fn marked_primary(&self, system: SystemId) -> Option<TimelineId> {
        let text = fs::read_to_string(self.primary_marker()).ok()?;
        let (of, timeline) = text.trim().split_once(' ')?;
        (of.parse() == Ok(system.0)).then_some(())?;
        timeline.parse().ok().map(TimelineId)
    }

    pub(crate) fn write_standby_signal(&self) -> Result<(), FileError> {
        files::replace_if_changed(&self.standby_signal(), b"", 0o600, self.owner()).map(|_| ())
    }

    /// To whom files must belong; None: to us.
    pub(crate) fn owner(&self) -> Option<crate::config::RunAs> {
        self.0.run_as.filter(|_| rustix::process::geteuid().is_root())
    }
}

/// What is on disk.
pub(crate) fn classify(config: &InstanceConfig) -> DataDirectory {
    let paths = Paths(config);
    let unreadable = |why: String| DataDirectory::Unreadable { why };
    let nothing = |found: DataDirectory| {
        if paths.clone_dir().exists() || paths.old().exists() {
            DataDirectory::CloneInProgress
        } else {
            found
        }
    };
    let mut entries = match fs::read_dir(&config.data_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return nothing(DataDirectory::Missing),
        Err(error) => {
            return unreadable(format!(
                "{} cannot be read: {error} (give it to the user PostgreSQL runs as)",
                config.data_dir.display()
            ));
        }
    };
    let control = match ControlFile::read(&config.data_dir) {
        Ok(control) => control,
        Err(ControlFileError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return match entries
                .find(|entry| !matches!(entry, Ok(entry) if entry.file_name() == "lost+found"))
            {
                None => nothing(DataDirectory::Empty),
                Some(Ok(entry)) => unreadable(format!(
                    "{} has no global/pg_control but contains {}: it is no data directory (move it away or correct data_dir)",
                    config.data_dir.display(),
                    entry.file_name().to_string_lossy()
                )),
                Some(Err(error)) => {
                    unreadable(format!("{} cannot be read: {error}", config.data_dir.display()))
                }
            };
        }
        Err(error) => return unreadable(sentence(&error)),
    };
    let standby_signal = paths.standby_signal().exists();
    // Without a marker (made before Quorate, or restored) the control file speaks.
    let by_control = (control.state.of_a_primary() && !standby_signal).then_some(control.timeline);
    DataDirectory::Initialised(Initialised {
        system_identifier: control.system_identifier,
        state: control.state,
        timeline: control.timeline,
        redo: control.redo,
        wal_end: control.wal_end(),
        consistent_from: control.consistent_from(),
        incomplete: control.backup_start_point != Lsn(0) || paths.inside("backup_label").exists(),
        asked: crate::standby::asked(config),
        standby_signal,
        was_primary_on: paths.marked_primary(control.system_identifier).or(by_control),
        rewind_unfinished: paths.rewinding().exists(),
    })
}

/// An error with its causes, as one sentence.
pub(crate) fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

/// The data directory as one that may be started, rewound or configured.
pub(crate) fn initialised(config: &InstanceConfig) -> Result<Initialised, Error> {
    let wrong = |why: String| Error::WrongDirectory { path: config.data_dir.clone(), why };
    match classify(config) {
        DataDirectory::Initialised(found) => Ok(found),
        DataDirectory::Missing => Err(wrong("does not exist".to_owned())),
        DataDirectory::Empty => Err(wrong("is empty".to_owned())),
        DataDirectory::CloneInProgress => Err(wrong("has an unfinished clone beside it".to_owned())),
        DataDirectory::Unreadable { why } => Err(wrong(why)),
    }
}
