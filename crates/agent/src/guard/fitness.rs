//! The self-test: can fencing be relied on here? A node where it cannot is not promoted.
//!
//! What is tried is what will be needed, before it is needed, with the processes that will do it:
//!
//! | it must | because |
//! |---|---|
//! | start and answer | no program, no memory, a seccomp filter, a limit of processes |
//! | reach a process of PostgreSQL's user | another user id, `CAP_KILL` dropped, a user namespace |
//! | scan the process table [`SCANS`] times within the stop budget | a kill looks at every process of the machine |
//!
//! The process that is reached for is a shell that waits, started as PostgreSQL's user; nothing is done to it.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use quorate_pg::RunAs;

/// A kill takes at least so many looks at the process table: one to find, one after the kill, two that are empty.
pub const SCANS: u32 = 4;

/// A process of PostgreSQL's user that does nothing. Ends with this value.
#[derive(Debug)]
pub(crate) struct Subject(Child);

impl Subject {
    /// Starts it. `pg_ctl` needs the same shell to start PostgreSQL.
    pub(crate) fn start(user: Option<RunAs>) -> std::io::Result<Subject> {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "read forever"])
            .current_dir("/")
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(user) = user.filter(|_| rustix::process::geteuid().is_root()) {
            command.uid(user.uid).gid(user.gid);
        }
        command.spawn().map(Subject)
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap_or(0)
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether looks at the process table that take this long leave room for a kill.
///
/// # Errors
/// The sentence, with the remedy.
pub fn fits(scan: Duration, stop_budget: Duration) -> Result<(), String> {
    if scan * SCANS <= stop_budget {
        return Ok(());
    }
    Err(format!(
        "a look at the processes of this machine takes {} ms, and stopping PostgreSQL by force takes {SCANS} of them, \
         more than the {} ms it may take; run fewer processes here",
        scan.as_millis(),
        stop_budget.as_millis()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_process_table_is_said() {
        let ms = Duration::from_millis;
        assert_eq!(fits(ms(125), ms(500)), Ok(()));
        assert!(fits(ms(126), ms(500)).unwrap_err().contains("takes 126 ms"));
    }

    #[test]
    fn the_subject_lives_as_long_as_it_is_held() {
        let subject = Subject::start(None).unwrap();
        let pid = rustix::process::Pid::from_raw(subject.pid()).unwrap();
        rustix::process::test_kill_process(pid).unwrap();
        drop(subject);
        assert!(rustix::process::test_kill_process(pid).is_err());
    }
}
