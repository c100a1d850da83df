//! `quoratectl`: the cluster's verbs (as patronictl has them) and the store's (as etcdctl has them), one verb a file.
//!
//! ```text
//!            store.rs (gRPC, next endpoint when one is down)
//!           ┌────────┴─────────┐
//!  get put del watch      cluster.rs (keys under /service/<scope>/ to a view)
//!  member endpoint             │
//!  move-leader            list topology history show-config version
//!                              └── rest.rs ── switchover failover
//! ```
//!
//! Exit codes: 0 done, 1 refused or failed, 2 the command line cannot be read, 4 the output format does not exist for
//! this verb, 5 interrupted, 128 arguments are missing (etcdctl's codes where it has them).

pub mod cluster;
pub mod del;
pub mod endpoint;
pub mod failover;
pub mod get;
pub mod history;
pub mod list;
pub mod member;
pub mod move_leader;
pub mod output;
pub mod print;
pub mod put;
pub mod rest;
pub mod show_config;
pub mod store;
pub mod switchover;
pub mod table;
pub mod topology;
pub mod version;
pub mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::config::settings::{Credentials, Settings};
use store::Store;

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "quoratectl", version, about = "Look at a Quorate cluster and its store, and change them")]
pub struct Cli {
    /// What every verb understands.
    #[command(flatten)]
    pub common: Common,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What every verb understands.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Client addresses of the store, commas between; the next is asked when one is down
    #[arg(long, global = true, value_delimiter = ',', env = "QUORATECTL_ENDPOINTS")]
    pub endpoints: Vec<String>,
    /// Longest wait for an answer of the store (5s, 500ms)
    #[arg(long, global = true, default_value = "5s", value_parser = parse_duration)]
    pub command_timeout: Duration,
    /// The node's configuration file: scope, addresses and passwords are taken from it
    #[arg(short = 'c', long = "config-file", global = true, env = "PATRONICTL_CONFIG_FILE")]
    pub config: Option<PathBuf>,
    /// The cluster's name; needed only where the store holds several
    #[arg(long, global = true, env = "PATRONI_SCOPE")]
    pub scope: Option<String>,
    /// The prefix of the cluster's keys [default: /service/]
    #[arg(long, global = true, env = "PATRONI_NAMESPACE")]
    pub namespace: Option<String>,
}

/// One verb a file.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// The members of a cluster
    List(list::Arguments),
    /// The members of a cluster as a tree: who streams from whom
    Topology(topology::Arguments),
    /// Make a standby the primary, in an orderly way
    Switchover(switchover::Arguments),
    /// Make a standby the primary when there is none, or by force
    Failover(failover::Arguments),
    /// Past changes of the primary
    History(history::Arguments),
    /// The cluster's dynamic configuration
    ShowConfig(show_config::Arguments),
    /// Versions of this tool and of the members
    Version(version::Arguments),
    /// Members of the store
    #[command(subcommand)]
    Member(member::Verb),
    /// The store's endpoints
    #[command(subcommand)]
    Endpoint(endpoint::Verb),
    /// Hand the leadership of the store to another member
    MoveLeader(move_leader::Arguments),
    /// Read keys
    Get(get::Arguments),
    /// Write a key
    Put(put::Arguments),
    /// Delete keys
    Del(del::Arguments),
    /// Follow changes of keys
    Watch(watch::Arguments),
}

/// Why a verb did not do what it was asked for: the line after `Error: ` and the exit code.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// Empty when everything has been said already.
    pub message: String,
    /// See the module's table.
    pub code: u8,
}

impl Failure {
    /// Exit code 1.
    pub fn new(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), code: 1 }
    }

    /// Exit code 128: arguments are missing or too many.
    pub fn bad_arguments(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), code: 128 }
    }

    /// Exit code 4: this verb has no such output.
    pub fn bad_feature(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), code: 4 }
    }
}

/// What a verb gives back.
pub type Outcome = Result<(), Failure>;

impl Cli {
    /// Does it and says how it went.
    pub fn run(self) -> ExitCode {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                output::complain(&format!("Error: the runtime did not start: {error}"));
                return ExitCode::FAILURE;
            }
        };
        match runtime.block_on(self.perform()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                if !failure.message.is_empty() {
                    output::complain(&format!("Error: {}", failure.message));
                }
                ExitCode::from(failure.code)
            }
        }
    }

    async fn perform(self) -> Outcome {
        let context = Context::new(self.common)?;
        match self.verb {
            Verb::List(arguments) => arguments.run(&context).await,
            Verb::Topology(arguments) => arguments.run(&context).await,
            Verb::Switchover(arguments) => arguments.run(&context).await,
            Verb::Failover(arguments) => arguments.run(&context).await,
            Verb::History(arguments) => arguments.run(&context).await,
            Verb::ShowConfig(arguments) => arguments.run(&context).await,
            Verb::Version(arguments) => arguments.run(&context).await,
            Verb::Member(verb) => verb.run(&context).await,
            Verb::Endpoint(verb) => verb.run(&context).await,
            Verb::MoveLeader(arguments) => arguments.run(&context).await,
            Verb::Get(arguments) => arguments.run(&context).await,
            Verb::Put(arguments) => arguments.run(&context).await,
            Verb::Del(arguments) => arguments.run(&context).await,
            Verb::Watch(arguments) => arguments.run(&context).await,
        }
    }
}

/// Where to ask and whom to ask about.
pub struct Context {
    /// The store.
    pub store: Store,
    /// The scope that was named, if one was.
    pub scope: Option<String>,
    /// `/service/`, with slashes at both ends.
    pub namespace: String,
    /// For the guarded verbs of the REST API.
    pub credentials: Option<Credentials>,
}

impl Context {
    fn new(common: Common) -> Result<Context, Failure> {
        let settings = common.config.as_deref().map(read_settings).transpose()?;
        let mut endpoints = common.endpoints;
        if endpoints.is_empty() {
            // Scripts written for etcdctl export this one.
            if let Ok(list) = std::env::var("ETCDCTL_ENDPOINTS") {
                endpoints = list.split(',').map(str::to_owned).collect();
            }
        }
        if endpoints.is_empty() {
            endpoints = settings.as_ref().map_or_else(Vec::new, endpoints_of);
        }
        endpoints.retain(|endpoint| !endpoint.trim().is_empty());
        if endpoints.is_empty() {
            endpoints.push("127.0.0.1:2379".to_owned());
        }
        let scope = common.scope.or_else(|| settings.as_ref().map(|settings| settings.scope.clone()));
        let namespace = common
            .namespace
            .or_else(|| settings.as_ref().map(|settings| settings.namespace.clone()))
            .unwrap_or_else(|| "/service/".to_owned());
        let namespace = format!("/{}/", namespace.trim_matches('/'));
        let credentials = settings.and_then(|s| s.ctl.authentication.or(s.restapi.authentication));
        Ok(Context {
            store: Store::new(endpoints, common.command_timeout),
            scope: scope.filter(|scope| !scope.is_empty()),
            namespace: namespace.replace("//", "/"),
            credentials,
        })
    }
}

fn read_settings(path: &std::path::Path) -> Result<Settings, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::new(format!("cannot read {}: {error}", path.display())))?;
    // The node that uses the file judges it; here only what can be read matters.
    Ok(crate::config::load(&text, std::env::vars()).0)
}

/// This node's client address, then the same port at every other voter: a guess that costs nothing when it is wrong.
fn endpoints_of(settings: &Settings) -> Vec<String> {
    let own = settings.dcs.advertise_clients.to_string();
    let others = settings.dcs.initial_cluster.iter().map(|peer| {
        crate::config::settings::HostPort {
            host: peer.address.host.clone(),
            port: settings.dcs.advertise_clients.port,
        }
        .to_string()
    });
    let mut endpoints = vec![own];
    for other in others {
        if !endpoints.contains(&other) {
            endpoints.push(other);
        }
    }
    endpoints
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    text.parse::<u64>()
        .ok()
        .map(Duration::from_secs)
        .or_else(|| crate::config::etcd_flags::go_duration(text))
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "expected a duration such as 5s or 500ms".to_owned())
}
