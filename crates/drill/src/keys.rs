//! A second ledger: keys put into the store itself, through `quoratectl`, while everything else goes on.
//!
//! One key after the other, each once. A put that does not end with success is *unknown*: it may be there or not.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use tokio::process::Command;
use tokio::task::JoinHandle;

/// Where the keys live, out of the way of the cluster's own.
const PREFIX: &str = "/drill/";

/// The running writer of keys.
#[derive(Debug)]
pub struct KeyWriter {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Vec<String>>,
}

impl KeyWriter {
    /// Starts to put keys through any of `endpoints`.
    #[must_use]
    pub fn start(ctl: &Path, endpoints: &str) -> KeyWriter {
        let stop = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(put(ctl.to_owned(), endpoints.to_owned(), stop.clone()));
        KeyWriter { stop, task }
    }

    /// Stops after the put in flight: the keys whose puts were answered.
    pub async fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap_or_default()
    }
}

async fn put(ctl: PathBuf, endpoints: String, stop: Arc<AtomicBool>) -> Vec<String> {
    let mut acknowledged = Vec::new();
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let key = format!("{PREFIX}{number:08}");
        let status = Command::new(&ctl)
            .args(["--endpoints", &endpoints, "--command-timeout", "2s", "put", &key, &number.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .status()
            .await;
        if status.is_ok_and(|status| status.success()) {
            acknowledged.push(key);
        }
    }
    acknowledged
}

/// Those of `acknowledged` that the store does not hold.
///
/// # Errors
/// When the store cannot be read.
pub async fn missing(ctl: &Path, endpoints: &str, acknowledged: &[String]) -> Result<Vec<String>> {
    let output = Command::new(ctl)
        .args(["--endpoints", endpoints, "get", PREFIX, "--prefix", "--keys-only"])
        .stdin(Stdio::null())
        .output()
        .await
        .with_context(|| format!("cannot run {}", ctl.display()))?;
    if !output.status.success() {
        bail!("the keys cannot be read: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let present: BTreeSet<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    Ok(acknowledged.iter().filter(|key| !present.contains(key.as_str())).cloned().collect())
}
