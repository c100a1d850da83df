//! The rules by which etcd's command line, variables and file are read.

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
    assert_eq!(options.initial_cluster, [Peer { name: "default".into(), address: HostPort::local(2380) }]);
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
