//! A few faults in a row on one cluster, two of them at two nodes at once: the short form of `quorate drill chaos`, which draws them.

use std::time::Duration;

use quorate_drill::chaos::plan::{Kind, Plan, Strike};
use quorate_drill::chaos::{self, Chaos, Line};
use quorate_drill::netns;
use quorate_drill::observer::Timeline;
use quorate_drill::{Network, Timing, stories};

fn at(after: usize, kind: Kind) -> Strike {
    Strike { kind, after }
}

/// What the others cannot show: that whoever was cut off, stopped or killed is of use as the next primary.
fn plans() -> Vec<Plan> {
    let plan = |strikes: &[Strike], leases| Plan { strikes: strikes.to_vec(), leases };
    vec![
        plan(&[at(0, Kind::CutOutgoing)], 1.5),
        plan(&[at(0, Kind::BothStopped)], 1.5),
        plan(&[at(0, Kind::NodeKilled), at(1, Kind::CutStore)], 0.5),
        plan(&[at(0, Kind::CutPostgreSql)], 0.5),
        plan(&[at(0, Kind::Switchover), at(1, Kind::PostmasterKilled)], 0.5),
        plan(&[at(0, Kind::CutStore)], 1.5),
    ]
}

/// Carries them out on a cluster of its own; the logs are kept unless everything is `as_it_must_be`.
fn suffer(mode: &'static str, plans: Vec<Plan>, as_it_must_be: impl Fn(&Chaos) -> bool) {
    let _alone = super::alone();
    if let Some(why) = netns::obstacle() {
        println!("skipped: {why}");
        return;
    }
    let (dir, mut cluster) = quorate_tests::cluster_with(Network::Namespaces, Timing::FAST, mode);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let timeline = Timeline::new(false);
    let outcome = runtime.block_on(async {
        let outcome = async {
            stories::build(&mut cluster, &timeline).await?;
            chaos::run(&mut cluster, &timeline, plans, |line: &Line| println!("{line}")).await
        }
        .await;
        cluster.stop(Duration::from_secs(20)).await.unwrap();
        outcome
    });
    let passed = outcome.as_ref().is_ok_and(as_it_must_be);
    match outcome {
        Ok(chaos) => println!("{}", chaos.closing()),
        Err(error) => println!("{error:#}"),
    }
    if !passed {
        panic!("logs are kept in {}", dir.keep().display());
    }
}

#[test]
fn a_cluster_gets_over_one_fault_after_the_other() {
    suffer("quorum", plans(), Chaos::passed);
}

/// Agent and guard killed in asynchronous mode: nobody is left who would stop PostgreSQL, so that two acknowledge for as long as
/// nobody starts the agent again. The drill must see it.
#[test]
fn two_that_acknowledge_are_caught() {
    let plans = vec![Plan { strikes: vec![at(0, Kind::KeepersKilled)], leases: 3.0 }];
    suffer("off", plans, |chaos| {
        chaos.report.violations.iter().any(|sentence| sentence.contains("had begun to"))
    });
}
