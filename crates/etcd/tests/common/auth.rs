//! Users, roles and calls as somebody.
#![allow(dead_code, missing_docs, unreachable_pub, reason = "each suite uses a part of it")]

use quorate_etcd::ServerOptions;
use quorate_node::auth::TokenOptions;
use quorate_wire::authpb::Permission;
use quorate_wire::authpb::permission::Type;
use quorate_wire::etcdserverpb::auth_client::AuthClient;
use quorate_wire::etcdserverpb::*;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::common::Cluster;

/// The cheapest that bcrypt has: what is tested is not how long it takes.
pub const CHEAP: u32 = 4;

pub async fn cluster(size: usize, token: TokenOptions) -> Cluster {
    Cluster::start_as(size, ServerOptions::default(), |config| {
        config.auth.token = token.clone();
        config.auth.bcrypt_cost = CHEAP;
    })
    .await
}

/// A request that shows `token`; the empty one shows nothing.
pub fn as_user<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if !token.is_empty() {
        request.metadata_mut().insert("token", token.parse().expect("a token is text"));
    }
    request
}

pub fn range(key: &str, range_end: &[u8], kind: Type) -> Permission {
    Permission { perm_type: kind.into(), key: key.to_owned().into(), range_end: range_end.to_vec().into() }
}

/// As root, once authentication is on.
pub struct Admin {
    pub client: AuthClient<Channel>,
    pub token: String,
}

impl Admin {
    pub async fn new(cluster: &Cluster, member: usize) -> Admin {
        Admin { client: AuthClient::new(cluster.channel(member).await), token: String::new() }
    }

    /// A user whose password is its name.
    pub async fn user(&mut self, name: &str, roles: &[&str]) {
        let add = AuthUserAddRequest {
            name: name.to_owned(),
            password: name.to_owned(),
            ..AuthUserAddRequest::default()
        };
        self.client.user_add(as_user(&self.token, add)).await.expect("a user is added");
        for role in roles {
            let grant = AuthUserGrantRoleRequest { user: name.to_owned(), role: (*role).to_owned() };
            self.client.user_grant_role(as_user(&self.token, grant)).await.expect("a role is granted");
        }
    }

    pub async fn role(&mut self, name: &str, permissions: Vec<Permission>) {
        let add = AuthRoleAddRequest { name: name.to_owned() };
        self.client.role_add(as_user(&self.token, add)).await.expect("a role is added");
        for permission in permissions {
            self.grant(name, permission).await;
        }
    }

    pub async fn grant(&mut self, role: &str, permission: Permission) {
        let grant = AuthRoleGrantPermissionRequest { name: role.to_owned(), perm: Some(permission) };
        self.client
            .role_grant_permission(as_user(&self.token, grant))
            .await
            .expect("a permission is granted");
    }

    pub async fn revoke(&mut self, role: &str, permission: Permission) {
        let Permission { key, range_end, .. } = permission;
        let revoke = AuthRoleRevokePermissionRequest { role: role.to_owned(), key, range_end };
        self.client
            .role_revoke_permission(as_user(&self.token, revoke))
            .await
            .expect("a permission is revoked");
    }

    /// With the user root, whose password is its name.
    pub async fn enable(&mut self) {
        self.user("root", &["root"]).await;
        self.client.auth_enable(as_user(&self.token, AuthEnableRequest {})).await.expect("it goes on");
        self.log_in().await;
    }

    pub async fn log_in(&mut self) {
        self.token = log_in(&mut self.client, "root", "root").await.expect("root logs in");
    }
}

pub async fn log_in(client: &mut AuthClient<Channel>, name: &str, password: &str) -> Result<String, Status> {
    let request = AuthenticateRequest { name: name.to_owned(), password: password.to_owned() };
    Ok(client.authenticate(request).await?.into_inner().token)
}
