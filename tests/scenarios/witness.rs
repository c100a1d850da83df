//! Two database nodes and a witness: one database is lost, and the other takes over with the witness' vote.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use quorate_drill::Cluster;

/// Building a cluster with a clone in it.
const SETTLE: Duration = Duration::from_secs(60);

fn ctl(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    let output = Command::new(quorate_tests::binary("quoratectl"))
        .env_clear()
        .args(arguments)
        .args(["--endpoints", &cluster.endpoints()])
        .output()?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

async fn story(cluster: &mut Cluster) -> Result<()> {
    let file = cluster.nodes[2].config();
    let text = std::fs::read_to_string(&file)?;
    let witness = text.replacen("\ndcs:\n", "\ndcs:\n  witness: true\n", 1);
    ensure!(witness != text, "the configuration has a dcs section");
    std::fs::write(&file, witness)?;
    for index in 0..3 {
        cluster.start(index)?;
    }
    cluster
        .wait_until("synchronous standby", SETTLE, async |cluster| {
            let Some(view) = cluster.view().await else { return false };
            view.members.len() == 2
                && view
                    .members
                    .iter()
                    .any(|member| matches!(&*member.role, "sync_standby" | "quorum_standby"))
        })
        .await?;
    // It votes like the others, and is shown for what it is.
    ensure!(ctl(cluster, &["member", "list"])?.lines().count() == 3, "three members");
    let list = ctl(cluster, &["list"])?;
    ensure!(list.contains("Witness (votes, runs no PostgreSQL): node3"), "{list}");
    ensure!(!cluster.nodes[2].data_dir().exists(), "a witness has no PostgreSQL");

    let primary = cluster.primary().await;
    let Some(lost) = primary else { anyhow::bail!("there is a primary") };
    let other = 1 - lost;
    cluster.kill(lost).await?;
    cluster.wait_until("new primary", SETTLE, async |cluster| cluster.primary().await == Some(other)).await?;
    // The quorum is the other node and the witness: the store takes writes.
    ctl(cluster, &["put", "/elsewhere", "v"])?;
    cluster.start(lost)?;
    cluster
        .wait_until("the lost node as a standby", SETTLE, async |cluster| {
            let Some(view) = cluster.view().await else { return false };
            view.members.iter().filter(|member| member.state == "streaming").count() == 1
        })
        .await
}

#[test]
fn the_loss_of_one_of_two_databases_is_outvoted_by_a_witness() {
    let _alone = super::alone();
    let (dir, mut cluster) = quorate_tests::cluster(3, "on");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let told = runtime.block_on(async {
        let told = story(&mut cluster).await;
        cluster.stop(Duration::from_secs(20)).await.unwrap();
        told
    });
    if let Err(error) = told {
        let kept = dir.keep();
        panic!("{error:#}\nlogs are kept in {}", kept.display());
    }
}
