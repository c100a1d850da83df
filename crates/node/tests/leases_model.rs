//! Three lessors and the replicated records, without clocks or sockets: any schedule of renewals, lost and late proposals,
//! changes of the leader, stalls and ids that are used again. A lease never ends before its last confirmed renewal + ttl,
//! and one that nobody renews ends soon, however often the leader changes. A failure names its seed.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_node::lessor::{Lessor, Remaining, Renew};
use quorate_state::{Applier, Body, Command, LeaseId, LeaseRemaining, ReplyBody};
use quorate_storage::{Engine, MemoryEngine};

const GRACE: Duration = Duration::from_secs(1);
const LEASES: std::ops::RangeInclusive<LeaseId> = 1..=5;
const NEGLECTED: std::ops::RangeInclusive<LeaseId> = 1..=2;
/// Schedules within which a broken rule has to be noticed.
const NOTICED_WITHIN: u64 = 3_000;
/// Everything that a tick, a commit and a retry may add between two steps of the leader.
const SLACK: Duration = Duration::from_secs(4);

struct Member {
    lessor: Lessor,
    engine: MemoryEngine,
    applied: usize,
}

/// What a holder knows, and what it may complain about.
struct Truth {
    ttl: Duration,
    /// It was told that the lease lives until here.
    promised: Duration,
    /// By here it must be gone.
    bound: Duration,
}

/// On its way into the log, as its proposer thinks of it.
enum Proposal {
    Checkpoint(Vec<Remaining>),
    /// Of a lease that was judged to be over.
    Revoke(LeaseId, u64),
    /// A renewal that was sent at this time takes a checkpoint back.
    Clear {
        id: LeaseId,
        stamp: u64,
        sent: Duration,
    },
    Grant(LeaseId, Duration, u64, Duration),
    /// A client's own.
    Drop(LeaseId),
}

impl Proposal {
    fn ends(&self) -> Option<LeaseId> {
        match self {
            Proposal::Revoke(id, _) => Some(*id),
            Proposal::Checkpoint(_) | Proposal::Clear { .. } | Proposal::Grant(..) | Proposal::Drop(_) => {
                None
            }
        }
    }

    fn command(&self) -> Command {
        let remaining = |it: &Remaining| LeaseRemaining {
            id: it.id,
            stamp: it.stamp,
            remaining_ms: u64::try_from(it.remaining.as_millis()).expect("small") + 1,
        };
        match self {
            Proposal::Checkpoint(judged) => Command::lease_checkpoint(judged.iter().map(remaining).collect()),
            Proposal::Revoke(id, stamp) => Command::lease_expire(*id, *stamp),
            Proposal::Clear { id, stamp, .. } => {
                Command::lease_checkpoint(vec![LeaseRemaining { id: *id, stamp: *stamp, remaining_ms: 0 }])
            }
            Proposal::Grant(id, ttl, stamp, _) => {
                Command::lease_grant(*id, u64::try_from(ttl.as_millis()).expect("small"), *stamp)
            }
            Proposal::Drop(id) => Command::lease_revoke(*id),
        }
    }
}

/// A rule that is broken on purpose, to see that the checks notice.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mutation {
    None,
    /// The end of a lease names its id alone.
    EndById,
    /// So it does, and what a former leader judged is committed although another one leads: etcd's issues 12528 and 15247. (With
    /// the stamp alone in its way it does no harm here: a renewal takes back the checkpoint that came before the end.)
    FormerLeader,
    /// A holder hears "renewed" before the checkpoint that does not know of it is taken back.
    ToldTooEarly,
    /// A new leader counts renewals of its predecessor as none.
    SilenceTooLong,
    /// Nothing is noted: every change of the leader gives all leases their full time again.
    NothingNoted,
}

struct World {
    mutation: Mutation,
    /// Of leaders before this one, not committed: only a mutation has them.
    late: Vec<Proposal>,
    random: fastrand::Rng,
    now: Duration,
    log: Vec<Command>,
    members: Vec<Member>,
    leader: usize,
    /// Of the leader, not committed.
    proposed: Vec<Proposal>,
    truth: BTreeMap<LeaseId, Truth>,
    ended: usize,
    changes: usize,
    /// Holders renew, and the leader changes, while proposals are on their way.
    busy: bool,
}

impl World {
    fn new(seed: u64, mutation: Mutation) -> World {
        let member = || Member { lessor: Lessor::new(), engine: MemoryEngine::new(), applied: 0 };
        let mut world = World {
            mutation,
            late: Vec::new(),
            random: fastrand::Rng::with_seed(seed),
            now: Duration::from_secs(100),
            log: Vec::new(),
            members: (0..3).map(|_| member()).collect(),
            leader: 0,
            proposed: Vec::new(),
            truth: BTreeMap::new(),
            ended: 0,
            changes: 0,
            busy: true,
        };
        let now = world.now;
        world.lessor().promote(now, GRACE, Duration::ZERO);
        world
    }

    fn lessor(&mut self) -> &mut Lessor {
        &mut self.members[self.leader].lessor
    }

    fn ends_by_id(&self) -> bool {
        matches!(self.mutation, Mutation::EndById | Mutation::FormerLeader)
    }

    /// What the member's observer does with each entry.
    fn catch_up(&mut self, member: usize) {
        let now = self.now;
        let member = &mut self.members[member];
        while let Some(command) = self.log.get(member.applied) {
            member.applied += 1;
            let mut applier = Applier::new(&member.engine);
            let (reply, _) = applier.apply(command).expect("it applies");
            let batch = applier.into_batch();
            member.engine.write(&batch).expect("memory");
            if matches!(reply.body, Some(ReplyBody::Rejected(_))) {
                continue;
            }
            match command.body.as_ref().expect("a body") {
                Body::LeaseGrant(grant) => {
                    member.lessor.granted(now, grant.id, Duration::from_millis(grant.ttl_ms), grant.stamp);
                }
                Body::LeaseRevoke(revoke) => member.lessor.removed(revoke.id),
                Body::LeaseCheckpoint(checkpoint) => {
                    for it in &checkpoint.leases {
                        let left = (it.remaining_ms > 0).then(|| Duration::from_millis(it.remaining_ms));
                        member.lessor.checkpointed(now, it.id, it.stamp, left);
                    }
                }
                other => panic!("not proposed here: {other:?}"),
            }
        }
    }

    /// The entry is in the log and applied at the leader, which hears of it.
    fn commit(&mut self, proposal: Proposal, heard: bool) {
        let exists = |world: &World, id: LeaseId| {
            let engine = &world.members[world.leader].engine;
            quorate_state::lease(engine, id).expect("it reads").is_some()
        };
        let leader = self.leader;
        let touched = match &proposal {
            Proposal::Revoke(id, _) | Proposal::Drop(id) | Proposal::Grant(id, ..) => Some(*id),
            Proposal::Checkpoint(_) | Proposal::Clear { .. } => None,
        };
        let before = touched.map(|id| exists(self, id));
        self.log.push(match &proposal {
            Proposal::Revoke(id, _) if self.ends_by_id() => Command::lease_revoke(*id),
            proposal => proposal.command(),
        });
        self.catch_up(leader);
        let after = touched.map(|id| exists(self, id));
        let changed = before != after;
        match proposal {
            Proposal::Revoke(id, _) if changed => {
                let truth = self.truth.remove(&id).expect("somebody holds it");
                assert!(self.now >= truth.promised, "lease {id} ended {:?} early", truth.promised - self.now);
                assert!(self.now <= truth.bound, "lease {id} ended {:?} late", self.now - truth.bound);
                self.ended += 1;
            }
            Proposal::Drop(id) if changed => drop(self.truth.remove(&id)),
            Proposal::Grant(id, ttl, _, sent) if changed => {
                let promised = if heard { sent + ttl } else { sent };
                self.truth.insert(id, Truth { ttl, promised, bound: self.now + ttl + 2 * SLACK });
            }
            // The renewal asks again.
            Proposal::Clear { id, sent, .. } if heard => self.renew(id, sent),
            _ => {}
        }
    }

    /// Some holders are hardly ever there, so that leases end while others are renewed.
    fn maybe_renew(&mut self, id: LeaseId, sent: Duration) {
        if !NEGLECTED.contains(&id) || self.random.u8(0..20) == 0 {
            self.renew(id, sent);
        }
    }

    fn renew(&mut self, id: LeaseId, sent: Duration) {
        let now = self.now;
        let outcome = self.lessor().renew(now, id);
        if let (Renew::Renewed { .. } | Renew::Noted { .. }, Some(truth)) = (outcome, self.truth.get_mut(&id))
        {
            // An attempt may lengthen it, too.
            truth.bound = truth.bound.max(now + truth.ttl + 2 * SLACK);
        }
        match outcome {
            Renew::Renewed { ttl } => {
                let truth = self.truth.get_mut(&id).expect("what is renewed exists");
                assert_eq!(ttl, truth.ttl);
                truth.promised = truth.promised.max(sent + ttl);
            }
            Renew::Noted { .. } if self.mutation == Mutation::ToldTooEarly => {
                let truth = self.truth.get_mut(&id).expect("what is renewed exists");
                truth.promised = truth.promised.max(sent + truth.ttl);
            }
            Renew::Noted { stamp } => self.proposed.push(Proposal::Clear { id, stamp, sent }),
            Renew::Unknown => {
                assert!(!self.truth.contains_key(&id), "lease {id} is there and called unknown")
            }
            Renew::Silent => panic!("the leader counts no time"),
            // It waits; its holder hears nothing.
            Renew::Revoking => {}
        }
    }

    /// One turn of the lease task.
    fn tick(&mut self) {
        let now = self.now;
        let due = self.lessor().due(now, 3);
        for id in due {
            if let Some(stamp) = self.lessor().begin_revoke(now, id) {
                self.proposed.push(Proposal::Revoke(id, stamp));
            }
        }
        let judged = self.lessor().due_checkpoints(now, 3);
        if !judged.is_empty() && self.mutation != Mutation::NothingNoted {
            self.proposed.push(Proposal::Checkpoint(judged));
        }
        if !self.late.is_empty() && self.random.u8(0..32) == 0 {
            let late = self.late.swap_remove(0);
            self.commit(late, false);
        }
    }

    /// Time passes in steps with turns between them; what was proposed is committed in any order.
    fn pass(&mut self) {
        for _ in 0..self.random.usize(1..12) {
            self.now += Duration::from_millis(self.random.u64(1..100));
            self.tick();
            if self.busy && self.random.u8(0..4) == 0 {
                let (id, now) = (self.random.i64(LEASES), self.now);
                self.maybe_renew(id, now);
            }
            while !self.proposed.is_empty() && self.random.u8(0..3) > 0 {
                let any = self.random.usize(0..self.proposed.len());
                let proposal = self.proposed.swap_remove(any);
                self.commit_or_fail(proposal);
            }
        }
        // Nothing waits for much longer than that.
        while !self.proposed.is_empty() && (!self.busy || self.random.u8(0..8) > 0) {
            let any = self.random.usize(0..self.proposed.len());
            let proposal = self.proposed.swap_remove(any);
            self.commit_or_fail(proposal);
        }
        let follower = (self.leader + self.random.usize(1..3)) % 3;
        self.catch_up(follower);
    }

    fn commit_or_fail(&mut self, proposal: Proposal) {
        let now = self.now;
        let again = Duration::from_millis(50);
        let outcome = self.random.u8(0..16);
        match (&proposal, outcome) {
            // It certainly did not happen.
            (Proposal::Revoke(id, _), 0) => self.lessor().revoke_failed(now, *id, again),
            (Proposal::Checkpoint(judged), 0) => {
                for it in judged {
                    self.lessor().checkpoint_failed(now, it, again);
                }
            }
            // Nobody knows, and it is committed after all.
            (Proposal::Revoke(id, _), 1) => {
                self.lessor().revoke_unknown(now, *id, again);
                self.commit(proposal, false);
            }
            (Proposal::Checkpoint(judged), 1) => {
                for it in judged {
                    self.lessor().checkpoint_unknown(now, it, again);
                }
                self.commit(proposal, false);
            }
            _ => self.commit(proposal, true),
        }
    }

    /// What was on its way is committed or lost; nobody hears which. Then another one leads, or the same again.
    fn change_leader(&mut self) {
        while let Some(proposal) = self.proposed.pop() {
            if self.random.bool() {
                self.commit(proposal, false);
            } else if self.mutation == Mutation::FormerLeader {
                self.late.push(proposal);
            }
        }
        let outage = Duration::from_millis(self.random.u64(50..1500));
        self.lessor().demote();
        self.now += outage;
        self.leader = self.random.usize(0..3);
        let leader = self.leader;
        self.catch_up(leader);
        let now = self.now;
        // Nobody was confirmed during the outage; what the votes say of it is the whole of it at most.
        let known = outage.mul_f64(self.random.f64());
        let told_too_much = (self.mutation == Mutation::SilenceTooLong).then_some(outage + GRACE);
        self.lessor().promote(now, GRACE, told_too_much.unwrap_or(known));
        self.changes += 1;
        for truth in self.truth.values_mut() {
            truth.bound += truth.ttl / 2 + outage + GRACE + SLACK;
        }
        // Holders look for the new one, some after a long time.
        for id in LEASES {
            if self.busy && self.random.u8(0..3) == 0 {
                self.renew(id, now);
            }
        }
    }

    /// The leader's process does not run, and nobody notices.
    fn stall(&mut self) {
        let lost = Duration::from_millis(self.random.u64(300..20_000));
        self.now += lost;
        let now = self.now;
        self.lessor().forgive(now, lost, GRACE);
        for truth in self.truth.values_mut() {
            truth.bound += lost + GRACE;
        }
    }
}

/// One schedule to its end: how many leases ended, and how often the leader changed.
fn run(seed: u64, mutation: Mutation) -> (usize, usize) {
    let mut world = World::new(seed, mutation);
    for _ in 0..world.random.usize(20..150) {
        let id = world.random.i64(LEASES);
        let now = world.now;
        match world.random.u8(0..20) {
            0..=2 => {
                let ttl = Duration::from_secs(world.random.u64(2..40));
                let stamp = world.random.u64(..);
                world.proposed.push(Proposal::Grant(id, ttl, stamp, now));
            }
            3 => world.proposed.push(Proposal::Drop(id)),
            // Gone and back under the same id, while its end is on its way, if one is.
            4 => {
                let id = world.proposed.iter().find_map(Proposal::ends).unwrap_or(id);
                world.commit(Proposal::Drop(id), true);
                let stamp = world.random.u64(..);
                world.commit(Proposal::Grant(id, Duration::from_secs(5), stamp, now), true);
            }
            5..=10 => world.maybe_renew(id, now),
            11 => world.change_leader(),
            12 => world.stall(),
            _ => {}
        }
        world.pass();
    }
    // Nobody renews any more: all of them end within their bounds, which `commit` checks.
    world.busy = false;
    for _ in 0..2000 {
        if world.truth.is_empty() {
            break;
        }
        if world.random.u8(0..40) == 0 && world.changes < 30 {
            world.change_leader();
        }
        world.pass();
    }
    assert!(world.truth.is_empty(), "seed {seed}: {} leases never end", world.truth.len());
    (world.ended, world.changes)
}

#[test]
fn no_schedule_ends_a_lease_early_or_lets_it_live_on() {
    let (mut ended, mut changes) = (0, 0);
    for seed in 0..1500 {
        let counts = run(seed, Mutation::None);
        ended += counts.0;
        changes += counts.1;
    }
    assert!(ended > 1000 && changes > 1000, "{ended} leases ended, {changes} changes: that is no test");
}

/// The net catches fish: each rule that is broken on purpose is noticed, and said in the words that belong to it.
#[test]
#[expect(clippy::print_stdout, reason = "how soon, for the table in tests/README.md")]
fn broken_rules_are_caught() {
    type Schedule = fn(u64, Mutation);
    let any: Schedule = |seed, mutation| {
        run(seed, mutation);
    };
    let mutations: [(Mutation, Schedule, &str); 5] = [
        (Mutation::EndById, any, "early"),
        (Mutation::FormerLeader, any, "early"),
        (Mutation::ToldTooEarly, any, "early"),
        (Mutation::SilenceTooLong, any, "early"),
        (Mutation::NothingNoted, one_that_nobody_renews, "it lives on"),
    ];
    let missed: Vec<Mutation> = mutations
        .into_iter()
        .filter(|(mutation, schedule, expected)| {
            let caught = (0..NOTICED_WITHIN).find(|seed| {
                let failure = std::panic::catch_unwind(|| schedule(*seed, *mutation)).err();
                let text = failure.as_ref().and_then(|failure| failure.downcast_ref::<String>());
                text.is_some_and(|text| text.ends_with(expected))
            });
            println!("{mutation:?}: {caught:?}");
            caught.is_none()
        })
        .map(|(mutation, ..)| mutation)
        .collect();
    assert!(missed.is_empty(), "not caught: {missed:?}");
}

/// Every leader falls shortly before the end that it counted to; the next one goes on where it was.
fn one_that_nobody_renews(seed: u64, mutation: Mutation) {
    let mut world = World::new(seed, mutation);
    world.busy = false;
    let (ttl, now) = (Duration::from_secs(40), world.now);
    world.commit(Proposal::Grant(1, ttl, seed, now), true);
    for _ in 0..5 {
        while world.members[world.leader].lessor.remaining(world.now, 1).is_some_and(|it| it.1 > ttl / 4) {
            world.pass();
        }
        world.change_leader();
    }
    while world.truth.contains_key(&1) {
        assert!(world.now < world.truth[&1].bound, "seed {seed}: it lives on");
        world.pass();
    }
}

#[test]
fn a_lease_that_nobody_renews_ends_soon_whoever_leads() {
    (0..100).for_each(|seed| one_that_nobody_renews(seed, Mutation::None));
}
