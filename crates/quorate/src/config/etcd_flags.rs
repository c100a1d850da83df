//! etcd's flags and `ETCD_*` variables, for `quorate store`.
//!
//! The command line of an existing `etcd` unit must work as it stands, so it is read by etcd's rules and not by
//! clap's: `--flag value`, `--flag=value` and the single dash of Go, switches that stand alone, a variable for every
//! flag (`ETCD_` and the flag in capitals), the flag winning over its variable. An unknown flag is an error, because
//! the operator asked for something that will not happen; an unknown variable is a warning, as in etcd. A configuration file
//! ([`super::etcd_file`]) takes the place of both. What becomes of each flag is in one table ([`super::etcd_table`]).
//!
//! Two defaults differ on purpose. Without `--heartbeat-interval` and `--election-timeout` the store uses its own
//! 80 ms and 200 to 350 ms instead of etcd's 100 and 1000. And without `--auto-compaction-retention` history is
//! compacted, etcd keeps it for ever.

mod auth;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate_node::AuthOptions;
use quorate_tls::{Pair, Version};

use super::diagnostics::{Origin, Report, closest};
use super::etcd_file;
use super::etcd_table::{FLAGS, Kind, find};
use super::settings::{ClusterState, HostPort, LogFormat};
use super::tls::TlsFiles;

/// What `quorate store` was told.
#[derive(Debug, Clone, PartialEq)]
pub struct StoreOptions {
    /// `--name`. Default `default`.
    pub name: String,
    /// `--data-dir`. Default `NAME.etcd`.
    pub data_dir: PathBuf,
    /// `--listen-client-urls`. Default `http://127.0.0.1:2379`.
    pub listen_clients: Vec<Url>,
    /// `--advertise-client-urls`. Default: the above.
    pub advertise_clients: Vec<Url>,
    /// `--listen-metrics-urls`. Default: none.
    pub listen_metrics: Vec<Url>,
    /// `--listen-peer-urls`. Default `http://127.0.0.1:2380`.
    pub listen_peers: Vec<Url>,
    /// `--initial-advertise-peer-urls`, the first of them. Default: the first of the above.
    pub advertise_peer: Url,
    /// `--initial-cluster`: names and peer URLs, the first of each member. Default: this member alone.
    pub initial_cluster: Vec<(String, Url)>,
    /// Certificates of both ports.
    pub tls: TlsFiles,
    /// `--initial-cluster-token`. Default `etcd-cluster`.
    pub cluster_token: String,
    /// `--initial-cluster-state`. Default `new`.
    pub cluster_state: ClusterState,
    /// `--force-new-cluster`: go on alone with what is on this disk. Default false.
    pub force_new_cluster: bool,
    /// `--heartbeat-interval`. Default 80 ms.
    pub heartbeat: Duration,
    /// `--election-timeout` N means N to 1.75 N. Default 200 to 350 ms.
    pub election: (Duration, Duration),
    /// `--snapshot-count`. Default 10000.
    pub snapshot_count: u64,
    /// `--quota-backend-bytes`; 0 is the default of 2 GiB, negative is no limit (None).
    pub quota_bytes: Option<u64>,
    /// `--auto-compaction-mode` and `--auto-compaction-retention`.
    pub compaction: AutoCompaction,
    /// `--max-request-bytes`. Default 1.5 MiB.
    pub max_request_bytes: usize,
    /// `--max-txn-ops`. Default 128.
    pub max_txn_ops: usize,
    /// `--max-learners`. Default 1.
    pub max_learners: usize,
    /// `--auth-token`, `--auth-token-ttl` and `--bcrypt-cost`.
    pub auth: AuthOptions,
    /// `--watch-progress-notify-interval`. Default 10 min.
    pub progress_interval: Duration,
    /// `--log-level`. Default `info`.
    pub log_level: String,
    /// `--log-format json`. Default plain.
    pub log_format: LogFormat,
}

/// An address with its scheme.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// `https`.
    pub tls: bool,
    /// The rest.
    pub address: HostPort,
}

impl Url {
    /// Parses `http://host:port` or `https://host:port`.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn parse(text: &str) -> Result<Url, String> {
        let wanted = || format!("expected http://host:port or https://host:port, found {text:?}");
        let (tls, rest) = match text.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some(("unix" | "unixs", _)) => {
                return Err("unix sockets are not listened on; use http://".to_owned());
            }
            Some(_) | None => return Err(wanted()),
        };
        let address = HostPort::parse(rest, None).map_err(|_| wanted())?;
        Ok(Url { tls, address })
    }

    /// Without TLS, on this machine.
    #[must_use]
    pub fn local(port: u16) -> Url {
        Url { tls: false, address: HostPort::local(port) }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.address)
    }
}

/// How old revisions are forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoCompaction {
    /// No flag was given: the store's own default.
    Default,
    /// Retention 0.
    Off,
    /// Keep this many revisions.
    Revisions(i64),
    /// Keep this much time.
    Period(Duration),
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Request {
    /// Serve; usable if the report has no errors.
    Serve {
        /// What with.
        options: Box<StoreOptions>,
        /// The configuration file that lines of the report are about.
        file: Option<PathBuf>,
    },
    /// `--help`.
    Help,
    /// `--version`.
    Version,
}

/// The text of `quorate store --help`.
pub const HELP: &str = "\
quorate store: an etcd-compatible store, without PostgreSQL

Takes etcd's flags (--flag value, --flag=value) and ETCD_* variables; a flag wins over its variable.

  --name NAME                          default
  --data-dir DIR                       NAME.etcd
  --listen-client-urls URLS            http://127.0.0.1:2379
  --advertise-client-urls URLS         as listened on
  --listen-peer-urls URLS              http://127.0.0.1:2380
  --initial-advertise-peer-urls URL    as listened on
  --initial-cluster NAME=URL,...       this member alone
  --initial-cluster-token TOKEN        etcd-cluster
  --initial-cluster-state new|existing new
  --heartbeat-interval MS              80
  --election-timeout MS                200 (a random time between this and 1.75 times this)
  --snapshot-count N                   10000
  --quota-backend-bytes N              0: 2 GiB; negative: no limit
  --auto-compaction-mode MODE          periodic|revision
  --auto-compaction-retention N        hours, a duration such as 10m, or revisions; 0: never
                                       (not given: the newest 10000 revisions are kept)
  --max-request-bytes N                1572864
  --max-txn-ops N                      128
  --max-learners N                     1
  --auth-token simple|jwt,...          simple
                                       (jwt,sign-method=RS256,priv-key=FILE,pub-key=FILE,ttl=5m)
  --auth-token-ttl S                   300 (seconds since the last use)
  --bcrypt-cost N                      10
  --log-level LEVEL                    info
  --log-format plain|json              plain
  --watch-progress-notify-interval D   10m
  --listen-metrics-urls URLS           none: /metrics is on the client port alone

TLS (https:// in the URLs above); files are read again when they change:
  --cert-file --key-file               the client port's certificate
  --trusted-ca-file                    clients must show a certificate of this authority
  --client-cert-auth --client-crl-file --client-cert-allowed-hostname
  --peer-cert-file --peer-key-file --peer-trusted-ca-file   the same among the members
  --peer-client-cert-auth --peer-crl-file --peer-cert-allowed-cn --peer-cert-allowed-hostname
  --peer-client-cert-file --peer-client-key-file            shown to the members connected to
  --cipher-suites --tls-min-version --tls-max-version       TLS1.2 and TLS1.3 are spoken

  --config-file FILE                   etcd's file instead of flags and variables

Other flags of etcd are accepted, with a line that says why they change nothing, or refused, with the remedy.

Prints `ready to serve client requests` when it is. SIGTERM and SIGINT hand the leadership over and end it with 0.
Exit codes: 0 asked to stop, 1 the member failed, 2 wrong flags.
";

/// Reads the command line (without the program's name and `store`), the variables, and the configuration file that either of
/// them names.
pub fn parse(
    arguments: &[String],
    variables: impl Iterator<Item = (String, String)>,
    report: &mut Report,
) -> Request {
    let mut given = Given::default();
    // Findings count only where there is no file.
    let mut found = Report::default();
    let variables: Vec<(String, String)> = variables.collect();
    for (variable, value) in &variables {
        let Some(short) = variable.strip_prefix("ETCD_") else { continue };
        let name = short.to_ascii_lowercase().replace('_', "-");
        let origin = Origin::Variable(variable.clone());
        match find(&name) {
            Some((flag, kind)) => given.put(flag, kind, unquote(value).to_owned(), &origin, "", &mut found),
            // Variables of etcd's tools, not of the server.
            None if matches!(short, "UNSUPPORTED_ARCH" | "VERSION") => {}
            None => found.warning(origin, "", "unknown variable, ignored"),
        }
    }
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if matches!(argument.as_str(), "-h" | "--help" | "-help") {
            return Request::Help;
        }
        if matches!(argument.as_str(), "--version" | "-version") {
            return Request::Version;
        }
        let Some(body) = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')) else {
            found.error(Origin::Flag(argument.clone()), "", "expected a flag");
            continue;
        };
        let (name, attached) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (body, None),
        };
        let origin = Origin::Flag(format!("--{name}"));
        match find(name) {
            None => {
                let meant = closest(name, FLAGS.iter().map(|(flag, _)| *flag))
                    .map(|flag| format!("; did you mean --{flag}?"));
                found.error(origin, "", format!("unknown flag{}", meant.unwrap_or_default()));
                // Its value, if it had one, must not be taken for the next flag.
                if attached.is_none() && rest.as_slice().first().is_some_and(|next| !next.starts_with('-')) {
                    rest.next();
                }
            }
            // As in Go, a switch takes a value only behind the equals sign.
            Some((flag, kind)) if kind.is_switch() => {
                let value = attached.unwrap_or_else(|| "true".to_owned());
                given.put(flag, kind, value, &origin, "", &mut found);
            }
            Some((flag, kind)) => match attached.or_else(|| rest.next().cloned()) {
                None => found.error(origin, "", "needs a value"),
                Some(value) => given.put(flag, kind, value, &origin, "", &mut found),
            },
        }
    }
    let Some((file, _)) = given.get("config-file") else {
        report.absorb(found);
        return Request::Serve { options: Box::new(given.options(report)), file: None };
    };
    let file = PathBuf::from(file);
    for (name, origin) in given.origins.iter().filter(|(name, _)| *name != "config-file") {
        report.warning(origin.clone(), "", format!("ignored: {name} is read from {} alone", file.display()));
    }
    let mut given = Given::default();
    etcd_file::read(&file, &mut given, report);
    Request::Serve { options: Box::new(given.options(report)), file: Some(file) }
}

/// Environment files that are not read by a shell keep their quotes.
fn unquote(value: &str) -> &str {
    for quote in ['\'', '"'] {
        if let Some(inner) = value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            return inner;
        }
    }
    value
}

/// What was written, by the names of flags.
#[derive(Default)]
pub(super) struct Given {
    read: Vec<(&'static str, String, Origin)>,
    /// Everything that was named, read or not.
    origins: Vec<(&'static str, Origin)>,
}

impl Given {
    /// Takes a value in, or says why it changes nothing. The last one of a name counts.
    pub(super) fn put(
        &mut self,
        flag: &'static str,
        kind: Kind,
        value: String,
        origin: &Origin,
        path: &str,
        report: &mut Report,
    ) {
        self.origins.push((flag, origin.clone()));
        let on = go_bool(&value);
        match kind {
            Kind::Value => {
                self.read.retain(|(other, _, _)| *other != flag);
                self.read.push((flag, value, origin.clone()));
            }
            Kind::Switch | Kind::IgnoredSwitch(_) | Kind::RefusedSwitch(_) if on.is_none() => {
                // An empty variable is as good as none.
                if !value.is_empty() {
                    report.error(origin.clone(), path, format!("expected true or false, found {value:?}"));
                }
            }
            Kind::Switch => {
                self.read.retain(|(other, _, _)| *other != flag);
                self.read.push((flag, on.unwrap_or_default().to_string(), origin.clone()));
            }
            Kind::Ignored(why) | Kind::IgnoredSwitch(why) => {
                report.note(origin.clone(), path, format!("accepted, has no effect: {why}"));
            }
            Kind::Refused(harmless, why) => {
                if !value.is_empty() && !harmless.contains(&value.as_str()) {
                    report.error(origin.clone(), path, why);
                }
            }
            Kind::RefusedSwitch(why) => {
                if on == Some(true) {
                    report.error(origin.clone(), path, why);
                }
            }
        }
    }

    fn get(&self, flag: &str) -> Option<(&str, Origin)> {
        self.read
            .iter()
            .find(|(name, value, _)| *name == flag && !value.is_empty())
            .map(|(_, value, origin)| (value.as_str(), origin.clone()))
    }

    fn path(&self, flag: &str) -> Option<PathBuf> {
        self.get(flag).map(|(value, _)| Path::new(value).to_owned())
    }

    fn is_on(&self, flag: &str) -> bool {
        self.get(flag).is_some_and(|(value, _)| value == "true")
    }

    fn list(&self, flag: &str) -> Vec<String> {
        let (value, _) = self.get(flag).unwrap_or(("", Origin::File));
        value.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
    }

    fn text(&self, flag: &str, default: &str) -> String {
        self.get(flag).map_or(default, |(value, _)| value).to_owned()
    }

    fn number<T: std::str::FromStr>(&self, flag: &str, report: &mut Report) -> Option<T> {
        let (value, origin) = self.get(flag)?;
        let number = value.parse().ok();
        if number.is_none() {
            report.error(origin, "", format!("expected a number, found {value:?}"));
        }
        number
    }

    fn urls(&self, flag: &str, default: &[Url], report: &mut Report) -> Vec<Url> {
        let Some((_, origin)) = self.get(flag) else { return default.to_vec() };
        let mut urls = Vec::new();
        for url in self.list(flag) {
            match Url::parse(&url) {
                Ok(url) => urls.push(url),
                Err(message) => report.error(origin.clone(), "", message),
            }
        }
        if urls.is_empty() { default.to_vec() } else { urls }
    }

    pub(super) fn options(&self, report: &mut Report) -> StoreOptions {
        let name = self.text("name", "default");
        let listen_clients = self.urls("listen-client-urls", &[Url::local(2379)], report);
        let listen_peers = self.urls("listen-peer-urls", &[Url::local(2380)], report);
        let listen_metrics = self.urls("listen-metrics-urls", &[], report);
        let advertise_clients = self.urls("advertise-client-urls", &listen_clients, report);
        let wildcard = |url: &Url| url.address.is_wildcard();
        if self.get("listen-client-urls").is_some() && self.get("advertise-client-urls").is_none() {
            let (_, origin) = self.get("listen-client-urls").unwrap_or(("", Origin::File));
            if listen_clients.iter().any(wildcard) {
                report.error(origin, "", "listens on every interface: --advertise-client-urls must say which address clients should use");
            }
        }
        let advertised = self.urls("initial-advertise-peer-urls", &listen_peers, report);
        let advertise_peer = advertised.first().cloned().unwrap_or_else(|| Url::local(2380));
        if wildcard(&advertise_peer) {
            let origin = self.get("listen-peer-urls").map_or(Origin::File, |(_, origin)| origin);
            report.error(origin, "", "listens on every interface: --initial-advertise-peer-urls must say which address the other members should use");
        }
        let initial_cluster = self.initial_cluster(&name, &advertise_peer, report);
        let tls = self.tls(report);
        self.schemes(&tls, &listen_clients, &listen_metrics, &listen_peers, &initial_cluster, report);
        let cluster_state = match self.get("initial-cluster-state") {
            None | Some(("new", _)) => ClusterState::New,
            Some(("existing", _)) => ClusterState::Existing,
            Some((other, origin)) => {
                report.error(origin, "", format!("expected new or existing, found {other:?}"));
                ClusterState::New
            }
        };
        let (heartbeat, election) = self.timings(report);
        let quota_bytes = match self.number::<i64>("quota-backend-bytes", report) {
            None | Some(0) => Some(2 << 30),
            Some(bytes) => u64::try_from(bytes).ok(),
        };
        StoreOptions {
            data_dir: PathBuf::from(self.text("data-dir", &format!("{name}.etcd"))),
            name,
            listen_clients,
            advertise_clients,
            listen_metrics,
            listen_peers,
            advertise_peer,
            initial_cluster,
            tls,
            cluster_token: self.text("initial-cluster-token", "etcd-cluster"),
            cluster_state,
            force_new_cluster: self.is_on("force-new-cluster"),
            heartbeat,
            election,
            snapshot_count: self.number("snapshot-count", report).unwrap_or(10_000).max(1),
            quota_bytes,
            compaction: self.compaction(report),
            max_request_bytes: self.number("max-request-bytes", report).unwrap_or(1_572_864),
            max_txn_ops: self.number("max-txn-ops", report).unwrap_or(128),
            max_learners: self.number("max-learners", report).unwrap_or(1),
            auth: self.auth(report),
            progress_interval: self.progress_interval(report),
            log_level: self.log_level(report),
            log_format: match self.get("log-format") {
                None | Some(("plain" | "console", _)) => LogFormat::Plain,
                Some(("json", _)) => LogFormat::Json,
                Some((other, origin)) => {
                    report.error(origin, "", format!("expected plain or json, found {other:?}"));
                    LogFormat::Plain
                }
            },
        }
    }

    fn tls(&self, report: &mut Report) -> TlsFiles {
        let peer_client_pair = match (self.path("peer-client-cert-file"), self.path("peer-client-key-file")) {
            (Some(cert), Some(key)) => Some(Pair { cert, key }),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                let flag = "peer-client-cert-file";
                let origin = self.get(flag).map_or(Origin::File, |(_, origin)| origin);
                report.error(origin, "", "--peer-client-cert-file and --peer-client-key-file go together");
                None
            }
        };
        let mut tls = TlsFiles {
            cert_file: self.path("cert-file"),
            key_file: self.path("key-file"),
            trusted_ca_file: self.path("trusted-ca-file"),
            client_cert_auth: self.is_on("client-cert-auth"),
            client_crl_file: self.path("client-crl-file"),
            peer_cert_file: self.path("peer-cert-file"),
            peer_key_file: self.path("peer-key-file"),
            peer_trusted_ca_file: self.path("peer-trusted-ca-file"),
            peer_client_cert_auth: self.is_on("peer-client-cert-auth"),
            peer_crl_file: self.path("peer-crl-file"),
            peer_client_pair,
            client_allowed_hosts: self.list("client-cert-allowed-hostname"),
            peer_allowed_names: self.list("peer-cert-allowed-cn"),
            peer_allowed_hosts: self.list("peer-cert-allowed-hostname"),
            ..TlsFiles::default()
        };
        tls.protocol.suites = self.list("cipher-suites");
        for (flag, version) in
            [("tls-min-version", &mut tls.protocol.min), ("tls-max-version", &mut tls.protocol.max)]
        {
            match self.get(flag).map(|(text, origin)| (Version::parse(text), origin)) {
                None => {}
                Some((Ok(parsed), _)) => *version = Some(parsed),
                Some((Err(error), origin)) => report.error(origin, "", error.to_string()),
            }
        }
        if let Err(error) = tls.protocol.check() {
            let named = self.get("cipher-suites").or_else(|| self.get("tls-min-version"));
            report.error(named.map_or(Origin::File, |(_, origin)| origin), "", error.to_string());
        }
        let spell = |field: &'static str| format!("--{}", field.replace('_', "-"));
        for (field, sentence) in tls.problems(spell) {
            let origin = self.get(&field.replace('_', "-")).map_or(Origin::File, |(_, origin)| origin);
            report.error(origin, "", sentence);
        }
        tls
    }

    /// Whether schemes and certificates go together.
    fn schemes(
        &self,
        tls: &TlsFiles,
        listen_clients: &[Url],
        listen_metrics: &[Url],
        listen_peers: &[Url],
        cluster: &[(String, Url)],
        report: &mut Report,
    ) {
        let origin = |flag| self.get(flag).map_or(Origin::File, |(_, origin): (&str, Origin)| origin);
        let clients = tls.cert_file.is_some() || tls.key_file.is_some();
        let peers = tls.peer_cert_file.is_some() || tls.peer_key_file.is_some();
        for (flag, urls, is_ready, files) in [
            ("listen-client-urls", listen_clients, clients, "--cert-file and --key-file"),
            ("listen-metrics-urls", listen_metrics, clients, "--cert-file and --key-file"),
            ("listen-peer-urls", listen_peers, peers, "--peer-cert-file and --peer-key-file"),
        ] {
            if !is_ready && urls.iter().any(|url| url.tls) {
                report.error(origin(flag), "", format!("https:// needs a certificate: set {files}"));
            }
        }
        if !peers && listen_peers.iter().all(|url| !url.tls) && cluster.iter().any(|(_, url)| url.tls) {
            let why =
                "https:// among the members needs a certificate: set --peer-cert-file and --peer-key-file";
            report.error(origin("initial-cluster"), "", why);
        }
        let plain = |urls: &[Url]| urls.iter().all(|url| !url.tls);
        if tls.clients().is_some() && plain(listen_clients) {
            let why = "the certificate is not used: no --listen-client-urls begins with https://";
            report.warning(origin("cert-file"), "", why);
        }
        if tls.peers().is_some() && plain(listen_peers) {
            let why = "the certificate is not used: no --listen-peer-urls begins with https://";
            report.warning(origin("peer-cert-file"), "", why);
        }
    }

    fn progress_interval(&self, report: &mut Report) -> Duration {
        let given = self
            .get("watch-progress-notify-interval")
            .or_else(|| self.get("experimental-watch-progress-notify-interval"));
        let default = Duration::from_secs(600);
        let Some((text, origin)) = given else { return default };
        go_duration(text).filter(|interval| !interval.is_zero()).unwrap_or_else(|| {
            report.error(origin, "", format!("expected a duration such as 10m, found {text:?}"));
            default
        })
    }

    fn initial_cluster(&self, name: &str, advertise: &Url, report: &mut Report) -> Vec<(String, Url)> {
        let Some((_, origin)) = self.get("initial-cluster") else {
            return vec![(name.to_owned(), advertise.clone())];
        };
        let mut peers: Vec<(String, Url)> = Vec::new();
        for item in self.list("initial-cluster") {
            let parsed = match item.split_once('=') {
                Some((name, url)) if !name.is_empty() => Url::parse(url).map(|url| (name.to_owned(), url)),
                _ => Err(format!("expected name=http://host:port, found {item:?}")),
            };
            match parsed {
                Ok((name, url)) if peers.iter().any(|(other, _)| *other == name) => {
                    let why = format!("{name} has one peer URL here, the first; {url} is left out");
                    report.warning(origin.clone(), "", why);
                }
                Ok(peer) => peers.push(peer),
                Err(message) => report.error(origin.clone(), "", message),
            }
        }
        // etcd's own sentences: they are what people search for.
        match peers.iter().find(|(other, _)| other == name) {
            None => report.error(
                origin,
                "",
                format!("couldn't find local name {name:?} in the initial cluster configuration"),
            ),
            Some((_, own)) if own != advertise => report.error(
                origin,
                "",
                format!("--initial-cluster has {name}={own} but missing from --initial-advertise-peer-urls={advertise}"),
            ),
            Some(_) => {}
        }
        peers
    }

    fn timings(&self, report: &mut Report) -> (Duration, (Duration, Duration)) {
        let heartbeat = self.number("heartbeat-interval", report).unwrap_or(80_u64);
        let election = match self.number::<u64>("election-timeout", report) {
            Some(least) => (least, least.saturating_mul(7) / 4),
            // Only the heartbeat was given: keep the proportion of the defaults.
            None if heartbeat > 80 => (heartbeat.saturating_mul(5) / 2, heartbeat.saturating_mul(35) / 8),
            None => (200, 350),
        };
        let origin = self
            .get("election-timeout")
            .or_else(|| self.get("heartbeat-interval"))
            .map_or(Origin::File, |(_, origin)| origin);
        if heartbeat == 0 {
            report.error(origin, "", "the heartbeat interval must be at least 1 ms");
        } else if election.0 < heartbeat.saturating_mul(2) {
            report.error(
                origin,
                "",
                format!(
                    "the election timeout ({} ms) must be at least two heartbeats ({heartbeat} ms)",
                    election.0
                ),
            );
        } else if election.0 > 50_000 {
            report.error(origin, "", "the election timeout must be at most 50000 ms");
        }
        let ms = Duration::from_millis;
        (ms(heartbeat), (ms(election.0), ms(election.1)))
    }

    fn compaction(&self, report: &mut Report) -> AutoCompaction {
        let mode = self.text("auto-compaction-mode", "periodic");
        if mode != "periodic" && mode != "revision" {
            let origin = self.get("auto-compaction-mode").map_or(Origin::File, |(_, origin)| origin);
            report.error(origin, "", format!("expected periodic or revision, found {mode:?}"));
            return AutoCompaction::Default;
        }
        let Some((retention, origin)) = self.get("auto-compaction-retention") else {
            return AutoCompaction::Default;
        };
        if retention == "0" {
            return AutoCompaction::Off;
        }
        let parsed = if mode == "revision" {
            retention.parse::<i64>().ok().filter(|kept| *kept > 0).map(AutoCompaction::Revisions)
        } else {
            // A bare number is hours.
            match retention.parse::<u64>() {
                Ok(hours) => Some(Duration::from_secs(hours.saturating_mul(3600))),
                Err(_) => go_duration(retention),
            }
            .map(AutoCompaction::Period)
        };
        parsed.unwrap_or_else(|| {
            report.error(origin, "", format!("{retention:?} is no retention for the {mode} mode"));
            AutoCompaction::Default
        })
    }

    fn log_level(&self, report: &mut Report) -> String {
        match self.get("log-level") {
            None if self.is_on("debug") => "debug".to_owned(),
            None => "info".to_owned(),
            Some((level @ ("debug" | "info" | "warn" | "error"), _)) => level.to_owned(),
            Some(("panic" | "fatal" | "dpanic", _)) => "error".to_owned(),
            Some((other, origin)) => {
                report.error(origin, "", format!("expected debug, info, warn or error, found {other:?}"));
                "info".to_owned()
            }
        }
    }
}

/// Go's notation for truth.
fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// Go's notation for durations: `1h30m`, `10m`, `300ms`.
#[must_use]
pub fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        rest = &rest[letters..];
        total = total.checked_add(Duration::try_from_secs_f64(number * unit).ok()?)?;
    }
    Some(total)
}

#[cfg(test)]
mod tests;
