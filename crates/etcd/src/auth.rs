//! `etcdserverpb.Auth` while authentication does not exist: it is off, and says so as etcd says it.
//!
//! Patroni with a user configured asks for a token first and goes on without one when it hears exactly this text.

use std::sync::Arc;

use quorate_wire::etcdserverpb::auth_server::Auth;
use quorate_wire::etcdserverpb::*;
use tonic::{Request, Response, Status};

use crate::context::Context;
use crate::{header, status};

/// The service.
pub(crate) struct AuthService(pub(crate) Arc<Context>);

/// The revision of an auth store in which nothing was ever written (etcd, `server/auth/store.go`).
const UNTOUCHED: u64 = 1;

#[tonic::async_trait]
impl Auth for AuthService {
    async fn auth_status(
        &self,
        request: Request<AuthStatusRequest>,
    ) -> Result<Response<AuthStatusResponse>, Status> {
        self.0.admit(request.metadata())?;
        Ok(Response::new(AuthStatusResponse {
            header: Some(header::full(self.0.handle.header())),
            enabled: false,
            auth_revision: UNTOUCHED,
        }))
    }

    async fn authenticate(
        &self,
        request: Request<AuthenticateRequest>,
    ) -> Result<Response<AuthenticateResponse>, Status> {
        self.0.admit(request.metadata())?;
        Err(status::AUTH_NOT_ENABLED.into())
    }

    async fn auth_enable(
        &self,
        _: Request<AuthEnableRequest>,
    ) -> Result<Response<AuthEnableResponse>, Status> {
        Err(status::unserved("AuthEnable"))
    }

    async fn auth_disable(
        &self,
        _: Request<AuthDisableRequest>,
    ) -> Result<Response<AuthDisableResponse>, Status> {
        Err(status::unserved("AuthDisable"))
    }

    async fn user_add(
        &self,
        _: Request<AuthUserAddRequest>,
    ) -> Result<Response<AuthUserAddResponse>, Status> {
        Err(status::unserved("UserAdd"))
    }

    async fn user_get(
        &self,
        _: Request<AuthUserGetRequest>,
    ) -> Result<Response<AuthUserGetResponse>, Status> {
        Err(status::unserved("UserGet"))
    }

    async fn user_list(
        &self,
        _: Request<AuthUserListRequest>,
    ) -> Result<Response<AuthUserListResponse>, Status> {
        Err(status::unserved("UserList"))
    }

    async fn user_delete(
        &self,
        _: Request<AuthUserDeleteRequest>,
    ) -> Result<Response<AuthUserDeleteResponse>, Status> {
        Err(status::unserved("UserDelete"))
    }

    async fn user_change_password(
        &self,
        _: Request<AuthUserChangePasswordRequest>,
    ) -> Result<Response<AuthUserChangePasswordResponse>, Status> {
        Err(status::unserved("UserChangePassword"))
    }

    async fn user_grant_role(
        &self,
        _: Request<AuthUserGrantRoleRequest>,
    ) -> Result<Response<AuthUserGrantRoleResponse>, Status> {
        Err(status::unserved("UserGrantRole"))
    }

    async fn user_revoke_role(
        &self,
        _: Request<AuthUserRevokeRoleRequest>,
    ) -> Result<Response<AuthUserRevokeRoleResponse>, Status> {
        Err(status::unserved("UserRevokeRole"))
    }

    async fn role_add(
        &self,
        _: Request<AuthRoleAddRequest>,
    ) -> Result<Response<AuthRoleAddResponse>, Status> {
        Err(status::unserved("RoleAdd"))
    }

    async fn role_get(
        &self,
        _: Request<AuthRoleGetRequest>,
    ) -> Result<Response<AuthRoleGetResponse>, Status> {
        Err(status::unserved("RoleGet"))
    }

    async fn role_list(
        &self,
        _: Request<AuthRoleListRequest>,
    ) -> Result<Response<AuthRoleListResponse>, Status> {
        Err(status::unserved("RoleList"))
    }

    async fn role_delete(
        &self,
        _: Request<AuthRoleDeleteRequest>,
    ) -> Result<Response<AuthRoleDeleteResponse>, Status> {
        Err(status::unserved("RoleDelete"))
    }

    async fn role_grant_permission(
        &self,
        _: Request<AuthRoleGrantPermissionRequest>,
    ) -> Result<Response<AuthRoleGrantPermissionResponse>, Status> {
        Err(status::unserved("RoleGrantPermission"))
    }

    async fn role_revoke_permission(
        &self,
        _: Request<AuthRoleRevokePermissionRequest>,
    ) -> Result<Response<AuthRoleRevokePermissionResponse>, Status> {
        Err(status::unserved("RoleRevokePermission"))
    }
}
