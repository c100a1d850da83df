//! Real PostgreSQL instances in a temporary directory; gone with it, whatever a test does.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use quorate_ha::Upstream;
use quorate_ha::facts::{
    Endpoint, InstanceFacts, Moment, PrimaryFacts, Process, Role, Running, StandbyFacts,
};
use quorate_pg::{BootstrapOptions, Credentials, Instance, InstanceConfig, RunAs, Settings, fence_now};

/// For everything that a loaded machine may delay.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Lab {
    dir: tempfile::TempDir,
    run_as: Option<RunAs>,
    directories: Vec<PathBuf>,
}

/// None, and a line that says so, on a machine without PostgreSQL.
#[allow(clippy::print_stdout)]
pub(crate) fn lab() -> Option<Lab> {
    if bin_dir().is_none() {
        println!("skipped: no PostgreSQL server programs in /usr/lib/postgresql/*/bin");
        return None;
    }
    let dir = tempfile::Builder::new().prefix("qpg").tempdir_in("/tmp").unwrap();
    let run_as = rustix::process::geteuid().is_root().then(postgres_user);
    if let Some(user) = run_as {
        chown(dir.path(), Some(user.uid), Some(user.gid)).unwrap();
    }
    Some(Lab { dir, run_as, directories: Vec::new() })
}

pub(crate) fn bin_dir() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    versions.flatten().map(|entry| entry.path().join("bin")).filter(|dir| dir.join("postgres").exists()).max()
}

fn postgres_user() -> RunAs {
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with("postgres:")).unwrap();
    let fields: Vec<&str> = line.split(':').collect();
    RunAs { uid: fields[2].parse().unwrap(), gid: fields[3].parse().unwrap() }
}

pub(crate) fn free_port() -> u16 {
    quorate_loopback::port().unwrap()
}

impl Lab {
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn config(&mut self, name: &str) -> InstanceConfig {
        let data_dir = self.dir.path().join(name);
        let address = Endpoint { host: "127.0.0.1".to_owned(), port: free_port() };
        let mut config = InstanceConfig::new("lab", name, &data_dir, address);
        config.bin_dir = bin_dir().unwrap();
        config.unix_socket_dir = self.dir.path().to_owned();
        config.superuser = Credentials::new("postgres", Some("it's: a \\ secret"));
        config.replication = Credentials::new("replicator", Some("rep"));
        config.rewind = Some(Credentials::new("rewinder", Some("rew")));
        config.run_as = self.run_as;
        config.pg_ctl_timeout = PATIENCE;
        self.directories.push(data_dir);
        config
    }

    pub(crate) async fn instance(&mut self, name: &str) -> Instance {
        let instance = Instance::new(self.config(name)).unwrap();
        instance.configure(&settings()).await.unwrap();
        instance
    }

    pub(crate) async fn primary(&mut self, name: &str) -> Instance {
        let instance = self.instance(name).await;
        instance.bootstrap(&options()).await.unwrap();
        instance
    }

    pub(crate) async fn standby(&mut self, name: &str, of: &Instance) -> Instance {
        let instance = self.instance(name).await;
        let upstream = source(of);
        instance.clone_from(&upstream, None, None, &|_| {}).await.unwrap();
        instance.start_as_standby(Some(&upstream), None).await.unwrap();
        instance
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for dir in &self.directories {
            let _ = fence_now(dir, PATIENCE);
        }
    }
}

/// An instance as an upstream.
pub(crate) fn source(instance: &Instance) -> Upstream {
    let config = instance.config();
    Upstream { name: config.name.clone(), endpoint: config.connect_address.clone() }
}

/// Small and without fsync: the tests kill processes, not machines.
pub(crate) fn settings() -> Settings {
    let mut settings = Settings::default();
    for (name, value) in [
        ("fsync", "off"),
        ("shared_buffers", "8MB"),
        ("max_connections", "30"),
        ("wal_keep_size", "64MB"),
        ("autovacuum", "off"),
    ] {
        settings.parameters.insert(name.to_owned(), value.to_owned());
    }
    settings
}

pub(crate) fn options() -> BootstrapOptions {
    BootstrapOptions {
        initdb: [
            ("encoding", Some("UTF8")),
            ("data-checksums", None),
            ("no-sync", None),
            ("locale", Some("C")),
        ]
        .map(|(name, value)| (name.to_owned(), value.map(str::to_owned)))
        .into(),
        users: Vec::new(),
    }
}

pub(crate) async fn probe(instance: &Instance) -> InstanceFacts {
    instance.probe(now()).await
}

pub(crate) fn now() -> Moment {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Moment(Duration::new(now.tv_sec.try_into().unwrap(), now.tv_nsec.try_into().unwrap()))
}

pub(crate) async fn running(instance: &Instance) -> Running {
    match probe(instance).await.process {
        Process::Running(running) => running,
        other => panic!("{} is {other:?}", instance.config().name),
    }
}

pub(crate) async fn as_primary(instance: &Instance) -> PrimaryFacts {
    match running(instance).await.role {
        Role::Primary(facts) => facts,
        Role::Standby(facts) => panic!("a standby: {facts:?}"),
    }
}

pub(crate) async fn as_standby(instance: &Instance) -> StandbyFacts {
    match running(instance).await.role {
        Role::Standby(facts) => facts,
        Role::Primary(facts) => panic!("a primary: {facts:?}"),
    }
}

/// Looks until it is so.
pub(crate) async fn eventually(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !look().await {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A client of the instance, over TCP.
pub(crate) async fn client(instance: &Instance) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let config = instance.config();
    let (client, connection) = tokio_postgres::Config::new()
        .host("127.0.0.1")
        .port(config.port)
        .user("postgres")
        .password(config.superuser.password.as_deref().unwrap())
        .dbname("postgres")
        .connect(tokio_postgres::NoTls)
        .await?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(client)
}

pub(crate) async fn run(instance: &Instance, sql: &str) {
    client(instance).await.unwrap().batch_execute(sql).await.unwrap();
}

pub(crate) async fn value(instance: &Instance, sql: &str) -> String {
    let client = client(instance).await.unwrap();
    let row = client.query_one(sql, &[]).await.unwrap();
    row.get(0)
}

/// Ids of the server's processes whose title contains `part`, from the process table.
pub(crate) fn pids(instance: &Instance, part: &str) -> Vec<i32> {
    use std::os::unix::fs::MetadataExt as _;
    let home = std::fs::metadata(&instance.config().data_dir).unwrap();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(cwd) = std::fs::metadata(entry.path().join("cwd")) else { continue };
        let title = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if (cwd.dev(), cwd.ino()) == (home.dev(), home.ino())
            && String::from_utf8_lossy(&title).contains(part)
        {
            found.push(pid);
        }
    }
    found
}

pub(crate) fn postmaster(instance: &Instance) -> i32 {
    let text = std::fs::read_to_string(instance.config().data_dir.join("postmaster.pid")).unwrap();
    text.lines().next().unwrap().parse().unwrap()
}

pub(crate) fn signal(pid: i32, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
}
