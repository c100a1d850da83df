//! A second ledger: keys put into the store itself, over its JSON gateway, while everything else goes on.
//!
//! One key after the other, each once, at whichever node answers. A put that does not end with success is *unknown*: it may be
//! there or not. A node without an answer for [`PATIENCE`] costs that much before the next one is asked, and that is what the
//! probe can add to a pause of the store.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::rest::{self, At};

/// Where the keys live, out of the way of the cluster's own.
const PREFIX: &str = "/drill/";
/// The first key after all of those: the last byte of the prefix, one higher.
const PREFIX_END: &str = "/drill0";
/// One put at one node.
const PATIENCE: Duration = Duration::from_millis(100);
/// Between two puts.
const PERIOD: Duration = Duration::from_millis(10);

/// A put that was answered with success.
#[derive(Debug, Clone)]
pub struct Put {
    /// Its key.
    pub key: String,
    /// When the answer came.
    pub at: Instant,
}

/// The running writer of keys.
#[derive(Debug)]
pub struct KeyWriter {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Vec<Put>>,
}

impl KeyWriter {
    /// Starts to put keys at any of `nodes`. The keys of different `number`s are different.
    #[must_use]
    pub fn start(nodes: Vec<At>, number: i64) -> KeyWriter {
        let stop = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(put(nodes, number, stop.clone()));
        KeyWriter { stop, task }
    }

    /// Stops after the put in flight: the puts that were answered, in order.
    pub async fn stop(self) -> Vec<Put> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap_or_default()
    }
}

/// The longest pause between two answered puts that ends after `since`.
#[must_use]
pub fn longest_pause(puts: &[Put], since: Instant) -> Option<Duration> {
    puts.windows(2).filter(|pair| pair[1].at >= since).map(|pair| pair[1].at - pair[0].at).max()
}

async fn put(nodes: Vec<At>, writer: i64, stop: Arc<AtomicBool>) -> Vec<Put> {
    let mut acknowledged = Vec::new();
    let (mut number, mut node) = (0_u64, 0_usize);
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let key = format!("{PREFIX}{writer:04}-{number:08}");
        let document = json!({"key": STANDARD.encode(&key), "value": STANDARD.encode(number.to_string())});
        match rest::post(nodes[node].clone(), "/v3/kv/put", &document, PATIENCE).await {
            Ok((200, _)) => acknowledged.push(Put { key, at: Instant::now() }),
            Ok(_) | Err(_) => node = (node + 1) % nodes.len(),
        }
        tokio::time::sleep(PERIOD).await;
    }
    acknowledged
}

/// Those of `acknowledged` that the store does not hold.
///
/// # Errors
/// When the store cannot be read.
pub async fn missing(node: At, acknowledged: &[Put]) -> Result<Vec<String>> {
    let question = json!({
        "key": STANDARD.encode(PREFIX),
        "range_end": STANDARD.encode(PREFIX_END),
        "keys_only": true,
    });
    let (status, text) = rest::post(node, "/v3/kv/range", &question, Duration::from_secs(10)).await?;
    if status != 200 {
        bail!("the keys cannot be read: {text}");
    }
    let answer: Value = serde_json::from_str(&text)?;
    let pairs = answer.get("kvs").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let present = pairs
        .iter()
        .filter_map(|pair| pair.get("key")?.as_str())
        .map(|key| STANDARD.decode(key).context("a key that is not base64"))
        .collect::<Result<BTreeSet<Vec<u8>>>>()?;
    Ok(acknowledged
        .iter()
        .filter(|put| !present.contains(put.key.as_bytes()))
        .map(|put| put.key.clone())
        .collect())
}

/// Which of `nodes` leads the store, by their own answers.
pub async fn leader(nodes: &[At]) -> Option<usize> {
    for (index, node) in nodes.iter().enumerate() {
        if let Some(status) = status(node).await
            && status.leads()
        {
            return Some(index);
        }
    }
    None
}

/// Hands the leadership of the store to `target`, whoever has it; nothing to do when it is there already.
///
/// # Errors
/// Without a leader, or when it refuses.
pub async fn lead(nodes: &[At], target: usize) -> Result<()> {
    let wanted = status(&nodes[target]).await.context("the node to lead does not answer")?;
    let from = leader(nodes).await.context("the store has no leader")?;
    if from == target {
        return Ok(());
    }
    let document = json!({"targetID": wanted.member});
    let path = "/v3/maintenance/transfer-leadership";
    let (status, text) = rest::post(nodes[from].clone(), path, &document, Duration::from_secs(2)).await?;
    if status != 200 {
        bail!("the store's leader refuses to hand over: {text}");
    }
    Ok(())
}

/// Whether the node leads the store, as it says itself.
pub async fn leads(node: &At) -> bool {
    status(node).await.is_some_and(|status| status.leads())
}

struct Status {
    /// Its own id, as JSON carries 64 bits: in decimal digits.
    member: String,
    leader: String,
}

impl Status {
    fn leads(&self) -> bool {
        self.member == self.leader
    }
}

async fn status(node: &At) -> Option<Status> {
    let asked =
        rest::post(node.clone(), "/v3/maintenance/status", &json!({}), Duration::from_millis(500)).await;
    let (200, text) = asked.ok()? else { return None };
    let answer: Value = serde_json::from_str(&text).ok()?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    Some(Status {
        member: text(answer.get("header")?.get("member_id")?)?,
        leader: text(answer.get("leader")?)?,
    })
}
