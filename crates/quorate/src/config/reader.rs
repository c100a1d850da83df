//! Typed access to the tree: each call reads one value, records what is wrong with it, and never stops.

use std::time::Duration;

use super::diagnostics::{Origin, Report};
use super::settings::{Credentials, HostPort, Parameters, Secret};
use super::yaml::{Node, Value};

/// A section of the tree, or the absence of one.
#[derive(Clone)]
pub struct Section<'n> {
    path: String,
    node: Option<&'n Node>,
}

/// A value that is there.
pub struct Present<'n> {
    /// Dotted path.
    pub path: String,
    /// The value.
    pub node: &'n Node,
}

impl Present<'_> {
    /// Records that the value is not what was expected.
    pub fn reject(&self, report: &mut Report, message: impl Into<String>) {
        report.error(self.node.origin.clone(), &self.path, message);
    }
}

impl<'n> Section<'n> {
    /// The whole file.
    #[must_use]
    pub fn root(node: &'n Node) -> Section<'n> {
        Section { path: String::new(), node: Some(node) }
    }

    /// The section itself, if it was written.
    #[must_use]
    pub fn node(&self) -> Option<&'n Node> {
        self.node
    }

    /// Dotted path of the section.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// A value that is there and not null.
    #[must_use]
    pub fn present(&self, key: &str) -> Option<Present<'n>> {
        Some(Present { path: self.path_of(key), node: self.node?.get(key)? })
    }

    /// A section below this one; anything else than a mapping is recorded and read as if it were not there.
    pub fn section(&self, key: &str, report: &mut Report) -> Section<'n> {
        let found = self.present(key).and_then(|present| match &present.node.value {
            Value::Map(_) => Some(present.node),
            Value::Null
            | Value::Bool(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::String(_)
            | Value::List(_) => {
                present.reject(report, "expected a section with keys beneath it");
                None
            }
        });
        Section { path: self.path_of(key), node: found }
    }

    /// Text; numbers and booleans count as they are spelled.
    pub fn string(&self, key: &str, report: &mut Report) -> Option<String> {
        let present = self.present(key)?;
        let text = present.node.as_text();
        if text.is_none() {
            present.reject(report, format!("expected text, found {}", present.node.describe()));
        }
        text.map(|text| text.trim().to_owned())
    }

    /// A password. Its value never reaches a message.
    pub fn secret(&self, key: &str, report: &mut Report) -> Option<Secret> {
        let present = self.present(key)?;
        let text = present.node.as_text();
        if text.is_none() {
            present.reject(report, "expected text");
        }
        text.map(Secret)
    }

    /// `true`, `off`, … also between quotes.
    pub fn boolean(&self, key: &str, report: &mut Report) -> Option<bool> {
        let present = self.present(key)?;
        let found = as_boolean(present.node);
        if found.is_none() {
            present.reject(report, format!("expected true or false, found {}", present.node.describe()));
        }
        found
    }

    /// A whole number of at least `least`; between quotes it counts as well.
    pub fn number(&self, key: &str, least: u64, report: &mut Report) -> Option<u64> {
        let present = self.present(key)?;
        let found = match &present.node.value {
            Value::Integer(number) => u64::try_from(*number).ok(),
            Value::String(text) => text.trim().parse().ok(),
            Value::Null | Value::Bool(_) | Value::Float(_) | Value::List(_) | Value::Map(_) => None,
        };
        match found {
            Some(number) if number >= least => Some(number),
            Some(_) => {
                present
                    .reject(report, format!("expected at least {least}, found {}", present.node.describe()));
                None
            }
            None => {
                present.reject(report, format!("expected a whole number, found {}", present.node.describe()));
                None
            }
        }
    }

    /// A duration: a number counts in `unit`, text may name its own (`500ms`, `5s`, `1min`).
    pub fn duration(
        &self,
        key: &str,
        unit: Duration,
        least: Duration,
        report: &mut Report,
    ) -> Option<Duration> {
        let present = self.present(key)?;
        let found = as_duration(present.node, unit);
        match found {
            Some(duration) if duration >= least => Some(duration),
            Some(_) => {
                let least = if unit == Duration::from_millis(1) {
                    format!("{} ms", least.as_millis())
                } else {
                    format!("{} s", least.as_secs_f64())
                };
                present
                    .reject(report, format!("expected at least {least}, found {}", present.node.describe()));
                None
            }
            None => {
                let unit = if unit == Duration::from_millis(1) { "milliseconds" } else { "seconds" };
                present.reject(
                    report,
                    format!("expected a number of {unit}, found {}", present.node.describe()),
                );
                None
            }
        }
    }

    /// A number of seconds.
    pub fn seconds(&self, key: &str, least_s: u64, report: &mut Report) -> Option<Duration> {
        self.duration(key, Duration::from_secs(1), Duration::from_secs(least_s), report)
    }

    /// `host:port`.
    pub fn address(&self, key: &str, default_port: Option<u16>, report: &mut Report) -> Option<HostPort> {
        let present = self.present(key)?;
        let text = present.node.as_text().unwrap_or_default();
        match HostPort::parse(text.trim(), default_port) {
            Ok(address) => Some(address),
            Err(message) => {
                present.reject(report, message);
                None
            }
        }
    }

    /// Lines of text: a list, or one text that counts as a list of one.
    pub fn lines(&self, key: &str, report: &mut Report) -> Option<Vec<String>> {
        let present = self.present(key)?;
        match &present.node.value {
            Value::List(items) => {
                let mut lines = Vec::new();
                for item in items {
                    match item.as_text() {
                        Some(line) => lines.push(line),
                        None => report.error(
                            item.origin.clone(),
                            &present.path,
                            format!("expected a line of text, found {}", item.describe()),
                        ),
                    }
                }
                Some(lines)
            }
            Value::String(line) => Some(vec![line.clone()]),
            Value::Null | Value::Bool(_) | Value::Integer(_) | Value::Float(_) | Value::Map(_) => {
                present.reject(report, format!("expected a list, found {}", present.node.describe()));
                None
            }
        }
    }

    /// Names with scalar values, the values as PostgreSQL spells them (`on`, `off`).
    pub fn parameters(&self, key: &str, report: &mut Report) -> Option<Parameters> {
        let section = self.section(key, report);
        let Value::Map(entries) = &section.node?.value else { return None };
        let mut parameters = Parameters::new();
        for entry in entries {
            let value = match &entry.node.value {
                Value::Null => continue,
                Value::Bool(on) => Some(if *on { "on" } else { "off" }.to_owned()),
                Value::Integer(_) | Value::Float(_) | Value::String(_) => entry.node.as_text(),
                // PostgreSQL's list settings (shared_preload_libraries) written as a YAML list.
                Value::List(items) => {
                    items.iter().map(Node::as_text).collect::<Option<Vec<_>>>().map(|i| i.join(","))
                }
                Value::Map(_) => None,
            };
            match value {
                Some(value) => {
                    parameters.insert(entry.key.clone(), value);
                }
                None => report.error(
                    entry.node.origin.clone(),
                    section.path_of(&entry.key),
                    format!("expected a value, found {}", entry.node.describe()),
                ),
            }
        }
        Some(parameters)
    }

    /// `{username, password}` over what `base` says.
    pub fn credentials(&self, key: &str, base: &Credentials, report: &mut Report) -> Option<Credentials> {
        self.present(key)?;
        let section = self.section(key, report);
        section.node?;
        Some(Credentials {
            username: section.string("username", report).unwrap_or_else(|| base.username.clone()),
            password: section.secret("password", report).or_else(|| base.password.clone()),
        })
    }

    /// Records that a setting without a default is missing.
    pub fn require(&self, key: &str, why: &str, report: &mut Report) {
        if self.present(key).is_none() {
            report.error(Origin::File, self.path_of(key), format!("required: {why}"));
        }
    }
}

/// Replaces a default by what was read, if anything was.
pub fn set<T>(field: &mut T, read: Option<T>) {
    if let Some(value) = read {
        *field = value;
    }
}

/// YAML's booleans, also between quotes.
#[must_use]
pub fn as_boolean(node: &Node) -> Option<bool> {
    match &node.value {
        Value::Bool(on) => Some(*on),
        Value::Integer(1) => Some(true),
        Value::Integer(0) => Some(false),
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "on" | "yes" | "1" => Some(true),
            "false" | "off" | "no" | "0" => Some(false),
            _ => None,
        },
        Value::Integer(_) | Value::Null | Value::Float(_) | Value::List(_) | Value::Map(_) => None,
    }
}

/// A number in `unit`, or a number with a unit of its own.
#[must_use]
pub fn as_duration(node: &Node, unit: Duration) -> Option<Duration> {
    let in_unit = |number: f64, unit: Duration| {
        (number.is_finite() && (0.0..1e9).contains(&number)).then(|| unit.mul_f64(number))
    };
    match &node.value {
        #[allow(clippy::cast_precision_loss)]
        Value::Integer(number) => in_unit(*number as f64, unit),
        Value::Float(number) => in_unit(*number, unit),
        Value::String(text) => {
            let text = text.trim();
            let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
            let (number, suffix) = text.split_at(split);
            let unit = match suffix.trim() {
                "" => unit,
                "ms" => Duration::from_millis(1),
                "s" => Duration::from_secs(1),
                "m" | "min" => Duration::from_secs(60),
                "h" => Duration::from_secs(3600),
                _ => return None,
            };
            in_unit(number.parse().ok()?, unit)
        }
        Value::Null | Value::Bool(_) | Value::List(_) | Value::Map(_) => None,
    }
}
