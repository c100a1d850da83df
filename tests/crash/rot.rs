//! Bytes that change on the disk while nobody looks.
//!
//! A member alone, so that nobody else can make up for it, is filled, stopped in order, and its directory copied. Then, again
//! and again: the copy, one damage, a start. Either it refuses, with one sentence that names the file and says what to do, or it
//! serves exactly what it served before: every line of the ledger and the same HashKV. What it finds only later may end
//! it later; the start after that has to be right then.
//!
//! An orderly stop writes a record behind the last entry, so that nothing before it can pass for a torn write
//! (`quorate_storage::log`); without one the last group is not protected, and no local log could do that.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use crate::ledger::Ledger;
use crate::member::SETTLE;
use crate::store::{Hash, Store};
use crate::{alone, random, scratch, size};

/// Where records begin in a segment, and what they are aligned to (`quorate_storage::log`).
const SEGMENT_HEADER: usize = 4096;
const ALIGN: usize = 8;
const RECORD_HEADER: usize = 32;

#[test]
fn rotten_bytes_are_refused_or_repaired_never_served() {
    let _alone = alone();
    let scratch = scratch();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run(scratch.path())).unwrap_or_else(|error| panic!("{error:#}"));
}

/// What is done to a file.
#[derive(Debug, Clone)]
enum Harm {
    Flip { bit: u64 },
    CutTo { bytes: u64 },
    Remove,
}

#[derive(Clone)]
struct Damage {
    /// What it hits, for people.
    what: String,
    /// Below the data directory.
    file: PathBuf,
    harm: Harm,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}: {:?}", self.what, self.file.display(), self.harm)
    }
}

/// How a damaged member behaved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Refused,
    ServedRight,
    EndedAndThenServedRight,
}

async fn run(dir: &Path) -> Result<()> {
    let mut random = random("rot");
    let (place, golden) = (dir.join("1"), dir.join("golden"));
    fs::create_dir(&place)?;
    let data = place.join("data");
    let mut store = Store::new(&[&place], dir);
    let (ledger, hash) = filled(&mut store).await?;
    store.members[0].stop()?;
    copy(&data, &golden)?;

    let mut damages = chosen(&golden, &mut random)?;
    let count = size("QUORATE_ROT", 6);
    random.shuffle(&mut damages);
    damages.truncate(count);
    while damages.len() < count {
        damages.push(anywhere(&golden, &mut random)?);
    }
    let begin = Instant::now();
    let mut outcomes: BTreeMap<Outcome, usize> = BTreeMap::new();
    for damage in &damages {
        fs::remove_dir_all(&data)?;
        copy(&golden, &data)?;
        let file = data.join(&damage.file);
        inflict(&file, &damage.harm)?;
        let outcome = judge(&mut store, &ledger, hash, &file).await.with_context(|| damage.to_string())?;
        *outcomes.entry(outcome).or_default() += 1;
    }
    // The net itself: undamaged, it serves right.
    fs::remove_dir_all(&data)?;
    copy(&golden, &data)?;
    let outcome = judge(&mut store, &ledger, hash, &data).await?;
    ensure!(outcome == Outcome::ServedRight, "undamaged: {outcome:?}");
    println!("rot: {} damages in {:.0} s: {outcomes:?}", damages.len(), begin.elapsed().as_secs_f64());
    println!("tally: fault rotten bytes {}", damages.len());
    Ok(())
}

/// Fills a store until it has snapshots and a purged log. The writers are paused then.
async fn filled(store: &mut Store) -> Result<(Ledger, Hash)> {
    store.start()?;
    store.healthy().await?;
    let mut ledger = Ledger::start(store, 3).await?;
    let until = Instant::now() + SETTLE;
    while store.coverage()?.1 < 2 || ledger.acknowledged() < 450 {
        ledger.progress(store).await?;
        ensure!(Instant::now() < until, "no two snapshots in time");
    }
    ledger.pause().await;
    ledger.verify(store).await?;
    Ok((ledger, store.agree().await?))
}

async fn judge(store: &mut Store, ledger: &Ledger, hash: Hash, file: &Path) -> Result<Outcome> {
    let mut ended = 0;
    loop {
        let from = store.members[0].spoken();
        store.start()?;
        let served = async {
            store.healthy().await?;
            ledger.verify(store).await?;
            store.agree().await
        };
        match served.await {
            Ok(found) => {
                ensure!(found == hash, "other content is served: {found:?} instead of {hash:?}");
                store.members[0].kill();
                return Ok(if ended == 0 { Outcome::ServedRight } else { Outcome::EndedAndThenServedRight });
            }
            // Something wrong was served, or nothing at all.
            Err(error) if store.members[0].runs() => return Err(error),
            Err(_) => {}
        }
        let said = store.members[0].said(from);
        let place = store.members[0].data.display().to_string();
        let sentence = said.lines().rfind(|line| line.contains("ERROR") && line.contains(&place));
        let Some(sentence) = sentence else {
            bail!("it ended and does not say where the trouble is: {said}")
        };
        ended += 1;
        if !said.contains("start again") && !said.contains("ready to serve") {
            let remedies = ["start this member with an empty data directory", "correct", "replace"];
            ensure!(
                remedies.iter().any(|remedy| sentence.contains(remedy)),
                "it refuses without a remedy: {sentence}"
            );
            println!(
                "{}: refused: {}",
                file.display(),
                sentence.split_once("ERROR").map_or("", |(_, rest)| rest).trim()
            );
            return Ok(Outcome::Refused);
        }
        ensure!(ended < 3, "it ends again and again: {sentence}");
    }
}

/// One damage for each kind of thing there is.
fn chosen(golden: &Path, random: &mut fastrand::Rng) -> Result<Vec<Damage>> {
    let mut damages = Vec::new();
    let flip = |what: &str, file: &Path, within: std::ops::Range<u64>, random: &mut fastrand::Rng| Damage {
        what: what.to_owned(),
        file: file.to_path_buf(),
        harm: Harm::Flip { bit: random.u64(within.start * 8..within.end * 8) },
    };
    let whole = |what: &str, file: &Path, harm: Harm| Damage {
        what: what.to_owned(),
        file: file.to_path_buf(),
        harm,
    };
    let files = files(golden)?;
    let mut kinds_met = Vec::new();
    for file in &files {
        let (name, length) = (file.display().to_string(), golden.join(file).metadata()?.len());
        if name.starts_with("log/") && name.ends_with(".log") {
            damages.push(flip("the header of a segment", file, 0..SEGMENT_HEADER as u64, random));
            damages.push(whole("a segment", file, Harm::CutTo { bytes: length / 2 }));
            damages.push(whole("a segment", file, Harm::Remove));
            for (kind, mut places) in records(&golden.join(file))? {
                let place = places.swap_remove(random.usize(..places.len()));
                kinds_met.push(kind);
                damages.push(flip(kind, file, place, random));
            }
        } else if name.starts_with("snapshots/") {
            damages.push(flip("the header of a snapshot", file, 0..36, random));
            damages.push(flip("a block of a snapshot", file, 100..length - 20, random));
            damages.push(flip("the trailer of a snapshot", file, length - 20..length, random));
            damages.push(whole("a snapshot", file, Harm::CutTo { bytes: length / 2 }));
            damages.push(whole("a snapshot", file, Harm::Remove));
        } else if name != "LOCK" && !name.ends_with("/LOCK") && !name.ends_with(".tmp") && length > 0 {
            damages.push(flip("a byte of a file", file, 0..length, random));
            damages.push(whole("a file", file, Harm::CutTo { bytes: length / 2 }));
            // sled passes over a large page whose file is gone (`quorate_storage::sled`, seal.rs); no disk takes files away.
            if !name.contains("/blobs/") {
                damages.push(whole("a file", file, Harm::Remove));
            }
        }
    }
    for kind in ["entry", "vote", "committed", "purge", "closed"] {
        ensure!(kinds_met.contains(&kind), "the log holds no {kind}: this run proves little, {kinds_met:?}");
    }
    Ok(damages)
}

/// A flipped bit in any file that holds something.
fn anywhere(golden: &Path, random: &mut fastrand::Rng) -> Result<Damage> {
    let files = files(golden)?;
    loop {
        let file = &files[random.usize(..files.len())];
        let bytes = fs::read(golden.join(file))?;
        // The rest of a segment is zeros.
        let Some(last) = bytes.iter().rposition(|byte| *byte != 0) else { continue };
        let bit = random.u64(..(last as u64 + 1) * 8);
        return Ok(Damage { what: "anything".into(), file: file.clone(), harm: Harm::Flip { bit } });
    }
}

fn inflict(file: &Path, harm: &Harm) -> Result<()> {
    match harm {
        Harm::Flip { bit } => {
            let open = File::options().read(true).write(true).open(file)?;
            let mut byte = [0];
            open.read_exact_at(&mut byte, bit / 8)?;
            open.write_all_at(&[byte[0] ^ (1 << (bit % 8))], bit / 8)?;
        }
        Harm::CutTo { bytes } => File::options().write(true).open(file)?.set_len(*bytes)?,
        Harm::Remove => fs::remove_file(file)?,
    }
    Ok(())
}

/// Kind to where the records of that kind are.
type Records = BTreeMap<&'static str, Vec<std::ops::Range<u64>>>;

/// The records of a segment (`quorate_storage::log::record` has the layout).
fn records(segment: &Path) -> Result<Records> {
    let bytes = fs::read(segment)?;
    let mut found = Records::new();
    let mut at = SEGMENT_HEADER;
    while at + RECORD_HEADER <= bytes.len() {
        let length = u32::from_le_bytes(bytes[at..at + 4].try_into()?) as usize;
        let kind = match bytes[at + 12] {
            0 => break,
            1 => "entry",
            2 => "vote",
            3 => "committed",
            4 => "truncate",
            5 => "purge",
            6 => "closed",
            other => bail!("a record of kind {other} at {at} of {}", segment.display()),
        };
        let end = (at + RECORD_HEADER + length).next_multiple_of(ALIGN);
        found.entry(kind).or_default().push(at as u64..end as u64);
        at = end;
    }
    Ok(found)
}

/// Every file below `dir`, relative to it, in order.
fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let (mut found, mut left) = (Vec::new(), vec![dir.to_path_buf()]);
    while let Some(path) = left.pop() {
        if path.is_dir() {
            for entry in fs::read_dir(&path)? {
                left.push(entry?.path());
            }
        } else {
            found.push(path.strip_prefix(dir)?.to_path_buf());
        }
    }
    found.sort();
    Ok(found)
}

/// `to` does not exist yet.
fn copy(from: &Path, to: &Path) -> Result<()> {
    for file in files(from)? {
        let target = to.join(&file);
        fs::create_dir_all(target.parent().context("a file has a directory")?)?;
        fs::copy(from.join(&file), target)?;
    }
    Ok(())
}
