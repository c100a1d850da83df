//! A plain HTTP/1.1 client: one connection, one request at a time, bodies whole or line by line.
#![allow(dead_code, missing_docs, unreachable_pub, reason = "each suite uses a part of it")]

use bytes::{Bytes, BytesMut};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::header::HeaderValue;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::common::PATIENCE;

pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// A connection. Dropping it closes the socket.
pub struct Http {
    sender: SendRequest<Body>,
    connection: JoinHandle<()>,
}

impl Drop for Http {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

pub fn whole(body: impl Into<Bytes>) -> Body {
    Body::new(Full::new(body.into()).map_err(|never| match never {}))
}

impl Http {
    pub async fn connect(address: &str) -> Http {
        let stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("an option");
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a handshake");
        let connection = tokio::spawn(async move { drop(connection.await) });
        Http { sender, connection }
    }

    /// The head of the answer, as soon as it is there.
    pub async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Response<Incoming> {
        let mut request = Request::builder().method(method).uri(path).header("host", "quorate");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body).expect("a request");
        self.sender.ready().await.expect("an open connection");
        let sent = tokio::time::timeout(PATIENCE, self.sender.send_request(request)).await;
        sent.expect("an answer in time").expect("an answer")
    }

    /// Status and JSON of a POST with one header more.
    pub async fn send_with(
        &mut self,
        path: &str,
        name: &'static str,
        value: HeaderValue,
        body: &'static str,
    ) -> (u16, Value) {
        let request = Request::post(path).header("host", "quorate").header(name, value);
        let request = request.body(whole(body)).expect("a request");
        let response = self.sender.send_request(request).await.expect("an answer");
        let code = response.status().as_u16();
        (code, Lines::new(response).whole(true).await)
    }

    /// Status and body of a POST.
    pub async fn post_text(&mut self, path: &str, body: impl Into<Bytes>) -> (u16, String) {
        let response = self.send("POST", path, &[], whole(body)).await;
        let code = response.status().as_u16();
        let body = tokio::time::timeout(PATIENCE, response.into_body().collect()).await;
        let body = body.expect("a body in time").expect("a body").to_bytes();
        (code, String::from_utf8(body.into()).expect("text"))
    }

    /// Status and JSON of a POST.
    pub async fn post(&mut self, path: &str, body: impl Into<Bytes>) -> (u16, Value) {
        let (code, text) = self.post_text(path, body).await;
        (code, serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON from {path}: {text}")))
    }

    /// The lines of a streamed answer.
    pub async fn lines(&mut self, path: &str, body: Body) -> (u16, Lines) {
        let response = self.send("POST", path, &[], body).await;
        (response.status().as_u16(), Lines::new(response))
    }
}

pub struct Lines {
    body: Incoming,
    buffer: BytesMut,
}

impl Lines {
    pub fn new(response: Response<Incoming>) -> Lines {
        Lines { body: response.into_body(), buffer: BytesMut::new() }
    }

    /// The body as one value, if `wanted`.
    pub async fn whole(self, wanted: bool) -> Value {
        if !wanted {
            return Value::Null;
        }
        let body = tokio::time::timeout(PATIENCE, self.body.collect()).await.expect("a body in time");
        serde_json::from_slice(&body.expect("a body").to_bytes()).expect("JSON")
    }

    /// The next line; None at the end.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                return Some(serde_json::from_slice(&line).expect("a line of JSON"));
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("a line in time");
            let Some(frame) = frame else {
                assert!(self.buffer.is_empty(), "the last line has no end: {:?}", self.buffer);
                return None;
            };
            self.buffer.extend_from_slice(&frame.expect("a frame").into_data().expect("data"));
        }
    }
}
