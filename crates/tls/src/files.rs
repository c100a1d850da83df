//! Reading PEM files, with an error that names the file.

use std::path::{Path, PathBuf};

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use crate::options::Pair;
use crate::{TlsError, subject};

/// Where distributions keep the authorities that the system trusts, in one file (Debian, Fedora, SUSE, Alpine).
const SYSTEM_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

const CERTIFICATE: &str = "certificate";
const KEY: &str = "private key";
const AUTHORITY: &str = "CA certificate";
const REVOCATIONS: &str = "revocation list";

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { what, path: path.to_owned(), source })
}

fn malformed(what: &'static str, path: &Path, why: impl ToString) -> TlsError {
    TlsError::Malformed { what, path: path.to_owned(), why: why.to_string() }
}

fn all<T: PemObject>(what: &'static str, path: &Path, remedy: &'static str) -> Result<Vec<T>, TlsError> {
    let bytes = read(what, path)?;
    let found: Result<Vec<T>, pem::Error> = T::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|error| malformed(what, path, error))?;
    if found.is_empty() {
        return Err(TlsError::Empty { what, path: path.to_owned(), remedy });
    }
    Ok(found)
}

/// The pair, in rustls' form: readable, belonging together.
pub(crate) fn pair(
    pair: &Pair,
    provider: &rustls::crypto::CryptoProvider,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let chain: Vec<CertificateDer<'static>> =
        all(CERTIFICATE, &pair.cert, "it begins with -----BEGIN CERTIFICATE-----; is this the key?")?;
    let bytes = read(KEY, &pair.key)?;
    let key = match PrivateKeyDer::from_pem_slice(&bytes) {
        Ok(key) => key,
        Err(pem::Error::NoItemsFound) => {
            let remedy = "it must be PKCS#8, PKCS#1 or SEC1, and without a passphrase";
            return Err(TlsError::Empty { what: KEY, path: pair.key.clone(), remedy });
        }
        Err(error) => return Err(malformed(KEY, &pair.key, error)),
    };
    let signer = provider
        .key_provider
        .load_private_key(key.clone_key())
        .map_err(|error| malformed(KEY, &pair.key, error))?;
    match rustls::sign::CertifiedKey::new(chain.clone(), signer).keys_match() {
        // Unknown: the key does not tell its public half; the handshake will.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(rustls::Error::InconsistentKeys(_)) => {
            return Err(TlsError::Mismatch { cert: pair.cert.clone(), key: pair.key.clone() });
        }
        Err(error) => return Err(malformed(CERTIFICATE, &pair.cert, error)),
    }
    if let Some(own) = chain.first()
        && let Some(problem) = subject::validity_problem(own)
    {
        tracing::warn!(
            file = %pair.cert.display(),
            "the certificate {problem}: clients that verify it will refuse it; have it renewed and put the new one in its place"
        );
    }
    Ok((chain, key))
}

/// The authorities in a file; at least one that can be used.
pub(crate) fn authorities(path: &Path) -> Result<rustls::RootCertStore, TlsError> {
    let certificates: Vec<CertificateDer<'static>> =
        all(AUTHORITY, path, "put the certificate of the authority that issued the other side's into it")?;
    let mut roots = rustls::RootCertStore::empty();
    let mut first_problem = None;
    for certificate in certificates {
        if let Err(error) = roots.add(certificate) {
            first_problem.get_or_insert(error);
        }
    }
    match first_problem {
        Some(error) if roots.is_empty() => Err(malformed(AUTHORITY, path, error)),
        Some(error) => {
            tracing::warn!(file = %path.display(), %error, "a CA certificate is left out");
            Ok(roots)
        }
        None => Ok(roots),
    }
}

/// The file with the system's authorities.
pub(crate) fn system_authorities() -> Result<PathBuf, TlsError> {
    SYSTEM_BUNDLES.iter().map(PathBuf::from).find(|path| path.exists()).ok_or(TlsError::NoSystemAuthorities)
}

/// The lists in a file, in PEM or, as `openssl ca` and etcd have it, in DER form.
pub(crate) fn revocations(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let bytes = read(REVOCATIONS, path)?;
    if !bytes.starts_with(b"-----") && !bytes.is_empty() && bytes[0] == 0x30 {
        return Ok(vec![CertificateRevocationListDer::from(bytes)]);
    }
    all(REVOCATIONS, path, "it begins with -----BEGIN X509 CRL-----, or is in DER form")
}
