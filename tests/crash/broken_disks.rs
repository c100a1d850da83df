//! One of three disks is broken: the others do not wait for it, and it does no harm.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::client::number;
use crate::disk::{self, Small};
use crate::ledger::Ledger;
use crate::store::Store;
use crate::strace::{self, Tracer};
use crate::{alone, scratch};

/// Longer than an election; a disk under a storm of writes takes that long.
const STALL: Duration = Duration::from_secs(2);

#[test]
fn one_broken_disk_of_three_is_no_outage() {
    if !disk::is_possible() || !strace::is_possible() {
        println!("skipped: broken disks need root and strace");
        return;
    }
    let _alone = alone();
    let scratch = scratch();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run(scratch.path())).unwrap_or_else(|error| panic!("{error:#}"));
}

async fn run(dir: &Path) -> Result<()> {
    let small = Small::make(dir, "small", 200)?;
    let places: Vec<PathBuf> = vec![dir.join("1"), dir.join("2"), small.path().to_path_buf()];
    places[..2].iter().try_for_each(std::fs::create_dir)?;
    let mut store = Store::new(&[&places[0], &places[1], &places[2]], dir);
    store.start()?;
    store.healthy().await?;
    let mut ledger = Ledger::start(&mut store, 2).await?;
    ledger.progress(&mut store).await?;

    for (calls, leads) in [("fdatasync", true), ("fdatasync", false), ("fsync", false), ("pwrite64", true)] {
        let victim = one_that(&mut store, leads).await?;
        failing(&mut store, &ledger, victim, calls)
            .await
            .with_context(|| format!("EIO of {calls}, at the leader: {leads}"))?;
    }
    for leads in [false, true] {
        let victim = one_that(&mut store, leads).await?;
        stalling(&mut store, &ledger, victim)
            .await
            .with_context(|| format!("a stall, at the leader: {leads}"))?;
    }
    full(&mut store, &ledger, &small).await.context("a full disk")?;
    ledger.pause().await;
    ledger.verify(&mut store).await?;
    store.agree().await?;
    println!("broken disks: {} writes acknowledged, 0 lost", ledger.acknowledged());
    Ok(())
}

/// A member that leads, or one that does not.
async fn one_that(store: &mut Store, leads: bool) -> Result<usize> {
    for _ in 0..100 {
        for nth in 0..store.members.len() {
            let endpoint = store.members[nth].client.clone();
            let Ok(status) = store.client.call(&endpoint, "maintenance/status", &json!({})).await else {
                continue;
            };
            let leader = number(&status["leader"]);
            if leader != 0 && (leader == number(&status["header"]["member_id"])) == leads {
                return Ok(nth);
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    anyhow::bail!("no member with leads = {leads}")
}

/// `calls` fail: the member ends with a sentence, the others go on, and it comes back.
async fn failing(store: &mut Store, ledger: &Ledger, victim: usize, calls: &str) -> Result<()> {
    let member = &mut store.members[victim];
    let from = member.spoken();
    let tracer = Tracer::attach(member.pid().context("it runs")?, calls, "error=EIO")?;
    let status = member.wait_for_end()?;
    drop(tracer);
    let said = member.said(from);
    ensure!(status.code() == Some(1), "ended with {status}: {said}");
    let place = member.data.display().to_string();
    let sentence = said.lines().rfind(|line| line.contains("ERROR") && line.contains(&place));
    println!("EIO of {calls}: {}", sentence.with_context(|| format!("no sentence names the disk: {said}"))?);
    ledger.progress(store).await.context("while it is away")?;
    back(store, ledger).await
}

async fn back(store: &mut Store, ledger: &Ledger) -> Result<()> {
    store.start()?;
    store.healthy().await?;
    ledger.progress(store).await?;
    ledger.verify(store).await?;
    store.agree().await?;
    Ok(())
}

/// Every sync takes seconds: the others are not held up, and nothing is lost.
async fn stalling(store: &mut Store, ledger: &Ledger, victim: usize) -> Result<()> {
    let pid = store.members[victim].pid().context("it runs")?;
    let fault = format!("delay_enter={}", STALL.as_micros());
    let tracer = Tracer::attach(pid, strace::SYNCS, &fault)?;
    let before = ledger.acknowledged();
    ledger.progress(store).await.context("while it stalls")?;
    tokio::time::sleep(STALL).await;
    println!("a stall of {STALL:?}: {} writes acknowledged meanwhile", ledger.acknowledged() - before);
    drop(tracer);
    back(store, ledger).await
}

/// No room is left for one member.
async fn full(store: &mut Store, ledger: &Ledger, small: &Small) -> Result<()> {
    let victim = 2;
    let from = store.members[victim].spoken();
    small.fill(1 << 20)?;
    let status = store.members[victim].wait_for_end()?;
    let said = store.members[victim].said(from);
    ensure!(status.code() == Some(1), "ended with {status}: {said}");
    let sentence =
        said.lines().rfind(|line| line.contains("ERROR") && line.contains("free space on that file system"));
    println!("full: {}", sentence.with_context(|| format!("no sentence has the remedy: {said}"))?);
    ledger.progress(store).await.context("while it is away")?;
    small.free()?;
    back(store, ledger).await
}
