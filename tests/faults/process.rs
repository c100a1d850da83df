//! Processes that are expected to end by themselves, and directories that are expected to stay as they are.

use std::collections::BTreeMap;
use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A directory that PostgreSQL's user may pass through.
pub(crate) fn scratch() -> (TempDir, PathBuf) {
    let dir = tempfile::Builder::new().prefix("quorate-faults-").tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = dir.path().canonicalize().unwrap();
    (dir, path)
}

/// Waits for `condition`, asked every 10 ms.
pub(crate) fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + deadline;
    while !condition() {
        assert!(Instant::now() < until, "no {what} within {deadline:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A process with its output in a file. Dropping it kills it, with every PostgreSQL process of `data_dir`.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
    data_dir: Option<PathBuf>,
}

/// How a process ended, and what it said.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) output: String,
}

impl Process {
    /// Starts a binary of this workspace; its output goes to a fresh file in `dir`.
    pub(crate) fn start(name: &str, arguments: &[&str], dir: &Path, data_dir: Option<PathBuf>) -> Process {
        let (output, log) =
            tempfile::Builder::new().prefix("output-").tempfile_in(dir).unwrap().keep().unwrap();
        let output: File = output;
        let child = Command::new(quorate_tests::binary(name))
            .args(arguments)
            .env("RUST_LOG", "info,openraft=off")
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .process_group(0)
            .spawn()
            .unwrap();
        Process { child, log, data_dir }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until it has said `text`.
    pub(crate) fn wait_for(&mut self, text: &str, deadline: Duration) {
        let until = Instant::now() + deadline;
        while !self.output().contains(text) {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < until, "no {text:?} ({ended:?}):\n{}", self.output());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for the end.
    pub(crate) fn ended(mut self, deadline: Duration) -> Ended {
        let until = Instant::now() + deadline;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Ended { status, output: self.output() };
            }
            assert!(Instant::now() < until, "it did not end within {deadline:?}:\n{}", self.output());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGTERM, and the orderly end of it.
    pub(crate) fn stop(self, deadline: Duration) {
        let pid = Pid::from_raw(self.pid().try_into().unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        let ended = self.ended(deadline);
        assert!(ended.status.success(), "{}:\n{}", ended.status, ended.output);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended already in most cases, and is our child until it was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
        for pid in self.data_dir.iter().flat_map(|dir| quorate_drill::processes::inside(dir)) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

impl Ended {
    /// The exit code, and one line that holds every one of `parts`. Prints the last such line.
    #[track_caller]
    pub(crate) fn expect(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.status.code(), Some(code), "{}", self.output);
        let line = self.output.lines().rfind(|line| parts.iter().all(|part| line.contains(part)));
        let Some(line) = line else { panic!("no line has all of {parts:?}:\n{}", self.output) };
        println!("exit {code}: {line}");
    }
}

/// Starts a binary and waits for its end.
pub(crate) fn binary_run(name: &str, arguments: &[&str], dir: &Path, deadline: Duration) -> Ended {
    Process::start(name, arguments, dir, None).ended(deadline)
}

/// Path to (modification time, hash of the content) of everything below `dir`, `LOCK` files left out.
pub(crate) fn tree(dir: &Path) -> BTreeMap<PathBuf, (SystemTime, u64)> {
    let mut found = BTreeMap::new();
    let mut left = vec![dir.to_path_buf()];
    while let Some(path) = left.pop() {
        if path.file_name().is_some_and(|name| name == "LOCK") {
            continue;
        }
        let meta = path.symlink_metadata().unwrap();
        let mut hash = DefaultHasher::new();
        if meta.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if meta.is_file() {
            std::fs::read(&path).unwrap().hash(&mut hash);
        }
        found.insert(path, (meta.modified().unwrap(), hash.finish()));
    }
    found
}

/// What differs, by name.
#[track_caller]
pub(crate) fn assert_untouched(before: &BTreeMap<PathBuf, (SystemTime, u64)>, dir: &Path) {
    let after = tree(dir);
    let all = before.keys().chain(after.keys());
    let changed: Vec<&PathBuf> = all.filter(|path| before.get(*path) != after.get(*path)).collect();
    assert!(changed.is_empty(), "changed: {changed:?}");
}
