//! `lock`: takes a named lock and holds it until it is told to stop, or while a command runs.
//!
//! The command finds `ETCD_LOCK_KEY` and `ETCD_LOCK_REV` in its environment; its exit code becomes this tool's.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::ExitStatus;

use clap::Args;

use super::answer::Form;
use super::kv::Keys;
use super::queue::{Place, asked_to_stop};
use super::{Context, Failure, Outcome};

/// Arguments of `lock`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The lock's name, and a command to run under it
    #[arg(value_name = "NAME [COMMAND ...]")]
    words: Vec<OsString>,
    /// How long the lock outlives a holder that is gone, in seconds
    #[arg(long, default_value_t = 10, allow_negative_numbers = true)]
    ttl: i64,
    #[command(flatten)]
    form: Form,
}

impl Arguments {
    /// Does it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn run(&self, context: &Context) -> Outcome {
        let Some((name, command)) = self.words.split_first() else {
            return Err(Failure::bad_arguments(
                "lock takes a lock name argument and an optional command to execute",
            ));
        };
        let printer = self.form.printer::<Keys>(context)?;
        let mut place = Place::take(&context.store, name.as_bytes(), self.ttl, b"").await?;
        let renewing = place.renewing();
        tokio::pin!(renewing);
        let waited = tokio::select! {
            waited = place.wait() => Some(waited),
            lost = &mut renewing => { lost?; Some(Err(Failure::new("session expired"))) }
            stopped = asked_to_stop() => { stopped?; None }
        };
        match waited {
            Some(Ok(())) => {}
            Some(Err(failure)) => {
                let _ = place.leave().await;
                return Err(failure);
            }
            // Told to stop while waiting: nothing was held.
            None => {
                let _ = place.leave().await;
                return Err(Failure::new("context canceled"));
            }
        }
        if !command.is_empty() {
            let run = tokio::process::Command::new(&command[0])
                .args(&command[1..])
                .env("ETCD_LOCK_KEY", OsString::from_vec(place.key.clone()))
                .env("ETCD_LOCK_REV", place.seen.to_string())
                .status();
            tokio::pin!(run);
            // A session that is lost does not end the command: it has been told nothing, as by etcdctl.
            let ended = tokio::select! {
                ended = &mut run => ended,
                _ = &mut renewing => run.await,
            };
            let left = place.leave().await;
            let name = command[0].to_string_lossy().into_owned();
            let status = ended.map_err(|error| Failure::new(format!("exec: {name:?}: {error}")))?;
            if !status.success() {
                return Err(exit(status));
            }
            return left;
        }
        let found = place.read().await?;
        if found.kvs.is_empty() {
            return Err(Failure::new("lock lost on init"));
        }
        printer.print(&Keys { response: found, values_only: false });
        tokio::select! {
            stopped = asked_to_stop() => { stopped?; place.leave().await }
            lost = &mut renewing => { lost?; Err(Failure::new("session expired")) }
        }
    }
}

fn exit(status: ExitStatus) -> Failure {
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    let reason = status.code().map_or_else(|| status.to_string(), |code| format!("exit status {code}"));
    Failure { message: reason, code }
}
