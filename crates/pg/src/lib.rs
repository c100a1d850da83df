//! quorate-pg: one local PostgreSQL data directory: probe, configure, start, stop, promote, rewind, clone.

pub mod clone;
pub mod config;
pub mod error;
pub mod instance;
pub mod probe;
pub mod process;
pub mod slots;
pub mod sync_names;

pub use config::{BootstrapOptions, BootstrapUser, Credentials, InstanceConfig, RunAs, Settings};
pub use error::{CommandError, ConfigError, Error, FileError, QueryError};
pub use instance::{Instance, Promoted, Rewound};
pub use process::{FenceError, FenceReport, fence_now};
pub use quorate_ha::StopMode;
