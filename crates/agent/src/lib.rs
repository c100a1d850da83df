//! The HA loop: observe, decide, execute.

mod agent;
pub mod config;
pub mod error;
pub mod fence;
pub mod metrics;
mod operation;
mod registry;
pub mod rest;
mod shared;
mod txn;
mod watch;

pub use agent::Agent;
pub use config::{AgentConfig, Credentials, Hook, RestConfig};
pub use error::StartError;
