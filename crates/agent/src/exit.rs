//! The instance's exit: wakes the loop the moment the postmaster is gone.
//!
//! A crashed postmaster must not wait for the next nap to end. The postmaster is no child of this process (it survives
//! us), so its pid comes from `postmaster.pid` and its end from a pidfd, which the kernel makes readable on exit. What the
//! loop then does is decided by facts; a wake-up too many, by a stale pid file that names somebody else, costs one tick.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

/// Between two looks for a postmaster while there is none.
const LOOK: Duration = Duration::from_millis(250);

/// Watches until dropped.
pub(crate) async fn watch(data_dir: PathBuf, wake: Arc<Notify>) {
    loop {
        if let Some(postmaster) = open(&data_dir)
            && postmaster.ready(Interest::READABLE).await.is_ok()
        {
            tracing::debug!("the postmaster is gone");
            wake.notify_one();
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// A descriptor of the running postmaster.
#[allow(unsafe_code)] // tokio's registration is unsafe since 1.54; there is no safe form of it
fn open(data_dir: &Path) -> Option<AsyncFd<std::os::fd::OwnedFd>> {
    let text = std::fs::read_to_string(data_dir.join("postmaster.pid")).ok()?;
    let pid = Pid::from_raw(number(&text)?)?;
    let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK).ok()?;
    // SAFETY: the OwnedFd is open, is owned by the AsyncFd for all of its life, and is never replaced in it: it is only
    // waited on, by `ready`.
    unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }.ok()
}

/// The pid in the first line. A server in single-user mode (pg_rewind starts one) writes its pid with a minus sign: it
/// accepts nobody and is waited for by whoever started it.
fn number(text: &str) -> Option<i32> {
    text.lines().next()?.trim().parse().ok().filter(|pid| *pid > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_postmaster_counts() {
        assert_eq!(number("4711\n/data\n"), Some(4711));
        assert_eq!(number("-4711\n/data\n"), None, "single-user mode");
        assert_eq!(number(""), None);
    }

    #[tokio::test]
    async fn an_exit_wakes() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        std::fs::write(dir.path().join("postmaster.pid"), format!("{}\n/data\n", child.id())).unwrap();
        let wake = Arc::new(Notify::new());
        let task = tokio::spawn(watch(dir.path().to_owned(), Arc::clone(&wake)));
        assert!(tokio::time::timeout(LOOK * 2, wake.notified()).await.is_err(), "it is alive");
        child.kill().unwrap();
        tokio::time::timeout(Duration::from_secs(20), wake.notified()).await.unwrap();
        child.wait().unwrap();
        task.abort();
    }
}
