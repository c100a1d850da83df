//! Finding, stopping and killing the processes of a node.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// Every process that works inside `data_dir`: the postmaster and its children all have it as their directory.
#[must_use]
pub fn inside(data_dir: &Path) -> Vec<Pid> {
    every(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == data_dir))
}

/// Every process of the node whose directory is `dir`, but the drill itself: PostgreSQL's, and whatever was started with an
/// argument below `dir` (`quorate run`, its guard, `pg_basebackup`, `pg_rewind`).
#[must_use]
pub fn of_node(dir: &Path) -> Vec<Pid> {
    let own = std::process::id().cast_signed();
    every(|pid| {
        pid != own
            && (std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(dir))
                || arguments(pid).iter().skip(1).any(|argument| is_below(argument, dir)))
    })
}

/// The guards of a node: processes of our own binary whose first argument is `guard`, with one below the node's directory.
#[must_use]
pub fn guards(dir: &Path) -> Vec<Pid> {
    every(|pid| {
        let arguments = arguments(pid);
        arguments.get(1).is_some_and(|verb| verb == "guard")
            && (arguments.iter().any(|argument| is_below(argument, dir))
                || std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(dir)))
    })
}

/// The postmaster of a data directory, by the file that it writes.
#[must_use]
pub fn postmaster(data_dir: &Path) -> Option<Pid> {
    let file = std::fs::read_to_string(data_dir.join("postmaster.pid")).ok()?;
    let pid = file.lines().next()?.trim().parse().ok()?;
    // A stand-alone backend writes its number with a minus sign, and a dead one leaves the file behind.
    Pid::from_raw(pid).filter(|_| pid > 0).filter(|pid| inside(data_dir).contains(pid))
}

/// Resident memory of a process in bytes, as the kernel counts it.
#[must_use]
pub fn resident_bytes(pid: Pid) -> Option<u64> {
    status(pid, "VmRSS:")?.strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Who traces a process; 0: nobody does. None: it has ended.
#[must_use]
pub fn tracer(pid: Pid) -> Option<i32> {
    status(pid, "TracerPid:")?.parse().ok()
}

fn status(pid: Pid, field: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()?;
    status.lines().find_map(|line| line.strip_prefix(field)).map(|value| value.trim().to_owned())
}

/// `argument` names `dir` or something in it, also as `--flag=PATH`.
fn is_below(argument: &str, dir: &Path) -> bool {
    let path = argument.split_once('=').map_or(argument, |(_, value)| value);
    Path::new(path).starts_with(dir)
}

fn every(belongs: impl Fn(i32) -> bool) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| belongs(*pid))
        .filter(|pid| !is_zombie(*pid))
        .filter_map(Pid::from_raw)
        .collect()
}

fn arguments(pid: i32) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

fn is_zombie(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| stat.rsplit_once(") ").map(|(_, rest)| rest.starts_with('Z')))
        .unwrap_or(true)
}

/// Sends `signal` to each; one that is gone already is no error.
pub fn signal(pids: &[Pid], signal: Signal) {
    for pid in pids {
        let _ = kill_process(*pid, signal);
    }
}

/// Kills everything inside `data_dir` with SIGKILL and returns when nothing is left.
///
/// # Errors
/// When something survives for 5 s.
pub async fn kill_inside(data_dir: &Path) -> Result<()> {
    kill_until_gone(data_dir, inside).await
}

/// Kills everything of the node below `dir` and returns when nothing is left.
///
/// # Errors
/// When something survives for 5 s.
pub async fn kill_node(dir: &Path) -> Result<()> {
    kill_until_gone(dir, of_node).await
}

async fn kill_until_gone(dir: &Path, find: impl Fn(&Path) -> Vec<Pid>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let pids = find(dir);
        if pids.is_empty() {
            return Ok(());
        }
        // It may be gone already: the next round tells.
        signal(&pids, Signal::KILL);
        if Instant::now() > deadline {
            bail!("{} processes of {} survive SIGKILL", pids.len(), dir.display());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_below_a_directory_are_recognized() {
        let dir = Path::new("/tmp/drill/node1");
        for argument in ["/tmp/drill/node1/quorate.yml", "--target-pgdata=/tmp/drill/node1/postgres/data"] {
            assert!(is_below(argument, dir), "{argument}");
        }
        for argument in ["/tmp/drill/node11/quorate.yml", "/tmp/drill", "node1", "--dir=/tmp/drill"] {
            assert!(!is_below(argument, dir), "{argument}");
        }
    }

    #[test]
    fn a_process_is_found_by_its_argument_and_killed() {
        let dir = std::env::temp_dir().join(format!("quorate-processes-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("file");
        std::fs::write(&file, "x").unwrap();
        let mut child = std::process::Command::new("tail")
            .arg("-f")
            .arg(&file)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let pid = Pid::from_child(&child);
        // Between fork and exec the child still has the command line of this test.
        let until = Instant::now() + Duration::from_secs(10);
        while of_node(&dir) != [pid] {
            assert!(Instant::now() < until, "found {:?}", of_node(&dir));
            std::thread::yield_now();
        }
        assert!(resident_bytes(pid).is_some_and(|bytes| bytes > 0));
        assert_eq!(guards(&dir), []);
        signal(&[pid], Signal::KILL);
        child.wait().unwrap();
        assert_eq!(of_node(&dir), []);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
