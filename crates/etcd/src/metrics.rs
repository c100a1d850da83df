//! What `/metrics` says: the member's own numbers, this server's calls, and the process.
//!
//! The names are those of etcd and of grpc-ecosystem's server metrics, which dashboards and alerts already know. A call
//! counts as started when its head arrives and as handled when its status is known: in the head of the answer
//! when there is nothing else, in the trailers, or never, when the client went away first, which gRPC calls `Canceled`.
//!
//! A call costs one look-up by its path and a handful of atomics: the series of every method are made at the start, which
//! also lets `rate()` see the first failure as a step from zero.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Buf, Bytes};
use http::{HeaderMap, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, SizeHint};
use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};
use tonic::Code;

use crate::process_metrics;
use crate::{ETCD_CLUSTER_VERSION, ETCD_VERSION};

/// The services whose calls are counted. A label must not be the caller's choice, or a scanner could grow it for ever.
const SERVICES: [(&str, &str); 10] = [
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
    ("v3lockpb.Lock", "Lock Unlock"),
    ("v3electionpb.Election", "Campaign Proclaim Leader Observe Resign"),
];

/// What the text form is called (Prometheus, exposition formats).
pub(crate) const TEXT_FORM: &str = "text/plain; version=0.0.4; charset=utf-8";

const METHOD: [&str; 3] = ["grpc_type", "grpc_service", "grpc_method"];
const HANDLED: [&str; 4] = ["grpc_type", "grpc_service", "grpc_method", "grpc_code"];

/// The series of one method.
struct Method {
    labels: [&'static str; 3],
    started: IntCounter,
    ok: IntCounter,
    messages_in: IntCounter,
    messages_out: IntCounter,
    handling: Histogram,
}

/// The server's counters.
pub(crate) struct Metrics {
    registry: Registry,
    /// By path.
    methods: HashMap<String, Arc<Method>>,
    handled: IntCounterVec,
    bytes_in: IntCounter,
    bytes_out: IntCounter,
    pub(crate) connections: IntGauge,
    pub(crate) health_success: IntCounter,
    pub(crate) health_failures: IntCounter,
}

impl Metrics {
    pub(crate) fn new() -> Arc<Metrics> {
        let registry = Registry::new();
        let r = &registry;
        let vector = |name: &str, help: &str, labels: &[&str]| {
            add(r, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let started = vector("grpc_server_started_total", "Calls begun", &METHOD);
        let handled = vector("grpc_server_handled_total", "Calls ended, by code", &HANDLED);
        let received = vector("grpc_server_msg_received_total", "Messages received", &METHOD);
        let sent = vector("grpc_server_msg_sent_total", "Messages sent", &METHOD);
        let handling: HistogramVec = add(
            r,
            HistogramVec::new(
                HistogramOpts::new(
                    "grpc_server_handling_seconds",
                    "How long calls took, streams from end to end",
                ),
                &METHOD,
            ),
        );
        let mut by_path = HashMap::new();
        for (service, methods) in SERVICES {
            for method in methods.split(' ') {
                let labels = [kind(method), service, method];
                let ok = [labels[0], labels[1], labels[2], "OK"];
                let series = Method {
                    labels,
                    started: started.with_label_values(&labels),
                    ok: handled.with_label_values(&ok),
                    messages_in: received.with_label_values(&labels),
                    messages_out: sent.with_label_values(&labels),
                    handling: handling.with_label_values(&labels),
                };
                by_path.insert(format!("/{service}/{method}"), Arc::new(series));
            }
        }
        for (name, help, label, version) in [
            (
                "etcd_server_version",
                "The etcd release that is spoken, as the label",
                "server_version",
                ETCD_VERSION,
            ),
            (
                "etcd_cluster_version",
                "The cluster's version, as the label",
                "cluster_version",
                ETCD_CLUSTER_VERSION.rsplit_once('.').map_or(ETCD_CLUSTER_VERSION, |(minor, _)| minor),
            ),
            (
                "quorate_build_info",
                "The release of this program, as the label",
                "version",
                env!("CARGO_PKG_VERSION"),
            ),
        ] {
            add(r, IntGaugeVec::new(Opts::new(name, help), &[label])).with_label_values(&[version]).set(1);
        }
        let counter = |name: &str, help: &str| add(r, IntCounter::new(name, help));
        let metrics = Metrics {
            methods: by_path,
            handled,
            bytes_in: counter("etcd_network_client_grpc_received_bytes_total", "Bytes received in calls"),
            bytes_out: counter("etcd_network_client_grpc_sent_bytes_total", "Bytes sent in answers to calls"),
            connections: add(r, IntGauge::new("quorate_client_connections", "Open client connections")),
            health_success: counter("etcd_server_health_success", "Health checks that passed"),
            health_failures: counter("etcd_server_health_failures", "Health checks that failed"),
            registry,
        };
        Arc::new(metrics)
    }

    /// The member's metrics, this server's and the process's.
    pub(crate) fn encode(&self, member: &str) -> String {
        let mut all = member.to_owned();
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut all) {
            tracing::warn!(%error, "the metrics cannot be written");
        }
        process_metrics::write(&mut all);
        all
    }

    /// A call has begun; None for one that no service here has.
    pub(crate) fn begin(self: &Arc<Self>, path: &str) -> Option<Call> {
        let method = self.methods.get(path)?.clone();
        method.started.inc();
        Some(Call { metrics: self.clone(), method, begun: Instant::now(), ended: false })
    }
}

/// Names and labels are constants of this file: that they are in order is tested.
fn add<C: Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<C>) -> C {
    let made = made.expect("a metric's name is in order");
    registry.register(Box::new(made.clone())).expect("a metric's name is its own");
    made
}

fn kind(method: &str) -> &'static str {
    match method {
        "Watch" | "LeaseKeepAlive" => "bidi_stream",
        "Snapshot" | "Observe" => "server_stream",
        _ => "unary",
    }
}

/// A call under way. Dropped without an end it was cancelled.
pub(crate) struct Call {
    metrics: Arc<Metrics>,
    method: Arc<Method>,
    begun: Instant,
    ended: bool,
}

impl Call {
    /// Counts what the client sends.
    pub(crate) fn receive<B>(&self, body: B) -> Received<B> {
        let (metrics, method) = (self.metrics.clone(), self.method.clone());
        Received { metrics, method, messages: Messages::default(), body }
    }

    /// Watches the answer for what is sent, and for the status that ends the call.
    pub(crate) fn watch(mut self, response: Response<tonic::body::Body>) -> Response<Answer> {
        let (head, body) = response.into_parts();
        self.see(&head.headers);
        Response::from_parts(
            head,
            UnsyncBoxBody::new(Counted { call: self, messages: Messages::default(), body }),
        )
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
        let method = &self.method;
        method.handling.observe(self.begun.elapsed().as_secs_f64());
        if code == Code::Ok {
            method.ok.inc();
        } else {
            let [kind, service, name] = method.labels;
            self.metrics.handled.with_label_values(&[kind, service, name, spelled(code)]).inc();
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// Go's spelling of the codes, which the dashboards compare with.
fn spelled(code: Code) -> &'static str {
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

/// Finds the messages in a stream of bytes: a flag, a length of four bytes, the message (gRPC over HTTP/2). Nothing is kept but
/// where we are.
#[derive(Default)]
struct Messages {
    /// Bytes of the current message that are still to come.
    left: usize,
    prefix: [u8; 5],
    /// Bytes of the prefix that are here.
    has: usize,
}

impl Messages {
    /// How many messages begin in `bytes`.
    fn begun(&mut self, mut bytes: &[u8]) -> u64 {
        let mut count = 0;
        while !bytes.is_empty() {
            if self.left > 0 {
                let step = self.left.min(bytes.len());
                self.left -= step;
                bytes.advance(step);
                continue;
            }
            self.prefix[self.has] = bytes[0];
            self.has += 1;
            bytes.advance(1);
            if self.has == self.prefix.len() {
                let [_, length @ ..] = self.prefix;
                self.left = u32::from_be_bytes(length) as usize;
                self.has = 0;
                count += 1;
            }
        }
        count
    }
}

/// A request's body whose bytes and messages are counted on their way in.
pub(crate) struct Received<B> {
    metrics: Arc<Metrics>,
    method: Arc<Method>,
    messages: Messages,
    body: B,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Received<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.metrics.bytes_in.inc_by(data.len() as u64);
            let begun = self.messages.begun(data);
            self.method.messages_in.inc_by(begun);
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

/// What both sides of the port answer with.
pub(crate) type Answer = UnsyncBoxBody<Bytes, tonic::Status>;

/// An answer's body that is counted, and whose trailers are looked at on their way out.
struct Counted {
    call: Call,
    messages: Messages,
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
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            if let Some(data) = frame.data_ref() {
                self.call.metrics.bytes_out.inc_by(data.len() as u64);
                let begun = self.messages.begun(data);
                self.call.method.messages_out.inc_by(begun);
            }
            if let Some(trailers) = frame.trailers_ref() {
                self.call.see(trailers);
            }
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
        let text = metrics.encode("before 1\n");
        assert!(text.starts_with("before 1\n"), "{text}");
        for line in [
            "# TYPE grpc_server_started_total counter",
            "grpc_server_started_total{grpc_method=\"Range\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 1",
            "grpc_server_handled_total{grpc_code=\"NotFound\",grpc_method=\"Range\",grpc_service=\"etcdserverpb.KV\",\
             grpc_type=\"unary\"} 1",
            "grpc_server_handled_total{grpc_code=\"Canceled\",grpc_method=\"Watch\",\
             grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"} 1",
            "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",\
             grpc_type=\"unary\"} 0",
            "grpc_server_handling_seconds_count{grpc_method=\"Range\",grpc_service=\"etcdserverpb.KV\",\
             grpc_type=\"unary\"} 1",
            "etcd_server_version{server_version=\"3.5.21\"} 1",
            "etcd_cluster_version{cluster_version=\"3.5\"} 1",
            "# TYPE etcd_server_health_success counter",
            "# TYPE process_cpu_seconds_total counter",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in:\n{text}");
        }
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

    #[test]
    fn messages_are_found_however_the_bytes_are_cut() {
        let stream = [&[0, 0, 0, 0, 3, 1, 2, 3][..], &[0, 0, 0, 0, 0], &[0, 0, 0, 0, 1, 9]].concat();
        for cut in 1..=stream.len() {
            let mut messages = Messages::default();
            let count: u64 = stream.chunks(cut).map(|part| messages.begun(part)).sum();
            assert_eq!(count, 3, "in pieces of {cut}");
        }
    }
}
