//! Members and endpoints, maintenance, and the cluster's own verbs.

use std::process::Output;

use crate::servers::{Tool, err, etcd, masked, out, quoratectl, same, sentence, stores};

#[test]
fn members_and_endpoints_are_printed_as_etcdctl_prints_them() {
    for server in stores() {
        quoratectl(&server, &["put", "k", "v"]);
        for form in ["simple", "table", "json", "fields", "xml"] {
            for verb in [
                &["member", "list"][..],
                &["endpoint", "status"],
                &["endpoint", "hashkv"],
                &["alarm", "list"],
            ] {
                // etcdctl 3.4 panics on the fields of no alarms.
                if verb[0] != "alarm" || form != "fields" {
                    same(&server, &[verb, &["-w", form]].concat());
                }
            }
        }
        same(&server, &["endpoint", "status", "--cluster"]);
        same(&server, &["endpoint", "hashkv", "--rev", "1"]);
        same(&server, &["endpoint", "hashkv", "--rev", "99999"]);
        same(&server, &["member", "list", "-w", "protobuf"]);
        same(&server, &["defrag"]);
        same(&server, &["defrag", "--cluster"]);
        same(&server, &["alarm", "disarm"]);
        same(&server, &["alarm", "list", "x"]);
        let health = out(&quoratectl(&server, &["endpoint", "health", "-w", "json"]));
        let begin = format!("[{{\"endpoint\":\"{}\",\"health\":true,\"took\":\"", server.endpoint);
        assert!(health.starts_with(&begin), "{health}");
        // 3.5's; 3.4 does not look at --hex here.
        let hex = out(&quoratectl(&server, &["member", "list", "-w", "json", "--hex"]));
        let id = out(&quoratectl(&server, &["member", "list"])).split(',').next().unwrap().to_owned();
        assert!(hex.contains(&format!("\"members\":[{{\"ID\":\"{id}\",\"name\":\"one\"")), "{hex}");
    }
}

#[test]
fn members_are_changed_with_etcdctls_words() {
    for server in stores() {
        for line in [
            "move-leader",
            "move-leader 1",
            "member add",
            "member add x",
            "member add x http://127.0.0.1:1",
            "member remove",
            "member remove xyz",
            "member remove 1",
            "member update 1",
            "member update 1 --peer-urls http://127.0.0.1:1",
            "member promote 1",
        ] {
            same(&server, &line.split(' ').collect::<Vec<_>>());
        }
    }
    let server = etcd();
    let mut port = 1;
    for form in ["simple", "json", "fields"] {
        let both = Tool::BOTH.map(|tool| {
            // etcd derives a member's id from its URL and the second, and takes none twice.
            port += 1;
            let url = format!("http://127.0.0.2:{port}");
            let alike = |mut output: Output| {
                output.stdout = out(&output).replace(&url, "URL").into_bytes();
                output
            };
            let add = ["member", "add", "two", "--peer-urls", &url, "--learner", "-w", form];
            let added = alike(tool.run(&server, &add));
            let listed = out(&quoratectl(&server, &["member", "list"]));
            let Some(new) = listed.lines().find(|line| line.contains("unstarted")) else {
                return (added, None);
            };
            let id = new.split(',').next().unwrap().to_owned();
            let update = ["member", "update", &id, "--peer-urls", "http://127.0.0.2:1", "-w", form];
            let updated = tool.run(&server, &update);
            let removed = tool.run(&server, &["member", "remove", &id, "-w", form]);
            // In a form that does not exist quoratectl changes nothing, and etcdctl does it all the same.
            quoratectl(&server, &["member", "remove", &id]);
            (added, Some((updated, removed)))
        });
        // A new member stands before or after the old one, as its id has it.
        let sorted = |output: &Output| {
            let mut words: Vec<String> =
                masked(&out(output)).split([',', '"', '{', '}']).map(str::to_owned).collect();
            words.sort();
            (words, output.status.code(), sentence(output))
        };
        assert_eq!(sorted(&both[0].0), sorted(&both[1].0), "add {form}");
        let [mine, theirs] = both.map(|(_, rest)| rest);
        if form == "fields" {
            assert!(mine.is_none() && theirs.is_some(), "a member was added although it could not be shown");
        } else {
            let (mine, theirs) = (mine.unwrap(), theirs.unwrap());
            assert_eq!(sorted(&mine.0), sorted(&theirs.0), "update {form}");
            assert_eq!(sorted(&mine.1), sorted(&theirs.1), "remove {form}");
        }
    }
}

#[test]
fn history_is_forgotten() {
    for server in stores() {
        for value in ["1", "2", "3"] {
            quoratectl(&server, &["put", "k", value]);
        }
        assert_eq!(out(&quoratectl(&server, &["compaction", "3", "--physical"])), "compacted revision 3\n");
        same(&server, &["compaction", "3"]);
        same(&server, &["get", "k", "--rev", "2"]);
        assert_eq!(out(&quoratectl(&server, &["get", "k", "--rev", "3"])), "k\n2\n");
    }
}

#[test]
fn a_store_is_mirrored_and_a_load_is_judged() {
    let [from, to] = stores();
    for key in ["m/1", "m/2", "other"] {
        quoratectl(&from, &["put", key, "v"]);
    }
    let mirror = crate::servers::command(Tool::Quoratectl.path(), &from)
        .args(["make-mirror", &to.endpoint, "--prefix", "m/", "--dest-prefix", "n/"])
        .spawn()
        .unwrap();
    let _mirror = crate::servers::Running(mirror);
    let wait = |wanted: &str| {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(15);
        loop {
            let found = out(&quoratectl(&to, &["get", "", "--prefix", "--keys-only"])).replace("\n\n", " ");
            if found == wanted {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "{found:?} instead of {wanted:?}");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    };
    wait("n/1 n/2 ");
    quoratectl(&from, &["put", "m/3", "v"]);
    quoratectl(&from, &["del", "m/1"]);
    wait("n/2 n/3 ");
    let judged = quoratectl(&to, &["check", "perf", "--duration", "500ms"]);
    let said = out(&judged);
    // Whether this machine passes is not this test's question.
    assert!(said.contains(" writes/s\n") && said.contains("\nPASS: Stddev is "), "{said}{}", err(&judged));
    assert_eq!(said.ends_with("\nPASS\n"), judged.status.success());
    wait("n/2 n/3 ");
}

#[test]
fn every_shell_is_completed() {
    let server = crate::servers::ours();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = out(&quoratectl(&server, &["completion", shell]));
        assert!(script.contains("move-leader") && script.contains("grant-permission"), "{shell}");
    }
    let version = out(&quoratectl(&server, &["version"]));
    assert_eq!(version, format!("quoratectl version: {}\nAPI version: 3.5\n", env!("CARGO_PKG_VERSION")));
    let refused = quoratectl(&server, &["get", "k", "--discovery-srv", "example.org"]);
    assert_eq!(refused.status.code(), Some(128));
    assert!(err(&refused).contains("name the members with --endpoints"));
    let group = quoratectl(&server, &["lease"]);
    assert!(err(&group).is_empty() && out(&group).contains("timetolive"), "{}", err(&group));
}

#[test]
fn the_list_is_read_from_patronis_keys() {
    for server in stores() {
        let member = r#"{"conn_url":"postgres://10.0.0.1:5432/postgres","api_url":"http://10.0.0.1:8008/patroni","state":"running","role":"primary","timeline":3,"xlog_location":100}"#;
        for (key, value) in [
            ("leader", "node1"),
            ("initialize", "7710395948784291904"),
            ("members/node1", member),
            ("config", "{\"ttl\":30}"),
        ] {
            quoratectl(&server, &["put", &format!("/service/demo/{key}"), value]);
        }
        let list = quoratectl(&server, &["list"]);
        assert_eq!(
            out(&list),
            "\
+ Cluster: demo (7710395948784291904) -+----+-------------+-----+------------+-----+
| Member | Host     | Role   | State   | TL | Receive LSN | Lag | Replay LSN | Lag |
+--------+----------+--------+---------+----+-------------+-----+------------+-----+
| node1  | 10.0.0.1 | Leader | running |  3 |             |     |            |     |
+--------+----------+--------+---------+----+-------------+-----+------------+-----+
"
        );
        assert_eq!(out(&quoratectl(&server, &["show-config", "-f", "json"])), "{\"ttl\": 30}\n");
        let refused = quoratectl(&server, &["switchover", "--force"]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(err(&refused).contains("No candidates found to switchover to"));
        quoratectl(&server, &["put", "/service/other/leader", "x"]);
        let several = quoratectl(&server, &["list"]);
        assert!(err(&several).contains("several clusters (demo, other)"));
    }
}
