//! TLS for whoever listens or connects: one way to read certificates, to notice that they changed, and to say what is
//! wrong with them.
//!
//! # The problem
//!
//! The client port, the peers' port, the connections to peers and the command line all speak TLS by the same files that an
//! etcd had. Certificates live for months at most, a member lives for years: a new certificate must come into use
//! without a restart, and a broken one must not take a working member down.
//!
//! # The model
//!
//! ```text
//!   ServerOptions ─► Acceptor ──┐                     ┌─► TlsStream, the name in the client's certificate
//!                               ├─ Reloading<config> ─┤
//!   ClientOptions ─► Connector ─┘   looks at the files └─► TlsStream to a server whose name was verified
//!                                   once a second
//! ```
//!
//! A handshake asks for the current configuration. At most once a second that looks at the files' change times, and builds a
//! new configuration if one of them moved; nothing runs while nobody connects. Connections that are open keep what they
//! were opened with, as in etcd.
//!
//! # Invariants
//!
//! - What is wrong with a file at the start is an error that names it and the remedy. The same at a reload is one log line,
//!   and the configuration before stays in use.
//! - Every handshake ends within a bound: [`HANDSHAKE`] for those who come, the connector's own for those we go to.
//! - A log line about strangers (plaintext on a TLS port, a certificate of another authority) appears at most once in
//!   [`Rarely`]'s interval, with the number of those left out.
//! - There is one provider of cryptography, ring, named in every configuration: no process-wide default is needed.
//!
//! # Where it differs from etcd, on purpose
//!
//! TLS 1.2 and 1.3 with forward secrecy only. A server's certificate needs a subject alternative name. The address a client's
//! certificate comes from is not compared with the names in it.

mod error;
mod files;
mod options;
mod rarely;
mod reloading;
mod server;
mod stream;
mod subject;
mod verifier;

mod client;

pub use client::{Client, Connector};
pub use error::TlsError;
pub use options::{ClientOptions, Pair, Protocol, ServerOptions, Version};
pub use rarely::Rarely;
pub use server::{Accepted, Acceptor, HANDSHAKE, Refusal};
pub use stream::Stream;

/// The name that a client proved by its certificate: the common name of the subject. A request extension on TLS ports that
/// verify certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientName(pub std::sync::Arc<str>);
