//! kill -9 at any moment: what was acknowledged is there.
//!
//! The child is this binary again. It appends with several calls under way, votes, and purges, and prints what was
//! acknowledged. It is killed after a random number of lines, while it goes on.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use quorate_storage::{Entry, Log, LogOptions, Position, Vote};

const DIR: &str = "QUORATE_STORAGE_KILL_DIR";
const ROUNDS: u32 = 25;

fn options() -> LogOptions {
    LogOptions { segment_bytes: 64 << 10, cache_bytes: 4096, queue_bytes: 256 << 10, on_sync: None }
}

/// What entry `index` holds, so that the parent can check it.
fn payload(index: u64) -> Bytes {
    vec![index as u8; 20 + (index * 7919 % 900) as usize].into()
}

/// The child's life. A test by name, because that is how a test binary can be told to run one function.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let log = Log::open(Path::new(&dir), options()).unwrap();
    let out = Arc::new(parking_lot::Mutex::new(std::io::stdout()));
    let say = |line: String| {
        let out = out.clone();
        move |result: std::io::Result<()>| {
            result.unwrap();
            let mut out = out.lock();
            writeln!(out, "{line}").and_then(|()| out.flush()).unwrap();
        }
    };
    let mut index = log.last().map_or(1, |last| last.index + 1);
    let mut term = log.vote().map_or(1, |vote| vote.term);
    loop {
        let count = 1 + index % 7;
        let entries = (index..index + count)
            .map(|index| Entry { at: Position { term, index }, payload: payload(index) })
            .collect();
        index += count;
        log.append(entries, Box::new(say(format!("last {}", index - 1))));
        if index.is_multiple_of(5) {
            log.save_committed(log.last());
        }
        if index.is_multiple_of(11) {
            term += 1;
            log.save_vote(
                Vote { term, node: Some(1), committed: true },
                Box::new(say(format!("term {term}"))),
            );
        }
        if index.is_multiple_of(13) && index > 200 {
            let at = log.entries(index - 150..index - 149, 0).unwrap()[0].at;
            log.purge(at, Box::new(say(format!("purged {}", at.index))));
        }
    }
}

#[test]
fn acknowledged_records_survive_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    let (mut last, mut term, mut purged) = (0, 0, 0);
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut take = |line: &str| {
            if let Some((what, number)) = line.split_once(' ')
                && let Ok(number) = number.parse::<u64>()
            {
                match what {
                    "last" => last = number,
                    "term" => term = number,
                    "purged" => purged = number,
                    _ => return false,
                }
                return true;
            }
            false
        };
        let mut left = random.u32(1..400);
        while left > 0 {
            let line = lines.next().expect("the child ended by itself").unwrap();
            left -= u32::from(take(&line));
        }
        child.kill().unwrap();
        // What it had said before it died counts as well; a line cut in the middle does not.
        let mut rest: Vec<String> = lines.map_while(Result::ok).collect();
        rest.pop();
        for line in &rest {
            take(line);
        }
        child.wait().unwrap();

        let log = Log::open(dir.path(), options()).unwrap_or_else(|error| panic!("round {round}: {error}"));
        let found = log.last().expect("entries").index;
        assert!(found >= last, "round {round}: {last} was acknowledged, {found} is the last");
        assert!(
            term == 0 || log.vote().is_some_and(|vote| vote.term >= term),
            "round {round}: the vote of term {term} is gone"
        );
        let first = log.purged().map_or(0, |purged| purged.index) + 1;
        assert!(first > purged, "round {round}: purged up to {purged}, but {first} is there");
        assert!(log.committed().is_none_or(|committed| committed.index <= found), "round {round}");
        let entries = log.entries(0..u64::MAX, usize::MAX).unwrap();
        assert_eq!(entries.len() as u64, found + 1 - first, "round {round}");
        for (entry, index) in entries.iter().zip(first..) {
            assert_eq!((entry.at.index, &entry.payload), (index, &payload(index)), "round {round}");
        }
    }
}
