//! One connection to one endpoint: plain, over TLS or over a Unix socket.
//!
//! Whether TLS is spoken is decided as clientv3 decides it: `https://` always, `http://` never, and a bare `host:port`
//! when a certificate option was given or `--insecure-transport=false`.

use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use quorate_tls::{Client, ClientOptions, Pair};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tonic::transport::{Channel, Endpoint};

use super::go;

/// grpc-go never pings more often, whatever it was told, and etcd hangs up on a client that does.
const MOST_FREQUENT_PING: Duration = Duration::from_secs(10);

/// The certificate options.
#[derive(Debug, Clone, Default)]
pub struct Security {
    /// `--cacert`; without it the system's authorities are trusted.
    pub cacert: Option<PathBuf>,
    /// `--cert`
    pub cert: Option<PathBuf>,
    /// `--key`
    pub key: Option<PathBuf>,
    /// `--insecure-transport=false`
    pub required: bool,
    /// `--insecure-skip-tls-verify`
    pub unverified: bool,
}

/// How connections are made.
#[derive(Debug, Default)]
pub struct Dialer {
    timeout: Duration,
    ping_every: Duration,
    ping_timeout: Duration,
    security: Security,
    /// Read from the files when it is needed first.
    client: OnceLock<Client>,
}

/// A byte stream of any kind.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// An endpoint, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Address {
    Tcp { host: String, port: u16, tls: bool },
    Unix { path: PathBuf },
}

impl Dialer {
    /// `timeout` is `--dial-timeout`, the others `--keepalive-time` and `--keepalive-timeout`.
    #[must_use]
    pub fn new(
        timeout: Duration,
        ping_every: Duration,
        ping_timeout: Duration,
        security: Security,
    ) -> Dialer {
        Dialer { timeout, ping_every, ping_timeout, security, client: OnceLock::new() }
    }

    /// Reads the certificate files, if any were named.
    ///
    /// # Errors
    /// The file and what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        if self.security.is_set() { self.client().map(|_| ()) } else { Ok(()) }
    }

    /// A gRPC channel to `endpoint`: `host:port`, `http://…`, `https://…` or `unix://…`.
    ///
    /// # Errors
    /// The sentence for the operator; nothing has been asked yet.
    pub async fn channel(&self, endpoint: &str) -> Result<Channel, String> {
        let address = self.address(endpoint)?;
        let client = self.client_for(&address)?;
        // The connector below decides where to; this only says what stands in the requests.
        let url = match &address {
            Address::Tcp { host, port, tls: true } => format!("https://{host}:{port}"),
            Address::Tcp { host, port, tls: false } => format!("http://{host}:{port}"),
            Address::Unix { .. } => "http://localhost".to_owned(),
        };
        let origin = url.parse().map_err(|_| format!("{endpoint} is not an address"))?;
        let mut target = Endpoint::from_static("http://localhost").origin(origin);
        if !self.ping_every.is_zero() {
            target = target
                .http2_keep_alive_interval(self.ping_every.max(MOST_FREQUENT_PING))
                .keep_alive_timeout(self.ping_timeout);
        }
        let connector = tower::service_fn(move |_| {
            let (address, client) = (address.clone(), client.clone());
            async move { open(&address, client).await.map(TokioIo::new) }
        });
        match tokio::time::timeout(self.timeout, target.connect_with_connector(connector)).await {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(error)) => {
                let mut cause: &dyn std::error::Error = &error;
                while let Some(source) = cause.source() {
                    cause = source;
                }
                Err(format!("{endpoint}: {cause}"))
            }
            Err(_) => Err(self.late(endpoint)),
        }
    }

    /// A byte stream to `endpoint`, for HTTP, and whether it is HTTP/2 (over TLS) or HTTP/1.1 that is to be spoken.
    ///
    /// # Errors
    /// The sentence for the operator.
    pub async fn stream(&self, endpoint: &str) -> Result<(Box<dyn Stream>, bool), String> {
        let address = self.address(endpoint)?;
        let client = self.client_for(&address)?;
        let is_h2 = client.is_some();
        match tokio::time::timeout(self.timeout, open(&address, client)).await {
            Ok(opened) => {
                opened.map(|stream| (stream, is_h2)).map_err(|error| format!("{endpoint}: {error}"))
            }
            Err(_) => Err(self.late(endpoint)),
        }
    }

    fn late(&self, endpoint: &str) -> String {
        format!("{endpoint}: no connection within {}", go::duration(self.timeout))
    }

    fn address(&self, endpoint: &str) -> Result<Address, String> {
        let wrong = || format!("{endpoint} is not an address");
        let (scheme, rest) = endpoint.trim().split_once("://").unwrap_or(("", endpoint.trim()));
        let tls = match scheme {
            "unix" => return Ok(Address::Unix { path: PathBuf::from(rest) }),
            "https" => true,
            "http" => false,
            "" => self.security.is_set() || self.security.required,
            _ => return Err(wrong()),
        };
        let authority: http::uri::Authority = rest.trim_end_matches('/').parse().map_err(|_| wrong())?;
        let port = authority.port_u16().unwrap_or(2379);
        Ok(Address::Tcp { host: authority.host().to_owned(), port, tls })
    }

    fn client_for(&self, address: &Address) -> Result<Option<Client>, String> {
        match address {
            Address::Tcp { tls: true, .. } => self.client().map(Some),
            Address::Tcp { .. } | Address::Unix { .. } => Ok(None),
        }
    }

    fn client(&self) -> Result<Client, String> {
        if let Some(client) = self.client.get() {
            return Ok(client.clone());
        }
        let options = self.security.options()?;
        let client = Client::open("quoratectl", options, true).map_err(|error| error.to_string())?;
        Ok(self.client.get_or_init(|| client).clone())
    }
}

async fn open(address: &Address, client: Option<Client>) -> io::Result<Box<dyn Stream>> {
    let (host, port) = match address {
        Address::Unix { path } => return Ok(Box::new(UnixStream::connect(path).await?)),
        Address::Tcp { host, port, .. } => (host.trim_matches(['[', ']']), *port),
    };
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    match client {
        None => Ok(Box::new(stream)),
        Some(client) => Ok(Box::new(client.connect(stream, host).await?)),
    }
}

impl Security {
    /// Whether a certificate option was given.
    fn is_set(&self) -> bool {
        self.cacert.is_some() || self.cert.is_some() || self.key.is_some()
    }

    fn options(&self) -> Result<ClientOptions, String> {
        let pair = match (&self.cert, &self.key) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some(Pair { cert: cert.clone(), key: key.clone() }),
            (cert, key) => {
                let shown = |path: &Option<PathBuf>| {
                    path.as_deref().map_or_else(String::new, |path| path.display().to_string())
                };
                // etcd's sentence.
                return Err(format!(
                    "KeyFile and CertFile must both be present[key: {}, cert: {}]",
                    shown(key),
                    shown(cert)
                ));
            }
        };
        Ok(ClientOptions {
            pair,
            trusted_ca: self.cacert.clone(),
            insecure: self.unverified,
            ..ClientOptions::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_spoken_to_over_tls() {
        let tls = |endpoint: &str, security: Security| {
            let dialer = Dialer { security, ..Dialer::default() };
            match dialer.address(endpoint) {
                Ok(Address::Tcp { tls, .. }) => Some(tls),
                Ok(Address::Unix { .. }) | Err(_) => None,
            }
        };
        let none = Security::default;
        let authority = || Security { cacert: Some("ca.pem".into()), ..Security::default() };
        assert_eq!(tls("127.0.0.1:2379", none()), Some(false));
        assert_eq!(tls("127.0.0.1:2379", authority()), Some(true));
        assert_eq!(tls("127.0.0.1:2379", Security { required: true, ..none() }), Some(true));
        assert_eq!(tls("http://127.0.0.1:2379", authority()), Some(false));
        assert_eq!(tls("https://[::1]:2379/", none()), Some(true));
        assert_eq!(tls("unix:///run/etcd.sock", none()), None);
        assert_eq!(tls("ftp://a:1", none()), None);
        assert_eq!(tls("a b", none()), None);
    }

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let dialer = |security| Dialer { security, ..Dialer::default() };
        let half = dialer(Security { cert: Some("a.pem".into()), ..Security::default() });
        assert_eq!(
            half.check(),
            Err("KeyFile and CertFile must both be present[key: , cert: a.pem]".to_owned())
        );
        let missing = dialer(Security { cacert: Some("/nowhere/ca.pem".into()), ..Security::default() });
        assert!(missing.check().unwrap_err().contains("/nowhere/ca.pem"));
        assert_eq!(dialer(Security::default()).check(), Ok(()));
    }
}
