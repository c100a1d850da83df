//! `quoratectl`'s store verbs beside `etcdctl`, on loopback: the same words in every format. Each test runs twice, against a
//! real `etcd` and against `quorate store`, which is started with the same command line.
//!
//! Skipped with a line when Debian's `etcd` and `etcdctl` are not installed.
#![allow(clippy::print_stdout, reason = "a skipped test says so")]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Where an `etcd` binary stands.
const STORES: [(&str, &[&str]); 2] = [("/usr/bin/etcd", &[]), (env!("CARGO_BIN_EXE_quorate"), &["store"])];

struct Etcd {
    process: Child,
    endpoint: String,
    dir: tempfile::TempDir,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A running store of each kind; none when the tools are not there.
fn stores() -> Vec<Etcd> {
    if !Path::new("/usr/bin/etcd").exists() || !Path::new("/usr/bin/etcdctl").exists() {
        println!("skipped: etcd and etcdctl are not installed");
        return Vec::new();
    }
    STORES.iter().map(|(program, verb)| start(program, verb)).collect()
}

fn start(program: &str, verb: &[&str]) -> Etcd {
    let dir = tempfile::tempdir().unwrap();
    let (client, peer) = (free_port(), free_port());
    let log = std::fs::File::create(dir.path().join("log")).unwrap();
    let process = Command::new(program)
        .env_clear()
        .args(verb)
        .arg("--data-dir")
        .arg(dir.path().join("data"))
        .args(["--name", "one", "--log-level", "error"])
        .arg(format!("--listen-client-urls=http://127.0.0.1:{client}"))
        .arg(format!("--advertise-client-urls=http://127.0.0.1:{client}"))
        .arg(format!("--listen-peer-urls=http://127.0.0.1:{peer}"))
        .arg(format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"))
        .arg(format!("--initial-cluster=one=http://127.0.0.1:{peer}"))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut etcd = Etcd { process, endpoint: format!("127.0.0.1:{client}"), dir };
    let deadline = Instant::now() + Duration::from_secs(30);
    while !ours(&etcd, &["endpoint", "health"]).status.success() {
        let ended = etcd.process.try_wait().unwrap();
        if ended.is_some() || Instant::now() > deadline {
            let log = std::fs::read_to_string(etcd.dir.path().join("log")).unwrap();
            panic!("{program} did not become healthy ({ended:?}): {log}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    etcd
}

fn run(program: &str, etcd: &Etcd, arguments: &[&str]) -> Output {
    Command::new(program)
        .env_clear()
        .env("ETCDCTL_API", "3")
        .args(arguments)
        .args(["--endpoints", &etcd.endpoint])
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn ours(etcd: &Etcd, arguments: &[&str]) -> Output {
    run(env!("CARGO_BIN_EXE_quoratectl"), etcd, arguments)
}

fn theirs(etcd: &Etcd, arguments: &[&str]) -> Output {
    run("/usr/bin/etcdctl", etcd, arguments)
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn reads_print_what_etcdctl_prints() {
    for etcd in stores() {
        for (key, value) in [("foo", "bar"), ("foo1", "b\"1"), ("foo2", "two\nlines"), ("other", "x")] {
            assert_eq!(out(&ours(&etcd, &["put", key, value])), "OK\n");
        }
        let reads: &[&[&str]] = &[
            &["get", "foo"],
            &["get", "foo", "-w", "json"],
            &["get", "foo", "-w", "fields"],
            &["get", "nothing", "-w", "json"],
            &["get", "foo", "--print-value-only"],
            &["get", "fo", "--prefix", "--keys-only"],
            &[
                "get",
                "fo",
                "--prefix",
                "--sort-by",
                "KEY",
                "--order",
                "DESCEND",
                "--limit",
                "2",
                "-w",
                "json",
            ],
            &["get", "foo", "foo2", "-w", "json"],
            &["get", "foo1", "--from-key", "-w", "fields"],
            &["get", "foo", "--rev", "1"],
            &["get", "foo", "--consistency", "s"],
            &["member", "list"],
            &["member", "list", "-w", "table"],
            &["member", "list", "-w", "fields"],
            &["endpoint", "status"],
            &["endpoint", "status", "-w", "table"],
            &["endpoint", "status", "-w", "json"],
            &["endpoint", "status", "-w", "fields"],
        ];
        for arguments in reads {
            let (mine, etcds) = (ours(&etcd, arguments), theirs(&etcd, arguments));
            assert_eq!(out(&mine), out(&etcds), "{arguments:?}");
            assert_eq!(mine.status.code(), etcds.status.code(), "{arguments:?}");
        }
    }
}

#[test]
fn writes_print_what_etcdctl_prints() {
    for etcd in stores() {
        let forms: &[&[&str]] = &[&[], &["-w", "json"], &["-w", "fields"]];
        for form in forms {
            for verb in [&["put", "k", "new", "--prev-kv"][..], &["del", "k", "--prev-kv"], &["del", "k"]] {
                // Each tool starts from the same key; only revisions may differ.
                let mut printed = Vec::new();
                for tool in [ours, theirs] {
                    tool(&etcd, &["del", "k"]);
                    if verb != ["del", "k"] {
                        tool(&etcd, &["put", "k", "old"]);
                    }
                    let arguments: Vec<&str> = verb.iter().chain(*form).copied().collect();
                    let output = tool(&etcd, &arguments);
                    assert!(output.status.success(), "{verb:?}");
                    let mut text = out(&output);
                    for word in ["\"revision\":", "_revision\":", "Revision\" : "] {
                        let parts: Vec<String> = text
                            .split(word)
                            .map(|part| part.trim_start_matches(|c: char| c.is_ascii_digit()).to_owned())
                            .collect();
                        text = parts.join(word);
                    }
                    printed.push(text);
                }
                assert_eq!(printed[0], printed[1], "{verb:?} {form:?}");
            }
        }
    }
}

#[test]
fn failures_have_etcdctls_exit_codes_and_sentences() {
    for etcd in stores() {
        let cases: &[&[&str]] = &[
            &["put"],
            &["get"],
            &["del", "a", "b", "c"],
            &["get", "a", "b", "--prefix"],
            &["get", "foo", "-w", "table"],
            &["get", "foo", "--rev", "999999999"],
            &["put", "a", "b", "--lease", "1"],
            &["move-leader"],
            &["move-leader", "1"],
        ];
        for arguments in cases {
            let (mine, etcds) = (ours(&etcd, arguments), theirs(&etcd, arguments));
            assert_eq!(mine.status.code(), etcds.status.code(), "{arguments:?}");
            let last = |output: &Output| {
                let text = String::from_utf8_lossy(&output.stderr).into_owned();
                text.lines().rfind(|line| line.starts_with("Error: ")).unwrap_or_default().to_owned()
            };
            assert_eq!(last(&mine), last(&etcds), "{arguments:?}");
        }
    }
}

#[test]
fn the_next_endpoint_is_asked_when_one_is_down() {
    for etcd in stores() {
        let both = format!("127.0.0.1:{},{}", free_port(), etcd.endpoint);
        let tool = |arguments: &[&str]| {
            Command::new(env!("CARGO_BIN_EXE_quoratectl"))
                .env_clear()
                .env("QUORATECTL_ENDPOINTS", &both)
                .args(arguments)
                .output()
                .unwrap()
        };
        assert_eq!(out(&tool(&["put", "k", "v"])), "OK\n");
        assert_eq!(out(&tool(&["get", "k"])), "k\nv\n");
        let health = tool(&["endpoint", "health"]);
        assert_eq!(health.status.code(), Some(1));
        assert!(out(&health).contains("is healthy: successfully committed proposal: took = "));
        assert!(String::from_utf8_lossy(&health.stderr).ends_with("Error: unhealthy cluster\n"));
    }
}

#[test]
fn a_dry_run_changes_nothing() {
    for etcd in stores() {
        ours(&etcd, &["put", "k", "v"]);
        assert!(out(&ours(&etcd, &["del", "k", "--dry-run"])).starts_with("would delete 1 keys\nk\n"));
        assert!(out(&ours(&etcd, &["put", "k", "w", "--dry-run"])).starts_with("would put k (1 bytes)"));
        assert_eq!(out(&ours(&etcd, &["get", "k"])), "k\nv\n");
    }
}

#[test]
fn a_watch_shows_history_and_what_follows() {
    use std::io::{BufRead, BufReader};
    for etcd in stores() {
        ours(&etcd, &["put", "w", "1"]);
        struct Watch(Child);
        impl Drop for Watch {
            fn drop(&mut self) {
                let _ = self.0.kill();
                let _ = self.0.wait();
            }
        }
        let watch = Command::new(env!("CARGO_BIN_EXE_quoratectl"))
            .env_clear()
            .args(["watch", "w", "--rev", "1", "--prev-kv", "--endpoints", &etcd.endpoint])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut watch = Watch(watch);
        let (lines, received) = std::sync::mpsc::channel();
        let reader = BufReader::new(watch.0.stdout.take().unwrap());
        let pump = std::thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                let _ = lines.send(line);
            }
        });
        let take = |count: usize| -> Vec<String> {
            (0..count).map(|_| received.recv_timeout(Duration::from_secs(10)).unwrap()).collect()
        };
        assert_eq!(take(3), ["PUT", "w", "1"]);
        ours(&etcd, &["put", "w", "2"]);
        assert_eq!(take(5), ["PUT", "w", "1", "w", "2"]);
        ours(&etcd, &["del", "w"]);
        assert_eq!(take(5), ["DELETE", "w", "2", "w", ""]);
        drop(watch);
        pump.join().unwrap();
    }
}

#[test]
fn the_list_is_read_from_patronis_keys() {
    for etcd in stores() {
        let member = r#"{"conn_url":"postgres://10.0.0.1:5432/postgres","api_url":"http://10.0.0.1:8008/patroni","state":"running","role":"primary","timeline":3,"xlog_location":100}"#;
        for (key, value) in [
            ("leader", "node1"),
            ("initialize", "7710395948784291904"),
            ("members/node1", member),
            ("config", "{\"ttl\":30}"),
        ] {
            ours(&etcd, &["put", &format!("/service/demo/{key}"), value]);
        }
        let list = ours(&etcd, &["list"]);
        assert_eq!(
            out(&list),
            "\
+ Cluster: demo (7710395948784291904) -+----+-------------+-----+------------+-----+
| Member | Host     | Role   | State   | TL | Receive LSN | Lag | Replay LSN | Lag |
+--------+----------+--------+---------+----+-------------+-----+------------+-----+
| node1  | 10.0.0.1 | Leader | running |  3 |             |     |            |     |
+--------+----------+--------+---------+----+-------------+-----+------------+-----+
"
        );
        assert_eq!(out(&ours(&etcd, &["show-config", "-f", "json"])), "{\"ttl\": 30}\n");
        let refused = ours(&etcd, &["switchover", "--force"]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("No candidates found to switchover to"));
        ours(&etcd, &["put", "/service/other/leader", "x"]);
        let several = ours(&etcd, &["list"]);
        assert!(String::from_utf8_lossy(&several.stderr).contains("several clusters (demo, other)"));
    }
}
