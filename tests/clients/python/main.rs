//! Do Python's clients notice that no etcd answers them? One over gRPC, one over the JSON gateway, at the versions of
//! `requirements.txt`; what they do is in the scripts beside this file, which end with `done` or with a traceback.

use std::path::Path;
use std::process::{Command, Stdio};

use quorate_tests::python;
use quorate_tests::stores::Stores;

/// Runs a script against every member in turn: a follower must do as well as the leader.
fn run(script: &str) {
    let stores = Stores::start(&[]);
    let home = std::env::temp_dir();
    let python = python::packages(&home, None).expect("Python's packages");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(script);
    for endpoint in stores.endpoints() {
        let (host, port) = endpoint.split_once(':').expect("host:port");
        let command = python.script(&script, &[host, port]);
        let output = Command::new(&command[0])
            .args(&command[1..])
            .envs(python.environment(&home))
            .stdin(Stdio::null())
            .output()
            .expect("python3 starts");
        let (said, complained) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && said.trim() == "done", "{endpoint}: {said}{complained}");
    }
}

#[test]
fn etcd3_over_grpc() {
    run("over_grpc.py");
}

#[test]
fn etcd3gw_over_json() {
    run("over_json.py");
}
