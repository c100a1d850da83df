//! What was acknowledged, and whether it is there.
//!
//! Every writer has a line of its own and writes numbers, one after the other, each tried once, at one member:
//!
//! ```text
//!   if last/3 < 17:  put last/3 = 17   put line/3/17 = …   delete line/3/0 up to line/3/(17 - WINDOW)      (one transaction)
//! ```
//!
//! So at any moment the store itself says which number was the last (`last`), and from that follows what has to be there and
//! what must not be there any more:
//!
//! 1. `last` is not below the highest number that was acknowledged, and not above the highest that was tried.
//! 2. Every acknowledged number within the window is there, with the value that belongs to it.
//! 3. Nothing below the window is there: a deletion that was acknowledged is not taken back, a transaction happens whole.
//! 4. The newest number of a line cannot find a higher one: nothing was written that nobody tried.
//!
//! A number without an answer may be there or not. The comparison keeps one that is late from being applied after its
//! successors.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::client::{Client, decoded, encoded};
use crate::member::SETTLE;
use crate::store::Store;

/// Numbers that stay of each line.
const WINDOW: u64 = 40;

/// The writers. Dropping it lets them finish what they are at.
pub(crate) struct Ledger {
    lines: Vec<Arc<Line>>,
    writers: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

struct Line {
    id: usize,
    progress: Mutex<Progress>,
}

#[derive(Default, Clone)]
struct Progress {
    tried: u64,
    /// Within the window.
    acknowledged: BTreeSet<u64>,
    total: u64,
    violation: Option<String>,
}

/// Deterministic, so that it can be compared without being kept. Some are large enough to be stored in pieces.
fn value(line: usize, n: u64) -> String {
    let length = match n {
        _ if n % 60 == 59 => 110_000,
        _ if n.is_multiple_of(4) => 4_000,
        _ => 200,
    };
    let mut value = format!("{line}/{n}/").repeat(length / 4);
    value.truncate(length);
    value
}

fn key(line: usize, n: u64) -> String {
    format!("line/{line}/{n:012}")
}

fn last(line: usize) -> String {
    format!("last/{line}")
}

impl Line {
    fn request(&self, n: u64) -> Value {
        let mut success = vec![
            json!({"requestPut": {"key": encoded(&last(self.id)), "value": encoded(&format!("{n:012}"))}}),
            json!({"requestPut": {"key": encoded(&key(self.id, n)), "value": encoded(&value(self.id, n))}}),
        ];
        if let Some(below) = n.checked_sub(WINDOW) {
            let (from, to) = (encoded(&key(self.id, 0)), encoded(&key(self.id, below + 1)));
            success.push(json!({"requestDeleteRange": {"key": from, "range_end": to}}));
        }
        let compare = json!({"key": encoded(&last(self.id)), "target": "VALUE", "result": "LESS",
            "value": encoded(&format!("{n:012}"))});
        json!({"compare": [compare], "success": success})
    }

    async fn write(&self, client: &Client, endpoint: &str) -> bool {
        let n = {
            let mut progress = self.progress.lock();
            progress.tried += 1;
            progress.tried
        };
        let answer = client.call(endpoint, "kv/txn", &self.request(n)).await;
        let Ok(answer) = answer else { return false };
        let mut progress = self.progress.lock();
        if answer["succeeded"] != json!(true) {
            progress.violation.get_or_insert(format!(
                "line {}: {n} was the newest ever tried and found a higher one: {answer}",
                self.id
            ));
            return false;
        }
        progress.acknowledged.insert(n);
        progress.acknowledged = progress.acknowledged.split_off(&n.saturating_sub(WINDOW - 1));
        progress.total += 1;
        true
    }

    /// Judges one answer to [`Line::question`], given what was known before it was asked.
    fn judge(&self, before: &Progress, answer: &Value) -> Result<()> {
        let ranges = answer["responses"].as_array().context("no answer to the transaction")?;
        let newest = &ranges[0]["response_range"]["kvs"][0]["value"];
        let newest: u64 = decoded(newest).context("the line is gone")?.parse()?;
        let tried = self.progress.lock().tried;
        let id = self.id;
        let highest = before.acknowledged.last().copied().unwrap_or(0);
        ensure!(newest >= highest, "line {id}: {highest} was acknowledged, {newest} is the last");
        ensure!(newest <= tried, "line {id}: {newest} was never tried, only up to {tried}");
        let mut present = BTreeSet::new();
        for pair in ranges[1]["response_range"]["kvs"].as_array().into_iter().flatten() {
            let found = decoded(&pair["key"])?;
            let n: u64 = found.rsplit('/').next().unwrap_or_default().parse()?;
            ensure!(found == key(id, n), "line {id}: a key that nobody wrote: {found}");
            ensure!(n <= newest, "line {id}: {n} is there, {newest} is the last");
            ensure!(
                n + WINDOW > newest,
                "line {id}: {n} was deleted together with writing {newest}, and is there"
            );
            ensure!(decoded(&pair["value"])? == value(id, n), "line {id}: {n} has another value");
            present.insert(n);
        }
        ensure!(newest == 0 || present.contains(&newest), "line {id}: half of the transaction of {newest}");
        let lost: Vec<u64> = before
            .acknowledged
            .iter()
            .filter(|n| **n + WINDOW > newest && !present.contains(n))
            .copied()
            .collect();
        ensure!(lost.is_empty(), "line {id}: acknowledged and not there: {lost:?}");
        Ok(())
    }

    fn question(&self) -> Value {
        let from = encoded(&format!("line/{}/", self.id));
        let to = encoded(&format!("line/{}0", self.id));
        let ranges = [
            json!({"requestRange": {"key": encoded(&last(self.id))}}),
            json!({"requestRange": {"key": from, "range_end": to}}),
        ];
        json!({"success": ranges})
    }
}

impl Ledger {
    /// Opens `lines` lines and starts a writer for each.
    pub(crate) async fn start(store: &mut Store, lines: usize) -> Result<Ledger> {
        let mut ledger = Ledger { lines: Vec::new(), writers: Vec::new(), stop: Arc::default() };
        for id in 0..lines {
            let zero = json!({"key": encoded(&last(id)), "value": encoded(&format!("{:012}", 0))});
            store.ask("kv/put", &zero).await?;
            ledger.lines.push(Arc::new(Line { id, progress: Mutex::default() }));
        }
        ledger.resume(store);
        Ok(ledger)
    }

    /// The writers go on, or begin.
    pub(crate) fn resume(&mut self, store: &Store) {
        self.stop = Arc::default();
        for line in &self.lines {
            let (line, stop, client) = (line.clone(), self.stop.clone(), store.client.clone());
            let endpoints = store.endpoints();
            self.writers.push(tokio::spawn(async move {
                let mut at = line.id;
                while !stop.load(Ordering::Relaxed) {
                    if !line.write(&client, &endpoints[at % endpoints.len()]).await {
                        at += 1;
                        // Not a wait for anything: a refused connection costs nothing, and would be tried for ever.
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
            }));
        }
    }

    /// No writer writes any more.
    pub(crate) async fn pause(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers.drain(..) {
            let _ = writer.await;
        }
    }

    /// Writes acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.lines.iter().map(|line| line.progress.lock().total).sum()
    }

    /// Waits until every line has got further.
    pub(crate) async fn progress(&self, store: &mut Store) -> Result<()> {
        let totals = || self.lines.iter().map(|line| line.progress.lock().total).collect::<Vec<_>>();
        let before = totals();
        let until = Instant::now() + SETTLE;
        while !totals().iter().zip(&before).all(|(now, before)| now > before) {
            store.alive()?;
            ensure!(Instant::now() < until, "no line gets on: {before:?}, {:?}", totals());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Whether everything is there, as one linearizable read of each line shows it.
    ///
    /// # Errors
    /// What is wrong.
    pub(crate) async fn verify(&self, store: &mut Store) -> Result<()> {
        for line in &self.lines {
            let before = line.progress.lock().clone();
            let answer = store.ask("kv/txn", &line.question()).await?;
            line.judge(&before, &answer)?;
            let violation = line.progress.lock().violation.clone();
            ensure!(violation.is_none(), "{}", violation.unwrap_or_default());
        }
        Ok(())
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
