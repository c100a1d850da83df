//! `watch`: follows changes until it is interrupted, and may run a command for each of them.
//!
//! ```text
//! quoratectl watch KEY [RANGE_END] [-- COMMAND ...]       ETCDCTL_WATCH_KEY, ETCDCTL_WATCH_RANGE_END instead of arguments
//! quoratectl watch -i                                     lines: watch [options] KEY [RANGE_END] [-- COMMAND ...]
//!                                                                progress
//! ```
//!
//! The command finds `ETCD_WATCH_REVISION`, and between quotes `ETCD_WATCH_EVENT_TYPE`, `ETCD_WATCH_KEY` and
//! `ETCD_WATCH_VALUE`, in its environment. Exit codes: 5 when interrupted or when the store ends the watch, 3 when the
//! interactive input ends, 1 when the command fails.

use std::ffi::OsString;
use std::io::BufRead;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use clap::{Args, Parser};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use quorate_wire::etcdserverpb::{WatchCreateRequest, WatchResponse};
use tokio::sync::{broadcast, mpsc};

use super::answer::{Form, Printer};
use super::follow::Watcher;
use super::keys::Bytes;
use super::store::prefix_range;
use super::{Context, Failure, Outcome, flags, go, kv, output, txn};

/// Requests for progress that a watch may be behind with.
const PROGRESS_REQUESTS: usize = 16;

/// Arguments of `watch`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Read what to watch from standard input
    #[arg(short, long)]
    interactive: bool,
    #[command(flatten)]
    subject: Subject,
    #[command(flatten)]
    form: Form,
}

/// What is watched.
#[derive(Debug, Args)]
struct Subject {
    /// The key, and the end of a range (exclusive)
    #[arg(value_name = "KEY [RANGE_END]")]
    keys: Vec<Bytes>,
    /// Every key that begins with KEY
    #[arg(long)]
    prefix: bool,
    /// Begin with this revision
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    rev: i64,
    /// Print what was there before
    #[arg(long)]
    prev_kv: bool,
    /// Print a line for progress messages
    #[arg(long)]
    progress_notify: bool,
    /// Run this for every event
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// A line of the interactive mode.
#[derive(Debug, Parser)]
#[command(multicall = true)]
enum Line {
    Watch(Subject),
    Progress,
}

impl Arguments {
    /// Does it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn run(&self, context: &Context) -> Outcome {
        let printer = self.form.printer::<WatchResponse>(context)?;
        let follow = async {
            if self.interactive {
                interactive(context, &printer).await
            } else {
                let separated = std::env::args_os().next_back().is_some_and(|word| word == "--");
                let subject = self.subject.with_variables(separated)?;
                // No line asks for progress here.
                let (_, progress) = broadcast::channel(1);
                subject.follow(context, &printer, progress).await?;
                Err(Failure { message: "watch is canceled by the server".to_owned(), code: 5 })
            }
        };
        tokio::select! {
            ended = follow => ended,
            _ = tokio::signal::ctrl_c() => Err(Failure { message: String::new(), code: 5 }),
        }
    }
}

/// Reads lines for as long as there are any; every watch goes on beside the others.
async fn interactive(context: &Context, printer: &Printer<WatchResponse>) -> Outcome {
    let mut lines = lines_of_stdin();
    let (progress, _) = broadcast::channel(PROGRESS_REQUESTS);
    let mut watches = FuturesUnordered::new();
    loop {
        let line = tokio::select! {
            line = lines.recv() => line,
            Some(ended) = watches.next() => { ended?; continue }
        };
        let Some(line) = line else {
            return Err(Failure::bad_input("error reading watch request line: EOF"));
        };
        let shown = String::from_utf8_lossy(&line).into_owned();
        let words: Vec<OsString> =
            txn::words(&line).unwrap_or_default().into_iter().map(OsString::from_vec).collect();
        let separated = words.last().is_some_and(|word| word == "--");
        match words.first().map(|word| word.as_bytes()) {
            None => {
                output::complain(&format!("Invalid command: {shown} (watch and progress supported)"));
            }
            Some(b"progress") => {
                // Nobody may be watching yet.
                let _ = progress.send(());
            }
            Some(b"watch") => match flags::parse(words) {
                Ok(Line::Watch(subject)) => {
                    let subject = subject.with_variables(separated)?;
                    let progress = progress.subscribe();
                    watches.push(async move { subject.follow(context, printer, progress).await });
                }
                Ok(Line::Progress) => {}
                Err(_) => return Err(Failure::bad_arguments(format!("invalid watch request: {shown}"))),
            },
            Some(_) => output::complain(&format!("Invalid command {shown} (only support watch)")),
        }
    }
}

/// Standard input, read by a thread of its own: a read cannot be called off, and the watches must go on beside it.
fn lines_of_stdin() -> mpsc::Receiver<Vec<u8>> {
    let (sender, lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().split(b'\n').map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

impl Subject {
    /// The key from the variables, where there is none in the arguments. `separated`: the words end with `--`.
    fn with_variables(&self, separated: bool) -> Result<Ready, Failure> {
        if separated {
            return Err(Failure::bad_arguments(
                "bad number of arguments (found separator --, but no commands)",
            ));
        }
        let variable =
            |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(OsStringExt::into_vec);
        let (key, end) = (variable("ETCDCTL_WATCH_KEY"), variable("ETCDCTL_WATCH_RANGE_END"));
        let keys: Vec<Vec<u8>> = match (key, end) {
            (None, Some(end)) => {
                return Err(Failure::bad_arguments(format!(
                    "ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END={}",
                    go::quoted(&end)
                )));
            }
            (Some(_), _) if !self.keys.is_empty() => {
                return Err(Failure::bad_arguments(
                    "bad number of arguments (found conflicting environment key)",
                ));
            }
            (Some(key), end) => std::iter::once(key).chain(end).collect(),
            (None, None) => self.keys.iter().map(|key| key.0.clone()).collect(),
        };
        let (key, range_end) = match keys.as_slice() {
            [key] if self.prefix => prefix_range(key),
            [_, _] if self.prefix => {
                return Err(Failure::bad_arguments("`range_end` and `--prefix` are mutually exclusive"));
            }
            [key] => (key.clone(), Vec::new()),
            [key, end] => (key.clone(), end.clone()),
            _ => return Err(Failure::bad_arguments("bad number of arguments")),
        };
        let create = WatchCreateRequest {
            key: key.into(),
            range_end: range_end.into(),
            start_revision: self.rev.max(0),
            progress_notify: self.progress_notify,
            prev_kv: self.prev_kv,
            ..WatchCreateRequest::default()
        };
        Ok(Ready { create, command: self.command.clone() })
    }
}

/// A watch that can be asked for.
struct Ready {
    create: WatchCreateRequest,
    command: Vec<OsString>,
}

impl Ready {
    /// Prints until the store ends it.
    async fn follow(
        self,
        context: &Context,
        printer: &Printer<WatchResponse>,
        mut progress: broadcast::Receiver<()>,
    ) -> Outcome {
        let mut watcher = Watcher::new(&context.store, self.create);
        loop {
            let response = tokio::select! {
                response = watcher.next() => response?,
                Ok(()) = progress.recv() => { watcher.request_progress(); continue }
            };
            let revision = response.header.as_ref().map_or(0, |header| header.revision);
            if response.canceled {
                let reason = match response.cancel_reason.as_str() {
                    _ if response.compact_revision > 0 => {
                        "etcdserver: mvcc: required revision has been compacted"
                    }
                    "" => "etcdserver: mvcc: required revision is a future revision",
                    reason => reason,
                };
                output::complain(&format!("watch was canceled ({reason})"));
                if response.compact_revision > 0 {
                    let oldest = response.compact_revision;
                    output::complain(&format!("the oldest revision that can be watched from is {oldest}"));
                }
                printer.print(&response);
                return Ok(());
            }
            if response.events.is_empty() {
                output::line(&format!("progress notify: {revision}"));
            }
            printer.print(&response);
            if !self.command.is_empty() {
                for event in &response.events {
                    let found = event.kv.clone().unwrap_or_default();
                    let status = tokio::process::Command::new(&self.command[0])
                        .args(&self.command[1..])
                        .env("ETCD_WATCH_REVISION", revision.to_string())
                        .env("ETCD_WATCH_EVENT_TYPE", format!("{:?}", kv::kind(event)))
                        .env("ETCD_WATCH_KEY", go::quoted(&found.key))
                        .env("ETCD_WATCH_VALUE", go::quoted(&found.value))
                        .status()
                        .await;
                    let reason = match status {
                        Ok(status) if status.success() => continue,
                        Ok(status) => status.to_string(),
                        Err(error) => error.to_string(),
                    };
                    output::complain(&format!("command {:?} error ({reason})", self.command));
                    return Err(Failure::new(String::new()));
                }
            }
        }
    }
}
