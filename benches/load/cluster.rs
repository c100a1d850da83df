//! Three members of a store on loopback, started as an operator would start them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use quorate_wire::etcdserverpb::PutRequest;
use quorate_wire::etcdserverpb::kv_client::KvClient;
use tempfile::TempDir;

use crate::Store;

/// Three processes in a directory of their own.
pub(crate) struct Cluster {
    store: Store,
    members: Vec<Child>,
    /// How each was started.
    arguments: Vec<Vec<String>>,
    endpoints: Vec<String>,
    dir: TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}

/// What members cost while nothing happens, each.
pub(crate) struct Idle {
    rss_mb: Vec<f64>,
    cpu_percent: Vec<f64>,
}

impl Idle {
    /// The largest.
    pub(crate) fn rss_mb(&self) -> f64 {
        self.rss_mb.iter().copied().fold(0.0, f64::max)
    }

    /// The largest.
    pub(crate) fn cpu_percent(&self) -> f64 {
        self.cpu_percent.iter().copied().fold(0.0, f64::max)
    }
}

impl Cluster {
    pub(crate) async fn start(store: Store) -> Result<Cluster> {
        let dir = tempfile::Builder::new().prefix("quorate-load-").tempdir()?;
        let ports = quorate_loopback::ports(6)?;
        let names = ["n1", "n2", "n3"];
        let initial: Vec<String> =
            names.iter().zip(&ports).map(|(name, port)| format!("{name}=http://127.0.0.1:{port}")).collect();
        let mut cluster =
            Cluster { store, members: Vec::new(), arguments: Vec::new(), endpoints: Vec::new(), dir };
        for (index, name) in names.iter().enumerate() {
            let (peer, client) = (ports[index], ports[index + 3]);
            let (peer, client) = (format!("http://127.0.0.1:{peer}"), format!("http://127.0.0.1:{client}"));
            let data = cluster.dir.path().join(name).display().to_string();
            let initial = initial.join(",");
            let arguments = [
                ("--name", *name),
                ("--data-dir", &data),
                ("--listen-peer-urls", &peer),
                ("--initial-advertise-peer-urls", &peer),
                ("--listen-client-urls", &client),
                ("--advertise-client-urls", &client),
                ("--initial-cluster", &initial),
                ("--initial-cluster-state", "new"),
            ];
            let arguments: Vec<String> = arguments
                .iter()
                .flat_map(|(flag, value)| [(*flag).to_owned(), (*value).to_owned()])
                .collect();
            cluster.members.push(spawn(store, &arguments, &cluster.log(index))?);
            cluster.arguments.push(arguments);
            cluster.endpoints.push(client);
        }
        cluster.ready().await?;
        Ok(cluster)
    }

    pub(crate) fn store(&self) -> Store {
        self.store
    }

    /// Ends a member with SIGKILL.
    pub(crate) fn kill(&mut self, index: usize) -> Result<()> {
        self.members[index].kill()?;
        self.members[index].wait()?;
        Ok(())
    }

    /// Starts a member that was killed, on its old directory.
    pub(crate) fn restart(&mut self, index: usize) -> Result<()> {
        self.members[index] = spawn(self.store, &self.arguments[index], &self.log(index))?;
        Ok(())
    }

    fn log(&self, index: usize) -> PathBuf {
        self.dir.path().join(format!("n{}.log", index + 1))
    }

    /// What a member has on disk, in MB.
    pub(crate) fn disk_mb(&self, index: usize) -> f64 {
        fn bytes(path: &Path) -> u64 {
            use std::os::unix::fs::MetadataExt;
            let Ok(meta) = std::fs::symlink_metadata(path) else { return 0 };
            let inside = std::fs::read_dir(path).into_iter().flatten().flatten();
            meta.blocks() * 512 + inside.map(|entry| bytes(&entry.path())).sum::<u64>()
        }
        bytes(&self.dir.path().join(format!("n{}", index + 1))) as f64 / f64::from(1 << 20)
    }

    /// A member's resident set, in MB.
    pub(crate) fn member_rss_mb(&self, index: usize) -> f64 {
        rss_mb(self.members[index].id())
    }

    pub(crate) fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// Largest resident set of the members, in MB.
    pub(crate) fn rss_mb(&self) -> f64 {
        self.members.iter().map(|member| rss_mb(member.id())).fold(0.0, f64::max)
    }

    /// User and system time of all members so far, in seconds.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.members.iter().map(|member| cpu_seconds(member.id())).sum()
    }

    pub(crate) async fn idle(&self, length: Duration) -> Idle {
        let before: Vec<f64> = self.members.iter().map(|member| cpu_seconds(member.id())).collect();
        tokio::time::sleep(length).await;
        let cpu_percent = self
            .members
            .iter()
            .zip(before)
            .map(|(member, before)| (cpu_seconds(member.id()) - before) / length.as_secs_f64() * 100.0)
            .collect();
        Idle { rss_mb: self.members.iter().map(|member| rss_mb(member.id())).collect(), cpu_percent }
    }

    pub(crate) async fn stop(mut self) -> Result<()> {
        for member in &mut self.members {
            member.kill()?;
            member.wait()?;
        }
        Ok(())
    }

    /// Every member has taken a write.
    pub(crate) async fn ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        for index in 0..self.endpoints.len() {
            loop {
                if let Some(status) = self.members[index].try_wait()? {
                    bail!("member {} ended by itself: {status}; {}", index + 1, self.tail(index));
                }
                if self.put(index).await.is_ok() {
                    break;
                }
                if Instant::now() > deadline {
                    bail!("member {} takes no write within 20 s; {}", index + 1, self.tail(index));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    async fn put(&self, index: usize) -> Result<()> {
        let mut client = KvClient::connect(self.endpoints[index].clone()).await?;
        let request = PutRequest { key: "ready".into(), ..PutRequest::default() };
        tokio::time::timeout(Duration::from_secs(2), client.put(request)).await??;
        Ok(())
    }

    fn tail(&self, index: usize) -> String {
        let log = std::fs::read_to_string(self.log(index)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }
}

fn spawn(store: Store, arguments: &[String], log: &Path) -> Result<Child> {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
    let mut command = program(store)?;
    command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().with_context(|| format!("cannot start {store:?}"))
}

fn program(store: Store) -> Result<Command> {
    Ok(match store {
        Store::Quorate => {
            let path: PathBuf = std::env::current_exe()?.parent().unwrap_or(Path::new(".")).join("quorate");
            if !path.exists() {
                bail!("{}: build it first (`cargo xtask bench` does)", path.display());
            }
            let mut command = Command::new(path);
            command.arg("store");
            command
        }
        Store::Etcd => Command::new("etcd"),
    })
}

fn rss_mb(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib: f64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0.0);
    kib / 1024.0
}

/// User and system time of all threads, in seconds.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
    let ticks: f64 = fields.iter().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    ticks / rustix::param::clock_ticks_per_second() as f64
}
