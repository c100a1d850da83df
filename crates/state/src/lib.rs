//! The replicated state machine, as a pure function: given a readable [`View`] and a [`Command`], which bytes
//! change ([`Batch`]), what is answered ([`Reply`]), which [`Event`]s happened. No clock, no randomness, no I/O.

pub mod command;
pub mod view;

pub use command::*;
pub use view::{Batch, Direction, Op, Scan, View, ViewError};
