//! Random users, roles and grants, and random requests of random users, on a store and the model: the same is done, and the
//! same is refused for the same reason.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{TestRng, TestRunner};
use quorate_state::auth::{
    AssignToken, Auth, AuthAction, Name, Permission, RoleGrant, RoleRevoke, UserAdd, UserChangePassword,
    UserRole, auth_state, permit,
};
use quorate_state::{Actor, Applier, Body, Command, Done, Range, Rejection, Txn, TxnOpBody};

use crate::memory::Memory;
use crate::model::Model;
use crate::oracle::{a_body, a_range, key, range_end};

const USERS: [&str; 4] = ["root", "alice", "bob", ""];
const ROLES: [&str; 4] = ["root", "r", "s", ""];

fn user() -> impl Strategy<Value = String> {
    // Rarely none at all, which is refused.
    prop_oneof![4 => select(&USERS[1..3]), 2 => Just("root"), 1 => Just("")].prop_map(str::to_owned)
}

fn role() -> impl Strategy<Value = String> {
    prop_oneof![6 => select(&ROLES[1..3]), 2 => Just("root"), 1 => Just("")].prop_map(str::to_owned)
}

fn permission() -> impl Strategy<Value = Permission> {
    (prop_oneof![12 => 0..3i32, 1 => Just(3)], key(), range_end())
        .prop_map(|(kind, key, range_end)| Permission { kind, key, range_end })
}

fn action() -> impl Strategy<Value = AuthAction> {
    let user_role = || (user(), role()).prop_map(|(user, role)| UserRole { user, role });
    prop_oneof![
        1 => Just(AuthAction::Enable(Done {})),
        1 => Just(AuthAction::Disable(Done {})),
        2 => (user(), any::<bool>()).prop_map(|(name, no_password)| {
            AuthAction::UserAdd(UserAdd { name, password_hash: "hash".into(), no_password })
        }),
        1 => user().prop_map(|name| AuthAction::UserDelete(Name { name })),
        1 => user().prop_map(|name| {
            AuthAction::UserChangePassword(UserChangePassword { name, password_hash: "other".into() })
        }),
        4 => user_role().prop_map(AuthAction::UserGrantRole),
        1 => user_role().prop_map(AuthAction::UserRevokeRole),
        2 => role().prop_map(|name| AuthAction::RoleAdd(Name { name })),
        1 => role().prop_map(|name| AuthAction::RoleDelete(Name { name })),
        6 => (role(), prop::option::weighted(0.95, permission()))
            .prop_map(|(role, permission)| AuthAction::RoleGrant(RoleGrant { role, permission })),
        2 => (role(), key(), range_end())
            .prop_map(|(role, key, range_end)| AuthAction::RoleRevoke(RoleRevoke { role, key, range_end })),
        1 => (user(), 1..20u64).prop_map(|(user, auth_revision)| {
            AuthAction::AssignToken(AssignToken { token: "token".to_owned(), user, auth_revision })
        }),
    ]
}

/// Mostly of the newest revision: no revision is newer than the largest number.
fn actor() -> impl Strategy<Value = Option<Actor>> {
    let revision = prop_oneof![9 => Just(u64::MAX), 1 => 0..20u64];
    let client = (user(), revision).prop_map(|(user, auth_revision)| Actor { user, auth_revision });
    prop::option::weighted(0.85, client)
}

fn a_command() -> impl Strategy<Value = Command> {
    let body = prop_oneof![
        1 => action().prop_map(|action| Body::Auth(Auth::new(action))),
        3 => a_body(),
    ];
    (body, actor()).prop_map(|(body, actor)| Command { actor, ..Command::new(body) })
}

/// So that most of what follows is asked while authentication is on: users with a role each.
fn prelude() -> Vec<Command> {
    let name = |name: &str| Name { name: name.to_owned() };
    let add = |user: &str| {
        AuthAction::UserAdd(UserAdd {
            name: user.to_owned(),
            password_hash: "hash".into(),
            no_password: false,
        })
    };
    let grant = |user: &str, role: &str| {
        AuthAction::UserGrantRole(UserRole { user: user.to_owned(), role: role.to_owned() })
    };
    let actions = [
        add("root"),
        grant("root", "root"),
        AuthAction::RoleAdd(name("r")),
        AuthAction::RoleAdd(name("s")),
        add("alice"),
        grant("alice", "r"),
        grant("alice", "s"),
        add("bob"),
        grant("bob", "r"),
        AuthAction::Enable(Done {}),
    ];
    actions.into_iter().map(|action| Command::new(Body::Auth(Auth::new(action)))).collect()
}

/// A check that is left out on purpose, to see that the model notices.
#[derive(Debug, Clone, Copy, PartialEq)]
enum LeftOut {
    Nothing,
    /// Operations of a transaction within a transaction (CVE-2026-33343 of etcd).
    Nested,
    /// That an answer with the value before needs permission to read it (CVE-2026-44283).
    PrevKv,
    /// Everything of a range but its first key (etcd's advisory GHSA-xg4h-6gfc-h4m8).
    RangeEnd,
}

impl LeftOut {
    /// The command as a store takes it that checks less.
    fn unchecked(self, command: &Command) -> Command {
        let nested = |txn: &Txn| {
            let mut all = txn.success.iter().chain(&txn.failure);
            all.any(|op| matches!(op.body, Some(TxnOpBody::Txn(_))))
        };
        let free = match &command.body {
            Some(Body::Txn(txn)) => self == LeftOut::Nested && nested(txn),
            Some(Body::Put(put)) => self == LeftOut::PrevKv && put.prev_kv,
            _ => false,
        };
        Command { actor: command.actor.clone().filter(|_| !free), ..command.clone() }
    }
}

fn run(grants: &[Permission], commands: &[Command], asked: &[(Option<Actor>, Range)], left_out: LeftOut) {
    let (mut model, mut store) = (Model::new(), Memory::default());
    let granted = grants.iter().enumerate().map(|(n, permission)| {
        let role = ROLES[1 + n % 2].to_owned();
        let grant = RoleGrant { role, permission: Some(permission.clone()) };
        Command::new(Body::Auth(Auth::new(AuthAction::RoleGrant(grant))))
    });
    for command in prelude().into_iter().chain(granted).chain(commands.iter().cloned()) {
        let mut applier = Applier::new(&store);
        let (reply, events) = applier.apply(&left_out.unchecked(&command)).unwrap();
        assert_eq!((reply, events), model.apply(&command), "{command:?}");
        let batch = applier.into_batch();
        store.write(batch);
        assert_eq!(auth_state(&store).unwrap(), model.auth.state);
    }
    for (actor, range) in asked {
        let permitted = permit(&store, actor.as_ref()).unwrap();
        let range_end = if left_out == LeftOut::RangeEnd { Bytes::new() } else { range.range_end.clone() };
        let permitted = permitted.and_then(|permit| permit.read(&range.key, &range_end));
        assert_eq!(permitted, model.auth.check_range(actor.as_ref(), range), "{actor:?} {range:?}");
    }
}

/// A range is covered exactly if every key in it is: asked one by one, over all short keys.
fn covers_key_by_key(grants: &[Permission], range: &Range) {
    let mut store = Memory::default();
    let setup = grants.iter().map(|permission| {
        let grant = RoleGrant { role: "r".to_owned(), permission: Some(permission.clone()) };
        Command::new(Body::Auth(Auth::new(AuthAction::RoleGrant(grant))))
    });
    let mut applier = Applier::new(&store);
    for command in prelude().into_iter().chain(setup) {
        applier.apply(&command).unwrap();
    }
    let batch = applier.into_batch();
    store.write(batch);
    let bob = Actor { user: "bob".to_owned(), auth_revision: u64::MAX };
    let permit = permit(&store, Some(&bob)).unwrap().unwrap();
    if permit.read(&range.key, &range.range_end) == Err(Rejection::PermissionDenied) {
        return;
    }
    let letters: [&[u8]; 5] = [b"\0", b"\x01", b"a", b"b", b"\xff"];
    for first in letters {
        for second in [&b""[..]].into_iter().chain(letters) {
            for third in [&b""[..]].into_iter().chain(letters) {
                let key: Bytes = [first, second, third].concat().into();
                if crate::model::within(&key, &range.key, &range.range_end) {
                    assert_eq!(permit.read(&key, b""), Ok(()), "{key:?} in {range:?}");
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn permits_like_the_naive_model(
        grants in vec(permission(), 0..6),
        commands in vec(a_command(), 0..20),
        asked in vec((actor(), a_range()), 1..6),
    ) {
        run(&grants, &commands, &asked, LeftOut::Nothing);
    }

    #[test]
    fn a_permitted_range_has_no_key_that_is_not(grants in vec(permission(), 0..6), range in a_range()) {
        covers_key_by_key(&grants, &range);
    }
}

#[test]
fn checks_that_are_left_out_are_caught() {
    for left_out in [LeftOut::Nested, LeftOut::PrevKv, LeftOut::RangeEnd] {
        let config = ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() };
        let rng = TestRng::deterministic_rng(config.rng_algorithm);
        let asked = (vec(permission(), 0..6), vec(a_command(), 0..20), vec((actor(), a_range()), 1..6));
        let noticed = TestRunner::new_with_rng(config, rng).run(&asked, |(grants, commands, asked)| {
            run(&grants, &commands, &asked, left_out);
            Ok(())
        });
        assert!(noticed.is_err(), "{left_out:?} goes unnoticed");
    }
}
