//! A soak: load, checkpoint storms, and once a minute something that stands still for two seconds. Nobody may fail over.
//!
//! `pgbench` writes as fast as it can, `CHECKPOINT` is asked for every few seconds, and a client with one write every 20 ms keeps the
//! ledger. Each minute, at a moment and at a place that the seed decides, a process is stopped (SIGSTOP) or a link is cut for
//! [`STALL`]: shorter than what the preset `default` tolerates, so every failover is one too many. A promotion shows in
//! PostgreSQL's timeline, however short it was.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};
use serde::Serialize;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use crate::cluster::Cluster;
use crate::ledger::Verdict;
use crate::netns::Cut;
use crate::processes;
use crate::report::ms;
use crate::writer::{self, Target, Writer};

/// What the preset `default` has to sit out.
const STALL: Duration = Duration::from_secs(2);
/// A line is printed, and something stands still, once in this long.
const MINUTE: Duration = Duration::from_secs(60);
/// Between two checkpoints.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(5);
/// pgbench's scale: some 300 MB, ten times the buffers, so that every checkpoint has something to write.
const SCALE: &str = "20";
/// pgbench's clients.
const CLIENTS: &str = "4";

/// What stands still.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stall {
    /// `quorate` of a node: voter and agent.
    Agent(usize),
    /// The guard of a node, if it has one.
    Guard(usize),
    /// Every process of a node's PostgreSQL.
    PostgreSql(usize),
    /// One process of a node's PostgreSQL.
    OneOf(usize, u64),
    /// A node's link.
    Link(usize),
    /// The link between two nodes.
    Between(usize, usize),
}

impl Stall {
    fn draw(random: &mut fastrand::Rng, nodes: usize, links: bool) -> Stall {
        let node = random.usize(..nodes);
        match random.u8(..if links { 6 } else { 4 }) {
            0 => Stall::Agent(node),
            1 => Stall::Guard(node),
            2 => Stall::PostgreSql(node),
            3 => Stall::OneOf(node, random.u64(..)),
            4 => Stall::Link(node),
            _ => Stall::Between(node, (node + 1 + random.usize(..nodes - 1)) % nodes),
        }
    }

    /// Stands still and goes on; in words, with what was really there to stop.
    async fn perform(&self, cluster: &Cluster) -> Result<String> {
        let name = |index: usize| cluster.nodes[index].name.clone();
        let node = |index: usize| &cluster.nodes[index];
        let (pids, cuts, what): (Vec<Pid>, Vec<Cut>, String) = match *self {
            Stall::Agent(index) => {
                (node(index).pid().into_iter().collect(), vec![], format!("quorate of {}", name(index)))
            }
            Stall::Guard(index) => {
                (processes::guards(&node(index).dir), vec![], format!("guard of {}", name(index)))
            }
            Stall::PostgreSql(index) => {
                (processes::inside(&node(index).data_dir()), vec![], format!("PostgreSQL of {}", name(index)))
            }
            Stall::OneOf(index, which) => {
                let all = processes::inside(&node(index).data_dir());
                let one: Vec<Pid> = usize::try_from(which)
                    .ok()
                    .and_then(|which| all.get(which.checked_rem(all.len())?).copied())
                    .into_iter()
                    .collect();
                let title = one.first().map(|pid| title(*pid)).unwrap_or_default();
                (one, vec![], format!("{title} of {}", name(index)))
            }
            Stall::Link(index) => (vec![], vec![Cut::Host(index)], format!("link of {}", name(index))),
            Stall::Between(one, other) => (
                vec![],
                vec![Cut::Between(one, other)],
                format!("link between {} and {}", name(one), name(other)),
            ),
        };
        if pids.is_empty() && cuts.is_empty() {
            return Ok(format!("{what}: not there"));
        }
        processes::signal(&pids, Signal::STOP);
        let cut = if cuts.is_empty() { Ok(()) } else { cluster.cut(&cuts) };
        // The stall itself.
        tokio::time::sleep(STALL).await;
        processes::signal(&pids, Signal::CONT);
        cut?;
        if !cuts.is_empty() {
            cluster.cut(&[])?;
        }
        Ok(what)
    }
}

/// As `ps` shows it: `postgres: walwriter`.
fn title(pid: Pid) -> String {
    let bytes = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).replace('\0', " ");
    let mut words = text.split_whitespace();
    match words.next() {
        Some("postgres:") => format!("postgres: {}", words.next().unwrap_or_default()),
        Some(_) | None => "postmaster".to_owned(),
    }
}

/// A minute of the soak.
#[derive(Debug, Clone, Serialize)]
pub struct Minute {
    /// From 1.
    pub minute: u32,
    /// Committed transactions per second, of everybody.
    pub tps: f64,
    /// The longest pause of the client with one write every 20 ms.
    pub longest_pause_ms: u64,
    /// What stood still for two seconds.
    pub stalled: String,
    /// Promotions so far.
    pub failovers: u32,
}

impl std::fmt::Display for Minute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Minute { minute, tps, longest_pause_ms, stalled, failovers } = self;
        write!(
            f,
            "minute {minute:>3}  {tps:>7.0} tps  longest pause {longest_pause_ms:>5} ms  failovers {failovers}  2 s stall: {stalled}"
        )
    }
}

/// The end of a soak.
#[derive(Debug, Clone, Serialize)]
pub struct Soaked {
    /// Draws the same stalls again.
    pub seed: u64,
    /// `synchronous_mode`.
    pub mode: String,
    /// One line each.
    pub minutes: Vec<Minute>,
    /// Promotions.
    pub failovers: u32,
    /// What was acknowledged, against what is there.
    pub verdict: Verdict,
}

impl Soaked {
    /// No failover, nothing lost.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.failovers == 0 && self.verdict.lost.is_empty() && self.verdict.unexplained.is_empty()
    }
}

/// Ended with whatever it runs when it is dropped.
pub(crate) struct Background(JoinHandle<()>);

impl Background {
    pub(crate) fn run(task: impl Future<Output = ()> + Send + 'static) -> Background {
        Background(tokio::spawn(task))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// `pgbench`, wherever the primary is.
#[derive(Clone)]
pub(crate) struct Bench {
    program: PathBuf,
    target: Target,
}

impl Bench {
    /// With its tables filled.
    ///
    /// # Errors
    /// When the cluster does not take the load at all.
    pub(crate) async fn filled(cluster: &Cluster) -> Result<Bench> {
        let bench = Bench { program: cluster.bin_dir().join("pgbench"), target: cluster.target() };
        let filled = bench.start(&["-i", "-q", "-s", SCALE])?.wait().await.context("pgbench -i")?;
        if !filled.success() {
            bail!("pgbench cannot fill its tables ({filled})");
        }
        Ok(bench)
    }

    fn start(&self, arguments: &[&str]) -> Result<Child> {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .arg(&self.target.connection_string)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let started = self.target.place.inside(|| command.spawn())?;
        started.with_context(|| format!("cannot run {}", self.program.display()))
    }

    /// Writes until it is aborted; a client that loses its primary ends pgbench, which then starts again.
    pub(crate) async fn run(self) {
        loop {
            if let Ok(mut bench) = self.start(&["-n", "-c", CLIENTS, "-T", "86400"]) {
                let _ = bench.wait().await;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Soaks a running cluster; `each` is called with every minute.
///
/// # Errors
/// When the cluster does not take the load at all, or cannot be read at the end.
pub async fn soak(
    cluster: &mut Cluster,
    minutes: u32,
    seed: u64,
    mut each: impl FnMut(&Minute),
) -> Result<Soaked> {
    let target = cluster.target();
    let bench = Bench::filled(cluster).await?;
    let writer = Writer::start(&target).await?;
    let first = timeline(cluster).await?;
    let _load = Background::run(bench.run());
    let _storm = Background::run(storm(target.clone()));
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut done, mut failovers) = (Vec::new(), 0);
    for minute in 1..=minutes {
        let begun = Instant::now();
        let before = committed(&target).await.unwrap_or(0.0);
        let stall = Stall::draw(&mut random, cluster.nodes.len(), cluster.can_cut());
        // Anywhere within the minute, with room for the stall and for what follows from it.
        tokio::time::sleep(Duration::from_millis(random.u64(5_000..45_000))).await;
        let stalled = stall.perform(cluster).await?;
        tokio::time::sleep(MINUTE.saturating_sub(begun.elapsed())).await;
        if let Some(why) = cluster.exited() {
            bail!("{why}");
        }
        let after = committed(&target).await.unwrap_or(0.0);
        failovers = timeline(cluster).await?.saturating_sub(first);
        let line = Minute {
            minute,
            // Counters begin anew at a failover.
            tps: (after - before).max(0.0) / begun.elapsed().as_secs_f64(),
            longest_pause_ms: writer.ledger().gap_after(begun).map_or(0, |(gap, _)| ms(gap)),
            stalled,
            failovers,
        };
        each(&line);
        done.push(line);
    }
    let verdict = writer::verify(&target, &writer.stop().await).await?;
    Ok(Soaked { seed, mode: cluster.mode().to_owned(), minutes: done, failovers, verdict })
}

/// Asks for a checkpoint every few seconds.
pub(crate) async fn storm(target: Target) {
    loop {
        // On a standby, or while nobody is primary, it is asked again.
        let _ = writer::unhurried(&target, "CHECKPOINT", "no checkpoint").await;
        tokio::time::sleep(CHECKPOINT_EVERY).await;
    }
}

async fn committed(target: &Target) -> Result<f64> {
    let sql = "SELECT sum(xact_commit) FROM pg_stat_database";
    let rows = writer::unhurried(target, sql, "no primary to ask").await?;
    Ok(rows.first().context("a row")?.parse()?)
}

/// PostgreSQL's timeline: one higher after every promotion.
pub(crate) async fn timeline(cluster: &Cluster) -> Result<u32> {
    // Not from the control file, which may be a checkpoint behind.
    let sql = "SELECT ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int";
    let rows = writer::unhurried(&cluster.target(), sql, "no primary to ask").await?;
    Ok(rows.first().context("a row")?.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_the_same_stalls_and_no_link_without_a_network() {
        let draw = |seed, links| {
            let mut random = fastrand::Rng::with_seed(seed);
            (0..200).map(|_| Stall::draw(&mut random, 3, links)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7, true), draw(7, true));
        let links = |stalls: &[Stall]| {
            stalls.iter().any(|stall| matches!(stall, Stall::Link(_) | Stall::Between(..)))
        };
        assert!(links(&draw(7, true)) && !links(&draw(7, false)));
        for stall in draw(7, true) {
            if let Stall::Between(one, other) = stall {
                assert!(one != other && one < 3 && other < 3, "{one} {other}");
            }
        }
    }
}
