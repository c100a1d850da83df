//! The instance.
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::clone::Progress;
use crate::config::{BootstrapOptions, InstanceConfig, Settings};
use crate::error::{ConfigError, Error};
use crate::process::FenceReport;
use quorate_ha::StopMode;
use quorate_ha::facts::{DataDirectory, Endpoint, Fork, InstanceFacts, Moment, SyncEffective, TimelineId};

/// One PostgreSQL data directory and whatever runs in it. Cheap to clone; clones share one connection.
#[derive(Clone)]
pub struct Instance {
    inner: Arc<InstanceConfig>,
}

/// How a promotion ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promoted {
    /// The new timeline.
    pub timeline: TimelineId,
    /// Where it left its parent.
    pub fork: Option<Fork>,
}

/// How a rewind ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rewound {
    /// The histories had not parted.
    NotRequired,
    /// Done: the data directory is a copy of the source up to the last common point and onwards.
    Done,
}

#[allow(unused_variables, clippy::unimplemented, clippy::unused_async)]
impl Instance {
    /// Checks the configuration; touches nothing.
    pub fn new(config: InstanceConfig) -> Result<Instance, ConfigError> {
        unimplemented!()
    }
    /// As given.
    pub fn config(&self) -> &InstanceConfig {
        unimplemented!()
    }
    /// What is on disk. Synchronous, a few small reads.
    pub fn data_directory(&self) -> DataDirectory {
        unimplemented!()
    }
    /// Everything that can be known now, within [`crate::probe::PROBE_DEADLINE`]. Never fails, never hangs.
    pub async fn probe(&self, now: Moment) -> InstanceFacts {
        unimplemented!()
    }
    /// Remembers `settings` for every later start, clone and rewind; writes postgresql.conf, pg_hba.conf and pg_ident.conf
    /// if the data directory is initialised, and reloads a running server if a file changed.
    pub async fn configure(&self, settings: &Settings) -> Result<(), Error> {
        unimplemented!()
    }
    /// `initdb` beside, rename, configure, start read-write (asynchronous), create the roles. Only on a missing or empty
    /// directory. The instance runs as primary afterwards; the marker of a primary is written.
    pub async fn bootstrap(&self, options: &BootstrapOptions) -> Result<(), Error> {
        unimplemented!()
    }
    /// `standby.signal`, upstream (None: streams from nobody), start. Returns when it accepts connections, or with
    /// [`Error::StillBusy`] after `pg_ctl_timeout`.
    pub async fn start_as_standby(
        &self,
        upstream: Option<&Endpoint>,
        slot: Option<&str>,
    ) -> Result<(), Error> {
        unimplemented!()
    }
    /// Marker, no `standby.signal`, `synchronous_standby_names` = `names` from the first moment on, start.
    pub async fn start_as_primary(&self, names: &str) -> Result<(), Error> {
        unimplemented!()
    }
    /// Stops; no error if nothing runs. [`Error::StillBusy`] after `pg_ctl_timeout`.
    pub async fn stop(&self, mode: StopMode) -> Result<(), Error> {
        unimplemented!()
    }
    /// Stop fast, then start again in the role that the files say.
    pub async fn restart(&self) -> Result<(), Error> {
        unimplemented!()
    }
    /// [`crate::process::fence_now`] on a blocking thread, then `standby.signal` so that no start can be read-write (S12).
    pub async fn fence(&self, budget: Duration) -> Result<FenceReport, Error> {
        unimplemented!()
    }
    /// Writes `standby.signal` durably; no error if it is there.
    pub fn write_standby_signal(&self) -> Result<(), Error> {
        unimplemented!()
    }
    /// Writes the marker "was started or promoted as primary on this timeline", durably.
    pub fn mark_primary(&self, timeline: TimelineId) -> Result<(), Error> {
        unimplemented!()
    }
    /// Writes the upstream and reloads a running standby; need not be connected when it returns.
    pub async fn follow(&self, upstream: &Endpoint, slot: Option<&str>) -> Result<(), Error> {
        unimplemented!()
    }
    /// Clears the upstream on disk, reloads, and returns when no WAL receiver is left and none can come back.
    pub async fn stop_receiver(&self, deadline: Duration) -> Result<(), Error> {
        unimplemented!()
    }
    /// Writes `synchronous_standby_names` durably; on a running server takes it into effect (see the essay of
    /// [`crate::sync_names`]). On a standby or a stopped instance it is the value it will be promoted or started under.
    pub async fn set_sync_names(&self, names: &str, deadline: Duration) -> Result<(), Error> {
        unimplemented!()
    }
    /// On a running primary: proves that nothing acknowledges a commit under another value than `names`, then reads the
    /// WAL insert position.
    pub async fn confirm_sync_effective(
        &self,
        names: &str,
        deadline: Duration,
    ) -> Result<SyncEffective, Error> {
        unimplemented!()
    }
    /// Creates the physical slots that are missing, drops the inactive ones in `drop`.
    pub async fn set_slots(&self, create: &BTreeSet<String>, drop: &BTreeSet<String>) -> Result<(), Error> {
        unimplemented!()
    }
    /// `CHECKPOINT`, awaited (a long operation: run it in the background).
    pub async fn checkpoint(&self, deadline: Duration) -> Result<(), Error> {
        unimplemented!()
    }
    /// Writes the marker for the timeline after the present one, promotes, waits until it is out of recovery.
    pub async fn promote(&self) -> Result<Promoted, Error> {
        unimplemented!()
    }
    /// Stops if running, recovers an unclean directory, rewinds to `source`, writes `standby.signal`; not started.
    pub async fn rewind(&self, source: &Endpoint, deadline: Duration) -> Result<Rewound, Error> {
        unimplemented!()
    }
    /// Base backup beside, then swap. Leaves `standby.signal` and the upstream written; not started. `progress` is called
    /// about twice a second.
    pub async fn clone_from(
        &self,
        source: &Endpoint,
        slot: Option<&str>,
        expected_system: Option<u64>,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<(), Error> {
        unimplemented!()
    }
}
