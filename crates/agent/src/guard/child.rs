//! Starting a guard process, finding those of agents before us, ending one.
//!
//! The program is `/proc/self/exe`: this very executable, also after a new version was put in its place. What a guard is
//! told lies in its arguments, and by them it is found again: `quorate guard --data-dir DIR …`.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::process::Options;
use crate::watchdog::Safety;

/// The subcommand.
pub const VERB: &str = "guard";
const DATA_DIR: &str = "--data-dir";
const STOP_BUDGET: &str = "--stop-budget-ms";
const DEVICE: &str = "--watchdog";
const SAFETY: &str = "--safety-ms";

/// How long a killed process may take to be gone before it is left to itself.
const REAP: Duration = Duration::from_millis(500);

impl Options {
    /// As the arguments behind `quorate`.
    #[must_use]
    pub fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec![
            VERB.into(),
            DATA_DIR.into(),
            self.data_dir.clone().into(),
            STOP_BUDGET.into(),
            self.stop_budget.as_millis().to_string().into(),
        ];
        if let Some((device, safety)) = &self.watchdog {
            let safety = match safety {
                Safety::Before(safety) => safety.as_millis().to_string(),
                Safety::Half => "-1".to_owned(),
            };
            arguments.extend([DEVICE.into(), device.clone().into(), SAFETY.into(), safety.into()]);
        }
        arguments
    }

    /// From the arguments behind `quorate guard`.
    ///
    /// # Errors
    /// The sentence which one is wrong. People do not call this; the agent does.
    pub fn parse(arguments: &[OsString]) -> Result<Options, String> {
        let value = |name: &str| -> Option<&OsString> {
            let at = arguments.iter().position(|argument| argument == name)?;
            arguments.get(at + 1)
        };
        let number = |name: &str| -> Option<i64> { value(name)?.to_str()?.parse().ok() };
        let data_dir = value(DATA_DIR).map(PathBuf::from).ok_or("--data-dir is missing")?;
        let stop_budget = number(STOP_BUDGET).and_then(|ms| u64::try_from(ms).ok());
        let stop_budget = Duration::from_millis(stop_budget.ok_or("--stop-budget-ms is no number")?);
        let watchdog = match value(DEVICE) {
            None => None,
            Some(device) => {
                let safety = match number(SAFETY).ok_or("--safety-ms is no number")? {
                    -1 => Safety::Half,
                    ms => Safety::Before(Duration::from_millis(ms.unsigned_abs())),
                };
                Some((PathBuf::from(device), safety))
            }
        };
        Ok(Options { data_dir, stop_budget, watchdog })
    }
}

/// A process that can be waited for and killed without its number being mistaken.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) fd: OwnedFd,
}

impl Process {
    fn open(pid: i32) -> io::Result<Process> {
        let raw = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Process { pid, fd: pidfd_open(raw, PidfdFlags::empty())? })
    }

    /// True when it is gone.
    pub(crate) fn ended(&self, patience: Duration) -> bool {
        let wait = Timespec {
            tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: patience.subsec_nanos().into(),
        };
        matches!(poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&wait)), Ok(1))
    }

    /// SIGKILL, which a stopped process obeys too. True when it is gone.
    pub(crate) fn kill(&self) -> bool {
        let _ = pidfd_send_signal(&self.fd, Signal::KILL); // gone already is as good
        self.ended(REAP)
    }
}

/// A guard that this process has started.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) process: Process,
    pub(crate) socket: OwnedFd,
    child: std::process::Child,
}

impl Child {
    /// Starts one. It has not answered yet.
    pub(crate) fn start(program: &Path, options: &Options) -> io::Result<Child> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let child = Command::new(program)
            .arg0("quorate")
            .args(options.arguments())
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            // Its one line belongs into the agent's log.
            .stderr(Stdio::inherit())
            .spawn()?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        Ok(Child { process: Process::open(pid)?, socket: ours, child })
    }

    /// Ends it and takes its exit in.
    pub(crate) fn end(mut self) {
        if self.process.kill() {
            let _ = self.child.wait();
        }
    }

    /// Why it ended, when it has ended by itself.
    pub(crate) fn exit(&mut self) -> String {
        match self.child.wait() {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }
}

/// The guards of this data directory that earlier agents have left.
pub(crate) fn left_behind(data_dir: &Path) -> Vec<Process> {
    let own = std::process::id();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| u32::try_from(*pid) != Ok(own))
        .filter_map(|pid| {
            // Held first and looked at then: the number cannot change hands in between.
            let process = Process::open(pid).ok()?;
            guards(pid, data_dir).then_some(process)
        })
        .collect()
}

/// Is this process a guard of that data directory?
fn guards(pid: i32, data_dir: &Path) -> bool {
    let Ok(line) = std::fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let arguments: Vec<OsString> =
        line.split(|byte| *byte == 0).skip(1).map(|part| OsString::from_vec(part.to_vec())).collect();
    arguments.first().is_some_and(|verb| verb.as_bytes() == VERB.as_bytes())
        && Options::parse(&arguments).is_ok_and(|options| options.data_dir == data_dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_what_they_were() {
        for watchdog in [
            None,
            Some(("/dev/watchdog".into(), Safety::Half)),
            Some(("/dev/watchdog1".into(), Safety::Before(Duration::from_millis(150)))),
        ] {
            let options =
                Options { data_dir: "/srv/a b".into(), stop_budget: Duration::from_millis(500), watchdog };
            let parsed = Options::parse(&options.arguments()[1..]).unwrap();
            assert_eq!(parsed.arguments(), options.arguments());
        }
        assert!(Options::parse(&[]).unwrap_err().contains("--data-dir"));
    }

    #[test]
    fn a_guard_is_known_by_its_arguments() {
        let data_dir = tempfile::tempdir().unwrap();
        let options = Options {
            data_dir: data_dir.path().to_owned(),
            stop_budget: Duration::from_millis(500),
            watchdog: None,
        };
        // A shell whose script is called like the verb.
        std::fs::write(data_dir.path().join(VERB), "read x").unwrap();
        let shell = |arguments: Vec<OsString>| {
            Command::new("/bin/sh")
                .args(arguments)
                .current_dir(data_dir.path())
                .stdin(Stdio::piped())
                .spawn()
                .unwrap()
        };
        let mut impostor = shell([vec!["-s".into()], options.arguments()].concat());
        assert!(left_behind(data_dir.path()).is_empty(), "the verb comes first");
        let mut guard = shell(options.arguments());
        // It has to become the shell first.
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        let found = loop {
            let found = left_behind(data_dir.path());
            assert!(std::time::Instant::now() < deadline, "it is not found");
            if !found.is_empty() {
                break found;
            }
        };
        assert_eq!(found.len(), 1);
        assert_eq!(u32::try_from(found[0].pid).unwrap(), guard.id());
        assert!(left_behind(Path::new("/elsewhere")).is_empty());
        assert!(!found[0].ended(Duration::ZERO));
        assert!(found[0].kill());
        impostor.kill().unwrap();
        for child in [&mut impostor, &mut guard] {
            child.wait().unwrap();
        }
    }
}
