//! Every setting of a node, with its default.
//!
//! The names and the nesting are those of a Patroni file, because that is what its users have; `dcs` is the section
//! that Quorate adds, for the voter of the store that lives in the same process. [`Settings::default`] is what an
//! empty file means, apart from `scope`, `name` and `postgresql.data_dir`, which have no default and must be given.
//! `deploy/quorate.example.yml` shows all of it with comments, and a test holds the two equal.
//!
//! A setting's default is stated here and nowhere else: the reader ([`super::patroni`]) starts from this value and
//! replaces what the file names.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::tls::TlsFiles;

/// Everything `quorate run` is told.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Settings {
    /// Name of the PostgreSQL cluster; part of every key in the store. Required.
    pub scope: String,
    /// Prefix of the keys in the store. Default `/service/`.
    pub namespace: String,
    /// Name of this node, unique in the cluster. Required.
    pub name: String,
    /// System user that PostgreSQL runs as when Quorate was started as root. Default `postgres`.
    pub user: String,
    /// The REST API that load balancers and `quoratectl` ask.
    pub restapi: RestApi,
    /// The voter of the store in this process.
    pub dcs: Dcs,
    /// How a cluster begins.
    pub bootstrap: Bootstrap,
    /// The local PostgreSQL.
    pub postgresql: Postgresql,
    /// What others may expect of this node.
    pub tags: Tags,
    /// The process that stops PostgreSQL when its lease runs out and the agent cannot.
    pub guard: Guard,
    /// The device that restarts the machine when that process cannot either.
    pub watchdog: Watchdog,
    /// Logging.
    pub log: Log,
    /// What `quoratectl` needs to talk to the REST API.
    pub ctl: Ctl,
}

/// `restapi:`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RestApi {
    /// Where to listen. Default `127.0.0.1:8008`.
    pub listen: HostPort,
    /// The address that others reach it by, published in the member key. Default: `listen`.
    pub connect_address: HostPort,
    /// Name and password that requests which change something must carry. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Credentials>,
}

/// `dcs:`, the embedded voter.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Dcs {
    /// Log, snapshots and database of the store. Best on a disk of its own. Default `/var/lib/quorate`.
    pub data_dir: PathBuf,
    /// Where to listen for the other voters. Default `127.0.0.1:2380`.
    pub listen_peers: HostPort,
    /// The address the other voters reach this one by. Default: `listen_peers`.
    pub advertise_peers: HostPort,
    /// Where to listen for clients (`quoratectl`, `etcdctl`, Patroni's tools). Default `127.0.0.1:2379`.
    pub listen_clients: HostPort,
    /// The address that clients reach this voter by. Default: `listen_clients`.
    pub advertise_clients: HostPort,
    /// Name and peer address of every initial voter, this one included. Default: this one alone.
    pub initial_cluster: Vec<Peer>,
    /// Distinguishes clusters that share addresses. Default: `quorate-` and the scope.
    pub cluster_token: String,
    /// `new`, or `existing` to join a cluster that the others already form. Default `new`.
    pub initial_cluster_state: ClusterState,
    /// What lies between the voters: `local`, or `wan` where a round trip may take a second. Default `local`. Decides the two
    /// keys below where they are not written, and with the first of them how long voters wait for each other.
    pub network: Network,
    /// Interval of Raft heartbeats, in milliseconds; longer than a round trip between voters ever takes. Default 80, `wan` 1500.
    #[serde(serialize_with = "milliseconds")]
    pub heartbeat_interval: Duration,
    /// Shortest and longest election timeout, in milliseconds; one number N in the file is the longest, N / 1.75 the
    /// shortest.
    /// Default 200 to 350, `wan` 3750 to 6560.
    #[serde(serialize_with = "pair_of_milliseconds")]
    pub election_timeout: (Duration, Duration),
    /// Applied entries between two snapshots. Default 10000.
    pub snapshot_count: u64,
    /// Database size that raises the NOSPACE alarm, in bytes; 0 is no limit. Default 2 GiB.
    pub quota_backend_bytes: u64,
    /// This node votes in the store and runs no PostgreSQL; `postgresql` and `restapi` are not needed then. Default false.
    pub witness: bool,
    /// Certificates of both ports. With a certificate all of the port's URLs are `https`. Default: none.
    #[serde(flatten)]
    pub tls: TlsFiles,
}

/// `bootstrap:`, used once in a cluster's life.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bootstrap {
    /// Becomes the cluster's dynamic configuration (`/config` in the store). Later changes belong there.
    pub dcs: Dynamic,
    /// Options of `initdb`: `data-checksums` or `encoding: UTF8`, in the order of the file. Default: none.
    pub initdb: Vec<InitdbOption>,
    /// Lines for `pg_hba.conf` of a new cluster; `postgresql.pg_hba` goes before it. Default: none.
    pub pg_hba: Vec<String>,
}

/// The dynamic configuration that a new cluster starts with.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Dynamic {
    /// `fast`, `default` or `wan`: the four times below by one word; those that are written win. Default: none, the
    /// times as below.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<quorate_ha::Preset>,
    /// How long the primary lease lives without a renewal, in seconds; at least 2. Default 5.
    #[serde(serialize_with = "seconds")]
    pub ttl: Duration,
    /// The longest nap between two looks at the instance, in seconds. Default 1.
    #[serde(serialize_with = "seconds")]
    pub loop_wait: Duration,
    /// How long one request to the store or to PostgreSQL may be retried, in seconds. Default 1.
    #[serde(serialize_with = "seconds")]
    pub retry_timeout: Duration,
    /// How long the primary's node may be silent before the standbys take over by quorum, in seconds; 0: never, the lease
    /// alone decides. Only in a synchronous mode. Default 3.
    #[serde(serialize_with = "seconds")]
    pub failure_timeout: Duration,
    /// A standby further behind than this, in bytes, is not promoted. Default 1 MiB.
    pub maximum_lag_on_failover: u64,
    /// Whether a commit waits for a standby. Default `on`.
    pub synchronous_mode: SynchronousMode,
    /// In a synchronous mode: refuse writes rather than commit without a standby. Default false.
    pub synchronous_mode_strict: bool,
    /// How many standbys confirm a commit in a synchronous mode. Default 1.
    pub synchronous_node_count: u32,
    /// How long a crashed primary may take to recover in place before another is promoted, in seconds. Default 300.
    #[serde(serialize_with = "seconds")]
    pub primary_start_timeout: Duration,
    /// The part of the dynamic configuration that concerns PostgreSQL.
    pub postgresql: DynamicPostgresql,
    /// All of `bootstrap.dcs` as it was written, keys that only later versions read included: this, completed with
    /// the defaults above, is what the store keeps.
    #[serde(skip)]
    pub written: serde_json::Value,
}

/// `bootstrap.dcs.postgresql:`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DynamicPostgresql {
    /// Rejoin a diverged data directory by `pg_rewind` where possible. Default true.
    pub use_pg_rewind: bool,
    /// Keep a physical replication slot for every member. Default true.
    pub use_slots: bool,
    /// Settings of PostgreSQL, the same on every node. Default: none.
    pub parameters: Parameters,
    /// The whole of `pg_hba.conf`, on every node. Default: none.
    pub pg_hba: Vec<String>,
}

/// `postgresql:`, the local instance.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Postgresql {
    /// Addresses (comma between them) and port to listen on. Default `127.0.0.1:5432`.
    pub listen: HostPort,
    /// The address that clients and standbys reach it by. Default: `listen`.
    pub connect_address: HostPort,
    /// The data directory. Required.
    pub data_dir: PathBuf,
    /// Where `postgres`, `initdb`, `pg_rewind` … are. Default: empty, they are searched in `PATH` and in
    /// `/usr/lib/postgresql/*/bin`.
    pub bin_dir: PathBuf,
    /// Where passwords for connections to other members are kept. Default: `pgpass` beside the data directory.
    pub pgpass: PathBuf,
    /// Roles that Quorate uses.
    pub authentication: Authentication,
    /// Settings of this instance only; they override those of the dynamic configuration, except for those that all
    /// nodes must agree on ([`AGREED`]). The first of `unix_socket_directories` is where the local socket is made;
    /// without it `/tmp`. Default: none.
    pub parameters: Parameters,
    /// The whole of `pg_hba.conf` on this node. Default: none (the dynamic configuration's, else one that admits
    /// the members).
    pub pg_hba: Vec<String>,
    /// Longest wait for a start, stop or promotion by PostgreSQL's tools, in seconds. Default 60.
    #[serde(serialize_with = "seconds")]
    pub pg_ctl_timeout: Duration,
    /// Programs that are told what has happened to PostgreSQL. Default: none.
    pub callbacks: Callbacks,
    /// Run between the leader lock and a promotion, which waits for it; if it fails there is none, and the lock goes to
    /// somebody else. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pre_promote: Option<CommandLine>,
    /// Run before PostgreSQL is stopped in good order; the stop waits for it for ten seconds, whatever comes of it. Default:
    /// none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before_stop: Option<CommandLine>,
}

/// `postgresql.callbacks:`; each is called with the event, the role and the scope after its own words.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Callbacks {
    /// PostgreSQL was started, or is found running.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_start: Option<CommandLine>,
    /// PostgreSQL was stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_stop: Option<CommandLine>,
    /// PostgreSQL was restarted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_restart: Option<CommandLine>,
    /// PostgreSQL has read its configuration again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_reload: Option<CommandLine>,
    /// A standby was promoted, a former primary is a standby.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_role_change: Option<CommandLine>,
}

/// A program and its arguments. No shell reads it: write `sh -c '…'` where one should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// As written.
    pub line: String,
    /// Its words, at least one.
    pub words: Vec<String>,
}

impl Serialize for CommandLine {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.line)
    }
}

/// `postgresql.authentication:`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Authentication {
    /// Creates the others, checks the instance. Default `postgres`, no password.
    pub superuser: Credentials,
    /// Standbys stream with it. Default `replicator`, no password.
    pub replication: Credentials,
    /// `pg_rewind` connects with it. Default: the superuser.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewind: Option<Credentials>,
}

/// A role and its password.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Credentials {
    /// Name of the role or user.
    pub username: String,
    /// Its password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
}

/// `tags:`
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Tags {
    /// Never promoted. Default false.
    pub nofailover: bool,
    /// `/replica` answers 503. Default false.
    pub noloadbalance: bool,
    /// Preferred as the source of a clone. Default false.
    pub clonefrom: bool,
    /// Never a synchronous standby. Default false.
    pub nosync: bool,
    /// Of two equally good candidates the higher is promoted; 0 is never. Default: 1 (absent).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failover_priority: Option<i64>,
    /// Tags of the operator's own, for `?tag_x=y`.
    #[serde(flatten)]
    pub custom: BTreeMap<String, serde_json::Value>,
}

/// `guard:`; Patroni has none.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Guard {
    /// `automatic`: a node whose guard does not work is not promoted, and a primary that loses its guard for good goes on;
    /// `required`: it hands over; `off`: there is none. Default `automatic`.
    pub mode: LayerMode,
}

/// `watchdog:`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Watchdog {
    /// `off`, `automatic` (used if it can be) or `required` (no primary without it). Default `off`: Patroni's is `automatic`,
    /// but a device that restarts machines should be asked for.
    pub mode: LayerMode,
    /// Default `/dev/watchdog`.
    pub device: PathBuf,
    /// How long before the end of the lease the device bites, in seconds; -1 is half of the lease, as in Patroni. Default:
    /// right before the end, when the guard has had its chance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub safety_margin: Option<SafetyMargin>,
}

/// See [`Watchdog::safety_margin`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SafetyMargin {
    /// -1.
    HalfOfTtl,
    /// So long.
    Before(Duration),
}

impl Serialize for SafetyMargin {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            SafetyMargin::HalfOfTtl => serializer.serialize_i64(-1),
            SafetyMargin::Before(margin) => seconds(margin, serializer),
        }
    }
}

/// How much a layer of fencing counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum LayerMode {
    Off,
    Automatic,
    Required,
}

/// `log:`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Log {
    /// `debug`, `info`, `warn` or `error`; Patroni's names are understood. Default `info`.
    pub level: String,
    /// `plain` or `json`. Default `plain`.
    #[serde(rename = "type")]
    pub format: LogFormat,
}

/// `ctl:`
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Ctl {
    /// Name and password for the REST API's guarded verbs. Default: those of `restapi.authentication`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Credentials>,
}

/// Settings that must be equal on all nodes: only the dynamic configuration says them. Patroni's list.
pub const AGREED: [&str; 11] = [
    "max_connections",
    "max_locks_per_transaction",
    "max_worker_processes",
    "max_prepared_transactions",
    "max_wal_senders",
    "max_replication_slots",
    "wal_level",
    "track_commit_timestamp",
    "wal_log_hints",
    "wal_keep_size",
    "wal_keep_segments",
];

/// Settings that Quorate itself decides wherever they are written.
pub const OWNED: [&str; 10] = [
    "listen_addresses",
    "port",
    "cluster_name",
    "hot_standby",
    "primary_conninfo",
    "primary_slot_name",
    "recovery_target_timeline",
    "synchronous_standby_names",
    "data_directory",
    "hba_file",
];

/// Settings of PostgreSQL in the order of their names, as text.
pub type Parameters = BTreeMap<String, String>;

/// `host:port`. The host may be a list with commas where PostgreSQL allows one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// Name, IPv4 address, IPv6 address without brackets, or `*`.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// A voter's name and peer address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The node's name.
    pub name: String,
    /// Its `dcs.advertise_peers`.
    pub address: HostPort,
}

/// `--encoding=UTF8` or `--data-checksums`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitdbOption {
    /// Without dashes.
    pub name: String,
    /// None for a switch.
    pub value: Option<String>,
}

/// A password. Printed as `********` everywhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

/// See [`Dcs::initial_cluster_state`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum ClusterState {
    New,
    Existing,
}

/// See [`Dcs::network`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Round trips of milliseconds.
    Local,
    /// Round trips of up to a second.
    Wan,
}

impl Network {
    /// Longer than a round trip: openraft gives up on a heartbeat after one interval.
    #[must_use]
    pub fn heartbeat_interval(self) -> Duration {
        Duration::from_millis(match self {
            Network::Local => 80,
            Network::Wan => 1_500,
        })
    }

    /// Two heartbeats and more at the shortest. A vote has to be answered within the shortest; the longest is for how long a
    /// follower believes in a leader, and a leader in itself.
    #[must_use]
    pub fn election_timeout(self) -> (Duration, Duration) {
        let (shortest, longest) = match self {
            Network::Local => (200, 350),
            Network::Wan => (3_750, 6_560),
        };
        (Duration::from_millis(shortest), Duration::from_millis(longest))
    }
}

/// See [`Dynamic::synchronous_mode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SynchronousMode {
    /// Commits wait for nobody.
    Off,
    /// Commits wait for the named standbys.
    On,
    /// Commits wait for any of a set of standbys.
    Quorum,
}

/// See [`Log::format`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One readable line.
    Plain,
    /// One JSON object a line.
    Json,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            scope: String::new(),
            namespace: "/service/".to_owned(),
            name: String::new(),
            user: "postgres".to_owned(),
            restapi: RestApi {
                listen: HostPort::local(8008),
                connect_address: HostPort::local(8008),
                authentication: None,
            },
            dcs: Dcs::default(),
            bootstrap: Bootstrap { dcs: Dynamic::default(), initdb: Vec::new(), pg_hba: Vec::new() },
            postgresql: Postgresql::default(),
            tags: Tags::default(),
            guard: Guard { mode: LayerMode::Automatic },
            watchdog: Watchdog {
                mode: LayerMode::Off,
                device: PathBuf::from("/dev/watchdog"),
                safety_margin: None,
            },
            log: Log { level: "info".to_owned(), format: LogFormat::Plain },
            ctl: Ctl::default(),
        }
    }
}

impl Default for Dcs {
    fn default() -> Dcs {
        Dcs {
            data_dir: PathBuf::from("/var/lib/quorate"),
            listen_peers: HostPort::local(2380),
            advertise_peers: HostPort::local(2380),
            listen_clients: HostPort::local(2379),
            advertise_clients: HostPort::local(2379),
            initial_cluster: Vec::new(),
            cluster_token: String::new(),
            initial_cluster_state: ClusterState::New,
            network: Network::Local,
            heartbeat_interval: Network::Local.heartbeat_interval(),
            election_timeout: Network::Local.election_timeout(),
            snapshot_count: 10_000,
            quota_backend_bytes: 2 << 30,
            witness: false,
            tls: TlsFiles::default(),
        }
    }
}

impl Default for Dynamic {
    fn default() -> Dynamic {
        Dynamic {
            preset: None,
            ttl: Duration::from_secs(5),
            loop_wait: Duration::from_secs(1),
            retry_timeout: Duration::from_secs(1),
            failure_timeout: Duration::from_secs(3),
            maximum_lag_on_failover: 1 << 20,
            synchronous_mode: SynchronousMode::On,
            synchronous_mode_strict: false,
            synchronous_node_count: 1,
            primary_start_timeout: Duration::from_secs(300),
            postgresql: DynamicPostgresql {
                use_pg_rewind: true,
                use_slots: true,
                parameters: Parameters::new(),
                pg_hba: Vec::new(),
            },
            written: serde_json::Value::Null,
        }
    }
}

impl Default for Postgresql {
    fn default() -> Postgresql {
        let role = |name: &str| Credentials { username: name.to_owned(), password: None };
        Postgresql {
            listen: HostPort::local(5432),
            connect_address: HostPort::local(5432),
            data_dir: PathBuf::new(),
            bin_dir: PathBuf::new(),
            pgpass: PathBuf::new(),
            authentication: Authentication {
                superuser: role("postgres"),
                replication: role("replicator"),
                rewind: None,
            },
            parameters: Parameters::new(),
            pg_hba: Vec::new(),
            pg_ctl_timeout: Duration::from_secs(60),
            callbacks: Callbacks::default(),
            pre_promote: None,
            before_stop: None,
        }
    }
}

impl Dynamic {
    /// What the store's `/config` starts as: everything that was written, completed with the defaults, in Patroni's
    /// form.
    #[must_use]
    pub fn to_config(&self) -> serde_json::Value {
        let mut config = serde_json::to_value(self).unwrap_or_default();
        if let Some(postgresql) = config.get_mut("postgresql").and_then(|value| value.as_object_mut()) {
            // Empty ones would replace, in a merge, what a node's own file says.
            postgresql.retain(|_, value| {
                !value.as_object().is_some_and(|map| map.is_empty())
                    && !value.as_array().is_some_and(|list| list.is_empty())
            });
        }
        // Written out, the times of a preset would win over it for ever.
        if let (Some(_), Some(map)) = (self.preset, config.as_object_mut()) {
            map.retain(|key, _| !quorate_ha::Preset::KEYS.contains(&key.as_str()));
        }
        merge(&mut config, &self.written);
        let parameters = config.pointer_mut("/postgresql/parameters").and_then(|value| value.as_object_mut());
        if let Some(parameters) = parameters {
            modernise(parameters);
        }
        config
    }
}

/// `wal_keep_segments` is gone since PostgreSQL 13 and would keep the server from starting; Patroni translates it too.
fn modernise(parameters: &mut serde_json::Map<String, serde_json::Value>) {
    let Some(old) = parameters.remove("wal_keep_segments") else { return };
    let segments = old.as_u64().or_else(|| old.as_str().and_then(|text| text.trim().parse().ok()));
    if let Some(segments) = segments.filter(|_| !parameters.contains_key("wal_keep_size")) {
        parameters.insert("wal_keep_size".to_owned(), format!("{}MB", segments.saturating_mul(16)).into());
    }
}

/// Deep merge: `over` wins, objects are joined.
fn merge(into: &mut serde_json::Value, over: &serde_json::Value) {
    match (into, over) {
        (serde_json::Value::Object(into), serde_json::Value::Object(over)) => {
            for (key, value) in over {
                match into.get_mut(key) {
                    Some(existing) => merge(existing, value),
                    None => {
                        into.insert(key.clone(), value.clone());
                    }
                }
            }
        }
        (_, serde_json::Value::Null) => {}
        (into, over) => *into = over.clone(),
    }
}

impl HostPort {
    /// The loopback address.
    #[must_use]
    pub fn local(port: u16) -> HostPort {
        HostPort { host: "127.0.0.1".to_owned(), port }
    }

    /// Parses `host:port`, `[v6]:port`, a URL `http://host:port`, or a bare host when `default_port` is given.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn parse(text: &str, default_port: Option<u16>) -> Result<HostPort, String> {
        let bare = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        if bare.starts_with("https://") {
            return Err("TLS between the members is not supported yet; use http:// or host:port".to_owned());
        }
        let port_of = |port: &str| {
            port.parse::<u16>()
                .map_err(|_| format!("expected host:port, found {text:?}: {port:?} is no port"))
        };
        let no_port =
            || default_port.ok_or_else(|| format!("expected host:port, found {text:?} without a port"));
        let (host, port) = if let Some(rest) = bare.strip_prefix('[') {
            let Some((host, tail)) = rest.split_once(']') else {
                return Err(format!("expected [address]:port, found {text:?}"));
            };
            match tail.strip_prefix(':') {
                Some(port) => (host, port_of(port)?),
                None => (host, no_port()?),
            }
        } else {
            match bare.rsplit_once(':') {
                Some((host, port)) => (host, port_of(port)?),
                None => (bare, no_port()?),
            }
        };
        if host.is_empty() || host.contains(char::is_whitespace) {
            return Err(format!("expected host:port, found {text:?}"));
        }
        Ok(HostPort { host: host.to_owned(), port })
    }

    /// True when it names every interface, so that it cannot be told to others.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.host.split(',').any(|host| matches!(host.trim(), "*" | "0.0.0.0" | "::" | "0" | ""))
    }

    /// `http://host:port`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{self}")
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Serialize for HostPort {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Peer {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}={}", self.name, self.address))
    }
}

impl Serialize for InitdbOption {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.value {
            None => serializer.serialize_str(&self.name),
            Some(value) => serializer.collect_map([(&self.name, value)]),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("********")
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("********")
    }
}

fn seconds<S: serde::Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    if value.subsec_nanos() == 0 {
        serializer.serialize_u64(value.as_secs())
    } else {
        serializer.serialize_f64(value.as_secs_f64())
    }
}

fn milliseconds<S: serde::Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
}

fn pair_of_milliseconds<S: serde::Serializer>(
    value: &(Duration, Duration),
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq([value.0.as_millis() as u64, value.1.as_millis() as u64])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_in_every_spelling() {
        let parse = |text| HostPort::parse(text, None).map(|address| (address.host.clone(), address.port));
        assert_eq!(parse("pg-master:8008"), Ok(("pg-master".into(), 8008)));
        assert_eq!(parse("http://10.0.0.1:2380/"), Ok(("10.0.0.1".into(), 2380)));
        assert_eq!(parse("[::1]:2380"), Ok(("::1".into(), 2380)));
        assert_eq!(parse("127.0.0.1,10.0.0.1:5432"), Ok(("127.0.0.1,10.0.0.1".into(), 5432)));
        assert_eq!(HostPort::parse("*", Some(5432)).unwrap().port, 5432);
        assert!(parse("localhost").is_err() && parse("a:70000").is_err() && parse(":1").is_err());
        assert_eq!(HostPort::parse("[::1]:1", None).unwrap().to_string(), "[::1]:1");
        assert!(HostPort::parse("0.0.0.0:1", None).unwrap().is_wildcard());
    }

    #[test]
    fn no_secret_is_ever_printed() {
        let mut settings = Settings::default();
        settings.postgresql.authentication.superuser.password = Some(Secret("hunter2".into()));
        assert!(!format!("{settings:?}").contains("hunter2"));
        assert!(!serde_json::to_string(&settings).unwrap().contains("hunter2"));
    }

    #[test]
    fn a_preset_is_kept_as_a_word_beside_what_was_written() {
        let written = serde_json::json!({"preset": "fast", "failure_timeout": 2});
        let preset = Some(quorate_ha::Preset::Fast);
        let config = Dynamic { preset, written, ..Dynamic::default() }.to_config();
        assert_eq!((&config["preset"], &config["failure_timeout"]), (&"fast".into(), &2.into()));
        assert!(config.get("ttl").is_none() && config.get("loop_wait").is_none());
    }

    #[test]
    fn the_first_dynamic_configuration_keeps_what_was_written() {
        let dynamic = Dynamic {
            written: serde_json::json!({
                "slots": {"a": {"type": "physical"}},
                "postgresql": {"parameters": {"x": 1, "wal_keep_segments": 32}},
            }),
            ..Dynamic::default()
        };
        let config = dynamic.to_config();
        assert_eq!(config["ttl"], 5);
        assert_eq!(config["slots"]["a"]["type"], "physical");
        assert_eq!(config["postgresql"]["parameters"], serde_json::json!({"x": 1, "wal_keep_size": "512MB"}));
        assert_eq!(config["postgresql"]["use_slots"], true);
        assert!(config["postgresql"].get("pg_hba").is_none());
    }
}
