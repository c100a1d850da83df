//! Which path is which method.
//!
//! A path is what stands behind `/v3/`. `/v3beta/` is the same: clients that learned the API from etcd 3.3 try it.

use std::collections::HashMap;
use std::sync::LazyLock;

use bytes::Bytes;
use http::uri::PathAndQuery;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor};
use tonic::Status;

use crate::gateway::body::Refusal;
use crate::gateway::transcode;
use crate::status;

/// etcd's table (`api/etcdserverpb/rpc.proto`, `v3lock.proto`, `v3election.proto`; `hashkv` as from 3.6 on).
const TABLE: &[(&str, &str, &str)] = &[
    ("kv/range", "etcdserverpb.KV", "Range"),
    ("kv/put", "etcdserverpb.KV", "Put"),
    ("kv/deleterange", "etcdserverpb.KV", "DeleteRange"),
    ("kv/txn", "etcdserverpb.KV", "Txn"),
    ("kv/compaction", "etcdserverpb.KV", "Compact"),
    ("watch", "etcdserverpb.Watch", "Watch"),
    ("lease/grant", "etcdserverpb.Lease", "LeaseGrant"),
    ("lease/revoke", "etcdserverpb.Lease", "LeaseRevoke"),
    ("kv/lease/revoke", "etcdserverpb.Lease", "LeaseRevoke"),
    ("lease/keepalive", "etcdserverpb.Lease", "LeaseKeepAlive"),
    ("lease/timetolive", "etcdserverpb.Lease", "LeaseTimeToLive"),
    ("kv/lease/timetolive", "etcdserverpb.Lease", "LeaseTimeToLive"),
    ("lease/leases", "etcdserverpb.Lease", "LeaseLeases"),
    ("kv/lease/leases", "etcdserverpb.Lease", "LeaseLeases"),
    ("cluster/member/list", "etcdserverpb.Cluster", "MemberList"),
    ("cluster/member/add", "etcdserverpb.Cluster", "MemberAdd"),
    ("cluster/member/remove", "etcdserverpb.Cluster", "MemberRemove"),
    ("cluster/member/update", "etcdserverpb.Cluster", "MemberUpdate"),
    ("cluster/member/promote", "etcdserverpb.Cluster", "MemberPromote"),
    ("maintenance/alarm", "etcdserverpb.Maintenance", "Alarm"),
    ("maintenance/status", "etcdserverpb.Maintenance", "Status"),
    ("maintenance/defragment", "etcdserverpb.Maintenance", "Defragment"),
    ("maintenance/hash", "etcdserverpb.Maintenance", "Hash"),
    ("maintenance/hashkv", "etcdserverpb.Maintenance", "HashKV"),
    ("maintenance/snapshot", "etcdserverpb.Maintenance", "Snapshot"),
    ("maintenance/transfer-leadership", "etcdserverpb.Maintenance", "MoveLeader"),
    ("maintenance/downgrade", "etcdserverpb.Maintenance", "Downgrade"),
    ("auth/authenticate", "etcdserverpb.Auth", "Authenticate"),
    ("auth/enable", "etcdserverpb.Auth", "AuthEnable"),
    ("auth/disable", "etcdserverpb.Auth", "AuthDisable"),
    ("auth/status", "etcdserverpb.Auth", "AuthStatus"),
    ("auth/user/add", "etcdserverpb.Auth", "UserAdd"),
    ("auth/user/get", "etcdserverpb.Auth", "UserGet"),
    ("auth/user/list", "etcdserverpb.Auth", "UserList"),
    ("auth/user/delete", "etcdserverpb.Auth", "UserDelete"),
    ("auth/user/changepw", "etcdserverpb.Auth", "UserChangePassword"),
    ("auth/user/grant", "etcdserverpb.Auth", "UserGrantRole"),
    ("auth/user/revoke", "etcdserverpb.Auth", "UserRevokeRole"),
    ("auth/role/add", "etcdserverpb.Auth", "RoleAdd"),
    ("auth/role/get", "etcdserverpb.Auth", "RoleGet"),
    ("auth/role/list", "etcdserverpb.Auth", "RoleList"),
    ("auth/role/delete", "etcdserverpb.Auth", "RoleDelete"),
    ("auth/role/grant", "etcdserverpb.Auth", "RoleGrantPermission"),
    ("auth/role/revoke", "etcdserverpb.Auth", "RoleRevokePermission"),
    ("lock/lock", "v3lockpb.Lock", "Lock"),
    ("lock/unlock", "v3lockpb.Lock", "Unlock"),
    ("election/campaign", "v3electionpb.Election", "Campaign"),
    ("election/proclaim", "v3electionpb.Election", "Proclaim"),
    ("election/leader", "v3electionpb.Election", "Leader"),
    ("election/observe", "v3electionpb.Election", "Observe"),
    ("election/resign", "v3electionpb.Election", "Resign"),
];

/// What stands behind the prefix; None for a path that is not the gateway's.
pub(crate) fn relative(path: &str) -> Option<&str> {
    path.strip_prefix("/v3/").or_else(|| path.strip_prefix("/v3beta/"))
}

/// A method and how to call it. Cloning shares the descriptors.
#[derive(Clone)]
pub(crate) struct Route {
    method: MethodDescriptor,
    path: PathAndQuery,
}

impl Route {
    /// The call's path.
    pub(crate) fn path(&self) -> PathAndQuery {
        self.path.clone()
    }

    /// Whether the client sends a stream of requests.
    pub(crate) fn takes_stream(&self) -> bool {
        self.method.is_client_streaming()
    }

    /// Whether the answer is a stream.
    pub(crate) fn is_stream(&self) -> bool {
        self.method.is_server_streaming()
    }

    /// What is answered.
    pub(crate) fn output(&self) -> MessageDescriptor {
        self.method.output()
    }

    /// Why a request is refused whose JSON is too deep. The one message that nests is a transaction, and each level of
    /// it is an operation.
    pub(crate) fn too_deep(&self) -> Status {
        if self.path.path().ends_with("/Txn") { status::TOO_MANY_OPS.into() } else { Refusal::TooDeep.into() }
    }

    /// A request out of its JSON; without any, the empty one.
    pub(crate) fn read(&self, json: Option<Bytes>) -> Result<DynamicMessage, Status> {
        match json {
            Some(json) => transcode::read(self.method.input(), &json),
            None => Ok(DynamicMessage::new(self.method.input())),
        }
    }
}

/// The table with its descriptors.
pub(crate) struct Routes(HashMap<&'static str, Route>);

impl Routes {
    /// Built at the first request, once for all servers of a process. The descriptors are our own: what is expected of
    /// them holds in every process or in none, and a test reads them all.
    pub(crate) fn get() -> &'static Routes {
        static ROUTES: LazyLock<Routes> = LazyLock::new(|| {
            let pool = DescriptorPool::decode(quorate_wire::FILE_DESCRIPTOR_SET).expect("descriptors");
            let routes = TABLE.iter().map(|(path, service, method)| {
                let service = pool.get_service_by_name(service).expect("a service");
                let method = service.methods().find(|one| one.name() == *method).expect("a method");
                let called = format!("/{}/{}", service.full_name(), method.name());
                (*path, Route { method, path: called.parse().expect("a path") })
            });
            Routes(routes.collect())
        });
        &ROUTES
    }

    /// Exact: no slash more or less, as in etcd.
    pub(crate) fn find(&self, path: &str) -> Option<&Route> {
        self.0.get(relative(path)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_of_etcds_has_a_path() {
        let pool = DescriptorPool::decode(quorate_wire::FILE_DESCRIPTOR_SET).expect("descriptors");
        let theirs = ["etcdserverpb", "v3lockpb", "v3electionpb"];
        for service in pool.services().filter(|service| theirs.contains(&service.package_name())) {
            for method in service.methods() {
                let found = TABLE.iter().any(|row| row.1 == service.full_name() && row.2 == method.name());
                assert!(found, "{} has no path", method.full_name());
            }
        }
        assert_eq!(Routes::get().0.len(), TABLE.len());
    }

    #[test]
    fn paths_are_exact() {
        let routes = Routes::get();
        assert!(routes.find("/v3/kv/range").is_some() && routes.find("/v3beta/kv/range").is_some());
        for path in ["/v3/kv/range/", "/v3/kv", "/v3/", "/v3//kv/range", "/v2/keys", "/kv/range"] {
            assert!(routes.find(path).is_none(), "{path}");
        }
        let watch = routes.find("/v3/watch").expect("a route");
        assert!(watch.takes_stream() && watch.is_stream());
        let snapshot = routes.find("/v3/maintenance/snapshot").expect("a route");
        assert!(!snapshot.takes_stream() && snapshot.is_stream());
    }
}
