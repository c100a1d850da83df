//! `check perf|datascale`: a load that the store should carry, and a verdict.
//!
//! ```text
//!              puts/s  clients              pairs      bytes each   clients
//! perf   s        150       50   datascale  10,000     1024             50
//!        m       1000      200             100,000     1024            200
//!        l       8000      500           1,000,000     1024            500
//!        xl    15,000     1000           3,000,000     1024          1,000
//! ```
//!
//! The numbers, the verdict's limits and its words are etcdctl's. Each client has a connection of its own. What was
//! written is deleted afterwards. Not for a store that somebody needs at the time.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, Subcommand};
use futures_util::future::join_all;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use indicatif::{ProgressBar, ProgressStyle};
use quorate_wire::etcdserverpb::{
    CompactionRequest, DefragmentRequest, DeleteRangeRequest, PutRequest, RangeRequest,
};
use tokio::time::Instant;

use super::answer::Unformed;
use super::connect::Dialer;
use super::store::{Store, prefix_end};
use super::{Context, Failure, Outcome, output};

/// Deleting, compacting and defragmenting what was written.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(30);
/// `/metrics` of any store is far below.
const LARGEST_METRICS: usize = 16 << 20;
/// Below this part of the wanted rate the store is too slow.
const LEAST_RATE: f64 = 0.9;
/// No request may take longer.
const SLOWEST_S: f64 = 0.5;
/// Nor may they differ more.
const STDDEV_S: f64 = 0.1;

/// Verbs that put load on the store.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Whether the store carries a rate of writes
    Perf(Perf),
    /// How much memory a number of keys takes
    Datascale(Datascale),
}

/// What both take.
#[derive(Debug, Args)]
struct Common {
    /// s, m, l or xl
    #[arg(long, default_value = "s")]
    load: String,
    /// Compact afterwards
    #[arg(long)]
    auto_compact: bool,
    /// Defragment afterwards
    #[arg(long)]
    auto_defrag: bool,
    #[command(flatten)]
    unformed: Unformed,
}

/// Arguments of `check perf`.
#[derive(Debug, Args)]
pub struct Perf {
    #[command(flatten)]
    common: Common,
    /// Below which keys are written
    #[arg(long, default_value = "/etcdctl-check-perf/")]
    prefix: String,
    /// For how long (etcdctl's is always 60s)
    #[arg(long, default_value = "60s", value_parser = super::parse_duration)]
    duration: Duration,
}

/// Arguments of `check datascale`.
#[derive(Debug, Args)]
pub struct Datascale {
    #[command(flatten)]
    common: Common,
    /// Below which keys are written
    #[arg(long, default_value = "/etcdctl-check-datascale/")]
    prefix: String,
}

impl Verb {
    /// Does it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn run(&self, context: &Context) -> Outcome {
        match self {
            Verb::Perf(arguments) => arguments.run(context).await,
            Verb::Datascale(arguments) => arguments.run(context).await,
        }
    }
}

impl Common {
    /// 0 to 3.
    fn size(&self) -> Result<usize, Failure> {
        self.unformed.check()?;
        match self.load.as_str() {
            "s" | "small" => Ok(0),
            "m" | "medium" => Ok(1),
            "l" | "large" => Ok(2),
            "xl" | "xLarge" => Ok(3),
            other => Err(Failure::bad_feature(format!("unknown load option {other}"))),
        }
    }

    /// Deletes what was written, and what was asked for besides.
    async fn clean_up(&self, context: &Context, prefix: &str) -> Outcome {
        let store = context.store.with_timeout(CLEANUP_TIMEOUT);
        let request = DeleteRangeRequest {
            key: prefix.to_owned().into(),
            range_end: prefix_end(prefix.as_bytes()).into(),
            prev_kv: false,
        };
        let deleted = match store.tell(async |at| at.kv().delete_range(request.clone()).await).await {
            Ok(deleted) => deleted,
            Err(failure) => {
                let reason = failure.message;
                output::line(&format!("FAIL: Cleanup failed during key deletion: ERROR({reason})"));
                return Ok(());
            }
        };
        if self.auto_compact {
            let revision = deleted.header.map_or(0, |header| header.revision);
            output::line(&format!("Compacting with revision {revision}"));
            let request = CompactionRequest { revision, physical: true };
            store.tell(async |at| at.kv().compact(request).await).await?;
            output::line(&format!("Compacted with revision {revision}"));
        }
        if self.auto_defrag {
            for endpoint in store.endpoints() {
                output::line(&format!("Defragmenting {endpoint:?}"));
                let rpc = async |at: super::store::Connection| {
                    at.maintenance().defragment(DefragmentRequest {}).await
                };
                store.at(endpoint, rpc).await.map_err(Failure::new)?;
                output::line(&format!("Defragmented {endpoint:?}"));
            }
        }
        Ok(())
    }
}

/// Somebody's keys must not be deleted in the end.
async fn must_be_empty(store: &Store, prefix: &str) -> Outcome {
    let request = RangeRequest {
        key: prefix.to_owned().into(),
        range_end: prefix_end(prefix.as_bytes()).into(),
        limit: 1,
        ..RangeRequest::default()
    };
    if store.range(request).await?.kvs.is_empty() {
        return Ok(());
    }
    Err(Failure::bad_input(format!(
        "prefix {prefix:?} has keys. Delete with 'quoratectl del --prefix {prefix}' first"
    )))
}

impl Perf {
    async fn run(&self, context: &Context) -> Outcome {
        let size = self.common.size()?;
        let (rate, clients) = [(150, 50), (1000, 200), (8000, 500), (15_000, 1000)][size];
        must_be_empty(&context.store, &self.prefix).await?;
        let end = Instant::now() + self.duration;
        let bar = bar(self.duration.as_secs().max(1));
        let load = Load::new(&self.prefix, 256, 1024);
        let begun = Instant::now();
        let pace = Pace { next: Cell::new(begun), every: Duration::from_secs(1) / rate };
        let workers = (0..clients).map(|_| async {
            let store = context.store.another();
            loop {
                let turn = pace.turn();
                if turn >= end {
                    break;
                }
                tokio::time::sleep_until(turn).await;
                load.put(&store).await;
                bar.set_position(begun.elapsed().as_secs());
            }
        });
        let interrupted = tokio::select! {
            _ = join_all(workers) => false,
            _ = tokio::signal::ctrl_c() => true,
        };
        let elapsed = begun.elapsed();
        bar.finish_and_clear();
        self.common.clean_up(context, &self.prefix).await?;
        if interrupted {
            return Err(Failure { message: String::new(), code: 5 });
        }
        verdict(&load, elapsed, f64::from(rate))
    }
}

fn verdict(load: &Load<'_>, elapsed: Duration, wanted: f64) -> Outcome {
    let report = load.report(elapsed);
    let mut passed = true;
    let errors = load.errors.borrow();
    if !errors.is_empty() {
        output::line("FAIL: too many errors");
        for (error, count) in &*errors {
            output::line(&format!("FAIL: ERROR({error}) -> {count}"));
        }
        passed = false;
    }
    let mut judge = |good: bool, said: String| {
        output::line(&said);
        passed &= good;
    };
    let shown = report.rate.ceil();
    if report.rate / wanted <= LEAST_RATE {
        judge(false, format!("FAIL: Throughput too low: {shown} writes/s"));
    } else {
        judge(true, format!("PASS: Throughput is {shown} writes/s"));
    }
    if report.slowest > SLOWEST_S {
        judge(false, format!("Slowest request took too long: {:.6}s", report.slowest));
    } else {
        judge(true, format!("PASS: Slowest request took {:.6}s", report.slowest));
    }
    if report.stddev > STDDEV_S {
        judge(false, format!("Stddev too high: {:.6}s", report.stddev));
    } else {
        judge(true, format!("PASS: Stddev is {:.6}s", report.stddev));
    }
    output::line(if passed { "PASS" } else { "FAIL" });
    if passed { Ok(()) } else { Err(Failure::new(String::new())) }
}

impl Datascale {
    async fn run(&self, context: &Context) -> Outcome {
        let size = self.common.size()?;
        let (pairs, clients) = [(10_000, 50), (100_000, 200), (1_000_000, 500), (3_000_000, 1000)][size];
        must_be_empty(&context.store, &self.prefix).await?;
        let endpoint = context.store.endpoints().first().cloned().unwrap_or_default();
        let memory = async |when: &str| {
            resident_bytes(context.store.dialer(), &endpoint).await.map_err(|reason| {
                output::line(&reason);
                output::line(&format!(
                    "FAIL: Could not read process_resident_memory_bytes {when} the put operations."
                ));
                Failure::new(String::new())
            })
        };
        let before = memory("before").await?;
        output::line(&format!(
            "Start data scale check for work load [{pairs} key-value pairs, 1024 bytes per key-value, {clients} \
             concurrent clients]."
        ));
        let bar = bar(pairs);
        let load = Load::new(&self.prefix, 512, 512);
        let left = Cell::new(pairs);
        let workers = (0..clients).map(|_| async {
            let store = context.store.another();
            while left.get() > 0 {
                left.set(left.get() - 1);
                load.put(&store).await;
                bar.inc(1);
            }
        });
        let interrupted = tokio::select! {
            _ = join_all(workers) => false,
            _ = tokio::signal::ctrl_c() => true,
        };
        bar.finish_and_clear();
        let after = memory("after").await;
        self.common.clean_up(context, &self.prefix).await?;
        if interrupted {
            return Err(Failure { message: String::new(), code: 5 });
        }
        let used = (after? - before) / f64::from(1 << 20);
        let errors = load.errors.borrow();
        if !errors.is_empty() {
            output::line("FAIL: too many errors");
            for (error, count) in &*errors {
                output::line(&format!("FAIL: ERROR({error}) -> {count}"));
            }
            return Err(Failure::new(String::new()));
        }
        output::line(&format!("PASS: Approximate system memory used : {used:.2} MB."));
        Ok(())
    }
}

/// On standard error, and only for people.
fn bar(length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template(" {pos} / {len} {bar:40} {percent}% {elapsed}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length).with_style(style)
}

/// Turns at an even rate, whoever takes them.
struct Pace {
    next: Cell<Instant>,
    every: Duration,
}

impl Pace {
    fn turn(&self) -> Instant {
        // What could not be done in time is not made up for in a burst.
        let turn = self.next.get().max(Instant::now());
        self.next.set(turn + self.every);
        turn
    }
}

/// Puts of random keys, and how they went.
struct Load<'p> {
    prefix: &'p str,
    key_bytes: usize,
    value: Vec<u8>,
    seconds: RefCell<Vec<f64>>,
    errors: RefCell<BTreeMap<String, u64>>,
}

struct Report {
    rate: f64,
    slowest: f64,
    stddev: f64,
}

impl<'p> Load<'p> {
    fn new(prefix: &'p str, key_bytes: usize, value_bytes: usize) -> Load<'p> {
        Load {
            prefix,
            key_bytes,
            value: vec![0; value_bytes],
            seconds: RefCell::new(Vec::new()),
            errors: RefCell::new(BTreeMap::new()),
        }
    }

    async fn put(&self, store: &Store) {
        let mut key = self.prefix.as_bytes().to_vec();
        key.extend_from_slice(&fastrand::u64(..).to_be_bytes());
        key.resize(self.prefix.len() + self.key_bytes, 0);
        let request =
            PutRequest { key: key.into(), value: self.value.clone().into(), ..PutRequest::default() };
        let begun = Instant::now();
        match store.tell(async |at| at.kv().put(request.clone()).await).await {
            Ok(_) => self.seconds.borrow_mut().push(begun.elapsed().as_secs_f64()),
            Err(failure) => *self.errors.borrow_mut().entry(failure.message).or_default() += 1,
        }
    }

    #[allow(clippy::cast_precision_loss)]
    fn report(&self, elapsed: Duration) -> Report {
        let seconds = self.seconds.borrow();
        let count = seconds.len().max(1) as f64;
        let average = seconds.iter().sum::<f64>() / count;
        let variance = seconds.iter().map(|one| (one - average).powi(2)).sum::<f64>() / count;
        Report {
            rate: seconds.len() as f64 / elapsed.as_secs_f64().max(1e-9),
            slowest: seconds.iter().copied().fold(0.0, f64::max),
            stddev: variance.sqrt(),
        }
    }
}

/// `process_resident_memory_bytes` of an endpoint.
async fn resident_bytes(dialer: &Dialer, endpoint: &str) -> Result<f64, String> {
    const NAME: &str = "process_resident_memory_bytes";
    let failed = |error: &dyn std::fmt::Display| format!("fetch error: reading {endpoint}/metrics: {error}");
    let (stream, is_h2) = dialer.stream(endpoint).await.map_err(|reason| format!("fetch error: {reason}"))?;
    let host = endpoint.split_once("://").map_or(endpoint, |(_, host)| host);
    let request = |url: String| {
        http::Request::get(url).header(http::header::HOST, host).body(Empty::<bytes::Bytes>::new())
    };
    let response = if is_h2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .map_err(|error| failed(&error))?;
        tokio::spawn(connection);
        let request = request(format!("https://{host}/metrics")).map_err(|error| failed(&error))?;
        sender.send_request(request).await
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(&error))?;
        tokio::spawn(connection);
        let request = request("/metrics".to_owned()).map_err(|error| failed(&error))?;
        sender.send_request(request).await
    };
    let body = Limited::new(response.map_err(|error| failed(&error))?.into_body(), LARGEST_METRICS);
    let body = body.collect().await.map_err(|error| failed(&error))?.to_bytes();
    String::from_utf8_lossy(&body)
        .lines()
        .find_map(|line| line.strip_prefix(NAME)?.trim().parse().ok())
        .ok_or_else(|| format!("could not find: {NAME}"))
}
