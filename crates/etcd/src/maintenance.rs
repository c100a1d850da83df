//! `etcdserverpb.Maintenance`: one member's state, alarms, hashes, leadership.
//!
//! `MoveLeader` has to reach the leader, as in etcd, although the handle would carry it there: `etcdctl` looks for the
//! leader among its endpoints and tells its user when it is missing, and a client that is wrong about who leads should
//! hear it before it takes the leadership from somebody else. `Defragment` succeeds at once, since the database is rewritten
//! at every snapshot; the nightly job of an operator must not begin to fail. `Downgrade` is answered as by an etcd that has no
//! version to go back to.

mod snapshot;

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use quorate_node::Handle;
use quorate_state::{Alarm, AlarmKind, Body};
use quorate_wire::etcdserverpb::maintenance_server::Maintenance;
use quorate_wire::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse,
    DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest, HashResponse,
    MoveLeaderRequest, MoveLeaderResponse, SnapshotRequest, SnapshotResponse, StatusRequest, StatusResponse,
    alarm_request, downgrade_request,
};
use tonic::{Request, Response, Status};

use crate::context::Context;
use crate::{ETCD_CLUSTER_VERSION, ETCD_VERSION, convert, header, status};

/// The service.
pub(crate) struct MaintenanceService(pub(crate) Arc<Context>);

fn alarm_type(kind: AlarmKind) -> AlarmType {
    match kind {
        AlarmKind::None => AlarmType::None,
        AlarmKind::NoSpace => AlarmType::Nospace,
        AlarmKind::Corrupt => AlarmType::Corrupt,
    }
}

fn alarm_kind(kind: AlarmType) -> AlarmKind {
    match kind {
        AlarmType::None => AlarmKind::None,
        AlarmType::Nospace => AlarmKind::NoSpace,
        AlarmType::Corrupt => AlarmKind::Corrupt,
    }
}

/// `3.4` or `3.4.0`: etcd completes the short form.
fn is_version(text: &str) -> bool {
    let parts: Vec<&str> = text.split('.').collect();
    matches!(parts.len(), 2 | 3) && parts.iter().all(|part| part.parse::<u32>().is_ok())
}

/// Sizes are signed on the wire.
fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

impl MaintenanceService {
    /// Raised alarms that `request` speaks of: member 0 and kind `NONE` are everybody and everything.
    fn alarms(&self, member: u64, kind: AlarmType) -> Result<Vec<AlarmMember>, Status> {
        let raised = self.0.handle.alarms().map_err(|error| status::of_read(&error))?;
        Ok(raised
            .into_iter()
            .map(|(member, kind)| (member, alarm_type(kind)))
            .filter(|(at, raised)| {
                (member == 0 || member == *at) && (kind == AlarmType::None || kind == *raised)
            })
            .map(|(member_id, kind)| AlarmMember { member_id, alarm: kind as i32 })
            .collect())
    }

    async fn set_alarm(
        &self,
        caller: &Handle,
        clear: bool,
        member: u64,
        kind: AlarmType,
    ) -> Result<(), Status> {
        let alarm = Alarm { clear, member, kind: alarm_kind(kind) as i32 };
        caller
            .propose(convert::command(Body::Alarm(alarm)), self.0.options.request_timeout)
            .await
            .map_err(|error| status::of_proposal(&error))?;
        Ok(())
    }
}

#[tonic::async_trait]
impl Maintenance for MaintenanceService {
    type SnapshotStream = Pin<Box<dyn Stream<Item = Result<SnapshotResponse, Status>> + Send>>;

    /// GET lists, ACTIVATE raises and answers with what stands, DEACTIVATE clears and answers with what was cleared
    /// (etcd, `server/etcdserver/apply/apply.go`, `Alarm`).
    async fn alarm(&self, request: Request<AlarmRequest>) -> Result<Response<AlarmResponse>, Status> {
        use alarm_request::AlarmAction;
        self.0.admit(request.metadata())?;
        let caller = self.0.caller(&request);
        let AlarmRequest { action, member_id, alarm } = request.into_inner();
        let Context { handle, options, .. } = &*self.0;
        // Which of the two it takes is in the request, so the table of rules cannot say it.
        let permitted = if action == AlarmAction::Get as i32 {
            caller.check_user(options.request_timeout).await
        } else {
            caller.check_root(options.request_timeout).await
        };
        permitted.map_err(|error| status::of_read(&error))?;
        let kind = AlarmType::try_from(alarm).unwrap_or(AlarmType::None);
        let alarms = match AlarmAction::try_from(action) {
            Ok(AlarmAction::Get) => {
                handle
                    .read_barrier(options.request_timeout)
                    .await
                    .map_err(|error| status::of_read(&error))?;
                self.alarms(0, kind)?
            }
            Ok(AlarmAction::Activate) if kind != AlarmType::None => {
                self.set_alarm(&caller, false, member_id, kind).await?;
                self.alarms(member_id, kind)?
            }
            Ok(AlarmAction::Deactivate) if kind != AlarmType::None => {
                handle
                    .read_barrier(options.request_timeout)
                    .await
                    .map_err(|error| status::of_read(&error))?;
                let standing = self.alarms(member_id, kind)?;
                if !standing.is_empty() {
                    self.set_alarm(&caller, true, member_id, kind).await?;
                }
                standing
            }
            // Nothing to raise or to clear, or an action that etcd does not know: it answers with nothing.
            Ok(AlarmAction::Activate | AlarmAction::Deactivate) | Err(_) => Vec::new(),
        };
        Ok(Response::new(AlarmResponse { header: Some(header::full(handle.header())), alarms }))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        self.0.admit(request.metadata())?;
        let status = self.0.handle.status();
        Ok(Response::new(StatusResponse {
            header: Some(header::full(status.header)),
            version: ETCD_VERSION.to_owned(),
            db_size: signed(status.database_bytes),
            leader: status.leader.unwrap_or(0),
            raft_index: status.index,
            raft_term: status.header.term,
            raft_applied_index: status.applied,
            errors: status.errors,
            db_size_in_use: signed(status.database_in_use_bytes),
            is_learner: status.is_learner,
            storage_version: ETCD_CLUSTER_VERSION.to_owned(),
            // 0 is no limit, as etcd's own field has it.
            db_size_quota: signed(self.0.handle.quota_bytes().unwrap_or(0)),
            downgrade_info: None,
        }))
    }

    async fn defragment(
        &self,
        request: Request<DefragmentRequest>,
    ) -> Result<Response<DefragmentResponse>, Status> {
        self.0.admit(request.metadata())?;
        // etcd leaves the header out here; the etcd-client crate asserts it.
        Ok(Response::new(DefragmentResponse { header: None }))
    }

    /// etcd hashes its file, with all that is a member's own in it. What may be compared between members is the keys.
    async fn hash(&self, request: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        self.0.admit(request.metadata())?;
        let Context { handle, options, .. } = &*self.0;
        let header = handle.header();
        let (hash, _) =
            handle.hash_kv(0, options.request_timeout).await.map_err(|error| status::of_read(&error))?;
        Ok(Response::new(HashResponse { header: Some(header::full(header)), hash }))
    }

    async fn hash_kv(&self, request: Request<HashKvRequest>) -> Result<Response<HashKvResponse>, Status> {
        self.0.admit(request.metadata())?;
        let Context { handle, options, .. } = &*self.0;
        let header = handle.header();
        // Named before it is computed: two members are compared by the revision that both report.
        let wanted = request.into_inner().revision;
        let hash_revision = if wanted == 0 { header.revision } else { wanted };
        let (hash, compact_revision) = handle
            .hash_kv(hash_revision, options.request_timeout)
            .await
            .map_err(|error| status::of_read(&error))?;
        Ok(Response::new(HashKvResponse {
            header: Some(header::full(header)),
            hash,
            compact_revision,
            hash_revision,
        }))
    }

    async fn snapshot(
        &self,
        request: Request<SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        self.0.admit(request.metadata())?;
        let snapshot = self.0.handle.snapshot().await.map_err(|error| status::of_snapshot(&error))?;
        let messages = snapshot::messages(snapshot).take_until(self.0.stopped());
        Ok(Response::new(Box::pin(messages)))
    }

    async fn move_leader(
        &self,
        request: Request<MoveLeaderRequest>,
    ) -> Result<Response<MoveLeaderResponse>, Status> {
        self.0.admit(request.metadata())?;
        let target = request.into_inner().target_id;
        let Context { handle, options, .. } = &*self.0;
        let leader = handle.leadership().borrow().leader;
        if leader != Some(handle.header().member_id) {
            return Err(status::NOT_LEADER.into());
        }
        if !handle.can_lead(target) {
            return Err(status::BAD_TRANSFEREE.into());
        }
        // Handing over to oneself is done already.
        if leader != Some(target) {
            handle
                .move_leader(target, options.request_timeout)
                .await
                .map_err(|error| status::of_read(&error))?;
        }
        Ok(Response::new(MoveLeaderResponse { header: None }))
    }

    /// There is no older version whose format this store could write: no target is valid, none is ever under way.
    async fn downgrade(
        &self,
        request: Request<DowngradeRequest>,
    ) -> Result<Response<DowngradeResponse>, Status> {
        use downgrade_request::DowngradeAction;
        self.0.admit(request.metadata())?;
        let DowngradeRequest { action, version } = request.into_inner();
        Err(match DowngradeAction::try_from(action) {
            Ok(DowngradeAction::Cancel) => status::NO_DOWNGRADE.into(),
            Ok(DowngradeAction::Validate | DowngradeAction::Enable) if is_version(&version) => {
                status::BAD_DOWNGRADE_TARGET.into()
            }
            Ok(DowngradeAction::Validate | DowngradeAction::Enable) => status::BAD_DOWNGRADE_VERSION.into(),
            Err(_) => status::unserved("this action of Downgrade"),
        })
    }
}
