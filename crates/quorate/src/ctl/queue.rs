//! What `lock` and `elect` are made of: a session, and a queue of keys in the order in which they were made.
//!
//! It is clientv3's protocol, key by key, so that a lock taken here holds against one taken by any other client of etcd:
//! everybody in line has a key `NAME/LEASE` (in hexadecimal) under a lease that it renews; whoever's key was made first
//! has it; the others wait, each for the one made just before its own to go away.

use std::time::Duration;

use quorate_wire::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quorate_wire::etcdserverpb::range_request::{SortOrder, SortTarget};
use quorate_wire::etcdserverpb::request_op::Request;
use quorate_wire::etcdserverpb::response_op::Response;
use quorate_wire::etcdserverpb::{
    Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RangeRequest, RequestOp,
    TxnRequest, TxnResponse, WatchCreateRequest,
};
use quorate_wire::mvccpb::event::EventType;
use tokio::signal::unix::{SignalKind, signal};

use super::follow::{Renewals, Watcher};
use super::store::{Store, prefix_end};
use super::{Failure, Outcome};

/// A place in line.
pub struct Place {
    store: Store,
    lease: i64,
    ttl: Duration,
    /// `NAME/`
    prefix: Vec<u8>,
    /// `NAME/LEASE`
    pub key: Vec<u8>,
    /// The revision at which the key was made.
    pub revision: i64,
    /// The revision of the last answer.
    pub seen: i64,
}

impl Place {
    /// Opens a session and stands in line. A key of the same name and lease that is there already is taken over.
    ///
    /// # Errors
    /// The store's refusal, or that it cannot be reached.
    pub async fn take(store: &Store, name: &[u8], ttl: i64, value: &[u8]) -> Result<Place, Failure> {
        let granted =
            store.tell(async |at| at.lease().lease_grant(LeaseGrantRequest { ttl, id: 0 }).await).await?;
        let prefix = [name, b"/"].concat();
        let key = [prefix.as_slice(), format!("{:x}", granted.id).as_bytes()].concat();
        let ttl = Duration::from_secs(u64::try_from(granted.ttl).unwrap_or_default());
        let mut place =
            Place { store: store.clone(), lease: granted.id, ttl, prefix, key, revision: 0, seen: 0 };
        let put = PutRequest {
            key: place.key.clone().into(),
            value: value.to_vec().into(),
            lease: place.lease,
            ..PutRequest::default()
        };
        let get = RangeRequest { key: place.key.clone().into(), ..RangeRequest::default() };
        let response =
            place.if_made_at(0, Request::RequestPut(put), Some(Request::RequestRange(get))).await?;
        place.seen = response.header.map_or(0, |header| header.revision);
        place.revision = match response.responses.into_iter().next().and_then(|op| op.response) {
            Some(Response::ResponseRange(found)) => found.kvs.first().map_or(0, |kv| kv.create_revision),
            _ => place.seen,
        };
        Ok(place)
    }

    /// Waits until everybody who stood in line before has gone.
    ///
    /// # Errors
    /// The store's refusal.
    pub async fn wait(&mut self) -> Outcome {
        loop {
            let before = RangeRequest {
                key: self.prefix.clone().into(),
                range_end: prefix_end(&self.prefix).into(),
                limit: 1,
                sort_order: SortOrder::Descend.into(),
                sort_target: SortTarget::Create.into(),
                max_create_revision: self.revision - 1,
                ..RangeRequest::default()
            };
            let found = self.store.range(before).await?;
            self.seen = found.header.map_or(0, |header| header.revision);
            let Some(predecessor) = found.kvs.first() else { return Ok(()) };
            until_deleted(&self.store, &predecessor.key, self.seen).await?;
        }
    }

    /// Renews the session, beside everything else that is done with the place; ends when the session is gone.
    pub fn renewing(&self) -> impl Future<Output = Outcome> + use<> {
        let mut renewals = Renewals::new(&self.store, self.lease, self.ttl);
        async move {
            while renewals.next().await?.is_some() {}
            Ok(())
        }
    }

    /// The key, as it is.
    ///
    /// # Errors
    /// The store's refusal, or that it cannot be reached.
    pub async fn read(&self) -> Result<quorate_wire::etcdserverpb::RangeResponse, Failure> {
        self.store.range(RangeRequest { key: self.key.clone().into(), ..RangeRequest::default() }).await
    }

    /// Leaves the line, wherever in it, and ends the session.
    ///
    /// # Errors
    /// The store's refusal; the key then goes with its lease.
    pub async fn leave(self) -> Outcome {
        let delete = DeleteRangeRequest { key: self.key.clone().into(), ..DeleteRangeRequest::default() };
        self.if_made_at(self.revision, Request::RequestDeleteRange(delete), None).await?;
        let request = LeaseRevokeRequest { id: self.lease };
        // Without its key the lease holds nothing; it may end by itself.
        let _ = self.store.tell(async |at| at.lease().lease_revoke(request).await).await;
        Ok(())
    }

    /// Does something on the condition that the key was made at a revision (0: that it is not there).
    async fn if_made_at(
        &self,
        revision: i64,
        then: Request,
        otherwise: Option<Request>,
    ) -> Result<TxnResponse, Failure> {
        let op = |request| RequestOp { request: Some(request) };
        let compare = Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Create.into(),
            key: self.key.clone().into(),
            target_union: Some(TargetUnion::CreateRevision(revision)),
            ..Compare::default()
        };
        let request = TxnRequest {
            compare: vec![compare],
            success: vec![op(then)],
            failure: otherwise.into_iter().map(op).collect(),
        };
        // The condition makes it safe to ask twice.
        self.store.ask(async |at| at.kv().txn(request.clone()).await).await
    }
}

async fn until_deleted(store: &Store, key: &[u8], since: i64) -> Outcome {
    let create = WatchCreateRequest {
        key: key.to_vec().into(),
        start_revision: since + 1,
        ..WatchCreateRequest::default()
    };
    let mut watcher = Watcher::new(store, create);
    loop {
        let response = watcher.next().await?;
        if response.canceled {
            return Err(Failure::new("lost watcher waiting for delete"));
        }
        if response.events.iter().any(|event| event.r#type() == EventType::Delete) {
            return Ok(());
        }
    }
}

/// Waits for Ctrl-C or SIGTERM.
///
/// # Errors
/// Signals cannot be caught.
pub async fn asked_to_stop() -> Outcome {
    let mut term = signal(SignalKind::terminate())
        .map_err(|error| Failure::new(format!("signals cannot be caught: {error}")))?;
    tokio::select! {
        _ = term.recv() => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}
