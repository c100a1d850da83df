//! Promotion: a standby becomes a primary on a new timeline.
//!
//! The marker comes first: from the moment of `pg_promote` on this data directory may hold WAL that nobody else has, and a crash
//! before the end must not let it pass for a standby. Which timeline it names is not for this module to say: the new number is
//! PostgreSQL's choice, and of several that nobody ever heard of the first one counts. The checkpoint that others wait for before they rewind is a call of its own
//! ([`Instance::checkpoint`]): it may take long, and writes are possible before.
//!
//! # A signal that is lost
//!
//! The startup process looks for the request to promote only when it has nothing left to read, between two attempts to stream. If
//! the request comes just as it has asked for a receiver (the upstream has gone a moment ago, so it asks again and again), it
//! takes back the one that is not there yet, and then, because the attempt before was a moment ago too, waits until
//! `wal_retrieve_retry_interval` is over: half a second in which nothing happens. (A receiver that is there wakes it by its end.) So who
//! waits for a promotion looks whether that is where it hangs, and wakes it. (PostgreSQL 15, `xlogrecovery.c`,
//! `WaitForWALToBecomeAvailable`: the end of `XLOG_FROM_STREAM`; `walreceiverfuncs.c`, `ShutdownWalRcv`.)

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use quorate_ha::facts::{Fork, TimelineId};
use rustix::process::Signal;

use crate::error::Error;
use crate::instance::Instance;
use crate::probe::forked;
use crate::process;
use crate::session::Session;
use crate::standby::nonsense;

/// Between two looks at a server that leaves recovery.
const POLL: Duration = Duration::from_millis(2);
/// So many looks later a request that was not lost has ended any wait.
const AWAKE: u32 = 5;
/// For one look.
const LOOK: Duration = Duration::from_secs(5);
/// A promotion that is over waits no longer for slots: its end opens the way for writes, and a slot can be made after it.
const SLOTS: Duration = Duration::from_millis(100);

/// How a promotion ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promoted {
    /// The new timeline.
    pub timeline: TimelineId,
    /// Where it left its parent.
    pub fork: Option<Fork>,
}

impl Instance {
    /// Writes `marker`, promotes, waits until the server is out of recovery; meanwhile makes `slots`, as far as they can be made. On
    /// a primary it only tells its timeline. Nothing is changed before `permission` is given; what needs none (a connection, a
    /// look) is done while it is asked for.
    ///
    /// # Errors
    /// [`Error::StillBusy`] after `pg_ctl_timeout`: the promotion goes on. The error of `permission`: nothing has happened. Others: it
    /// may have, probe.
    pub async fn promote<E: From<Error>>(
        &self,
        marker: TimelineId,
        slots: &BTreeSet<String>,
        permission: impl Future<Output = Result<(), E>>,
    ) -> Result<Promoted, E> {
        const WHAT: &str = "promote";
        const RECOVERY: &str = "SELECT pg_is_in_recovery()";
        const DOZES: &str = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup' \
                             AND wait_event = 'RecoveryRetrieveRetryInterval'";
        let patience = self.config().pg_ctl_timeout;
        let looking = async {
            let session = Session::local(self.config(), LOOK).await.map_err(Error::from)?;
            let found = session.value(WHAT, RECOVERY, LOOK).await.map_err(Error::from)?;
            Ok((session, found.as_deref() == Some("t")))
        };
        let ((), (session, in_recovery)) = tokio::try_join!(permission, looking)?;
        let promoting = async {
            if in_recovery {
                self.mark_primary(marker)?;
                // false: an earlier request is still under way.
                session.query(WHAT, "SELECT pg_promote(false)", LOOK).await?;
                // No reload: the promotion ends the receiver, and a later life of this server begins without an upstream.
                crate::standby::write_upstream(self.config(), None, None)?;
            }
            let making = async {
                if in_recovery && let Err(error) = self.set_slots(slots, &BTreeSet::new()).await {
                    let error = crate::data_dir::sentence(&error);
                    tracing::warn!(error, "slots were not made during the promotion");
                }
            };
            let waiting = async {
                let mut looks = 0_u32;
                while session.value(WHAT, RECOVERY, LOOK).await?.as_deref() != Some("f") {
                    looks += 1;
                    if looks > AWAKE
                        && let Some(pid) = session.value(WHAT, DOZES, LOOK).await?
                        && let Ok(pid) = pid.parse()
                    {
                        // Only to be sooner.
                        let _ = process::signal_member(&self.config().data_dir, pid, Signal::HUP);
                    }
                    tokio::time::sleep(POLL).await;
                }
                Ok::<(), Error>(())
            };
            tokio::pin!(making, waiting);
            let over = tokio::time::timeout(patience, async {
                tokio::select! {
                    () = &mut making => waiting.await,
                    over = &mut waiting => {
                        let _ = tokio::time::timeout(SLOTS, making).await;
                        over
                    }
                }
            });
            over.await.unwrap_or_else(|_| {
                let path = self.config().data_dir.clone();
                Err(Error::StillBusy { path, doing: "promoting", waited: patience })
            })?;
            self.promoted(&session).await
        };
        promoting.await.map_err(E::from)
    }

    async fn promoted(&self, session: &Session) -> Result<Promoted, Error> {
        const WHAT: &str = "which timeline it was promoted to";
        let name = session
            .value(WHAT, "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)", LOOK)
            .await?
            .unwrap_or_default();
        let timeline = TimelineId(u32::from_str_radix(&name, 16).map_err(|_| nonsense(WHAT, name))?);
        Ok(Promoted { timeline, fork: forked(&self.config().data_dir, timeline).pop() })
    }
}
