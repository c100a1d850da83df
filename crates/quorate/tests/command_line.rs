//! `quorate` as an operator starts it: exit codes, sentences, and nothing on disk after a refusal.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

fn quorate(arguments: &[&str], dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.env_clear().current_dir(dir).args(arguments).stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn names(dir: &Path) -> Vec<String> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn expect(output: &Output, code: i32, stderr: &str) {
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(code), stderr));
}

const GOOD: &str = "scope: demo\nname: one\npostgresql: {data_dir: /srv/pg/data}\n\
                    dcs: {initial_cluster: 'one=127.0.0.1:2380,two=127.0.0.2:2380,three=127.0.0.3:2380'}\n";

#[test]
fn a_file_is_checked_without_a_trace() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("good.yml"), GOOD).unwrap();
    let checked = quorate(&["run", "--check", "good.yml"], dir.path()).output().unwrap();
    expect(&checked, 0, "");
    assert_eq!(text(&checked.stdout), "good.yml: the configuration is valid\n");
    let printed = quorate(&["run", "good.yml", "--print-config", "json"], dir.path()).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&printed.stdout).unwrap();
    assert_eq!(json["dcs"]["election_timeout"], serde_json::json!([200, 350]));
    assert_eq!(names(dir.path()), ["good.yml"]);
}

#[test]
fn warnings_are_errors_when_strict() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.yml"), format!("{GOOD}recovery_conf: {{}}\n")).unwrap();
    let lenient = quorate(&["run", "--check", "a.yml"], dir.path()).output().unwrap();
    let line = "recovery_conf: unknown key, ignored with everything beneath it; did you mean postgresql.recovery_conf? \
                (a restore_command written here is never used)\n";
    expect(&lenient, 0, &format!("a.yml:5: warning: {line}"));
    let strict = quorate(&["run", "--strict", "a.yml"], dir.path()).output().unwrap();
    expect(&strict, 2, &format!("a.yml:5: error: {line}"));
}

#[test]
fn a_wrong_configuration_starts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("bad.yml"), "scope: demo\nname: [one]\n").unwrap();
    let refused = quorate(&["run", "bad.yml"], dir.path()).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let said = text(&refused.stderr);
    assert!(said.contains("bad.yml:2: error: name: expected text, found a list of 1\n"), "{said}");
    assert!(said.contains("bad.yml: error: postgresql.data_dir: required"), "{said}");
    assert_eq!(names(dir.path()), ["bad.yml"]);
    let missing = quorate(&["run", "none.yml"], dir.path()).output().unwrap();
    expect(&missing, 2, "none.yml: error: cannot be read: No such file or directory (os error 2)\n");
}

#[test]
fn wrong_flags_of_the_store_start_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let refused =
        quorate(&["store", "--nmae=x", "--listen-client-urls", "here"], dir.path()).output().unwrap();
    expect(
        &refused,
        2,
        "error: --listen-client-urls: expected http://host:port or https://host:port, found \"here\"\n\
         error: --nmae: unknown flag; did you mean --name?\n",
    );
    assert!(names(dir.path()).is_empty());
    let help = quorate(&["store", "--help"], dir.path()).output().unwrap();
    assert!(help.status.success() && text(&help.stdout).contains("--initial-cluster-token"));
}

#[test]
fn a_port_in_use_is_named_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", taken.local_addr().unwrap());
    let refused = quorate(&["store", "--listen-client-urls", &url], dir.path()).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let said = text(&refused.stderr);
    assert!(said.contains("the port is in use; stop the process that has it"), "{said}");
    assert!(said.contains(&taken.local_addr().unwrap().to_string()), "{said}");
    assert!(names(dir.path()).is_empty());
}

struct Store {
    process: Child,
    lines: Receiver<String>,
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn start(dir: &Path, variables: &[(&str, String)]) -> Store {
    let mut process = quorate(&["store"], dir)
        .envs(variables.iter().map(|(name, value)| (*name, value)))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = BufReader::new(process.stderr.take().unwrap());
    let (sender, lines) = channel();
    // Ends with the process, whose standard error it reads.
    std::thread::spawn(move || {
        for line in stderr.lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    Store { process, lines }
}

impl Store {
    fn says(&self, word: &str) {
        loop {
            let line = self.lines.recv_timeout(Duration::from_secs(30)).unwrap();
            if line.contains(word) {
                return;
            }
        }
    }

    fn ends(&mut self, signal: Signal) -> Option<i32> {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
        self.says("stopped node=");
        self.process.wait().unwrap().code()
    }
}

#[test]
fn the_store_serves_from_variables_stops_cleanly_and_keeps_what_it_was_given() {
    let dir = tempfile::tempdir().unwrap();
    let free = || std::net::SocketAddr::from(([127, 0, 0, 1], quorate_loopback::port().unwrap()));
    let (client, peer) = (free(), free());
    let variables = [
        ("ETCD_NAME", "'one'".to_owned()),
        ("ETCD_LISTEN_CLIENT_URLS", format!("http://{client}")),
        ("ETCD_LISTEN_PEER_URLS", format!("http://{peer}")),
        ("ETCD_ENABLE_V2", "true".to_owned()),
        ("ETCD_FOO", "x".to_owned()),
    ];
    let ctl = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_quoratectl"))
            .env_clear()
            .args(["--endpoints", &client.to_string()])
            .args(arguments)
            .output()
            .unwrap();
        text(&output.stdout)
    };
    let mut store = start(dir.path(), &variables);
    store.says("ETCD_FOO: unknown variable, ignored");
    store.says("ready to serve client requests");
    assert_eq!(ctl(&["put", "k", "v"]), "OK\n");
    assert_eq!(names(dir.path()), ["one.etcd"]);
    assert_eq!(store.ends(Signal::TERM), Some(0));
    let mut store = start(dir.path(), &variables);
    store.says("ready to serve client requests");
    assert_eq!(ctl(&["get", "k"]), "k\nv\n");
    assert_eq!(store.ends(Signal::INT), Some(0));
}
