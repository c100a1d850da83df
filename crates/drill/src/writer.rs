//! A client that writes one row every 20 ms and remembers what it was told.
//!
//! Every row has its own id, used once: a row whose answer never came is never written again, so that *acknowledged*,
//! *unknown* and *present* are sets that can be compared. The connection is made from the multi-host connection string
//! that an application would use; a write that has no answer within the deadline counts as unknown and costs its
//! connection.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, NoTls};

/// Between two writes.
pub const PERIOD: Duration = Duration::from_millis(20);
/// A write without an answer for this long is unknown.
const WRITE_DEADLINE: Duration = Duration::from_secs(2);
/// One round over all hosts of the connection string.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// Between two failed attempts to connect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);

/// An acknowledged row.
#[derive(Debug, Clone, Copy)]
pub struct Acknowledged {
    /// The row.
    pub id: i64,
    /// When the answer came.
    pub at: Instant,
    /// The port of the server that answered.
    pub port: u16,
}

/// What the writer was told.
#[derive(Debug, Default, Clone)]
pub struct Ledger {
    /// In order of the answers.
    pub acknowledged: Vec<Acknowledged>,
    /// Sent, but no answer came.
    pub unknown: Vec<i64>,
}

impl Ledger {
    /// The longest pause between two acknowledgements that ends after `since`, and when it ended.
    #[must_use]
    pub fn gap_after(&self, since: Instant) -> Option<(Duration, Acknowledged)> {
        self.acknowledged
            .windows(2)
            .filter(|pair| pair[1].at >= since)
            .map(|pair| (pair[1].at - pair[0].at, pair[1]))
            .max_by_key(|(gap, _)| *gap)
    }

    /// The last acknowledgement, if there is one.
    #[must_use]
    pub fn last(&self) -> Option<Acknowledged> {
        self.acknowledged.last().copied()
    }
}

/// The running writer.
#[derive(Debug)]
pub struct Writer {
    ledger: Arc<Mutex<Ledger>>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Writer {
    /// Makes the table and starts to write.
    ///
    /// # Errors
    /// When no primary takes the table.
    pub async fn start(connection_string: &str) -> Result<Writer> {
        let mut config: Config = connection_string.parse()?;
        config.connect_timeout(Duration::from_secs(1)).application_name("quorate-drill");
        let (client, _) = connect(&config).await.context("no primary to write to")?;
        client
            .batch_execute("CREATE TABLE IF NOT EXISTS ledger (id bigint PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp())")
            .await?;
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(write(config, ledger.clone(), stop.clone()));
        Ok(Writer { ledger, stop, task })
    }

    /// A copy of what it was told so far.
    ///
    /// # Panics
    /// Never: nothing panics while it holds the lock.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        self.ledger.lock().expect("no panic inside").clone()
    }

    /// Acknowledged rows so far.
    ///
    /// # Panics
    /// Never: nothing panics while it holds the lock.
    #[must_use]
    pub fn count(&self) -> usize {
        self.ledger.lock().expect("no panic inside").acknowledged.len()
    }

    /// The last acknowledgement so far.
    ///
    /// # Panics
    /// Never: nothing panics while it holds the lock.
    #[must_use]
    pub fn last(&self) -> Option<Acknowledged> {
        self.ledger.lock().expect("no panic inside").last()
    }

    /// Stops after the write in flight and returns everything it was told.
    pub async fn stop(self) -> Ledger {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.task.await;
        self.ledger.lock().expect("no panic inside").clone()
    }
}

async fn write(config: Config, ledger: Arc<Mutex<Ledger>>, stop: Arc<AtomicBool>) {
    let mut id: i64 = 0;
    'connection: while !stop.load(Ordering::Relaxed) {
        let Ok((client, port)) = connect(&config).await else {
            tokio::time::sleep(RECONNECT_PAUSE).await;
            continue;
        };
        let Ok(insert) = client.prepare("INSERT INTO ledger (id) VALUES ($1)").await else { continue };
        let mut tick = tokio::time::interval(PERIOD);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !stop.load(Ordering::Relaxed) {
            tick.tick().await;
            id += 1;
            let answer = tokio::time::timeout(WRITE_DEADLINE, client.execute(&insert, &[&id])).await;
            let mut ledger = ledger.lock().expect("no panic inside");
            match answer {
                Ok(Ok(_)) => ledger.acknowledged.push(Acknowledged { id, at: Instant::now(), port }),
                // The server refused: the row is not there, and the connection may be to a standby by now.
                Ok(Err(error)) if error.as_db_error().is_some() => continue 'connection,
                Ok(Err(_)) | Err(_) => {
                    ledger.unknown.push(id);
                    continue 'connection;
                }
            }
        }
    }
}

/// The first host of the connection string that takes writes, and its port.
async fn connect(config: &Config) -> Result<(Client, u16)> {
    let connecting = async {
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(async move {
            // Its end shows in the next query.
            let _ = connection.await;
        });
        let row = client.query_one("SELECT current_setting('port')::int", &[]).await?;
        let port: i32 = row.get(0);
        anyhow::Ok((client, u16::try_from(port)?))
    };
    tokio::time::timeout(CONNECT_DEADLINE, connecting).await.context("no answer from any host in time")?
}

/// What the database holds at the end, against what the writer was told.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Verdict {
    /// Rows whose acknowledgement reached the writer.
    pub acknowledged: usize,
    /// Acknowledged and not there.
    pub lost: Vec<i64>,
    /// No answer, and there.
    pub unknown_present: usize,
    /// No answer, and not there.
    pub unknown_absent: usize,
    /// There, although the server had refused or nobody sent it.
    pub unexplained: Vec<i64>,
}

/// Reads the table through `connection_string` and compares.
///
/// # Errors
/// When the table cannot be read.
pub async fn verify(connection_string: &str, ledger: &Ledger) -> Result<Verdict> {
    let mut config: Config = connection_string.parse()?;
    config.connect_timeout(Duration::from_secs(2));
    let (client, _) = connect(&config).await.context("no primary to read from")?;
    let present: BTreeSet<i64> =
        client.query("SELECT id FROM ledger", &[]).await?.iter().map(|row| row.get(0)).collect();
    let acknowledged: BTreeSet<i64> = ledger.acknowledged.iter().map(|row| row.id).collect();
    let unknown: BTreeSet<i64> = ledger.unknown.iter().copied().collect();
    Ok(Verdict {
        acknowledged: acknowledged.len(),
        lost: acknowledged.difference(&present).copied().collect(),
        unknown_present: unknown.intersection(&present).count(),
        unknown_absent: unknown.difference(&present).count(),
        unexplained: present
            .iter()
            .copied()
            .filter(|id| !acknowledged.contains(id) && !unknown.contains(id))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_is_the_longest_pause_that_ends_after_the_fault() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let acknowledged = [0, 20, 900, 920, 1500, 1520]
            .into_iter()
            .zip(1..)
            .map(|(ms, id)| Acknowledged { id, at: at(ms), port: 1 })
            .collect();
        let ledger = Ledger { acknowledged, unknown: vec![] };
        let (gap, first) = ledger.gap_after(at(930)).unwrap();
        assert_eq!((gap, first.id), (Duration::from_millis(580), 5));
        assert!(ledger.gap_after(at(2000)).is_none());
    }
}
