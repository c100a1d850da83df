//! `etcdserverpb.KV`: range, put, delete, transactions, compaction.
//!
//! Writes and transactions are proposals; a range is linearizable unless it asks not to be. Which of the two waits for
//! what is the handle's business.

use std::sync::Arc;

use quorate_node::Handle;
use quorate_state::{Body, Compact, ReplyBody, Revision, Txn};
use quorate_wire::etcdserverpb::kv_server::Kv;
use quorate_wire::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, ResponseHeader, TxnRequest, TxnResponse,
};
use tonic::{Request, Response, Status};

use crate::context::Context;
use crate::{convert, header, status, validate};

/// The service.
pub(crate) struct KvService(pub(crate) Arc<Context>);

/// A command's answer, and the header that goes with it.
struct Answer {
    body: ReplyBody,
    revision: Revision,
    header: ResponseHeader,
}

impl KvService {
    async fn propose(&self, caller: &Handle, body: Body) -> Result<Answer, Status> {
        let Context { handle, options, .. } = &*self.0;
        let applied = caller
            .propose(convert::command(body), options.request_timeout)
            .await
            .map_err(|error| status::of_proposal(&error))?;
        let revision = applied.reply.revision;
        let header = header::applied(handle.header(), revision, applied.term);
        let body = applied.reply.body.ok_or(status::MALFORMED_REPLY)?;
        Ok(Answer { body, revision, header })
    }

    /// A transaction that cannot write needs no log entry: a read index and one instant of this member's state will do
    /// (etcd from 3.5, `server/etcdserver/v3_server.go`, `Txn`).
    async fn read_txn(&self, caller: &Handle, txn: Txn) -> Result<TxnResponse, Status> {
        let Context { handle, options, .. } = &*self.0;
        let serializable = txn.is_serializable();
        let reply = caller
            .read_txn(txn, serializable, options.request_timeout)
            .await
            .map_err(|error| status::of_read(&error))?;
        let header = handle.header();
        // The instant that was read, if an operation tells it; else now is as good an answer.
        let revision = convert::first_revision(&reply).unwrap_or(header.revision);
        Ok(convert::txn_reply(reply, revision, header::at(header, revision))?)
    }

    fn fits(&self, request: &impl prost::Message) -> Result<(), Status> {
        Ok(validate::size(request, self.0.options.max_request_bytes)?)
    }
}

#[tonic::async_trait]
impl Kv for KvService {
    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        self.0.admit(request.metadata())?;
        let caller = self.0.caller(&request);
        let request = request.into_inner();
        validate::range(&request)?;
        let Context { handle, options, .. } = &*self.0;
        let reply = caller
            .range(convert::range(request), options.request_timeout)
            .await
            .map_err(|error| status::of_read(&error))?;
        let header = header::at(handle.header(), reply.revision);
        Ok(Response::new(convert::range_reply(reply, header)))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        self.0.admit(request.metadata())?;
        let caller = self.0.caller(&request);
        let request = request.into_inner();
        validate::put(&request)?;
        self.fits(&request)?;
        let answer = self.propose(&caller, Body::Put(convert::put(request))).await?;
        let ReplyBody::Put(reply) = answer.body else { return Err(status::MALFORMED_REPLY.into()) };
        Ok(Response::new(convert::put_reply(reply, answer.header)))
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        self.0.admit(request.metadata())?;
        let caller = self.0.caller(&request);
        let request = request.into_inner();
        validate::delete_range(&request)?;
        self.fits(&request)?;
        let answer = self.propose(&caller, Body::DeleteRange(convert::delete_range(request))).await?;
        let ReplyBody::DeleteRange(reply) = answer.body else { return Err(status::MALFORMED_REPLY.into()) };
        Ok(Response::new(convert::delete_reply(reply, answer.header)))
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        self.0.admit(request.metadata())?;
        let caller = self.0.caller(&request);
        let request = request.into_inner();
        validate::txn(&request, self.0.options.max_txn_ops)?;
        self.fits(&request)?;
        let txn = convert::txn(request)?;
        if txn.is_read_only() {
            return self.read_txn(&caller, txn).await.map(Response::new);
        }
        let answer = self.propose(&caller, Body::Txn(txn)).await?;
        let ReplyBody::Txn(reply) = answer.body else { return Err(status::MALFORMED_REPLY.into()) };
        Ok(Response::new(convert::txn_reply(reply, answer.revision, answer.header)?))
    }

    async fn compact(
        &self,
        request: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        self.0.admit(request.metadata())?;
        let caller = self.0.caller(&request);
        let CompactionRequest { revision, physical } = request.into_inner();
        let answer = self.propose(&caller, Body::Compact(Compact { revision, physical })).await?;
        Ok(Response::new(CompactionResponse { header: Some(answer.header) }))
    }
}
