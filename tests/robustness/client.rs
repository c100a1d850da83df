//! A client that writes down what it asks and what it is told, over the generated stubs.
//!
//! No retries and no balancing inside: one request, one member, one record. What a library would do behind the scenes is what
//! the checkers have to see.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quorate_wire::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quorate_wire::etcdserverpb::kv_client::KvClient;
use quorate_wire::etcdserverpb::lease_client::LeaseClient;
use quorate_wire::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_wire::etcdserverpb::{self as wire, request_op, response_op};
use quorate_wire::mvccpb;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::history::{
    Answer, Body, Compare, Fault, FaultKind, Hash, History, Kv, Operation, Outcome, Record, Request,
};

/// After this a client gives up and the outcome is unknown. Shorter than an election, so that faults make unknowns.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// Where everybody writes; one clock for all.
#[derive(Clone)]
pub(crate) struct Recorder {
    begin: Instant,
    records: Arc<Mutex<Vec<Record>>>,
    answers: Arc<AtomicUsize>,
}

impl Recorder {
    pub(crate) fn new(first: Record) -> Recorder {
        Recorder {
            begin: Instant::now(),
            records: Arc::new(Mutex::new(vec![first])),
            answers: Arc::default(),
        }
    }

    pub(crate) fn now_ns(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_nanos()).expect("less than centuries")
    }

    pub(crate) fn push(&self, record: Record) {
        if matches!(&record, Record::Operation(operation) if matches!(operation.outcome, Outcome::Answered(_)))
        {
            self.answers.fetch_add(1, Ordering::Relaxed);
        }
        self.records.lock().push(record);
    }

    /// How many requests have been answered.
    pub(crate) fn answers(&self) -> usize {
        self.answers.load(Ordering::Relaxed)
    }

    pub(crate) fn fault(&self, kind: FaultKind, member: usize, leader: bool) {
        let at_ns = self.now_ns();
        self.push(Record::Fault(Fault { member, at_ns, kind, leader }));
    }

    pub(crate) fn history(&self) -> History {
        History { records: self.records.lock().clone() }
    }
}

/// Connections to a member, made when they are needed and again when they broke.
pub(crate) fn channel(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    endpoint.connect_timeout(Duration::from_millis(500)).tcp_nodelay(true).connect_lazy()
}

/// One that asks one question at a time.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) id: u32,
    pub(crate) member: usize,
    channels: Vec<Channel>,
    recorder: Recorder,
}

impl Client {
    pub(crate) fn new(id: u32, member: usize, endpoints: &[String], recorder: &Recorder) -> Client {
        let channels = endpoints.iter().map(|address| channel(address)).collect();
        Client { id, member, channels, recorder: recorder.clone() }
    }

    /// The next one, for who got no answer here.
    pub(crate) fn go_elsewhere(&mut self) {
        self.member = (self.member + 1) % self.channels.len();
    }

    /// Writes down something else.
    pub(crate) fn record(&self, record: Record) {
        self.recorder.push(record);
    }

    /// Asks and writes it down.
    pub(crate) async fn ask(&self, request: Request) -> Outcome {
        self.ask_and(request, |_| true).await
    }

    /// As above, but what comes out is written down only if it is to be kept.
    pub(crate) async fn ask_and(&self, request: Request, keep: impl FnOnce(&Outcome) -> bool) -> Outcome {
        let channel = self.channels[self.member].clone();
        let call_ns = self.recorder.now_ns();
        let answer = tokio::time::timeout(PATIENCE, perform(channel, &request)).await;
        let return_ns = self.recorder.now_ns();
        let outcome = match answer {
            Ok(Ok(answer)) => Outcome::Answered(answer),
            Ok(Err(status)) if is_refusal(&status) => {
                Outcome::Refused { message: status.message().to_owned() }
            }
            Ok(Err(status)) => {
                Outcome::Unknown { message: format!("{:?}: {}", status.code(), status.message()) }
            }
            Err(_) => Outcome::Unknown { message: "no answer in time".to_owned() },
        };
        if keep(&outcome) {
            let (client, member) = (self.id, self.member);
            let operation =
                Operation { client, member, call_ns, return_ns, request, outcome: outcome.clone() };
            self.recorder.push(Record::Operation(operation));
        }
        outcome
    }

    /// The member's hash, once it has come to `revision`.
    pub(crate) async fn hash(&self, revision: i64) -> Option<Hash> {
        let mut maintenance = MaintenanceClient::new(self.channels[self.member].clone());
        let request = wire::HashKvRequest { revision };
        let answer = tokio::time::timeout(PATIENCE * 5, maintenance.hash_kv(request)).await.ok()?.ok()?;
        let answer = answer.into_inner();
        let (at_ns, member) = (self.recorder.now_ns(), self.member);
        Some(Hash { member, at_ns, revision, compacted: answer.compact_revision, hash: answer.hash })
    }
}

/// The codes by which etcd says that nothing happened and nothing will. Everything else may have.
fn is_refusal(status: &Status) -> bool {
    match status.code() {
        Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition | Code::OutOfRange => true,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::Unimplemented
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unauthenticated => false,
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) fn kv(kv: &mvccpb::KeyValue) -> Kv {
    Kv {
        key: text(&kv.key),
        value: text(&kv.value),
        create: kv.create_revision,
        modified: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
    }
}

fn bytes(text: &str) -> bytes::Bytes {
    text.to_owned().into()
}

fn put(key: &str, value: &str, lease: i64, prev_kv: bool) -> wire::PutRequest {
    wire::PutRequest { key: bytes(key), value: bytes(value), lease, prev_kv, ..Default::default() }
}

fn delete(key: &str, end: &str, prev_kv: bool) -> wire::DeleteRangeRequest {
    wire::DeleteRangeRequest { key: bytes(key), range_end: bytes(end), prev_kv }
}

fn range(key: &str, end: &str, revision: i64, serializable: bool) -> wire::RangeRequest {
    wire::RangeRequest {
        key: bytes(key),
        range_end: bytes(end),
        revision,
        serializable,
        ..Default::default()
    }
}

fn put_body(answer: &wire::PutResponse) -> Body {
    Body::Put { previous: answer.prev_kv.as_ref().map(kv) }
}

fn delete_body(answer: &wire::DeleteRangeResponse) -> Body {
    Body::Delete { deleted: answer.deleted, previous: answer.prev_kvs.iter().map(kv).collect() }
}

fn range_body(answer: &wire::RangeResponse) -> Body {
    Body::Range { kvs: answer.kvs.iter().map(kv).collect(), count: answer.count }
}

fn op(request: &Request) -> wire::RequestOp {
    let request = match request {
        Request::Put { key, value, lease, prev_kv } => {
            request_op::Request::RequestPut(put(key, value, *lease, *prev_kv))
        }
        Request::Delete { key, end, prev_kv } => {
            request_op::Request::RequestDeleteRange(delete(key, end, *prev_kv))
        }
        Request::Range { key, end, revision, serializable } => {
            request_op::Request::RequestRange(range(key, end, *revision, *serializable))
        }
        other => unreachable!("the traffic puts no {other:?} into a transaction"),
    };
    wire::RequestOp { request: Some(request) }
}

fn compare(compare: &Compare) -> wire::Compare {
    let (target, key, union) = match compare {
        Compare::Value { key, value } => (CompareTarget::Value, key, TargetUnion::Value(bytes(value))),
        Compare::Mod { key, revision } => (CompareTarget::Mod, key, TargetUnion::ModRevision(*revision)),
        Compare::Absent { key } => (CompareTarget::Create, key, TargetUnion::CreateRevision(0)),
    };
    wire::Compare {
        result: CompareResult::Equal as i32,
        target: target as i32,
        key: bytes(key),
        target_union: Some(union),
        ..Default::default()
    }
}

fn op_body(answer: &wire::ResponseOp) -> Body {
    match &answer.response {
        Some(response_op::Response::ResponsePut(answer)) => put_body(answer),
        Some(response_op::Response::ResponseDeleteRange(answer)) => delete_body(answer),
        Some(response_op::Response::ResponseRange(answer)) => range_body(answer),
        Some(response_op::Response::ResponseTxn(_)) | None => Body::Done,
    }
}

async fn perform(channel: Channel, request: &Request) -> Result<Answer, Status> {
    let mut store = KvClient::new(channel.clone());
    let mut leases = LeaseClient::new(channel);
    let (header, body) = match request {
        Request::Put { key, value, lease, prev_kv } => {
            let answer = store.put(put(key, value, *lease, *prev_kv)).await?.into_inner();
            (answer.header, put_body(&answer))
        }
        Request::Delete { key, end, prev_kv } => {
            let answer = store.delete_range(delete(key, end, *prev_kv)).await?.into_inner();
            (answer.header, delete_body(&answer))
        }
        Request::Range { key, end, revision, serializable } => {
            let answer = store.range(range(key, end, *revision, *serializable)).await?.into_inner();
            (answer.header, range_body(&answer))
        }
        Request::Txn { compares, success, failure } => {
            let txn = wire::TxnRequest {
                compare: compares.iter().map(compare).collect(),
                success: success.iter().map(op).collect(),
                failure: failure.iter().map(op).collect(),
            };
            let answer = store.txn(txn).await?.into_inner();
            let bodies = answer.responses.iter().map(op_body).collect();
            (answer.header, Body::Txn { succeeded: answer.succeeded, bodies })
        }
        Request::Compact { revision } => {
            let request = wire::CompactionRequest { revision: *revision, physical: false };
            (store.compact(request).await?.into_inner().header, Body::Done)
        }
        Request::Grant { lease, ttl_s } => {
            let request = wire::LeaseGrantRequest { ttl: *ttl_s, id: *lease };
            let answer = leases.lease_grant(request).await?.into_inner();
            (answer.header, Body::Lease { ttl_s: answer.ttl })
        }
        Request::Renew { lease } => {
            let request = tokio_stream::once(wire::LeaseKeepAliveRequest { id: *lease });
            let mut answers = leases.lease_keep_alive(request).await?.into_inner();
            let answer = answers.message().await?;
            let answer = answer.ok_or_else(|| Status::unavailable("the stream ended without an answer"))?;
            (answer.header, Body::Lease { ttl_s: answer.ttl })
        }
        Request::Revoke { lease } => {
            let request = wire::LeaseRevokeRequest { id: *lease };
            (leases.lease_revoke(request).await?.into_inner().header, Body::Done)
        }
        Request::Leases => {
            let answer = leases.lease_leases(wire::LeaseLeasesRequest {}).await?.into_inner();
            (answer.header, Body::Leases { leases: answer.leases.iter().map(|lease| lease.id).collect() })
        }
    };
    let header = header.ok_or_else(|| Status::internal("an answer without a header"))?;
    Ok(Answer { revision: header.revision, term: header.raft_term, body })
}
