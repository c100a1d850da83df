//! Physical replication slots: one per member, named as Patroni names them, so that a cluster can change hands.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::error::Error;
use crate::instance::Instance;
use crate::session::{Session, literal};

/// Longest slot name (`NAMEDATALEN` - 1).
const MAX_BYTES: usize = 63;
/// For all changes together; creating a slot syncs a file.
const DEADLINE: Duration = Duration::from_secs(5);

/// The slot of a member: lower case; `-` and `.` become `_`; any other character that a slot cannot have becomes `u` and its
/// code point in four decimal digits; cut to 63 bytes.
#[must_use]
pub fn slot_name(member: &str) -> String {
    let mut name = String::new();
    for letter in member.to_lowercase().chars() {
        match letter {
            'a'..='z' | '0'..='9' | '_' => name.push(letter),
            '-' | '.' => name.push('_'),
            other => name.push_str(&format!("u{:04}", u32::from(other))),
        }
    }
    name.truncate(MAX_BYTES);
    name
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn member_names_become_slot_names_as_in_patroni() {
        assert_eq!(slot_name("Node-1.example"), "node_1_example");
        assert_eq!(slot_name("a b"), "au0032b");
        assert_eq!(slot_name(&"x".repeat(70)).len(), 63);
    }
}
