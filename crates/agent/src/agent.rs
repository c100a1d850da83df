//! The agent: observe, decide, execute, and a nap.
//!
//! # Model
//!
//! ```text
//!        ┌──────────────► look ─► decide ─► execute ─► publish ─► nap ──┐
//!        │            (bounded)   (pure)   (bounded)                    │
//!        └── wake: watch on the keys · postmaster's exit · end of an ───┘
//!            operation · REST request · fence · decision.wake · loop_wait
//!
//!   beside it:  fence thread    guard's keeper    watch    exit watch    REST API    the operation in the slot
//! ```
//!
//! A tick is three calls. Everything in it has a bound, and nothing in it waits for an operation, so a renewal is never
//! later than `loop_wait` plus those bounds, which is what the budget of the time arithmetic counts with. `loop_wait` is the
//! longest nap and nothing else; what happens is seen when it happens.
//!
//! # A crash and a shutdown
//!
//! An agent that dies (or is dropped) leaves PostgreSQL and both leases as they are. The next one finds PostgreSQL running,
//! finds its own name in the lock, and renews the lease it hangs on: PostgreSQL does not notice. Within the ttl this is no
//! outage; before the lease can expire the guard process has stopped PostgreSQL ([`crate::guard`]), and it comes back as a
//! standby.
//!
//! [`Agent::shutdown`] does what a DBA expects of `systemctl stop`, and what Patroni does: PostgreSQL is stopped cleanly
//! and only then is the lock released, with the position of the shutdown checkpoint, so that a standby knows it has
//! everything and takes over at once. While that lasts the lease is renewed, because a shutdown checkpoint may take longer
//! than a ttl; the fence stays armed behind it. In a paused cluster, and when asked to, PostgreSQL is left running.

use std::sync::Arc;
use std::time::Duration;

use quorate_ha::cluster::{MemberRole, MemberState, Status};
use quorate_ha::facts::{ControlState, DataDirectory, Endpoint, OperationFacts, Outcome, Process, Role};
use quorate_ha::record::Fencer;
use quorate_ha::{
    Action, Chronicle, ClusterView, Keys, LockGuard, Moment, Observation, OperationKind, TimelineId, Upstream,
};
use quorate_node::Handle;
use quorate_node::clock::boottime;
use quorate_pg::Instance;
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::callbacks::{As, BEFORE_STOP, Callbacks, Event, Told};
use crate::config::AgentConfig;
use crate::error::StartError;
use crate::execute::{Execution, Leases, SyncChange, chain, stop_for_shutdown};
use crate::fence::{Fence, Margin, State, Tell};
use crate::guard::process::Options;
use crate::guard::{Layers, layers};
use crate::metrics::Metrics;
use crate::observe::{Look, Observer, may_write, writes};
use crate::operation::Slot;
use crate::registry::Registry;
use crate::rest;
use crate::settings;
use crate::shared::{REQUESTS, Request, Shared};
use crate::watch::{Seen, follow};
use crate::{chronicle, exit, peer, snapshot, suspicion, watchdog};

/// The shortest time from one tick to the next, on average: a storm of wake-ups must not take the processor from the voter.
const SHORTEST: Duration = Duration::from_millis(20);
/// By so much may ticks be ahead of that average: the steps of a promotion wake everybody several times within a moment, and
/// somebody waits for each.
const BURST: Duration = Duration::from_millis(100);
/// From what an operation was for to its end, which is a look of its own away.
const ENDS: Duration = Duration::from_millis(50);
/// The nap after a list of actions that failed: soon, but not at once, for the cause may last.
const AFTER_FAILURE: Duration = Duration::from_millis(200);
/// Until the self-test of fencing has a result, at the start.
const SELF_TEST: Duration = Duration::from_secs(5);
/// Until the guard has heard that it is disarmed.
const DISARMED: Duration = Duration::from_secs(1);
/// For writing configuration files and a reload.
const CONFIGURE_TIMEOUT: Duration = Duration::from_secs(2);

/// A running agent. Dropping it without [`Agent::shutdown`] is a crash: tasks end, PostgreSQL goes on, and an agent that
/// starts within the ttl adopts it.
pub struct Agent {
    shared: Arc<Shared>,
    stop: watch::Sender<Option<Stop>>,
    stop_rest: watch::Sender<bool>,
    failed: watch::Receiver<Option<String>>,
    ticking: Option<JoinHandle<()>>,
    serving: Option<JoinHandle<()>>,
    /// Aborted when it is dropped.
    _background: JoinSet<()>,
}

/// How to end.
#[derive(Debug, Clone, Copy)]
enum Stop {
    /// Leave PostgreSQL and the leases to the next agent.
    Leave,
    /// Stop PostgreSQL, then release the lock; by this instant.
    HandOver(Instant),
}

impl Agent {
    /// Binds the REST API, starts the fence's thread and the loop. Returns at once; PostgreSQL may not run yet.
    ///
    /// # Errors
    /// [`StartError`]; nothing has been changed.
    pub async fn start(config: AgentConfig, store: Handle, instance: Instance) -> Result<Agent, StartError> {
        let listener = rest::bind(&config.rest).await?;
        let keys = Keys::new(&config.namespace, &config.scope);
        let registry = Registry::new(store.clone(), keys.clone(), config.name.clone());
        let layers = layers(&config, &instance)?;
        layers.tested(SELF_TEST).await;
        let fence = fence(&config, &instance, layers.orders())?;
        let (requests_tx, requests) = mpsc::channel(REQUESTS);
        let (stop, stop_rx) = watch::channel(None);
        let (stop_rest, stop_rest_rx) = watch::channel(false);
        let (failed_tx, failed) = watch::channel(None);
        let callbacks =
            Callbacks::new(config.scripts.clone(), config.scope.clone(), instance.config().run_as);
        let shared = Arc::new(Shared::new(config, store, registry, fence, layers, callbacks, requests_tx));
        let seen = Arc::new(Seen::default());

        let mut background = JoinSet::new();
        background.spawn(follow(shared.handle.clone(), keys, Arc::clone(&seen), Arc::clone(&shared.wake)));
        background.spawn(suspicion::run(Arc::clone(&shared)));
        background.spawn(chronicle::run(Arc::clone(&shared)));
        background.spawn(exit::watch(instance.config().data_dir.clone(), Arc::clone(&shared.wake)));
        let serving = tokio::spawn(rest::serve(listener, Arc::clone(&shared), stop_rest_rx));
        let ticking = Loop {
            slot: Slot::new(Arc::clone(&shared.wake)),
            shared: Arc::clone(&shared),
            instance,
            observer: Observer::new(),
            leases: Leases::default(),
            seen,
            checkpoint: None,
            moving: None,
            sync_change: SyncChange::default(),
            requests,
            restart_asked: None,
            configured: None,
            introduced: false,
            said: String::new(),
            complained: String::new(),
            fenced: None,
            guard_kills: 0,
            chronicle: Chronicle::default(),
            told: Told::default(),
            marked: None,
        };
        let ticking = tokio::spawn(ticking.run(stop_rx, failed_tx));
        Ok(Agent {
            shared,
            stop,
            stop_rest,
            failed,
            ticking: Some(ticking),
            serving: Some(serving),
            _background: background,
        })
    }

    /// Resolves when going on can only do harm (another system identifier, a name that is taken), with the sentence for the
    /// operator. PostgreSQL has been left as it is.
    pub async fn failed(&self) -> String {
        let mut failed = self.failed.clone();
        match failed.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            // The loop ends without a word only by a defect in it.
            Err(_) => "the HA loop has ended unexpectedly".to_owned(),
        }
    }

    /// The file was read again: its tags. PostgreSQL reads its own files again too, as it does under Patroni (certificates may have
    /// changed, or what an operator includes there).
    pub fn reload(&self, tags: Map<String, Value>) {
        self.shared.reload(tags);
    }

    /// Ends the agent, bounded by `deadline`. A clean hand-over unless `keep_postgres`: PostgreSQL is stopped (`fast`, after
    /// a checkpoint), then the lock is released with the final position, so that a standby takes over at once.
    /// With `keep_postgres` PostgreSQL goes on and the leases are left to be adopted within the ttl; of a primary that is left
    /// so the guard process stays, until its deadline.
    pub async fn shutdown(mut self, deadline: Duration, keep_postgres: bool) {
        let how = if keep_postgres { Stop::Leave } else { Stop::HandOver(Instant::now() + deadline) };
        self.stop.send_replace(Some(how));
        if let Some(ticking) = self.ticking.take() {
            // The loop keeps the deadline itself; this stands behind a defect in it.
            let mut ticking = ticking;
            if tokio::time::timeout(deadline + Duration::from_secs(5), &mut ticking).await.is_err() {
                tracing::error!("the HA loop did not end in time");
                ticking.abort();
            }
        }
        self.stop_rest.send_replace(true);
        if let Some(serving) = self.serving.take() {
            let _ = serving.await;
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        for task in [self.ticking.take(), self.serving.take()].into_iter().flatten() {
            task.abort();
        }
    }
}

/// The fence over this instance: it kills by `pg`'s synchronous path, then forbids read-write starts (S12).
fn fence(config: &AgentConfig, instance: &Instance, tell: Tell) -> Result<Fence, StartError> {
    let (data_dir, budget) = (instance.config().data_dir.clone(), config.stop_budget);
    let sealed = instance.clone();
    Fence::start(
        config.stop_budget + config.margin,
        Box::new(move || match quorate_pg::fence_now(&data_dir, budget) {
            Ok(report) => {
                if report.found > 0 {
                    tracing::warn!(
                        found = report.found,
                        killed = report.killed,
                        "stopped PostgreSQL by force"
                    );
                }
                Ok(report.found)
            }
            Err(error) => Err(chain(&error)),
        }),
        Box::new(move || {
            if let DataDirectory::Initialised(_) = sealed.data_directory()
                && let Err(error) = sealed.write_standby_signal()
            {
                tracing::error!(error = chain(&error), "standby.signal was not written after the fence");
            }
        }),
        tell,
    )
}

/// The guard process over this instance, and through it the watchdog device.
fn layers(config: &AgentConfig, instance: &Instance) -> Result<Layers, StartError> {
    let used = config.watchdog.mode != watchdog::Mode::Off;
    Layers::start(layers::Config {
        mode: config.guard.mode,
        program: config.guard.program.clone(),
        options: Options {
            data_dir: instance.config().data_dir.clone(),
            stop_budget: config.stop_budget,
            watchdog: used.then(|| (config.watchdog.device.clone(), config.watchdog.safety)),
        },
        device_required: config.watchdog.mode == watchdog::Mode::Required,
        user: instance.config().run_as,
    })
}

/// The loop's own state.
struct Loop {
    shared: Arc<Shared>,
    instance: Instance,
    slot: Slot,
    observer: Observer,
    leases: Leases,
    seen: Arc<Seen>,
    checkpoint: Option<JoinHandle<()>>,
    moving: Option<JoinHandle<()>>,
    sync_change: SyncChange,
    requests: mpsc::Receiver<Request>,
    /// Who asked for the restart that runs.
    restart_asked: Option<oneshot::Sender<Result<(), String>>>,
    /// What PostgreSQL was last configured with.
    configured: Option<quorate_pg::Settings>,
    /// The name guard has been passed.
    introduced: bool,
    /// The last reason that was logged.
    said: String,
    /// The last failure that was logged.
    complained: String,
    /// The last fence that was taken note of.
    fenced: Option<crate::fence::Record>,
    /// Kills of the guard that were taken note of.
    guard_kills: u64,
    /// What becomes a decision record.
    chronicle: Chronicle,
    /// What the callbacks know.
    told: Told,
    /// The timeline that the marker of a primary was last written for.
    marked: Option<TimelineId>,
}

/// What the operation is for can be seen already.
fn shows_its_end(o: &Observation) -> bool {
    let OperationFacts::Running { kind, .. } = &o.operation else { return false };
    match (kind, &o.instance.process) {
        (OperationKind::Stop, Process::Stopped)
        | (OperationKind::StartAsStandby | OperationKind::StartAsPrimary, Process::Running(_)) => true,
        (OperationKind::Promote, Process::Running(running)) => matches!(running.role, Role::Primary(_)),
        (
            OperationKind::Stop
            | OperationKind::StartAsStandby
            | OperationKind::StartAsPrimary
            | OperationKind::Promote
            | OperationKind::Bootstrap
            | OperationKind::Clone
            | OperationKind::Rewind
            | OperationKind::Restart,
            _,
        ) => false,
    }
}

/// Going on can only do harm.
struct Fatal(String);

impl Loop {
    async fn run(mut self, mut stop: watch::Receiver<Option<Stop>>, failed: watch::Sender<Option<String>>) {
        let mut fence = self.shared.fence.watch();
        let mut leadership = self.shared.handle.leadership();
        let mut on_average = Instant::now();
        loop {
            let began = Instant::now();
            on_average = on_average.max(began) + SHORTEST;
            let nap = match self.tick().await {
                Ok(nap) => nap,
                Err(Fatal(why)) => {
                    tracing::error!("{why}");
                    failed.send_replace(Some(why));
                    // Nothing more is decided; an armed fence still does its work.
                    std::future::pending().await
                }
            };
            tokio::select! {
                _ = stop.wait_for(Option::is_some) => {}
                () = self.shared.wake.notified() => {}
                _ = fence.changed() => {}
                // A store without a leader answers again when there is one.
                Ok(()) = leadership.changed() => {}
                () = tokio::time::sleep_until(began + nap) => {}
            }
            let how = *stop.borrow();
            match how {
                Some(Stop::Leave) => return,
                Some(Stop::HandOver(until)) => return self.hand_over(until).await,
                // Neither is a storm: a decision that got further and wants to be asked again at once, an operation that ended.
                None if nap.is_zero() || self.slot.has_ended() => {}
                None => tokio::time::sleep_until(on_average.checked_sub(BURST).unwrap_or(began)).await,
            }
        }
    }

    /// One tick; answers how long to nap at most.
    async fn tick(&mut self) -> Result<Duration, Fatal> {
        let began = Instant::now();
        self.take_note_of_fence().await;
        let mut look = self.look().await;
        // What was seen is from before an operation's end, or shows that it ends in this moment: a decision on it would only make the
        // right one wait.
        let over = self.slot.has_ended() || shows_its_end(&look.observation) && self.slot.ends(ENDS).await;
        if over {
            look = self.look().await;
        }
        let news = self.told.see(&look.observation.instance.process, &look.observation.operation);
        self.tell(news);
        let policy = look.observation.policy.clone();
        self.introduce(&look).await?;

        let may_write = may_write(&look.observation.instance, &look.observation.operation);
        if may_write {
            self.mark_primary(&look);
        } else {
            self.sync_change.cease();
            self.shared.fence.disarm();
            // What is started next must not meet a guard that still looks for it.
            if let Err(error) = self.shared.layers.settled(DISARMED).await {
                tracing::debug!(%error, "the guard process is not disarmed yet");
            }
        }
        let decision = quorate_ha::decide(&look.observation);
        if decision.reason.fatal {
            // The decision knows no paths; the operator needs one.
            let data_dir = self.instance.config().data_dir.display();
            return Err(Fatal(format!("{data_dir}: {}", decision.reason)));
        }
        self.say(&decision.reason.to_string());
        tracing::trace!(observation = ?look.observation, ?decision, "decided");

        self.shared.evidence.watch(look.watched());
        // Before the actions: what they change is seen by the next tick, and a list may take a moment.
        let before = self.shared.snapshot();
        self.shared.publish(snapshot::of(&look, &decision, self.shared.registry.keys(), &before));
        let settings = settings::of_config(&self.observer.config(&self.shared));
        let outcome = self.execution(&look, may_write, &settings).run(decision.actions.clone()).await;
        let performed = outcome.is_ok();
        let mut nap = decision.wake.unwrap_or(policy.loop_wait);
        match outcome {
            Ok(look_again) => {
                self.complained.clear();
                nap = look_again.map_or(nap, |soon| soon.min(nap));
            }
            Err(failure) => {
                Metrics::count(&self.shared.metrics.action_failures);
                self.complain(&chain(&failure));
                nap = nap.clamp(SHORTEST, AFTER_FAILURE);
            }
        }
        // After the actions: what is recorded has happened, and nothing waited for it.
        for record in self.chronicle.note(&look.observation, &decision, performed) {
            self.record(record);
        }
        self.configure(&look, &settings).await;
        self.requests(&look, may_write, &settings);

        let took = began.elapsed();
        self.shared.metrics.ticked(took);
        let patience = if look.observation.primary_lease.is_some() { policy.ttl } else { policy.ttl * 2 };
        self.shared.ticked(patience.max(policy.loop_wait * 2));
        self.shared.has_observed(look.observation);
        Ok(nap)
    }

    fn tell(&self, news: Option<(Event, As)>) {
        if let Some((event, role)) = news {
            self.shared.callbacks.call(event, role);
        }
    }

    async fn look(&mut self) -> Look {
        let operation = self.slot.observe();
        self.answer_restart(&operation);
        self.observer.look(&self.shared, &self.instance, operation, &self.leases, &self.seen).await
    }

    fn record(&self, record: quorate_ha::Record) {
        self.shared.metrics.recorded(&record);
        self.shared.desk.put(record);
    }

    fn execution<'a>(
        &'a mut self,
        look: &'a Look,
        may_write: bool,
        settings: &'a quorate_pg::Settings,
    ) -> Execution<'a> {
        Execution {
            shared: &self.shared,
            instance: &self.instance,
            slot: &mut self.slot,
            leases: &mut self.leases,
            checkpoint: &mut self.checkpoint,
            moving: &mut self.moving,
            sync_change: &mut self.sync_change,
            settings,
            view: look.view(),
            may_write,
            timeout: look.observation.policy.retry_timeout,
        }
    }

    /// The marker of a primary, for one that was promoted before Quorate: after a guard's kill nothing else says so, because
    /// `standby.signal` hides it. Beside the loop, because the disk may hang.
    fn mark_primary(&mut self, look: &Look) {
        let Process::Running(running) = &look.observation.instance.process else { return };
        let timeline = running.timeline;
        if !matches!(running.role, Role::Primary(_)) || self.marked == Some(timeline) {
            return;
        }
        self.marked = Some(timeline);
        let instance = self.instance.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = instance.mark_primary_if_unmarked(timeline) {
                tracing::warn!(error = chain(&error), "the marker of a primary was not written");
            }
        });
    }

    /// A fence by the deadline came without the loop: what it has under way must not bring PostgreSQL up again.
    async fn take_note_of_fence(&mut self) {
        let guard = self.shared.layers.status();
        if guard.kills > self.guard_kills {
            self.guard_kills = guard.kills;
            self.told.fenced();
            let at = guard.killed_at.unwrap_or_else(boottime);
            self.record_fence(Moment(at), Fencer::Guard, guard.margin);
        }
        let State::Fenced(record) = *self.shared.fence.watch().borrow() else { return };
        if self.fenced == Some(record) {
            return;
        }
        self.fenced = Some(record);
        self.shared.metrics.fenced(record.margin());
        // A deadline that passed while there was nothing to stop is no event.
        if record.found || record.requested {
            self.told.fenced();
            self.record_fence(Moment(record.done), Fencer::Agent, record.margin());
        }
        if self.slot.running().is_some_and(writes) {
            self.slot.abort().await;
        }
    }

    fn record_fence(&mut self, at: Moment, by: Fencer, margin: Option<Margin>) {
        let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        let margin_ms = margin.map(|margin| match margin {
            Margin::Before(left) => millis(left),
            Margin::After(late) => -millis(late),
        });
        let record = self.chronicle.fenced(at, &self.shared.config.name, by, margin_ms);
        self.record(record);
    }

    /// The guard against two nodes of one name: asked once, of whoever our member key says is us.
    async fn introduce(&mut self, look: &Look) -> Result<(), Fatal> {
        let Some(view) = look.view().filter(|_| !self.introduced) else { return Ok(()) };
        let (name, own) = (&self.shared.config.name, self.shared.config.api_url());
        if let Some(record) = view.members.get(name)
            && record.value.api_url != own
            && peer::name_at(&record.value.api_url).await.as_ref() == Some(name)
        {
            let taken =
                StartError::DuplicateName { name: name.clone(), api_url: record.value.api_url.clone() };
            return Err(Fatal(taken.to_string()));
        }
        self.introduced = true;
        Ok(())
    }

    /// One info line per change of the reason; steady ticks at debug.
    fn say(&mut self, reason: &str) {
        if self.said == reason {
            tracing::debug!("{reason}");
        } else {
            tracing::info!("{reason}");
            reason.clone_into(&mut self.said);
        }
    }

    fn complain(&mut self, failure: &str) {
        if self.complained == failure {
            tracing::debug!("{failure}");
        } else {
            tracing::warn!("{failure}");
            failure.clone_into(&mut self.complained);
        }
    }

    /// PostgreSQL's files follow the cluster's configuration, and it reads them again when somebody asks for that. Operations configure
    /// for themselves before they begin.
    async fn configure(&mut self, look: &Look, settings: &quorate_pg::Settings) {
        let running = matches!(look.observation.instance.process, Process::Running(_));
        if !running || self.slot.running().is_some() {
            return;
        }
        let mut reloaded = false;
        if self.configured.as_ref() != Some(settings) {
            match tokio::time::timeout(CONFIGURE_TIMEOUT, self.instance.configure(settings)).await {
                Ok(Ok(changed)) => {
                    self.configured = Some(settings.clone());
                    reloaded = changed;
                }
                Ok(Err(error)) => self.complain(&chain(&error)),
                Err(_) => self.complain("PostgreSQL's configuration was not written in time"),
            }
        }
        if self.shared.take_reload() && !reloaded {
            match self.instance.reload() {
                Ok(()) => reloaded = true,
                Err(error) => self.complain(&chain(&error)),
            }
        }
        if reloaded {
            self.tell(self.told.reload());
        }
    }

    // --- requests of operators --------------------------------------------------------------------------------------

    fn answer_restart(&mut self, operation: &OperationFacts) {
        if let OperationFacts::Finished { kind: OperationKind::Restart, outcome, .. } = operation
            && let Some(reply) = self.restart_asked.take()
        {
            let answer = match outcome {
                Outcome::Succeeded => Ok(()),
                Outcome::Failed { why } => Err(format!("restart failed: {why}")),
            };
            let _ = reply.send(answer); // who asked may have left
        }
    }

    fn requests(&mut self, look: &Look, may_write: bool, settings: &quorate_pg::Settings) {
        while let Ok(request) = self.requests.try_recv() {
            match request {
                Request::Restart(reply) => match self.restart(look, may_write, settings) {
                    Ok(()) => self.restart_asked = Some(reply),
                    Err(why) => drop(reply.send(Err(why))),
                },
                Request::Reinitialize(reply) => {
                    let _ = reply.send(self.reinitialize(look, may_write, settings));
                }
            }
        }
    }

    fn restart(
        &mut self,
        look: &Look,
        may_write: bool,
        settings: &quorate_pg::Settings,
    ) -> Result<(), String> {
        let Process::Running(running) = &look.observation.instance.process else {
            return Err("postgres is not running".into());
        };
        let guard = match running.role {
            Role::Standby(_) => None,
            Role::Primary(_) => {
                let guard = look.view().and_then(ClusterView::held).zip(self.leases.primary);
                let guard = guard.and_then(|(held, lease)| LockGuard::new(held, &lease));
                Some(guard.ok_or("the leader lock is not held here")?)
            }
        };
        self.execution(look, may_write, settings).restart(guard).map_err(|failure| chain(&failure))
    }

    fn reinitialize(
        &mut self,
        look: &Look,
        may_write: bool,
        settings: &quorate_pg::Settings,
    ) -> Result<(), String> {
        let view = look.view().ok_or("the store does not answer")?;
        let held = view.held().ok_or("Cluster has no leader, can not reinitialize")?;
        if held.holder == self.shared.config.name || may_write {
            return Err("I am the leader, can not reinitialize".into());
        }
        if let Some(running) = self.slot.running() {
            return Err(format!("{running} is already in progress"));
        }
        let source =
            view.members.get(&held.holder).and_then(|record| Endpoint::of_url(&record.value.conn_url));
        let from = Upstream {
            name: held.holder.clone(),
            endpoint: source.ok_or("the leader's address is not known")?,
        };
        let slot =
            look.observation.policy.use_slots.then(|| quorate_ha::slots::name(&self.shared.config.name));
        self.execution(look, may_write, settings).clone_from(&from, slot).map_err(|failure| chain(&failure))
    }

    // --- the end ------------------------------------------------------------------------------------------------------

    /// Stops PostgreSQL, then releases the lock. If PostgreSQL cannot be stopped in time it is fenced and the lock is left
    /// to expire: a lock is given away only by who knows that nothing writes any more.
    async fn hand_over(&mut self, until: Instant) {
        self.slot.abort().await;
        let look = self.look().await;
        let policy = look.observation.policy.clone();
        if policy.paused {
            tracing::info!("the cluster is paused: PostgreSQL is left running");
            // To the operator, who asked for that: the only case in which the layers let go of a primary.
            self.shared.fence.disarm();
            let _ = self.shared.layers.settled(DISARMED).await; // else it ends at its deadline
            return;
        }
        let may_write = may_write(&look.observation.instance, &look.observation.operation);
        let settings = settings::of_config(&self.observer.config(&self.shared));
        tracing::info!("stopping PostgreSQL");
        // Load balancers stop sending at once.
        let mut snapshot = (*self.shared.snapshot()).clone();
        snapshot.instance.state = "stopping".into();
        self.shared.publish(snapshot);
        let (shared, instance) = (Arc::clone(&self.shared), self.instance.clone());
        // Not so long that too little is left for the stop itself.
        let bound = BEFORE_STOP.min(until.saturating_duration_since(Instant::now()) / 2);
        let stopping = stop_for_shutdown(shared, instance, may_write, bound);
        if self.slot.start(OperationKind::Stop, stopping).is_err() {
            return; // it was aborted above, so this cannot be
        }
        let stopped = loop {
            if let OperationFacts::Finished { outcome, .. } = self.slot.observe() {
                break outcome == Outcome::Succeeded;
            }
            if Instant::now() >= until {
                break false;
            }
            if let Some(lease) = self.leases.primary.filter(|_| may_write) {
                let mut execution = self.execution(&look, may_write, &settings);
                if let Err(failure) = execution.renew_primary(lease.id).await {
                    self.complain(&chain(&failure));
                }
            }
            tokio::select! {
                () = self.shared.wake.notified() => {}
                () = tokio::time::sleep(policy.loop_wait / 2) => {}
                () = tokio::time::sleep_until(until) => {}
            }
        };
        if !stopped {
            tracing::error!(
                "PostgreSQL was not stopped in time: stopping it by force, the leader lock is left to expire"
            );
            self.slot.abort().await;
            self.shared.fence.request().await;
            let news = self.told.stop();
            self.tell(news);
            self.shared.callbacks.started().await;
            return;
        }
        let news = self.told.stop();
        self.tell(news);
        self.shared.fence.disarm();
        let _ = self.shared.layers.settled(DISARMED).await; // a guard that does not hear it finds nothing at its deadline
        self.farewell(&settings).await;
        self.shared.callbacks.started().await;
    }

    /// The last words: the lock, and a member key that says "stopped".
    async fn farewell(&mut self, settings: &quorate_pg::Settings) {
        let look = self.look().await;
        let Some(view) = look.view().cloned() else { return };
        let mut actions = Vec::new();
        if let Some((held, lease)) = view.held().zip(self.leases.primary)
            && let Some(guard) = LockGuard::new(held, &lease)
        {
            let end = match self.instance.data_directory() {
                DataDirectory::Initialised(directory) if directory.state == ControlState::ShutDown => {
                    directory.wal_end
                }
                _ => None,
            };
            let slots = view.status.as_ref().map(|status| status.value.slots.clone()).unwrap_or_default();
            actions.push(Action::ReleaseLock { guard, status: end.map(|optime| Status { optime, slots }) });
        }
        if let (Some(record), Some(lease)) = (view.members.get(&self.shared.config.name), self.leases.member)
        {
            let mut record = record.value.clone();
            record.state = MemberState::Stopped;
            record.role = MemberRole::Replica;
            (record.replication_state, record.race) = (None, None);
            actions.push(Action::PublishMember { lease: lease.id, record });
        }
        for action in actions {
            // One does not depend on the other here.
            if let Err(failure) = self.execution(&look, false, settings).run(vec![action]).await {
                self.complain(&chain(&failure));
            }
        }
    }
}
