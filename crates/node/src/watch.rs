//! Watches: [`hub`] decides who gets what, [`pump`] moves it.

pub mod hub;
pub(crate) mod pump;

pub use pump::Watcher;
