//! `make-mirror`: copies keys to another store, and then every change, until it is interrupted.
//!
//! First the keys as they are at one revision, in portions; then what has happened since, one transaction for each
//! revision, so that the copy never shows half of one. What is asked of the destination may be asked twice without harm,
//! so an outage on either side only delays. The number of keys copied is printed every 30 seconds.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgAction, Args};
use quorate_wire::etcdserverpb::request_op::Request;
use quorate_wire::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest,
};
use quorate_wire::mvccpb::event::EventType;

use super::answer::Unformed;
use super::connect::{Dialer, Security};
use super::follow::Watcher;
use super::store::{Store, User, prefix_range};
use super::{Context, Failure, Outcome, Times, go, output, user_of};

/// Keys that are read at once.
const PORTION: i64 = 1000;
/// Operations in one transaction, the limit of a store that was started without another.
const MOST_OPERATIONS: usize = 128;
/// Bytes in one transaction, unless one key alone is larger: a store takes 1.5 MiB.
const MOST_BYTES: usize = 1 << 20;
/// Between two lines.
const REPORT_EVERY: Duration = Duration::from_secs(30);

/// Arguments of `make-mirror`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[arg(value_name = "DESTINATION")]
    destination: Vec<String>,
    /// Only keys that begin so
    #[arg(long, default_value = "", hide_default_value = true)]
    prefix: String,
    /// What they begin with at the destination, instead
    #[arg(long, default_value = "", hide_default_value = true)]
    dest_prefix: String,
    /// They begin with nothing instead at the destination
    #[arg(long)]
    no_dest_prefix: bool,
    /// This client's certificate, for the destination
    #[arg(long)]
    dest_cert: Option<PathBuf>,
    /// Its key
    #[arg(long)]
    dest_key: Option<PathBuf>,
    /// The authority of the destination's certificate
    #[arg(long)]
    dest_cacert: Option<PathBuf>,
    /// No TLS unless the destination's address begins with https
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "true",
          default_missing_value = "true", value_parser = go::bool, value_name = "BOOL")]
    dest_insecure_transport: bool,
    /// NAME or NAME:PASSWORD at the destination
    #[arg(long)]
    dest_user: Option<String>,
    /// The password at the destination
    #[arg(long)]
    dest_password: Option<String>,
    #[command(flatten)]
    unformed: Unformed,
}

impl Arguments {
    /// Does it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn run(&self, context: &Context) -> Outcome {
        self.unformed.check()?;
        let [destination] = self.destination.as_slice() else {
            return Err(Failure::bad_arguments("make-mirror takes one destination argument"));
        };
        if self.no_dest_prefix && !self.dest_prefix.is_empty() {
            return Err(Failure::bad_arguments(
                "`--dest-prefix` and `--no-dest-prefix` cannot be set at the same time, choose one",
            ));
        }
        let user =
            user_of(self.dest_user.as_deref(), self.dest_password.as_deref(), "Destination Password: ")?;
        let mut mirror = Mirror {
            from: &context.store,
            to: self.open(context, destination, user)?,
            names: self,
            copied: 0,
            reported: tokio::time::Instant::now(),
        };
        tokio::select! {
            ended = mirror.run() => ended,
            _ = tokio::signal::ctrl_c() => Err(Failure { message: String::new(), code: 5 }),
        }
    }

    fn open(&self, context: &Context, destination: &str, user: Option<User>) -> Result<Store, Failure> {
        let security = Security {
            cacert: self.dest_cacert.clone(),
            cert: self.dest_cert.clone(),
            key: self.dest_key.clone(),
            required: !self.dest_insecure_transport,
            unverified: false,
        };
        let Times { dial, ping_every, ping_timeout, .. } = context.times;
        let dialer = Dialer::new(dial, ping_every, ping_timeout, security);
        dialer.check().map_err(Failure::bad_arguments)?;
        let endpoints = vec![destination.to_owned()];
        Ok(Store::new(endpoints, context.store.timeout(), Arc::new(dialer), user, context.debug))
    }

    /// A key's name at the destination.
    fn rename(&self, key: &[u8]) -> Vec<u8> {
        let rest = key.strip_prefix(self.prefix.as_bytes()).unwrap_or(key);
        let begin = match (self.no_dest_prefix, self.dest_prefix.as_str()) {
            (true, _) => "",
            (false, "") => &self.prefix,
            (false, begin) => begin,
        };
        [begin.as_bytes(), rest].concat()
    }
}

struct Mirror<'m> {
    from: &'m Store,
    to: Store,
    names: &'m Arguments,
    copied: u64,
    reported: tokio::time::Instant,
}

impl Mirror<'_> {
    async fn run(&mut self) -> Outcome {
        let revision = self.copy().await?;
        let (key, range_end) = prefix_range(self.names.prefix.as_bytes());
        let create = WatchCreateRequest {
            key: key.into(),
            range_end: range_end.into(),
            start_revision: revision + 1,
            ..WatchCreateRequest::default()
        };
        let mut watcher = Watcher::new(self.from, create);
        loop {
            let until = self.reported + REPORT_EVERY;
            let response = tokio::select! {
                response = watcher.next() => response?,
                () = tokio::time::sleep_until(until) => { self.report(); continue }
            };
            if response.compact_revision > 0 {
                return Err(Failure::new("etcdserver: mvcc: required revision has been compacted"));
            }
            if response.canceled {
                return Err(Failure::new(format!("watch was canceled ({})", response.cancel_reason)));
            }
            let mut operations = Vec::new();
            let mut revision = 0;
            for event in response.events {
                let is_put = event.r#type() == EventType::Put;
                let kv = event.kv.unwrap_or_default();
                if kv.mod_revision != revision {
                    self.send(std::mem::take(&mut operations)).await?;
                    revision = kv.mod_revision;
                }
                let key = self.names.rename(&kv.key).into();
                operations.push(if is_put {
                    Request::RequestPut(PutRequest { key, value: kv.value, ..PutRequest::default() })
                } else {
                    Request::RequestDeleteRange(DeleteRangeRequest { key, ..DeleteRangeRequest::default() })
                });
                self.copied += 1;
            }
            self.send(operations).await?;
        }
    }

    /// The keys as they are now; gives the revision of now.
    async fn copy(&mut self) -> Result<i64, Failure> {
        let (mut key, range_end) = prefix_range(self.names.prefix.as_bytes());
        let mut revision = 0;
        loop {
            let request = RangeRequest {
                key: key.clone().into(),
                range_end: range_end.clone().into(),
                limit: PORTION,
                revision,
                ..RangeRequest::default()
            };
            let found = self.from.range(request).await?;
            if revision == 0 {
                revision = found.header.map_or(0, |header| header.revision);
            }
            if let Some(last) = found.kvs.last() {
                key = [&last.key[..], &[0]].concat();
            }
            let (mut operations, mut bytes) = (Vec::new(), 0);
            for kv in found.kvs {
                let size = kv.key.len() + kv.value.len();
                if operations.len() == MOST_OPERATIONS || bytes + size > MOST_BYTES {
                    self.send(std::mem::take(&mut operations)).await?;
                    bytes = 0;
                }
                bytes += size;
                let key = self.names.rename(&kv.key).into();
                let put = PutRequest { key, value: kv.value, ..PutRequest::default() };
                operations.push(Request::RequestPut(put));
                self.copied += 1;
            }
            self.send(operations).await?;
            if self.reported.elapsed() >= REPORT_EVERY {
                self.report();
            }
            if !found.more {
                return Ok(revision);
            }
        }
    }

    async fn send(&self, operations: Vec<Request>) -> Outcome {
        if operations.is_empty() {
            return Ok(());
        }
        let success = operations.into_iter().map(|request| RequestOp { request: Some(request) }).collect();
        let request = TxnRequest { success, ..TxnRequest::default() };
        self.to.ask(async |at| at.kv().txn(request.clone()).await).await.map(|_| ())
    }

    fn report(&mut self) {
        output::line(&self.copied.to_string());
        self.reported = tokio::time::Instant::now();
    }
}
