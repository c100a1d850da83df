//! Three `quorate store` processes on loopback, for suites that look at them with other people's clients.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A start, an election; generous, because the machine is shared.
const SETTLE: Duration = Duration::from_secs(30);

/// The processes. Dropping them kills them; their outputs are kept when a test has failed.
pub struct Stores {
    dir: Option<TempDir>,
    net: String,
    processes: Vec<Option<Child>>,
    command: Vec<String>,
    flags: Vec<String>,
}

impl Stores {
    /// Starts three members and waits until they serve.
    ///
    /// # Panics
    /// When they do not.
    #[must_use]
    pub fn start(flags: &[&str]) -> Stores {
        Stores::start_as(crate::store_command(), flags)
    }

    /// As above, with another program that reads etcd's flags.
    ///
    /// # Panics
    /// When they do not serve.
    #[must_use]
    pub fn start_as(command: Vec<String>, flags: &[&str]) -> Stores {
        let dir =
            tempfile::Builder::new().prefix("quorate-stores-").tempdir().expect("a temporary directory");
        let net = quorate_loopback::addresses(&[1, 2, 3], &[2379, 2380]).expect("free addresses");
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut stores = Stores { dir: Some(dir), net, processes: vec![None, None, None], command, flags };
        for member in 0..3 {
            stores.restart(member);
        }
        stores.wait_until("three healthy members", |stores| (0..3).all(|member| stores.is_healthy(member)));
        stores
    }

    /// `address:port` of every member, running or not.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        (0..3).map(|member| format!("{}:2379", self.address(member))).collect()
    }

    fn address(&self, member: usize) -> String {
        format!("{}{}", self.net, member + 1)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.as_ref().expect("until it is dropped").path().join(name)
    }

    /// Starts a member that does not run.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn restart(&mut self, member: usize) {
        assert!(self.processes[member].is_none(), "it runs");
        let address = self.address(member);
        let (client, peer) = (format!("http://{address}:2379"), format!("http://{address}:2380"));
        let initial: Vec<String> =
            (0..3).map(|other| format!("s{other}=http://{}:2380", self.address(other))).collect();
        let name = format!("s{member}");
        let log = self.path(&format!("{name}.log"));
        let log = File::options().create(true).append(true).open(log).expect("a file for the output");
        let process = Command::new(&self.command[0])
            .args(&self.command[1..])
            .args(["--name", &name, "--data-dir", &self.path(&name).display().to_string()])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &initial.join(",")])
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .process_group(0)
            .spawn();
        self.processes[member] = Some(process.expect("the store starts"));
    }

    /// Without a word to anybody.
    pub fn kill(&mut self, member: usize) {
        if let Some(mut process) = self.processes[member].take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// SIGSTOP, SIGCONT.
    ///
    /// # Panics
    /// When the member does not run.
    pub fn signal(&self, member: usize, signal: Signal) {
        let process = self.processes[member].as_ref().expect("it runs");
        kill_process(Pid::from_child(process), signal).expect("a signal to a child");
    }

    /// Whether it answers `/health` with a yes.
    #[must_use]
    pub fn is_healthy(&self, member: usize) -> bool {
        http_get(&self.address(member), 2379, "/health").is_ok()
    }

    /// The leader, as `members` know it.
    #[must_use]
    pub fn leader(&self, members: &[usize]) -> Option<usize> {
        members.iter().copied().find(|member| is_leader(&self.address(*member)))
    }

    /// Waits for `condition`, asked every 20 ms.
    ///
    /// # Panics
    /// When it does not come true in time.
    pub fn wait_until(&self, what: &str, condition: impl Fn(&Stores) -> bool) {
        let until = Instant::now() + SETTLE;
        while !condition(self) {
            assert!(Instant::now() < until, "no {what} in time; see {}", self.path("*.log").display());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Stores {
    fn drop(&mut self) {
        for member in 0..3 {
            self.kill(member);
        }
        if std::thread::panicking() {
            // What they said may tell why.
            let _ = self.dir.take().map(TempDir::keep);
        }
    }
}

/// Whether the member at `address` says that it leads the store.
#[must_use]
pub fn is_leader(address: &str) -> bool {
    let metrics = http_get(address, 2379, "/metrics").unwrap_or_default();
    metrics.lines().any(|line| line == "etcd_server_is_leader 1")
}

/// The body of an answer with status 200.
///
/// # Errors
/// Any other status, and no answer within 2 s.
pub fn http_get(address: &str, port: u16, path: &str) -> Result<String> {
    let address = format!("{address}:{port}").parse()?;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(500))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    if head.split(' ').nth(1) != Some("200") {
        bail!("{}", head.lines().next().unwrap_or_default());
    }
    Ok(body.to_owned())
}
