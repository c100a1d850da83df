//! What `/metrics` says: the member's own numbers, and this server's calls.
//!
//! The names are those of etcd and of grpc-ecosystem's server metrics, which dashboards and alerts already know. A call
//! counts as started when its head arrives and as handled when its status is known: in the head of the answer
//! when there is nothing else, in the trailers, or never, when the client went away first, which gRPC calls `Canceled`.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, SizeHint};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tonic::Code;

/// The services whose calls are counted. A label must not be the caller's choice, or a scanner could grow it for ever.
const SERVICES: [(&str, &str); 8] = [
    ("etcdserverpb.KV", "Range Put DeleteRange Txn Compact"),
    ("etcdserverpb.Watch", "Watch"),
    ("etcdserverpb.Lease", "LeaseGrant LeaseRevoke LeaseKeepAlive LeaseTimeToLive LeaseLeases"),
    ("etcdserverpb.Cluster", "MemberAdd MemberRemove MemberUpdate MemberList MemberPromote"),
    ("etcdserverpb.Maintenance", "Alarm Status Defragment Hash HashKV Snapshot MoveLeader Downgrade"),
    (
        "etcdserverpb.Auth",
        "AuthEnable AuthDisable AuthStatus Authenticate UserAdd UserGet UserList UserDelete",
    ),
    (
        "etcdserverpb.Auth",
        "UserChangePassword UserGrantRole UserRevokeRole RoleAdd RoleGet RoleList RoleDelete",
    ),
    ("etcdserverpb.Auth", "RoleGrantPermission RoleRevokePermission"),
];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Method {
    grpc_type: &'static str,
    grpc_service: &'static str,
    grpc_method: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Handled {
    grpc_type: &'static str,
    grpc_service: &'static str,
    grpc_method: &'static str,
    grpc_code: &'static str,
}

/// The server's counters.
pub(crate) struct Metrics {
    registry: Registry,
    started: Family<Method, Counter>,
    handled: Family<Handled, Counter>,
    pub(crate) connections: Gauge,
    pub(crate) health_success: Counter<u64, AtomicU64>,
    pub(crate) health_failures: Counter<u64, AtomicU64>,
}

impl Metrics {
    pub(crate) fn new() -> Arc<Metrics> {
        let mut registry = Registry::default();
        let started = Family::default();
        let handled = Family::default();
        let connections = Gauge::default();
        let health_success = Counter::default();
        let health_failures = Counter::default();
        // The encoder appends `_total` to a counter's name.
        registry.register("grpc_server_started", "Calls begun", started.clone());
        registry.register("grpc_server_handled", "Calls ended, by code", handled.clone());
        registry.register("quorate_client_connections", "Open client connections", connections.clone());
        registry.register("etcd_server_health_success", "Health checks that passed", health_success.clone());
        registry.register(
            "etcd_server_health_failures",
            "Health checks that failed",
            health_failures.clone(),
        );
        Arc::new(Metrics { registry, started, handled, connections, health_success, health_failures })
    }

    /// The member's metrics, which end with the mark of their end, and ours before it.
    pub(crate) fn encode(&self, member: &str) -> String {
        let mut all = member.strip_suffix("# EOF\n").unwrap_or(member).to_owned();
        // Writing into a string cannot fail.
        let _ = text::encode(&mut all, &self.registry);
        all
    }

    /// A call has begun; None for one that no service here has.
    pub(crate) fn begin(self: &Arc<Self>, path: &str) -> Option<Call> {
        let method = known(path)?;
        self.started.get_or_create(&method).inc();
        Some(Call { metrics: self.clone(), method, ended: false })
    }
}

fn known(path: &str) -> Option<Method> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    SERVICES.iter().filter(|(name, _)| *name == service).find_map(|(name, methods)| {
        let method = methods.split(' ').find(|name| *name == method)?;
        let grpc_type = match method {
            "Watch" | "LeaseKeepAlive" => "bidi_stream",
            "Snapshot" => "server_stream",
            _ => "unary",
        };
        Some(Method { grpc_type, grpc_service: name, grpc_method: method })
    })
}

/// A call under way. Dropped without an end it was cancelled.
pub(crate) struct Call {
    metrics: Arc<Metrics>,
    method: Method,
    ended: bool,
}

impl Call {
    /// Watches the answer for the status that ends the call.
    pub(crate) fn watch(mut self, response: Response<tonic::body::Body>) -> Response<Answer> {
        let (head, body) = response.into_parts();
        self.see(&head.headers);
        Response::from_parts(head, UnsyncBoxBody::new(Counted { call: self, body }))
    }

    fn see(&mut self, headers: &HeaderMap) {
        if let Some(code) = headers.get("grpc-status") {
            self.end(Code::from_bytes(code.as_bytes()));
        }
    }

    fn end(&mut self, code: Code) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let Method { grpc_type, grpc_service, grpc_method } = self.method;
        let handled = Handled { grpc_type, grpc_service, grpc_method, grpc_code: name(code) };
        self.metrics.handled.get_or_create(&handled).inc();
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// Go's spelling of the codes, which the dashboards compare with.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

/// What both sides of the port answer with.
pub(crate) type Answer = UnsyncBoxBody<Bytes, tonic::Status>;

/// An answer's body whose trailers are looked at on their way out.
struct Counted {
    call: Call,
    body: tonic::body::Body,
}

impl Body for Counted {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            self.call.see(trailers);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_counted_by_its_status() {
        let metrics = Metrics::new();
        let call = metrics.begin("/etcdserverpb.KV/Range").expect("a known method");
        let response = tonic::Status::not_found("").into_http();
        drop(call.watch(response));
        drop(metrics.begin("/etcdserverpb.Watch/Watch").expect("a known method"));
        let text = metrics.encode("before 1\n# EOF\n");
        assert!(text.starts_with("before 1\n"), "{text}");
        for line in [
            "grpc_server_started_total{grpc_type=\"unary\",grpc_service=\"etcdserverpb.KV\",grpc_method=\"Range\"} 1",
            "grpc_server_handled_total{grpc_type=\"unary\",grpc_service=\"etcdserverpb.KV\",grpc_method=\"Range\",\
             grpc_code=\"NotFound\"} 1",
            "grpc_server_handled_total{grpc_type=\"bidi_stream\",grpc_service=\"etcdserverpb.Watch\",\
             grpc_method=\"Watch\",grpc_code=\"Canceled\"} 1",
        ] {
            assert!(text.contains(line), "{line} is missing in:\n{text}");
        }
        assert_eq!(text.matches("# EOF").count(), 1);
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn paths_of_the_callers_choice_are_not_counted() {
        let metrics = Metrics::new();
        for path in ["/etcdserverpb.KV/Nothing", "/x/Range", "/", "", "/etcdserverpb.KV", "/etcdserverpb.KV/"]
        {
            assert!(metrics.begin(path).is_none(), "{path}");
        }
        assert!(metrics.begin("/etcdserverpb.Auth/RoleRevokePermission").is_some());
        assert!(metrics.begin("/etcdserverpb.KV/RoleRevokePermission").is_none());
    }
}
