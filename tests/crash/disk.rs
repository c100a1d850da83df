//! File systems of their own: ext4 on a loop device whose power can be cut, and small ones that can be full.
//!
//! A cut is `EXT4_IOC_SHUTDOWN` without a flush of the journal: whatever was not synced is gone at once, in memory and for
//! good, and every further write fails. The device below is a file and keeps what reached it, as a disk does. Mounted again, the
//! journal is replayed.
//!
//! A machine that loses its power also starts anew, and a store asks the kernel's boot id about that: it does not trust the
//! pages of its database across a boot. [`note_reboot`] stands for that part.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::ioctl::{Opcode, Setter, ioctl};

/// `EXT4_IOC_SHUTDOWN`, that is `_IOR('X', 125, __u32)` (Linux, fs/ext4/ext4.h).
const SHUTDOWN: Opcode = 0x8004_587d;
/// `EXT4_GOING_FLAGS_NOLOGFLUSH`: neither data nor journal are written first.
const NO_LOG_FLUSH: u32 = 2;
/// Two segments of the log, the next one, snapshots, the database; sparse.
const IMAGE_BYTES: u64 = 256 << 20;
/// Written before a cut and not synced: shows that the cut bites.
const UNSYNCED: &str = "unsynced";

/// Unmounted when dropped; the image stays.
pub(crate) struct Disk {
    image: PathBuf,
    at: PathBuf,
    mounted: bool,
    copies: u32,
}

/// True when this process may mount file systems and make block devices of files.
pub(crate) fn is_possible() -> bool {
    rustix::process::geteuid().is_root() && Path::new("/dev/loop-control").exists()
}

impl Disk {
    /// A fresh one at `dir/name`.
    pub(crate) fn make(dir: &Path, name: &str) -> Result<Disk> {
        let (image, at) = (dir.join(format!("{name}.ext4")), dir.join(name));
        File::create(&image)?.set_len(IMAGE_BYTES)?;
        let mut make = Command::new("mkfs.ext4");
        run(make.args(["-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"]).arg(&image))?;
        fs::create_dir(&at)?;
        let mut disk = Disk { image, at, mounted: false, copies: 0 };
        disk.mount()?;
        Ok(disk)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.at
    }

    fn mount(&mut self) -> Result<()> {
        run(Command::new("mount").args(["-t", "ext4", "-o", "loop"]).args([&self.image, &self.at]))?;
        self.mounted = true;
        Ok(())
    }

    fn unmount(&mut self) -> Result<()> {
        // The kernel lets go of a process's files a moment after it was waited for, when a tracer held it.
        let until = Instant::now() + Duration::from_secs(20);
        while let Err(error) = run(Command::new("umount").arg(&self.at)) {
            ensure!(Instant::now() < until, error);
            std::thread::sleep(Duration::from_millis(20));
        }
        self.mounted = false;
        Ok(())
    }

    /// Leaves something unsynced, for [`Disk::lost`].
    pub(crate) fn write_unsynced(&self) -> Result<()> {
        Ok(fs::write(self.at.join(UNSYNCED), [7; 100_000])?)
    }

    /// The power is gone.
    #[allow(unsafe_code, reason = "rustix has no safe form of this call")]
    pub(crate) fn cut(&self) -> Result<()> {
        let root = File::open(&self.at)?;
        // SAFETY: the call reads one 32-bit number and keeps no pointer to it.
        unsafe { ioctl(&root, Setter::<SHUTDOWN, u32>::new(NO_LOG_FLUSH)) }
            .with_context(|| format!("EXT4_IOC_SHUTDOWN on {}", self.at.display()))
    }

    /// The power is back. True: what was unsynced is lost. Nobody uses the directory at that time.
    pub(crate) fn back(&mut self) -> Result<bool> {
        self.unmount()?;
        // As another disk with the same bytes: whoever has made a mount namespace meanwhile still holds the one whose power is
        // gone, and the kernel would hand out that one again.
        self.copies += 1;
        let copy = self.at.with_extension(format!("{}.ext4", self.copies));
        run(Command::new("cp").arg("--sparse=always").args([&self.image, &copy]))?;
        fs::remove_file(&self.image)?;
        self.image = copy;
        self.mount()?;
        let unsynced = self.at.join(UNSYNCED);
        let lost = unsynced.metadata().map_or(0, |meta| meta.len()) == 0;
        if unsynced.exists() {
            fs::remove_file(unsynced)?;
        }
        Ok(lost)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted && self.unmount().is_err() {
            // As soon as the last process lets go of it.
            let _ = run(Command::new("umount").arg("--lazy").arg(&self.at));
        }
    }
}

/// What a boot changes for the member in `data`: its database was last opened under another boot id.
pub(crate) fn note_reboot(data: &Path) -> Result<()> {
    let mark = data.join("db/MARK");
    // Cut before it was there: nothing to distrust.
    let Ok(text) = fs::read_to_string(&mark) else { return Ok(()) };
    let lines = text.lines().map(|line| if line.starts_with("boot ") { "boot before-the-cut" } else { line });
    Ok(fs::write(&mark, lines.map(|line| format!("{line}\n")).collect::<String>())?)
}

/// A file system in memory; unmounted when dropped.
pub(crate) struct Small(PathBuf);

impl Small {
    /// `megabytes` large, at `dir/name`.
    pub(crate) fn make(dir: &Path, name: &str, megabytes: u32) -> Result<Small> {
        let at = dir.join(name);
        fs::create_dir(&at)?;
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
            .arg(&at))?;
        Ok(Small(at))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Takes everything but `left` bytes.
    pub(crate) fn fill(&self, left: u64) -> Result<()> {
        let stat = rustix::fs::statvfs(&self.0)?;
        let ballast = (stat.f_bavail * stat.f_frsize).saturating_sub(left);
        match fs::write(self.0.join("ballast"), vec![0; usize::try_from(ballast)?]) {
            // Whoever lives here has written meanwhile, and what was left is gone already.
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => Ok(()),
            filled => Ok(filled?),
        }
    }

    /// Gives it back.
    pub(crate) fn free(&self) -> Result<()> {
        Ok(fs::remove_file(self.0.join("ballast"))?)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        if run(Command::new("umount").arg(&self.0)).is_err() {
            let _ = run(Command::new("umount").arg("--lazy").arg(&self.0));
        }
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?} cannot be run"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
