//! What every service needs: the handle, the options, whether the server is stopping.

use std::sync::Arc;

use quorate_node::Handle;
use tokio::sync::watch;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::server::ServerOptions;
use crate::status;

/// One per server, shared by its services.
pub(crate) struct Context {
    pub(crate) handle: Handle,
    pub(crate) options: ServerOptions,
    stopping: watch::Receiver<bool>,
}

impl Context {
    pub(crate) fn new(
        handle: Handle,
        options: ServerOptions,
        stopping: watch::Receiver<bool>,
    ) -> Arc<Context> {
        Arc::new(Context { handle, options, stopping })
    }

    /// Entry check of every call. A client that sends `hasleader: true` would rather go elsewhere than talk to a member
    /// that is cut off (etcd, `server/etcdserver/api/v3rpc/interceptor.go`). Unary calls are checked here only; streams
    /// keep watching, see [`crate::watch`].
    pub(crate) fn admit(&self, metadata: &MetadataMap) -> Result<(), Status> {
        if requires_leader(metadata) && self.handle.leadership().borrow().leader.is_none() {
            return Err(status::NO_LEADER.into());
        }
        Ok(())
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

/// clientv3's `WithRequireLeader` (etcd, `api/v3rpc/rpctypes/md.go`).
pub(crate) fn requires_leader(metadata: &MetadataMap) -> bool {
    metadata.get("hasleader").is_some_and(|value| value == "true")
}
