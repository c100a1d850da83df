//! From the tree of a Patroni file to [`Settings`].
//!
//! Each section is one function that starts from the defaults and replaces what the file names. What can only be
//! judged together (an address that others must be able to reach, a voter missing from its own list) is judged at the
//! end, on settings that are complete whatever went wrong before.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::diagnostics::{Origin, Report};
use super::reader::{Section, as_boolean, as_duration, set};
use super::settings::{
    AGREED, Bootstrap, Callbacks, ClusterState, CommandLine, Credentials, Ctl, Dcs, Dynamic, HostPort,
    InitdbOption, LayerMode, Log, LogFormat, Network, OWNED, Peer, Postgresql, RestApi, SafetyMargin,
    Settings, SynchronousMode, Tags,
};
use super::tls::TlsFiles;
use super::yaml::{Node, Value};

/// The shortest time to live of the primary lease: below it, one lost packet is a failover.
pub const LEAST_TTL_S: u64 = 2;
const MILLISECOND: Duration = Duration::from_millis(1);

/// Reads the whole tree. The settings are complete in any case; they may be used if the report has no errors.
pub fn read(root: &Node, report: &mut Report) -> Settings {
    let mut settings = Settings::default();
    let file = Section::root(root);
    file.require("scope", "the name of the PostgreSQL cluster, the same on all of its nodes", report);
    file.require("name", "the name of this node, unique in the cluster", report);
    set(&mut settings.scope, file.string("scope", report));
    set(&mut settings.namespace, file.string("namespace", report));
    set(&mut settings.name, file.string("name", report));
    set(&mut settings.user, file.string("user", report));
    for (key, name) in [("scope", &settings.scope), ("name", &settings.name)] {
        let unfit = name.contains('/') || name.chars().any(char::is_whitespace);
        if let Some(present) = file.present(key).filter(|_| unfit) {
            present.reject(report, "may not contain a slash or a space: it is part of keys in the store");
        }
    }
    restapi(&file.section("restapi", report), &mut settings.restapi, report);
    dcs(&file.section("dcs", report), &mut settings.dcs, report);
    bootstrap(&file.section("bootstrap", report), &mut settings.bootstrap, report);
    let section = file.section("postgresql", report);
    if !settings.dcs.witness {
        section.require("data_dir", "the data directory of PostgreSQL on this node", report);
    }
    postgresql(&section, &mut settings.postgresql, report);
    tags(&file.section("tags", report), &mut settings.tags, report);
    log(&file.section("log", report), &mut settings.log, report);
    set(&mut settings.guard.mode, layer_mode(&file.section("guard", report), report));
    watchdog(&file.section("watchdog", report), &mut settings, report);
    ctl(&file.section("ctl", report), &mut settings.ctl, report);
    judge(&file, &mut settings, report);
    settings
}

fn restapi(section: &Section<'_>, restapi: &mut RestApi, report: &mut Report) {
    set(&mut restapi.listen, section.address("listen", Some(8008), report));
    restapi.connect_address = restapi.listen.clone();
    set(&mut restapi.connect_address, section.address("connect_address", Some(8008), report));
    reachable(section, "listen", "connect_address", &restapi.connect_address, report);
    restapi.authentication = complete_credentials(section, report);
}

fn complete_credentials(section: &Section<'_>, report: &mut Report) -> Option<Credentials> {
    let nobody = Credentials { username: String::new(), password: None };
    let credentials = section.credentials("authentication", &nobody, report)?;
    if credentials.username.is_empty() || credentials.password.is_none() {
        if let Some(present) = section.present("authentication") {
            present.reject(report, "needs both username and password");
        }
        return None;
    }
    Some(credentials)
}

/// An address that stands for "every interface" cannot be told to others.
fn reachable(section: &Section<'_>, listen: &str, connect: &str, address: &HostPort, report: &mut Report) {
    if address.is_wildcard() || address.host.contains(',') {
        let Some(present) = section.present(connect).or_else(|| section.present(listen)) else { return };
        present.reject(
            report,
            format!("others cannot reach {address}: set {connect} to the host:port that they should use"),
        );
    }
}

fn dcs(section: &Section<'_>, dcs: &mut Dcs, report: &mut Report) {
    set(&mut dcs.data_dir, section.string("data_dir", report).map(PathBuf::from));
    set(&mut dcs.listen_peers, section.address("listen_peers", Some(2380), report));
    dcs.advertise_peers = dcs.listen_peers.clone();
    set(&mut dcs.advertise_peers, section.address("advertise_peers", Some(2380), report));
    reachable(section, "listen_peers", "advertise_peers", &dcs.advertise_peers, report);
    set(&mut dcs.listen_clients, section.address("listen_clients", Some(2379), report));
    dcs.advertise_clients = dcs.listen_clients.clone();
    set(&mut dcs.advertise_clients, section.address("advertise_clients", Some(2379), report));
    reachable(section, "listen_clients", "advertise_clients", &dcs.advertise_clients, report);
    set(&mut dcs.initial_cluster, initial_cluster(section, report));
    set(&mut dcs.cluster_token, section.string("cluster_token", report));
    let states = [("new", ClusterState::New), ("existing", ClusterState::Existing)];
    set(&mut dcs.initial_cluster_state, either(section, "initial_cluster_state", states, report));
    let networks = [("local", Network::Local), ("wan", Network::Wan)];
    set(&mut dcs.network, either(section, "network", networks, report));
    dcs.heartbeat_interval = dcs.network.heartbeat_interval();
    dcs.election_timeout = dcs.network.election_timeout();
    set(
        &mut dcs.heartbeat_interval,
        section.duration("heartbeat_interval", MILLISECOND, Duration::from_millis(10), report),
    );
    set(&mut dcs.election_timeout, election_timeout(section, report));
    if dcs.election_timeout.0 < dcs.heartbeat_interval * 2 {
        let place = section.present("election_timeout").or_else(|| section.present("heartbeat_interval"));
        if let Some(present) = place {
            present.reject(
                report,
                format!(
                    "the shortest election timeout ({} ms) must be at least two heartbeats ({} ms): one late \
                     heartbeat would cost the leader its place",
                    dcs.election_timeout.0.as_millis(),
                    dcs.heartbeat_interval.as_millis(),
                ),
            );
        }
    }
    set(&mut dcs.snapshot_count, section.number("snapshot_count", 1, report));
    set(&mut dcs.quota_backend_bytes, section.number("quota_backend_bytes", 0, report));
    set(&mut dcs.witness, section.boolean("witness", report));
    tls(section, &mut dcs.tls, report);
}

fn tls(section: &Section<'_>, tls: &mut TlsFiles, report: &mut Report) {
    for (key, file) in [
        ("cert_file", &mut tls.cert_file),
        ("key_file", &mut tls.key_file),
        ("trusted_ca_file", &mut tls.trusted_ca_file),
        ("client_crl_file", &mut tls.client_crl_file),
        ("peer_cert_file", &mut tls.peer_cert_file),
        ("peer_key_file", &mut tls.peer_key_file),
        ("peer_trusted_ca_file", &mut tls.peer_trusted_ca_file),
        ("peer_crl_file", &mut tls.peer_crl_file),
    ] {
        *file = section.string(key, report).map(PathBuf::from);
    }
    set(&mut tls.client_cert_auth, section.boolean("client_cert_auth", report));
    set(&mut tls.peer_client_cert_auth, section.boolean("peer_client_cert_auth", report));
    for (field, sentence) in tls.problems(|field| format!("dcs.{field}")) {
        if let Some(present) = section.present(field) {
            present.reject(report, sentence);
        }
    }
}

/// `name=host:port,…` as text or as a list.
fn initial_cluster(section: &Section<'_>, report: &mut Report) -> Option<Vec<Peer>> {
    let present = section.present("initial_cluster")?;
    let lines = section.lines("initial_cluster", report)?;
    let mut peers: Vec<Peer> = Vec::new();
    for item in lines.iter().flat_map(|line| line.split(',')).map(str::trim).filter(|item| !item.is_empty()) {
        let parsed = match item.split_once('=') {
            Some((name, address)) if !name.is_empty() => HostPort::parse(address.trim(), Some(2380))
                .map(|address| Peer { name: name.trim().to_owned(), address }),
            _ => Err(format!("expected name=host:port, found {item:?}")),
        };
        match parsed {
            Err(message) => present.reject(report, message),
            Ok(peer) => {
                if peers.iter().any(|other| other.name == peer.name) {
                    present.reject(report, format!("{} is named twice", peer.name));
                } else if peers.iter().any(|other| other.address == peer.address) {
                    present.reject(report, format!("{} is the address of two voters", peer.address));
                }
                peers.push(peer);
            }
        }
    }
    Some(peers)
}

/// What the word under `key` stands for, one of two.
fn either<T: Copy>(
    section: &Section<'_>,
    key: &str,
    words: [(&str, T); 2],
    report: &mut Report,
) -> Option<T> {
    let found = section.string(key, report)?;
    let known = words.iter().find(|(word, _)| *word == found).map(|(_, value)| *value);
    if let (None, Some(present)) = (known, section.present(key)) {
        let [(one, _), (other, _)] = words;
        present.reject(report, format!("expected {one} or {other}, found {found:?}"));
    }
    known
}

fn election_timeout(section: &Section<'_>, report: &mut Report) -> Option<(Duration, Duration)> {
    let present = section.present("election_timeout")?;
    if let Value::List(items) = &present.node.value {
        let pair: Vec<Duration> = items.iter().filter_map(|item| as_duration(item, MILLISECOND)).collect();
        return match pair.as_slice() {
            [least, most] if items.len() == 2 && least < most => Some((*least, *most)),
            _ => {
                present.reject(report, "expected [shortest, longest] in milliseconds, the shortest first");
                None
            }
        };
    }
    let longest = section.duration("election_timeout", MILLISECOND, Duration::from_millis(20), report)?;
    Some((longest.mul_f64(1.0 / 1.75), longest))
}

fn bootstrap(section: &Section<'_>, bootstrap: &mut Bootstrap, report: &mut Report) {
    dynamic(&section.section("dcs", report), &mut bootstrap.dcs, report);
    set(&mut bootstrap.pg_hba, section.lines("pg_hba", report));
    let Some(present) = section.present("initdb") else { return };
    let items = match &present.node.value {
        Value::List(items) => items.as_slice(),
        Value::Map(_) => std::slice::from_ref(present.node),
        Value::Null | Value::Bool(_) | Value::Integer(_) | Value::Float(_) | Value::String(_) => {
            present.reject(report, "expected a list such as [data-checksums, {encoding: UTF8}]");
            return;
        }
    };
    for item in items {
        match &item.value {
            Value::String(name) => bootstrap.initdb.push(initdb_option(name, None)),
            Value::Map(entries) => {
                for entry in entries {
                    match (&entry.node.value, entry.node.as_text()) {
                        (Value::Bool(true) | Value::Null, _) => {
                            bootstrap.initdb.push(initdb_option(&entry.key, None));
                        }
                        (Value::Bool(false), _) => {}
                        (_, Some(value)) => bootstrap.initdb.push(initdb_option(&entry.key, Some(value))),
                        (_, None) => report.error(
                            entry.origin.clone(),
                            format!("{}.{}", present.path, entry.key),
                            format!("expected a value, found {}", entry.node.describe()),
                        ),
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Integer(_) | Value::Float(_) | Value::List(_) => report
                .error(
                    item.origin.clone(),
                    &present.path,
                    format!("expected an option of initdb, found {}", item.describe()),
                ),
        }
    }
    // These name what Quorate itself decides; initdb would take the last one given.
    const OURS: [&str; 4] = ["pgdata", "username", "pwfile", "pwprompt"];
    for option in bootstrap.initdb.iter().filter(|option| OURS.contains(&option.name.as_str())) {
        present.reject(report, format!("{} is set by quorate and cannot be given here", option.name));
    }
}

fn initdb_option(name: &str, value: Option<String>) -> InitdbOption {
    InitdbOption { name: name.trim_start_matches('-').to_owned(), value }
}

fn dynamic(section: &Section<'_>, dynamic: &mut Dynamic, report: &mut Report) {
    if let Some(present) = section.present("preset") {
        dynamic.preset = present.node.as_text().as_deref().and_then(quorate_ha::Preset::parse);
        match dynamic.preset.map(quorate_ha::Preset::times) {
            Some(times) => {
                (dynamic.ttl, dynamic.failure_timeout) = (times.ttl, times.failure_timeout);
                (dynamic.loop_wait, dynamic.retry_timeout) =
                    (times.waits.loop_wait, times.waits.retry_timeout);
            }
            None => present
                .reject(report, format!("expected fast, default or wan, found {}", present.node.describe())),
        }
    }
    set(&mut dynamic.ttl, section.seconds("ttl", LEAST_TTL_S, report));
    set(
        &mut dynamic.loop_wait,
        section.duration("loop_wait", Duration::from_secs(1), Duration::from_millis(100), report),
    );
    set(
        &mut dynamic.retry_timeout,
        section.duration("retry_timeout", Duration::from_secs(1), Duration::from_millis(100), report),
    );
    set(
        &mut dynamic.failure_timeout,
        section.duration("failure_timeout", Duration::from_secs(1), Duration::ZERO, report),
    );
    set(&mut dynamic.maximum_lag_on_failover, section.number("maximum_lag_on_failover", 0, report));
    if let Some(present) = section.present("synchronous_mode") {
        match (as_boolean(present.node), present.node.as_text().as_deref()) {
            (Some(true), _) => dynamic.synchronous_mode = SynchronousMode::On,
            (Some(false), _) => dynamic.synchronous_mode = SynchronousMode::Off,
            (None, Some("quorum")) => dynamic.synchronous_mode = SynchronousMode::Quorum,
            (None, _) => {
                present
                    .reject(report, format!("expected off, on or quorum, found {}", present.node.describe()));
            }
        }
    }
    set(&mut dynamic.synchronous_mode_strict, section.boolean("synchronous_mode_strict", report));
    let count =
        section.number("synchronous_node_count", 1, report).and_then(|count| u32::try_from(count).ok());
    set(&mut dynamic.synchronous_node_count, count);
    // The old name first: Patroni lets the new one win.
    set(&mut dynamic.primary_start_timeout, section.seconds("master_start_timeout", 0, report));
    set(&mut dynamic.primary_start_timeout, section.seconds("primary_start_timeout", 0, report));
    let postgresql = section.section("postgresql", report);
    set(&mut dynamic.postgresql.use_pg_rewind, postgresql.boolean("use_pg_rewind", report));
    set(&mut dynamic.postgresql.use_slots, postgresql.boolean("use_slots", report));
    set(&mut dynamic.postgresql.parameters, postgresql.parameters("parameters", report));
    parameters_without_effect(&postgresql.section("parameters", &mut Report::default()), false, report);
    set(&mut dynamic.postgresql.pg_hba, postgresql.lines("pg_hba", report));
    dynamic.written = section.node().map_or(serde_json::Value::Null, Node::to_json);
}

fn postgresql(section: &Section<'_>, postgresql: &mut Postgresql, report: &mut Report) {
    set(&mut postgresql.listen, section.address("listen", Some(5432), report));
    postgresql.connect_address = postgresql.listen.clone();
    set(
        &mut postgresql.connect_address,
        section.address("connect_address", Some(postgresql.listen.port), report),
    );
    reachable(section, "listen", "connect_address", &postgresql.connect_address, report);
    set(&mut postgresql.data_dir, section.string("data_dir", report).map(PathBuf::from));
    set(&mut postgresql.bin_dir, section.string("bin_dir", report).map(PathBuf::from));
    set(&mut postgresql.pgpass, section.string("pgpass", report).map(PathBuf::from));
    let roles = section.section("authentication", report);
    let authentication = &mut postgresql.authentication;
    let superuser = roles.credentials("superuser", &authentication.superuser, report);
    set(&mut authentication.superuser, superuser);
    let replication = roles.credentials("replication", &authentication.replication, report);
    set(&mut authentication.replication, replication);
    let rewind = Credentials { username: "rewind_user".to_owned(), password: None };
    authentication.rewind = roles.credentials("rewind", &rewind, report);
    set(&mut postgresql.parameters, section.parameters("parameters", report));
    parameters_without_effect(&section.section("parameters", &mut Report::default()), true, report);
    set(&mut postgresql.pg_hba, section.lines("pg_hba", report));
    set(&mut postgresql.pg_ctl_timeout, section.seconds("pg_ctl_timeout", 1, report));
    let scripts = section.section("callbacks", report);
    postgresql.callbacks = Callbacks {
        on_start: command_line(&scripts, "on_start", report),
        on_stop: command_line(&scripts, "on_stop", report),
        on_restart: command_line(&scripts, "on_restart", report),
        on_reload: command_line(&scripts, "on_reload", report),
        on_role_change: command_line(&scripts, "on_role_change", report),
    };
    postgresql.pre_promote = command_line(section, "pre_promote", report);
    postgresql.before_stop = command_line(section, "before_stop", report);
}

/// A command line as Patroni's users write it. An empty one is none.
fn command_line(section: &Section<'_>, key: &str, report: &mut Report) -> Option<CommandLine> {
    let line = section.string(key, report).filter(|line| !line.is_empty())?;
    match quorate_agent::callbacks::split(&line) {
        Ok(words) => Some(CommandLine { line, words }),
        Err(why) => {
            if let Some(present) = section.present(key) {
                present.reject(report, format!("expected a program and its arguments: {why}"));
            }
            None
        }
    }
}

/// Parameters that are written in a place where, or have a name by which, they do nothing.
fn parameters_without_effect(section: &Section<'_>, local: bool, report: &mut Report) {
    let Some(Value::Map(entries)) = section.node().map(|node| &node.value) else { return };
    for entry in entries {
        let name = entry.key.to_ascii_lowercase();
        let path = format!("{}.{}", section.path(), entry.key);
        if OWNED.contains(&name.as_str()) {
            report.note(entry.origin.clone(), path, "quorate sets this itself, ignored");
        } else if local && AGREED.contains(&name.as_str()) {
            report.warning(
                entry.origin.clone(),
                path,
                "must be equal on all nodes, so only the dynamic configuration (bootstrap.dcs.postgresql.parameters) \
                 says it; ignored here",
            );
        } else if name == "wal_keep_segments" {
            report.note(entry.origin.clone(), path, "gone since PostgreSQL 13, used as wal_keep_size");
        }
    }
}

fn tags(section: &Section<'_>, tags: &mut Tags, report: &mut Report) {
    set(&mut tags.nofailover, section.boolean("nofailover", report));
    set(&mut tags.noloadbalance, section.boolean("noloadbalance", report));
    set(&mut tags.clonefrom, section.boolean("clonefrom", report));
    set(&mut tags.nosync, section.boolean("nosync", report));
    tags.failover_priority = section
        .present("failover_priority")
        .and_then(|_| section.number("failover_priority", 0, report))
        .and_then(|priority| i64::try_from(priority).ok());
    const OURS: [&str; 5] = ["nofailover", "noloadbalance", "clonefrom", "nosync", "failover_priority"];
    const LATER: [&str; 3] = ["replicatefrom", "sync_priority", "nostream"];
    let Some(Value::Map(entries)) = section.node().map(|node| &node.value) else { return };
    for entry in entries.iter().filter(|entry| !OURS.contains(&entry.key.as_str())) {
        let path = format!("tags.{}", entry.key);
        if entry.node.as_text().is_none() && entry.node.value != Value::Null {
            report.error(
                entry.origin.clone(),
                path,
                format!("expected a value, found {}", entry.node.describe()),
            );
            continue;
        }
        if LATER.contains(&entry.key.as_str()) {
            report.warning(entry.origin.clone(), path, "published, but has no effect yet");
        }
        tags.custom.insert(entry.key.clone(), entry.node.to_json());
    }
}

fn log(section: &Section<'_>, log: &mut Log, report: &mut Report) {
    if let Some(level) = section.string("level", report) {
        // Python's names, as Patroni's users write them.
        match level.to_ascii_lowercase().as_str() {
            "trace" => log.level = "trace".to_owned(),
            "debug" => log.level = "debug".to_owned(),
            "info" => log.level = "info".to_owned(),
            "warn" | "warning" => log.level = "warn".to_owned(),
            "error" | "critical" => log.level = "error".to_owned(),
            _ => {
                if let Some(present) = section.present("level") {
                    present
                        .reject(report, format!("expected debug, info, warning or error, found {level:?}"));
                }
            }
        }
    }
    if let Some(format) = section.string("type", report) {
        match format.as_str() {
            "plain" => log.format = LogFormat::Plain,
            "json" => log.format = LogFormat::Json,
            _ => {
                if let Some(present) = section.present("type") {
                    present.reject(report, format!("expected plain or json, found {format:?}"));
                }
            }
        }
    }
}

/// `off`, `automatic` or `required`; YAML reads a bare `off` as false.
fn layer_mode(section: &Section<'_>, report: &mut Report) -> Option<LayerMode> {
    let present = section.present("mode")?;
    match (as_boolean(present.node), present.node.as_text().as_deref()) {
        (Some(false), _) => Some(LayerMode::Off),
        (Some(true), _) | (None, Some("automatic")) => Some(LayerMode::Automatic),
        (None, Some("required")) => Some(LayerMode::Required),
        (None, _) => {
            let found = present.node.describe();
            present.reject(report, format!("expected off, automatic or required, found {found}"));
            None
        }
    }
}

fn watchdog(section: &Section<'_>, settings: &mut Settings, report: &mut Report) {
    let watchdog = &mut settings.watchdog;
    set(&mut watchdog.mode, layer_mode(section, report));
    set(&mut watchdog.device, section.string("device", report).map(PathBuf::from));
    if let Some(present) = section.present("safety_margin") {
        watchdog.safety_margin = match present.node.as_text().as_deref() {
            Some("-1") => Some(SafetyMargin::HalfOfTtl),
            _ => section
                .duration("safety_margin", Duration::from_secs(1), Duration::ZERO, report)
                .map(SafetyMargin::Before),
        };
    }
    // The guard feeds the device, because it knows when the last backend is gone.
    if settings.guard.mode == LayerMode::Off
        && watchdog.mode != LayerMode::Off
        && let Some(present) = section.present("mode")
    {
        present
            .reject(report, "the guard process drives the device: it needs guard.mode automatic or required");
    }
}

fn ctl(section: &Section<'_>, ctl: &mut Ctl, report: &mut Report) {
    ctl.authentication = complete_credentials(section, report);
}

/// What can only be judged together, and the defaults that follow from other settings.
fn judge(file: &Section<'_>, settings: &mut Settings, report: &mut Report) {
    if settings.dcs.cluster_token.is_empty() {
        settings.dcs.cluster_token = format!("quorate-{}", settings.scope);
    }
    if settings.postgresql.pgpass.as_os_str().is_empty() {
        settings.postgresql.pgpass =
            settings.postgresql.data_dir.parent().unwrap_or(Path::new("/")).join("pgpass");
    }
    let dcs = &mut settings.dcs;
    let section = file.section("dcs", &mut Report::default());
    match section.present("initial_cluster") {
        None => {
            dcs.initial_cluster =
                vec![Peer { name: settings.name.clone(), address: dcs.advertise_peers.clone() }];
            report.warning(
                section.node().map_or(Origin::File, |node| node.origin.clone()),
                "dcs.initial_cluster",
                "not given: this node is the only voter, so nothing takes over when it is lost; name all voters as \
                 name=host:port, …",
            );
        }
        Some(present) => match dcs.initial_cluster.iter().find(|peer| peer.name == settings.name) {
            None if !settings.name.is_empty() => present.reject(
                report,
                format!(
                    "this node ({}) is not in it; add {}={}",
                    settings.name, settings.name, dcs.advertise_peers
                ),
            ),
            Some(own) if own.address != dcs.advertise_peers => present.reject(
                report,
                format!(
                    "says that {} is at {}, but dcs.advertise_peers is {}",
                    settings.name, own.address, dcs.advertise_peers
                ),
            ),
            None | Some(_) => {
                if dcs.initial_cluster.len() == 2 {
                    report.warning(
                        present.node.origin.clone(),
                        &present.path,
                        "two voters survive the loss of neither; a third one (also one without PostgreSQL) makes \
                         the cluster survive the loss of any one",
                    );
                }
            }
        },
    }
    budget(file, &settings.bootstrap.dcs, report);
    let is_wan = settings.bootstrap.dcs.preset == Some(quorate_ha::Preset::Wan);
    if is_wan && section.present("network").or(section.present("heartbeat_interval")).is_none() {
        report.warning(
            section.node().map_or(Origin::File, |node| node.origin.clone()),
            "dcs.network",
            format!(
                "not given, while bootstrap.dcs.preset is wan: where a round trip takes longer than {} ms the store has no \
                 leader; set it to wan (or local, if only the lease is to be long) on every voter",
                dcs.heartbeat_interval.as_millis()
            ),
        );
    }
    let data = &settings.postgresql.data_dir;
    if !data.as_os_str().is_empty() && (dcs.data_dir.starts_with(data) || data.starts_with(&dcs.data_dir)) {
        let place = section.present("data_dir").map_or(Origin::File, |present| present.node.origin.clone());
        report.error(
            place,
            "dcs.data_dir",
            format!(
                "{} and postgresql.data_dir {} lie in one another: a clone of PostgreSQL would take the store along",
                dcs.data_dir.display(),
                data.display()
            ),
        );
    }
    let mut seen: Vec<(&str, &HostPort)> = Vec::new();
    for (path, address) in [
        ("restapi.listen", &settings.restapi.listen),
        ("dcs.listen_peers", &dcs.listen_peers),
        ("dcs.listen_clients", &dcs.listen_clients),
        ("postgresql.listen", &settings.postgresql.listen),
    ] {
        if let Some((other, _)) = seen.iter().find(|(_, taken)| taken.port == address.port) {
            // Different addresses may share a port; only the same one, or every interface, cannot.
            let clash = seen.iter().any(|(_, taken)| {
                taken.port == address.port
                    && (taken.host == address.host || taken.is_wildcard() || address.is_wildcard())
            });
            if clash {
                report.error(Origin::File, path, format!("{address} is taken by {other} as well"));
            }
        }
        seen.push((path, address));
    }
}

/// The one inequality of the time arithmetic. Patroni's own defaults (30, 10, 10) miss it by the time that stopping takes: what
/// is cut is said, and harms nobody. Times that cannot be kept are refused, with the term to change.
fn budget(file: &Section<'_>, dynamic: &Dynamic, report: &mut Report) {
    let local = quorate_ha::policy::LocalPolicy {
        name: String::new(),
        scope: String::new(),
        conn_url: String::new(),
        api_url: String::new(),
        tags: quorate_ha::cluster::Tags::default(),
        stop_budget: quorate_agent::config::STOP_BUDGET,
        margin: quorate_agent::config::MARGIN,
        bootstrap_config: serde_json::Value::Null,
        version: String::new(),
        unfit: None,
    };
    let verdict = quorate_ha::budget::check_config(&local, &dynamic.to_config());
    let times = file.section("bootstrap", &mut Report::default()).section("dcs", &mut Report::default());
    let origin = |key| times.present(key).map_or(Origin::File, |present| present.node.origin.clone());
    match verdict {
        Ok(None) => {}
        Ok(Some(note)) => report.note(origin("retry_timeout"), "bootstrap.dcs.retry_timeout", note),
        // Said where it was read.
        Err(quorate_ha::budget::BudgetError::UnknownPreset(_)) => {}
        Err(error) => report.error(origin("ttl"), "bootstrap.dcs.ttl", error.to_string()),
    }
}
