//! `deploy/haproxy.cfg` under Debian's HAProxy: the writer's listener finds the primary, the readers' the standbys, and both
//! follow when the roles change.
//!
//! The nodes are stand-ins that answer the two health checks as the REST API does, bare `HTTP/1.0 200 OK` included.
#![allow(clippy::print_stdout, reason = "a skipped test says so")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

struct Haproxy(Child);

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Answers OPTIONS as node `index` would while `primary` names the primary. Ends with the test's process.
fn stand_in(index: usize, primary: &Arc<AtomicUsize>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let primary = Arc::clone(primary);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut request = [0; 512];
            let read = stream.read(&mut request).unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..read]).into_owned();
            let leads = primary.load(Ordering::SeqCst) == index;
            let fits = (request.starts_with("OPTIONS /primary ") && leads)
                || (request.starts_with("OPTIONS /replica ") && !leads);
            let status = if fits { "200 OK" } else { "503 Service Unavailable" };
            let _ = stream.write_all(format!("HTTP/1.0 {status}\r\n\r\n").as_bytes());
        }
    });
    address
}

/// `listener/node` of every server that is up.
fn up(stats: SocketAddr) -> Vec<String> {
    let Ok(mut stream) = TcpStream::connect(stats) else { return Vec::new() };
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let _ = stream.write_all(b"GET /;csv HTTP/1.0\r\n\r\n");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    let mut servers = Vec::new();
    for line in answer.lines() {
        let fields: Vec<&str> = line.split(',').collect();
        if let [listener @ ("primary" | "replicas"), node, ..] = fields.as_slice()
            && node.starts_with("node")
            && fields.get(17).is_some_and(|status| status.starts_with("UP"))
            && fields.get(36).is_some_and(|check| check.trim_start_matches("* ") == "L7OK")
        {
            servers.push(format!("{listener}/{node}"));
        }
    }
    servers
}

fn wait_for(stats: SocketAddr, wanted: &[&str]) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let found = up(stats);
        if found == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{found:?} instead of {wanted:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn the_listeners_follow_the_roles() {
    if !Path::new("/usr/sbin/haproxy").exists() {
        println!("skipped: haproxy is not installed");
        return;
    }
    let primary = Arc::new(AtomicUsize::new(0));
    let free = || SocketAddr::from(([127, 0, 0, 1], quorate_loopback::port().unwrap()));
    let stats = free();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/haproxy.cfg");
    let mut config = std::fs::read_to_string(path).unwrap();
    for (index, name) in ["node1", "node2", "node3"].iter().enumerate() {
        let rest = stand_in(index, &primary);
        config = config.replace(
            &format!("{name}:5432 maxconn 300 check port 8008"),
            &format!("127.0.0.1:5432 maxconn 300 check port {}", rest.port()),
        );
    }
    for (port, address) in [("*:7000", stats), ("*:5000", free()), ("*:5001", free())] {
        config = config.replace(port, &address.to_string());
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("haproxy.cfg");
    std::fs::write(&file, config).unwrap();
    let child = Command::new("/usr/sbin/haproxy")
        .args(["-db", "-q", "-f"])
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _haproxy = Haproxy(child);
    wait_for(stats, &["primary/node1", "replicas/node2", "replicas/node3"]);
    primary.store(2, Ordering::SeqCst);
    wait_for(stats, &["primary/node3", "replicas/node1", "replicas/node2"]);
}
