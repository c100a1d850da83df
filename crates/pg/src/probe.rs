//! What is true now: disk, processes, one round trip of SQL; within a bound, whatever hangs.
//!
//! ```text
//!   disk and /proc (blocking thread, one at a time) ──► Stopped, Starting, Stopping: no SQL needed
//!                                                  └──► Ready ──► SQL on the kept connection ──► Running | Unresponsive
//!   all of it within PROBE_DEADLINE
//! ```
//!
//! A disk that hangs costs one blocking thread, not one per probe, and shows as an unreadable directory. A server that does not
//! answer is Unresponsive since its last answer. What a probe says was true at some moment during it; nothing is remembered from
//! one to the next except when something was first seen, and what has been proven about this life of the server.
//!
//! # The timeline of a standby
//!
//! No function of SQL tells which timeline is being replayed. It is at least that of the control file (checkpoint and minimum
//! recovery point) and that which the receiver receives; without a receiver, the highest timeline among the WAL files that hold
//! the end of what was received. Timelines only grow on one instance, so the maximum is right.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quorate_ha::facts::Running as RunningFacts;
use quorate_ha::facts::{
    DataDirectory, Endpoint, Fork, InstanceFacts, Lsn, Moment, PrimaryFacts, Process, Receiver, ReplicaFacts,
    Role, SlotFacts, StandbyFacts, SyncState, TimelineId,
};
use tokio_postgres::error::SqlState;

use crate::control_file::ControlFile;
use crate::data_dir::classify;
use crate::error::{Error, QueryError};
use crate::instance::Instance;
use crate::process::{self, FenceError, Running, Status};
use crate::session::{Rows, Session};
use crate::standby::{nonsense, upstream_of, written_upstream};

/// Longest time a probe takes: what the time budget of the decisions counts with.
pub const PROBE_DEADLINE: Duration = quorate_ha::budget::PROBE;
const WHAT: &str = "probe";

/// What is asked. The functions and not the views over them, and of each role only what is read: three nodes that share two
/// processors wait for one another's answers in the middle of a failover. `known` is the time of the reload for which it is known
/// whether a restart is pending, because looking through all parameters costs as much as the rest.
fn sql(known: &str) -> String {
    format!(
        "\
SELECT pg_is_in_recovery(), current_setting('server_version_num'), pg_postmaster_start_time()::text, \
       pg_conf_load_time()::text, \
       CASE WHEN pg_conf_load_time()::text <> '{known}' \
            THEN EXISTS (SELECT 1 FROM pg_show_all_settings() WHERE pending_restart) END, \
       current_setting('synchronous_standby_names'), current_setting('primary_conninfo'), \
       CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_lsn()::text END, \
       CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_lsn()), 8) END, \
       (SELECT timeline_id FROM pg_control_checkpoint()), \
       CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn()::text END, \
       CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()::text END, \
       CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() END, \
       CASE WHEN pg_is_in_recovery() THEN \
            (SELECT string_agg(concat_ws(' ', backend_type, wait_event), ',') FROM pg_stat_get_activity(NULL) \
             WHERE backend_type IN ('startup', 'walreceiver')) END; \
SELECT application_name, sender.state, flush_lsn::text, replay_lsn::text, sync_state \
       FROM pg_stat_get_wal_senders() sender JOIN pg_stat_get_activity(NULL) USING (pid) \
       WHERE NOT pg_is_in_recovery() ORDER BY application_name, pid; \
SELECT slot_name, active, slot_type FROM pg_replication_slots ORDER BY slot_name; \
SELECT status, sender_host, sender_port, received_tli FROM pg_stat_wal_receiver"
    )
}

/// What the disk and the process table say.
struct Seen {
    directory: DataDirectory,
    running: Result<Running, FenceError>,
    control: Option<ControlFile>,
    oldest: Option<Lsn>,
    /// As the configuration of a standby says.
    upstream: Option<Endpoint>,
}

impl Instance {
    /// Everything that can be known now, within [`PROBE_DEADLINE`]. Never fails, never hangs.
    pub async fn probe(&self, now: Moment) -> InstanceFacts {
        let begun = tokio::time::Instant::now();
        let left = || PROBE_DEADLINE.saturating_sub(begun.elapsed());
        let Some(seen) = self.look(left()).await else {
            let why = format!(
                "{} did not answer within {} ms: its disk hangs",
                self.config().data_dir.display(),
                PROBE_DEADLINE.as_millis()
            );
            return InstanceFacts {
                data_directory: DataDirectory::Unreadable { why },
                process: self.unresponsive(now),
            };
        };
        let process = match &seen.running {
            Err(_) => self.unresponsive(now),
            Ok(Running::Nothing) => {
                let mut memory = self.inner().memory.lock();
                (memory.starting, memory.stopping, memory.answered) = (None, None, None);
                Process::Stopped
            }
            Ok(Running::Orphans) => self.stopping(now),
            Ok(Running::Server(server)) => match server.status {
                Status::Starting | Status::Standby => self.starting(now, &seen),
                Status::Stopping => self.stopping(now),
                Status::Ready => self.ask(now, &seen, left()).await,
            },
        };
        InstanceFacts { data_directory: seen.directory, process }
    }

    async fn look(&self, deadline: Duration) -> Option<Seen> {
        let turn = Arc::clone(&self.inner().looking);
        let instance = self.clone();
        let looking = async {
            let turn = turn.lock_owned().await;
            tokio::task::spawn_blocking(move || {
                let _held_while_it_hangs = turn;
                let config = instance.config();
                let control = ControlFile::read(&config.data_dir).ok();
                Seen {
                    directory: classify(config),
                    running: process::running(&config.data_dir),
                    oldest: control
                        .as_ref()
                        .and_then(|it| oldest_wal(&config.data_dir, it.wal_segment_bytes)),
                    control,
                    upstream: written_upstream(config),
                }
            })
            .await
            .ok()
        };
        tokio::time::timeout(deadline, looking).await.ok().flatten()
    }

    fn starting(&self, now: Moment, seen: &Seen) -> Process {
        let mut memory = self.inner().memory.lock();
        memory.stopping = None;
        let since = *memory.starting.get_or_insert(now);
        let as_standby = matches!(&seen.directory, DataDirectory::Initialised(found) if found.standby_signal);
        let upstream = seen.upstream.clone().filter(|_| as_standby);
        Process::Starting { since, as_standby, upstream }
    }

    fn stopping(&self, now: Moment) -> Process {
        let mut memory = self.inner().memory.lock();
        memory.starting = None;
        Process::Stopping { since: *memory.stopping.get_or_insert(now) }
    }

    fn unresponsive(&self, now: Moment) -> Process {
        Process::Unresponsive { since: *self.inner().memory.lock().answered.get_or_insert(now) }
    }

    async fn ask(&self, now: Moment, seen: &Seen, deadline: Duration) -> Process {
        match tokio::time::timeout(deadline, self.answer(deadline)).await {
            Ok(Ok(results)) => match self.read(now, seen, &results) {
                Ok(running) => {
                    let mut memory = self.inner().memory.lock();
                    (memory.starting, memory.stopping, memory.answered) = (None, None, Some(now));
                    Process::Running(running)
                }
                Err(error) => {
                    tracing::warn!(error = %crate::data_dir::sentence(&error), "probe answer not understood");
                    self.unresponsive(now)
                }
            },
            Ok(Err(error)) => match says(&error).as_deref() {
                Some(text) if text.contains("shutting down") => self.stopping(now),
                Some(_) => self.starting(now, seen),
                None => {
                    tracing::debug!(error = %crate::data_dir::sentence(&error), "probe got no answer");
                    self.unresponsive(now)
                }
            },
            Err(_) => self.unresponsive(now),
        }
    }

    async fn answer(&self, deadline: Duration) -> Result<Vec<Rows>, QueryError> {
        let known = self.inner().memory.lock().pending_restart.as_ref().map(|(loaded, _)| loaded.clone());
        self.on_kept_session(WHAT, &sql(&known.unwrap_or_default()), deadline).await
    }

    /// One round trip, on the kept connection if it is alive. It is put back only after a complete answer.
    pub(crate) async fn on_kept_session(
        &self,
        what: &'static str,
        sql: &str,
        deadline: Duration,
    ) -> Result<Vec<Rows>, QueryError> {
        let mut kept = self.inner().session.lock().await;
        if let Some(session) = kept.take().filter(|session| !session.is_closed())
            && let Ok(results) = session.query(what, sql, deadline).await
        {
            *kept = Some(session);
            return Ok(results);
        }
        // The server may have been restarted since: its end shows only in the first query.
        let session = Session::local(self.config(), deadline).await?;
        let results = session.query(what, sql, deadline).await?;
        *kept = Some(session);
        Ok(results)
    }

    /// What was found for the reload of this time, now or before.
    fn pending_restart(&self, loaded: String, found: Option<String>) -> bool {
        let mut memory = self.inner().memory.lock();
        if let Some(found) = found {
            memory.pending_restart = Some((loaded, found == "t"));
        }
        memory.pending_restart.as_ref().is_some_and(|(_, pending)| *pending)
    }

    fn read(&self, now: Moment, seen: &Seen, results: &[Rows]) -> Result<RunningFacts, Error> {
        let [main, replication, slots, receiver] = results else {
            return Err(nonsense(WHAT, format!("{} result sets", results.len())));
        };
        let main = main.first().ok_or_else(|| nonsense(WHAT, "no row".to_owned()))?;
        let text = |at: usize| main.get(at).cloned().flatten();
        let required = |at: usize| text(at).ok_or_else(|| nonsense(WHAT, format!("NULL in column {at}")));
        let lsn = |text: Option<String>| text.and_then(|text| text.parse::<Lsn>().ok()).unwrap_or_default();
        let incarnation = required(2)?;
        let pending_restart = self.pending_restart(required(3)?, text(4));
        let checkpoint_timeline: u32 = required(9)?.parse().unwrap_or(0);

        let (timeline, role) = if required(0)? == "f" {
            let timeline = u32::from_str_radix(&required(8)?, 16)
                .map_err(|_| nonsense(WHAT, "no WAL file name".to_owned()))?;
            let mut memory = self.inner().memory.lock();
            let since = match &memory.primary {
                Some((of, since)) if *of == incarnation => *since,
                Some(_) | None => now,
            };
            memory.primary = Some((incarnation.clone(), since));
            // Proven in this life, and nothing else has been proven since.
            let sync_effective = memory.sync_effective.clone().filter(|effective| {
                memory
                    .sync_proven
                    .as_ref()
                    .is_some_and(|(life, names)| *life == incarnation && *names == effective.names)
            });
            drop(memory);
            let facts = PrimaryFacts {
                written: lsn(text(7)),
                oldest: seen.oldest,
                since,
                checkpointed: checkpoint_timeline == timeline,
                replicas: replication.iter().map(|row| replica(row)).collect(),
                synchronous_standby_names: required(5)?,
                sync_effective,
                forked: forked(&self.config().data_dir, TimelineId(timeline)),
            };
            (TimelineId(timeline), Role::Primary(facts))
        } else {
            self.inner().memory.lock().primary = None;
            let replayed = lsn(text(11));
            let received = lsn(text(10)).max(replayed);
            let helpers = text(13).unwrap_or_default();
            let row = receiver.first().filter(|row| row.first().is_some_and(Option::is_some));
            let cell = |at: usize| row.and_then(|row| row.get(at).cloned().flatten());
            let receiver = match (cell(0).as_deref(), cell(1)) {
                (Some("streaming"), Some(host)) => {
                    let port = cell(2).and_then(|port| port.parse().ok()).unwrap_or(5432);
                    Receiver::Streaming { from: Endpoint { host, port } }
                }
                (Some(_), _) => Receiver::Waiting,
                (None, _) if helpers.contains("walreceiver") => Receiver::Waiting,
                (None, _) => Receiver::Gone,
            };
            let receiving = cell(3).and_then(|timeline| timeline.parse().ok());
            let on_disk = match receiving {
                Some(_) => None,
                None => seen.control.as_ref().and_then(|control| {
                    timeline_on_disk(&self.config().data_dir, received, control.wal_segment_bytes)
                }),
            };
            let by_control = seen
                .control
                .as_ref()
                .map_or(0, |control| control.timeline.0.max(control.min_recovery_timeline.0));
            let timeline =
                by_control.max(checkpoint_timeline).max(receiving.unwrap_or(0)).max(on_disk.unwrap_or(0));
            let facts = StandbyFacts {
                received,
                replayed,
                receiver,
                upstream: upstream_of(&text(6).unwrap_or_default()),
                // The receiver starts only when everything local is replayed, and its position outlives it.
                complete: text(10).is_some() || helpers.contains("startup RecoveryRetrieveRetryInterval"),
                replay_paused: text(12).as_deref() == Some("t"),
            };
            (TimelineId(timeline), Role::Standby(facts))
        };
        Ok(RunningFacts {
            timeline,
            role,
            server_version: required(1)?.parse().unwrap_or(0),
            postmaster_start_time: incarnation,
            pending_restart,
            slots: slots.iter().filter_map(|row| slot(row)).collect(),
        })
    }
}

/// What a server says that refuses everybody for the time being (starting up, shutting down); None: no such answer.
fn says(error: &QueryError) -> Option<String> {
    let (QueryError::Connect { source, .. } | QueryError::Refused { source, .. }) = error else {
        return None;
    };
    let answer = source.as_db_error()?;
    (*answer.code() == SqlState::CANNOT_CONNECT_NOW).then(|| answer.message().to_owned())
}

fn replica(row: &[Option<String>]) -> ReplicaFacts {
    let cell = |at: usize| row.get(at).cloned().flatten().unwrap_or_default();
    ReplicaFacts {
        name: cell(0),
        streaming: cell(1) == "streaming",
        flushed: cell(2).parse().unwrap_or_default(),
        replayed: cell(3).parse().unwrap_or_default(),
        sync_state: match cell(4).as_str() {
            "sync" => SyncState::Sync,
            "quorum" => SyncState::Quorum,
            "potential" => SyncState::Potential,
            _ => SyncState::Async,
        },
    }
}

fn slot(row: &[Option<String>]) -> Option<SlotFacts> {
    let [Some(name), Some(active), Some(kind)] = row else { return None };
    Some(SlotFacts { name: name.clone(), active: active == "t", physical: kind == "physical" })
}

/// Where `timeline` left its parent: the last line of its history file. None on timeline 1.
pub(crate) fn forked(data_dir: &Path, timeline: TimelineId) -> Vec<Fork> {
    let path = data_dir.join(format!("pg_wal/{:08X}.history", timeline.0));
    let (Ok(text), Ok(written)) =
        (fs::read_to_string(&path), fs::metadata(&path).and_then(|it| it.modified()))
    else {
        return Vec::new();
    };
    let Ok(timestamp) = jiff::Timestamp::try_from(written) else { return Vec::new() };
    let timestamp = timestamp.strftime("%Y-%m-%dT%H:%M:%S%.6f+00:00").to_string();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let fork = |line: &str| {
        let mut fields = line.splitn(3, '\t').map(str::trim);
        Some(Fork {
            parent: TimelineId(fields.next()?.parse().ok()?),
            at: fields.next()?.parse().ok()?,
            why: fields.next().unwrap_or_default().to_owned(),
            timestamp: timestamp.clone(),
        })
    };
    lines.filter_map(fork).collect()
}

/// Where the oldest segment in `pg_wal` begins, of whatever timeline.
fn oldest_wal(data_dir: &Path, segment_bytes: u32) -> Option<Lsn> {
    let segment_bytes = u64::from(segment_bytes).max(1);
    let entries = fs::read_dir(data_dir.join("pg_wal")).ok()?;
    let begins = |name: &str| {
        let digits = name.len() == 24 && name.bytes().all(|b| b.is_ascii_hexdigit());
        let number = |part: &str| u64::from_str_radix(part, 16).ok();
        let (log, segment) = (number(name.get(8..16)?)?, number(name.get(16..24)?)?);
        digits.then_some(Lsn((log << 32) + segment * segment_bytes))
    };
    entries.flatten().filter_map(|entry| begins(entry.file_name().to_str()?)).min()
}

/// The highest timeline among the WAL files that hold the byte before `end`.
fn timeline_on_disk(data_dir: &Path, end: Lsn, segment_bytes: u32) -> Option<u32> {
    let segment_bytes = u64::from(segment_bytes).max(1);
    let segment = end.0.checked_sub(1)? / segment_bytes;
    let per_log = (1_u64 << 32) / segment_bytes;
    let suffix = format!("{:08X}{:08X}", segment / per_log, segment % per_log);
    let entries = fs::read_dir(data_dir.join("pg_wal")).ok()?;
    entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let timeline = name.to_str()?.strip_suffix(suffix.as_str())?;
            (timeline.len() == 8).then(|| u32::from_str_radix(timeline, 16).ok())?
        })
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_wal_is_told_by_the_names_of_segments() {
        let dir = tempfile::tempdir().unwrap();
        let wal = dir.path().join("pg_wal");
        fs::create_dir(&wal).unwrap();
        for name in
            ["000000020000000100000003", "000000010000000100000002", "00000002.history", "archive_status"]
        {
            fs::write(wal.join(name), b"").unwrap();
        }
        assert_eq!(oldest_wal(dir.path(), 16 << 20), Some(Lsn((1 << 32) + (2 << 24))));
        assert_eq!(oldest_wal(&dir.path().join("nowhere"), 16 << 20), None);
    }
}
