//! Leases.

use std::time::Duration;

use crate::servers::{Tool, agree, etcdctl, out, quoratectl, same, stores};

/// The id of a new lease.
fn grant(server: &crate::servers::Server, ttl: &str) -> String {
    out(&quoratectl(server, &["lease", "grant", ttl])).split(' ').nth(1).unwrap().to_owned()
}

#[test]
fn leases_are_printed_as_etcdctl_prints_them() {
    for server in stores() {
        same(&server, &["lease", "grant", "1000"]);
        same(&server, &["lease", "grant", "1000", "-w", "json"]);
        same(&server, &["lease", "grant", "1000", "-w", "fields"]);
        let id = grant(&server, "1000");
        let lease = format!("--lease={id}");
        assert_eq!(out(&quoratectl(&server, &["put", "k1", "v", &lease])), "OK\n");
        for form in ["simple", "json", "fields", "table"] {
            // Some seconds may pass between the two.
            let ask = ["lease", "timetolive", &id, "--keys", "-w", form];
            let seconds =
                |text: String| (980..1000).fold(text, |text, s| text.replace(&format!("{s}"), "1000"));
            let (mine, theirs) = (quoratectl(&server, &ask), etcdctl(&server, &ask));
            assert_eq!(seconds(out(&mine)), seconds(out(&theirs)), "{form}");
            assert_eq!(mine.status.code(), theirs.status.code(), "{form}");
            same(&server, &["lease", "keep-alive", &id, "--once", "-w", form]);
            same(&server, &["lease", "list", "-w", form]);
            same(&server, &["lease", "timetolive", "123", "-w", form]);
        }
        let text = out(&quoratectl(&server, &["lease", "timetolive", &id, "--keys"]));
        assert!(text.contains("attached keys([k1])"), "{text}");
        assert_eq!(out(&quoratectl(&server, &["lease", "revoke", &id])), format!("lease {id} revoked\n"));
        assert_eq!(out(&etcdctl(&server, &["get", "k", "--prefix"])), "");
        let both = Tool::BOTH.map(|tool| {
            let id = grant(&server, "1000");
            tool.run(&server, &["lease", "revoke", &id, "-w", "json"])
        });
        agree("lease revoke", &both[0], &both[1]);
        for line in [
            "lease grant",
            "lease grant x",
            "lease revoke",
            "lease revoke xyz",
            "lease revoke 1",
            "lease timetolive",
            "lease timetolive xyz",
            "lease keep-alive",
            "lease keep-alive 1 --once",
            "lease keep-alive 1",
        ] {
            same(&server, &line.split(' ').collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_lease_is_kept_alive_until_it_is_revoked() {
    for server in stores() {
        let id = grant(&server, "2");
        let keeper = crate::servers::command(Tool::Quoratectl.path(), &server)
            .args(["lease", "keep-alive", &id])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // Longer than it would last by itself.
        std::thread::sleep(Duration::from_secs(4));
        assert!(out(&quoratectl(&server, &["lease", "list"])).contains(&id));
        quoratectl(&server, &["lease", "revoke", &id]);
        let ended = keeper.wait_with_output().unwrap();
        let text = out(&ended);
        assert!(text.starts_with(&format!("lease {id} keepalived with TTL(2)\n")), "{text}");
        assert!(text.ends_with(&format!("lease {id} expired or revoked.\n")), "{text}");
        assert!(ended.status.success());
    }
}
