//! One schedule: a cluster, a network that misbehaves, members that die, and in the end peace.
//!
//! ```text
//!   0 ───────────────── chaos ─────────────────► heal ── everybody writes once more ── everybody tells ── judge
//!     a fault every 0.1 to 1.5 s: crash, power cut, start, cut of a link (one way, both ways), a member alone,
//!     messages held back, a slow link, everything whole again
//! ```
//!
//! Everything that is drawn comes from the seed. At most the whole cluster is down at a time: a quorum is not spared.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quorate_node::{Compaction, Config, clock};

use crate::disk::{self, Tail};
use crate::history;
use crate::member::{self, Shared};
use crate::witness::{Seen, Witness};

/// The network moves this far at a time.
const TICK: Duration = Duration::from_millis(4);
/// How long faults go on.
const CHAOS: (u64, u64) = (8, 20);
/// From peace to the last word of the last member.
const PATIENCE: Duration = Duration::from_secs(60);
/// The clock of leases does not begin at zero.
const BOOTED: Duration = Duration::from_secs(1_000);

/// What a run came to.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) members: usize,
    pub(crate) simulated: Duration,
    pub(crate) writes: usize,
    pub(crate) acknowledged: usize,
    pub(crate) reads: usize,
    pub(crate) faults: BTreeMap<&'static str, usize>,
    /// Lies about the history that the checkers were tried with.
    pub(crate) lies: usize,
    pub(crate) seen: Seen,
    pub(crate) trace: (u32, u64),
    pub(crate) violations: Vec<String>,
}

struct World<'s> {
    sim: turmoil::Sim<'s>,
    random: fastrand::Rng,
    shared: Rc<Shared>,
    names: Vec<String>,
    root: tempfile::TempDir,
    down: BTreeMap<usize, Tail>,
    /// Pairs whose messages are held back.
    held: BTreeSet<(usize, usize)>,
    faults: BTreeMap<&'static str, usize>,
}

/// Runs the schedule of `seed`.
pub(crate) fn run(seed: u64, print: bool) -> Report {
    let mut random = fastrand::Rng::with_seed(seed.rotate_left(17));
    let members = [3, 3, 3, 5][random.usize(0..4)];
    let witness = Witness::printing(print);
    let subscriber =
        tracing_subscriber::layer::SubscriberExt::with(tracing_subscriber::registry(), witness.clone());
    // Threads of the members log too.
    tracing::subscriber::set_global_default(subscriber).expect("one schedule a process");
    let memory = std::path::Path::new("/dev/shm");
    let root = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let root = root.expect("a temporary directory");
    let mut sim = turmoil::Builder::new()
        .simulation_duration(Duration::from_secs(600))
        .tick_duration(TICK)
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(random.u64(3..25)))
        .tcp_capacity(1 << 16)
        .rng_seed(seed)
        .build();
    let shared = Rc::new(Shared::new(witness));
    let names: Vec<String> = (0..members).map(|n| format!("m{n}")).collect();
    let initial: Vec<(String, String)> =
        names.iter().map(|name| (name.clone(), format!("http://{name}:2380"))).collect();
    let snapshot_count = [20, 60, 10_000][random.usize(0..3)];
    for (at, name) in names.iter().enumerate() {
        let mut config = Config::single(name, root.path().join(name));
        config.peer_listen = vec!["0.0.0.0:2380".to_owned()];
        config.peer_advertise = initial[at].1.clone();
        config.initial_cluster = initial.clone();
        config.snapshot_count = snapshot_count;
        config.compaction = Compaction::Off;
        let shared = Rc::clone(&shared);
        sim.host(name.as_str(), move || member::run(at, config.clone(), members, Rc::clone(&shared)));
    }
    let mut world = World {
        sim,
        random,
        shared,
        names,
        root,
        down: BTreeMap::new(),
        held: BTreeSet::new(),
        faults: BTreeMap::new(),
    };
    let mut violations = Vec::new();
    if let Err(why) = world.schedule() {
        violations.push(why);
    }
    world.judge(violations)
}

impl World<'_> {
    fn note(&self, note: &str) {
        self.shared.witness.note(&format!("{:?} {note}", self.sim.elapsed()));
    }

    /// Lets `time` pass.
    fn pass(&mut self, time: Duration) -> Result<(), String> {
        let until = self.sim.elapsed() + time;
        while self.sim.elapsed() < until {
            clock::set_boottime(BOOTED + self.sim.elapsed());
            self.sim.step().map_err(|error| format!("a member ended by itself: {error}"))?;
        }
        Ok(())
    }

    fn schedule(&mut self) -> Result<(), String> {
        let chaos = Duration::from_secs(self.random.u64(CHAOS.0..CHAOS.1));
        while self.sim.elapsed() < chaos {
            let calm = Duration::from_millis(self.random.u64(100..1500));
            self.pass(calm)?;
            self.fault();
        }
        self.heal();
        self.shared.finishing.store(true, Ordering::Relaxed);
        let begun = self.sim.elapsed();
        while self.shared.ends.lock().len() < self.names.len() {
            if self.sim.elapsed() - begun > PATIENCE {
                return Err(format!(
                    "NO PROGRESS: {PATIENCE:?} after everything was whole again only {:?} had written and {:?} told",
                    self.shared.finished.lock().keys(),
                    self.shared.ends.lock().keys()
                ));
            }
            self.pass(TICK * 5)?;
        }
        // What the watchers are still to be told.
        self.pass(Duration::from_secs(2))
    }

    fn count(&mut self, fault: &'static str) {
        *self.faults.entry(fault).or_default() += 1;
        self.note(fault);
    }

    fn fault(&mut self) {
        let members = self.names.len();
        let one = self.random.usize(0..members);
        let other = (one + self.random.usize(1..members)) % members;
        let (a, b) = (self.names[one].clone(), self.names[other].clone());
        match self.random.u8(0..20) {
            0..=3 => self.crash(one),
            4..=7 => self.start(),
            8..=9 => {
                self.sim.partition(a.as_str(), b.as_str());
                self.count("link cut");
            }
            10 => {
                self.sim.partition_oneway(a.as_str(), b.as_str());
                self.count("link cut one way");
            }
            11..=12 => {
                for name in self.names.iter().filter(|name| **name != a) {
                    self.sim.partition(a.as_str(), name.as_str());
                }
                self.count("member alone");
            }
            13 => {
                self.sim.hold(a.as_str(), b.as_str());
                self.held.insert((one, other));
                self.count("messages held back");
            }
            14 => {
                let slow = Duration::from_millis(self.random.u64(30..300));
                self.sim.set_link_max_message_latency(a.as_str(), b.as_str(), slow);
                self.count("slow link");
            }
            15 if self.down.is_empty() => {
                for at in 0..members {
                    self.crash(at);
                }
                self.count("all down");
            }
            _ => {
                self.whole();
                self.count("network whole");
            }
        }
    }

    fn dir(&self, at: usize) -> std::path::PathBuf {
        self.root.path().join(&self.names[at])
    }

    fn crash(&mut self, at: usize) {
        if self.down.contains_key(&at) {
            return;
        }
        let tail = if self.random.bool() { Tail::Clean } else { Tail::Torn };
        let dir = self.dir(at);
        if dir.is_dir() {
            disk::keep(&dir).expect("a copy of the directory");
        }
        self.sim.crash(self.names[at].as_str());
        if dir.is_dir() {
            disk::restore(&dir, tail, &mut self.random).expect("the copy is brought back");
        }
        self.down.insert(at, tail);
        self.count(match tail {
            Tail::Clean => "kill",
            Tail::Torn => "power cut",
        });
    }

    /// Starts one of those that are down.
    fn start(&mut self) {
        let Some(at) = self.down.keys().next().copied() else { return };
        self.down.remove(&at);
        self.sim.bounce(self.names[at].as_str());
        self.count("start");
    }

    fn whole(&mut self) {
        for (one, other) in std::mem::take(&mut self.held) {
            self.sim.release(self.names[one].as_str(), self.names[other].as_str());
        }
        for (one, a) in self.names.iter().enumerate() {
            for b in &self.names[..one] {
                self.sim.repair(a.as_str(), b.as_str());
                self.sim.set_link_max_message_latency(a.as_str(), b.as_str(), Duration::from_millis(10));
            }
        }
    }

    fn heal(&mut self) {
        while !self.down.is_empty() {
            self.start();
        }
        self.whole();
        self.note("healed");
    }

    fn judge(self, mut violations: Vec<String>) -> Report {
        let history = self.shared.history.lock();
        let mut lies = 0;
        let ends = self.shared.ends.lock();
        if let Some((first, end)) = ends.first_key_value() {
            for (member, other) in ends.iter().skip(1) {
                if (other.revision, other.hash) != (end.revision, end.hash) || other.order != end.order {
                    violations.push(format!(
                        "DIVERGED: m{first} has {} changes to revision {} with hash {:x}, m{member} {} to {} with {:x}",
                        end.order.len(),
                        end.revision,
                        end.hash,
                        other.order.len(),
                        other.revision,
                        other.hash
                    ));
                }
            }
            let found = history.violations(&end.order);
            if found.is_empty() {
                let (blind, told) = history::unnoticed(&history, &end.order);
                violations.extend(blind.into_iter().map(|lie| format!("BLIND: unnoticed: {lie}")));
                lies = told;
            }
            violations.extend(found);
        }
        violations.extend(self.shared.witness.complaints());
        let acknowledged = history
            .writes
            .iter()
            .filter(|write| matches!(write.outcome, history::Outcome::Acknowledged { .. }))
            .count();
        for write in &history.writes {
            self.shared.witness.note(&format!("{write:?}"));
        }
        Report {
            members: self.names.len(),
            simulated: self.sim.elapsed(),
            writes: history.writes.len(),
            acknowledged,
            reads: history.reads.len(),
            faults: self.faults.clone(),
            lies,
            seen: self.shared.witness.seen(),
            trace: self.shared.witness.trace(),
            violations,
        }
    }
}
