//! The power goes: for one member, for all three at once.
//!
//! When it is one member, it is left alone with its dead disk every second time: the leader goes on writing to it, and it has to
//! end by itself, with a sentence.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::disk::{Disk, note_reboot};
use crate::ledger::Ledger;
use crate::member::Member;
use crate::store::Store;
use crate::{alone, disk, random, scratch, size, strace};

/// Of so many cuts the second and the fourth are of all three at once.
const CYCLE: usize = 5;

#[test]
fn acknowledged_writes_outlive_power_cuts() {
    if !disk::is_possible() {
        println!("skipped: file systems whose power can be cut need root and loop devices");
        return;
    }
    let _alone = alone();
    let scratch = scratch();
    let all = |n| matches!(n % CYCLE, 1 | 3);
    let lab = Lab { dir: scratch.path(), cuts: size("QUORATE_POWER_CUTS", 4), all, before: Vec::new() };
    lab.run().unwrap_or_else(|error| panic!("{error:#}"));
}

/// The mutation: acknowledged before it is on the disk.
#[test]
fn a_store_that_does_not_sync_is_caught() {
    if !disk::is_possible() || !strace::is_possible() {
        println!("skipped: this needs root, loop devices and strace");
        return;
    }
    let _alone = alone();
    let scratch = scratch();
    let before = strace::doing_nothing(strace::SYNCS);
    let lab = Lab { dir: scratch.path(), cuts: 10, all: |_| true, before };
    let begin = Instant::now();
    match lab.run() {
        Ok(()) => panic!("ten power cuts of a store that does not sync, and nothing was noticed"),
        Err(violation) => println!("caught in {:.1} s: {violation:#}", begin.elapsed().as_secs_f64()),
    }
}

struct Lab<'l> {
    dir: &'l Path,
    cuts: usize,
    /// Whether the nth cut is of all.
    all: fn(usize) -> bool,
    /// Before the members' command lines.
    before: Vec<String>,
}

impl Lab<'_> {
    fn run(&self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let mut disks =
            ["1", "2", "3"].iter().map(|name| Disk::make(self.dir, name)).collect::<Result<Vec<_>>>()?;
        // Declared after the disks, dropped before them: nobody unmounts what a process uses.
        let mut store = Store::new(&[disks[0].path(), disks[1].path(), disks[2].path()], self.dir);
        runtime.block_on(self.cut_again_and_again(&mut disks, &mut store))
    }

    fn start(&self, store: &mut Store) -> Result<()> {
        let before: Vec<&str> = self.before.iter().map(String::as_str).collect();
        store.start_under(&before)
    }

    async fn cut_again_and_again(&self, disks: &mut [Disk], store: &mut Store) -> Result<()> {
        let mut random = random("power cuts");
        self.start(store)?;
        store.healthy().await?;
        let mut ledger = Ledger::start(store, 2).await?;
        ledger.progress(store).await?;

        let (begin, mut of_all, mut bitten, mut by_themselves) = (Instant::now(), 0, 0, 0);
        let mut revision = store.revision().await?;
        for n in 0..self.cuts {
            // The instant is what is random here; nothing is waited for.
            tokio::time::sleep(Duration::from_millis(random.u64(20..400))).await;
            let hit: Vec<usize> = if (self.all)(n) { (0..3).collect() } else { vec![random.usize(0..3)] };
            // One that pretends to sync does not notice that its disk is dead; nor need one to whom nobody can write any more.
            let left_alone = hit.len() == 1 && self.before.is_empty() && random.bool();
            let spoken: Vec<u64> = store.members.iter().map(Member::spoken).collect();
            for victim in &hit {
                disks[*victim].write_unsynced()?;
            }
            for victim in &hit {
                disks[*victim].cut()?;
            }
            let checked = async {
                if left_alone {
                    for victim in &hit {
                        ends_with_a_sentence(&mut store.members[*victim], spoken[*victim])?;
                        by_themselves += 1;
                    }
                }
                store.kill(&hit);
                for victim in &hit {
                    bitten += usize::from(disks[*victim].back()?);
                    note_reboot(&store.members[*victim].data)?;
                }
                self.start(store)?;
                store.healthy().await?;
                ledger.verify(store).await?;
                ledger.progress(store).await?;
                store.agree().await?;
                store.compact(revision).await?;
                revision = store.revision().await?;
                Ok::<_, anyhow::Error>(())
            };
            checked.await.with_context(|| format!("cut {n}, of {hit:?}, left alone: {left_alone}"))?;
            of_all += usize::from(hit.len() == 3);
            if (n + 1) % 50 == 0 {
                println!("power cuts: {} so far, {} writes acknowledged", n + 1, ledger.acknowledged());
            }
        }
        ledger.pause().await;
        ledger.verify(store).await?;
        store.agree().await?;
        ensure!(bitten > 0, "no cut lost anything: this run proves nothing");
        let (segments, _) = store.coverage()?;
        println!(
            "power cuts: {} ({of_all} of all at once), {bitten} disks lost what was unsynced, {by_themselves} processes ended \
             by themselves, {} writes acknowledged, 0 lost, newest segment {segments}, in {:.0} s",
            self.cuts,
            ledger.acknowledged(),
            begin.elapsed().as_secs_f64()
        );
        println!("tally: fault power cut {}\ntally: fault power cut of all {of_all}", self.cuts);
        println!("tally: reached disks that lost what was unsynced {bitten}");
        Ok(())
    }
}

/// Its disk is dead: it ends, says so, and where.
fn ends_with_a_sentence(member: &mut Member, spoken: u64) -> Result<()> {
    let status = member.wait_for_end()?;
    ensure!(
        status.code() == Some(1),
        "{} ended with {status} on a dead disk: {}",
        member.name,
        member.last_words()
    );
    let (said, place) = (member.said(spoken), member.data.display().to_string());
    ensure!(
        said.lines().any(|line| line.contains("ERROR") && line.contains(&place)),
        "{} does not say which disk failed: {said}",
        member.name
    );
    Ok(())
}
