//! Golden tests: a file in, the exact findings out. The files lie in `tests/fixtures`; a changed expectation is
//! written by running with `QUORATE_UPDATE_GOLDEN=1` and reviewed like code.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::settings::{Settings, SynchronousMode};
use super::*;

fn fixtures(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(kind)
}

fn load_fixture(path: &Path, variables: &[(&str, &str)]) -> (Settings, Report) {
    let text = std::fs::read_to_string(path).unwrap();
    load(&text, variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

fn compare_all(kind: &str, variables: &[(&str, &str)]) -> usize {
    let mut files: Vec<PathBuf> = std::fs::read_dir(fixtures(kind))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yml"))
        .collect();
    files.sort();
    for file in &files {
        let (_, report) = load_fixture(file, variables);
        let found = report.render(file.file_name().unwrap().to_str().unwrap());
        let golden = file.with_extension("expected");
        if std::env::var_os("QUORATE_UPDATE_GOLDEN").is_some() {
            std::fs::write(&golden, &found).unwrap();
        }
        assert_eq!(found, std::fs::read_to_string(&golden).unwrap(), "{}", file.display());
        assert_eq!(report.has_errors(), kind == "bad", "{}", file.display());
    }
    files.len()
}

#[test]
fn bad_files_give_all_their_findings_at_once() {
    assert_eq!(compare_all("bad", &[]), 5);
}

#[test]
fn files_of_field_setups_are_read_as_they_stand() {
    assert_eq!(compare_all("field", &[]), 4);
}

#[test]
fn a_container_image_gets_its_names_from_variables() {
    let variables = [
        ("PATRONI_NAME", "patroni1"),
        ("PATRONI_SCOPE", "postgres-cluster"),
        ("PATRONI_RESTAPI_CONNECT_ADDRESS", "patroni1:8008"),
        ("PATRONI_POSTGRESQL_CONNECT_ADDRESS", "patroni1:5432"),
    ];
    assert_eq!(compare_all("container", &variables), 1);
}

#[test]
fn values_of_a_field_setup() {
    let (settings, _) = load_fixture(&fixtures("field/etcd-seven-vms.yml"), &[]);
    assert_eq!((settings.scope.as_str(), settings.name.as_str()), ("PGC1", "u4"));
    assert_eq!(settings.bootstrap.dcs.ttl, Duration::from_secs(30));
    assert_eq!(settings.bootstrap.dcs.postgresql.parameters["port"], "5432");
    assert_eq!(settings.bootstrap.dcs.to_config()["slots"]["patroni"]["type"], "physical");
    assert_eq!(settings.bootstrap.initdb[0].name, "data-checksums");
    assert_eq!(settings.bootstrap.pg_hba.len(), 2);
    assert_eq!(settings.postgresql.bin_dir, Path::new("/usr/lib/postgresql/16/bin"));
    assert_eq!(settings.postgresql.pgpass, Path::new("/pgsql/pgpass"));
    assert_eq!(settings.postgresql.connect_address.to_string(), "192.168.0.84:5432");
    assert!(settings.tags.nofailover && !settings.tags.clonefrom);
    let (settings, _) = load_fixture(&fixtures("field/colocated-three.yml"), &[]);
    assert_eq!(settings.postgresql.authentication.superuser.password.unwrap().0, "0123");
    assert_eq!(settings.postgresql.authentication.rewind.unwrap().username, "rewind_user");
    assert_eq!(settings.dcs.initial_cluster.len(), 3);
    let (settings, _) = load_fixture(&fixtures("field/zookeeper-pair.yml"), &[]);
    assert_eq!(settings.bootstrap.dcs.synchronous_mode, SynchronousMode::On);
}

#[test]
fn variables_win_over_the_file_and_are_named_in_messages() {
    let file = fixtures("field/colocated-three.yml");
    let (settings, report) = load_fixture(
        &file,
        &[
            ("PATRONI_SCOPE", "other"),
            ("PATRONI_POSTGRESQL_DATA_DIR", "/data/pg"),
            ("PATRONI_REPLICATION_PASSWORD", "s3cret"),
            ("PATRONI_RESTAPI_LISTEN", "nowhere:no"),
            ("PATRONI_ETCD3_HOSTS", "a:2379"),
            ("PATRONI_SCOPES", "x"),
            ("PATRONI_NAMESPACE", ""),
            ("HOME", "/root"),
        ],
    );
    assert_eq!(settings.scope, "other");
    assert_eq!(settings.postgresql.data_dir, Path::new("/data/pg"));
    assert_eq!(settings.postgresql.authentication.replication.password.unwrap().0, "s3cret");
    assert_eq!(settings.namespace, "/service/");
    assert_eq!(
        report.render("f.yml"),
        "f.yml:6: note: etcd3: accepted; the store embedded in every node takes its place (see dcs)\n\
         f.yml:15: note: bootstrap.dcs.retry_timeout: 10 s is used as 9.5 s: a period must fit into ttl 30 s before PostgreSQL \
         would have to be stopped\n\
         environment: note: PATRONI_ETCD3_HOSTS: accepted; the store embedded in every node takes its place (see dcs)\n\
         environment: error: PATRONI_RESTAPI_LISTEN (restapi.listen): expected host:port, found \"nowhere:no\": \"no\" is no port\n\
         environment: warning: PATRONI_SCOPES: unknown variable, ignored; did you mean PATRONI_SCOPE?\n"
    );
}

#[test]
fn the_example_file_states_the_defaults() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/quorate.example.yml");
    let (settings, report) = load_fixture(&path, &[]);
    assert_eq!(report.render("quorate.example.yml"), "");
    let defaults = Settings::default();
    // What has no default, or a default that depends on another setting or on the machine, is the example's own.
    let mut expected = Settings { scope: settings.scope.clone(), name: settings.name.clone(), ..defaults };
    expected.postgresql.data_dir.clone_from(&settings.postgresql.data_dir);
    expected.postgresql.pgpass.clone_from(&settings.postgresql.pgpass);
    expected.postgresql.authentication.clone_from(&settings.postgresql.authentication);
    expected.dcs.initial_cluster.clone_from(&settings.dcs.initial_cluster);
    expected.dcs.cluster_token = format!("quorate-{}", settings.scope);
    expected.bootstrap.dcs.written.clone_from(&settings.bootstrap.dcs.written);
    assert_eq!(settings, expected);
    // And it mentions every setting there is.
    let text = std::fs::read_to_string(&path).unwrap();
    for (section, value) in serde_json::to_value(Settings::default()).unwrap().as_object().unwrap() {
        for key in value.as_object().into_iter().flat_map(serde_json::Map::keys).chain([section]) {
            assert!(text.contains(&format!("{key}:")), "{section}.{key} is not in the example");
        }
    }
}

#[test]
fn times_come_by_a_preset_and_must_fit() {
    let load = |dcs: &str| {
        let text =
            format!("scope: demo\nname: n1\nbootstrap:\n  dcs: {dcs}\npostgresql:\n  data_dir: /data/pg\n");
        let (settings, report) = super::load(&text, std::iter::empty());
        let about_times = |line: &&str| line.contains("bootstrap.dcs.");
        let said: Vec<String> =
            report.render("f.yml").lines().filter(about_times).map(str::to_owned).collect();
        (settings.bootstrap.dcs, said.join("\n"))
    };
    let (dynamic, said) = load("{preset: fast, failure_timeout: 2}");
    assert_eq!(said, "");
    assert_eq!((dynamic.ttl, dynamic.failure_timeout), (Duration::from_secs(2), Duration::from_secs(2)));
    let (_, said) = load("{preset: quick}");
    assert_eq!(said, "f.yml:4: error: bootstrap.dcs.preset: expected fast, default or wan, found \"quick\"");
    let (_, said) = load("{ttl: 5, loop_wait: 4}");
    assert_eq!(
        said,
        "f.yml:4: error: bootstrap.dcs.ttl: loop_wait 4 s + look 1 s + retry_timeout 1 s + stop budget 0.5 s + margin 0.3 s is \
         not less than ttl 5 s: set ttl to 7 s, or loop_wait to at most 3.3 s"
    );
}

#[test]
fn a_slow_network_is_said_by_one_word() {
    let load = |dcs: &str, preset: &str| {
        let text = format!(
            "scope: demo\nname: n1\ndcs: {dcs}\nbootstrap:\n  dcs: {{preset: {preset}}}\npostgresql:\n  data_dir: /data/pg\n"
        );
        let (settings, report) = super::load(&text, std::iter::empty());
        let said = report.render("f.yml");
        let said = said.lines().find(|line| line.contains("dcs.network")).unwrap_or_default().to_owned();
        let milliseconds = |duration: Duration| duration.as_millis();
        let (shortest, longest) = settings.dcs.election_timeout;
        ([settings.dcs.heartbeat_interval, shortest, longest].map(milliseconds), said)
    };
    assert_eq!(load("{}", "default"), ([80, 200, 350], String::new()));
    assert_eq!(load("{network: wan}", "wan"), ([1500, 3750, 6560], String::new()));
    assert_eq!(load("{network: wan, heartbeat_interval: 400}", "fast").0, [400, 3750, 6560]);
    assert_eq!(load("{network: local}", "wan"), ([80, 200, 350], String::new()));
    let (_, said) = load("{cluster_token: t}", "wan");
    assert_eq!(
        said,
        "f.yml:3: warning: dcs.network: not given, while bootstrap.dcs.preset is wan: where a round trip takes longer than 80 ms \
         the store has no leader; set it to wan (or local, if only the lease is to be long) on every voter"
    );
    let (_, said) = load("{network: moon}", "default");
    assert_eq!(said, "f.yml:3: error: dcs.network: expected local or wan, found \"moon\"");
}

#[test]
fn the_compose_nodes_are_configured() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/compose-node.yml");
    let (settings, report) = load_fixture(
        &path,
        &[
            ("PATRONI_NAME", "node2"),
            ("PATRONI_RESTAPI_CONNECT_ADDRESS", "node2:8008"),
            ("PATRONI_POSTGRESQL_CONNECT_ADDRESS", "node2:5432"),
            ("QUORATE_DCS_ADVERTISE_PEERS", "node2:2380"),
            ("QUORATE_DCS_ADVERTISE_CLIENTS", "node2:2379"),
        ],
    );
    assert_eq!(report.render("compose-node.yml"), "");
    assert_eq!(settings.dcs.initial_cluster.len(), 3);
}

#[test]
fn what_is_printed_can_be_read_again() {
    let (settings, _) = load_fixture(&fixtures("field/etcd-seven-vms.yml"), &[]);
    let printed = serde_saphyr::to_string(&settings).unwrap();
    let (mut again, report) = load(&printed, std::iter::empty());
    assert!(!report.has_errors(), "{}\n{printed}", report.render("printed"));
    // Passwords are hidden, and so is nothing else.
    again.postgresql.authentication.clone_from(&settings.postgresql.authentication);
    again.bootstrap.dcs.written.clone_from(&settings.bootstrap.dcs.written);
    assert_eq!(again, settings);
}

#[test]
fn tls_in_the_dcs_section() {
    let base = "scope: demo\nname: one\npostgresql: {data_dir: /srv/pg/data}\ndcs:\n  initial_cluster: 'one=127.0.0.1:2380'\n";
    let whole = format!(
        "{base}  cert_file: s.crt\n  key_file: s.key\n  trusted_ca_file: ca.crt\n  client_cert_auth: true\n  \
         peer_cert_file: p.crt\n  peer_key_file: p.key\n  peer_trusted_ca_file: ca.crt\n  peer_client_cert_auth: true\n"
    );
    let (settings, report) = load(&whole, std::iter::empty());
    assert_eq!(report.render("f.yml"), "");
    assert!(settings.dcs.tls.clients().unwrap().client_cert_auth);
    let plan = crate::voter::Plan::of_settings(&settings);
    assert_eq!(plan.node.peer_listen, ["https://127.0.0.1:2380"]);
    assert_eq!(plan.node.initial_cluster, [("one".to_owned(), "https://127.0.0.1:2380".to_owned())]);
    assert_eq!(
        (plan.clients, plan.node.client_urls),
        (vec!["https://127.0.0.1:2379".to_owned()], vec!["https://127.0.0.1:2379".to_owned()],)
    );
    let half =
        format!("{base}  cert_file: s.crt\n  client_crl_file: ca.crl\n  peer_client_cert_auth: true\n");
    let (_, report) = load(&half, [("QUORATE_DCS_PEER_KEY_FILE".to_owned(), "p.key".to_owned())].into_iter());
    assert_eq!(
        report.render("f.yml"),
        "f.yml:6: error: dcs.cert_file: needs its key: set dcs.key_file\n\
         f.yml:7: error: dcs.client_crl_file: needs an authority to verify certificates by: set dcs.trusted_ca_file\n\
         f.yml:8: error: dcs.peer_client_cert_auth: needs an authority to verify certificates by: set dcs.peer_trusted_ca_file\n\
         environment: error: QUORATE_DCS_PEER_KEY_FILE (dcs.peer_key_file): needs its certificate: set dcs.peer_cert_file\n"
    );
}

#[test]
fn a_file_that_is_nested_without_end_is_refused() {
    let nested = |open: &str, depth: usize, close: &str| open.repeat(depth) + "1" + &close.repeat(depth);
    let aliases = |depth: usize| (1..depth).map(|i| format!("a{i}: &{i} [*{}]\n", i - 1)).collect::<String>();
    for text in [
        format!("name: {}", "[".repeat(100_000)),
        format!("name: {}", nested("[", 60, "]")),
        format!("name: {}", nested("{a: ", 60, "}")),
        nested("- ", 60, ""),
        (0..60).map(|depth| " ".repeat(depth) + "a:\n").collect(),
        format!("a0: &0 [x]\n{}", aliases(60)),
        format!("a0: &0 {{x: 1}}\n{}", aliases(60).replace("[*", "{<<: *").replace(']', "}")),
    ] {
        let (_, report) = load(&text, std::iter::empty());
        let said = report.render("file.yml");
        assert!(said.contains("not valid YAML") && report.findings().len() == 1, "{said}");
    }
    let (_, report) = load(&format!("name: {}", nested("[", 12, "]")), std::iter::empty());
    assert!(!report.render("file.yml").contains("not valid YAML"), "{}", report.render("file.yml"));
}
