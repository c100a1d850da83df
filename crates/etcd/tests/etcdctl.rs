//! Does an unmodified `etcdctl` notice a difference?
//!
//! The same commands go to three members of ours and to a real etcd of one member, and what is printed has to be equal
//! once ids, addresses, sizes and times are replaced by their kind. Debian's 3.4 is the reference; without its binaries
//! the suite fails and says what to install.

mod common;
#[path = "common/reference.rs"]
mod reference;

use std::process::Stdio;
use std::time::Duration;

use common::{Cluster, PATIENCE};
use reference::Reference;
use tokio::io::AsyncWriteExt;

/// What a command came to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    stdout: String,
    stderr: String,
    code: Option<i32>,
}

async fn etcdctl(endpoints: &str, arguments: &str, stdin: &str) -> Outcome {
    let mut child = tokio::process::Command::new("etcdctl")
        .args(["--endpoints", endpoints])
        .args(arguments.split(' '))
        .env("ETCDCTL_API", "3")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("etcdctl does not start ({error}): apt install etcd-client"));
    let mut input = child.stdin.take().expect("a pipe");
    // A command that reads nothing may be gone already.
    let _ = input.write_all(stdin.as_bytes()).await;
    drop(input);
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
    let output = output.unwrap_or_else(|_| panic!("etcdctl {arguments} hangs")).expect("an output");
    Outcome {
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        code: output.status.code(),
    }
}

/// Replaces what differs between any two clusters by its kind: addresses, times, ids (hex and decimal), terms.
fn normalised(outcome: &Outcome) -> String {
    let text = format!("{}{}", outcome.stdout, last_error(&outcome.stderr));
    let mut result = String::new();
    let mut word = String::new();
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        // A point inside a number or an address belongs to it.
        let inside = character == '.' || character == ':';
        let goes_on = characters.peek().is_some_and(char::is_ascii_digit)
            && word.ends_with(|last: char| last.is_ascii_digit());
        if character.is_alphanumeric() || (inside && goes_on) {
            word.push(character);
        } else {
            result.push_str(kind(&word));
            word.clear();
            result.push(character);
        }
    }
    result.push_str(kind(&word));
    let result = without_padding(&result);
    // Single members are at term 2; ours may have elected more than once.
    let result = without_number_after(&result, "\"raft_term\":");
    let result = without_number_after(&result, "\"RaftTerm\" : ");
    format!("{result}[rc={:?}]", outcome.code)
}

fn kind(word: &str) -> &str {
    let digits = word.chars().all(|character| character.is_ascii_digit());
    if word.starts_with("127.") {
        "ADDRESS"
    } else if word.ends_with('s') && word.starts_with(|c: char| c.is_ascii_digit()) {
        "TIME"
    } else if digits && word.len() >= 12 {
        "ID"
    } else if word.len() >= 12 && word.chars().all(|character| character.is_ascii_hexdigit()) {
        "HEXID"
    } else {
        word
    }
}

/// clientv3 logs its retries as JSON before the error that counts.
fn last_error(stderr: &str) -> String {
    stderr.lines().filter(|line| !line.starts_with('{')).fold(String::new(), |all, line| all + line + "\n")
}

/// Tables are as wide as their widest cell: runs of blanks and dashes count as one.
fn without_padding(text: &str) -> String {
    let mut result = String::new();
    for character in text.chars() {
        if !((character == ' ' || character == '-') && result.ends_with(character)) {
            result.push(character);
        }
    }
    result
}

fn without_number_after(text: &str, label: &str) -> String {
    let mut parts = text.split(label);
    let mut result = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        result.push_str(label);
        result.push_str("TERM");
        result.push_str(part.trim_start_matches(|character: char| character.is_ascii_digit()));
    }
    result
}

#[test]
fn normalising_keeps_what_matters() {
    let outcome = |stdout: &str| Outcome {
        stdout: stdout.to_owned(),
        stderr: "{\"level\":\"warn\"}\nError: etcdserver: no leader\n".to_owned(),
        code: Some(1),
    };
    let text = normalised(&outcome("1a2dece3cbcad184, m0, http://127.1.2.3:4567, 5\n"));
    assert_eq!(text, "HEXID, m0, http://ADDRESS, 5\nError: etcdserver: no leader\n[rc=Some(1)]");
    let text = normalised(&outcome("{\"cluster_id\":13807887513569586722,\"revision\":7,\"raft_term\":12}"));
    assert!(text.starts_with("{\"cluster_id\":ID,\"revision\":7,\"raft_term\":TERM}"), "{text}");
    let text = normalised(&outcome("| 127.0.0.1:2379 |  true | 854.75µs | took 3.4ms\n"));
    assert!(text.starts_with("| ADDRESS | true | TIME | took TIME"), "{text}");
}

/// In order: each may build on those before. A second line is what is typed into it.
const SAME: &[(&str, &str)] = &[
    ("put foo bar", ""),
    ("put foo bar2 --prev-kv", ""),
    ("get foo", ""),
    ("get foo -w json", ""),
    ("get foo -w fields", ""),
    ("get foo -w table", ""),
    ("get foo --print-value-only", ""),
    ("get foo --hex", ""),
    ("get missing", ""),
    ("get missing -w json", ""),
    ("put foo1 a", ""),
    ("put foo2 b", ""),
    ("put zoo c", ""),
    ("get foo --prefix", ""),
    ("get foo --prefix --keys-only", ""),
    ("get foo --prefix --limit 2 -w json", ""),
    ("get foo --prefix --order DESCEND", ""),
    ("get foo --prefix --sort-by MODIFY --order DESCEND --keys-only", ""),
    ("get foo --prefix --sort-by VALUE --order ASCEND", ""),
    ("get foo1 --from-key", ""),
    ("get foo foo2", ""),
    ("get foo --rev=2 -w json", ""),
    ("get foo --rev=999999", ""),
    ("get foo --consistency=s", ""),
    ("put foo --ignore-value", ""),
    ("put none --ignore-value", ""),
    ("put none x --ignore-lease", ""),
    ("put a b --lease=1", ""),
    ("del foo --prev-kv", ""),
    ("del foo", ""),
    ("del foo --prefix -w json", ""),
    ("put k1 v1", ""),
    ("put k2 v2", ""),
    ("txn", "value(\"k1\") = \"v1\"\n\nput k3 v3\nget k1\ndel k2\n\nget k1\n\n"),
    ("txn -w json", "mod(\"k1\") > \"999\"\n\nput k1 x\n\nget k1\nget k3\n\n"),
    ("txn -w fields", "create(\"k9\") = \"0\"\n\nget k1\nput k9 1\n\nget k1\n\n"),
    ("txn", "ver(\"k1\") = \"1\"\n\nput k1 a\nput k1 b\n\n\n"),
    ("lease grant 60 --write-out=json", ""),
    ("lease list -w json", ""),
    ("lease timetolive 123", ""),
    ("lease keep-alive 123 --once", ""),
    ("lease revoke 123", ""),
    ("compaction 5", ""),
    ("compaction 5", ""),
    ("compaction 999999", ""),
    ("get foo --rev=2", ""),
    ("alarm list", ""),
    ("alarm disarm", ""),
    ("member list", ""),
    ("move-leader 1", ""),
    ("endpoint health", ""),
    ("endpoint health -w json", ""),
    ("endpoint health -w table", ""),
    ("defrag", ""),
];

/// What differs by nature: the second member of a cluster of three, a lease's random id in a list, the version.
fn comparable(arguments: &str, text: &str) -> String {
    match arguments {
        "lease list -w json" | "lease grant 60 --write-out=json" => text.to_owned(),
        "member list" => text.lines().next().unwrap_or_default().replace("m1", "m0").replace("m2", "m0"),
        _ => text.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcdctl_prints_what_it_prints_for_etcd() {
    let cluster = Cluster::start(3).await;
    cluster.announced().await;
    let real = Reference::start().await;
    let mut different = Vec::new();
    // One member of ours, and the leader: move-leader looks for it among its endpoints.
    let ours = cluster.clients[cluster.leader().await].clone();
    for (arguments, stdin) in SAME {
        let real = normalised(&etcdctl(&real.address, arguments, stdin).await);
        let ours = normalised(&etcdctl(&ours, arguments, stdin).await);
        let (real, ours) = (comparable(arguments, &real), comparable(arguments, &ours));
        if real != ours {
            different.push(format!("$ etcdctl {arguments}\n--- etcd\n{real}\n--- quorate\n{ours}\n"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
    cluster.stop().await;
}

/// The id in "lease ID granted with TTL(..)".
fn lease_id(outcome: &Outcome) -> String {
    outcome.stdout.split(' ').nth(1).expect("an id").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_and_leadership_on_three_members() {
    let mut cluster = Cluster::start(3).await;
    cluster.announced().await;
    let all = cluster.endpoints();
    let follower = cluster.clients[cluster.follower().await].clone();

    let granted = etcdctl(&follower, "lease grant 60", "").await;
    let id = lease_id(&granted);
    assert_eq!(granted.stdout, format!("lease {id} granted with TTL(60s)\n"));
    assert_eq!(etcdctl(&all, &format!("put k v --lease={id}"), "").await.stdout, "OK\n");
    let listed = etcdctl(&follower, "lease list", "").await.stdout;
    assert_eq!(listed, format!("found 1 leases\n{id}\n"));
    let renewed = etcdctl(&follower, &format!("lease keep-alive {id} --once"), "").await;
    assert_eq!(renewed.stdout, format!("lease {id} keepalived with TTL(60)\n"));
    let left = etcdctl(&follower, &format!("lease timetolive {id} --keys"), "").await.stdout;
    assert!(left.starts_with(&format!("lease {id} granted with TTL(60s), remaining(")), "{left}");
    assert!(left.ends_with("attached keys([k])\n"), "{left}");
    let revoked = etcdctl(&all, &format!("lease revoke {id}"), "").await.stdout;
    assert_eq!(revoked, format!("lease {id} revoked\n"));
    assert_eq!(etcdctl(&all, "get k", "").await.stdout, "");
    let left = etcdctl(&follower, &format!("lease timetolive {id}"), "").await.stdout;
    assert_eq!(left, format!("lease {id} already expired\n"));

    // Every member is in every table, one of them leads, and the leadership moves where it is sent.
    let table = etcdctl(&all, "endpoint status -w table", "").await.stdout;
    assert_eq!(table.lines().filter(|line| line.contains(" 3.5.21 ")).count(), 3, "{table}");
    assert_eq!(
        table.lines().filter(|line| line.contains("| true |") || line.contains("|      true |")).count(),
        1,
        "{table}"
    );
    let target = cluster.follower().await;
    let target_id = format!("{:x}", cluster.handle(target).header().member_id);
    let moved = etcdctl(&all, &format!("move-leader {target_id}"), "").await;
    assert!(moved.stdout.starts_with("Leadership transferred from "), "{moved:?}");
    assert_eq!(cluster.leader().await, target);
    let not_leader = cluster.clients[cluster.follower().await].clone();
    let refused = etcdctl(&not_leader, &format!("move-leader {target_id}"), "").await;
    assert!(last_error(&refused.stderr).contains("no leader endpoint given at"), "{refused:?}");

    // As URLs, which these releases put into `:authority` as they are; --cluster takes them from the member list.
    let urls: Vec<String> = cluster.clients.iter().map(|client| format!("http://{client}")).collect();
    let every = etcdctl(&urls.join(","), "endpoint status -w table", "").await;
    assert_eq!(every.stdout.matches(" 3.5.21 ").count(), 3, "{every:?}");
    for verb in ["endpoint status --cluster", "endpoint health --cluster", "endpoint hashkv --cluster"] {
        let every = etcdctl(&urls[0], verb, "").await;
        let printed = format!("{}{}", every.stdout, every.stderr);
        let lines = printed.lines().filter(|line| urls.iter().any(|url| line.contains(url.as_str())));
        assert_eq!((lines.count(), every.code), (3, Some(0)), "{verb}: {printed}");
    }
    let target = cluster.follower().await;
    let target_id = format!("{:x}", cluster.handle(target).header().member_id);
    let moved = etcdctl(&urls.join(","), &format!("move-leader {target_id}"), "").await;
    assert!(moved.stdout.starts_with("Leadership transferred from "), "{moved:?}");
    assert_eq!(cluster.leader().await, target);

    // One is lost half-way: the other two go on, and the health of the dead one is told.
    cluster.kill(target);
    cluster.leader().await;
    let rest: Vec<_> = (0..3).filter(|n| *n != target).map(|n| cluster.clients[n].clone()).collect();
    assert_eq!(etcdctl(&rest.join(","), "put after loss", "").await.stdout, "OK\n");
    assert_eq!(etcdctl(&rest[0], "get after --print-value-only", "").await.stdout, "loss\n");
    let health = etcdctl(&all, "endpoint health", "").await;
    let printed = format!("{}{}", health.stdout, health.stderr);
    assert_eq!(printed.matches("is healthy: successfully committed proposal").count(), 2, "{printed}");
    assert_eq!(printed.matches("is unhealthy").count(), 1, "{printed}");
    cluster.restart(target).await;
    cluster.leader().await;
    let health = etcdctl(&all, "endpoint health", "").await;
    let printed = format!("{}{}", health.stdout, health.stderr);
    assert_eq!(printed.matches("is healthy").count(), 3, "{printed}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_replay_and_follow() {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let cluster = Cluster::start(3).await;
    let all = cluster.endpoints();
    let follower = cluster.clients[cluster.follower().await].clone();
    for command in ["put w/a 1", "put w/a 2", "put other x", "del w/a"] {
        assert_eq!(etcdctl(&all, command, "").await.code, Some(0), "{command}");
    }
    let mut child = tokio::process::Command::new("etcdctl")
        .args(["--endpoints", &follower, "watch", "w/", "--prefix", "--rev=2", "--prev-kv"])
        .env("ETCDCTL_API", "3")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("etcdctl starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut expected = async |wanted: &[&str]| {
        for wanted in wanted {
            let line = tokio::time::timeout(PATIENCE, lines.next_line()).await;
            let line = line.unwrap_or_else(|_| panic!("no line {wanted:?} in time")).expect("a line");
            assert_eq!(line.as_deref(), Some(*wanted));
        }
    };
    // History: a creation has no version before; the deletion shows what it removed.
    expected(&["PUT", "w/a", "1"]).await;
    expected(&["PUT", "w/a", "1", "w/a", "2"]).await;
    expected(&["DELETE", "w/a", "2", "w/a", ""]).await;
    // Live, across a change of the leader.
    assert_eq!(etcdctl(&all, "put w/b 3", "").await.stdout, "OK\n");
    expected(&["PUT", "w/b", "3"]).await;
    let target = format!("{:x}", cluster.handle(cluster.follower().await).header().member_id);
    assert_eq!(etcdctl(&all, &format!("move-leader {target}"), "").await.code, Some(0));
    assert_eq!(etcdctl(&all, "put w/b 4", "").await.stdout, "OK\n");
    expected(&["PUT", "w/b", "3", "w/b", "4"]).await;
    child.kill().await.expect("the watch ends");

    // A history that is gone is an error, with the revision from which there is one.
    assert_eq!(etcdctl(&all, "compaction 5", "").await.stdout, "compacted revision 5\n");
    let gone = etcdctl(&all, "watch w/ --prefix --rev=2", "").await;
    let printed = format!("{}{}", gone.stdout, gone.stderr);
    assert!(printed.contains("mvcc: required revision has been compacted"), "{printed}");
    tokio::time::timeout(Duration::from_secs(60), cluster.stop()).await.expect("a stop in time");
}
