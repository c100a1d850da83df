//! etcd's configuration file (`--config-file`, `ETCD_CONFIG_FILE`): the flags' names as YAML keys, and the certificates of each
//! side in a section of its own.
//!
//! A file stands alone, as in etcd: flags and variables beside it are left out, and each of them is named in a warning,
//! because whoever sets both believes that they add up. Unlike etcd, which reads past what it does not know, an unknown key is
//! an error with its line: what it asks for would silently not happen.

use std::path::Path;

use super::diagnostics::{Origin, Report, closest};
use super::etcd_flags::Given;
use super::etcd_table::{FLAGS, find};
use super::yaml::{self, Entry, Value};

/// A section's name, and what its keys are called as flags.
const SECTIONS: [(&str, &[(&str, &str)]); 2] = [
    (
        "client-transport-security",
        &[
            ("cert-file", "cert-file"),
            ("key-file", "key-file"),
            ("client-cert-file", "client-cert-file"),
            ("client-key-file", "client-key-file"),
            ("client-cert-auth", "client-cert-auth"),
            ("client-crl-file", "client-crl-file"),
            ("trusted-ca-file", "trusted-ca-file"),
            ("allowed-hostname", "client-cert-allowed-hostname"),
            ("auto-tls", "auto-tls"),
        ],
    ),
    (
        "peer-transport-security",
        &[
            ("cert-file", "peer-cert-file"),
            ("key-file", "peer-key-file"),
            ("client-cert-file", "peer-client-cert-file"),
            ("client-key-file", "peer-client-key-file"),
            ("client-cert-auth", "peer-client-cert-auth"),
            ("crl-file", "peer-crl-file"),
            ("trusted-ca-file", "peer-trusted-ca-file"),
            ("allowed-cn", "peer-cert-allowed-cn"),
            ("allowed-hostname", "peer-cert-allowed-hostname"),
            ("auto-tls", "peer-auto-tls"),
            ("skip-client-san-verification", "experimental-peer-skip-client-san-verification"),
        ],
    ),
];

/// Durations, which Go's YAML has as nanoseconds when they are bare numbers.
const NANOSECONDS: [&str; 2] =
    ["watch-progress-notify-interval", "experimental-watch-progress-notify-interval"];

/// Reads the file into `given`. A file that cannot be read is one error.
pub(super) fn read(path: &Path, given: &mut Given, report: &mut Report) {
    match std::fs::read_to_string(path) {
        Ok(text) => read_text(&text, given, report),
        Err(error) => report.error(Origin::File, "", format!("cannot be read: {error}")),
    }
}

/// The same for its text.
pub(super) fn read_text(text: &str, given: &mut Given, report: &mut Report) {
    let root = yaml::parse(text, report);
    let Value::Map(entries) = root.value else { return };
    for entry in &entries {
        match SECTIONS.iter().find(|(section, _)| *section == entry.key) {
            None => flag(entry, &entry.key, &entry.key, given, report),
            Some((section, keys)) => match &entry.node.value {
                Value::Null => {}
                Value::Map(inner) => {
                    for entry in inner {
                        let path = format!("{section}.{}", entry.key);
                        match keys.iter().find(|(key, _)| *key == entry.key) {
                            Some((_, name)) => flag(entry, name, &path, given, report),
                            None => unknown(entry, &path, keys.iter().map(|(key, _)| *key), report),
                        }
                    }
                }
                _ => report.error(
                    entry.origin.clone(),
                    *section,
                    format!("expected a section, found {}", entry.node.describe()),
                ),
            },
        }
    }
}

fn flag(entry: &Entry, name: &str, path: &str, given: &mut Given, report: &mut Report) {
    let Some((name, kind)) = find(name).filter(|(name, _)| *name != "config-file") else {
        let sections = SECTIONS.iter().map(|(section, _)| *section);
        return unknown(entry, path, FLAGS.iter().map(|(flag, _)| *flag).chain(sections), report);
    };
    let value = match &entry.node.value {
        Value::Null => return,
        Value::List(items) => {
            let texts: Option<Vec<String>> = items.iter().map(yaml::Node::as_text).collect();
            texts.map(|texts| texts.join(","))
        }
        Value::Integer(number) if NANOSECONDS.contains(&name) => Some(format!("{number}ns")),
        _ => entry.node.as_text(),
    };
    match value {
        Some(value) => given.put(name, kind, value, &entry.origin, path, report),
        None => report.error(
            entry.origin.clone(),
            path,
            format!("expected a value, found {}", entry.node.describe()),
        ),
    }
}

fn unknown<'k>(entry: &Entry, path: &str, known: impl Iterator<Item = &'k str>, report: &mut Report) {
    let meant = closest(&entry.key, known).map(|key| format!("; did you mean {key}?")).unwrap_or_default();
    report.error(entry.origin.clone(), path, format!("unknown key{meant}"));
}
