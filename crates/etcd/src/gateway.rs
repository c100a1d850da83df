//! The JSON gateway: etcd's HTTP API under `/v3/`, for clients without gRPC.
//!
//! # The model
//!
//! ```text
//!   POST /v3/kv/range ─► routes ─► body (JSON values) ─► transcode ─► the gRPC services, in-process
//!                                                                            │
//!   JSON, or lines {"result":…} ◄──────────── transcode ◄───── messages ◄────┘
//!   {"error","message","code"}  ◄──────────── error     ◄───── status
//! ```
//!
//! Nothing here knows a message or a service: the routes name methods, the descriptors of `quorate-wire` name
//! their messages, and a call is the same gRPC call that comes in over HTTP/2, through the same limits, checks and
//! counters. So what is true of a gRPC client is true of a JSON client, and a new method needs one line in
//! [`routes`].
//!
//! # What a client may rely on
//!
//! - Field names as in the protocol, zero values left out, 64-bit integers as strings, bytes as base64, enumerations
//!   by name. What comes in may also be camelCase, numbers, base64 of either alphabet; unknown fields are passed over,
//!   unknown names of enumerations are not. An empty body is `{}`.
//! - A stream is one object a line, sent at once. A watch may bring several requests in one body, one after the other.
//!   An error before the first line is an ordinary one; after it, it is the last line.
//! - Going away ends the call: the watcher with it.
//!
//! # Bounds
//!
//! The size of a body, its depth ([`body`]), the time until it is there, and what is passed over of a request that was
//! refused before its end ([`linger`]). What remains is bounded by the services.
//!
//! # What it leaves out, on purpose
//!
//! etcd answers every origin with `Access-Control-Allow-Origin: *`, which lets any page in an operator's browser write
//! to a store that the browser can reach. A client certificate does not make the caller a user here, as in etcd: the
//! gateway only passes on `Authorization`.
//!
//! Sources: etcd, `server/embed/serve.go` (`registerGateway`) and `api/etcdserverpb/gw`; grpc-gateway v1, `runtime/errors.go`
//! and `runtime/handler.go`, compared on the wire with Debian's etcd in `tests/gateway.rs`.

mod body;
mod error;
#[cfg(test)]
mod fuzz;
mod linger;
mod routes;
mod transcode;

use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, future, stream};
use http::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body, Frame};
use prost_reflect::DynamicMessage;
use tokio::sync::oneshot;
use tonic::Status;
use tonic::client::Grpc;
use tonic::metadata::MetadataMap;

use crate::calls::Calls;
use crate::gateway::body::{Refusal, Values};
use crate::gateway::linger::Lingering;
use crate::gateway::routes::{Route, Routes};
use crate::gateway::transcode::Transcoder;
use crate::metrics::Answer;
use crate::status;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// How a header names metadata of the call (grpc-gateway, `runtime/mux.go`, `MetadataHeaderPrefix`).
const METADATA_PREFIX: &str = "grpc-metadata-";

/// What a body may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// In bytes; of a stream, for each value.
    pub(crate) body_bytes: usize,
    /// From the head of the request to the end of its body; of a stream, to its first value.
    pub(crate) body_time: Duration,
}

/// One per server; a clone per request is cheap.
#[derive(Clone)]
pub(crate) struct Gateway {
    calls: Calls,
    limits: Limits,
}

/// Whether a path is one of the gateway's, known or not.
pub(crate) fn owns(path: &str) -> bool {
    routes::relative(path).is_some()
}

impl Gateway {
    pub(crate) fn new(calls: Calls, limits: Limits) -> Gateway {
        Gateway { calls, limits }
    }

    pub(crate) async fn answer<B>(&self, request: Request<B>) -> Response<Answer>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
    {
        let (head, body) = request.map(Lingering::new).into_parts();
        let Some(route) = Routes::get().find(head.uri.path()) else {
            return plain(StatusCode::NOT_FOUND, "Not Found\n");
        };
        if head.method != Method::POST {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            return response;
        }
        let values = Values::new(body, self.limits.body_bytes, self.calls.share());
        let called = if route.is_stream() {
            self.stream(route, metadata(&head.headers), values).await
        } else {
            self.unary(route, metadata(&head.headers), values).await
        };
        called.unwrap_or_else(|status| error::answer(&status))
    }

    async fn unary<B>(
        &self,
        route: &Route,
        metadata: MetadataMap,
        values: Values<B>,
    ) -> Result<Response<Answer>, Status>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
    {
        let message = route.read(self.in_time(route, values.only()).await?)?;
        let mut request = tonic::Request::new(message);
        *request.metadata_mut() = metadata;
        let response = self.grpc().unary(request, route.path(), Transcoder::one(route)).await?;
        Ok(respond(Full::new(response.into_inner())))
    }

    async fn stream<B>(
        &self,
        route: &Route,
        metadata: MetadataMap,
        mut values: Values<B>,
    ) -> Result<Response<Answer>, Status>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
    {
        let mut grpc = self.grpc();
        let (gone, is_gone) = oneshot::channel();
        let transcoder = Transcoder::lines(route);
        let called = if route.takes_stream() {
            // The first is read before anything else, so that what cannot be read gets an ordinary answer.
            let first = self.in_time(route, values.next()).await?;
            let first = first.map(|value| route.read(Some(value))).transpose()?;
            let mut request = tonic::Request::new(requests(first, route.clone(), values, gone));
            *request.metadata_mut() = metadata;
            grpc.streaming(request, route.path(), transcoder).await?
        } else {
            let mut request = tonic::Request::new(route.read(self.in_time(route, values.only()).await?)?);
            *request.metadata_mut() = metadata;
            grpc.server_streaming(request, route.path(), transcoder).await?
        };
        let mut lines = called.into_inner();
        let first = lines.next().await.transpose()?;
        let rest = stream::unfold(Some(lines), |open| async move {
            let mut lines = open?;
            match lines.next().await? {
                Ok(line) => Some((line, Some(lines))),
                Err(status) => Some((error::line(&status), None)),
            }
        });
        // Dropped without a word: the body came to its end, and the answers go on.
        let is_gone = async move {
            if is_gone.await.is_err() {
                future::pending::<()>().await;
            }
        };
        let lines = stream::iter(first).chain(rest).take_until(Box::pin(is_gone));
        Ok(respond(StreamBody::new(lines.map(|line| Ok(Frame::data(line))))))
    }

    async fn in_time<T>(
        &self,
        route: &Route,
        read: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Status> {
        match tokio::time::timeout(self.limits.body_time, read).await {
            Ok(Err(Refusal::TooDeep)) => Err(route.too_deep()),
            Ok(read) => Ok(read?),
            Err(_) => Err(status::slow_request()),
        }
    }

    fn grpc(&self) -> Grpc<Calls> {
        // What a service answers is its own affair.
        Grpc::new(self.calls.clone()).max_decoding_message_size(usize::MAX)
    }
}

/// The requests of one stream. One that cannot be read ends them, as the end of the body does: the answers to those
/// before it go on (grpc-gateway does the same). `gone` hears when the client went away in the middle; from the other
/// side alone that cannot be told from a client that has said all it wanted.
fn requests<B>(
    first: Option<DynamicMessage>,
    route: Route,
    values: Values<B>,
    gone: oneshot::Sender<()>,
) -> impl Stream<Item = DynamicMessage> + Send + 'static
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    let rest = stream::unfold((values, route, gone), |(mut values, route, gone)| async move {
        let ended = match values.next().await {
            Ok(Some(value)) => match route.read(Some(value)) {
                Ok(message) => return Some((message, (values, route, gone))),
                Err(_) => values.drain().await,
            },
            Ok(None) => Ok(()),
            Err(Refusal::BrokeOff) => Err(Refusal::BrokeOff),
            Err(_) => values.drain().await,
        };
        if ended.is_err() {
            // Nobody listens any more: then nothing is left to be ended.
            let _ = gone.send(());
        }
        None
    });
    stream::iter(first).chain(rest)
}

/// The call's metadata. A token comes as it is, without "Bearer" (etcd, `v3rpc/rpctypes/metadatafields.go`).
fn metadata(headers: &HeaderMap) -> MetadataMap {
    let mut metadata = HeaderMap::new();
    for (name, value) in headers {
        let Some(name) = name.as_str().strip_prefix(METADATA_PREFIX) else { continue };
        // Those steer the transport, and binary ones have an encoding of their own.
        let is_transport = name.starts_with("grpc-") || matches!(name, "te" | "content-type");
        if is_transport || name.ends_with("-bin") {
            continue;
        }
        if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
            metadata.append(name, value.clone());
        }
    }
    if let Some(token) = headers.get(AUTHORIZATION) {
        metadata.insert("token", token.clone());
    }
    MetadataMap::from_headers(metadata)
}

fn respond<B>(body: B) -> Response<Answer>
where
    B: Body<Data = Bytes, Error = std::convert::Infallible> + Send + 'static,
{
    let mut response = Response::new(Answer::new(body.map_err(|never| match never {})));
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Answer> {
    let mut response = respond(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_and_named_metadata_are_passed_on_and_nothing_else() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "abc.1"),
            ("grpc-metadata-hasleader", "true"),
            ("grpc-metadata-grpc-timeout", "1n"),
            ("grpc-metadata-content-type", "x"),
            ("grpc-metadata-trace-bin", "%%"),
            ("user-agent", "curl"),
            ("token", "not this way"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let metadata = metadata(&headers);
        assert_eq!(metadata.len(), 2);
        assert_eq!(metadata.get("token").expect("a token"), "abc.1");
        assert_eq!(metadata.get("hasleader").expect("a flag"), "true");
    }
}
