//! `examples/voter.rs` does what it says: as one process, and as three.

mod common;

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// Built by cargo together with the tests.
fn voter() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let path = test.ancestors().nth(2).map(Path::to_owned).expect("target/debug/deps").join("examples/voter");
    assert!(path.exists(), "{} was not built: cargo build -p quorate-node --examples", path.display());
    path
}

/// Everybody had the lock three times, nobody at the same time as another, and everybody saw all of it.
fn judge(said: &str) {
    let numbers = |what: &str| {
        let lines =
            said.lines().filter_map(|line| line.split_once(what)?.1.trim_end_matches(')').parse().ok());
        let mut numbers: Vec<i64> = lines.collect();
        numbers.sort_unstable();
        numbers
    };
    assert_eq!(numbers(": counted to "), (1..=9).collect::<Vec<i64>>(), "{said}");
    let mut tokens = numbers(": has the lock (fencing token ");
    tokens.dedup();
    assert_eq!(tokens.len(), 9, "{said}");
    for name in ["one", "two", "three"] {
        let seen: Vec<&str> = said
            .lines()
            .filter_map(|line| line.strip_prefix(&format!("{name}: sees example/done/"))?.split(" = ").nth(1))
            .collect();
        assert_eq!(seen, ["1", "2", "3", "4", "5", "6", "7", "8", "9"], "{said}");
    }
}

#[test]
fn three_members_in_one_process() {
    let output = Command::new(voter()).arg("--three").stdin(Stdio::null()).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    judge(&said);
}

#[test]
fn three_processes() {
    let cluster = common::Cluster::plan(3);
    let names = ["one", "two", "three"];
    let addresses = cluster.configs.iter().map(|config| &config.peer_listen[0]);
    let all: Vec<String> =
        names.iter().zip(addresses).map(|(name, address)| format!("{name}={address}")).collect();
    let start = |name: &str| {
        Command::new(voter())
            .arg(name)
            .arg(cluster.root.path().join(name))
            .arg(all.join(","))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts")
    };
    let mut processes = names.map(start);
    let mut said = String::new();
    let mut outputs = Vec::new();
    for process in &mut processes {
        // Up to its last line before the interrupt. A process that fails ends its output.
        let mut output = BufReader::new(process.stdout.take().expect("a pipe"));
        while !said.ends_with("a voter until Ctrl-C\n") {
            assert!(output.read_line(&mut said).expect("text") > 0, "{said}");
        }
        said.push('\n');
        outputs.push(output);
    }
    judge(&said);
    for process in &processes {
        kill_process(Pid::from_child(process), Signal::INT).expect("a signal to a child");
    }
    for (mut process, mut output) in processes.into_iter().zip(outputs) {
        let mut rest = String::new();
        output.read_to_string(&mut rest).expect("text");
        assert!(process.wait().expect("a status").success(), "{rest}");
    }
}
