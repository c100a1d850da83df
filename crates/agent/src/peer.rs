//! Asking another member's REST API: only at start, to find out whether somebody else goes by our name.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// For the whole exchange: a member that is alive answers at once.
const TIMEOUT: Duration = Duration::from_secs(2);
/// A status document has a few kilobytes.
const LIMIT: usize = 1 << 20;

/// The name under which the agent at `api_url` (`http://host:port/patroni`) answers. None: nobody answers as an agent.
pub(crate) async fn name_at(api_url: &str) -> Option<String> {
    tokio::time::timeout(TIMEOUT, ask(api_url)).await.ok()?
}

async fn ask(api_url: &str) -> Option<String> {
    let (authority, path) = api_url.strip_prefix("http://")?.split_once('/')?;
    let stream = TcpStream::connect(authority).await.ok()?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    let request =
        Request::get(format!("/{path}")).header("host", authority).body(Empty::<Bytes>::new()).ok()?;
    let exchange = async {
        let body = sender.send_request(request).await.ok()?.into_body();
        let body = Limited::new(body, LIMIT).collect().await.ok()?.to_bytes();
        let status: Value = serde_json::from_slice(&body).ok()?;
        Some(status.get("patroni")?.get("name")?.as_str()?.to_owned())
    };
    tokio::select! {
        name = exchange => name,
        // The connection only drives the exchange; that it ended first means there is no answer.
        _ = connection => None,
    }
}
