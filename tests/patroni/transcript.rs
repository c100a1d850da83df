//! What an operator would have on the terminal, with the time since the start.

use std::time::Instant;

/// Prints as it goes: `--nocapture` shows it.
pub(crate) struct Transcript {
    start: Instant,
}

impl Transcript {
    pub(crate) fn start() -> Transcript {
        Transcript { start: Instant::now() }
    }

    /// Something was done, or happened.
    pub(crate) fn event(&self, what: &str) {
        println!("\n[{:6.2} s] {what}", self.start.elapsed().as_secs_f64());
    }

    /// A command and what it said.
    pub(crate) fn command(&self, command: &str, output: &str, errors: &str, code: Option<i32>) {
        self.event(&format!("$ {command}"));
        print!("{output}{errors}");
        if code != Some(0) {
            println!("(exit {code:?})");
        }
    }
}
