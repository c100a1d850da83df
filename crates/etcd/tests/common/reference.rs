//! A real etcd of one member, Debian's, to compare with.
#![allow(dead_code, missing_docs, unreachable_pub, reason = "each suite uses a part of it")]

use std::process::{Child, Command, Stdio};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::eventually;

/// Killed with its value.
pub struct Reference {
    child: Child,
    pub address: String,
    _data: tempfile::TempDir,
}

impl Drop for Reference {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Reference {
    /// Returns when it serves.
    pub async fn start() -> Reference {
        let data = tempfile::tempdir().expect("a temporary directory");
        let host = "127.0.0.1";
        let ports = quorate_loopback::ports(2).expect("ports");
        let client = format!("http://{host}:{}", ports[0]);
        let peer = format!("http://{host}:{}", ports[1]);
        let child = Command::new("etcd")
            .args(["--name", "m0", "--data-dir"])
            .arg(data.path())
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("m0={peer}"), "--log-level", "error"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("etcd does not start ({error}): apt install etcd-server"));
        let reference = Reference { child, address: format!("{host}:{}", ports[0]), _data: data };
        eventually("the real etcd serves", || healthy(&reference.address)).await;
        reference
    }
}

async fn healthy(address: &str) -> Option<()> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    answer.contains("\"health\":\"true\"").then_some(())
}
