//! System calls that fail, take long, or do nothing, in a process that was not built for it.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// What syncs a file.
pub(crate) const SYNCS: &str = "fdatasync,fsync";

/// What stands before a command line whose `calls` are to do nothing and report success. The tracer is a grandchild
/// (`-D`): the process that was started is the traced one.
pub(crate) fn doing_nothing(calls: &str) -> Vec<String> {
    let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:retval=0"));
    ["strace", "-D", "-f", "-qqq", "--seccomp-bpf", "-o", "/dev/null", "-e", &trace, "-e", &inject]
        .map(str::to_owned)
        .to_vec()
}

/// True when processes can be traced here.
pub(crate) fn is_possible() -> bool {
    let traced = Command::new("strace").args(["-qqq", "-o", "/dev/null", "true"]).output();
    rustix::process::geteuid().is_root() && traced.is_ok_and(|output| output.status.success())
}

/// Lets go of the process when dropped.
pub(crate) struct Tracer(Child);

impl Tracer {
    /// `calls` of every thread of `pid` meet `fault` (`error=EIO`, `delay_enter=5s`) from now on.
    pub(crate) fn attach(pid: Pid, calls: &str, fault: &str) -> Result<Tracer> {
        let child = Command::new("strace")
            .args(["-f", "-qqq", "-o", "/dev/null", "-e", &format!("trace={calls}")])
            .args(["-e", &format!("inject={calls}:{fault}"), "-p", &pid.as_raw_nonzero().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("strace cannot be started")?;
        let tracer = Tracer(child);
        let until = Instant::now() + Duration::from_secs(20);
        while !is_traced(pid) {
            ensure!(Instant::now() < until, "strace does not attach to {pid:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(tracer)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // On SIGTERM it detaches first, and the process goes on.
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let _ = self.0.wait();
    }
}

/// Every thread of `pid` has a tracer. A process that has ended counts: it met the fault.
fn is_traced(pid: Pid) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())) else { return true };
    threads.flatten().all(|thread| {
        let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        !status.lines().any(|line| line == "TracerPid:\t0")
    })
}
