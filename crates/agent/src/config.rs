//! What an agent is started with: the local half of the configuration, which only this node's file can say.
//!
//! Everything that the whole cluster must agree on (ttl, synchronous mode, PostgreSQL parameters) lives in the
//! `/config` key and reaches the agent through its watch. [`AgentConfig::bootstrap`] is only the seed of that key: it is
//! read once, by the node that wins the initialisation race, and never again (Patroni's `bootstrap.dcs`).

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use quorate_pg::BootstrapOptions;
use serde_json::{Map, Value};

use crate::callbacks::Scripts;
use crate::guard;
use crate::watchdog::WatchdogConfig;

/// SIGKILL to a postmaster and a few hundred backends, measured in milliseconds, with room for a loaded machine.
pub const STOP_BUDGET: Duration = Duration::from_millis(500);
/// Clock rates differ by far less than a part in a thousand; scheduling on a loaded machine is what this is for.
pub const MARGIN: Duration = Duration::from_millis(300);

/// The local settings of one agent.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// The cluster's name, Patroni's `scope`.
    pub scope: String,
    /// The prefix of the cluster's keys, Patroni's `namespace`. Default `/service/`; slashes are normalised.
    pub namespace: String,
    /// This member's name, unique in the cluster.
    pub name: String,
    /// `host:port` by which other members and clients reach this PostgreSQL (`postgresql.connect_address`).
    pub postgresql_address: String,
    /// `postgresql.proxy_address`: published for clients, never used by the agent.
    pub proxy_address: Option<String>,
    /// The REST API.
    pub rest: RestConfig,
    /// Patroni's tags (`nofailover`, `clonefrom`, `noloadbalance`, …, and the operator's own) as written.
    pub tags: Map<String, Value>,
    /// The first content of the `/config` key (`bootstrap.dcs`).
    pub bootstrap: Map<String, Value>,
    /// How to make a new cluster, if this node wins the initialisation race (`bootstrap.initdb`, users).
    pub bootstrap_options: BootstrapOptions,
    /// The longest that killing PostgreSQL may take. [`STOP_BUDGET`] by default.
    pub stop_budget: Duration,
    /// Kept free between the last possible write here and the first elsewhere. [`MARGIN`] by default.
    pub margin: Duration,
    /// The guard process.
    pub guard: GuardConfig,
    /// The watchdog device, which the guard feeds.
    pub watchdog: WatchdogConfig,
    /// Patroni's callbacks, and the scripts around promotions and stops.
    pub scripts: Scripts,
    /// Called by `POST /reload`, after which the caller hands in what was read, with [`crate::Agent::reload`].
    pub on_reload: Option<Hook>,
}

/// The guard process ([`crate::guard`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardConfig {
    /// Whether there is one, and what its loss means. [`guard::Mode::Automatic`] by default.
    pub mode: guard::Mode,
    /// The program whose verb `guard` it is. By default this very executable, also after another version took its place.
    pub program: PathBuf,
}

impl Default for GuardConfig {
    fn default() -> GuardConfig {
        GuardConfig { mode: guard::Mode::default(), program: PathBuf::from("/proc/self/exe") }
    }
}

/// The REST API's addresses and, if unsafe methods need it, the password.
#[derive(Debug, Clone)]
pub struct RestConfig {
    /// `host:port` to listen on (`restapi.listen`).
    pub listen: String,
    /// `host:port` that is published as `api_url` (`restapi.connect_address`).
    pub connect_address: String,
    /// Basic authentication for POST, PUT, PATCH and DELETE.
    pub authentication: Option<Credentials>,
}

/// A name and a password. `Debug` does not show the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Something the binary wants to be told.
#[derive(Clone)]
pub struct Hook(pub Arc<dyn Fn() + Send + Sync>);

impl fmt::Debug for Hook {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Hook")
    }
}

impl AgentConfig {
    /// The URL under which this member's REST API is published.
    #[must_use]
    pub fn api_url(&self) -> String {
        format!("http://{}/patroni", self.rest.connect_address)
    }

    /// The URL under which this member's PostgreSQL is published.
    #[must_use]
    pub fn conn_url(&self) -> String {
        format!("postgres://{}/postgres", self.postgresql_address)
    }
}
