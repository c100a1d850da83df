//! External programs: bounded in time, killed with their children when they overrun or when nobody waits any more.
//!
//! A program runs in a process group of its own, so that the kill reaches what it started (`pg_basebackup` forks its WAL
//! streamer, `pg_rewind` runs `postgres --single`). The exception is deliberate: `pg_ctl start` puts the postmaster into
//! a session of its own, out of reach of this group, and that is how PostgreSQL survives its agent.
//!
//! Dropping the future kills too: an operation that is aborted leaves no program behind that still writes.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

use crate::config::InstanceConfig;
use crate::error::CommandError;

/// Most bytes of output kept for an error message.
const TAIL_BYTES: usize = 8 << 10;
/// How long output may still arrive after the program has ended (a grandchild may hold the pipe open for ever).
const DRAIN: Duration = Duration::from_millis(200);

/// What a program printed.
pub(crate) struct Output {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// One run of one of PostgreSQL's programs.
pub(crate) struct Run<'a> {
    pub(crate) config: &'a InstanceConfig,
    pub(crate) program: &'static str,
    pub(crate) args: Vec<OsString>,
    pub(crate) deadline: Duration,
}

/// The program's path: in `bin_dir`, else on `PATH`, else where Debian keeps the newest version.
pub(crate) fn binary(config: &InstanceConfig, program: &str) -> Result<PathBuf, CommandError> {
    if !config.bin_dir.as_os_str().is_empty() {
        let path = config.bin_dir.join(program);
        return if path.is_file() {
            Ok(path)
        } else {
            Err(CommandError::Missing {
                program: program.to_owned(),
                place: config.bin_dir.display().to_string(),
            })
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(found) = std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.is_file())
    {
        return Ok(found);
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path())))
        .map(|(version, path)| (version, path.join("bin").join(program)))
        .filter(|(_, path)| path.is_file())
        .max()
        .map(|(_, path)| path)
        .ok_or_else(|| CommandError::Missing {
            program: program.to_owned(),
            place: "PATH and /usr/lib/postgresql/*/bin".to_owned(),
        })
}

impl Run<'_> {
    /// Runs to the end; an exit code other than 0 is an error with the tail of stderr.
    pub(crate) async fn wait(self) -> Result<Output, CommandError> {
        self.wait_with(|_| {}).await
    }

    /// As [`Run::wait`], showing every piece of stderr to `watch` as it arrives.
    pub(crate) async fn wait_with(self, mut watch: impl FnMut(&str) + Send) -> Result<Output, CommandError> {
        let program = self.program.to_owned();
        let mut command = Command::new(binary(self.config, self.program)?);
        command
            .args(&self.args)
            // Not ours: it may be unreadable to the user below. Not the data directory: the fence looks for that.
            .current_dir("/")
            .env("PGPASSFILE", &self.config.pgpass)
            .env("PGCONNECT_TIMEOUT", "10")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        for name in
            ["PGDATA", "PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGPASSWORD", "PGOPTIONS", "PGSERVICE"]
        {
            command.env_remove(name);
        }
        if let Some(user) = self.config.run_as.filter(|_| rustix::process::geteuid().is_root()) {
            command.uid(user.uid).gid(user.gid);
        }
        let mut child =
            command.spawn().map_err(|source| CommandError::Spawn { program: program.clone(), source })?;
        let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw));
        let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
        let mut output = Output { stdout: String::new(), stderr: String::new() };

        let ended = {
            let stdout = &mut output.stdout;
            let stderr = &mut output.stderr;
            let reading = async {
                tokio::join!(read(&mut out, stdout, |_| {}), read(&mut err, stderr, &mut watch));
            };
            let waiting = async {
                tokio::pin!(reading);
                tokio::select! {
                    status = child.wait() => {
                        let _ = tokio::time::timeout(DRAIN, reading).await;
                        status
                    }
                    () = &mut reading => child.wait().await,
                }
            };
            tokio::time::timeout(self.deadline, waiting).await
        };
        match ended {
            Err(_) => {
                group.kill();
                let _ = child.wait().await;
                Err(CommandError::Overrun {
                    program,
                    deadline: self.deadline,
                    stderr: trimmed(&output.stderr),
                })
            }
            Ok(Err(source)) => Err(CommandError::Spawn { program, source }),
            Ok(Ok(status)) => {
                group.0 = None;
                if status.success() {
                    return Ok(output);
                }
                let said = if output.stderr.trim().is_empty() { &output.stdout } else { &output.stderr };
                Err(CommandError::Failed { program, status: status.to_string(), stderr: trimmed(said) })
            }
        }
    }
}

/// Kills the group when dropped, unless it has been waited for (its number may belong to somebody else then).
struct Group(Option<Pid>);

impl Group {
    fn kill(&mut self) {
        if let Some(pid) = self.0.take() {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn read(from: &mut Option<impl AsyncRead + Unpin>, into: &mut String, mut watch: impl FnMut(&str)) {
    let Some(from) = from else { return };
    let mut buffer = [0_u8; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let text = String::from_utf8_lossy(&buffer[..count]);
        watch(&text);
        into.push_str(&text);
        if into.len() > 2 * TAIL_BYTES {
            let mut cut = into.len() - TAIL_BYTES;
            while !into.is_char_boundary(cut) {
                cut += 1;
            }
            into.drain(..cut);
        }
    }
}

/// The last lines, on one line: the message belongs into one sentence.
pub(crate) fn trimmed(text: &str) -> String {
    const LINES: usize = 8;
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(LINES)..].join("; ")
}
