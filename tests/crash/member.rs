//! One `quorate store` process and its directory.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// Everything that is waited for; generous, because the machine is shared.
pub(crate) const SETTLE: Duration = Duration::from_secs(60);

/// Dropping it kills the process.
pub(crate) struct Member {
    pub(crate) name: String,
    /// `address:port` for clients.
    pub(crate) client: String,
    peer: String,
    pub(crate) data: PathBuf,
    /// Its output, of all its lives.
    pub(crate) output: PathBuf,
    process: Option<Child>,
}

impl Member {
    /// Not started yet. The data directory is `disk/data`.
    pub(crate) fn new(name: &str, address: &str, disk: &Path, output: PathBuf) -> Member {
        Member {
            name: name.to_owned(),
            client: format!("{address}:2379"),
            peer: format!("{address}:2380"),
            data: disk.join("data"),
            output,
            process: None,
        }
    }

    /// `name=URL`, as `--initial-cluster` lists it.
    pub(crate) fn initial(&self) -> String {
        format!("{}=http://{}", self.name, self.peer)
    }

    /// Starts it. `before`: what stands before the store's own command line.
    ///
    /// # Errors
    /// The process cannot be started.
    pub(crate) fn start(&mut self, initial: &str, before: &[&str]) -> Result<()> {
        ensure!(self.process.is_none(), "{} runs", self.name);
        let (client, peer) = (format!("http://{}", self.client), format!("http://{}", self.peer));
        let output = File::options().create(true).append(true).open(&self.output)?;
        let mut command: Vec<String> = before.iter().map(|word| (*word).to_owned()).collect();
        command.extend(quorate_tests::store_command());
        let process = Command::new(&command[0])
            .args(&command[1..])
            .args(["--name", &self.name, "--data-dir", &self.data.display().to_string()])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", initial])
            // A machine that is shared lets nobody run for half a second now and then: an election for each would be all there is.
            .args(["--heartbeat-interval", "100", "--election-timeout", "600"])
            // Snapshots and purges all the time, not every ten thousand entries.
            .args(["--snapshot-count", "200"])
            .env("RUST_LOG", "info,openraft=off")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()?;
        self.process = Some(process);
        Ok(())
    }

    pub(crate) fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// None: it does not run.
    pub(crate) fn pid(&self) -> Option<Pid> {
        self.process.as_ref().map(Pid::from_child)
    }

    /// SIGKILL, not waited for: several members are to end at the same moment.
    pub(crate) fn strike(&self) {
        if let Some(pid) = self.pid() {
            // It is our child, waited for nowhere yet: its pid is its own.
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// Waits for a process that was struck.
    pub(crate) fn bury(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.wait();
        }
    }

    pub(crate) fn kill(&mut self) {
        self.strike();
        self.bury();
    }

    /// How it ended by itself, if it has. Its process is gone then.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.process.as_mut()?.try_wait().ok()??;
        self.process = None;
        Some(status)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It goes on.
    pub(crate) fn wait_for_end(&mut self) -> Result<ExitStatus> {
        let until = Instant::now() + SETTLE;
        while Instant::now() < until {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("{} goes on; it said last: {}", self.name, self.last_words());
    }

    /// SIGTERM and the orderly end.
    ///
    /// # Errors
    /// It does not end, or not in order.
    pub(crate) fn stop(&mut self) -> Result<()> {
        let Some(pid) = self.pid() else { bail!("{} does not run", self.name) };
        kill_process(pid, Signal::TERM)?;
        let status = self.wait_for_end()?;
        ensure!(status.success(), "{} ended with {status}: {}", self.name, self.last_words());
        Ok(())
    }

    /// Everything it has said since `from`, an earlier length of its output.
    pub(crate) fn said(&self, from: u64) -> String {
        let output = std::fs::read(&self.output).unwrap_or_default();
        let from = usize::try_from(from).unwrap_or(0).min(output.len());
        String::from_utf8_lossy(&output[from..]).into_owned()
    }

    /// For [`Member::said`].
    pub(crate) fn spoken(&self) -> u64 {
        self.output.metadata().map_or(0, |meta| meta.len())
    }

    /// The end of its output.
    pub(crate) fn last_words(&self) -> String {
        let output = self.said(0);
        let lines: Vec<&str> = output.lines().collect();
        lines[lines.len().saturating_sub(3)..].join("\n")
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}
