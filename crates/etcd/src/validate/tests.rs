use super::*;
use quorate_wire::etcdserverpb::{Compare, ResponseOp};

fn key(name: &str) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

fn op(request: request_op::Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn put_op(name: &str) -> RequestOp {
    op(request_op::Request::RequestPut(PutRequest { key: key(name), ..Default::default() }))
}

fn delete_op(start: &str, end: &str) -> RequestOp {
    op(request_op::Request::RequestDeleteRange(DeleteRangeRequest {
        key: key(start),
        range_end: key(end),
        prev_kv: false,
    }))
}

fn get_op(name: &str) -> RequestOp {
    op(request_op::Request::RequestRange(RangeRequest { key: key(name), ..Default::default() }))
}

fn branches(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> TxnRequest {
    TxnRequest { compare: Vec::new(), success, failure }
}

fn nested(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
    op(request_op::Request::RequestTxn(branches(success, failure)))
}

const LIMIT: usize = 128;

#[test]
fn keys_are_required_everywhere() {
    assert_eq!(range(&RangeRequest::default()), Err(status::EMPTY_KEY));
    assert_eq!(put(&PutRequest::default()), Err(status::EMPTY_KEY));
    assert_eq!(delete_range(&DeleteRangeRequest::default()), Err(status::EMPTY_KEY));
    assert_eq!(txn(&branches(vec![put_op("")], vec![]), LIMIT), Err(status::EMPTY_KEY));
    assert_eq!(txn(&branches(vec![], vec![get_op("")]), LIMIT), Err(status::EMPTY_KEY));
    let compare = TxnRequest { compare: vec![Compare::default()], ..Default::default() };
    assert_eq!(txn(&compare, LIMIT), Err(status::EMPTY_KEY));
}

#[test]
fn an_operation_without_a_body_is_key_not_found() {
    assert_eq!(txn(&branches(vec![RequestOp { request: None }], vec![]), LIMIT), Err(status::KEY_NOT_FOUND));
    // The twin on the answering side exists and is as empty.
    assert_eq!(ResponseOp::default().response, None);
}

#[test]
fn sort_options_outside_the_enumeration_are_refused() {
    let request = RangeRequest { key: key("a"), sort_order: 3, ..Default::default() };
    assert_eq!(range(&request), Err(status::INVALID_SORT));
    let request = RangeRequest { key: key("a"), sort_target: 5, ..Default::default() };
    assert_eq!(range(&request), Err(status::INVALID_SORT));
    let request = RangeRequest { key: key("a"), sort_order: 2, sort_target: 4, ..Default::default() };
    assert_eq!(range(&request), Ok(()));
}

#[test]
fn ignoring_a_part_excludes_giving_it() {
    let request = PutRequest { key: key("a"), value: key("v"), ignore_value: true, ..Default::default() };
    assert_eq!(put(&request), Err(status::VALUE_PROVIDED));
    let request = PutRequest { key: key("a"), lease: 1, ignore_lease: true, ..Default::default() };
    assert_eq!(put(&request), Err(status::LEASE_PROVIDED));
    let request = PutRequest { key: key("a"), ignore_lease: true, ignore_value: true, ..Default::default() };
    assert_eq!(put(&request), Ok(()));
}

#[test]
fn the_longest_list_counts() {
    let gets = |count: usize| (0..count).map(|_| get_op("a")).collect::<Vec<_>>();
    assert_eq!(txn(&branches(gets(128), gets(128)), LIMIT), Ok(()));
    assert_eq!(txn(&branches(gets(129), vec![]), LIMIT), Err(status::TOO_MANY_OPS));
    assert_eq!(txn(&branches(vec![], gets(129)), LIMIT), Err(status::TOO_MANY_OPS));
    let compare = Compare { key: key("a"), ..Default::default() };
    let request = TxnRequest { compare: vec![compare; 129], ..Default::default() };
    assert_eq!(txn(&request, LIMIT), Err(status::TOO_MANY_OPS));
}

#[test]
fn a_nested_transaction_may_use_what_the_outer_left() {
    let gets = |count: usize| (0..count).map(|_| get_op("a")).collect::<Vec<_>>();
    let outer = |inner: usize| {
        let mut success = gets(3);
        success.push(nested(gets(inner), vec![]));
        branches(success, vec![])
    };
    assert_eq!(txn(&outer(6), 10), Ok(()));
    assert_eq!(txn(&outer(7), 10), Err(status::TOO_MANY_OPS));
}

#[test]
fn a_branch_writes_a_key_once() {
    assert_eq!(txn(&branches(vec![put_op("a"), put_op("a")], vec![]), LIMIT), Err(status::DUPLICATE_KEY));
    assert_eq!(txn(&branches(vec![], vec![put_op("a"), put_op("a")]), LIMIT), Err(status::DUPLICATE_KEY));
    assert_eq!(txn(&branches(vec![put_op("a"), put_op("b")], vec![put_op("a")]), LIMIT), Ok(()));
}

#[test]
fn a_put_inside_a_deleted_range_is_refused_in_either_order() {
    for ops in [
        vec![put_op("b"), delete_op("a", "c")],
        vec![delete_op("a", "c"), put_op("b")],
        vec![delete_op("b", ""), put_op("b")],
        vec![delete_op("a", "\0"), put_op("b")],
    ] {
        assert_eq!(txn(&branches(ops, vec![]), LIMIT), Err(status::DUPLICATE_KEY));
    }
    for ops in [
        vec![delete_op("a", "b"), put_op("b")],
        vec![delete_op("a", ""), put_op("b")],
        vec![delete_op("a", "c"), delete_op("a", "c")],
    ] {
        assert_eq!(txn(&branches(ops, vec![]), LIMIT), Ok(()));
    }
}

#[test]
fn nested_writes_count_and_exclusive_branches_may_share() {
    let shared = branches(vec![nested(vec![put_op("a")], vec![put_op("a")])], vec![]);
    assert_eq!(txn(&shared, LIMIT), Ok(()));
    let twice = branches(vec![nested(vec![put_op("a")], vec![]), put_op("a")], vec![]);
    assert_eq!(txn(&twice, LIMIT), Err(status::DUPLICATE_KEY));
    let siblings =
        branches(vec![nested(vec![put_op("a")], vec![]), nested(vec![], vec![put_op("a")])], vec![]);
    assert_eq!(txn(&siblings, LIMIT), Err(status::DUPLICATE_KEY));
    let deleted = branches(vec![nested(vec![delete_op("a", "c")], vec![]), put_op("b")], vec![]);
    assert_eq!(txn(&deleted, LIMIT), Err(status::DUPLICATE_KEY));
    let later = branches(vec![nested(vec![put_op("b")], vec![]), delete_op("a", "c")], vec![]);
    assert_eq!(txn(&later, LIMIT), Err(status::DUPLICATE_KEY));
}

#[test]
fn a_request_over_the_limit_is_refused() {
    let request = PutRequest { key: key("a"), value: Bytes::from(vec![0; 100]), ..Default::default() };
    assert_eq!(size(&request, 200), Ok(()));
    assert_eq!(size(&request, 100), Err(status::REQUEST_TOO_LARGE));
}

#[test]
fn lease_ttls_end_where_etcds_do() {
    assert_eq!(lease_ttl(9_000_000_000), Ok(()));
    assert_eq!(lease_ttl(9_000_000_001), Err(status::LEASE_TTL_TOO_LARGE));
    assert_eq!(lease_ttl(-1), Ok(()));
}

#[test]
fn empty_watch_ranges_are_recognised() {
    assert!(is_empty_range(b"b", b"a"));
    assert!(is_empty_range(b"a", b"a"));
    assert!(!is_empty_range(b"a", b""));
    assert!(!is_empty_range(b"a", b"\0"));
    assert!(!is_empty_range(b"a", b"b"));
}
