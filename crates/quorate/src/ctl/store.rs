//! The store over gRPC: one endpoint after the other until one answers.
//!
//! A refused connection means that nothing has happened, so the next endpoint is asked. Once a request is on its way
//! only what may safely happen twice is asked again elsewhere ([`Store::ask`]); anything else may have been done
//! ([`Store::tell`]), and the operator is told so instead. With a user the store is asked for a token first; a token
//! that is no longer known is replaced once, because the request it came with has not been performed.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quorate_wire::etcdserverpb::auth_client::AuthClient;
use quorate_wire::etcdserverpb::cluster_client::ClusterClient;
use quorate_wire::etcdserverpb::kv_client::KvClient;
use quorate_wire::etcdserverpb::lease_client::LeaseClient;
use quorate_wire::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_wire::etcdserverpb::watch_client::WatchClient;
use quorate_wire::etcdserverpb::{
    AuthenticateRequest, MemberListRequest, MemberListResponse, RangeRequest, RangeResponse, StatusRequest,
    StatusResponse,
};
use tokio::time::{Instant, timeout_at};
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use super::connect::Dialer;
use super::{Failure, go, output};

/// A range of a large keyspace comes in one message.
const LARGEST_ANSWER: usize = 1 << 30;
/// Between two rounds over all endpoints while the store elects a leader.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// What is said of a change whose answer did not come.
const PERHAPS_DONE: &str = "it may have been done: look before you repeat it";
/// Members answer, but they have no quorum.
const NO_ANSWER: &str = "no answer from the store";
/// Go's words, which scripts around etcdctl look for.
const DEADLINE: &str = "context deadline exceeded";

/// A name and a password.
#[derive(Clone)]
pub struct User {
    /// As the store knows it.
    pub name: String,
    /// In clear.
    pub password: String,
}

/// Where the store can be asked, and as whom. A clone shares the connection.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    endpoints: Vec<String>,
    timeout: Duration,
    dialer: Arc<Dialer>,
    user: Option<User>,
    debug: bool,
    /// The connection that was used last.
    current: Mutex<Option<Connection>>,
    /// What the store calls this user's visit.
    token: Mutex<Option<AsciiMetadataValue>>,
}

/// Puts the token on every request.
#[derive(Clone)]
pub struct Stamp(Option<AsciiMetadataValue>);

impl Interceptor for Stamp {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("token", token.clone());
        }
        Ok(request)
    }
}

type Stamped = InterceptedService<Channel, Stamp>;

/// A connection to one endpoint, with every service behind it.
#[derive(Clone)]
pub struct Connection {
    /// Which one.
    pub endpoint: String,
    channel: Channel,
    stamp: Stamp,
}

impl Connection {
    /// Keys.
    #[must_use]
    pub fn kv(&self) -> KvClient<Stamped> {
        KvClient::with_interceptor(self.channel.clone(), self.stamp.clone())
            .max_decoding_message_size(LARGEST_ANSWER)
    }

    /// Changes of keys.
    #[must_use]
    pub fn watch(&self) -> WatchClient<Stamped> {
        WatchClient::with_interceptor(self.channel.clone(), self.stamp.clone())
            .max_decoding_message_size(LARGEST_ANSWER)
    }

    /// Leases.
    #[must_use]
    pub fn lease(&self) -> LeaseClient<Stamped> {
        LeaseClient::with_interceptor(self.channel.clone(), self.stamp.clone())
            .max_decoding_message_size(LARGEST_ANSWER)
    }

    /// Members.
    #[must_use]
    pub fn cluster(&self) -> ClusterClient<Stamped> {
        ClusterClient::with_interceptor(self.channel.clone(), self.stamp.clone())
    }

    /// Status, alarms, snapshots.
    #[must_use]
    pub fn maintenance(&self) -> MaintenanceClient<Stamped> {
        MaintenanceClient::with_interceptor(self.channel.clone(), self.stamp.clone())
    }

    /// Users and roles.
    #[must_use]
    pub fn auth(&self) -> AuthClient<Stamped> {
        AuthClient::with_interceptor(self.channel.clone(), self.stamp.clone())
    }
}

/// Why one endpoint gave no answer.
enum Trouble {
    /// Nothing has been asked.
    Unreachable(String),
    /// The time is over.
    Late,
    /// The store's or the connection's own words.
    Said(Status),
}

impl Store {
    /// Endpoints are asked in this order; `timeout` is `--command-timeout`.
    #[must_use]
    pub fn new(
        endpoints: Vec<String>,
        timeout: Duration,
        dialer: Arc<Dialer>,
        user: Option<User>,
        debug: bool,
    ) -> Store {
        let (current, token) = (Mutex::new(None), Mutex::new(None));
        Store { shared: Arc::new(Shared { endpoints, timeout, dialer, user, debug, current, token }) }
    }

    /// The same store over a connection of its own.
    #[must_use]
    pub fn another(&self) -> Store {
        self.with_timeout(self.shared.timeout)
    }

    /// The same store over a connection of its own, with another patience.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Store {
        let shared = &self.shared;
        Store::new(
            shared.endpoints.clone(),
            timeout,
            Arc::clone(&shared.dialer),
            shared.user.clone(),
            shared.debug,
        )
    }

    /// As given.
    #[must_use]
    pub fn endpoints(&self) -> &[String] {
        &self.shared.endpoints
    }

    /// `--command-timeout`.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.shared.timeout
    }

    /// Whether a token can be asked for again.
    #[must_use]
    pub fn has_user(&self) -> bool {
        self.shared.user.is_some()
    }

    /// How connections are made.
    #[must_use]
    pub fn dialer(&self) -> &Dialer {
        &self.shared.dialer
    }

    /// Asks what may safely be asked twice, at one endpoint after the other while the time lasts.
    ///
    /// # Errors
    /// The store's refusal, or that nobody answered.
    pub async fn ask<T>(
        &self,
        rpc: impl AsyncFn(Connection) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        let deadline = Instant::now() + self.shared.timeout;
        let mut reasons = Vec::new();
        loop {
            reasons.clear();
            let mut transient = false;
            for endpoint in self.order() {
                match self.exchange(&endpoint, deadline, &rpc).await {
                    Ok(answer) => return Ok(answer),
                    Err(Trouble::Unreachable(reason)) => reasons.push(reason),
                    Err(Trouble::Said(status)) if status.code() == Code::Unavailable || is_lost(&status) => {
                        transient |= status.code() == Code::Unavailable;
                        reasons.push(format!("{endpoint}: {}", sentence(&status)));
                    }
                    Err(Trouble::Said(status)) => return Err(Failure::new(sentence(&status))),
                    Err(Trouble::Late) => return Err(self.late(&endpoint)),
                }
            }
            // Nobody listens anywhere: no waiting will be rewarded. An election, however, passes.
            if !transient {
                return Err(nobody(&reasons));
            }
            if Instant::now() + RETRY_PAUSE >= deadline {
                return Err(Failure::new(format!("{NO_ANSWER} ({})", reasons.join("; "))));
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// Asks for a change, once, at the first endpoint that lets itself be connected to.
    ///
    /// # Errors
    /// The store's refusal, or that the outcome is unknown.
    pub async fn tell<T>(
        &self,
        rpc: impl AsyncFn(Connection) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        let mut reasons = Vec::new();
        for endpoint in self.order() {
            let deadline = Instant::now() + self.shared.timeout;
            match self.exchange(&endpoint, deadline, &rpc).await {
                Ok(answer) => return Ok(answer),
                Err(Trouble::Unreachable(reason)) => reasons.push(reason),
                Err(Trouble::Said(status)) => {
                    let mut message = sentence(&status);
                    if is_lost(&status) {
                        message = format!("{endpoint}: {message}; {PERHAPS_DONE}");
                    }
                    return Err(Failure::new(message));
                }
                Err(Trouble::Late) => {
                    let late = self.late(&endpoint).message;
                    return Err(Failure::new(format!("{late}; {PERHAPS_DONE}")));
                }
            }
        }
        Err(nobody(&reasons))
    }

    /// Asks one endpoint, for itself.
    ///
    /// # Errors
    /// The sentence for the operator.
    pub async fn at<T>(
        &self,
        endpoint: &str,
        rpc: impl AsyncFn(Connection) -> Result<Response<T>, Status>,
    ) -> Result<T, String> {
        let deadline = Instant::now() + self.shared.timeout;
        match self.exchange(endpoint, deadline, &rpc).await {
            Ok(answer) => Ok(answer),
            Err(Trouble::Unreachable(reason)) => Err(reason),
            Err(Trouble::Said(status)) => Err(sentence(&status)),
            Err(Trouble::Late) => Err(DEADLINE.to_owned()),
        }
    }

    /// A connection to the first endpoint that lets itself be connected to, for streams.
    ///
    /// # Errors
    /// None does, or the store does not know the user.
    pub async fn any(&self) -> Result<Connection, Failure> {
        let deadline = Instant::now() + self.shared.timeout;
        let mut reasons = Vec::new();
        for endpoint in self.order() {
            match self.open(&endpoint, deadline).await {
                Ok(connection) => return Ok(connection),
                Err(Trouble::Unreachable(reason)) => reasons.push(reason),
                Err(Trouble::Said(status)) => reasons.push(format!("{endpoint}: {}", sentence(&status))),
                Err(Trouble::Late) => return Err(self.late(&endpoint)),
            }
        }
        Err(nobody(&reasons))
    }

    /// Whether the connection that was used last must not be used again: it is forgotten, and so is the token.
    pub fn forget(&self) {
        *self.shared.current.lock() = None;
        *self.shared.token.lock() = None;
    }

    /// Reads keys.
    ///
    /// # Errors
    /// The store's refusal, or that nobody answered.
    pub async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Failure> {
        self.ask(async |at| at.kv().range(request.clone()).await).await
    }

    /// The membership. Without a quorum it is what one member remembers, and that is said.
    ///
    /// # Errors
    /// The store's refusal, or that nobody answered.
    pub async fn members(&self) -> Result<MemberListResponse, Failure> {
        let list = async |linearizable| {
            self.ask(async |at| at.cluster().member_list(MemberListRequest { linearizable }).await).await
        };
        match list(true).await {
            Ok(members) => Ok(members),
            Err(failure)
                if failure.message.starts_with(NO_ANSWER) || failure.message.starts_with(DEADLINE) =>
            {
                let members = list(false).await.map_err(|_| failure)?;
                output::complain(
                    "the store has no quorum: this is the membership as one member remembers it",
                );
                Ok(members)
            }
            Err(failure) => Err(failure),
        }
    }

    /// What one endpoint says of itself.
    ///
    /// # Errors
    /// The sentence for the operator.
    pub async fn status(&self, endpoint: &str) -> Result<StatusResponse, String> {
        self.at(endpoint, async |at| at.maintenance().status(StatusRequest {}).await).await
    }

    /// The endpoint that was used last comes first.
    fn order(&self) -> Vec<String> {
        let mut endpoints = self.shared.endpoints.clone();
        if let Some(current) = &*self.shared.current.lock() {
            endpoints.sort_by_key(|endpoint| *endpoint != current.endpoint);
        }
        endpoints
    }

    async fn exchange<T>(
        &self,
        endpoint: &str,
        deadline: Instant,
        rpc: &impl AsyncFn(Connection) -> Result<Response<T>, Status>,
    ) -> Result<T, Trouble> {
        let begun = Instant::now();
        let connection = self.open(endpoint, deadline).await?;
        let mut answer = timeout_at(deadline, rpc(connection)).await;
        if let Ok(Err(status)) = &answer
            && self.shared.user.is_some()
            && is_stale(status)
        {
            self.forget();
            let connection = self.open(endpoint, deadline).await?;
            answer = timeout_at(deadline, rpc(connection)).await;
        }
        if self.shared.debug {
            let how = match &answer {
                Ok(Ok(_)) => "answered".to_owned(),
                Ok(Err(status)) => format!("{:?}: {}", status.code(), status.message()),
                Err(_) => DEADLINE.to_owned(),
            };
            output::complain(&format!("{endpoint} after {}: {how}", go::duration(begun.elapsed())));
        }
        match answer {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => {
                if is_lost(&status) {
                    *self.shared.current.lock() = None;
                }
                Err(Trouble::Said(status))
            }
            Err(_) => {
                *self.shared.current.lock() = None;
                Err(Trouble::Late)
            }
        }
    }

    async fn open(&self, endpoint: &str, deadline: Instant) -> Result<Connection, Trouble> {
        let kept = self.shared.current.lock().clone();
        if let Some(kept) = kept.filter(|kept| kept.endpoint == endpoint) {
            return Ok(kept);
        }
        let channel = match timeout_at(deadline, self.shared.dialer.channel(endpoint)).await {
            Ok(dialed) => dialed.map_err(Trouble::Unreachable)?,
            Err(_) => return Err(Trouble::Late),
        };
        let token = match timeout_at(deadline, self.token(&channel)).await {
            Ok(asked) => asked.map_err(Trouble::Said)?,
            Err(_) => return Err(Trouble::Late),
        };
        let connection = Connection { endpoint: endpoint.to_owned(), channel, stamp: Stamp(token) };
        *self.shared.current.lock() = Some(connection.clone());
        Ok(connection)
    }

    async fn token(&self, channel: &Channel) -> Result<Option<AsciiMetadataValue>, Status> {
        let Some(user) = &self.shared.user else { return Ok(None) };
        let known = self.shared.token.lock().clone();
        if known.is_some() {
            return Ok(known);
        }
        let request = AuthenticateRequest { name: user.name.clone(), password: user.password.clone() };
        let answer = match AuthClient::new(channel.clone()).authenticate(request).await {
            Ok(answer) => answer.into_inner(),
            // Whoever names a user where nobody is asked for one is let in, as by etcdctl.
            Err(status) if status.message() == "etcdserver: authentication is not enabled" => {
                return Ok(None);
            }
            Err(status) => return Err(status),
        };
        let token = AsciiMetadataValue::try_from(answer.token)
            .map_err(|_| Status::internal("the store's token cannot be sent back"))?;
        *self.shared.token.lock() = Some(token.clone());
        Ok(Some(token))
    }

    fn late(&self, endpoint: &str) -> Failure {
        Failure::new(format!(
            "{DEADLINE} ({endpoint} gave no answer within {}; see `quoratectl endpoint health --cluster`)",
            go::duration(self.shared.timeout)
        ))
    }
}

/// Nothing has been asked.
fn nobody(reasons: &[String]) -> Failure {
    Failure::new(format!(
        "no endpoint of the store can be reached ({}); is it running, and are --endpoints, https:// and the \
         certificates right?",
        reasons.join("; ")
    ))
}

/// The connection broke: these are not the store's words.
#[must_use]
pub fn is_lost(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
        || status.code() == Code::Unavailable && !status.message().starts_with("etcdserver: ")
}

/// The store does not know this visit any more; nothing was done.
fn is_stale(status: &Status) -> bool {
    matches!(
        status.message(),
        "etcdserver: invalid auth token"
            | "etcdserver: revision of auth store is old"
            | "etcdserver: user name is empty"
    )
}

/// The store's own text, which is the part of an error that clients rely on; for anything else, Go's.
#[must_use]
pub fn sentence(status: &Status) -> String {
    let message = status.message();
    if message.starts_with("etcdserver: ") {
        return message.to_owned();
    }
    match status.code() {
        Code::DeadlineExceeded | Code::Cancelled if message.is_empty() => DEADLINE.to_owned(),
        Code::Cancelled => format!("rpc error: code = Canceled desc = {message}"),
        code => {
            let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(status);
            let mut last = None;
            while let Some(error) = cause {
                last = Some(error.to_string());
                cause = error.source();
            }
            match last {
                // Of the connection: its innermost reason says most.
                Some(reason) if reason != message => {
                    format!("rpc error: code = {code:?} desc = {message}: {reason}")
                }
                Some(_) | None => format!("rpc error: code = {code:?} desc = {message}"),
            }
        }
    }
}

/// The end of the range of all keys that begin with `prefix`; `\0` (everything behind) when there is none.
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// The range of all keys that begin with `prefix`; of all keys when it is empty.
#[must_use]
pub fn prefix_range(prefix: &[u8]) -> (Vec<u8>, Vec<u8>) {
    if prefix.is_empty() { (vec![0], vec![0]) } else { (prefix.to_vec(), prefix_end(prefix)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix() {
        assert_eq!(prefix_end(b"a\xff\xff"), b"b");
        assert_eq!(prefix_end(b"\xff"), b"\0");
        assert_eq!(prefix_range(b""), (vec![0], vec![0]));
        assert_eq!(prefix_range(b"ab"), (b"ab".to_vec(), b"ac".to_vec()));
    }

    #[test]
    fn the_stores_words_come_first() {
        let refusal = Status::not_found("etcdserver: requested lease not found");
        assert_eq!(sentence(&refusal), "etcdserver: requested lease not found");
        assert!(!is_lost(&Status::unavailable("etcdserver: no leader")));
        assert!(!is_lost(&Status::unknown("said by the store")));
        assert!(is_lost(&Status::unavailable("connection reset")));
        assert!(is_lost(&Status::from_error("broken pipe".into())));
        let unserved = Status::unimplemented("unknown method");
        assert_eq!(sentence(&unserved), "rpc error: code = Unimplemented desc = unknown method");
    }
}
