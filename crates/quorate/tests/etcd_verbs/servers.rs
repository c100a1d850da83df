//! Servers to ask and tools to ask them with.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Debian's tools.
const ETCD: &str = "/usr/bin/etcd";
const ETCDCTL: &str = "/usr/bin/etcdctl";
pub(crate) const QUORATECTL: &str = env!("CARGO_BIN_EXE_quoratectl");

/// A process that ends with the test.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running store.
pub(crate) struct Server {
    process: Running,
    pub(crate) endpoint: String,
    pub(crate) dir: tempfile::TempDir,
    /// Debian's etcd, and not ours.
    pub(crate) is_etcd: bool,
}

pub(crate) fn free_port() -> u16 {
    quorate_loopback::port().unwrap()
}

/// A running store of each kind.
pub(crate) fn stores() -> [Server; 2] {
    [etcd(), ours()]
}

pub(crate) fn etcd() -> Server {
    assert!(
        Path::new(ETCD).exists() && Path::new(ETCDCTL).exists(),
        "{ETCD} and {ETCDCTL} are needed: apt-get install etcd-server etcd-client"
    );
    start(ETCD, &[], true)
}

pub(crate) fn ours() -> Server {
    start(env!("CARGO_BIN_EXE_quorate"), &["store"], false)
}

fn start(program: &str, verb: &[&str], is_etcd: bool) -> Server {
    let (client, peer) = (free_port(), free_port());
    let urls = [
        format!("--listen-client-urls=http://127.0.0.1:{client}"),
        format!("--advertise-client-urls=http://127.0.0.1:{client}"),
    ];
    let server = launch(program, verb, &urls, client, peer, is_etcd);
    server.wait(|server| quoratectl(server, &["endpoint", "health"]));
    server
}

/// Starts a server and does not wait for it.
pub(crate) fn launch(
    program: &str,
    verb: &[&str],
    client_flags: &[String],
    client: u16,
    peer: u16,
    is_etcd: bool,
) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let log = std::fs::File::create(dir.path().join("log")).unwrap();
    let process = Command::new(program)
        .env_clear()
        .args(verb)
        .arg("--data-dir")
        .arg(dir.path().join("data"))
        .args(["--name", "one", "--log-level", "error"])
        .args(client_flags)
        .arg(format!("--listen-peer-urls=http://127.0.0.1:{peer}"))
        .arg(format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"))
        .arg(format!("--initial-cluster=one=http://127.0.0.1:{peer}"))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    Server { process: Running(process), endpoint: format!("127.0.0.1:{client}"), dir, is_etcd }
}

impl Server {
    /// Until it answers.
    pub(crate) fn wait(&self, probe: impl Fn(&Server) -> Output) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let output = probe(self);
            if output.status.success() {
                return;
            }
            let pid = self.process.0.id();
            if Instant::now() > deadline || !Path::new(&format!("/proc/{pid}/exe")).exists() {
                let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap();
                panic!("the server did not become healthy: {log}{}", err(&output));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

pub(crate) fn command(program: &str, server: &Server) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("ETCDCTL_API", "3")
        .env("ETCDCTL_ENDPOINTS", &server.endpoint)
        .stdin(Stdio::null());
    command
}

pub(crate) fn quoratectl(server: &Server, arguments: &[&str]) -> Output {
    command(QUORATECTL, server).args(arguments).output().unwrap()
}

pub(crate) fn etcdctl(server: &Server, arguments: &[&str]) -> Output {
    command(ETCDCTL, server).args(arguments).output().unwrap()
}

/// The same with something to read on standard input.
pub(crate) fn with_input(program: Tool, server: &Server, arguments: &[&str], input: &str) -> Output {
    let mut child = command(program.path(), server)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Tool {
    Quoratectl,
    Etcdctl,
}

impl Tool {
    pub(crate) const BOTH: [Tool; 2] = [Tool::Quoratectl, Tool::Etcdctl];

    pub(crate) fn path(self) -> &'static str {
        match self {
            Tool::Quoratectl => QUORATECTL,
            Tool::Etcdctl => ETCDCTL,
        }
    }

    pub(crate) fn run(self, server: &Server, arguments: &[&str]) -> Output {
        command(self.path(), server).args(arguments).output().unwrap()
    }
}

pub(crate) fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The sentence after `Error: `; etcdctl prints its log before it, and sometimes its help after it.
pub(crate) fn sentence(output: &Output) -> String {
    let text = err(output);
    text.lines().rfind(|line| line.starts_with("Error: ")).unwrap_or_default().to_owned()
}

/// What both tools must agree on: standard output, the exit code, and the sentence.
#[track_caller]
pub(crate) fn agree(context: &str, mine: &Output, theirs: &Output) {
    let facts = |output: &Output| (known(&masked(&out(output))), output.status.code(), sentence(output));
    assert_eq!(facts(mine), facts(theirs), "quoratectl (left) and etcdctl (right): {context}");
}

/// Runs a command line by both tools. Nothing may be changed by it that the other one sees, but for what is masked.
#[track_caller]
pub(crate) fn same(server: &Server, arguments: &[&str]) {
    let theirs = etcdctl(server, arguments);
    let mine = quoratectl(server, arguments);
    agree(&format!("{arguments:?}, etcd: {}", server.is_etcd), &mine, &theirs);
}

/// What etcd has said since 3.6 is not known to Debian's etcdctl.
fn known(text: &str) -> String {
    let mut text = text.to_owned();
    for word in [",\"storageVersion\":", ",\"dbSizeQuota\":", ",\"hash_revision\":"] {
        while let Some(at) = text.find(word) {
            let rest = &text[at + 1..];
            let end = at + 1 + rest.find([',', '}']).unwrap_or(rest.len());
            text.replace_range(at..end, "");
        }
    }
    text
}

/// Revisions and positions in the log move with every write; ids of leases and members are drawn; durations are measured.
pub(crate) fn masked(text: &str) -> String {
    let mut text = text.to_owned();
    for word in [
        "\"revision\":",
        "_revision\":",
        "Revision\" : ",
        "Index\":",
        "Index\" : ",
        "\"dbSize\":",
        "\"dbSizeInUse\":",
    ] {
        let digits = |part: &str| part.trim_start_matches(|c: char| c.is_ascii_digit()).to_owned();
        let mut parts = text.split(word);
        let first = parts.next().unwrap_or_default().to_owned();
        text = parts.fold(first, |masked, part| masked + word + "N" + &digits(part));
    }
    let mut masked = String::new();
    let mut run = String::new();
    for c in text.chars().chain(std::iter::once('\n')) {
        if c.is_ascii_hexdigit() {
            run.push(c);
            continue;
        }
        let is_id = run.len() >= 12;
        // One in sixteen begins with a zero: Go's `%16x` prints a space for it.
        for _ in (run.len()..16).filter(|_| is_id) {
            if masked.ends_with("  ") {
                masked.pop();
            }
        }
        masked.push_str(if is_id { "ID" } else { &run });
        run.clear();
        masked.push(c);
    }
    masked.pop();
    masked
}

#[test]
fn ids_are_masked_whatever_they_begin_with() {
    for id in ["8e9e05c52164694d", " e9e05c52164694d", "  9e05c52164694d"] {
        assert_eq!(
            masked(&format!("Member {id} added to cluster {id}\n")),
            "Member ID added to cluster ID\n"
        );
    }
    assert_eq!(masked("revision 12345678901"), "revision 12345678901");
}
