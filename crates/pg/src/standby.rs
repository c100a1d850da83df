//! Whom a standby streams from, and how it stops streaming for good.
//!
//! # Stopping the receiver
//!
//! *Problem.* A promise to the store says "I stream from nobody": it is worth something only if no WAL receiver runs and none
//! can be started again under the former upstream, because each flush that it reports may complete a commit on the former
//! primary. "No receiver was seen" is not enough: the startup process asks the postmaster for one with whatever
//! `primary_conninfo` it has read last.
//!
//! *Model.* Clear the file, reload, then three observations in this order:
//!
//! 1. A new connection shows the empty value. New backends inherit from the postmaster, so the postmaster has read it and has
//!    signalled every process that is older, the startup process among them.
//! 2. After that, the startup process has passed a point where it takes signals: it waits between two attempts to stream
//!    (`RecoveryRetrieveRetryInterval`) or in a replay pause, or it has replayed another record. At each of these it reads the
//!    configuration before it does anything else, and from then on it has no upstream to ask for. In the wait between two
//!    attempts no request is pending either: the state was left by stopping the receiver.
//! 3. After that, no process of type `walreceiver` exists.
//!
//! A startup process busy replaying stops its receiver late; a paused one never does. So the receiver is asked to end by SIGTERM
//! as soon as 1 holds; that is an orderly end of a receiver, and nobody restarts it after 2.
//!
//! The file is written first and stays: also after a restart of PostgreSQL or of the agent this standby streams from nobody until
//! somebody writes another upstream. If the deadline passes the answer is an error, and the caller promises nothing.
//!
//! Sources: PostgreSQL `xlogrecovery.c` (`WaitForWALToBecomeAvailable`, `StartupRereadConfig`), `startup.c`, `walreceiverfuncs.c`.

use std::time::Duration;

use quorate_ha::Upstream;
use quorate_ha::facts::Endpoint;
use rustix::process::Signal;

use crate::conf::{STANDBY, quoted};
use crate::config::InstanceConfig;
use crate::data_dir::Paths;
use crate::error::{Error, QueryError};
use crate::files;
use crate::instance::Instance;
use crate::process::{self, Running, Status};
use crate::session::Session;

/// Between two looks at a receiver that ends.
const POLL: Duration = Duration::from_millis(5);

/// Whom WAL was asked from last, in a comment: in the same file, so that both change at once.
const ASKED: &str = "# asked for WAL: ";

/// Writes upstream and slot; who was asked stays when nobody is asked any more.
pub(crate) fn write_upstream(
    config: &InstanceConfig,
    upstream: Option<&Upstream>,
    slot: Option<&str>,
) -> Result<(), Error> {
    let asked = match upstream {
        Some(upstream) => Some(upstream.name.clone()).filter(|name| !name.contains(char::is_control)),
        None => asked(config),
    };
    let asked = asked.map(|name| format!("{ASKED}{name}\n")).unwrap_or_default();
    let conninfo = upstream.map(|upstream| conninfo(config, &upstream.endpoint)).unwrap_or_default();
    let slot = if upstream.is_some() { slot.unwrap_or_default() } else { "" };
    let text =
        format!("{asked}primary_conninfo = {}\nprimary_slot_name = {}\n", quoted(&conninfo), quoted(slot));
    let paths = Paths(config);
    files::replace_if_changed(&paths.inside(STANDBY), text.as_bytes(), 0o600, paths.owner())?;
    Ok(())
}

/// What [`write_upstream`] wrote, for an instance that answers no questions yet.
pub(crate) fn written_upstream(config: &InstanceConfig) -> Option<Endpoint> {
    upstream_in(&std::fs::read_to_string(Paths(config).inside(STANDBY)).ok()?)
}

/// The member that WAL was asked from last, whether or not it still is.
pub(crate) fn asked(config: &InstanceConfig) -> Option<String> {
    let text = std::fs::read_to_string(Paths(config).inside(STANDBY)).ok()?;
    text.lines().find_map(|line| line.strip_prefix(ASKED)).map(str::to_owned)
}

fn upstream_in(text: &str) -> Option<Endpoint> {
    let conninfo = text.lines().find_map(|line| line.strip_prefix("primary_conninfo = "))?;
    upstream_of(&conninfo.strip_prefix('\'')?.strip_suffix('\'')?.replace("''", "'").replace("\\\\", "\\"))
}

/// The connection string of the WAL receiver. The password is in the password file, not here: this is shown in views.
fn conninfo(config: &InstanceConfig, upstream: &Endpoint) -> String {
    let pairs = [
        ("host", upstream.host.as_str()),
        ("port", &upstream.port.to_string()),
        ("user", &config.replication.username),
        ("passfile", &config.pgpass.display().to_string()),
        ("application_name", &config.name),
        ("connect_timeout", "5"),
        ("sslmode", "prefer"),
        ("gssencmode", "disable"),
    ]
    .map(|(key, value)| format!("{key}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'")));
    pairs.join(" ")
}

/// The upstream in a connection string of the above form, as far as it names a host.
pub(crate) fn upstream_of(conninfo: &str) -> Option<Endpoint> {
    let value = |wanted: &str| {
        let at = conninfo
            .match_indices(wanted)
            .find(|(at, _)| *at == 0 || conninfo.as_bytes()[at - 1] == b' ')
            .map(|(at, _)| at + wanted.len())?;
        let rest = conninfo[at..].strip_prefix('=')?;
        let (rest, end) = match rest.strip_prefix('\'') {
            Some(rest) => (rest, '\''),
            None => (rest, ' '),
        };
        Some(rest.split(end).next().unwrap_or(rest).to_owned())
    };
    let host = value("host").filter(|host| !host.is_empty())?;
    Some(Endpoint { host, port: value("port").and_then(|port| port.parse().ok()).unwrap_or(5432) })
}

impl Instance {
    /// Writes the upstream and reloads a running standby (PostgreSQL 13 and later need no restart). The standby need not be
    /// connected when this returns.
    ///
    /// # Errors
    /// The file could not be written.
    pub async fn follow(&self, upstream: &Upstream, slot: Option<&str>) -> Result<(), Error> {
        write_upstream(self.config(), Some(upstream), slot)?;
        // Also when the file says so already: a server that was just being started may have read it before.
        self.reload()
    }

    /// Ends the startup process' wait between two attempts to stream. SIGHUP wakes it, and sent to it alone it leaves no line in the
    /// log of the server.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn try_streaming(&self, deadline: Duration) -> Result<(), Error> {
        const WHAT: &str = "find the startup process";
        let session = Session::local(self.config(), deadline).await?;
        let startup = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'";
        if let Some(pid) = session.value(WHAT, startup, deadline).await?.and_then(|pid| pid.parse().ok()) {
            process::signal_member(&self.config().data_dir, pid, Signal::HUP)?;
        }
        Ok(())
    }

    /// Clears the upstream on disk, reloads, and returns when no WAL receiver is left and none can come back (see the
    /// essay of this module). A stopped instance needs the file only.
    ///
    /// # Errors
    /// [`Error::ReceiverLeft`], or a query's error: the receiver may still run; the file stays cleared. Call again.
    pub async fn stop_receiver(&self, deadline: Duration) -> Result<(), Error> {
        write_upstream(self.config(), None, None)?;
        let dir = &self.config().data_dir;
        match process::running(dir)? {
            Running::Nothing => return Ok(()),
            Running::Server(server) if server.status == Status::Ready => {}
            Running::Server(_) | Running::Orphans => {
                return Err(Error::WrongState { path: dir.clone(), is: "does not answer queries: stop it" });
            }
        }
        self.reload()?;
        let ended = tokio::time::timeout(deadline, self.receiver_gone(deadline)).await;
        ended.unwrap_or_else(|_| {
            let why =
                "the startup process was not seen to read the configuration, or the receiver does not end"
                    .to_owned();
            Err(Error::ReceiverLeft { why, waited: deadline })
        })
    }

    async fn receiver_gone(&self, deadline: Duration) -> Result<(), Error> {
        const WHAT: &str = "is the WAL receiver gone";
        // 1. The postmaster has read it.
        let observer = Session::local(self.config(), deadline).await?;
        let session = self.postmaster_shows(&observer, "primary_conninfo", "", deadline).await?;
        let first: Option<String> =
            session.value(WHAT, "SELECT pg_last_wal_replay_lsn()::text", deadline).await?;
        // 2. So has the startup process.
        loop {
            let rows = session
                .query(
                    WHAT,
                    "SELECT coalesce(wait_event, '') FROM pg_stat_activity WHERE backend_type = 'startup'; \
                     SELECT pg_last_wal_replay_lsn()::text; \
                     SELECT pid FROM pg_stat_activity WHERE backend_type = 'walreceiver'",
                    deadline,
                )
                .await?;
            let [startup, replayed, receivers] = rows.as_slice() else {
                return Err(nonsense(WHAT, format!("{} result sets", rows.len())));
            };
            for pid in receivers.iter().filter_map(|row| row.first()?.as_deref()?.parse().ok()) {
                process::signal_member(&self.config().data_dir, pid, Signal::TERM)?;
            }
            let waits = startup
                .iter()
                .flatten()
                .flatten()
                .any(|event| matches!(event.as_str(), "RecoveryRetrieveRetryInterval" | "RecoveryPause"));
            let moved = replayed.iter().flatten().next() != Some(&first);
            // Without a startup process there is no recovery: promoted meanwhile, and nothing to receive.
            if waits || moved || startup.is_empty() {
                break;
            }
            tokio::time::sleep(POLL).await;
        }
        // 3. And there is none.
        const LEFT: &str = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walreceiver'";
        while session.value(WHAT, LEFT, deadline).await?.as_deref() != Some("0") {
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Returns a new connection that shows `value` for a parameter: proof that the postmaster has read it and has signalled
    /// every older process. Waits until then; the caller bounds it.
    pub(crate) async fn postmaster_shows(
        &self,
        observer: &Session,
        name: &'static str,
        value: &str,
        deadline: Duration,
    ) -> Result<Session, Error> {
        loop {
            // An old session is cheap to ask, and never ahead of the postmaster, whose signal it reads its files on.
            shows(observer, name, value, deadline).await?;
            let fresh = Session::local(self.config(), deadline).await?;
            if setting(&fresh, name, deadline).await?.0 == value {
                return Ok(fresh);
            }
        }
    }
}

/// Waits until a session shows `value` for a parameter; the caller bounds it.
pub(crate) async fn shows(
    session: &Session,
    name: &'static str,
    value: &str,
    deadline: Duration,
) -> Result<(), Error> {
    // The reload of an override needs no longer than ours.
    const PATIENCE: u32 = 20;
    let mut tries = 0_u32;
    loop {
        let (found, source) = setting(session, name, deadline).await?;
        if found == value {
            return Ok(());
        }
        tries += 1;
        if tries > PATIENCE && (source.ends_with("postgresql.auto.conf") || source == "command line") {
            return Err(Error::Overridden { name, found });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// A parameter as a session sees it, and the file or the means that set it.
async fn setting(session: &Session, name: &str, deadline: Duration) -> Result<(String, String), Error> {
    const WHAT: &str = "read a parameter and its source";
    let sql = format!("SELECT setting, coalesce(sourcefile, source) FROM pg_settings WHERE name = '{name}'");
    let row = session.query(WHAT, &sql, deadline).await?.into_iter().flatten().next().unwrap_or_default();
    match <[Option<String>; 2]>::try_from(row) {
        Ok([Some(found), Some(source)]) => Ok((found, source)),
        Ok(row) => Err(nonsense(WHAT, format!("{row:?}"))),
        Err(row) => Err(nonsense(WHAT, format!("{row:?}"))),
    }
}

pub(crate) fn nonsense(what: &'static str, answer: String) -> Error {
    Error::Query(QueryError::Nonsense { what, answer })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn an_upstream_survives_its_connection_string() {
        let upstream = Endpoint { host: "db-1.example".to_owned(), port: 5433 };
        let mut config = InstanceConfig::new("s", "n'1", Path::new("/nowhere/data"), upstream.clone());
        config.replication.username = "rep\\user".to_owned();
        let text = conninfo(&config, &upstream);
        assert_eq!(upstream_of(&text), Some(upstream));
        assert!(text.contains("user='rep\\\\user'") && text.contains("application_name='n\\'1'"), "{text}");
        assert_eq!(upstream_of(""), None);
        let line = format!("primary_conninfo = {}\nprimary_slot_name = ''\n", quoted(&text));
        assert_eq!(upstream_in(&line), upstream_of(&text));
        assert_eq!(upstream_in("primary_conninfo = ''\nprimary_slot_name = ''\n"), None);
        let plain = Endpoint { host: "a".to_owned(), port: 5432 };
        assert_eq!(upstream_of("user=x host=a"), Some(plain));
    }
}
