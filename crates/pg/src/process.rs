//! The processes of one data directory: find them, start, stop, and end them by force.
//!
//! # The fence
//!
//! *Problem.* Before the lease can expire nothing in this data directory may acknowledge a commit any more. Killing the
//! postmaster is not enough: backends outlive it until they next wait for a latch, and one in the middle of a commit
//! acknowledges it. A stopped postmaster (SIGSTOP) obeys no polite signal. The disk may hang, and that may be the reason
//! for the fence.
//!
//! *Model.* Every process of PostgreSQL works with the data directory as its current directory (`ChangeToDataDir`), and the
//! kernel tells device and inode of a current directory without touching the disk, since they are pinned. So:
//!
//! ```text
//!   member of a data directory  =  its program is called postgres or postmaster
//!                                  and (its current directory is that directory, by device and inode
//!                                       or its arguments name it: it was started and has not changed directory yet)
//!                               or it is a pg_ctl, or pg_ctl's shell, that is about to become one
//!
//!   SIGQUIT postmaster ─► short grace ─► SIGKILL postmaster, then all others ─► scan again … ─► two empty scans
//! ```
//!
//! The grace lets clients read a reason and leaves no shared memory behind; it is skipped when the postmaster is stopped.
//! Neither signal harms the data: both are a crash, which the next start recovers.
//!
//! *Why two empty scans.* `/proc` is not listed atomically: a child forked behind the cursor by a parent that dies before the
//! cursor reaches it is missed once. It is older than the second scan, which therefore lists it.
//!
//! *Why SIGKILL is the end.* A process with a pending SIGKILL runs no further instruction of its own program: not when it is
//! stopped, and not when it returns from an uninterruptible wait. [`FenceError::Survivors`] therefore means that nothing more
//! is acknowledged although not everything is gone; it is still an error, because shared memory and files are in use.
//!
//! *No reading of files* in the data directory, no `postmaster.pid`: its page may not be cached and its disk may hang. The
//! kernel's own tables suffice. Process ids are held by pidfd between look and kill: a reused number is never hit.
//!
//! *Prepared.* [`Fencer`] has everything it needs before it is needed and allocates nothing when it kills: the guard process uses
//! it, for whom no memory may be left.
//!
//! *What is missing.* A data directory that was renamed under a running server is not found by its path. A server that runs as
//! another user than this (unprivileged) process cannot be seen: that is [`FenceError::NotPermitted`], not success.
//!
//! # Start
//!
//! `pg_ctl start` puts the postmaster into a session of its own, as a child of init: it survives the agent, which adopts it
//! again by looking for it. (Under systemd, `KillMode=process` is needed too.)
//!
//! Sources: PostgreSQL `postmaster.c`, `pg_ctl.c`, `miscinit.c` (the lines of `postmaster.pid`); proc(5).

use std::ffi::CString;
use std::fs;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, OFlags, RawDir, openat, readlinkat_raw, stat, statat};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};
use rustix::time::{ClockId, clock_gettime};

use crate::command::{Run, trimmed};
use crate::config::InstanceConfig;
use crate::data_dir::Paths;
use crate::error::Error;
use crate::files;

/// How long a fence waits for SIGQUIT to work, at most; never more than a quarter of its budget.
const GRACE: Duration = Duration::from_millis(100);
/// Between two scans of a fence.
const SCAN_PAUSE: Duration = Duration::from_millis(1);
/// Between two looks at a server that starts.
const POLL: Duration = Duration::from_millis(10);
/// Between two looks at a server that stops: a successor waits for it, and it is one process that is looked at.
const STOP_POLL: Duration = Duration::from_millis(2);
/// `pg_ctl start -W` only forks.
const SPAWN_DEADLINE: Duration = Duration::from_secs(10);
/// An immediate stop that takes longer is finished by a fence (the postmaster itself gives its children 5 s).
const IMMEDIATE_PATIENCE: Duration = Duration::from_secs(2);
/// A postmaster log larger than this is moved aside at a start.
const LOG_BYTES: u64 = 16 << 20;
/// How much of the log an error shows, at most.
const LOG_TAIL_BYTES: u64 = 4 << 10;

/// What a fence did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FenceReport {
    /// Processes found at first; 0: nothing was running.
    pub found: usize,
    /// Signals sent beyond SIGQUIT: 0 when the polite way sufficed.
    pub killed: usize,
    /// Until the last one was gone.
    pub took: Duration,
}

/// The fence could not be completed; call it again.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum FenceError {
    /// Each of them has SIGKILL pending and never runs user code again, but the kernel has not let it go yet.
    #[error("{} processes of PostgreSQL in {} are still there after SIGKILL: {pids:?}", pids.len(), path.display())]
    Survivors { path: PathBuf, pids: Vec<i32> },
    #[error(
        "{} belongs to user id {owner} and this process runs as {uid}: it cannot see or kill that user's processes",
        path.display()
    )]
    NotPermitted { path: PathBuf, owner: u32, uid: u32 },
    #[error("cannot look at {}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// One process of the data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) pid: i32,
    parent: i32,
    group: i32,
    /// Stopped by a signal or a debugger.
    stopped: bool,
}

/// What is looked for.
struct Target {
    path: PathBuf,
    /// Device and inode; None: no such directory, only arguments can match.
    identity: Option<(u64, u64)>,
    proc: OwnedFd,
}

impl Target {
    fn new(path: &Path) -> Result<Target, FenceError> {
        let unreadable = |path: &Path, source: rustix::io::Errno| FenceError::Unreadable {
            path: path.to_owned(),
            source: source.into(),
        };
        let identity = match stat(path) {
            Ok(found) => {
                let uid = rustix::process::geteuid();
                if !uid.is_root() && uid.as_raw() != found.st_uid {
                    let path = path.to_owned();
                    return Err(FenceError::NotPermitted { path, owner: found.st_uid, uid: uid.as_raw() });
                }
                Some((found.st_dev, found.st_ino))
            }
            Err(rustix::io::Errno::NOENT) => None,
            Err(source) => return Err(unreadable(path, source)),
        };
        let proc =
            rustix::fs::open("/proc", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|source| unreadable(Path::new("/proc"), source))?;
        Ok(Target { path: path.to_owned(), identity, proc })
    }

    /// Lists the members into `found`, as many as it has room for: nothing is allocated here. Who does not fit is listed by
    /// a later scan, when those before it are gone.
    fn scan(&self, found: &mut Vec<Member>) -> Result<(), rustix::io::Errno> {
        found.clear();
        // A fresh descriptor: the offset of the kept one is shared.
        let listing =
            openat(&self.proc, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let mut buffer = [MaybeUninit::<u8>::uninit(); 8192];
        let mut entries = RawDir::new(&listing, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            let pid = std::str::from_utf8(name).ok().and_then(|name| name.parse::<i32>().ok());
            if let Some(member) = pid.filter(|pid| *pid > 1).and_then(|pid| self.member(pid)) {
                found.push(member);
                if found.len() == found.capacity() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Looks at one process; None: gone, dead, or none of ours.
    fn member(&self, pid: i32) -> Option<Member> {
        let mut name = Name::of(pid);
        let mut text = [0_u8; 512];
        let text = read_at(self.proc.as_fd(), name.with(b"/stat"), &mut text)?;
        // "pid (name) state parent group …": the name may contain anything, so look from its end.
        let (open, close) =
            (text.iter().position(|byte| *byte == b'(')?, text.iter().rposition(|byte| *byte == b')')?);
        let mut fields = std::str::from_utf8(text.get(close + 1..)?).ok()?.split_ascii_whitespace();
        let state = fields.next()?;
        let (parent, group) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        // Z and X: nothing is left but an entry in the table.
        if matches!(state, "Z" | "X") {
            return None;
        }
        let mut buffer = [MaybeUninit::<u8>::uninit(); 512];
        let program = match readlinkat_raw(&self.proc, name.with(b"/exe"), &mut buffer[..]) {
            Ok((exe, _)) => {
                // The program's file, from kernel memory; a replaced binary is shown with a suffix.
                let exe = exe.strip_suffix(b" (deleted)").unwrap_or(exe);
                exe.rsplit(|byte| *byte == b'/').next().unwrap_or(exe)
            }
            // A process on its way out has given up its memory, and with it the link to its program, before its sockets and its
            // directory: it is not gone yet.
            Err(rustix::io::Errno::NOENT) => text.get(open + 1..close)?,
            Err(_) => return None,
        };
        let ours = match program {
            b"postgres" | b"postmaster" => {
                let here = self.identity.is_some()
                    && statat(&self.proc, name.with(b"/cwd"), AtFlags::empty())
                        .is_ok_and(|cwd| Some((cwd.st_dev, cwd.st_ino)) == self.identity);
                here || self.arguments_name_us(&mut name, false)
            }
            b"pg_ctl" => self.arguments_name_us(&mut name, false),
            b"sh" | b"dash" | b"bash" => self.arguments_name_us(&mut name, true),
            _ => false,
        };
        ours.then_some(Member { pid, parent, group, stopped: matches!(state, "T" | "t") })
    }

    /// An argument is the data directory; of a shell, its script is pg_ctl's `exec "…/postgres" … "DATA_DIR" …`.
    fn arguments_name_us(&self, name: &mut Name, shell: bool) -> bool {
        let mut text = [0_u8; 4096];
        let Some(text) = read_at(self.proc.as_fd(), name.with(b"/cmdline"), &mut text) else { return false };
        let wanted = self.path.as_os_str().as_bytes();
        let mut arguments = text.split(|byte| *byte == 0);
        if shell {
            arguments.nth(2).is_some_and(|script| {
                script.starts_with(b"exec \"") && script.windows(wanted.len()).any(|part| part == wanted)
            })
        } else {
            arguments.any(|argument| argument == wanted)
        }
    }

    /// Signals a process if it is (still) a member.
    fn signal(&self, member: Member, signal: Signal) {
        let Some(pid) = Pid::from_raw(member.pid) else { return };
        let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) else { return };
        if self.member(member.pid).is_none() {
            return;
        }
        let _ = pidfd_send_signal(&fd, signal);
        // What a backend has started (archive_command, COPY PROGRAM) sits in its group.
        if signal == Signal::KILL && member.group == member.pid {
            let _ = kill_process_group(pid, signal);
        }
    }
}

/// "PID/file" without allocation.
struct Name {
    text: [u8; 32],
    digits: usize,
}

impl Name {
    fn of(pid: i32) -> Name {
        use std::io::Write as _;
        let mut text = [0_u8; 32];
        let mut rest = &mut text[..];
        let _ = write!(rest, "{pid}");
        let digits = 32 - rest.len();
        Name { text, digits }
    }
    fn with(&mut self, file: &[u8]) -> &std::ffi::CStr {
        let end = self.digits + file.len();
        self.text[self.digits..end].copy_from_slice(file);
        self.text[end] = 0;
        std::ffi::CStr::from_bytes_until_nul(&self.text).unwrap_or_default()
    }
}

fn read_at<'b>(dir: BorrowedFd<'_>, name: &std::ffi::CStr, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
    let fd = openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::io::read(&fd, &mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    Some(&buffer[..filled])
}

/// Time since boot, suspend included (S10).
fn boottime() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Stops PostgreSQL in `data_dir` by force. Returns when the last process is gone, or with an error when `budget` is used up
/// (SIGKILL has been sent to all of them by then, however small the budget).
///
/// Synchronous and for a plain thread: it needs no executor, reads no file of the data directory, and allocates one list.
///
/// # Errors
/// [`FenceError`]: call it again. Nothing running is no error.
pub fn fence_now(data_dir: &Path, budget: Duration) -> Result<FenceReport, FenceError> {
    let mut fencer = Fencer::new(data_dir)?;
    fencer.fence(budget).map_err(|incomplete| match incomplete {
        Incomplete::Survivors => {
            let pids = fencer.members.iter().map(|member| member.pid).collect();
            FenceError::Survivors { path: data_dir.to_owned(), pids }
        }
        Incomplete::Unlisted(errno) => unlisted(errno),
    })
}

/// The processes cannot be listed.
fn unlisted(source: rustix::io::Errno) -> FenceError {
    FenceError::Unreadable { path: PathBuf::from("/proc"), source: source.into() }
}

/// How many processes one scan lists; a scan after their end lists the rest.
const SCAN_MEMBERS: usize = 4096;

/// A fence that is prepared: all memory and every path it needs are had when it is made, and from then on it only makes
/// system calls. For whoever must be able to act when memory has run out.
pub struct Fencer {
    target: Target,
    members: Vec<Member>,
    /// The data directory, and what is made in it, as the kernel wants them.
    data_dir: CString,
}

/// A fence that did not come to its end: call it again. Without a path or a list, because those would be allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incomplete {
    /// Each has SIGKILL pending and never runs user code again, but the kernel has not let it go yet.
    Survivors,
    /// `/proc` cannot be listed.
    Unlisted(rustix::io::Errno),
}

impl Fencer {
    /// Prepares; touches nothing.
    ///
    /// # Errors
    /// [`FenceError::NotPermitted`], [`FenceError::Unreadable`].
    pub fn new(data_dir: &Path) -> Result<Fencer, FenceError> {
        let target = Target::new(data_dir)?;
        let path = CString::new(data_dir.as_os_str().as_bytes())
            .map_err(|error| FenceError::Unreadable { path: data_dir.to_owned(), source: error.into() })?;
        Ok(Fencer { target, members: Vec::with_capacity(SCAN_MEMBERS), data_dir: path })
    }

    /// Takes note of which directory lies under the path now: an `initdb` or a clone has put another one there. To be called
    /// before PostgreSQL may write, not when it has to end: a look at a path may wait for a disk.
    pub fn look_again(&mut self) {
        if let Ok(found) = stat(self.data_dir.as_c_str()) {
            self.target.identity = Some((found.st_dev, found.st_ino));
        }
    }

    /// Looks for the processes and does nothing to them: how many there are.
    ///
    /// # Errors
    /// `/proc` cannot be listed.
    pub fn rehearse(&mut self) -> Result<usize, rustix::io::Errno> {
        self.target.scan(&mut self.members)?;
        Ok(self.members.len())
    }

    /// As [`fence_now`].
    ///
    /// # Errors
    /// [`Incomplete`]: call it again.
    pub fn fence(&mut self, budget: Duration) -> Result<FenceReport, Incomplete> {
        let Fencer { target, members, .. } = self;
        let begun = boottime();
        let elapsed = || boottime().saturating_sub(begun);
        target.scan(members).map_err(Incomplete::Unlisted)?;
        let found = members.len();

        let is_postmaster =
            |members: &[Member], of: Member| members.iter().all(|other| other.pid != of.parent);
        let mut polite = found > 0;
        for &member in members.iter() {
            if is_postmaster(&members[..], member) {
                target.signal(member, Signal::QUIT);
                polite &= !member.stopped;
            }
        }
        let grace = if polite { GRACE.min(budget / 4) } else { Duration::ZERO };
        while !members.is_empty() && elapsed() < grace {
            std::thread::sleep(SCAN_PAUSE);
            target.scan(members).map_err(Incomplete::Unlisted)?;
        }

        let (mut killed, mut empty) = (0, usize::from(members.is_empty()));
        loop {
            // The postmaster first: from then on there are no new ones.
            for first in [true, false] {
                for &member in members.iter() {
                    if is_postmaster(&members[..], member) == first {
                        target.signal(member, Signal::KILL);
                        killed += 1;
                    }
                }
            }
            if empty == 2 {
                return Ok(FenceReport { found, killed, took: elapsed() });
            }
            if elapsed() > budget && !members.is_empty() {
                return Err(Incomplete::Survivors);
            }
            if !members.is_empty() {
                std::thread::sleep(SCAN_PAUSE);
            }
            target.scan(members).map_err(Incomplete::Unlisted)?;
            empty = if members.is_empty() { empty + 1 } else { 0 };
        }
    }

    /// Writes `standby.signal` durably, so that no start from now on is read-write by accident (S12). A directory that is
    /// not initialised, or is not there, needs none.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn seal(&self) -> Result<(), rustix::io::Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = match rustix::fs::open(self.data_dir.as_c_str(), flags, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            opened => opened?,
        };
        match statat(&dir, c"global/pg_control", AtFlags::empty()) {
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            found => found.map(drop)?,
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = openat(&dir, c"standby.signal", flags, Mode::RUSR | Mode::WUSR)?;
        if rustix::process::geteuid().is_root() {
            // PostgreSQL removes it itself when it is promoted.
            let owner = rustix::fs::fstat(&dir)?;
            let (uid, gid) =
                (rustix::fs::Uid::from_raw(owner.st_uid), rustix::fs::Gid::from_raw(owner.st_gid));
            rustix::fs::fchown(&file, Some(uid), Some(gid))?;
        }
        rustix::fs::fsync(&file)?;
        rustix::fs::fsync(&dir)
    }
}

/// Every process of the data directory.
pub(crate) fn members(data_dir: &Path) -> Result<Vec<Member>, FenceError> {
    let mut found = Vec::with_capacity(SCAN_MEMBERS);
    Target::new(data_dir)?.scan(&mut found).map_err(unlisted)?;
    Ok(found)
}

/// What the postmaster says about itself in the last line of `postmaster.pid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// It recovers, or the file is not complete yet.
    Starting,
    /// It recovers and will not accept connections (`hot_standby` off, or not consistent yet).
    Standby,
    /// It accepts connections.
    Ready,
    /// It shuts down.
    Stopping,
}

/// A running server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Postmaster {
    pub(crate) pid: i32,
    pub(crate) status: Status,
}

/// What runs in the data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Running {
    Nothing,
    /// Backends whose postmaster is gone; they end by themselves or by a fence.
    Orphans,
    Server(Postmaster),
}

/// Finds the server: by `postmaster.pid` if that process is what it claims to be (numbers are reused), else by a scan.
pub(crate) fn running(data_dir: &Path) -> Result<Running, FenceError> {
    let target = Target::new(data_dir)?;
    let (pid, status) = read_pid_file(data_dir).unwrap_or((0, Status::Starting));
    if pid > 1 && target.member(pid).is_some() {
        return Ok(Running::Server(Postmaster { pid, status }));
    }
    let mut found = Vec::with_capacity(SCAN_MEMBERS);
    target.scan(&mut found).map_err(unlisted)?;
    // A postmaster leads its family; an orphan's parent is init or a subreaper, just like a postmaster's. What tells them apart
    // is that a postmaster without a pid file has only just been started: its arguments name the directory.
    let server = found.iter().find(|member| {
        found.iter().all(|other| other.pid != member.parent)
            && target.arguments_name_us(&mut Name::of(member.pid), false)
    });
    Ok(match (server, found.is_empty()) {
        (_, true) => Running::Nothing,
        (Some(member), false) => Running::Server(Postmaster { pid: member.pid, status: Status::Starting }),
        (None, false) => Running::Orphans,
    })
}

fn read_pid_file(data_dir: &Path) -> Option<(i32, Status)> {
    let text = fs::read_to_string(data_dir.join("postmaster.pid")).ok()?;
    let mut lines = text.lines();
    let pid: i32 = lines.next()?.trim().parse().ok()?;
    let status = match lines.nth(6).map(str::trim) {
        Some("ready") => Status::Ready,
        Some("standby") => Status::Standby,
        Some("stopping") => Status::Stopping,
        Some(_) | None => Status::Starting,
    };
    // A single-user server writes its number negated.
    Some((pid.abs(), status))
}

/// Sends the server a signal; false: there is none.
pub(crate) fn signal(data_dir: &Path, signal: Signal) -> Result<bool, FenceError> {
    let Running::Server(postmaster) = running(data_dir)? else { return Ok(false) };
    let target = Target::new(data_dir)?;
    let Some(member) = target.member(postmaster.pid) else { return Ok(false) };
    target.signal(member, signal);
    Ok(true)
}

/// Has the server read its configuration again; false: there is none yet, or no more. One that is only being started has no number in
/// its file and reads what is there by itself; what is found instead may still be `pg_ctl`, which SIGHUP would end.
pub(crate) fn hang_up(data_dir: &Path) -> Result<bool, FenceError> {
    let target = Target::new(data_dir)?;
    let pid = read_pid_file(data_dir).map(|(pid, _)| pid).filter(|pid| *pid > 1);
    let Some(member) = pid.and_then(|pid| target.member(pid)) else { return Ok(false) };
    target.signal(member, Signal::HUP);
    Ok(true)
}

/// Sends one process of the data directory a signal.
pub(crate) fn signal_member(data_dir: &Path, pid: i32, signal: Signal) -> Result<(), FenceError> {
    let target = Target::new(data_dir)?;
    if let Some(member) = target.member(pid) {
        target.signal(member, signal);
    }
    Ok(())
}

/// Starts the server in the role that the files say and waits until it accepts connections.
pub(crate) async fn start(config: &InstanceConfig, patience: Duration) -> Result<(), Error> {
    let dir = &config.data_dir;
    if running(dir)? != Running::Nothing {
        return Err(Error::WrongState { path: dir.clone(), is: "runs already" });
    }
    remove_stale_locks(config)?;
    let log_from = open_log(config)?;
    let run = Run {
        config,
        program: "pg_ctl",
        args: vec![
            "start".into(),
            "-s".into(),
            "-W".into(),
            "-D".into(),
            dir.into(),
            "-l".into(),
            (&config.log_file).into(),
        ],
        deadline: SPAWN_DEADLINE,
    };
    run.wait().await?;
    let begun = boottime();
    let mut absent = 0;
    loop {
        match running(dir)? {
            Running::Server(Postmaster { status: Status::Ready, .. }) => return Ok(()),
            Running::Server(_) => absent = 0,
            Running::Nothing | Running::Orphans => absent += 1,
        }
        if absent == 3 {
            return Err(Error::StartFailed { path: dir.clone(), log_tail: log_tail(config, log_from) });
        }
        let waited = boottime().saturating_sub(begun);
        if waited > patience {
            return Err(Error::StillBusy { path: dir.clone(), doing: "starting", waited });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Removes lock files of a server that was killed. PostgreSQL refuses to start when the number in one belongs to any process of
/// its user, also to a stranger that got the number since, and also to the killed server itself as long as nobody has reaped it
/// (in a container whose first process does not). No process of this directory lives: the caller has just seen that.
fn remove_stale_locks(config: &InstanceConfig) -> Result<(), Error> {
    let exists = |pid: i32| Path::new(&format!("/proc/{pid}")).exists();
    if read_pid_file(&config.data_dir).is_some_and(|(pid, _)| exists(pid)) {
        files::remove(&Paths(config).inside("postmaster.pid"))?;
    }
    // The second line says whose socket it is: another directory's is left alone.
    let lock = config.unix_socket_dir.join(format!(".s.PGSQL.{}.lock", config.port));
    let text = fs::read_to_string(&lock).unwrap_or_default();
    if text.lines().nth(1).is_some_and(|dir| Path::new(dir) == config.data_dir) {
        files::remove(&lock)?;
    }
    Ok(())
}

/// Stops the server; nothing running is no error.
pub(crate) async fn stop(
    config: &InstanceConfig,
    mode: quorate_ha::StopMode,
    patience: Duration,
) -> Result<(), Error> {
    use quorate_ha::StopMode;
    let dir = &config.data_dir;
    let (word, patience) = match mode {
        StopMode::Fast => (Signal::INT, patience),
        StopMode::Immediate => (Signal::QUIT, IMMEDIATE_PATIENCE.min(patience)),
    };
    signal(dir, word)?;
    let begun = boottime();
    let target = Target::new(dir)?;
    let postmaster = match running(dir)? {
        Running::Server(postmaster) => Some(postmaster.pid),
        Running::Orphans | Running::Nothing => None,
    };
    // The postmaster goes last: the table of all processes is read when it has gone.
    while postmaster.is_some_and(|pid| target.member(pid).is_some()) || !members(dir)?.is_empty() {
        let waited = boottime().saturating_sub(begun);
        if waited > patience {
            return match mode {
                StopMode::Fast => Err(Error::StillBusy { path: dir.clone(), doing: "shutting down", waited }),
                StopMode::Immediate => {
                    let dir = dir.clone();
                    let fenced =
                        tokio::task::spawn_blocking(move || fence_now(&dir, IMMEDIATE_PATIENCE)).await;
                    Ok(fenced
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
                        .map(|_| ())?)
                }
            };
        }
        tokio::time::sleep(STOP_POLL).await;
    }
    Ok(())
}

/// Makes the log file PostgreSQL's, moves a large one aside, and returns where new lines begin.
fn open_log(config: &InstanceConfig) -> Result<u64, Error> {
    let path = &config.log_file;
    if fs::metadata(path).is_ok_and(|found| found.len() > LOG_BYTES) {
        files::rename(path, &crate::config::beside(path, ".1"))?;
    }
    let file =
        files::failing("cannot open", path, fs::OpenOptions::new().append(true).create(true).open(path))?;
    if let Some(user) = Paths(config).owner() {
        let owned = std::os::unix::fs::fchown(&file, Some(user.uid), Some(user.gid));
        files::failing("cannot change the owner of", path, owned)?;
    }
    Ok(files::failing("cannot look at", path, file.metadata())?.len())
}

/// What the log says since `from`.
fn log_tail(config: &InstanceConfig, from: u64) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = fs::File::open(&config.log_file)?;
        let end = file.metadata()?.len();
        file.seek(SeekFrom::Start(from.max(end.saturating_sub(LOG_TAIL_BYTES))))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = read().map(|bytes| trimmed(&String::from_utf8_lossy(&bytes))).unwrap_or_default();
    if text.is_empty() { format!("it left no message in {}", config.log_file.display()) } else { text }
}
