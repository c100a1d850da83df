//! A network of the drill's own: one namespace per node, one for the application, and a switch between them.
//!
//! # Problem
//!
//! Killing processes shows what happens when a machine dies: its ports refuse, and everybody knows at once. A cable that is
//! pulled is worse. Nothing is refused, nothing is closed, both sides go on running and each believes the other dead. That
//! cannot be played on loopback, where every node has the same address.
//!
//! # Model
//!
//! ```text
//!   quorate-PID-node1        quorate-PID-node2       quorate-PID-node3       quorate-PID-outside
//!   10.99.0.1 eth0           10.99.0.2 eth0          10.99.0.3 eth0          10.99.0.4 eth0
//!        │                        │                       │                       │
//!   ┌────┴────────────────────────┴───────────────────────┴───────────────────────┴────┐
//!   │ node1                    node2      quorate-PID-switch    node3          outside │  a bridge; nft drops here
//!   └──────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! The bridge stands in a namespace of its own, so nothing of the machine's network is touched and every cluster may use
//! the same addresses and the default ports. A cut is a rule of the bridge: the node keeps its link, its address and its
//! routes, and what it sends is not heard. Address resolution is let through, because a neighbour that does not
//! answer it is reported as "no route to host" after three seconds: without that help the others hear nothing at all,
//! which is what a cut behind a router looks like, and the harder case.
//!
//! # Invariants
//!
//! - The rules are replaced as a whole, in one transaction of the kernel: there is no moment between two cuts.
//! - What was made is removed when the [`Net`] is dropped, also by a panic. After SIGKILL of the drill the names tell whose they
//!   were: the next drill removes those whose process is gone.
//!
//! # Delay
//!
//! [`Net::forward`] redirects what the hosts send to each other to forwarders (`delay`) that can hold it back. They cost a little by
//! themselves, so only who wants delay gets them.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::delay::{self, Delay};
use crate::place::Place;

/// Where `ip netns` keeps them.
const NAMESPACES: &str = "/run/netns";
/// Every name begins so, followed by the drill's process id.
const PREFIX: &str = "quorate-";
/// The table of the rules, in the switch.
const TABLE: &str = "quorate_drill";
/// A port's forwarder listens so much above it.
const FORWARDER: u16 = 10_000;

/// What the switch does not let through. Hosts are numbered from 0, the outside comes after the last node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// A host hears nobody and is heard by nobody.
    Host(usize),
    /// What a host sends is lost; it still hears the others.
    Outgoing(usize),
    /// A host hears nobody; the others still hear it.
    Incoming(usize),
    /// Two hosts do not hear each other; everybody else hears both.
    Between(usize, usize),
    /// Of all that a host sends and hears, what belongs to one TCP port is lost, at whichever end that is.
    Port(usize, u16),
}

impl Cut {
    /// Whether what `server` answers from `port` to a client on another host may be held back.
    pub(crate) fn separates(self, client: usize, server: usize, port: u16) -> bool {
        let touches = |host| client == host || server == host;
        client != server
            && match self {
                Cut::Host(host) | Cut::Outgoing(host) | Cut::Incoming(host) => touches(host),
                Cut::Between(one, other) => touches(one) && touches(other),
                Cut::Port(host, of) => of == port && touches(host),
            }
    }
}

/// One host: a namespace with an address.
#[derive(Debug)]
struct Host {
    namespace: String,
    /// Its port on the bridge.
    port: String,
    address: Ipv4Addr,
    place: Place,
}

/// The network; removed when it is dropped.
#[derive(Debug)]
pub struct Net {
    switch: String,
    hosts: Vec<Host>,
    /// Every namespace made so far, for the end.
    made: Vec<String>,
}

/// Why there can be no network of the drill's own here, in one sentence; None: there can.
#[must_use]
pub fn obstacle() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces need root; on loopback nothing can be cut".to_owned());
    }
    for program in ["ip", "nft"] {
        let found = Command::new(program).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if found.is_err() {
            return Some(format!(
                "network namespaces need the program `{program}` (Debian: iproute2, nftables); on loopback nothing can be cut"
            ));
        }
    }
    None
}

impl Net {
    /// Makes a namespace for each of `names` and connects them all.
    ///
    /// # Errors
    /// What [`obstacle`] says, or what `ip` complains about.
    pub fn create(names: &[&str]) -> Result<Net> {
        if let Some(why) = obstacle() {
            bail!("{why}");
        }
        sweep();
        // More than one network per process is needed by tests only, and costs nothing.
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = |what: &str| match number {
            0 => format!("{PREFIX}{}-{what}", std::process::id()),
            more => format!("{PREFIX}{}-{more}-{what}", std::process::id()),
        };
        let mut net = Net { switch: name("switch"), hosts: Vec::new(), made: Vec::new() };
        net.add(&net.switch.clone())?;
        ip(&["-n", &net.switch, "link", "add", "bridge", "type", "bridge", "forward_delay", "0"])?;
        ip(&["-n", &net.switch, "link", "set", "bridge", "up"])?;
        for (index, what) in names.iter().enumerate() {
            let namespace = name(what);
            let address = address(index)?;
            net.add(&namespace)?;
            let (own, port) = (format!("{address}/24"), (*what).to_owned());
            let switch = net.switch.clone();
            ip(&[
                "-n", &switch, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns",
                &namespace,
            ])?;
            ip(&["-n", &switch, "link", "set", &port, "master", "bridge", "up"])?;
            ip(&["-n", &namespace, "address", "add", &own, "dev", "eth0"])?;
            ip(&["-n", &namespace, "link", "set", "eth0", "up"])?;
            ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
            let place = Place::in_namespace(open(&namespace)?)?;
            net.hosts.push(Host { namespace, port, address, place });
        }
        Ok(net)
    }

    fn add(&mut self, namespace: &str) -> Result<()> {
        ip(&["netns", "add", namespace])?;
        self.made.push(namespace.to_owned());
        Ok(())
    }

    /// A host's address.
    #[must_use]
    pub fn address(&self, host: usize) -> IpAddr {
        IpAddr::V4(self.hosts[host].address)
    }

    /// Where a host's programs and clients stand.
    #[must_use]
    pub fn place(&self, host: usize) -> Place {
        self.hosts[host].place.clone()
    }

    /// The namespace's name, for `ip netns exec`.
    #[must_use]
    pub fn namespace(&self, host: usize) -> &str {
        &self.hosts[host].namespace
    }

    /// From now on exactly `cuts` hold; none: everybody hears everybody.
    ///
    /// # Errors
    /// What `nft` complains about; the cuts before hold then.
    pub fn apply(&self, cuts: &[Cut]) -> Result<()> {
        let ports: Vec<&str> = self.hosts.iter().map(|host| host.port.as_str()).collect();
        nft(&self.switch, &ruleset(cuts, &ports))
    }

    /// From now on what the first `hosts` hosts send to each other's `ports` passes forwarders. Only new connections
    /// do, so this comes before anybody connects. The handle holds them all back.
    ///
    /// # Errors
    /// What `nft` complains about, or a port in use.
    pub fn forward(&self, hosts: usize, ports: &[u16]) -> Result<Delay> {
        let delay = Delay::default();
        let addresses: Vec<Ipv4Addr> = self.hosts.iter().take(hosts).map(|host| host.address).collect();
        let rules = redirection(&addresses, ports);
        for host in self.hosts.iter().take(hosts) {
            for port in ports {
                let (from, to) = ((host.address, port + FORWARDER), (host.address, *port));
                let listener = host.place.inside(|| std::net::TcpListener::bind(from))??;
                listener.set_nonblocking(true)?;
                // Ends with the thread of the namespace.
                drop(host.place.spawn(delay::forward(listener, to.into(), delay.clone())));
            }
            nft(&host.namespace, &rules)?;
        }
        Ok(delay)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        // The threads inside end first; a namespace lives as long as somebody is in it.
        self.hosts.clear();
        for namespace in self.made.drain(..) {
            // One that cannot be removed is the next drill's: there is nobody to tell here.
            let _ = ip(&["netns", "delete", &namespace]);
        }
    }
}

fn address(host: usize) -> Result<Ipv4Addr> {
    let last = u8::try_from(host + 1).ok().filter(|last| *last < 255).context("too many hosts")?;
    Ok(Ipv4Addr::new(10, 99, 0, last))
}

fn open(namespace: &str) -> Result<OwnedFd> {
    let path = Path::new(NAMESPACES).join(namespace);
    let file = std::fs::File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(file.into())
}

/// The whole table, replaced at once.
fn ruleset(cuts: &[Cut], ports: &[&str]) -> String {
    let mut text = format!(
        "add table bridge {TABLE}\ndelete table bridge {TABLE}\ntable bridge {TABLE} {{\n  chain forward {{\n    \
         type filter hook forward priority 0; policy accept;\n"
    );
    let mut drop = |from: Option<usize>, to: Option<usize>, what: &str| {
        text.push_str("    ");
        if let Some(from) = from {
            let _ = write!(text, "iifname \"{}\" ", ports[from]);
        }
        if let Some(to) = to {
            let _ = write!(text, "oifname \"{}\" ", ports[to]);
        }
        let _ = writeln!(text, "{what} drop");
    };
    let all = "ether type { ip, ip6 }";
    for cut in cuts {
        match *cut {
            Cut::Host(host) => {
                drop(Some(host), None, all);
                drop(None, Some(host), all);
            }
            Cut::Outgoing(host) => drop(Some(host), None, all),
            Cut::Incoming(host) => drop(None, Some(host), all),
            Cut::Between(one, other) => {
                drop(Some(one), Some(other), all);
                drop(Some(other), Some(one), all);
            }
            Cut::Port(host, port) => {
                for end in ["sport", "dport"] {
                    let one = format!("ether type ip tcp {end} {port}");
                    drop(Some(host), None, &one);
                    drop(None, Some(host), &one);
                }
            }
        }
    }
    text.push_str("  }\n}\n");
    text
}

/// Hands connections of `hosts` to `ports` to the forwarders. A forwarder's own come over loopback and are left alone.
fn redirection(hosts: &[Ipv4Addr], ports: &[u16]) -> String {
    let list = |items: Vec<String>| items.join(", ");
    let hosts = list(hosts.iter().map(ToString::to_string).collect());
    let map = list(ports.iter().map(|port| format!("{port} : {}", port + FORWARDER)).collect());
    let ports = list(ports.iter().map(ToString::to_string).collect());
    format!(
        "table ip {TABLE} {{\n  chain prerouting {{\n    type nat hook prerouting priority -100; policy accept;\n    \
         iifname \"eth0\" ip saddr {{ {hosts} }} tcp dport {{ {ports} }} redirect to :tcp dport map {{ {map} }}\n  }}\n}}\n"
    )
}

/// Removes what drills that were killed left behind.
fn sweep() {
    let Ok(entries) = std::fs::read_dir(NAMESPACES) else { return };
    for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        if owner(&name).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = ip(&["netns", "delete", &name]);
        }
    }
}

/// The process that made a namespace, if a drill did.
fn owner(namespace: &str) -> Option<u32> {
    namespace.strip_prefix(PREFIX)?.split_once('-')?.0.parse().ok()
}

fn nft(namespace: &str, rules: &str) -> Result<()> {
    let mut nft = Command::new("ip")
        .args(["netns", "exec", namespace, "nft", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run nft")?;
    if let Some(mut stdin) = nft.stdin.take() {
        stdin.write_all(rules.as_bytes()).context("cannot write to nft")?;
    }
    let output = nft.wait_with_output().context("cannot run nft")?;
    if !output.status.success() {
        bail!("nft refuses the rules: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn ip(arguments: &[&str]) -> Result<()> {
    run("ip", arguments)
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const PORTS: [&str; 3] = ["node1", "node2", "outside"];

    fn rules(cuts: &[Cut]) -> Vec<String> {
        ruleset(cuts, &PORTS)
            .lines()
            .filter(|line| line.trim_end().ends_with("drop"))
            .map(|line| line.trim().replace(" ether type { ip, ip6 } drop", ""))
            .collect()
    }

    #[test]
    fn every_cut_is_written_in_both_directions_or_in_one() {
        assert_eq!(rules(&[]), Vec::<String>::new());
        assert_eq!(rules(&[Cut::Host(0)]), ["iifname \"node1\"", "oifname \"node1\""]);
        assert_eq!(rules(&[Cut::Outgoing(1)]), ["iifname \"node2\""]);
        assert_eq!(rules(&[Cut::Incoming(1)]), ["oifname \"node2\""]);
        assert_eq!(
            rules(&[Cut::Between(0, 2)]),
            ["iifname \"node1\" oifname \"outside\"", "iifname \"outside\" oifname \"node1\""]
        );
        assert_eq!(
            rules(&[Cut::Port(1, 2380)]),
            [
                "iifname \"node2\" ether type ip tcp sport 2380 drop",
                "oifname \"node2\" ether type ip tcp sport 2380 drop",
                "iifname \"node2\" ether type ip tcp dport 2380 drop",
                "oifname \"node2\" ether type ip tcp dport 2380 drop",
            ]
        );
    }

    #[test]
    fn a_cut_separates_who_stands_on_its_two_sides() {
        let separated = |cut: Cut| -> Vec<(usize, usize)> {
            let pairs = (0..3).flat_map(|client| (0..3).map(move |server| (client, server)));
            pairs.filter(|(client, server)| cut.separates(*client, *server, 5432)).collect()
        };
        let of_0 = [(0, 1), (0, 2), (1, 0), (2, 0)];
        for cut in [Cut::Host(0), Cut::Outgoing(0), Cut::Incoming(0), Cut::Port(0, 5432)] {
            assert_eq!(separated(cut), of_0, "{cut:?}");
        }
        assert_eq!(separated(Cut::Between(0, 2)), [(0, 2), (2, 0)]);
        assert_eq!(separated(Cut::Port(0, 2380)), []);
    }

    #[test]
    fn names_tell_whose_they_are() {
        assert_eq!(owner("quorate-4711-node1"), Some(4711));
        assert_eq!(owner("quorate-4711-2-switch"), Some(4711));
        assert_eq!(owner("quorate-x-switch"), None);
        assert_eq!(owner("somebody-4711-node1"), None);
    }

    fn reaches(from: &Place, to: IpAddr) -> bool {
        from.inside(|| {
            std::net::TcpStream::connect_timeout(&(to, 9).into(), Duration::from_millis(400))
                .err()
                .is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
        })
        .unwrap()
    }

    /// A port where nobody listens refuses when the host is reached, and is silent when it is cut off.
    #[tokio::test(flavor = "multi_thread")]
    async fn cuts_cut_and_heal_and_leave_nothing_behind() {
        if let Some(why) = obstacle() {
            #[allow(clippy::print_stdout, reason = "says why nothing was tested")]
            {
                println!("skipped: {why}");
            }
            return;
        }
        let net = Net::create(&["node1", "node2", "outside"]).unwrap();
        let (one, two) = (net.place(0), net.place(1));
        assert!(reaches(&one, net.address(1)) && reaches(&two, net.address(0)), "everybody hears everybody");
        net.apply(&[Cut::Host(0)]).unwrap();
        assert!(!reaches(&one, net.address(1)) && !reaches(&two, net.address(0)), "cut off");
        assert!(reaches(&one, net.address(0)), "its own address is not behind the switch");
        assert!(reaches(&two, net.address(2)), "the others hear each other");
        net.apply(&[Cut::Between(0, 2)]).unwrap();
        assert!(reaches(&one, net.address(1)) && !reaches(&one, net.address(2)), "between two only");
        net.apply(&[Cut::Port(1, 9)]).unwrap();
        assert!(!reaches(&one, net.address(1)) && reaches(&one, net.address(2)), "one port of one host");
        net.apply(&[Cut::Port(1, 10)]).unwrap();
        assert!(reaches(&one, net.address(1)), "another port");
        net.apply(&[]).unwrap();
        assert!(reaches(&one, net.address(2)), "healed");
        let names = net.made.clone();
        drop((one, two, net));
        for name in names {
            assert!(!Path::new(NAMESPACES).join(&name).exists(), "{name} is still there");
        }
    }
    /// Says `x` to a port, hears it back, and tells how long that took and whom the port was told of.
    async fn echo(from: &Place, to: IpAddr, port: u16) -> (Duration, String) {
        let said = from.spawn(async move {
            let mut stream = TcpStream::connect((to, port)).await?;
            let begun = Instant::now();
            stream.write_all(b"x").await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok((begun.elapsed(), answer))
        });
        said.await.unwrap().unwrap()
    }

    /// Nodes hear each other late, and the application outside is not held back.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_nodes_send_each_other_is_held_back() {
        const PORT: u16 = 2380;
        if let Some(why) = obstacle() {
            #[allow(clippy::print_stdout, reason = "says why nothing was tested")]
            {
                println!("skipped: {why}");
            }
            return;
        }
        let net = Net::create(&["node1", "node2", "outside"]).unwrap();
        let to = net.address(1);
        let server = net.place(1).spawn(async move {
            let listener = TcpListener::bind((to, PORT)).await.unwrap();
            tokio::spawn(async move {
                while let Ok((mut stream, from)) = listener.accept().await {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).await.unwrap();
                    stream.write_all(from.ip().to_string().as_bytes()).await.unwrap();
                }
            });
        });
        server.await.unwrap();
        let delay = net.forward(2, &[PORT]).unwrap();
        let (_, seen) = echo(&net.place(0), to, PORT).await;
        assert_eq!(seen, to.to_string(), "it came through the forwarder, which stands there");
        delay.set(Duration::from_millis(100));
        let (took, _) = echo(&net.place(0), to, PORT).await;
        // The handshake's round trip, and one of the byte.
        assert!(took >= Duration::from_millis(400), "{took:?}");
        let (_, seen) = echo(&net.place(2), to, PORT).await;
        assert_eq!(seen, net.address(2).to_string(), "from outside there is nothing between");
    }
}
