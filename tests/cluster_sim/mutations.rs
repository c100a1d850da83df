//! The gate: each rule of the store that is broken on purpose is noticed, by a checker that it belongs to.
//!
//! A rule is tried from the seed on at which it was noticed when this table was written: one run each, as long as neither the
//! schedule nor the store has changed much. Those seeds are among the ones that CI runs unbroken (but for the one whose log rots,
//! which is rare), and a verdict has to be of the kind that belongs to the rule.
#![allow(clippy::print_stdout, reason = "how soon, for the table in tests/README.md")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Instant, SystemTime};

use anyhow::Result;
use parking_lot::Mutex;
use quorate_consensus::sim::Rule;
use serde_json::Value;

use crate::runner::child;

/// Within so many seeds a broken rule has to be noticed.
const WITHIN: u64 = 20;

/// Where to begin with a rule, and how verdicts begin that belong to it.
fn expected(rule: Rule) -> (u64, &'static [&'static str]) {
    match rule {
        Rule::ReadWithoutQuorum => (9, &["STALE"]),
        Rule::EmptyDiskKeepsItsId => (5, &["ONE ID ON TWO DISKS"]),
        Rule::StaleSnapshot => (2, &["DIVERGED", "WRONG VALUE", "TWO HISTORIES", "not everybody has told"]),
        Rule::WatchersPassedBySnapshots => (2, &["WATCH"]),
        // The first one to notice is the leader, who finds less at a follower than there was.
        Rule::AcknowledgedBeforeSync => (3, &["LOST", "log reversion"]),
        Rule::FailedSyncTriedAgain => (7, &["DEAF"]),
        Rule::ChecksumsNotLookedAt => (123, &["ROT"]),
        // Or a candidate whose log is of a term that it does not remember.
        Rule::VotesNotWritten => (9, &["TWO LEADERS", "must GE last_leader_log_ids"]),
        Rule::RemovedMemberGoesOn => (9, &["who was removed has ended", "the removed member has ended"]),
        Rule::LeasesEndEarly => (9, &["LEASE ENDED EARLY"]),
        Rule::OrderOfItsOwn => (9, &["WRONG VALUE", "DIVERGED", "TWO HISTORIES"]),
    }
}

/// What trying one rule came to.
struct Tried {
    rule: Rule,
    /// The seed, and the verdict that belongs to the rule.
    noticed: Option<(u64, String)>,
    /// Verdicts of seeds before that.
    others: Vec<String>,
    seconds: f64,
}

fn verdicts(report: &Value) -> Vec<String> {
    let violations = report["violations"].as_array().into_iter().flatten();
    violations.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn try_out(rule: Rule) -> Result<Tried> {
    let (first, belonging) = expected(rule);
    let began = Instant::now();
    let mut tried = Tried { rule, noticed: None, others: Vec::new(), seconds: 0.0 };
    for seed in first..first + WITHIN {
        let verdicts = verdicts(&child(seed, Some(rule))?);
        let fits = |verdict: &&String| belonging.iter().any(|words| verdict.contains(words));
        tried.noticed = verdicts.iter().find(fits).map(|verdict| (seed, verdict.clone()));
        if tried.noticed.is_some() {
            break;
        }
        tried.others.extend(verdicts.into_iter().take(1));
    }
    tried.seconds = began.elapsed().as_secs_f64();
    Ok(tried)
}

/// Tries `how_many` rules, others every day. True when every one was noticed.
pub(crate) fn are_noticed(how_many: usize, jobs: usize) -> Result<bool> {
    let began = Instant::now();
    let all = Rule::ALL.len();
    let how_many = how_many.min(all);
    let days = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs() / 86_400;
    let from = usize::try_from(days)? * how_many;
    let next = AtomicUsize::new(0);
    let tried: Mutex<Vec<Result<Tried>>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let nth = next.fetch_add(1, Ordering::Relaxed);
                    if nth >= how_many {
                        return;
                    }
                    let outcome = try_out(Rule::ALL[(from + nth) % all]);
                    tried.lock().push(outcome);
                }
            });
        }
    });
    let tried: Vec<Tried> = tried.into_inner().into_iter().collect::<Result<_>>()?;
    for Tried { rule, noticed, others, seconds } in &tried {
        match noticed {
            Some((seed, verdict)) => {
                let verdict: String = verdict.chars().take(120).collect();
                println!("{rule:?}: seed {seed}, {seconds:.0} s: {verdict}");
            }
            None => println!("{rule:?}: UNNOTICED in {WITHIN} seeds, {seconds:.0} s; otherwise: {others:?}"),
        }
    }
    let noticed = tried.iter().filter(|it| it.noticed.is_some()).count();
    let seconds = began.elapsed().as_secs_f64();
    println!("\ncluster_sim: {noticed} of {how_many} broken rules noticed, in {seconds:.0} s");
    Ok(noticed == how_many)
}
