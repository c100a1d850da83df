//! Do stock Patroni and PostgreSQL notice that no etcd answers them?
//!
//! Three nodes of Patroni from PyPI with real PostgreSQL, whose `etcd3:` hosts are three `quorate store` processes. The
//! configuration is that of a setup from the field (three stores, three database nodes; `etcd-seven-vms`), unchanged but for
//! addresses and paths, and Patroni is started by the user and with the command of another one's unit file
//! (`colocated-three`). A writer keeps a ledger throughout: what was acknowledged must be there at the end.
//!
//! Faults are those that the setups' people tried: the primary and the store's leader lost at the same moment, a store that
//! hangs, the store's leader that hangs. Times are printed, never asserted.
//!
//! With `QUORATE_TESTS_LONG=1` two of three machines are lost as well, one after the other, with a minute more.
//! With `QUORATE_TESTS_STORE=etcd` the stores are Debian's etcd: what fails there as well is not ours.

#![allow(clippy::print_stdout, reason = "the transcript is what this suite is about")]

mod setup;
mod transcript;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use quorate_drill::writer::{Target, Writer, verify};
use rustix::process::Signal;

use quorate_tests::stores::http_get;
use setup::{Setup, stop};

/// Starts, joins, rejoins; generous, because two cores carry three of everything.
const SETTLE: Duration = Duration::from_secs(90);
/// Rows before a fault and after it.
const ROWS: usize = 50;
/// A freeze lasts this long at least: two of Patroni's loops, and longer than its patience with one store.
const FREEZE: Duration = Duration::from_secs(5);

#[test]
fn stock_patroni_does_not_notice() {
    let dir = tempfile::Builder::new().prefix("quorate-patroni-").tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut setup = Setup::prepare(&path).unwrap();
    if let Err(error) = runtime.block_on(run(&mut setup)) {
        drop(setup);
        panic!("{error:#}\neverything is kept in {}", dir.keep().display());
    }
}

async fn run(setup: &mut Setup) -> Result<()> {
    bootstrap(setup).await?;
    reconfigure(setup).await?;
    let database = Target::here(&setup.connection_string())?;
    let writer = Writer::start(&database).await?;
    rows(setup, &writer).await?;

    switchover(setup, &writer).await?;
    pause(setup).await?;
    lose_primary_and_store_leader(setup, &writer).await?;
    let all: Vec<usize> = (0..setup.stores.len()).collect();
    let leader = setup.store_leader(&all).context("the store has a leader")?;
    freeze(setup, &writer, (leader + 1) % 3, "a store").await?;
    freeze(setup, &writer, leader, "the store's leader").await?;
    setup.patronictl("list")?;
    if std::env::var_os("QUORATE_TESTS_LONG").is_some() {
        lose_two_of_three(setup, &writer).await?;
    }
    through_the_proxy(setup).await?;

    let ledger = writer.stop().await;
    let verdict = verify(&database, &ledger).await?;
    setup.transcript.event(&format!("the ledger: {verdict:?}"));
    ensure!(verdict.lost.is_empty(), "acknowledged writes are lost: {verdict:?}");
    ensure!(verdict.unexplained.is_empty(), "rows that nobody wrote: {verdict:?}");
    setup.patronictl("history")?;
    setup.etcdctl(&all, "endpoint status -w table")?;
    setup.etcdctl(&all, "get --prefix --keys-only /service/")?;

    setup.proxy.kill().await?;
    stop(&mut setup.nodes, Duration::from_secs(30)).await?;
    setup.transcript.event("Patroni was stopped on every node");
    stop(&mut setup.stores, Duration::from_secs(10)).await?;
    setup.transcript.event("the stores were stopped");
    Ok(())
}

/// Stores, then nodes; one of them makes the cluster, the others clone it.
async fn bootstrap(setup: &mut Setup) -> Result<()> {
    for store in &mut setup.stores {
        store.start()?;
    }
    let healthy =
        |setup: &Setup| setup.stores.iter().all(|store| http_get(&store.address, 2379, "/health").is_ok());
    setup.wait_until("healthy stores", SETTLE, healthy).await?;
    setup.etcdctl(&[0, 1, 2], "endpoint health")?;
    setup.etcdctl(&[0], "member list")?;
    for node in &mut setup.nodes {
        node.start()?;
    }
    setup.proxy.start()?;
    setup.transcript.event("Patroni was started on every node");
    setup.wait_until("primary", SETTLE, |setup| setup.primary().is_some()).await?;
    setup.patronictl("list")?;
    Ok(())
}

/// The timings of a test instead of the setup's, and synchronous commits, as an operator would ask for them.
async fn reconfigure(setup: &mut Setup) -> Result<()> {
    setup.patronictl(
        "edit-config --force -s ttl=20 -s loop_wait=2 -s retry_timeout=3 -s synchronous_mode=on -p work_mem=5MB",
    )?;
    let shown = setup.patronictl("show-config")?;
    ensure!(shown.contains("work_mem: 5MB") && shown.contains("synchronous_mode: true"), "{shown}");
    setup.wait_until("whole cluster", SETTLE, Setup::is_whole).await?;
    setup.wait_until("synchronous standby", SETTLE, |setup| setup.sync_standby().is_some()).await?;
    setup.patronictl("list")?;
    Ok(())
}

/// Until some more rows were acknowledged.
async fn rows(setup: &mut Setup, writer: &Writer) -> Result<()> {
    let wanted = writer.count() + ROWS;
    setup.wait_until("acknowledged writes", SETTLE, |_| writer.count() >= wanted).await
}

async fn switchover(setup: &mut Setup, writer: &Writer) -> Result<()> {
    let from = setup.primary().context("a primary")?;
    let to = setup.sync_standby().context("a synchronous standby")?;
    let began = Instant::now();
    let (leader, candidate) = (setup.nodes[from].name, setup.nodes[to].name);
    let said = setup.patronictl(&format!("switchover --leader {leader} --candidate {candidate} --force"))?;
    ensure!(said.contains(&format!("Successfully switched over to \"{candidate}\"")), "{said}");
    setup.wait_until("new primary", SETTLE, |setup| setup.primary() == Some(to)).await?;
    rows(setup, writer).await?;
    setup.wait_until("whole cluster", SETTLE, Setup::is_whole).await?;
    setup.wait_until("synchronous standby", SETTLE, |setup| setup.sync_standby().is_some()).await?;
    report_gap(setup, writer, began);
    Ok(())
}

async fn pause(setup: &mut Setup) -> Result<()> {
    let paused = |setup: &Setup| {
        let is_paused =
            |address| http_get(address, 8008, "/patroni").is_ok_and(|body| body.contains("\"pause\": true"));
        setup.nodes.iter().filter(|node| is_paused(&node.address)).count()
    };
    setup.patronictl("pause --wait")?;
    let shown = setup.patronictl("list")?;
    ensure!(shown.contains("Maintenance mode: on"), "{shown}");
    ensure!(paused(setup) == 3, "every node knows of the pause");
    setup.patronictl("resume --wait")?;
    setup.wait_until("end of the pause", SETTLE, |setup| paused(setup) == 0).await
}

/// As the setup's people did: the machine of the primary and that of the store's leader lose power at the same moment.
async fn lose_primary_and_store_leader(setup: &mut Setup, writer: &Writer) -> Result<()> {
    let old = setup.primary().context("a primary")?;
    let store = setup.store_leader(&[0, 1, 2]).context("the store has a leader")?;
    let began = Instant::now();
    setup.transcript.event(&format!(
        "kill -9 of Patroni and PostgreSQL on {} (primary) and of the store {} (leader)",
        setup.nodes[old].name, setup.stores[store].name
    ));
    setup.stores[store].kill().await?;
    setup.nodes[old].kill().await?;
    setup.wait_until("new primary", SETTLE, |setup| setup.primary().is_some_and(|new| new != old)).await?;
    rows(setup, writer).await?;
    report_gap(setup, writer, began);
    setup.patronictl("list")?;
    let left: Vec<usize> = (0..3).filter(|other| *other != store).collect();
    setup.etcdctl(&left, "endpoint status -w table")?;
    setup.stores[store].start()?;
    setup.nodes[old].start()?;
    setup.transcript.event("both were started again");
    setup.wait_until("whole cluster", SETTLE, Setup::is_whole).await?;
    let address = setup.stores[store].address.clone();
    setup.wait_until("healthy store", SETTLE, |_| http_get(&address, 2379, "/health").is_ok()).await?;
    setup.wait_until("synchronous standby", SETTLE, |setup| setup.sync_standby().is_some()).await?;
    setup.patronictl("list")?;
    Ok(())
}

/// SIGSTOP: connections stay open and nothing answers. The primary stays, writes go on, and the store comes back as a member
/// like the others.
async fn freeze(setup: &mut Setup, writer: &Writer, store: usize, which: &str) -> Result<()> {
    let primary = setup.primary().context("a primary")?;
    let others: Vec<usize> = (0..3).filter(|other| *other != store).collect();
    let began = Instant::now();
    let name = setup.stores[store].name;
    setup.stores[store].signal(Signal::STOP)?;
    setup.transcript.event(&format!("SIGSTOP of {which}, {name}"));
    setup
        .wait_until("store's leader elsewhere", SETTLE, |setup| setup.store_leader(&others).is_some())
        .await?;
    tokio::time::sleep(FREEZE.saturating_sub(began.elapsed())).await;
    rows(setup, writer).await?;
    ensure!(setup.primary() == Some(primary), "the primary stays");
    setup.stores[store].signal(Signal::CONT)?;
    setup.transcript.event(&format!("SIGCONT of {name}"));
    let address = setup.stores[store].address.clone();
    setup.wait_until("healthy store", SETTLE, |_| http_get(&address, 2379, "/health").is_ok()).await?;
    rows(setup, writer).await?;
    ensure!(setup.primary() == Some(primary), "the primary stays");
    ensure!(setup.is_whole(), "the standbys stay: {:?}", setup.view());
    report_gap(setup, writer, began);
    Ok(())
}

/// As the people of the setup `colocated-three` did: a node and a store are one machine, and after the primary's machine that of
/// the new primary is lost as well. One machine is left, and nothing takes writes until another one is back.
async fn lose_two_of_three(setup: &mut Setup, writer: &Writer) -> Result<()> {
    let mut lost = Vec::new();
    for _ in 0..2 {
        let primary = setup.primary().context("a primary")?;
        let (node, store) = (setup.nodes[primary].name, setup.stores[primary].name);
        setup
            .transcript
            .event(&format!("kill -9 of everything on {node} (primary), and of the store {store}"));
        setup.nodes[primary].kill().await?;
        setup.stores[primary].kill().await?;
        lost.push(primary);
        if lost.len() == 1 {
            setup
                .wait_until("new primary", SETTLE, |setup| setup.primary().is_some_and(|new| new != primary))
                .await?;
            rows(setup, writer).await?;
            setup.patronictl("list")?;
        }
    }
    // Longer than the lock lives (20 s): whoever could take over would have.
    let before = writer.count();
    tokio::time::sleep(Duration::from_secs(25)).await;
    ensure!(writer.count() == before, "without a majority a write was acknowledged");
    setup.transcript.event("no write was acknowledged for 25 s; both are started again");
    for index in lost {
        setup.stores[index].start()?;
        setup.nodes[index].start()?;
    }
    setup.wait_until("whole cluster", SETTLE, Setup::is_whole).await?;
    rows(setup, writer).await?;
    setup.patronictl("list")?;
    Ok(())
}

/// The proxy's health checks see the roles that Patroni has by now.
async fn through_the_proxy(setup: &mut Setup) -> Result<()> {
    let primary = setup.primary().context("a primary")?;
    let address = setup.nodes[primary].address.clone();
    setup
        .wait_until("primary behind the proxy", SETTLE, |setup| {
            setup.behind(5432).is_some_and(|(behind, writable)| behind == address && writable)
        })
        .await?;
    setup
        .wait_until("standby behind the proxy", SETTLE, |setup| {
            setup.behind(5433).is_some_and(|(behind, writable)| behind != address && !writable)
        })
        .await?;
    setup
        .transcript
        .event(&format!("HAProxy sends writers to {} and readers to a standby", setup.nodes[primary].name));
    Ok(())
}

/// The longest pause between two acknowledged writes since the fault.
fn report_gap(setup: &Setup, writer: &Writer, since: Instant) {
    if let Some((gap, _)) = writer.ledger().gap_after(since) {
        setup
            .transcript
            .event(&format!("the longest pause between two acknowledged writes: {:.2} s", gap.as_secs_f64()));
    }
}
