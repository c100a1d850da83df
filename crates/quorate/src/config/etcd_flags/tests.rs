//! The rules by which etcd's command line, variables and file are read.

use super::*;

fn read(flags: &[&str], variables: &[(&str, &str)]) -> (StoreOptions, String) {
    let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let mut report = Report::default();
    match parse(&flags, variables, &mut report) {
        Request::Serve { options, file } => {
            let file = file.map(|file| file.display().to_string()).unwrap_or_default();
            (*options, report.render(&file))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_flags_it_is_one_node_on_the_usual_ports() {
    let (options, said) = read(&[], &[]);
    assert_eq!(said, "");
    assert_eq!((options.name.as_str(), options.data_dir.to_str()), ("default", Some("default.etcd")));
    assert_eq!(options.listen_clients, [Url::local(2379)]);
    assert_eq!(options.listen_peers, [Url::local(2380)]);
    assert_eq!(options.initial_cluster, [("default".to_owned(), Url::local(2380))]);
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
    assert_eq!(options.listen_clients[0].address.host, "0.0.0.0");
    assert_eq!(options.advertise_clients[0].address.host, "192.168.0.81");
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
    let note =
        "note: --enable-v2: accepted, has no effect: the v2 API does not exist here; v3 is always served\n";
    assert_eq!(said, note.repeat(2));
    let (_, said) = read(&["--client-cert-auth=maybe", "--unsafe-no-fsync=false"], &[]);
    assert_eq!(said, "error: --client-cert-auth: expected true or false, found \"maybe\"\n");
    let (_, said) = read(&["--unsafe-no-fsync"], &[]);
    assert_eq!(said, "error: --unsafe-no-fsync: what was acknowledged is always on disk\n");
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
        "error: --cert-file: needs its key: set --key-file\n\
         error: --data-dir: needs a value\n\
         error: --election-timeout: the election timeout (150 ms) must be at least two heartbeats (100 ms)\n\
         error: --initial-cluster-state: expected new or existing, found \"old\"\n\
         error: --listen-client-urls: expected http://host:port or https://host:port, found \"localhost\"\n\
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

#[test]
fn schemes_and_certificates_go_together() {
    let (_, said) = read(&["--listen-client-urls=https://127.0.0.1:2379", "--trusted-ca-file=ca.crt"], &[]);
    assert_eq!(
        said,
        "error: --listen-client-urls: https:// needs a certificate: set --cert-file and --key-file\n\
         error: --trusted-ca-file: means nothing without TLS: set --cert-file and --key-file\n"
    );
    let pair = ["--cert-file=a.crt", "--key-file=a.key"];
    let (_, said) = read(&pair, &[]);
    assert_eq!(
        said,
        "warning: --cert-file: the certificate is not used: no --listen-client-urls begins with https://\n"
    );
    let both = "--listen-client-urls=https://127.0.0.1:2379,http://127.0.0.1:2378";
    let (options, said) = read(&[pair[0], pair[1], both, "--client-cert-auth", "--trusted-ca-file=c"], &[]);
    assert_eq!(said, "");
    assert_eq!(options.listen_clients[0].to_string(), "https://127.0.0.1:2379");
    assert!(options.tls.clients().unwrap().client_cert_auth && options.tls.peers().is_none());
    let (_, said) = read(&["--tls-min-version=TLS1.1", "--cipher-suites=TLS_NONE"], &[]);
    assert!(
        said.contains("--tls-min-version: TLS1.1 is not spoken")
            && said.contains("\"TLS_NONE\" is no cipher")
    );
}

/// A file in a directory that lives as long as the first part.
fn file(text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("etcd.yml");
    std::fs::write(&path, text).unwrap();
    let path = path.display().to_string();
    (dir, path)
}

#[test]
fn a_file_takes_the_place_of_flags_and_variables() {
    // Every key of the sample that etcd's packages bring.
    let (_dir, path) = file(
        "name: 'one'\ndata-dir: /srv/one\nwal-dir:\nsnapshot-count: 5000\nheartbeat-interval: 100\nelection-timeout: 1000\n\
         quota-backend-bytes: 0\nlisten-peer-urls: https://127.0.0.1:2380\nlisten-client-urls: https://127.0.0.1:2379\n\
         max-snapshots: 5\nmax-wals: 5\ncors:\ninitial-advertise-peer-urls: https://127.0.0.1:2380\n\
         advertise-client-urls: https://127.0.0.1:2379\ndiscovery:\ndiscovery-fallback: 'proxy'\ndiscovery-proxy:\n\
         discovery-srv:\ninitial-cluster: one=https://127.0.0.1:2380\ninitial-cluster-token: 'etcd-cluster'\n\
         initial-cluster-state: 'new'\nstrict-reconfig-check: false\nenable-v2: true\nenable-pprof: true\nproxy: 'off'\n\
         proxy-failure-wait: 5000\nproxy-refresh-interval: 30000\nproxy-dial-timeout: 1000\nproxy-write-timeout: 5000\n\
         proxy-read-timeout: 0\nclient-transport-security:\n  cert-file: s.crt\n  key-file: s.key\n  client-cert-auth: true\n  \
         trusted-ca-file: ca.crt\n  auto-tls: false\npeer-transport-security:\n  cert-file: p.crt\n  key-file: p.key\n  \
         client-cert-auth: true\n  trusted-ca-file: ca.crt\n  auto-tls: false\n  allowed-cn:\n  allowed-hostname:\n\
         self-signed-cert-validity: 1\nlog-level: debug\nlogger: zap\nlog-outputs: [stderr]\nforce-new-cluster: false\n\
         auto-compaction-mode: periodic\nauto-compaction-retention: \"1\"\n\
         cipher-suites: [\n  TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,\n  TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384\n]\n\
         tls-min-version: 'TLS1.2'\ntls-max-version: 'TLS1.3'\nexperimental-watch-progress-notify-interval: 5000000000\n",
    );
    let (options, said) = read(&["--config-file", &path, "--name=two"], &[("ETCD_DATA_DIR", "/srv/two")]);
    assert_eq!((options.name.as_str(), options.data_dir.to_str()), ("one", Some("/srv/one")));
    assert!(!said.contains("error: "), "{said}");
    for warned in
        ["warning: --name: ignored: name is read from", "environment: warning: ETCD_DATA_DIR: ignored"]
    {
        assert!(said.contains(warned), "{warned} is missing in: {said}");
    }
    assert!(said.contains(&format!("{path}:10: note: max-snapshots: accepted, has no effect: ")), "{said}");
    assert_eq!((options.snapshot_count, options.log_level.as_str()), (5000, "debug"));
    assert_eq!(options.tls.peer_cert_file.as_deref(), Some(Path::new("p.crt")));
    assert_eq!(options.tls.protocol.suites.len(), 2);
    assert_eq!(options.compaction, AutoCompaction::Period(Duration::from_secs(3600)));
    assert_eq!(options.progress_interval, Duration::from_secs(5));
    // By the variable too.
    let (options, _) = read(&[], &[("ETCD_CONFIG_FILE", &path)]);
    assert_eq!(options.name, "one");
}

#[test]
fn what_is_wrong_in_a_file_is_said_with_its_line() {
    let (_dir, path) = file(
        "nmae: one\nlisten-client-urls: [1]\nclient-transport-security:\n  cert_file: a\n  colour: red\n\
         peer-transport-security: yes\nname: {a: b}\nforce-new-cluster: perhaps\n",
    );
    let (_, said) = read(&["--config-file", &path], &[]);
    let expected = [
        "1: error: nmae: unknown key; did you mean name?",
        "2: error: expected http://host:port or https://host:port, found \"1\"",
        "4: error: client-transport-security.cert_file: unknown key; did you mean cert-file?",
        "5: error: client-transport-security.colour: unknown key",
        "6: error: peer-transport-security: expected a section, found yes",
        "7: error: name: expected a value, found a section with a",
        "8: error: force-new-cluster: expected true or false, found \"perhaps\"",
    ];
    let said: Vec<&str> = said.lines().map(|line| line.strip_prefix(&format!("{path}:")).unwrap()).collect();
    assert_eq!(said, expected);
    let (_, said) = read(&["--config-file", "/nowhere/etcd.yml"], &[]);
    assert_eq!(said, "/nowhere/etcd.yml: error: cannot be read: No such file or directory (os error 2)\n");
}

/// The flags of `etcd --help`, with the defaults that it prints.
fn flags_of_etcd() -> Vec<(String, String)> {
    let help = std::process::Command::new("/usr/bin/etcd").arg("--help").output();
    let help = help.expect("/usr/bin/etcd: install Debian's package etcd-server");
    // Which stream it writes to has changed between releases.
    let text = [help.stdout, help.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    text.lines()
        .filter_map(|line| line.strip_prefix("  --"))
        .filter_map(|line| line.split_once(' '))
        .map(|(flag, default)| (flag.to_owned(), default.trim_matches('\'').to_owned()))
        .collect()
}

#[test]
fn every_flag_of_etcds_help_is_known_and_its_default_is_accepted() {
    let flags = flags_of_etcd();
    assert!(flags.len() > 70, "{flags:?}");
    let all: Vec<String> = flags.iter().map(|(flag, default)| format!("--{flag}={default}")).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let (_, said) = read(&all, &[]);
    assert!(!said.contains("error: ") && !said.contains("unknown"), "{said}");
    for (flag, _) in &flags {
        let (_, kind) = find(flag).unwrap_or_else(|| panic!("--{flag} is unknown"));
        let (_, said) = read(&[&format!("--{flag}=true")], &[]);
        match kind {
            // Read: whatever it says is about the value.
            Kind::Value | Kind::Switch => assert!(!said.contains("no effect"), "{said}"),
            Kind::Ignored(why) | Kind::IgnoredSwitch(why) => {
                assert_eq!(said, format!("note: --{flag}: accepted, has no effect: {why}\n"));
            }
            Kind::Refused(_, why) | Kind::RefusedSwitch(why) => {
                assert_eq!(said, format!("error: --{flag}: {why}\n"));
            }
        }
    }
    // Each by its variable as well.
    for (flag, default) in &flags {
        let variable = format!("ETCD_{}", flag.to_uppercase().replace('-', "_"));
        let (_, said) = read(&[], &[(&variable, default)]);
        assert!(!said.contains("unknown variable"), "{said}");
    }
}
