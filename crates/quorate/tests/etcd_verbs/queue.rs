//! Locks and elections: what one tool holds, the other waits for.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::servers::{Server, Tool, command, err, out, quoratectl, stores};

/// Starts a tool and waits for its first two lines: a key and its value.
fn holder(tool: Tool, server: &Server, arguments: &[&str]) -> (Child, String) {
    let mut child = command(tool.path(), server).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let (mut key, mut value) = (String::new(), String::new());
    reader.read_line(&mut key).unwrap();
    reader.read_line(&mut value).unwrap();
    child.stdout = Some(reader.into_inner());
    (child, format!("{}={}", key.trim_end(), value.trim_end()))
}

fn stop(child: &Child) {
    kill_process(Pid::from_child(child), Signal::TERM).unwrap();
}

fn in_line(server: &Server, prefix: &str, wanted: usize) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let keys = out(&quoratectl(server, &["get", prefix, "--prefix", "--keys-only"]));
        if keys.lines().filter(|line| !line.is_empty()).count() == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{keys}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn one_tool_waits_for_the_others_lock() {
    for server in stores() {
        for (first, second) in [(Tool::Quoratectl, Tool::Etcdctl), (Tool::Etcdctl, Tool::Quoratectl)] {
            let (mut holding, shown) = holder(first, &server, &["lock", "l"]);
            let key = shown.strip_suffix('=').unwrap();
            let hex = key.strip_prefix("l/").unwrap();
            assert!(u64::from_str_radix(hex, 16).is_ok(), "{shown}");
            let waiting = command(second.path(), &server)
                .args(["lock", "l", "--ttl=5", "--", "sh", "-c", "echo $ETCD_LOCK_KEY $ETCD_LOCK_REV"])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            in_line(&server, "l/", 2);
            stop(&holding);
            assert!(holding.wait().unwrap().success());
            let ran = waiting.wait_with_output().unwrap();
            assert!(out(&ran).starts_with("l/") && ran.status.success(), "{second:?}: {}", err(&ran));
            in_line(&server, "l/", 0);
        }
        // 3.5's: the command's exit code is the tool's.
        let failed = quoratectl(&server, &["lock", "l", "--", "sh", "-c", "exit 7"]);
        assert_eq!((failed.status.code(), err(&failed).as_str()), (Some(7), "Error: exit status 7\n"));
        let missing = quoratectl(&server, &["lock", "l", "/no/such/program"]);
        assert_eq!(missing.status.code(), Some(1));
        in_line(&server, "l/", 0);
        for line in ["lock", "elect", "elect e", "elect -l e x"] {
            crate::servers::same(&server, &line.split(' ').collect::<Vec<_>>());
        }
    }
}

#[test]
fn one_tool_succeeds_the_other_and_both_are_observed() {
    for server in stores() {
        let mut observers = Tool::BOTH.map(|tool| {
            command(tool.path(), &server).args(["elect", "-l", "e"]).stdout(Stdio::piped()).spawn().unwrap()
        });
        let (mut first, shown) = holder(Tool::Quoratectl, &server, &["elect", "e", "one"]);
        assert!(shown.starts_with("e/") && shown.ends_with("=one"), "{shown}");
        let mut second = command(Tool::Etcdctl.path(), &server)
            .args(["elect", "e", "two"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        in_line(&server, "e/", 2);
        let lines = observers.each_mut().map(|observer| {
            let mut lines = BufReader::new(observer.stdout.take().unwrap()).lines();
            let seen = [lines.next().unwrap().unwrap(), lines.next().unwrap().unwrap()];
            assert_eq!(seen[1], "one");
            (lines, seen)
        });
        stop(&first);
        assert!(first.wait().unwrap().success());
        let seen = lines.map(|(mut lines, seen)| {
            [&seen[..], &[lines.next().unwrap().unwrap(), lines.next().unwrap().unwrap()]].concat()
        });
        assert_eq!(seen[0], seen[1]);
        assert_eq!(seen[0][3], "two");
        // etcdctl resigns only if it has shown its key before it is told to stop.
        let mut shown = BufReader::new(second.stdout.take().unwrap()).lines();
        assert_eq!(shown.nth(1).unwrap().unwrap(), "two");
        stop(&second);
        assert!(second.wait().unwrap().success());
        for observer in &mut observers {
            stop(observer);
            observer.wait().unwrap();
        }
        in_line(&server, "e/", 0);
    }
}
