//! The store's JSON API, for a caller who tries everything once: what was not answered may have happened.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// Longer than an election; a member whose disk stands still answers nothing.
const ATTEMPT: Duration = Duration::from_secs(2);

/// Clones share their connections.
#[derive(Clone)]
pub(crate) struct Client {
    http: legacy::Client<HttpConnector, Full<Bytes>>,
}

impl Client {
    pub(crate) fn new() -> Client {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(Duration::from_millis(500)));
        connector.set_nodelay(true);
        // Once means once: a request on a connection that broke is not sent again on another.
        let http =
            legacy::Client::builder(TokioExecutor::new()).retry_canceled_requests(false).build(connector);
        Client { http }
    }

    /// The answer of `endpoint` (`address:port`) to `/v3/{method}`.
    pub(crate) async fn call(&self, endpoint: &str, method: &str, body: &Value) -> Result<Value> {
        let request = Request::post(format!("http://{endpoint}/v3/{method}"))
            .header("content-type", "application/json")
            .body(Full::from(body.to_string()))?;
        let answer = async {
            let answer = self.http.request(request).await?;
            let status = answer.status();
            let body = answer.into_body().collect().await?.to_bytes();
            if !status.is_success() {
                bail!("{endpoint}: {method}: {status}: {}", String::from_utf8_lossy(&body).trim());
            }
            Ok(serde_json::from_slice(&body)?)
        };
        tokio::time::timeout(ATTEMPT, answer)
            .await
            .with_context(|| format!("{endpoint}: {method}: no answer"))?
    }
}

pub(crate) fn encoded(bytes: &str) -> String {
    BASE64_STANDARD.encode(bytes)
}

/// # Errors
/// It is not base64 of a text.
pub(crate) fn decoded(value: &Value) -> Result<String> {
    let text = value.as_str().context("no base64 where some was expected")?;
    Ok(String::from_utf8(BASE64_STANDARD.decode(text)?)?)
}

/// A 64-bit number as the JSON of protobuf has it: a string, absent when 0.
pub(crate) fn number(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).or_else(|| value.as_u64()).unwrap_or(0)
}
