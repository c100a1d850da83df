//! Programs from PyPI, at the versions that `cargo xtask setup` installed.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The packages, where a given user can read them.
#[derive(Debug)]
pub struct Packages {
    interpreter: PathBuf,
    packages: PathBuf,
}

/// The packages of `target/python`. Should `user` not be able to pass through to there (a checkout below `/root`), they are copied
/// into `scratch`.
///
/// # Errors
/// When they are not installed, with what to do.
pub fn packages(scratch: &Path, user: Option<(u32, u32)>) -> Result<Packages> {
    let virtual_environment = crate::target().join("python");
    // What `bin/python3` points to: the packages are found by PYTHONPATH, so that a copy of them works as well.
    let interpreter = virtual_environment.join("bin/python3").canonicalize().with_context(|| {
        format!("{}: not installed; run `cargo xtask setup`", virtual_environment.display())
    })?;
    let lib = virtual_environment.join("lib");
    let version = std::fs::read_dir(&lib)?.next().context("a virtual environment without packages")??;
    let mut packages = version.path().join("site-packages").canonicalize()?;
    if user.is_some_and(|user| !is_open_to(user, &packages)) {
        let copy = scratch.join("python");
        let copied = Command::new("cp").arg("-r").arg(&packages).arg(&copy).status()?;
        ensure!(copied.success(), "cannot copy {} to {}", packages.display(), copy.display());
        packages = copy;
    }
    Ok(Packages { interpreter, packages })
}

/// Whether a path may be entered by somebody who is neither root nor of root's groups.
fn is_open_to((uid, _): (u32, u32), path: &Path) -> bool {
    path.ancestors().all(|part| {
        part.metadata().is_ok_and(|meta| {
            let wanted = if meta.uid() == uid { 0o500 } else { 0o005 };
            meta.permissions().mode() & wanted == wanted
        })
    })
}

impl Packages {
    /// `python3 -m module argument…`.
    #[must_use]
    pub fn module(&self, module: &str, arguments: &[&str]) -> Vec<String> {
        let mut command = vec![self.interpreter.display().to_string(), "-m".to_owned(), module.to_owned()];
        command.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        command
    }

    /// A command that a package would install as a script: `function` of `module`, with arguments.
    #[must_use]
    pub fn entry(&self, module: &str, function: &str, arguments: &[&str]) -> Vec<String> {
        let program = format!("from {module} import {function}; {function}()");
        let mut command = vec![self.interpreter.display().to_string(), "-c".to_owned(), program];
        command.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        command
    }

    /// `python3 script argument…`.
    #[must_use]
    pub fn script(&self, script: &Path, arguments: &[&str]) -> Vec<String> {
        let mut command = vec![self.interpreter.display().to_string(), script.display().to_string()];
        command.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        command
    }

    /// What such a command needs in its environment.
    #[must_use]
    pub fn environment(&self, home: &Path) -> Vec<(String, String)> {
        [
            ("PYTHONPATH", self.packages.display().to_string()),
            ("PYTHONDONTWRITEBYTECODE", "1".to_owned()),
            ("HOME", home.display().to_string()),
            ("LC_ALL", "C.UTF-8".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}
