//! Does real PostgreSQL fail over without losing an acknowledged commit? The drill's stories, judged.
//!
//! One cluster at a time: every story here has the machine for itself, so that a time it prints means something. Times
//! are printed, never asserted, except the one that is a safety rule: no acknowledgement beyond the lease.

#![allow(clippy::print_stdout, reason = "times are printed, not asserted")]

mod chaos;
mod cuts;
mod witness;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_drill::observer::Timeline;
use quorate_drill::report::Report;
use quorate_drill::stories::{self, Story};
use quorate_drill::{Cluster, Network};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    // A story that failed has said so; the next one may still run.
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which cluster a story happens to.
struct Setting {
    network: Network,
    ttl_s: u64,
    mode: &'static str,
    /// How long a cut lasts at least, if the story's own time is too long.
    hold: Option<Duration>,
}

fn loopback(ttl_s: u64, mode: &'static str) -> Setting {
    Setting { network: Network::Loopback, ttl_s, mode, hold: None }
}

/// Tells the story so many times and judges it; `look` sees the cluster before it is stopped.
fn tell(setting: &Setting, story: Story, rounds: usize, look: impl FnOnce(&Cluster)) -> Report {
    let _alone = alone();
    let (dir, mut cluster) = quorate_tests::cluster_in(setting.network, setting.ttl_s, setting.mode);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let timeline = Timeline::new(true);
    let result = runtime.block_on(async {
        let result = async {
            stories::build(&mut cluster, &timeline).await?;
            stories::tell(&mut cluster, &timeline, story, rounds, setting.hold, |_| {}).await?.complete()
        }
        .await;
        if result.is_ok() {
            look(&cluster);
        }
        cluster.stop(Duration::from_secs(20)).await.unwrap();
        result
    });
    let report = match result {
        Ok(report) => report,
        Err(error) => {
            let kept = dir.keep();
            panic!("{error:#}\nlogs are kept in {}", kept.display());
        }
    };
    println!("{}", report.closing());
    if !report.passed() {
        let kept = dir.keep();
        panic!("{}\nlogs are kept in {}", report.closing(), kept.display());
    }
    report
}

#[test]
fn the_loss_of_the_primary_loses_nothing_in_sync_mode() {
    let report = tell(&loopback(3, "on"), Story::Failover, 2, |_| {});
    assert_eq!(report.rounds.len(), 2);
    for round in &report.rounds {
        assert_ne!(round.from, round.to, "somebody else must have taken over");
    }
    let timelines: Vec<u32> = report.rounds.iter().filter_map(|round| round.timeline).collect();
    assert!(timelines.windows(2).all(|pair| pair[0] < pair[1]), "timelines only grow: {timelines:?}");
}

/// With a lease so long that waiting for it would be seen: the standbys take over together, each time.
#[test]
fn in_quorum_mode_nobody_waits_for_the_lease() {
    const ROUNDS: usize = 2;
    let report = tell(&loopback(20, "quorum"), Story::Failover, ROUNDS, |cluster| {
        let revoked: usize = cluster
            .nodes
            .iter()
            .filter_map(|node| std::fs::read_to_string(node.log()).ok())
            .map(|log| log.matches("took the leader lock away").count())
            .sum();
        assert_eq!(revoked, ROUNDS, "each take-over is by promises");
    });
    for round in &report.rounds {
        assert_ne!(round.from, round.to, "somebody else must have taken over");
        assert!(
            round.write_gap_ms < 20_000,
            "before the lease could have expired: {} ms",
            round.write_gap_ms
        );
    }
}

#[test]
fn without_a_quorum_nothing_is_acknowledged_beyond_the_lease_sync() {
    tell(&loopback(3, "on"), Story::QuorumLoss, 1, |_| {});
}

#[test]
fn without_a_quorum_nothing_is_acknowledged_beyond_the_lease_async() {
    tell(&loopback(3, "off"), Story::QuorumLoss, 1, |_| {});
}

#[test]
fn all_nodes_killed_at_once_come_back_with_everything() {
    tell(&loopback(3, "on"), Story::AllKilled, 1, |_| {});
}
