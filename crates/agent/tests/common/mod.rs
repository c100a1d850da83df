//! Real members and real PostgreSQL on loopback, in one process.
//!
//! PostgreSQL refuses root, so under root it runs as the system user `postgres`. Where the binaries or that user are
//! missing, [`available`] says so in one line and the tests pass without having tested anything: the continuous
//! integration installs PostgreSQL, a developer's machine may not have it.
#![allow(dead_code, unreachable_pub)] // each test binary uses its part

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use quorate_agent::callbacks::Scripts;
use quorate_agent::config::{MARGIN, STOP_BUDGET};
use quorate_agent::watchdog::WatchdogConfig;
use quorate_agent::{Agent, AgentConfig, GuardConfig, RestConfig, StartError, guard};
use quorate_ha::facts::Endpoint;
use quorate_node::{Config, Node};
use quorate_pg::{BootstrapOptions, Credentials, Instance, InstanceConfig, RunAs};
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Debian's place.
const BIN_DIR: &str = "/usr/lib/postgresql/15/bin";
/// For anything that is waited for. Machines that run tests are slow; a test that fails has time.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(20);

/// True when PostgreSQL can be run here.
#[allow(clippy::print_stderr)]
pub fn available() -> bool {
    let binaries = Path::new(BIN_DIR).join("postgres").exists();
    let user = !rustix::process::geteuid().is_root() || postgres_user().is_some();
    if !(binaries && user) {
        eprintln!("skipped: no PostgreSQL in {BIN_DIR}, or no user to run it as");
    }
    binaries && user
}

/// Uid and gid of `postgres`, when this is root.
fn postgres_user() -> Option<RunAs> {
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    let line = passwd.lines().find(|line| line.starts_with("postgres:"))?;
    let mut fields = line.split(':').skip(2);
    Some(RunAs { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
}

fn port() -> u16 {
    quorate_loopback::port().unwrap()
}

/// Shows the log with RUST_LOG set.
pub fn log() {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
}

/// Waits until `condition` gives something.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut condition: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// One node: a member of the store, an instance, an agent.
pub struct Peer {
    pub name: String,
    pub rest: String,
    pub pg_port: u16,
    pub data_dir: PathBuf,
    pub node: Option<Node>,
    pub agent: Option<Agent>,
    pub scripts: Scripts,
    config: Config,
    root: PathBuf,
    bootstrap: Map<String, Value>,
}

/// A cluster on loopback. PostgreSQL is killed when it is dropped.
pub struct Cluster {
    pub peers: Vec<Peer>,
    pub dir: TempDir,
}

impl Cluster {
    /// Configured, nothing started.
    pub fn new(names: &[&str], dynamic: Value) -> Cluster {
        let dir = tempfile::Builder::new().prefix("qa").tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let members: Vec<_> =
            names.iter().map(|name| ((*name).to_owned(), format!("http://127.0.0.1:{}", port()))).collect();
        let Value::Object(bootstrap) = dynamic else { panic!("an object") };
        let peers = members.iter().map(|(name, url)| {
            let root = dir.path().join(name);
            std::fs::create_dir(&root).unwrap();
            let config = Config {
                peer_listen: vec![url.trim_start_matches("http://").to_owned()],
                peer_advertise: url.clone(),
                initial_cluster: members.clone(),
                client_urls: vec![format!("http://127.0.0.1:{}", port())],
                ..Config::single(name, root.join("store"))
            };
            let postgres = root.join("pg");
            std::fs::create_dir(&postgres).unwrap();
            if let Some(user) = postgres_user().filter(|_| rustix::process::geteuid().is_root()) {
                std::os::unix::fs::chown(&postgres, Some(user.uid), Some(user.gid)).unwrap();
            }
            Peer {
                name: name.clone(),
                rest: format!("127.0.0.1:{}", port()),
                pg_port: port(),
                data_dir: postgres.join("data"),
                node: None,
                agent: None,
                scripts: Scripts::default(),
                config,
                root,
                bootstrap: bootstrap.clone(),
            }
        });
        Cluster { peers: peers.collect(), dir }
    }

    /// All members, then all agents.
    pub async fn start(&mut self) {
        let nodes = self.peers.iter().map(|peer| Node::start(peer.config.clone()));
        let nodes = futures_util::future::join_all(nodes).await;
        for (peer, node) in self.peers.iter_mut().zip(nodes) {
            peer.node = Some(node.unwrap());
        }
        for peer in &mut self.peers {
            peer.start_agent().await;
        }
    }

    /// The node that answers `/primary` with 200.
    pub async fn primary(&self) -> usize {
        until("a primary", || async {
            for (at, peer) in self.peers.iter().enumerate() {
                if peer.agent.is_some() && peer.code("GET", "/primary").await == Some(200) {
                    return Some(at);
                }
            }
            None
        })
        .await
    }

    /// All members and agents, orderly.
    pub async fn stop(mut self) {
        for peer in &mut self.peers {
            if let Some(agent) = peer.agent.take() {
                agent.shutdown(Duration::from_secs(20), false).await;
            }
        }
        for peer in &mut self.peers {
            if let Some(node) = peer.node.take() {
                node.shutdown(Duration::from_secs(5)).await;
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for peer in &self.peers {
            let _ = quorate_pg::fence_now(&peer.data_dir, Duration::from_secs(5));
        }
    }
}

impl Peer {
    /// The instance as configured.
    pub fn instance(&self) -> Instance {
        let endpoint = Endpoint { host: "127.0.0.1".into(), port: self.pg_port };
        let mut config = InstanceConfig::new("demo", &self.name, &self.data_dir, endpoint);
        config.bin_dir = BIN_DIR.into();
        config.unix_socket_dir = self.root.join("pg");
        config.superuser = Credentials::new("postgres", Some("secret"));
        config.replication = Credentials::new("replicator", Some("secret too"));
        config.run_as = postgres_user().filter(|_| rustix::process::geteuid().is_root());
        Instance::new(config).unwrap()
    }

    /// Starts the agent; its member must run.
    pub async fn start_agent(&mut self) {
        let config = AgentConfig {
            scope: "demo".into(),
            namespace: "service".into(),
            name: self.name.clone(),
            postgresql_address: format!("127.0.0.1:{}", self.pg_port),
            proxy_address: None,
            rest: RestConfig {
                listen: self.rest.clone(),
                connect_address: self.rest.clone(),
                authentication: None,
            },
            tags: Map::new(),
            bootstrap: self.bootstrap.clone(),
            bootstrap_options: BootstrapOptions::default(),
            stop_budget: STOP_BUDGET,
            margin: MARGIN,
            // These members share a process that has no verb `guard`; `crates/quorate/tests/guard.rs` has whole ones.
            guard: GuardConfig { mode: guard::Mode::Off, ..GuardConfig::default() },
            watchdog: WatchdogConfig::default(),
            scripts: self.scripts.clone(),
            on_reload: None,
        };
        let handle = self.node.as_ref().unwrap().handle();
        // The tasks of an agent that was dropped a moment ago may not have let go of the address yet.
        let agent = until("the REST API's address", || async {
            match Agent::start(config.clone(), handle.clone(), self.instance()).await {
                Ok(agent) => Some(agent),
                Err(StartError::Bind { .. }) => None,
                Err(error) => panic!("{error}"),
            }
        });
        self.agent = Some(agent.await);
    }

    /// Starts the member again.
    pub async fn start_node(&mut self) {
        self.node = Some(Node::start(self.config.clone()).await.unwrap());
    }

    /// Everything of this node dies at once: agent, member, PostgreSQL.
    pub fn kill(&mut self) {
        self.agent = None;
        self.node = None;
        quorate_pg::fence_now(&self.data_dir, Duration::from_secs(5)).unwrap();
    }

    /// The postmaster's pid.
    pub fn postmaster(&self) -> Option<i32> {
        std::fs::read_to_string(self.data_dir.join("postmaster.pid"))
            .ok()?
            .lines()
            .next()?
            .trim()
            .parse()
            .ok()
    }

    /// One HTTP request over a fresh connection: the whole answer.
    pub async fn raw(&self, request: &str) -> Option<String> {
        let exchange = async {
            let mut stream = TcpStream::connect(&self.rest).await.ok()?;
            stream.write_all(request.as_bytes()).await.ok()?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.ok()?;
            Some(String::from_utf8_lossy(&answer).into_owned())
        };
        tokio::time::timeout(Duration::from_secs(60), exchange).await.ok()?
    }

    /// Code and body.
    pub async fn request(&self, method: &str, path: &str, body: Option<&str>) -> Option<(u16, String)> {
        let length = body.map_or(String::new(), |body| format!("Content-Length: {}\r\n", body.len()));
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{length}\r\n{}",
            body.unwrap_or("")
        );
        let answer = self.raw(&request).await?;
        let code = answer.split(' ').nth(1)?.parse().ok()?;
        let body = answer.split_once("\r\n\r\n")?.1.to_owned();
        Some((code, body))
    }

    pub async fn code(&self, method: &str, path: &str) -> Option<u16> {
        Some(self.request(method, path, None).await?.0)
    }

    /// The status document.
    pub async fn status(&self) -> Option<Value> {
        serde_json::from_str(&self.request("GET", "/patroni", None).await?.1).ok()
    }

    /// A session of the superuser over TCP.
    pub async fn session(&self) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.pg_port).user("postgres").password("secret").dbname("postgres");
        config.connect_timeout(Duration::from_secs(2));
        let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
        tokio::spawn(async move { drop(connection.await) });
        Ok(client)
    }

    /// One statement; None when it did not work.
    pub async fn sql(&self, statement: &str) -> Option<()> {
        self.session().await.ok()?.batch_execute(statement).await.ok()
    }

    /// One value.
    pub async fn value(&self, query: &str) -> Option<String> {
        let rows = self.session().await.ok()?.simple_query(query).await.ok()?;
        rows.into_iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
    }
}

/// The dynamic configuration of the tests.
pub fn dynamic() -> Value {
    json!({"ttl": 5, "loop_wait": 1, "retry_timeout": 1, "synchronous_mode": "off",
           "postgresql": {"use_pg_rewind": true, "use_slots": true, "parameters": {
               "max_connections": 50, "fsync": "off", "shared_buffers": "16MB"}}})
}
