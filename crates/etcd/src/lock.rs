//! `v3lockpb.Lock`: locks for clients that have no library to build them from keys.
//!
//! The lock itself is the node's (see [`quorate_node::Handle::lock`]). What is etcd's here: a request without a lease gets one of
//! 60 s that nobody renews, so that a client that only locks and vanishes does not lock for ever; a client that goes away while it
//! waits leaves the line (the call's future is dropped then, which is what that means to the node); errors are plain texts with
//! the code `Unknown`, because etcd's server asks itself as a client and passes on what that client says.
//!
//! One difference: when the lease of a waiting request ends, it is answered then, and not when its turn would have come.
//!
//! Source: etcd, `server/etcdserver/api/v3lock/lock.go`, `client/v3/concurrency/{session,mutex}.go`.

use std::sync::Arc;
use std::time::Duration;

use quorate_node::{Handle, HoldError};
use quorate_state::{Command, LeaseId};
use quorate_wire::v3lockpb::lock_server::Lock;
use quorate_wire::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use tonic::{Request, Response, Status};

use crate::context::{Context, requires_leader};
use crate::{header, status};

/// What a request without a lease is given (etcd, `client/v3/concurrency/session.go`, `defaultSessionTTL`).
const SESSION: Duration = Duration::from_secs(60);

/// The service.
pub(crate) struct LockService(pub(crate) Arc<Context>);

/// The lease that a request hangs on: its own, or a new one that ends by itself.
pub(crate) async fn session(context: &Context, caller: &Handle, lease: LeaseId) -> Result<LeaseId, Status> {
    if lease != 0 {
        return Ok(lease);
    }
    let timeout = context.options.request_timeout;
    let granted = caller.grant_lease(None, SESSION, timeout).await;
    Ok(granted.map_err(|error| status::in_server(status::of_proposal(&error)))?)
}

/// Waits for `turn` as long as there is a leader for those who care, and a server.
pub(crate) async fn wait<T>(
    context: &Context,
    requires_leader: bool,
    turn: impl Future<Output = Result<T, HoldError>>,
    lost: status::EtcdError,
) -> Result<T, Status> {
    let stopped = context.stopped();
    let leaderless = context.leaderless(requires_leader);
    tokio::select! {
        biased;
        () = stopped => Err(status::STOPPED.into()),
        () = leaderless => Err(status::NO_LEADER.into()),
        turn = turn => Ok(turn.map_err(|error| status::of_hold(&error, lost))?),
    }
}

#[tonic::async_trait]
impl Lock for LockService {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        self.0.admit(request.metadata())?;
        let requires_leader = requires_leader(request.metadata());
        let handle = self.0.caller(&request);
        let LockRequest { name, lease } = request.into_inner();
        let lease = session(&self.0, &handle, lease).await?;
        let turn = handle.lock(name, lease, self.0.options.request_timeout);
        let lock = wait(&self.0, requires_leader, turn, status::SESSION_EXPIRED).await?;
        let header = Some(header::full(handle.header()));
        Ok(Response::new(LockResponse { header, key: lock.key().clone() }))
    }

    async fn unlock(&self, request: Request<UnlockRequest>) -> Result<Response<UnlockResponse>, Status> {
        self.0.admit(request.metadata())?;
        let handle = self.0.caller(&request);
        let UnlockRequest { key } = request.into_inner();
        if key.is_empty() {
            return Err(status::in_server(status::EMPTY_KEY).into());
        }
        // etcd deletes the key whoever holds by it, and finds nothing wrong with one that is not there.
        let applied = handle
            .propose(Command::delete(key), self.0.options.request_timeout)
            .await
            .map_err(|error| status::in_server(status::of_proposal(&error)))?;
        let header = header::applied(handle.header(), applied.reply.revision, applied.term);
        Ok(Response::new(UnlockResponse { header: Some(header) }))
    }
}
