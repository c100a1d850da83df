//! The agent.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::config::AgentConfig;
use crate::error::StartError;

/// A running agent. Dropping it without [`Agent::shutdown`] is a crash: tasks end, PostgreSQL goes on, and an agent that
/// starts within the ttl adopts it.
pub struct Agent {}

#[allow(unused_variables, clippy::unimplemented, clippy::unused_async)]
impl Agent {
    /// Binds the REST API, starts the fence's thread and the loop. Returns at once; PostgreSQL may not run yet.
    ///
    /// # Errors
    /// [`StartError`]; nothing has been changed.
    pub async fn start(
        config: AgentConfig,
        store: quorate_node::Handle,
        instance: quorate_pg::Instance,
    ) -> Result<Agent, StartError> {
        unimplemented!()
    }

    /// Resolves when going on can only do harm (another system identifier, a name that is taken), with the sentence for the
    /// operator. PostgreSQL has been left as it is.
    pub async fn failed(&self) -> String {
        unimplemented!()
    }

    /// New tags (`tags` of the file after a reload).
    pub fn set_tags(&self, tags: Map<String, Value>) {
        unimplemented!()
    }

    /// Ends the agent, bounded by `deadline`. A clean hand-over unless `keep_postgres`: PostgreSQL is stopped (`fast`, after
    /// a checkpoint), then the lock is released with the final position, so that a standby takes over at once.
    /// With `keep_postgres` PostgreSQL goes on and the leases are left to be adopted within the ttl.
    pub async fn shutdown(self, deadline: Duration, keep_postgres: bool) {
        unimplemented!()
    }
}
