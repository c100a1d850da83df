//! The HA loop: observe, decide, execute.

pub mod config;
pub mod error;
pub mod fence;
