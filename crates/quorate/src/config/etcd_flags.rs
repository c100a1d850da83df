//! etcd's flags and `ETCD_*` variables, for `quorate store`.
//!
//! The command line of an existing `etcd` unit must work as it stands, so it is read by etcd's rules and not by
//! clap's: `--flag value`, `--flag=value` and the single dash of Go, switches that stand alone, a variable for every
//! flag (`ETCD_` and the flag in capitals), the flag winning over its variable. An unknown flag is an error, because
//! the operator asked for something that will not happen; an unknown variable is a warning, as in etcd.
//!
//! Two defaults differ on purpose. Without `--heartbeat-interval` and `--election-timeout` the store uses its own
//! 80 ms and 200 to 350 ms instead of etcd's 100 and 1000. And without `--auto-compaction-retention` history is
//! compacted, etcd keeps it for ever.

use std::path::PathBuf;
use std::time::Duration;

use super::diagnostics::{Origin, Report, closest};
use super::settings::{ClusterState, HostPort, Peer};

/// What `quorate store` was told.
#[derive(Debug, Clone, PartialEq)]
pub struct StoreOptions {
    /// `--name`. Default `default`.
    pub name: String,
    /// `--data-dir`. Default `NAME.etcd`.
    pub data_dir: PathBuf,
    /// `--listen-client-urls`. Default `http://127.0.0.1:2379`.
    pub listen_clients: Vec<HostPort>,
    /// `--advertise-client-urls`. Default: the above.
    pub advertise_clients: Vec<HostPort>,
    /// `--listen-peer-urls`. Default `http://127.0.0.1:2380`.
    pub listen_peers: Vec<HostPort>,
    /// `--initial-advertise-peer-urls`, the first of them. Default: the first of the above.
    pub advertise_peer: HostPort,
    /// `--initial-cluster`. Default: this member alone.
    pub initial_cluster: Vec<Peer>,
    /// `--initial-cluster-token`. Default `etcd-cluster`.
    pub cluster_token: String,
    /// `--initial-cluster-state`. Default `new`.
    pub cluster_state: ClusterState,
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
    /// `--log-level`. Default `info`.
    pub log_level: String,
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
    Serve(Box<StoreOptions>),
    /// `--help`.
    Help,
    /// `--version`.
    Version,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Takes a value and is read.
    Value,
    /// etcd's, takes a value, without effect here.
    Ignored,
    /// etcd's switch, without effect here.
    IgnoredSwitch,
    /// etcd's, asks for something that cannot be given.
    Refused(&'static str),
}

const NO_TLS: Kind = Kind::Refused("TLS is not supported yet");

const FLAGS: &[(&str, Kind)] = &[
    ("name", Kind::Value),
    ("data-dir", Kind::Value),
    ("listen-client-urls", Kind::Value),
    ("advertise-client-urls", Kind::Value),
    ("listen-peer-urls", Kind::Value),
    ("initial-advertise-peer-urls", Kind::Value),
    ("initial-cluster", Kind::Value),
    ("initial-cluster-token", Kind::Value),
    ("initial-cluster-state", Kind::Value),
    ("heartbeat-interval", Kind::Value),
    ("election-timeout", Kind::Value),
    ("snapshot-count", Kind::Value),
    ("quota-backend-bytes", Kind::Value),
    ("auto-compaction-mode", Kind::Value),
    ("auto-compaction-retention", Kind::Value),
    ("max-request-bytes", Kind::Value),
    ("max-txn-ops", Kind::Value),
    ("log-level", Kind::Value),
    ("enable-v2", Kind::IgnoredSwitch),
    ("enable-grpc-gateway", Kind::IgnoredSwitch),
    ("enable-pprof", Kind::IgnoredSwitch),
    ("debug", Kind::IgnoredSwitch),
    ("pre-vote", Kind::IgnoredSwitch),
    ("strict-reconfig-check", Kind::IgnoredSwitch),
    ("initial-election-tick-advance", Kind::IgnoredSwitch),
    ("logger", Kind::Ignored),
    ("log-outputs", Kind::Ignored),
    ("log-package-levels", Kind::Ignored),
    ("max-snapshots", Kind::Ignored),
    ("max-wals", Kind::Ignored),
    ("metrics", Kind::Ignored),
    ("cors", Kind::Ignored),
    ("host-whitelist", Kind::Ignored),
    ("backend-batch-limit", Kind::Ignored),
    ("backend-batch-interval", Kind::Ignored),
    ("grpc-keepalive-min-time", Kind::Ignored),
    ("grpc-keepalive-interval", Kind::Ignored),
    ("grpc-keepalive-timeout", Kind::Ignored),
    ("auth-token", Kind::Ignored),
    ("wal-dir", Kind::Refused("the log lives in --data-dir; mount that on the fast disk")),
    ("listen-metrics-urls", Kind::Refused("/metrics is served on the client port")),
    ("config-file", Kind::Refused("configuration files of etcd are not read; use flags or ETCD_ variables")),
    ("discovery", Kind::Refused("discovery is not supported; name the members in --initial-cluster")),
    ("discovery-srv", Kind::Refused("discovery is not supported; name the members in --initial-cluster")),
    ("force-new-cluster", Kind::Refused("it is not supported yet")),
    ("proxy", Kind::Refused("a proxy mode does not exist here")),
    ("unsafe-no-fsync", Kind::Refused("what was acknowledged is always on disk")),
    ("cert-file", NO_TLS),
    ("key-file", NO_TLS),
    ("client-cert-auth", NO_TLS),
    ("trusted-ca-file", NO_TLS),
    ("auto-tls", NO_TLS),
    ("peer-cert-file", NO_TLS),
    ("peer-key-file", NO_TLS),
    ("peer-client-cert-auth", NO_TLS),
    ("peer-trusted-ca-file", NO_TLS),
    ("peer-auto-tls", NO_TLS),
];

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
  --log-level LEVEL                    info
  --enable-v2                          accepted, ignored

Prints `ready to serve client requests` when it is. SIGTERM and SIGINT hand the leadership over and end it with 0.
Exit codes: 0 asked to stop, 1 the member failed, 2 wrong flags.
";

/// Reads the command line (without the program's name and `store`) and the variables.
pub fn parse(
    arguments: &[String],
    variables: impl Iterator<Item = (String, String)>,
    report: &mut Report,
) -> Request {
    let mut given: Vec<(&'static str, String, Origin)> = Vec::new();
    for (variable, value) in variables {
        let Some(short) = variable.strip_prefix("ETCD_") else { continue };
        let name = short.to_ascii_lowercase().replace('_', "-");
        let origin = Origin::Variable(variable.clone());
        match find(&name) {
            Some((flag, Kind::Value)) => given.push((flag, unquote(&value).to_owned(), origin)),
            Some((_, Kind::Ignored | Kind::IgnoredSwitch)) => {
                report.note(origin, "", "accepted, has no effect")
            }
            Some((_, Kind::Refused(why))) if !value.is_empty() => report.error(origin, "", why),
            Some((_, Kind::Refused(_))) => {}
            // Variables of etcd's tools, not of the server.
            None if matches!(short, "UNSUPPORTED_ARCH" | "VERSION") => {}
            None => report.warning(origin, "", "unknown variable, ignored"),
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
            report.error(Origin::Flag(argument.clone()), "", "expected a flag");
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
                report.error(origin, "", format!("unknown flag{}", meant.unwrap_or_default()));
                // Its value, if it had one, must not be taken for the next flag.
                if attached.is_none() && rest.as_slice().first().is_some_and(|next| !next.starts_with('-')) {
                    rest.next();
                }
            }
            Some((_, Kind::IgnoredSwitch)) => report.note(origin, "", "accepted, has no effect"),
            Some((_, Kind::Refused(why))) => {
                report.error(origin, "", why);
                if attached.is_none() && rest.as_slice().first().is_some_and(|next| !next.starts_with('-')) {
                    rest.next();
                }
            }
            Some((flag, kind)) => match attached.or_else(|| rest.next().cloned()) {
                None => report.error(origin, "", "needs a value"),
                Some(value) if kind == Kind::Value => {
                    // The flag wins over its variable, the last flag over the ones before.
                    given.retain(|(other, _, _)| *other != flag);
                    given.push((flag, value, origin));
                }
                Some(_) => report.note(origin, "", "accepted, has no effect"),
            },
        }
    }
    Request::Serve(Box::new(Given(given).options(report)))
}

fn find(name: &str) -> Option<(&'static str, Kind)> {
    FLAGS.iter().find(|(flag, _)| *flag == name).copied().or_else(|| {
        // The experimental ones come and go with etcd's versions.
        name.starts_with("experimental-").then_some(("experimental", Kind::Ignored))
    })
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

struct Given(Vec<(&'static str, String, Origin)>);

impl Given {
    fn get(&self, flag: &str) -> Option<(&str, Origin)> {
        self.0
            .iter()
            .find(|(name, value, _)| *name == flag && !value.is_empty())
            .map(|(_, value, origin)| (value.as_str(), origin.clone()))
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

    fn urls(&self, flag: &str, default: &[HostPort], report: &mut Report) -> Vec<HostPort> {
        let Some((value, origin)) = self.get(flag) else { return default.to_vec() };
        let mut urls = Vec::new();
        for url in value.split(',').map(str::trim).filter(|url| !url.is_empty()) {
            match HostPort::parse(url, None) {
                Ok(address) if url.starts_with("http://") => urls.push(address),
                Ok(_) => {
                    report.error(origin.clone(), "", format!("expected http://host:port, found {url:?}"));
                }
                Err(message) => report.error(origin.clone(), "", message),
            }
        }
        if urls.is_empty() { default.to_vec() } else { urls }
    }

    fn options(&self, report: &mut Report) -> StoreOptions {
        let name = self.text("name", "default");
        let listen_clients = self.urls("listen-client-urls", &[HostPort::local(2379)], report);
        let listen_peers = self.urls("listen-peer-urls", &[HostPort::local(2380)], report);
        let advertise_clients = self.urls("advertise-client-urls", &listen_clients, report);
        if self.get("listen-client-urls").is_some() && self.get("advertise-client-urls").is_none() {
            let (_, origin) = self.get("listen-client-urls").unwrap_or(("", Origin::File));
            if listen_clients.iter().any(HostPort::is_wildcard) {
                report.error(origin, "", "listens on every interface: --advertise-client-urls must say which address clients should use");
            }
        }
        let advertised = self.urls("initial-advertise-peer-urls", &listen_peers, report);
        let advertise_peer = advertised.first().cloned().unwrap_or_else(|| HostPort::local(2380));
        if advertise_peer.is_wildcard() {
            let origin = self.get("listen-peer-urls").map_or(Origin::File, |(_, origin)| origin);
            report.error(origin, "", "listens on every interface: --initial-advertise-peer-urls must say which address the other members should use");
        }
        let initial_cluster = self.initial_cluster(&name, &advertise_peer, report);
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
            listen_peers,
            advertise_peer,
            initial_cluster,
            cluster_token: self.text("initial-cluster-token", "etcd-cluster"),
            cluster_state,
            heartbeat,
            election,
            snapshot_count: self.number("snapshot-count", report).unwrap_or(10_000).max(1),
            quota_bytes,
            compaction: self.compaction(report),
            max_request_bytes: self.number("max-request-bytes", report).unwrap_or(1_572_864),
            max_txn_ops: self.number("max-txn-ops", report).unwrap_or(128),
            log_level: self.log_level(report),
        }
    }

    fn initial_cluster(&self, name: &str, advertise: &HostPort, report: &mut Report) -> Vec<Peer> {
        let alone = || vec![Peer { name: name.to_owned(), address: advertise.clone() }];
        let Some((value, origin)) = self.get("initial-cluster") else { return alone() };
        let mut peers = Vec::new();
        for item in value.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let parsed = match item.split_once('=') {
                Some((name, url)) if !name.is_empty() => {
                    HostPort::parse(url, None).map(|address| Peer { name: name.to_owned(), address })
                }
                _ => Err(format!("expected name=http://host:port, found {item:?}")),
            };
            match parsed {
                Ok(peer) => peers.push(peer),
                Err(message) => report.error(origin.clone(), "", message),
            }
        }
        // etcd's own sentences: they are what people search for.
        match peers.iter().find(|peer| peer.name == name) {
            None => report.error(
                origin,
                "",
                format!("couldn't find local name {name:?} in the initial cluster configuration"),
            ),
            Some(own) if own.address != *advertise => report.error(
                origin,
                "",
                format!(
                    "--initial-cluster has {name}={} but missing from --initial-advertise-peer-urls={}",
                    own.address.url(),
                    advertise.url()
                ),
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
mod tests {
    use super::*;

    fn read(flags: &[&str], variables: &[(&str, &str)]) -> (StoreOptions, String) {
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let mut report = Report::default();
        match parse(&flags, variables, &mut report) {
            Request::Serve(options) => (*options, report.render("")),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_flags_it_is_one_node_on_the_usual_ports() {
        let (options, said) = read(&[], &[]);
        assert_eq!(said, "");
        assert_eq!((options.name.as_str(), options.data_dir.to_str()), ("default", Some("default.etcd")));
        assert_eq!(options.listen_clients, [HostPort::local(2379)]);
        assert_eq!(options.listen_peers, [HostPort::local(2380)]);
        assert_eq!(
            options.initial_cluster,
            [Peer { name: "default".into(), address: HostPort::local(2380) }]
        );
        assert_eq!(options.heartbeat, Duration::from_millis(80));
        assert_eq!(options.election, (Duration::from_millis(200), Duration::from_millis(350)));
        assert_eq!((options.quota_bytes, options.max_txn_ops), (Some(2 << 30), 128));
    }

    #[test]
    fn the_environment_file_of_a_field_setup() {
        let (options, said) = read(
            &[],
            &[
                ("ETCD_NAME", "u1"),
                ("ETCD_DATA_DIR", "/var/lib/etcd/default"),
                ("ETCD_LISTEN_PEER_URLS", "http://192.168.0.81:2380"),
                ("ETCD_LISTEN_CLIENT_URLS", "http://0.0.0.0:2379"),
                ("ETCD_ADVERTISE_CLIENT_URLS", "http://192.168.0.81:2379"),
                ("ETCD_INITIAL_CLUSTER_TOKEN", "'etcd-cluster-1'"),
                ("ETCD_INITIAL_CLUSTER", "u1=http://192.168.0.81:2380,u2=http://192.168.0.82:2380"),
                ("ETCD_INITIAL_CLUSTER_STATE", "'new'"),
                ("ETCD_INITIAL_ADVERTISE_PEER_URLS", "http://192.168.0.81:2380"),
            ],
        );
        assert_eq!(said, "");
        assert_eq!(options.cluster_token, "etcd-cluster-1");
        assert_eq!(options.initial_cluster.len(), 2);
        assert_eq!(options.listen_clients[0].host, "0.0.0.0");
        assert_eq!(options.advertise_clients[0].host, "192.168.0.81");
    }

    #[test]
    fn a_flag_wins_over_its_variable_in_every_spelling() {
        for flags in
            [&["--name", "b"][..], &["--name=b"], &["-name", "b"], &["-name=b"], &["--name=a", "--name=b"]]
        {
            let (options, said) = read(flags, &[("ETCD_NAME", "c"), ("ETCDCTL_API", "3")]);
            assert_eq!((options.name.as_str(), said.as_str()), ("b", ""));
        }
    }

    #[test]
    fn switches_take_no_value_and_say_that_they_do_nothing() {
        let (options, said) = read(&["--enable-v2", "--name", "b", "--enable-v2=true"], &[]);
        assert_eq!(options.name, "b");
        assert_eq!(said, "note: --enable-v2: accepted, has no effect\n".repeat(2));
    }

    #[test]
    fn everything_wrong_is_said_at_once() {
        let (_, said) = read(
            &[
                "--nmae",
                "x",
                "--listen-client-urls=localhost",
                "--initial-cluster-state=old",
                "--cert-file",
                "a.crt",
                "--heartbeat-interval=100",
                "--election-timeout=150",
                "--quota-backend-bytes=lots",
                "--data-dir",
            ],
            &[("ETCD_NAMES", "x")],
        );
        assert_eq!(
            said,
            "error: --cert-file: TLS is not supported yet\n\
             error: --data-dir: needs a value\n\
             error: --election-timeout: the election timeout (150 ms) must be at least two heartbeats (100 ms)\n\
             error: --initial-cluster-state: expected new or existing, found \"old\"\n\
             error: --listen-client-urls: expected host:port, found \"localhost\" without a port\n\
             error: --nmae: unknown flag; did you mean --name?\n\
             error: --quota-backend-bytes: expected a number, found \"lots\"\n\
             environment: warning: ETCD_NAMES: unknown variable, ignored\n"
        );
    }

    #[test]
    fn timings_and_retention() {
        let ms = Duration::from_millis;
        let (options, _) = read(&["--heartbeat-interval=100", "--election-timeout=1000"], &[]);
        assert_eq!((options.heartbeat, options.election), (ms(100), (ms(1000), ms(1750))));
        let retention = |mode: &str, kept: &str| {
            read(&["--auto-compaction-mode", mode, "--auto-compaction-retention", kept], &[]).0.compaction
        };
        assert_eq!(retention("periodic", "1"), AutoCompaction::Period(Duration::from_secs(3600)));
        assert_eq!(retention("periodic", "1h30m"), AutoCompaction::Period(Duration::from_secs(5400)));
        assert_eq!(retention("revision", "1000"), AutoCompaction::Revisions(1000));
        assert_eq!(retention("revision", "0"), AutoCompaction::Off);
    }

    #[test]
    fn an_address_nobody_can_reach_is_refused() {
        let (_, said) = read(&["--listen-client-urls", "http://0.0.0.0:2379"], &[]);
        assert!(said.contains("--advertise-client-urls must say"), "{said}");
    }
}
