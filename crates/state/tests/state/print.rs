//! Answers as lines that an operator can read.

use std::fmt::Write as _;

use quorate_state::auth::AuthState;
use quorate_state::{Event, KeyValue, RangeReply, Reply, ReplyBody, TxnOpReplyBody, TxnReply};

pub(crate) fn text(bytes: &[u8]) -> String {
    if bytes.is_empty() { "\"\"".to_owned() } else { bytes.escape_ascii().to_string() }
}

pub(crate) fn key_value(kv: &KeyValue) -> String {
    let KeyValue { key, create_revision, mod_revision, version, value, lease } = kv;
    let mut line = format!(
        "{} = {} (created {create_revision}, modified {mod_revision}, version {version}",
        text(key),
        text(value)
    );
    if *lease != 0 {
        write!(line, ", lease {lease}").expect("a string takes it");
    }
    line + ")"
}

pub(crate) fn event(event: &Event) -> String {
    let Event { delete, kv, prev_kv, sub } = event;
    let mut line = format!("{}.{sub} ", kv.mod_revision);
    if *delete {
        write!(line, "delete {}", text(&kv.key)).expect("a string takes it");
    } else {
        write!(line, "put {}", key_value(kv)).expect("a string takes it");
    }
    if let Some(prev) = prev_kv {
        write!(line, ", before: {}", key_value(prev)).expect("a string takes it");
    }
    line
}

pub(crate) fn range(reply: &RangeReply) -> Vec<String> {
    let mut lines: Vec<String> = reply.kvs.iter().map(key_value).collect();
    let more = if reply.more { ", more" } else { "" };
    lines.push(format!("count {}{more}, revision {}", reply.count, reply.revision));
    lines
}

pub(crate) fn txn(reply: &TxnReply) -> Vec<String> {
    let mut lines = vec![if reply.succeeded { "then".to_owned() } else { "else".to_owned() }];
    for reply in &reply.replies {
        let inner = match reply.body.as_ref().expect("a reply has a body") {
            TxnOpReplyBody::Range(reply) => range(reply),
            TxnOpReplyBody::Put(reply) => put(reply.prev_kv.as_ref()),
            TxnOpReplyBody::DeleteRange(reply) => delete(reply.deleted, &reply.prev_kvs),
            TxnOpReplyBody::Txn(reply) => txn(reply),
        };
        lines.extend(inner.into_iter().map(|line| format!("  {line}")));
    }
    lines
}

fn put(prev: Option<&KeyValue>) -> Vec<String> {
    vec![match prev {
        Some(prev) => format!("put, before: {}", key_value(prev)),
        None => "put".to_owned(),
    }]
}

fn delete(deleted: i64, prev_kvs: &[KeyValue]) -> Vec<String> {
    let mut lines = vec![format!("deleted {deleted}")];
    lines.extend(prev_kvs.iter().map(|prev| format!("  before: {}", key_value(prev))));
    lines
}

pub(crate) fn auth_state(state: &AuthState) -> String {
    format!("authentication {}, auth revision {}", if state.enabled { "on" } else { "off" }, state.revision)
}

/// The answer, then the events.
pub(crate) fn reply(reply: &Reply, events: &[Event]) -> Vec<String> {
    let mut lines = match reply.body.as_ref().expect("a reply has a body") {
        ReplyBody::Rejected(_) => vec![format!("refused: {:?}", reply.rejection().expect("it is one"))],
        ReplyBody::Put(reply) => put(reply.prev_kv.as_ref()),
        ReplyBody::DeleteRange(reply) => delete(reply.deleted, &reply.prev_kvs),
        ReplyBody::Txn(reply) => txn(reply),
        ReplyBody::Done(_) => vec!["done".to_owned()],
        ReplyBody::Auth(state) => vec![auth_state(state)],
        ReplyBody::LeaseGrant(grant) => vec![format!("granted {} for {} ms", grant.id, grant.ttl_ms)],
    };
    let first = lines.first_mut().expect("at least one line");
    write!(first, " @ revision {}", reply.revision).expect("a string takes it");
    lines.extend(events.iter().map(|happened| format!("  event {}", event(happened))));
    lines
}
