//! Three members of a store on loopback, started as an operator would start them.

use std::fmt;
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
    members: Vec<Child>,
    endpoints: Vec<String>,
    _dir: TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}

/// What a member costs while nothing happens.
pub(crate) struct Idle {
    rss_mb: Vec<f64>,
    cpu_percent: Vec<f64>,
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list =
            |values: &[f64]| values.iter().map(|value| format!("{value:.1}")).collect::<Vec<_>>().join(", ");
        write!(f, "RSS {} MB, CPU {} % of a core, per member", list(&self.rss_mb), list(&self.cpu_percent))
    }
}

impl Cluster {
    pub(crate) async fn start(store: Store) -> Result<Cluster> {
        let dir = tempfile::Builder::new().prefix("quorate-load-").tempdir()?;
        let ports = free_ports(6)?;
        let names = ["n1", "n2", "n3"];
        let initial: Vec<String> =
            names.iter().zip(&ports).map(|(name, port)| format!("{name}=http://127.0.0.1:{port}")).collect();
        let mut cluster = Cluster { members: Vec::new(), endpoints: Vec::new(), _dir: dir };
        for (index, name) in names.iter().enumerate() {
            let (peer, client) = (ports[index], ports[index + 3]);
            let data = cluster._dir.path().join(name);
            let log = std::fs::File::create(cluster._dir.path().join(format!("{name}.log")))?;
            let mut command = program(store)?;
            command
                .args(["--name", name, "--data-dir"])
                .arg(&data)
                .args(["--listen-peer-urls", &format!("http://127.0.0.1:{peer}")])
                .args(["--initial-advertise-peer-urls", &format!("http://127.0.0.1:{peer}")])
                .args(["--listen-client-urls", &format!("http://127.0.0.1:{client}")])
                .args(["--advertise-client-urls", &format!("http://127.0.0.1:{client}")])
                .args(["--initial-cluster", &initial.join(",")])
                .args(["--initial-cluster-state", "new"])
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log);
            cluster.members.push(command.spawn().with_context(|| format!("cannot start {store:?}"))?);
            cluster.endpoints.push(format!("http://127.0.0.1:{client}"));
        }
        cluster.ready().await?;
        Ok(cluster)
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

    pub(crate) async fn idle(&self, length: Duration) -> Result<Idle> {
        let before: Vec<f64> = self.members.iter().map(|member| cpu_seconds(member.id())).collect();
        tokio::time::sleep(length).await;
        let cpu_percent = self
            .members
            .iter()
            .zip(before)
            .map(|(member, before)| (cpu_seconds(member.id()) - before) / length.as_secs_f64() * 100.0)
            .collect();
        Ok(Idle { rss_mb: self.members.iter().map(|member| rss_mb(member.id())).collect(), cpu_percent })
    }

    pub(crate) async fn stop(mut self) -> Result<()> {
        for member in &mut self.members {
            member.kill()?;
            member.wait()?;
        }
        Ok(())
    }

    /// Every member has taken a write.
    async fn ready(&mut self) -> Result<()> {
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
        let log =
            std::fs::read_to_string(self._dir.path().join(format!("n{}.log", index + 1))).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }
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

fn free_ports(count: usize) -> Result<Vec<u16>> {
    let held: Vec<std::net::TcpListener> =
        (0..count).map(|_| std::net::TcpListener::bind(("127.0.0.1", 0))).collect::<Result<_, _>>()?;
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
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
