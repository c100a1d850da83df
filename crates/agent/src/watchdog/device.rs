//! `/dev/watchdog`: opened, set, petted and closed by system calls.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

use super::Device;

/// `WDIOC_SETTIMEOUT` of `linux/watchdog.h`: an int in, the timeout that was taken out.
const SET_TIMEOUT: Opcode = opcode::read_write::<i32>(b'W', 6);

/// A device of the kernel's watchdog API.
#[derive(Debug)]
pub struct Linux {
    path: CString,
    file: Option<OwnedFd>,
}

impl Linux {
    /// Not opened yet; None for a path that no file can have.
    #[must_use]
    pub fn new(path: &Path) -> Option<Linux> {
        Some(Linux { path: CString::new(path.as_os_str().as_bytes()).ok()?, file: None })
    }

    fn write(&self, byte: u8) -> Result<(), Errno> {
        let file = self.file.as_ref().ok_or(Errno::BADF)?;
        rustix::io::write(file, &[byte]).map(drop)
    }
}

impl Device for Linux {
    fn open(&mut self) -> Result<(), Errno> {
        let file = rustix::fs::open(self.path.as_c_str(), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        // By a slip in the configuration it may be anything, and a pet is a byte that is written.
        if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::CharacterDevice {
            return Err(Errno::NODEV);
        }
        self.file = Some(file);
        Ok(())
    }

    #[allow(unsafe_code)] // rustix has no safe form of it
    fn set_timeout(&mut self, seconds: u32) -> Result<u32, Errno> {
        let file = self.file.as_ref().ok_or(Errno::BADF)?;
        let mut value = i32::try_from(seconds).map_err(|_| Errno::RANGE)?;
        // SAFETY: WDIOC_SETTIMEOUT reads and writes one C int, which `value` is and which outlives the call. On a file that is
        // no watchdog the kernel answers ENOTTY and touches nothing.
        unsafe { ioctl(file, Updater::<SET_TIMEOUT, i32>::new(&mut value)) }?;
        u32::try_from(value).map_err(|_| Errno::RANGE)
    }

    fn pet(&mut self) -> Result<(), Errno> {
        self.write(0)
    }

    fn disarm(&mut self) -> Result<(), Errno> {
        let written = self.write(b'V');
        self.file = None;
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_watchdog_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("watchdog");
        let mut device = Linux::new(&path).unwrap();
        assert_eq!(device.open(), Err(Errno::NOENT));
        assert_eq!(device.pet(), Err(Errno::BADF));
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(device.open(), Err(Errno::NODEV));
        assert_eq!(device.disarm(), Err(Errno::BADF));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        let mut device = Linux::new(Path::new("/dev/null")).unwrap();
        device.open().unwrap();
        assert_eq!(device.set_timeout(4), Err(Errno::NOTTY));
        device.pet().unwrap();
        device.disarm().unwrap();
    }

    #[test]
    fn the_number_is_the_kernels() {
        assert_eq!(SET_TIMEOUT, 0xC004_5706);
    }
}
