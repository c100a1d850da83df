//! `etcdserverpb.Auth`: users, roles, tokens.
//!
//! Passwords end here: what goes on is a hash. Everything that changes something is one command; who may ask for it was
//! looked at before the call came here (see [`crate::access`]) and is looked at again where the command is applied.
//!
//! Patroni with a user configured asks for a token first and goes on without one when it hears that authentication is not
//! enabled, by exactly this text.
//!
//! Sources: etcd, `server/etcdserver/v3_server.go` (`Authenticate`, `UserAdd`, `UserChangePassword`),
//! `server/auth/store.go`.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use quorate_node::Handle;
use quorate_state::auth::{self as state, AuthAction};
use quorate_state::{Body, Done};
use quorate_wire::authpb;
use quorate_wire::etcdserverpb::auth_server::Auth;
use quorate_wire::etcdserverpb::*;
use tonic::{Request, Response, Status};

use crate::context::Context;
use crate::{convert, header, status};

/// The service.
pub(crate) struct AuthService(pub(crate) Arc<Context>);

impl AuthService {
    /// One change, as the caller.
    async fn change<T>(
        &self,
        request: Request<T>,
        action: impl FnOnce(T) -> AuthAction,
    ) -> Result<Option<ResponseHeader>, Status> {
        self.0.admit(request.metadata())?;
        let caller = self.0.caller(&request);
        self.propose(&caller, action(request.into_inner())).await
    }

    async fn propose(&self, caller: &Handle, action: AuthAction) -> Result<Option<ResponseHeader>, Status> {
        let command = convert::command(Body::Auth(state::Auth::new(action)));
        let applied = caller
            .propose(command, self.0.options.request_timeout)
            .await
            .map_err(|error| status::of_proposal(&error))?;
        Ok(Some(header::applied(caller.header(), applied.reply.revision, applied.term)))
    }

    /// A hash may be given in place of the password, as base64.
    async fn hash(&self, password: &str, hashed: &str) -> Result<Bytes, Status> {
        let Context { handle, options, .. } = &*self.0;
        let hash = if password.is_empty() && !hashed.is_empty() {
            let hash = STANDARD.decode(hashed).map_err(|_| status::INVALID_AUTH_MANAGEMENT)?;
            handle.take_hash(hash.into())
        } else {
            handle.hash_password(password, options.request_timeout).await
        };
        Ok(hash.map_err(|error| status::of_login(&error))?)
    }
}

fn name(name: String) -> state::Name {
    state::Name { name }
}

/// Numbers are the same on both sides; an unknown kind is refused where it is applied.
fn permission(permission: authpb::Permission) -> state::Permission {
    let authpb::Permission { perm_type, key, range_end } = permission;
    state::Permission { kind: perm_type, key, range_end }
}

#[tonic::async_trait]
impl Auth for AuthService {
    /// Linearizable: whoever turned it on sees it on everywhere.
    async fn auth_status(
        &self,
        request: Request<AuthStatusRequest>,
    ) -> Result<Response<AuthStatusResponse>, Status> {
        self.0.admit(request.metadata())?;
        let Context { handle, options, .. } = &*self.0;
        handle.read_barrier(options.request_timeout).await.map_err(|error| status::of_read(&error))?;
        let state::AuthState { enabled, revision } = handle.auth_state();
        let header = Some(header::full(handle.header()));
        Ok(Response::new(AuthStatusResponse { header, enabled, auth_revision: revision }))
    }

    async fn authenticate(
        &self,
        request: Request<AuthenticateRequest>,
    ) -> Result<Response<AuthenticateResponse>, Status> {
        self.0.admit(request.metadata())?;
        let AuthenticateRequest { name, password } = request.into_inner();
        let Context { handle, options, .. } = &*self.0;
        let token = handle
            .authenticate(&name, &password, options.request_timeout)
            .await
            .map_err(|error| status::of_login(&error))?;
        Ok(Response::new(AuthenticateResponse { header: Some(header::full(handle.header())), token }))
    }

    async fn auth_enable(
        &self,
        request: Request<AuthEnableRequest>,
    ) -> Result<Response<AuthEnableResponse>, Status> {
        let header = self.change(request, |_| AuthAction::Enable(Done {})).await?;
        Ok(Response::new(AuthEnableResponse { header }))
    }

    async fn auth_disable(
        &self,
        request: Request<AuthDisableRequest>,
    ) -> Result<Response<AuthDisableResponse>, Status> {
        let header = self.change(request, |_| AuthAction::Disable(Done {})).await?;
        Ok(Response::new(AuthDisableResponse { header }))
    }

    async fn user_add(
        &self,
        request: Request<AuthUserAddRequest>,
    ) -> Result<Response<AuthUserAddResponse>, Status> {
        self.0.admit(request.metadata())?;
        let caller = self.0.caller(&request);
        let AuthUserAddRequest { name, password, options, hashed_password } = request.into_inner();
        // Known without the work of a hash.
        if name.is_empty() {
            return Err(status::USER_EMPTY.into());
        }
        let no_password = options.is_some_and(|options| options.no_password);
        let password_hash =
            if no_password { Bytes::new() } else { self.hash(&password, &hashed_password).await? };
        let add = state::UserAdd { name, password_hash, no_password };
        let header = self.propose(&caller, AuthAction::UserAdd(add)).await?;
        Ok(Response::new(AuthUserAddResponse { header }))
    }

    async fn user_get(
        &self,
        request: Request<AuthUserGetRequest>,
    ) -> Result<Response<AuthUserGetResponse>, Status> {
        self.0.admit(request.metadata())?;
        let caller = self.0.caller(&request);
        let roles = caller
            .user_roles(&request.into_inner().name, self.0.options.request_timeout)
            .await
            .map_err(|error| status::of_read(&error))?;
        Ok(Response::new(AuthUserGetResponse { header: Some(header::full(caller.header())), roles }))
    }

    async fn user_list(
        &self,
        request: Request<AuthUserListRequest>,
    ) -> Result<Response<AuthUserListResponse>, Status> {
        self.0.admit(request.metadata())?;
        let caller = self.0.caller(&request);
        let users =
            caller.users(self.0.options.request_timeout).await.map_err(|error| status::of_read(&error))?;
        Ok(Response::new(AuthUserListResponse { header: Some(header::full(caller.header())), users }))
    }

    async fn user_delete(
        &self,
        request: Request<AuthUserDeleteRequest>,
    ) -> Result<Response<AuthUserDeleteResponse>, Status> {
        let header = self.change(request, |delete| AuthAction::UserDelete(name(delete.name))).await?;
        Ok(Response::new(AuthUserDeleteResponse { header }))
    }

    async fn user_change_password(
        &self,
        request: Request<AuthUserChangePasswordRequest>,
    ) -> Result<Response<AuthUserChangePasswordResponse>, Status> {
        self.0.admit(request.metadata())?;
        let caller = self.0.caller(&request);
        let AuthUserChangePasswordRequest { name, password, hashed_password } = request.into_inner();
        let password_hash = self.hash(&password, &hashed_password).await?;
        let change = state::UserChangePassword { name, password_hash };
        let header = self.propose(&caller, AuthAction::UserChangePassword(change)).await?;
        Ok(Response::new(AuthUserChangePasswordResponse { header }))
    }

    async fn user_grant_role(
        &self,
        request: Request<AuthUserGrantRoleRequest>,
    ) -> Result<Response<AuthUserGrantRoleResponse>, Status> {
        let grant = |AuthUserGrantRoleRequest { user, role }| {
            AuthAction::UserGrantRole(state::UserRole { user, role })
        };
        let header = self.change(request, grant).await?;
        Ok(Response::new(AuthUserGrantRoleResponse { header }))
    }

    async fn user_revoke_role(
        &self,
        request: Request<AuthUserRevokeRoleRequest>,
    ) -> Result<Response<AuthUserRevokeRoleResponse>, Status> {
        let revoke = |AuthUserRevokeRoleRequest { name, role }| {
            AuthAction::UserRevokeRole(state::UserRole { user: name, role })
        };
        let header = self.change(request, revoke).await?;
        Ok(Response::new(AuthUserRevokeRoleResponse { header }))
    }

    async fn role_add(
        &self,
        request: Request<AuthRoleAddRequest>,
    ) -> Result<Response<AuthRoleAddResponse>, Status> {
        let header = self.change(request, |add| AuthAction::RoleAdd(name(add.name))).await?;
        Ok(Response::new(AuthRoleAddResponse { header }))
    }

    async fn role_get(
        &self,
        request: Request<AuthRoleGetRequest>,
    ) -> Result<Response<AuthRoleGetResponse>, Status> {
        self.0.admit(request.metadata())?;
        let caller = self.0.caller(&request);
        let held = caller
            .role_permissions(&request.into_inner().role, self.0.options.request_timeout)
            .await
            .map_err(|error| status::of_read(&error))?;
        let perm = held
            .into_iter()
            .map(|state::Permission { kind, key, range_end }| authpb::Permission {
                perm_type: kind,
                key,
                range_end,
            })
            .collect();
        Ok(Response::new(AuthRoleGetResponse { header: Some(header::full(caller.header())), perm }))
    }

    async fn role_list(
        &self,
        request: Request<AuthRoleListRequest>,
    ) -> Result<Response<AuthRoleListResponse>, Status> {
        self.0.admit(request.metadata())?;
        let caller = self.0.caller(&request);
        let roles =
            caller.roles(self.0.options.request_timeout).await.map_err(|error| status::of_read(&error))?;
        Ok(Response::new(AuthRoleListResponse { header: Some(header::full(caller.header())), roles }))
    }

    async fn role_delete(
        &self,
        request: Request<AuthRoleDeleteRequest>,
    ) -> Result<Response<AuthRoleDeleteResponse>, Status> {
        let header = self.change(request, |delete| AuthAction::RoleDelete(name(delete.role))).await?;
        Ok(Response::new(AuthRoleDeleteResponse { header }))
    }

    async fn role_grant_permission(
        &self,
        request: Request<AuthRoleGrantPermissionRequest>,
    ) -> Result<Response<AuthRoleGrantPermissionResponse>, Status> {
        let grant = |AuthRoleGrantPermissionRequest { name, perm }| {
            let permission = perm.map(permission);
            AuthAction::RoleGrant(state::RoleGrant { role: name, permission })
        };
        let header = self.change(request, grant).await?;
        Ok(Response::new(AuthRoleGrantPermissionResponse { header }))
    }

    async fn role_revoke_permission(
        &self,
        request: Request<AuthRoleRevokePermissionRequest>,
    ) -> Result<Response<AuthRoleRevokePermissionResponse>, Status> {
        let revoke = |AuthRoleRevokePermissionRequest { role, key, range_end }| {
            AuthAction::RoleRevoke(state::RoleRevoke { role, key, range_end })
        };
        let header = self.change(request, revoke).await?;
        Ok(Response::new(AuthRoleRevokePermissionResponse { header }))
    }
}
