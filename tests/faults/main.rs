//! Does bad input, or a broken machine, get one clear sentence, an exit code other than 0, and an untouched disk?
//!
//! The real binaries are started as an operator starts them, on loopback, in directories of their own. "Untouched" is
//! literal: every file below a directory has the same bytes and the same modification time as before. Excepted are the
//! files named `LOCK`, which hold the process id of whoever locked a directory last. Every sentence is printed, so that
//! `--nocapture` shows what an operator would read.

#![allow(clippy::print_stdout, reason = "the sentences are what this suite is about")]

mod node;
mod process;
mod store;

use std::net::TcpListener;
use std::time::Duration;

use process::{binary_run, scratch};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn quoratectl_without_a_store_says_so_in_bounded_time() {
    let (_dir, path) = scratch();
    // Nobody listens on port 1; and one that is connected to but never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap().to_string();
    for verb in
        [&["get", "a"][..], &["put", "a", "b"], &["list"], &["member", "list"], &["endpoint", "health"]]
    {
        for (endpoint, sentence) in
            [("127.0.0.1:1", "127.0.0.1:1: Connection refused"), (silent.as_str(), "")]
        {
            let mut arguments = vec!["--endpoints", endpoint, "--command-timeout", "1s"];
            arguments.extend(verb);
            let ended = binary_run("quoratectl", &arguments, &path, SOON);
            ended.expect(1, &[sentence]);
            assert!(!ended.output.trim().is_empty(), "not a word: {arguments:?}");
        }
    }
}
