//! What an actor may do, found out in one view and asked there.

use std::collections::BTreeSet;

use super::permission::Covered;
use super::{Auth, AuthAction, AuthState, PermissionKind, ROOT, auth_state, role, user};
use crate::change::Change;
use crate::{
    Actor, Body, DeleteRange, Fault, LeaseId, Put, Rejection, Txn, TxnOp, TxnOpBody, View, lease_keys,
};

/// What one actor may do, as of one view. Good for that view only.
#[derive(Debug, Clone)]
pub struct Permit {
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    /// Everything: the program itself, anybody while authentication is off, or a user with the root role.
    All,
    Some {
        user: String,
        roles: Vec<String>,
        read: Covered,
        write: Covered,
    },
}

/// Finds out what `actor` may do in `view`; None is the program itself. Refused: nobody while authentication is on
/// ([`Rejection::UserEmpty`]), an actor of an earlier revision ([`Rejection::AuthOldRevision`]), an unknown user
/// ([`Rejection::PermissionDenied`]). Authentication being off, everybody may do everything.
pub fn permit(view: &dyn View, actor: Option<&Actor>) -> Result<Result<Permit, Rejection>, Fault> {
    match actor {
        None => Ok(Ok(Permit { kind: Kind::All })),
        Some(actor) => of(view, auth_state(view)?, actor),
    }
}

fn of(view: &dyn View, state: AuthState, actor: &Actor) -> Result<Result<Permit, Rejection>, Fault> {
    if !state.enabled {
        return Ok(Ok(Permit { kind: Kind::All }));
    }
    if actor.user.is_empty() {
        return Ok(Err(Rejection::UserEmpty));
    }
    if actor.auth_revision < state.revision {
        return Ok(Err(Rejection::AuthOldRevision));
    }
    let Some(user) = user(view, &actor.user)? else { return Ok(Err(Rejection::PermissionDenied)) };
    if user.has_role(ROOT) {
        return Ok(Ok(Permit { kind: Kind::All }));
    }
    let mut permissions = Vec::new();
    for name in &user.roles {
        if let Some(role) = role(view, name)? {
            permissions.extend(role.permissions);
        }
    }
    let read = Covered::by(permissions.iter(), |kind| kind != PermissionKind::Write);
    let write = Covered::by(permissions.iter(), |kind| kind != PermissionKind::Read);
    Ok(Ok(Permit { kind: Kind::Some { user: user.name, roles: user.roles, read, write } }))
}

impl Permit {
    /// Users, roles, members, maintenance.
    pub fn root(&self) -> Result<(), Rejection> {
        granted(matches!(self.kind, Kind::All))
    }

    /// Every key of the range may be read. An empty `key` is none.
    pub fn read(&self, key: &[u8], range_end: &[u8]) -> Result<(), Rejection> {
        match &self.kind {
            Kind::All => Ok(()),
            Kind::Some { read, .. } => granted(read.covers(key, range_end)),
        }
    }

    /// Every key of the range may be written or deleted.
    pub fn write(&self, key: &[u8], range_end: &[u8]) -> Result<(), Rejection> {
        match &self.kind {
            Kind::All => Ok(()),
            Kind::Some { write, .. } => granted(write.covers(key, range_end)),
        }
    }

    /// The user's own roles may be seen, and everybody's by root.
    pub fn see_user(&self, name: &str) -> Result<(), Rejection> {
        match &self.kind {
            Kind::All => Ok(()),
            Kind::Some { user, .. } => granted(user == name),
        }
    }

    /// The permissions of the roles that one has may be seen, and everything by root.
    pub fn see_role(&self, name: &str) -> Result<(), Rejection> {
        match &self.kind {
            Kind::All => Ok(()),
            Kind::Some { roles, .. } => granted(roles.iter().any(|role| role == name)),
        }
    }

    /// Every key of the lease may be read. An unknown lease has none.
    pub fn read_lease(&self, view: &dyn View, id: LeaseId) -> Result<Result<(), Rejection>, Fault> {
        self.lease(view, id, |key| self.read(key, b""))
    }

    /// Every key of the lease may be written: who renews or revokes it decides about all of them.
    pub fn write_lease(&self, view: &dyn View, id: LeaseId) -> Result<Result<(), Rejection>, Fault> {
        self.lease(view, id, |key| self.write(key, b""))
    }

    fn lease(
        &self,
        view: &dyn View,
        id: LeaseId,
        check: impl Fn(&[u8]) -> Result<(), Rejection>,
    ) -> Result<Result<(), Rejection>, Fault> {
        if matches!(self.kind, Kind::All) {
            return Ok(Ok(()));
        }
        let keys = lease_keys(view, id)?;
        Ok(keys.iter().try_for_each(|key| check(key)))
    }

    /// Every operation and every compare, in both branches of every level: what is permitted must not depend on which
    /// branch would run, or a refusal would tell how a compare came out.
    pub fn txn(&self, view: &dyn View, txn: &Txn) -> Result<Result<(), Rejection>, Fault> {
        if matches!(self.kind, Kind::All) {
            return Ok(Ok(()));
        }
        let mut leases = BTreeSet::new();
        if let Err(rejection) = self.txn_keys(txn, &mut leases) {
            return Ok(Err(rejection));
        }
        for id in leases {
            if let Err(rejection) = self.write_lease(view, id)? {
                return Ok(Err(rejection));
            }
        }
        Ok(Ok(()))
    }

    /// Gathers the leases that would be attached: each is looked at once, however often it is named.
    fn txn_keys(&self, txn: &Txn, leases: &mut BTreeSet<LeaseId>) -> Result<(), Rejection> {
        for compare in &txn.compare {
            self.read(&compare.key, &compare.range_end)?;
        }
        for TxnOp { body } in txn.success.iter().chain(&txn.failure) {
            match body {
                Some(TxnOpBody::Range(range)) => self.read(&range.key, &range.range_end)?,
                Some(TxnOpBody::Put(put)) => {
                    self.put_keys(put)?;
                    if put.lease != 0 {
                        leases.insert(put.lease);
                    }
                }
                Some(TxnOpBody::DeleteRange(delete)) => self.delete_range(delete)?,
                Some(TxnOpBody::Txn(nested)) => self.txn_keys(nested, leases)?,
                // Refused for its shape.
                None => {}
            }
        }
        Ok(())
    }

    fn put(&self, view: &dyn View, put: &Put) -> Result<Result<(), Rejection>, Fault> {
        match self.put_keys(put) {
            // The end of the lease would be the end of all its keys.
            Ok(()) if put.lease != 0 => self.write_lease(view, put.lease),
            checked => Ok(checked),
        }
    }

    fn put_keys(&self, put: &Put) -> Result<(), Rejection> {
        self.write(&put.key, b"")?;
        if put.prev_kv { self.read(&put.key, b"") } else { Ok(()) }
    }

    fn delete_range(&self, delete: &DeleteRange) -> Result<(), Rejection> {
        self.write(&delete.key, &delete.range_end)?;
        if delete.prev_kv { self.read(&delete.key, &delete.range_end) } else { Ok(()) }
    }
}

fn granted(yes: bool) -> Result<(), Rejection> {
    if yes { Ok(()) } else { Err(Rejection::PermissionDenied) }
}

/// Before anything of the command is looked at: a refusal must tell nothing about keys that the actor may not see.
pub(crate) fn check_command(
    change: &Change<'_>,
    actor: &Actor,
    body: &Body,
) -> Result<Result<(), Rejection>, Fault> {
    let view = &change.view;
    let permit = match of(view, change.auth, actor)? {
        Ok(permit) => permit,
        Err(rejection) => return Ok(Err(rejection)),
    };
    match body {
        Body::Put(put) => permit.put(view, put),
        Body::DeleteRange(delete) => Ok(permit.delete_range(delete)),
        Body::Txn(txn) => permit.txn(view, txn),
        Body::LeaseRevoke(revoke) => permit.write_lease(view, revoke.id),
        // A lease without keys is nobody's: any user may have one.
        Body::LeaseGrant(_) => Ok(Ok(())),
        // Tokens are assigned by members, for passwords that they looked at.
        Body::Auth(Auth { action: Some(AuthAction::AssignToken(_)) }) => Ok(Err(Rejection::PermissionDenied)),
        Body::Compact(_)
        | Body::Alarm(_)
        | Body::PublishMember(_)
        | Body::LeaseCheckpoint(_)
        | Body::Auth(_) => Ok(permit.root()),
    }
}
