//! TLS, to Debian's etcd: whose certificate is believed, and what is shown to it.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};

use crate::servers::{err, free_port, launch, out, quoratectl};

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut parameters = CertificateParams::new(Vec::new()).unwrap();
    parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap()
}

/// Writes a certificate for loopback and its key.
fn issue(issuer: &CertifiedIssuer<'static, KeyPair>, dir: &Path, name: &str) {
    let mut parameters =
        CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
    parameters.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    let certificate = parameters.signed_by(&key, issuer).unwrap();
    std::fs::write(dir.join(format!("{name}.pem")), certificate.pem()).unwrap();
    std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
}

#[test]
fn certificates_are_checked_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, others) = (authority("ours"), authority("others"));
    std::fs::write(dir.path().join("ca.pem"), ours.pem()).unwrap();
    std::fs::write(dir.path().join("others.pem"), others.pem()).unwrap();
    issue(&ours, dir.path(), "server");
    issue(&ours, dir.path(), "client");
    let file = |name: &str| dir.path().join(name).display().to_string();
    let (client, peer) = (free_port(), free_port());
    let flags = [
        format!("--listen-client-urls=https://127.0.0.1:{client}"),
        format!("--advertise-client-urls=https://127.0.0.1:{client}"),
        format!("--cert-file={}", file("server.pem")),
        format!("--key-file={}", file("server.key")),
        format!("--trusted-ca-file={}", file("ca.pem")),
        "--client-cert-auth".to_owned(),
    ];
    let url = format!("--endpoints=https://127.0.0.1:{client}");
    for (program, verb, is_etcd) in
        [("/usr/bin/etcd", &[][..], true), (env!("CARGO_BIN_EXE_quorate"), &["store"][..], false)]
    {
        let server = launch(program, verb, &flags, client, peer, is_etcd);
        let (ca, cert, key) = (file("ca.pem"), file("client.pem"), file("client.key"));
        let known = ["--cacert", &ca, "--cert", &cert, "--key", &key];
        server.wait(|server| quoratectl(server, &[&["endpoint", "health"][..], &known].concat()));
        // Without a scheme a certificate option means TLS; with one it is named.
        assert_eq!(out(&quoratectl(&server, &[&["put", "k", "v"][..], &known].concat())), "OK\n");
        assert_eq!(out(&quoratectl(&server, &[&["get", "k", &url][..], &known].concat())), "k\nv\n");
        let unverified = ["get", "k", "--insecure-skip-tls-verify", "--insecure-transport=false"];
        let shown = ["--cert", cert.as_str(), "--key", &key];
        assert_eq!(out(&quoratectl(&server, &[&unverified[..], &shown].concat())), "k\nv\n");
        // Somebody else's authority, no certificate, no TLS at all: each is refused, and the endpoint is named.
        let foreign = file("others.pem");
        for arguments in [
            &["get", "k", "--cacert", &foreign, "--cert", &cert, "--key", &key][..],
            &["get", "k", "--cacert", &ca],
            &["get", "k", "--command-timeout", "1s"],
        ] {
            let refused = quoratectl(&server, arguments);
            assert_eq!(refused.status.code(), Some(1), "{arguments:?}");
            assert!(err(&refused).contains(&server.endpoint), "{arguments:?}: {}", err(&refused));
        }
        // What cannot be read is said before anything is asked.
        let missing = quoratectl(&server, &["get", "k", "--cacert", "/nowhere/ca.pem"]);
        assert_eq!(missing.status.code(), Some(128));
        assert!(err(&missing).contains("/nowhere/ca.pem"), "{}", err(&missing));
        assert_eq!(quoratectl(&server, &["get", "k", "--cert", &cert]).status.code(), Some(128));
    }
}
