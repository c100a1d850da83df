//! What is asked on the terminal: passwords, without showing them.

use std::io::BufRead;

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use super::{Failure, output};

/// Asks for a password once.
///
/// # Errors
/// The input has ended.
pub fn password(prompt: &str) -> Result<String, Failure> {
    output::prompt(prompt);
    let stdin = std::io::stdin();
    // Standard input may be a pipe: then there is nothing to hide.
    let before = tcgetattr(&stdin).ok();
    if let Some(mut silent) = before.clone() {
        silent.local_modes.remove(LocalModes::ECHO);
        // If it is shown after all, the password is still right.
        let _ = tcsetattr(&stdin, OptionalActions::Flush, &silent);
    }
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line);
    if let Some(before) = before {
        let _ = tcsetattr(&stdin, OptionalActions::Flush, &before);
        output::prompt("\n");
    }
    match read {
        Ok(0) => Err(Failure::bad_arguments("failed to ask password: EOF")),
        Err(error) => Err(Failure::bad_arguments(format!("failed to ask password: {error}"))),
        Ok(_) => Ok(line.trim_end_matches(['\n', '\r']).to_owned()),
    }
}

/// Asks for a new password twice.
///
/// # Errors
/// It is empty, or not the same.
pub fn new_password(name: &str) -> Result<String, Failure> {
    let first = password(&format!("Password of {name}: "))?;
    if first.is_empty() {
        return Err(Failure::bad_arguments("empty password"));
    }
    let second = password(&format!("Type password of {name} again for confirmation: "))?;
    if first == second { Ok(first) } else { Err(Failure::bad_arguments("given passwords are different")) }
}

/// The first word of standard input; empty when there is none.
#[must_use]
pub fn word() -> String {
    let mut line = String::new();
    match std::io::stdin().lock().read_line(&mut line) {
        Ok(_) => line.split_whitespace().next().unwrap_or_default().to_owned(),
        Err(_) => String::new(),
    }
}
