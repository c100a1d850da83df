//! SQL for the agent's own use: one kept connection for probes, fresh ones where a fact must be the postmaster's.
//!
//! The local socket comes first; where `pg_hba.conf` lets nobody in that way (Patroni's usual files have only `host` lines)
//! the connect address is used, and remembered. Everything is a simple query under a deadline. A deadline that passes drops
//! the connection: a late answer must never be taken for the next one's.

use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::config::{Credentials, InstanceConfig};
use crate::error::QueryError;

/// One result set: rows of nullable texts.
pub(crate) type Rows = Vec<Vec<Option<String>>>;

/// A connection, and what keeps it.
pub(crate) struct Session {
    client: Client,
}

/// Set for every session of the agent: it must depend on nobody's defaults, and its own commits must never wait for a
/// standby.
const OPTIONS: &str = "-c search_path=pg_catalog -c synchronous_commit=local -c statement_timeout=0 -c lock_timeout=0 \
                       -c log_min_duration_statement=-1 -c DateStyle=ISO";

impl Session {
    /// Connects to the local instance as its superuser.
    pub(crate) async fn local(config: &InstanceConfig, deadline: Duration) -> Result<Session, QueryError> {
        let mut over_socket = Session::base(&config.superuser, config.port);
        over_socket.host_path(&config.unix_socket_dir);
        let place = format!("{}/.s.PGSQL.{}", config.unix_socket_dir.display(), config.port);
        let connecting = async {
            match Session::connect(&over_socket, place).await {
                Err(QueryError::Connect { source, place }) if try_elsewhere(&source) => {
                    let mut over_tcp = Session::base(&config.superuser, config.port);
                    over_tcp.host(&config.connect_address.host);
                    let address = format!("{}:{}", config.connect_address.host, config.port);
                    match Session::connect(&over_tcp, address).await {
                        Ok(session) => Ok(session),
                        // Nothing listens there either: the first complaint is the better one.
                        Err(QueryError::Connect { source: second, .. }) if second.as_db_error().is_none() => {
                            Err(QueryError::Connect { place, source })
                        }
                        Err(error) => Err(error),
                    }
                }
                result => result,
            }
        };
        tokio::time::timeout(deadline, connecting)
            .await
            .unwrap_or(Err(QueryError::Overrun { what: "connect", deadline }))
    }

    fn base(user: &Credentials, port: u16) -> tokio_postgres::Config {
        let mut base = tokio_postgres::Config::new();
        base.user(&user.username).dbname("postgres").port(port).application_name("quorate").options(OPTIONS);
        if let Some(password) = &user.password {
            base.password(password);
        }
        base
    }

    async fn connect(config: &tokio_postgres::Config, place: String) -> Result<Session, QueryError> {
        let (client, connection) =
            config.connect(NoTls).await.map_err(|source| QueryError::Connect { place, source })?;
        // Ends when the client is dropped or the server goes away; an error then shows in the next query.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Session { client })
    }

    /// Runs statements in one round trip: one result set each.
    pub(crate) async fn query(
        &self,
        what: &'static str,
        sql: &str,
        deadline: Duration,
    ) -> Result<Vec<Rows>, QueryError> {
        let messages = tokio::time::timeout(deadline, self.client.simple_query(sql))
            .await
            .map_err(|_| QueryError::Overrun { what, deadline })?
            .map_err(|source| QueryError::Refused { what, source })?;
        let mut results = Vec::new();
        let mut rows = Rows::new();
        for message in messages {
            match message {
                SimpleQueryMessage::Row(row) => {
                    rows.push((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect());
                }
                SimpleQueryMessage::CommandComplete(_) => results.push(std::mem::take(&mut rows)),
                _ => {}
            }
        }
        Ok(results)
    }

    /// The one value of a statement with one row and one column.
    pub(crate) async fn value(
        &self,
        what: &'static str,
        sql: &str,
        deadline: Duration,
    ) -> Result<Option<String>, QueryError> {
        let results = self.query(what, sql, deadline).await?;
        let row = results.into_iter().next_back().and_then(|rows| rows.into_iter().next());
        Ok(row.and_then(|row| row.into_iter().next()).flatten())
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }
}

/// No such socket, or its rules do not let us in: another way may work. (A server that is starting says so on every way.)
fn try_elsewhere(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        None => true,
        Some(code) => {
            *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION || *code == SqlState::INVALID_PASSWORD
        }
    }
}

/// `'text'` for SQL.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// `"name"` for SQL.
pub(crate) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
