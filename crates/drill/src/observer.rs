//! Watches every node's REST API and prints one line per change.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::task::JoinHandle;

use crate::cluster::Cluster;
use crate::rest::{self, At};

/// Between two looks at a node.
const PERIOD: Duration = Duration::from_millis(50);

/// A line of the timeline.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Line {
    /// Since the zero of the timeline, in seconds; negative before the fault.
    pub at_s: f64,
    /// The node, or empty.
    pub node: String,
    /// What happened.
    pub what: String,
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "  {:>+8.3} s  {:<6} {}", self.at_s, self.node, self.what)
    }
}

/// A timeline with a zero that moves to the fault.
#[derive(Debug, Clone)]
pub struct Timeline {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug)]
struct Shared {
    zero: Instant,
    print: bool,
    lines: Vec<Line>,
}

impl Timeline {
    /// Starts now. With `print` every line goes to the terminal when it happens.
    #[must_use]
    pub fn new(print: bool) -> Timeline {
        Timeline { shared: Arc::new(Mutex::new(Shared { zero: Instant::now(), print, lines: Vec::new() })) }
    }

    /// The fault happens now: later lines count from here.
    pub fn fault(&self, at: Instant) {
        self.shared.lock().expect("no panic inside").zero = at;
    }

    /// Something happened just now.
    pub fn event(&self, node: &str, what: impl Into<String>) {
        self.event_at(Instant::now(), node, what);
    }

    /// Something happened at `at`.
    ///
    /// # Panics
    /// Never: nothing panics while it holds the lock.
    pub fn event_at(&self, at: Instant, node: &str, what: impl Into<String>) {
        let mut shared = self.shared.lock().expect("no panic inside");
        let at_s = match at.checked_duration_since(shared.zero) {
            Some(after) => after.as_secs_f64(),
            None => -(shared.zero - at).as_secs_f64(),
        };
        let line = Line { at_s, node: node.to_owned(), what: what.into() };
        if shared.print {
            println!("{line}");
        }
        shared.lines.push(line);
    }

    /// Everything so far.
    ///
    /// # Panics
    /// Never: nothing panics while it holds the lock.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        self.shared.lock().expect("no panic inside").lines.clone()
    }
}

/// The running observer; ends when it is dropped.
#[derive(Debug)]
pub struct Observer {
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Observer {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Starts to look at every node of `cluster`.
#[must_use]
pub fn observe(cluster: &Cluster, timeline: &Timeline) -> Observer {
    let tasks = cluster
        .nodes
        .iter()
        .map(|node| tokio::spawn(watch(node.name.clone(), node.rest(), timeline.clone())))
        .collect();
    Observer { tasks }
}

async fn watch(name: String, at: At, timeline: Timeline) {
    let mut before: Option<BTreeMap<&'static str, String>> = None;
    loop {
        let now = rest::get(at.clone(), "/patroni", Duration::from_millis(500))
            .await
            .ok()
            .map(|(_, body)| facts(&body));
        if now != before {
            match (&before, &now) {
                (None, Some(now)) => timeline.event(&name, describe(now)),
                (Some(_), None) => timeline.event(&name, "does not answer any more"),
                (Some(before), Some(now)) if describe(before) != describe(now) => {
                    timeline.event(&name, describe(now))
                }
                (Some(_) | None, Some(_) | None) => {}
            }
            before = now;
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// What a reader wants to see change.
fn facts(body: &Value) -> BTreeMap<&'static str, String> {
    ["role", "state", "timeline", "replication_state"]
        .into_iter()
        .filter_map(|key| match body.get(key)? {
            Value::String(text) => Some((key, text.clone())),
            other => Some((key, other.to_string())),
        })
        .collect()
}

fn describe(facts: &BTreeMap<&'static str, String>) -> String {
    let get = |key| facts.get(key).map_or("", String::as_str);
    let timeline = facts.get("timeline").map(|timeline| format!(", timeline {timeline}")).unwrap_or_default();
    match (get("role"), get("state")) {
        ("", "") => "quorate is up".to_owned(),
        (role, "running") if get("replication_state") == "streaming" => {
            format!("{role}, streaming{timeline}")
        }
        (role, state) => format!("{role}, {state}{timeline}"),
    }
}
