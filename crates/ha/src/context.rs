//! What every decision with a view starts from: who holds the lock, on which lease, and our own record.

use std::time::Duration;

use crate::action::{Action, Decision, LockGuard, Upstream};
use crate::budget;
use crate::cluster::{
    ClusterView, Held, History, Lock, MemberRecord, MemberRole, MemberState, RaceStamp, Revision, Suspected,
    SyncDocument,
};
use crate::facts::{
    DataDirectory, Endpoint, Initialised, Moment, OperationFacts, OperationKind, Outcome, Position, Process,
    Receiver, Role, Running, StandbyFacts, TimelineId,
};
use crate::observation::{LeaseFacts, Observation};
use crate::policy::Policy;
use crate::reason::Reason;
use crate::slots;
use crate::takeover;
use crate::timeline;

/// Soon: something changes within milliseconds, and nothing else may wake us.
pub(crate) const SOON: Duration = Duration::from_millis(50);

/// Who holds the lock, seen from here.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Holding<'o> {
    /// We, on a lease whose deadline we know ([`Observation::primary_lease`]).
    Mine { held: &'o Held, guard: LockGuard },
    /// The key has our name, on a lease that we do not know: from before a restart of the agent, or of an acquisition
    /// whose answer was lost. It is adopted by renewing it.
    Unadopted(&'o Held),
    /// Somebody else.
    Other(&'o Held),
    /// Nobody.
    Absent { since_revision: Revision, since: Moment },
}

pub(crate) struct Context<'o> {
    pub(crate) o: &'o Observation,
    pub(crate) view: &'o ClusterView,
    pub(crate) policy: &'o Policy,
    pub(crate) me: &'o str,
    pub(crate) now: Moment,
    pub(crate) holding: Holding<'o>,
    empty: History,
}

impl<'o> Context<'o> {
    pub(crate) fn new(o: &'o Observation, view: &'o ClusterView) -> Context<'o> {
        let me = o.policy.name();
        let holding = match &view.lock {
            Lock::Absent { since_revision, since } => {
                Holding::Absent { since_revision: *since_revision, since: *since }
            }
            Lock::Held(held) if held.holder == me => {
                match o.primary_lease.and_then(|lease| LockGuard::new(held, &lease)) {
                    Some(guard) => Holding::Mine { held, guard },
                    None => Holding::Unadopted(held),
                }
            }
            Lock::Held(held) => Holding::Other(held),
        };
        let empty = History::default();
        Context { o, view, policy: &o.policy, me, now: o.now, holding, empty }
    }

    // --- what is ------------------------------------------------------------------------------------------------

    pub(crate) fn initialised(&self) -> Option<&'o Initialised> {
        match &self.o.instance.data_directory {
            DataDirectory::Initialised(initialised) => Some(initialised),
            DataDirectory::Missing
            | DataDirectory::Empty
            | DataDirectory::CloneInProgress
            | DataDirectory::Unreadable { .. } => None,
        }
    }
    pub(crate) fn running(&self) -> Option<&'o Running> {
        match &self.o.instance.process {
            Process::Running(running) => Some(running),
            Process::Stopped
            | Process::Starting { .. }
            | Process::Unresponsive { .. }
            | Process::Stopping { .. } => None,
        }
    }
    pub(crate) fn standby(&self) -> Option<(&'o Running, &'o StandbyFacts)> {
        self.running().and_then(|running| match &running.role {
            Role::Standby(standby) => Some((running, standby)),
            Role::Primary(_) => None,
        })
    }
    pub(crate) fn history(&self) -> &History {
        self.view.history.as_ref().map_or(&self.empty, |history| &history.value)
    }
    /// `/sync`, if it binds anybody.
    pub(crate) fn sync(&self) -> Option<&'o SyncDocument> {
        let document = self.view.sync.as_ref().map(|sync| &sync.value)?;
        let binds = self.policy.synchronous_mode.binds() && !document.entries.is_empty();
        binds.then_some(document)
    }
    /// The suspicion of the lock's holder, in the modes in which it means something.
    pub(crate) fn suspected(&self) -> Option<&'o Suspected> {
        let (suspected, held) = (self.view.suspicion.as_ref()?, self.view.held()?);
        let suspicion = &suspected.key.value;
        let current = suspicion.lock == held.create_revision && !suspicion.revoked;
        (current && self.sync().is_some()).then_some(suspected)
    }
    pub(crate) fn underway(&self) -> Option<(OperationKind, Moment)> {
        match &self.o.operation {
            OperationFacts::Running { kind, started } => Some((*kind, *started)),
            OperationFacts::Idle | OperationFacts::Finished { .. } => None,
        }
    }
    /// The last operation, if it was of this kind and failed: when and why.
    pub(crate) fn failed(&self, kind: OperationKind) -> Option<(Moment, &'o str)> {
        match &self.o.operation {
            OperationFacts::Finished { kind: last, at, outcome: Outcome::Failed { why } }
                if *last == kind =>
            {
                Some((*at, why))
            }
            OperationFacts::Finished { .. } | OperationFacts::Idle | OperationFacts::Running { .. } => None,
        }
    }
    /// Other members whose keys exist.
    pub(crate) fn others(&self) -> impl Iterator<Item = (&'o str, &'o MemberRecord)> {
        let me = self.me;
        self.view
            .members
            .iter()
            .filter(move |(name, _)| *name != me)
            .map(|(name, record)| (name.as_str(), &record.value))
    }
    /// The primary of this timeline that others may follow: the holder, once its record says that it is one. Nobody while it
    /// is suspected: a promise not to stream from it holds until the suspicion is decided (S1, S3).
    pub(crate) fn primary(&self) -> Option<(Upstream, &'o MemberRecord)> {
        if self.suspected().is_some() {
            return None;
        }
        let held = self.view.held()?;
        let record = &self.view.members.get(&held.holder)?.value;
        (record.role == MemberRole::Primary && record.state == MemberState::Running)
            .then(|| upstream(&held.holder, record))?
            .map(|upstream| (upstream, record))
    }
    /// The holder, once its record says that it is a primary, which it does only after `/history` has its timeline.
    /// Nobody follows it before: WAL of a timeline that was never announced would spread, and when its only primary dies,
    /// the next one takes the same number (S5). Nobody while it is suspected, as for [`Context::primary`].
    pub(crate) fn announced(&self) -> Option<Upstream> {
        if self.suspected().is_some() {
            return None;
        }
        let held = self.view.held()?;
        let record = &self.view.members.get(&held.holder)?.value;
        (record.role == MemberRole::Primary).then(|| upstream(&held.holder, record))?
    }
    pub(crate) fn slot(&self) -> Option<String> {
        self.policy.use_slots.then(|| slots::name(self.me))
    }
    /// The moment by which a fence must begin, under the lease that is known.
    pub(crate) fn fence_at(&self) -> Option<Moment> {
        self.o.primary_lease.map(|lease| budget::fence_at(self.policy, lease.valid_until))
    }
    /// Does the position lie on a branch that the cluster has left?
    pub(crate) fn diverged(&self, timeline: TimelineId, lsn: crate::facts::Lsn) -> bool {
        self.history().end_of(timeline).is_some_and(|end| lsn > end)
    }

    // --- what is done in every tick -----------------------------------------------------------------------------

    /// Renew the lock's lease, if it is ours, and answer whoever thinks that we are gone.
    pub(crate) fn renew(&self) -> Vec<Action> {
        let renew = |held: &Held| Action::RenewPrimaryLease { lock: held.clone(), ttl: self.policy.ttl };
        match self.holding {
            Holding::Mine { held, guard } => {
                [renew(held)].into_iter().chain(takeover::answer(self, guard)).collect()
            }
            Holding::Unadopted(held) => vec![renew(held)],
            Holding::Other(_) | Holding::Absent { .. } => Vec::new(),
        }
    }

    /// Keep the member lease and the member key.
    pub(crate) fn introduce(&self) -> Vec<Action> {
        let Some(lease) = self.o.member_lease else {
            return vec![Action::GrantMemberLease { ttl: self.policy.ttl }];
        };
        // What happens wakes everybody, several times in a row: a lease that was renewed a moment ago needs no renewal, and positions
        // that were told a moment ago need not be told again.
        let just_now = lease.valid_until.since(self.now) + self.policy.loop_wait / 2 > self.policy.ttl;
        let renewal = Action::RenewMemberLease { lease: lease.id, ttl: self.policy.ttl };
        let mut actions: Vec<Action> = (!just_now).then_some(renewal).into_iter().collect();
        let record = self.record();
        let published = self.view.members.get(self.me).filter(|key| key.lease == Some(lease.id));
        let same = published.is_some_and(|key| {
            key.value == record || just_now && key.value.without_positions() == record.without_positions()
        });
        if !same {
            actions.push(Action::PublishMember { lease: lease.id, record });
        }
        actions
    }

    /// Our record as it is once the action before this one has written `/history`.
    pub(crate) fn announce(&self) -> Option<Action> {
        let lease = self.o.member_lease?;
        Some(Action::PublishMember { lease: lease.id, record: self.record_with(true) })
    }

    /// Our record. It says primary only when the lock is ours and `/history` has our timeline (S7).
    pub(crate) fn record(&self) -> MemberRecord {
        self.record_with(false)
    }

    fn record_with(&self, in_history: bool) -> MemberRecord {
        let local = &self.policy.local;
        let mut record = MemberRecord {
            conn_url: local.conn_url.clone(),
            api_url: local.api_url.clone(),
            version: local.version.clone(),
            tags: local.tags.clone(),
            checkpoint_after_promote: true,
            pause: self.policy.paused,
            role: match self.initialised() {
                Some(_) => MemberRole::Replica,
                None => MemberRole::Uninitialized,
            },
            ..MemberRecord::default()
        };
        record.tags.0.retain(|_, value| *value != serde_json::Value::Bool(false));
        record.state = match (&self.o.instance.process, self.underway()) {
            (_, Some((OperationKind::Bootstrap, _))) => MemberState::InitializingNewCluster,
            (_, Some((OperationKind::Clone, _))) => MemberState::CreatingReplica,
            (_, Some((OperationKind::Rewind, _))) => MemberState::RunningRewind,
            (_, Some((OperationKind::Restart, _))) => MemberState::Restarting,
            (Process::Starting { .. }, _) => MemberState::Starting,
            (Process::Stopping { .. }, _) => MemberState::Stopping,
            (Process::Running(_), _) => MemberState::Running,
            (Process::Unresponsive { .. }, _) => MemberState::Other("unresponsive".to_owned()),
            (Process::Stopped, _) if self.failed(OperationKind::StartAsPrimary).is_some() => {
                MemberState::StartFailed
            }
            (Process::Stopped, _) if self.failed(OperationKind::StartAsStandby).is_some() => {
                MemberState::StartFailed
            }
            (Process::Stopped, _) => MemberState::Stopped,
        };
        // Neither a stall nor a planned stop takes the role away: standbys would stop to receive, and what is written last
        // would not reach them. Nor its end, before the lock is released: they would be busy with that when it is.
        let busy = match self.o.instance.process {
            Process::Unresponsive { .. } | Process::Stopping { .. } => true,
            Process::Starting { as_standby, .. } => !as_standby,
            Process::Stopped => matches!(self.underway(), Some((OperationKind::Stop, _))),
            Process::Running(_) => false,
        };
        if busy
            && matches!(self.holding, Holding::Mine { .. })
            && self.initialised().is_some_and(|data| !data.standby_signal)
        {
            record.role = MemberRole::Primary;
        }
        let Some(running) = self.running() else { return record };
        record.timeline = Some(running.timeline);
        record.pending_restart = running.pending_restart;
        match &running.role {
            Role::Primary(primary) => {
                record.xlog_location = Some(primary.written);
                record.wal_start = primary.oldest;
                let ours = matches!(self.holding, Holding::Mine { .. } | Holding::Unadopted(_));
                let announced =
                    in_history || running.timeline.0 <= 1 || self.history().current() >= running.timeline;
                if (ours && announced) || self.policy.paused {
                    record.role = MemberRole::Primary;
                    record.checkpoint_after_promote = primary.checkpointed;
                }
            }
            Role::Standby(standby) => {
                record.xlog_location = Some(standby.end());
                record.receive_lsn = Some(standby.received);
                record.replay_lsn = Some(standby.replayed);
                if let Receiver::Streaming { .. } = standby.receiver {
                    record.replication_state = Some("streaming".to_owned());
                }
                record.race = self.stamp();
            }
        }
        record
    }

    /// Our fresh position, while nobody holds the lock or its holder is suspected, and nothing streams to us any more.
    pub(crate) fn stamp(&self) -> Option<RaceStamp> {
        let revision = match (self.holding, self.suspected()) {
            (Holding::Absent { since_revision, .. }, _) => self.race_revision(since_revision),
            (Holding::Other(_), Some(suspected)) => suspected.key.mod_revision,
            (Holding::Other(_) | Holding::Mine { .. } | Holding::Unadopted(_), _) => return None,
        };
        let (running, standby) = self.standby()?;
        if standby.receiver != Receiver::Gone || standby.upstream.is_some() || !standby.complete {
            return None;
        }
        // It could not win, and nobody else while it seemed to be ahead.
        if timeline::usurped(self).is_some() || timeline::mistaken(self, running.timeline).is_some() {
            return None;
        }
        let position = Position { timeline: running.timeline, lsn: standby.end() };
        Some(RaceStamp { revision, position })
    }

    /// The absence of the lock that positions are stamped with: the newest that anybody knows of. A node that came late
    /// cannot know when exactly the lock vanished and says a later revision; the others repeat theirs with that.
    pub(crate) fn race_revision(&self, since: Revision) -> Revision {
        self.others().filter_map(|(_, record)| Some(record.race?.revision)).fold(since, Revision::max)
    }

    // --- decisions ----------------------------------------------------------------------------------------------

    /// The usual tick: renew first, keep the member key, then these.
    pub(crate) fn tick(&self, actions: Vec<Action>, reason: impl Into<String>) -> Decision {
        let mut all = self.renew();
        all.extend(self.introduce());
        let wake = self.o.member_lease.is_none().then_some(Duration::ZERO);
        all.extend(actions);
        Decision { actions: all, reason: Reason::new(reason), wake }
    }

    /// As [`Context::tick`], without renewing the lock.
    pub(crate) fn idle(&self, actions: Vec<Action>, reason: impl Into<String>) -> Decision {
        let mut all = self.introduce();
        let wake = self.o.member_lease.is_none().then_some(Duration::ZERO);
        all.extend(actions);
        Decision { actions: all, reason: Reason::new(reason), wake }
    }

    /// As [`Context::idle`], with what others wait for before what only keeps us known, which is left to the next tick while the
    /// member lease is as good as new. For actions that are done in a moment: a list ends at its first failure, and the member
    /// lease must not expire behind one that hangs.
    pub(crate) fn first(&self, action: Action, reason: impl Into<String>) -> Decision {
        let mut decision = self.idle(Vec::new(), reason);
        if self.as_good_as_new(self.o.member_lease) {
            decision.actions.clear();
        }
        decision.actions.insert(0, action);
        decision
    }

    /// Renewed no longer ago than a nap: to renew it now would cost a round trip and gain nothing.
    pub(crate) fn as_good_as_new(&self, lease: Option<LeaseFacts>) -> bool {
        lease.is_some_and(|lease| lease.valid_until.since(self.now) + self.policy.loop_wait > self.policy.ttl)
    }

    /// Fence, before anything else.
    pub(crate) fn fence(&self, reason: impl Into<String>) -> Decision {
        Decision { actions: vec![Action::Fence], reason: Reason::new(reason), wake: Some(SOON) }
    }
}

impl Decision {
    /// Ask again at the latest after `wake`.
    pub(crate) fn within(mut self, wake: Duration) -> Decision {
        self.wake = Some(self.wake.map_or(wake, |earlier| earlier.min(wake)));
        self
    }
}

/// A member as an upstream; None if its record has no usable address.
pub(crate) fn upstream(name: &str, record: &MemberRecord) -> Option<Upstream> {
    Some(Upstream { name: name.to_owned(), endpoint: Endpoint::of_url(&record.conn_url)? })
}
