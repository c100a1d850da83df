//! One schedule: a cluster, a network that misbehaves, members that die, come, go and stand still, and in the end peace.
//!
//! ```text
//!   0 ──────────────── chaos ────────────────► heal ── somebody is removed ── everybody writes once more ── everybody tells ── judge
//!     a fault every 0.1 to 1.5 s: crash, power cut, start, cut of a link (one way, both ways), a member alone,
//!     messages held back, a slow link, everything whole again; a member stands still, its disk fails, is lost or rots;
//!     a member is added, promoted, removed
//! ```
//!
//! Everything that is drawn comes from the seed. At most the whole cluster is down at a time: a quorum is not spared. What is
//! spared is what no store could survive: a disk is lost only while all other voters have theirs, are three at least, and
//! nobody is being removed ([`World::may_lose_a_disk`]).
//!
//! The schedule is the operator too ([`World::attend`]): it starts what was added, wipes the disk of a member that was removed,
//! or that refuses to start on a rotten disk, and starts it again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quorate_consensus::sim::disk::{self as faulty, Fault};
use quorate_node::{Compaction, Config};

use crate::disk::{self, Tail};
use crate::member::{self, Done, Ended, Order, Shared, url_of};
use crate::witness::Witness;
use crate::{clocks, history, lies};

/// The network moves this far at a time.
const TICK: Duration = Duration::from_millis(4);
/// How long faults go on.
const CHAOS: (u64, u64) = (8, 20);
/// From peace to the last word of the last member.
const PATIENCE: Duration = Duration::from_secs(60);
/// A member whose log has failed is gone after this.
const LAST_WORD: Duration = Duration::from_secs(1);
/// Beside the initial members.
const SPARES: usize = 2;
/// No more are added.
const MOST_VOTERS: usize = 5;

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
    /// What was reached, how often.
    pub(crate) seen: BTreeMap<&'static str, u64>,
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
    /// Until when members stand still.
    still: BTreeMap<usize, Duration>,
    /// Pairs whose messages are held back.
    held: BTreeSet<(usize, usize)>,
    /// Ids that were removed, perhaps, or whose disk was lost.
    over: BTreeSet<u64>,
    /// Places that are certainly in the membership, and those that perhaps are.
    within: BTreeSet<usize>,
    perhaps: BTreeSet<usize>,
    /// Learners that were added to stay learners.
    learners: BTreeSet<u64>,
    /// Whose disk is gone or may rot on; no other one is lost meanwhile.
    lost: Option<usize>,
    /// Whose log has rotted and must not be served from.
    rotten: Option<usize>,
    /// Of those that crashed: file and offset of the newest group in what their disks kept.
    newest_groups: BTreeMap<usize, Option<(PathBuf, u64)>>,
    /// Ids whose disk is gone.
    gone: BTreeSet<u64>,
    /// Since when a member runs whose log has met a fault of the disk.
    deaf: BTreeMap<usize, Duration>,
    /// A removal without an answer may yet happen.
    unresolved: bool,
    /// Peace: whoever ends is started at once.
    healed: bool,
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
    let names: Vec<String> = (0..members + SPARES).map(|n| format!("m{n}")).collect();
    let initial: Vec<(String, String)> = (0..members).map(|n| (names[n].clone(), url_of(n))).collect();
    let snapshot_count = [20, 60, 10_000][random.usize(0..3)];
    let rate = if random.bool() { 1000 } else { random.u32(900..=1100) };
    clocks::set_up(names.len(), random.usize(0..members), rate);
    shared.taken.lock().extend(0..members);
    for (at, name) in names.iter().enumerate() {
        let mut config = Config::single(name, root.path().join(name));
        config.peer_listen = vec!["0.0.0.0:2380".to_owned()];
        config.peer_advertise = url_of(at);
        config.initial_cluster = initial.clone();
        if at >= members {
            config.initial_cluster.push((name.clone(), url_of(at)));
            config.new_cluster = false;
        }
        config.snapshot_count = snapshot_count;
        config.compaction = Compaction::Off;
        let shared = Rc::clone(&shared);
        clocks::turn_of(at);
        sim.host(name.as_str(), move || member::run(at, config.clone(), Rc::clone(&shared)));
    }
    let mut world = World {
        sim,
        random,
        shared,
        names,
        root,
        down: BTreeMap::new(),
        still: BTreeMap::new(),
        held: BTreeSet::new(),
        over: BTreeSet::new(),
        within: (0..members).collect(),
        perhaps: BTreeSet::new(),
        learners: BTreeSet::new(),
        lost: None,
        rotten: None,
        newest_groups: BTreeMap::new(),
        gone: BTreeSet::new(),
        deaf: BTreeMap::new(),
        unresolved: false,
        healed: false,
        faults: BTreeMap::new(),
    };
    if rate != 1000 {
        world.count("clock of another rate");
    }
    let mut violations = Vec::new();
    if let Err(why) = world.schedule() {
        violations.push(why);
    }
    world.judge(members, violations)
}

impl World<'_> {
    fn note(&self, note: &str) {
        self.shared.witness.note(&format!("{:?} {note}", self.sim.elapsed()));
    }

    fn count(&mut self, fault: &'static str) {
        *self.faults.entry(fault).or_default() += 1;
        self.note(fault);
    }

    /// Lets `time` pass.
    fn pass(&mut self, time: Duration) -> Result<(), String> {
        let until = self.sim.elapsed() + time;
        while self.sim.elapsed() < until {
            clocks::pass(self.sim.elapsed());
            self.sim.step().map_err(|error| format!("a member ended by itself: {error}"))?;
            self.attend()?;
        }
        Ok(())
    }

    /// Lets time pass until `reached`, or says that it was not.
    fn pass_until(&mut self, what: &str, reached: impl Fn(&Self) -> bool) -> Result<(), String> {
        let begun = self.sim.elapsed();
        while !reached(self) {
            if self.sim.elapsed() - begun > PATIENCE {
                return Err(format!(
                    "NO PROGRESS: {PATIENCE:?} and not {what}; of the places {:?} there run {:?}, {:?} have written, {:?} told",
                    self.shared.taken.lock(),
                    self.shared.running.lock().keys(),
                    self.shared.finished.lock(),
                    self.shared.ends.lock().keys()
                ));
            }
            self.pass(TICK * 5)?;
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
        self.pass_until("everybody runs and no order is left", |world| {
            let taken = world.shared.taken.lock();
            world.shared.orders.lock().is_empty()
                && world.shared.under_way.lock().is_none()
                && taken.iter().all(|at| world.shared.running.lock().contains_key(at))
        })?;
        if self.random.bool() {
            self.remove_in_peace()?;
        }
        self.shared.finishing.store(true, Ordering::Relaxed);
        self.pass_until("everybody has told", |world| {
            let ends = world.shared.ends.lock();
            ends.values().next().is_some_and(|end| end.members.iter().all(|at| ends.contains_key(at)))
        })?;
        self.pass_until("everybody who was removed has ended", |world| {
            let ends = world.shared.ends.lock();
            let members = ends.values().next().map(|end| &end.members);
            members.is_some_and(|members| world.shared.running.lock().keys().all(|at| members.contains(at)))
        })?;
        // What the watchers are still to be told.
        self.pass(Duration::from_secs(2))
    }

    fn fault(&mut self) {
        let members = self.names.len();
        let one = self.random.usize(0..members);
        let other = (one + self.random.usize(1..members)) % members;
        let (a, b) = (self.names[one].clone(), self.names[other].clone());
        match self.random.u8(0..32) {
            0..=3 => self.crash(one, None),
            4..=8 => self.start(),
            9..=10 => {
                self.sim.partition(a.as_str(), b.as_str());
                self.count("link cut");
            }
            11 => {
                self.sim.partition_oneway(a.as_str(), b.as_str());
                self.count("link cut one way");
            }
            12..=13 => {
                for name in self.names.iter().filter(|name| **name != a) {
                    self.sim.partition(a.as_str(), name.as_str());
                }
                self.count("member alone");
            }
            14 => {
                self.sim.hold(a.as_str(), b.as_str());
                self.held.insert((one, other));
                self.count("messages held back");
            }
            15 => {
                let slow = Duration::from_millis(self.random.u64(30..300));
                self.sim.set_link_max_message_latency(a.as_str(), b.as_str(), slow);
                self.count("slow link");
            }
            16 if self.down.is_empty() => {
                for at in 0..members {
                    self.crash(at, None);
                }
                self.count("all down");
            }
            17..=18 => self.stand_still(one),
            19..=20 => self.break_disk(one),
            21 => self.lose_disk(one),
            22 => self.rot(one),
            23..=27 => self.order(one),
            _ => {
                self.whole();
                self.count("network whole");
            }
        }
    }

    fn dir(&self, at: usize) -> PathBuf {
        self.root.path().join(&self.names[at])
    }

    fn log(&self, at: usize) -> PathBuf {
        self.dir(at).join("log")
    }

    fn takes_part(&self, at: usize) -> bool {
        self.shared.taken.lock().contains(&at)
    }

    /// What is left behind is drawn, if not given.
    fn crash(&mut self, at: usize, tail: Option<Tail>) {
        if self.down.contains_key(&at) || !self.takes_part(at) {
            return;
        }
        self.go_on(at);
        let tail = tail.unwrap_or_else(|| if self.random.bool() { Tail::Clean } else { Tail::Torn });
        let dir = self.dir(at);
        if dir.is_dir() {
            disk::keep(&dir).expect("a copy of the directory");
            // In the copy: what is closed in order gets another group.
            self.newest_groups.insert(at, faulty::last_group(&self.log(at)));
            let unsynced = faulty::take_unsynced(&self.log(at));
            if tail != Tail::Clean {
                disk::forget(&dir, &unsynced).expect("the copy is there");
            }
        }
        self.sim.crash(self.names[at].as_str());
        faulty::mend(&self.log(at));
        if dir.is_dir() {
            disk::restore(&dir, tail, &mut self.random).expect("the copy is brought back");
        }
        self.shared.running.lock().remove(&at);
        let mut under_way = self.shared.under_way.lock();
        if let Some((_, order)) = under_way.take_if(|(by, _)| *by == at) {
            self.shared.done.lock().push_back((order, Done::Unknown));
        }
        drop(under_way);
        self.down.insert(at, tail);
        self.count(match tail {
            Tail::Clean => "kill",
            Tail::Torn | Tail::Midway => "power cut",
        });
    }

    /// Starts one of those that are down.
    fn start(&mut self) {
        let down: Vec<usize> = self.down.keys().copied().collect();
        if down.is_empty() {
            return;
        }
        let at = down[self.random.usize(0..down.len())];
        self.down.remove(&at);
        self.bounce(at);
        self.count("start");
    }

    /// The host begins anew.
    fn bounce(&mut self, at: usize) {
        // Its software takes its first steps here, and not in its turn.
        clocks::turn_of(at);
        self.sim.bounce(self.names[at].as_str());
    }

    /// The member, its clock, its clients and its network stand still.
    fn stand_still(&mut self, at: usize) {
        if self.down.contains_key(&at) || !self.takes_part(at) || clocks::stands_still(at) {
            return;
        }
        let time = Duration::from_millis(self.random.u64(300..4000));
        for name in self.names.iter().filter(|name| **name != self.names[at]) {
            self.sim.hold(self.names[at].as_str(), name.as_str());
        }
        clocks::stand_still(at, true);
        self.still.insert(at, self.sim.elapsed() + time);
        self.count("member stands still");
    }

    fn go_on(&mut self, at: usize) {
        if self.still.remove(&at).is_none() {
            return;
        }
        for (other, name) in self.names.iter().enumerate().filter(|(other, _)| *other != at) {
            // Of two that stand still the second takes the link with it.
            if !self.still.contains_key(&other) {
                self.sim.release(self.names[at].as_str(), name.as_str());
            }
        }
        clocks::stand_still(at, false);
        self.note(&format!("m{at} goes on"));
    }

    /// The next write of its log fails, or the power goes in the middle of it.
    fn break_disk(&mut self, at: usize) {
        if !self.shared.running.lock().contains_key(&at) {
            return;
        }
        let (fault, name) = match self.random.u8(0..4) {
            0 => (Fault::NoSpace, "ENOSPC"),
            1 => (Fault::FailedWrite, "EIO of a write"),
            2 => (Fault::FailedSync, "EIO of a sync"),
            _ => (Fault::PowerCut, "power cut in a write"),
        };
        faulty::break_next(&self.log(at), fault, self.random.u64(..));
        self.count(name);
    }

    /// A disk more or less must not cost what was acknowledged, nor the quorum for good.
    fn may_lose_a_disk(&self, at: usize) -> bool {
        let removing = |order: &Order| matches!(order, Order::Remove { .. });
        self.lost.is_none()
            && !self.unresolved
            && self.within.contains(&at)
            && self.shared.voters.lock().len() >= 3
            && !self.shared.orders.lock().iter().any(removing)
            && !self.shared.under_way.lock().as_ref().is_some_and(|(_, order)| removing(order))
            && self.known_id(at).is_some_and(|id| !self.over.contains(&id))
    }

    /// The id under which this place was heard of last.
    fn known_id(&self, at: usize) -> Option<u64> {
        self.shared.ids.lock().get(&at).copied()
    }

    /// It comes back on an empty disk: another member of the same name and URL.
    fn lose_disk(&mut self, at: usize) {
        if !self.may_lose_a_disk(at) {
            return;
        }
        self.crash(at, Some(Tail::Clean));
        self.wipe(at);
        self.lost = Some(at);
        self.count("disk lost");
    }

    fn wipe(&mut self, at: usize) {
        self.over.extend(self.known_id(at));
        self.gone.extend(self.known_id(at));
        self.rotten = self.rotten.filter(|rotten| *rotten != at);
        self.shared.ids.lock().remove(&at);
        let dir = self.dir(at);
        if dir.is_dir() {
            std::fs::remove_dir_all(&dir).expect("the directory is removed");
        }
    }

    /// Bits flip on the disk of one that is down.
    fn rot(&mut self, at: usize) {
        if !self.may_lose_a_disk(at) {
            return;
        }
        self.crash(at, Some(Tail::Clean));
        let dir = self.dir(at);
        let newest = self.newest_groups.get(&at).cloned().flatten();
        let flipped = disk::rot(&dir, newest, &mut self.random).expect("the files are there");
        if let Some((path, place)) = flipped {
            self.lost = Some(at);
            // Of snapshots an older one may do; a log is read whole.
            self.rotten = path.starts_with(self.log(at)).then_some(at);
            self.note(&format!("m{at}: {place}"));
            self.count("flipped bits");
        }
    }

    /// Somebody is to be added, promoted or removed.
    fn order(&mut self, one: usize) {
        if !self.shared.orders.lock().is_empty() || self.shared.under_way.lock().is_some() {
            return;
        }
        let voters = self.shared.voters.lock().len();
        let order = if !self.takes_part(one) {
            let learner = self.random.u8(0..3) == 0;
            (voters < MOST_VOTERS).then_some(Order::Add { place: one, learner })
        } else {
            self.known_id(one).filter(|id| !self.over.contains(id)).and_then(|id| {
                if self.learners.contains(&id) && self.random.bool() {
                    return Some(Order::Promote { id });
                }
                // Who lost a disk a moment ago still counts as alive at the leader.
                (voters >= 3 && self.lost.is_none()).then_some(Order::Remove { id })
            })
        };
        let Some(order) = order else { return };
        if let Order::Remove { id } = order {
            self.over.insert(id);
        }
        self.shared.orders.lock().push_back(order);
        self.count(match order {
            Order::Add { .. } => "to be added",
            Order::Promote { .. } => "to be promoted",
            Order::Remove { .. } => "to be removed",
        });
    }

    /// What the schedule does as the operator, after every step.
    fn attend(&mut self) -> Result<(), String> {
        let now = self.sim.elapsed();
        let rested: Vec<usize> =
            self.still.iter().filter(|(_, until)| **until <= now).map(|(at, _)| *at).collect();
        rested.into_iter().for_each(|at| self.go_on(at));
        for at in 0..self.names.len() {
            if faulty::power_is_gone(&self.log(at)) {
                self.crash(at, Some(Tail::Midway));
            }
        }
        let running = self.shared.running.lock().clone();
        for (at, id) in running {
            if self.gone.contains(&id) {
                return Err(format!("ONE ID ON TWO DISKS: m{at} runs as {id:016x}, whose disk was lost"));
            }
            if self.rotten == Some(at) {
                return Err(format!("ROT: m{at} runs on a log with flipped bits"));
            }
            self.must_hear_of_its_disk(at)?;
            let before = self.shared.ids.lock().insert(at, id);
            if before.is_none() && self.lost == Some(at) {
                self.lost = None;
            }
        }
        loop {
            let Some((order, done)) = self.shared.done.lock().pop_front() else { break };
            self.conclude(order, done);
        }
        loop {
            let Some((at, ended)) = self.shared.ended.lock().pop_front() else { break };
            self.restart(at, &ended)?;
        }
        Ok(())
    }

    /// A log that could not write something ends its member, now and not when it is restarted.
    fn must_hear_of_its_disk(&mut self, at: usize) -> Result<(), String> {
        let (now, met) = (self.sim.elapsed(), faulty::met(&self.log(at)));
        let Some(fault) = met else {
            self.deaf.remove(&at);
            return Ok(());
        };
        if now - *self.deaf.entry(at).or_insert(now) < LAST_WORD {
            return Ok(());
        }
        Err(format!("DEAF: m{at} goes on for {LAST_WORD:?} after {fault:?}"))
    }

    fn place_of(&self, id: u64) -> Option<usize> {
        self.shared.ids.lock().iter().find(|(_, known)| **known == id).map(|(at, _)| *at)
    }

    fn conclude(&mut self, order: Order, done: Done) {
        match (order, done) {
            (_, Done::Refused) => {
                if let Order::Remove { id } = order {
                    self.over.remove(&id);
                }
            }
            (Order::Add { place, learner }, done) => {
                match done {
                    Done::Yes(id) => {
                        self.within.insert(place);
                        if learner {
                            self.learners.insert(id);
                        }
                    }
                    Done::Unknown | Done::Refused => drop(self.perhaps.insert(place)),
                }
                self.shared.taken.lock().insert(place);
                self.bounce(place);
                self.note(&format!("m{place} is to join"));
            }
            (Order::Promote { id }, _) => drop(self.learners.remove(&id)),
            (Order::Remove { id }, done) => {
                self.unresolved |= done == Done::Unknown;
                let Some(at) = self.place_of(id) else { return };
                self.within.remove(&at);
                if done == Done::Unknown {
                    self.perhaps.insert(at);
                }
            }
        }
    }

    /// A member has ended, or did not start. What is no answer to what was done to it is a violation.
    fn restart(&mut self, at: usize, ended: &Ended) -> Result<(), String> {
        let (Ended::NotStarted(sentence) | Ended::Failed(sentence)) = ended;
        let removed = self.known_id(at).is_some_and(|id| self.over.contains(&id));
        let maybe_out = removed || !self.within.contains(&at) || self.perhaps.contains(&at);
        if sentence.contains(faulty::SENTENCE) {
            self.crash(at, Some(Tail::Midway));
            self.shared.witness.reached("broken disks noticed");
        } else if self.lost == Some(at) && sentence.contains("damaged") {
            self.crash(at, Some(Tail::Clean));
            self.wipe(at);
            self.shared.witness.reached("rotten disks refused");
        } else if maybe_out
            && ["has replaced this member", "no member with the peer URL", "refuses to replace this member"]
                .iter()
                .any(|known| sentence.contains(known))
        {
            self.crash(at, Some(Tail::Clean));
            self.wipe(at);
            self.down.remove(&at);
            self.shared.taken.lock().remove(&at);
            self.perhaps.remove(&at);
            self.within.remove(&at);
            if self.lost == Some(at) {
                self.lost = None;
            }
            self.shared.witness.reached("removed members ended");
            // Idle from now on.
            self.bounce(at);
        } else {
            return Err(format!("m{at} ended for no reason: {ended:?}"));
        }
        if self.healed && self.down.contains_key(&at) {
            self.start();
        }
        Ok(())
    }

    fn whole(&mut self) {
        for (one, other) in std::mem::take(&mut self.held) {
            self.sim.release(self.names[one].as_str(), self.names[other].as_str());
        }
        for (one, a) in self.names.iter().enumerate() {
            for (other, b) in self.names[..one].iter().enumerate() {
                if self.still.contains_key(&one) || self.still.contains_key(&other) {
                    continue;
                }
                self.sim.repair(a.as_str(), b.as_str());
                self.sim.set_link_max_message_latency(a.as_str(), b.as_str(), Duration::from_millis(10));
            }
        }
    }

    fn heal(&mut self) {
        self.healed = true;
        let still: Vec<usize> = self.still.keys().copied().collect();
        still.into_iter().for_each(|at| self.go_on(at));
        for at in 0..self.names.len() {
            faulty::mend(&self.log(at));
        }
        while !self.down.is_empty() {
            self.start();
        }
        self.whole();
        self.note("healed");
    }

    /// One that does not lead is removed while nothing else is wrong: the others keep their leader and their term, and it ends.
    fn remove_in_peace(&mut self) -> Result<(), String> {
        self.pass(Duration::from_secs(3))?;
        let leader = self.shared.leader.load(Ordering::Relaxed);
        let voters = self.shared.voters.lock().clone();
        let running = self.shared.running.lock().clone();
        let victim = running.into_iter().find(|(at, id)| {
            *id != leader && voters.contains(id) && self.within.contains(at) && !self.perhaps.contains(at)
        });
        let Some((at, id)) = victim.filter(|_| voters.len() >= 3 && leader != 0 && self.lost.is_none())
        else {
            return Ok(());
        };
        let term = self.shared.term.load(Ordering::Relaxed);
        self.over.insert(id);
        self.shared.orders.lock().push_back(Order::Remove { id });
        self.note(&format!("m{at} is to be removed in peace"));
        self.pass_until("the removal is through", |world| {
            !world.within.contains(&at) || !world.over.contains(&id)
        })?;
        if !self.over.contains(&id) {
            return Err(format!("REFUSED: to remove m{at} in peace"));
        }
        self.pass_until("the removed member has ended", |world| !world.takes_part(at))?;
        self.pass(Duration::from_secs(2))?;
        let now = self.shared.term.load(Ordering::Relaxed);
        if now != term {
            return Err(format!(
                "DISTURBED: the removal of m{at}, which did not lead, took the term from {term} to {now}"
            ));
        }
        self.shared.witness.reached("removals in peace");
        Ok(())
    }

    fn judge(self, members: usize, mut violations: Vec<String>) -> Report {
        let mut history = self.shared.history.lock().clone();
        history.fastest = clocks::fastest();
        let mut lies = 0;
        let ends = self.shared.ends.lock();
        let last = ends.first_key_value().map(|(_, end)| end.clone());
        if let Some(last) = last.filter(|_| violations.is_empty()) {
            let of_members = ends.iter().filter(|(at, _)| last.members.contains(at));
            for (at, end) in of_members.clone() {
                let same =
                    (end.revision, &end.hash, &end.members) == (last.revision, &last.hash, &last.members);
                if !same || end.hash.is_none() {
                    violations.push(format!("DIVERGED: m{at} ends with {end:?}, another one with {last:?}"));
                }
            }
            let expected = |at: &usize| self.within.contains(at) || self.perhaps.contains(at);
            let missing =
                self.within.iter().find(|at| !self.perhaps.contains(at) && !last.members.contains(at));
            if let Some(wrong) = missing.or(last.members.iter().find(|at| !expected(at))) {
                violations
                    .push(format!("MEMBERSHIP: m{wrong} of {:?}, expected {:?}", last.members, self.within));
            }
            history.revision = last.revision;
            history.ends = of_members.map(|(at, end)| (*at, end.state.clone())).collect();
            let found = history.violations();
            if found.is_empty() {
                let (blind, told) = lies::unnoticed(&history);
                violations.extend(blind.into_iter().map(|lie| format!("BLIND: unnoticed: {lie}")));
                lies = told;
            }
            violations.extend(found);
        }
        violations.extend(self.unexpected());
        let acknowledged = history
            .writes
            .iter()
            .filter(|write| matches!(write.outcome, history::Outcome::Acknowledged { .. }))
            .count();
        for write in &history.writes {
            self.shared.witness.note(&format!("{write:?}"));
        }
        let mut seen = self.shared.witness.seen();
        seen.insert("compactions", history.compactions.iter().filter(|it| it.done.is_some()).count() as u64);
        seen.insert("leases", history.leases.len() as u64);
        Report {
            members,
            simulated: self.sim.elapsed(),
            writes: history.writes.len(),
            acknowledged,
            reads: history.reads.len(),
            faults: self.faults.clone(),
            lies,
            seen,
            trace: self.shared.witness.trace(),
            violations,
        }
    }

    /// Errors that members logged and nobody gave them a reason for.
    fn unexpected(&self) -> Vec<String> {
        let rotten = self.faults.contains_key("flipped bits");
        let expected = |line: &String| {
            line.contains(faulty::SENTENCE)
                || self.over.iter().any(|id| line.contains(&format!("has replaced this member ({id:016x})")))
                || (rotten && (line.contains("snapshot passed over") || line.contains("damaged")))
        };
        self.shared.witness.complaints().into_iter().filter(|line| !expected(line)).collect()
    }
}
