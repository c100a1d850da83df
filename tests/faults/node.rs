//! `quorate run`: the file, the programs, the ports, and whose PostgreSQL data directory it is.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate_drill::ports::Ports;
use quorate_drill::{Cluster, Network, Spec, Timing};

use crate::SOON;
use crate::process::{Ended, Process, assert_untouched, binary_run, scratch, tree, wait_until};

/// `initdb` and the first start, on a busy machine.
const BUILD: Duration = Duration::from_secs(40);

/// A cluster of one node, laid out and not started.
struct Node {
    dir: PathBuf,
    data: PathBuf,
    config: PathBuf,
    ports: Ports,
}

impl Node {
    fn new(dir: &Path) -> Node {
        let spec = Spec {
            dir: dir.to_path_buf(),
            binary: quorate_tests::binary("quorate"),
            bin_dir: quorate_tests::BIN_DIR.into(),
            user: "postgres".to_owned(),
            nodes: 1,
            base_port: None,
            timing: Timing::DEFAULT,
            synchronous_mode: "off".to_owned(),
            network: Network::Loopback,
        };
        let cluster = Cluster::prepare(spec).unwrap();
        let node = &cluster.nodes[0];
        Node { dir: node.dir.clone(), data: node.data_dir(), config: node.config(), ports: node.ports }
    }

    /// Changes the file, once.
    fn edit(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(&self.config).unwrap();
        assert!(text.contains(from), "{from:?} is not in {text}");
        std::fs::write(&self.config, text.replacen(from, to, 1)).unwrap();
    }

    fn spawn(&self) -> Process {
        let arguments = ["run", self.config.to_str().unwrap()];
        Process::start("quorate", &arguments, self.dir.parent().unwrap(), Some(self.data.clone()))
    }

    fn checked(&self, flag: &str) -> Ended {
        let arguments = ["run", flag, self.config.to_str().unwrap()];
        binary_run("quorate", &arguments, self.dir.parent().unwrap(), SOON)
    }

    /// Line of the file, from 1, that holds `text`.
    fn line(&self, text: &str) -> String {
        let file = std::fs::read_to_string(&self.config).unwrap();
        let number = file.lines().position(|line| line.contains(text)).unwrap() + 1;
        format!("{}:{number}: ", self.config.display())
    }
}

#[test]
fn unknown_and_misplaced_keys_are_named() {
    let (_dir, path) = scratch();
    let node = Node::new(&path);
    node.edit("    loop_wait: 1\n", "    lopo_wait: 1\n");
    node.edit(
        "  initdb:\n",
        "  postgresql: # misplaced\n    parameters:\n      max_connections: 9\n  initdb:\n",
    );
    let before = tree(&node.dir);
    for (flag, severity, code) in [("--check", "warning: ", 0), ("--strict", "error: ", 2)] {
        let ended = node.checked(flag);
        ended.expect(
            code,
            &[&node.line("lopo_wait"), severity, "bootstrap.dcs.lopo_wait: unknown key", "loop_wait"],
        );
        ended.expect(
            code,
            &[
                &node.line("# misplaced"),
                severity,
                "bootstrap.postgresql: unknown key",
                "did you mean bootstrap.dcs.postgresql?",
            ],
        );
        assert_untouched(&before, &node.dir);
    }
}

#[test]
fn wrong_values_are_all_named_at_once() {
    let (_dir, path) = scratch();
    let node = Node::new(&path);
    node.edit("    ttl: 5\n", "    ttl: soon\n");
    node.edit("      use_slots: true\n", "      use_slots: [perhaps]\n");
    node.edit("  listen: 127.0.0.1:", "  listen: nowhere:port\n  x: 127.0.0.1:");
    let before = tree(&node.dir);
    let ended = binary_run("quorate", &["run", node.config.to_str().unwrap()], &path, SOON);
    ended.expect(2, &[&node.line("ttl: soon"), "error: bootstrap.dcs.ttl", "soon"]);
    ended.expect(2, &[&node.line("use_slots: ["), "error: bootstrap.dcs.postgresql.use_slots"]);
    ended.expect(2, &[&node.line("nowhere:port"), "error: restapi.listen"]);
    assert_untouched(&before, &node.dir);
    let ended = binary_run("quorate", &["run", "/nonexistent/quorate.yml"], &path, SOON);
    ended.expect(2, &["/nonexistent/quorate.yml: error: cannot be read: No such file"]);
}

#[test]
fn missing_programs_are_named_with_the_package() {
    let (_dir, path) = scratch();
    let node = Node::new(&path);
    node.edit(quorate_tests::BIN_DIR, "/usr/lib/postgresql/0/bin");
    let before = tree(&node.dir);
    let parts = ["there is no postgres in /usr/lib/postgresql/0/bin", "apt install postgresql"];
    node.spawn().ended(SOON).expect(2, &parts);
    assert_untouched(&before, &node.dir);
}

#[test]
fn ports_in_use_are_named_before_anything_is_made() {
    let (_dir, path) = scratch();
    let node = Node::new(&path);
    let before = tree(&node.dir);
    let Ports { postgres, rest, client, peer } = node.ports;
    for port in [postgres, rest, client, peer] {
        let _held = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let address = format!("cannot listen on 127.0.0.1:{port}: ");
        node.spawn()
            .ended(SOON)
            .expect(1, &[&address, "in use; stop the process that has it", "another one"]);
        assert_untouched(&before, &node.dir);
    }
}

#[test]
fn what_is_no_data_directory_is_left_as_it_is() {
    let (_dir, path) = scratch();
    let node = Node::new(&path);
    std::fs::create_dir(&node.data).unwrap();
    std::fs::write(node.data.join("letters.txt"), "somebody's only copy").unwrap();
    let before = tree(&node.data);
    let mut process = node.spawn();
    process.wait_for("is left as it is", SOON);
    let output = process.output();
    let line = output.lines().find(|line| line.contains("is left as it is")).unwrap();
    println!("goes on as a voter: {line}");
    let place = format!("{} has no global/pg_control but contains letters.txt", node.data.display());
    assert!(line.contains(&place) && line.contains("move it away or correct data_dir"), "{line}");
    process.stop(SOON);
    assert_untouched(&before, &node.data);
}

#[test]
fn another_clusters_postgresql_is_refused() {
    let (_dir, path) = scratch();
    let node = Node::new(&path);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let process = node.spawn();
    let primary = || {
        let asked = quorate_drill::rest::get(node.ports.rest, "/primary", Duration::from_secs(1));
        runtime.block_on(asked).is_ok_and(|(status, _)| status == 200)
    };
    wait_until("primary", BUILD, primary);

    // A second keeper of the same PostgreSQL, in a cluster of its own.
    let (_other_dir, other_path) = scratch();
    let other = Node::new(&other_path);
    other.edit(&format!("data_dir: {}", other.data.display()), &format!("data_dir: {}", node.data.display()));
    let others = tree(&other.dir);
    let holder = format!("kept by another quorate (pid {})", process.pid());
    let place = node.data.display().to_string();
    other
        .spawn()
        .ended(SOON)
        .expect(1, &[&place, &holder, "stop it, or correct data_dir", "nothing was changed"]);
    assert_untouched(&others, &other.dir);
    assert!(primary(), "the first keeper goes on");
    process.stop(BUILD);

    // Somebody else on PostgreSQL's port, with a data directory that exists.
    let before = tree(&node.dir);
    {
        let _held = TcpListener::bind(("127.0.0.1", node.ports.postgres)).unwrap();
        let address = format!("PostgreSQL cannot listen on 127.0.0.1:{}", node.ports.postgres);
        node.spawn().ended(SOON).expect(1, &[&address, "postgresql.listen"]);
        assert_untouched(&before, &node.dir);
    }

    // The cluster's keys now speak of another system.
    let client = format!("127.0.0.1:{}", node.ports.client);
    let ctl = |arguments: &[&str]| {
        let mut all = vec!["--endpoints", &client];
        all.extend(arguments);
        binary_run("quoratectl", &all, &path, SOON)
    };
    let (url, peer) = (format!("http://{client}"), format!("http://127.0.0.1:{}", node.ports.peer));
    let (data, initial) = (node.dir.join("store"), format!("node1={peer}"));
    let arguments = [
        ["store", "--name=node1"],
        ["--data-dir", data.to_str().unwrap()],
        ["--listen-client-urls", &url],
        ["--advertise-client-urls", &url],
        ["--listen-peer-urls", &peer],
        ["--initial-advertise-peer-urls", &peer],
        ["--initial-cluster", &initial],
        ["--initial-cluster-token", "quorate-demo"],
    ];
    let mut store = Process::start("quorate", arguments.as_flattened(), &path, None);
    store.wait_for("ready to serve client requests", SOON);
    let ours = ctl(&["get", "/service/demo/initialize", "--print-value-only"]).output.trim().to_owned();
    assert!(ours.parse::<u64>().is_ok(), "{ours}");
    ctl(&["put", "/service/demo/initialize", "7123456789012345678"]).expect(0, &["OK"]);
    store.stop(SOON);

    let before = tree(&node.data);
    let parts = [&place, "system ID mismatch", "7123456789012345678", &ours, "move this data directory away"];
    node.spawn().ended(2 * SOON).expect(1, &parts);
    assert_untouched(&before, &node.data);
}
