//! The instance: the one value through which everything in this crate is reached.
//!
//! It holds configuration and a little memory (what was proven or first seen in this life of the server), never truth: the
//! truth is on disk and in the kernel's process table, and is looked at anew each time. A new value made by a restarted agent
//! therefore adopts a running server as it is.
//!
//! Nothing here decides: each method does what its name says or tells why not. Long ones may be dropped at any await; what they
//! leave behind is recognised by the next call (markers, module `data_dir`).

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quorate_ha::facts::{DataDirectory, Moment, SyncEffective, TimelineId};
use quorate_ha::{StopMode, Upstream};

use crate::bootstrap;
use crate::conf;
use crate::config::{BootstrapOptions, InstanceConfig, Settings};
use crate::data_dir::{self, Paths};
use crate::error::{ConfigError, Error};
use crate::process::{self, FenceReport, Running, fence_now};
use crate::session::Session;
use crate::standby;
use crate::sync_names;

/// The longest path of a local socket (`sun_path`, without the NUL).
const SOCKET_PATH_BYTES: usize = 107;

/// One PostgreSQL data directory and whatever runs in it. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Instance {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    config: InstanceConfig,
    settings: Mutex<Settings>,
    /// The kept connection of the probe; taken out while in use, so that a probe that was dropped drops it.
    pub(crate) session: tokio::sync::Mutex<Option<Session>>,
    /// Held by a look at the disk; one that hangs is not joined by others.
    pub(crate) looking: Arc<tokio::sync::Mutex<()>>,
    /// Changes of `synchronous_standby_names`, one at a time.
    pub(crate) sync_change: tokio::sync::Mutex<()>,
    pub(crate) memory: Mutex<Memory>,
}

/// What was first seen when, and what was proven.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) answered: Option<Moment>,
    pub(crate) starting: Option<Moment>,
    pub(crate) stopping: Option<Moment>,
    /// A life of the server as primary: its start time, and when it was first seen out of recovery.
    pub(crate) primary: Option<(String, Moment)>,
    /// A life of the server, and the names proven to be in effect in it.
    pub(crate) sync_proven: Option<(String, String)>,
    pub(crate) sync_effective: Option<SyncEffective>,
    /// When the configuration was loaded, and whether a parameter of it waits for a restart.
    pub(crate) pending_restart: Option<(String, bool)>,
}

impl Instance {
    /// Checks the configuration; touches nothing.
    ///
    /// # Errors
    /// What is wrong with it, and the remedy.
    pub fn new(config: InstanceConfig) -> Result<Instance, ConfigError> {
        if rustix::process::geteuid().is_root() && config.run_as.is_none_or(|user| user.uid == 0) {
            return Err(ConfigError::RootWithoutRunAs);
        }
        if !config.data_dir.is_absolute() || config.data_dir.file_name().is_none() {
            return Err(ConfigError::DataDir(config.data_dir));
        }
        if config.pgpass.starts_with(&config.data_dir) {
            return Err(ConfigError::PgpassInside(config.pgpass));
        }
        let socket = config.unix_socket_dir.join(format!(".s.PGSQL.{}", config.port));
        if socket.as_os_str().len() > SOCKET_PATH_BYTES {
            return Err(ConfigError::SocketPath { path: socket, limit: SOCKET_PATH_BYTES });
        }
        printable("scope", &config.scope)?;
        printable("name", &config.name)?;
        for credentials in [Some(&config.superuser), Some(&config.replication), config.rewind.as_ref()] {
            let Some(credentials) = credentials else { continue };
            printable("a user name", &credentials.username)?;
            printable("a password", credentials.password.as_deref().unwrap_or_default())?;
        }
        for (name, value) in &config.parameters {
            printable(&format!("parameter {name:?}"), name)?;
            printable(&format!("parameter {name:?}"), value)?;
        }
        let inner = Inner {
            config,
            settings: Mutex::default(),
            session: tokio::sync::Mutex::default(),
            looking: Arc::default(),
            sync_change: tokio::sync::Mutex::default(),
            memory: Mutex::default(),
        };
        Ok(Instance { inner: Arc::new(inner) })
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    /// As given.
    #[must_use]
    pub fn config(&self) -> &InstanceConfig {
        &self.inner.config
    }

    pub(crate) fn settings(&self) -> Settings {
        self.inner.settings.lock().clone()
    }

    /// What is on disk. Synchronous, a few small reads.
    #[must_use]
    pub fn data_directory(&self) -> DataDirectory {
        data_dir::classify(self.config())
    }

    /// Remembers `settings` for every later start, clone and rewind; if the data directory is initialised, writes its
    /// configuration files, and reloads a running server if one changed: true.
    ///
    /// # Errors
    /// A file could not be written, or a value cannot be.
    pub async fn configure(&self, settings: &Settings) -> Result<bool, Error> {
        for (name, value) in &settings.parameters {
            for text in [name, value] {
                printable(&format!("parameter {name:?}"), text)
                    .map_err(|error| self.wrong_directory(error.to_string()))?;
            }
        }
        self.inner.settings.lock().clone_from(settings);
        let changed = conf::write(self.config(), settings)?;
        if changed {
            self.reload()?;
        }
        Ok(changed)
    }

    /// `initdb` beside, rename, configure, start read-write without synchronous standbys, create the roles. Only on a missing or
    /// empty directory. The instance runs as primary afterwards and the marker of a primary is written.
    ///
    /// # Errors
    /// [`Error::WrongDirectory`]: there is something, nothing was changed. Otherwise what was begun is moved away.
    pub async fn bootstrap(&self, options: &BootstrapOptions) -> Result<(), Error> {
        bootstrap::run(self, options).await
    }

    /// `standby.signal`, upstream (None: streams from nobody), start. Returns when it accepts connections.
    ///
    /// # Errors
    /// [`Error::StillBusy`] after `pg_ctl_timeout`: it goes on. [`Error::StartFailed`]: it ended, the log's tail tells why.
    pub async fn start_as_standby(
        &self,
        upstream: Option<&Upstream>,
        slot: Option<&str>,
    ) -> Result<(), Error> {
        self.startable()?;
        self.write_standby_signal()?;
        standby::write_upstream(self.config(), upstream, slot)?;
        conf::write(self.config(), &self.settings())?;
        process::start(self.config(), self.config().pg_ctl_timeout).await
    }

    /// Marker (one that is there stays: the control file may still name the parent), no `standby.signal`,
    /// `synchronous_standby_names` = `names` from the first moment on, start.
    ///
    /// # Errors
    /// As [`Instance::start_as_standby`].
    pub async fn start_as_primary(&self, names: &str) -> Result<(), Error> {
        let found = self.startable()?;
        self.mark_primary(found.was_primary_on.unwrap_or(found.timeline))?;
        standby::write_upstream(self.config(), None, None)?;
        sync_names::write(self.config(), names)?;
        crate::files::remove(&Paths(self.config()).standby_signal())?;
        conf::write(self.config(), &self.settings())?;
        process::start(self.config(), self.config().pg_ctl_timeout).await
    }

    /// An initialised directory that may be started, and in which nothing runs.
    pub(crate) fn startable(&self) -> Result<quorate_ha::facts::Initialised, Error> {
        let found = data_dir::initialised(self.config())?;
        if found.rewind_unfinished {
            return Err(Error::RewindUnfinished { path: self.config().data_dir.clone() });
        }
        self.nothing_runs()?;
        Ok(found)
    }

    /// Whether any process works in the data directory: a server, or what one has left behind. Synchronous.
    ///
    /// # Errors
    /// The processes of this machine cannot be listed.
    pub fn runs(&self) -> Result<bool, Error> {
        Ok(process::running(&self.config().data_dir)? != Running::Nothing)
    }

    pub(crate) fn nothing_runs(&self) -> Result<(), Error> {
        let path = || self.config().data_dir.clone();
        match process::running(&self.config().data_dir)? {
            Running::Nothing => Ok(()),
            Running::Server(_) => Err(Error::WrongState { path: path(), is: "runs" }),
            Running::Orphans => {
                Err(Error::WrongState { path: path(), is: "left processes behind: fence it" })
            }
        }
    }

    pub(crate) fn wrong_directory(&self, why: String) -> Error {
        Error::WrongDirectory { path: self.config().data_dir.clone(), why }
    }

    /// Stops; nothing running is no error.
    ///
    /// # Errors
    /// [`Error::StillBusy`] after `pg_ctl_timeout` of a fast stop: it goes on. An immediate stop that takes long becomes a fence.
    pub async fn stop(&self, mode: StopMode) -> Result<(), Error> {
        process::stop(self.config(), mode, self.config().pg_ctl_timeout).await
    }

    /// Stops fast and starts again in the role that the files say.
    ///
    /// # Errors
    /// As [`Instance::stop`] and [`Instance::start_as_standby`].
    pub async fn restart(&self) -> Result<(), Error> {
        self.stop(StopMode::Fast).await?;
        self.startable()?;
        conf::write(self.config(), &self.settings())?;
        process::start(self.config(), self.config().pg_ctl_timeout).await
    }

    /// [`fence_now`] on a blocking thread, then `standby.signal`, so that no later start is read-write by accident (S12).
    ///
    /// # Errors
    /// As [`fence_now`]; or the signal file could not be written (everything is gone then).
    pub async fn fence(&self, budget: Duration) -> Result<FenceReport, Error> {
        let dir = self.config().data_dir.clone();
        let report = tokio::task::spawn_blocking(move || fence_now(&dir, budget))
            .await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        if let DataDirectory::Initialised(found) = self.data_directory() {
            // The signal takes away the last sign in the control file that this was a primary: say it first.
            if let Some(timeline) = found.was_primary_on {
                self.mark_primary(timeline)?;
            }
            self.write_standby_signal()?;
        }
        Ok(report)
    }

    /// Writes `standby.signal` durably; no error if it is there. If the control file speaks of a primary, the marker of one is
    /// written before, because the signal hides that.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn write_standby_signal(&self) -> Result<(), Error> {
        if let DataDirectory::Initialised(found) = self.data_directory()
            && let Some(timeline) = found.was_primary_on
        {
            Paths(self.config()).mark_primary(found.system_identifier, timeline)?;
        }
        Ok(Paths(self.config()).write_standby_signal()?)
    }

    /// Writes durably that this instance is or becomes a primary on `timeline`.
    ///
    /// # Errors
    /// The file could not be written, or this is no data directory.
    pub fn mark_primary(&self, timeline: TimelineId) -> Result<(), Error> {
        let found = data_dir::initialised(self.config())?;
        Ok(Paths(self.config()).mark_primary(found.system_identifier, timeline)?)
    }

    /// As [`Instance::mark_primary`], of an instance without a marker: one that is there names the first timeline that nobody knows of,
    /// which may be an earlier one.
    ///
    /// # Errors
    /// As [`Instance::mark_primary`].
    pub fn mark_primary_if_unmarked(&self, timeline: TimelineId) -> Result<(), Error> {
        let found = data_dir::initialised(self.config())?;
        match Paths(self.config()).marked_primary(found.system_identifier) {
            Some(_) => Ok(()),
            None => self.mark_primary(timeline),
        }
    }

    /// Asks a running server to read its files again; nothing running is no error.
    ///
    /// # Errors
    /// The processes cannot be seen.
    pub fn reload(&self) -> Result<(), Error> {
        process::hang_up(&self.config().data_dir)?;
        Ok(())
    }

    /// `CHECKPOINT`, awaited: a long operation on a busy server.
    ///
    /// # Errors
    /// It was refused or took longer than `deadline` (it goes on in the server).
    pub async fn checkpoint(&self, deadline: Duration) -> Result<(), Error> {
        let session = Session::local(self.config(), deadline).await?;
        session.query("checkpoint", "CHECKPOINT", deadline).await?;
        Ok(())
    }
}

fn printable(what: &str, text: &str) -> Result<(), ConfigError> {
    if text.contains(['\n', '\r', '\0']) {
        return Err(ConfigError::Unprintable { what: what.to_owned() });
    }
    Ok(())
}
