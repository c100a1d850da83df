//! What comes in on the port: gRPC to the services, the rest to a few plain paths.
//!
//! etcd's rule is the one here: HTTP/2 with a content type that names gRPC is gRPC (`server/embed/serve.go`,
//! `grpcHandlerFunc`). What lies under `/v3/` is the JSON gateway's; the rest is small and answered in one piece.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use quorate_wire::etcdserverpb::auth_server::AuthServer;
use quorate_wire::etcdserverpb::cluster_server::ClusterServer;
use quorate_wire::etcdserverpb::kv_server::KvServer;
use quorate_wire::etcdserverpb::lease_server::LeaseServer;
use quorate_wire::etcdserverpb::maintenance_server::MaintenanceServer;
use quorate_wire::etcdserverpb::watch_server::WatchServer;
use quorate_wire::health::health_server::HealthServer;
use quorate_wire::v3electionpb::election_server::ElectionServer;
use quorate_wire::v3lockpb::lock_server::LockServer;
use tonic::service::Routes;

use crate::access::Gate;
use crate::auth::AuthService;
use crate::calls::Calls;
use crate::cluster::ClusterService;
use crate::context::Context;
use crate::election::ElectionService;
use crate::gateway::{self, Gateway, Limits};
use crate::health::{self, Check, Query};
use crate::kv::KvService;
use crate::lease::LeaseService;
use crate::lock::LockService;
use crate::maintenance::MaintenanceService;
use crate::metrics::{Answer, Metrics};
use crate::serving::ServingService;
use crate::watch::WatchService;
use crate::{ETCD_CLUSTER_VERSION, ETCD_VERSION};

/// A message may be this much larger than a request: what lies between is answered with etcd's own text, what lies above
/// is refused by the decoder (etcd, `server/embed/config.go`, `grpcOverheadBytes`).
const MESSAGE_OVERHEAD: usize = 512 * 1024;

/// JSON may be this much larger than the message it stands for: base64 takes a third more, names and numbers the rest.
const JSON_EXPANSION: usize = 2;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const METRICS: HeaderValue = HeaderValue::from_static(crate::metrics::TEXT_FORM);

/// One per server; a clone per connection.
#[derive(Clone)]
pub(crate) struct Http {
    calls: Calls,
    gateway: Gateway,
    context: Arc<Context>,
    metrics: Arc<Metrics>,
}

impl Http {
    pub(crate) fn new(context: Arc<Context>, metrics: Arc<Metrics>) -> Http {
        let limit = context.options.max_request_bytes + MESSAGE_OVERHEAD;
        let grpc = Routes::new(KvServer::new(KvService(context.clone())).max_decoding_message_size(limit))
            .add_service(WatchServer::new(WatchService(context.clone())).max_decoding_message_size(limit))
            .add_service(LeaseServer::new(LeaseService(context.clone())).max_decoding_message_size(limit))
            .add_service(ClusterServer::new(ClusterService(context.clone())).max_decoding_message_size(limit))
            .add_service(
                MaintenanceServer::new(MaintenanceService(context.clone())).max_decoding_message_size(limit),
            )
            .add_service(AuthServer::new(AuthService(context.clone())).max_decoding_message_size(limit))
            .add_service(HealthServer::new(ServingService(context.clone())).max_decoding_message_size(limit))
            .add_service(LockServer::new(LockService(context.clone())).max_decoding_message_size(limit))
            .add_service(
                ElectionServer::new(ElectionService(context.clone())).max_decoding_message_size(limit),
            );
        let gate = Gate::new(context.handle.clone(), context.options.request_timeout);
        let calls = Calls::new(grpc, gate, metrics.clone(), context.options.body_timeout);
        let limits = Limits { body_bytes: limit * JSON_EXPANSION, body_time: context.options.body_timeout };
        Http { gateway: Gateway::new(calls.clone(), limits), calls, context, metrics }
    }

    pub(crate) async fn answer(self, request: Request<Incoming>) -> Response<Answer> {
        if is_grpc(&request) {
            return self.calls.answer(request).await;
        }
        if gateway::owns(request.uri().path()) {
            return self.gateway.answer(request).await;
        }
        self.plain(request.method(), request.uri().path(), request.uri().query()).await
    }

    /// Metrics and health alone.
    pub(crate) async fn observe(&self, request: &Request<Incoming>) -> Response<Answer> {
        self.plain(request.method(), request.uri().path(), request.uri().query()).await
    }

    async fn plain(&self, method: &Method, path: &str, query: Option<&str>) -> Response<Answer> {
        let query = Query::parse(query);
        let check = |root: &str, all: &'static [Check]| -> Option<Vec<Check>> {
            match path.strip_prefix(root)? {
                "" => Some(all.to_vec()),
                // etcd looks at the query of the root alone.
                one => {
                    all.iter().find(|check| one.strip_prefix('/') == Some(check.name())).map(|one| vec![*one])
                }
            }
        };
        let checks = check("/livez", Check::LIVE).or_else(|| check("/readyz", Check::READY));
        let is_known = checks.is_some() || matches!(path, "/version" | "/health" | "/metrics");
        if !is_known {
            return respond(StatusCode::NOT_FOUND, TEXT, "404 page not found\n");
        }
        if method != Method::GET {
            let mut response = respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, "Method Not Allowed\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
            return response;
        }
        if let Some(checks) = checks {
            let (passed, text) = health::run(&self.context, &checks, &query).await;
            return respond(
                if passed { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE },
                TEXT,
                text,
            );
        }
        match path {
            "/health" => self.health(&query).await,
            "/metrics" => {
                respond(StatusCode::OK, METRICS, self.metrics.encode(&self.context.handle.metrics()))
            }
            // Known, and nothing else is left.
            _ => {
                let version =
                    serde_json::json!({"etcdserver": ETCD_VERSION, "etcdcluster": ETCD_CLUSTER_VERSION});
                respond(StatusCode::OK, JSON, version.to_string())
            }
        }
    }

    async fn health(&self, query: &Query) -> Response<Answer> {
        let reason = health::health(&self.context, query).await;
        let healthy = reason.is_none();
        // Strings both, as etcd writes them: probes in the field match the text.
        let body = serde_json::json!({"health": healthy.to_string(), "reason": reason.unwrap_or_default()});
        if healthy {
            self.metrics.health_success.inc();
            respond(StatusCode::OK, TEXT, body.to_string())
        } else {
            self.metrics.health_failures.inc();
            respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{body}\n"))
        }
    }
}

fn is_grpc(request: &Request<Incoming>) -> bool {
    request.version() == Version::HTTP_2
        && request
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.contains("application/grpc"))
}

fn respond(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Response<Answer> {
    let body = Full::new(body.into()).map_err(|never| match never {});
    let mut response = Response::new(Answer::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
