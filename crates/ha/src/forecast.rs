//! The forecast: if the primary died now, who would win, in how long, with how many bytes at risk, and what stands in the way.
//!
//! # Method
//!
//! There is no second copy of the rules. For every other node the observation is made up that it would have a moment after the
//! primary is gone (the lock free, receivers stopped, positions published), from its member record as this node reads it, and
//! [`crate::decide`] is asked what that node would do:
//!
//! ```text
//!   view as it is ──► primary's key gone, every standby stamped with its position
//!       1  lock still held, suspicion standing   ── anybody decides RevokeLock?  ──► by quorum (failure_timeout)
//!       2  lock absent                           ── who decides AcquireLock?     ──► the winner;  the others' reasons
//! ```
//!
//! The same is used backwards: a node that takes the lock asks what the others would have decided, and puts their reasons into
//! its decision record as the rejected candidates.
//!
//! # What it cannot know
//!
//! What a member record does not say: that replay is paused there by hand, or that a promotion failed there a moment ago. And
//! positions are as published, up to `loop_wait` old. It is a forecast.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::action::Action;
use crate::budget::{self, Event};
use crate::cluster::{
    ClusterView, Initialize, Lock, MemberRecord, MemberRole, MemberState, RaceStamp, Revision, StoreFacts,
    Suspected, Suspicion, Versioned,
};
use crate::context::Context;
use crate::facts::{
    ControlState, DataDirectory, Initialised, InstanceFacts, Lsn, Moment, OperationFacts, Position, Process,
    Receiver, Role, Running, StandbyFacts, SystemId,
};
use crate::observation::{LeaseFacts, Observation, VoterFacts};
use crate::record::{Rejected, behind};

/// After these times in a race every patience of the rules is over, one after the other: positions, ties, named candidates.
const WAITED: [Duration; 4] = [
    Duration::from_millis(600),
    Duration::from_millis(1100),
    Duration::from_millis(3100),
    Duration::from_millis(6000),
];

/// The voters of the store, as the asking node's store tells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Voters {
    /// How many there are.
    pub all: usize,
    /// How many of them are heard, the primary's among them.
    pub heard: usize,
    /// The primary's node is a voter that is heard (and would be lost with it).
    pub with_primary: bool,
}

/// How the lock would become free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// The standbys take it away together.
    Quorum,
    /// Its lease ends.
    Expiry,
}

/// One node's prospects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Candidate {
    /// Its name.
    pub node: String,
    /// It would be promoted.
    pub wins: bool,
    /// What it would do, and why: in quotes in its own words.
    pub why: String,
    /// Behind the primary's last published position.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_bytes: Option<u64>,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Forecast {
    /// Who holds the lock now.
    pub leader: Option<String>,
    /// Why nothing happens now: what the asking node last decided.
    pub now: String,
    /// Who would be promoted.
    pub winner: Option<String>,
    /// How the lock would become free. None: there is no lock to free.
    pub way: Option<Way>,
    /// Expected gap of writes if the node is killed (its machine answers), in milliseconds. None: nobody wins.
    pub killed_ms: Option<u64>,
    /// Expected gap if it falls silent (cut, power, stopped).
    pub silent_ms: Option<u64>,
    /// Commits wait for standbys and only a member of the set wins: nothing acknowledged is at risk.
    pub synchronous: bool,
    /// Published by the primary and not with the winner: zero in the synchronous modes. None: nobody wins.
    pub at_risk_bytes: Option<u64>,
    /// What stands in the way of a take-over, a sentence each.
    pub blockers: Vec<String>,
    /// Every other member that is known.
    pub candidates: Vec<Candidate>,
    /// The times in use.
    pub times: Times,
}

/// The times in use, in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Times {
    pub preset: &'static str,
    pub ttl_ms: u64,
    pub loop_wait_ms: u64,
    pub retry_timeout_ms: u64,
    pub failure_timeout_ms: u64,
    /// The longest stall of the primary's node that changes nothing.
    pub tolerated_stall_ms: u64,
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The forecast from what one node has observed. `voters` is None where the store could not be asked.
#[must_use]
pub fn forecast(o: &Observation, now: &str, voters: Option<Voters>) -> Forecast {
    let policy = &o.policy;
    let times = Times {
        preset: policy.preset.as_str(),
        ttl_ms: ms(policy.ttl),
        loop_wait_ms: ms(policy.loop_wait),
        retry_timeout_ms: ms(policy.retry_timeout),
        failure_timeout_ms: ms(policy.failure_timeout),
        tolerated_stall_ms: ms(budget::tolerated_stall(policy)),
    };
    let mut forecast = Forecast {
        leader: None,
        now: now.to_owned(),
        winner: None,
        way: None,
        killed_ms: None,
        silent_ms: None,
        synchronous: false,
        at_risk_bytes: None,
        blockers: Vec::new(),
        candidates: Vec::new(),
        times,
    };
    let StoreFacts::Available(view) = &o.store else {
        forecast.blockers.push(format!("the store does not answer {}", policy.name()));
        return forecast;
    };
    let Some(held) = view.held() else {
        forecast
            .blockers
            .push("nobody holds the leader lock: the race is on, or nobody may win it".to_owned());
        return forecast;
    };
    forecast.leader = Some(held.holder.clone());
    forecast.synchronous = policy.synchronous_mode.binds()
        && view.sync.as_ref().is_some_and(|sync| sync.value.entries.iter().any(|entry| entry.confirm > 0));
    let optime = [
        view.status.as_ref().map(|status| status.value.optime),
        view.members.get(&held.holder).and_then(|record| record.value.xlog_location),
    ]
    .into_iter()
    .flatten()
    .max();
    let (way, by_time) = (way(o, view), race(o, view));
    for (name, record) in others(o, view, &held.holder) {
        let lsn = record.record.xlog_location;
        let lag_bytes = optime.zip(lsn).map(|(optime, lsn)| behind(lsn, optime));
        let (wins, why) = match by_time.iter().find(|verdict| verdict.node == name) {
            Some(verdict) => (verdict.wins, format!("\"{}\"", verdict.why)),
            None => (false, record.absent()),
        };
        forecast.candidates.push(Candidate { node: name.to_owned(), wins, why, lag_bytes });
    }
    forecast.winner = by_time.into_iter().find(|verdict| verdict.wins).map(|verdict| verdict.node);
    forecast.way = Some(way);
    if policy.paused {
        forecast.blockers.push("the cluster is paused: nobody is promoted until it is resumed".to_owned());
    }
    if let Some(Voters { all, heard, with_primary }) = voters {
        let left = heard.saturating_sub(usize::from(with_primary));
        if left * 2 <= all {
            forecast.blockers.push(format!(
                "the store would lose its quorum: {left} of {all} voters would be left, and nothing is decided without a \
                 majority"
            ));
        }
    }
    if forecast.winner.is_none() {
        let named =
            if forecast.candidates.is_empty() { "there is no other member" } else { "no member may win" };
        forecast.blockers.push(format!("nobody would be promoted: {named}"));
    }
    if forecast.blockers.is_empty() {
        let gap = |event| match way {
            Way::Quorum => budget::expected_gap(policy, event),
            Way::Expiry => policy.ttl + budget::TAKEOVER,
        };
        forecast.killed_ms = Some(ms(gap(Event::NodeLost)));
        forecast.silent_ms = Some(ms(gap(Event::NodeSilent)));
        let lag = forecast.candidates.iter().find(|candidate| candidate.wins).and_then(|it| it.lag_bytes);
        forecast.at_risk_bytes = if forecast.synchronous { Some(0) } else { lag };
    }
    forecast
}

impl Forecast {
    /// As sentences.
    #[must_use]
    pub fn sentences(&self) -> Vec<String> {
        let seconds = crate::record::seconds;
        let mut lines = Vec::new();
        let Some(leader) = &self.leader else {
            lines.push(format!("There is no primary: {}.", self.blockers.join("; ")));
            return lines;
        };
        match (&self.winner, self.killed_ms, self.silent_ms, self.way) {
            (Some(winner), Some(killed), Some(silent), Some(way)) => {
                lines.push(format!("If {leader} died now, {winner} would take over."));
                let how = match way {
                    Way::Quorum => "the standbys would take the lock away together",
                    Way::Expiry => "its lease would have to run out first",
                };
                let gap = if killed == silent {
                    seconds(killed)
                } else {
                    format!(
                        "{} if its processes are killed, {} if it falls silent",
                        seconds(killed),
                        seconds(silent)
                    )
                };
                lines.push(format!("Writes would stand still for about {gap}; {how}."));
            }
            _ => lines.push(format!("If {leader} died now, nobody would take over.")),
        }
        match (self.synchronous, self.at_risk_bytes) {
            (_, None) => {}
            (true, Some(_)) => lines.push("No acknowledged commit is at risk: commits wait for a standby.".to_owned()),
            (false, Some(bytes)) => lines.push(format!(
                "At risk: {bytes} bytes that are published and not there yet, and what is written in the last {}.",
                seconds(self.times.loop_wait_ms)
            )),
        }
        for blocker in &self.blockers {
            lines.push(format!("In the way: {blocker}."));
        }
        for candidate in &self.candidates {
            let lag = candidate.lag_bytes.map_or(String::new(), |bytes| format!(" ({bytes} bytes behind)"));
            lines.push(format!("{}{lag}: {}.", candidate.node, candidate.why));
        }
        let Times { preset, ttl_ms, failure_timeout_ms, tolerated_stall_ms, .. } = &self.times;
        lines.push(format!(
            "Times: preset {preset}, ttl {}, failure_timeout {}; a stall of up to {} changes nothing.",
            seconds(*ttl_ms),
            seconds(*failure_timeout_ms),
            seconds(*tolerated_stall_ms)
        ));
        lines
    }
}

// --- what others would decide --------------------------------------------------------------------------------------------------

/// What one node would decide.
pub(crate) struct Verdict {
    pub(crate) node: String,
    pub(crate) wins: bool,
    pub(crate) why: String,
}

/// A member, present or remembered.
struct Known<'o> {
    record: &'o MemberRecord,
    present: bool,
}

impl Known<'_> {
    /// Why it takes no part at all.
    fn absent(&self) -> String {
        if self.present {
            format!("its PostgreSQL is {}", self.record.state.as_str())
        } else {
            "it has given no sign of life for longer than the ttl".to_owned()
        }
    }
    fn takes_part(&self) -> bool {
        self.present && self.record.state == MemberState::Running && self.record.role == MemberRole::Replica
    }
}

/// Every member but one, in the order of names.
fn others<'o>(o: &'o Observation, view: &'o ClusterView, but: &str) -> Vec<(&'o str, Known<'o>)> {
    let mut known: BTreeMap<&str, Known<'_>> = BTreeMap::new();
    for (name, record) in &o.remembered {
        known.insert(name, Known { record, present: false });
    }
    for (name, record) in &view.members {
        known.insert(name, Known { record: &record.value, present: true });
    }
    known.remove(but);
    known.into_iter().collect()
}

/// The view a moment after the holder is gone: its key is gone, and every standby has published where it stopped.
fn without_holder(view: &ClusterView, generation: Revision) -> ClusterView {
    let mut view = view.clone();
    if let Some(held) = view.held().cloned() {
        view.members.remove(&held.holder);
    }
    for record in view.members.values_mut() {
        let MemberRecord { timeline, xlog_location, role, .. } = &record.value;
        let position = timeline.zip(*xlog_location).filter(|_| *role == MemberRole::Replica);
        record.value.race = position
            .map(|(timeline, lsn)| RaceStamp { revision: generation, position: Position { timeline, lsn } });
    }
    view
}

/// Would anybody take the lock away before its lease ends?
fn way(o: &Observation, view: &ClusterView) -> Way {
    let Some(held) = view.held() else { return Way::Expiry };
    if o.policy.failure_timeout.is_zero() {
        return Way::Expiry;
    }
    let generation = Revision(view.revision.0 + 1);
    let mut then = without_holder(view, generation);
    let document = Suspicion {
        suspect: held.holder.clone(),
        lock: held.create_revision,
        by: o.policy.name().to_owned(),
        why: "it is gone".to_owned(),
        revoked: false,
    };
    let key =
        Versioned { value: document, create_revision: generation, mod_revision: generation, lease: None };
    then.revision = generation;
    then.suspicion = Some(Suspected { key, since: o.now });
    let revokes = |action: &Action| matches!(action, Action::RevokeLock { .. });
    let someone = WAITED.iter().any(|waited| {
        then.members.keys().any(|name| {
            decision_of(o, name, &then, o.now.after(*waited)).is_some_and(|it| it.actions.iter().any(revokes))
        })
    });
    if someone { Way::Quorum } else { Way::Expiry }
}

/// What every member that takes part would do once the lock is free.
fn race(o: &Observation, view: &ClusterView) -> Vec<Verdict> {
    let generation = Revision(view.revision.0 + 1);
    let mut then = without_holder(view, generation);
    // What was asked of the holder is no part of its death.
    then.failover = None;
    then.suspicion = None;
    then.revision = generation;
    then.lock = Lock::Absent { since_revision: generation, since: o.now };
    let mut verdicts = Vec::new();
    for waited in WAITED {
        verdicts = verdicts_of(o, &then, o.now.after(waited));
        if verdicts.iter().any(|verdict| verdict.wins) {
            break;
        }
    }
    verdicts
}

fn verdicts_of(o: &Observation, view: &ClusterView, now: Moment) -> Vec<Verdict> {
    let taking_part = view
        .members
        .iter()
        .filter(|(_, record)| Known { record: &record.value, present: true }.takes_part())
        .map(|(name, _)| name);
    taking_part
        .filter_map(|name| {
            let decision = decision_of(o, name, view, now)?;
            let wins = decision.actions.iter().any(|action| matches!(action, Action::AcquireLock { .. }));
            Some(Verdict { node: name.clone(), wins, why: decision.reason.sentence })
        })
        .collect()
}

/// For the winner's record: why each of the others does not take the lock that is free now.
pub(crate) fn rejected(o: &Observation, view: &ClusterView) -> Vec<Rejected> {
    // Our own position reaches the store with the same list of actions that takes the lock; here it is there already.
    let mut then = view.clone();
    if let Some(record) = then.members.get_mut(o.policy.name()) {
        record.value.race = Context::new(o, view).stamp();
    }
    let verdicts = verdicts_of(o, &then, o.now);
    let lost = |known: &Known<'_>| known.record.role == MemberRole::Primary;
    others(o, view, o.policy.name())
        .into_iter()
        .filter(|(_, known)| !lost(known))
        .map(|(node, known)| {
            let why = match verdicts.iter().find(|verdict| verdict.node == node) {
                // Both may: the transaction decides between them.
                Some(verdict) if verdict.wins => "it was as good, and came later".to_owned(),
                Some(verdict) => format!("\"{}\"", verdict.why),
                None => known.absent(),
            };
            Rejected { node: node.to_owned(), why }
        })
        .collect()
}

/// What the named member would decide in this view.
fn decision_of(o: &Observation, name: &str, view: &ClusterView, now: Moment) -> Option<crate::Decision> {
    as_seen_by(o, name, view, now).map(|observation| crate::decide(&observation))
}

/// The observation that the named member would have, from its record: a standby that has stopped to receive.
fn as_seen_by(o: &Observation, name: &str, view: &ClusterView, now: Moment) -> Option<Observation> {
    let member = view.members.get(name)?;
    let record = &member.value;
    let system_identifier = match view.initialize.as_ref().map(|key| key.value) {
        Some(Initialize::Done(id)) => id,
        Some(Initialize::Claimed) | None => SystemId(0),
    };
    let position = record
        .race
        .map(|race| race.position)
        .or(Some(Position { timeline: record.timeline?, lsn: record.xlog_location.unwrap_or(Lsn(0)) }))?;
    let mut policy = o.policy.clone();
    name.clone_into(&mut policy.local.name);
    policy.local.conn_url.clone_from(&record.conn_url);
    policy.local.api_url.clone_from(&record.api_url);
    policy.local.tags.clone_from(&record.tags);
    let directory = Initialised {
        system_identifier,
        state: ControlState::InArchiveRecovery,
        timeline: position.timeline,
        redo: Lsn(0),
        wal_end: None,
        consistent_from: None,
        incomplete: false,
        asked: None,
        standby_signal: true,
        was_primary_on: None,
        rewind_unfinished: false,
    };
    let running = Running {
        timeline: position.timeline,
        role: Role::Standby(StandbyFacts {
            received: position.lsn,
            replayed: record.replay_lsn.unwrap_or(position.lsn).min(position.lsn),
            receiver: Receiver::Gone,
            upstream: None,
            complete: true,
            replay_paused: false,
        }),
        server_version: 0,
        postmaster_start_time: String::new(),
        pending_restart: false,
        slots: Vec::new(),
    };
    // We know ourselves better than our record does. Who is unfit says so by a tag.
    let mut directory = DataDirectory::Initialised(directory);
    if name == o.policy.name() {
        directory = o.instance.data_directory.clone();
    } else {
        policy.local.unfit = None;
    }
    let member_lease = member.lease.map(|id| LeaseFacts { id, valid_until: now.after(policy.ttl) });
    Some(Observation {
        now,
        policy,
        instance: InstanceFacts { data_directory: directory, process: Process::Running(running) },
        operation: OperationFacts::Idle,
        store: StoreFacts::Available(view.clone()),
        remembered: o.remembered.clone(),
        missing: o.missing.clone(),
        member_lease,
        primary_lease: None,
        voters: VoterFacts::default(),
        ..o.clone()
    })
}
