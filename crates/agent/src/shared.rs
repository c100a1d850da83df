//! What the loop and the REST API share. The loop writes, the API reads; the API's wishes go to the loop as requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use quorate_ha::Observation;
use quorate_node::Handle;
use quorate_node::clock::boottime;
use serde_json::{Map, Value};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::callbacks::Callbacks;
use crate::chronicle::Desk;
use crate::config::AgentConfig;
use crate::fence::Fence;
use crate::guard::Layers;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::rest::status::{Identity, Snapshot};
use crate::suspicion::Evidence;

/// Requests that wait for the loop; more are refused at once. An operator makes them, one at a time.
pub(crate) const REQUESTS: usize = 16;

/// What the REST API asks of the loop.
#[derive(Debug)]
pub(crate) enum Request {
    /// Restart PostgreSQL in its role. Answered when it is done.
    Restart(oneshot::Sender<Result<(), String>>),
    /// Clone this standby again. Answered when it has begun.
    Reinitialize(oneshot::Sender<Result<(), String>>),
}

/// See the module.
pub(crate) struct Shared {
    pub(crate) config: AgentConfig,
    pub(crate) handle: Handle,
    pub(crate) registry: Registry,
    pub(crate) fence: Fence,
    /// What is told of the fence's deadlines: the guard process, the watchdog device.
    pub(crate) layers: Layers,
    pub(crate) metrics: Metrics,
    pub(crate) callbacks: Callbacks,
    pub(crate) evidence: Evidence,
    /// Decision records on their way to the store.
    pub(crate) desk: Desk,
    /// Wakes the loop.
    pub(crate) wake: Arc<Notify>,
    pub(crate) requests: mpsc::Sender<Request>,
    tags: RwLock<Map<String, Value>>,
    /// The file was read again, and PostgreSQL has not been told yet.
    reload: AtomicBool,
    snapshot: RwLock<Arc<Snapshot>>,
    observed: RwLock<Option<Arc<Observation>>>,
    /// Until when the loop counts as alive, in milliseconds since boot.
    alive_until_ms: AtomicU64,
}

impl Shared {
    pub(crate) fn new(
        config: AgentConfig,
        handle: Handle,
        registry: Registry,
        fence: Fence,
        layers: Layers,
        callbacks: Callbacks,
        requests: mpsc::Sender<Request>,
    ) -> Shared {
        let tags = RwLock::new(config.tags.clone());
        let snapshot =
            Snapshot { cluster: crate::rest::status::ClusterStatus::unknown(), ..Snapshot::default() };
        Shared {
            config,
            handle,
            registry,
            fence,
            layers,
            metrics: Metrics::default(),
            callbacks,
            evidence: Evidence::default(),
            desk: Desk::default(),
            wake: Arc::new(Notify::new()),
            requests,
            tags,
            reload: AtomicBool::new(false),
            snapshot: RwLock::new(Arc::new(snapshot)),
            observed: RwLock::new(None),
            alive_until_ms: AtomicU64::new(0),
        }
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity {
            scope: self.config.scope.clone(),
            name: self.config.name.clone(),
            tags: self.tags.read().clone(),
        }
    }

    pub(crate) fn tags(&self) -> Map<String, Value> {
        self.tags.read().clone()
    }

    pub(crate) fn reload(&self, tags: Map<String, Value>) {
        *self.tags.write() = tags;
        self.reload.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// Was a reload asked for since this was last asked?
    pub(crate) fn take_reload(&self) -> bool {
        self.reload.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read())
    }

    pub(crate) fn publish(&self, snapshot: Snapshot) {
        *self.snapshot.write() = Arc::new(snapshot);
    }

    /// What the last tick saw, for whoever asks what would happen.
    pub(crate) fn observed(&self) -> Option<Arc<Observation>> {
        self.observed.read().clone()
    }

    pub(crate) fn has_observed(&self, observation: Observation) {
        *self.observed.write() = Some(Arc::new(observation));
    }

    /// May this node write now? From the clock, not from the loop.
    pub(crate) fn writable(&self) -> bool {
        self.fence.permits_writes(boottime())
    }

    /// Until the primary lease could expire.
    pub(crate) fn lease_remaining(&self) -> Option<Duration> {
        self.fence.valid_until().map(|until| until.saturating_sub(boottime()))
    }

    /// A tick ended; the next one must end within `patience`.
    pub(crate) fn ticked(&self, patience: Duration) {
        let until = (boottime() + patience).as_millis();
        self.alive_until_ms.store(u64::try_from(until).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn is_live(&self) -> bool {
        boottime().as_millis() < u128::from(self.alive_until_ms.load(Ordering::Relaxed))
    }
}
