//! Dispatch by situation, and nothing else.

use crate::action::Decision;
use crate::cluster::{Initialize, StoreFacts};
use crate::context::Context;
use crate::facts::{DataDirectory, Process, Role};
use crate::observation::Observation;
use crate::reason::Reason;
use crate::{bootstrap, operation, pause, primary, rejoin, standby, unknown};

/// What to do now, and why. A function of the observation alone.
#[must_use]
pub fn decide(observation: &Observation) -> Decision {
    let view = match &observation.store {
        StoreFacts::Available(view) => view,
        StoreFacts::Unavailable { since } => return unknown::decide(observation, *since),
    };
    let context = Context::new(observation, view);
    if let Some(refusal) = foreign(&context) {
        return refusal;
    }
    if context.policy.paused {
        return pause::decide(&context);
    }
    if let Some((kind, started)) = context.underway() {
        return operation::decide(&context, kind, started);
    }
    let instance = &observation.instance;
    match (&instance.process, &instance.data_directory) {
        (Process::Running(running), _) => match &running.role {
            Role::Primary(facts) => primary::decide(&context, running, facts),
            Role::Standby(facts) => standby::decide(&context, running, facts),
        },
        (Process::Starting { since, as_standby, upstream }, _) => {
            operation::starting(&context, *since, *as_standby, upstream.as_ref())
        }
        (Process::Stopping { .. }, _) => operation::stopping(&context),
        (Process::Unresponsive { since }, _) => operation::unresponsive(&context, *since),
        (Process::Stopped, DataDirectory::Initialised(initialised)) => rejoin::stopped(&context, initialised),
        (Process::Stopped, DataDirectory::Unreadable { why }) => bootstrap::unreadable(&context, why),
        (
            Process::Stopped,
            DataDirectory::Missing | DataDirectory::Empty | DataDirectory::CloneInProgress,
        ) => bootstrap::empty(&context),
    }
}

/// Another cluster's data directory is never touched (S13).
fn foreign(context: &Context<'_>) -> Option<Decision> {
    let ours = context.initialised()?.system_identifier;
    match context.view.initialize.as_ref()?.value {
        Initialize::Done(theirs) if theirs != ours => Some(Decision {
            actions: Vec::new(),
            reason: Reason::fatal(format!(
                "system ID mismatch, node {} belongs to a different cluster: {theirs} != {ours}; move this data \
                 directory away, or correct scope and namespace",
                context.me
            )),
            wake: None,
        }),
        Initialize::Done(_) | Initialize::Claimed => None,
    }
}
