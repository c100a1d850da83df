//! The database quota: when this member's database exceeds it, the cluster stops taking writes that grow it (NOSPACE),
//! until the operator has made room and clears the alarm.

use std::sync::Arc;
use std::time::Duration;

use quorate_state::{Alarm, AlarmKind, Body, Command};

use crate::handle::Inner;
use crate::metrics::value;

/// Often enough that a fast writer overshoots by little.
const LOOK: Duration = Duration::from_secs(1);
const PROPOSE: Duration = Duration::from_secs(5);

pub(crate) async fn run(inner: Arc<Inner>) {
    let Some(quota) = inner.config.quota_bytes else { return };
    inner.metrics.quota_bytes.set(value(quota));
    loop {
        tokio::time::sleep(LOOK).await;
        let bytes = inner.consensus.database_bytes();
        if bytes <= quota {
            continue;
        }
        let raised = inner.read(quorate_state::alarms).unwrap_or_default();
        if raised.contains(&(inner.id, AlarmKind::NoSpace)) {
            continue;
        }
        let alarm = Alarm { clear: false, member: inner.id, kind: AlarmKind::NoSpace.into() };
        let command = Command::new(Body::Alarm(alarm));
        match inner.propose(command, PROPOSE).await {
            Ok(_) => tracing::warn!(bytes, quota, "the database exceeds its quota: NOSPACE is raised"),
            Err(error) => tracing::debug!(error = %error, "raising NOSPACE is tried again"),
        }
    }
}
