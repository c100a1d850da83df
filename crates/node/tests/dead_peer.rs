//! What a leader does about a peer that is down: it tries again and again, but not as fast as it can.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{Cluster, PATIENCE, eventually, get, insist, put};
use tokio::time::Instant;

/// Attempts in a second: append and heartbeat connections retry every 100 and 80 ms; twice that is still nothing.
const ATTEMPTS_A_SECOND: usize = 60;
const LOOK: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_peer_is_tried_at_a_bounded_rate_and_found_when_it_is_back() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let dead = cluster.follower().await;
    let handle = cluster.handle(leader);
    insist(&handle, put("before", "1")).await;
    cluster.kill(dead);

    // In its place: somebody who hangs up at once.
    let address = cluster.configs[dead].peer_listen[0].clone();
    let listener = eventually("the dead member's port is free", || async {
        tokio::net::TcpListener::bind(&address).await.ok()
    })
    .await;
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&attempts);
    let hang_up = tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            drop(connection);
        }
    });
    // Also under load: every new entry and every commit is a reason to try again.
    let until = Instant::now() + LOOK;
    let mut writes = 0;
    while Instant::now() < until {
        writes += 1;
        insist(&handle, put("load", &writes.to_string())).await;
    }
    let seen = attempts.load(Ordering::Relaxed);
    assert!(seen > 0, "the dead peer is not tried at all");
    let bound = ATTEMPTS_A_SECOND * LOOK.as_secs() as usize;
    assert!(seen <= bound, "{seen} attempts in {LOOK:?} ({writes} writes), at most {bound} allowed");

    hang_up.abort();
    // The port is free when the task is gone.
    let _ = hang_up.await;
    cluster.start_one(dead).await;
    let back = cluster.handle(dead);
    let caught_up = eventually("the returned member has everything", || async {
        get(&back, "load", true).await.filter(|value| *value == writes.to_string())
    });
    tokio::time::timeout(PATIENCE, caught_up).await.expect("in time");
    cluster.stop_all().await;
}
