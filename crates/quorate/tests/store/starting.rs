//! Starting and stopping as an operator, or systemd, does it to etcd.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quorate_wire::etcdserverpb::kv_client::KvClient;
use quorate_wire::etcdserverpb::{PutRequest, RangeRequest};
use rustix::process::Signal;
use tonic::transport::{Channel, Endpoint};

use crate::cluster::{PATIENCE, Store, curl, etcdctl, eventually, good, plan, start_all};

/// A client that holds a stream. Ends with the test.
struct Holder(Child);

impl Holder {
    fn start(store: &Store, arguments: &[&str]) -> Holder {
        let client = Command::new("/usr/bin/etcdctl")
            .env_clear()
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &store.client])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Holder(client.expect("/usr/bin/etcdctl: install Debian's package etcd-client"))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn one(dir: &std::path::Path) -> Store {
    let mut store = plan(dir, 1, "http", &[]).remove(0);
    store.start();
    store
}

/// Open streams of a kind, as the metrics count them.
fn open(store: &Store, method: &str) -> bool {
    let metrics = good(&curl(&[&format!("{}/metrics", store.client)]));
    let line = format!("grpc_server_started_total{{grpc_method=\"{method}\",");
    metrics.lines().any(|found| found.starts_with(&line) && !found.ends_with(" 0"))
}

#[test]
fn asked_to_stop_it_ends_with_zero_while_clients_hold_streams() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut store = plan(dir.path(), 1, "http", &[]).remove(0);
    store.variables.push(("NOTIFY_SOCKET".to_owned(), socket.display().to_string()));
    store.start();
    let heard = || {
        let mut message = [0; 64];
        let length = manager.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..length]).into_owned()
    };
    assert_eq!(heard(), "READY=1");
    assert!(store.log().contains("ready to serve client requests"), "{}", store.log());
    let granted = good(&etcdctl(&["--endpoints", &store.client, "lease", "grant", "60"]));
    let lease = granted.split(' ').nth(1).unwrap().to_owned();
    let _clients = [
        Holder::start(&store, &["watch", "--prefix", "a"]),
        Holder::start(&store, &["watch", "--prefix", "b"]),
        Holder::start(&store, &["lease", "keep-alive", &lease]),
    ];
    eventually("the streams are open", || {
        (open(&store, "Watch") && open(&store, "LeaseKeepAlive")).then_some(())
    });
    let asked = Instant::now();
    store.signal(Signal::TERM);
    assert_eq!(heard(), "STOPPING=1");
    assert_eq!(store.ended().code(), Some(0), "{}", store.log());
    // systemd kills after 90 s; an operator's patience is shorter.
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
}

#[test]
fn asked_twice_it_ends_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = one(dir.path());
    store.ready();
    // A request whose body never comes holds up the orderly stop.
    let mut slow = TcpStream::connect(store.client.strip_prefix("http://").unwrap()).unwrap();
    slow.write_all(b"POST /v3/kv/put HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{").unwrap();
    eventually("the connection is served", || {
        let metrics = good(&curl(&[&format!("{}/metrics", store.client)]));
        metrics.lines().any(|line| line == "quorate_client_connections 2").then_some(())
    });
    store.signal(Signal::TERM);
    store.says("asked to stop");
    store.signal(Signal::INT);
    assert_eq!(store.ended().code(), Some(1));
    assert!(store.log().contains("asked again: ending at once"), "{}", store.log());
    // Nothing that matters was cut off.
    store.start();
    store.ready();
}

#[test]
fn ready_is_said_when_a_quorum_answers_and_not_before() {
    let dir = tempfile::tempdir().unwrap();
    let mut stores = plan(dir.path(), 3, "http", &[]);
    start_all(&mut stores);
    stores.iter_mut().for_each(Store::kill);
    // Each of them remembers a vote, one that it led.
    for lonely in &mut stores {
        lonely.start();
        let health = eventually("the client port answers", || {
            let answer = curl(&[&format!("{}/health", lonely.client)]);
            answer.status.success().then(|| String::from_utf8_lossy(&answer.stdout).into_owned())
        });
        assert!(health.contains("\"health\":\"false\""), "{health}");
        assert!(!lonely.log().contains("ready to serve"), "{}", lonely.log());
        lonely.kill();
    }
    start_all(&mut stores[..2]);
}

#[test]
fn a_configuration_file_and_the_variable_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = plan(dir.path(), 1, "http", &[]).remove(0);
    let file = dir.path().join("etcd.yml");
    let metrics = format!("http://127.0.0.1:{}", crate::cluster::free_ports(1)[0]);
    let text = format!(
        "name: m0\ndata-dir: {}\nlisten-client-urls: {client}\nadvertise-client-urls: {client}\n\
         listen-peer-urls: {peer}\ninitial-advertise-peer-urls: {peer}\ninitial-cluster: m0={peer}\nenable-v2: true\n\
         listen-metrics-urls: {metrics}\n",
        dir.path().join("m0").display(),
        client = store.client,
        peer = store.peer,
    );
    std::fs::write(&file, text).unwrap();
    store.set_arguments(&["--name=other".to_owned()]);
    store.variables.push(("ETCD_CONFIG_FILE".to_owned(), file.display().to_string()));
    store.start();
    store.ready();
    let log = store.log();
    assert!(log.contains("--name: ignored: name is read from"), "{log}");
    assert!(log.contains("etcd.yml:8: note: enable-v2: accepted, has no effect: "), "{log}");
    // The address for metrics has metrics and health, and no keys.
    assert!(good(&curl(&[&format!("{metrics}/metrics")])).contains("etcd_server_has_leader 1"));
    assert!(good(&curl(&[&format!("{metrics}/health")])).contains("\"health\":\"true\""));
    let range = good(&curl(&["--data", "{\"key\":\"YQ==\"}", &format!("{metrics}/v3/kv/range")]));
    assert!(range.contains("404"), "{range}");
}

async fn put(channel: &Channel, key: String) -> Result<(), tonic::Status> {
    let request = PutRequest { key: key.into(), value: "v".into(), ..PutRequest::default() };
    KvClient::new(channel.clone()).put(request).await.map(drop)
}

#[test]
fn killed_twenty_times_under_writes_it_comes_back_with_all_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = one(dir.path());
    store.ready();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (url, done) = (store.client.clone(), Arc::clone(&done));
            runtime.spawn(async move {
                let channel = Endpoint::from_shared(url).unwrap().connect_lazy();
                let mut acknowledged = Vec::new();
                for n in 0.. {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    let key = format!("w{writer}-{n:06}");
                    match tokio::time::timeout(PATIENCE, put(&channel, key.clone())).await.expect("an answer")
                    {
                        Ok(()) => acknowledged.push(key),
                        // It was killed.
                        Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                    }
                }
                acknowledged
            })
        })
        .collect();
    for round in 0..20_u64 {
        // Not in step with the writers.
        std::thread::sleep(Duration::from_millis(20 + 7 * round));
        store.kill();
        store.start();
        store.ready();
    }
    done.store(true, Ordering::Relaxed);
    let acknowledged: Vec<String> =
        writers.into_iter().flat_map(|writer| runtime.block_on(writer).unwrap()).collect();
    assert!(acknowledged.len() > 100, "{} writes", acknowledged.len());
    let found: BTreeSet<String> = runtime.block_on(async {
        let channel = Endpoint::from_shared(store.client.clone()).unwrap().connect_lazy();
        let request = RangeRequest {
            key: "w".into(),
            range_end: "x".into(),
            keys_only: true,
            ..RangeRequest::default()
        };
        let mut client = KvClient::new(channel).max_decoding_message_size(64 << 20);
        let kvs = client.range(request).await.unwrap().into_inner().kvs;
        kvs.into_iter().map(|kv| String::from_utf8(kv.key.to_vec()).unwrap()).collect()
    });
    let lost: Vec<&String> = acknowledged.iter().filter(|key| !found.contains(*key)).collect();
    assert!(
        lost.is_empty(),
        "{} of {} acknowledged writes are lost: {lost:?}",
        lost.len(),
        acknowledged.len()
    );
}
