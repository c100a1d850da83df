//! Dispatch: one command in, its answer and its events out; the bytes gather in one [`Batch`].

use crate::change::Change;
use crate::{Batch, Body, Command, Event, Fault, Rejection, Reply, ReplyBody, View};
use crate::{alarm, auth, compact, delete, lease, member, put, txn};

/// What a command's file returns: an answer, a refusal that changed nothing, or a reason to stop.
pub(crate) type Outcome = Result<Result<ReplyBody, Rejection>, Fault>;

/// Applies the commands of one chunk, in order; each sees what the ones before it did. Nothing reaches the engine until
/// the caller writes [`Applier::into_batch`].
pub struct Applier<'v> {
    base: &'v dyn View,
    /// Opened by the first command: an engine that cannot be read is a fault of `apply`.
    change: Option<Change<'v>>,
}

impl<'v> Applier<'v> {
    /// Over the state after the chunk before.
    pub fn new(base: &'v dyn View) -> Applier<'v> {
        Applier { base, change: None }
    }

    /// Applies one command. An expected refusal is a reply with [`ReplyBody::Rejected`] and changes nothing. After a
    /// [`Fault`] the applier must be dropped: the node stops. Events are in order of effect, all of one revision, each with
    /// `prev_kv` if the key was there before.
    pub fn apply(&mut self, command: &Command) -> Result<(Reply, Vec<Event>), Fault> {
        let body = command.check_format()?;
        let change = match &mut self.change {
            Some(change) => change,
            None => self.change.insert(Change::open(self.base)?),
        };
        let permitted = match &command.actor {
            Some(actor) => auth::check_command(change, actor, body)?,
            None => Ok(()),
        };
        let outcome = match permitted {
            Ok(()) => run(change, body)?,
            Err(rejection) => Err(rejection),
        };
        let events = change.close();
        let body = outcome.unwrap_or_else(|rejection| ReplyBody::Rejected(rejection.into()));
        assert!(
            events.is_empty() || !matches!(body, ReplyBody::Rejected(_)),
            "a refusal changes nothing: {command:?}"
        );
        Ok((Reply { revision: change.revision, body: Some(body) }, events))
    }

    /// Everything the chunk changed, each key at most once. The caller adds its own position before it writes.
    pub fn into_batch(self) -> Batch {
        self.change.map(|change| change.view.into_batch()).unwrap_or_default()
    }
}

fn run(change: &mut Change<'_>, body: &Body) -> Outcome {
    match body {
        Body::Put(put) => put::apply(change, put),
        Body::DeleteRange(delete) => delete::apply(change, delete),
        Body::Txn(txn) => txn::apply(change, txn),
        Body::Compact(compact) => compact::apply(change, compact),
        Body::LeaseGrant(grant) => lease::grant(change, grant),
        Body::LeaseRevoke(revoke) => lease::revoke(change, revoke),
        Body::LeaseCheckpoint(checkpoint) => lease::checkpoint(change, checkpoint),
        Body::Alarm(alarm) => alarm::apply(change, alarm),
        Body::PublishMember(publish) => member::publish(change, publish),
        Body::Auth(action) => auth::apply(change, action),
    }
}
