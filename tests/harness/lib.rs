//! What the suites share: finding the binaries, asking for what a machine lacks, and starting clusters.

use std::path::{Path, PathBuf};

use quorate_drill::{Cluster, Spec};
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

/// A cluster to start, in a directory that is removed at the end.
///
/// # Panics
/// When the directory cannot be made or the ports cannot be had.
#[must_use]
pub fn cluster(ttl_s: u64, synchronous_mode: &str) -> (TempDir, Cluster) {
    let dir = tempfile::Builder::new().prefix("quorate-").tempdir().expect("a temporary directory");
    let spec = Spec {
        dir: dir.path().canonicalize().expect("it was just made"),
        binary: binary("quorate"),
        bin_dir: BIN_DIR.into(),
        user: "postgres".to_owned(),
        nodes: 3,
        base_port: None,
        ttl_s,
        synchronous_mode: synchronous_mode.to_owned(),
    };
    let cluster = Cluster::prepare(spec).expect("the cluster's directory and ports");
    (dir, cluster)
}
