//! What the member does with what was applied: the watch hub, the lessor and the counters hear of it, on the apply thread.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quorate_consensus::{Applied, Observer};
use quorate_state::{Body, Fault, ReplyBody, View};
use tokio::sync::Notify;

use crate::auth::Auth;
use crate::clock::boottime;
use crate::key_count::KeyCount;
use crate::lessor::Lessor;
use crate::metrics::{Metrics, value};
use crate::watch::pump::Pump;

pub(crate) struct NodeObserver {
    pub(crate) pump: Arc<Pump>,
    pub(crate) lessor: Arc<Mutex<Lessor>>,
    /// Tells the lease task that there may be an earlier deadline.
    pub(crate) lease_changed: Arc<Notify>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) key_count: Arc<KeyCount>,
    pub(crate) auth: Arc<Auth>,
}

impl Observer for NodeObserver {
    fn applied(&mut self, chunk: Applied) {
        let mut leases_changed = false;
        for (command, reply) in &chunk.commands {
            match (&command.body, &reply.body) {
                (_, Some(ReplyBody::Rejected(_)) | None) | (None, _) => {}
                (Some(Body::LeaseGrant(grant)), _) => {
                    let ttl = Duration::from_millis(grant.ttl_ms);
                    self.lessor.lock().granted(boottime(), grant.id, ttl, grant.stamp);
                    self.metrics.leases_granted.inc();
                    self.metrics.lease_ttl.observe(ttl.as_secs_f64());
                    leases_changed = true;
                }
                (Some(Body::LeaseRevoke(revoke)), _) => {
                    self.lessor.lock().removed(revoke.id);
                    self.metrics.leases_revoked.inc();
                    leases_changed = true;
                }
                (Some(Body::LeaseCheckpoint(checkpoint)), _) => {
                    let mut lessor = self.lessor.lock();
                    let now = boottime();
                    for judged in &checkpoint.leases {
                        let remaining =
                            (judged.remaining_ms > 0).then(|| Duration::from_millis(judged.remaining_ms));
                        lessor.checkpointed(now, judged.id, judged.stamp, remaining);
                    }
                }
                (Some(Body::Put(put)), _) => {
                    self.metrics.puts.inc();
                    self.metrics.put_bytes.add(value((put.key.len() + put.value.len()) as u64));
                }
                (Some(Body::DeleteRange(_)), _) => self.metrics.deletes.inc(),
                (Some(Body::Txn(_)), _) => self.metrics.txns.inc(),
                (Some(Body::Auth(action)), Some(ReplyBody::Auth(after))) => {
                    self.auth.applied(boottime(), action, *after);
                }
                (Some(Body::Compact(_) | Body::Alarm(_) | Body::PublishMember(_) | Body::Auth(_)), _) => {}
            }
        }
        if leases_changed {
            self.lease_changed.notify_one();
        }
        self.metrics.applied(chunk.took);
        self.metrics.events.inc_by(chunk.events.len() as u64);
        self.metrics.proposals_applied.set(value(chunk.index));
        self.metrics.revision.set(chunk.revision);
        self.key_count.applied(&chunk.events, chunk.revision);
        self.pump.publish(&chunk.events, chunk.revision);
    }

    fn restored(&mut self, view: &dyn View) -> Result<(), Fault> {
        self.auth.restored(quorate_state::auth::auth_state(view)?);
        let leases = quorate_state::leases(view)?;
        self.lessor.lock().restored(boottime(), leases);
        self.lease_changed.notify_one();
        let revision = quorate_state::revision(view)?;
        self.metrics.revision.set(revision);
        self.key_count.restored();
        self.pump.restored(revision);
        Ok(())
    }
}
