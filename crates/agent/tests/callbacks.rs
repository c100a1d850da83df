//! What the operator's programs are told in the life of two nodes with real PostgreSQL.

mod common;

use std::path::{Path, PathBuf};

use common::{Cluster, available, dynamic, log, until};
use quorate_agent::callbacks::Scripts;
use serde_json::{Map, json};
use std::time::Duration;

/// Beside the data directory, where PostgreSQL's user may write.
fn file(peer: &common::Peer, name: &str) -> PathBuf {
    peer.data_dir.with_file_name(name)
}

/// Every script writes its arguments down; `pre_promote` fails as long as there is a file `veto`.
fn recording(peer: &common::Peer) -> Scripts {
    let (calls, veto) = (file(peer, "calls"), file(peer, "veto"));
    let (calls, veto) = (calls.display(), veto.display());
    let script = |text: String| Some(["sh", "-c", text.as_str(), "told"].map(str::to_owned).into());
    let told = || script(format!("echo \"$*\" >> {calls}"));
    Scripts {
        on_start: told(),
        on_stop: told(),
        on_restart: told(),
        on_reload: told(),
        on_role_change: told(),
        pre_promote: script(format!(
            "if test -e {veto}; then echo vetoed >> {calls}; exit 1; fi; echo pre_promote >> {calls}"
        )),
        before_stop: script(format!("echo before_stop >> {calls}")),
    }
}

fn calls(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let mut calls: Vec<String> = text.lines().map(str::to_owned).collect();
    // Who is not promoted may try it again.
    calls.dedup_by(|next, last| next == last && next == "vetoed");
    calls
}

/// A callback that has not ended is killed by the next: wait for each, so that all are heard.
async fn told(file: &Path, count: usize, last: &str) {
    until(&format!("{last:?} as call {count} in {}", file.display()), || async {
        let calls = calls(file);
        (calls.len() >= count && calls[count - 1] == last).then_some(())
    })
    .await;
}

async fn streams(cluster: &Cluster, at: usize) {
    until("the standby streams", || async {
        let status = cluster.peers[at].status().await?;
        (status["state"] == "running" && status["replication_state"] == "streaming").then_some(())
    })
    .await;
    let primary = &cluster.peers[1 - at];
    let senders = "select count(*) from pg_stat_replication where state = 'streaming'";
    until("the primary sees it", || async { primary.value(senders).await.filter(|count| count == "1") })
        .await;
}

async fn switch_over(cluster: &Cluster, from: usize) -> (u16, String) {
    streams(cluster, 1 - from).await;
    let body = json!({"leader": cluster.peers[from].name, "candidate": cluster.peers[1 - from].name});
    // The REST API knows the members as of its last look.
    until("the switchover is asked for", || async {
        let answer = cluster.peers[from].request("POST", "/switchover", Some(&body.to_string())).await?;
        (answer.0 != 412).then_some(answer)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn callbacks_tell_the_life_of_a_cluster() {
    if !available() {
        return;
    }
    log();
    let mut cluster = Cluster::new(&["node1", "node2"], dynamic());
    for peer in &mut cluster.peers {
        peer.scripts = recording(peer);
    }
    cluster.start().await;
    let first = cluster.primary().await;
    let second = 1 - first;
    let (old, new) = (file(&cluster.peers[first], "calls"), file(&cluster.peers[second], "calls"));
    told(&old, 1, "on_start primary demo").await;
    told(&new, 1, "on_start replica demo").await;

    // The candidate's script fails: it gives the lock back, and who stepped down takes it again, and keeps it.
    std::fs::write(file(&cluster.peers[second], "veto"), "").unwrap();
    switch_over(&cluster, first).await;
    told(&old, 6, "on_role_change primary demo").await;
    assert_eq!(calls(&new)[1..], ["vetoed"]);
    std::fs::remove_file(file(&cluster.peers[second], "veto")).unwrap();
    assert_eq!(cluster.primary().await, first);

    let (code, answer) = switch_over(&cluster, first).await;
    assert_eq!((code, answer.contains("Successfully switched over")), (200, true), "{answer}");
    told(&new, 4, "on_role_change primary demo").await;
    told(&old, 9, "on_role_change replica demo").await;

    cluster.peers[second].agent.as_ref().unwrap().reload(Map::new());
    told(&new, 5, "on_reload primary demo").await;

    streams(&cluster, first).await;
    let answer = cluster.peers[first].request("POST", "/restart", Some("{}")).await;
    assert_eq!(answer, Some((200, "restarted successfully".to_owned())));
    told(&old, 11, "on_restart replica demo").await;

    // Stopping is over when it has been told.
    let agent = cluster.peers[first].agent.take().unwrap();
    agent.shutdown(Duration::from_secs(20), false).await;
    told(&old, 13, "on_stop replica demo").await;
    assert_eq!(
        calls(&old),
        [
            "on_start primary demo",
            "before_stop",
            "on_stop primary demo",
            "on_role_change replica demo",
            "pre_promote",
            "on_role_change primary demo",
            "before_stop",
            "on_stop primary demo",
            "on_role_change replica demo",
            "before_stop",
            "on_restart replica demo",
            "before_stop",
            "on_stop replica demo",
        ]
    );
    assert_eq!(
        calls(&new),
        [
            "on_start replica demo",
            "vetoed",
            "pre_promote",
            "on_role_change primary demo",
            "on_reload primary demo",
        ]
    );
    cluster.stop().await;
}
