//! May everybody do what they may, and nothing else? Every method of every service, as every kind of caller, while
//! authentication is on, over the wire. The methods are taken from the protocol: one that is added there and not here fails.

mod common;
#[path = "common/auth.rs"]
mod users;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use common::{Cluster, PATIENCE};
use prost::Message;
use quorate_node::auth::TokenOptions;
use quorate_state::auth::{Auth, AuthAction};
use quorate_state::{Body, Command, Done};
use quorate_wire::authpb::permission::Type;
use quorate_wire::etcdserverpb::auth_client::AuthClient;
use quorate_wire::etcdserverpb::*;
use quorate_wire::{v3electionpb, v3lockpb};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Request, Status};
use users::{Admin, as_user, log_in, range};

const CALLERS: [&str; 7] = ["nobody", "bad token", "no role", "reader", "writer", "both", "root"];

/// Who may.
#[derive(Debug, Clone, Copy)]
enum May {
    /// Whatever is shown.
    Anybody,
    /// Anybody but who shows a token that is worth nothing.
    NobodyToo,
    User,
    Read,
    Write,
    ReadAndWrite,
    Root,
    /// These, and root.
    Only(&'static str),
}

impl May {
    /// None: the call gets through. Else the text of the refusal.
    fn refusal(self, caller: &str) -> Option<&'static str> {
        const EMPTY: &str = "etcdserver: user name is empty";
        const INVALID: &str = "etcdserver: invalid auth token";
        const DENIED: &str = "etcdserver: permission denied";
        let may = |callers: &[&str]| if callers.contains(&caller) { None } else { Some(DENIED) };
        match (self, caller) {
            (May::Anybody, _) | (May::NobodyToo, "nobody") => None,
            (_, "nobody") => Some(EMPTY),
            (_, "bad token") => Some(INVALID),
            (May::NobodyToo | May::User, _) | (_, "root") => None,
            (May::Read, _) => may(&["reader", "both"]),
            (May::Write, _) => may(&["writer", "both"]),
            (May::ReadAndWrite, _) => may(&["both"]),
            (May::Root, _) => may(&[]),
            (May::Only(one), _) => may(&[one]),
        }
    }
}

const REFUSALS: [&str; 4] = [
    "etcdserver: user name is empty",
    "etcdserver: invalid auth token",
    "etcdserver: permission denied",
    "etcdserver: revision of auth store is old",
];

struct Row {
    path: &'static str,
    what: &'static str,
    may: May,
    /// By the number of the caller, for what can be had once.
    request: Box<dyn Fn(usize) -> Bytes>,
}

fn row<M: Message + 'static>(
    path: &'static str,
    what: &'static str,
    may: May,
    request: impl Fn(usize) -> M + 'static,
) -> Row {
    Row { path, what, may, request: Box::new(move |caller| request(caller).encode_to_vec().into()) }
}

const LEASE: i64 = 1000;
const KEPT: i64 = 2000;

fn put(key: &str) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: "v".into(), ..PutRequest::default() }
}

fn get(key: &str) -> RangeRequest {
    RangeRequest { key: key.to_owned().into(), ..RangeRequest::default() }
}

fn op(request: request_op::Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn nested(ops: Vec<RequestOp>) -> TxnRequest {
    let inner = TxnRequest { failure: ops, ..TxnRequest::default() };
    TxnRequest { success: vec![op(request_op::Request::RequestTxn(inner))], ..TxnRequest::default() }
}

fn watch(key: &'static str, range_end: &'static [u8]) -> impl Fn(usize) -> WatchRequest {
    move |_| {
        let create = WatchCreateRequest {
            key: key.into(),
            range_end: range_end.into(),
            ..WatchCreateRequest::default()
        };
        WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(create)) }
    }
}

fn key_rows() -> Vec<Row> {
    const KV: [&str; 5] = [
        "/etcdserverpb.KV/Range",
        "/etcdserverpb.KV/Put",
        "/etcdserverpb.KV/DeleteRange",
        "/etcdserverpb.KV/Txn",
        "/etcdserverpb.KV/Compact",
    ];
    let delete = |prev_kv| {
        move |_| DeleteRangeRequest { key: "none".into(), prev_kv, ..DeleteRangeRequest::default() }
    };
    let compare = || Compare { key: "k".into(), ..Compare::default() };
    vec![
        row(KV[0], "one key", May::Read, |_| get("k")),
        row(KV[0], "serializable", May::Read, |_| RangeRequest { serializable: true, ..get("k") }),
        row(KV[0], "everything", May::Read, |_| RangeRequest { range_end: b"\0"[..].into(), ..get("\0") }),
        row(KV[1], "", May::Write, |_| put("k")),
        row(KV[1], "prev_kv", May::ReadAndWrite, |_| PutRequest { prev_kv: true, ..put("k") }),
        row(KV[2], "", May::Write, delete(false)),
        row(KV[2], "prev_kv", May::ReadAndWrite, delete(true)),
        row(KV[3], "empty", May::User, |_| TxnRequest::default()),
        row(KV[3], "compare", May::Read, move |_| TxnRequest {
            compare: vec![compare()],
            ..TxnRequest::default()
        }),
        row(KV[3], "nested get", May::Read, |_| {
            nested(vec![op(request_op::Request::RequestRange(get("k")))])
        }),
        row(KV[3], "nested put", May::Write, |_| nested(vec![op(request_op::Request::RequestPut(put("k")))])),
        row(KV[3], "nested put with prev_kv", May::ReadAndWrite, |_| {
            nested(vec![op(request_op::Request::RequestPut(PutRequest { prev_kv: true, ..put("k") }))])
        }),
        row(KV[4], "", May::Root, |_| CompactionRequest { revision: 1, physical: false }),
        row("/etcdserverpb.Watch/Watch", "one key", May::Read, watch("k", b"")),
        row("/etcdserverpb.Watch/Watch", "everything", May::Read, watch("\0", b"\0")),
    ]
}

fn lease_rows() -> Vec<Row> {
    let number = |caller: usize| i64::try_from(caller).expect("small");
    let ask = |keys| move |_| LeaseTimeToLiveRequest { id: KEPT, keys };
    vec![
        row("/etcdserverpb.Lease/LeaseGrant", "", May::User, |_| LeaseGrantRequest { ttl: 100, id: 0 }),
        row("/etcdserverpb.Lease/LeaseRevoke", "unknown", May::User, |_| LeaseRevokeRequest { id: 9 }),
        row("/etcdserverpb.Lease/LeaseRevoke", "with a key", May::Write, move |caller| LeaseRevokeRequest {
            id: LEASE + number(caller),
        }),
        row("/etcdserverpb.Lease/LeaseKeepAlive", "unknown", May::User, |_| LeaseKeepAliveRequest { id: 9 }),
        row("/etcdserverpb.Lease/LeaseKeepAlive", "with a key", May::Write, |_| LeaseKeepAliveRequest {
            id: KEPT,
        }),
        row("/etcdserverpb.Lease/LeaseTimeToLive", "", May::User, ask(false)),
        row("/etcdserverpb.Lease/LeaseTimeToLive", "keys", May::Read, ask(true)),
        row("/etcdserverpb.Lease/LeaseLeases", "", May::Read, |_| LeaseLeasesRequest {}),
    ]
}

fn cluster_rows() -> Vec<Row> {
    let alarm = |action: alarm_request::AlarmAction| {
        move |_| AlarmRequest { action: action.into(), member_id: 0, alarm: AlarmType::None.into() }
    };
    use alarm_request::AlarmAction;
    const NONE: u64 = 42;
    vec![
        row("/etcdserverpb.Cluster/MemberList", "", May::User, |_| MemberListRequest { linearizable: true }),
        row("/etcdserverpb.Cluster/MemberAdd", "", May::Root, |_| MemberAddRequest::default()),
        row("/etcdserverpb.Cluster/MemberRemove", "", May::Root, |_| MemberRemoveRequest { id: NONE }),
        row("/etcdserverpb.Cluster/MemberUpdate", "", May::Root, |_| MemberUpdateRequest {
            id: NONE,
            ..MemberUpdateRequest::default()
        }),
        row("/etcdserverpb.Cluster/MemberPromote", "", May::Root, |_| MemberPromoteRequest { id: NONE }),
        row("/etcdserverpb.Maintenance/Alarm", "get", May::User, alarm(AlarmAction::Get)),
        row("/etcdserverpb.Maintenance/Alarm", "activate", May::Root, alarm(AlarmAction::Activate)),
        row("/etcdserverpb.Maintenance/Alarm", "deactivate", May::Root, alarm(AlarmAction::Deactivate)),
        row("/etcdserverpb.Maintenance/Status", "", May::User, |_| StatusRequest::default()),
        row("/etcdserverpb.Maintenance/Defragment", "", May::Root, |_| DefragmentRequest {}),
        row("/etcdserverpb.Maintenance/Hash", "", May::Root, |_| HashRequest {}),
        row("/etcdserverpb.Maintenance/HashKV", "", May::Root, |_| HashKvRequest::default()),
        row("/etcdserverpb.Maintenance/Snapshot", "", May::Root, |_| SnapshotRequest {}),
        row("/etcdserverpb.Maintenance/MoveLeader", "", May::Root, |_| MoveLeaderRequest { target_id: NONE }),
        row("/etcdserverpb.Maintenance/Downgrade", "", May::Root, |_| DowngradeRequest::default()),
    ]
}

fn auth_rows() -> Vec<Row> {
    const NONE: &str = "none of them";
    let user_role = || (NONE.to_owned(), NONE.to_owned());
    vec![
        row("/etcdserverpb.Auth/AuthStatus", "", May::NobodyToo, |_| AuthStatusRequest {}),
        row("/etcdserverpb.Auth/Authenticate", "", May::Anybody, |_| AuthenticateRequest {
            name: "reader".to_owned(),
            password: "wrong".to_owned(),
        }),
        row("/etcdserverpb.Auth/UserGet", "", May::Only("reader"), |_| AuthUserGetRequest {
            name: "reader".to_owned(),
        }),
        row("/etcdserverpb.Auth/RoleGet", "", May::Write, |_| AuthRoleGetRequest {
            role: "writes".to_owned(),
        }),
        row("/etcdserverpb.Auth/UserList", "", May::Root, |_| AuthUserListRequest {}),
        row("/etcdserverpb.Auth/RoleList", "", May::Root, |_| AuthRoleListRequest {}),
        row("/etcdserverpb.Auth/UserAdd", "", May::Root, |_| AuthUserAddRequest {
            name: "reader".to_owned(),
            password: "p".to_owned(),
            ..AuthUserAddRequest::default()
        }),
        row("/etcdserverpb.Auth/UserDelete", "", May::Root, |_| AuthUserDeleteRequest {
            name: NONE.to_owned(),
        }),
        row("/etcdserverpb.Auth/UserChangePassword", "", May::Root, |_| AuthUserChangePasswordRequest {
            name: NONE.to_owned(),
            password: "p".to_owned(),
            ..AuthUserChangePasswordRequest::default()
        }),
        row("/etcdserverpb.Auth/UserGrantRole", "", May::Root, move |_| {
            let (user, role) = user_role();
            AuthUserGrantRoleRequest { user, role }
        }),
        row("/etcdserverpb.Auth/UserRevokeRole", "", May::Root, move |_| {
            let (name, role) = user_role();
            AuthUserRevokeRoleRequest { name, role }
        }),
        row("/etcdserverpb.Auth/RoleAdd", "", May::Root, |_| AuthRoleAddRequest {
            name: "writes".to_owned(),
        }),
        row("/etcdserverpb.Auth/RoleDelete", "", May::Root, |_| AuthRoleDeleteRequest {
            role: NONE.to_owned(),
        }),
        row("/etcdserverpb.Auth/RoleGrantPermission", "", May::Root, |_| AuthRoleGrantPermissionRequest {
            name: NONE.to_owned(),
            perm: None,
        }),
        row("/etcdserverpb.Auth/RoleRevokePermission", "", May::Root, |_| AuthRoleRevokePermissionRequest {
            role: NONE.to_owned(),
            ..AuthRoleRevokePermissionRequest::default()
        }),
        // Enabled it is already; disabling is undone after each call that may.
        row("/etcdserverpb.Auth/AuthEnable", "", May::Root, |_| AuthEnableRequest {}),
        row("/etcdserverpb.Auth/AuthDisable", "", May::Root, |_| AuthDisableRequest {}),
    ]
}

fn concurrency_rows() -> Vec<Row> {
    // A name of its own for each caller: who gets it keeps it.
    let name = |what: &str, caller: usize| Bytes::from(format!("{what}/{caller}"));
    let office = || v3electionpb::LeaderKey {
        name: "office".into(),
        key: "office/1".into(),
        rev: 1,
        ..v3electionpb::LeaderKey::default()
    };
    vec![
        row("/v3lockpb.Lock/Lock", "", May::ReadAndWrite, move |caller| v3lockpb::LockRequest {
            name: name("lock", caller),
            lease: 0,
        }),
        // The empty message asks about the server as a whole.
        row("/grpc.health.v1.Health/Check", "", May::Anybody, |_| AuthStatusRequest {}),
        row("/grpc.health.v1.Health/Watch", "", May::Anybody, |_| AuthStatusRequest {}),
        row("/v3lockpb.Lock/Unlock", "", May::Write, |_| v3lockpb::UnlockRequest { key: "lock/none".into() }),
        row("/v3electionpb.Election/Campaign", "", May::ReadAndWrite, move |caller| {
            v3electionpb::CampaignRequest { name: name("office", caller), lease: 0, value: "v".into() }
        }),
        row("/v3electionpb.Election/Proclaim", "", May::ReadAndWrite, move |_| {
            v3electionpb::ProclaimRequest { leader: Some(office()), value: "v".into() }
        }),
        row("/v3electionpb.Election/Leader", "", May::Read, |_| v3electionpb::LeaderRequest {
            name: "vacant".into(),
        }),
        row("/v3electionpb.Election/Observe", "", May::Read, |_| v3electionpb::LeaderRequest {
            name: "vacant".into(),
        }),
        row("/v3electionpb.Election/Resign", "", May::ReadAndWrite, move |_| v3electionpb::ResignRequest {
            leader: Some(office()),
        }),
    ]
}

fn rows() -> Vec<Row> {
    [key_rows(), lease_rows(), cluster_rows(), auth_rows(), concurrency_rows()]
        .into_iter()
        .flatten()
        .collect()
}

/// Messages as bytes, whatever the method.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = buffer.remaining();
        Ok(Some(buffer.copy_to_bytes(length)))
    }
}

/// What a refused caller hears at once and one who is let in may wait for: a leader to be elected, say.
const SILENT: Duration = Duration::from_millis(700);

/// The refusal, if it is one; other errors say that the call got through.
async fn call(channel: &Channel, path: &str, token: &str, message: Bytes) -> Option<String> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.expect("connected");
    // Every method can be called as one that streams both ways; who wants to say more keeps its side open.
    let open = futures_util::stream::pending();
    let said = futures_util::StreamExt::chain(futures_util::stream::iter([message]), open);
    let closed = futures_util::StreamExt::take(said, if is_stream(path) { 2 } else { 1 });
    let request: Request<_> = as_user(token, closed);
    let path = path.parse().expect("a path");
    let answered = async {
        let mut answers = grpc.streaming(request, path, Raw).await?.into_inner();
        answers.message().await
    };
    let answer = match tokio::time::timeout(SILENT, answered).await {
        Err(_) => return None,
        Ok(answer) => answer,
    };
    let text = match answer {
        Err(status) => status.message().to_owned(),
        Ok(Some(message)) => cancel_reason(message),
        Ok(None) => return None,
    };
    REFUSALS.into_iter().find(|refusal| text.ends_with(refusal)).map(str::to_owned)
}

fn is_stream(path: &str) -> bool {
    matches!(path, "/etcdserverpb.Watch/Watch" | "/etcdserverpb.Lease/LeaseKeepAlive")
}

/// A watch that is not permitted is no error of the call. Of other messages: nothing.
fn cancel_reason(message: Bytes) -> String {
    WatchResponse::decode(message)
        .ok()
        .filter(|watch| watch.created && watch.canceled && watch.watch_id == -1)
        .map(|watch| watch.cancel_reason)
        .unwrap_or_default()
}

fn methods() -> BTreeSet<String> {
    let pool = prost_reflect::DescriptorPool::decode(quorate_wire::FILE_DESCRIPTOR_SET).expect("ours");
    let services: Vec<_> =
        pool.services().filter(|service| !service.full_name().starts_with("quorate.")).collect();
    let methods = services.iter().flat_map(|service| {
        let name = service.full_name().to_owned();
        service.methods().map(move |method| format!("/{name}/{}", method.name())).collect::<Vec<_>>()
    });
    methods.collect()
}

#[test]
fn every_method_of_the_protocol_is_in_the_matrix() {
    let known: BTreeSet<String> = rows().iter().map(|row| row.path.to_owned()).collect();
    assert_eq!(known, methods());
}

async fn apply(cluster: &Cluster, body: Body) {
    cluster.handle(0).propose(Command::new(body), PATIENCE).await.expect("it is applied");
}

/// Tokens, in the order of the callers.
async fn tokens(channel: &Channel) -> Vec<String> {
    let mut client = AuthClient::new(channel.clone());
    let mut tokens = vec![String::new(), "abcdefghijklmnop.1".to_owned()];
    for name in &CALLERS[2..] {
        tokens.push(log_in(&mut client, name, name).await.expect("a user logs in"));
    }
    tokens
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_may_do_what_they_may_and_nothing_else() {
    let cluster = users::cluster(1, TokenOptions::default()).await;
    let channel = cluster.channel(0).await;

    // While it is off nobody is asked. Auth itself is left out: it would go on.
    for row in rows().iter().filter(|row| !row.path.contains(".Auth/")) {
        for (caller, token) in ["", "abcdefghijklmnop.1"].into_iter().enumerate() {
            let refusal = call(&channel, row.path, token, (row.request)(100 + caller)).await;
            assert_eq!(refusal, None, "{} {} while authentication is off", row.path, row.what);
        }
    }

    let mut admin = Admin::new(&cluster, 0).await;
    admin.role("reads", vec![range("\0", b"\0", Type::Read)]).await;
    admin.role("writes", vec![range("\0", b"\0", Type::Write)]).await;
    admin.user("no role", &[]).await;
    admin.user("reader", &["reads"]).await;
    admin.user("writer", &["writes"]).await;
    admin.user("both", &["reads", "writes"]).await;
    admin.enable().await;
    for (n, id) in (LEASE..LEASE + 7).chain([KEPT]).enumerate() {
        cluster.handle(0).grant_lease(Some(id), PATIENCE * 100, PATIENCE).await.expect("a lease");
        let command = Command::put_with_lease(format!("leased/{n}"), "v", id);
        cluster.handle(0).propose(command, PATIENCE).await.expect("a key of the lease");
    }

    let mut tokens = tokens(&channel).await;
    for row in rows() {
        for (number, caller) in CALLERS.into_iter().enumerate() {
            let refusal = call(&channel, row.path, &tokens[number], (row.request)(number)).await;
            let expected = row.may.refusal(caller).map(str::to_owned);
            assert_eq!(refusal, expected, "{} {} as {caller}", row.path, row.what);
        }
        if row.path == "/etcdserverpb.Auth/AuthDisable" {
            apply(&cluster, Body::Auth(Auth::new(AuthAction::Enable(Done {})))).await;
            tokens = self::tokens(&channel).await;
        }
    }

    // Nobody has thought about it, so nobody may call it; while authentication is off it is merely not there.
    let root = tokens.last().expect("root").clone();
    let unknown = |token: String| {
        let channel = channel.clone();
        async move { call(&channel, "/etcdserverpb.KV/NeverHeardOf", &token, Bytes::new()).await }
    };
    assert_eq!(unknown(root).await.as_deref(), Some("etcdserver: permission denied"));
    apply(&cluster, Body::Auth(Auth::new(AuthAction::Disable(Done {})))).await;
    assert_eq!(unknown(String::new()).await, None);
    cluster.stop().await;
}
