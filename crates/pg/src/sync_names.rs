//! `synchronous_standby_names`, and the proof that a change of it is in effect.
//!
//! # Problem
//!
//! The store lists the sets that may have confirmed a commit; taking over is safe because enough of every listed set has promised.
//! So before the store drops a former set, nothing may acknowledge under it any more, and **at no moment may a commit be
//! acknowledged by a combination that satisfies no listed set**. PostgreSQL guarantees neither by itself:
//!
//! - Every walsender releases waiting commits by *its own* copy of the parameter, read whenever it gets to it, but counts *all*
//!   walsenders by the priority that each has published from its own copy. While a change from `ANY 2 (a, b, c)` to `ANY 1 (d)` spreads,
//!   the walsender of d already counts "any one" and still sees a with a priority: it releases a commit that only a has flushed. That
//!   satisfies neither set; b and c and d may take over without it.
//! - A backend skips waiting when a shared flag says that no names are defined. The checkpointer maintains that flag, and it
//!   may be busy for seconds.
//! - A walsender that is stopped or swapped out acts by the old copy when it wakes.
//!
//! # Model: a barrier
//!
//! Between the old value and the new one stands a value that names nobody, fresh for every change:
//!
//! ```text
//!   old ──► ANY 1 ("quorate barrier 4711") ──► new
//!           1 a new connection shows it        4 a session shows it
//!           2 every walsender has priority 0   5 read the WAL insert position
//!           3 a commit waits
//! ```
//!
//! 1. New backends inherit from the postmaster: it has read the barrier and has signalled every older process.
//! 2. A walsender publishes priority 0 only from a copy that does not name it, and one with priority 0 releases nobody. A mixture of
//!    old and barrier counts fewer standbys than old does: what is released satisfies the old set. When all published priorities are
//!    0, nobody has the old copy. A walsender that is not in the list yet was signalled before step 1 ended, still has to talk to its
//!    standby, and reads the configuration before the first answer that it takes. (Where the old value named nobody who is connected, all are
//!    0 from the beginning. A walsender with the old copy and priority 0 releases nobody either, and it re-reads before it next counts.)
//! 3. A commit of our own, in a session of its own, is seen waiting (`SyncRep`): the flag is set. Then it is cancelled. It is an empty
//!    message in the WAL, and nobody else has seen it acknowledged.
//! 4. A mixture of barrier and new satisfies the new set, by the argument of 2.
//! 5. Whatever was acknowledged under the old value had been flushed before: it lies before this position. When enough of the new
//!    set has confirmed the position, the store may name the new set alone.
//!
//! Commits that wait stall for the few milliseconds in between. One that a standby confirmed just then has released nobody and would wait for
//! the standby's next answer, up to ten seconds: a last message in the WAL brings that answer at once. If a walsender does not get to it in time (stopped, stuck in the kernel),
//! the old value is written back and the answer is [`Error::NotEffective`] with its process id: the old set stays listed, which
//! is always safe. It is not killed: PostgreSQL would restart every backend.
//!
//! An empty value needs no barrier: under it everything is acknowledged, so nothing can be acknowledged "otherwise".
//!
//! # On a standby
//!
//! The file is what it will be promoted under. [`NOBODY`] is the value for a standby of a synchronous cluster: the flag is then set from
//! the start of the server on, and a promoted node acknowledges nothing until its set is listed and written.
//!
//! # What is missing
//!
//! A name is matched against `application_name`, which any client of the replication role may choose. Sessions with
//! `synchronous_commit` at `local` or `off` do not wait; a cancelled wait is no acknowledgement, although PostgreSQL shows a commit.
//!
//! Sources: PostgreSQL `syncrep.c` (`SyncRepReleaseWaiters`, `SyncRepGetCandidateStandbys`, `SyncRepUpdateSyncStandbysDefined`),
//! `walsender.c` (`WalSndLoop`), `checkpointer.c`.

use std::time::Duration;

use quorate_ha::facts::{Lsn, SyncEffective};

use crate::conf::{SYNC, quoted};
use crate::config::InstanceConfig;
use crate::data_dir::Paths;
use crate::error::Error;
use crate::files;
use crate::instance::Instance;
use crate::process::{self, Running, Status};
use crate::session::Session;
use crate::standby::{nonsense, shows};

/// A value under which nothing is acknowledged.
pub const NOBODY: &str = "ANY 1 (\"quorate nobody\")";

/// Between two looks at processes that read their configuration.
const POLL: Duration = Duration::from_millis(2);

/// Looks before the commits are stirred all the same: a walsender that is later than this costs a wait, never a commit.
const STIR_LOOKS: u32 = 30;

/// How standbys are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `FIRST k (…)`: the connected ones of highest priority.
    First,
    /// `ANY k (…)`: whichever confirm first.
    Any,
}

/// The value of `synchronous_standby_names` by which `confirm` of `members` must confirm; empty if `confirm` is 0 or there are
/// no members. Names are always quoted: `*` then means a standby of that name.
#[must_use]
pub fn render<'a>(method: Method, confirm: usize, members: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<String> =
        members.into_iter().map(|name| format!("\"{}\"", name.replace('"', "\"\""))).collect();
    if confirm == 0 || names.is_empty() {
        return String::new();
    }
    let method = match method {
        Method::First => "FIRST",
        Method::Any => "ANY",
    };
    format!("{method} {confirm} ({})", names.join(","))
}

/// Writes the value. True: the file changed.
pub(crate) fn write(config: &InstanceConfig, names: &str) -> Result<bool, Error> {
    let paths = Paths(config);
    let text = format!("synchronous_standby_names = {}\n", quoted(names));
    Ok(files::replace_if_changed(&paths.inside(SYNC), text.as_bytes(), 0o600, paths.owner())?)
}

impl Instance {
    /// Writes `synchronous_standby_names` durably. On a running primary it goes through the barrier of this module's essay, so that
    /// no commit is acknowledged by a mixture; on a standby or a stopped instance it is the value of the next promotion or start.
    ///
    /// # Errors
    /// [`Error::NotEffective`], or a query's error: the former value is back in the file.
    pub async fn set_sync_names(&self, names: &str, deadline: Duration) -> Result<(), Error> {
        let _one_at_a_time = self.inner().sync_change.lock().await;
        match process::running(&self.config().data_dir)? {
            // A standby is asked on the connection that is there, for a promotion waits.
            Running::Server(server)
                if server.status == Status::Ready && !self.in_recovery(deadline).await? =>
            {
                self.change_sync_names(names, deadline).await.map(|_| ())
            }
            Running::Nothing | Running::Orphans | Running::Server(_) => {
                write(self.config(), names)?;
                self.reload()
            }
        }
    }

    async fn in_recovery(&self, deadline: Duration) -> Result<bool, Error> {
        let answer =
            self.on_kept_session("is it in recovery", "SELECT pg_is_in_recovery()", deadline).await?;
        Ok(answer.first().and_then(|rows| rows.first()?.first()?.as_deref()) == Some("t"))
    }

    /// On a running primary: proves that nothing acknowledges a commit under another value than `names`, then reads the WAL insert
    /// position. Cheap when [`Instance::set_sync_names`] has done the work in this life of the server, else it does it.
    ///
    /// # Errors
    /// As [`Instance::set_sync_names`]; [`Error::WrongState`] on a standby.
    pub async fn confirm_sync_effective(
        &self,
        names: &str,
        deadline: Duration,
    ) -> Result<SyncEffective, Error> {
        let _one_at_a_time = self.inner().sync_change.lock().await;
        let at = match self.change_sync_names(names, deadline).await? {
            Some(at) => at,
            None => {
                let path = self.config().data_dir.clone();
                return Err(Error::WrongState { path, is: "is in recovery: it acknowledges nothing" });
            }
        };
        let effective = SyncEffective { names: names.to_owned(), at };
        self.inner().memory.lock().sync_effective = Some(effective.clone());
        Ok(effective)
    }

    /// The change; None: the server is in recovery, only the file counts.
    async fn change_sync_names(&self, names: &str, deadline: Duration) -> Result<Option<Lsn>, Error> {
        const WHAT: &str = "read the present synchronous_standby_names";
        let session = Session::local(self.config(), deadline).await?;
        let rows = session
            .query(
                WHAT,
                "SELECT pg_is_in_recovery(), current_setting('synchronous_standby_names'), \
                 pg_postmaster_start_time()::text",
                deadline,
            )
            .await?;
        let row = rows.into_iter().flatten().next().unwrap_or_default();
        let [Some(recovery), Some(present), Some(incarnation)] = row.as_slice() else {
            return Err(nonsense(WHAT, format!("{row:?}")));
        };
        if recovery == "t" {
            write(self.config(), names)?;
            self.reload()?;
            return Ok(None);
        }
        let key = (incarnation.clone(), names.to_owned());
        let proven = present == names && self.inner().memory.lock().sync_proven.as_ref() == Some(&key);
        if !proven {
            self.inner().memory.lock().sync_proven = None;
            // Also when this future is dropped: a barrier must not stay behind, commits would wait until somebody looks. (One left
            // by a process that died is replaced by the next change.)
            let restore = Restore { instance: self, names: Some(present.clone()) };
            // The rest of the time is for finding out who is late.
            let changing =
                tokio::time::timeout(deadline.mul_f32(0.7), self.through_barrier(&session, names, deadline));
            match changing.await {
                Ok(changed) => changed?,
                Err(_) => return Err(self.who_is_late(&session, deadline).await),
            }
            restore.disarm();
            self.inner().memory.lock().sync_proven = Some(key);
        }
        // 5.
        let at = session
            .value("read the WAL insert position", "SELECT pg_current_wal_insert_lsn()::text", deadline)
            .await?
            .unwrap_or_default();
        at.parse().map(Some).map_err(|_| nonsense("read the WAL insert position", at))
    }

    async fn through_barrier(&self, session: &Session, names: &str, deadline: Duration) -> Result<(), Error> {
        if !names.is_empty() {
            let since_boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
            let barrier = render(
                Method::Any,
                1,
                [format!("quorate barrier {}.{:09}", since_boot.tv_sec, since_boot.tv_nsec).as_str()],
            );
            write(self.config(), &barrier)?;
            self.reload()?;
            // 1.
            let fresh =
                self.postmaster_shows(session, "synchronous_standby_names", &barrier, deadline).await?;
            // 2.
            while !old_walsenders(session, deadline).await?.is_empty() {
                tokio::time::sleep(POLL).await;
            }
            // 3.
            commits_wait(session, &fresh, deadline).await?;
        }
        write(self.config(), names)?;
        self.reload()?;
        // 4.
        shows(session, "synchronous_standby_names", names, deadline).await?;
        if !names.is_empty() {
            stir(session, deadline).await?;
        }
        Ok(())
    }

    async fn who_is_late(&self, session: &Session, deadline: Duration) -> Error {
        let who = match old_walsenders(session, deadline.mul_f32(0.2)).await {
            Ok(late) if !late.is_empty() => format!("walsender {}", late.join(", walsender ")),
            Ok(_) => "the checkpointer or the postmaster".to_owned(),
            Err(error) => crate::data_dir::sentence(&error),
        };
        Error::NotEffective { who, waited: deadline }
    }
}

/// Lets go of commits that standbys confirmed while the barrier stood. Such a confirmation released nobody, and a standby that has
/// everything answers again only after `wal_receiver_status_interval`, ten seconds: something new in the WAL makes it answer
/// now. It has to come after its walsender has read the new value, or that answer is lost too.
async fn stir(session: &Session, deadline: Duration) -> Result<(), Error> {
    const WHAT: &str = "which walsenders have read the new synchronous_standby_names";
    // Names are always quoted there (`render`).
    let unread = "SELECT count(*) FROM pg_stat_replication WHERE sync_priority = 0 AND position(\
                  '\"' || replace(application_name, '\"', '\"\"') || '\"' IN current_setting('synchronous_standby_names')) > 0";
    for _ in 0..STIR_LOOKS {
        if session.value(WHAT, unread, deadline).await?.as_deref() == Some("0") {
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    session.query(WHAT, "SET synchronous_commit = local", deadline).await?;
    session.query(WHAT, "SELECT pg_logical_emit_message(true, 'quorate', '')", deadline).await?;
    Ok(())
}

/// Commits something of our own until one is seen waiting for standbys, then lets it go.
async fn commits_wait(observer: &Session, prober: &Session, deadline: Duration) -> Result<(), Error> {
    const WHAT: &str = "does a commit wait for standbys";
    let pid = prober.value(WHAT, "SELECT pg_backend_pid()", deadline).await?.unwrap_or_default();
    let pid: u32 = pid.parse().map_err(|_| nonsense(WHAT, pid))?;
    prober.query(WHAT, "SET synchronous_commit = on", deadline).await?;
    loop {
        let commit = prober.query(WHAT, "SELECT pg_logical_emit_message(true, 'quorate', '')", deadline);
        let waiting = async {
            let sql = format!("SELECT wait_event FROM pg_stat_activity WHERE pid = {pid}");
            while observer.value(WHAT, &sql, deadline).await?.as_deref() != Some("SyncRep") {
                tokio::time::sleep(POLL).await;
            }
            Ok::<(), Error>(())
        };
        tokio::pin!(commit);
        tokio::select! {
            seen = waiting => {
                seen?;
                // Ends the wait; whether it ends as success with a warning or as an error does not matter.
                observer.query(WHAT, &format!("SELECT pg_terminate_backend({pid})"), deadline).await?;
                return Ok(());
            }
            // Acknowledged: the flag is not set yet.
            committed = &mut commit => { committed?; }
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Writes the former value back when dropped.
struct Restore<'a> {
    instance: &'a Instance,
    names: Option<String>,
}

impl Restore<'_> {
    fn disarm(mut self) {
        self.names = None;
    }
}

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        let Some(names) = self.names.take() else { return };
        let restored = write(self.instance.config(), &names).and_then(|_| self.instance.reload());
        if let Err(error) = restored {
            tracing::error!(
                error = %crate::data_dir::sentence(&error),
                "synchronous_standby_names could not be set back: commits wait until the next change"
            );
        }
    }
}

/// Walsenders that have not read the barrier.
async fn old_walsenders(session: &Session, deadline: Duration) -> Result<Vec<String>, Error> {
    let rows = session
        .query(
            "which walsenders have read the barrier",
            "SELECT pid || ' of ' || application_name FROM pg_stat_replication WHERE sync_priority <> 0",
            deadline,
        )
        .await?;
    Ok(rows.into_iter().flatten().flatten().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_and_an_empty_set_is_empty() {
        assert_eq!(render(Method::Any, 2, ["a", "b\"c", "*"]), "ANY 2 (\"a\",\"b\"\"c\",\"*\")");
        assert_eq!(render(Method::First, 1, ["a"]), "FIRST 1 (\"a\")");
        assert_eq!(render(Method::Any, 0, ["a"]), "");
        assert_eq!(render(Method::Any, 1, []), "");
    }
}
