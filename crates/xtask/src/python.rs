//! The Python programs that the suites drive: Patroni, and client libraries of etcd.

use std::path::Path;

use anyhow::{Context, Result};

use crate::run;

/// What is installed, at which versions.
const REQUIREMENTS: &str = "tests/clients/requirements.txt";
/// Where. The suites look there too (`tests/harness/python.rs`).
const ENVIRONMENT: &str = "target/python";
/// Debian's, whatever else is on the path: suites run it as other users, who may not be able to read a home directory.
const PYTHON: &str = "/usr/bin/python3";

/// Makes a virtual environment with exactly the required packages, unless it is there already.
pub(crate) fn install() -> Result<()> {
    let wanted =
        std::fs::read_to_string(REQUIREMENTS).with_context(|| format!("cannot read {REQUIREMENTS}"))?;
    // Copied there last: an installation that was interrupted does not count.
    let stamp = Path::new(ENVIRONMENT).join("requirements.txt");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    println!("installing by pip into {ENVIRONMENT}: {REQUIREMENTS}");
    run::command(PYTHON, &["-m", "venv", "--clear", ENVIRONMENT])?;
    let pip = format!("{ENVIRONMENT}/bin/python3");
    let arguments = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", REQUIREMENTS];
    run::command(&pip, &arguments).with_context(|| {
        format!(
            "the Python packages of {REQUIREMENTS} could not be installed; pip needs PyPI or a mirror of it"
        )
    })?;
    std::fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))
}
