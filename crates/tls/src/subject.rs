//! What a certificate says about itself: the common name, and from when to when it counts.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::der::asn1::{PrintableStringRef, TeletexStringRef, Utf8StringRef};
use x509_cert::der::oid::ObjectIdentifier;

/// RFC 5280, `id-at-commonName`.
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// The last common name of the subject, which is the one that Go, and so etcd, takes. None: there is none, or it is empty.
pub(crate) fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let mut name = None;
    for attribute in certificate.tbs_certificate().subject().iter() {
        if attribute.oid != COMMON_NAME {
            continue;
        }
        let value = &attribute.value;
        let text = value
            .decode_as::<Utf8StringRef<'_>>()
            .map(|text| text.as_str().to_owned())
            .or_else(|_| value.decode_as::<PrintableStringRef<'_>>().map(|text| text.as_str().to_owned()))
            .or_else(|_| value.decode_as::<TeletexStringRef<'_>>().map(|text| text.as_str().to_owned()));
        name = text.ok().or(name);
    }
    name.filter(|name| !name.is_empty())
}

/// "expired 3 days ago", "is not valid yet"; None: it counts now, or does not say.
pub(crate) fn validity_problem(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let validity = certificate.tbs_certificate().validity();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let days = |time: Duration| time.as_secs() / 86_400;
    if let Some(since) = now.checked_sub(validity.not_after.to_unix_duration()) {
        return Some(format!("expired {} days ago", days(since)));
    }
    let until = validity.not_before.to_unix_duration().checked_sub(now)?;
    (!until.is_zero()).then(|| format!("is not valid for another {} days", days(until)))
}
