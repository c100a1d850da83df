//! Which call needs to be made by whom.
//!
//! Every method of every service has a [`Rule`] in one table, which is asked before the service is. A method without one
//! is refused to everybody while authentication is on: what was added and not thought about is nobody's.
//!
//! The table decides what can be decided without looking into a request. Where it says [`Rule::Checked`] the store
//! decides, key by key, because the service asks it through a handle that acts for the client ([`Context::caller`]). The
//! handle that lies in the context acts for a client that showed nothing, so that a service which forgets whom it serves
//! is refused as well, instead of being let through.
//!
//! Who calls is told by the metadata `token`, else by `authorization`, both raw; else by the certificate that TLS has
//! verified. While authentication is off nobody looks.
//!
//! Sources: etcd, `server/auth/store.go` (`AuthInfoFromCtx`), `server/etcdserver/v3_server.go` (`requireAuthInfo`),
//! `server/etcdserver/apply/auth.go` (`needAdminPermission`), `server/etcdserver/api/v3rpc/{key,maintenance}.go`
//! (`AuthAdmin`), as of the fixes of 2026.
//!
//! [`Context::caller`]: crate::context::Context::caller

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Request};
use quorate_node::{Credential, Handle};
use quorate_tls::ClientName;
use tonic::Status;

use crate::status;

/// Whom a method is for, while authentication is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Anybody; what is shown is not looked at.
    Open,
    /// Anybody, but what is shown has to be worth something.
    Anybody,
    /// Any user.
    User,
    /// Users with the role root.
    Root,
    /// Depends on the request: the service asks the store as the caller.
    Checked,
}

/// By path, in order.
const RULES: &[(&str, Rule)] = &[
    ("/etcdserverpb.Auth/AuthDisable", Rule::Root),
    ("/etcdserverpb.Auth/AuthEnable", Rule::Root),
    ("/etcdserverpb.Auth/AuthStatus", Rule::Anybody),
    ("/etcdserverpb.Auth/Authenticate", Rule::Open),
    ("/etcdserverpb.Auth/RoleAdd", Rule::Root),
    ("/etcdserverpb.Auth/RoleDelete", Rule::Root),
    ("/etcdserverpb.Auth/RoleGet", Rule::Checked),
    ("/etcdserverpb.Auth/RoleGrantPermission", Rule::Root),
    ("/etcdserverpb.Auth/RoleList", Rule::Root),
    ("/etcdserverpb.Auth/RoleRevokePermission", Rule::Root),
    ("/etcdserverpb.Auth/UserAdd", Rule::Root),
    ("/etcdserverpb.Auth/UserChangePassword", Rule::Root),
    ("/etcdserverpb.Auth/UserDelete", Rule::Root),
    ("/etcdserverpb.Auth/UserGet", Rule::Checked),
    ("/etcdserverpb.Auth/UserGrantRole", Rule::Root),
    ("/etcdserverpb.Auth/UserList", Rule::Root),
    ("/etcdserverpb.Auth/UserRevokeRole", Rule::Root),
    ("/etcdserverpb.Cluster/MemberAdd", Rule::Root),
    ("/etcdserverpb.Cluster/MemberList", Rule::User),
    ("/etcdserverpb.Cluster/MemberPromote", Rule::Root),
    ("/etcdserverpb.Cluster/MemberRemove", Rule::Root),
    ("/etcdserverpb.Cluster/MemberUpdate", Rule::Root),
    ("/etcdserverpb.KV/Compact", Rule::Root),
    ("/etcdserverpb.KV/DeleteRange", Rule::Checked),
    ("/etcdserverpb.KV/Put", Rule::Checked),
    ("/etcdserverpb.KV/Range", Rule::Checked),
    ("/etcdserverpb.KV/Txn", Rule::Checked),
    ("/etcdserverpb.Lease/LeaseGrant", Rule::User),
    ("/etcdserverpb.Lease/LeaseKeepAlive", Rule::Checked),
    ("/etcdserverpb.Lease/LeaseLeases", Rule::Checked),
    ("/etcdserverpb.Lease/LeaseRevoke", Rule::Checked),
    ("/etcdserverpb.Lease/LeaseTimeToLive", Rule::Checked),
    // Listing is for users, raising and clearing for root: the service knows which it is.
    ("/etcdserverpb.Maintenance/Alarm", Rule::Checked),
    ("/etcdserverpb.Maintenance/Defragment", Rule::Root),
    ("/etcdserverpb.Maintenance/Downgrade", Rule::Root),
    ("/etcdserverpb.Maintenance/Hash", Rule::Root),
    ("/etcdserverpb.Maintenance/HashKV", Rule::Root),
    ("/etcdserverpb.Maintenance/MoveLeader", Rule::Root),
    ("/etcdserverpb.Maintenance/Snapshot", Rule::Root),
    ("/etcdserverpb.Maintenance/Status", Rule::User),
    // A refused watch is answered on the stream.
    ("/etcdserverpb.Watch/Watch", Rule::Checked),
    ("/grpc.health.v1.Health/Check", Rule::Open),
    ("/grpc.health.v1.Health/List", Rule::Open),
    ("/grpc.health.v1.Health/Watch", Rule::Open),
    ("/v3electionpb.Election/Campaign", Rule::Checked),
    ("/v3electionpb.Election/Leader", Rule::Checked),
    ("/v3electionpb.Election/Observe", Rule::Checked),
    ("/v3electionpb.Election/Proclaim", Rule::Checked),
    ("/v3electionpb.Election/Resign", Rule::Checked),
    ("/v3lockpb.Lock/Lock", Rule::Checked),
    ("/v3lockpb.Lock/Unlock", Rule::Checked),
];

/// None: nobody has thought about it.
pub(crate) fn rule(path: &str) -> Option<Rule> {
    RULES.binary_search_by_key(&path, |(known, _)| known).ok().map(|at| RULES[at].1)
}

/// Asked before every call, whichever way it came in. One per server; a clone per call.
#[derive(Clone)]
pub(crate) struct Gate {
    /// Whichever: only what is made from it is asked.
    handle: Handle,
    timeout: Duration,
}

impl Gate {
    pub(crate) fn new(handle: Handle, timeout: Duration) -> Gate {
        Gate { handle, timeout }
    }

    /// Notes what the caller shows, for the service, and refuses what the rule of the method says.
    pub(crate) async fn admit<B>(&self, request: &mut Request<B>) -> Result<(), Status> {
        let credential = credential(request);
        let checked = if self.handle.auth_state().enabled {
            self.check(rule(request.uri().path()), &credential).await
        } else {
            Ok(())
        };
        request.extensions_mut().insert(credential);
        checked
    }

    async fn check(&self, rule: Option<Rule>, credential: &Credential) -> Result<(), Status> {
        let caller = self.handle.as_client(credential.clone());
        let checked = match rule {
            None => return Err(status::PERMISSION_DENIED.into()),
            Some(Rule::Open | Rule::Checked) => Ok(()),
            Some(Rule::Anybody) => caller.check_credential(self.timeout).await,
            Some(Rule::User) => caller.check_user(self.timeout).await,
            Some(Rule::Root) => caller.check_root(self.timeout).await,
        };
        checked.map_err(|error| status::of_read(&error).into())
    }
}

fn credential<B>(request: &Request<B>) -> Credential {
    match token(request.headers()) {
        Some(token) => Credential::Token(token),
        None => match request.extensions().get::<ClientName>() {
            Some(ClientName(name)) => Credential::CommonName(name.clone()),
            None => Credential::None,
        },
    }
}

fn token(headers: &HeaderMap) -> Option<Arc<str>> {
    let shown = headers.get("token").or_else(|| headers.get("authorization"))?;
    // What is no text is no token that was ever handed out.
    Some(shown.to_str().unwrap_or_default().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order() {
        assert!(RULES.is_sorted_by(|(a, _), (b, _)| a < b));
    }

    /// A method of the protocol that nobody has thought about fails here, and not in an operator's hands.
    #[test]
    fn every_method_of_every_service_has_a_rule() {
        let pool = prost_reflect::DescriptorPool::decode(quorate_wire::FILE_DESCRIPTOR_SET).expect("ours");
        let services = pool.services().filter(|service| !service.full_name().starts_with("quorate."));
        let mut paths: Vec<String> = services
            .flat_map(|service| {
                let methods: Vec<_> = service.methods().collect();
                methods.into_iter().map(move |method| format!("/{}/{}", service.full_name(), method.name()))
            })
            .collect();
        paths.sort();
        assert!(paths.len() > 40, "{} methods", paths.len());
        let missing: Vec<_> = paths.iter().filter(|path| rule(path).is_none()).collect();
        assert!(missing.is_empty(), "without a rule: {missing:?}");
        let of_others = RULES.iter().map(|(path, _)| *path).filter(|path| !path.starts_with("/grpc.health."));
        let gone: Vec<_> = of_others.filter(|path| !paths.iter().any(|known| known == path)).collect();
        assert!(gone.is_empty(), "rules for nothing: {gone:?}");
    }

    #[test]
    fn token_comes_before_authorization_and_both_are_raw() {
        let request = |pairs: &[(&str, &str)]| {
            let builder = pairs.iter().fold(Request::builder(), |b, (name, value)| b.header(*name, *value));
            builder.body(()).expect("a request")
        };
        assert_eq!(credential(&request(&[])), Credential::None);
        let both = request(&[("authorization", "a"), ("token", "t")]);
        assert_eq!(credential(&both), Credential::Token("t".into()));
        assert_eq!(
            credential(&request(&[("authorization", "Bearer a")])),
            Credential::Token("Bearer a".into())
        );
        let mut named = request(&[]);
        named.extensions_mut().insert(ClientName("name".into()));
        assert_eq!(credential(&named), Credential::CommonName("name".into()));
        let mut named = request(&[("token", "t")]);
        named.extensions_mut().insert(ClientName("name".into()));
        assert_eq!(credential(&named), Credential::Token("t".into()));
    }
}
