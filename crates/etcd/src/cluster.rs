//! `etcdserverpb.Cluster`: who the members are, and changes of that.
//!
//! The headers carry no revision, as etcd's do: membership is not key-value state. Every change is judged and made by the
//! leader, whichever member is asked; the answer's list is this member's, which has seen the change by then.
//!
//! A member has one peer URL here. A list of several is refused rather than cut: who gives two expects both to be tried.

use std::sync::Arc;

use quorate_wire::etcdserverpb::cluster_server::Cluster;
use quorate_wire::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
    MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest,
    MemberUpdateResponse, ResponseHeader,
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

fn only(urls: &[String]) -> Result<&str, Status> {
    match urls {
        [url] => Ok(url.trim_end_matches('/')),
        _ => Err(status::BAD_MEMBER_URLS.into()),
    }
}

impl ClusterService {
    fn header(&self) -> Option<ResponseHeader> {
        Some(header::without_revision(self.0.handle.header()))
    }

    fn list(&self) -> Vec<Member> {
        self.0.handle.members().into_iter().map(member).collect()
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    /// Not linearizable, it needs neither a leader nor a quorum.
    async fn member_list(
        &self,
        request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        self.0.admit(request.metadata())?;
        let Context { handle, options, .. } = &*self.0;
        if request.into_inner().linearizable {
            handle.read_barrier(options.request_timeout).await.map_err(|error| status::of_read(&error))?;
        }
        Ok(Response::new(MemberListResponse { header: self.header(), members: self.list() }))
    }

    async fn member_add(
        &self,
        request: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        self.0.admit(request.metadata())?;
        let MemberAddRequest { peer_ur_ls, is_learner } = request.into_inner();
        let Context { handle, options, .. } = &*self.0;
        let added = handle
            .add_member(only(&peer_ur_ls)?, is_learner, options.request_timeout)
            .await
            .map_err(|error| status::of_member(&error))?;
        Ok(Response::new(MemberAddResponse {
            header: self.header(),
            member: Some(member(added)),
            members: self.list(),
        }))
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        self.0.admit(request.metadata())?;
        let id = request.into_inner().id;
        let Context { handle, options, .. } = &*self.0;
        handle.remove_member(id, options.request_timeout).await.map_err(|error| status::of_member(&error))?;
        Ok(Response::new(MemberRemoveResponse { header: self.header(), members: self.list() }))
    }

    /// Whether the member votes is no part of this, and stays as it is (etcd forgets it).
    async fn member_update(
        &self,
        request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        self.0.admit(request.metadata())?;
        let MemberUpdateRequest { id, peer_ur_ls } = request.into_inner();
        let Context { handle, options, .. } = &*self.0;
        handle
            .update_member(id, only(&peer_ur_ls)?, options.request_timeout)
            .await
            .map_err(|error| status::of_member(&error))?;
        Ok(Response::new(MemberUpdateResponse { header: self.header(), members: self.list() }))
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        self.0.admit(request.metadata())?;
        let id = request.into_inner().id;
        let Context { handle, options, .. } = &*self.0;
        handle
            .promote_member(id, options.request_timeout)
            .await
            .map_err(|error| status::of_member(&error))?;
        Ok(Response::new(MemberPromoteResponse { header: self.header(), members: self.list() }))
    }
}
