//! Signed tokens: `{"username": …, "revision": …, "exp": …}`, as etcd makes them.

use std::path::Path;
use std::sync::Once;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use quorate_state::Actor;
use serde::{Deserialize, Serialize};

use super::ring_provider::{self, PROVIDER};
use super::{JwtOptions, SignMethod};
use crate::StartError;

/// Makes and reads them.
pub(crate) struct Jwt {
    header: Header,
    validation: Validation,
    ttl: Duration,
    /// None: tokens are taken, not made.
    private: Option<EncodingKey>,
    public: DecodingKey,
}

#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
struct Claims {
    username: String,
    revision: u64,
    /// Seconds since 1970.
    exp: u64,
}

impl Jwt {
    /// Reads the keys and tries them.
    pub(crate) fn load(options: &JwtOptions) -> Result<Jwt, StartError> {
        install_provider();
        let algorithm = algorithm(options.method);
        let private = options.private_key.as_deref().map(|path| private_key(algorithm, path)).transpose()?;
        let public = match (&private, options.public_key.as_deref()) {
            // The secret is both.
            (Some((_, bytes)), _) if is_hmac(algorithm) => DecodingKey::from_secret(bytes),
            (_, Some(path)) if !is_hmac(algorithm) => public_key(algorithm, path)?,
            (Some((key, _)), None) => ring_provider::public_of(algorithm, key).ok_or_else(|| {
                StartError::plain("--auth-token: the private key is of another kind than sign-method")
            })?,
            (None, _) => {
                return Err(StartError::plain(
                    "--auth-token: jwt needs a key: priv-key=FILE to make and take tokens, or pub-key=FILE to take them",
                ));
            }
            (Some(_), Some(_)) => {
                return Err(StartError::plain("--auth-token: an HMAC secret is no public key"));
            }
        };
        let mut validation = Validation::new(algorithm);
        validation.set_required_spec_claims(&["exp"]);
        validation.validate_nbf = true;
        validation.validate_aud = false;
        // Members' clocks differ by less than a token is worth; etcd gives nothing either.
        validation.leeway = 0;
        let jwt = Jwt {
            header: Header::new(algorithm),
            validation,
            ttl: options.ttl,
            private: private.map(|(key, _)| key),
            public,
        };
        jwt.try_keys()?;
        Ok(jwt)
    }

    fn try_keys(&self) -> Result<(), StartError> {
        if self.private.is_none() {
            return Ok(());
        }
        let far = Claims { username: "probe".to_owned(), revision: 0, exp: u64::from(u32::MAX) };
        let token = self
            .sign(&far)
            .ok_or_else(|| StartError::plain("--auth-token: the private key does not sign by sign-method"))?;
        match self.read(&token) {
            Some(_) => Ok(()),
            None => Err(StartError::plain("--auth-token: pub-key and priv-key do not belong together")),
        }
    }

    /// False: this member has the public key alone.
    pub(crate) fn signs(&self) -> bool {
        self.private.is_some()
    }

    /// None: this member cannot sign.
    pub(crate) fn assign(&self, user: &str, revision: u64) -> Option<String> {
        // Seconds since 1970 are what the standard asks for.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.sign(&Claims { username: user.to_owned(), revision, exp: (now + self.ttl).as_secs() })
    }

    fn sign(&self, claims: &Claims) -> Option<String> {
        jsonwebtoken::encode(&self.header, claims, self.private.as_ref()?).ok()
    }

    /// None: not signed by us, or its time is over.
    pub(crate) fn read(&self, token: &str) -> Option<Actor> {
        let claims = jsonwebtoken::decode::<Claims>(token, &self.public, &self.validation).ok()?.claims;
        Some(Actor { user: claims.username, auth_revision: claims.revision })
    }
}

fn install_provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An embedding program that chose a provider of its own keeps it.
        let _ = PROVIDER.install_default();
    });
}

fn is_hmac(algorithm: Algorithm) -> bool {
    matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512)
}

fn read(path: &Path) -> Result<Vec<u8>, StartError> {
    std::fs::read(path)
        .map_err(|error| StartError::because(format!("--auth-token: reading {}", path.display()), error))
}

fn private_key(algorithm: Algorithm, path: &Path) -> Result<(EncodingKey, Vec<u8>), StartError> {
    let bytes = read(path)?;
    let key = match algorithm {
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 if bytes.is_empty() => {
            return Err(StartError::plain(format!("--auth-token: {} is empty", path.display())));
        }
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => Ok(EncodingKey::from_secret(&bytes)),
        Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_pem(&bytes),
        Algorithm::EdDSA => EncodingKey::from_ed_pem(&bytes),
        Algorithm::RS256
        | Algorithm::RS384
        | Algorithm::RS512
        | Algorithm::PS256
        | Algorithm::PS384
        | Algorithm::PS512 => EncodingKey::from_rsa_pem(&bytes),
        other => return Err(StartError::plain(format!("--auth-token: {other:?} is not supported"))),
    };
    let key = key.map_err(|error| {
        let what = format!(
            "--auth-token: {} holds no private key in PEM that fits sign-method (openssl pkcs8 -topk8 -nocrypt converts one)",
            path.display()
        );
        StartError::because(what, error)
    })?;
    Ok((key, bytes))
}

fn public_key(algorithm: Algorithm, path: &Path) -> Result<DecodingKey, StartError> {
    let bytes = read(path)?;
    let key = match algorithm {
        Algorithm::ES256 | Algorithm::ES384 => DecodingKey::from_ec_pem(&bytes),
        Algorithm::EdDSA => DecodingKey::from_ed_pem(&bytes),
        _ => DecodingKey::from_rsa_pem(&bytes),
    };
    key.map_err(|error| {
        let what =
            format!("--auth-token: {} holds no public key in PEM that fits sign-method", path.display());
        StartError::because(what, error)
    })
}

fn algorithm(method: SignMethod) -> Algorithm {
    match method {
        SignMethod::Hs256 => Algorithm::HS256,
        SignMethod::Hs384 => Algorithm::HS384,
        SignMethod::Hs512 => Algorithm::HS512,
        SignMethod::Rs256 => Algorithm::RS256,
        SignMethod::Rs384 => Algorithm::RS384,
        SignMethod::Rs512 => Algorithm::RS512,
        SignMethod::Ps256 => Algorithm::PS256,
        SignMethod::Ps384 => Algorithm::PS384,
        SignMethod::Ps512 => Algorithm::PS512,
        SignMethod::Es256 => Algorithm::ES256,
        SignMethod::Es384 => Algorithm::ES384,
        SignMethod::EdDsa => Algorithm::EdDSA,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn fixture(name: &str) -> Option<PathBuf> {
        Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name))
    }

    fn jwt(method: SignMethod, public_key: Option<PathBuf>, private_key: Option<PathBuf>) -> Jwt {
        let options = JwtOptions { method, public_key, private_key, ttl: Duration::from_secs(300) };
        Jwt::load(&options).expect("keys in order")
    }

    /// The methods of one family share keys, and a token of one is none of another.
    #[test]
    fn a_token_is_taken_by_its_own_method_only() {
        let rsa = [
            SignMethod::Rs256,
            SignMethod::Rs384,
            SignMethod::Rs512,
            SignMethod::Ps256,
            SignMethod::Ps384,
            SignMethod::Ps512,
        ];
        let hmac = [SignMethod::Hs256, SignMethod::Hs384, SignMethod::Hs512];
        let with = |method| {
            let public = if hmac.contains(&method) { None } else { fixture("rsa.pub") };
            jwt(method, public, fixture("rsa.key"))
        };
        for method in rsa.into_iter().chain(hmac) {
            let token = with(method).assign("user", 300).expect("it signs");
            let expected = Actor { user: "user".to_owned(), auth_revision: 300 };
            for other in rsa.into_iter().chain(hmac) {
                let read = with(other).read(&token);
                assert_eq!(read, (other == method).then(|| expected.clone()), "{method:?} read as {other:?}");
            }
        }
    }

    /// The oldest trick: the public key, which everybody has, as the secret of a symmetric signature; or no signature.
    #[test]
    fn a_token_cannot_choose_how_it_is_checked() {
        let verifier = jwt(SignMethod::Rs256, fixture("rsa.pub"), None);
        assert!(!verifier.signs() && verifier.assign("root", 300).is_none());
        let forger = jwt(SignMethod::Hs256, None, fixture("rsa.pub"));
        let forged = forger.assign("root", 300).expect("it signs");
        assert_eq!(verifier.read(&forged), None);
        let signed = jwt(SignMethod::Rs256, None, fixture("rsa.key")).assign("root", 300).expect("it signs");
        assert!(verifier.read(&signed).is_some(), "by the private half");
        let claims = signed.split('.').nth(1).expect("three parts");
        // {"alg":"none"}
        for unsigned in
            [format!("eyJhbGciOiJub25lIn0.{claims}."), format!("eyJhbGciOiJub25lIn0.{claims}"), String::new()]
        {
            assert_eq!(verifier.read(&unsigned), None, "{unsigned}");
        }
    }

    #[test]
    fn a_token_ends_and_must_say_when() {
        let signer = jwt(SignMethod::Rs256, None, fixture("rsa.key"));
        let past = Claims { username: "user".to_owned(), revision: 1, exp: 1_000_000 };
        assert_eq!(signer.read(&signer.sign(&past).expect("it signs")), None);
        #[derive(Serialize)]
        struct Endless {
            username: &'static str,
            revision: u64,
        }
        let endless = Endless { username: "user", revision: 1 };
        let key = signer.private.as_ref().expect("a key");
        let endless = jsonwebtoken::encode(&signer.header, &endless, key).expect("it signs");
        assert_eq!(signer.read(&endless), None);
    }

    #[test]
    fn halves_of_two_keys_are_refused() {
        let options = JwtOptions {
            method: SignMethod::Rs256,
            public_key: fixture("other.pub"),
            private_key: fixture("rsa.key"),
            ttl: Duration::from_secs(300),
        };
        let error = Jwt::load(&options).err().expect("they do not fit");
        assert!(error.to_string().contains("do not belong together"), "{error}");
    }
}
