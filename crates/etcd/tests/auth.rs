//! Users, roles and tokens over the wire: does a token count at every member, and end when it must?

mod common;
#[path = "common/http.rs"]
mod http;
#[path = "common/auth.rs"]
mod users;

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{Cluster, PATIENCE, eventually};
use http::{Http, Lines, whole};
use quorate_node::auth::{JwtOptions, SignMethod, TokenOptions};
use quorate_wire::authpb::permission::Type;
use quorate_wire::etcdserverpb::auth_client::AuthClient;
use quorate_wire::etcdserverpb::kv_client::KvClient;
use quorate_wire::etcdserverpb::watch_client::WatchClient;
use quorate_wire::etcdserverpb::*;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use serde_json::json;
use tonic::transport::Channel;
use tonic::{Code, Status};
use users::{Admin, as_user, log_in, range};

fn put(key: &str) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: "v".into(), ..PutRequest::default() }
}

fn get(key: &str) -> RangeRequest {
    RangeRequest { key: key.to_owned().into(), ..RangeRequest::default() }
}

async fn puts(channel: &Channel, token: &str, key: &str) -> Result<(), Status> {
    KvClient::new(channel.clone()).put(as_user(token, put(key))).await.map(|_| ())
}

async fn gets(channel: &Channel, token: &str, key: &str) -> Result<(), Status> {
    KvClient::new(channel.clone()).range(as_user(token, get(key))).await.map(|_| ())
}

fn assert_refused(result: Result<(), Status>, code: Code, text: &str) {
    let status = result.expect_err(text);
    assert_eq!((status.code(), status.message()), (code, text));
}

fn assert_invalid(result: Result<(), Status>) {
    assert_refused(result, Code::Unauthenticated, "etcdserver: invalid auth token");
}

fn assert_denied(result: Result<(), Status>) {
    assert_refused(result, Code::PermissionDenied, "etcdserver: permission denied");
}

/// A user "alice" who may do anything below "a", and authentication on.
async fn alice(cluster: &Cluster) -> Admin {
    let mut admin = Admin::new(cluster, 0).await;
    admin.role("r", vec![range("a", b"b", Type::Readwrite)]).await;
    admin.user("alice", &["r"]).await;
    admin.enable().await;
    admin
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_counts_at_every_member_at_once_and_after_the_leader_is_gone() {
    let mut cluster = users::cluster(3, TokenOptions::default()).await;
    drop(alice(&cluster).await);
    let leader = cluster.leader().await;
    let followers: Vec<usize> = (0..3).filter(|n| *n != leader).collect();
    let channels = [cluster.channel(followers[0]).await, cluster.channel(followers[1]).await];
    let at_leader = cluster.channel(leader).await;
    for _ in 0..20 {
        // Handed out by one follower, shown to the other members in the same moment.
        let token =
            log_in(&mut AuthClient::new(channels[0].clone()), "alice", "alice").await.expect("a token");
        for channel in [&channels[1], &at_leader, &channels[0]] {
            gets(channel, &token, "a").await.expect("it counts everywhere");
        }
    }
    let token = log_in(&mut AuthClient::new(at_leader), "alice", "alice").await.expect("a token");
    cluster.kill(leader);
    eventually("the others go on, and know the token", || async {
        puts(&channels[0], &token, "a").await.ok()?;
        puts(&channels[1], &token, "a").await.ok()
    })
    .await;
    assert_denied(puts(&channels[0], &token, "z").await);
    cluster.restart(leader).await;
    // A member that starts anew remembers no token: etcd's neither.
    let channel = cluster.channel(leader).await;
    assert_invalid(gets(&channel, &token, "a").await);
    let token = log_in(&mut AuthClient::new(channel.clone()), "alice", "alice").await.expect("another token");
    gets(&channel, &token, "a").await.expect("the new one counts");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_ends_with_its_password_its_user_and_its_time() {
    let ttl = Duration::from_secs(2);
    let cluster = users::cluster(1, TokenOptions::Simple { ttl }).await;
    let mut admin = alice(&cluster).await;
    let channel = cluster.channel(0).await;
    let mut auth = AuthClient::new(channel.clone());

    // Users and roles may change as they like: a plain token stands for its user as of now.
    let token = log_in(&mut auth, "alice", "alice").await.expect("a token");
    admin.grant("r", range("c", b"", Type::Readwrite)).await;
    puts(&channel, &token, "c").await.expect("granted meanwhile");
    admin.revoke("r", range("c", b"", Type::Readwrite)).await;
    assert_denied(puts(&channel, &token, "c").await);

    // In use it lives on, at rest it ends.
    let long_after = tokio::time::Instant::now() + ttl * 3 / 2;
    while tokio::time::Instant::now() < long_after {
        gets(&channel, &token, "a").await.expect("in use");
        tokio::time::sleep(ttl / 20).await;
    }
    tokio::time::sleep(ttl + ttl / 4).await;
    assert_invalid(gets(&channel, &token, "a").await);

    admin.log_in().await;
    let token = log_in(&mut auth, "alice", "alice").await.expect("a token");
    let change = AuthUserChangePasswordRequest {
        name: "alice".to_owned(),
        password: "new".to_owned(),
        ..AuthUserChangePasswordRequest::default()
    };
    admin.client.user_change_password(as_user(&admin.token, change)).await.expect("changed");
    assert_invalid(gets(&channel, &token, "a").await);
    let failed = log_in(&mut auth, "alice", "alice").await.map(|_| ());
    let text = "etcdserver: authentication failed, invalid user ID or password";
    assert_refused(failed, Code::InvalidArgument, text);
    let failed = log_in(&mut auth, "nobody of that name", "").await.map(|_| ());
    assert_refused(failed, Code::InvalidArgument, text);

    let token = log_in(&mut auth, "alice", "new").await.expect("a token");
    let delete = AuthUserDeleteRequest { name: "alice".to_owned() };
    admin.client.user_delete(as_user(&admin.token, delete)).await.expect("deleted");
    assert_invalid(gets(&channel, &token, "a").await);

    let disable = AuthDisableRequest {};
    admin.client.auth_disable(as_user(&admin.token, disable)).await.expect("off");
    gets(&channel, &token, "z").await.expect("nobody asks any more");
    let status = admin.client.auth_status(AuthStatusRequest {}).await.expect("a status").into_inner();
    assert!(!status.enabled && status.auth_revision > 8, "{status:?}");
    assert_refused(
        log_in(&mut auth, "root", "root").await.map(|_| ()),
        Code::FailedPrecondition,
        "etcdserver: authentication is not enabled",
    );
    admin.client.auth_enable(AuthEnableRequest {}).await.expect("on again");
    assert_invalid(gets(&channel, &admin.token, "a").await);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_is_refused_in_etcds_way_and_goes_on_once_it_was_let_in() {
    let cluster = users::cluster(1, TokenOptions::default()).await;
    let mut admin = alice(&cluster).await;
    let channel = cluster.channel(0).await;
    let token = log_in(&mut AuthClient::new(channel.clone()), "alice", "alice").await.expect("a token");
    let creates = |key: &str, range_end: &[u8]| {
        let create = WatchCreateRequest {
            key: key.to_owned().into(),
            range_end: range_end.to_vec().into(),
            ..WatchCreateRequest::default()
        };
        WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(create)) }
    };
    let reason = |token: &str, request: WatchRequest| {
        let (channel, token) = (channel.clone(), token.to_owned());
        async move {
            let requests = futures_util::stream::iter([request]);
            let answers = WatchClient::new(channel).watch(as_user(&token, requests)).await.expect("a stream");
            let answer = answers.into_inner().message().await.expect("an answer").expect("an answer");
            assert!(answer.created && answer.canceled && answer.watch_id == -1, "{answer:?}");
            answer.cancel_reason
        }
    };
    let denied = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
    assert_eq!(reason(&token, creates("z", b"")).await, denied);
    assert_eq!(reason(&token, creates("a", b"\0")).await, denied, "every key from a on is more than [a, b)");
    assert_eq!(
        reason("", creates("a", b"")).await,
        "rpc error: code = InvalidArgument desc = etcdserver: user name is empty"
    );
    assert_eq!(
        reason("nonsense", creates("a", b"")).await,
        "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"
    );

    let (sender, requests) = tokio::sync::mpsc::channel(4);
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let mut answers = WatchClient::new(channel.clone())
        .watch(as_user(&token, requests))
        .await
        .expect("a stream")
        .into_inner();
    sender.send(creates("a", b"b")).await.expect("it listens");
    let created = answers.message().await.expect("an answer").expect("an answer");
    assert!(created.created && !created.canceled, "{created:?}");
    let delete = AuthUserDeleteRequest { name: "alice".to_owned() };
    admin.client.user_delete(as_user(&admin.token, delete)).await.expect("deleted");
    puts(&channel, &admin.token, "a").await.expect("root writes");
    let event = tokio::time::timeout(PATIENCE, answers.message()).await.expect("in time");
    assert_eq!(event.expect("an answer").expect("an answer").events.len(), 1);
    cluster.stop().await;
}

/// Writes the two halves of a key.
fn keys(directory: &Path, name: &str, pair: &KeyPair) -> (PathBuf, PathBuf) {
    let paths = (directory.join(format!("{name}.pub")), directory.join(format!("{name}.key")));
    std::fs::write(&paths.0, pair.public_key_pem()).expect("a file");
    std::fs::write(&paths.1, pair.serialize_pem()).expect("a file");
    paths
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_token_counts_until_users_or_roles_change() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    let (public_key, private_key) = keys(directory.path(), "jwt", &pair);
    let ttl = Duration::from_secs(2);
    let jwt = JwtOptions {
        method: SignMethod::Es256,
        public_key: Some(public_key),
        private_key: Some(private_key),
        ttl,
    };
    let mut cluster = users::cluster(3, TokenOptions::Jwt(jwt)).await;
    let mut admin = alice(&cluster).await;
    let follower = cluster.follower().await;
    let channel = cluster.channel(follower).await;
    let mut auth = AuthClient::new(channel.clone());
    let token = log_in(&mut auth, "alice", "alice").await.expect("a token");
    assert_eq!(token.matches('.').count(), 2, "{token}");
    gets(&channel, &token, "a").await.expect("it counts");

    admin.log_in().await;
    admin.grant("r", range("c", b"", Type::Readwrite)).await;
    let old = "etcdserver: revision of auth store is old";
    assert_refused(gets(&channel, &token, "a").await, Code::InvalidArgument, old);
    assert_refused(puts(&channel, &token, "a").await, Code::InvalidArgument, old);
    let token = log_in(&mut auth, "alice", "alice").await.expect("a token");
    puts(&channel, &token, "c").await.expect("as of now");

    // Nothing is remembered of it, so nothing is forgotten with a member.
    cluster.kill(follower);
    cluster.restart(follower).await;
    let token = log_in(&mut AuthClient::new(cluster.channel(cluster.leader().await).await), "alice", "alice")
        .await
        .expect("a token");
    let channel = cluster.channel(follower).await;
    gets(&channel, &token, "a").await.expect("at another member");
    let mut forged = token.clone();
    let last = if forged.ends_with('A') { 'B' } else { 'A' };
    forged.pop();
    forged.push(last);
    let forged = forged.replacen("eyJ0", "eyJ1", 1) + "x";
    assert_invalid(gets(&channel, &forged, "a").await);
    tokio::time::sleep(ttl + Duration::from_secs(1)).await;
    assert_invalid(gets(&channel, &token, "a").await);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_every_kind_sign_and_wrong_ones_stop_the_start() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let ed = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
    let ec = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    let (ed_public, ed_private) = keys(directory.path(), "ed", &ed);
    let (ec_public, ec_private) = keys(directory.path(), "ec", &ec);
    let secret = directory.path().join("secret");
    std::fs::write(&secret, "a secret of more than a few letters").expect("a file");
    let jwt = |method, public_key: Option<&PathBuf>, private_key: Option<&PathBuf>| JwtOptions {
        method,
        public_key: public_key.cloned(),
        private_key: private_key.cloned(),
        ttl: Duration::from_secs(300),
    };
    for options in [
        jwt(SignMethod::EdDsa, Some(&ed_public), Some(&ed_private)),
        jwt(SignMethod::Es256, None, Some(&ec_private)),
        jwt(SignMethod::Hs512, None, Some(&secret)),
    ] {
        let what = format!("{:?}", options.method);
        let cluster = users::cluster(1, TokenOptions::Jwt(options)).await;
        drop(alice(&cluster).await);
        let channel = cluster.channel(0).await;
        let token = log_in(&mut AuthClient::new(channel.clone()), "alice", "alice").await.expect(&what);
        gets(&channel, &token, "a").await.expect(&what);
        assert_denied(gets(&channel, &token, "z").await);
        cluster.stop().await;
    }

    // With the public half alone a member takes tokens and makes none.
    let verifies = users::cluster(1, TokenOptions::Jwt(jwt(SignMethod::Es256, Some(&ec_public), None))).await;
    let mut admin = Admin::new(&verifies, 0).await;
    admin.user("root", &["root"]).await;
    admin.client.auth_enable(AuthEnableRequest {}).await.expect("on");
    let refused = log_in(&mut admin.client, "root", "root").await.map(|_| ());
    assert_refused(refused, Code::Unknown, "auth: token signing attempted with verify-only key");
    verifies.stop().await;

    for (options, said) in [
        (jwt(SignMethod::Es256, Some(&ed_public), None), "no public key in PEM"),
        (jwt(SignMethod::Es256, None, Some(&ed_private)), "private key"),
        (jwt(SignMethod::Es256, None, None), "needs a key"),
        (jwt(SignMethod::Rs256, None, Some(&directory.path().join("gone"))), "reading"),
    ] {
        let mut config = quorate_node::Config::single("one", directory.path().join("data"));
        config.auth.token = TokenOptions::Jwt(options);
        let error = quorate_node::Node::start(config).await.err().expect(said);
        assert!(error.to_string().contains(said), "{error}");
    }
    assert!(!directory.path().join("data").exists(), "nothing was written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords_may_be_absent_or_hashed_already() {
    let cluster = users::cluster(1, TokenOptions::default()).await;
    let mut admin = alice(&cluster).await;
    let channel = cluster.channel(0).await;
    let mut auth = AuthClient::new(channel.clone());
    let mut add = async |request: AuthUserAddRequest| {
        let request = as_user(&admin.token, request);
        admin.client.user_add(request).await.map(|_| ())
    };
    let options = Some(quorate_wire::authpb::UserAddOptions { no_password: true });
    let name = "cert".to_owned();
    add(AuthUserAddRequest { name, options, ..AuthUserAddRequest::default() }).await.expect("added");
    let failed = log_in(&mut auth, "cert", "").await.map(|_| ());
    let text = "etcdserver: authentication failed, invalid user ID or password";
    assert_refused(failed, Code::InvalidArgument, text);

    // "allmine", from Go's test vectors, in base64.
    let known = "JDJhJDEwJFhhampRdk5odnZSdDVHU2VGazF4RmV5cVJyc3hraEJrVWlRZWcwZHQud1UxcUQ0YUZEY2dh";
    let hashed = |name: &str, hashed_password: &str| AuthUserAddRequest {
        name: name.to_owned(),
        hashed_password: hashed_password.to_owned(),
        ..AuthUserAddRequest::default()
    };
    add(hashed("hashed", known)).await.expect("added");
    log_in(&mut auth, "hashed", "allmine").await.expect("the password of the hash");
    for wrong in ["no base64 at all", "bm90IGEgaGFzaA=="] {
        let text = "etcdserver: invalid auth management";
        assert_refused(add(hashed("wrong", wrong)).await, Code::InvalidArgument, text);
    }
    let long = AuthUserAddRequest {
        name: "long".to_owned(),
        password: "x".repeat(73),
        ..AuthUserAddRequest::default()
    };
    assert_refused(add(long).await, Code::Unknown, "bcrypt: password length exceeds 72 bytes");
    cluster.stop().await;
}

/// Over JSON, with Patroni's headers and requests; `/health` and `/metrics` are for anybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_clients_log_in_and_are_refused_like_others() {
    let cluster = users::cluster(1, TokenOptions::default()).await;
    let mut client = Http::connect(&cluster.clients[0]).await;
    let login = json!({"name": "alice", "password": "alice"}).to_string();
    let (code, answer) = client.post("/v3/auth/authenticate", login.clone()).await;
    assert_eq!((code, &answer["message"]), (400, &json!("etcdserver: authentication is not enabled")));
    drop(alice(&cluster).await);
    let (code, answer) = client.post("/v3/auth/authenticate", login).await;
    assert_eq!(code, 200, "{answer}");
    let token = answer["token"].as_str().expect("a token").to_owned();
    assert!(answer["header"]["raft_term"].is_string(), "{answer}");

    let put = json!({"key": "YQ==", "value": "dg=="}).to_string();
    let foreign = json!({"key": "eg==", "value": "dg=="}).to_string();
    let mut ask = async |token: Option<&str>, path: &str, body: &str| {
        let headers: Vec<_> = token.map(|token| ("authorization", token)).into_iter().collect();
        let response = client.send("POST", path, &headers, whole(body.to_owned())).await;
        let code = response.status().as_u16();
        let answer = Lines::new(response).whole(true).await;
        (code, answer["message"].as_str().unwrap_or_default().to_owned())
    };
    let said = |code: u16, message: &str| (code, message.to_owned());
    assert_eq!(ask(Some(&token), "/v3/kv/put", &put).await, said(200, ""));
    assert_eq!(ask(Some(&token), "/v3/kv/put", &foreign).await, said(403, "etcdserver: permission denied"));
    assert_eq!(ask(None, "/v3/kv/put", &put).await, said(400, "etcdserver: user name is empty"));
    // The connection lives on: a client that is told to log in again does so on it.
    let bearer = format!("Bearer {token}");
    let invalid = said(401, "etcdserver: invalid auth token");
    assert_eq!(ask(Some(&bearer), "/v3/kv/put", &put).await, invalid, "raw, as etcd 3.5 takes it");
    assert_eq!(ask(Some("nonsense"), "/v3/cluster/member/list", "{}").await, invalid);
    assert_eq!(ask(Some(&token), "/v3/cluster/member/list", "{}").await, said(200, ""));
    assert_eq!(
        ask(Some(&token), "/v3/auth/user/list", "{}").await,
        said(403, "etcdserver: permission denied")
    );
    assert_eq!(ask(None, "/v3/auth/status", "{}").await, said(200, ""));

    for path in ["/health", "/livez", "/readyz", "/metrics", "/version"] {
        let response = client.send("GET", path, &[], whole("")).await;
        assert_eq!(response.status(), 200, "{path}");
        drop(http_body_util::BodyExt::collect(response.into_body()).await);
    }
    cluster.stop().await;
}
