//! Three members, three agents, three real PostgreSQL: the life of a cluster, once through.

mod common;

use std::time::{Duration, Instant};

use common::{Cluster, available, dynamic, log, until};
use quorate_node::clock::boottime;
use serde_json::json;

async fn all_streaming(cluster: &Cluster, replicas: usize) {
    until("the replicas stream", || async {
        let mut streaming = 0;
        for peer in cluster.peers.iter().filter(|peer| peer.agent.is_some()) {
            let status = peer.status().await?;
            streaming +=
                usize::from(status["replication_state"] == "streaming" && status["state"] == "running");
        }
        (streaming == replicas).then_some(())
    })
    .await;
}

/// The ticks of each agent so far.
async fn ticks(cluster: &Cluster) -> Vec<u64> {
    let mut ticks = Vec::new();
    for peer in &cluster.peers {
        let (_, page) = peer.request("GET", "/metrics", None).await.unwrap();
        let line = page.lines().find(|line| line.starts_with("quorate_ticks_total")).unwrap();
        ticks.push(line.rsplit(' ').next().unwrap().parse().unwrap());
    }
    ticks
}

/// What happened is in the store, and told: by whom, with its phases, and what would happen next.
async fn explained(cluster: &Cluster, lost: usize, won: usize) {
    let [lost, name] = [lost, won].map(|at| cluster.peers[at].name.clone());
    let story = until("the promotion is recorded", || async {
        let (code, body) = cluster.peers[won].request("GET", "/why", None).await?;
        assert_eq!(code, 200, "{body}");
        let story: serde_json::Value = serde_json::from_str(&body).ok()?;
        let records = story["records"].as_array()?.iter();
        let promoted = |it: &&serde_json::Value| it["kind"] == "promotion" && it["from"] == lost.as_str();
        records.filter(promoted).any(|it| it["node"] == name.as_str()).then_some(story)
    })
    .await;
    let first = story["sentences"][0].as_str().unwrap();
    assert!(first.contains(&format!("{name} became primary after")) && first.contains(&lost), "{first}");
    let main = story["records"].as_array().unwrap().iter().find(|it| it["kind"] == "promotion").unwrap();
    let phases: Vec<&str> =
        main["phases"].as_array().unwrap().iter().map(|phase| phase["name"].as_str().unwrap()).collect();
    assert!(["race", "promote", "first_write"].iter().all(|name| phases.contains(name)), "{phases:?}");

    let (code, body) = cluster.peers[won].request("GET", "/why?last=2", None).await.unwrap();
    let last: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code, last["records"].as_array().unwrap().len()), (200, 2), "{body}");
    let (code, _) = cluster.peers[won].request("GET", "/why?last=none", None).await.unwrap();
    assert_eq!(code, 400);

    // Two of three voters are left: the next loss would cost the quorum, and that is what stands in the way.
    until("the forecast knows that", || async {
        let (code, body) = cluster.peers[won].request("GET", "/forecast", None).await?;
        let forecast: serde_json::Value = serde_json::from_str(&body).ok()?;
        assert_eq!((code, &forecast["forecast"]["leader"]), (200, &json!(name)), "{body}");
        body.contains("the store would lose its quorum: 1 of 3 voters").then_some(())
    })
    .await;

    let (_, page) = cluster.peers[won].request("GET", "/metrics", None).await.unwrap();
    let promotions: Vec<&str> = page
        .lines()
        .filter(|line| line.starts_with("quorate_failovers_total{") && !line.ends_with(" 0"))
        .collect();
    assert_eq!(promotions.len(), 1, "{promotions:?}");
    assert!(page.contains("quorate_last_failover_phase_seconds{"), "{page}");

    // Times that cannot be kept are refused; a preset is a word.
    let patch = |body: &'static str| cluster.peers[won].request("PATCH", "/config", Some(body));
    let (code, why) = patch(r#"{"ttl": 5, "loop_wait": 4.5}"#).await.unwrap();
    assert!(code == 400 && why.contains("is not less than ttl 5 s"), "{code} {why}");
    let (code, why) = patch(r#"{"preset": "slow"}"#).await.unwrap();
    assert!(code == 400 && why.contains("expected fast, default or wan"), "{code} {why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cluster_forms_fails_over_rejoins_and_switches_over() {
    if !available() {
        return;
    }
    log();
    let mut cluster = Cluster::new(&["node1", "node2", "node3"], dynamic());
    let begun = Instant::now();
    cluster.start().await;
    let first = cluster.primary().await;
    cluster.peers[first].sql("create table t (n int); insert into t values (1)").await.unwrap();
    tracing::info!(elapsed_ms = begun.elapsed().as_millis(), "first write");
    all_streaming(&cluster, 2).await;
    tracing::info!(elapsed_ms = begun.elapsed().as_millis(), "all streaming");

    // At rest nobody keeps anybody busy: a tick per second and node, and a few for what has just changed.
    let before = ticks(&cluster).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    for (before, after) in before.into_iter().zip(ticks(&cluster).await) {
        assert!((3..=10).contains(&(after - before)), "{before} to {after} ticks in 4 s");
    }

    // The primary's node is lost.
    let begun = Instant::now();
    cluster.peers[first].kill();
    let second = cluster.primary().await;
    assert_ne!(second, first);
    until("writes again", || cluster.peers[second].sql("insert into t values (2)")).await;
    tracing::info!(elapsed_ms = begun.elapsed().as_millis(), "failed over");
    all_streaming(&cluster, 1).await;
    explained(&cluster, first, second).await;

    // It comes back as a standby.
    let begun = Instant::now();
    cluster.peers[first].start_node().await;
    cluster.peers[first].start_agent().await;
    all_streaming(&cluster, 2).await;
    tracing::info!(elapsed_ms = begun.elapsed().as_millis(), "rejoined");
    until("the row", || async {
        cluster.peers[first].value("select count(*) from t").await.filter(|count| count == "2")
    })
    .await;

    // Cloned again on request, while it runs.
    let before = cluster.peers[first].status().await.unwrap()["postmaster_start_time"].clone();
    let asked = cluster.peers[first].request("POST", "/reinitialize", Some("{}")).await;
    assert_eq!(asked, Some((200, "reinitialize started".to_owned())));
    // Not "creating replica": a small clone is over between two looks. Another postmaster is there for good.
    until("another postmaster", || async {
        let status = cluster.peers[first].status().await?;
        (status["state"] == "running" && status["postmaster_start_time"] != before).then_some(())
    })
    .await;
    all_streaming(&cluster, 2).await;
    // What a switchover is judged by: the members as the primary reads them, and its walsenders (which catch up first).
    until("the primary sees both stream", || async {
        let (_, body) = cluster.peers[second].request("GET", "/cluster", None).await?;
        let members: serde_json::Value = serde_json::from_str(&body).ok()?;
        let streaming = members["members"].as_array()?.iter().filter(|m| m["state"] == "streaming").count();
        let senders = "select count(*) from pg_stat_replication where state = 'streaming'";
        let senders = cluster.peers[second].value(senders).await?;
        (streaming == 2 && senders == "2").then_some(())
    })
    .await;

    // A planned switchover back.
    let begun = Instant::now();
    let names = [second, first].map(|at| cluster.peers[at].name.clone());
    let body = json!({"leader": names[0], "candidate": names[1]}).to_string();
    let answer = cluster.peers[second].request("POST", "/switchover", Some(&body)).await.unwrap();
    assert_eq!(answer, (200, format!("Successfully switched over to \"{}\"", names[1])));
    tracing::info!(elapsed_ms = begun.elapsed().as_millis(), "switched over");
    assert_eq!(cluster.primary().await, first);
    until("writes", || cluster.peers[first].sql("insert into t values (3)")).await;
    all_streaming(&cluster, 2).await;
    for peer in &cluster.peers {
        until("the rows everywhere", || async {
            peer.value("select count(*) from t").await.filter(|count| count == "3")
        })
        .await;
    }

    // An orderly stop of the primary's agent hands over: nobody waits for a lease.
    let agent = cluster.peers[first].agent.take().unwrap();
    agent.shutdown(Duration::from_secs(20), false).await;
    let begun = Instant::now();
    assert_eq!(cluster.peers[first].postmaster(), None, "PostgreSQL is stopped");
    let third = cluster.primary().await;
    until("writes", || cluster.peers[third].sql("insert into t values (4)")).await;
    tracing::info!(elapsed_ms = begun.elapsed().as_millis(), "handed over");
    assert!(begun.elapsed() < Duration::from_secs(4), "sooner than any lease ends");
    assert_eq!(cluster.peers[third].value("select count(*) from t").await.as_deref(), Some("4"));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn in_synchronous_mode_what_was_acknowledged_survives_the_loss_of_the_primary() {
    if !available() {
        return;
    }
    log();
    let mut dynamic = dynamic();
    dynamic["synchronous_mode"] = json!("on");
    let mut cluster = Cluster::new(&["node1", "node2", "node3"], dynamic);
    cluster.start().await;
    let mut at = cluster.primary().await;
    cluster.peers[at].sql("create table t (n int primary key)").await.unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..2 {
        all_streaming(&cluster, 2).await;
        // `synchronous_standby_names` is set while the store still names the old set as well. A primary that dies
        // between the two leaves a set that confirmed alone, and by the rules nobody may follow it.
        until("a settled synchronous set", || async {
            let (_, body) = cluster.peers[at].request("GET", "/cluster", None).await?;
            let members: serde_json::Value = serde_json::from_str(&body).ok()?;
            members["members"].as_array()?.iter().find(|m| m["role"] == "sync_standby").map(drop)
        })
        .await;
        let session = cluster.peers[at].session().await.unwrap();
        for n in 0..200 {
            let n = round * 1000 + n;
            session.batch_execute(&format!("insert into t values ({n})")).await.unwrap();
            acknowledged.push(n.to_string());
        }
        let begun = Instant::now();
        cluster.peers[at].kill();
        let lost = std::mem::replace(&mut at, cluster.primary().await);
        assert_ne!(lost, at);
        let rows =
            cluster.peers[at].value("select coalesce(string_agg(n::text, ',' order by n), '') from t").await;
        let rows: Vec<_> = rows.unwrap().split(',').map(str::to_owned).collect();
        assert_eq!(rows, acknowledged, "nothing lost, nothing invented");
        // Not before its own synchronous standby is listed again.
        until("writes again", || cluster.peers[at].sql("create table if not exists w (n int)")).await;
        tracing::info!(elapsed_ms = begun.elapsed().as_millis(), round, "failed over");
        cluster.peers[lost].start_node().await;
        cluster.peers[lost].start_agent().await;
    }
    all_streaming(&cluster, 2).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_nodes_lost_stop_the_writes_in_time_and_one_that_returns_brings_them_back() {
    if !available() {
        return;
    }
    log();
    let mut cluster = Cluster::new(&["node1", "node2", "node3"], dynamic());
    cluster.start().await;
    let primary = cluster.primary().await;
    cluster.peers[primary].sql("create table t (n int)").await.unwrap();
    all_streaming(&cluster, 2).await;
    let others: Vec<_> = (0..3).filter(|at| *at != primary).collect();
    for at in &others {
        cluster.peers[*at].kill();
    }
    let newest_renewal = boottime();
    let peer = &cluster.peers[primary];
    until("the end of writes", || async {
        peer.sql("insert into t values (1)").await.is_none().then_some(())
    })
    .await;
    assert!(boottime() < newest_renewal + Duration::from_secs(5), "fenced before the lease could have ended");

    let begun = Instant::now();
    cluster.peers[others[0]].start_node().await;
    cluster.peers[others[0]].start_agent().await;
    let again = cluster.primary().await;
    until("writes again", || cluster.peers[again].sql("insert into t values (2)")).await;
    tracing::info!(elapsed_ms = begun.elapsed().as_millis(), again, primary, "writable again");
    all_streaming(&cluster, 1).await;
    cluster.stop().await;
}
