//! Does `etcdctl` print for users, roles and permissions what it prints for etcd? The same commands, in order, to a member of
//! ours and to Debian's etcd.

mod common;
#[path = "common/reference.rs"]
mod reference;
#[path = "common/auth.rs"]
mod users;

use std::process::Stdio;

use common::PATIENCE;
use quorate_node::auth::TokenOptions;
use reference::Reference;
use tokio::io::AsyncWriteExt;

async fn etcdctl(endpoint: &str, arguments: &str, stdin: &str) -> String {
    let mut child = tokio::process::Command::new("etcdctl")
        .args(["--endpoints", endpoint])
        .args(arguments.split(' ').map(|word| if word == "''" { "" } else { word }))
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
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    // clientv3 logs its retries as JSON before the error that counts.
    let lines = said.iter().flat_map(|text| text.lines()).filter(|line| !line.starts_with("{\"level\""));
    let text: Vec<&str> = lines.collect();
    format!("{}\n[rc={:?}]", text.join("\n"), output.status.code())
}

const ROOT: &str = "--user root:rootpw ";
const ALICE: &str = "--user alice:pw1 ";

/// In order: each may build on those before. `role get root` is not among them: from 3.5 on it shows everything, as here,
/// and in Debian's 3.4 nothing. The first of the three is put before the second; the third is typed in.
const SAME: &[(&str, &str, &str)] = &[
    ("", "auth enable", ""),
    ("", "user add root:rootpw", ""),
    ("", "user add alice:pw1", ""),
    ("", "user add alice:pw1", ""),
    ("", "user add bob --no-password", ""),
    ("", "role add r", ""),
    ("", "role add r", ""),
    ("", "role grant-permission r read foo", ""),
    ("", "role grant-permission r readwrite pub/ --prefix", ""),
    ("", "role grant-permission r write s t", ""),
    ("", "role grant-permission r read x --from-key", ""),
    ("", "role grant-permission none read foo", ""),
    ("", "role get r", ""),
    ("", "role get none", ""),
    ("", "role list", ""),
    ("", "user grant-role alice none", ""),
    ("", "user grant-role none r", ""),
    ("", "user grant-role alice r", ""),
    ("", "user grant-role alice r", ""),
    ("", "user get alice", ""),
    ("", "user get alice --detail", ""),
    ("", "user get none", ""),
    ("", "user list", ""),
    ("", "user revoke-role alice none", ""),
    ("", "put foo 1", ""),
    ("", "auth enable", ""),
    ("", "put foo 2", ""),
    ("", "get foo", ""),
    ("", "user list", ""),
    ("--user alice:wrong ", "get foo", ""),
    ("--user none:pw ", "get foo", ""),
    (ROOT, "put foo 3", ""),
    (ROOT, "get foo", ""),
    (ALICE, "get foo", ""),
    (ALICE, "put foo 4", ""),
    (ALICE, "put pub/a 1", ""),
    (ALICE, "put pub/a 2 --prev-kv", ""),
    (ALICE, "put s1 1", ""),
    (ALICE, "put s1 2 --prev-kv", ""),
    (ALICE, "get pub/ --prefix", ""),
    (ALICE, "get pub/ --from-key", ""),
    (ALICE, "get x --from-key", ""),
    (ALICE, "get x z", ""),
    (ALICE, "get w z", ""),
    (ALICE, "get '' --prefix", ""),
    (ALICE, "del pub/ --prefix --prev-kv", ""),
    (ALICE, "del s t", ""),
    (ALICE, "del s t --prev-kv", ""),
    (ALICE, "txn", "value(\"foo\") = \"3\"\n\nput pub/t 1\nget pub/t\n\nget foo\n\n"),
    (ALICE, "txn", "value(\"zzz\") = \"3\"\n\nput pub/t 1\n\nput zzz 1\n\n"),
    (ALICE, "txn", "value(\"bar\") = \"3\"\n\nput pub/t 1\n\n\n"),
    (ALICE, "user list", ""),
    (ALICE, "user add carol:pw", ""),
    (ALICE, "user get alice", ""),
    (ALICE, "user get root", ""),
    (ALICE, "role get r", ""),
    (ALICE, "role get root", ""),
    (ALICE, "role list", ""),
    (ALICE, "auth disable", ""),
    (ROOT, "auth enable", ""),
    (ROOT, "user get root", ""),
    (ROOT, "user delete root", ""),
    (ROOT, "user revoke-role root root", ""),
    (ROOT, "role delete root", ""),
    (ROOT, "user passwd alice --interactive=false", "pw2\n"),
    (ALICE, "get foo", ""),
    ("--user alice:pw2 ", "get foo", ""),
    (ROOT, "role revoke-permission r foo", ""),
    (ROOT, "role revoke-permission r foo", ""),
    ("--user alice:pw2 ", "get foo", ""),
    (ROOT, "role grant-permission r readwrite foo", ""),
    ("--user alice:pw2 ", "put foo 5", ""),
    (ROOT, "role delete r", ""),
    (ROOT, "user get alice", ""),
    ("--user alice:pw2 ", "get foo", ""),
    (ROOT, "user delete alice", ""),
    (ROOT, "user delete alice", ""),
    ("--user alice:pw2 ", "get foo", ""),
    (ROOT, "auth disable", ""),
    ("", "get foo", ""),
    (ROOT, "get foo", ""),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcdctl_prints_what_it_prints_for_etcd() {
    let theirs = Reference::start().await;
    let ours = users::cluster(1, TokenOptions::default()).await;
    for (who, command, stdin) in SAME {
        let arguments = format!("{who}{command}");
        let (expected, found) = tokio::join!(
            etcdctl(&theirs.address, &arguments, stdin),
            etcdctl(&ours.clients[0], &arguments, stdin)
        );
        assert_eq!(found, expected, "etcdctl {arguments}");
    }
    ours.stop().await;
}
