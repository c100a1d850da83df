//! Commands are written into logs that later builds read. `fixtures/commands-N.txt` holds, line by line, what format N
//! looks like: the bytes in hex, then what they mean. Lines are only ever added, and only to the newest.

use quorate_state::auth::{
    AssignToken, Auth, AuthAction, Name, Permission, PermissionKind, RoleGrant, RoleRevoke, UserAdd,
    UserChangePassword, UserRole,
};
use quorate_state::{
    Actor, Alarm, AlarmKind, Applier, Body, Command, Compact, Compare, CompareResult, CompareTarget,
    DeleteRange, Done, FORMAT, Fault, LeaseRemaining, MAX_TXN_DEPTH, PublishMember, Put, Range, Rejection,
    SortOrder, SortTarget, Txn, TxnOp, TxnOpBody,
};

use crate::memory::Memory;

fn op(body: TxnOpBody) -> TxnOp {
    TxnOp { body: Some(body) }
}

/// Of [`commands`], those that format 1 could say; their bytes differ in the format alone.
const OF_FORMAT_1: usize = 14;

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
        Command::lease_grant(i64::MAX, 5000, 0),
        Command::lease_grant(-1, u64::MAX, 0),
        Command::lease_revoke(7),
        Command::new(Body::Alarm(Alarm { clear: false, member: 1, kind: AlarmKind::NoSpace.into() })),
        Command::new(Body::Alarm(alarm)),
        Command::new(Body::PublishMember(publish)),
        Command::lease_grant(7, 5000, u64::MAX - 1),
        Command::lease_checkpoint(Vec::new()),
        Command::lease_checkpoint(vec![
            LeaseRemaining { id: -7, stamp: u64::MAX, remaining_ms: 2500 },
            LeaseRemaining { id: 8, stamp: 1, remaining_ms: 0 },
        ]),
        Command { actor: Some(Actor::default()), ..Command::put("key", "value") },
        Command {
            actor: Some(Actor { user: "user".to_owned(), auth_revision: 300 }),
            ..Command::put("key", "value")
        },
    ]
    .into_iter()
    .chain(auth_commands())
    .chain([Command::lease_expire(7, 9)])
    .collect()
}

fn auth_commands() -> impl Iterator<Item = Command> {
    let name = || Name { name: "name".to_owned() };
    let user_role = || UserRole { user: "user".to_owned(), role: "role".to_owned() };
    let permission =
        Permission { kind: PermissionKind::ReadWrite.into(), key: "key".into(), range_end: "kez".into() };
    let actions = [
        AuthAction::Enable(Done {}),
        AuthAction::Disable(Done {}),
        AuthAction::UserAdd(UserAdd {
            name: "user".to_owned(),
            password_hash: "hash".into(),
            no_password: true,
        }),
        AuthAction::UserDelete(name()),
        AuthAction::UserChangePassword(UserChangePassword {
            name: "user".to_owned(),
            password_hash: "hash".into(),
        }),
        AuthAction::UserGrantRole(user_role()),
        AuthAction::UserRevokeRole(user_role()),
        AuthAction::RoleAdd(name()),
        AuthAction::RoleDelete(name()),
        AuthAction::RoleGrant(RoleGrant { role: "role".to_owned(), permission: Some(permission) }),
        AuthAction::RoleGrant(RoleGrant { role: "role".to_owned(), permission: None }),
        AuthAction::RoleRevoke(RoleRevoke {
            role: "role".to_owned(),
            key: "key".into(),
            range_end: "kez".into(),
        }),
        AuthAction::AssignToken(AssignToken {
            token: "abcdefghijklmnop".to_owned(),
            user: "user".to_owned(),
            auth_revision: 300,
        }),
    ];
    actions.into_iter().map(|action| Command::new(Body::Auth(Auth::new(action))))
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
    let expected = commands().into_iter().take(OF_FORMAT_1);
    decodes(
        include_str!("fixtures/commands-1.txt"),
        expected.map(|command| Command { format: 1, ..command }).collect(),
    );
}

#[test]
fn format_2_decodes_for_ever() {
    decodes(include_str!("fixtures/commands-2.txt"), commands());
}

fn decodes(fixture: &str, expected: Vec<Command>) {
    let lines: Vec<&str> = fixture.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines.len(), expected.len(), "as many lines as commands");
    for (line, expected) in lines.iter().zip(expected) {
        // The meaning in the file is for people; what counts is the value that the test builds.
        let (bytes, _meaning) = line.split_once(' ').expect("bytes and meaning");
        let decoded = Command::decode_bytes(unhex(bytes).into()).expect("every format decodes");
        assert_eq!(decoded, expected);
    }
}

/// As long as format 2 is what is written. Prints the lines to add for new commands.
#[test]
fn commands_encode_as_the_fixture_says() {
    assert_eq!(FORMAT, 2, "a new format gets a fixture of its own; format 2's is only decoded from then on");
    let fixture = include_str!("fixtures/commands-2.txt");
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
