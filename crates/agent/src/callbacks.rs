//! Patroni's callbacks: programs of the operator that are told what has happened to PostgreSQL here.
//!
//! ```text
//!   on_start  on_stop  on_restart  on_role_change     told after the fact, one at a time, a new one ends the one that runs
//!   on_reload                                         the same, in a line of its own
//!   pre_promote                                       between the lock and the promotion; its failure hands the lock over
//!   before_stop                                       before an orderly stop, which does not wait for it beyond a bound
//! ```
//!
//! # What is told
//!
//! A callback is called as `words… event role scope`. Which event it is follows from two looks at PostgreSQL ([`Told`]), not from
//! what this agent meant to do: what somebody else started is told too, and an agent that adopts a running server says `on_start`.
//! A change of the role is told as that and nothing else, also where it took a stop and a start. The role of `on_stop` is the one
//! that was stopped. `demoted` is a former primary that could not be started again. What ended by itself was not stopped.
//!
//! # What waits
//!
//! For the callbacks nobody: they are started by tasks of their own, and their exit codes are logged. They survive the agent.
//! The two scripts run inside an operation, beside which the lease is renewed; a fence waits for neither. A primary that is
//! fenced has no `before_stop`. `pre_promote` has no bound of its own: a promotion has one (`primary_start_timeout`), and
//! whoever ends the operation ends the script.
//!
//! # What they may be
//!
//! Only this node's file says it: what can be written through the REST API or the store must not be able to run programs. No shell
//! reads it; words are split as a shell would ([`split`], Python's `shlex`). They run as PostgreSQL's user, as Patroni itself does.
//!
//! Sources: Patroni `postgresql/callback_executor.py`, `postgresql/__init__.py` (`call_nowait`, `follow`, `_pre_promote`,
//! `_before_stop`).

use std::process::Stdio;
use std::time::Duration;

use quorate_ha::facts::{OperationFacts, OperationKind, Outcome, Process, Role, Running};
use quorate_pg::RunAs;
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tokio::process::{Child, Command};
use tokio::sync::watch;

/// An orderly stop waits no longer for its script: one that hangs would keep a switchover, and a shutdown, waiting.
pub const BEFORE_STOP: Duration = Duration::from_secs(10);
/// What a killed callback has started is waited for no longer than this.
const REAPED: Duration = Duration::from_millis(300);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(2);
/// The end of an agent waits no longer until its last callback was started.
const STARTED: Duration = Duration::from_secs(1);

/// What to run; each the words of a command line. None: nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Scripts {
    pub on_start: Option<Vec<String>>,
    pub on_stop: Option<Vec<String>>,
    pub on_restart: Option<Vec<String>>,
    pub on_reload: Option<Vec<String>>,
    pub on_role_change: Option<Vec<String>>,
    pub pre_promote: Option<Vec<String>>,
    pub before_stop: Option<Vec<String>>,
}

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::enum_variant_names)] // as they are written
pub(crate) enum Event {
    OnStart,
    OnStop,
    OnRestart,
    OnReload,
    OnRoleChange,
}

/// As what PostgreSQL is known to the callbacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum As {
    Primary,
    Replica,
    Demoted,
}

impl Event {
    fn word(self) -> &'static str {
        match self {
            Event::OnStart => "on_start",
            Event::OnStop => "on_stop",
            Event::OnRestart => "on_restart",
            Event::OnReload => "on_reload",
            Event::OnRoleChange => "on_role_change",
        }
    }
}

impl As {
    fn word(self) -> &'static str {
        match self {
            As::Primary => "primary",
            As::Replica => "replica",
            As::Demoted => "demoted",
        }
    }
}

/// The words of a command line as Python's `shlex.split` finds them.
///
/// # Errors
/// A sentence: nothing but spaces, a quote that is not closed, a backslash at the end.
pub fn split(line: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word) = (Vec::new(), None::<String>);
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        match c {
            ' ' | '\t' | '\r' | '\n' => words.extend(word.take()),
            '\\' => match rest.next() {
                Some(next) => word.get_or_insert_default().push(next),
                None => return Err("nothing follows the backslash at the end".to_owned()),
            },
            '\'' | '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match rest.next() {
                        None => return Err(format!("the quote {c} is not closed")),
                        Some(next) if next == c => break,
                        Some('\\') if c == '"' => match rest.next() {
                            Some(next @ ('"' | '\\')) => word.push(next),
                            Some(next) => word.extend(['\\', next]),
                            None => return Err(format!("the quote {c} is not closed")),
                        },
                        Some(next) => word.push(next),
                    }
                }
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    if words.is_empty() { Err("names no program".to_owned()) } else { Ok(words) }
}

/// What the callbacks have been told so far.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// As what PostgreSQL ran, and its start time; None: it was never seen to run.
    last: Option<(As, String)>,
    /// It was stopped, and that has been told.
    stopped: bool,
    /// A fence has ended it.
    fenced: bool,
}

impl Told {
    /// A fence has stopped PostgreSQL, or the guard process has.
    pub(crate) fn fenced(&mut self) {
        self.fenced = true;
    }

    /// What is to be told of PostgreSQL as it is seen now, beside the last operation.
    pub(crate) fn see(&mut self, process: &Process, operation: &OperationFacts) -> Option<(Event, As)> {
        match process {
            Process::Running(running) => self.runs(running, operation),
            Process::Stopped => self.is_stopped(operation),
            Process::Starting { .. } | Process::Stopping { .. } | Process::Unresponsive { .. } => None,
        }
    }

    fn runs(&mut self, running: &Running, operation: &OperationFacts) -> Option<(Event, As)> {
        let (kind, over) = last_operation(operation);
        if kind == Some(OperationKind::Bootstrap) && !over {
            return None;
        }
        let now = match running.role {
            Role::Primary(_) => As::Primary,
            Role::Standby(_) => As::Replica,
        };
        let life = &running.postmaster_start_time;
        (self.stopped, self.fenced) = (false, false);
        let last = self.last.replace((now, life.clone()));
        let event = match last {
            Some((before, _)) if before != now => Event::OnRoleChange,
            Some((_, same)) if same == *life => return None,
            Some(_) if kind == Some(OperationKind::Restart) => Event::OnRestart,
            Some(_) | None => Event::OnStart,
        };
        Some((event, now))
    }

    fn is_stopped(&mut self, operation: &OperationFacts) -> Option<(Event, As)> {
        let (kind, _) = last_operation(operation);
        let by_us = match kind {
            Some(OperationKind::Stop | OperationKind::Clone | OperationKind::Rewind) => true,
            // The start that follows says it, and a start that fails is no stop.
            Some(
                OperationKind::Restart
                | OperationKind::Bootstrap
                | OperationKind::StartAsStandby
                | OperationKind::StartAsPrimary
                | OperationKind::Promote,
            )
            | None => self.fenced,
        };
        if by_us && let Some(told) = self.stop() {
            return Some(told);
        }
        let failed = matches!(operation, OperationFacts::Finished { outcome: Outcome::Failed { .. }, .. });
        match &mut self.last {
            Some((before @ As::Primary, _)) if failed && kind == Some(OperationKind::StartAsStandby) => {
                *before = As::Demoted;
                Some((Event::OnRoleChange, As::Demoted))
            }
            Some(_) | None => None,
        }
    }

    /// PostgreSQL has been stopped in good order, or by a fence: what is to be told, once.
    pub(crate) fn stop(&mut self) -> Option<(Event, As)> {
        let (role, _) = self.last.as_ref().filter(|_| !self.stopped)?;
        self.stopped = true;
        Some((Event::OnStop, *role))
    }

    /// A reload of what runs.
    pub(crate) fn reload(&self) -> Option<(Event, As)> {
        let (role, _) = self.last.as_ref().filter(|_| !self.stopped)?;
        Some((Event::OnReload, *role))
    }
}

/// Which it was, and whether it is over.
fn last_operation(operation: &OperationFacts) -> (Option<OperationKind>, bool) {
    match operation {
        OperationFacts::Idle => (None, true),
        OperationFacts::Running { kind, .. } => (Some(*kind), false),
        OperationFacts::Finished { kind, .. } => (Some(*kind), true),
    }
}

/// Why a script that is waited for did not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScriptError {
    #[error("{script} could not be started")]
    Spawn {
        script: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("{script} has ended with {status}")]
    Failed { script: &'static str, status: std::process::ExitStatus },
}

/// Runs them.
pub(crate) struct Callbacks {
    scripts: Scripts,
    scope: String,
    run_as: Option<RunAs>,
    events: Line,
    reloads: Line,
}

impl Callbacks {
    pub(crate) fn new(scripts: Scripts, scope: String, run_as: Option<RunAs>) -> Callbacks {
        let run_as = run_as.filter(|_| rustix::process::geteuid().is_root());
        Callbacks { scripts, scope, run_as, events: Line::new(), reloads: Line::new() }
    }

    /// Calls the callback of an event, if there is one, and waits for nothing.
    pub(crate) fn call(&self, event: Event, role: As) {
        let (words, line) = match event {
            Event::OnStart => (&self.scripts.on_start, &self.events),
            Event::OnStop => (&self.scripts.on_stop, &self.events),
            Event::OnRestart => (&self.scripts.on_restart, &self.events),
            Event::OnRoleChange => (&self.scripts.on_role_change, &self.events),
            Event::OnReload => (&self.scripts.on_reload, &self.reloads),
        };
        let Some(words) = words else { return };
        let arguments = [event.word(), role.word(), self.scope.as_str()].map(str::to_owned);
        let words = words.iter().cloned().chain(arguments).collect();
        line.call(words, self.run_as);
    }

    /// Returns when the last callback that was called has been started.
    pub(crate) async fn started(&self) {
        let both = async {
            tokio::join!(self.events.started(), self.reloads.started());
        };
        if tokio::time::timeout(STARTED, both).await.is_err() {
            tracing::warn!("the last callback was not started: the one before it does not end");
        }
    }

    /// `pre_promote`.
    ///
    /// # Errors
    /// [`ScriptError`]: no promotion.
    pub(crate) async fn pre_promote(&self) -> Result<(), ScriptError> {
        match &self.scripts.pre_promote {
            Some(words) => self.script("pre_promote", words).await,
            None => Ok(()),
        }
    }

    /// `before_stop`, for no longer than `bound`.
    pub(crate) async fn before_stop(&self, bound: Duration) {
        let Some(words) = &self.scripts.before_stop else { return };
        match tokio::time::timeout(bound, self.script("before_stop", words)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = crate::execute::chain(&error), "PostgreSQL is stopped all the same");
            }
            Err(_) => tracing::warn!(
                after_ms = bound.as_millis(),
                "before_stop does not end: it is killed, and PostgreSQL is stopped"
            ),
        }
    }

    /// Dropping it kills the script and what it has started.
    async fn script(&self, script: &'static str, words: &[String]) -> Result<(), ScriptError> {
        tracing::info!(script, "running");
        let failed = |source| ScriptError::Spawn { script, source };
        let mut running = Started(start(words, self.run_as).map_err(failed)?);
        let status = running.0.wait().await.map_err(failed)?;
        tracing::info!(script, %status, "ended");
        if status.success() { Ok(()) } else { Err(ScriptError::Failed { script, status }) }
    }
}

#[derive(Debug, Clone, Default)]
struct Call {
    /// Counted from 1.
    number: u64,
    words: Vec<String>,
    run_as: Option<RunAs>,
}

/// One at a time: a call waits for the end of the one before, which it has killed, and takes the place of one that still waits.
struct Line {
    calls: watch::Sender<Call>,
    started: watch::Receiver<u64>,
}

impl Line {
    fn new() -> Line {
        let (calls, waiting) = watch::channel(Call::default());
        let (starting, started) = watch::channel(0);
        tokio::spawn(one_at_a_time(waiting, starting));
        Line { calls, started }
    }

    fn call(&self, words: Vec<String>, run_as: Option<RunAs>) {
        self.calls.send_modify(|call| *call = Call { number: call.number + 1, words, run_as });
    }

    async fn started(&self) {
        let called = self.calls.borrow().number;
        let _ = self.started.clone().wait_for(|started| *started >= called).await; // else its task has ended
    }
}

/// Ends with the agent, and leaves what runs then to itself.
async fn one_at_a_time(mut calls: watch::Receiver<Call>, starting: watch::Sender<u64>) {
    let mut called = calls.changed().await.is_ok();
    while called {
        let Call { number, words, run_as } = calls.borrow_and_update().clone();
        let running = start(&words, run_as);
        starting.send_replace(number);
        let callback = words.join(" ");
        called = match running {
            Err(error) => {
                tracing::error!(callback, %error, "a callback could not be started");
                calls.changed().await.is_ok()
            }
            Ok(mut running) => tokio::select! {
                ended = running.wait() => {
                    match ended {
                        Ok(status) => tracing::debug!(callback, %status, "a callback has ended"),
                        Err(error) => tracing::error!(callback, %error, "a callback was lost"),
                    }
                    calls.changed().await.is_ok()
                }
                next = calls.changed() => {
                    if next.is_ok() {
                        tracing::warn!(callback, "a callback is killed: there is something newer to tell");
                        let group = kill(&running);
                        let _ = running.wait().await; // one that cannot be killed is waited for, as in Patroni
                        gone(group).await;
                    }
                    next.is_ok()
                }
            },
        };
    }
}

/// In a process group of its own, so that a kill reaches what it has started.
fn start(words: &[String], run_as: Option<RunAs>) -> std::io::Result<Child> {
    let (program, arguments) = words.split_first().ok_or(std::io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).process_group(0);
    if let Some(user) = run_as {
        command.uid(user.uid).gid(user.gid);
    }
    command.spawn()
}

/// Its group; None: it has been waited for, and its number may be somebody else's.
fn kill(child: &Child) -> Option<Pid> {
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw)?;
    let _ = kill_process_group(group, Signal::KILL);
    Some(group)
}

/// What a killed script had started is dead a moment after it, not with it. Where nobody reaps, the dead are waited for in vain.
async fn gone(group: Option<Pid>) {
    let Some(group) = group else { return };
    let empty = async {
        while test_kill_process_group(group).is_ok() {
            tokio::time::sleep(LOOK).await;
        }
    };
    let _ = tokio::time::timeout(REAPED, empty).await; // the next callback is worth more than certainty
}

/// Killed with its group when it is dropped.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = kill(&self.0); // nobody waits for it any more
    }
}

#[cfg(test)]
mod tests;
