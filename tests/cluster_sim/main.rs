//! The replicated store under simulated networks, disks and crashes: the real `node`, `consensus` and log, one seed a schedule.
//!
//! ```text
//!   cargo xtask ci                                      18 seeds
//!   cargo xtask sim --suite cluster --minutes 60        a soak
//!   cargo xtask sim --suite cluster --seed 17           one again, with its trace
//!   cargo xtask sim --suite cluster --mutations         would it notice?
//! ```
//!
//! Each seed runs in a process of its own, because the same seed has to give the same trace, and a process that has run
//! another one is not the same process. [`world`] is the schedule and the network, [`member`] what runs on a member,
//! [`history`] what clients saw and what must hold of it, [`lies`] what its checkers have to find, [`mutations`] what they
//! have to find when the store itself is broken, [`disk`] what a crash leaves behind, [`clocks`] what members take for the
//! time, [`witness`] what happened.
//!
//! Without `--cfg quorate_sim` there is nothing here: the code below it would use the real network.

#[cfg(quorate_sim)]
mod clocks;
#[cfg(quorate_sim)]
mod disk;
#[cfg(quorate_sim)]
mod history;
#[cfg(quorate_sim)]
mod lies;
#[cfg(quorate_sim)]
mod member;
#[cfg(quorate_sim)]
mod mutations;
#[cfg(quorate_sim)]
mod runner;
#[cfg(quorate_sim)]
mod witness;
#[cfg(quorate_sim)]
mod world;

#[cfg(quorate_sim)]
fn main() -> std::process::ExitCode {
    runner::main()
}

#[cfg(not(quorate_sim))]
fn main() {}
