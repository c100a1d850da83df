//! `etcdserverpb.Cluster`: who the members are.
//!
//! The headers carry no revision, as etcd's do: membership is not key-value state. Changes are refused for now.

use std::sync::Arc;

use quorate_wire::etcdserverpb::cluster_server::Cluster;
use quorate_wire::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
    MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest,
    MemberUpdateResponse,
};
use tonic::{Request, Response, Status};

use crate::context::Context;
use crate::{header, status};

/// The service.
pub(crate) struct ClusterService(pub(crate) Arc<Context>);

fn member(member: quorate_node::Member) -> Member {
    Member {
        id: member.id,
        name: member.name,
        peer_ur_ls: member.peer_urls,
        client_ur_ls: member.client_urls,
        is_learner: member.is_learner,
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn member_list(
        &self,
        request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        self.0.admit(request.metadata())?;
        let Context { handle, options, .. } = &*self.0;
        if request.into_inner().linearizable {
            handle.read_barrier(options.request_timeout).await.map_err(|error| status::of_read(&error))?;
        }
        Ok(Response::new(MemberListResponse {
            header: Some(header::without_revision(handle.header())),
            members: handle.members().into_iter().map(member).collect(),
        }))
    }

    async fn member_add(&self, _: Request<MemberAddRequest>) -> Result<Response<MemberAddResponse>, Status> {
        Err(status::unserved("MemberAdd"))
    }

    async fn member_remove(
        &self,
        _: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        Err(status::unserved("MemberRemove"))
    }

    async fn member_update(
        &self,
        _: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        Err(status::unserved("MemberUpdate"))
    }

    async fn member_promote(
        &self,
        _: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        Err(status::unserved("MemberPromote"))
    }
}
