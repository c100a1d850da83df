//! What can go wrong, one enum per kind of operation, split by what the caller may do about it.
//!
//! Every sentence names the path or address and, where there is one, the remedy. Causes sit in `source`.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// An external program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The program is not where it should be.
    #[error(
        "{program} was not found in {place}: install the PostgreSQL server package \
         (Debian: apt install postgresql) or set postgresql.bin_dir"
    )]
    Missing {
        /// Its name.
        program: String,
        /// The directory, or `PATH`.
        place: String,
    },
    /// It could not be run.
    #[error("{program} could not be started")]
    Spawn {
        /// Its name.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ended with an error.
    #[error("{program} failed ({status}): {stderr}{}", remedy(stderr))]
    Failed {
        /// Its name.
        program: String,
        /// Exit code or signal.
        status: String,
        /// The tail of what it wrote.
        stderr: String,
    },
    /// It took longer than it may and was killed.
    #[error("{program} did not end within {} s and was killed: {stderr}", deadline.as_secs_f32())]
    Overrun {
        /// Its name.
        program: String,
        /// The bound.
        deadline: Duration,
        /// The tail of what it wrote until then.
        stderr: String,
    },
}

/// The remedy for the complaints that operators meet most.
pub(crate) fn remedy(text: &str) -> &'static str {
    if text.contains("No space left on device") {
        " (free space on that file system)"
    } else if text.contains("Address already in use") {
        " (another process listens on that address: stop it or change postgresql.listen)"
    } else if text.contains("Permission denied") {
        " (give the directory to the user PostgreSQL runs as)"
    } else {
        ""
    }
}

/// A file of the instance could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {path}{}", io_remedy(source), path = path.display())]
pub struct FileError {
    /// "cannot write", "cannot rename".
    pub doing: &'static str,
    /// The file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

fn io_remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => ": permission denied (give it to the user PostgreSQL runs as)",
        io::ErrorKind::StorageFull => ": no space left (free space on that file system)",
        io::ErrorKind::NotFound => ": no such file or directory",
        _ => "",
    }
}

/// A query of the agent's own got no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// No connection.
    #[error("cannot connect to PostgreSQL at {place}")]
    Connect {
        /// Socket or address.
        place: String,
        /// Why.
        #[source]
        source: tokio_postgres::Error,
    },
    /// PostgreSQL refused the statement.
    #[error("PostgreSQL refused: {what}")]
    Refused {
        /// The statement's purpose.
        what: &'static str,
        /// Why.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The deadline passed. The outcome of a statement with an effect is unknown.
    #[error("PostgreSQL did not answer within {} ms ({what})", deadline.as_millis())]
    Overrun {
        /// The statement's purpose.
        what: &'static str,
        /// The bound.
        deadline: Duration,
    },
    /// The answer had another shape than the statement promises.
    #[error("PostgreSQL answered {answer:?} to {what}")]
    Nonsense {
        /// The statement's purpose.
        what: &'static str,
        /// The answer.
        answer: String,
    },
}

/// The configuration cannot be used as it is.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ConfigError {
    #[error("PostgreSQL refuses to run as root: set run_as to an unprivileged user")]
    RootWithoutRunAs,
    #[error("data_dir {} must be an absolute path below a directory other than /", .0.display())]
    DataDir(PathBuf),
    #[error("pgpass {} must not lie inside the data directory", .0.display())]
    PgpassInside(PathBuf),
    #[error("{what} must not contain a line break or a NUL")]
    Unprintable { what: String },
    #[error("the socket path {} is longer than {limit} bytes: choose a shorter unix_socket_dir", path.display())]
    SocketPath { path: PathBuf, limit: usize },
}

/// An operation did not succeed. [`Error::what_now`] says what the caller may do.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error(transparent)]
    Fence(#[from] crate::process::FenceError),
    /// The data directory is not one that this operation may touch; nothing was changed.
    #[error("{}: {why}; nothing was changed", path.display())]
    WrongDirectory { path: PathBuf, why: String },
    /// PostgreSQL runs and must not, or does not and must.
    #[error("PostgreSQL in {} {is}", path.display())]
    WrongState { path: PathBuf, is: &'static str },
    /// PostgreSQL started and ended again; the tail of its log tells why.
    #[error("PostgreSQL in {} did not start: {log_tail}{}", path.display(), remedy(log_tail))]
    StartFailed { path: PathBuf, log_tail: String },
    /// It is still at it: the process runs, ask again.
    #[error("PostgreSQL in {} is still {doing} after {} s", path.display(), waited.as_secs_f32())]
    StillBusy { path: PathBuf, doing: &'static str, waited: Duration },
    /// Processes that may still acknowledge commits under the former names: the former set is in effect.
    #[error(
        "synchronous_standby_names is not in effect within {} ms: {who}; the former value was restored",
        waited.as_millis()
    )]
    NotEffective { who: String, waited: Duration },
    /// A file that is read after Quorate's own sets the same parameter.
    #[error("{name} is overridden by {found:?} (ALTER SYSTEM?): run ALTER SYSTEM RESET {name}")]
    Overridden { name: &'static str, found: String },
    /// The WAL receiver may still be running.
    #[error("the WAL receiver is not provably gone within {} ms: {why}", waited.as_millis())]
    ReceiverLeft { why: String, waited: Duration },
    /// A rewind began here and did not end: only a clone may follow.
    #[error("{} is half rewound: clone it again", path.display())]
    RewindUnfinished { path: PathBuf },
    /// The source is another cluster.
    #[error("the source has system identifier {found}, this instance has {expected}: nothing was changed")]
    WrongSystem { expected: u64, found: u64 },
}
