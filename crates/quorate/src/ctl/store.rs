//! The store over gRPC: one endpoint after the other until one answers.
//!
//! A refused connection means that nothing has happened, so the next endpoint is asked. Once a request is on its way
//! only a read is asked again elsewhere; a write may have been done, and the operator is told instead.

use std::time::Duration;

use quorate_wire::etcdserverpb::cluster_client::ClusterClient;
use quorate_wire::etcdserverpb::kv_client::KvClient;
use quorate_wire::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_wire::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, MemberListRequest, MemberListResponse, MoveLeaderRequest,
    PutRequest, PutResponse, RangeRequest, RangeResponse, StatusRequest, StatusResponse,
};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::Failure;

/// As etcdctl's `--dial-timeout`: a machine that is gone answers nothing, not even a refusal.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// A range of a large keyspace comes in one message.
const LARGEST_ANSWER: usize = 1 << 30;

/// Where the store can be asked.
pub struct Store {
    endpoints: Vec<String>,
    timeout: Duration,
}

impl Store {
    /// `host:port` or URLs, asked in this order.
    #[must_use]
    pub fn new(endpoints: Vec<String>, timeout: Duration) -> Store {
        Store { endpoints, timeout }
    }

    /// As given.
    #[must_use]
    pub fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// `--command-timeout`.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// A connection to one endpoint.
    ///
    /// # Errors
    /// The sentence for the operator; nothing has been asked yet.
    pub async fn connect(&self, endpoint: &str) -> Result<Channel, String> {
        let url = if endpoint.contains("://") {
            endpoint.to_owned()
        } else {
            format!("http://{}", endpoint.trim())
        };
        let target = Endpoint::from_shared(url)
            .map_err(|_| format!("{endpoint} is not an address"))?
            .connect_timeout(DIAL_TIMEOUT.min(self.timeout));
        target.connect().await.map_err(|error| {
            let mut cause: &dyn std::error::Error = &error;
            while let Some(source) = cause.source() {
                cause = source;
            }
            format!("{endpoint}: {cause}")
        })
    }

    /// The first endpoint that lets itself be connected to.
    ///
    /// # Errors
    /// None does.
    pub async fn any(&self) -> Result<(Channel, String), Failure> {
        let mut reasons = Vec::new();
        for endpoint in &self.endpoints {
            match self.connect(endpoint).await {
                Ok(channel) => return Ok((channel, endpoint.clone())),
                Err(reason) => reasons.push(reason),
            }
        }
        Err(Failure::new(format!("no endpoint of the store can be reached ({})", reasons.join("; "))))
    }

    /// Reads keys; asked again elsewhere while the time lasts.
    ///
    /// # Errors
    /// The store's refusal, or that nobody answered.
    pub async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Failure> {
        self.read(|channel| {
            let request = request.clone();
            async move {
                let mut client = KvClient::new(channel).max_decoding_message_size(LARGEST_ANSWER);
                client.range(request).await.map(tonic::Response::into_inner)
            }
        })
        .await
    }

    /// The membership.
    ///
    /// # Errors
    /// The store's refusal, or that nobody answered.
    pub async fn members(&self) -> Result<MemberListResponse, Failure> {
        self.read(|channel| async move {
            let request = MemberListRequest { linearizable: true };
            ClusterClient::new(channel).member_list(request).await.map(tonic::Response::into_inner)
        })
        .await
    }

    /// Writes a key, once.
    ///
    /// # Errors
    /// The store's refusal, or that the outcome is unknown.
    pub async fn put(&self, request: PutRequest) -> Result<PutResponse, Failure> {
        let (channel, _) = self.any().await?;
        self.within(async { KvClient::new(channel).put(request).await }).await
    }

    /// Deletes keys, once.
    ///
    /// # Errors
    /// The store's refusal, or that the outcome is unknown.
    pub async fn delete(&self, request: DeleteRangeRequest) -> Result<DeleteRangeResponse, Failure> {
        let (channel, _) = self.any().await?;
        self.within(async { KvClient::new(channel).delete_range(request).await }).await
    }

    /// What one endpoint says of itself.
    ///
    /// # Errors
    /// The sentence for the operator.
    pub async fn status(&self, endpoint: &str) -> Result<StatusResponse, String> {
        let ask = async {
            let channel = self.connect(endpoint).await?;
            let answer = MaintenanceClient::new(channel).status(StatusRequest {}).await;
            answer.map(tonic::Response::into_inner).map_err(|status| sentence(&status))
        };
        tokio::time::timeout(self.timeout, ask).await.unwrap_or_else(|_| Err(DEADLINE.to_owned()))
    }

    /// A linearizable read through one endpoint: a quorum stands behind it.
    ///
    /// # Errors
    /// The sentence for the operator.
    pub async fn probe(&self, endpoint: &str) -> Result<(), String> {
        let ask = async {
            let channel = self.connect(endpoint).await?;
            let request = RangeRequest { key: "health".into(), ..RangeRequest::default() };
            match KvClient::new(channel).range(request).await {
                Ok(_) => Ok(()),
                // Who may not read has been answered by a quorum all the same.
                Err(status) if status.code() == Code::PermissionDenied => Ok(()),
                Err(status) => Err(sentence(&status)),
            }
        };
        tokio::time::timeout(self.timeout, ask).await.unwrap_or_else(|_| Err(DEADLINE.to_owned()))
    }

    /// Asks the leader, at `endpoint`, to hand over.
    ///
    /// # Errors
    /// The store's refusal, or that the outcome is unknown.
    pub async fn move_leader(&self, endpoint: &str, target: u64) -> Result<(), Failure> {
        let channel = self.connect(endpoint).await.map_err(Failure::new)?;
        let request = MoveLeaderRequest { target_id: target };
        self.within(async { MaintenanceClient::new(channel).move_leader(request).await }).await.map(|_| ())
    }

    async fn within<T>(
        &self,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, Failure> {
        match tokio::time::timeout(self.timeout, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(Failure::new(sentence(&status))),
            Err(_) => Err(Failure::new(DEADLINE)),
        }
    }

    /// Goes round the endpoints until one answers or the time is over. A refusal is an answer.
    async fn read<T, F>(&self, mut call: impl FnMut(Channel) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let deadline = Instant::now() + self.timeout;
        let mut refused = Vec::new();
        loop {
            refused.clear();
            let mut transient = false;
            for endpoint in &self.endpoints {
                let channel = match tokio::time::timeout_at(deadline, self.connect(endpoint)).await {
                    Ok(Ok(channel)) => channel,
                    Ok(Err(reason)) => {
                        refused.push(reason);
                        continue;
                    }
                    Err(_) => return Err(Failure::new(DEADLINE)),
                };
                match tokio::time::timeout_at(deadline, call(channel)).await {
                    Ok(Ok(answer)) => return Ok(answer),
                    Ok(Err(status)) if status.code() == Code::Unavailable => {
                        transient = true;
                        refused.push(format!("{endpoint}: {}", sentence(&status)));
                    }
                    Ok(Err(status)) => return Err(Failure::new(sentence(&status))),
                    Err(_) => return Err(Failure::new(DEADLINE)),
                }
            }
            // Nobody listens anywhere: no waiting will be rewarded. An election, however, passes.
            if !transient || Instant::now() + RETRY_PAUSE >= deadline {
                return Err(Failure::new(format!("no answer from the store ({})", refused.join("; "))));
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }
}

/// Between two rounds over all endpoints while the store elects a leader.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Go's words, which scripts around etcdctl look for.
const DEADLINE: &str = "context deadline exceeded";

/// The store's own text, which is the part of an error that clients rely on.
fn sentence(status: &Status) -> String {
    match status.code() {
        Code::DeadlineExceeded | Code::Cancelled if status.message().is_empty() => DEADLINE.to_owned(),
        _ if status.message().is_empty() => status.code().to_string(),
        _ => status.message().to_owned(),
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

/// Which keys a verb is about: etcdctl's arguments and flags.
///
/// # Errors
/// They contradict one another.
pub fn key_range(
    verb: &str,
    arguments: &[String],
    prefix: bool,
    from_key: bool,
) -> Result<(Vec<u8>, Vec<u8>), Failure> {
    if prefix && from_key {
        return Err(Failure::bad_arguments(
            "`--prefix` and `--from-key` cannot be set at the same time, choose one",
        ));
    }
    let (key, end) = match arguments {
        [key] => (key, None),
        [key, end] => (key, Some(end)),
        _ => {
            return Err(Failure::bad_arguments(format!(
                "{verb} command needs one argument as key and an optional argument as range_end"
            )));
        }
    };
    if let Some(end) = end {
        if prefix || from_key {
            return Err(Failure::bad_arguments(
                "too many arguments, only accept one argument when `--prefix` or `--from-key` is set",
            ));
        }
        return Ok((key.clone().into_bytes(), end.clone().into_bytes()));
    }
    let key = key.clone().into_bytes();
    Ok(if prefix {
        if key.is_empty() { (vec![0], vec![0]) } else { (key.clone(), prefix_end(&key)) }
    } else if from_key {
        (if key.is_empty() { vec![0] } else { key }, vec![0])
    } else {
        (key, Vec::new())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_as_etcdctl_builds_them() {
        let range = |arguments: &[&str], prefix, from_key| {
            let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
            key_range("get", &arguments, prefix, from_key).map_err(|failure| failure.code)
        };
        assert_eq!(range(&["a"], false, false), Ok((b"a".to_vec(), vec![])));
        assert_eq!(range(&["a"], true, false), Ok((b"a".to_vec(), b"b".to_vec())));
        assert_eq!(range(&[""], true, false), Ok((vec![0], vec![0])));
        assert_eq!(range(&["a"], false, true), Ok((b"a".to_vec(), vec![0])));
        assert_eq!(range(&["a", "c"], false, false), Ok((b"a".to_vec(), b"c".to_vec())));
        assert_eq!(range(&["a", "c"], true, false), Err(128));
        assert_eq!(range(&[], false, false), Err(128));
        assert_eq!(prefix_end(b"a\xff\xff"), b"b");
        assert_eq!(prefix_end(b"\xff"), b"\0");
    }
}
