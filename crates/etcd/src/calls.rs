//! The gRPC services behind one door, with every call looked at ([`crate::access`]) and counted: for what comes in over HTTP/2 and for the JSON gateway.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use http::{Request, Response};
use hyper::body::Body;
use tonic::codegen::StdError;
use tonic::service::Routes;
use tower::{Service, ServiceExt};

use crate::access::Gate;
use crate::metrics::{Answer, Metrics};
use crate::punctual::{Punctual, Share, Unfinished};
use crate::words;

/// One per server; a clone per call.
#[derive(Clone)]
pub(crate) struct Calls {
    routes: Routes,
    gate: Gate,
    metrics: Arc<Metrics>,
    unfinished: Unfinished,
    /// How long a request that has begun may take to arrive.
    body_time: Duration,
}

impl Calls {
    pub(crate) fn new(routes: Routes, gate: Gate, metrics: Arc<Metrics>, body_time: Duration) -> Calls {
        Calls { routes: routes.prepare(), gate, metrics, unfinished: Unfinished::default(), body_time }
    }

    /// For a request that is put together elsewhere: what it holds counts with the others.
    pub(crate) fn share(&self) -> Share {
        self.unfinished.share()
    }

    /// Calls the method that the path names.
    pub(crate) async fn answer<B>(self, mut request: Request<B>) -> Response<Answer>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<StdError>,
    {
        let uri = request.uri().clone();
        let path = uri.path();
        let takes_stream = matches!(path, "/etcdserverpb.Watch/Watch" | "/etcdserverpb.Lease/LeaseKeepAlive");
        let call = self.metrics.begin(path);
        let admitted = match words::check(request.headers()) {
            Ok(()) => self.gate.admit(&mut request).await,
            refused => refused,
        };
        if let Err(refused) = admitted {
            let response = refused.into_http();
            return match call {
                Some(call) => call.watch(response),
                None => response.map(Answer::new),
            };
        }
        let request = request.map(|body| Punctual::new(body, self.body_time, takes_stream, &self.unfinished));
        // Never an error: its type has no value.
        match call {
            Some(call) => {
                let request = request.map(|body| call.receive(Box::pin(body)));
                let Ok(response) = self.routes.oneshot(request).await;
                call.watch(words::in_etcds(path, takes_stream, response))
            }
            None => {
                let Ok(response) = self.routes.oneshot(request).await;
                words::in_etcds(path, takes_stream, response).map(Answer::new)
            }
        }
    }
}

impl<B> Service<Request<B>> for Calls
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<StdError>,
{
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Answer>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.clone().answer(request).map(Ok).boxed()
    }
}
