//! Requests to a member's REST API.

use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use super::Failure;
use super::go::base64;
use crate::config::settings::Credentials;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A switchover answers when it is over, or when the member has stopped waiting for it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(75);
const LARGEST_BODY: usize = 1 << 20;

/// Status and body.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Text.
    pub body: String,
}

/// GET.
///
/// # Errors
/// The member cannot be reached.
pub async fn get(api: &str, path: &str) -> Result<Answer, Failure> {
    send(api, Method::GET, path, None, None).await
}

/// POST with a JSON body.
///
/// # Errors
/// The member cannot be reached, or did not answer: the outcome is then unknown.
pub async fn post(
    api: &str,
    path: &str,
    body: &Value,
    credentials: Option<&Credentials>,
) -> Result<Answer, Failure> {
    send(api, Method::POST, path, Some(body), credentials).await
}

async fn send(
    api: &str,
    method: Method,
    path: &str,
    body: Option<&Value>,
    credentials: Option<&Credentials>,
) -> Result<Answer, Failure> {
    let unreachable =
        |error: String| Failure::new(format!("the REST API at {api} cannot be reached: {error}"));
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, tokio::net::TcpStream::connect(api))
        .await
        .map_err(|_| unreachable("timed out".to_owned()))?
        .map_err(|error| unreachable(error.to_string()))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    let driver = tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path).header(header::HOST, api);
    if let Some(Credentials { username, password: Some(password) }) = credentials {
        let token = base64(format!("{username}:{}", password.0).as_bytes());
        request = request.header(header::AUTHORIZATION, format!("Basic {token}"));
    }
    let body = body.map(Value::to_string).unwrap_or_default();
    if !body.is_empty() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let request = request
        .header(header::CONTENT_LENGTH, body.len())
        .body(Full::new(bytes::Bytes::from(body)))
        .map_err(|error| Failure::new(error.to_string()))?;
    let lost = |error: String| Failure::new(format!("the REST API at {api} did not answer: {error}"));
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| lost(error.to_string()))?;
        let status = response.status().as_u16();
        let bytes = Limited::new(response.into_body(), LARGEST_BODY)
            .collect()
            .await
            .map_err(|error| lost(error.to_string()))?
            .to_bytes();
        Ok(Answer { status, body: String::from_utf8_lossy(&bytes).into_owned() })
    };
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, exchange).await;
    driver.abort();
    answer.unwrap_or_else(|_| Err(lost("timed out".to_owned())))
}
