//! The REST API on port 8008: what load balancers, monitoring and the ctl talk to.
//!
//! # Problem
//!
//! Paths, codes and bodies are a contract that thousands of HAProxy files, dashboards and scripts rely on, written against
//! Patroni's small HTTP/1.0 server. HAProxy 2.6 sends exactly `OPTIONS /master HTTP/1.0`, without a Host header, and judges
//! the first line of the answer.
//!
//! # Model
//!
//! ```text
//!   connection ─► hyper ─► route (method, path) ─┬─ health, status, /cluster, …   from the snapshot and the fence's clock
//!                                                ├─ /metrics                      the same, as text
//!                                                └─ POST, PUT, PATCH, DELETE ─► admin: guarded writes, requests to the loop
//! ```
//!
//! Reading is pure: no read ever waits for PostgreSQL, the store or the loop ([`status`] says why), but for `/why` and
//! `/forecast`, which are asked by people and ask the store with a bound. Only the unsafe methods need the password.
//!
//! # Bounds
//!
//! [`CONNECTIONS`] at once, [`HEADER_TIMEOUT`] to send a head, [`BODY_LIMIT`] bytes of body: a client that is slow or
//! hostile costs a slot, never the loop.
//!
//! # What is missing
//!
//! TLS, `/failsafe`, scheduled switchovers and restarts.

pub mod admin;
pub mod answer;
pub mod cluster;
pub mod health;
pub mod query;
pub mod status;
mod why;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::config::{Credentials, RestConfig};
use crate::error::StartError;
use crate::metrics::Metrics;
use crate::shared::Shared;
use answer::Answer;
use query::Query;

/// Connections served at once; more wait in the listen queue. Load balancers and scrapers hold one each for moments.
const CONNECTIONS: usize = 256;
/// For a request's head, and for an idle kept-alive connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest request body: a dynamic configuration with long pg_hba lists stays far below.
const BODY_LIMIT: usize = 1 << 20;
/// For a request's body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a shutdown waits for answers under way.
const DRAIN: Duration = Duration::from_secs(1);
/// After a failed `accept` (no descriptors left): without a pause the task would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listens on `restapi.listen`.
///
/// # Errors
/// The address is taken or not ours; the sentence says which and what to do.
pub async fn bind(config: &RestConfig) -> Result<TcpListener, StartError> {
    // `*:8008` and `:8008` are Patroni's spellings of every address.
    let address = match config.listen.rsplit_once(':') {
        Some(("*" | "", port)) => format!("0.0.0.0:{port}"),
        _ => config.listen.clone(),
    };
    TcpListener::bind(&address).await.map_err(|source| {
        let remedy = match source.kind() {
            std::io::ErrorKind::AddrInUse => {
                "another process listens there; stop it, or change restapi.listen".to_owned()
            }
            std::io::ErrorKind::AddrNotAvailable => {
                "this machine does not have that address; correct restapi.listen".to_owned()
            }
            std::io::ErrorKind::PermissionDenied => {
                "ports below 1024 need privileges; change restapi.listen".to_owned()
            }
            _ => "correct restapi.listen (host:port)".to_owned(),
        };
        StartError::Bind { address, remedy, source }
    })
}

/// Serves until `stop` says true, then lets the answers under way finish.
pub(crate) async fn serve(listener: TcpListener, shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            Some(_) = connections.join_next() => continue,
            accepted = async {
                let slot = Arc::clone(&slots).acquire_owned().await;
                (slot, listener.accept().await)
            } => accepted,
        };
        let (slot, stream) = match accepted {
            (Ok(slot), Ok((stream, _))) => (slot, stream),
            (_, Err(error)) => {
                tracing::warn!(%error, "the REST API cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
            (Err(_), Ok(_)) => break, // the semaphore is never closed
        };
        let shared = Arc::clone(&shared);
        let mut stop = stop.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(answer(request, &shared).await.into_response()) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .half_close(true)
                .serve_connection(TokioIo::new(stream), service);
            tokio::pin!(connection);
            let stopped = async { drop(stop.wait_for(|stop| *stop).await) };
            tokio::select! {
                // A client that hangs up in the middle is its own business.
                _ = connection.as_mut() => {}
                () = stopped => {
                    connection.as_mut().graceful_shutdown();
                    let _ = tokio::time::timeout(DRAIN, connection).await;
                }
            }
            drop(slot);
        });
    }
    let _ = tokio::time::timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await;
}

/// One request.
async fn answer(request: Request<Incoming>, shared: &Arc<Shared>) -> Answer {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let query = Query::parse(head.uri.query().unwrap_or(""));
    match head.method {
        Method::GET => match path.trim_matches('/') {
            "why" => why::why(&query, shared).await,
            "forecast" => why::forecast(shared).await,
            _ => get(path, &query, shared),
        },
        Method::HEAD | Method::OPTIONS => Answer::empty(health_code(path, &query, shared)),
        Method::POST | Method::PUT | Method::PATCH | Method::DELETE => {
            if let Some(refusal) = unauthorized(shared.config.rest.authentication.as_ref(), &head.headers) {
                return refusal;
            }
            let Some(verb) = admin::Verb::of(&head.method, path) else {
                return Answer::text(501, format!("Unsupported method ('{}')", head.method));
            };
            if verb.needs_body()
                && body.size_hint().exact() == Some(0)
                && !head.headers.contains_key("content-length")
            {
                return Answer::text(411, "Client must specify Content-Length.");
            }
            match collect(body).await {
                Ok(body) => admin::perform(verb, &body, shared).await,
                Err(refusal) => refusal,
            }
        }
        other => Answer::text(501, format!("Unsupported method ('{other}')")),
    }
}

async fn collect(body: Incoming) -> Result<Bytes, Answer> {
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_LIMIT).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(_)) => {
            Err(Answer::text(413, format!("The body must be complete and at most {BODY_LIMIT} bytes.")))
        }
        Err(_) => Err(Answer::text(408, "The body did not arrive in time.")),
    }
}

fn health_code(path: &str, query: &Query, shared: &Shared) -> u16 {
    health::code(path, query, &shared.snapshot(), &shared.identity(), shared.writable())
}

fn get(path: &str, query: &Query, shared: &Shared) -> Answer {
    // The first segment names the handler, as in Patroni: `/patroni/x` is `/patroni`.
    let first = path.trim_start_matches('/').split('/').next().unwrap_or("");
    let snapshot = shared.snapshot();
    match first {
        "liveness" => Answer::empty(if shared.is_live() { 200 } else { 503 }),
        "readiness" => Answer::empty(health::readiness(query, &snapshot, shared.writable())),
        "patroni" => Answer::json(200, &status(shared, &snapshot)),
        "cluster" => Answer::json(200, &cluster::to_json(&snapshot, &shared.config.scope)),
        "history" => Answer::json(200, &snapshot.cluster.history),
        "config" => match &snapshot.cluster.config {
            Some(config) => Answer::json(200, config),
            None => Answer::text(502, "the cluster has no configuration yet"),
        },
        "metrics" => Answer::metrics(Metrics::render(shared)),
        "failsafe" => Answer::text(502, "failsafe mode is not enabled"),
        _ => Answer::json(health_code(path, query, shared), &status(shared, &snapshot)),
    }
}

fn status(shared: &Shared, snapshot: &status::Snapshot) -> Value {
    snapshot.to_json(&shared.identity(), quorate(shared, snapshot))
}

/// What Quorate adds to the status document.
fn quorate(shared: &Shared, snapshot: &status::Snapshot) -> Map<String, Value> {
    let store = shared.handle.status();
    let mut object = Map::new();
    object.insert("version".into(), json!(env!("CARGO_PKG_VERSION")));
    object.insert("reason".into(), json!(snapshot.reason));
    if let Some(operation) = &snapshot.operation {
        object.insert("operation".into(), json!(operation));
    }
    if let Some(left) = shared.lease_remaining() {
        object
            .insert("lease_remaining_ms".into(), json!(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)));
    }
    object.insert(
        "store".into(),
        json!({
            "member_id": format!("{:x}", store.header.member_id),
            "leader": store.leader.map(|leader| format!("{leader:x}")),
            "term": store.header.term,
            "revision": store.header.revision,
        }),
    );
    object
}

/// None when the request may go on.
fn unauthorized(credentials: Option<&Credentials>, headers: &http::HeaderMap) -> Option<Answer> {
    let credentials = credentials?;
    let Some(given) = headers.get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok()) else {
        return Some(Answer::unauthorized("no auth header received"));
    };
    let expected = format!("{}:{}", credentials.username, credentials.password);
    let matches = given.strip_prefix("Basic ").and_then(|text| base64(text.trim())).is_some_and(|given| {
        // Constant time in the length of what was given, so that the answer's delay spells out nothing.
        let differences = given.iter().zip(expected.bytes().cycle()).fold(0, |sum, (a, b)| sum | (a ^ b));
        differences == 0 && given.len() == expected.len()
    });
    if matches { None } else { Some(Answer::unauthorized("not authenticated")) }
}

/// Standard base64 with padding, which is all that Basic authentication uses.
fn base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=').as_bytes();
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0u32, 0u8);
    for digit in text {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xFF).ok()?);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_authentication_compares_all_of_it() {
        let credentials = Credentials { username: "admin".into(), password: "s3cret".into() };
        let ask = |value: Option<&str>| {
            let mut headers = http::HeaderMap::new();
            if let Some(value) = value {
                headers.insert(http::header::AUTHORIZATION, value.parse().unwrap());
            }
            unauthorized(Some(&credentials), &headers).map(|answer| (answer.code, answer.challenge))
        };
        assert_eq!(ask(Some("Basic YWRtaW46czNjcmV0")), None);
        assert_eq!(ask(None), Some((401, true)));
        assert_eq!(ask(Some("Basic YWRtaW46czNjcmU=")), Some((401, true)), "a prefix of the password");
        assert_eq!(
            ask(Some("Basic YWRtaW46czNjcmV0YWRtaW46czNjcmV0")),
            Some((401, true)),
            "twice the password"
        );
        assert_eq!(ask(Some("Bearer YWRtaW46czNjcmV0")), Some((401, true)));
        assert!(unauthorized(None, &http::HeaderMap::new()).is_none(), "no password configured");
    }

    #[test]
    fn base64_of_the_rfc() {
        for (text, plain) in
            [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYmFy", "foobar")]
        {
            assert_eq!(base64(text).unwrap(), plain.as_bytes());
        }
        assert_eq!(base64("Zm9*"), None);
    }
}
