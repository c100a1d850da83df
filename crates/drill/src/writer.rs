//! A client that writes one row every 20 ms and remembers what it was told, wherever it stands.
//!
//! The connection string is the one that an application would use (all hosts, `target_session_attrs=read-write`), and its hosts are
//! tried one after the other, as libpq does.
//!
//! # What the probe adds to a gap
//!
//! - [`PERIOD`], 20 ms: the write that would have shown the end earlier was not sent yet.
//! - [`CONNECT_TIMEOUT`], 50 ms, for a host that answers nothing, before the next one is tried: with one host cut off at most
//!   50 ms, 25 ms on average. A host that refuses or says that it is a standby costs a few milliseconds.
//! - [`RECONNECT_PAUSE`], 20 ms, between two rounds over all hosts.
//! - [`HANDSHAKE`], 1 s, in one bad case: a host that takes the connection and then falls silent.
//!
//! A write without an answer does not hold the probe up: after [`PATIENCE`] it is left to wait in the background and the probe looks for a
//! server that answers. It is not given up, though. An answer that comes later, from an old primary at its last breath, is
//! noted when it comes: exactly these are the acknowledgements that a split brain consists of. A host that owes an answer is
//! not asked again for [`OWES`], unlike by libpq, which would go back to it as long as it says that it takes writes; later only
//! if it has been started again since, so that a stalled primary is not buried under sessions.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::task::JoinHandle;
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};

pub use crate::ledger::{Acknowledged, Ledger, Verdict};
use crate::place::Place;

/// Between two writes.
pub const PERIOD: Duration = Duration::from_millis(20);
/// A TCP connection to one host; the handshake is the kernel's work, so even a busy host is faster.
pub const CONNECT_TIMEOUT: Duration = Duration::from_millis(50);
/// Between two failed rounds over all hosts.
pub const RECONNECT_PAUSE: Duration = Duration::from_millis(20);
/// A write without an answer for this long is left to wait in the background. Shorter than any failover, so it adds nothing.
pub const PATIENCE: Duration = Duration::from_millis(200);
/// One host, from the connection to the prepared statement. Far more than it takes, also on a busy machine.
pub const HANDSHAKE: Duration = Duration::from_secs(1);
/// How long a host that owes an answer is left alone. It may be cut off, and come back as another run of the server.
pub const OWES: Duration = Duration::from_secs(5);
/// Patience for the table at the beginning and the comparison at the end, when a primary is known to be there.
const UNHURRIED: Duration = Duration::from_secs(10);
/// Ids of one writer; the next writer's begin there.
const IDS: i64 = 1_000_000;

/// A database as an application sees it.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where the application stands.
    pub place: Place,
    /// All hosts, `target_session_attrs=read-write`.
    pub connection_string: String,
    /// The hosts in the same order, to say which one answered.
    pub servers: Vec<SocketAddr>,
    /// In which order they are tried.
    pub order: Vec<usize>,
    /// How long a client stays with a server that answers it.
    pub session: Duration,
}

impl Target {
    /// A database whose connection string lists `servers`.
    #[must_use]
    pub fn new(place: Place, connection_string: String, servers: Vec<SocketAddr>) -> Target {
        let order = (0..servers.len()).collect();
        Target { place, connection_string, servers, order, session: Duration::MAX }
    }

    /// A database that is reached from this process's own network; who answers is told by the order of the hosts.
    ///
    /// # Errors
    /// A connection string without IP addresses.
    pub fn here(connection_string: &str) -> Result<Target> {
        let config: Config = connection_string.parse()?;
        let mut servers = Vec::new();
        for (host, port) in config.get_hosts().iter().zip(config.get_ports()) {
            let tokio_postgres::config::Host::Tcp(name) = host else {
                bail!("{host:?} is no address: name hosts by their IP addresses");
            };
            servers.push((name.parse::<IpAddr>().context("a host without an IP address")?, *port).into());
        }
        Ok(Target::new(Place::here(), connection_string.to_owned(), servers))
    }

    /// The same database from elsewhere.
    #[must_use]
    pub fn seen_from(&self, place: Place) -> Target {
        Target { place, ..self.clone() }
    }

    /// The same database, with one host tried after all the others.
    #[must_use]
    pub fn with_last(&self, server: usize) -> Target {
        let mut order = self.order.clone();
        order.retain(|other| *other != server);
        order.push(server);
        Target { order, ..self.clone() }
    }

    /// The same database for a client that begins again every second. Whoever is served stays, and never asks whether somebody nearer
    /// takes writes too.
    #[must_use]
    pub fn restless(&self) -> Target {
        Target { session: Duration::from_secs(1), ..self.clone() }
    }

    /// One host of the connection string, to be connected to if it takes writes.
    fn single(&self, server: usize) -> Result<Config> {
        let all: Config = self.connection_string.parse()?;
        let address = self.servers[server];
        let mut config = Config::new();
        config
            .host(address.ip().to_string())
            .port(address.port())
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .connect_timeout(CONNECT_TIMEOUT)
            .application_name("quorate-drill");
        if let Some(user) = all.get_user() {
            config.user(user);
        }
        if let Some(password) = all.get_password() {
            config.password(password);
        }
        if let Some(database) = all.get_dbname() {
            config.dbname(database);
        }
        Ok(config)
    }

    fn config(&self, connect_timeout: Duration) -> Result<Config> {
        let mut config: Config = self.connection_string.parse()?;
        config.connect_timeout(connect_timeout).application_name("quorate-drill");
        Ok(config)
    }
}

/// The running writer.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    ledger: Mutex<Ledger>,
}

impl Shared {
    fn with<T>(&self, see: impl FnOnce(&mut Ledger) -> T) -> T {
        see(&mut self.ledger.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Writer {
    /// Makes the table and starts to write.
    ///
    /// # Errors
    /// When no primary takes the table.
    pub async fn start(target: &Target) -> Result<Writer> {
        prepare(target).await?;
        Writer::begin(target, 0)
    }

    /// Starts to write into the table that [`prepare`] made; `number` keeps its rows apart from other writers'.
    ///
    /// # Errors
    /// A connection string that is none.
    pub fn begin(target: &Target, number: i64) -> Result<Writer> {
        let hosts = target
            .order
            .iter()
            .map(|server| Ok((*server, target.single(*server)?)))
            .collect::<Result<Vec<_>>>()?;
        let (shared, stop) = (Arc::new(Shared::default()), Arc::new(AtomicBool::new(false)));
        let probe = Probe {
            hosts,
            session: target.session,
            shared: shared.clone(),
            stop: stop.clone(),
            id: number * IDS,
            owed: Vec::new(),
        };
        let task = target.place.spawn(probe.run());
        Ok(Writer { shared, stop, task })
    }

    /// A copy of what it was told so far.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        self.shared.with(|ledger| ledger.clone())
    }

    /// Acknowledged rows so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shared.with(|ledger| ledger.acknowledged.len())
    }

    /// The last acknowledgement so far.
    #[must_use]
    pub fn last(&self) -> Option<Acknowledged> {
        self.shared.with(|ledger| ledger.last())
    }

    /// Stops after the write in flight and returns everything it was told. What still waits somewhere is unknown.
    pub async fn stop(self) -> Ledger {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.task.await;
        self.shared.with(|ledger| ledger.clone())
    }
}

/// Which run of which server: one that was started again has no memory of a write that waited in it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Server {
    index: usize,
    started: i64,
}

struct Session {
    client: Arc<Client>,
    insert: tokio_postgres::Statement,
    server: Server,
}

/// How a write ended.
enum Answer {
    Acknowledged,
    /// Surely not written.
    Refused,
    Unknown,
}

/// A write that a server owes the answer to.
struct Owed {
    id: i64,
    server: Server,
    since: Instant,
    write: JoinHandle<Answer>,
}

struct Probe {
    /// In the order in which they are tried.
    hosts: Vec<(usize, Config)>,
    session: Duration,
    shared: Arc<Shared>,
    stop: Arc<AtomicBool>,
    id: i64,
    owed: Vec<Owed>,
}

impl Probe {
    async fn run(mut self) {
        while !self.stopped() {
            match self.session().await {
                Some(session) => self.write_through(session).await,
                None => tokio::time::sleep(RECONNECT_PAUSE).await,
            }
        }
        for owed in &self.owed {
            if !owed.write.is_finished() {
                owed.write.abort();
                self.shared.with(|ledger| ledger.unknown.push(owed.id));
            }
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The first host that takes writes and owes no answer.
    async fn session(&mut self) -> Option<Session> {
        self.owed.retain(|owed| !owed.write.is_finished());
        for (index, config) in &self.hosts {
            let owes = |owed: &Owed| owed.server.index == *index && owed.since.elapsed() < OWES;
            if self.owed.iter().any(owes) {
                continue;
            }
            let session = tokio::time::timeout(HANDSHAKE, open(*index, config)).await;
            if let Ok(Ok(session)) = session
                && !self.owed.iter().any(|owed| owed.server == session.server)
            {
                return Some(session);
            }
        }
        None
    }

    /// Writes until the server fails, refuses or keeps silent, or the session has lasted long enough.
    async fn write_through(&mut self, session: Session) {
        let mut tick = tokio::time::interval(PERIOD);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let begun = Instant::now();
        while !self.stopped() && begun.elapsed() < self.session {
            tick.tick().await;
            self.id += 1;
            let mut write = tokio::spawn(write(
                session.client.clone(),
                session.insert.clone(),
                self.id,
                session.server.clone(),
                self.shared.clone(),
            ));
            match tokio::time::timeout(PATIENCE, &mut write).await {
                Ok(Ok(Answer::Acknowledged)) => {}
                Ok(Ok(Answer::Refused | Answer::Unknown) | Err(_)) => return,
                Err(_) => {
                    let (id, server) = (self.id, session.server);
                    self.owed.push(Owed { id, server, since: Instant::now(), write });
                    return;
                }
            }
        }
    }
}

/// One write; its outcome is noted here, at once, however late it is.
async fn write(
    client: Arc<Client>,
    insert: tokio_postgres::Statement,
    id: i64,
    server: Server,
    shared: Arc<Shared>,
) -> Answer {
    let sent = Instant::now();
    let outcome = client.execute(&insert, &[&id]).await;
    let at = Instant::now();
    let answer = match outcome {
        Ok(_) => Answer::Acknowledged,
        // A standby refuses before anything is written. Any other error may have come after the commit was on disk:
        // a server that shuts down ends the wait for its standbys with one.
        Err(error) if error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION) => Answer::Refused,
        Err(_) => Answer::Unknown,
    };
    let Server { index: server, started } = server;
    shared.with(|ledger| match answer {
        Answer::Acknowledged => ledger.acknowledged.push(Acknowledged { id, sent, at, server, started }),
        Answer::Refused => {}
        Answer::Unknown => ledger.unknown.push(id),
    });
    answer
}

/// A session with one server, if it takes writes.
async fn open(index: usize, config: &Config) -> Result<Session> {
    let client = connect(config).await?;
    let started = "SELECT (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint";
    let row = client.query_one(started, &[]).await?;
    let server = Server { index, started: row.get(0) };
    let insert = client.prepare("INSERT INTO ledger (id) VALUES ($1)").await?;
    Ok(Session { client: Arc::new(client), insert, server })
}

async fn connect(config: &Config) -> Result<Client> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(async move {
        // Its end shows in the next query.
        let _ = connection.await;
    });
    Ok(client)
}

/// Makes the table that the writers write into.
///
/// # Errors
/// When no primary takes it.
pub async fn prepare(target: &Target) -> Result<()> {
    let sql = "CREATE TABLE IF NOT EXISTS ledger (id bigint PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp())";
    unhurried(target, sql, "no primary to write to").await.map(|_| ())
}

/// Removes the table of another story.
///
/// # Errors
/// When no primary takes it.
pub async fn clear(target: &Target) -> Result<()> {
    unhurried(target, "DROP TABLE IF EXISTS ledger", "no primary to write to").await.map(|_| ())
}

/// Every id that the database holds.
///
/// # Errors
/// When the table cannot be read.
pub async fn present(target: &Target) -> Result<BTreeSet<i64>> {
    let rows = unhurried(target, "SELECT id FROM ledger", "no primary to read from").await?;
    Ok(rows.into_iter().filter_map(|row| row.parse().ok()).collect())
}

/// Runs one statement on the primary; the first column of its rows, as text.
///
/// # Errors
/// `what` when there is no primary within ten seconds.
pub async fn unhurried(target: &Target, sql: &str, what: &str) -> Result<Vec<String>> {
    let config = target.config(Duration::from_secs(1))?;
    let (sql, what) = (sql.to_owned(), what.to_owned());
    let task = target.place.spawn(async move {
        let until = Instant::now() + UNHURRIED;
        loop {
            let asked = async {
                let client = connect(&config).await?;
                anyhow::Ok(client.simple_query(&sql).await?)
            };
            match tokio::time::timeout(UNHURRIED, asked).await {
                Ok(Ok(messages)) => return Ok(first_column(messages)),
                Ok(Err(error)) if Instant::now() > until => return Err(error.context(what)),
                Err(_) => bail!("{what}: no answer in time"),
                Ok(Err(_)) => tokio::time::sleep(RECONNECT_PAUSE).await,
            }
        }
    });
    task.await.context("the task that asks has ended")?
}

fn first_column(messages: Vec<tokio_postgres::SimpleQueryMessage>) -> Vec<String> {
    messages
        .into_iter()
        .filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
        .collect()
}

/// Reads the table through `target` and compares.
///
/// # Errors
/// When the table cannot be read.
pub async fn verify(target: &Target, ledger: &Ledger) -> Result<Verdict> {
    Ok(ledger.compare(&present(target).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_told_apart_and_reordered() {
        let target = Target::here("postgresql://u:p@10.0.0.1:5432,10.0.0.2:5433,10.0.0.3:5432/d").unwrap();
        assert_eq!(target.servers.len(), 3);
        assert_eq!(target.servers[1], "10.0.0.2:5433".parse().unwrap());
        assert_eq!(target.with_last(0).order, [1, 2, 0]);
        let host = target.single(1).unwrap();
        assert_eq!(
            (host.get_ports(), host.get_user(), host.get_dbname()),
            (&[5433][..], Some("u"), Some("d"))
        );
        assert!(Target::here("postgresql://u@localhost/d").is_err());
    }
}
