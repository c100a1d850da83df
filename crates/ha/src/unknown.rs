//! The store does not answer. No code reacts to the loss of its quorum: renewals stop succeeding, the deadline stops
//! moving, and a primary fences when it comes. Nothing is started and nobody is promoted on what was known before (S12).

use crate::action::{Action, Decision};
use crate::budget;
use crate::context::SOON;
use crate::facts::{Moment, OperationFacts, OperationKind, Process, Role};
use crate::observation::Observation;
use crate::reason::Reason;

pub(crate) fn decide(o: &Observation, since: Moment) -> Decision {
    if !may_write(o) {
        return Decision {
            actions: Vec::new(),
            reason: Reason::new("DCS is not accessible, holding"),
            wake: None,
        };
    }
    let deadline = match o.primary_lease {
        Some(lease) => budget::fence_at(&o.policy, lease.valid_until),
        // A restarted agent found PostgreSQL running as a primary and cannot ask whose lock it is. What is left of the lease is
        // not known: half of what a full one would leave is given to the store to come up with us.
        None => {
            let full = budget::fence_at(&o.policy, since.after(o.policy.ttl));
            since.after(full.since(since) / 2)
        }
    };
    if o.now >= deadline {
        return Decision {
            actions: vec![Action::Fence],
            reason: Reason::new("demoting self because DCS is not accessible and I was a leader"),
            wake: Some(SOON),
        };
    }
    let left = deadline.since(o.now);
    Decision {
        actions: Vec::new(),
        reason: Reason::new("DCS is not accessible, I was a leader and hold until my lease could expire"),
        wake: Some(left.min(o.policy.loop_wait)),
    }
}

fn may_write(o: &Observation) -> bool {
    let underway = match &o.operation {
        OperationFacts::Running { kind, .. } => match kind {
            OperationKind::StartAsPrimary | OperationKind::Promote => true,
            OperationKind::Bootstrap
            | OperationKind::Clone
            | OperationKind::Rewind
            | OperationKind::StartAsStandby
            | OperationKind::Stop
            | OperationKind::Restart => false,
        },
        OperationFacts::Idle | OperationFacts::Finished { .. } => false,
    };
    let signal = match &o.instance.data_directory {
        crate::facts::DataDirectory::Initialised(initialised) => initialised.standby_signal,
        crate::facts::DataDirectory::Missing
        | crate::facts::DataDirectory::Empty
        | crate::facts::DataDirectory::CloneInProgress
        | crate::facts::DataDirectory::Unreadable { .. } => false,
    };
    underway
        || match &o.instance.process {
            Process::Running(running) => matches!(running.role, Role::Primary(_)),
            Process::Starting { as_standby, .. } => !as_standby,
            Process::Unresponsive { .. } | Process::Stopping { .. } => !signal,
            Process::Stopped => false,
        }
}
