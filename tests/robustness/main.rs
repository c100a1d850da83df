//! Is what real clients saw linearizable, and did every watch deliver everything once, in order?
//!
//! Three processes, clients that write down what they ask and are told, a fault; then checkers that read what was written. The
//! same for Debian's etcd, whose verdict has to be clean too, or the checkers ask for more than the protocol promises; and the
//! same histories with lies in them, each of which has to be found, or they ask for less.
//!
//! | file | one idea |
//! |---|---|
//! | `history.rs` | what was asked and told, as lines of JSON |
//! | `client.rs`, `watcher.rs` | who writes it down |
//! | `traffic.rs`, `faults.rs`, `run.rs` | what is asked, what is done to the members, and in which order |
//! | `model.rs` | the store as a specification |
//! | `log.rs`, `order.rs` | the order of changes and who asked for each; real time against it |
//! | `revisions.rs`, `watches.rs`, `leases.rs`, `hashes.rs` | the rules |
//! | `search.rs` | the second oracle: any order at all |
//! | `mutations.rs` | lies |
//!
//! | variable | effect |
//! |---|---|
//! | `QUORATE_SEED` | the first run's seed; clients' choices follow from it, not the machine's timing |
//! | `QUORATE_ROBUSTNESS_SECONDS` | the long form: one run after the other on `quorate store` for so long, every story of faults in turn |
//! | `QUORATE_ROBUSTNESS_LIES` | how often each lie is told about each history, at different places; 1 if not set |
//! | `QUORATE_TESTS_STORE` | another program instead of `quorate store`, for instance `etcd` |
//! | `QUORATE_HISTORY` | a file: `a_kept_history` checks that one and nothing runs |
//!
//! A history that is found bad is kept in `target/tmp/robustness/`, and its name is in the message.

#![allow(clippy::print_stdout, reason = "a verdict without its figures is worth little")]

mod check;
mod client;
mod faults;
mod hashes;
mod history;
mod leases;
mod log;
mod model;
mod mutations;
mod order;
mod revisions;
mod run;
mod search;
mod traffic;
mod verdict;
mod watcher;
mod watches;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fastrand::Rng;

use check::{Figures, check};
use faults::{STORIES, Story};
use history::History;
use mutations::Truth;
use run::{Run, Setup, System, run};

/// Answers before, within and after a fault: enough that every kind of request and of lie has its place. The long form takes
/// five times as many.
const AROUND: usize = 200;

fn seed() -> u64 {
    std::env::var("QUORATE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..))
}

fn seconds() -> Option<u64> {
    std::env::var("QUORATE_ROBUSTNESS_SECONDS")
        .ok()
        .map(|seconds| seconds.parse().expect("a number of seconds"))
}

fn times() -> usize {
    std::env::var("QUORATE_ROBUSTNESS_LIES")
        .map_or(1, |times| times.parse().expect("how often each lie is told"))
}

fn kept(history: &History, name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("robustness").join(format!("{name}.jsonl"));
    history.write(&path).expect("the history can be kept");
    path
}

/// Runs, checks, and prints one line. Fails with the two records of every kind of contradiction.
async fn clean(setup: Setup) -> History {
    let Setup { story, seed, .. } = setup;
    let begin = Instant::now();
    let Run { history, stores } = run(setup).await;
    let ran = begin.elapsed();
    let verdict = check(&history);
    let figures = Figures::of(&history, &verdict.log);
    let name = format!("{}-{story:?}-{seed}", history.start().map_or("", |start| &start.system));
    println!(
        "{name}: {figures}; {} windows searched with {} operations, {} given up; {:.1} s, checked in {:.1} s",
        verdict.searched.windows,
        verdict.searched.operations,
        verdict.searched.given_up,
        ran.as_secs_f64(),
        (begin.elapsed() - ran).as_secs_f64(),
    );
    if !verdict.findings.is_empty() {
        let path = kept(&history, &name);
        panic!(
            "QUORATE_SEED={seed}, {story:?}: {} contradictions; again by QUORATE_HISTORY={}\n\n{}",
            verdict.findings.count(),
            path.display(),
            verdict.findings.report(&history)
        );
    }
    let mut missing = story.missing(&history);
    if verdict.searched.windows == 0 || verdict.searched.given_up * 100 > verdict.searched.windows {
        missing.push(format!("a search that ends: {:?}", verdict.searched));
    }
    if !missing.is_empty() {
        let path = kept(&history, &name);
        panic!("an invalid run, see {}: {}", path.display(), missing.join("; "));
    }
    drop(stores);
    history
}

/// Tells every lie `times` times at random places. By lie: how often there was a place, and who objected.
fn lies(history: &History, seed: u64, times: usize) -> BTreeMap<&'static str, Lie> {
    let mut told: BTreeMap<&'static str, Lie> = BTreeMap::new();
    let verdict = check(history);
    let truth = Truth::new(history, &verdict.log);
    let mut random = Rng::with_seed(seed);
    for mutation in mutations::ALL {
        let entry = told.entry(mutation.name).or_default();
        for _ in 0..times {
            let Some(lie) = (mutation.tell)(&truth, &mut random) else { continue };
            entry.told += 1;
            let found = check(&lie).findings;
            if found.is_empty() {
                entry.missed.push(kept(
                    &lie,
                    &format!("missed-{}-{seed}", mutation.name.replace([':', ' ', ','], "-")),
                ));
            }
            for checker in found.checkers() {
                *entry.by.entry(checker.name()).or_default() += 1;
            }
        }
    }
    told
}

/// What became of a lie.
#[derive(Debug, Default)]
struct Lie {
    told: usize,
    missed: Vec<PathBuf>,
    by: BTreeMap<&'static str, usize>,
}

impl Lie {
    fn add(&mut self, other: Lie) {
        self.told += other.told;
        self.missed.extend(other.missed);
        for (checker, times) in other.by {
            *self.by.entry(checker).or_default() += times;
        }
    }
}

/// Prints the table; every lie must have been told, and found.
fn judge(told: &BTreeMap<&'static str, Lie>) {
    let mut wrong = Vec::new();
    println!("| lie | told | found | by |\n|---|---|---|---|");
    for mutation in mutations::ALL {
        let lie = &told[mutation.name];
        let by: Vec<String> = lie.by.iter().map(|(checker, times)| format!("{checker} {times}")).collect();
        println!(
            "| {} | {} | {} | {} |",
            mutation.name,
            lie.told,
            lie.told - lie.missed.len(),
            by.join(", ")
        );
        if lie.told == 0 {
            wrong.push(format!("{}: no history had a place for it", mutation.name));
        }
        for path in &lie.missed {
            wrong.push(format!("{}: nobody noticed, see {}", mutation.name, path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn both_stores_through_the_loss_of_the_leader_and_every_lie_about_it() {
    let seed = seed();
    // Side by side: each waits more than it works.
    let runs = [System::Quorate, System::Etcd].map(|system| {
        tokio::spawn(async move {
            let progress = system.promises_progress();
            let history =
                clean(Setup { system, story: Story::KillLeader, seed, progress, around: AROUND }).await;
            // What was kept is what was judged.
            let path = kept(&history, &format!("last-{}", system.name()));
            assert_eq!(History::read(&path).expect("it was just written"), history);
            tokio::task::block_in_place(|| lies(&history, seed, times()))
        })
    });
    let mut told: BTreeMap<&'static str, Lie> = BTreeMap::new();
    for run in runs {
        for (name, lie) in run.await.expect("the reason is above") {
            told.entry(name).or_default().add(lie);
        }
    }
    judge(&told);
}

/// All members are lost at once; in the long form every story in turn, for as long as there is time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_story_of_faults() {
    let until = Instant::now() + Duration::from_secs(seconds().unwrap_or(0));
    let around = if seconds().is_some() { AROUND * 5 } else { AROUND };
    let mut stories = STORIES.iter().cycle().skip_while(|story| **story != Story::KillAll);
    let mut total = BTreeMap::new();
    let (mut runs, mut operations, mut unknown) = (0, 0, 0);
    for seed in seed().. {
        let story = *stories.next().expect("they go round");
        let history = clean(Setup { system: System::Quorate, story, seed, progress: true, around }).await;
        let verdict = check(&history);
        let figures = Figures::of(&history, &verdict.log);
        runs += 1;
        operations += figures.operations;
        unknown += figures.unknown;
        for (_, fault) in history.faults() {
            *total.entry((fault.kind, fault.leader)).or_insert(0) += 1;
        }
        if Instant::now() >= until {
            break;
        }
    }
    println!("{runs} runs, {operations} operations, {unknown} unknown, 0 contradictions; faults:");
    for ((kind, leader), times) in total {
        let leader = if leader { " (the leader)" } else { "" };
        println!("  {kind:?}{leader}: {times}");
        println!("tally: fault {kind:?}{leader} {times}");
    }
    println!("tally: runs {runs}\ntally: reached operations {operations}");
}

/// The file that `QUORATE_HISTORY` names, or one that was written by hand: a clean story in which one read is stale.
#[test]
fn a_kept_history() {
    if let Ok(path) = std::env::var("QUORATE_HISTORY") {
        let history = History::read(Path::new(&path)).expect("QUORATE_HISTORY names a kept history");
        let verdict = check(&history);
        println!("{}; {:?}", Figures::of(&history, &verdict.log), verdict.searched);
        assert!(verdict.findings.is_empty(), "{}", verdict.findings.report(&history));
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("robustness/stale_read.jsonl");
    let mut history = History::read(&path).expect("it is part of the source");
    let found = check(&history).findings;
    let expected = [("revisions", "a read is of one state"), ("search", "some order explains it")];
    assert_eq!(found.rules(), expected, "{}", found.report(&history));
    // Line 9 read what line 7 had replaced.
    let report = found.report(&history);
    assert!(report.contains("line 9: ") && report.contains("line 7: "), "{report}");
    // The same without that read is clean.
    history.records.remove(8);
    let found = check(&history).findings;
    assert!(found.is_empty(), "{}", found.report(&history));
}
