//! Handshakes on real sockets: who gets in, who is turned away and by which sentence, and what happens when files change.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use quorate_tls::{Acceptor, Client, ClientOptions, Pair, Refusal, ServerOptions, Stream, TlsError};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
    date_time_ymd,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Only a failure takes this long.
const PATIENCE: Duration = Duration::from_secs(10);

/// An authority, its certificate in a file.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    file: PathBuf,
}

impl Authority {
    fn new(dir: &Path, name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let file = dir.join(format!("{name}.crt"));
        std::fs::write(&file, issuer.pem()).unwrap();
        Authority { issuer, file }
    }

    /// Issues a pair under `name`, for this machine, with the serial number given.
    fn issue(&self, dir: &Path, name: &str, serial: u64) -> Pair {
        self.issue_with(dir, name, serial, |_| {})
    }

    fn issue_with(
        &self,
        dir: &Path,
        name: &str,
        serial: u64,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Pair {
        let mut params =
            CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let pair = Pair { cert: dir.join(format!("{name}.crt")), key: dir.join(format!("{name}.key")) };
        std::fs::write(&pair.cert, certificate.pem()).unwrap();
        std::fs::write(&pair.key, key.serialize_pem()).unwrap();
        pair
    }
}

/// A server for one connection after the other, and what it made of each.
struct Server {
    acceptor: Acceptor,
    listener: TcpListener,
}

impl Server {
    async fn open(options: ServerOptions) -> Server {
        let acceptor = Acceptor::open("test", options).unwrap();
        Server { acceptor, listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    /// One connection from `client`: the name the server saw, or why it refused.
    async fn meet(&self, client: &Client) -> Result<Option<String>, Refusal> {
        let address = self.listener.local_addr().unwrap();
        let server = async {
            let (stream, _) = self.listener.accept().await.unwrap();
            let mut accepted = self.acceptor.accept(stream).await?;
            accepted.stream.write_all(b"hello").await.unwrap();
            accepted.stream.shutdown().await.unwrap();
            Ok(accepted.name.map(|name| name.0.to_string()))
        };
        let client = async {
            let stream = TcpStream::connect(address).await.unwrap();
            let mut stream: Stream = client.connect(stream, "127.0.0.1").await?;
            let mut said = String::new();
            stream.read_to_string(&mut said).await?;
            Ok::<String, std::io::Error>(said)
        };
        let (met, said) =
            tokio::time::timeout(PATIENCE, async { tokio::join!(server, client) }).await.unwrap();
        if met.is_ok() {
            assert_eq!(said.unwrap(), "hello");
        } else {
            said.unwrap_err();
        }
        met
    }
}

fn client(authority: &Authority, pair: Option<Pair>) -> Client {
    let options =
        ClientOptions { pair, trusted_ca: Some(authority.file.clone()), ..ClientOptions::default() };
    Client::open("test", options, false).unwrap()
}

#[tokio::test]
async fn who_shows_a_certificate_of_the_authority_is_known_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Authority::new(dir.path(), "ours");
    let theirs = Authority::new(dir.path(), "theirs");
    let mut options = ServerOptions::new(ours.issue(dir.path(), "server", 1));
    options.trusted_ca = Some(ours.file.clone());
    options.client_cert_auth = true;
    let server = Server::open(options).await;

    let alice = client(&ours, Some(ours.issue(dir.path(), "alice", 2)));
    assert_eq!(server.meet(&alice).await.unwrap().as_deref(), Some("alice"));
    let refused = server.meet(&client(&ours, None)).await.unwrap_err().to_string();
    assert!(refused.contains("peer sent no certificates"), "{refused}");
    let stranger = client(&ours, Some(theirs.issue(dir.path(), "mallory", 3)));
    let refused = server.meet(&stranger).await.unwrap_err().to_string();
    assert!(refused.contains("UnknownIssuer"), "{refused}");
    // The client, too, refuses a server of another authority.
    let refused = server.meet(&client(&theirs, None)).await.unwrap_err().to_string();
    assert!(refused.contains("UnknownCA"), "{refused}");
}

#[tokio::test]
async fn revoked_and_unlisted_names_do_not_come_in() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Authority::new(dir.path(), "ours");
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2024, 1, 1),
        next_update: date_time_ymd(2124, 1, 1),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: SerialNumber::from(7_u64),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let file = dir.path().join("revoked.crl");
    std::fs::write(&file, list.signed_by(&ours.issuer).unwrap().pem().unwrap()).unwrap();
    let mut options = ServerOptions::new(ours.issue(dir.path(), "server", 1));
    options.trusted_ca = Some(ours.file.clone());
    options.revoked = Some(file);
    options.allowed_names = vec!["alice".to_owned()];
    let server = Server::open(options).await;

    let alice = client(&ours, Some(ours.issue(dir.path(), "alice", 2)));
    assert_eq!(server.meet(&alice).await.unwrap().as_deref(), Some("alice"));
    let revoked = client(&ours, Some(ours.issue(dir.path(), "old-alice", 7)));
    let refused = server.meet(&revoked).await.unwrap_err().to_string();
    assert!(refused.contains("Revoked"), "{refused}");
    let bob = client(&ours, Some(ours.issue(dir.path(), "bob", 3)));
    // TLS 1.3's client is through before the server has looked at the name: it is cut off instead of greeted.
    let address = server.listener.local_addr().unwrap();
    let (refusal, _) = tokio::join!(
        async {
            let (stream, _) = server.listener.accept().await.unwrap();
            server.acceptor.accept(stream).await.err().map(|refusal| refusal.to_string())
        },
        async {
            let stream = TcpStream::connect(address).await.unwrap();
            let _ = bob.connect(stream, "localhost").await;
        }
    );
    assert_eq!(refusal.as_deref(), Some("its certificate names \"bob\", which may not come in here"));
}

#[tokio::test]
async fn plaintext_and_silence_are_turned_away() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Authority::new(dir.path(), "ours");
    let server = Server::open(ServerOptions::new(ours.issue(dir.path(), "server", 1))).await;
    let address = server.listener.local_addr().unwrap();

    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"GET /version HTTP/1.1\r\n\r\n").await.unwrap();
    let (stream, _) = server.listener.accept().await.unwrap();
    assert!(matches!(server.acceptor.accept(stream).await, Err(Refusal::Plaintext)));

    drop(TcpStream::connect(address).await.unwrap());
    let (stream, _) = server.listener.accept().await.unwrap();
    assert!(matches!(server.acceptor.accept(stream).await, Err(Refusal::Silent)));

    let _quiet = TcpStream::connect(address).await.unwrap();
    let (stream, _) = server.listener.accept().await.unwrap();
    let begun = Instant::now();
    assert!(matches!(server.acceptor.accept(stream).await, Err(Refusal::Slow)));
    assert!(begun.elapsed() < quorate_tls::HANDSHAKE + PATIENCE);

    // The other way round: a client with TLS at a server without.
    let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = client(&ours, None);
    let stream = TcpStream::connect(echo.local_addr().unwrap()).await.unwrap();
    let (mut other, _) = echo.accept().await.unwrap();
    other.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    let error = client.connect(stream, "localhost").await.unwrap_err().to_string();
    assert_eq!(error, "the other side speaks no TLS: its URL must begin with http://");
}

/// The next look at the files is at most a second away.
async fn until<F: Future<Output = bool>>(what: &str, look: impl Fn() -> F) {
    let end = Instant::now() + PATIENCE;
    while !look().await {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn changed_files_come_into_use_and_broken_ones_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let first = Authority::new(dir.path(), "first");
    let second = Authority::new(dir.path(), "second");
    let pair = first.issue(dir.path(), "server", 1);
    let server = Server::open(ServerOptions::new(pair.clone())).await;
    let (by_first, by_second) = (client(&first, None), client(&second, None));
    server.meet(&by_first).await.unwrap();

    // The key of another pair: the server stays as it is, for longer than a look is away.
    let other = second.issue(dir.path(), "other", 1);
    std::fs::copy(&other.key, &pair.key).unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    server.meet(&by_first).await.unwrap();
    // The certificate follows: now it is a pair.
    std::fs::copy(&other.cert, &pair.cert).unwrap();
    until("the second pair is in use", || async { server.meet(&by_second).await.is_ok() }).await;
    assert!(server.meet(&by_first).await.is_err());
    // Gone altogether: the last good one stays.
    std::fs::remove_file(&pair.cert).unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    server.meet(&by_second).await.unwrap();
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Authority::new(dir.path(), "ours");
    let good = ours.issue(dir.path(), "good", 1);
    let other = ours.issue(dir.path(), "other", 2);
    let refused = |options: ServerOptions| Acceptor::open("test", options).unwrap_err().to_string();
    let with =
        |cert: &Path, key: &Path| ServerOptions::new(Pair { cert: cert.to_owned(), key: key.to_owned() });
    let shown = |path: &Path| path.display().to_string();

    let missing = dir.path().join("none.crt");
    assert_eq!(
        refused(with(&missing, &good.key)),
        format!(
            "the certificate {} cannot be read; check the path, and that the user of this process may read it",
            shown(&missing)
        )
    );
    let mismatch = refused(with(&good.cert, &other.key));
    assert!(mismatch.contains("does not belong to the certificate") && mismatch.contains(&shown(&other.key)));
    let swapped = refused(with(&good.key, &good.cert));
    assert!(swapped.contains("holds no certificate in PEM form") && swapped.contains("is this the key?"));
    let keyless = refused(with(&good.cert, &good.cert));
    assert!(keyless.contains("holds no private key in PEM form"), "{keyless}");
    let empty = dir.path().join("empty.crt");
    std::fs::write(&empty, "").unwrap();
    let mut options = with(&good.cert, &good.key);
    options.trusted_ca = Some(empty.clone());
    let authority = refused(options);
    assert!(
        authority.contains("holds no CA certificate") && authority.contains(&shown(&empty)),
        "{authority}"
    );
    let mut options = with(&good.cert, &good.key);
    options.client_cert_auth = true;
    assert!(matches!(Acceptor::open("test", options), Err(TlsError::NoAuthority)));
    // Expired: it is said in the log, and the server starts, as etcd's does.
    let expired = ours.issue_with(dir.path(), "expired", 3, |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    Acceptor::open("test", with(&expired.cert, &expired.key)).unwrap();
}
