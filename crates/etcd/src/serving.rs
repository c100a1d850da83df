//! `grpc.health.v1.Health`: gRPC's own question whether this server serves.
//!
//! It is about the server, not about the store: a member without a quorum serves, and answers calls with what it has to
//! say. So the answer is yes until the stop. `/health` and `/readyz` say more. The one service that is known is the
//! empty name, which stands for all (etcd, `server/etcdserver/api/v3rpc/health.go`).

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt, stream};
use quorate_wire::health::health_check_response::ServingStatus;
use quorate_wire::health::health_server::Health;
use quorate_wire::health::{HealthCheckRequest, HealthCheckResponse};
use tonic::{Request, Response, Status};

use crate::context::Context;
use crate::status;

/// The service.
pub(crate) struct ServingService(pub(crate) Arc<Context>);

fn is(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for ServingService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if request.into_inner().service.is_empty() {
            Ok(Response::new(is(ServingStatus::Serving)))
        } else {
            // gRPC's words (grpc-go, `health/server.go`).
            Err(Status::not_found("unknown service"))
        }
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let is_known = request.into_inner().service.is_empty();
        let now = if is_known { ServingStatus::Serving } else { ServingStatus::ServiceUnknown };
        let stopped = self.0.stopped();
        let end = stream::once(async move {
            stopped.await;
            Err(status::STOPPED.into())
        });
        Ok(Response::new(Box::pin(stream::iter([Ok(is(now))]).chain(end))))
    }
}
