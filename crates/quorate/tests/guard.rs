//! One node, real PostgreSQL, and what happens to it when its agent, its guard, or both are killed or stopped.
//!
//! Times are by `CLOCK_BOOTTIME`. The only one that is asserted is the safety rule: an agent that stopped at t has sent no
//! renewal after t, so the lease lives until t + ttl at most, and PostgreSQL must be gone before.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use quorate_agent::guard::record;
use quorate_node::clock::boottime;
use rustix::process::{Pid, Signal, getsid, kill_process};

const BIN_DIR: &str = "/usr/lib/postgresql/15/bin";
/// For anything that is waited for: the machine may be slow.
const PATIENCE: Duration = Duration::from_secs(90);

/// Whether PostgreSQL can be run here; says why not.
#[allow(clippy::print_stderr)]
fn available() -> bool {
    let there = Path::new(BIN_DIR).join("postgres").exists()
        && (!rustix::process::geteuid().is_root() || owner().is_some());
    if !there {
        eprintln!("skipped: no PostgreSQL in {BIN_DIR}, or no user to run it as");
    }
    there
}

/// Uid and gid of `postgres`.
fn owner() -> Option<(u32, u32)> {
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    let line = passwd.lines().find(|line| line.starts_with("postgres:"))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

struct Node {
    dir: tempfile::TempDir,
    rest: u16,
    postgres: u16,
    binary: PathBuf,
    agent: Option<Child>,
}

impl Node {
    /// Configured; nothing runs. `more` is appended to the file.
    fn new(ttl_s: u64, more: &str) -> Node {
        let dir = tempfile::Builder::new().prefix("qg").tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let home = dir.path().join("pg");
        std::fs::create_dir(&home).unwrap();
        if rustix::process::geteuid().is_root() {
            let (uid, gid) = owner().unwrap();
            std::os::unix::fs::chown(&home, Some(uid), Some(gid)).unwrap();
        }
        let ports = quorate_loopback::ports(4).unwrap();
        let (rest, postgres, peer, client) = (ports[0], ports[1], ports[2], ports[3]);
        let root = dir.path().display();
        let text = format!(
            "\
scope: demo
name: node1
restapi: {{listen: '127.0.0.1:{rest}'}}
dcs:
  data_dir: {root}/store
  listen_peers: 127.0.0.1:{peer}
  listen_clients: 127.0.0.1:{client}
bootstrap:
  dcs:
    ttl: {ttl_s}
    loop_wait: 0.5
    retry_timeout: 0.5
    synchronous_mode: 'off'
    postgresql:
      parameters: {{max_connections: 20, fsync: 'off', shared_buffers: 16MB}}
  initdb: [no-sync]
postgresql:
  listen: 127.0.0.1:{postgres}
  data_dir: {root}/pg/data
  bin_dir: {BIN_DIR}
  pgpass: {root}/pg/pgpass
  authentication:
    superuser: {{username: postgres, password: secret}}
    replication: {{username: replicator, password: secret}}
  parameters: {{unix_socket_directories: {root}/pg}}
{more}"
        );
        std::fs::write(dir.path().join("quorate.yml"), text).unwrap();
        Node { dir, rest, postgres, binary: env!("CARGO_BIN_EXE_quorate").into(), agent: None }
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("pg/data")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn start(&mut self) {
        let log =
            std::fs::File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let agent = Command::new(&self.binary)
            .arg("run")
            .arg(self.dir.path().join("quorate.yml"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.agent = Some(agent);
    }

    fn agent(&self) -> Pid {
        Pid::from_child(self.agent.as_ref().unwrap())
    }

    fn kill_agent(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.rest)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    fn wait_for_primary(&self) {
        until("a primary", || {
            let answer = self.get("/primary")?;
            answer.starts_with("HTTP/1.1 200").then_some(())
        });
    }

    /// One statement; its first value.
    fn sql(&self, statement: &str) -> Option<String> {
        let output = Command::new(Path::new(BIN_DIR).join("psql"))
            .args(["-X", "-A", "-t", "-h", "127.0.0.1", "-p", &self.postgres.to_string()])
            .args(["-U", "postgres", "-d", "postgres", "-c", statement])
            .env("PGPASSWORD", "secret")
            .env("PGCONNECT_TIMEOUT", "5")
            .output()
            .unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn postmaster(&self) -> Option<i32> {
        let text = std::fs::read_to_string(self.data_dir().join("postmaster.pid")).ok()?;
        text.lines().next()?.trim().parse().ok()
    }

    fn timeline(&self) -> Option<String> {
        self.sql("select timeline_id from pg_control_checkpoint()")
    }

    /// Every process that works in the data directory and can still run.
    fn backends(&self) -> usize {
        processes()
            .filter(|pid| {
                std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == self.data_dir())
            })
            .count()
    }

    /// The guard processes of this node.
    fn guards(&self) -> Vec<i32> {
        let data_dir = self.data_dir().display().to_string();
        processes()
            .filter(|pid| {
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let arguments: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
                arguments.get(1) == Some(&&b"guard"[..]) && arguments.contains(&data_dir.as_bytes())
            })
            .collect()
    }

    /// When nothing worked in the data directory any more.
    fn gone(&self) -> Duration {
        until("the end of PostgreSQL", || (self.backends() == 0).then(boottime))
    }

    /// The orderly end of everything.
    fn stop(mut self) {
        let mut agent = self.agent.take().unwrap();
        kill_process(Pid::from_child(&agent), Signal::TERM).unwrap();
        assert!(agent.wait().unwrap().success(), "{}", self.log());
        until("the end of the guard", || self.guards().is_empty().then_some(()));
        assert_eq!(self.backends(), 0);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(agent) = &mut self.agent {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        for pid in self.guards().into_iter().filter_map(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = quorate_pg::fence_now(&self.data_dir(), Duration::from_secs(5));
    }
}

fn processes() -> impl Iterator<Item = i32> {
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
}

fn pid(raw: i32) -> Pid {
    Pid::from_raw(raw).unwrap()
}

#[test]
fn the_loss_of_the_guard_or_of_the_agent_alone_is_no_event_for_postgresql() {
    if !available() {
        return;
    }
    // Long enough for a debug build on a busy machine to start within it.
    let mut node = Node::new(20, "");
    node.start();
    node.wait_for_primary();
    node.sql("create table t (n int); insert into t values (1)").unwrap();
    let (postmaster, timeline) = (node.postmaster().unwrap(), node.timeline());

    let guards = node.guards();
    assert_eq!(guards.len(), 1);
    let first = guards[0];
    assert_eq!(getsid(Some(pid(first))).unwrap(), pid(first), "a session of its own");

    // Killed: another one at once.
    kill_process(pid(first), Signal::KILL).unwrap();
    let second = until("a new guard", || {
        let guards = node.guards();
        (guards.len() == 1 && guards[0] != first).then(|| guards[0])
    });
    until("its first answer", || node.log().contains(&format!("ready pid={second}")).then_some(()));

    // Stopped: noticed by its silence, and replaced before it is ended.
    kill_process(pid(second), Signal::STOP).unwrap();
    let third = until("a guard in place of the stopped one", || {
        let guards = node.guards();
        (guards.len() == 1 && guards[0] != second).then(|| guards[0])
    });
    assert_eq!(node.postmaster(), Some(postmaster));
    node.sql("insert into t values (2)").unwrap();

    // The agent is killed and started again within the lease: the same PostgreSQL, and one guard, which is new.
    node.kill_agent();
    assert_eq!(node.guards(), [third], "the agent's death does not take the guard along");
    node.sql("insert into t values (3)").expect("PostgreSQL goes on");
    node.start();
    node.wait_for_primary();
    until("the new agent's guard alone", || {
        let guards = node.guards();
        (guards.len() == 1 && guards[0] != third).then_some(())
    });
    assert_eq!(node.postmaster(), Some(postmaster), "adopted\n{}", node.log());
    assert_eq!(node.sql("select count(*) from t").as_deref(), Some("3"));
    assert_eq!(node.timeline(), timeline, "no failover\n{}", node.log());
    assert_eq!(record::take(&node.data_dir()), None, "no guard has fenced");
    node.stop();
}

#[test]
fn a_stopped_or_killed_agent_does_not_leave_a_primary_beyond_its_lease() {
    if !available() {
        return;
    }
    const TTL: Duration = Duration::from_secs(3);
    let mut node = Node::new(TTL.as_secs(), "");
    node.start();
    node.wait_for_primary();
    node.sql("create table t (n int); insert into t values (1)").unwrap();

    // Stopped. No renewal was sent after this instant.
    kill_process(node.agent(), Signal::STOP).unwrap();
    let stopped = boottime();
    let gone = node.gone();
    assert!(gone < stopped + TTL, "{:?} after the agent was stopped", gone - stopped);
    until("the seal", || node.data_dir().join("standby.signal").exists().then_some(()));
    // What it left is told by the agent as soon as it runs again, and PostgreSQL comes back as a standby that is promoted.
    kill_process(node.agent(), Signal::CONT).unwrap();
    until("the word of the guard", || {
        node.log().contains("the guard stopped PostgreSQL by force").then_some(())
    });
    node.wait_for_primary();
    node.sql("insert into t values (2)").unwrap();
    assert_eq!(node.sql("select count(*) from t").as_deref(), Some("2"));
    let metrics = node.get("/metrics").unwrap();
    let kills = "quorate_guard_kills_total{scope=\"demo\",name=\"node1\"} ";
    let kills = metrics.lines().find_map(|line| line.strip_prefix(kills)).unwrap();
    assert!(kills.parse::<u64>().unwrap() >= 1, "{kills}");

    // Killed and never started again.
    node.kill_agent();
    let killed = boottime();
    let gone = node.gone();
    assert!(gone < killed + TTL, "{:?} after the agent was killed", gone - killed);
    until("the end of the guard", || node.guards().is_empty().then_some(()));
    let told = record::take(&node.data_dir()).expect("a record for the next agent");
    assert!(told.sealed && told.found > 0 && told.done < told.valid_until, "{told:?}");
    assert!(told.valid_until <= killed + TTL, "no renewal is newer than the agent's death");
}

#[test]
fn where_a_guard_is_required_a_primary_that_cannot_have_one_hands_over() {
    if !available() {
        return;
    }
    let mut node = Node::new(20, "guard: {mode: required}\n");
    node.binary = node.dir.path().join("quorate");
    std::fs::copy(env!("CARGO_BIN_EXE_quorate"), &node.binary).unwrap();
    node.start();
    node.wait_for_primary();
    // The program can no longer be started, by nobody: what a broken upgrade does.
    let executable = |mode| {
        std::fs::set_permissions(&node.binary, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    executable(0o644);
    kill_process(pid(node.guards()[0]), Signal::KILL).unwrap();
    until("the end of its time as primary", || {
        let said = node.log();
        let stepped_down = said.contains("stepping down: there is no guard process: it cannot be started");
        (stepped_down && said.contains("released the leader lock")).then_some(())
    });
    until("the refusal", || node.log().contains("not promoting: there is no guard process").then_some(()));
    assert!(!node.get("/primary").unwrap().starts_with("HTTP/1.1 200"));
    // And by itself it comes back.
    executable(0o755);
    node.wait_for_primary();
    node.stop();
}

#[test]
fn a_node_whose_fencing_cannot_be_relied_on_does_not_become_primary_and_says_why() {
    if !available() {
        return;
    }
    let mut node = Node::new(5, "watchdog: {mode: required, device: /nonexistent/watchdog}\n");
    node.start();
    until("the reason", || {
        let why = "not bootstrapping a new cluster: the watchdog device cannot be used: No such file";
        node.log().contains(why).then_some(())
    });
    assert!(!node.data_dir().exists(), "{}", node.log());
    node.stop();
}

#[test]
fn nobody_else_starts_a_guard() {
    for arguments in [&["guard"][..], &["guard", "--data-dir", "/nowhere", "--stop-budget-ms", "500"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_quorate"))
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(!output.status.success());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("`quorate run` starts this process by itself"), "{said}");
    }
}
