//! Finding and killing every process of a node, as the loss of a machine would.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// Every process that works inside `data_dir`: the postmaster and its children all have it as their directory.
#[must_use]
pub fn inside(data_dir: &Path) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == data_dir))
        .filter(|pid| !is_zombie(*pid))
        .filter_map(Pid::from_raw)
        .collect()
}

fn is_zombie(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| stat.rsplit_once(") ").map(|(_, rest)| rest.starts_with('Z')))
        .unwrap_or(true)
}

/// Kills everything inside `data_dir` with SIGKILL and returns when nothing is left.
///
/// # Errors
/// When something survives for 5 s.
pub async fn kill_inside(data_dir: &Path) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let pids = inside(data_dir);
        if pids.is_empty() {
            return Ok(());
        }
        for pid in &pids {
            // It may be gone already: the next round tells.
            let _ = kill_process(*pid, Signal::KILL);
        }
        if Instant::now() > deadline {
            bail!("{} processes in {} survive SIGKILL", pids.len(), data_dir.display());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
