//! TLS on both ports, as an operator of etcd sets it up: unmodified clients, peers that prove themselves, strangers, and
//! certificates that change while everybody works.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use quorate_tls::{Client, ClientOptions, Connector, Pair, Stream};
use quorate_wire::etcdserverpb::kv_client::KvClient;
use quorate_wire::etcdserverpb::{PutRequest, RangeRequest};
use tonic::transport::{Channel, Endpoint};

use crate::authority::Authority;
use crate::cluster::{PATIENCE, Store, bad, curl, endpoints, etcdctl, eventually, good, plan, start_all};

/// The flags of a store whose ports both ask for certificates.
fn flags(authority: &Authority) -> Vec<String> {
    let file = |flag: &str, name: &str| format!("--{flag}={}", authority.file(name));
    vec![
        file("cert-file", "server.crt"),
        file("key-file", "server.key"),
        file("trusted-ca-file", "ours.crt"),
        "--client-cert-auth".to_owned(),
        file("peer-cert-file", "peer.crt"),
        file("peer-key-file", "peer.key"),
        file("peer-trusted-ca-file", "ours.crt"),
        "--peer-client-cert-auth".to_owned(),
    ]
}

fn ours(dir: &Path) -> Authority {
    let authority = Authority::new(dir, "ours");
    for name in ["server", "peer", "alice"] {
        authority.issue(name);
    }
    authority
}

fn client(authority: &Authority, name: &str) -> Client {
    let pair = Pair {
        cert: authority.file(&format!("{name}.crt")).into(),
        key: authority.file(&format!("{name}.key")).into(),
    };
    let trusted_ca = Some(authority.file("ours.crt").into());
    Client::open("test", ClientOptions { pair: Some(pair), trusted_ca, ..ClientOptions::default() }, true)
        .unwrap()
}

fn channel(client: &Client, url: &str) -> Channel {
    let connector = Connector::new(Some(client.clone()), PATIENCE, PATIENCE);
    Endpoint::from_shared(url.to_owned()).unwrap().connect_with_connector_lazy(connector)
}

async fn put(channel: &Channel, key: &str) -> Result<(), tonic::Status> {
    let request = PutRequest { key: key.to_owned().into(), value: "v".into(), ..PutRequest::default() };
    KvClient::new(channel.clone()).put(request).await.map(drop)
}

#[test]
fn unmodified_clients_over_tls() {
    let dir = tempfile::tempdir().unwrap();
    let authority = ours(dir.path());
    let theirs = Authority::new(dir.path(), "theirs");
    theirs.issue("mallory");
    let mut stores = plan(dir.path(), 3, "https", &flags(&authority));
    start_all(&mut stores);

    let file = |name: &str| authority.file(name);
    let (ca, cert, key) = (file("ours.crt"), file("alice.crt"), file("alice.key"));
    let all = endpoints(&stores);
    let with = ["--endpoints", &all, "--cacert", &ca, "--cert", &cert, "--key", &key];
    good(&etcdctl(&[&with[..], &["put", "greeting", "hello"]].concat()));
    assert_eq!(good(&etcdctl(&[&with[..], &["get", "greeting"]].concat())), "greeting\nhello\n");
    let healthy = etcdctl(&[&with[..], &["endpoint", "health"]].concat());
    let healthy = String::from_utf8_lossy(&[healthy.stdout, healthy.stderr].concat()).into_owned();
    assert_eq!(healthy.matches("is healthy").count(), 3, "{healthy}");
    let members = good(&etcdctl(&[&with[..], &["member", "list"]].concat()));
    assert_eq!(members.matches("https://").count(), 6, "{members}");

    // One port: the gateway over HTTP/1.1, and HTTP/2 by ALPN.
    let url = &stores[0].client;
    let with = ["--cacert", &ca, "--cert", &cert, "--key", &key];
    for version in ["--http1.1", "--http2"] {
        let version_of = good(&curl(&[&with[..], &[version, &format!("{url}/version")]].concat()));
        assert!(version_of.contains("etcdserver"), "{version_of}");
    }
    let json = r#"{"key":"Z3JlZXRpbmc="}"#;
    let got = good(&curl(&[&with[..], &["--data", json, &format!("{url}/v3/kv/range")]].concat()));
    assert!(got.contains("aGVsbG8="), "{got}");
    let metrics = good(&curl(&[&with[..], &[&format!("{url}/metrics")]].concat()));
    assert!(metrics.contains("etcd_server_has_leader 1"), "{metrics}");

    // Without a certificate, with another authority's, without TLS: nobody gets in, and the log says why, once.
    bad(&curl(&["--cacert", &ca, &format!("{url}/version")]));
    let (bad_cert, bad_key) = (file("mallory.crt"), file("mallory.key"));
    bad(&curl(&["--cacert", &ca, "--cert", &bad_cert, "--key", &bad_key, &format!("{url}/version")]));
    for _ in 0..5 {
        bad(&curl(&[&format!("{}/version", url.replace("https", "http"))]));
    }
    // A client that does not know the authority turns away itself.
    let other = file("theirs.crt");
    let said = bad(&curl(&["--cacert", &other, "--cert", &cert, "--key", &key, &format!("{url}/version")]));
    assert!(said.contains("certificate"), "{said}");
    let log = stores[0].log();
    assert_eq!(log.matches("a client was turned away").count(), 1, "{log}");
    assert!(log.contains("peer sent no certificates"), "{log}");
}

#[test]
fn a_peer_of_another_authority_stays_out() {
    let dir = tempfile::tempdir().unwrap();
    let authority = ours(dir.path());
    let mut stores = plan(dir.path(), 3, "https", &flags(&authority));
    start_all(&mut stores);
    // The third comes back with certificates of somebody else: the others go on, it does not take part.
    stores[2].kill();
    let elsewhere = dir.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let stranger = ours(&elsewhere);
    stores[2].replace_arguments(&flags(&authority), &flags(&stranger));
    stores[2].start();
    for store in &mut stores[..2] {
        store.says("a peer was turned away");
    }
    stores[2].says("a peer was turned away");
    assert!(!stores[2].log().contains("ready to serve client requests"), "{}", stores[2].log());
    let (ca, cert, key) =
        (authority.file("ours.crt"), authority.file("alice.crt"), authority.file("alice.key"));
    let with = ["--cacert", &ca, "--cert", &cert, "--key", &key, "--endpoints", &stores[0].client];
    good(&etcdctl(&[&with[..], &["put", "still", "here"]].concat()));
    // With its own again it is back.
    stores[2].kill();
    stores[2].replace_arguments(&flags(&stranger), &flags(&authority));
    stores[2].start();
    stores[2].ready();
}

/// The certificate that the server at `url` shows now.
async fn shown(client: &Client, url: &str) -> Vec<u8> {
    let address = url.strip_prefix("https://").unwrap();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    match client.connect(stream, "127.0.0.1").await.unwrap() {
        Stream::Tls(stream) => stream.get_ref().1.peer_certificates().unwrap()[0].to_vec(),
        Stream::Plain(_) => panic!("no TLS"),
    }
}

#[test]
fn certificates_change_while_everybody_works() {
    let dir = tempfile::tempdir().unwrap();
    let authority = ours(dir.path());
    let mut stores = plan(dir.path(), 3, "https", &flags(&authority));
    start_all(&mut stores);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let client = client(&authority, "alice");
    let done = Arc::new(AtomicBool::new(false));
    let count = Arc::new(AtomicU64::new(0));
    let mut workers = Vec::new();
    for (n, store) in stores.iter().enumerate() {
        // One that keeps its connection, and one that opens a new one for every request.
        for keeps in [true, false] {
            let (client, url) = (client.clone(), store.client.clone());
            let (done, count) = (Arc::clone(&done), Arc::clone(&count));
            workers.push(runtime.spawn(async move {
                let kept = channel(&client, &url);
                while !done.load(Ordering::Relaxed) {
                    let channel = if keeps { kept.clone() } else { channel(&client, &url) };
                    put(&channel, &format!("w{n}{keeps}")).await?;
                    count.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Ok::<(), tonic::Status>(())
            }));
        }
    }
    for _ in 0..2 {
        let before = runtime.block_on(shown(&client, &stores[0].client));
        for name in ["server", "peer", "alice"] {
            authority.issue(name);
        }
        for store in &stores {
            eventually("the new certificate is shown", || {
                (runtime.block_on(shown(&client, &store.client)) != before).then_some(())
            });
        }
        let seen = count.load(Ordering::Relaxed);
        eventually("requests go on", || (count.load(Ordering::Relaxed) > seen + 100).then_some(()));
    }
    done.store(true, Ordering::Relaxed);
    for worker in workers {
        runtime.block_on(worker).unwrap().expect("no request failed");
    }
    // A member that comes back now meets its peers by the new certificates alone.
    stores[1].kill();
    stores[1].start();
    stores[1].ready();
    let got = runtime.block_on(async {
        let request = RangeRequest { key: "w0true".into(), ..RangeRequest::default() };
        KvClient::new(channel(&client, &stores[1].client)).range(request).await.unwrap().into_inner()
    });
    assert_eq!(got.count, 1);
}

#[test]
fn a_store_with_broken_files_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let authority = ours(dir.path());
    let one = |more: &[String]| -> Store {
        let mut store = plan(dir.path(), 1, "http", more).remove(0);
        store.start();
        store
    };
    let https = |mut flags: Vec<String>| {
        let port = crate::cluster::free_ports(1)[0];
        flags.push(format!("--listen-client-urls=https://127.0.0.1:{port}"));
        flags.push(format!("--advertise-client-urls=https://127.0.0.1:{port}"));
        flags
    };
    let mut mixed = flags(&authority)[..2].to_vec();
    mixed[1] = format!("--key-file={}", authority.file("alice.key"));
    let mut store = one(&https(mixed));
    assert_eq!(store.ended().code(), Some(1));
    assert!(store.log().contains("does not belong to the certificate"), "{}", store.log());
    let mut missing = flags(&authority)[..2].to_vec();
    missing[0] = "--cert-file=/nowhere/server.crt".to_owned();
    let mut store = one(&https(missing));
    assert_eq!(store.ended().code(), Some(1));
    assert!(store.log().contains("the certificate /nowhere/server.crt cannot be read"), "{}", store.log());
    assert!(!dir.path().join("m0").exists(), "nothing was written");
}
