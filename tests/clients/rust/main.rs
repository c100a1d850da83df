//! Does the `etcd-client` crate, as it is published, notice that no etcd answers it?
//!
//! Every service it has, against three `quorate store` processes, one of which is lost where a client would suffer most:
//! the leader, in the middle of a watch, of a keep-alive, of a wait for a lock.

use std::future::Future;
use std::time::{Duration, Instant};

use etcd_client::{
    AlarmAction, AlarmType, Client, Compare, CompareOp, ConnectOptions, DeleteOptions, Error, EventType,
    GetOptions, LockOptions, Permission, PutOptions, ResignOptions, SortOrder, SortTarget, Txn, TxnOp,
    TxnOpResponse, WatchOptions, WatchStream,
};
use quorate_tests::stores::Stores;

/// Generous: the machine is shared. Only a failure takes this long.
const PATIENCE: Duration = Duration::from_secs(20);

async fn connect(endpoints: &[String]) -> Client {
    let options = ConnectOptions::new().with_timeout(PATIENCE).with_connect_timeout(Duration::from_secs(2));
    Client::connect(endpoints, Some(options)).await.expect("a connection")
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: not in time"))
}

/// Asks again until it works: what a program does when a server is lost under it. Only for what may be done twice.
async fn insist<T, F: Future<Output = Result<T, Error>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => assert!(Instant::now() < until, "{what}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[track_caller]
fn refused<T>(answer: Result<T, Error>, text: &str) {
    match answer {
        Err(Error::GRpcStatus(status)) => assert_eq!(status.message(), text),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("no refusal: {text}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_and_transactions() {
    let stores = Stores::start(&[]);
    let mut client = connect(&stores.endpoints()).await;
    for (key, value) in [("k/b", "1"), ("k/a", "2"), ("k/c", "3")] {
        client.put(key, value, None).await.expect("written");
    }
    let options = PutOptions::new().with_prev_key();
    let put = client.put("k/a", "4", Some(options)).await.expect("written");
    assert_eq!(put.prev_key().expect("there was one").value(), b"2");
    let options =
        GetOptions::new().with_prefix().with_sort(SortTarget::Create, SortOrder::Descend).with_limit(2);
    let found = client.get("k/", Some(options)).await.expect("an answer");
    let keys: Vec<_> = found.kvs().iter().map(|kv| kv.key_str().expect("text")).collect();
    assert_eq!((keys.as_slice(), found.count(), found.more()), (&["k/c", "k/a"][..], 3, true));
    let before = put.header().expect("a header").revision() - 1;
    let options = GetOptions::new().with_revision(before);
    let found = client.get("k/a", Some(options)).await.expect("an answer");
    assert_eq!(found.kvs()[0].value(), b"2");
    refused(
        client.get("k/a", Some(GetOptions::new().with_revision(before + 1000))).await,
        "etcdserver: mvcc: required revision is a future revision",
    );

    let nested = Txn::new()
        .when([Compare::version("k/none", CompareOp::Equal, 0)])
        .and_then([TxnOp::put("k/none", "made", None)]);
    let txn = Txn::new()
        .when([
            Compare::value("k/a", CompareOp::Equal, "4"),
            Compare::create_revision("k/b", CompareOp::Less, 100),
        ])
        .and_then([TxnOp::get("k/b", None), TxnOp::txn(nested), TxnOp::delete("k/c", None)])
        .or_else([TxnOp::put("k/wrong", "", None)]);
    let answer = client.txn(txn).await.expect("an answer");
    assert!(answer.succeeded());
    let answers = answer.op_responses();
    assert!(matches!(&answers[0], TxnOpResponse::Get(get) if get.kvs()[0].value() == b"1"));
    assert!(matches!(&answers[1], TxnOpResponse::Txn(txn) if txn.succeeded()));
    assert!(matches!(&answers[2], TxnOpResponse::Delete(delete) if delete.deleted() == 1));
    let twice = Txn::new().and_then([TxnOp::put("t", "", None), TxnOp::put("t", "", None)]);
    refused(client.txn(twice).await, "etcdserver: duplicate key given in txn request");

    let options = DeleteOptions::new().with_prefix().with_prev_key();
    let deleted = client.delete("k/", Some(options)).await.expect("an answer");
    assert_eq!((deleted.deleted(), deleted.prev_kvs().len()), (3, 3));
    let now = deleted.header().expect("a header").revision();
    client.compact(now, None).await.expect("compacted");
    refused(client.compact(now, None).await, "etcdserver: mvcc: required revision has been compacted");
}

/// A program that watches: it remembers what it has seen, and begins again after that when its stream ends.
struct Watching {
    endpoints: Vec<String>,
    stream: Option<WatchStream>,
    next: i64,
}

impl Watching {
    async fn open(&mut self) -> &mut WatchStream {
        if self.stream.is_none() {
            let options = WatchOptions::new().with_prefix().with_start_revision(self.next).with_prev_key();
            let client = connect(&self.endpoints).await;
            let stream = insist("a watch", || {
                let (mut client, options) = (client.clone(), options.clone());
                async move { client.watch("w/", Some(options)).await }
            })
            .await;
            self.stream = Some(stream);
        }
        self.stream.as_mut().expect("it was just opened")
    }

    /// The values of the next `count` events.
    async fn values(&mut self, count: usize) -> Vec<String> {
        let mut seen = Vec::new();
        while seen.len() < count {
            match self.open().await.message().await {
                Ok(Some(response)) => {
                    assert!(!response.canceled(), "{}", response.cancel_reason());
                    for event in response.events() {
                        assert_eq!(event.event_type(), EventType::Put);
                        let kv = event.kv().expect("a key");
                        assert!(kv.mod_revision() >= self.next, "in order, and nothing twice");
                        assert_eq!(event.prev_kv().is_some(), kv.version() > 1);
                        self.next = kv.mod_revision() + 1;
                        seen.push(kv.value_str().expect("text").to_owned());
                    }
                }
                Ok(None) | Err(_) => self.stream = None,
            }
        }
        seen
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_and_leases_through_the_loss_of_the_leader() {
    let mut stores = Stores::start(&[]);
    let leader = stores.leader(&[0, 1, 2]).expect("a leader");
    let endpoints = stores.endpoints();
    let survivors: Vec<usize> = (0..3).filter(|member| *member != leader).collect();
    let left: Vec<String> = survivors.iter().map(|member| endpoints[*member].clone()).collect();
    // One watch at the member that will be lost, one at another.
    let mut hit = Watching { endpoints: vec![endpoints[leader].clone()], stream: None, next: 1 };
    let mut spared = Watching { endpoints: left.clone(), stream: None, next: 1 };
    let mut client = connect(&left).await;
    let lease = client.lease_grant(3, None).await.expect("a lease");
    assert_eq!(lease.ttl(), 3);
    let lease = lease.id();
    client.put("leased", "x", Some(PutOptions::new().with_lease(lease))).await.expect("written");
    let (mut keeper, mut answers) = client.lease_keep_alive(lease).await.expect("a stream");
    for n in 0..10 {
        client.put("w/1", n.to_string(), None).await.expect("written");
    }
    let first: Vec<String> = (0..10).map(|n| n.to_string()).collect();
    assert_eq!(within("the first events", hit.values(10)).await, first);
    assert_eq!(within("the first events", spared.values(10)).await, first);

    stores.kill(leader);
    hit.endpoints = endpoints;
    // The lease lives longer than its time, at a client whose stream may end.
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        let asked = async {
            keeper.keep_alive().await?;
            answers.message().await
        };
        match tokio::time::timeout(Duration::from_secs(2), asked).await {
            Ok(Ok(Some(answer))) => {
                assert_eq!((answer.id(), answer.ttl()), (lease, 3), "it never expires while it is renewed");
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            _ => {
                (keeper, answers) = insist("a stream", || {
                    let mut client = client.clone();
                    async move { client.lease_keep_alive(lease).await }
                })
                .await;
            }
        }
    }
    for n in 10..20 {
        insist("a put", || {
            let mut client = client.clone();
            async move { client.put(format!("w/{n}"), n.to_string(), None).await }
        })
        .await;
    }
    // Every key once, whoever asked twice: a repeated put would be a second event of its key.
    let mut seen = within("the other events", spared.values(10)).await;
    seen.dedup();
    assert_eq!(seen, (10..20).map(|n| n.to_string()).collect::<Vec<_>>());
    let mut seen = within("the other events", hit.values(10)).await;
    seen.dedup();
    assert_eq!(seen, (10..20).map(|n| n.to_string()).collect::<Vec<_>>());

    let left = client.lease_time_to_live(lease, None).await.expect("an answer");
    assert!(left.granted_ttl() == 3 && left.ttl() > 0, "{left:?}");
    assert!(client.leases().await.expect("an answer").leases().iter().any(|one| one.id() == lease));
    client.lease_revoke(lease).await.expect("revoked");
    assert!(client.get("leased", None).await.expect("an answer").kvs().is_empty());
    refused(client.lease_revoke(lease).await, "etcdserver: requested lease not found");
    let gone = client.lease_time_to_live(lease, None).await.expect("an answer");
    assert_eq!(gone.ttl(), -1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_and_elections_through_the_loss_of_the_leader() {
    let mut stores = Stores::start(&[]);
    let leader = stores.leader(&[0, 1, 2]).expect("a leader");
    let mut left = stores.endpoints();
    left.remove(leader);
    let mut client = connect(&left).await;
    let first = client.lease_grant(60, None).await.expect("a lease").id();
    let options = LockOptions::new().with_lease(first);
    let held = client.lock("lock", Some(options)).await.expect("locked").key().to_vec();
    assert_eq!(held, format!("lock/{first:x}").into_bytes());
    let second = client.lease_grant(60, None).await.expect("a lease").id();
    let mut other = client.clone();
    let waiting =
        tokio::spawn(async move { other.lock("lock", Some(LockOptions::new().with_lease(second))).await });

    let won = client.campaign("chair", "ann", first).await.expect("elected");
    let ann = won.leader().expect("a key").clone();
    let mut observed = client.observe("chair").await.expect("a stream");
    let mut rival = client.clone();
    let campaign = tokio::spawn(async move { rival.campaign("chair", "bob", second).await });
    let line = GetOptions::new().with_prefix().with_count_only();
    for name in ["lock/", "chair/"] {
        let until = Instant::now() + PATIENCE;
        while client.get(name, Some(line.clone())).await.expect("an answer").count() < 2 {
            assert!(Instant::now() < until, "nobody waits for {name}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    stores.kill(leader);
    let rest: Vec<usize> = (0..3).filter(|member| *member != leader).collect();
    stores.wait_until("another leader", |stores| stores.leader(&rest).is_some());
    assert!(!waiting.is_finished() && !campaign.is_finished(), "an election of the store changes neither");

    insist("an unlock", || {
        let (mut client, held) = (client.clone(), held.clone());
        async move { client.unlock(held).await }
    })
    .await;
    let locked = within("the second lock", waiting).await.expect("no panic").expect("locked");
    assert_eq!(locked.key(), format!("lock/{second:x}").into_bytes());
    let found = client.leader("chair").await.expect("an answer");
    assert_eq!(found.kv().expect("somebody").value(), b"ann");
    client.resign(Some(ResignOptions::new().with_leader(ann))).await.expect("resigned");
    within("the second campaign", campaign).await.expect("no panic").expect("elected");
    let mut seen = Vec::new();
    while seen.last().is_none_or(|last| last != b"bob") {
        let next = within("an observation", observed.message()).await.expect("no error").expect("an item");
        seen.push(next.kv().expect("a key").value().to_vec());
    }
    assert_eq!(seen, [b"ann", b"bob"]);
    refused(client.leader("nobody").await, "election: no leader");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maintenance_and_members() {
    let stores = Stores::start(&[]);
    let endpoints = stores.endpoints();
    let mut client = connect(&endpoints).await;
    let members = client.member_list().await.expect("an answer");
    let members = members.members();
    assert_eq!(members.len(), 3);
    let mut states = Vec::new();
    for endpoint in &endpoints {
        let mut one = connect(std::slice::from_ref(endpoint)).await;
        one.put(format!("at/{endpoint}"), "x", None).await.expect("written");
        let status = one.status().await.expect("an answer");
        let header = status.header().expect("a header");
        let me = members.iter().find(|member| member.id() == header.member_id()).expect("myself");
        assert_eq!(me.client_urls(), [format!("http://{endpoint}")]);
        assert!(status.db_size() > 0 && status.raft_applied_index() > 0 && status.errors().is_empty());
        states.push((header.cluster_id(), status.leader(), status.raft_term()));
        one.defragment().await.expect("done");
        one.hash().await.expect("an answer");
    }
    states.dedup();
    assert_eq!(states.len(), 1, "all of them name one cluster, one leader, one term");
    let revision = client.get("x", None).await.expect("an answer").header().expect("a header").revision();
    let mut hashes = Vec::new();
    for endpoint in &endpoints {
        let mut one = connect(std::slice::from_ref(endpoint)).await;
        // A read through the leader: this member has everything up to here then.
        one.get("x", None).await.expect("an answer");
        hashes.push(one.hash_kv(revision).await.expect("an answer").hash());
    }
    hashes.dedup();
    assert_eq!(hashes.len(), 1, "equal content on all members");
    let none = client.alarm(AlarmAction::Get, AlarmType::None, None).await.expect("an answer");
    assert!(none.alarms().is_empty());

    let (leader, mut at_leader) = {
        let index = stores.leader(&[0, 1, 2]).expect("a leader");
        (states[0].1, connect(std::slice::from_ref(&endpoints[index])).await)
    };
    let target = members.iter().map(|member| member.id()).find(|id| *id != leader).expect("another");
    at_leader.move_leader(target).await.expect("moved");
    stores.wait_until("the new leader", |stores| stores.leader(&[0, 1, 2]).is_some());
    let until = Instant::now() + PATIENCE;
    while client.status().await.expect("an answer").leader() != target {
        assert!(Instant::now() < until, "the leader was not moved");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut snapshot = client.snapshot().await.expect("a stream");
    let mut bytes = 0;
    while let Some(part) = within("a part of the snapshot", snapshot.message()).await.expect("no error") {
        bytes += part.blob().len();
    }
    assert!(bytes > 32, "there is more than a checksum");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_and_roles() {
    let stores = Stores::start(&[]);
    let endpoints = stores.endpoints();
    let mut open = connect(&endpoints).await;
    open.put("other", "x", None).await.expect("written");
    open.user_add("root", "secret", None).await.expect("added");
    open.user_add("app", "word", None).await.expect("added");
    refused(open.user_add("app", "word", None).await, "etcdserver: user name already exists");
    open.role_add("root").await.expect("added");
    open.role_add("writer").await.expect("added");
    let permission = Permission::read_write("app/").with_prefix();
    open.role_grant_permission("writer", permission).await.expect("granted");
    open.user_grant_role("root", "root").await.expect("granted");
    open.user_grant_role("app", "writer").await.expect("granted");
    open.auth_enable().await.expect("enabled");

    refused(open.put("app/1", "x", None).await, "etcdserver: user name is empty");
    let login = |name: &str, password: &str| {
        let options = ConnectOptions::new().with_user(name, password);
        Client::connect(endpoints.clone(), Some(options))
    };
    refused(login("app", "wrong").await, "etcdserver: authentication failed, invalid user ID or password");
    // The token of one member is worth something at all of them: this client spreads its requests.
    let mut app = login("app", "word").await.expect("logged in");
    for n in 0..9 {
        app.put(format!("app/{n}"), "x", None).await.expect("permitted");
    }
    let denied = "etcdserver: permission denied";
    refused(app.put("other", "y", None).await, denied);
    refused(app.get("other", None).await, denied);
    refused(app.get("app/", Some(GetOptions::new().with_from_key())).await, denied);
    let txn = Txn::new().when([Compare::version("other", CompareOp::Greater, 0)]);
    refused(app.txn(txn.and_then([TxnOp::put("app/0", "y", None)])).await, denied);
    refused(app.user_add("more", "x", None).await, denied);
    let mut watch = app.watch("app/", Some(WatchOptions::new().with_prefix())).await.expect("a stream");
    app.put("app/0", "seen", None).await.expect("permitted");
    let seen = async {
        loop {
            let response = watch.message().await.expect("no error").expect("a response");
            if let [event, ..] = response.events() {
                return event.kv().expect("a key").value().to_vec();
            }
        }
    };
    assert_eq!(within("the event", seen).await, b"seen");

    let mut root = login("root", "secret").await.expect("logged in");
    assert_eq!(root.user_get("app").await.expect("an answer").roles(), ["writer"]);
    assert_eq!(root.role_list().await.expect("an answer").roles().len(), 2);
    root.user_revoke_role("app", "writer").await.expect("revoked");
    refused(app.put("app/0", "z", None).await, denied);
    root.auth_disable().await.expect("disabled");
    open.put("app/1", "x", None).await.expect("open again");
}
