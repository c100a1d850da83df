//! `quoratectl`: the cluster's verbs (as patronictl has them) and the store's (as etcdctl has them), one verb a file.
//!
//! ```text
//!   connect.rs (plain, TLS, socket) ── store.rs (next endpoint, tokens) ── follow.rs (watches and renewals that outlive one)
//!           ┌──────────────────────────────┴───────────────────────┬──────────────────────┐
//!  get put del txn watch              queue.rs (who is first)   cluster.rs (keys under /service/<scope>/ to a view)
//!  lease compaction defrag                 │                       │
//!  endpoint member move-leader          lock elect              list topology history show-config why
//!  alarm auth user role                                            └── rest.rs ── switchover failover forecast
//!  check make-mirror
//!           │
//!  answer.rs (the printer) ── go.rs (Go's JSON, quotes, sizes) ── table.rs ── output.rs (standard output)
//! ```
//!
//! # Forms
//!
//! `-w simple|table|json|fields|protobuf` prints, byte for byte, what `etcdctl` 3.5 prints; `-f pretty|json|yaml|tsv` is what
//! every query of this tool understands, also those of the cluster. `table` exists for members and endpoints only; a
//! form that does not exist is refused before anything is done. `--hex` and every other global flag of etcdctl is
//! taken, and its variable (`ETCDCTL_…`, or `QUORATECTL_…`): see `flags.rs`. Not taken is `--discovery-srv`.
//!
//! # Verbs that both tools have
//!
//! Only `version`: etcdctl's two lines, and patronictl's with the name of a cluster. `list`, `history`, `topology`,
//! `switchover` and `failover` are the cluster's; the store's list is `member list` and its leader moves with
//! `move-leader`. In `list` and `topology` `-w` is patronictl's `--watch`.
//!
//! # Exit codes
//!
//! | code | |
//! |---|---|
//! | 0 | done |
//! | 1 | refused or failed; or the command line cannot be read |
//! | 2 | `lease timetolive`, `list` and `keep-alive`: no answer about the lease |
//! | 3 | the input of `txn` or `watch -i` cannot be read; `check` would have to delete somebody's keys |
//! | 4 | the output format, or another word, does not exist for this verb |
//! | 5 | interrupted, or the store has ended a watch |
//! | 128 | arguments are missing, too many, or contradict one another |
//!
//! `lock` ends with the exit code of its command. These are etcdctl's codes; errors are one line on standard error,
//! `Error: ` and the store's own words. What etcdctl prints there besides (the log of its retries) is not printed.
//!
//! # Where it differs from etcdctl, on purpose
//!
//! - An endpoint that nobody listens on is reported at once and by name, not as `context deadline exceeded` after 5 s.
//! - `move-leader` finds the leader itself, and takes names. `member list` answers without a quorum, and says so.
//! - `lock` and `elect` revoke their session's lease when they end.
//! - A flag wins over its variable; etcdctl refuses both together.

pub mod alarm;
pub mod answer;
pub mod auth;
pub mod check;
pub mod cluster;
pub mod compaction;
pub mod completion;
pub mod connect;
pub mod defrag;
pub mod del;
pub mod elect;
pub mod endpoint;
pub mod failover;
pub mod flags;
pub mod follow;
pub mod forecast;
pub mod get;
pub mod go;
pub mod history;
pub mod keys;
pub mod kv;
pub mod lease;
pub mod list;
pub mod lock;
pub mod make_mirror;
pub mod member;
pub mod move_leader;
pub mod output;
pub mod put;
pub mod queue;
pub mod replace;
pub mod rest;
pub mod role;
pub mod show_config;
pub mod snapshot;
pub mod store;
pub mod switchover;
pub mod table;
pub mod terminal;
pub mod topology;
pub mod txn;
pub mod user;
pub mod version;
pub mod watch;
pub mod why;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand};

use crate::config::settings::{Credentials, Settings};
use answer::Shape;
use connect::{Dialer, Security};
use store::{Store, User};

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "quoratectl",
    version,
    about = "Look at a Quorate cluster and its store, and change them",
    subcommand_required = true,
    arg_required_else_help = true,
    infer_subcommands = true
)]
pub struct Cli {
    /// What every verb understands.
    #[command(flatten)]
    pub common: Common,
    /// simple, table, json, fields or protobuf, for the store's verbs
    #[arg(short = 'w', long, value_name = "FORM")]
    write_out: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What every verb understands.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Client addresses of the store, commas between; the next is asked when one is down [default: 127.0.0.1:2379]
    #[arg(long, global = true, value_delimiter = ',')]
    endpoints: Vec<String>,
    /// Longest wait for an answer of the store (5s, 500ms)
    #[arg(long, global = true, default_value = "5s", value_parser = parse_duration)]
    command_timeout: Duration,
    /// The node's configuration file: scope, addresses and passwords are taken from it
    #[arg(short = 'c', long = "config-file", global = true, env = "PATRONICTL_CONFIG_FILE")]
    config: Option<PathBuf>,
    /// The cluster's name; needed only where the store holds several
    #[arg(long, global = true, env = "PATRONI_SCOPE")]
    scope: Option<String>,
    /// The prefix of the cluster's keys [default: /service/]
    #[arg(long, global = true, env = "PATRONI_NAMESPACE")]
    namespace: Option<String>,
    #[command(flatten)]
    connection: Connection,
}

/// How the store is spoken to: etcdctl's global flags.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connection to the store")]
struct Connection {
    /// NAME or NAME:PASSWORD, where the store asks who is there
    #[arg(long, global = true)]
    user: Option<String>,
    /// The password; asked for on the terminal when there is none
    #[arg(long, global = true)]
    password: Option<String>,
    /// The authority of the store's certificates
    #[arg(long, global = true, value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// This client's certificate
    #[arg(long, global = true, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// The key of this client's certificate
    #[arg(long, global = true, value_name = "FILE")]
    key: Option<PathBuf>,
    /// No TLS to endpoints that are written without https, unless a certificate option is given
    #[arg(long, global = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value = "true", default_missing_value = "true", value_parser = go::bool, value_name = "BOOL")]
    insecure_transport: bool,
    /// Believe any certificate
    #[arg(long, global = true)]
    insecure_skip_tls_verify: bool,
    /// Longest wait for a connection
    #[arg(long, global = true, default_value = "2s", value_parser = parse_duration)]
    dial_timeout: Duration,
    /// Ping a silent endpoint so often (not below 10s)
    #[arg(long, global = true, default_value = "2s", value_parser = go_duration)]
    keepalive_time: Duration,
    /// Give an endpoint up that does not answer a ping for so long
    #[arg(long, global = true, default_value = "6s", value_parser = go_duration)]
    keepalive_timeout: Duration,
    /// Keys and values as \x.. in the simple form
    #[arg(long, global = true)]
    hex: bool,
    /// Say which endpoint answered what, and after how long
    #[arg(long, global = true)]
    debug: bool,
    /// Not supported: name the members with --endpoints
    #[arg(short = 'd', long, global = true, hide = true)]
    discovery_srv: Option<String>,
    #[arg(long, global = true, hide = true)]
    discovery_srv_name: Option<String>,
    #[arg(long, global = true, hide = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value = "true", default_missing_value = "true", value_parser = go::bool)]
    insecure_discovery: bool,
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
    /// What happened last, and why; or why nothing happens
    Why(why::Arguments),
    /// What would happen if the primary died now
    Forecast(forecast::Arguments),
    /// The cluster's dynamic configuration
    ShowConfig(show_config::Arguments),
    /// Versions of this tool and of the members
    Version(version::Arguments),
    /// Read keys
    Get(get::Arguments),
    /// Write a key
    Put(put::Arguments),
    /// Delete keys
    Del(del::Arguments),
    /// Compare keys, and do one thing or another, at once
    Txn(txn::Arguments),
    /// Follow changes of keys
    Watch(watch::Arguments),
    /// Leases
    #[command(subcommand)]
    Lease(lease::Verb),
    /// Hold a lock
    Lock(lock::Arguments),
    /// Stand for election, or watch one
    Elect(elect::Arguments),
    /// Members of the store
    #[command(subcommand)]
    Member(member::Verb),
    /// The store's endpoints
    Endpoint(endpoint::Arguments),
    /// Hand the leadership of the store to another member
    MoveLeader(move_leader::Arguments),
    /// Forget history
    Compaction(compaction::Arguments),
    /// Give back disk space
    Defrag(defrag::Arguments),
    /// The store in a file, and a new cluster from it
    #[command(subcommand)]
    Snapshot(snapshot::Verb),
    /// What keeps the store from taking writes
    #[command(subcommand)]
    Alarm(alarm::Verb),
    /// Whether the store asks who is there
    #[command(subcommand)]
    Auth(auth::Verb),
    /// Who may ask the store
    #[command(subcommand)]
    User(user::Verb),
    /// What they may ask for
    #[command(subcommand)]
    Role(role::Verb),
    /// Try what the store carries
    #[command(subcommand)]
    Check(check::Verb),
    /// Copy keys to another store
    MakeMirror(make_mirror::Arguments),
    /// A script that completes command lines in a shell
    Completion(completion::Arguments),
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

    /// Exit code 3: the input cannot be read.
    pub fn bad_input(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), code: 3 }
    }

    /// Exit code 128: arguments are missing or too many.
    pub fn bad_arguments(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), code: 128 }
    }

    /// Exit code 4: this verb has no such output.
    pub fn bad_feature(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), code: 4 }
    }

    /// Exit code 2, which etcdctl has where it asks about leases.
    #[must_use]
    pub fn of_connection(self) -> Failure {
        Failure { code: 2, ..self }
    }
}

/// What a verb gives back.
pub type Outcome = Result<(), Failure>;

/// Reads this process' command line, does what it says, and says how it went.
#[must_use]
pub fn main() -> ExitCode {
    match flags::parse::<Cli>(std::env::args_os()) {
        Ok(cli) => cli.run(),
        Err(error) => flags::report(&error, "quoratectl"),
    }
}

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
        let code = match runtime.block_on(self.perform()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                if !failure.message.is_empty() {
                    output::complain(&format!("Error: {}", failure.message));
                }
                ExitCode::from(failure.code)
            }
        };
        // A read of standard input cannot be called off; it must not hold the process.
        runtime.shutdown_background();
        code
    }

    async fn perform(self) -> Outcome {
        if let Verb::Completion(arguments) = &self.verb {
            arguments.run(flags::lenient(Cli::command()));
            return Ok(());
        }
        let context = Context::new(self.common, self.write_out.as_deref())?;
        match self.verb {
            Verb::List(arguments) => arguments.run(&context).await,
            Verb::Topology(arguments) => arguments.run(&context).await,
            Verb::Switchover(arguments) => arguments.run(&context).await,
            Verb::Failover(arguments) => arguments.run(&context).await,
            Verb::History(arguments) => arguments.run(&context).await,
            Verb::Why(arguments) => arguments.run(&context).await,
            Verb::Forecast(arguments) => arguments.run(&context).await,
            Verb::ShowConfig(arguments) => arguments.run(&context).await,
            Verb::Version(arguments) => arguments.run(&context).await,
            Verb::Get(arguments) => arguments.run(&context).await,
            Verb::Put(arguments) => arguments.run(&context).await,
            Verb::Del(arguments) => arguments.run(&context).await,
            Verb::Txn(arguments) => arguments.run(&context).await,
            Verb::Watch(arguments) => arguments.run(&context).await,
            Verb::Lease(verb) => verb.run(&context).await,
            Verb::Lock(arguments) => arguments.run(&context).await,
            Verb::Elect(arguments) => arguments.run(&context).await,
            Verb::Member(verb) => verb.run(&context).await,
            Verb::Endpoint(arguments) => arguments.run(&context).await,
            Verb::MoveLeader(arguments) => arguments.run(&context).await,
            Verb::Compaction(arguments) => arguments.run(&context).await,
            Verb::Defrag(arguments) => arguments.run(&context).await,
            Verb::Snapshot(verb) => verb.run(&context).await,
            Verb::Alarm(verb) => verb.run(&context).await,
            Verb::Auth(verb) => verb.run(&context).await,
            Verb::User(verb) => verb.run(&context).await,
            Verb::Role(verb) => verb.run(&context).await,
            Verb::Check(verb) => verb.run(&context).await,
            Verb::MakeMirror(arguments) => arguments.run(&context).await,
            Verb::Completion(_) => Ok(()),
        }
    }
}

/// Where to ask, whom to ask about, and how to print the answer.
pub struct Context {
    /// The store.
    pub store: Store,
    /// The scope that was named, if one was.
    pub scope: Option<String>,
    /// `/service/`, with slashes at both ends.
    pub namespace: String,
    /// For the guarded verbs of the REST API.
    pub credentials: Option<Credentials>,
    /// The form, where the verb's own flags name none.
    pub shape: Shape,
    /// `--hex`
    pub hex: bool,
    /// `--debug`
    pub debug: bool,
    /// For other connections than the store's.
    pub times: Times,
}

/// `--dial-timeout`, `--keepalive-time` and `--keepalive-timeout`.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct Times {
    pub dial: Duration,
    pub ping_every: Duration,
    pub ping_timeout: Duration,
}

impl Context {
    fn new(common: Common, write_out: Option<&str>) -> Result<Context, Failure> {
        let connection = common.connection;
        if connection.discovery_srv.is_some() {
            return Err(Failure::bad_arguments(
                "--discovery-srv is not supported: name the members with --endpoints",
            ));
        }
        let settings = common.config.as_deref().map(read_settings).transpose()?;
        let mut endpoints: Vec<String> =
            common.endpoints.iter().map(|endpoint| endpoint.trim().to_owned()).collect();
        endpoints.retain(|endpoint| !endpoint.is_empty());
        if endpoints.is_empty() {
            endpoints = settings.as_ref().map_or_else(Vec::new, endpoints_of);
        }
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
        let times = Times {
            dial: connection.dial_timeout,
            ping_every: connection.keepalive_time,
            ping_timeout: connection.keepalive_timeout,
        };
        let security = Security {
            cacert: file("cacert", connection.cacert)?,
            cert: file("cert", connection.cert)?,
            key: file("key", connection.key)?,
            required: !connection.insecure_transport,
            unverified: connection.insecure_skip_tls_verify,
        };
        let dialer = Dialer::new(times.dial, times.ping_every, times.ping_timeout, security);
        dialer.check().map_err(Failure::bad_arguments)?;
        let user = user_of(connection.user.as_deref(), connection.password.as_deref(), "Password: ")?;
        let (hex, debug) = (connection.hex, connection.debug);
        Ok(Context {
            store: Store::new(endpoints, common.command_timeout, Arc::new(dialer), user, debug),
            scope: scope.filter(|scope| !scope.is_empty()),
            namespace: namespace.replace("//", "/"),
            credentials,
            shape: write_out.map_or(Ok(Shape::Simple), Shape::named)?,
            hex,
            debug,
            times,
        })
    }
}

/// A file that was named by an empty name was not meant to be left out.
fn file(flag: &str, path: Option<PathBuf>) -> Result<Option<PathBuf>, Failure> {
    match path {
        Some(path) if path.as_os_str().is_empty() => {
            Err(Failure::bad_arguments(format!("empty string is passed to --{flag} option")))
        }
        path => Ok(path),
    }
}

/// `--user` and `--password`; a password that is in neither is asked for.
///
/// # Errors
/// It cannot be asked for.
pub fn user_of(user: Option<&str>, password: Option<&str>, prompt: &str) -> Result<Option<User>, Failure> {
    let Some(user) = user.filter(|user| !user.is_empty()) else { return Ok(None) };
    let (name, password) = match (password.filter(|password| !password.is_empty()), user.split_once(':')) {
        (Some(password), _) => (user, password.to_owned()),
        (None, Some((name, password))) => (name, password.to_owned()),
        (None, None) => (user, terminal::password(prompt).map_err(|failure| Failure { code: 1, ..failure })?),
    };
    Ok(Some(User { name: name.to_owned(), password }))
}

fn read_settings(path: &std::path::Path) -> Result<Settings, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::new(format!("cannot read {}: {error}", path.display())))?;
    // The node that uses the file judges it; here only what can be read matters.
    Ok(crate::config::load(&text, std::env::vars()).0)
}

/// This node's client address, then the same port at every other voter: a guess that costs nothing when it is wrong.
fn endpoints_of(settings: &Settings) -> Vec<String> {
    let scheme = if settings.dcs.tls.clients().is_some() { "https://" } else { "" };
    let own = format!("{scheme}{}", settings.dcs.advertise_clients);
    let others = settings.dcs.initial_cluster.iter().map(|peer| {
        let address = crate::config::settings::HostPort {
            host: peer.address.host.clone(),
            port: settings.dcs.advertise_clients.port,
        };
        format!("{scheme}{address}")
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
    go_duration(text)
        .ok()
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "expected a duration such as 5s or 500ms".to_owned())
}

/// Zero too.
fn go_duration(text: &str) -> Result<Duration, String> {
    text.parse::<u64>()
        .ok()
        .map(Duration::from_secs)
        .or_else(|| crate::config::etcd_flags::go_duration(text))
        .ok_or_else(|| "expected a duration such as 5s or 500ms".to_owned())
}
