//! `completion`: a script that completes this tool's command lines in a shell.

use clap::{Args, Command};
use clap_complete::{Shell, generate};

use super::output;

/// Arguments of `completion`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The shell
    shell: Shell,
}

impl Arguments {
    /// Prints it.
    pub fn run(&self, mut command: Command) {
        let mut script = Vec::new();
        let name = command.get_name().to_owned();
        generate(self.shell, &mut command, name, &mut script);
        output::raw(&script);
    }
}
