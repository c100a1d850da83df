//! The stories: each reads like a runbook, and each returns what clients saw.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::cluster::Cluster;
use crate::keys::{self, KeyWriter};
use crate::observer::{Timeline, observe};
use crate::report::{Report, Round, ms};
use crate::writer::{Verdict, Writer, verify};

/// A cluster at rest after a start, a failover or a rejoin; generous, because two cores may carry three of everything.
const SETTLE: Duration = Duration::from_secs(90);
/// Writes resume: far beyond every target, so that a missed target is reported and not cut off.
const RESUME: Duration = Duration::from_secs(60);
/// Traffic before the first fault and after the last one.
const TRAFFIC: usize = 100;

/// Starts every node and waits until the cluster is at rest.
///
/// # Errors
/// When a node ends by itself or the cluster does not come up.
pub async fn build(cluster: &mut Cluster, timeline: &Timeline) -> Result<()> {
    for index in 0..cluster.nodes.len() {
        cluster.start(index)?;
    }
    let _observer = observe(cluster, timeline);
    cluster.wait_until("primary", SETTLE, async |cluster| cluster.primary().await.is_some()).await?;
    cluster.wait_until("streaming standbys", SETTLE, async |cluster| cluster.whole().await).await
}

/// The primary's node is lost (SIGKILL to everything of it), writes resume elsewhere, the node comes back as a standby;
/// `rounds` times in a row, each time whoever is primary then.
///
/// # Errors
/// When the cluster does not recover at all. Lost rows are no error here: they are the report's verdict.
pub async fn failover(cluster: &mut Cluster, timeline: &Timeline, rounds: usize) -> Result<Report> {
    let writer = Writer::start(&cluster.connection_string()).await?;
    let observer = observe(cluster, timeline);
    written(cluster, &writer, TRAFFIC).await?;
    let mut done = Vec::new();
    for _ in 0..rounds {
        let old = cluster.primary().await.context("no primary before the fault")?;
        let from = cluster.nodes[old].name.clone();
        let killed = Instant::now();
        timeline.fault(killed);
        timeline.event_at(killed, &from, "kill -9 of quorate and of every PostgreSQL process");
        cluster.kill(old).await?;
        let old_port = cluster.nodes[old].ports.postgres;
        cluster
            .wait_until("acknowledged write elsewhere", RESUME, async |_| {
                writer.last().is_some_and(|row| row.at > killed && row.port != old_port)
            })
            .await?;
        let (gap, first) = writer.ledger().gap_after(killed).context("no acknowledgement after the fault")?;
        let new = cluster.nodes.iter().position(|node| node.ports.postgres == first.port);
        let to = new.map_or_else(|| "?".to_owned(), |index| cluster.nodes[index].name.clone());
        timeline.event_at(first.at, &to, format!("acknowledges writes again; gap {} ms", ms(gap)));
        cluster.start(old)?;
        timeline.event(&from, "started again");
        cluster.wait_until("streaming standbys", SETTLE, async |cluster| cluster.whole().await).await?;
        timeline.event("", "every node streams again");
        written(cluster, &writer, writer.count() + TRAFFIC / 2).await?;
        let verdict = verify(&cluster.connection_string(), &writer.ledger()).await?;
        let view = cluster.view().await;
        done.push(Round {
            fault: "the primary's node is lost".to_owned(),
            from,
            timeline: view.and_then(|view| view.members.into_iter().find(|m| m.name == to)?.timeline),
            to,
            write_gap_ms: ms(gap),
            lost: verdict.lost.len(),
        });
    }
    drop(observer);
    let ledger = writer.stop().await;
    let verdict = verify(&cluster.connection_string(), &ledger).await?;
    Ok(report("failover", cluster, done, verdict, Vec::new(), timeline))
}

/// Two of three nodes are lost while writes run: the remaining primary stops acknowledging before its lease could have
/// expired, and serves again when one node is back.
///
/// # Errors
/// When the cluster does not recover at all.
pub async fn quorum_loss(cluster: &mut Cluster, timeline: &Timeline) -> Result<Report> {
    let writer = Writer::start(&cluster.connection_string()).await?;
    let observer = observe(cluster, timeline);
    written(cluster, &writer, TRAFFIC).await?;
    let primary = cluster.primary().await.context("no primary before the fault")?;
    let name = cluster.nodes[primary].name.clone();
    let others: Vec<usize> = (0..cluster.nodes.len()).filter(|index| *index != primary).collect();
    let killed = Instant::now();
    timeline.fault(killed);
    for &index in &others {
        cluster.kill(index).await?;
        timeline.event(&cluster.nodes[index].name.clone(), "kill -9 of everything");
    }
    let quorum_lost = Instant::now();
    let ttl = cluster.ttl();
    // Its PostgreSQL must be gone or read-only before the last renewal can have expired, however that is done.
    let rest = cluster.nodes[primary].ports.rest;
    let mut violations = Vec::new();
    let mut fenced = None;
    while fenced.is_none() && quorum_lost.elapsed() < ttl * 3 {
        if !takes_writes(cluster, primary).await {
            fenced = Some(Instant::now());
        } else {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    match fenced {
        Some(at) => {
            timeline.event_at(
                at,
                &name,
                format!(
                    "takes no writes any more; its lease could have lived until {:+.3} s",
                    (quorum_lost - killed + ttl).as_secs_f64()
                ),
            );
            if at > quorum_lost + ttl {
                violations
                    .push(format!("{name} took writes {} ms beyond its lease", ms(at - quorum_lost - ttl)));
            }
        }
        None => violations
            .push(format!("{name} still takes writes {} s after the quorum was lost", (ttl * 3).as_secs())),
    }
    let silent = writer.last();
    if let Some(last) = silent {
        let after = last.at.saturating_duration_since(killed);
        timeline.event(&name, format!("had acknowledged its last write at +{:.3} s", after.as_secs_f64()));
        if last.at > quorum_lost + ttl {
            violations.push(format!(
                "a write was acknowledged {} ms after the lease had expired",
                ms(last.at - quorum_lost - ttl)
            ));
        }
    }
    let (status, _) = crate::rest::get(rest, "/primary", Duration::from_secs(1))
        .await
        .unwrap_or((0, serde_json::Value::Null));
    if status == 200 {
        violations.push(format!("{name} still answers 200 on /primary without a quorum"));
    }
    let back = others[0];
    let returned = Instant::now();
    cluster.start(back)?;
    timeline.event(&cluster.nodes[back].name.clone(), "started again: two of three");
    cluster
        .wait_until("acknowledged write after the quorum is back", RESUME, async |_| {
            writer.last().is_some_and(|row| row.at > returned)
        })
        .await?;
    let first = writer
        .ledger()
        .acknowledged
        .iter()
        .find(|row| row.at > returned)
        .copied()
        .context("the row is there")?;
    let to = cluster
        .nodes
        .iter()
        .find(|node| node.ports.postgres == first.port)
        .map_or_else(String::new, |node| node.name.clone());
    timeline.event_at(
        first.at,
        &to,
        format!("acknowledges writes again, {} ms after the node was started", ms(first.at - returned)),
    );
    cluster.start(others[1])?;
    timeline.event(&cluster.nodes[others[1]].name.clone(), "started again: three of three");
    cluster.wait_until("streaming standbys", SETTLE, async |cluster| cluster.whole().await).await?;
    timeline.event("", "every node streams again");
    drop(observer);
    let gap = writer.ledger().gap_after(killed).map_or(0, |(gap, _)| ms(gap));
    let ledger = writer.stop().await;
    let verdict = verify(&cluster.connection_string(), &ledger).await?;
    let round = Round {
        fault: "two of three nodes are lost".to_owned(),
        from: name,
        to,
        timeline: None,
        write_gap_ms: gap,
        lost: verdict.lost.len(),
    };
    Ok(report("quorum-loss", cluster, vec![round], verdict, violations, timeline))
}

/// All nodes are killed at the same moment during writes and started again: every acknowledged row and every acknowledged
/// key of the store is there, and the timeline has not moved.
///
/// # Errors
/// When the cluster does not recover at all.
pub async fn all_killed(cluster: &mut Cluster, timeline: &Timeline) -> Result<Report> {
    let writer = Writer::start(&cluster.connection_string()).await?;
    let (ctl, endpoints) = (cluster.ctl()?, cluster.endpoints());
    let key_writer = KeyWriter::start(&ctl, &endpoints);
    let observer = observe(cluster, timeline);
    written(cluster, &writer, TRAFFIC).await?;
    let primary = cluster.primary().await.context("no primary before the fault")?;
    let before = leader_timeline(cluster).await;
    let killed = Instant::now();
    timeline.fault(killed);
    cluster.kill_all().await?;
    timeline.event("", "kill -9 of everything on every node");
    for index in 0..cluster.nodes.len() {
        cluster.start(index)?;
    }
    timeline.event("", "every node started again");
    cluster
        .wait_until("acknowledged write", RESUME, async |_| {
            writer.last().is_some_and(|row| row.at > killed + Duration::from_millis(500))
        })
        .await?;
    let (gap, first) = writer.ledger().gap_after(killed).context("no acknowledgement after the fault")?;
    let to = cluster
        .nodes
        .iter()
        .find(|node| node.ports.postgres == first.port)
        .map_or_else(String::new, |node| node.name.clone());
    timeline.event_at(first.at, &to, format!("acknowledges writes again; gap {} ms", ms(gap)));
    cluster.wait_until("streaming standbys", SETTLE, async |cluster| cluster.whole().await).await?;
    timeline.event("", "every node streams again");
    let after = leader_timeline(cluster).await;
    let mut violations = Vec::new();
    let keys = key_writer.stop().await;
    let missing = keys::missing(&ctl, &endpoints, &keys).await?;
    timeline.event("", format!("keys of the store: acknowledged {}, lost {}", keys.len(), missing.len()));
    if keys.is_empty() || !missing.is_empty() {
        violations.push(format!("of {} acknowledged keys the store lacks {missing:?}", keys.len()));
    }
    if before != after {
        violations.push(format!(
            "the timeline moved from {before:?} to {after:?} although nobody was lost for good"
        ));
    }
    drop(observer);
    let ledger = writer.stop().await;
    let verdict = verify(&cluster.connection_string(), &ledger).await?;
    let round = Round {
        fault: "every node is killed".to_owned(),
        from: cluster.nodes[primary].name.clone(),
        to,
        timeline: after,
        write_gap_ms: ms(gap),
        lost: verdict.lost.len(),
    };
    Ok(report("all-killed", cluster, vec![round], verdict, violations, timeline))
}

async fn leader_timeline(cluster: &Cluster) -> Option<u32> {
    cluster.view().await?.members.into_iter().find(|member| member.role == "leader")?.timeline
}

/// Whether the node's PostgreSQL answers and is not a standby: whoever connects may write there.
async fn takes_writes(cluster: &Cluster, index: usize) -> bool {
    let mut config: tokio_postgres::Config = match cluster.connection_string_of(index).parse() {
        Ok(config) => config,
        Err(_) => return false,
    };
    config.connect_timeout(Duration::from_millis(500));
    let ask = async {
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.ok()?;
        tokio::spawn(async move {
            let _ = connection.await;
        });
        client.query_one("SELECT pg_is_in_recovery()", &[]).await.ok().map(|row| !row.get::<_, bool>(0))
    };
    tokio::time::timeout(Duration::from_millis(500), ask).await.ok().flatten().unwrap_or(false)
}

async fn written(cluster: &mut Cluster, writer: &Writer, rows: usize) -> Result<()> {
    cluster.wait_until("acknowledged writes", RESUME, async |_| writer.count() >= rows).await
}

fn report(
    drill: &'static str,
    cluster: &Cluster,
    rounds: Vec<Round>,
    verdict: Verdict,
    violations: Vec<String>,
    timeline: &Timeline,
) -> Report {
    Report {
        drill,
        synchronous: cluster.synchronous(),
        ttl_s: cluster.ttl().as_secs(),
        rounds,
        verdict,
        violations,
        events: timeline.lines(),
    }
}
