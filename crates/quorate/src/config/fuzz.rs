//! Configuration that nobody would write: files and command lines are read or refused, with a reason, and never end the
//! process.

use super::diagnostics::{Origin, Report};
use super::etcd_flags::{self, Given, Request};
use super::{etcd_file, load};

fn corpus(name: &str) -> String {
    format!("{}/fuzz/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Every finding stands in the text and says something.
fn points_into(text: &str, report: &Report) {
    let lines = text.split(['\n', '\r']).count() as u64;
    for finding in report.findings() {
        assert!(!finding.message.is_empty(), "{finding:?}");
        if let Origin::Line(line) = finding.origin {
            assert!((1..=lines).contains(&line), "{finding:?} of {lines} lines");
        }
    }
}

#[test]
fn patroni_file() {
    quorate_fuzz::fuzz(corpus("patroni_file"), |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let (settings, report) = load(text, std::iter::empty());
        points_into(text, &report);
        if !report.has_errors() {
            serde_saphyr::to_string(&settings).expect("what `--print` shows");
        }
    });
}

#[test]
fn etcd_file() {
    quorate_fuzz::fuzz(corpus("etcd_file"), |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let mut report = Report::default();
        let mut given = Given::default();
        etcd_file::read_text(text, &mut given, &mut report);
        let _ = given.options(&mut report);
        points_into(text, &report);
    });
}

/// An argument a line; what looks like `ETCD_…=` is a variable.
#[test]
fn etcd_flags() {
    quorate_fuzz::fuzz(corpus("etcd_flags"), |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let (variables, arguments): (Vec<&str>, Vec<&str>) =
            text.lines().partition(|line| line.starts_with("ETCD_"));
        // Whatever file is named, none is opened.
        if text.to_ascii_lowercase().replace('_', "-").contains("config-file") {
            return;
        }
        let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
        let variables = variables.iter().filter_map(|line| line.split_once('='));
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut report = Report::default();
        match etcd_flags::parse(&arguments, variables, &mut report) {
            Request::Serve { file, .. } => assert_eq!(file, None),
            Request::Help | Request::Version => {}
        }
        points_into("", &report);
    });
}
