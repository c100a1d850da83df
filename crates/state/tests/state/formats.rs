//! Commands are written into logs that later builds read. `fixtures/commands-1.txt` holds, line by line, what format 1
//! looks like: the bytes in hex, then what they mean. Lines are only ever added.

use quorate_state::{
    Alarm, AlarmKind, Applier, Body, Command, Compact, Compare, CompareResult, CompareTarget, DeleteRange,
    FORMAT, Fault, MAX_TXN_DEPTH, PublishMember, Put, Range, Rejection, SortOrder, SortTarget, Txn, TxnOp,
    TxnOpBody,
};

use crate::memory::Memory;

fn op(body: TxnOpBody) -> TxnOp {
    TxnOp { body: Some(body) }
}

/// Every kind with every field set, and the smallest of each.
fn commands() -> Vec<Command> {
    let put = Put {
        key: "key".into(),
        value: "value".into(),
        lease: 7,
        prev_kv: true,
        ignore_value: true,
        ignore_lease: true,
    };
    let delete = DeleteRange { key: "key".into(), range_end: "kez".into(), prev_kv: true };
    let range = Range {
        key: "key".into(),
        range_end: "kez".into(),
        limit: 3,
        revision: 4,
        sort_order: SortOrder::Descend.into(),
        sort_target: SortTarget::Value.into(),
        serializable: true,
        keys_only: true,
        count_only: true,
        min_mod_revision: 5,
        max_mod_revision: 6,
        min_create_revision: 7,
        max_create_revision: 8,
    };
    let targets = [
        CompareTarget::Version(1),
        CompareTarget::Create(2),
        CompareTarget::Mod(3),
        CompareTarget::Value("value".into()),
        CompareTarget::Lease(-4),
    ];
    let results = [
        CompareResult::Equal,
        CompareResult::Greater,
        CompareResult::Less,
        CompareResult::NotEqual,
        CompareResult::Equal,
    ];
    let compare = targets.into_iter().zip(results).map(|(target, result)| Compare {
        result: result.into(),
        key: "key".into(),
        range_end: "kez".into(),
        target: Some(target),
    });
    let nested = Txn { success: vec![op(TxnOpBody::Put(put.clone()))], ..Txn::default() };
    let txn = Txn {
        compare: compare.collect(),
        success: vec![op(TxnOpBody::Range(range)), op(TxnOpBody::DeleteRange(delete.clone()))],
        failure: vec![op(TxnOpBody::Txn(nested)), TxnOp { body: None }],
    };
    let alarm = Alarm { clear: true, member: u64::MAX, kind: AlarmKind::Corrupt.into() };
    let publish = PublishMember {
        member: 1,
        name: "one".to_owned(),
        client_urls: vec!["http://127.0.0.1:2379".to_owned(), "http://127.0.0.2:2379".to_owned()],
    };
    vec![
        Command::put("key", "value"),
        Command::new(Body::Put(put)),
        Command::delete("key"),
        Command::new(Body::DeleteRange(delete)),
        Command::txn(Txn::default()),
        Command::txn(txn),
        Command::compact(5),
        Command::new(Body::Compact(Compact { revision: 5, physical: true })),
        Command::lease_grant(i64::MAX, 5000),
        Command::lease_grant(-1, u64::MAX),
        Command::lease_revoke(7),
        Command::new(Body::Alarm(Alarm { clear: false, member: 1, kind: AlarmKind::NoSpace.into() })),
        Command::new(Body::Alarm(alarm)),
        Command::new(Body::PublishMember(publish)),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |range| u8::from_str_radix(&text[range], 16).expect("hex");
    (0..text.len()).step_by(2).map(|at| digit(at..at + 2)).collect()
}

#[test]
fn format_1_decodes_for_ever() {
    let fixture = include_str!("fixtures/commands-1.txt");
    let lines: Vec<&str> = fixture.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines.len(), commands().len(), "as many lines as commands");
    for (line, expected) in lines.iter().zip(commands()) {
        // The meaning in the file is for people; what counts is the value that the test builds.
        let (bytes, _meaning) = line.split_once(' ').expect("bytes and meaning");
        let decoded = Command::decode_bytes(unhex(bytes).into()).expect("format 1 decodes");
        assert_eq!(decoded, expected);
    }
}

/// As long as format 1 is what is written. Prints the lines to add for new commands.
#[test]
fn commands_encode_as_the_fixture_says() {
    assert_eq!(FORMAT, 1, "a new format gets a fixture of its own; format 1's is only decoded from then on");
    let fixture = include_str!("fixtures/commands-1.txt");
    let missing: Vec<String> = commands()
        .iter()
        .map(|command| format!("{} {command:?}", hex(&command.encode_to_bytes().expect("not too deep"))))
        .filter(|line| !fixture.lines().any(|known| known == line))
        .collect();
    assert!(missing.is_empty(), "not in the fixture:\n{}", missing.join("\n"));
}

#[test]
fn unknown_formats_and_kinds_stop_the_node() {
    for format in [0, FORMAT + 1, u32::MAX] {
        let command = Command { format, ..Command::put("key", "value") };
        let store = Memory::default();
        let applied = Applier::new(&store).apply(&command);
        assert!(matches!(applied, Err(Fault::UnknownFormat { format: found }) if found == format));
        let bytes = command.encode_to_bytes().expect("not too deep");
        assert!(matches!(Command::decode_bytes(bytes), Err(Fault::UnknownFormat { .. })));
    }
    // Format 1 with a body of tag 15: a kind that does not exist.
    assert!(matches!(Command::decode_bytes(unhex("08017a00").into()), Err(Fault::UnknownCommand)));
    assert!(matches!(Command::decode_bytes(unhex("ff").into()), Err(Fault::UndecodableCommand(_))));
}

/// What can be proposed can be applied: the deepest transaction that is encoded is decoded again.
#[test]
fn depth_is_refused_before_it_is_proposed() {
    let nest = |depth: usize| {
        let innermost = Txn { success: vec![op(TxnOpBody::Range(Range::default()))], ..Txn::default() };
        (1..depth).fold(innermost, |txn, _| Txn { failure: vec![op(TxnOpBody::Txn(txn))], ..Txn::default() })
    };
    let deepest = Command::txn(nest(MAX_TXN_DEPTH));
    let bytes = deepest.encode_to_bytes().expect("at the bound");
    assert_eq!(Command::decode_bytes(bytes).expect("decodes"), deepest);
    let deeper = Command::txn(nest(MAX_TXN_DEPTH + 1));
    assert_eq!(deeper.encode_to_bytes(), Err(Rejection::TooDeep));
    let store = Memory::default();
    let (reply, _) = Applier::new(&store).apply(&deeper).expect("an answer");
    assert_eq!(reply.rejection(), Some(Rejection::TooDeep));
}
