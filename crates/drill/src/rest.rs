//! Asking a node over HTTP: its REST API, and the JSON gateway of its store.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use serde_json::Value;

use crate::place::Place;

/// An address, and where to ask from.
#[derive(Debug, Clone)]
pub struct At {
    /// Where the question is sent from.
    pub place: Place,
    /// Who is asked.
    pub address: SocketAddr,
}

impl From<u16> for At {
    /// A port of loopback, asked from this process's own network.
    fn from(port: u16) -> At {
        At { place: Place::here(), address: (IpAddr::V4(Ipv4Addr::LOCALHOST), port).into() }
    }
}

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
pub async fn get(at: impl Into<At>, path: &str, deadline: Duration) -> Result<(u16, Value)> {
    let (status, body) = ask(at.into(), path, None, deadline).await?;
    let json = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body)? };
    Ok((status, json))
}

/// `GET` with its status and text, for what is no JSON.
///
/// # Errors
/// Connection refused, time out.
pub async fn text(at: impl Into<At>, path: &str, deadline: Duration) -> Result<(u16, String)> {
    let (status, body) = ask(at.into(), path, None, deadline).await?;
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// `POST` of a JSON document, with the answer's status and text.
///
/// # Errors
/// Connection refused, time out.
pub async fn post(
    at: impl Into<At>,
    path: &str,
    document: &Value,
    deadline: Duration,
) -> Result<(u16, String)> {
    let (status, body) = ask(at.into(), path, Some(document.to_string()), deadline).await?;
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

async fn ask(at: At, path: &str, document: Option<String>, deadline: Duration) -> Result<(u16, Bytes)> {
    let url = format!("http://{}{path}", at.address);
    let mut request = Request::builder().uri(&url);
    if document.is_some() {
        request = request.method("POST").header("content-type", "application/json");
    }
    let request = request.body(Full::new(Bytes::from(document.unwrap_or_default())))?;
    let ask = async move {
        let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let answer = client.request(request).await?;
        let status = answer.status().as_u16();
        anyhow::Ok((status, answer.into_body().collect().await?.to_bytes()))
    };
    // The deadline runs where the task runs, so that nothing is left behind when it passes.
    let task = at.place.spawn(async move { tokio::time::timeout(deadline, ask).await });
    task.await
        .context("the task that asks has ended")?
        .with_context(|| format!("{url}: no answer in time"))?
}

/// The cluster as the node at `at` sees it.
///
/// # Errors
/// As [`get`].
pub async fn cluster(at: impl Into<At>) -> Result<ClusterView> {
    let (_, body) = get(at, "/cluster", Duration::from_secs(1)).await?;
    Ok(serde_json::from_value(body)?)
}
