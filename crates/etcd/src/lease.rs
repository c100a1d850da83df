//! `etcdserverpb.Lease`: grant, renew, look at, list, revoke.
//!
//! A renewal is not replicated: the leader moves its own deadline, once a quorum has confirmed that it leads. Any member
//! takes one and the handle carries it there.
//!
//! # The keep-alive stream
//!
//! Clients put the renewals of all their leases on one stream and expect the answers in order. A lease that is not
//! there is no error: its answer has TTL 0, and the client draws the conclusion (etcd,
//! `server/etcdserver/api/v3rpc/lease.go`, `leaseKeepAlive`). The header's revision is read before the renewal, as there.
//! Up to [`CONCURRENT_RENEWALS`] of a stream wait for the leader at the same time, or a client with a thousand leases
//! would pay a thousand round trips one after the other.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use quorate_node::Handle;
use quorate_state::{Body, LeaseRevoke};
use quorate_wire::etcdserverpb::lease_server::Lease;
use quorate_wire::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
};
use tonic::{Request, Response, Status, Streaming};

use crate::context::{Context, requires_leader};
use crate::server::ServerOptions;
use crate::status::EtcdError;
use crate::{convert, header, status, validate};

/// Renewals of one stream in flight.
const CONCURRENT_RENEWALS: usize = 16;

/// The service.
pub(crate) struct LeaseService(pub(crate) Arc<Context>);

/// What is granted when `ttl_s` is asked for. etcd raises a request to 1.5 election timeouts, rounded up, which is 2 s
/// by its defaults (`server/etcdserver/server.go`, `minTTL`). Ours elect faster; the 2 s stay, since clients renew
/// at a third of the TTL and some compute it in whole seconds.
fn granted(ttl_s: i64, options: &ServerOptions) -> Duration {
    let minimum = (options.election_timeout * 3 / 2).max(Duration::from_secs(2));
    let minimum_s = minimum.as_secs() + u64::from(minimum.subsec_nanos() > 0);
    Duration::from_secs(u64::try_from(ttl_s).unwrap_or(0).max(minimum_s))
}

fn whole_seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

async fn renew(context: Arc<Context>, caller: Handle, id: i64) -> Result<LeaseKeepAliveResponse, Status> {
    let header = header::full(context.handle.header());
    let renewal = caller
        .renew_lease(id, context.options.request_timeout)
        .await
        .map_err(|error| status::of_read(&error))?;
    let ttl = renewal.map_or(0, |renewal| whole_seconds(renewal.ttl));
    Ok(LeaseKeepAliveResponse { header: Some(header), id, ttl })
}

#[tonic::async_trait]
impl Lease for LeaseService {
    type LeaseKeepAliveStream = Pin<Box<dyn Stream<Item = Result<LeaseKeepAliveResponse, Status>> + Send>>;

    async fn lease_grant(
        &self,
        request: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        self.0.admit(request.metadata())?;
        let caller = self.0.caller(&request);
        let LeaseGrantRequest { ttl, id } = request.into_inner();
        validate::lease_ttl(ttl)?;
        let Context { handle, options, .. } = &*self.0;
        let ttl = granted(ttl, options);
        let id = caller
            .grant_lease((id != 0).then_some(id), ttl, options.request_timeout)
            .await
            .map_err(|error| status::of_proposal(&error))?;
        Ok(Response::new(LeaseGrantResponse {
            header: Some(header::full(handle.header())),
            id,
            ttl: whole_seconds(ttl),
            error: String::new(),
        }))
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        self.0.admit(request.metadata())?;
        let caller = self.0.caller(&request);
        let LeaseRevokeRequest { id } = request.into_inner();
        let Context { handle, options, .. } = &*self.0;
        let applied = caller
            .propose(
                convert::command(Body::LeaseRevoke(LeaseRevoke { id, judged: None })),
                options.request_timeout,
            )
            .await
            .map_err(|error| status::of_proposal(&error))?;
        let header = header::applied(handle.header(), applied.reply.revision, applied.term);
        Ok(Response::new(LeaseRevokeResponse { header: Some(header) }))
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        self.0.admit(request.metadata())?;
        let leaderless = self.0.leaderless(requires_leader(request.metadata()));
        let context = self.0.clone();
        let caller = self.0.caller(&request);
        let answers = request
            .into_inner()
            .map(move |request| {
                let (context, caller) = (context.clone(), caller.clone());
                async move { renew(context, caller, request?.id).await }
            })
            .buffered(CONCURRENT_RENEWALS);
        // Whichever comes first ends the stream, with its reason as the last item.
        let stopped = self.0.stopped();
        let end = async move {
            tokio::select! {
                () = stopped => status::STOPPED,
                () = leaderless => status::NO_LEADER,
            }
        };
        Ok(Response::new(Box::pin(until(answers, end))))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        self.0.admit(request.metadata())?;
        let caller = self.0.caller(&request);
        let LeaseTimeToLiveRequest { id, keys } = request.into_inner();
        let Context { handle, options, .. } = &*self.0;
        let found = caller
            .lease_time_to_live(id, keys, options.request_timeout)
            .await
            .map_err(|error| status::of_read(&error))?;
        let header = Some(header::full(handle.header()));
        // An absent lease is an answer, not an error (etcd, `v3rpc/lease.go`, `LeaseTimeToLive`).
        let (granted, remaining, keys) = match found {
            Some((granted, remaining, keys)) => (whole_seconds(granted), whole_seconds(remaining), keys),
            None => (0, -1, Vec::new()),
        };
        Ok(Response::new(LeaseTimeToLiveResponse { header, id, ttl: remaining, granted_ttl: granted, keys }))
    }

    async fn lease_leases(
        &self,
        request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        self.0.admit(request.metadata())?;
        let leases = self
            .0
            .caller(&request)
            .leases(self.0.options.request_timeout)
            .await
            .map_err(|error| status::of_read(&error))?;
        Ok(Response::new(LeaseLeasesResponse {
            header: Some(header::full(self.0.handle.header())),
            leases: leases.into_iter().map(|id| LeaseStatus { id }).collect(),
        }))
    }
}

/// `items` up to its end, its first error, or `end`, whose error becomes the last item.
fn until<T: Send>(
    items: impl Stream<Item = Result<T, Status>> + Send,
    end: impl Future<Output = EtcdError> + Send,
) -> impl Stream<Item = Result<T, Status>> + Send {
    stream::unfold(Some((Box::pin(items), Box::pin(end))), |open| async move {
        let (mut items, mut end) = open?;
        tokio::select! {
            biased;
            reason = &mut end => Some((Err(Status::from(reason)), None)),
            item = items.next() => match item? {
                Ok(item) => Some((Ok(item), Some((items, end)))),
                Err(error) => Some((Err(error), None)),
            },
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_ttls_are_raised_to_two_seconds() {
        let options = ServerOptions::default();
        for asked in [-5, 0, 1, 2] {
            assert_eq!(granted(asked, &options), Duration::from_secs(2), "asked for {asked}");
        }
        assert_eq!(granted(3, &options), Duration::from_secs(3));
    }

    #[test]
    fn slow_elections_raise_the_minimum() {
        let options =
            ServerOptions { election_timeout: Duration::from_millis(2_100), ..ServerOptions::default() };
        assert_eq!(granted(1, &options), Duration::from_secs(4));
    }

    #[tokio::test]
    async fn a_stream_ends_with_its_requests() {
        let items = stream::iter([Ok(1), Ok(2)]);
        let all: Vec<_> = until(items, std::future::pending()).collect().await;
        assert_eq!(all.len(), 2);
        assert!(all.iter().all(Result::is_ok));
    }

    #[tokio::test]
    async fn the_first_error_is_the_last_item() {
        let items = stream::iter([Ok(1), Err(Status::from(status::NO_LEADER)), Ok(2)]);
        let all: Vec<_> = until(items, std::future::pending()).collect().await;
        assert_eq!(all.len(), 2);
        assert_eq!(all[1].as_ref().expect_err("an error").message(), "etcdserver: no leader");
    }

    #[tokio::test]
    async fn a_stop_ends_a_silent_stream() {
        let items = stream::pending::<Result<i32, Status>>();
        let all: Vec<_> = until(items, std::future::ready(status::STOPPED)).collect().await;
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].as_ref().expect_err("an error").message(), "etcdserver: server stopped");
    }
}
