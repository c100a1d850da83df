//! Physical replication slots: made and dropped by name. Whose they are, and how they are named, is for `ha::slots` to say.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::error::Error;
use crate::instance::Instance;
use crate::session::{Session, literal};

/// For all changes together; creating a slot syncs a file.
const DEADLINE: Duration = Duration::from_secs(5);

impl Instance {
    /// Creates the physical slots that are missing and drops the inactive physical ones in `drop`. A slot that is in use, or
    /// logical, is left alone.
    ///
    /// # Errors
    /// The first statement that was refused; those before it have happened.
    pub async fn set_slots(&self, create: &BTreeSet<String>, drop: &BTreeSet<String>) -> Result<(), Error> {
        if create.is_empty() && drop.is_empty() {
            return Ok(());
        }
        let session = Session::local(self.config(), DEADLINE).await?;
        for name in create {
            // WAL is reserved at once: the member must find what is written from now on.
            let sql = format!(
                "SELECT pg_create_physical_replication_slot({0}, true) \
                 WHERE NOT EXISTS (SELECT 1 FROM pg_replication_slots WHERE slot_name = {0})",
                literal(name)
            );
            session.query("create a replication slot", &sql, DEADLINE).await?;
        }
        for name in drop {
            let sql = format!(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
                 WHERE slot_name = {} AND slot_type = 'physical' AND NOT active",
                literal(name)
            );
            session.query("drop a replication slot", &sql, DEADLINE).await?;
        }
        Ok(())
    }
}
