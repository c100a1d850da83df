//! The only place that writes to standard output, and the forms that tools parse.
#![allow(clippy::print_stdout, reason = "printing answers is what a command line tool is for")]
#![allow(clippy::print_stderr, reason = "and errors go beside them")]

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;

/// `--format` of every query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Pretty,
    /// As patronictl and etcdctl print it.
    Json,
    /// The same as a YAML document.
    Yaml,
    /// A header and rows, tabs between.
    Tsv,
}

/// Writes text and a line feed. A reader that went away (`| head`) ends the program quietly.
pub fn line(text: &str) {
    let mut out = io::stdout().lock();
    if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Writes bytes as they are and a line feed.
pub fn raw_line(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    let done = out.write_all(bytes).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
    if done.is_err() {
        std::process::exit(0);
    }
}

/// Writes bytes as they are.
pub fn raw(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    if out.write_all(bytes).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Writes a question and stays on its line.
pub fn prompt(question: &str) {
    raw(question.as_bytes());
}

/// Writes a line to standard error.
pub fn complain(text: &str) {
    eprintln!("{text}");
}

/// Asks a question on the terminal and reads one line. None at the end of the input.
#[must_use]
pub fn ask(question: &str) -> Option<String> {
    print!("{question}");
    io::stdout().flush().ok()?;
    let mut answer = String::new();
    match io::stdin().read_line(&mut answer) {
        Ok(read) if read > 0 => Some(answer.trim().to_owned()),
        Ok(_) | Err(_) => None,
    }
}

/// JSON with Python's blanks (`", "` and `": "`), as patronictl prints it.
#[must_use]
pub fn python_json(value: &Value) -> String {
    struct Blanks;
    impl serde_json::ser::Formatter for Blanks {
        fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
            if first { Ok(()) } else { writer.write_all(b", ") }
        }
        fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
            if first { Ok(()) } else { writer.write_all(b", ") }
        }
        fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
            writer.write_all(b": ")
        }
    }
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, Blanks);
    // Writing a JSON value to memory cannot fail.
    let _ = value.serialize(&mut serializer);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// YAML with sorted keys, as patronictl prints it.
#[must_use]
pub fn yaml(value: &Value) -> String {
    serde_saphyr::to_string(&sorted(value)).unwrap_or_default()
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let mut entries: Vec<_> = object.iter().collect();
            entries.sort_by_key(|(key, _)| key.as_str());
            Value::Object(entries.into_iter().map(|(key, value)| (key.clone(), sorted(value))).collect())
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}
