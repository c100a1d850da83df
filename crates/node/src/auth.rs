//! Who asks: tokens, passwords, and handles that act for a client.
//!
//! # Problem
//!
//! What a client may do is the state's to decide (`quorate_state::auth`); what this member has to find out is who the
//! client is. A client shows a token. It may have got it from another member a moment ago, or five minutes ago and
//! from one that is gone; the user may have been deleted meanwhile, the password changed, authentication turned off.
//!
//! # Model
//!
//! ```text
//!   Handle::as_client(credential) ─► every request of that handle:
//!
//!     credential ─► actor (user, auth revision) ─┬─► proposal: the command carries it, apply checks it
//!        tokens.rs: what was assigned            └─► read: checked in the very view that is read
//!        jwt.rs: what the signature says
//!
//!   authenticate: password ─► bcrypt on a blocking thread, against revision R ─► assign, if the revision is still R
//! ```
//!
//! A plain token means what the members remember of it: who it belongs to, and until when. Handing one out is a command,
//! so every member hears of it; how long it lives each member decides for itself, and each use there begins its time anew
//! (etcd's rule). A token ends in the index of that command: a member that is behind waits for it before it says that it
//! does not know the token. A member that restarts, or is brought up to date by a snapshot, remembers none, and clients
//! ask for another.
//!
//! A signed token (JWT) is not remembered by anybody. It names its user and the auth revision at which it was made, and is
//! worth nothing after the next change of any user or role.
//!
//! # Invariants
//!
//! 1. The handle that a node gives out is the program's own and may do everything. One made by [`Handle::as_client`] can only
//!    make others that act for clients too.
//! 2. No password and no hash of one is kept here, or logged.
//! 3. A plain token never fails for its revision: if users or roles changed under a request, it is asked again as of now.
//! 4. Passwords are computed on a bounded number of threads with a bounded line before them: whoever floods a member with
//!    wrong passwords slows down other logins and nothing else.

mod client;
mod jwt;
mod login;
mod options;
mod password;
mod ring_provider;
mod tokens;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use quorate_state::auth::{Auth as Action, AuthAction, AuthState};

pub(crate) use client::Access;
pub use client::Credential;
pub use login::LoginError;
pub use options::{AuthOptions, JwtOptions, SignMethod, TokenOptions};

use crate::StartError;
use jwt::Jwt;
use password::Passwords;
use tokens::Tokens;

/// What a member knows for telling who asks.
pub(crate) struct Auth {
    /// As applied here: the revision, shifted by one, and whether it is on. One word, so that the two belong together.
    state: AtomicU64,
    tokens: Mutex<Tokens>,
    /// None: plain tokens.
    jwt: Option<Jwt>,
    passwords: Passwords,
}

impl Auth {
    pub(crate) fn new(options: &AuthOptions) -> Result<Auth, StartError> {
        let (ttl, jwt) = match &options.token {
            TokenOptions::Simple { ttl } => (*ttl, None),
            TokenOptions::Jwt(options) => (options.ttl, Some(Jwt::load(options)?)),
        };
        Ok(Auth {
            state: AtomicU64::new(pack(AuthState { enabled: false, revision: 1 })),
            tokens: Mutex::new(Tokens::new(ttl)),
            jwt,
            passwords: Passwords::new(options.bcrypt_cost),
        })
    }

    /// As applied here.
    pub(crate) fn state(&self) -> AuthState {
        let packed = self.state.load(Ordering::Acquire);
        AuthState { enabled: packed & 1 == 1, revision: packed >> 1 }
    }

    /// An action was applied, and brought authentication to `after`. On the apply thread, before anybody is answered.
    pub(crate) fn applied(&self, now: Duration, action: &Action, after: AuthState) {
        self.state.store(pack(after), Ordering::Release);
        match &action.action {
            Some(AuthAction::AssignToken(assign)) => {
                self.tokens.lock().assign(now, &assign.token, &assign.user);
            }
            Some(AuthAction::UserDelete(delete)) => self.tokens.lock().forget(&delete.name),
            Some(AuthAction::UserChangePassword(change)) => self.tokens.lock().forget(&change.name),
            Some(AuthAction::Disable(_)) => self.tokens.lock().clear(),
            Some(
                AuthAction::Enable(_)
                | AuthAction::UserAdd(_)
                | AuthAction::UserGrantRole(_)
                | AuthAction::UserRevokeRole(_)
                | AuthAction::RoleAdd(_)
                | AuthAction::RoleDelete(_)
                | AuthAction::RoleGrant(_)
                | AuthAction::RoleRevoke(_),
            )
            | None => {}
        }
    }

    /// The state was replaced: what happened to users in between is unknown, so no token counts any more.
    pub(crate) fn restored(&self, state: AuthState) {
        self.state.store(pack(state), Ordering::Release);
        self.tokens.lock().clear();
    }
}

fn pack(state: AuthState) -> u64 {
    state.revision << 1 | u64::from(state.enabled)
}
