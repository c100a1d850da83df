//! Rewind: a diverged directory becomes a copy of the primary by copying what differs.
//!
//! ```text
//!   stop ─► unclean? recover ─► marker ─► pg_rewind ─► our configuration, standby.signal ─► markers away
//! ```
//!
//! - `pg_rewind` needs a target that was shut down cleanly. A crashed primary is recovered by a single-user server (nobody can connect to
//!   it) with archiving "on" and failing: the shutdown checkpoint then keeps every WAL segment that has not been archived, and
//!   `wal_keep_size` keeps the rest; without them `pg_rewind` could not find the point of divergence. A directory with a
//!   `backup_label` is left alone, single-user recovery of it would be wrong. A crashed standby is started without upstream and stopped.
//! - From the first write of `pg_rewind` to its end the directory is a mixture and must never be started: the marker beside it says so
//!   from before until after, also through a crash. What carries it can only be cloned again (S8).
//! - `pg_rewind` copies the source's configuration files too, so ours are written again afterwards.
//!
//! `pg_rewind` compares timelines itself and does nothing when the histories have not parted. It trusts the control file of the
//! source: the caller makes sure that the source has completed a checkpoint on its timeline (fact `checkpointed`).

use std::time::Duration;

use quorate_ha::facts::ControlState;
use quorate_ha::{StopMode, Upstream};

use crate::command::Run;
use crate::conf;
use crate::data_dir::{self, Paths};
use crate::error::{CommandError, Error};
use crate::files;
use crate::instance::Instance;
use crate::process;
use crate::standby;

/// How a rewind ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rewound {
    /// The histories had not parted.
    NotRequired,
    /// Done: the directory follows the source's history.
    Done,
}

impl Instance {
    /// Stops if running, recovers an unclean directory, rewinds to `source`, writes `standby.signal` with no upstream; not started.
    ///
    /// # Errors
    /// [`Error::RewindUnfinished`] now or at every later start: only a clone may follow. An error before `pg_rewind` began to write
    /// (wrong system identifier, source not reachable, unclean and not recoverable) leaves the directory as it was.
    pub async fn rewind(&self, source: &Upstream, deadline: Duration) -> Result<Rewound, Error> {
        let config = self.config();
        let paths = Paths(config);
        self.stop(StopMode::Fast).await?;
        let found = self.startable()?;
        conf::write(config, &self.settings())?;
        match found.state {
            ControlState::ShutDown | ControlState::ShutDownInRecovery => {}
            _ if paths.inside("backup_label").exists() => {}
            ControlState::StartingUp | ControlState::InArchiveRecovery => self.recover_standby().await?,
            _ if found.standby_signal && found.was_primary_on.is_none() => self.recover_standby().await?,
            ControlState::InProduction | ControlState::InCrashRecovery | ControlState::ShuttingDown => {
                self.recover_primary(deadline).await?;
            }
        }
        let user = config.rewind_user();
        let server = format!(
            "host={} port={} user={} dbname=postgres application_name=quorate_rewind connect_timeout=10",
            value(&source.endpoint.host),
            source.endpoint.port,
            value(&user.username)
        );
        // A dry run first: it finds what would make the real one fail (no connection, other system, missing WAL) without
        // writing, and with it the directory stays good.
        self.pg_rewind(&server, true, deadline).await?;
        files::replace(&paths.rewinding(), b"", 0o600, paths.owner())?;
        let output = self.pg_rewind(&server, false, deadline).await?;
        let outcome =
            if output.contains("no rewind required") { Rewound::NotRequired } else { Rewound::Done };
        // The source's files are here now: ours, before it may be started, and as a standby only.
        paths.write_standby_signal()?;
        // First for who it was, then for nobody.
        standby::write_upstream(config, Some(source), None)?;
        standby::write_upstream(config, None, None)?;
        crate::sync_names::write(config, crate::sync_names::NOBODY)?;
        conf::write(config, &self.settings())?;
        files::remove(&paths.rewinding())?;
        files::remove(&paths.primary_marker())?;
        Ok(outcome)
    }

    async fn pg_rewind(&self, server: &str, dry: bool, deadline: Duration) -> Result<String, Error> {
        let config = self.config();
        let mut args = vec![
            "-D".into(),
            (&config.data_dir).into(),
            "--source-server".into(),
            server.into(),
            // Recovery has happened above, with the precautions that pg_rewind's own lacks.
            "--no-ensure-shutdown".into(),
        ];
        if dry {
            args.push("--dry-run".into());
        } else if has_restore_command(config, self.settings().parameters.contains_key("restore_command")) {
            args.push("--restore-target-wal".into());
        }
        let output = Run { config, program: "pg_rewind", args, deadline }.wait().await;
        match output {
            Ok(output) => Ok(output.stdout + &output.stderr),
            // Without the archive the dry run may miss WAL that the real one would fetch: let that one judge.
            Err(CommandError::Failed { stderr, .. })
                if dry && stderr.contains("could not open file") && stderr.contains("pg_wal") =>
            {
                Ok(stderr)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Crash recovery by a single-user server.
    async fn recover_primary(&self, deadline: Duration) -> Result<(), Error> {
        let config = self.config();
        // A single-user server refuses standby.signal. The marker tells what the directory is, and the signal comes back below.
        let paths = Paths(config);
        let signal = paths.standby_signal().exists();
        if signal {
            files::remove(&paths.standby_signal())?;
        }
        let args = ["--single", "-D"].map(Into::into).into_iter().chain([(&config.data_dir).into()]).chain(
            [
                "-c",
                "archive_mode=on",
                "-c",
                "archive_command=false",
                "-c",
                "wal_keep_size=1000000",
                "-c",
                "synchronous_standby_names=",
                "template1",
            ]
            .map(Into::into),
        );
        let recovered = Run { config, program: "postgres", args: args.collect(), deadline }.wait().await;
        if signal {
            paths.write_standby_signal()?;
        }
        recovered?;
        Ok(())
    }

    /// Crash recovery of a standby: start it with nobody to stream from, and stop it.
    async fn recover_standby(&self) -> Result<(), Error> {
        standby::write_upstream(self.config(), None, None)?;
        Paths(self.config()).write_standby_signal()?;
        process::start(self.config(), self.config().pg_ctl_timeout).await?;
        self.stop(StopMode::Fast).await?;
        data_dir::initialised(self.config()).map(|_| ())
    }
}

fn has_restore_command(config: &crate::config::InstanceConfig, agreed: bool) -> bool {
    agreed || config.parameters.contains_key("restore_command")
}

/// A value in a connection string.
fn value(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}
