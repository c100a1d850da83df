//! The configuration of a node: a Patroni file, the variables that override it, and everything wrong with them.
//!
//! ```text
//!  FILE.yml ──► yaml (tree with lines) ◄── env (PATRONI_*)
//!                 │            │
//!              schema       patroni ──► Settings (typed, complete, defaults filled in)
//!                 └─────┬──────┘
//!                    Report (every finding, with file and line)
//! ```
//!
//! Reading changes nothing on disk and talks to nobody: `quorate run --check FILE` is this and no more.

pub mod diagnostics;
pub mod env;
mod etcd_file;
pub mod etcd_flags;
mod etcd_table;
pub mod patroni;
pub mod reader;
pub mod schema;
pub mod settings;
pub mod tls;
pub mod yaml;

use diagnostics::Report;
use settings::Settings;

/// Reads a file's text with the given variables. The settings may be used if the report has no errors.
pub fn load(text: &str, variables: impl Iterator<Item = (String, String)>) -> (Settings, Report) {
    let mut report = Report::default();
    let mut root = yaml::parse(text, &mut report);
    if report.has_errors() {
        // Not YAML at all: what is missing from it would be noise.
        return (Settings::default(), report);
    }
    env::overlay(variables, &mut root, &mut report);
    schema::check(&root, &mut report);
    let settings = patroni::read(&root, &mut report);
    (settings, report)
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
