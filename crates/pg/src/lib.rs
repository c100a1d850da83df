//! One local PostgreSQL data directory: probe, configure, start, stop, promote, rewind, clone.
//!
//! This crate knows how PostgreSQL is driven and never why: it returns [`quorate_ha::facts`] and does what an action says. It makes no
//! decision about who is primary; the order inside one operation (what is made durable before what) is its own, and each module's
//! essay argues it.
//!
//! | module | question |
//! |---|---|
//! | [`config`] | what is an instance made of |
//! | [`instance`] | the value through which everything is reached |
//! | [`probe`] | what is true now |
//! | [`control_file`] | what does `pg_control` say |
//! | [`process`] | which processes belong to the directory; start, stop, fence |
//! | `data_dir`, `files` | what lies on disk, and how it gets there durably |
//! | `conf`, `hba`, [`standby`] | the configuration files; whom to stream from, and how to stop |
//! | [`sync_names`] | a change of `synchronous_standby_names` that is provably in effect |
//! | [`promote`], [`rewind`], [`clone`], `bootstrap`, `slots` | the operations |
//!
//! Supported: PostgreSQL 13 to 17 on Linux.

mod bootstrap;
pub mod clone;
mod command;
mod conf;
pub mod config;
pub mod control_file;
mod data_dir;
pub mod error;
mod files;
#[cfg(test)]
mod fuzz;
mod hba;
pub mod hold;
pub mod instance;
pub mod probe;
pub mod process;
pub mod promote;
pub mod rewind;
mod session;
mod slots;
pub mod standby;
pub mod sync_names;

pub use clone::Progress;
pub use config::{BootstrapOptions, BootstrapUser, Credentials, InstanceConfig, RunAs, Settings};
pub use error::{CommandError, ConfigError, Error, FileError, QueryError};
pub use hold::Hold;
pub use instance::Instance;
pub use probe::PROBE_DEADLINE;
pub use process::{FenceError, FenceReport, Fencer, Incomplete, fence_now};
pub use promote::Promoted;
pub use quorate_ha::StopMode;
pub use rewind::Rewound;
