//! What is done to the members, and how a history shows that it was felt.

use std::time::{Duration, Instant};

use quorate_tests::stores::Stores;
use rustix::process::Signal;

use crate::client::Recorder;
use crate::history::{FaultKind, History, Outcome};

/// One story a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Story {
    /// `kill -9` of the leader; it is started again.
    KillLeader,
    KillFollower,
    /// SIGSTOP of the leader for longer than an election; it goes on, believing.
    StopLeader,
    StopFollower,
    /// All three within a moment, and all are started again: only what is on disk is left.
    KillAll,
}

/// The long form goes through them in this order.
pub(crate) const STORIES: [Story; 5] =
    [Story::KillLeader, Story::StopLeader, Story::KillAll, Story::KillFollower, Story::StopFollower];

const ALL: [usize; 3] = [0, 1, 2];
/// A cluster that answers nobody for so long does not work.
const PATIENCE: Duration = Duration::from_secs(60);
/// An election takes about one second; the stopped one has to wake up to a world that went on.
const STOPPED: Duration = Duration::from_millis(2_500);

/// Waits for traffic.
fn traffic(recorder: &Recorder, answers: usize) {
    let begin = recorder.answers();
    let mut last = (begin, Instant::now());
    while recorder.answers() < begin + answers {
        if recorder.answers() > last.0 {
            last = (recorder.answers(), Instant::now());
        }
        assert!(last.1.elapsed() < PATIENCE, "no answer to anybody for {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Story {
    /// Plays it. Blocks. Before, within and after the fault at least `around` requests are answered, however slow the machine.
    pub(crate) fn play(self, stores: &mut Stores, recorder: &Recorder, around: usize) {
        traffic(recorder, around);
        stores.wait_until("leader", |stores| stores.leader(&ALL).is_some());
        let leader = stores.leader(&ALL).expect("there was one a moment ago");
        let victim = match self {
            Story::KillLeader | Story::StopLeader | Story::KillAll => leader,
            Story::KillFollower | Story::StopFollower => (leader + 1) % ALL.len(),
        };
        let others: Vec<usize> = ALL.into_iter().filter(|member| *member != victim).collect();
        let kill = |stores: &mut Stores, member: usize| {
            // Written down first: nothing it says from here on is of the life after.
            recorder.fault(FaultKind::Killed, member, member == leader);
            stores.kill(member);
        };
        let start = |stores: &mut Stores, member: usize| {
            stores.restart(member);
            recorder.fault(FaultKind::Started, member, false);
        };
        match self {
            Story::KillLeader | Story::KillFollower => {
                kill(stores, victim);
                stores.wait_until("another leader", |stores| stores.leader(&others).is_some());
                traffic(recorder, around);
                start(stores, victim);
            }
            Story::KillAll => {
                for member in ALL {
                    kill(stores, member);
                }
                for member in ALL {
                    start(stores, member);
                }
            }
            Story::StopLeader | Story::StopFollower => {
                stores.signal(victim, Signal::STOP);
                recorder.fault(FaultKind::Stopped, victim, victim == leader);
                let since = Instant::now();
                stores.wait_until("another leader", |stores| stores.leader(&others).is_some());
                std::thread::sleep(STOPPED.saturating_sub(since.elapsed()));
                stores.signal(victim, Signal::CONT);
                recorder.fault(FaultKind::Continued, victim, false);
            }
        }
        stores.wait_until("three healthy members", |stores| {
            ALL.iter().all(|member| stores.is_healthy(*member))
        });
        traffic(recorder, around);
    }

    /// What is missing in a history that was to be this story. Not empty: the run proves nothing.
    pub(crate) fn missing(self, history: &History) -> Vec<String> {
        let mut missing = Vec::new();
        let count = |kind| {
            history.faults().filter(move |(_, fault)| fault.kind == kind).map(|(_, fault)| fault.leader)
        };
        let (kinds, hits) = match self {
            Story::KillLeader | Story::KillFollower => ([FaultKind::Killed, FaultKind::Started], 1),
            Story::KillAll => ([FaultKind::Killed, FaultKind::Started], 3),
            Story::StopLeader | Story::StopFollower => ([FaultKind::Stopped, FaultKind::Continued], 1),
        };
        for kind in kinds {
            if count(kind).count() < hits {
                missing.push(format!("{kind:?} {} times instead of {hits}", count(kind).count()));
            }
        }
        let hits_leader = matches!(self, Story::KillLeader | Story::StopLeader | Story::KillAll);
        if hits_leader && !count(kinds[0]).any(|leader| leader) {
            missing.push("the leader was not hit".to_owned());
        }
        let Some(first_ns) = history.faults().map(|(_, fault)| fault.at_ns).min() else { return missing };
        let last_ns = history.faults().map(|(_, fault)| fault.at_ns).max().unwrap_or(0);
        let terms = |fits: &dyn Fn(u64, u64) -> bool| {
            let all = history.operations().filter_map(|(_, operation)| match &operation.outcome {
                Outcome::Answered(answer) if fits(operation.call_ns, operation.return_ns) => {
                    Some(answer.term)
                }
                _ => None,
            });
            all.max()
        };
        let before = terms(&|_, return_ns| return_ns < first_ns);
        let after = terms(&|call_ns, _| call_ns > last_ns);
        match (before, after) {
            (Some(before), Some(after)) if hits_leader && after <= before => {
                missing.push(format!("nobody else led: term {before} before and {after} after"));
            }
            (Some(_), Some(_)) => {}
            (before, after) => missing.push(format!("answers before ({before:?}) and after ({after:?})")),
        }
        missing
    }
}
