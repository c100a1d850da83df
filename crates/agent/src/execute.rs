//! Performing a decision: its actions in order, until one fails. No choices are made here.
//!
//! Immediate actions are awaited, each bounded by [`ACTION_DEADLINE`] or by the store's timeout, so that a list takes a
//! bounded time and the next renewal is not late. Long ones are started in the operation slot and seen as facts from then
//! on. Whatever permits PostgreSQL to write (a promotion, a start as primary) arms the fence *before* it begins and
//! re-checks the lock by a transaction as its first step (S6): between the decision and its execution the lock may have
//! gone.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use quorate_ha::action::{KeyGuard, LockGuard};
use quorate_ha::cluster::{FailoverRequest, Initialize, LeaseId};
use quorate_ha::{Action, ClusterView, Key, LeaseFacts, Moment, StopMode, SystemId, Upstream};
use quorate_node::clock::boottime;
use quorate_pg::clone::Progress;
use quorate_pg::{Instance, Settings};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

use crate::callbacks::{BEFORE_STOP, ScriptError};
use crate::error::WriteError;
use crate::fence::State;
use crate::guard::layers::Unsettled;
use crate::metrics::Metrics;
use crate::operation::Slot;
use crate::shared::Shared;

/// The longest that an immediate action on PostgreSQL may take: a list may hold several, and the next renewal waits.
const ACTION_DEADLINE: Duration = quorate_pg::probe::PROBE_DEADLINE;
/// For `pg_rewind`: it copies what has changed, which is bounded by the data directory.
const REWIND_DEADLINE: Duration = Duration::from_secs(3600);
/// For a checkpoint: it writes what is dirty, at the speed of the disk. It blocks nothing but a planned stop.
const CHECKPOINT_DEADLINE: Duration = Duration::from_secs(300);
/// For a move of the store's leadership.
const MOVE_TIMEOUT: (Duration, u32) = (Duration::from_secs(1), 5);
/// The longest that commits stand still for a change of the synchronous set before it is put off.
const SYNC_PATIENCE: Duration = Duration::from_secs(4);
/// Until the guard process holds a deadline; long enough for one that hangs to be replaced.
const ARMED: Duration = Duration::from_secs(4);
/// Until what was done to PostgreSQL shows in its answers.
const SHOWS: Duration = Duration::from_millis(50);
/// Until a WAL receiver that was told where to go streams.
const CONNECTS: Duration = Duration::from_millis(200);
/// How often a clone tells how far it is.
const PROGRESS: Duration = Duration::from_secs(3);

/// The leases of this agent, as it knows them.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Leases {
    pub(crate) member: Option<LeaseFacts>,
    pub(crate) primary: Option<LeaseFacts>,
}

type Rest = std::iter::Peekable<std::vec::IntoIter<Action>>;

const PUBLISH: &str = "the member key was not written";

/// What an execution works with: the loop's own state, borrowed for one list of actions.
pub(crate) struct Execution<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) instance: &'a Instance,
    pub(crate) slot: &'a mut Slot,
    pub(crate) leases: &'a mut Leases,
    pub(crate) checkpoint: &'a mut Option<JoinHandle<()>>,
    /// A move of the store's leadership that is under way: no renewal waits for it.
    pub(crate) moving: &'a mut Option<JoinHandle<()>>,
    /// A change of `synchronous_standby_names` on a primary.
    pub(crate) sync_change: &'a mut SyncChange,
    /// What PostgreSQL is to be configured with.
    pub(crate) settings: &'a Settings,
    /// The view that was decided on, if there was one.
    pub(crate) view: Option<&'a ClusterView>,
    /// PostgreSQL may accept writes now, or may soon: a confirmed lease arms the fence.
    pub(crate) may_write: bool,
    /// For one call of the store.
    pub(crate) timeout: Duration,
}

/// Changes `synchronous_standby_names` of a running primary beside the loop, one change at a time.
///
/// The change stops commits until every walsender has read it, which takes milliseconds, and on a busy machine as long as it takes
/// until each of them runs. So patience doubles from failure to failure (a machine that is slow needs it), and each failure
/// is followed by as long a rest (behind a walsender that is stuck, commits go on for half of the time).
#[derive(Debug, Default)]
pub(crate) struct SyncChange {
    /// Aborted with the loop. Whether it succeeded.
    running: JoinSet<bool>,
    /// How often in a row it did not.
    failures: u32,
}

impl SyncChange {
    /// There is no primary any more: what a standby has in its file is for the next promotion to say.
    pub(crate) fn cease(&mut self) {
        self.running.abort_all();
        self.failures = 0;
    }

    /// Begins a change, unless one is under way or rests: it is told how long it may take, and tells whether it succeeded.
    fn begin<F>(&mut self, wake: &Arc<Notify>, change: impl FnOnce(Duration) -> F)
    where
        F: Future<Output = bool> + Send + 'static,
    {
        match self.running.try_join_next() {
            Some(Ok(true)) => self.failures = 0,
            Some(Ok(false)) => self.failures += 1,
            Some(Err(_)) | None => {}
        }
        if !self.running.is_empty() {
            return;
        }
        let patience = (ACTION_DEADLINE * 2_u32.saturating_pow(self.failures)).min(SYNC_PATIENCE);
        let (change, wake) = (change(patience), Arc::clone(wake));
        self.running.spawn(async move {
            let changed = change.await;
            if !changed {
                tokio::time::sleep(patience).await;
            }
            wake.notify_one();
            changed
        });
    }
}

/// Why a list of actions ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{what}")]
    Write {
        what: &'static str,
        #[source]
        source: WriteError,
    },
    #[error("the {which} lease could not be renewed")]
    Renew {
        which: &'static str,
        #[source]
        source: quorate_node::ReadError,
    },
    #[error("the store no longer knows the primary lease")]
    LeaseLost,
    #[error(transparent)]
    Instance(#[from] quorate_pg::Error),
    #[error("{0} did not end in time")]
    Overrun(&'static str),
    #[error("there is no primary lease to write under")]
    NoLease,
    #[error("the operation slot is taken by: {0}")]
    SlotTaken(quorate_ha::OperationKind),
}

/// When the effect of an action can be seen, if nothing else will wake the loop to see it: writes of keys come back by
/// the watch and operations by their end, but what was done to PostgreSQL directly is seen by looking.
fn shows_after(action: &Action) -> Option<Duration> {
    match action {
        Action::Fence
        | Action::StopReceiver
        | Action::SetSynchronousStandbyNames { .. }
        | Action::ConfirmSyncEffective { .. } => Some(SHOWS),
        Action::Follow { .. } => Some(CONNECTS),
        Action::GrantMemberLease { .. }
        | Action::RenewMemberLease { .. }
        | Action::PublishMember { .. }
        | Action::AcquireLock { .. }
        | Action::RenewPrimaryLease { .. }
        | Action::ReleaseLock { .. }
        | Action::ClaimInitialize { .. }
        | Action::WriteInitialize { .. }
        | Action::AbandonInitialize { .. }
        | Action::WriteConfig { .. }
        | Action::WriteSync { .. }
        | Action::WriteHistory { .. }
        | Action::WriteStatus { .. }
        | Action::NameCandidate { .. }
        | Action::ClearFailoverRequest { .. }
        | Action::Suspect { .. }
        | Action::ClearSuspicion { .. }
        | Action::RevokeLock { .. }
        | Action::MoveStoreLeadership { .. }
        | Action::TryStreaming
        | Action::SetSlots { .. }
        | Action::Checkpoint
        | Action::Bootstrap
        | Action::Clone { .. }
        | Action::Rewind { .. }
        | Action::StartAsStandby { .. }
        | Action::StartAsPrimary { .. }
        | Action::Promote { .. }
        | Action::Stop { .. }
        | Action::Restart { .. } => None,
    }
}

impl Execution<'_> {
    /// All of them, or up to the first failure. Answers when to look again because of what was done, at the latest.
    pub(crate) async fn run(&mut self, actions: Vec<Action>) -> Result<Option<Duration>, Failure> {
        let look_again = actions.iter().filter_map(shows_after).min();
        let mut actions = actions.into_iter().peekable();
        while let Some(action) = actions.next() {
            tracing::debug!(?action, "performing");
            self.perform(action, &mut actions).await?;
        }
        Ok(look_again)
    }

    /// One, and of the `rest` what goes with it.
    async fn perform(&mut self, action: Action, rest: &mut Rest) -> Result<(), Failure> {
        let registry = &self.shared.registry;
        let timeout = self.timeout;
        match action {
            // --- leases and the lock
            Action::GrantMemberLease { ttl } => {
                let lease =
                    registry.grant(None, ttl, timeout).await.map_err(write("no member lease was granted"))?;
                self.leases.member = Some(lease);
                Ok(())
            }
            Action::RenewMemberLease { lease, ttl: _ } => {
                let renewed = registry.renew(lease, timeout).await.map_err(renew("member"))?;
                self.leases.member = renewed;
                Ok(())
            }
            Action::PublishMember { lease, record } => {
                registry.publish_member(lease, &record, timeout).await.map_err(write(PUBLISH))
            }
            Action::AcquireLock { sync, ttl } => self.acquire(&sync, ttl).await,
            Action::RenewPrimaryLease { lock, ttl: _ } => {
                let member = rest.next_if(|next| matches!(next, Action::RenewMemberLease { .. }));
                let record = rest.next_if(|next| matches!(next, Action::PublishMember { .. }));
                self.keep(lock.lease, member, record).await
            }
            Action::ReleaseLock { guard, status } => {
                let released = registry.release(&guard, status.as_ref(), timeout).await;
                if matches!(released, Ok(()) | Err(WriteError::GuardFailed)) {
                    self.leases.primary = None;
                }
                released.map_err(write("the lock was not released"))?;
                tracing::info!("released the leader lock");
                registry
                    .revoke(guard.lease(), timeout)
                    .await
                    .map_err(write("the primary lease was not revoked"))
            }

            // --- other keys
            Action::ClaimInitialize { lease } => registry
                .claim_initialize(lease, timeout)
                .await
                .map_err(write("the initialize key was not claimed")),
            Action::WriteInitialize { guard, system_identifier: SystemId(id) } => {
                self.write(&Key::Initialize, &guard, id.to_string()).await
            }
            Action::AbandonInitialize { guard } => registry
                .delete(&Key::Initialize, &guard, timeout)
                .await
                .map_err(write("the initialize key was not given up")),
            Action::WriteConfig { guard, document } => {
                self.write(&Key::Config, &guard, document.to_string()).await
            }
            Action::WriteSync { guard, sync, document } => {
                let value = document.map(|document| document.to_json());
                tracing::info!(sync = value.as_deref().unwrap_or("deleted"), "synchronous set in the store");
                self.write_as_holder(&guard, &Key::Sync, Some(&sync), value).await
            }
            Action::WriteHistory { guard, history, document } => {
                self.write_as_holder(&guard, &Key::History, Some(&history), Some(document.to_json())).await
            }
            Action::WriteStatus { guard, status } => {
                self.write_as_holder(&guard, &Key::Status, None, Some(status.to_json())).await
            }
            Action::NameCandidate { guard, document } => {
                self.write(&Key::Failover, &guard, document.to_json()).await
            }
            Action::ClearFailoverRequest { guard } => {
                self.write(&Key::Failover, &guard, FailoverRequest::default().to_json()).await
            }
            Action::Suspect { guard, document } => {
                tracing::warn!(
                    suspect = document.suspect,
                    why = document.why,
                    "suspecting the primary's node"
                );
                registry
                    .suspect(&guard, &document, timeout)
                    .await
                    .map_err(write("the suspicion was not written"))
            }
            Action::ClearSuspicion { guard, suspicion } => {
                tracing::info!("clearing the suspicion: the holder of the lock is here");
                self.write_as_holder(&guard, &Key::Suspicion, Some(&suspicion), None).await
            }
            Action::RevokeLock { lock, suspicion, sync, document } => {
                registry
                    .revoke_lock(&lock, &suspicion, &sync, &document, timeout)
                    .await
                    .map_err(write("the leader lock was not taken away"))?;
                tracing::warn!(from = lock.holder, why = document.why, "took the leader lock away");
                // So that its former holder cannot believe in it for longer than to its next renewal.
                if let Err(error) = registry.revoke(lock.lease, timeout).await {
                    tracing::debug!(%error, "the old lease is left to expire");
                }
                Ok(())
            }
            Action::MoveStoreLeadership { to } => {
                self.move_leadership(to);
                Ok(())
            }

            // --- PostgreSQL, immediate
            Action::Fence => self.fence().await,
            Action::Follow { upstream, slot } => {
                tracing::info!(upstream = upstream.name, "following");
                bounded("following", self.instance.follow(&upstream, slot.as_deref())).await
            }
            Action::TryStreaming => {
                bounded("waking the startup process", self.instance.try_streaming(ACTION_DEADLINE)).await
            }
            Action::StopReceiver => {
                bounded("stopping the WAL receiver", self.instance.stop_receiver(ACTION_DEADLINE)).await
            }
            Action::SetSynchronousStandbyNames { names } if !self.may_write => {
                tracing::info!(names, "setting synchronous_standby_names");
                bounded(
                    "setting synchronous_standby_names",
                    self.instance.set_sync_names(&names, ACTION_DEADLINE),
                )
                .await
            }
            Action::SetSynchronousStandbyNames { names } | Action::ConfirmSyncEffective { names } => {
                let instance = self.instance.clone();
                self.sync_change.begin(&self.shared.wake, |patience| async move {
                    tracing::info!(names, "setting synchronous_standby_names, or making sure of it");
                    let changed = instance.confirm_sync_effective(&names, patience).await;
                    if let Err(error) = &changed {
                        tracing::warn!(error = chain(error), "synchronous_standby_names was not changed");
                    }
                    changed.is_ok()
                });
                Ok(())
            }
            Action::SetSlots { create, drop } => {
                bounded("setting replication slots", self.instance.set_slots(&create, &drop)).await
            }
            Action::Checkpoint => {
                self.start_checkpoint();
                Ok(())
            }

            // --- PostgreSQL, long
            Action::Bootstrap => {
                let (instance, settings) = self.operands();
                let options = self.shared.config.bootstrap_options.clone();
                self.begin(quorate_ha::OperationKind::Bootstrap, async move {
                    instance.configure(&settings).await?;
                    Ok(instance.bootstrap(&options).await?)
                })
            }
            Action::Clone { from, slot } => {
                // It waits for PostgreSQL to answer, and what lies there never will: `quorate_ha::rejoin`.
                if self.slot.running() == Some(quorate_ha::OperationKind::StartAsStandby) {
                    self.slot.abort().await;
                }
                self.clone_from(&from, slot)
            }
            Action::Rewind { from } => {
                let (instance, settings) = self.operands();
                let shared = Arc::clone(self.shared);
                self.begin(quorate_ha::OperationKind::Rewind, async move {
                    instance.configure(&settings).await?;
                    before_stop(&shared, &instance, BEFORE_STOP).await?;
                    let rewound = instance.rewind(&from, REWIND_DEADLINE).await?;
                    tracing::info!(source = from.name, outcome = ?rewound, "pg_rewind");
                    Ok(())
                })
            }
            Action::StartAsStandby { upstream, slot } => {
                let (instance, settings) = self.operands();
                self.begin(quorate_ha::OperationKind::StartAsStandby, async move {
                    instance.configure(&settings).await?;
                    Ok(instance.start_as_standby(upstream.as_ref(), slot.as_deref()).await?)
                })
            }
            Action::StartAsPrimary { guard, names } => {
                self.arm_ahead()?;
                let (instance, settings) = self.operands();
                let (armed, confirm) = (self.armed(), self.confirm(guard));
                self.begin(quorate_ha::OperationKind::StartAsPrimary, async move {
                    instance.configure(&settings).await?;
                    armed.await?;
                    confirm.await?;
                    Ok(instance.start_as_primary(&names).await?)
                })
            }
            Action::Promote { guard, from, marker, slots } => {
                self.arm_ahead()?;
                let (instance, _) = self.operands();
                let (armed, confirm, shared) = (self.armed(), self.confirm(guard), Arc::clone(self.shared));
                tracing::info!(timeline = from.0, "promoting");
                self.begin(quorate_ha::OperationKind::Promote, async move {
                    shared.callbacks.pre_promote().await?;
                    let permission = async {
                        armed.await?;
                        confirm.await
                    };
                    let promoted = instance.promote(marker, &slots, permission).await?;
                    Metrics::count(&shared.metrics.promotions);
                    tracing::info!(
                        timeline = promoted.timeline.0,
                        "promoted self to leader by acquiring session lock"
                    );
                    Ok(())
                })
            }
            Action::Stop { mode, checkpoint_first } => {
                let (shared, (instance, _)) = (Arc::clone(self.shared), self.operands());
                let stopping = stop(shared, instance, mode, checkpoint_first, BEFORE_STOP);
                self.begin(quorate_ha::OperationKind::Stop, stopping)
            }
            Action::Restart { guard } => self.restart(guard),
        }
    }

    // --- leases ---------------------------------------------------------------------------------------------------

    async fn acquire(&mut self, sync: &KeyGuard, ttl: Duration) -> Result<(), Failure> {
        // After an answer in doubt the lock may be ours, and then the next decision adopts it.
        let lease = self.shared.registry.acquire(sync, ttl, self.timeout).await;
        let lease = lease.map_err(write("the leader lock was not acquired"))?;
        tracing::info!("acquired the leader lock");
        self.leases.primary = Some(lease);
        if self.may_write {
            self.shared.fence.confirmed(lease.valid_until.0);
        }
        Ok(())
    }

    /// What a primary does at every tick, at once: where a round trip is long, one after the other would be most of a period. None of
    /// them rests on another one: what the record says was judged on the view.
    async fn keep(
        &mut self,
        primary: LeaseId,
        member: Option<Action>,
        record: Option<Action>,
    ) -> Result<(), Failure> {
        let (registry, timeout) = (&self.shared.registry, self.timeout);
        let member = async {
            let Some(Action::RenewMemberLease { lease, .. }) = member else { return Ok(None) };
            registry.renew(lease, timeout).await.map(Some).map_err(renew("member"))
        };
        let record = async {
            let Some(Action::PublishMember { lease, record }) = record else { return Ok(()) };
            registry.publish_member(lease, &record, timeout).await.map_err(write(PUBLISH))
        };
        let (primary, member, record) = tokio::join!(self.renew_primary(primary), member, record);
        // The list ends at its first failure, but what was answered is not forgotten.
        if let Ok(Some(renewed)) = member {
            self.leases.member = renewed;
        }
        primary?;
        member?;
        record
    }

    pub(crate) async fn renew_primary(&mut self, lease: LeaseId) -> Result<(), Failure> {
        let begun = boottime();
        let renewed = self.shared.registry.renew(lease, self.timeout).await;
        let metrics = &self.shared.metrics;
        match renewed {
            Ok(Some(lease)) => {
                self.leases.primary = Some(lease);
                if self.may_write {
                    self.shared.fence.confirmed(lease.valid_until.0);
                }
                metrics.renewed(boottime().saturating_sub(begun));
                Ok(())
            }
            Ok(None) => {
                Metrics::count(&metrics.renewal_failures);
                self.leases.primary = None;
                Err(Failure::LeaseLost)
            }
            Err(error) => {
                Metrics::count(&metrics.renewal_failures);
                Err(renew("primary")(error))
            }
        }
    }

    /// Before PostgreSQL is permitted to write: from here on the fence holds the deadline, whatever becomes of us.
    fn arm_ahead(&mut self) -> Result<(), Failure> {
        let lease = self.leases.primary.ok_or(Failure::NoLease)?;
        self.shared.fence.confirmed(lease.valid_until.0);
        self.may_write = true;
        Ok(())
    }

    // --- keys -----------------------------------------------------------------------------------------------------

    async fn write(&self, key: &Key, guard: &KeyGuard, value: String) -> Result<(), Failure> {
        self.shared.registry.write(key, guard, value, self.timeout).await.map_err(write(name(key)))
    }

    async fn write_as_holder(
        &self,
        lock: &LockGuard,
        key: &Key,
        guard: Option<&KeyGuard>,
        value: Option<String>,
    ) -> Result<(), Failure> {
        let registry = &self.shared.registry;
        registry.write_as_holder(lock, key, guard, value, self.timeout).await.map_err(write(name(key)))
    }

    /// Best effort, to one voter after the other, beside the loop.
    fn move_leadership(&mut self, to: Vec<String>) {
        if self.moving.as_ref().is_some_and(|running| !running.is_finished()) {
            return;
        }
        let handle = self.shared.handle.clone();
        *self.moving = Some(tokio::spawn(async move {
            let members = handle.members();
            let voters = to.iter().filter_map(|name| members.iter().find(|member| member.name == *name));
            for voter in voters {
                match handle.move_leader(voter.id, handle.patience(MOVE_TIMEOUT)).await {
                    Ok(()) => {
                        let member = &voter.name;
                        tracing::info!(member, "moved the store's leadership away from the primary");
                        return;
                    }
                    Err(error) => {
                        tracing::debug!(%error, member = voter.name, "the store's leadership was not moved");
                    }
                }
            }
        }));
    }

    // --- PostgreSQL -----------------------------------------------------------------------------------------------

    async fn fence(&mut self) -> Result<(), Failure> {
        if let State::Fenced(_) = *self.shared.fence.watch().borrow() {
            // The deadline came first. It is done, and the thread is on watch.
            return Ok(());
        }
        let fenced = self.shared.fence.request();
        // The fence first: an operation that hangs while it is aborted must not delay it. What the operation may have
        // started meanwhile is hit by the fence's watch.
        let done = tokio::time::timeout(self.shared.config.stop_budget * 2, fenced).await;
        self.slot.abort().await;
        done.map(drop).map_err(|_| Failure::Overrun("the fence"))
    }

    fn start_checkpoint(&mut self) {
        if self.checkpoint.as_ref().is_some_and(|running| !running.is_finished()) {
            return;
        }
        let (instance, wake) = (self.instance.clone(), Arc::clone(&self.shared.wake));
        *self.checkpoint = Some(tokio::spawn(async move {
            match instance.checkpoint(CHECKPOINT_DEADLINE).await {
                Ok(()) => wake.notify_one(),
                Err(error) => tracing::warn!(error = chain(&error), "the checkpoint failed"),
            }
        }));
    }

    fn operands(&self) -> (Instance, Settings) {
        (self.instance.clone(), self.settings.clone())
    }

    fn begin<F>(&mut self, kind: quorate_ha::OperationKind, work: F) -> Result<(), Failure>
    where
        F: Future<Output = Result<(), OperationError>> + Send + 'static,
    {
        self.slot
            .start(kind, async move { work.await.map_err(|error| chain(&error)) })
            .map_err(Failure::SlotTaken)
    }

    /// "The layers below hold the deadline": before anything permits PostgreSQL to write, for a guard that hears of it later is
    /// late from the start.
    fn armed(&self) -> impl Future<Output = Result<(), OperationError>> + Send + 'static {
        let shared = Arc::clone(self.shared);
        async move { shared.layers.settled(ARMED).await.map_err(OperationError::Layers) }
    }

    /// "The lock is still ours", asked when it is awaited.
    fn confirm(&self, guard: LockGuard) -> impl Future<Output = Result<(), OperationError>> + Send + 'static {
        let (registry, timeout) = (self.shared.registry.clone(), self.timeout);
        async move { registry.confirm_lock(&guard, timeout).await.map_err(OperationError::Lock) }
    }

    pub(crate) fn clone_from(&mut self, from: &Upstream, slot: Option<String>) -> Result<(), Failure> {
        let (instance, settings) = self.operands();
        let expected = self.view.and_then(|view| match view.initialize.as_ref()?.value {
            Initialize::Done(SystemId(id)) => Some(id),
            Initialize::Claimed => None,
        });
        let from = from.clone();
        let shared = Arc::clone(self.shared);
        self.begin(quorate_ha::OperationKind::Clone, async move {
            instance.configure(&settings).await?;
            before_stop(&shared, &instance, BEFORE_STOP).await?;
            instance.stop(StopMode::Fast).await?;
            let source = &from.name;
            tracing::info!(source, "bootstrap from leader '{source}': cloning");
            let meter = Meter::new();
            Ok(instance
                .clone_from(&from, slot.as_deref(), expected, &|progress| meter.tell(progress))
                .await?)
        })
    }

    pub(crate) fn restart(&mut self, guard: Option<LockGuard>) -> Result<(), Failure> {
        let (instance, settings) = self.operands();
        let confirm = match guard {
            Some(guard) => {
                self.arm_ahead()?;
                Some((self.armed(), self.confirm(guard), self.confirm(guard)))
            }
            None => None,
        };
        let shared = Arc::clone(self.shared);
        self.begin(quorate_ha::OperationKind::Restart, async move {
            instance.configure(&settings).await?;
            before_stop(&shared, &instance, BEFORE_STOP).await?;
            if let Some((armed, before, after)) = confirm {
                armed.await?;
                before.await?;
                instance.stop(StopMode::Fast).await?;
                // A stop may take longer than a lease: the start needs the lock as it is now (S6).
                after.await?;
            }
            Ok(instance.restart().await?)
        })
    }
}

/// Stops, for a shutdown of the agent.
pub(crate) async fn stop_for_shutdown(
    shared: Arc<Shared>,
    instance: Instance,
    checkpoint_first: bool,
    bound: Duration,
) -> Result<(), String> {
    let stopping = stop(shared, instance, StopMode::Fast, checkpoint_first, bound);
    stopping.await.map_err(|error| chain(&error))
}

/// Stops, after a checkpoint that shortens the shutdown, and after `before_stop`, within `bound`. A failed checkpoint is no reason not
/// to stop.
async fn stop(
    shared: Arc<Shared>,
    instance: Instance,
    mode: StopMode,
    checkpoint_first: bool,
    bound: Duration,
) -> Result<(), OperationError> {
    if checkpoint_first && let Err(error) = instance.checkpoint(CHECKPOINT_DEADLINE).await {
        tracing::warn!(error = chain(&error), "the checkpoint before the stop failed");
    }
    before_stop(&shared, &instance, bound).await?;
    Ok(instance.stop(mode).await?)
}

/// The operator's script, if there is something to stop.
async fn before_stop(shared: &Shared, instance: &Instance, bound: Duration) -> Result<(), OperationError> {
    if instance.runs()? {
        shared.callbacks.before_stop(bound).await;
    }
    Ok(())
}

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
enum OperationError {
    #[error("the lock could not be confirmed right before the start")]
    Lock(#[source] WriteError),
    #[error("PostgreSQL may not write, because it could not be stopped in time")]
    Layers(#[source] Unsettled),
    #[error("no promotion")]
    Script(#[from] ScriptError),
    #[error(transparent)]
    Instance(#[from] quorate_pg::Error),
}

async fn bounded<T>(
    what: &'static str,
    work: impl Future<Output = Result<T, quorate_pg::Error>>,
) -> Result<T, Failure> {
    // Twice: the callee keeps its own deadline and gets time to put things back.
    match tokio::time::timeout(ACTION_DEADLINE * 2, work).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(Failure::Overrun(what)),
    }
}

fn write(what: &'static str) -> impl Fn(WriteError) -> Failure {
    move |source| Failure::Write { what, source }
}

fn renew(which: &'static str) -> impl Fn(quorate_node::ReadError) -> Failure {
    move |source| Failure::Renew { which, source }
}

fn name(key: &Key) -> &'static str {
    match key {
        Key::Initialize => "the initialize key was not written",
        Key::Leader => "the leader key was not written",
        Key::Member(_) => "the member key was not written",
        Key::Config => "the config key was not written",
        Key::Sync => "the sync key was not written",
        Key::History => "the history key was not written",
        Key::Failover => "the failover key was not written",
        Key::Status => "the status key was not written",
        Key::Suspicion => "the suspicion was not cleared",
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Transparent errors repeat their cause.
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Tells how far a clone is, every few seconds.
struct Meter {
    begun: Duration,
    told: parking_lot::Mutex<Duration>,
}

impl Meter {
    fn new() -> Meter {
        let now = boottime();
        Meter { begun: now, told: parking_lot::Mutex::new(now) }
    }

    fn tell(&self, progress: Progress) {
        let now = boottime();
        let mut told = self.told.lock();
        if now.saturating_sub(*told) < PROGRESS {
            return;
        }
        *told = now;
        let elapsed = Moment(now).since(Moment(self.begun)).as_millis().max(1);
        let rate = (u128::from(progress.done_bytes) * 1000 / elapsed) >> 20;
        let percent = progress
            .total_bytes
            .filter(|total| *total > 0)
            .map_or("?".to_owned(), |total| (progress.done_bytes.min(total) * 100 / total).to_string());
        tracing::info!(
            done_bytes = progress.done_bytes,
            total_bytes = progress.total_bytes,
            "cloning: {} MiB, {percent} %, {rate} MiB/s",
            progress.done_bytes >> 20
        );
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn a_change_of_the_set_that_fails_rests_and_then_has_more_time() {
        let (mut change, wake) = (SyncChange::default(), Arc::new(Notify::new()));
        let given = Arc::new(Mutex::new(Vec::new()));
        let begin = |change: &mut SyncChange, succeeds: bool| {
            let given = Arc::clone(&given);
            change.begin(&wake, |patience| async move {
                given.lock().unwrap().push(patience);
                succeeds
            });
        };
        begin(&mut change, false);
        while given.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        begin(&mut change, false); // in vain: it rests
        wake.notified().await;
        begin(&mut change, true);
        wake.notified().await;
        begin(&mut change, true);
        wake.notified().await;
        assert_eq!(*given.lock().unwrap(), [ACTION_DEADLINE, ACTION_DEADLINE * 2, ACTION_DEADLINE]);
    }
}
