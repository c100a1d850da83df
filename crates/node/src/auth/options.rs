//! How clients prove who they are, as configured.

use std::path::PathBuf;
use std::time::Duration;

use super::password::USUAL_COST;

/// Authentication of clients. Whether it is on is replicated state, not configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthOptions {
    /// What kind of tokens are handed out and taken. The same on every member.
    pub token: TokenOptions,
    /// Work per password, as a power of two: 4 to 31; any other is 10 (etcd's rule).
    pub bcrypt_cost: u32,
}

impl Default for AuthOptions {
    fn default() -> AuthOptions {
        AuthOptions { token: TokenOptions::default(), bcrypt_cost: USUAL_COST }
    }
}

/// Tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenOptions {
    /// Random text that the members remember.
    Simple {
        /// From the last use at a member. Default 300 s.
        ttl: Duration,
    },
    /// Signed; nobody remembers them.
    Jwt(JwtOptions),
}

impl Default for TokenOptions {
    fn default() -> TokenOptions {
        TokenOptions::Simple { ttl: Duration::from_secs(300) }
    }
}

/// Signed tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtOptions {
    /// How tokens are signed. A token that says something else is refused.
    pub method: SignMethod,
    /// PEM. With it alone a member takes tokens and cannot make any. Not for HMAC.
    pub public_key: Option<PathBuf>,
    /// PEM; for HMAC the secret itself.
    pub private_key: Option<PathBuf>,
    /// From when it was made. Default 300 s.
    pub ttl: Duration,
}

/// By the names of RFC 7518. ES512 is missing: the library does not have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum SignMethod {
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

impl SignMethod {
    /// Every method with its name.
    pub const ALL: [(&'static str, SignMethod); 12] = [
        ("HS256", SignMethod::Hs256),
        ("HS384", SignMethod::Hs384),
        ("HS512", SignMethod::Hs512),
        ("RS256", SignMethod::Rs256),
        ("RS384", SignMethod::Rs384),
        ("RS512", SignMethod::Rs512),
        ("PS256", SignMethod::Ps256),
        ("PS384", SignMethod::Ps384),
        ("PS512", SignMethod::Ps512),
        ("ES256", SignMethod::Es256),
        ("ES384", SignMethod::Es384),
        ("EdDSA", SignMethod::EdDsa),
    ];

    /// By name, in RFC 7518's own spelling.
    #[must_use]
    pub fn named(name: &str) -> Option<SignMethod> {
        SignMethod::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, method)| method)
    }
}
