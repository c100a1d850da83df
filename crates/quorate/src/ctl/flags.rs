//! A command line as etcdctl reads it, on top of clap: what scripts rely on and clap does not do by itself.
//!
//! - Switches take a value: `--prefix=true`, `--insecure-transport=false`.
//! - Every global flag has its variable, `ETCDCTL_` and the flag in capitals; `QUORATECTL_` before it wins over that, and
//!   the flag over both. An empty variable is none. (etcdctl refuses a flag beside its variable; here the flag wins.)
//! - What cannot be read is exit code 1 with etcdctl's sentence.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command, CommandFactory, FromArgMatches};

use super::{go, output};

/// Reads words as `P`.
///
/// # Errors
/// clap's.
pub fn parse<P: CommandFactory + FromArgMatches>(
    words: impl IntoIterator<Item = OsString>,
) -> Result<P, clap::Error> {
    let mut command = lenient(P::command());
    let mut matches = command.try_get_matches_from_mut(words)?;
    P::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
}

/// The command with what is said above.
#[must_use]
pub fn lenient(command: Command) -> Command {
    command.mut_args(|argument| variable(switch(argument))).mut_subcommands(below)
}

fn below(command: Command) -> Command {
    // A group alone shows what is in it.
    let alone = command.has_subcommands();
    command.arg_required_else_help(alone).mut_args(switch).mut_subcommands(below)
}

/// A switch that also takes `=true` and `=false`. One with a short form keeps standing alone: `-eW` is two of them.
fn switch(argument: Arg) -> Arg {
    if !matches!(argument.get_action(), ArgAction::SetTrue) || argument.get_short().is_some() {
        return argument;
    }
    argument
        .action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .default_value("false")
        .default_missing_value("true")
        .hide_default_value(true)
        .value_name("BOOL")
        .value_parser(go::bool)
}

/// A flag with its variable.
fn variable(argument: Arg) -> Arg {
    let Some(flag) = argument.get_long() else { return argument };
    let name = flag.to_uppercase().replace('-', "_");
    let set = ["QUORATECTL_", "ETCDCTL_"]
        .map(|prefix| format!("{prefix}{name}"))
        .into_iter()
        .find(|variable| std::env::var_os(variable).is_some_and(|value| !value.is_empty()));
    match set {
        // Where clap knows another variable (Patroni's), that one stays when ours is not set.
        Some(variable) => argument.env(variable).hide_env_values(true),
        None => argument,
    }
}

/// Says what could not be read, or prints the help that was asked for.
pub fn report(error: &clap::Error, program: &str) -> ExitCode {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(" "),
        _ => String::new(),
    };
    let sentence = match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let text: StyledStr = error.render();
            output::line(text.to_string().trim_end());
            return ExitCode::SUCCESS;
        }
        ErrorKind::MissingSubcommand => {
            // As every group of etcdctl: what there is, and no failure.
            let text = error.render().to_string();
            output::line(text.trim_start_matches("error: ").trim_end());
            return ExitCode::SUCCESS;
        }
        ErrorKind::InvalidSubcommand => {
            format!(
                "unknown command {:?} for {program:?}\nRun '{program} --help' for usage.",
                context(ContextKind::InvalidSubcommand)
            )
        }
        ErrorKind::UnknownArgument if context(ContextKind::InvalidArg).starts_with('-') => {
            format!("unknown flag: {}\nRun '{program} --help' for usage.", context(ContextKind::InvalidArg))
        }
        _ => {
            let text = error.render().to_string();
            text.trim_start_matches("error: ").trim_end().to_owned()
        }
    };
    output::complain(&format!("Error: {sentence}"));
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Some {
        #[arg(long)]
        prefix: bool,
        #[arg(short, long)]
        each: bool,
        words: Vec<String>,
    }

    #[test]
    fn switches_take_a_value_but_do_not_need_one() {
        let read = |words: &[&str]| {
            let words = std::iter::once("x").chain(words.iter().copied()).map(OsString::from);
            parse::<Some>(words).map(|found| (found.prefix, found.each, found.words)).ok()
        };
        let word = || vec!["a".to_owned()];
        assert_eq!(read(&["--prefix", "a"]), Option::Some((true, false, word())));
        assert_eq!(read(&["a", "--prefix=true"]), Option::Some((true, false, word())));
        assert_eq!(read(&["--prefix=F", "a", "-e"]), Option::Some((false, true, word())));
        assert_eq!(read(&["a"]), Option::Some((false, false, word())));
        assert_eq!(read(&["--prefix=no"]), None);
    }
}
