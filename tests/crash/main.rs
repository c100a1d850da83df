//! Is an acknowledged write there after the crash, and is nothing wrong ever served?
//!
//! Real `quorate store` processes, one writer per line of the [`ledger`], and one question asked again and again: is
//! everything there that was acknowledged, and do all members hold the same (HashKV)? What happens to the processes and
//! their disks in between differs:
//!
//! | module | what happens | where it is believed to be enough |
//! |---|---|---|
//! | [`kills`] | `kill -9` of one, of two, of all three, also while they recover | the page cache survives: order of writes, recovery |
//! | [`power_cuts`] | each data directory is an ext4 of its own, whose page cache and journal tail are dropped (`EXT4_IOC_SHUTDOWN`) | the log's syncs and the syncs of directories |
//! | [`broken_disks`] | a sync that fails, a sync that takes seconds, a disk that is full, under one member of three | the member ends or waits, the others go on |
//! | [`rot`] | flipped bits in every kind of record and in every file, files cut short, on a member that is alone | checksums: refused with a remedy, or repaired, never served |
//!
//! The net is shown to catch fish: a store whose `fdatasync` does nothing passes the kills and is caught by the power cuts
//! ([`power_cuts::a_store_that_does_not_sync_is_caught`]).
//!
//! # Sizes
//!
//! `QUORATE_KILLS` (10), `QUORATE_POWER_CUTS` (4; two of five are of all at once), `QUORATE_ROT` (6 damages; the first fifty or so hit
//! every kind of thing once, further ones are random bits). By hand: 1,000, 500 and 300. `QUORATE_SEED` chooses victims and
//! instants; what the machine does in between is its own, so a seed repeats the schedule and not the run. A failure keeps the
//! directories and names them.
//!
//! What needs root (file systems, strace) says so in a plain line and is skipped without it.

#![allow(clippy::print_stdout, reason = "what happened, and how often, is what this suite is about")]

mod broken_disks;
mod client;
mod disk;
mod kills;
mod ledger;
mod member;
mod power_cuts;
mod rot;
mod store;
mod strace;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// One cluster at a time: three members and their writers have both cores busy.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    // A test that failed has said so itself.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A size from the environment.
fn size(variable: &str, default: usize) -> usize {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")),
        Err(_) => default,
    }
}

/// The schedule's random numbers; their seed is printed.
fn random(what: &str) -> fastrand::Rng {
    let seed = size("QUORATE_SEED", fastrand::usize(..)) as u64;
    println!("{what}: QUORATE_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// A directory that is kept when the test fails, in memory where that is possible: it is written a lot.
fn scratch() -> Scratch {
    let memory = std::path::Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
    Scratch(Some(tempfile::Builder::new().prefix("quorate-crash-").tempdir_in(parent).expect("a directory")))
}

struct Scratch(Option<tempfile::TempDir>);

impl Scratch {
    fn path(&self) -> &std::path::Path {
        self.0.as_ref().expect("until it is dropped").path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(dir) = self.0.take()
        {
            println!("kept: {}", dir.keep().display());
        }
    }
}
