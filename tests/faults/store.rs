//! `quorate store`: ports, somebody else's directory, two processes, damage, a full disk.

use std::net::TcpListener;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use quorate_drill::ports::{self, Ports};

use crate::SOON;
use crate::process::{Ended, Process, assert_untouched, binary_run, scratch, tree, wait_until};

/// A member alone.
struct Store {
    /// Logs of processes lie here, beside the data directory.
    dir: PathBuf,
    data: PathBuf,
    name: &'static str,
    token: &'static str,
    ports: Ports,
}

impl Store {
    fn new(dir: &Path, data: PathBuf) -> Store {
        let ports = ports::choose(1, None).unwrap()[0];
        Store { dir: dir.to_path_buf(), data, name: "a", token: "first", ports }
    }

    fn spawn(&self) -> Process {
        let (client, peer) = (
            format!("http://127.0.0.1:{}", self.ports.client),
            format!("http://127.0.0.1:{}", self.ports.peer),
        );
        let initial = format!("{}={peer}", self.name);
        let arguments = [
            "store",
            "--name",
            self.name,
            "--data-dir",
            self.data.to_str().unwrap(),
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
            "--initial-cluster",
            &initial,
            "--initial-cluster-token",
            self.token,
        ];
        Process::start("quorate", &arguments, &self.dir, None)
    }

    fn serve(&self) -> Process {
        let mut process = self.spawn();
        process.wait_for("ready to serve client requests", SOON);
        process
    }

    fn ctl(&self, arguments: &[&str]) -> Ended {
        let endpoint = format!("127.0.0.1:{}", self.ports.client);
        let mut all = vec!["--endpoints", &endpoint, "--command-timeout", "3s"];
        all.extend(arguments);
        binary_run("quoratectl", &all, &self.dir, SOON)
    }

    fn put(&self, key: &str, value: &str) -> bool {
        self.ctl(&["put", key, value]).status.success()
    }

    /// A data directory that was used and closed in order.
    fn used(&self) {
        let process = self.serve();
        assert!(self.put("before", "needle-in-the-log"));
        assert!(self.put("after", "something else"));
        process.stop(SOON);
    }
}

#[test]
fn a_port_in_use_is_named_and_the_directory_is_untouched() {
    let (_dir, path) = scratch();
    let store = Store::new(&path, path.join("data"));
    for used in [false, true] {
        if used {
            store.used();
        }
        for port in [store.ports.peer, store.ports.client] {
            let _held = TcpListener::bind(("127.0.0.1", port)).unwrap();
            let before = used.then(|| tree(&store.data));
            let address = format!("cannot listen on 127.0.0.1:{port}: ");
            store
                .spawn()
                .ended(SOON)
                .expect(1, &[&address, "in use; stop the process", "or set another one"]);
            match before {
                Some(before) => assert_untouched(&before, &store.data),
                None => assert!(!store.data.exists()),
            }
        }
    }
}

#[test]
fn the_directory_of_another_cluster_or_member_is_refused() {
    let (_dir, path) = scratch();
    let mut store = Store::new(&path, path.join("data"));
    store.used();
    let before = tree(&store.data);
    let data = store.data.display().to_string();
    store.token = "second";
    store
        .spawn()
        .ended(SOON)
        .expect(1, &[&data, "\"first\"", "\"second\"", "correct", "nothing was changed"]);
    assert_untouched(&before, &store.data);
    (store.token, store.name) = ("first", "b");
    store
        .spawn()
        .ended(SOON)
        .expect(1, &[&data, "member \"a\"", "member \"b\"", "correct", "nothing was changed"]);
    assert_untouched(&before, &store.data);
    // The rightful owner goes on.
    store.name = "a";
    let process = store.serve();
    store.ctl(&["get", "before"]).expect(0, &["needle-in-the-log"]);
    process.stop(SOON);
}

#[test]
fn a_second_process_on_one_directory_is_refused() {
    let (_dir, path) = scratch();
    let first = Store::new(&path, path.join("data"));
    let process = first.serve();
    let second = Store::new(&path, path.join("data"));
    let holder = format!("in use by another process (pid {})", process.pid());
    second.spawn().ended(2 * SOON).expect(1, &[&first.data.display().to_string(), &holder, "stop it, or"]);
    assert!(first.put("still", "served"));
    process.stop(SOON);
}

#[test]
fn a_damaged_record_refuses_to_start() {
    let (_dir, path) = scratch();
    let store = Store::new(&path, path.join("data"));
    store.used();
    let log = store.data.join("log/0000000000000001.log");
    let bytes = std::fs::read(&log).unwrap();
    let at = bytes.windows(17).position(|window| window == b"needle-in-the-log").unwrap();
    let file = std::fs::File::options().write(true).open(&log).unwrap();
    file.write_all_at(&[bytes[at] ^ 1], at as u64).unwrap();
    let before = tree(&store.data);
    let place = format!("{}: damaged at byte ", log.display());
    store.spawn().ended(SOON).expect(1, &[&place, "start this member with an empty data directory"]);
    assert_untouched(&before, &store.data);
    // The byte back, and everything is there: nothing was thrown away on the way.
    file.write_all_at(&bytes[at..=at], at as u64).unwrap();
    let process = store.serve();
    store.ctl(&["get", "before"]).expect(0, &["needle-in-the-log"]);
    process.stop(SOON);
}

/// A file system of its own; unmounted when dropped.
struct Small(PathBuf);

impl Small {
    fn mount(at: &Path, size: &str) -> Option<Small> {
        std::fs::create_dir(at).unwrap();
        let options = format!("size={size}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Small(at.to_path_buf()))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Not while unwinding from a test that has failed: that one has its own message.
        let unmounted = Command::new("umount").arg(&self.0).status();
        assert!(std::thread::panicking() || unmounted.is_ok_and(|status| status.success()));
    }
}

/// Takes all but `left` bytes.
fn fill(disk: &Path, left: u64) {
    let stat = rustix::fs::statvfs(disk).unwrap();
    let ballast = vec![0_u8; usize::try_from((stat.f_bavail * stat.f_frsize).saturating_sub(left)).unwrap()];
    std::fs::write(disk.join("ballast"), ballast).unwrap();
}

#[test]
fn a_full_disk_ends_the_process_and_loses_nothing() {
    let (_dir, path) = scratch();
    let disk = path.join("disk");
    let Some(_mounted) = Small::mount(&disk, "48m") else {
        println!("skipped: mounting a small file system needs root");
        return;
    };
    let store = Store::new(&path, disk.join("data"));

    // Full from the beginning: not even the first segment.
    fill(&disk, 1 << 20);
    let place = store.data.display().to_string();
    let full = ["the disk is full; free space on that file system", "No space left on device"];
    store.spawn().ended(2 * SOON).expect(1, &[&place, full[0], full[1]]);
    std::fs::remove_file(disk.join("ballast")).unwrap();

    // Full on the way.
    let process = store.serve();
    let spare = store.data.join("log/spare.tmp");
    let prepared = || spare.metadata().is_ok_and(|spare| spare.blocks() * 512 >= 16 << 20);
    wait_until("second segment prepared ahead", SOON, prepared);
    fill(&disk, 5 << 20);
    let value = |n: u32| char::from(b'a' + (n % 26) as u8).to_string().repeat(100_000);
    let mut acknowledged = 0;
    while acknowledged < 200 && store.put(&format!("key{acknowledged:03}"), &value(acknowledged)) {
        acknowledged += 1;
    }
    assert!(acknowledged < 200, "the disk did not get full");
    process.ended(2 * SOON).expect(1, &[&place, full[0], full[1]]);
    println!("acknowledged before the disk was full: {acknowledged}");

    std::fs::remove_file(disk.join("ballast")).unwrap();
    let process = store.serve();
    for n in 0..acknowledged {
        let found = store.ctl(&["get", &format!("key{n:03}")]);
        assert!(found.output.contains(&value(n)), "key{n:03} was acknowledged and is not there");
    }
    assert!(store.put("again", "writable"));
    process.stop(SOON);
}
