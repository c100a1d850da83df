//! A cluster of real processes in one directory on loopback.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::ports::{self, Ports};
use crate::{processes, rest};

/// The superuser's password: loopback only, printed in the connection string.
const PASSWORD: &str = "quorate";

/// What to start.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Everything lives below: configuration, logs, stores, data directories.
    pub dir: PathBuf,
    /// The `quorate` binary.
    pub binary: PathBuf,
    /// PostgreSQL's `bin` directory.
    pub bin_dir: PathBuf,
    /// The system user that PostgreSQL runs as when this process is root.
    pub user: String,
    /// Database nodes.
    pub nodes: usize,
    /// Lowest port, or None for the kernel's choice.
    pub base_port: Option<u16>,
    /// The primary lease.
    pub ttl_s: u64,
    /// Patroni's `synchronous_mode`, as YAML.
    pub synchronous_mode: String,
}

/// One node: a configuration file, a data directory, and perhaps a running process.
#[derive(Debug)]
pub struct Node {
    /// `node1`, …
    pub name: String,
    /// Its ports.
    pub ports: Ports,
    /// Its directory.
    pub dir: PathBuf,
    process: Option<Child>,
}

impl Node {
    /// PostgreSQL's data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("postgres/data")
    }

    /// What `quorate run` reads.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.dir.join("quorate.yml")
    }

    /// What `quorate run` printed.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.dir.join("quorate.log")
    }

    /// The process id of `quorate`, while it was not killed by the drill.
    #[must_use]
    pub fn pid(&self) -> Option<Pid> {
        self.process.as_ref().and_then(Child::id).and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
    }
}

/// The running cluster.
#[derive(Debug)]
pub struct Cluster {
    spec: Spec,
    /// In order of their names.
    pub nodes: Vec<Node>,
}

impl Cluster {
    /// Lays out the directory and writes the configuration files; starts nothing.
    ///
    /// # Errors
    /// A directory that cannot be made, a user that does not exist, ports in use, missing binaries.
    pub fn prepare(spec: Spec) -> Result<Cluster> {
        for binary in [&spec.binary, &spec.bin_dir.join("postgres")] {
            if !binary.exists() {
                bail!("{}: no such file; install or build it, or name another directory", binary.display());
            }
        }
        let owner = owner(&spec.user)?;
        let ports = ports::choose(spec.nodes, spec.base_port)?;
        let nodes: Vec<Node> = ports
            .into_iter()
            .enumerate()
            .map(|(index, ports)| {
                let name = format!("node{}", index + 1);
                Node { dir: spec.dir.join(&name), name, ports, process: None }
            })
            .collect();
        std::fs::create_dir_all(&spec.dir)
            .with_context(|| format!("cannot create {}", spec.dir.display()))?;
        // PostgreSQL's user must be able to pass through.
        std::fs::set_permissions(&spec.dir, std::fs::Permissions::from_mode(0o755))?;
        for node in &nodes {
            let postgres = node.dir.join("postgres");
            std::fs::create_dir_all(&postgres)?;
            if let Some((uid, gid)) = owner {
                std::os::unix::fs::chown(&postgres, Some(uid), Some(gid))?;
            }
            std::fs::write(node.config(), configuration(&spec, &nodes, node))?;
        }
        Ok(Cluster { spec, nodes })
    }

    /// Everything below this directory belongs to the cluster.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.spec.dir
    }

    /// The lease time.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        Duration::from_secs(self.spec.ttl_s)
    }

    /// Whether commits wait for a standby.
    #[must_use]
    pub fn synchronous(&self) -> bool {
        !matches!(self.spec.synchronous_mode.as_str(), "off" | "false")
    }

    /// What an application would be configured with.
    #[must_use]
    pub fn connection_string(&self) -> String {
        let hosts: Vec<String> =
            self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.ports.postgres)).collect();
        format!(
            "postgresql://postgres:{PASSWORD}@{}/postgres?target_session_attrs=read-write",
            hosts.join(",")
        )
    }

    /// The same for one node, whatever its role.
    #[must_use]
    pub fn connection_string_of(&self, index: usize) -> String {
        format!("postgresql://postgres:{PASSWORD}@127.0.0.1:{}/postgres", self.nodes[index].ports.postgres)
    }

    /// The client endpoints, for `--endpoints`.
    #[must_use]
    pub fn endpoints(&self) -> String {
        let all: Vec<String> =
            self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.ports.client)).collect();
        all.join(",")
    }

    /// Starts `quorate run` of one node. Its output is appended to its log.
    ///
    /// # Errors
    /// When the process cannot be started at all.
    pub fn start(&mut self, index: usize) -> Result<()> {
        let node = &mut self.nodes[index];
        let log = std::fs::File::options().create(true).append(true).open(node.log())?;
        let child = Command::new(&self.spec.binary)
            .arg("run")
            .arg(node.config())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C is for the drill, which then stops the nodes in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", self.spec.binary.display()))?;
        node.process = Some(child);
        Ok(())
    }

    /// The loss of a machine: SIGKILL to `quorate` and to every PostgreSQL process of the node.
    ///
    /// # Errors
    /// When something survives.
    pub async fn kill(&mut self, index: usize) -> Result<()> {
        let data_dir = self.nodes[index].data_dir();
        if let Some(mut child) = self.nodes[index].process.take() {
            child.start_kill().context("SIGKILL")?;
            processes::kill_inside(&data_dir).await?;
            child.wait().await?;
        } else {
            processes::kill_inside(&data_dir).await?;
        }
        Ok(())
    }

    /// The loss of power of every machine at once: every process is signalled before any is waited for.
    ///
    /// # Errors
    /// When something survives.
    pub async fn kill_all(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            if let Some(child) = node.process.as_mut() {
                child.start_kill().context("SIGKILL")?;
            }
            for pid in processes::inside(&node.data_dir()) {
                // It may be gone already: the wait below tells.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        for index in 0..self.nodes.len() {
            self.kill(index).await?;
        }
        Ok(())
    }

    /// The ctl that was built beside `quorate`.
    ///
    /// # Errors
    /// When it was not built.
    pub fn ctl(&self) -> Result<PathBuf> {
        let ctl = self.spec.binary.with_file_name("quoratectl");
        if !ctl.exists() {
            bail!("{}: not built; `cargo build --package quorate` builds both", ctl.display());
        }
        Ok(ctl)
    }

    /// Kills only the agent: PostgreSQL is left running without its keeper.
    ///
    /// # Errors
    /// When the process cannot be signalled.
    pub async fn kill_agent(&mut self, index: usize) -> Result<()> {
        if let Some(mut child) = self.nodes[index].process.take() {
            child.kill().await.context("SIGKILL")?;
        }
        Ok(())
    }

    /// A node whose process has ended by itself, with the last lines of its log.
    #[must_use]
    pub fn exited(&mut self) -> Option<String> {
        for node in &mut self.nodes {
            if let Some(status) = node.process.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                let log = std::fs::read_to_string(node.log()).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let tail = lines[lines.len().saturating_sub(10)..].join("\n");
                return Some(format!(
                    "{} ended by itself ({status}); {}:\n{tail}",
                    node.name,
                    node.log().display()
                ));
            }
        }
        None
    }

    /// Stops every node in order (SIGTERM), then whatever is left by force.
    ///
    /// # Errors
    /// When something survives even SIGKILL.
    pub async fn stop(&mut self, deadline: Duration) -> Result<()> {
        let until = Instant::now() + deadline;
        for node in &self.nodes {
            if let Some(pid) = node.pid() {
                let _ = kill_process(pid, Signal::TERM);
            }
        }
        for index in 0..self.nodes.len() {
            if let Some(child) = self.nodes[index].process.as_mut() {
                let left = until.saturating_duration_since(Instant::now());
                let _ = tokio::time::timeout(left, child.wait()).await;
            }
            self.kill(index).await?;
        }
        Ok(())
    }

    /// The first answer of a living node.
    pub async fn view(&self) -> Option<rest::ClusterView> {
        for node in self.nodes.iter().filter(|node| node.process.is_some()) {
            if let Ok(view) = rest::cluster(node.ports.rest).await {
                return Some(view);
            }
        }
        None
    }

    /// The node whose REST API says that it is the primary.
    pub async fn primary(&self) -> Option<usize> {
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.process.is_some()) {
            if let Ok((200, _)) = rest::get(node.ports.rest, "/primary", Duration::from_millis(500)).await {
                return Some(index);
            }
        }
        None
    }

    /// Whether the cluster is at rest: one leader, everybody else streams on its timeline, and in a synchronous mode
    /// somebody is the synchronous standby.
    pub async fn whole(&self) -> bool {
        let Some(view) = self.view().await else { return false };
        let Some(leader) = view.members.iter().find(|member| member.role == "leader") else { return false };
        let standbys: Vec<_> = view.members.iter().filter(|member| member.name != leader.name).collect();
        leader.state == "running"
            && standbys.len() + 1 == self.nodes.len()
            && standbys.iter().all(|s| s.state == "streaming" && s.timeline == leader.timeline)
            && (!self.synchronous() || standbys.iter().any(|s| s.role == "sync_standby"))
    }

    /// Waits for `condition`, asked every 20 ms; fails early when a node has ended by itself.
    ///
    /// # Errors
    /// After `deadline`, naming `what`.
    pub async fn wait_until(
        &mut self,
        what: &str,
        deadline: Duration,
        mut condition: impl AsyncFnMut(&Cluster) -> bool,
    ) -> Result<()> {
        let until = Instant::now() + deadline;
        while !condition(self).await {
            if let Some(why) = self.exited() {
                bail!("waiting for {what}: {why}");
            }
            if Instant::now() > until {
                bail!(
                    "no {what} within {} s; logs are in {}/node*/quorate.log",
                    deadline.as_secs(),
                    self.dir().display()
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

/// The ids to give PostgreSQL's directory to, when this process is root.
fn owner(user: &str) -> Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let passwd = std::fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    let line = passwd.lines().find(|line| line.split(':').next() == Some(user)).with_context(|| {
        format!("PostgreSQL refuses to run as root and there is no user `{user}`: name one with --user")
    })?;
    let mut fields = line.split(':').skip(2);
    let mut id = || fields.next().and_then(|field| field.parse().ok());
    Ok(id().zip(id()))
}

fn configuration(spec: &Spec, nodes: &[Node], node: &Node) -> String {
    let initial: Vec<String> =
        nodes.iter().map(|other| format!("{}=127.0.0.1:{}", other.name, other.ports.peer)).collect();
    let Ports { postgres, rest, client, peer } = node.ports;
    let mut yaml = String::new();
    let _ = write!(
        yaml,
        "\
# Written by `quorate demo`.
scope: demo
name: {name}
user: {user}

restapi:
  listen: 127.0.0.1:{rest}
  connect_address: 127.0.0.1:{rest}

dcs:
  data_dir: {dir}/store
  listen_peers: 127.0.0.1:{peer}
  advertise_peers: 127.0.0.1:{peer}
  listen_clients: 127.0.0.1:{client}
  advertise_clients: 127.0.0.1:{client}
  initial_cluster: {initial}

bootstrap:
  dcs:
    ttl: {ttl}
    loop_wait: 1
    retry_timeout: 1
    synchronous_mode: {mode}
    postgresql:
      use_pg_rewind: true
      use_slots: true
      parameters:
        max_connections: 50
  initdb:
    - encoding: UTF8
    - data-checksums

postgresql:
  listen: 127.0.0.1:{postgres}
  connect_address: 127.0.0.1:{postgres}
  data_dir: {data}
  bin_dir: {bin}
  pgpass: {dir}/postgres/pgpass
  authentication:
    superuser:
      username: postgres
      password: {PASSWORD}
    replication:
      username: replicator
      password: {PASSWORD}
  parameters:
    unix_socket_directories: {dir}/postgres
    shared_buffers: 32MB
  pg_hba:
    - local all all trust
    - host replication replicator 127.0.0.1/32 scram-sha-256
    - host all all 127.0.0.1/32 scram-sha-256
",
        name = node.name,
        user = spec.user,
        dir = node.dir.display(),
        initial = initial.join(","),
        ttl = spec.ttl_s,
        mode = spec.synchronous_mode,
        data = node.data_dir().display(),
        bin = spec.bin_dir.display(),
    );
    yaml
}
