//! The side that connects.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::options::ClientOptions;
use crate::reloading::Reloading;
use crate::stream::Stream;
use crate::verifier::Anybody;
use crate::{TlsError, files};

/// What servers are verified by, and what is shown to them. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    config: Arc<Reloading<rustls::ClientConfig>>,
    name: Option<ServerName<'static>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// Reads the files. `whose` goes into log lines about reloads; `h2_only` says that nothing but HTTP/2 will be spoken.
    ///
    /// # Errors
    /// Names the file and the remedy.
    pub fn open(whose: &'static str, mut options: ClientOptions, h2_only: bool) -> Result<Client, TlsError> {
        if options.trusted_ca.is_none() && !options.insecure {
            options.trusted_ca = Some(files::system_authorities()?);
        }
        let name = match &options.server_name {
            None => None,
            Some(name) => Some(
                ServerName::try_from(name.clone())
                    .map_err(|_| TlsError::Version(format!("{name:?} is no name of a server")))?,
            ),
        };
        let pair = options.pair.iter().flat_map(|pair| [&pair.cert, &pair.key]);
        let paths = pair.chain(options.trusted_ca.as_ref()).cloned().collect();
        let config = Reloading::new(whose, paths, move || config(&options, h2_only))?;
        Ok(Client { config: Arc::new(config), name })
    }

    /// Performs the handshake, by the newest certificates, with a server that should be `host`. Takes as long as the server
    /// does: the caller has the bound.
    ///
    /// # Errors
    /// A sentence that says what the other side did.
    pub async fn connect(&self, stream: TcpStream, host: &str) -> io::Result<Stream> {
        let name = match &self.name {
            Some(name) => name.clone(),
            // URIs have brackets around IPv6 addresses.
            None => ServerName::try_from(host.trim_start_matches('[').trim_end_matches(']').to_owned())
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?,
        };
        match TlsConnector::from(self.config.current()).connect(name, stream).await {
            Ok(stream) => Ok(Stream::Tls(Box::new(stream.into()))),
            Err(error) => Err(explained(error)),
        }
    }
}

fn config(options: &ClientOptions, h2_only: bool) -> Result<rustls::ClientConfig, TlsError> {
    let (provider, versions) = options.protocol.resolve()?;
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions)
        .map_err(|error| TlsError::Version(error.to_string()))?;
    let builder = match &options.trusted_ca {
        Some(path) if !options.insecure => builder.with_root_certificates(files::authorities(path)?),
        _ => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider.signature_verification_algorithms))),
    };
    let mut config = match &options.pair {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let (chain, key) = files::pair(pair, &provider)?;
            builder.with_client_auth_cert(chain, key).map_err(|error| TlsError::Malformed {
                what: "certificate",
                path: pair.cert.clone(),
                why: error.to_string(),
            })?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    if !h2_only {
        config.alpn_protocols.push(b"http/1.1".to_vec());
    }
    Ok(config)
}

/// rustls' words for the commonest mistakes say what was received, not what is wrong.
fn explained(error: io::Error) -> io::Error {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) => {
            io::Error::new(error.kind(), "the other side speaks no TLS: its URL must begin with http://")
        }
        Some(rustls::Error::AlertReceived(alert)) => io::Error::new(
            error.kind(),
            format!("the other side refuses this side's certificate or TLS version ({alert:?})"),
        ),
        Some(cause) => io::Error::new(
            error.kind(),
            format!("the other side's certificate or TLS version is refused: {cause}"),
        ),
        None => error,
    }
}

/// Opens connections to URIs, with TLS for `https`. A `tower` service, which is what clients of HTTP take.
#[derive(Debug, Clone)]
pub struct Connector {
    tls: Option<Client>,
    tcp: Duration,
    handshake: Duration,
}

impl Connector {
    /// Without `tls` only `http` can be connected to. `tcp` bounds the resolution and the connect, `handshake` the rest.
    #[must_use]
    pub fn new(tls: Option<Client>, tcp: Duration, handshake: Duration) -> Connector {
        Connector { tls, tcp, handshake }
    }

    async fn open(self, uri: Uri) -> io::Result<Stream> {
        let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidInput, what);
        let is_tls = uri.scheme_str() == Some("https");
        let host = uri.host().ok_or_else(|| wrong(format!("{uri} names no host")))?;
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let late = |what: &str, bound: Duration| {
            io::Error::new(io::ErrorKind::TimedOut, format!("{what} took longer than {bound:?}"))
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let stream = tokio::time::timeout(self.tcp, TcpStream::connect((bare, port)))
            .await
            .map_err(|_| late("connecting", self.tcp))??;
        stream.set_nodelay(true)?;
        if !is_tls {
            return Ok(Stream::Plain(stream));
        }
        let Some(tls) = &self.tls else {
            return Err(wrong(format!("{uri} wants TLS, but no trusted CA file is configured")));
        };
        tokio::time::timeout(self.handshake, tls.connect(stream, host))
            .await
            .map_err(|_| late("the TLS handshake", self.handshake))?
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Stream>>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.open(uri).await.map(TokioIo::new) })
    }
}
