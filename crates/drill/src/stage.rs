//! What every story needs: a cluster, clients on the sides that matter, and the arithmetic at the end of a round.
//!
//! A round is: traffic, a fault, whatever follows, everything healed, the cluster at rest, more traffic, the comparison. A story
//! only says what the fault is and what must follow; [`Stage::close`] does the rest and knows what must hold in any
//! story: nobody acknowledges after somebody else has begun to, nothing that was acknowledged is missing in a synchronous
//! mode, and in asynchronous mode nothing younger than the lease is.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::cluster::Cluster;
use crate::ledger::{Acknowledged, Ledger, Margin};
use crate::netns::Cut;
use crate::observer::Timeline;
use crate::report::{Report, Round, ms};
use crate::writer::{self, Target, Writer};

/// A cluster at rest after a start, a failover or a rejoin; generous, because two cores may carry three of everything.
pub(crate) const SETTLE: Duration = Duration::from_secs(120);
/// Writes resume: far beyond every target, so that a missed target is reported and not cut off.
pub(crate) const RESUME: Duration = Duration::from_secs(90);
/// Rows before the fault, and again after everything is healed.
const TRAFFIC: usize = 25;

/// Where a story happens.
#[derive(Debug)]
pub struct Stage<'a> {
    /// The cluster.
    pub cluster: &'a mut Cluster,
    /// What happened when.
    pub timeline: &'a Timeline,
    /// How long a cut or a stop is held.
    pub hold: Duration,
    rounds: Vec<Round>,
    ledgers: Vec<Ledger>,
    violations: Vec<String>,
}

/// The clients of a round. The first one is the application: it stands outside and is never cut off.
#[derive(Debug)]
pub(crate) struct Probes {
    writers: Vec<Writer>,
    /// Beside which node each of them stands, after the one outside.
    sides: Vec<usize>,
}

/// The fault of a round.
#[derive(Debug)]
pub(crate) struct Fault {
    /// In words.
    pub(crate) what: String,
    /// Who was primary.
    pub(crate) old: usize,
    /// When it happened.
    pub(crate) at: Instant,
    /// When the drill began to repair it: a pause that begins later belongs to the return of the lost node.
    pub(crate) healed: Option<Instant>,
    /// What was cut, and until when; None: until `healed`.
    pub(crate) cuts: Vec<(Cut, Option<Instant>)>,
}

/// A pause that belongs to the rhythm of the probe and of the disk, and to nothing else.
const UNREMARKABLE: Duration = Duration::from_millis(250);

impl<'a> Stage<'a> {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(cluster: &'a mut Cluster, timeline: &'a Timeline, hold: Duration) -> Stage<'a> {
        Stage { cluster, timeline, hold, rounds: Vec::new(), ledgers: Vec::new(), violations: Vec::new() }
    }

    /// The database as the application sees it.
    pub(crate) fn target(&self) -> Target {
        self.cluster.target()
    }

    /// Who is primary.
    pub(crate) async fn primary(&self) -> Result<usize> {
        self.cluster.primary().await.context("no primary before the fault")
    }

    /// A node's name.
    pub(crate) fn name(&self, index: usize) -> String {
        self.cluster.nodes[index].name.clone()
    }

    /// Every node but `index`.
    pub(crate) fn others(&self, index: usize) -> Vec<usize> {
        (0..self.cluster.nodes.len()).filter(|other| *other != index).collect()
    }

    /// Starts to write: outside, and on the side of each of `sides`, where the node beside the client is asked first, and again
    /// every second.
    pub(crate) async fn probes(&mut self, sides: &[usize]) -> Result<Probes> {
        let target = self.target();
        writer::prepare(&target).await?;
        let mut probes = Probes { writers: vec![self.writer(&target)?], sides: sides.to_vec() };
        for &side in sides {
            let beside = target.seen_from(self.cluster.nodes[side].place.clone());
            let beside = self.others(side).into_iter().fold(beside, |target, other| target.with_last(other));
            probes.writers.push(self.writer(&beside.restless())?);
        }
        self.written(&probes).await?;
        Ok(probes)
    }

    /// Starts to write outside, twice: through the connection string as it is, and with `last` as the last host. Between them
    /// they reach two primaries, if there are two.
    pub(crate) async fn probes_from_both_ends(&mut self, last: usize) -> Result<Probes> {
        let target = self.target();
        writer::prepare(&target).await?;
        let both = [self.writer(&target)?, self.writer(&target.with_last(last))?];
        let probes = Probes { writers: both.into(), sides: Vec::new() };
        self.written(&probes).await?;
        Ok(probes)
    }

    fn writer(&mut self, target: &Target) -> Result<Writer> {
        Writer::begin(target, self.cluster.client())
    }

    /// Waits until the application has written a while.
    pub(crate) async fn written(&mut self, probes: &Probes) -> Result<()> {
        let wanted = probes.application().count() + TRAFFIC;
        self.cluster
            .wait_until("acknowledged writes", RESUME, async |_| probes.application().count() >= wanted)
            .await
    }

    /// The fault happens now: the timeline counts from here.
    pub(crate) fn fault(&self, what: impl Into<String>, old: usize) -> Fault {
        let fault = Fault { what: what.into(), old, at: Instant::now(), healed: None, cuts: Vec::new() };
        self.timeline.fault(fault.at);
        self.timeline.event_at(fault.at, &self.name(old), &fault.what);
        fault
    }

    /// What was broken is repaired from now on.
    pub(crate) fn healed(&self, fault: &mut Fault, node: &str, what: &str) {
        fault.healed = Some(Instant::now());
        self.timeline.event(node, what);
    }

    /// Waits until a client was told of a write by somebody else than the old primary.
    pub(crate) async fn taken_over(&mut self, probes: &Probes, fault: &Fault) -> Result<Acknowledged> {
        self.cluster
            .wait_until("acknowledged write elsewhere", RESUME, async |_| {
                probes.elsewhere(fault.old, fault.at).is_some()
            })
            .await?;
        let first = probes.elsewhere(fault.old, fault.at).context("it was there a moment ago")?;
        self.timeline.event_at(first.at, &self.name(first.server), "acknowledges writes");
        Ok(first)
    }

    /// Waits until the application was told of a write, by whomever.
    pub(crate) async fn resumed(&mut self, probes: &Probes, since: Instant) -> Result<Acknowledged> {
        self.cluster
            .wait_until("acknowledged write", RESUME, async |_| {
                probes.application().last().is_some_and(|row| row.at > since)
            })
            .await?;
        let first = probes.application().ledger().first_after(since).context("it was there a moment ago")?;
        self.timeline.event_at(first.at, &self.name(first.server), "acknowledges writes");
        Ok(first)
    }

    /// Waits until a new primary's synchronous set stands alone.
    pub(crate) async fn settled(&mut self, primary: usize) -> Result<()> {
        self.cluster
            .wait_until("settled synchronous set", RESUME, async |cluster| cluster.settled(primary).await)
            .await
    }

    /// Waits until `what` has lasted since `since`.
    pub(crate) async fn held(&mut self, since: Instant, long: Duration) -> Result<()> {
        // Not a wait for something to happen: the story is that nothing heals for this long.
        let left = long.saturating_sub(since.elapsed());
        tokio::time::sleep(left).await;
        match self.cluster.exited() {
            Some(why) => anyhow::bail!("{why}"),
            None => Ok(()),
        }
    }

    /// Waits until every node streams from one primary.
    pub(crate) async fn whole(&mut self) -> Result<()> {
        self.cluster.wait_until("streaming standbys", SETTLE, async |cluster| cluster.whole().await).await?;
        self.timeline.event("", "every node streams");
        Ok(())
    }

    /// Something that must hold did not.
    pub(crate) fn violated(&mut self, sentence: String) {
        self.timeline.event("", format!("VIOLATED: {sentence}"));
        self.violations.push(sentence);
    }

    /// The cluster comes to rest, the clients stop, and what they were told is compared with what is there.
    pub(crate) async fn close(&mut self, probes: Probes, fault: Fault) -> Result<Round> {
        self.whole().await?;
        self.nobody_else_takes_writes().await?;
        self.written(&probes).await?;
        let (application, all) = probes.stop(&fault, self.cluster).await;
        let lost = writer::verify(&self.target(), &all).await?.lost;
        let after = |at: Instant| match at.checked_duration_since(fault.at) {
            Some(after) => after.as_secs_f64() * 1000.0,
            None => -(fault.at - at).as_secs_f64() * 1000.0,
        };
        let lost_until = all.acknowledged.iter().filter(|row| lost.contains(&row.id)).map(|row| row.at).max();
        let (handover, margin) = (all.handover(fault.old, fault.at), all.margin());
        let to = handover.map_or(fault.old, |handover| handover.first_new.server);
        let view = self.cluster.view().await;
        let healed = fault.healed.unwrap_or_else(Instant::now);
        let mut round = Round {
            fault: fault.what.clone(),
            from: self.name(fault.old),
            to: self.name(to),
            timeline: view.and_then(|view| view.members.into_iter().find(|m| m.role == "leader")?.timeline),
            write_gap_ms: application.gap_between(fault.at, healed).map_or(0, |(gap, _)| ms(gap)),
            old_last_ms: handover.and_then(|handover| Some(after(handover.last_old?.at))),
            new_first_ms: handover.map(|handover| after(handover.first_new.at)),
            margin_ms: margin.map(|margin| margin.ms),
            lost: lost.len(),
            lost_until_ms: lost_until.map(after),
            figures: Vec::new(),
        };
        if let Some((pause, _)) = application.gap_from(healed).filter(|(pause, _)| *pause > UNREMARKABLE) {
            round.time("pause during the return", pause);
        }
        self.judge(&round, margin);
        self.ledgers.push(all);
        Ok(round)
    }

    /// What must hold whatever the story.
    fn judge(&mut self, round: &Round, margin: Option<Margin>) {
        if let Some(Margin { old, new, ms }) = margin.filter(|margin| margin.ms < 0.0) {
            let (old, new) = (self.name(old), self.name(new));
            self.violated(format!(
                "{}: {old} acknowledged writes for {:.0} ms after {new} had begun to",
                round.fault, -ms
            ));
        }
        let ttl_ms = self.cluster.ttl().as_secs_f64() * 1000.0;
        if let Some(until) =
            round.lost_until_ms.filter(|until| !self.cluster.synchronous() && *until > ttl_ms)
        {
            self.violated(format!(
                "{}: a row is lost that was acknowledged {until:.0} ms after the fault, beyond the lease of {ttl_ms:.0} ms",
                round.fault
            ));
        }
    }

    /// One PostgreSQL at most takes writes, whatever the store says of them.
    async fn nobody_else_takes_writes(&mut self) -> Result<()> {
        let mut writing: Vec<usize> = (0..self.cluster.nodes.len()).collect();
        // Twice, so that a primary that moves between two questions is not taken for two.
        for _ in 0..2 {
            let mut still = Vec::new();
            for index in writing {
                let mut answer = None;
                let asked = self.cluster.wait_until("answer of PostgreSQL", SETTLE, async |cluster| {
                    answer = cluster.takes_writes(index).await;
                    answer.is_some()
                });
                asked.await?;
                still.extend((answer == Some(true)).then_some(index));
            }
            writing = still;
        }
        if writing.len() > 1 {
            let names: Vec<String> = writing.iter().map(|index| self.name(*index)).collect();
            self.violated(format!("{} all take writes", names.join(", ")));
        }
        Ok(())
    }

    /// Whether nothing that must hold was violated so far.
    pub(crate) fn is_unharmed(&self) -> bool {
        self.violations.is_empty()
            && !(self.cluster.synchronous() && self.rounds.iter().any(|round| round.lost > 0))
    }

    /// A round is over.
    pub(crate) fn done(&mut self, round: Round) {
        self.rounds.push(round);
    }

    /// How many are.
    #[must_use]
    pub fn rounds(&self) -> usize {
        self.rounds.len()
    }

    /// The end: everything that was ever acknowledged is compared once more.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn report(self, drill: String) -> Result<Report> {
        let all = Ledger::merge(self.ledgers);
        let verdict = if all.acknowledged.is_empty() {
            // No story of this drill came to its end, or none writes.
            all.compare(&std::collections::BTreeSet::new())
        } else {
            writer::verify(&self.cluster.target(), &all).await?
        };
        Ok(Report {
            drill,
            mode: self.cluster.mode().to_owned(),
            synchronous: self.cluster.synchronous(),
            ttl_s: self.cluster.ttl().as_secs_f64(),
            namespaces: self.cluster.can_cut(),
            rounds: self.rounds,
            verdict,
            violations: self.violations,
            events: self.timeline.lines(),
        })
    }
}

impl Probes {
    /// The client outside.
    pub(crate) fn application(&self) -> &Writer {
        &self.writers[0]
    }

    /// The first acknowledgement of somebody else than `old`, by any client.
    pub(crate) fn elsewhere(&self, old: usize, since: Instant) -> Option<Acknowledged> {
        self.writers
            .iter()
            .filter_map(|writer| writer.ledger().first_elsewhere(old, since))
            .min_by_key(|row| row.at)
    }

    /// The application's ledger, and everybody's.
    async fn stop(self, fault: &Fault, cluster: &Cluster) -> (Ledger, Ledger) {
        let mut ledgers = Vec::new();
        // Among the hosts the outside comes after the last node.
        let outside = cluster.nodes.len();
        let sides = std::iter::once(outside).chain(self.sides).chain(std::iter::repeat(outside));
        for (writer, client) in self.writers.into_iter().zip(sides) {
            let mut ledger = writer.stop().await;
            for &(cut, until) in &fault.cuts {
                let Some(healed) = until.or(fault.healed) else { continue };
                for (server, node) in cluster.nodes.iter().enumerate() {
                    if cut.separates(client, server, node.ports.postgres) {
                        ledger = ledger.cut_off_from(server, healed);
                    }
                }
            }
            ledgers.push(ledger);
        }
        (ledgers[0].clone(), Ledger::merge(ledgers))
    }
}
