//! Observing: everything a decision reads, gathered at one moment, with a bound on every question.
//!
//! This is the only place that sees PostgreSQL's facts, the cluster's keys, the leases, the operation slot and the policy
//! together. The store and PostgreSQL are asked at the same time; PostgreSQL answers within its probe deadline or is
//! unresponsive, the store within `retry_timeout` or is unavailable. `now` is taken after the answers, so that no decision
//! believes to have more time than it has.
//!
//! The view is read linearizably on every tick. A member that is cut off gets no answer instead of an old one, so a stale
//! view reaches a decision only by the time between the read and the execution, and for that there are guards.

use std::time::Duration;

use quorate_ha::cluster::Tags;
use quorate_ha::facts::{Endpoint, OperationFacts, OperationKind, Process, Role};
use quorate_ha::{
    ClusterView, InstanceFacts, LocalPolicy, Moment, Observation, Policy, StoreFacts, VoterFacts,
};
use quorate_node::clock::boottime;
use quorate_pg::Instance;
use serde_json::Value;

use crate::execute::Leases;
use crate::registry::{Memory, Reading};
use crate::shared::Shared;
use crate::suspicion::{FRESH, PATIENCE, Watched};
use crate::watch::Seen;

/// What one look brought: the input of the decision, and the raw keys for the REST API.
pub(crate) struct Look {
    pub(crate) observation: Observation,
    /// None when the store did not answer.
    pub(crate) reading: Option<Reading>,
}

impl Look {
    /// The view, if the store answered.
    pub(crate) fn view(&self) -> Option<&ClusterView> {
        match &self.observation.store {
            StoreFacts::Available(view) => Some(view),
            StoreFacts::Unavailable { .. } => None,
        }
    }

    /// The holder, if this node follows it and would have to take over by quorum.
    pub(crate) fn watched(&self) -> Option<Watched> {
        let Observation { policy, instance, .. } = &self.observation;
        let Process::Running(running) = &instance.process else { return None };
        let Role::Standby(_) = running.role else { return None };
        let view = self.view()?;
        let held = view.held().filter(|held| held.holder != policy.name())?;
        let bound =
            policy.synchronous_mode.binds() && view.sync.is_some() && !policy.failure_timeout.is_zero();
        let record = &view.members.get(&held.holder)?.value;
        let endpoint = Endpoint::of_url(&record.conn_url)?;
        bound.then(|| Watched { name: held.holder.clone(), endpoint, limit: policy.failure_timeout })
    }
}

/// What is remembered from look to look.
pub(crate) struct Observer {
    pub(crate) memory: Memory,
    /// Since when the store has not answered.
    silent_since: Option<Moment>,
    /// The last readable `/config`: a missing or damaged one never replaces it.
    config: Option<Value>,
    /// What was last said about the time budget of the configuration, so that it is said once per change.
    budget: Option<String>,
}

impl Observer {
    pub(crate) fn new() -> Observer {
        Observer { memory: Memory::default(), silent_since: None, config: None, budget: None }
    }

    /// Says what becomes of the times of a changed configuration, once per change. They are used as far as they fit: a
    /// `/config` that somebody wrote past the REST API must not stop a running cluster.
    fn judge_budget(&mut self, shared: &Shared) {
        let verdict = match quorate_ha::budget::check_config(&local(shared), &self.config(shared)) {
            Ok(note) => note,
            Err(error) => Some(error.to_string()),
        };
        if verdict != self.budget {
            match &verdict {
                Some(why) => {
                    tracing::warn!(why, "the times of the dynamic configuration are cut until they fit")
                }
                None => tracing::info!("the times of the dynamic configuration fit again"),
            }
            self.budget = verdict;
        }
    }

    /// The configuration that holds: the cluster's, or before there is one what would become it.
    pub(crate) fn config(&self, shared: &Shared) -> Value {
        self.config.clone().unwrap_or_else(|| Value::Object(shared.config.bootstrap.clone()))
    }

    /// Looks.
    pub(crate) async fn look(
        &mut self,
        shared: &Shared,
        instance: &Instance,
        operation: OperationFacts,
        leases: &Leases,
        seen: &Seen,
    ) -> Look {
        let began = Moment(boottime());
        let patience = self.policy(shared).retry_timeout;
        let (reading, facts) = tokio::join!(shared.registry.read(patience), instance.probe(began));
        let now = Moment(boottime());
        let (reading, store) = match reading {
            Ok(reading) => {
                self.silent_since = None;
                let view = self.memory.view(now, shared.registry.keys(), &reading, seen.vanished());
                if let Some(config) = view.config.as_ref().filter(|config| config.value.is_object()) {
                    self.config = Some(config.value.clone());
                }
                (Some(reading), StoreFacts::Available(view))
            }
            Err(error) => {
                let since = *self.silent_since.get_or_insert(began);
                tracing::debug!(%error, "the store does not answer");
                (None, StoreFacts::Unavailable { since })
            }
        };
        let scheduled_in = match &store {
            StoreFacts::Available(view) => {
                view.failover.as_ref().and_then(|request| until(request.value.scheduled_at.as_deref()?))
            }
            StoreFacts::Unavailable { .. } => None,
        };
        let voters = voters(shared, now).await;
        let policy = self.policy(shared);
        self.judge_budget(shared);
        let observation = Observation {
            now,
            policy,
            instance: facts,
            operation,
            voters,
            store,
            remembered: self.memory.remembered.clone(),
            missing: self.memory.missing.clone(),
            member_lease: leases.member,
            primary_lease: leases.primary,
            scheduled_in,
        };
        Look { observation, reading }
    }

    /// The policy under the configuration that holds.
    pub(crate) fn policy(&self, shared: &Shared) -> Policy {
        Policy::resolve(local(shared), Some(&self.config(shared)))
    }
}

/// What only this node's file says.
pub(crate) fn local(shared: &Shared) -> LocalPolicy {
    let config = &shared.config;
    let (unfit, mut tags) = (shared.layers.unfit(boottime()), shared.tags());
    if unfit.is_some() {
        // So that nobody waits for this node, however far ahead it is.
        tags.insert("nofailover".to_owned(), Value::Bool(true));
    }
    LocalPolicy {
        name: config.name.clone(),
        scope: config.scope.clone(),
        conn_url: config.conn_url(),
        api_url: config.api_url(),
        tags: Tags(tags.into_iter().collect()),
        stop_budget: config.stop_budget,
        margin: config.margin,
        bootstrap_config: Value::Object(config.bootstrap.clone()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        unfit,
    }
}

/// Time until a scheduled request is due. A time that cannot be read never comes.
fn until(scheduled_at: &str) -> Option<Duration> {
    let at: jiff::Timestamp = scheduled_at.parse().ok()?;
    let left = at.duration_since(jiff::Timestamp::now());
    Some(Duration::try_from(left).unwrap_or(Duration::ZERO))
}

/// A voter that has answered within this time is well: several heartbeats, or as many round trips.
const ANSWERING: (Duration, u32) = (Duration::from_millis(500), 2);

/// What this node knows about the voters of the store.
async fn voters(shared: &Shared, now: Moment) -> VoterFacts {
    let me = shared.handle.header().member_id;
    let leads_here = shared.handle.leadership().borrow().leader == Some(me);
    let mut voters = VoterFacts { leads_here, ..VoterFacts::default() };
    shared.evidence.fill(now, shared.handle.patience(FRESH), &mut voters);
    if leads_here {
        let answering = shared.handle.answering(shared.handle.patience(ANSWERING));
        let members = shared.handle.members().into_iter().filter(|member| answering.contains(&member.id));
        voters.answering = members.map(|member| member.name).filter(|name| !name.is_empty()).collect();
        // The leader looks into its own memory.
        if let Ok(silent) = shared.handle.silence(shared.handle.patience(PATIENCE)).await {
            voters.silent = silent;
        }
    }
    voters
}

/// May PostgreSQL accept writes, now or as soon as what is under way is done? The fence stays armed while it may.
pub(crate) fn may_write(instance: &InstanceFacts, operation: &OperationFacts) -> bool {
    let underway = match operation {
        OperationFacts::Running { kind, .. } => writes(*kind),
        OperationFacts::Idle | OperationFacts::Finished { .. } => false,
    };
    underway
        || match &instance.process {
            Process::Stopped => false,
            Process::Starting { as_standby, .. } => !as_standby,
            Process::Running(running) => match running.role {
                Role::Primary(_) => true,
                Role::Standby(_) => false,
            },
            // Not known, so it may.
            Process::Unresponsive { .. } | Process::Stopping { .. } => true,
        }
}

/// Operations at whose end PostgreSQL may accept writes.
pub(crate) fn writes(kind: OperationKind) -> bool {
    match kind {
        OperationKind::Bootstrap
        | OperationKind::StartAsPrimary
        | OperationKind::Promote
        | OperationKind::Restart => true,
        OperationKind::Clone
        | OperationKind::Rewind
        | OperationKind::StartAsStandby
        | OperationKind::Stop => false,
    }
}
