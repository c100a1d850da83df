//! Keys: `get`, `put`, `del`, `txn`.

use std::os::unix::ffi::OsStrExt;

use crate::servers::{
    Tool, agree, command, err, free_port, masked, out, quoratectl, same, stores, with_input,
};

#[test]
fn reads_print_what_etcdctl_prints() {
    for server in stores() {
        for (key, value) in [("foo", "bar"), ("foo1", "b\"1"), ("foo2", "two\nlines"), ("other", "x")] {
            assert_eq!(out(&quoratectl(&server, &["put", key, value])), "OK\n");
        }
        let reads = [
            "get foo",
            "get foo --hex",
            "get foo -w json",
            "-w json get foo",
            "get foo -w fields",
            "get foo -w protobuf",
            "get nothing -w json",
            "get foo --print-value-only",
            "get fo --prefix=true --keys-only",
            "get fo --prefix --sort-by KEY --order DESCEND --limit 2 -w json",
            "get fo --prefix --sort-by modify -w json",
            "get foo foo2 -w json",
            "get foo1 --from-key -w fields",
            "get foo --rev 1",
            "get foo --consistency s",
        ];
        for line in reads {
            same(&server, &line.split(' ').collect::<Vec<_>>());
        }
        same(&server, &["get", "", "--prefix", "--limit", "1"]);
        // 3.4 has no --count-only: these are 3.5's.
        let counted = out(&quoratectl(&server, &["get", "fo", "--prefix", "--count-only", "-w", "fields"]));
        assert!(counted.ends_with("\"More\" : false\n\"Count\" : 3\n"), "{counted}");
        let refused = quoratectl(&server, &["get", "fo", "--count-only"]);
        assert_eq!(refused.status.code(), Some(128));
        assert_eq!(err(&refused), "Error: --count-only is only for `--write-out=fields`\n");
    }
}

#[test]
fn writes_print_what_etcdctl_prints() {
    for server in stores() {
        for form in [&[][..], &["-w", "json"], &["-w", "fields"]] {
            for verb in [&["put", "k", "new", "--prev-kv"][..], &["del", "k", "--prev-kv"], &["del", "k"]] {
                // Each tool starts from the same key; only revisions may differ.
                let both = Tool::BOTH.map(|tool| {
                    quoratectl(&server, &["del", "k"]);
                    if verb != ["del", "k"] {
                        quoratectl(&server, &["put", "k", "old"]);
                    }
                    tool.run(&server, &[verb, form].concat())
                });
                agree(&format!("{verb:?} {form:?}"), &both[0], &both[1]);
            }
        }
        // Keys and values are bytes.
        let bytes = std::ffi::OsStr::from_bytes(b"\xff\xfe");
        let put = command(Tool::Quoratectl.path(), &server).arg("put").args([bytes, bytes]).output().unwrap();
        assert!(put.status.success(), "{}", err(&put));
        let read = command(Tool::Etcdctl.path(), &server).arg("get").arg(bytes).output().unwrap();
        assert_eq!(read.stdout, b"\xff\xfe\n\xff\xfe\n");
        let both = Tool::BOTH.map(|tool| with_input(tool, &server, &["put", "k"], "from\ninput\n"));
        agree("a value from standard input", &both[0], &both[1]);
        assert_eq!(out(&quoratectl(&server, &["get", "k"])), "k\nfrom\ninput\n\n");
    }
}

#[test]
fn transactions_are_read_and_printed_as_etcdctl_does() {
    let inputs = [
        // Both branches, every kind of operation, quotes and escapes.
        "ver(\"no\") = \"0\"\nval(\"k\") != \"x \\x00\"\n\nput k \"a \\x01 b\" --prev-kv\nget k --prefix=true\ndel z\n\n\n",
        "m(\"k\") < \"0\"\n\nput k x\n\nget k\nget nothing\n\n",
        "\n\n\n",
        // Refused by the store.
        "\nput a 1\nput a 2\n\n\n",
        // Cannot be read.
        "",
        "k = 1\n\n\n\n",
        "ver(\"k\") = \"x\"\n\n\n\n",
        "what(\"k\") = \"1\"\n\n\n\n",
        "\nget\n\n\n",
        "\nlook a b\n\n\n",
    ];
    for server in stores() {
        for input in inputs {
            for form in [&["txn"][..], &["txn", "-w", "fields"], &["txn", "-i"]] {
                let both = Tool::BOTH.map(|tool| {
                    quoratectl(&server, &["del", "k"]);
                    quoratectl(&server, &["put", "k", "a \u{1} b"]);
                    with_input(tool, &server, form, input)
                });
                agree(&format!("{form:?} {input:?}"), &both[0], &both[1]);
            }
        }
        // 3.4 calls the operations ResponseRange and so on; this is 3.5's.
        let json = out(&with_input(Tool::Quoratectl, &server, &["txn", "-w", "json"], "\nget none\n\n\n"));
        let json = masked(&json);
        let end = "\"succeeded\":true,\"responses\":[{\"Response\":{\"response_range\":{\"header\":{\"revision\":N}}}}]}\n";
        assert!(json.ends_with(end), "{json}");
    }
}

#[test]
fn failures_have_etcdctls_exit_codes_and_sentences() {
    for server in stores() {
        let cases = [
            "put",
            "get",
            "del a b c",
            "get a b --prefix",
            "get a --prefix --from-key",
            "get a --order up",
            "get a --sort-by size",
            "get a --consistency x",
            "get a --print-value-only -w json",
            "get foo -w table",
            "get foo -w xml",
            "get foo --rev 999999999",
            "put a b --lease 1",
            "put a b --lease xyz",
            "put a b --ignore-value",
            "put a --ignore-value",
            "compaction",
            "compaction x",
            "compaction 999999999",
        ];
        for line in cases {
            same(&server, &line.split(' ').collect::<Vec<_>>());
        }
        // What cannot be read: etcdctl's help goes to standard output besides, ours does not.
        for line in ["nosuch", "get --nosuch"] {
            let words: Vec<_> = line.split(' ').collect();
            let (mine, theirs) = (quoratectl(&server, &words), Tool::Etcdctl.run(&server, &words));
            assert_eq!(mine.status.code(), theirs.status.code(), "{line}");
            let begin =
                |output| err(output).lines().next().unwrap_or_default().replace("etcdctl", "quoratectl");
            assert_eq!(begin(&mine), begin(&theirs), "{line}");
        }
        // A write whose answer could not be printed is not made.
        let refused = quoratectl(&server, &["put", "unprinted", "x", "-w", "table"]);
        assert_eq!(refused.status.code(), Some(4));
        assert_eq!(out(&quoratectl(&server, &["get", "unprinted"])), "");
    }
}

#[test]
fn the_next_endpoint_is_asked_when_one_is_down() {
    for server in stores() {
        let down = format!("127.0.0.1:{}", free_port());
        let both = format!("{down},{}", server.endpoint);
        let tool = |arguments: &[&str]| {
            command(Tool::Quoratectl.path(), &server)
                .env("QUORATECTL_ENDPOINTS", &both)
                .args(arguments)
                .output()
                .unwrap()
        };
        assert_eq!(out(&tool(&["put", "k", "v"])), "OK\n");
        assert_eq!(out(&tool(&["get", "k"])), "k\nv\n");
        assert!(err(&tool(&["get", "k", "--debug"])).contains(&format!("{} after ", server.endpoint)));
        let health = tool(&["endpoint", "health"]);
        assert_eq!(health.status.code(), Some(1));
        assert!(out(&health).contains("is healthy: successfully committed proposal: took = "));
        assert!(err(&health).ends_with("Error: unhealthy cluster\n"));
        // The flag wins over the variable, and the endpoint is named.
        let lost = tool(&["get", "k", "--endpoints", &down]);
        assert_eq!(lost.status.code(), Some(1));
        assert!(err(&lost).contains(&format!("{down}: Connection refused")), "{}", err(&lost));
    }
}

#[test]
fn a_dry_run_changes_nothing() {
    for server in stores() {
        quoratectl(&server, &["put", "k", "v"]);
        assert!(
            out(&quoratectl(&server, &["del", "k", "--dry-run"])).starts_with("would delete 1 keys\nk\n")
        );
        assert!(
            out(&quoratectl(&server, &["put", "k", "w", "--dry-run"])).starts_with("would put k (1 bytes)")
        );
        assert_eq!(out(&quoratectl(&server, &["get", "k"])), "k\nv\n");
    }
}
