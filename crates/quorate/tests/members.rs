//! The store's members as an operator handles them: a dead one is replaced under load, a store is saved and begins anew.
//! Real processes and the real command line; `etcdctl` where etcd's own client has to agree.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quorate_wire::etcdserverpb::kv_client::KvClient;
use quorate_wire::etcdserverpb::{PutRequest, RangeRequest};
use tonic::transport::{Channel, Endpoint};

/// Only a failure takes this long.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a member gives a request: etcd's 5 s and two elections (`--election-timeout` 350 ms), and a little for the way.
const FORWARDING: Duration = Duration::from_millis(6_000);

/// One `quorate store`.
struct Member {
    name: String,
    process: Child,
    client: String,
    peer: String,
}

impl Member {
    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_addresses(count: usize) -> Vec<String> {
    let ports = quorate_loopback::ports(count).unwrap();
    ports.into_iter().map(|port| format!("127.0.0.1:{port}")).collect()
}

fn start(dir: &Path, name: &str, client: &str, peer: &str, cluster: &str, more: &[&str]) -> Member {
    let log = std::fs::File::create(dir.join(format!("{name}-{}.log", peer.replace(':', "-")))).unwrap();
    let process = Command::new(env!("CARGO_BIN_EXE_quorate"))
        .env_clear()
        .arg("store")
        .args(["--name", name])
        .arg("--data-dir")
        .arg(data_dir(dir, name, peer))
        .args([
            format!("--listen-client-urls=http://{client}"),
            format!("--advertise-client-urls=http://{client}"),
        ])
        .args([
            format!("--listen-peer-urls=http://{peer}"),
            format!("--initial-advertise-peer-urls=http://{peer}"),
            format!("--initial-cluster={cluster}"),
        ])
        .args(more)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    Member { name: name.to_owned(), process, client: client.to_owned(), peer: peer.to_owned() }
}

fn data_dir(dir: &Path, name: &str, peer: &str) -> PathBuf {
    dir.join(format!("{name}-{}", peer.replace(':', "-")))
}

fn list(members: &[(&str, &str)]) -> String {
    let list: Vec<String> = members.iter().map(|(name, peer)| format!("{name}=http://{peer}")).collect();
    list.join(",")
}

fn three(dir: &Path, more: &[&str]) -> Vec<Member> {
    let ports = free_addresses(6);
    let cluster = list(&[("m1", &ports[3]), ("m2", &ports[4]), ("m3", &ports[5])]);
    let members: Vec<Member> = (0..3)
        .map(|n| start(dir, &format!("m{}", n + 1), &ports[n], &ports[n + 3], &cluster, more))
        .collect();
    until("the store answers", || ctl(&members, &["endpoint", "health"]).status.success());
    members
}

fn ctl_command(members: &[Member], arguments: &[&str]) -> Command {
    let endpoints: Vec<&str> = members.iter().map(|member| member.client.as_str()).collect();
    let mut command = Command::new(env!("CARGO_BIN_EXE_quoratectl"));
    command.env_clear().args(arguments).args(["--endpoints", &endpoints.join(",")]).stdin(Stdio::null());
    command
}

fn ctl(members: &[Member], arguments: &[&str]) -> Output {
    ctl_command(members, arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn until(what: &str, mut look: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !look() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn channel(address: &str) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy()
}

/// Reads and writes against the members that stay, for as long as the test goes on.
struct Load {
    stop: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
    writes: Arc<AtomicU64>,
    tasks: tokio::task::JoinSet<Vec<String>>,
}

impl Load {
    fn start(members: &[&Member]) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let (reads, writes) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let mut tasks = tokio::task::JoinSet::new();
        for member in members {
            for _ in 0..4 {
                let (stop, reads) = (Arc::clone(&stop), Arc::clone(&reads));
                let mut kv = KvClient::new(channel(&member.client));
                tasks.spawn(async move {
                    let mut failed = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let begun = Instant::now();
                        let request = RangeRequest { key: "k".into(), ..RangeRequest::default() };
                        match tokio::time::timeout(FORWARDING, kv.range(request)).await {
                            Ok(Ok(_)) => drop(reads.fetch_add(1, Ordering::Relaxed)),
                            Ok(Err(status)) => failed.push(format!("{status} after {:?}", begun.elapsed())),
                            Err(_) => failed.push("no answer within the forwarding timeout".to_owned()),
                        }
                    }
                    failed
                });
            }
            let (stop, writes) = (Arc::clone(&stop), Arc::clone(&writes));
            let mut kv = KvClient::new(channel(&member.client));
            tasks.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let request = PutRequest { key: "k".into(), value: "v".into(), ..PutRequest::default() };
                    // A write that was on its way to a leader that died may fail: it is not repeated by itself.
                    if kv.put(request).await.is_ok() {
                        writes.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Vec::new()
            });
        }
        Load { stop, reads, writes, tasks }
    }

    async fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks.join_all().await.concat()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_member_is_replaced_under_load_without_a_failed_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut members = three(dir.path(), &[]);
    let refused = ctl(&members, &["member", "replace", "m3"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("is alive: stop it first"), "{}", text(&refused.stderr));

    let load = Load::start(&[&members[0], &members[1]]);
    until("the load runs", || load.reads.load(Ordering::Relaxed) > 100);
    let mut dead = members.remove(2);
    dead.kill();

    let ports = free_addresses(2);
    let url = format!("http://{}", ports[1]);
    let dry = ctl(&members, &["member", "replace", "m3", "--peer-urls", &url, "--dry-run"]);
    assert!(dry.status.success(), "{}", text(&dry.stderr));
    assert!(text(&dry.stdout).contains("would add m3"), "{}", text(&dry.stdout));
    assert_eq!(text(&ctl(&members, &["member", "list"]).stdout).lines().count(), 3, "nothing was done");

    let replace = ctl_command(&members, &["member", "replace", "m3", "--peer-urls", &url, "--wait", "60s"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until("the new member is added", || text(&ctl(&members, &["member", "list"]).stdout).contains(&url));
    let cluster = list(&[("m1", &members[0].peer), ("m2", &members[1].peer), ("m3", &ports[1])]);
    let new =
        start(dir.path(), "m3", &ports[0], &ports[1], &cluster, &["--initial-cluster-state", "existing"]);
    let replaced = replace.wait_with_output().unwrap();
    let said = text(&replaced.stdout);
    assert!(replaced.status.success(), "{said}{}", text(&replaced.stderr));
    let order = ["added", "ETCD_INITIAL_CLUSTER_STATE=\"existing\"", "votes", "removed"];
    let places: Vec<Option<usize>> = order.iter().map(|word| said.find(word)).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{said}");
    members.push(new);
    let rows = text(&ctl(&members, &["member", "list"]).stdout);
    assert!(rows.lines().count() == 3 && rows.contains(&url) && !rows.contains(&dead.peer), "{rows}");
    until("it serves", || ctl(&members[2..], &["endpoint", "health"]).status.success());

    let (reads, writes) = (load.reads.load(Ordering::Relaxed), load.writes.load(Ordering::Relaxed));
    let failed = load.end().await;
    assert!(failed.is_empty(), "{} of {reads} reads failed: {failed:?}", failed.len());
    assert!(reads > 100 && writes > 10, "{reads} reads, {writes} writes");

    // It counts: with another one gone it makes the quorum. With one left nothing can be replaced, and that is said.
    members[0].kill();
    until("two of three go on", || ctl(&members[1..], &["put", "k", "w"]).status.success());
    members[1].kill();
    let refused = ctl(&members[2..], &["member", "replace", "m1", "--command-timeout", "2s"]);
    assert_eq!(refused.status.code(), Some(1));
    let why = text(&refused.stderr);
    assert!(why.contains("1 of 3 voters are alive") && why.contains("--force-new-cluster"), "{why}");
    let rows = ctl(&members[2..], &["member", "list", "--command-timeout", "2s"]);
    assert_eq!(text(&rows.stdout).lines().count(), 3, "the list is read without a quorum");
    assert_eq!(members[2].name, "m3");
}

#[test]
fn a_store_is_saved_looked_into_and_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut members = three(dir.path(), &[]);
    for n in 0..50 {
        // A write that meets an election is not repeated by itself; this one may be.
        until("a write", || ctl(&members, &["put", &format!("k{n}"), &"v".repeat(5_000)]).status.success());
    }
    let read = ctl(&members, &["get", "k0", "-w", "json"]);
    let read: serde_json::Value = serde_json::from_slice(&read.stdout).unwrap();
    let revision = read["header"]["revision"].clone();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let file = path("saved.db");
    let one = std::slice::from_ref(&members[1]);
    let many = ctl(&members, &["snapshot", "save", &file]);
    assert_eq!(many.status.code(), Some(128), "one member is asked");
    let saved = ctl(one, &["snapshot", "save", &file]);
    assert!(saved.status.success(), "{}", text(&saved.stderr));
    assert_eq!(text(&saved.stdout), format!("Snapshot saved at {file}\n"));
    let again = ctl(one, &["snapshot", "save", &file]);
    assert!(again.status.success() && text(&again.stderr).contains("has been replaced"), "not silently");
    assert_eq!(std::fs::metadata(&file).unwrap().len() % 512, 32);

    // etcd's own client takes the stream for a whole snapshot.
    let etcdctl = Path::new("/usr/bin/etcdctl");
    assert!(etcdctl.exists(), "etcdctl is missing: apt-get install etcd-client");
    let theirs = path("etcdctl.db");
    let saved = Command::new(etcdctl)
        .env_clear()
        .env("ETCDCTL_API", "3")
        .args(["snapshot", "save", &theirs, "--endpoints", &members[0].client])
        .output()
        .unwrap();
    assert!(saved.status.success(), "{}", text(&saved.stderr));

    for file in [&file, &theirs] {
        let status = ctl(&[], &["snapshot", "status", file, "-w", "json"]);
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
        assert_eq!(status["revision"], revision, "{status}");
        assert!(status["totalKey"].as_u64().unwrap() > 50 && status["totalSize"].as_u64().unwrap() > 250_000);
    }
    let row = text(&ctl(&[], &["snapshot", "status", &file]).stdout);
    assert_eq!(row.trim().split(", ").nth(1).map(str::to_owned), Some(revision.to_string()), "{row}");
    let table = text(&ctl(&[], &["snapshot", "status", &file, "-w", "table"]).stdout);
    let words: Vec<&str> = table.lines().nth(1).unwrap().split('|').map(str::trim).collect();
    assert_eq!(words, ["", "HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE", ""], "{table}");

    for member in &mut members {
        member.kill();
    }
    let ports = free_addresses(6);
    let cluster = list(&[("n1", &ports[3]), ("n2", &ports[4]), ("n3", &ports[5])]);
    let restore = |n: usize, file: &str| {
        let name = format!("n{}", n + 1);
        let data = data_dir(dir.path(), &name, &ports[n + 3]).display().to_string();
        let url = format!("http://{}", ports[n + 3]);
        ctl(
            &[],
            &[
                "snapshot",
                "restore",
                file,
                "--data-dir",
                &data,
                "--name",
                &name,
                "--initial-cluster",
                &cluster,
                "--initial-advertise-peer-urls",
                &url,
                "--initial-cluster-token",
                "anew",
            ],
        )
    };
    let mut cut = std::fs::read(&file).unwrap();
    cut.truncate(cut.len() - 1_000);
    std::fs::write(path("cut.db"), cut).unwrap();
    let refused = restore(0, &path("cut.db"));
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("not a whole snapshot"), "{}", text(&refused.stderr));
    for n in 0..3 {
        let restored = restore(n, &file);
        assert!(restored.status.success(), "{}", text(&restored.stderr));
    }
    assert!(text(&restore(0, &file).stderr).contains("not empty or could not be read"));
    let token = ["--initial-cluster-token", "anew"];
    let restored: Vec<Member> = (0..3)
        .map(|n| start(dir.path(), &format!("n{}", n + 1), &ports[n], &ports[n + 3], &cluster, &token))
        .collect();
    until("the restored store answers", || ctl(&restored, &["endpoint", "health"]).status.success());
    let value = ctl(&restored, &["get", "k49", "--print-value-only"]);
    assert_eq!(text(&value.stdout).trim().len(), 5_000);
    assert_eq!(text(&ctl(&restored, &["member", "list"]).stdout).lines().count(), 3);
}
