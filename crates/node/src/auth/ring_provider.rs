//! Signatures for `jsonwebtoken` by `ring`, which TLS brings along anyway. The providers that the library has are one that
//! needs cmake and one with an RSA that leaks by its timing.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::signature::{self, Signer, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use ring::rand::SystemRandom;
use ring::signature::{
    EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RsaEncoding, RsaKeyPair, UnparsedPublicKey,
    VerificationAlgorithm,
};
use ring::{hmac, signature as of};

pub(crate) static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key| {
        let method = method(*algorithm).ok_or(ErrorKind::UnsupportedAlgorithm)?;
        let secret = Secret::of(&method, key).ok_or(ErrorKind::InvalidKeyFormat)?;
        Ok(Box::new(By { algorithm: *algorithm, secret }))
    },
    verifier_factory: |algorithm, key| {
        let method = method(*algorithm).ok_or(ErrorKind::UnsupportedAlgorithm)?;
        if key.family() != algorithm.family() {
            return Err(Error::from(ErrorKind::InvalidKeyFormat));
        }
        let key = key.try_get_as_bytes()?.to_vec();
        Ok(Box::new(Against { algorithm: *algorithm, method, key }))
    },
    // For keys in JSON, which are not used.
    key_utils: KeyUtils::new_unimplemented(),
};

/// What `ring` calls an algorithm.
enum Method {
    Hmac(hmac::Algorithm),
    Rsa(&'static dyn RsaEncoding, &'static dyn VerificationAlgorithm),
    Ec(&'static EcdsaSigningAlgorithm, &'static dyn VerificationAlgorithm),
    Ed,
}

fn method(algorithm: Algorithm) -> Option<Method> {
    Some(match algorithm {
        Algorithm::HS256 => Method::Hmac(hmac::HMAC_SHA256),
        Algorithm::HS384 => Method::Hmac(hmac::HMAC_SHA384),
        Algorithm::HS512 => Method::Hmac(hmac::HMAC_SHA512),
        Algorithm::RS256 => Method::Rsa(&of::RSA_PKCS1_SHA256, &of::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::RS384 => Method::Rsa(&of::RSA_PKCS1_SHA384, &of::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::RS512 => Method::Rsa(&of::RSA_PKCS1_SHA512, &of::RSA_PKCS1_2048_8192_SHA512),
        Algorithm::PS256 => Method::Rsa(&of::RSA_PSS_SHA256, &of::RSA_PSS_2048_8192_SHA256),
        Algorithm::PS384 => Method::Rsa(&of::RSA_PSS_SHA384, &of::RSA_PSS_2048_8192_SHA384),
        Algorithm::PS512 => Method::Rsa(&of::RSA_PSS_SHA512, &of::RSA_PSS_2048_8192_SHA512),
        Algorithm::ES256 => Method::Ec(&of::ECDSA_P256_SHA256_FIXED_SIGNING, &of::ECDSA_P256_SHA256_FIXED),
        Algorithm::ES384 => Method::Ec(&of::ECDSA_P384_SHA384_FIXED_SIGNING, &of::ECDSA_P384_SHA384_FIXED),
        Algorithm::EdDSA => Method::Ed,
        #[allow(unreachable_patterns, reason = "the library may learn more")]
        _ => return None,
    })
}

enum Secret {
    Hmac(hmac::Key),
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl Secret {
    fn of(method: &Method, key: &EncodingKey) -> Option<Secret> {
        let bytes = key.as_bytes();
        Some(match method {
            Method::Hmac(algorithm) => Secret::Hmac(hmac::Key::new(*algorithm, bytes)),
            Method::Rsa(encoding, _) => Secret::Rsa(RsaKeyPair::from_der(bytes).ok()?, *encoding),
            Method::Ec(algorithm, _) => {
                Secret::Ec(EcdsaKeyPair::from_pkcs8(algorithm, bytes, &SystemRandom::new()).ok()?)
            }
            // Without the public half too, which openssl leaves out.
            Method::Ed => Secret::Ed(Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes).ok()?),
        })
    }
}

/// The public half of a private key. None: there is none, or the key is of another kind.
pub(crate) fn public_of(algorithm: Algorithm, key: &EncodingKey) -> Option<DecodingKey> {
    match Secret::of(&method(algorithm)?, key)? {
        Secret::Hmac(_) => None,
        Secret::Rsa(pair, _) => Some(DecodingKey::from_rsa_der(pair.public_key().as_ref())),
        Secret::Ec(pair) => Some(DecodingKey::from_ec_der(pair.public_key().as_ref())),
        Secret::Ed(pair) => Some(DecodingKey::from_ed_der(pair.public_key().as_ref())),
    }
}

struct By {
    algorithm: Algorithm,
    secret: Secret,
}

impl Signer<Vec<u8>> for By {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, signature::Error> {
        let random = SystemRandom::new();
        let unspecified = |_| signature::Error::new();
        match &self.secret {
            Secret::Hmac(key) => Ok(hmac::sign(key, message).as_ref().to_vec()),
            Secret::Rsa(pair, encoding) => {
                let mut signed = vec![0; pair.public().modulus_len()];
                pair.sign(*encoding, &random, message, &mut signed).map_err(unspecified)?;
                Ok(signed)
            }
            Secret::Ec(pair) => Ok(pair.sign(&random, message).map_err(unspecified)?.as_ref().to_vec()),
            Secret::Ed(pair) => Ok(pair.sign(message).as_ref().to_vec()),
        }
    }
}

impl JwtSigner for By {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

struct Against {
    algorithm: Algorithm,
    method: Method,
    key: Vec<u8>,
}

impl Verifier<Vec<u8>> for Against {
    fn verify(&self, message: &[u8], signed: &Vec<u8>) -> Result<(), signature::Error> {
        let verified = match &self.method {
            Method::Hmac(algorithm) => hmac::verify(&hmac::Key::new(*algorithm, &self.key), message, signed),
            Method::Rsa(_, algorithm) | Method::Ec(_, algorithm) => {
                UnparsedPublicKey::new(*algorithm, &self.key).verify(message, signed)
            }
            Method::Ed => UnparsedPublicKey::new(&of::ED25519, &self.key).verify(message, signed),
        };
        verified.map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Against {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
