//! Watches, also while a command is run for each event, and from lines.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::servers::{Running, Server, Tool, command, err, masked, out, quoratectl, sentence, stores};

/// A tool's lines, as they come.
struct Lines {
    process: Running,
    received: Receiver<String>,
}

impl Lines {
    fn of(tool: Tool, server: &Server, arguments: &[&str]) -> Lines {
        let mut process = command(tool.path(), server)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (lines, received) = channel();
        let reader = BufReader::new(process.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                let _ = lines.send(line);
            }
        });
        Lines { process: Running(process), received }
    }

    fn take(&self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.received.recv_timeout(Duration::from_secs(10)).unwrap()).collect()
    }

    fn say(&mut self, line: &str) {
        writeln!(self.process.0.stdin.as_mut().unwrap(), "{line}").unwrap();
    }
}

#[test]
fn a_watch_shows_history_and_what_follows() {
    for server in stores() {
        quoratectl(&server, &["put", "w", "1"]);
        let watch = Lines::of(Tool::Quoratectl, &server, &["watch", "w", "--rev", "1", "--prev-kv"]);
        assert_eq!(watch.take(3), ["PUT", "w", "1"]);
        quoratectl(&server, &["put", "w", "2"]);
        assert_eq!(watch.take(5), ["PUT", "w", "1", "w", "2"]);
        quoratectl(&server, &["del", "w"]);
        assert_eq!(watch.take(5), ["DELETE", "w", "2", "w", ""]);
    }
}

#[test]
fn events_are_printed_as_etcdctl_prints_them() {
    for server in stores() {
        for value in ["1", "a \"b\"\u{1}"] {
            quoratectl(&server, &["put", "w", value]);
        }
        quoratectl(&server, &["del", "w"]);
        let show = "echo $ETCD_WATCH_REVISION $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE";
        for (arguments, lines) in [
            (&["watch", "w", "--rev", "1", "--prev-kv", "-w", "json"][..], 1),
            (&["watch", "w", "--rev=1", "--prev-kv", "-w", "fields"], 34),
            (&["watch", "w", "--rev=1", "--hex"], 9),
            (&["watch", "--rev=1", "v", "x", "--", "sh", "-c", show], 12),
        ] {
            let [mine, theirs] = Tool::BOTH.map(|tool| {
                Lines::of(tool, &server, arguments)
                    .take(lines)
                    .iter()
                    .map(|line| masked(line))
                    .collect::<Vec<_>>()
            });
            assert_eq!(mine, theirs, "{arguments:?}");
        }
    }
}

#[test]
fn lines_say_what_to_watch() {
    for server in stores() {
        quoratectl(&server, &["put", "w1", "1"]);
        let mut watch = Lines::of(Tool::Quoratectl, &server, &["watch", "-i"]);
        watch.say("watch --rev=1 w --prefix -- echo 'an event'");
        assert_eq!(watch.take(4), ["PUT", "w1", "1", "an event"]);
        watch.say("nonsense");
        quoratectl(&server, &["put", "w2", "2"]);
        assert_eq!(watch.take(4), ["PUT", "w2", "2", "an event"]);
        watch.say("progress");
        assert!(watch.take(1)[0].starts_with("progress notify: "));
        drop(watch.process.0.stdin.take());
        assert_eq!(watch.process.0.wait().unwrap().code(), Some(3));
    }
}

#[test]
fn a_watch_ends_with_etcdctls_codes() {
    for server in stores() {
        for value in ["1", "2", "3"] {
            quoratectl(&server, &["put", "w", value]);
        }
        quoratectl(&server, &["compaction", "3"]);
        let both = Tool::BOTH.map(|tool| tool.run(&server, &["watch", "w", "--rev", "1"]));
        for output in &both {
            assert_eq!(output.status.code(), Some(5), "{}", err(output));
            let canceled = "watch was canceled (etcdserver: mvcc: required revision has been compacted)\n";
            assert!(err(output).contains(canceled), "{}", err(output));
        }
        assert_eq!(sentence(&both[0]), sentence(&both[1]));
        for arguments in [&["watch"][..], &["watch", "a", "b", "--prefix"], &["watch", "a", "--"]] {
            let [mine, theirs] = Tool::BOTH.map(|tool| tool.run(&server, arguments));
            assert_eq!(
                (mine.status.code(), sentence(&mine)),
                (Some(128), sentence(&theirs)),
                "{arguments:?}"
            );
        }
        let named = |variables: &[(&str, &str)], arguments: &[&str]| {
            let mut command = command(Tool::Quoratectl.path(), &server);
            command.envs(variables.iter().copied()).arg("watch").args(arguments).output().unwrap()
        };
        let key = ("ETCDCTL_WATCH_KEY", "w");
        assert_eq!(named(&[key], &["other"]).status.code(), Some(128));
        assert_eq!(named(&[("ETCDCTL_WATCH_RANGE_END", "x")], &[]).status.code(), Some(128));
        // A command that fails ends the watch.
        let failed = named(&[key], &["--rev=4", "--", "false"]);
        assert_eq!((failed.status.code(), out(&failed).as_str()), (Some(1), "PUT\nw\n3\n"));
    }
}
