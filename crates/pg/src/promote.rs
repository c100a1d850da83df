//! Promotion: a standby becomes a primary on a new timeline.
//!
//! The marker comes first: from the moment of `pg_promote` on this data directory may hold WAL that nobody else has, and a crash
//! before the end must not let it pass for a standby. Which timeline it names is not for this module to say: the new number is
//! PostgreSQL's choice, and of several that nobody ever heard of the first one counts. The checkpoint that others wait for before they rewind is a call of its own
//! ([`Instance::checkpoint`]): it may take long, and writes are possible before.

use std::time::Duration;

use quorate_ha::facts::{Fork, TimelineId};

use crate::error::Error;
use crate::instance::Instance;
use crate::probe::forked;
use crate::session::Session;
use crate::standby::nonsense;

/// Between two looks at a server that leaves recovery.
const POLL: Duration = Duration::from_millis(5);
/// For one look.
const LOOK: Duration = Duration::from_secs(5);

/// How a promotion ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promoted {
    /// The new timeline.
    pub timeline: TimelineId,
    /// Where it left its parent.
    pub fork: Option<Fork>,
}

impl Instance {
    /// Writes `marker`, promotes, waits until the server is out of recovery. On a primary it only tells its timeline.
    ///
    /// # Errors
    /// [`Error::StillBusy`] after `pg_ctl_timeout`: the promotion goes on. Other errors: it may have happened, probe.
    pub async fn promote(&self, marker: TimelineId) -> Result<Promoted, Error> {
        const WHAT: &str = "promote";
        let patience = self.config().pg_ctl_timeout;
        let session = Session::local(self.config(), LOOK).await?;
        if session.value(WHAT, "SELECT pg_is_in_recovery()", LOOK).await?.as_deref() == Some("t") {
            self.mark_primary(marker)?;
            // false: an earlier request is still under way.
            session.query(WHAT, "SELECT pg_promote(false)", LOOK).await?;
            // No reload: the promotion ends the receiver, and a later life of this server begins without an upstream.
            crate::standby::write_upstream(self.config(), None, None)?;
        }
        let waiting = async {
            while session.value(WHAT, "SELECT pg_is_in_recovery()", LOOK).await?.as_deref() != Some("f") {
                tokio::time::sleep(POLL).await;
            }
            Ok(())
        };
        tokio::time::timeout(patience, waiting).await.unwrap_or_else(|_| {
            let path = self.config().data_dir.clone();
            Err(Error::StillBusy { path, doing: "promoting", waited: patience })
        })?;
        let name = session
            .value(WHAT, "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)", LOOK)
            .await?
            .unwrap_or_default();
        let timeline = TimelineId(u32::from_str_radix(&name, 16).map_err(|_| nonsense(WHAT, name))?);
        Ok(Promoted { timeline, fork: forked(&self.config().data_dir, timeline).pop() })
    }
}
