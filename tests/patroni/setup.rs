//! A setup from the field on one machine: its own files, with other addresses and paths and nothing else.

use std::fs::File;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use quorate_drill::processes;
use quorate_drill::rest::ClusterView;
use quorate_tests::python;
use quorate_tests::stores::{http_get, is_leader};
use rustix::process::{Pid, Signal, kill_process};

use crate::transcript::Transcript;

/// The stores of the seven machines, by the last part of their addresses.
const STORES: [(&str, u8); 3] = [("u1", 81), ("u2", 82), ("u3", 83)];
/// The database nodes.
const NODES: [(&str, u8, &str); 3] = [
    ("u4", 84, include_str!("etcd-seven-vms/patroni-u4.yml")),
    ("u5", 85, include_str!("etcd-seven-vms/patroni-u5.yml")),
    ("u6", 86, include_str!("etcd-seven-vms/patroni-u6.yml")),
];
/// `/etc/default/etcd` of u1; the others' differ by name and address.
const STORE_ENVIRONMENT: &str = include_str!("etcd-seven-vms/etcd-default.env");
/// The machine in front of them.
const PROXY: (&str, u8, &str) = ("haproxy", 87, include_str!("etcd-seven-vms/haproxy.cfg"));
/// A unit file that runs Patroni: its user and its command are used.
const UNIT: &str = include_str!("colocated-three/patroni.service");

/// One process of the setup, in a process group of its own, output in a file.
pub(crate) struct Machine {
    pub(crate) name: &'static str,
    pub(crate) address: String,
    dir: PathBuf,
    command: Vec<String>,
    environment: Vec<(String, String)>,
    user: Option<(u32, u32)>,
    process: Option<Child>,
}

/// The whole of it. Dropping it kills everything.
pub(crate) struct Setup {
    pub(crate) stores: Vec<Machine>,
    pub(crate) nodes: Vec<Machine>,
    pub(crate) proxy: Machine,
    pub(crate) transcript: Transcript,
    dir: PathBuf,
    python: python::Packages,
}

impl Machine {
    pub(crate) fn start(&mut self) -> Result<()> {
        assert!(self.process.is_none(), "{} runs already", self.name);
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut command = Command::new(&self.command[0]);
        command
            .args(&self.command[1..])
            .envs(self.environment.iter().cloned())
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        let child = command.spawn().with_context(|| format!("cannot start {}", self.command[0]))?;
        self.process = Some(child);
        Ok(())
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("output")
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.join("pg_data")
    }

    fn pid(&self) -> Option<Pid> {
        Some(Pid::from_child(self.process.as_ref()?))
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid().with_context(|| format!("{} does not run", self.name))?;
        Ok(kill_process(pid, signal)?)
    }

    /// SIGKILL to the process and to every PostgreSQL process of the machine.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.process.take() {
            let _ = child.kill();
            let data_dir = self.data_dir();
            processes::kill_inside(&data_dir).await?;
            child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let Some(mut child) = self.process.take() else { return };
        let _ = child.kill();
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            let left = processes::inside(&self.data_dir());
            if left.is_empty() || Instant::now() > until {
                break;
            }
            for pid in left {
                let _ = kill_process(pid, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = child.wait();
    }
}

impl Setup {
    /// Lays everything out below `dir` and starts nothing.
    pub(crate) fn prepare(dir: &Path) -> Result<Setup> {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?;
        let owner = quorate_tests::user(unit("User")?)?;
        let python = python::packages(dir, owner)?;
        // An address block of its own for every run; the ports are the setup's.
        let net = quorate_loopback::addresses(
            &[81, 82, 83, 84, 85, 86, 87],
            &[2379, 2380, 5432, 5433, 7000, 8008],
        )?;
        let mut stores = Vec::new();
        for (name, host) in STORES {
            let address = format!("{net}{host}");
            let dir = dir.join(name);
            std::fs::create_dir(&dir)?;
            let line = |line: &str| match line.split_once('=') {
                // The one line that names every member.
                Some(("ETCD_INITIAL_CLUSTER", _)) => line.replace("192.168.0.", &net),
                _ => line
                    .replace("ETCD_NAME=u1", &format!("ETCD_NAME={name}"))
                    .replace("192.168.0.81", &address)
                    .replace("0.0.0.0", &address)
                    .replace("/var/lib/etcd/default", &dir.join("data").display().to_string()),
            };
            let text = STORE_ENVIRONMENT.lines().map(line).collect::<Vec<_>>().join("\n");
            std::fs::write(dir.join("etcd.env"), &text)?;
            stores.push(Machine {
                name,
                address,
                dir,
                command: quorate_tests::store_command(),
                environment: environment_file(&text),
                user: None,
                process: None,
            });
        }
        let mut nodes = Vec::new();
        for (name, host, file) in NODES {
            let address = format!("{net}{host}");
            let dir = dir.join(name);
            std::fs::create_dir_all(dir.join("log"))?;
            let path = |name: &str| dir.join(name).display().to_string();
            let text = file
                .replace("192.168.0.", &net)
                .replace("0.0.0.0:", &format!("{address}:"))
                .replace("/var/log/patroni", &path("log"))
                .replace("/pgsql/pg_data", &path("pg_data"))
                .replace("/usr/lib/postgresql/16/bin", quorate_tests::BIN_DIR)
                .replace("'/tmp'", &format!("'{}'", dir.display()));
            std::fs::write(dir.join("patroni.yml"), text)?;
            if let Some((uid, gid)) = owner {
                for part in [&dir, &dir.join("log")] {
                    chown(part, Some(uid), Some(gid))?;
                }
            }
            // ExecStart=…/bin/patroni …/patroni.yml
            let exec = unit("ExecStart")?;
            let (program, argument) = exec.split_once(' ').context("a program and its argument")?;
            let module = Path::new(program).file_name().and_then(|name| name.to_str()).context("a name")?;
            let file = Path::new(argument).file_name().and_then(|name| name.to_str()).context("a name")?;
            nodes.push(Machine {
                name,
                address,
                command: python.module(module, &[&path(file)]),
                environment: python.environment(&dir),
                user: owner,
                process: None,
                dir,
            });
        }
        let (name, host, file) = PROXY;
        let address = format!("{net}{host}");
        let directory = dir.join(name);
        std::fs::create_dir(&directory)?;
        let configuration = directory.join("haproxy.cfg");
        let text = file.replace("192.168.0.", &net).replace("*:7000", &format!("{address}:7000"));
        std::fs::write(&configuration, text)?;
        let command = ["/usr/sbin/haproxy", "-db", "-f", &configuration.display().to_string()];
        let proxy = Machine {
            name,
            address,
            dir: directory,
            command: command.map(str::to_owned).into(),
            environment: Vec::new(),
            user: None,
            process: None,
        };
        let transcript = Transcript::start();
        Ok(Setup { stores, nodes, proxy, transcript, dir: dir.to_path_buf(), python })
    }

    /// `patronictl …` with the first node's file. Fails unless it succeeds.
    pub(crate) fn patronictl(&self, arguments: &str) -> Result<String> {
        let file = self.nodes[0].dir.join("patroni.yml");
        let mut command = self.python.entry("patroni.ctl", "ctl", &["-c", &file.display().to_string()]);
        command.extend(arguments.split_whitespace().map(str::to_owned));
        let output = Command::new(&command[0])
            .args(&command[1..])
            .envs(self.python.environment(&self.dir))
            .stdin(Stdio::null())
            .output()?;
        self.said(&format!("patronictl {arguments}"), &output)
    }

    /// Debian's `etcdctl`, asking `stores`.
    pub(crate) fn etcdctl(&self, stores: &[usize], arguments: &str) -> Result<String> {
        let endpoints: Vec<String> =
            stores.iter().map(|store| format!("{}:2379", self.stores[*store].address)).collect();
        let output = Command::new("etcdctl")
            .args(["--endpoints", &endpoints.join(",")])
            .args(arguments.split_whitespace())
            .env("ETCDCTL_API", "3")
            .stdin(Stdio::null())
            .output()
            .context("etcdctl is not there: `cargo xtask setup` installs it")?;
        self.said(&format!("etcdctl {arguments}"), &output)
    }

    /// What the server behind one of the proxy's ports says about itself: its address, and whether it takes writes.
    pub(crate) fn behind(&self, port: u16) -> Option<(String, bool)> {
        let output = Command::new(Path::new(quorate_tests::BIN_DIR).join("psql"))
            .args(["--host", &self.proxy.address, "--port", &port.to_string(), "--username", "postgres"])
            .args(["--no-align", "--tuples-only", "--command"])
            .arg("SELECT host(inet_server_addr()) || ' ' || NOT pg_is_in_recovery()")
            .env("PGPASSWORD", "secret")
            .env("PGCONNECT_TIMEOUT", "2")
            .stdin(Stdio::null())
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let (address, writable) = text.trim().split_once(' ')?;
        Some((address.to_owned(), writable == "true"))
    }

    fn said(&self, command: &str, output: &std::process::Output) -> Result<String> {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        self.transcript.command(command, &text, &errors, output.status.code());
        if !output.status.success() {
            bail!("`{command}` ended with {}:\n{text}{errors}", output.status);
        }
        Ok(text)
    }

    /// The store's leader, as the stores `asked` know it.
    pub(crate) fn store_leader(&self, asked: &[usize]) -> Option<usize> {
        asked.iter().copied().find(|store| is_leader(&self.stores[*store].address))
    }

    /// `GET /cluster` of the first node that answers.
    pub(crate) fn view(&self) -> Option<ClusterView> {
        let running = self.nodes.iter().filter(|node| node.process.is_some());
        running
            .filter_map(|node| serde_json::from_str(&http_get(&node.address, 8008, "/cluster").ok()?).ok())
            .next()
    }

    /// The node that holds the leader lock.
    pub(crate) fn primary(&self) -> Option<usize> {
        let view = self.view()?;
        let leader =
            view.members.iter().find(|member| member.role == "leader" && member.state == "running")?;
        self.nodes.iter().position(|node| node.name == leader.name)
    }

    /// The synchronous standby.
    pub(crate) fn sync_standby(&self) -> Option<usize> {
        let view = self.view()?;
        let standby = view.members.iter().find(|member| member.role == "sync_standby")?;
        self.nodes.iter().position(|node| node.name == standby.name)
    }

    /// One leader, everybody else streams on its timeline.
    pub(crate) fn is_whole(&self) -> bool {
        let Some(view) = self.view() else { return false };
        let Some(leader) = view.members.iter().find(|member| member.role == "leader") else { return false };
        leader.state == "running"
            && view.members.len() == self.nodes.len()
            && view
                .members
                .iter()
                .filter(|member| member.name != leader.name)
                .all(|standby| standby.state == "streaming" && standby.timeline == leader.timeline)
    }

    /// What an application is configured with.
    pub(crate) fn connection_string(&self) -> String {
        let hosts: Vec<String> = self.nodes.iter().map(|node| format!("{}:5432", node.address)).collect();
        format!("postgresql://postgres:secret@{}/postgres?target_session_attrs=read-write", hosts.join(","))
    }

    /// Waits for `condition`, asked every 50 ms; a process that ended by itself ends the wait.
    pub(crate) async fn wait_until(
        &mut self,
        what: &str,
        deadline: Duration,
        mut condition: impl FnMut(&Setup) -> bool,
    ) -> Result<()> {
        let until = Instant::now() + deadline;
        while !condition(self) {
            for machine in self.stores.iter_mut().chain(&mut self.nodes).chain([&mut self.proxy]) {
                if let Some(status) =
                    machine.process.as_mut().and_then(|child| child.try_wait().ok().flatten())
                {
                    bail!(
                        "waiting for {what}: {} ended with {status}; see {}",
                        machine.name,
                        machine.log().display()
                    );
                }
            }
            if Instant::now() > until {
                bail!(
                    "no {what} within {} s; outputs and logs are in {}",
                    deadline.as_secs(),
                    self.dir.display()
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

/// SIGTERM to all of them, and the end of each with code 0.
pub(crate) async fn stop(machines: &mut [Machine], deadline: Duration) -> Result<()> {
    for machine in &*machines {
        machine.signal(Signal::TERM)?;
    }
    let until = Instant::now() + deadline;
    for machine in machines {
        let child = machine.process.as_mut().context("it was signalled")?;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if Instant::now() > until {
                bail!("{} does not end; see {}", machine.name, machine.log().display());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        machine.process = None;
        // etcd ends by the signal itself once it has shut down.
        let is_etcd = std::env::var_os("QUORATE_TESTS_STORE").is_some();
        let expected = status.success() || is_etcd && status.signal() == Some(Signal::TERM.as_raw());
        if !expected {
            bail!("{} ended with {status}; see {}", machine.name, machine.log().display());
        }
    }
    Ok(())
}

/// Variables as systemd reads them: quotes around a value are taken off.
fn environment_file(text: &str) -> Vec<(String, String)> {
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.trim_matches('\'').to_owned())).collect()
}

/// A value of the unit file.
fn unit(name: &str) -> Result<&'static str> {
    let value = UNIT.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    value.with_context(|| format!("the unit file has no {name}"))
}
