//! Does the state machine decide as an operator would read it, and as a naive model does?
//!
//! - `scripts`: golden scripts (`crates/state/testscripts`), one behaviour a file. `UPDATE_GOLDENFILES=1` rewrites the
//!   outputs; read every line of what it wrote.
//! - `oracle`: random commands against a model that keeps a whole map per revision. A failure prints the smallest commands
//!   that still fail, and the seed line to keep in `proptest-regressions`; `PROPTEST_CASES` sets how many are tried.
//! - `auth_oracle`: the same for who may do what.
//! - `formats`: the bytes of every format that was ever in a log still decode, and mean the same.

mod auth_model;
mod auth_oracle;
mod formats;
mod memory;
mod model;
mod oracle;
mod print;
mod scripts;
mod words;
