//! The files that TLS needs, as both kinds of configuration name them, and what is missing among them.

use std::path::PathBuf;

use quorate_tls::{ClientOptions, Pair, Protocol, ServerOptions};
use serde::Serialize;

/// Under `dcs:` by these names, as etcd's flags with dashes. A file is read again when it changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TlsFiles {
    /// The certificate of the client port; with it and its key clients must speak TLS. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// Its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Authorities of clients' certificates; naming them asks every client for one. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trusted_ca_file: Option<PathBuf>,
    /// Clients must show a certificate. Default false.
    #[serde(skip_serializing_if = "is_false")]
    pub client_cert_auth: bool,
    /// Clients' certificates that no longer count. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_crl_file: Option<PathBuf>,
    /// The certificate of this voter among its peers, shown to those who connect and to those it connects to. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_cert_file: Option<PathBuf>,
    /// Its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_key_file: Option<PathBuf>,
    /// Authorities of peers' certificates; naming them asks every peer for one. Default: the system's, for those this voter
    /// connects to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_trusted_ca_file: Option<PathBuf>,
    /// Peers must show a certificate. Default false.
    #[serde(skip_serializing_if = "is_false")]
    pub peer_client_cert_auth: bool,
    /// Peers' certificates that no longer count. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_crl_file: Option<PathBuf>,
    /// Shown to peers that this voter connects to, instead of its own pair (`--peer-client-cert-file`).
    #[serde(skip)]
    pub peer_client_pair: Option<Pair>,
    /// Host names, one of which a client's certificate must have; empty: any.
    #[serde(skip)]
    pub client_allowed_hosts: Vec<String>,
    /// Common names that peers may have; empty: any.
    #[serde(skip)]
    pub peer_allowed_names: Vec<String>,
    /// Host names, one of which a peer's certificate must have; empty: any.
    #[serde(skip)]
    pub peer_allowed_hosts: Vec<String>,
    /// Versions and suites, for clients and peers.
    #[serde(skip)]
    pub protocol: Protocol,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_false(on: &bool) -> bool {
    !on
}

impl TlsFiles {
    /// For the client port. None: it speaks no TLS.
    #[must_use]
    pub fn clients(&self) -> Option<ServerOptions> {
        let pair = pair(self.cert_file.as_ref(), self.key_file.as_ref())?;
        Some(ServerOptions {
            trusted_ca: self.trusted_ca_file.clone(),
            client_cert_auth: self.client_cert_auth,
            revoked: self.client_crl_file.clone(),
            allowed_hosts: self.client_allowed_hosts.clone(),
            protocol: self.protocol.clone(),
            ..ServerOptions::new(pair)
        })
    }

    /// For the peers' port, and for connections to peers. None: no TLS among peers.
    #[must_use]
    pub fn peers(&self) -> Option<(ServerOptions, ClientOptions)> {
        let pair = pair(self.peer_cert_file.as_ref(), self.peer_key_file.as_ref())?;
        let listen = ServerOptions {
            trusted_ca: self.peer_trusted_ca_file.clone(),
            client_cert_auth: self.peer_client_cert_auth,
            revoked: self.peer_crl_file.clone(),
            allowed_names: self.peer_allowed_names.clone(),
            allowed_hosts: self.peer_allowed_hosts.clone(),
            protocol: self.protocol.clone(),
            ..ServerOptions::new(pair.clone())
        };
        let connect = ClientOptions {
            pair: Some(self.peer_client_pair.clone().unwrap_or(pair)),
            trusted_ca: self.peer_trusted_ca_file.clone(),
            protocol: self.protocol.clone(),
            ..ClientOptions::default()
        };
        Some((listen, connect))
    }

    /// What is missing, as (the field it is about, the sentence). Files are not looked at.
    #[must_use]
    pub fn problems(&self, spell: impl Fn(&'static str) -> String) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        let mut say = |field, what: String| problems.push((field, what));
        for (cert_name, cert, key_name, key) in [
            ("cert_file", &self.cert_file, "key_file", &self.key_file),
            ("peer_cert_file", &self.peer_cert_file, "peer_key_file", &self.peer_key_file),
        ] {
            match (cert, key) {
                (Some(_), None) => say(cert_name, format!("needs its key: set {}", spell(key_name))),
                (None, Some(_)) => say(key_name, format!("needs its certificate: set {}", spell(cert_name))),
                (Some(_), Some(_)) | (None, None) => {}
            }
        }
        let needs =
            |ca: &'static str| format!("needs an authority to verify certificates by: set {}", spell(ca));
        if self.client_cert_auth && self.trusted_ca_file.is_none() {
            say("client_cert_auth", needs("trusted_ca_file"));
        }
        if self.client_crl_file.is_some() && self.trusted_ca_file.is_none() {
            say("client_crl_file", needs("trusted_ca_file"));
        }
        if self.peer_client_cert_auth && self.peer_trusted_ca_file.is_none() {
            say("peer_client_cert_auth", needs("peer_trusted_ca_file"));
        }
        if self.peer_crl_file.is_some() && self.peer_trusted_ca_file.is_none() {
            say("peer_crl_file", needs("peer_trusted_ca_file"));
        }
        for (field, is_set) in
            [("trusted_ca_file", self.trusted_ca_file.is_some()), ("client_cert_auth", self.client_cert_auth)]
        {
            if is_set && self.cert_file.is_none() && self.key_file.is_none() {
                say(
                    field,
                    format!(
                        "means nothing without TLS: set {} and {}",
                        spell("cert_file"),
                        spell("key_file")
                    ),
                );
            }
        }
        for (field, is_set) in [
            ("peer_trusted_ca_file", self.peer_trusted_ca_file.is_some()),
            ("peer_client_cert_auth", self.peer_client_cert_auth),
        ] {
            if is_set && self.peer_cert_file.is_none() && self.peer_key_file.is_none() {
                let (cert, key) = (spell("peer_cert_file"), spell("peer_key_file"));
                say(field, format!("means nothing without TLS: set {cert} and {key}"));
            }
        }
        problems
    }
}

fn pair(cert: Option<&PathBuf>, key: Option<&PathBuf>) -> Option<Pair> {
    Some(Pair { cert: cert?.clone(), key: key?.clone() })
}
