//! What to speak TLS with: the files, and the limits of the protocol.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::{CipherSuite, SupportedCipherSuite, SupportedProtocolVersion};

use crate::TlsError;

/// A certificate and its key, both in PEM form. The certificate may be followed by those of the authorities between it and the
/// root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// `--cert-file`.
    pub cert: PathBuf,
    /// `--key-file`.
    pub key: PathBuf,
}

/// For whoever listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerOptions {
    /// What this server proves itself with.
    pub pair: Pair,
    /// Authorities that a client's certificate must come from (`--trusted-ca-file`). As in etcd, naming them asks every client
    /// for a certificate, with or without `client_cert_auth`.
    pub trusted_ca: Option<PathBuf>,
    /// Clients must show a certificate (`--client-cert-auth`); needs `trusted_ca`.
    pub client_cert_auth: bool,
    /// Certificates that no longer count (`--client-crl-file`).
    pub revoked: Option<PathBuf>,
    /// The common names that may come in; empty: any (`--peer-cert-allowed-cn`).
    pub allowed_names: Vec<String>,
    /// The host names, of which a client's certificate must have one; empty: any (`--client-cert-allowed-hostname`).
    pub allowed_hosts: Vec<String>,
    /// Versions and suites.
    pub protocol: Protocol,
}

impl ServerOptions {
    /// A server that asks nobody for a certificate.
    #[must_use]
    pub fn new(pair: Pair) -> ServerOptions {
        ServerOptions {
            pair,
            trusted_ca: None,
            client_cert_auth: false,
            revoked: None,
            allowed_names: Vec::new(),
            allowed_hosts: Vec::new(),
            protocol: Protocol::default(),
        }
    }
}

/// For whoever connects.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientOptions {
    /// Shown to servers that ask.
    pub pair: Option<Pair>,
    /// Authorities that a server's certificate must come from. None: the system's.
    pub trusted_ca: Option<PathBuf>,
    /// The name to look for in the server's certificate, instead of the one that was connected to.
    pub server_name: Option<String>,
    /// Take any certificate: what is read may come from anybody (`--insecure-skip-tls-verify`).
    pub insecure: bool,
    /// Versions and suites.
    pub protocol: Protocol,
}

/// What may be spoken. The default is all that is safe.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Protocol {
    /// `--tls-min-version`; None: 1.2.
    pub min: Option<Version>,
    /// `--tls-max-version`; None: 1.3.
    pub max: Option<Version>,
    /// `--cipher-suites` by their registered names; empty: all. As in Go, the suites of TLS 1.3 are only limited by naming some of
    /// them.
    pub suites: Vec<String>,
}

/// A version of TLS. Older ones are not spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Version {
    Tls12,
    Tls13,
}

impl Version {
    /// etcd's spelling, `TLS1.2` or `TLS1.3`.
    ///
    /// # Errors
    /// Older versions, and anything else.
    pub fn parse(text: &str) -> Result<Version, TlsError> {
        match text {
            "TLS1.2" => Ok(Version::Tls12),
            "TLS1.3" => Ok(Version::Tls13),
            "TLS1.0" | "TLS1.1" => {
                Err(TlsError::Version(format!("{text} is not spoken: it is broken; the least is TLS1.2")))
            }
            other => Err(TlsError::Version(format!("expected TLS1.2 or TLS1.3, found {other:?}"))),
        }
    }
}

/// Suites of etcd's list that are not spoken, because they lack forward secrecy or authenticated encryption. Named among others
/// they are left out.
const LEFT_OUT: &[&str] = &["_CBC_", "_RC4_", "_3DES_", "TLS_RSA_WITH_"];

impl Protocol {
    /// The provider with the chosen suites, and the chosen versions.
    pub(crate) fn resolve(
        &self,
    ) -> Result<(Arc<CryptoProvider>, Vec<&'static SupportedProtocolVersion>), TlsError> {
        let (min, max) = (self.min.unwrap_or(Version::Tls12), self.max.unwrap_or(Version::Tls13));
        if min > max {
            return Err(TlsError::Version("the least TLS version is above the greatest".to_owned()));
        }
        let mut provider = rustls::crypto::ring::default_provider();
        if !self.suites.is_empty() {
            provider.cipher_suites = chosen(&self.suites, &provider.cipher_suites)?;
        }
        let versions: Vec<_> =
            [(Version::Tls13, &rustls::version::TLS13), (Version::Tls12, &rustls::version::TLS12)]
                .into_iter()
                .filter(|(version, _)| (min..=max).contains(version))
                .map(|(_, version)| version)
                .filter(|version| provider.cipher_suites.iter().any(|suite| suite.version() == *version))
                .collect();
        if versions.is_empty() {
            return Err(TlsError::NoSuite { known: known() });
        }
        Ok((Arc::new(provider), versions))
    }

    /// Whether everything can be had, before any file is read.
    ///
    /// # Errors
    /// The sentence for the operator.
    pub fn check(&self) -> Result<(), TlsError> {
        self.resolve().map(drop)
    }
}

fn chosen(names: &[String], all: &[SupportedCipherSuite]) -> Result<Vec<SupportedCipherSuite>, TlsError> {
    let is_13 = |suite: &SupportedCipherSuite| suite.version() == &rustls::version::TLS13;
    let mut found = Vec::new();
    for name in names {
        match all.iter().find(|suite| is_called(suite.suite(), name)) {
            Some(suite) => found.push(*suite),
            None if LEFT_OUT.iter().any(|part| name.contains(part)) => {
                tracing::warn!(suite = name, "a cipher suite is left out: it is not safe");
            }
            None => return Err(TlsError::UnknownSuite { name: name.clone(), known: known() }),
        }
    }
    if !found.iter().any(is_13) {
        if found.is_empty() {
            return Err(TlsError::NoSuite { known: known() });
        }
        found.extend(all.iter().copied().filter(is_13));
    }
    Ok(found)
}

/// rustls writes `TLS13_` where the registry and Go have `TLS_`; Go once left the hash away for ChaCha20.
fn registered(suite: CipherSuite) -> String {
    suite.as_str().unwrap_or_default().replacen("TLS13_", "TLS_", 1)
}

fn is_called(suite: CipherSuite, name: &str) -> bool {
    let registered = registered(suite);
    registered == name
        || (name.ends_with("_CHACHA20_POLY1305") && registered.strip_suffix("_SHA256") == Some(name))
}

fn known() -> String {
    let all = rustls::crypto::ring::default_provider().cipher_suites;
    let names: Vec<String> = all.iter().map(|suite| registered(suite.suite())).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protocol(suites: &[&str], min: Option<Version>) -> Protocol {
        Protocol { min, max: None, suites: suites.iter().map(|name| (*name).to_owned()).collect() }
    }

    #[test]
    fn suites_are_called_as_in_go() {
        let (provider, versions) =
            protocol(&["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", "TLS_RSA_WITH_AES_128_CBC_SHA"], None)
                .resolve()
                .unwrap();
        // One of 1.2, and the three of 1.3.
        assert_eq!((provider.cipher_suites.len(), versions.len()), (4, 2));
        let (provider, versions) = protocol(&["TLS_AES_256_GCM_SHA384"], None).resolve().unwrap();
        assert_eq!((provider.cipher_suites.len(), versions.len()), (1, 1));
        let error = protocol(&["TLS_FOO"], None).check().unwrap_err().to_string();
        assert!(error.contains("\"TLS_FOO\"") && error.contains("TLS_AES_128_GCM_SHA256"), "{error}");
        assert!(protocol(&["TLS_RSA_WITH_AES_128_CBC_SHA"], None).check().is_err());
    }

    #[test]
    fn old_versions_are_refused() {
        assert!(Version::parse("TLS1.1").unwrap_err().to_string().contains("TLS1.2"));
        assert_eq!(Version::parse("TLS1.3").unwrap(), Version::Tls13);
        let backward = Protocol { min: Some(Version::Tls13), max: Some(Version::Tls12), suites: Vec::new() };
        assert!(backward.check().is_err());
        assert_eq!(protocol(&[], Some(Version::Tls13)).resolve().unwrap().1.len(), 1);
    }
}
