//! A program that is a voter of its own replicated store: no server beside it, no client library in it.
//!
//! Every copy of this program keeps the whole store, takes part in its decisions, takes a lock in turn with the others, and
//! watches what they write. Three copies in one process, in a directory that is removed afterwards:
//!
//! ```text
//! cargo run -p quorate-node --example voter -- --three
//! ```
//!
//! Or one copy per process, in three terminals (or on three machines, with their addresses):
//!
//! ```text
//! ALL=one=127.0.0.1:7001,two=127.0.0.1:7002,three=127.0.0.1:7003
//! cargo run -p quorate-node --example voter -- one   /tmp/voter-one   $ALL
//! cargo run -p quorate-node --example voter -- two   /tmp/voter-two   $ALL
//! cargo run -p quorate-node --example voter -- three /tmp/voter-three $ALL
//! ```
//!
//! Kill one of them while it has the lock: another one gets it when the lease of the dead one has run out. Start it again on its
//! directory: it is a voter again.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use quorate_node::state::{Command, Put, Range, ReplyBody, Txn, TxnOp, TxnOpBody};
use quorate_node::{Config, Handle, Node, WatchItem, WatchSpec};
use tokio::signal::unix::{SignalKind, signal};

/// How long one request may take. A read or write that finds no quorum for so long fails; the program decides what then.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long the others wait for the lock of a member that died.
const TTL: Duration = Duration::from_secs(5);
/// How often every member does its work.
const ROUNDS: usize = 3;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--three"] => three().await,
        [name, directory, all] => {
            let mut interrupt = signal(SignalKind::interrupt())?;
            let node = one(config(name, directory.into(), all)?).await?;
            println!("{name}: done; a voter until Ctrl-C");
            tokio::select! {
                _ = interrupt.recv() => {}
                // A disk that fails, for instance: what this member can no longer promise, it does not go on with.
                sentence = node.failed() => return Err(sentence.into()),
            }
            node.shutdown(TIMEOUT).await;
            Ok(())
        }
        _ => Err("give me --three, or NAME DIRECTORY NAME=HOST:PORT,NAME=HOST:PORT,…".into()),
    }
}

/// Three members in one process: three tasks, three directories, three ports from the kernel.
async fn three() -> Result<()> {
    let directory = std::env::temp_dir().join(format!("voter-{}", std::process::id()));
    let all = {
        let held = [(), (), ()].map(|()| std::net::TcpListener::bind("127.0.0.1:0"));
        let mut all = Vec::new();
        for (name, listener) in ["one", "two", "three"].iter().zip(held) {
            all.push(format!("{name}={}", listener?.local_addr()?));
        }
        all.join(",")
    };
    let mut members = Vec::new();
    for name in ["one", "two", "three"] {
        members.push(tokio::spawn(one(config(name, directory.join(name), &all)?)));
    }
    // All of them stay until the last one is done: two that left would take the quorum with them.
    let mut nodes = Vec::new();
    for member in members {
        nodes.push(member.await??);
    }
    for node in nodes {
        node.shutdown(TIMEOUT).await;
    }
    Ok(std::fs::remove_dir_all(&directory)?)
}

/// What makes a member: a name, a directory of its own, and the addresses of all members, the same list for each.
fn config(name: &str, directory: PathBuf, all: &str) -> Result<Config> {
    let mut members = Vec::new();
    for member in all.split(',') {
        let (name, address) = member.split_once('=').ok_or("a member is NAME=HOST:PORT")?;
        members.push((name.to_owned(), address.to_owned()));
    }
    let (_, address) = members.iter().find(|(one, _)| one == name).ok_or("the list does not name me")?;
    let mut config = Config::single(name, directory);
    config.cluster_token = "voter-example".to_owned();
    config.peer_listen = vec![address.clone()];
    config.peer_advertise = format!("http://{address}");
    config.initial_cluster =
        members.iter().map(|(name, address)| (name.clone(), format!("http://{address}"))).collect();
    // Nobody but this program talks to this member.
    config.client_urls = Vec::new();
    Ok(config)
}

/// Starts a member and lets it do its work. It is a voter from its start on, for as long as the node is there.
async fn one(config: Config) -> Result<Node> {
    let name = config.name.clone();
    // The first start returns when all members are there; a later one does not wait for anybody.
    let node = Node::start(config).await?;
    let handle = node.handle();
    let watching = tokio::spawn(watch(handle.clone(), name.clone()));
    for round in 1..=ROUNDS {
        work(&handle, &name, round).await?;
    }
    watching.await??;
    Ok(node)
}

/// Takes the lock, does something that only its holder may do, and gives it back.
async fn work(handle: &Handle, name: &str, round: usize) -> Result<()> {
    // The session's lease is renewed until the session ends. Should this program die, the lease runs out and the lock is free.
    let session = handle.session(TTL, TIMEOUT).await?;
    let lock = handle.lock("example/lock", session.lease(), TIMEOUT).await?;
    println!("{name}: has the lock (fencing token {})", lock.revision());

    // The counter is read and written under the lock. The write carries the lock with it: if this process was stopped just
    // here for longer than its lease, the store refuses what it has to say.
    let counter = Range { key: "example/counter".into(), ..Range::default() };
    let found = handle.range(counter, TIMEOUT).await?;
    let before: usize = match found.kvs.first() {
        Some(kv) => std::str::from_utf8(&kv.value)?.parse()?,
        None => 0,
    };
    let put = |key: String, value: String| TxnOp {
        body: Some(TxnOpBody::Put(Put { key: key.into(), value: value.into(), ..Put::default() })),
    };
    let write = Txn {
        compare: vec![lock.held()],
        success: vec![
            put("example/counter".to_owned(), (before + 1).to_string()),
            put(format!("example/done/{name}/{round}"), (before + 1).to_string()),
        ],
        failure: Vec::new(),
    };
    let applied = handle.propose(Command::txn(write), TIMEOUT).await?;
    match applied.reply.body {
        Some(ReplyBody::Txn(reply)) if reply.succeeded => println!("{name}: counted to {}", before + 1),
        _ => println!("{name}: came too late, the lock was somebody else's already"),
    }
    lock.unlock(TIMEOUT).await?;
    session.end(TIMEOUT).await?;
    Ok(())
}

/// Prints what was done, by whomever, until everybody is done. From the first revision on, so that nothing is missed, however
/// late this member came.
async fn watch(handle: Handle, name: String) -> Result<()> {
    let mut watcher = handle.watch(WatchSpec {
        key: "example/done/".into(),
        range_end: "example/done0".into(),
        start_revision: 1,
        ..WatchSpec::default()
    });
    let mut seen = 0;
    while seen < 3 * ROUNDS {
        match watcher.next().await {
            Some(WatchItem::Events { events, .. }) => {
                for event in events {
                    let (key, value) = (&event.kv.key, &event.kv.value);
                    println!(
                        "{name}: sees {} = {}",
                        String::from_utf8_lossy(key),
                        String::from_utf8_lossy(value)
                    );
                    seen += 1;
                }
            }
            Some(WatchItem::Compacted { revision }) => {
                return Err(format!("history before revision {revision} is gone").into());
            }
            None => return Err("the member has stopped".into()),
        }
    }
    Ok(())
}
