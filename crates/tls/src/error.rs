//! What can be wrong with files and settings. Every sentence names the file and says what to do.

use std::io;
use std::path::PathBuf;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Missing, or not for this user.
    #[error("the {what} {} cannot be read; check the path, and that the user of this process may read it", path.display())]
    Read {
        /// "certificate", "private key", …
        what: &'static str,
        /// As configured.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Readable, but nothing of the kind is in it.
    #[error("the {what} {} holds no {what} in PEM form; {remedy}", path.display())]
    Empty {
        /// "certificate", "private key", …
        what: &'static str,
        /// As configured.
        path: PathBuf,
        /// What to do.
        remedy: &'static str,
    },
    /// In PEM form, but not what it says.
    #[error("the {what} {} is damaged or of a kind that is not supported ({why}); have it issued again", path.display())]
    Malformed {
        /// "certificate", "private key", …
        what: &'static str,
        /// As configured.
        path: PathBuf,
        /// The parser's words.
        why: String,
    },
    /// Two good files that are no pair.
    #[error(
        "the private key {} does not belong to the certificate {}; give the two that were issued together",
        key.display(), cert.display()
    )]
    Mismatch {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// Certificates of clients cannot be verified without an authority.
    #[error(
        "client certificates are asked for, but no authority is named to verify them; name a trusted CA file"
    )]
    NoAuthority,
    /// A revocation list without the authority whose it is.
    #[error(
        "a revocation list says nothing while client certificates are not verified; name a trusted CA file too"
    )]
    UselessRevocations,
    /// No bundle of the system's authorities was found.
    #[error("no trusted CA file is named, and the system has none in the usual places; name one")]
    NoSystemAuthorities,
    /// Not a suite of anybody.
    #[error("{name:?} is no cipher suite; known are {known}")]
    UnknownSuite {
        /// As configured.
        name: String,
        /// The names that can be used.
        known: String,
    },
    /// Nothing is left to speak.
    #[error(
        "none of the cipher suites can be used with the TLS versions that are allowed; known are {known}"
    )]
    NoSuite {
        /// The names that can be used.
        known: String,
    },
    /// A version below 1.2, or a minimum above the maximum.
    #[error("{0}")]
    Version(String),
}
