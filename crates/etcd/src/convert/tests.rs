use super::*;
use bytes::Bytes;
use quorate_state::{TxnOpReply, TxnOpReplyBody};

fn reply(bodies: Vec<TxnOpReplyBody>) -> state::TxnReply {
    state::TxnReply {
        succeeded: true,
        replies: bodies.into_iter().map(|body| TxnOpReply { body: Some(body) }).collect(),
    }
}

fn deleted(count: i64) -> TxnOpReplyBody {
    TxnOpReplyBody::DeleteRange(state::DeleteRangeReply { deleted: count, prev_kvs: Vec::new() })
}

fn read(revision: Revision) -> TxnOpReplyBody {
    TxnOpReplyBody::Range(state::RangeReply { revision, ..Default::default() })
}

fn written() -> TxnOpReplyBody {
    TxnOpReplyBody::Put(state::PutReply { prev_kv: None })
}

/// The revisions in the headers of the operations, depth first; a nested transaction's own header comes first.
fn revisions(response: &pb::TxnResponse) -> Vec<Revision> {
    let mut found = Vec::new();
    for op in &response.responses {
        let header = match op.response.as_ref().expect("a response") {
            response_op::Response::ResponseRange(op) => op.header,
            response_op::Response::ResponsePut(op) => op.header,
            response_op::Response::ResponseDeleteRange(op) => op.header,
            response_op::Response::ResponseTxn(op) => {
                found.push(op.header.expect("a header").revision);
                found.extend(revisions(op));
                continue;
            }
        };
        let header = header.expect("a header");
        assert_eq!((header.cluster_id, header.member_id, header.raft_term), (0, 0, 0));
        found.push(header.revision);
    }
    found
}

fn outer() -> pb::ResponseHeader {
    pb::ResponseHeader { cluster_id: 1, member_id: 2, revision: 10, raft_term: 3 }
}

#[test]
fn operations_before_the_first_change_answer_with_the_revision_before() {
    let reply = reply(vec![deleted(0), read(9), written(), deleted(0), read(10)]);
    let response = txn_reply(reply, 10, outer()).expect("a response");
    assert_eq!(revisions(&response), [9, 9, 10, 10, 10]);
    assert_eq!(response.header, Some(outer()));
}

#[test]
fn a_transaction_without_a_change_stays_at_its_revision() {
    let response = txn_reply(reply(vec![deleted(0), read(10)]), 10, outer()).expect("a response");
    assert_eq!(revisions(&response), [10, 10]);
}

#[test]
fn a_nested_transaction_has_an_empty_header_and_counts_as_a_change() {
    let inner = TxnOpReplyBody::Txn(reply(vec![read(9), written()]));
    let response = txn_reply(reply(vec![deleted(0), inner, deleted(0)]), 10, outer()).expect("a response");
    assert_eq!(revisions(&response), [9, 0, 9, 10, 10]);
}

#[test]
fn a_reply_without_a_body_is_a_defect_and_says_so() {
    let reply = state::TxnReply { succeeded: true, replies: vec![TxnOpReply { body: None }] };
    assert_eq!(txn_reply(reply, 10, outer()), Err(MALFORMED_REPLY));
}

fn compare_with(target: i32, union: Option<compare::TargetUnion>) -> state::Compare {
    let request = pb::Compare {
        result: 1,
        target,
        key: Bytes::from_static(b"k"),
        target_union: union,
        range_end: Bytes::new(),
    };
    comparison(request).expect("a comparison")
}

#[test]
fn only_the_union_member_that_the_target_names_counts() {
    use compare::TargetUnion;
    let named = compare_with(2, Some(TargetUnion::ModRevision(7)));
    assert_eq!(named.target, Some(state::CompareTarget::Mod(7)));
    let other = compare_with(2, Some(TargetUnion::Version(7)));
    assert_eq!(other.target, Some(state::CompareTarget::Mod(0)));
    let absent = compare_with(3, None);
    assert_eq!(absent.target, Some(state::CompareTarget::Value(Bytes::new())));
}

#[test]
fn an_unknown_target_holds_always() {
    assert_eq!(compare_with(9, None), always(Bytes::from_static(b"k"), Bytes::new()));
}

#[test]
fn a_deletion_shows_its_key_and_revision_only() {
    let kv = state::KeyValue {
        key: Bytes::from_static(b"k"),
        create_revision: 2,
        mod_revision: 5,
        version: 3,
        value: Bytes::from_static(b"v"),
        lease: 4,
    };
    let prev_kv = Some(kv.clone());
    let shown = event(Arc::new(state::Event { delete: true, kv, prev_kv, sub: 0 }));
    let kv = shown.kv.expect("a key");
    assert_eq!((&kv.key[..], kv.mod_revision), (&b"k"[..], 5));
    assert_eq!((kv.create_revision, kv.version, kv.value.len(), kv.lease), (0, 0, 0, 0));
    assert_eq!(shown.prev_kv.expect("the version before").value, "v");
    assert_eq!(shown.r#type, 1);
}
