//! Handles that act for a client, and how a request of one finds out who asks.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_state::auth::{self, AuthState, Permission, Permit, permit};
use quorate_state::{Actor, Fault, LeaseId, Rejection, View};
use tokio::time::Instant;

use crate::clock::boottime;
use crate::handle::Inner;
use crate::{Handle, ReadError};

/// How long a member that is behind waits for the command that assigned a token. Longer than it is ever behind while it
/// can answer at all; a token with a made-up index costs its client this long.
const TOKEN_ON_ITS_WAY: Duration = Duration::from_secs(2);

/// What a client showed.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Credential {
    /// Nothing.
    #[default]
    None,
    /// A token, as it was handed out.
    Token(Arc<str>),
    /// The common name of a certificate that TLS has verified.
    CommonName(Arc<str>),
}

/// Tokens never reach a log line.
impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Credential::None => f.write_str("None"),
            Credential::Token(_) => f.write_str("Token"),
            Credential::CommonName(name) => write!(f, "CommonName({name:?})"),
        }
    }
}

/// Who a handle acts for.
#[derive(Clone)]
pub(crate) enum Access {
    /// The program that runs the member: everything.
    Trusted,
    Client(Credential),
}

impl Inner {
    /// Who shows `credential`, as of now: refused if it shows something that is worth nothing. While authentication is
    /// off nothing is looked at and the actor has no name.
    async fn actor(&self, credential: &Credential, deadline: Instant) -> Result<Actor, ReadError> {
        let AuthState { enabled, revision } = self.auth.state();
        match credential {
            _ if !enabled => Ok(Actor::default()),
            Credential::None => Ok(Actor::default()),
            Credential::CommonName(name) => Ok(Actor { user: name.to_string(), auth_revision: revision }),
            Credential::Token(token) => {
                let actor = match &self.auth.jwt {
                    Some(jwt) => jwt.read(token),
                    None => self.holder(token, deadline).await,
                };
                actor.ok_or(ReadError::Rejected(Rejection::InvalidAuthToken))
            }
        }
    }

    /// Whose plain token it is.
    async fn holder(&self, token: &str, deadline: Instant) -> Option<Actor> {
        let (secret, index) = token.split_once('.')?;
        let index: u64 = index.parse().ok()?;
        let find = || {
            // The revision first: should the user go in between, the actor is one of before, and refused as such.
            let auth_revision = self.auth.state().revision;
            let user = self.auth.tokens.lock().find(boottime(), secret)?;
            Some(Actor { user: user.to_string(), auth_revision })
        };
        if let Some(actor) = find() {
            return Some(actor);
        }
        self.wait_applied(index, deadline.min(Instant::now() + TOKEN_ON_ITS_WAY)).await.ok()?;
        find()
    }
}

impl Handle {
    /// A handle that acts for a client: while authentication is on, everything that is asked of it is checked for what the
    /// client may do, and refused with etcd's reasons ([`Rejection::UserEmpty`], [`Rejection::InvalidAuthToken`],
    /// [`Rejection::PermissionDenied`], [`Rejection::AuthOldRevision`]). What tells only about this member
    /// ([`Handle::header`], [`Handle::status`], [`Handle::members`], [`Handle::alarms`], …) is not, and what concerns the
    /// cluster as a whole (leadership, members, hashes) needs [`Handle::check_root`] before it.
    #[must_use]
    pub fn as_client(&self, credential: Credential) -> Handle {
        Handle { inner: Arc::clone(&self.inner), access: Access::Client(credential) }
    }

    /// Who it acts for may turn out to be somebody else when asked again.
    pub(crate) fn shows_something(&self) -> bool {
        !matches!(self.access, Access::Trusted | Access::Client(Credential::None))
    }

    /// Whether authentication is on, and its revision, as applied here.
    #[must_use]
    pub fn auth_state(&self) -> AuthState {
        self.inner.auth.state()
    }

    /// What was shown, if anything was, is worth something.
    ///
    /// # Errors
    ///
    /// [`Rejection::InvalidAuthToken`], rejected.
    pub async fn check_credential(&self, timeout: Duration) -> Result<(), ReadError> {
        self.reader(Instant::now() + timeout).await.map(|_| ())
    }

    /// The client is a user, or authentication is off.
    ///
    /// # Errors
    ///
    /// See [`Handle::as_client`].
    pub async fn check_user(&self, timeout: Duration) -> Result<(), ReadError> {
        self.check(timeout, |_| Ok(())).await
    }

    /// The client is a user with the role root, or authentication is off.
    ///
    /// # Errors
    ///
    /// See [`Handle::as_client`].
    pub async fn check_root(&self, timeout: Duration) -> Result<(), ReadError> {
        self.check(timeout, Permit::root).await
    }

    /// The client may read the whole range; `range_end` as in [`quorate_state::Range`].
    ///
    /// # Errors
    ///
    /// See [`Handle::as_client`].
    pub async fn check_read(&self, key: &[u8], range_end: &[u8], timeout: Duration) -> Result<(), ReadError> {
        self.check(timeout, |permit| permit.read(key, range_end)).await
    }

    async fn check(
        &self,
        timeout: Duration,
        check: impl Fn(&Permit) -> Result<(), Rejection>,
    ) -> Result<(), ReadError> {
        let deadline = Instant::now() + timeout;
        self.read_as(deadline, |view, actor| Ok(permit(view, actor)?.and_then(|permit| check(&permit)))).await
    }

    /// The client may decide about every key of the lease.
    pub(crate) async fn check_renew(&self, id: LeaseId, deadline: Instant) -> Result<(), ReadError> {
        self.read_as(deadline, |view, actor| match permit(view, actor)? {
            Ok(permit) => permit.write_lease(view, id),
            Err(rejection) => Ok(Err(rejection)),
        })
        .await
    }

    /// As [`Handle::check_read`], without waiting for anything.
    pub(crate) fn may_watch(&self, key: &[u8], range_end: &[u8]) -> bool {
        let Access::Client(credential) = &self.access else { return true };
        let state = self.inner.auth.state();
        if !state.enabled {
            return true;
        }
        let now = Instant::now();
        let actor = futures_util::FutureExt::now_or_never(self.inner.actor(credential, now));
        let Some(Ok(actor)) = actor else { return false };
        let checked = self
            .inner
            .read(|view| Ok(permit(view, Some(&actor))?.and_then(|permit| permit.read(key, range_end))));
        matches!(checked, Ok(Ok(())))
    }

    /// Every user's name.
    ///
    /// # Errors
    ///
    /// For root only, see [`Handle::as_client`].
    pub async fn users(&self, timeout: Duration) -> Result<Vec<String>, ReadError> {
        self.auth_read(timeout, |view, permit| match permit.root() {
            Ok(()) => Ok(Ok(auth::users(view)?.into_iter().map(|user| user.name).collect())),
            Err(rejection) => Ok(Err(rejection)),
        })
        .await
    }

    /// The roles of a user.
    ///
    /// # Errors
    ///
    /// For root and the user itself, see [`Handle::as_client`]; [`Rejection::UserNotFound`].
    pub async fn user_roles(&self, name: &str, timeout: Duration) -> Result<Vec<String>, ReadError> {
        self.auth_read(timeout, |view, permit| match permit.see_user(name) {
            Ok(()) => Ok(auth::user(view, name)?.map(|user| user.roles).ok_or(Rejection::UserNotFound)),
            Err(rejection) => Ok(Err(rejection)),
        })
        .await
    }

    /// Every role's name.
    ///
    /// # Errors
    ///
    /// For root only, see [`Handle::as_client`].
    pub async fn roles(&self, timeout: Duration) -> Result<Vec<String>, ReadError> {
        self.auth_read(timeout, |view, permit| match permit.root() {
            Ok(()) => Ok(Ok(auth::roles(view)?.into_iter().map(|role| role.name).collect())),
            Err(rejection) => Ok(Err(rejection)),
        })
        .await
    }

    /// The permissions of a role, by key. The role root has one on every key.
    ///
    /// # Errors
    ///
    /// For root and those who have the role, see [`Handle::as_client`]; [`Rejection::RoleNotFound`].
    pub async fn role_permissions(
        &self,
        name: &str,
        timeout: Duration,
    ) -> Result<Vec<Permission>, ReadError> {
        self.auth_read(timeout, |view, permit| match permit.see_role(name) {
            Ok(()) => {
                let role = auth::role(view, name)?.ok_or(Rejection::RoleNotFound);
                Ok(role.map(|role| if name == auth::ROOT { vec![everything()] } else { role.permissions }))
            }
            Err(rejection) => Ok(Err(rejection)),
        })
        .await
    }

    async fn auth_read<T>(
        &self,
        timeout: Duration,
        read: impl Fn(&dyn View, &Permit) -> Result<Result<T, Rejection>, Fault>,
    ) -> Result<T, ReadError> {
        let deadline = Instant::now() + timeout;
        self.inner.read_barrier(timeout).await?;
        self.read_as(deadline, |view, actor| match permit(view, actor)? {
            Ok(permit) => read(view, &permit),
            Err(rejection) => Ok(Err(rejection)),
        })
        .await
    }

    /// Reads one instant of this member's state as whoever the handle acts for; `read` checks the actor it is given.
    pub(crate) async fn read_as<T>(
        &self,
        deadline: Instant,
        read: impl Fn(&dyn View, Option<&Actor>) -> Result<Result<T, Rejection>, Fault>,
    ) -> Result<T, ReadError> {
        let mut actor = self.reader(deadline).await?;
        loop {
            match self.inner.read(|view| read(view, actor.as_ref()))? {
                Ok(found) => return Ok(found),
                Err(rejection) => actor = self.later(actor, rejection, deadline).await?,
            }
        }
    }

    /// The same on a thread that answers nobody else.
    pub(crate) async fn read_as_blocking<T: Send + 'static>(
        &self,
        deadline: Instant,
        read: impl Fn(&dyn View, Option<&Actor>) -> Result<Result<T, Rejection>, Fault> + Send + Sync + 'static,
    ) -> Result<T, ReadError> {
        let read = Arc::new(read);
        let mut actor = self.reader(deadline).await?;
        loop {
            let (inner, read, asking) = (Arc::clone(&self.inner), Arc::clone(&read), actor.clone());
            let work = move || inner.read(|view| read(view, asking.as_ref()));
            match tokio::task::spawn_blocking(work).await.unwrap_or(Err(ReadError::Stopped))? {
                Ok(found) => return Ok(found),
                Err(rejection) => actor = self.later(actor, rejection, deadline).await?,
            }
        }
    }

    /// Who a read is for. None: nobody who would have to be checked. Authentication being off *here* is enough for that:
    /// a linearizable read asks after its barrier, and what was turned on before is known by then.
    async fn reader(&self, deadline: Instant) -> Result<Option<Actor>, ReadError> {
        match &self.access {
            Access::Client(credential) if self.inner.auth.state().enabled => {
                self.inner.actor(credential, deadline).await.map(Some)
            }
            Access::Client(_) | Access::Trusted => Ok(None),
        }
    }

    /// Who a command is from. None: the program itself.
    pub(crate) async fn proposer(&self, deadline: Instant) -> Result<Option<Actor>, ReadError> {
        match &self.access {
            Access::Client(credential) => self.inner.actor(credential, deadline).await.map(Some),
            Access::Trusted => Ok(None),
        }
    }

    /// After a refusal: who asks as of now, if that makes a difference to the answer; else the refusal. This member was
    /// behind, or users and roles changed under the request; each turn of that needs another change.
    pub(crate) async fn later(
        &self,
        before: Option<Actor>,
        rejection: Rejection,
        deadline: Instant,
    ) -> Result<Option<Actor>, ReadError> {
        let may_pass = matches!(rejection, Rejection::AuthOldRevision | Rejection::UserEmpty);
        if may_pass && before.is_some() && Instant::now() < deadline {
            let now = self.proposer(deadline).await?;
            if now != before {
                return Ok(now);
            }
        }
        Err(ReadError::Rejected(rejection))
    }
}

/// As etcd shows the role root: from the empty key on.
fn everything() -> Permission {
    let kind = auth::PermissionKind::ReadWrite.into();
    Permission { kind, key: Bytes::new(), range_end: Bytes::from_static(b"\0") }
}
