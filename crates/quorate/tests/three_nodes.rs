//! Three `quorate store` processes, one of them lost half-way: `quoratectl` goes on, and a watch misses nothing.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Killed when it is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Cluster {
    /// None: killed.
    nodes: Vec<Option<Process>>,
    clients: Vec<SocketAddr>,
    dir: tempfile::TempDir,
}

fn free() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], quorate_loopback::port().unwrap()))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Cluster {
    fn start() -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        let clients: Vec<_> = (0..3).map(|_| free()).collect();
        let peers: Vec<_> = (0..3).map(|_| free()).collect();
        let initial: Vec<String> =
            peers.iter().enumerate().map(|(i, peer)| format!("n{}=http://{peer}", i + 1)).collect();
        let nodes = (0..3)
            .map(|i| {
                let log = std::fs::File::create(dir.path().join(format!("n{}.log", i + 1))).unwrap();
                let child = Command::new(env!("CARGO_BIN_EXE_quorate"))
                    .env_clear()
                    .current_dir(dir.path())
                    .args([
                        "store",
                        "--name",
                        &format!("n{}", i + 1),
                        "--initial-cluster",
                        &initial.join(","),
                    ])
                    .arg(format!("--listen-client-urls=http://{}", clients[i]))
                    .arg(format!("--advertise-client-urls=http://{}", clients[i]))
                    .arg(format!("--listen-peer-urls=http://{}", peers[i]))
                    .arg(format!("--initial-advertise-peer-urls=http://{}", peers[i]))
                    .stdin(Stdio::null())
                    .stderr(log)
                    .spawn()
                    .unwrap();
                Some(Process(child))
            })
            .collect();
        let cluster = Cluster { nodes, clients, dir };
        cluster.until("every endpoint is healthy", || {
            let members = text(&cluster.ctl(&["member", "list"]).stdout);
            cluster.ctl(&["endpoint", "health"]).status.success()
                && members
                    .lines()
                    .filter(|line| line.contains("started, n") && line.contains("http://"))
                    .count()
                    == 3
        });
        cluster
    }

    fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !holds() {
            if Instant::now() > deadline {
                let log = |i: usize| std::fs::read_to_string(self.dir.path().join(format!("n{i}.log")));
                panic!("not so within 30 s: {what}\n{:?}\n{:?}\n{:?}", log(1), log(2), log(3));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn endpoints(&self) -> String {
        let all: Vec<String> = self.clients.iter().map(ToString::to_string).collect();
        all.join(",")
    }

    fn ctl(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_quoratectl"))
            .env_clear()
            .env("QUORATECTL_ENDPOINTS", self.endpoints())
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// The name of the node that leads the store.
    fn leader(&self) -> Option<String> {
        let status = text(&self.ctl(&["endpoint", "status"]).stdout);
        let line = status.lines().find(|line| line.split(", ").nth(4) == Some("true"))?;
        let endpoint = line.split(", ").next()?;
        let index = self.clients.iter().position(|client| client.to_string() == endpoint)?;
        Some(format!("n{}", index + 1))
    }

    fn watch(&self, key: &str) -> (Process, Receiver<String>) {
        let child = Command::new(env!("CARGO_BIN_EXE_quoratectl"))
            .env_clear()
            .args(["watch", "--prefix", key, "--rev", "1", "-f", "tsv", "--endpoints", &self.endpoints()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut watch = Process(child);
        let stdout = BufReader::new(watch.0.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        (watch, lines)
    }
}

#[test]
fn a_node_is_lost_and_nothing_else() {
    let mut cluster = Cluster::start();
    // The first endpoint is the one that everything goes through, and it leads: losing it is the worst loss.
    let moved = cluster.ctl(&["move-leader", "n1"]);
    cluster.until("n1 leads", || cluster.leader().as_deref() == Some("n1"));
    let said = text(&moved.stdout);
    assert!(said.is_empty() || said.starts_with("Leadership transferred from "), "{said}");

    let (_watch, lines) = cluster.watch("/w/");
    let mut written = Vec::new();
    let mut write = |cluster: &Cluster| {
        let key = format!("/w/{}", written.len());
        // An election may be under way; a write that was refused may be tried again.
        cluster.until("a write succeeds", || cluster.ctl(&["put", &key, "v"]).status.success());
        written.push(key);
    };
    (0..5).for_each(|_| write(&cluster));
    cluster.nodes[0] = None;
    (0..5).for_each(|_| write(&cluster));

    let mut seen: Vec<String> = Vec::new();
    while seen.last() != written.last() {
        let line = lines.recv_timeout(Duration::from_secs(20)).unwrap();
        if let ["PUT", key, ..] = line.split('\t').collect::<Vec<_>>()[..]
            && seen.last().map(String::as_str) != Some(key)
        {
            seen.push(key.to_owned());
        }
    }
    assert_eq!(seen, written);

    let health = cluster.ctl(&["endpoint", "health"]);
    assert_eq!(health.status.code(), Some(1));
    assert_eq!(text(&health.stdout).lines().count(), 2);
    let count = text(&cluster.ctl(&["get", "/w/", "--prefix", "--count-only", "-w", "fields"]).stdout);
    assert!(count.contains("\"Count\" : 10"), "{count}");
}
