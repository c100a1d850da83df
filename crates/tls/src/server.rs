//! The side that listens: the handshake, who came, and why somebody was turned away.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::server::ParsedCertificate;
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::options::ServerOptions;
use crate::reloading::Reloading;
use crate::stream::Stream;
use crate::{ClientName, TlsError, files, subject};

/// How long a client's handshake may take: two round trips across the world and a slow machine, many times over.
pub const HANDSHAKE: Duration = Duration::from_secs(5);

/// In the order in which they are preferred.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Takes connections over. Cheap to clone.
#[derive(Clone)]
pub struct Acceptor {
    config: Arc<Reloading<rustls::ServerConfig>>,
    options: Arc<ServerOptions>,
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").field("options", &self.options).finish_non_exhaustive()
    }
}

/// A connection whose handshake has succeeded.
#[derive(Debug)]
pub struct Accepted {
    /// To be served.
    pub stream: Stream,
    /// The common name in the certificate that the client was verified by.
    pub name: Option<ClientName>,
}

/// Why a connection was turned away. Its text is for the log.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// What came first was no TLS.
    #[error("it speaks no TLS on a TLS port: it must connect with https://")]
    Plaintext,
    /// The client hung up before it said anything, as a probe of the port does. Not worth a line.
    #[error("it said nothing")]
    Silent,
    /// Not done within [`HANDSHAKE`].
    #[error("the handshake was not done within {HANDSHAKE:?}")]
    Slow,
    /// The certificate is good, but its name is none of those that may come in.
    #[error("its certificate names {0:?}, which may not come in here")]
    Name(String),
    /// Certificates, versions, suites.
    #[error("the handshake failed: {0}")]
    Handshake(String),
}

impl Acceptor {
    /// Reads the files. `whose` goes into log lines about reloads.
    ///
    /// # Errors
    /// Names the file and the remedy.
    pub fn open(whose: &'static str, options: ServerOptions) -> Result<Acceptor, TlsError> {
        if options.client_cert_auth && options.trusted_ca.is_none() {
            return Err(TlsError::NoAuthority);
        }
        if options.revoked.is_some() && options.trusted_ca.is_none() {
            return Err(TlsError::UselessRevocations);
        }
        let options = Arc::new(options);
        let paths = [
            Some(&options.pair.cert),
            Some(&options.pair.key),
            options.trusted_ca.as_ref(),
            options.revoked.as_ref(),
        ];
        let paths = paths.into_iter().flatten().cloned().collect();
        let read = Arc::clone(&options);
        let config = Reloading::new(whose, paths, move || config(&read))?;
        Ok(Acceptor { config: Arc::new(config), options })
    }

    /// Whether clients prove themselves by certificates.
    #[must_use]
    pub fn verifies_clients(&self) -> bool {
        self.options.trusted_ca.is_some()
    }

    /// Performs the handshake, by the newest certificates.
    ///
    /// # Errors
    /// For the log; the client has been told what TLS tells it.
    pub async fn accept(&self, stream: TcpStream) -> Result<Accepted, Refusal> {
        let acceptor = TlsAcceptor::from(self.config.current());
        let accepted = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
            Ok(Ok(accepted)) => accepted,
            Ok(Err(error)) => return Err(refusal(&error)),
            Err(_) => return Err(Refusal::Slow),
        };
        let certificate = accepted.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let name = certificate.and_then(subject::common_name);
        if !self.options.allowed_names.is_empty()
            && !name.as_ref().is_some_and(|name| self.options.allowed_names.contains(name))
        {
            return Err(Refusal::Name(name.unwrap_or_default()));
        }
        if !self.options.allowed_hosts.is_empty() {
            let parsed = certificate.and_then(|certificate| ParsedCertificate::try_from(certificate).ok());
            let is_one = |host: &String| {
                let Ok(host) = ServerName::try_from(host.as_str()) else { return false };
                parsed.as_ref().is_some_and(|cert| rustls::client::verify_server_name(cert, &host).is_ok())
            };
            if !self.options.allowed_hosts.iter().any(is_one) {
                return Err(Refusal::Name(name.unwrap_or_default()));
            }
        }
        Ok(Accepted {
            stream: Stream::Tls(Box::new(accepted.into())),
            name: name.map(|name| ClientName(name.into())),
        })
    }
}

fn config(options: &ServerOptions) -> Result<rustls::ServerConfig, TlsError> {
    let (provider, versions) = options.protocol.resolve()?;
    let (chain, key) = files::pair(&options.pair, &provider)?;
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions)
        .map_err(|error| TlsError::Version(error.to_string()))?;
    let builder = match &options.trusted_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(files::authorities(path)?);
            let mut verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            if let Some(path) = &options.revoked {
                // A list speaks about the certificates of its own authority; about others nothing is known, and etcd
                // lets them in too.
                verifier = verifier
                    .with_crls(files::revocations(path)?)
                    .only_check_end_entity_revocation()
                    .allow_unknown_revocation_status();
            }
            let verifier = verifier.build().map_err(|error| TlsError::Malformed {
                what: "revocation list",
                path: options.revoked.clone().unwrap_or_else(|| path.clone()),
                why: error.to_string(),
            })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| TlsError::Malformed {
        what: "certificate",
        path: options.pair.cert.clone(),
        why: error.to_string(),
    })?;
    config.alpn_protocols = PROTOCOLS.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

fn refusal(error: &io::Error) -> Refusal {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) => Refusal::Plaintext,
        Some(cause) => Refusal::Handshake(cause.to_string()),
        None if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
            Refusal::Silent
        }
        None => Refusal::Handshake(error.to_string()),
    }
}
