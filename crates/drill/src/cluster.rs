//! A cluster of real processes in one directory: on loopback, or each node in a network namespace of its own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::configuration::{Timing, configuration};
use crate::delay::Delay;
use crate::netns::{Cut, Net};
use crate::place::Place;
use crate::ports::{self, Ports};
use crate::rest::At;
use crate::writer::Target;
use crate::{processes, rest};

/// The superuser's password: loopback or a network of our own, printed in the connection string.
pub(crate) const PASSWORD: &str = "quorate";
/// The ports of a node that has an address to itself.
const OWN_PORTS: Ports = Ports { postgres: 5432, rest: 8008, client: 2379, peer: 2380 };

/// What survives SIGKILL for so long hangs in the kernel.
const LAST_RESORT: Duration = Duration::from_secs(5);

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
    /// Lowest port on loopback, or None for free ones.
    pub base_port: Option<u16>,
    /// Lease, timeouts, naps.
    pub timing: Timing,
    /// Patroni's `synchronous_mode`, as YAML.
    pub synchronous_mode: String,
    /// Where the nodes live.
    pub network: Network,
}

/// Where the nodes of a cluster live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// All on 127.0.0.1, told apart by their ports. Nothing can be cut.
    Loopback,
    /// Each in a namespace with an address of its own and the default ports. Needs root.
    Namespaces,
    /// The same, and what nodes send each other passes forwarders that can hold it back ([`Cluster::delay`]).
    Forwarded,
}

/// One node: a configuration file, a data directory, and perhaps a running process.
#[derive(Debug)]
pub struct Node {
    /// `node1`, …
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Its ports.
    pub ports: Ports,
    /// Its network: a client that stands here is cut off together with the node.
    pub place: Place,
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

    /// Its REST API, asked from the node itself: also while the node is cut off.
    #[must_use]
    pub fn rest(&self) -> At {
        At { place: self.place.clone(), address: (self.address, self.ports.rest).into() }
    }

    /// Its client port, asked from the node itself.
    #[must_use]
    pub fn store(&self) -> At {
        At { place: self.place.clone(), address: (self.address, self.ports.client).into() }
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
    /// Dropped after the nodes' processes were killed.
    net: Option<Net>,
    /// With forwarders only.
    delay: Option<Delay>,
    /// Of the clients so far: each has ids of its own.
    clients: i64,
    kept: bool,
}

impl Drop for Cluster {
    /// For a story that panicked: a machine on which a drill ran looks as before.
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let until = Instant::now() + LAST_RESORT;
        // One that forks at this moment has a child that was not listed yet.
        while Instant::now() < until {
            let left: Vec<Pid> = self.nodes.iter().flat_map(|node| processes::of_node(&node.dir)).collect();
            if left.is_empty() {
                return;
            }
            processes::signal(&left, Signal::KILL);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A standby that commits wait for.
fn confirms(role: &str) -> bool {
    matches!(role, "sync_standby" | "quorum_standby")
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
        let names: Vec<String> = (1..=spec.nodes).map(|number| format!("node{number}")).collect();
        let (net, ports) = match spec.network {
            Network::Loopback => (None, ports::choose(spec.nodes, spec.base_port)?),
            Network::Namespaces | Network::Forwarded => {
                let hosts: Vec<&str> = names.iter().map(String::as_str).chain(["outside"]).collect();
                (Some(Net::create(&hosts)?), vec![OWN_PORTS; spec.nodes])
            }
        };
        let nodes: Vec<Node> = names
            .into_iter()
            .zip(ports)
            .enumerate()
            .map(|(index, (name, ports))| {
                let (address, place) = match &net {
                    Some(net) => (net.address(index), net.place(index)),
                    None => (IpAddr::V4(Ipv4Addr::LOCALHOST), Place::here()),
                };
                Node { dir: spec.dir.join(&name), name, address, ports, place, process: None }
            })
            .collect();
        let delay = match &net {
            Some(net) if spec.network == Network::Forwarded => {
                Some(net.forward(spec.nodes, &OWN_PORTS.all())?)
            }
            Some(_) | None => None,
        };
        let cluster = Cluster { spec, nodes, net, delay, clients: 0, kept: false };
        cluster.lay_out()?;
        Ok(cluster)
    }

    /// Directories and configuration files.
    fn lay_out(&self) -> Result<()> {
        let spec = &self.spec;
        let owner = owner(&spec.user)?;
        std::fs::create_dir_all(&spec.dir)
            .with_context(|| format!("cannot create {}", spec.dir.display()))?;
        // PostgreSQL's user must be able to pass through.
        std::fs::set_permissions(&spec.dir, std::fs::Permissions::from_mode(0o755))?;
        for node in &self.nodes {
            let postgres = node.dir.join("postgres");
            std::fs::create_dir_all(&postgres)?;
            if let Some((uid, gid)) = owner {
                std::os::unix::fs::chown(&postgres, Some(uid), Some(gid))?;
            }
            std::fs::write(node.config(), configuration(spec, &self.nodes, node))?;
        }
        Ok(())
    }

    /// Back to before the first start: everything is killed and every directory is empty again.
    ///
    /// # Errors
    /// When something survives, or a directory cannot be removed.
    pub async fn wipe(&mut self) -> Result<()> {
        self.kill_all().await?;
        for node in &self.nodes {
            std::fs::remove_dir_all(&node.dir)
                .with_context(|| format!("cannot remove {}", node.dir.display()))?;
        }
        self.lay_out()
    }

    /// From now on exactly these cuts hold; the application that the drill plays is host [`Cluster::outside`].
    ///
    /// # Errors
    /// On loopback, where nothing can be cut.
    pub fn cut(&self, cuts: &[Cut]) -> Result<()> {
        self.net()?.apply(cuts)
    }

    /// From now on what nodes send each other is held back so long, each way; zero takes it away.
    ///
    /// # Errors
    /// Without forwarders.
    pub fn delay(&self, delay: Duration) -> Result<()> {
        self.delay
            .as_ref()
            .context("nothing stands between these nodes that could hold anything back")?
            .set(delay);
        Ok(())
    }

    fn net(&self) -> Result<&Net> {
        self.net.as_ref().context(
            "this story cuts the network, and on loopback nothing can be cut: run it as root, without --network loopback",
        )
    }

    /// Whether the nodes have a network that can be cut.
    #[must_use]
    pub fn can_cut(&self) -> bool {
        self.net.is_some()
    }

    /// Where the application stands: on no node's side of any cut but the one that is made for it.
    #[must_use]
    pub fn outside(&self) -> Place {
        self.net.as_ref().map_or_else(Place::here, |net| net.place(self.nodes.len()))
    }

    /// The database as the application sees it.
    #[must_use]
    pub fn target(&self) -> Target {
        let servers = self.nodes.iter().map(|node| (node.address, node.ports.postgres).into()).collect();
        Target::new(self.outside(), self.connection_string(), servers)
    }

    /// What to put before a command that shall run where the application stands.
    #[must_use]
    pub fn prefix(&self) -> String {
        self.net
            .as_ref()
            .map_or_else(String::new, |net| format!("ip netns exec {} ", net.namespace(self.nodes.len())))
    }

    /// The number of another client: what it writes is told apart from what any other one of this cluster ever wrote.
    pub(crate) fn client(&mut self) -> i64 {
        self.clients += 1;
        self.clients
    }

    /// The cluster is not to be stopped at the end.
    pub fn keep(&mut self) {
        self.kept = true;
    }

    /// Everything below this directory belongs to the cluster.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.spec.dir
    }

    /// The lease time.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.spec.timing.ttl
    }

    /// Lease, timeouts, naps.
    #[must_use]
    pub fn timing(&self) -> Timing {
        self.spec.timing
    }

    /// `synchronous_mode` as configured.
    #[must_use]
    pub fn mode(&self) -> &str {
        &self.spec.synchronous_mode
    }

    /// PostgreSQL's programs.
    #[must_use]
    pub fn bin_dir(&self) -> &Path {
        &self.spec.bin_dir
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
            self.nodes.iter().map(|node| socket(node.address, node.ports.postgres)).collect();
        format!(
            "postgresql://postgres:{PASSWORD}@{}/postgres?target_session_attrs=read-write",
            hosts.join(",")
        )
    }

    /// The same for one node, whatever its role.
    #[must_use]
    pub fn connection_string_of(&self, index: usize) -> String {
        let node = &self.nodes[index];
        format!("postgresql://postgres:{PASSWORD}@{}/postgres", socket(node.address, node.ports.postgres))
    }

    /// The client endpoints, for `--endpoints`.
    #[must_use]
    pub fn endpoints(&self) -> String {
        let all: Vec<String> =
            self.nodes.iter().map(|node| socket(node.address, node.ports.client)).collect();
        all.join(",")
    }

    /// Starts `quorate run` of one node. Its output is appended to its log.
    ///
    /// # Errors
    /// When the process cannot be started at all.
    pub fn start(&mut self, index: usize) -> Result<()> {
        let node = &mut self.nodes[index];
        let log = std::fs::File::options().create(true).append(true).open(node.log())?;
        let mut command = Command::new(&self.spec.binary);
        command
            .arg("run")
            .arg(node.config())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C is for the drill, which then stops the nodes in order.
            .process_group(0);
        let child = node
            .place
            .inside(|| command.spawn())?
            .with_context(|| format!("cannot start {}", self.spec.binary.display()))?;
        node.process = Some(child);
        Ok(())
    }

    /// The loss of a machine: SIGKILL to `quorate` and to every PostgreSQL process of the node.
    ///
    /// # Errors
    /// When something survives.
    pub async fn kill(&mut self, index: usize) -> Result<()> {
        let node = &mut self.nodes[index];
        processes::signal(&processes::of_node(&node.dir), Signal::KILL);
        if let Some(mut child) = node.process.take() {
            child.start_kill().context("SIGKILL")?;
            child.wait().await?;
        }
        processes::kill_node(&node.dir).await
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
            processes::signal(&processes::of_node(&node.dir), Signal::KILL);
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

    /// Kills only `quorate`, and with it the agent and the voter: PostgreSQL is left running without its keeper.
    ///
    /// # Errors
    /// When the process cannot be signalled.
    pub async fn kill_agent(&mut self, index: usize) -> Result<()> {
        if let Some(mut child) = self.nodes[index].process.take() {
            child.kill().await.context("SIGKILL")?;
        }
        Ok(())
    }

    /// Kills `quorate` and its guard: PostgreSQL is left running, and nobody looks after it. How many guards there were.
    ///
    /// # Errors
    /// When the process cannot be signalled.
    pub async fn kill_keepers(&mut self, index: usize) -> Result<usize> {
        // The agent would replace a guard that is gone, and the guard act on the death of the agent.
        self.freeze_agent(index, true);
        let guards = self.kill_guard(index);
        self.kill_agent(index).await?;
        Ok(guards)
    }

    /// Kills the guard of a node, if it has one: how many processes that were.
    #[must_use]
    pub fn kill_guard(&self, index: usize) -> usize {
        let guards = processes::guards(&self.nodes[index].dir);
        processes::signal(&guards, Signal::KILL);
        guards.len()
    }

    /// Stops (SIGSTOP) or continues (SIGCONT) the agent of a node.
    pub fn freeze_agent(&self, index: usize, frozen: bool) {
        let pids: Vec<Pid> = self.nodes[index].pid().into_iter().collect();
        processes::signal(&pids, if frozen { Signal::STOP } else { Signal::CONT });
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
            // What the drill has stopped takes no SIGTERM.
            processes::signal(&processes::of_node(&node.dir), Signal::CONT);
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
            if let Ok(view) = rest::cluster(node.rest()).await {
                return Some(view);
            }
        }
        None
    }

    /// The node whose REST API says that it is the primary.
    pub async fn primary(&self) -> Option<usize> {
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.process.is_some()) {
            if let Ok((200, _)) = rest::get(node.rest(), "/primary", Duration::from_millis(500)).await {
                return Some(index);
            }
        }
        None
    }

    /// Whether the cluster is at rest, and every living node says so of the same leader: one that stood still tells at first what it saw
    /// before.
    pub async fn whole(&self) -> bool {
        let mut leaders = Vec::new();
        for node in self.nodes.iter().filter(|node| node.process.is_some()) {
            let Ok(view) = rest::cluster(node.rest()).await else { return false };
            match self.leader_at_rest(&view) {
                Some(leader) => leaders.push((leader.name.clone(), leader.timeline)),
                None => return false,
            }
        }
        leaders.dedup();
        leaders.len() == 1
    }

    /// The one leader, if everybody else streams on its timeline, and in a synchronous mode somebody is the synchronous standby.
    fn leader_at_rest<'a>(&self, view: &'a rest::ClusterView) -> Option<&'a rest::Member> {
        let leader = view.members.iter().find(|member| member.role == "leader")?;
        let standbys: Vec<_> = view.members.iter().filter(|member| member.name != leader.name).collect();
        let rests = leader.state == "running"
            && standbys.len() + 1 == self.nodes.len()
            && standbys.iter().all(|s| s.state == "streaming" && s.timeline == leader.timeline)
            && (!self.synchronous() || standbys.iter().any(|s| confirms(&s.role)));
        rests.then_some(leader)
    }

    /// Whether the node's PostgreSQL answers and is not a standby: whoever connects may write there. None: it did not say in time,
    /// which on a busy machine means nothing.
    pub async fn takes_writes(&self, index: usize) -> Option<bool> {
        let mut config: tokio_postgres::Config = self.connection_string_of(index).parse().ok()?;
        config.connect_timeout(Duration::from_millis(500));
        let ask = async move {
            let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
            tokio::spawn(async move {
                let _ = connection.await;
            });
            client.query_one("SELECT NOT pg_is_in_recovery()", &[]).await.map(|row| row.get(0))
        };
        let asked = self.nodes[index]
            .place
            .spawn(async move { tokio::time::timeout(Duration::from_millis(500), ask).await });
        match asked.await.ok()? {
            Ok(Ok(writes)) => Some(writes),
            // Refused, starting, shutting down, killed.
            Ok(Err(_)) => Some(false),
            Err(_) => None,
        }
    }

    /// Whether commits on node `index` wait for a set that stands, so that somebody may follow it. Asynchronous mode needs none.
    pub async fn settled(&self, index: usize) -> bool {
        if !self.synchronous() {
            return true;
        }
        let Ok(view) = rest::cluster(self.nodes[index].rest()).await else { return false };
        view.members.iter().any(|member| confirms(&member.role))
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

fn socket(address: IpAddr, port: u16) -> String {
    SocketAddr::new(address, port).to_string()
}
