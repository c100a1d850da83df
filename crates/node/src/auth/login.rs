//! A password for a token.

use std::time::Duration;

use bytes::Bytes;
use quorate_state::auth::{self, AssignToken, Auth, AuthAction};
use quorate_state::{Body, Command, Rejection};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::time::Instant;

use super::password::{Unchecked, is_hash};
use crate::{Handle, ProposeError, ReadError};

/// Letters of a token: 91 bits.
const LENGTH: usize = 16;
const LETTERS: &[u8; 52] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// Why there is no token, or no hash.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The state could not be read, or refuses: [`Rejection::AuthFailed`], [`Rejection::AuthNotEnabled`].
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The token could not be assigned. Nothing is lost by asking again.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// This member has the public key alone and cannot sign tokens.
    #[error("this member takes tokens and cannot make any: it has no private key")]
    VerifyOnly,
    /// bcrypt looks at 72 bytes.
    #[error("the password is longer than 72 bytes")]
    TooLong,
    /// What was given as a hash is none of bcrypt's.
    #[error("the given password hash is not bcrypt's")]
    NotAHash,
    /// Too many passwords wait to be looked at.
    #[error("too many passwords are being looked at")]
    Busy,
}

impl From<Unchecked> for LoginError {
    fn from(unchecked: Unchecked) -> LoginError {
        match unchecked {
            Unchecked::TooLong => LoginError::TooLong,
            Unchecked::Busy => LoginError::Busy,
            Unchecked::TimedOut => LoginError::Read(ReadError::TimedOut),
        }
    }
}

fn rejected(rejection: Rejection) -> LoginError {
    LoginError::Read(ReadError::Rejected(rejection))
}

impl Handle {
    /// A token for the user, if the password is the user's. The handle may act for anybody: who logs in is nobody yet.
    ///
    /// # Errors
    ///
    /// [`Rejection::AuthFailed`] for a wrong password, an unknown user and one without a password alike.
    pub async fn authenticate(
        &self,
        name: &str,
        password: &str,
        timeout: Duration,
    ) -> Result<String, LoginError> {
        let deadline = Instant::now() + timeout;
        let auth = &self.inner.auth;
        let mut matched: Option<Bytes> = None;
        loop {
            self.inner.read_barrier(deadline.saturating_duration_since(Instant::now())).await?;
            let (state, user) =
                self.inner.read(|view| Ok((auth::auth_state(view)?, auth::user(view, name)?)))?;
            if !state.enabled {
                return Err(rejected(Rejection::AuthNotEnabled));
            }
            let user = user.filter(|user| !user.no_password);
            let Some(user) = user else { return Err(rejected(Rejection::AuthFailed)) };
            // Looked at once, unless it was changed meanwhile.
            if matched.as_ref() != Some(&user.password_hash) {
                let hash = user.password_hash.clone();
                if !auth.passwords.verify(password.to_owned(), hash, deadline).await? {
                    tracing::info!(user = name, "a password was wrong");
                    return Err(rejected(Rejection::AuthFailed));
                }
                matched = Some(user.password_hash);
            }
            if let Some(jwt) = &auth.jwt {
                if !jwt.signs() {
                    return Err(LoginError::VerifyOnly);
                }
                match jwt.assign(name, state.revision) {
                    Some(token) if auth.state().revision == state.revision => return Ok(token),
                    Some(_) => continue,
                    None => return Err(LoginError::VerifyOnly),
                }
            }
            let token = draw().ok_or(LoginError::Read(ReadError::TimedOut))?;
            let assign =
                AssignToken { token: token.clone(), user: name.to_owned(), auth_revision: state.revision };
            let command = Command::new(Body::Auth(Auth::new(AuthAction::AssignToken(assign))));
            match self.inner.propose(command, deadline.saturating_duration_since(Instant::now())).await {
                Ok(applied) => return Ok(format!("{token}.{}", applied.index)),
                // Users or roles changed since the password was looked at.
                Err(ProposeError::Rejected(Rejection::AuthOldRevision)) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The hash of a password, for [`auth::UserAdd`] and [`auth::UserChangePassword`]: passwords do not travel.
    ///
    /// # Errors
    ///
    /// [`LoginError::TooLong`], [`LoginError::Busy`], or no time.
    pub async fn hash_password(&self, password: &str, timeout: Duration) -> Result<Bytes, LoginError> {
        let deadline = Instant::now() + timeout;
        Ok(self.inner.auth.passwords.hash(password.to_owned(), deadline).await?)
    }

    /// Takes a hash that was computed elsewhere, if it is one.
    ///
    /// # Errors
    ///
    /// [`LoginError::NotAHash`].
    pub fn take_hash(&self, hash: Bytes) -> Result<Bytes, LoginError> {
        if is_hash(&hash) { Ok(hash) } else { Err(LoginError::NotAHash) }
    }
}

/// None: the system has no randomness to give.
fn draw() -> Option<String> {
    let random = SystemRandom::new();
    let mut token = String::with_capacity(LENGTH);
    let mut bytes = [0; 2 * LENGTH];
    while token.len() < LENGTH {
        random.fill(&mut bytes).ok()?;
        // Every letter as likely: what is left above the last multiple is thrown away.
        let fair = bytes.iter().filter(|byte| usize::from(**byte) < 256 / LETTERS.len() * LETTERS.len());
        let letters = fair.map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()]));
        token.extend(letters.take(LENGTH - token.len()));
    }
    Some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_sixteen_letters_and_differ() {
        let tokens: std::collections::BTreeSet<String> = (0..1000).map(|_| draw().unwrap()).collect();
        assert_eq!(tokens.len(), 1000);
        assert!(tokens.iter().all(|token| token.len() == 16 && token.bytes().all(|b| LETTERS.contains(&b))));
    }
}
