//! `v3electionpb.Election`: campaign, proclaim, look, observe, resign.
//!
//! The election itself is the node's (see [`quorate_node::Handle::campaign`]); leases, waiting and errors are as for locks
//! (see [`crate::lock`]). A `LeaderKey` that a client shows is not believed: its key and its revision go into the compare of a
//! transaction, and an office that was lost meanwhile is "not leader".
//!
//! Source: etcd, `server/etcdserver/api/v3election/election.go`, `client/v3/concurrency/election.go`.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, stream};
use quorate_node::{Handle, Observer, Office};
use quorate_state::KeyValue;
use quorate_wire::v3electionpb::election_server::Election;
use quorate_wire::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ProclaimResponse, ResignRequest, ResignResponse,
};
use tonic::{Request, Response, Status};

use crate::context::{Context, requires_leader};
use crate::lock::{session, wait};
use crate::{convert, header, status};

/// The service.
pub(crate) struct ElectionService(pub(crate) Arc<Context>);

impl ElectionService {
    fn office(&self, caller: &Handle, leader: Option<LeaderKey>) -> Result<Office, Status> {
        let LeaderKey { key, rev, lease, .. } = leader.ok_or(status::MISSING_LEADER_KEY)?;
        Ok(Office::resume(caller, key, rev, lease))
    }

    fn leader(&self, kv: KeyValue) -> LeaderResponse {
        let header = Some(header::full(self.0.handle.header()));
        LeaderResponse { header, kv: Some(convert::key_value(kv)) }
    }
}

#[tonic::async_trait]
impl Election for ElectionService {
    type ObserveStream = Pin<Box<dyn Stream<Item = Result<LeaderResponse, Status>> + Send>>;

    async fn campaign(
        &self,
        request: Request<CampaignRequest>,
    ) -> Result<Response<CampaignResponse>, Status> {
        self.0.admit(request.metadata())?;
        let requires_leader = requires_leader(request.metadata());
        let handle = self.0.caller(&request);
        let CampaignRequest { name, lease, value } = request.into_inner();
        let lease = session(&self.0, &handle, lease).await?;
        let turn = handle.campaign(name.clone(), lease, value, self.0.options.request_timeout);
        let office = wait(&self.0, requires_leader, turn, status::NOT_ELECTED).await?;
        let leader = LeaderKey { name, key: office.key().clone(), rev: office.revision(), lease };
        let header = Some(header::full(handle.header()));
        Ok(Response::new(CampaignResponse { header, leader: Some(leader) }))
    }

    async fn proclaim(
        &self,
        request: Request<ProclaimRequest>,
    ) -> Result<Response<ProclaimResponse>, Status> {
        self.0.admit(request.metadata())?;
        let caller = self.0.caller(&request);
        let ProclaimRequest { leader, value } = request.into_inner();
        let office = self.office(&caller, leader)?;
        let applied = office
            .proclaim(value, self.0.options.request_timeout)
            .await
            .map_err(|error| status::of_hold(&error, status::NOT_ELECTED))?;
        let header = header::applied(self.0.handle.header(), applied.reply.revision, applied.term);
        Ok(Response::new(ProclaimResponse { header: Some(header) }))
    }

    async fn leader(&self, request: Request<LeaderRequest>) -> Result<Response<LeaderResponse>, Status> {
        self.0.admit(request.metadata())?;
        let caller = self.0.caller(&request);
        let LeaderRequest { name } = request.into_inner();
        let found = caller.elected(name, self.0.options.request_timeout).await;
        let found = found.map_err(|error| status::in_server(status::of_read(&error)))?;
        let kv = found.ok_or(status::NOBODY_ELECTED)?;
        Ok(Response::new(self.leader(kv)))
    }

    async fn observe(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        self.0.admit(request.metadata())?;
        let requires_leader = requires_leader(request.metadata());
        let caller = self.0.caller(&request);
        let LeaderRequest { name } = request.into_inner();
        let observer = caller.observe(name, self.0.options.request_timeout);
        let service = ElectionService(self.0.clone());
        let first = Some((service, observer));
        // An item is made when the client has room for it: a slow observer costs its watch and nothing more.
        Ok(Response::new(Box::pin(stream::unfold(first, move |open| async move {
            let (service, mut observer) = open?;
            match service.next(&mut observer, requires_leader).await {
                Ok(kv) => Some((Ok(service.leader(kv)), Some((service, observer)))),
                Err(error) => Some((Err(error), None)),
            }
        }))))
    }

    async fn resign(&self, request: Request<ResignRequest>) -> Result<Response<ResignResponse>, Status> {
        self.0.admit(request.metadata())?;
        let caller = self.0.caller(&request);
        let office = self.office(&caller, request.into_inner().leader)?;
        let applied = office
            .resign(self.0.options.request_timeout)
            .await
            .map_err(|error| status::in_server(status::of_proposal(&error)))?;
        let header = header::applied(self.0.handle.header(), applied.reply.revision, applied.term);
        Ok(Response::new(ResignResponse { header: Some(header) }))
    }
}

impl ElectionService {
    async fn next(&self, observer: &mut Observer, requires_leader: bool) -> Result<KeyValue, Status> {
        let next = async { Ok(observer.next().await?) };
        wait(&self.0, requires_leader, next, status::NOT_ELECTED).await
    }
}
