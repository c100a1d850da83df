//! `quorate store` processes on an address of their own, each with a directory and a log.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Generous: the machine is shared. Only a failure takes this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Store {
    pub(crate) name: String,
    pub(crate) client: String,
    pub(crate) peer: String,
    dir: PathBuf,
    arguments: Vec<String>,
    pub(crate) variables: Vec<(String, String)>,
    process: Option<Child>,
    starts: usize,
}

/// Ends with the process: by its id.
impl Drop for Store {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) fn free_ports(count: usize) -> Vec<u16> {
    quorate_loopback::ports(count).unwrap()
}

/// Plans `size` members below `dir`; `scheme` of clients and peers. Nothing is started.
pub(crate) fn plan(dir: &Path, size: usize, scheme: &str, more: &[String]) -> Vec<Store> {
    let ports = free_ports(2 * size);
    let url = |port: u16| format!("{scheme}://127.0.0.1:{port}");
    let initial: Vec<String> = (0..size).map(|n| format!("m{n}={}", url(ports[n]))).collect();
    let initial = initial.join(",");
    let stores = (0..size).map(|n| {
        let (name, peer, client) = (format!("m{n}"), url(ports[n]), url(ports[size + n]));
        let mut arguments: Vec<String> = [
            ("name", &name),
            ("data-dir", &dir.join(&name).display().to_string()),
            ("listen-client-urls", &client),
            ("advertise-client-urls", &client),
            ("listen-peer-urls", &peer),
            ("initial-advertise-peer-urls", &peer),
            ("initial-cluster", &initial),
        ]
        .iter()
        .map(|(flag, value)| format!("--{flag}={value}"))
        .collect();
        arguments.extend(more.iter().cloned());
        let (dir, variables) = (dir.to_path_buf(), Vec::new());
        Store { name, client, peer, dir, arguments, variables, process: None, starts: 0 }
    });
    stores.collect()
}

impl Store {
    fn log_file(&self) -> PathBuf {
        self.dir.join(format!("{}.{}.log", self.name, self.starts))
    }

    /// What the process that was started last has said.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// The first of `old` becomes the first of `new`, and so on.
    pub(crate) fn replace_arguments(&mut self, old: &[String], new: &[String]) {
        for (old, new) in old.iter().zip(new) {
            let at = self.arguments.iter().position(|argument| argument == old).expect("it was given");
            self.arguments[at].clone_from(new);
        }
    }

    /// Instead of what was planned.
    pub(crate) fn set_arguments(&mut self, arguments: &[String]) {
        self.arguments = arguments.to_vec();
    }

    pub(crate) fn start(&mut self) {
        assert!(self.process.is_none());
        self.starts += 1;
        let log = std::fs::File::create(self.log_file()).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_quorate"))
            .arg("store")
            .args(&self.arguments)
            .env_clear()
            .envs(self.variables.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(process);
    }

    /// Waits for a line of the log.
    pub(crate) fn says(&mut self, text: &str) {
        let until = Instant::now() + PATIENCE;
        while !self.log().contains(text) {
            let ended = self.process.as_mut().and_then(|process| process.try_wait().unwrap());
            assert!(
                ended.is_none() && Instant::now() < until,
                "{} did not say {text:?} ({ended:?}):\n{}",
                self.name,
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn ready(&mut self) {
        self.says("ready to serve client requests");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = self.process.as_ref().expect("the process runs").id();
        kill_process(Pid::from_raw(i32::try_from(id).unwrap()).unwrap(), signal).unwrap();
    }

    /// Waits for the end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("the process runs");
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = process.try_wait().unwrap() {
                return status;
            }
            if Instant::now() > until {
                process.kill().unwrap();
                process.wait().unwrap();
                panic!("{} did not end:\n{}", self.name, self.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Starts all and waits for all.
pub(crate) fn start_all(stores: &mut [Store]) {
    stores.iter_mut().for_each(Store::start);
    stores.iter_mut().for_each(Store::ready);
}

pub(crate) fn endpoints(stores: &[Store]) -> String {
    let endpoints: Vec<&str> = stores.iter().map(|store| store.client.as_str()).collect();
    endpoints.join(",")
}

/// Debian's.
pub(crate) fn etcdctl(arguments: &[&str]) -> Output {
    run("/usr/bin/etcdctl", "etcd-client", arguments)
}

pub(crate) fn curl(arguments: &[&str]) -> Output {
    run("/usr/bin/curl", "curl", &[&["--silent", "--show-error", "--max-time", "10"], arguments].concat())
}

fn run(program: &str, package: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .env_clear()
        .env("ETCDCTL_API", "3")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; install Debian's package {package}"))
}

/// Its standard output, if it succeeded.
#[track_caller]
pub(crate) fn good(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{:?}: {out}{err}", output.status);
    out.into_owned()
}

/// Its standard error, if it failed.
#[track_caller]
pub(crate) fn bad(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!output.status.success(), "it succeeded: {out}{err}");
    err.into_owned()
}

/// Waits until `look` finds something.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
