//! A value made of files, made again when they change.
//!
//! Who asks pays: the one whose question comes a second after the last look compares the files' stamps (a `stat` each), and builds
//! anew if one has moved. Stamps are taken BEFORE the files are read: what changes while they are read is seen at the next
//! look. A pair that is replaced one file after the other is, for a moment, no pair; the old one stays in use, and the second
//! file's arrival is a change again.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::TlsError;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// Device, inode, size and change time of a file; None: it is not there.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

type Build<T> = Box<dyn Fn() -> Result<T, TlsError> + Send + Sync>;

pub(crate) struct Reloading<T> {
    /// For the log: "client port", …
    whose: &'static str,
    files: Vec<PathBuf>,
    build: Build<T>,
    state: Mutex<State<T>>,
}

struct State<T> {
    current: Arc<T>,
    stamps: Vec<Stamp>,
    looked: Instant,
}

impl<T> Reloading<T> {
    /// Builds it for the first time.
    pub(crate) fn new(
        whose: &'static str,
        files: Vec<PathBuf>,
        build: impl Fn() -> Result<T, TlsError> + Send + Sync + 'static,
    ) -> Result<Reloading<T>, TlsError> {
        let stamps = stamps(&files);
        let current = Arc::new(build()?);
        let state = Mutex::new(State { current, stamps, looked: Instant::now() });
        Ok(Reloading { whose, files, build: Box::new(build), state })
    }

    /// The newest that could be built.
    pub(crate) fn current(&self) -> Arc<T> {
        let mut state = self.state.lock();
        if state.looked.elapsed() < LOOK {
            return Arc::clone(&state.current);
        }
        state.looked = Instant::now();
        let now = stamps(&self.files);
        if now == state.stamps {
            return Arc::clone(&state.current);
        }
        state.stamps = now;
        match (self.build)() {
            Ok(fresh) => {
                state.current = Arc::new(fresh);
                tracing::info!(whose = self.whose, "the certificates have changed and are in use");
            }
            Err(error) => {
                let mut sentence = error.to_string();
                if let Some(cause) = std::error::Error::source(&error) {
                    sentence = format!("{sentence}: {cause}");
                }
                tracing::error!(
                    whose = self.whose,
                    error = sentence,
                    "the certificates have changed but cannot be used; those from before stay in use"
                );
            }
        }
        Arc::clone(&state.current)
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |meta: Metadata| (meta.dev(), meta.ino(), meta.len(), meta.ctime(), meta.ctime_nsec());
    files.iter().map(|file| std::fs::metadata(file).ok().map(stamp)).collect()
}
