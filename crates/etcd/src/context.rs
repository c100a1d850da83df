//! What every service needs: the handle, the options, whether the server is stopping, whether a quorum answers.
//!
//! # Clients that ask for a leader
//!
//! A client that sends `hasleader: true` would rather go elsewhere than stay with a member that is cut off. What this
//! member believes about the leader is no answer to that: a follower whose leader died believes in it until another is
//! elected, which needs the very quorum that may be gone, and a leader without followers believes in itself. So a read
//! index is asked for, by one task for all streams that care, and only while there are any. A stream ends when none
//! came for three election timeouts: a short election is no reason to move every client.
//!
//! Source: etcd, `server/etcdserver/api/v3rpc/interceptor.go` (`monitorLeader`).

use std::sync::Arc;
use std::time::Duration;

use quorate_node::{Credential, Handle};
use tokio::sync::{Notify, watch};
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

use crate::server::ServerOptions;
use crate::status;

/// Between two tries for a read index while an election may be under way.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// One per server, shared by its services.
pub(crate) struct Context {
    /// Acts for a client that showed nothing: what a service asks without saying for whom is refused while
    /// authentication is on. See [`Context::caller`].
    pub(crate) handle: Handle,
    /// The server's own: for what it asks for itself.
    pub(crate) own: Handle,
    pub(crate) options: ServerOptions,
    stopping: watch::Receiver<bool>,
    /// False once no quorum has answered for a while. Its receivers are the streams that want to know.
    led: watch::Sender<bool>,
    led_wanted: Notify,
}

impl Context {
    pub(crate) fn new(
        handle: Handle,
        options: ServerOptions,
        stopping: watch::Receiver<bool>,
    ) -> Arc<Context> {
        let context = Arc::new(Context {
            handle: handle.as_client(Credential::None),
            own: handle,
            options,
            stopping,
            led: watch::Sender::new(true),
            led_wanted: Notify::new(),
        });
        tokio::spawn(confirm_leader(context.clone()));
        context
    }

    /// A handle that acts for who calls, as noted by [`crate::access::Gate`].
    pub(crate) fn caller<T>(&self, request: &Request<T>) -> Handle {
        let credential = request.extensions().get::<Credential>().cloned().unwrap_or_default();
        self.handle.as_client(credential)
    }

    /// Entry check of every call. Unary calls are checked here only; what they go on to do has a deadline anyway.
    pub(crate) fn admit(&self, metadata: &MetadataMap) -> Result<(), Status> {
        if requires_leader(metadata)
            && (self.handle.leadership().borrow().leader.is_none() || !*self.led.borrow())
        {
            return Err(status::NO_LEADER.into());
        }
        Ok(())
    }

    /// Resolves when no quorum has answered for a while. Never, unless `wanted`.
    pub(crate) fn leaderless(&self, wanted: bool) -> impl Future<Output = ()> + Send + 'static {
        let mut led = wanted.then(|| self.led.subscribe());
        if wanted {
            self.led_wanted.notify_one();
        }
        async move {
            match &mut led {
                // The sender lives in the context of the server.
                Some(led) => drop(led.wait_for(|led| !*led).await),
                None => std::future::pending().await,
            }
        }
    }

    /// Whether a read index came within `patience`.
    async fn is_led(&self, patience: Duration) -> bool {
        let confirmed = async {
            while self.handle.read_barrier(patience).await.is_err() {
                tokio::time::sleep(ASK_AGAIN).await;
            }
        };
        tokio::time::timeout(patience, confirmed).await.is_ok()
    }

    /// Resolves when the server begins to stop: open streams must end so that connections can drain.
    pub(crate) fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stopping = self.stopping.clone();
        async move {
            // The sender lives as long as the server; should it be gone, the server is too.
            let _ = stopping.wait_for(|stopping| *stopping).await;
        }
    }
}

/// The task behind [`Context::leaderless`].
async fn confirm_leader(context: Arc<Context>) {
    let patience = context.options.election_timeout * 3;
    let watched = async {
        loop {
            context.led_wanted.notified().await;
            while context.led.receiver_count() > 0 {
                let led = context.is_led(patience).await;
                context.led.send_replace(led);
                tokio::time::sleep(patience).await;
            }
            // Whoever asks next is judged afresh.
            context.led.send_replace(true);
        }
    };
    tokio::select! {
        () = context.stopped() => {}
        () = watched => {}
    }
}

/// clientv3's `WithRequireLeader` (etcd, `api/v3rpc/rpctypes/md.go`).
pub(crate) fn requires_leader(metadata: &MetadataMap) -> bool {
    metadata.get("hasleader").is_some_and(|value| value == "true")
}
