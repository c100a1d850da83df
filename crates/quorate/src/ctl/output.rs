//! The only place that writes to standard output, and the forms that tools parse.
#![allow(clippy::print_stdout, reason = "printing answers is what a command line tool is for")]
#![allow(clippy::print_stderr, reason = "and errors go beside them")]

use std::io::{self, Write};

use base64::Engine as _;
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

/// etcdctl's `--write-out`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[allow(missing_docs)]
pub enum WriteOut {
    Simple,
    Table,
    Json,
    Fields,
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

/// Standard base64, as protobuf's JSON writes bytes.
#[must_use]
pub fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Text between quotes, as Go's `%q` prints it: bytes that are no text become `\x..`.
#[must_use]
pub fn go_quoted(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut quoted = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => quoted.push_str("\\\""),
                '\\' => quoted.push_str("\\\\"),
                '\n' => quoted.push_str("\\n"),
                '\r' => quoted.push_str("\\r"),
                '\t' => quoted.push_str("\\t"),
                c if c.is_control() => {
                    let _ = write!(quoted, "\\x{:02x}", u32::from(c));
                }
                c => quoted.push(c),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(quoted, "\\x{byte:02x}");
        }
    }
    quoted.push('"');
    quoted
}

/// `152 kB`, as etcdctl prints sizes: powers of 1000, one digit behind the point below 10.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn size(bytes: i64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = bytes.max(0) as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit < UNITS.len() - 1 {
        value /= 1000.0;
        unit += 1;
    }
    let value = (value * 10.0 + 0.5).floor() / 10.0;
    if unit > 0 && value < 10.0 {
        format!("{value:.1} {}", UNITS[unit])
    } else {
        format!("{value:.0} {}", UNITS[unit])
    }
}

/// A duration as Go prints it: `4.40502ms`, `1.5s`.
#[must_use]
pub fn go_duration(duration: std::time::Duration) -> String {
    let nanos = duration.as_nanos();
    let (unit, name) = match nanos {
        0 => return "0s".to_owned(),
        1..1_000 => (1, "ns"),
        1_000..1_000_000 => (1_000, "µs"),
        1_000_000..1_000_000_000 => (1_000_000, "ms"),
        _ => (1_000_000_000, "s"),
    };
    let (whole, rest) = (nanos / unit, nanos % unit);
    let digits = unit.ilog10() as usize;
    let fraction = format!("{rest:0digits$}");
    let fraction = fraction.trim_end_matches('0');
    if rest == 0 { format!("{whole}{name}") } else { format!("{whole}.{fraction}{name}") }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn sizes_and_durations_as_etcdctl_prints_them() {
        assert_eq!(size(151_552), "152 kB");
        assert_eq!(size(20_480), "20 kB");
        assert_eq!(size(8_192), "8.2 kB");
        assert_eq!(size(999), "999 B");
        assert_eq!(go_duration(Duration::from_nanos(4_405_020)), "4.40502ms");
        assert_eq!(go_duration(Duration::from_millis(1500)), "1.5s");
        assert_eq!(go_duration(Duration::from_nanos(950)), "950ns");
    }

    #[test]
    fn bytes_between_quotes_and_in_base64() {
        assert_eq!(go_quoted(b"a\"b\n\xff\xc3\xa9"), "\"a\\\"b\\n\\xff\u{e9}\"");
        assert_eq!(base64(b"foo"), "Zm9v");
    }
}
