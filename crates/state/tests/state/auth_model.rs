//! The naive model of authentication: who may do what, found out by looking at every point where a grant begins or ends.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate_state::auth::{Auth, AuthAction, AuthState, Permission};
use quorate_state::{Actor, Body, Put, Range, Rejection, Txn, TxnOp, TxnOpBody};

use crate::model::within;

#[derive(Default, Clone)]
struct User {
    no_password: bool,
    roles: BTreeSet<String>,
}

/// Users and roles as plain maps.
pub(crate) struct AuthModel {
    pub(crate) state: AuthState,
    users: BTreeMap<String, User>,
    /// By range.
    roles: BTreeMap<String, BTreeMap<(Bytes, Bytes), i32>>,
}

/// What is asked for: for reading or for writing, and which range.
type Need = (bool, Bytes, Bytes);

fn read(key: &Bytes, end: &Bytes) -> Need {
    (false, key.clone(), end.clone())
}

fn write(key: &Bytes, end: &Bytes) -> Need {
    (true, key.clone(), end.clone())
}

fn put_needs(put: &Put, lease_keys: &dyn Fn(i64) -> Vec<Bytes>) -> Vec<Need> {
    let mut needs = vec![write(&put.key, &Bytes::new())];
    if put.prev_kv {
        needs.push(read(&put.key, &Bytes::new()));
    }
    needs.extend(lease_keys(put.lease).iter().map(|key| write(key, &Bytes::new())));
    needs
}

fn txn_needs(txn: &Txn, lease_keys: &dyn Fn(i64) -> Vec<Bytes>) -> Vec<Need> {
    let mut needs: Vec<Need> =
        txn.compare.iter().map(|compare| read(&compare.key, &compare.range_end)).collect();
    for TxnOp { body } in txn.success.iter().chain(&txn.failure) {
        match body.as_ref().expect("a body") {
            TxnOpBody::Range(range) => needs.push(read(&range.key, &range.range_end)),
            TxnOpBody::Put(put) => needs.extend(put_needs(put, lease_keys)),
            TxnOpBody::DeleteRange(delete) => {
                needs.push(write(&delete.key, &delete.range_end));
                if delete.prev_kv {
                    needs.push(read(&delete.key, &delete.range_end));
                }
            }
            TxnOpBody::Txn(nested) => needs.extend(txn_needs(nested, lease_keys)),
        }
    }
    needs
}

impl AuthModel {
    pub(crate) fn new() -> AuthModel {
        let state = AuthState { enabled: false, revision: 1 };
        AuthModel { state, users: BTreeMap::new(), roles: BTreeMap::new() }
    }

    /// None: everything.
    fn roles_of(&self, actor: Option<&Actor>) -> Result<Option<&BTreeSet<String>>, Rejection> {
        let Some(actor) = actor else { return Ok(None) };
        if !self.state.enabled {
            return Ok(None);
        }
        if actor.user.is_empty() {
            return Err(Rejection::UserEmpty);
        }
        if actor.auth_revision < self.state.revision {
            return Err(Rejection::AuthOldRevision);
        }
        let user = self.users.get(&actor.user).ok_or(Rejection::PermissionDenied)?;
        Ok(if user.roles.contains("root") { None } else { Some(&user.roles) })
    }

    fn may(&self, roles: &BTreeSet<String>, (writing, key, end): &Need) -> bool {
        let granted: Vec<(&Bytes, &Bytes)> = roles
            .iter()
            .filter_map(|role| self.roles.get(role))
            .flatten()
            .filter(|(_, kind)| **kind == 2 || **kind == i32::from(*writing))
            .map(|((key, end), _)| (key, end))
            .collect();
        // Between two points where grants begin or end nothing changes.
        let mut points = vec![key.clone()];
        for (from, to) in &granted {
            points.push((*from).clone());
            points.push((*to).clone());
            // Behind the single key, and before everything that begins with it.
            points.push([from, &b"\0"[..]].concat().into());
        }
        points.retain(|point| !point.is_empty() && (point == key || within(point, key, end)));
        let covered = |point: &Bytes| granted.iter().any(|(from, to)| within(point, from, to));
        let open_is_covered = end.as_ref() != b"\0" || granted.iter().any(|(_, to)| to.as_ref() == b"\0");
        !key.is_empty() && points.iter().all(covered) && open_is_covered
    }

    fn may_all(&self, roles: &BTreeSet<String>, needs: &[Need]) -> Result<(), Rejection> {
        if needs.iter().all(|need| self.may(roles, need)) { Ok(()) } else { Err(Rejection::PermissionDenied) }
    }

    pub(crate) fn check(
        &self,
        actor: Option<&Actor>,
        body: &Body,
        lease_keys: &dyn Fn(i64) -> Vec<Bytes>,
    ) -> Result<(), Rejection> {
        let roles = self.roles_of(actor)?;
        if actor.is_some()
            && let Body::Auth(Auth { action: Some(AuthAction::AssignToken(_)) }) = body
        {
            return Err(Rejection::PermissionDenied);
        }
        let Some(roles) = roles else { return Ok(()) };
        let needs = match body {
            Body::Put(put) => put_needs(put, lease_keys),
            Body::DeleteRange(delete) => {
                let op = TxnOp { body: Some(TxnOpBody::DeleteRange(delete.clone())) };
                txn_needs(&Txn { success: vec![op], ..Txn::default() }, lease_keys)
            }
            Body::Txn(txn) => txn_needs(txn, lease_keys),
            Body::LeaseRevoke(revoke) => {
                lease_keys(revoke.id).iter().map(|key| write(key, &Bytes::new())).collect()
            }
            Body::LeaseGrant(_) => Vec::new(),
            _ => return Err(Rejection::PermissionDenied),
        };
        self.may_all(roles, &needs)
    }

    pub(crate) fn check_range(&self, actor: Option<&Actor>, range: &Range) -> Result<(), Rejection> {
        match self.roles_of(actor)? {
            None => Ok(()),
            Some(roles) => self.may_all(roles, &[read(&range.key, &range.range_end)]),
        }
    }

    pub(crate) fn apply(&mut self, auth: &Auth) -> Result<AuthState, Rejection> {
        if self.changes(auth.action.as_ref().expect("an action"))? {
            self.state.revision += 1;
        }
        Ok(self.state)
    }

    fn user(&mut self, name: &str) -> Result<&mut User, Rejection> {
        self.users.get_mut(name).ok_or(Rejection::UserNotFound)
    }

    /// Whether the revision moves.
    fn changes(&mut self, action: &AuthAction) -> Result<bool, Rejection> {
        let enabled = self.state.enabled;
        let locks_out = |user: &str| enabled && user == "root";
        match action {
            AuthAction::Enable(_) => {
                if !enabled {
                    let root = self.users.get("root").ok_or(Rejection::RootUserNotExist)?;
                    if !root.roles.contains("root") {
                        return Err(Rejection::RootRoleNotExist);
                    }
                    self.state.enabled = true;
                }
                return Ok(false);
            }
            AuthAction::Disable(_) => self.state.enabled = false,
            AuthAction::UserAdd(add) => {
                if add.name.is_empty() {
                    return Err(Rejection::UserEmpty);
                }
                if self.users.contains_key(&add.name) {
                    return Err(Rejection::UserExists);
                }
                let user = User { no_password: add.no_password, ..User::default() };
                self.users.insert(add.name.clone(), user);
            }
            AuthAction::UserDelete(delete) => {
                if locks_out(&delete.name) {
                    return Err(Rejection::InvalidAuthManagement);
                }
                self.users.remove(&delete.name).ok_or(Rejection::UserNotFound)?;
            }
            AuthAction::UserChangePassword(change) => {
                self.user(&change.name)?;
            }
            AuthAction::UserGrantRole(grant) => {
                let known = grant.role == "root" || self.roles.contains_key(&grant.role);
                let user = self.user(&grant.user)?;
                if !known {
                    return Err(Rejection::RoleNotFound);
                }
                return Ok(user.roles.insert(grant.role.clone()));
            }
            AuthAction::UserRevokeRole(revoke) => {
                if locks_out(&revoke.user) && revoke.role == "root" {
                    return Err(Rejection::InvalidAuthManagement);
                }
                if !self.user(&revoke.user)?.roles.remove(&revoke.role) {
                    return Err(Rejection::RoleNotGranted);
                }
            }
            AuthAction::RoleAdd(add) => {
                if add.name.is_empty() {
                    return Err(Rejection::RoleEmpty);
                }
                if self.roles.contains_key(&add.name) {
                    return Err(Rejection::RoleExists);
                }
                self.roles.insert(add.name.clone(), BTreeMap::new());
            }
            AuthAction::RoleDelete(delete) => {
                if locks_out(&delete.name) {
                    return Err(Rejection::InvalidAuthManagement);
                }
                self.roles.remove(&delete.name).ok_or(Rejection::RoleNotFound)?;
                for user in self.users.values_mut() {
                    user.roles.remove(&delete.name);
                }
            }
            AuthAction::RoleGrant(grant) => {
                let given = grant.permission.as_ref().ok_or(Rejection::PermissionNotGiven)?;
                let Permission { kind, key, range_end } = given;
                if key.is_empty() || !(0..3).contains(kind) {
                    return Err(Rejection::InvalidAuthManagement);
                }
                if !range_end.is_empty() && range_end.as_ref() != b"\0" && range_end <= key {
                    return Err(Rejection::InvalidAuthManagement);
                }
                let role = self.roles.get_mut(&grant.role).ok_or(Rejection::RoleNotFound)?;
                role.insert((key.clone(), range_end.clone()), *kind);
            }
            AuthAction::RoleRevoke(revoke) => {
                let role = self.roles.get_mut(&revoke.role).ok_or(Rejection::RoleNotFound)?;
                let range = (revoke.key.clone(), revoke.range_end.clone());
                role.remove(&range).ok_or(Rejection::PermissionNotGranted)?;
            }
            AuthAction::AssignToken(assign) => {
                if !enabled {
                    return Err(Rejection::AuthNotEnabled);
                }
                if assign.auth_revision != self.state.revision {
                    return Err(Rejection::AuthOldRevision);
                }
                return match self.users.get(&assign.user) {
                    Some(user) if !user.no_password => Ok(false),
                    _ => Err(Rejection::AuthFailed),
                };
            }
        }
        Ok(enabled || !matches!(action, AuthAction::Disable(_)))
    }
}
