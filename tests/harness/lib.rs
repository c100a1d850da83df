//! What the suites share: finding the binaries, asking for what a machine lacks, and starting clusters.

pub mod python;
pub mod stores;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use quorate_drill::{Cluster, Network, Spec, Timing};
use tempfile::TempDir;

/// PostgreSQL's programs.
pub const BIN_DIR: &str = "/usr/lib/postgresql/15/bin";

/// A binary of this workspace, built by `cargo xtask test` before the tests run.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    // target/debug/deps/scenarios-… -> target/debug/quorate
    let path = test.parent().and_then(Path::parent).expect("target/debug/deps").join(name);
    assert!(path.exists(), "{} was not built: run `cargo xtask test`", path.display());
    path
}

/// The build directory of the workspace.
pub(crate) fn target() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    test.ancestors().nth(3).expect("target/debug/deps/test").to_owned()
}

/// The ids of a system user, when this process is root and can become that user; None: it stays who it is.
///
/// # Errors
/// When there is no such user.
pub fn user(name: &str) -> Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let passwd = std::fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name));
    let line = line.with_context(|| format!("there is no user `{name}`: `cargo xtask setup` brings it"))?;
    let mut fields = line.split(':').skip(2);
    let mut id = || fields.next().and_then(|field| field.parse().ok());
    Ok(id().zip(id()))
}

/// What serves etcd's clients, to be followed by etcd's flags or `ETCD_*` variables: `quorate store`, or what
/// `QUORATE_TESTS_STORE` names.
#[must_use]
pub fn store_command() -> Vec<String> {
    match std::env::var("QUORATE_TESTS_STORE") {
        Ok(other) => vec![other],
        Err(_) => vec![binary("quorate").display().to_string(), "store".to_owned()],
    }
}

/// A cluster to start on loopback, in a directory that is removed at the end.
///
/// # Panics
/// When the directory cannot be made or the ports cannot be had.
#[must_use]
pub fn cluster(ttl_s: u64, synchronous_mode: &str) -> (TempDir, Cluster) {
    cluster_in(Network::Loopback, ttl_s, synchronous_mode)
}

/// The same in `network`.
///
/// # Panics
/// When the directory cannot be made, the ports cannot be had, or a network cannot be made.
#[must_use]
pub fn cluster_in(network: Network, ttl_s: u64, synchronous_mode: &str) -> (TempDir, Cluster) {
    cluster_with(network, Timing::with_ttl(ttl_s), synchronous_mode)
}

/// The same with these times.
///
/// # Panics
/// As [`cluster_in`].
#[must_use]
pub fn cluster_with(network: Network, timing: Timing, synchronous_mode: &str) -> (TempDir, Cluster) {
    let dir = tempfile::Builder::new().prefix("quorate-").tempdir().expect("a temporary directory");
    let spec = Spec {
        dir: dir.path().canonicalize().expect("it was just made"),
        binary: binary("quorate"),
        bin_dir: BIN_DIR.into(),
        user: "postgres".to_owned(),
        nodes: 3,
        base_port: None,
        timing,
        synchronous_mode: synchronous_mode.to_owned(),
        network,
    };
    let cluster = Cluster::prepare(spec).expect("the cluster's directory and ports");
    (dir, cluster)
}
