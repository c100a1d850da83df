//! The gRPC services behind one door, with every call counted: for what comes in over HTTP/2 and for the JSON gateway.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use http::{Request, Response};
use hyper::body::Body;
use tonic::codegen::StdError;
use tonic::service::Routes;
use tower::{Service, ServiceExt};

use crate::metrics::{Answer, Metrics};

/// One per server; a clone per call.
#[derive(Clone)]
pub(crate) struct Calls {
    routes: Routes,
    metrics: Arc<Metrics>,
}

impl Calls {
    pub(crate) fn new(routes: Routes, metrics: Arc<Metrics>) -> Calls {
        Calls { routes: routes.prepare(), metrics }
    }

    /// Calls the method that the path names.
    pub(crate) async fn answer<B>(self, request: Request<B>) -> Response<Answer>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<StdError>,
    {
        let call = self.metrics.begin(request.uri().path());
        let response = match self.routes.oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        match call {
            Some(call) => call.watch(response),
            None => response.map(Answer::new),
        }
    }
}

impl<B> Service<Request<B>> for Calls
where
    B: Body<Data = Bytes> + Send + 'static,
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
