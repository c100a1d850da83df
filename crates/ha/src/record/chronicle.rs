//! The fold: tick by tick, from what was observed and decided to what is worth a record.
//!
//! ```text
//!   lock held by another ── sign of trouble (silence, a stream that broke) ──► since when          Detect, LeaseWait
//!        │                    └─ a suspicion stands ──► mine: Suspicion · my stamp: Promise         Promises
//!   lock absent ── how: taken, handed over, asked for, run out ── too long: Refusal                 Race
//!        │           └─ AcquireLock decided ──► who else, and why not
//!   lock mine ── out of recovery ── announced ── a commit can be confirmed ──► Promotion            Promote, FirstWrite
//!        │
//!        └── store away: Hold · PostgreSQL gone: Restart · set settled: SyncSet · released: Release · forced: Fence
//! ```
//!
//! What it holds is what a record needs from earlier ticks, no more; an agent that was restarted begins with nothing and records
//! nothing of what was before.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Evidence, How, Kind, Phase, PhaseName, Record, Rejected, behind};
use crate::action::{Action, Decision};
use crate::cluster::{ClusterView, Held, Initialize, Lock, MemberState, Revision, StoreFacts, SyncEntry};
use crate::facts::{
    Lsn, Moment, OperationFacts, OperationKind, Outcome, Position, Process, Receiver, Role, Running,
    TimelineId,
};
use crate::forecast;
use crate::observation::Observation;

/// A race that takes longer has somebody asking why.
const LONG_RACE: Duration = Duration::from_secs(2);
/// Reasons recorded per race and node: the first ones tell the story, a flapping one must not push out the rest.
const REFUSALS: usize = 3;
/// A promotion is recorded without its first write when nobody could confirm one for so long.
const FIRST_WRITE_PATIENCE: Duration = Duration::from_secs(10);

/// What is remembered from tick to tick.
#[derive(Debug, Clone, Default)]
pub struct Chronicle {
    /// The lock as last seen held.
    held: Option<Held>,
    /// Since when its holder shows no sign of life here, and how others fared.
    trouble: Trouble,
    /// The suspicion of that holder: its generation, when it was seen, who said it and why.
    suspicion: Option<Suspected>,
    /// The generation that our promise was recorded for.
    promised: Option<Revision>,
    /// The lock's absence, while it lasts.
    gone: Option<Gone>,
    /// The lock is ours since, and the promotion is not recorded yet.
    claim: Option<Claim>,
    /// Who else might have taken it, judged when we decided to.
    rejected: Vec<Rejected>,
    /// The synchronous set at rest, as last seen. None: not seen yet.
    settled: Option<Option<SyncEntry>>,
    /// Primary, and the store does not answer since.
    away: Option<Moment>,
    /// Holder, and PostgreSQL is down since.
    down: Option<Moment>,
    /// The last lock that was ours: what a fence is about, also one that is told when somebody else has it already.
    mine: Option<Revision>,
    /// A fence was decided: why.
    fencing: Option<String>,
}

/// Which layer stopped PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fencer {
    /// The agent: its loop, or the deadline on its own thread.
    Agent,
    /// The guard process beside it.
    Guard,
}

#[derive(Debug, Clone, Default)]
struct Trouble {
    since: Option<Moment>,
    silent: BTreeMap<String, (u64, bool)>,
    streamed: bool,
}

#[derive(Debug, Clone)]
struct Suspected {
    generation: Revision,
    since: Moment,
    by: String,
    why: String,
}

#[derive(Debug, Clone)]
struct Gone {
    since: Moment,
    from: Option<Held>,
    how: How,
    why: String,
    trouble: Trouble,
    suspected: Option<Moment>,
    refused: Vec<String>,
}

#[derive(Debug, Clone)]
struct Claim {
    gone: Gone,
    at: Moment,
    position: Option<Position>,
    evidence: Vec<Evidence>,
    rejected: Vec<Rejected>,
    synchronous: bool,
    lost_bytes: Option<u64>,
    promoted: Option<Moment>,
}

impl Chronicle {
    /// One tick: what was observed, what was decided on it, and whether all of it was performed. Answers what there is to
    /// record, oldest first.
    pub fn note(&mut self, o: &Observation, decision: &Decision, performed: bool) -> Vec<Record> {
        let me = o.policy.name();
        // The fence is told of before the next tick: what is left over by then found nothing to stop.
        let fences = decision.actions.contains(&Action::Fence);
        if !fences && primary(o).is_none() {
            self.fencing = None;
        }
        if fences && self.fencing.is_none() {
            self.fencing = Some(decision.reason.sentence.clone());
        }
        let view = match &o.store {
            StoreFacts::Available(view) => view,
            StoreFacts::Unavailable { since } => {
                if primary(o).is_some() {
                    self.away.get_or_insert(*since);
                }
                return Vec::new();
            }
        };
        let mut records = Vec::new();
        records.extend(self.back(o, view));
        match &view.lock {
            Lock::Held(held) if held.holder == me => {
                self.lock_is_mine(o, view, held, &mut records);
            }
            Lock::Held(held) => self.lock_is_anothers(o, view, held, &mut records),
            Lock::Absent { since, .. } => self.lock_is_gone(o, view, *since, decision, &mut records),
        }
        self.actions(o, view, decision, performed, &mut records);
        records
    }

    /// A fence has done its work, by the deadline or because it was decided. `margin_ms` as the fence measured it:
    /// until the end of the lease, negative when it was too late, None without a lease.
    pub fn fenced(&mut self, at: Moment, me: &str, by: Fencer, margin_ms: Option<i64>) -> Record {
        let decided = self.fencing.take().filter(|_| by == Fencer::Agent);
        let trigger = decided.unwrap_or_else(|| {
            let trigger = match by {
                Fencer::Agent => "the lease was not renewed in time and its deadline came",
                Fencer::Guard => {
                    "the agent stood still or was gone, and the guard process acted at the deadline of the lease"
                }
            };
            trigger.to_owned()
        });
        // What came after a fence is another story.
        (self.away, self.down, self.claim) = (None, None, None);
        let mut record = Record::new(at, me, Kind::Fence, trigger);
        record.lock = self.mine.map(|revision| revision.0);
        record.fence_margin_ms = margin_ms;
        record
    }

    // --- the store was away -------------------------------------------------------------------------------------------

    fn back(&mut self, o: &Observation, view: &ClusterView) -> Option<Record> {
        let since = self.away.take()?;
        let me = o.policy.name();
        let held = view.held().filter(|held| held.holder == me)?;
        primary(o)?;
        let trigger = "the store did not answer, and the lease had not run out";
        let mut record = Record::new(o.now, me, Kind::Hold, trigger);
        record.lock = Some(held.create_revision.0);
        record.phases = vec![phase(PhaseName::Away, since, o.now)];
        Some(record)
    }

    // --- somebody else's lock --------------------------------------------------------------------------------------------

    fn lock_is_anothers(&mut self, o: &Observation, view: &ClusterView, held: &Held, out: &mut Vec<Record>) {
        let me = o.policy.name();
        (self.gone, self.claim, self.down) = (None, None, None);
        self.rejected.clear();
        if self.held.as_ref() != Some(held) {
            self.held = Some(held.clone());
            (self.trouble, self.suspicion) = (Trouble::default(), None);
        }
        self.settled = Some(at_rest(view));
        self.look_for_trouble(o, held);
        let standing = view.suspicion.as_ref().filter(|suspected| {
            suspected.key.value.lock == held.create_revision && !suspected.key.value.revoked
        });
        match (standing, self.suspicion.take()) {
            (Some(now), before) => {
                let generation = now.key.mod_revision;
                let value = &now.key.value;
                let known = before.filter(|before| before.generation == generation);
                let fresh = known.is_none();
                let suspected = known.unwrap_or_else(|| Suspected {
                    generation,
                    since: now.since,
                    by: value.by.clone(),
                    why: value.why.clone(),
                });
                if fresh && suspected.by == me {
                    let mut record = Record::new(o.now, me, Kind::Suspicion, &suspected.why);
                    record.evidence = evidence(o, view, &self.trouble);
                    out.push(self.about(record, held));
                }
                self.suspicion = Some(suspected);
                let stamp = view.members.get(me).and_then(|record| record.value.race);
                if let Some(stamp) = stamp.filter(|stamp| stamp.revision == generation)
                    && self.promised.replace(generation) != Some(generation)
                {
                    let trigger = format!("{} is suspected, and its WAL stops here", held.holder);
                    let mut record = Record::new(o.now, me, Kind::Promise, trigger);
                    record.position = Some(stamp.position);
                    out.push(self.about(record, held));
                }
            }
            (None, Some(before)) => {
                self.trouble = Trouble::default();
                if before.by == me {
                    let trigger = format!("{} answered before its lock was taken away", held.holder);
                    let mut record = Record::new(o.now, me, Kind::Withdrawal, trigger);
                    record.phases = vec![phase(PhaseName::Detect, before.since, o.now)];
                    out.push(self.about(record, held));
                }
            }
            (None, None) => {}
        }
    }

    fn about(&self, mut record: Record, held: &Held) -> Record {
        record.from = Some(held.holder.clone());
        record.lock = Some(held.create_revision.0);
        record
    }

    /// The earliest sign that the holder is in trouble: the store's leader hears nothing, or a stream from it broke.
    fn look_for_trouble(&mut self, o: &Observation, held: &Held) {
        let streaming = match &o.instance.process {
            Process::Running(Running { role: Role::Standby(standby), .. }) => {
                matches!(standby.receiver, Receiver::Streaming { .. })
            }
            Process::Running(_)
            | Process::Stopped
            | Process::Starting { .. }
            | Process::Unresponsive { .. }
            | Process::Stopping { .. } => false,
        };
        let trouble = &mut self.trouble;
        let silent = o.voters.silent.get(&held.holder).filter(|silent| **silent >= crate::budget::BEAT);
        for (name, silent) in &o.voters.silent {
            let refuses = o.voters.refusing.contains(name);
            trouble.silent.insert(name.clone(), (millis(*silent), refuses));
        }
        let sign = match (silent, streaming) {
            (Some(silent), _) => Some(o.now.before(*silent)),
            (None, false) if trouble.streamed => Some(o.now),
            (None, _) => None,
        };
        match (sign, trouble.since) {
            (Some(sign), Some(known)) => trouble.since = Some(known.min(sign)),
            (Some(sign), None) => trouble.since = Some(sign),
            (None, _) if streaming => *trouble = Trouble { streamed: true, ..Trouble::default() },
            (None, _) => {}
        }
        trouble.streamed |= streaming;
    }

    // --- nobody's lock --------------------------------------------------------------------------------------------------

    fn lock_is_gone(
        &mut self,
        o: &Observation,
        view: &ClusterView,
        since: Moment,
        decision: &Decision,
        out: &mut Vec<Record>,
    ) {
        let me = o.policy.name();
        (self.claim, self.down) = (None, None);
        if self.gone.is_none() {
            let from = self.held.take();
            let (how, why) = self.how(view, from.as_ref());
            let suspected = self.suspicion.take().map(|suspicion| suspicion.since);
            let trouble = std::mem::take(&mut self.trouble);
            self.gone = Some(Gone { since, from, how, why, trouble, suspected, refused: Vec::new() });
        }
        let acquires = decision.actions.iter().any(|action| matches!(action, Action::AcquireLock { .. }));
        if acquires {
            self.rejected = forecast::rejected(o, view);
        }
        let Some(gone) = &mut self.gone else { return };
        let standby = matches!(&o.instance.process, Process::Running(Running { role: Role::Standby(_), .. }));
        let why = &decision.reason.sentence;
        if standby
            && !acquires
            && o.now.since(gone.since) >= LONG_RACE
            && gone.refused.len() < REFUSALS
            && !gone.refused.iter().any(|said| same(said, why))
        {
            gone.refused.push(why.clone());
            let trigger = format!("nobody holds the leader lock, and it is not taken here: \"{why}\"");
            let mut record = Record::new(o.now, me, Kind::Refusal, trigger);
            record.from = gone.from.as_ref().map(|held| held.holder.clone());
            record.lock = gone.from.as_ref().map(|held| held.create_revision.0);
            let trouble = gone.trouble.clone();
            record.phases = vec![phase(PhaseName::Race, gone.since, o.now)];
            record.evidence = evidence(o, view, &trouble);
            out.push(record);
        }
    }

    /// How the lock became free, and the sentence for it.
    fn how(&self, view: &ClusterView, from: Option<&Held>) -> (How, String) {
        let Some(from) = from else {
            return match view.initialize.as_ref().map(|key| key.value) {
                Some(Initialize::Done(_)) => {
                    (How::Expiry, "nobody held the lock when this agent began to look".to_owned())
                }
                Some(Initialize::Claimed) | None => (How::First, String::new()),
            };
        };
        let name = &from.holder;
        if let Some(suspicion) = view.suspicion.as_ref().map(|suspected| &suspected.key.value)
            && suspicion.revoked
            && suspicion.lock == from.create_revision
        {
            return (How::Quorum, suspicion.why.clone());
        }
        if let Some(request) = view.failover.as_ref().map(|key| &key.value).filter(|it| !it.is_empty()) {
            let to = request.member.as_deref().unwrap_or("the best standby");
            return match &request.leader {
                Some(leader) => {
                    (How::Switchover, format!("a switchover from {leader} to {to} was asked for"))
                }
                None => (How::Failover, format!("a failover to {to} was asked for")),
            };
        }
        let state = view.members.get(name).map(|record| &record.value.state);
        if matches!(state, Some(MemberState::Stopped | MemberState::Stopping)) {
            return (How::HandOver, format!("{name} stopped PostgreSQL and gave the lock back"));
        }
        (How::Expiry, format!("{name} did not renew the lease of its lock"))
    }

    // --- our lock -------------------------------------------------------------------------------------------------------

    fn lock_is_mine(&mut self, o: &Observation, view: &ClusterView, held: &Held, out: &mut Vec<Record>) {
        let me = o.policy.name();
        let mine_before = self.held.as_ref() == Some(held);
        if let Some(gone) = self.gone.take().filter(|_| !mine_before) {
            self.claim = Some(self.claimed(o, view, gone));
        }
        self.held = Some(held.clone());
        self.mine = Some(held.create_revision);
        (self.trouble, self.suspicion) = (Trouble::default(), None);
        if let Some(mut claim) = self.claim.take() {
            match promoted(o, &mut claim) {
                Some((first_write, timeline)) => out.push(self.promotion(o, claim, first_write, timeline)),
                None => self.claim = Some(claim),
            }
            return;
        }
        let Some((running, _)) = primary(o) else {
            // An operator's restart, or the stop before a switchover, is no accident.
            let asked = match &o.operation {
                OperationFacts::Running { kind, .. } => {
                    matches!(kind, OperationKind::Restart | OperationKind::Stop)
                }
                OperationFacts::Finished { kind, .. } => *kind == OperationKind::Stop,
                OperationFacts::Idle => false,
            };
            if o.instance.process == Process::Stopped && !asked {
                self.down.get_or_insert(o.now);
            }
            return;
        };
        if let Some(down) = self.down.take() {
            let trigger = "PostgreSQL was gone, and its lock was still held here";
            let mut record = Record::new(o.now, me, Kind::Restart, trigger);
            record.lock = Some(held.create_revision.0);
            record.timeline = Some(running.timeline);
            record.phases = vec![phase(PhaseName::Restart, down, o.now)];
            out.push(record);
        }
        // While it changes the documents tell both; the record tells from rest to rest.
        let document = view.sync.as_ref().map(|sync| &sync.value);
        if document.is_some_and(|document| document.entries.len() > 1) {
            return;
        }
        let now = at_rest(view);
        let before = self.settled.replace(now.clone());
        if let Some(before) = before.filter(|before| *before != now) {
            let trigger = format!("commits wait for {}; before: {}", set(now.as_ref()), set(before.as_ref()));
            let mut record = Record::new(o.now, me, Kind::SyncSet, trigger);
            record.lock = Some(held.create_revision.0);
            out.push(record);
        }
    }

    /// The lock has become ours.
    fn claimed(&mut self, o: &Observation, view: &ClusterView, gone: Gone) -> Claim {
        let position = match &o.instance.process {
            Process::Running(running) => {
                let lsn = match &running.role {
                    Role::Standby(standby) => standby.end(),
                    Role::Primary(facts) => facts.written,
                };
                Some(Position { timeline: running.timeline, lsn })
            }
            Process::Stopped
            | Process::Starting { .. }
            | Process::Unresponsive { .. }
            | Process::Stopping { .. } => None,
        };
        let confirmed = |entry: &SyncEntry| entry.confirm > 0;
        let bound = |view: &ClusterView| {
            view.sync.as_ref().is_some_and(|sync| sync.value.entries.iter().all(confirmed))
        };
        let synchronous = o.policy.synchronous_mode.binds() && bound(view);
        let optime = view.status.as_ref().map(|status| status.value.optime);
        let lost = optime.zip(position).map(|(optime, position)| behind(position.lsn, optime));
        Claim {
            at: o.now,
            position,
            evidence: evidence(o, view, &gone.trouble),
            rejected: std::mem::take(&mut self.rejected),
            synchronous,
            lost_bytes: if synchronous { Some(0) } else { lost },
            promoted: None,
            gone,
        }
    }

    fn promotion(
        &self,
        o: &Observation,
        claim: Claim,
        first_write: Option<Moment>,
        timeline: TimelineId,
    ) -> Record {
        let Claim { gone, at, position, evidence, rejected, synchronous, lost_bytes, promoted } = claim;
        let end = promoted.unwrap_or(o.now);
        let mut phases = Vec::new();
        let began = gone.trouble.since.map(|since| since.min(gone.since));
        match (gone.how, began) {
            (How::Quorum, Some(began)) => {
                let suspected = gone.suspected.unwrap_or(gone.since).max(began);
                phases.push(phase(PhaseName::Detect, began, suspected));
                phases.push(phase(PhaseName::Promises, suspected, gone.since));
            }
            (How::Expiry, Some(began)) => phases.push(phase(PhaseName::LeaseWait, began, gone.since)),
            (How::First | How::HandOver | How::Switchover | How::Failover | How::Quorum | How::Expiry, _) => {
            }
        }
        phases.push(phase(PhaseName::Race, gone.since, at));
        phases.push(phase(PhaseName::Promote, at, end));
        if let Some(first_write) = first_write {
            phases.push(phase(PhaseName::FirstWrite, end, first_write));
        }
        let mut record = Record::new(o.now, o.policy.name(), Kind::Promotion, gone.why);
        record.how = Some(gone.how);
        record.from = gone.from.as_ref().map(|held| held.holder.clone());
        record.lock = gone.from.as_ref().map(|held| held.create_revision.0);
        record.timeline = Some(timeline);
        if gone.how != How::First {
            record.position = position;
            (record.evidence, record.rejected) = (evidence, rejected);
            (record.synchronous, record.lost_bytes) = (synchronous, lost_bytes);
        }
        record.phases = phases;
        record
    }

    // --- what was done ----------------------------------------------------------------------------------------------------

    fn actions(
        &mut self,
        o: &Observation,
        view: &ClusterView,
        decision: &Decision,
        performed: bool,
        out: &mut Vec<Record>,
    ) {
        let me = o.policy.name();
        let why = &decision.reason.sentence;
        for action in &decision.actions {
            match action {
                Action::RevokeLock { lock, .. } if performed => {
                    let mut record = Record::new(o.now, me, Kind::Revocation, why);
                    record.evidence = evidence(o, view, &self.trouble);
                    out.push(self.about(record, lock));
                }
                Action::ReleaseLock { guard, status } if performed => {
                    let mut record = Record::new(o.now, me, Kind::Release, why);
                    record.lock = Some(guard.create_revision().0);
                    let timeline = self.timeline(o);
                    let end = status.as_ref().map(|status| status.optime);
                    record.position = end.zip(timeline).map(|(lsn, timeline)| Position { timeline, lsn });
                    out.push(record);
                }
                Action::ClearFailoverRequest { .. } if performed => {
                    let request = view.failover.as_ref().map(|key| &key.value);
                    let ours = request.is_some_and(|request| {
                        request.leader.as_deref().is_none_or(|leader| leader == me)
                            && request.member.as_deref() != Some(me)
                    });
                    let holder = view.held().is_some_and(|held| held.holder == me);
                    if ours && holder {
                        out.push(Record::new(o.now, me, Kind::Refusal, why));
                    }
                }
                Action::RevokeLock { .. }
                | Action::ReleaseLock { .. }
                | Action::ClearFailoverRequest { .. }
                | Action::GrantMemberLease { .. }
                | Action::RenewMemberLease { .. }
                | Action::PublishMember { .. }
                | Action::AcquireLock { .. }
                | Action::RenewPrimaryLease { .. }
                | Action::ClaimInitialize { .. }
                | Action::WriteInitialize { .. }
                | Action::AbandonInitialize { .. }
                | Action::WriteConfig { .. }
                | Action::WriteSync { .. }
                | Action::WriteHistory { .. }
                | Action::WriteStatus { .. }
                | Action::Suspect { .. }
                | Action::ClearSuspicion { .. }
                | Action::MoveStoreLeadership { .. }
                | Action::NameCandidate { .. }
                | Action::TryStreaming
                | Action::Fence
                | Action::Follow { .. }
                | Action::StopReceiver
                | Action::SetSynchronousStandbyNames { .. }
                | Action::ConfirmSyncEffective { .. }
                | Action::SetSlots { .. }
                | Action::Checkpoint
                | Action::Bootstrap
                | Action::Clone { .. }
                | Action::Rewind { .. }
                | Action::StartAsStandby { .. }
                | Action::StartAsPrimary { .. }
                | Action::Promote { .. }
                | Action::Stop { .. }
                | Action::Restart { .. } => {}
            }
        }
    }

    fn timeline(&self, o: &Observation) -> Option<TimelineId> {
        match &o.instance.data_directory {
            crate::facts::DataDirectory::Initialised(data) => Some(data.timeline),
            crate::facts::DataDirectory::Missing
            | crate::facts::DataDirectory::Empty
            | crate::facts::DataDirectory::Unreadable { .. }
            | crate::facts::DataDirectory::CloneInProgress => None,
        }
    }
}

/// Some once the promotion is over: when a write could be confirmed (None: not within the patience), and the timeline.
fn promoted(o: &Observation, claim: &mut Claim) -> Option<(Option<Moment>, TimelineId)> {
    let (running, facts) = primary(o)?;
    let ended = match &o.operation {
        OperationFacts::Finished { kind: OperationKind::Promote, at, outcome: Outcome::Succeeded } => *at,
        OperationFacts::Finished { .. } | OperationFacts::Idle | OperationFacts::Running { .. } => o.now,
    };
    let since = *claim.promoted.get_or_insert(ended.max(claim.at));
    let StoreFacts::Available(view) = &o.store else { return None };
    let target = view.sync.as_ref().and_then(|sync| sync.value.entries.last());
    let waits = target.filter(|entry| o.policy.synchronous_mode.binds() && entry.confirm > 0);
    let from = claim.position.map_or(Lsn(0), |position| position.lsn);
    let confirmed = match waits {
        None => true,
        Some(entry) => {
            let standbys = facts.replicas.iter().filter(|replica| {
                replica.streaming && replica.flushed > from && entry.members.contains(&replica.name)
            });
            standbys.count() >= entry.confirm
        }
    };
    if confirmed {
        let at = if waits.is_none() { since } else { o.now };
        return Some((Some(at), running.timeline));
    }
    (o.now.since(since) >= FIRST_WRITE_PATIENCE).then_some((None, running.timeline))
}

fn primary(o: &Observation) -> Option<(&Running, &crate::facts::PrimaryFacts)> {
    match &o.instance.process {
        Process::Running(running) => match &running.role {
            Role::Primary(facts) => Some((running, facts)),
            Role::Standby(_) => None,
        },
        Process::Stopped
        | Process::Starting { .. }
        | Process::Unresponsive { .. }
        | Process::Stopping { .. } => None,
    }
}

fn at_rest(view: &ClusterView) -> Option<SyncEntry> {
    view.sync.as_ref().and_then(|sync| sync.value.settled()).filter(|entry| entry.confirm > 0).cloned()
}

fn set(entry: Option<&SyncEntry>) -> String {
    match entry {
        None => "nobody".to_owned(),
        Some(entry) => {
            let members: Vec<&str> = entry.members.iter().map(String::as_str).collect();
            format!("{} of ({})", entry.confirm, members.join(", "))
        }
    }
}

/// What is known of every node, this one included.
fn evidence(o: &Observation, view: &ClusterView, trouble: &Trouble) -> Vec<Evidence> {
    let mut records: BTreeMap<&str, (&crate::cluster::MemberRecord, bool)> = BTreeMap::new();
    for (name, record) in &o.remembered {
        records.insert(name, (record, false));
    }
    for (name, record) in &view.members {
        records.insert(name, (&record.value, true));
    }
    let one = |(name, (record, present)): (&str, (&crate::cluster::MemberRecord, bool))| {
        let last =
            record.timeline.zip(record.xlog_location).map(|(timeline, lsn)| Position { timeline, lsn });
        let heard = trouble.silent.get(name);
        Evidence {
            node: name.to_owned(),
            present,
            role: record.role.as_str().to_owned(),
            state: record.state.as_str().to_owned(),
            position: record.race.map(|race| race.position).or(last),
            silent_ms: heard.map(|(silent, _)| *silent),
            refuses: heard.is_some_and(|(_, refuses)| *refuses),
        }
    };
    records.into_iter().map(one).collect()
}

fn phase(name: PhaseName, from: Moment, to: Moment) -> Phase {
    Phase { name, ms: millis(to.since(from)) }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Two reasons that differ in their numbers only.
fn same(left: &str, right: &str) -> bool {
    let letters = |text: &str| -> String { text.chars().filter(|c| !c.is_ascii_hexdigit()).collect() };
    letters(left) == letters(right)
}
