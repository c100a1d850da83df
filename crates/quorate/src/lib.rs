//! The two binaries' common code: what a node is told ([`config`]), what an operator asks ([`ctl`]), how it is said
//! ([`telemetry`]). Wiring only: everything that decides lives in the crates below.

pub mod cli;
pub mod config;
pub mod ctl;
pub mod guard;
pub mod instance;
pub mod memory;
pub mod process;
pub mod run;
pub mod store;
pub mod telemetry;
pub mod voter;
pub mod witness;
