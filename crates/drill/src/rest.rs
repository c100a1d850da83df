//! Reading a node's REST API.

use std::time::Duration;

use anyhow::{Context, Result};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use serde_json::Value;

/// `GET /cluster`, the part that drills look at.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ClusterView {
    /// Every member that the store knows.
    pub members: Vec<Member>,
}

/// One member of [`ClusterView`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// `leader`, `sync_standby`, `replica`, …
    pub role: String,
    /// `running`, `streaming`, …
    pub state: String,
    /// PostgreSQL's timeline, when it is known.
    pub timeline: Option<u32>,
}

/// `GET` with its status and body; an error when nothing answers within `deadline`.
///
/// # Errors
/// Connection refused, time out, a body that is not JSON.
pub async fn get(port: u16, path: &str, deadline: Duration) -> Result<(u16, Value)> {
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let url = format!("http://127.0.0.1:{port}{path}");
    let ask = async {
        let answer = client.get(url.parse()?).await?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await?.to_bytes();
        let json = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body)? };
        anyhow::Ok((status, json))
    };
    tokio::time::timeout(deadline, ask).await.with_context(|| format!("{url}: no answer in time"))?
}

/// The cluster as the node at `port` sees it.
///
/// # Errors
/// As [`get`].
pub async fn cluster(port: u16) -> Result<ClusterView> {
    let (_, body) = get(port, "/cluster", Duration::from_secs(1)).await?;
    Ok(serde_json::from_value(body)?)
}
