//! `kill -9` of one, two or all three members, at random instants, while they recover too.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::ledger::Ledger;
use crate::store::{Store, victims};
use crate::{alone, random, scratch, size};

#[test]
fn acknowledged_writes_outlive_kills() {
    let _alone = alone();
    let scratch = scratch();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run(scratch.path())).unwrap_or_else(|error| panic!("{error:#}"));
}

async fn run(dir: &std::path::Path) -> Result<()> {
    let rounds = size("QUORATE_KILLS", 10);
    let mut random = random("kills");
    let places = ["1", "2", "3"].map(|name| dir.join(name));
    places.iter().try_for_each(std::fs::create_dir)?;
    let mut store = Store::new(&[&places[0], &places[1], &places[2]], dir);
    store.start()?;
    store.healthy().await?;
    let mut ledger = Ledger::start(&mut store, 2).await?;
    ledger.progress(&mut store).await?;

    let (begin, mut killed, mut while_recovering) = (Instant::now(), 0, 0);
    let mut revision = store.revision().await?;
    for round in 0..rounds {
        // The instant is what is random here; nothing is waited for.
        tokio::time::sleep(Duration::from_millis(random.u64(0..400))).await;
        let count = [1, 1, 2, 3][random.usize(0..4)];
        let mut hit = victims(&mut random, count);
        store.kill(&hit);
        killed += hit.len();
        tokio::time::sleep(Duration::from_millis(random.u64(0..200))).await;
        store.start()?;
        if random.u8(0..3) == 0 {
            // Again, before they are back: some of those, or others.
            tokio::time::sleep(Duration::from_millis(random.u64(0..300))).await;
            store.alive()?;
            hit = victims(&mut random, count);
            store.kill(&hit);
            killed += hit.len();
            while_recovering += 1;
            store.start()?;
        }
        let checked = async {
            store.healthy().await?;
            ledger.verify(&mut store).await?;
            ledger.progress(&mut store).await?;
            store.agree().await?;
            store.compact(revision).await?;
            revision = store.revision().await?;
            Ok::<_, anyhow::Error>(())
        };
        checked.await.map_err(|error| error.context(format!("round {round}, after killing {hit:?}")))?;
        if (round + 1) % 50 == 0 {
            println!("kills: {} rounds, {} writes acknowledged", round + 1, ledger.acknowledged());
        }
    }
    ledger.pause().await;
    ledger.verify(&mut store).await?;
    store.agree().await?;
    let (segments, snapshots) = store.coverage()?;
    ensure!(rounds < 50 || snapshots > 0, "no snapshot was ever taken: this run proves little");
    ensure!(rounds < 200 || segments > 3, "the log never went on in another segment: this run proves little");
    println!(
        "kills: {rounds} rounds, {killed} processes killed, {while_recovering} times again while recovering, {} writes \
         acknowledged, 0 lost, newest segment {segments}, in {:.0} s",
        ledger.acknowledged(),
        begin.elapsed().as_secs_f64()
    );
    println!("tally: fault kill -9 {killed}\ntally: reached acknowledged writes {}", ledger.acknowledged());
    Ok(())
}
