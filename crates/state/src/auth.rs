//! Authentication: who may do what, as replicated state.
//!
//! # Problem
//!
//! A request travels: it is taken by one member, proposed by another, applied by all. Whoever is asked first knows an
//! older state than the one that the request will meet. So what a user may do is decided where the answer is made, from
//! the state that makes it: by apply for a command, in the same view for a read. The member that takes a request only
//! finds out who asks, and says as of which state it knows that (the *auth revision* in [`Actor`]).
//!
//! # Model
//!
//! ```text
//!   user ─── has ──► roles ─── hold ──► permissions: READ | WRITE | both, on a key range
//!    │                 └ "root": everything, users and roles included
//!    └ password hash: computed by the proposer; this crate carries it and never looks into it
//! ```
//!
//! Every change of users, roles and permissions moves the auth revision. An actor of an earlier revision is refused with
//! [`Rejection::AuthOldRevision`]: it may have been somebody else. Tokens are no state; handing one out is a command
//! ([`AssignToken`]) so that every member hears of it, and refused if the revision moved since the password was looked at.
//!
//! # Invariants
//!
//! - While it is on, the user "root" exists and has the role "root": nothing can lock everybody out.
//! - A request is permitted if the union of the user's ranges covers all of what it names ([`Permit`]); what it does not
//!   name but changes or shows counts too: previous values, the keys of a lease.
//! - Every kind of command and of operation is named in the check; a new one does not compile until it is thought about.
//!
//! The semantics are etcd's (server/auth, server/etcdserver/apply, as of 3.6 with the fixes of 2026). One difference:
//! an actor of an old revision is refused for every command, in etcd only for those that touch keys.

mod check;
mod command;
mod permission;
mod record;

pub use check::{Permit, permit};
pub use command::*;
pub use record::{RoleRecord, UserRecord, auth_state, role, roles, user, users};

pub(crate) use check::check_command;

use crate::apply::Outcome;
use crate::change::Change;
use crate::{Fault, Rejection, ReplyBody};

/// The user that must exist, and the role that it must have, while authentication is on.
pub const ROOT: &str = "root";

type Decision = Result<Result<Changed, Rejection>, Fault>;

/// What an action did to the state.
enum Changed {
    /// Users, roles or permissions: the revision moves.
    Grants,
    /// Authentication goes on; the revision stays (etcd's rule).
    Enabled,
    /// Authentication goes off.
    Disabled,
    Nothing,
}

pub(crate) fn apply(change: &mut Change<'_>, auth: &Auth) -> Outcome {
    let Some(action) = &auth.action else { return Err(Fault::UnknownCommand) };
    let mut state = change.auth;
    match decide(change, action)? {
        Err(rejection) => return Ok(Err(rejection)),
        Ok(Changed::Nothing) => return Ok(Ok(ReplyBody::Auth(state))),
        Ok(Changed::Enabled) => state.enabled = true,
        Ok(Changed::Disabled) => {
            state.enabled = false;
            state.revision += 1;
        }
        Ok(Changed::Grants) => state.revision += 1,
    }
    change.auth = state;
    record::put_state(&mut change.view, state);
    Ok(Ok(ReplyBody::Auth(state)))
}

fn decide(change: &mut Change<'_>, action: &AuthAction) -> Decision {
    let enabled = change.auth.enabled;
    let view = &mut change.view;
    match action {
        AuthAction::Enable(_) if enabled => Ok(Ok(Changed::Nothing)),
        AuthAction::Enable(_) => Ok(match user(view, ROOT)? {
            None => Err(Rejection::RootUserNotExist),
            Some(root) if !root.has_role(ROOT) => Err(Rejection::RootRoleNotExist),
            Some(_) => Ok(Changed::Enabled),
        }),
        AuthAction::Disable(_) => Ok(Ok(if enabled { Changed::Disabled } else { Changed::Nothing })),
        AuthAction::UserAdd(add) => {
            if add.name.is_empty() {
                return Ok(Err(Rejection::UserEmpty));
            }
            if user(view, &add.name)?.is_some() {
                return Ok(Err(Rejection::UserExists));
            }
            let record = UserRecord {
                name: add.name.clone(),
                password_hash: if add.no_password { bytes::Bytes::new() } else { add.password_hash.clone() },
                no_password: add.no_password,
                roles: Vec::new(),
            };
            record::put_user(view, &record);
            Ok(Ok(Changed::Grants))
        }
        AuthAction::UserDelete(delete) => {
            if enabled && delete.name == ROOT {
                return Ok(Err(Rejection::InvalidAuthManagement));
            }
            if user(view, &delete.name)?.is_none() {
                return Ok(Err(Rejection::UserNotFound));
            }
            record::delete_user(view, &delete.name);
            Ok(Ok(Changed::Grants))
        }
        AuthAction::UserChangePassword(change) => {
            let Some(mut record) = user(view, &change.name)? else { return Ok(Err(Rejection::UserNotFound)) };
            if !record.no_password {
                record.password_hash = change.password_hash.clone();
            }
            record::put_user(view, &record);
            Ok(Ok(Changed::Grants))
        }
        AuthAction::UserGrantRole(grant) => {
            let Some(mut record) = user(view, &grant.user)? else { return Ok(Err(Rejection::UserNotFound)) };
            // The root role needs no record: what it may do is not written anywhere.
            if grant.role != ROOT && role(view, &grant.role)?.is_none() {
                return Ok(Err(Rejection::RoleNotFound));
            }
            match record.roles.binary_search(&grant.role) {
                Ok(_) => Ok(Ok(Changed::Nothing)),
                Err(at) => {
                    record.roles.insert(at, grant.role.clone());
                    record::put_user(view, &record);
                    Ok(Ok(Changed::Grants))
                }
            }
        }
        AuthAction::UserRevokeRole(revoke) => {
            if enabled && revoke.user == ROOT && revoke.role == ROOT {
                return Ok(Err(Rejection::InvalidAuthManagement));
            }
            let Some(mut record) = user(view, &revoke.user)? else { return Ok(Err(Rejection::UserNotFound)) };
            let Ok(at) = record.roles.binary_search(&revoke.role) else {
                return Ok(Err(Rejection::RoleNotGranted));
            };
            record.roles.remove(at);
            record::put_user(view, &record);
            Ok(Ok(Changed::Grants))
        }
        AuthAction::RoleAdd(add) => {
            if add.name.is_empty() {
                return Ok(Err(Rejection::RoleEmpty));
            }
            if role(view, &add.name)?.is_some() {
                return Ok(Err(Rejection::RoleExists));
            }
            record::put_role(view, &RoleRecord { name: add.name.clone(), permissions: Vec::new() });
            Ok(Ok(Changed::Grants))
        }
        AuthAction::RoleDelete(delete) => {
            if enabled && delete.name == ROOT {
                return Ok(Err(Rejection::InvalidAuthManagement));
            }
            if role(view, &delete.name)?.is_none() {
                return Ok(Err(Rejection::RoleNotFound));
            }
            record::delete_role(view, &delete.name);
            for mut record in users(view)? {
                if let Ok(at) = record.roles.binary_search(&delete.name) {
                    record.roles.remove(at);
                    record::put_user(view, &record);
                }
            }
            Ok(Ok(Changed::Grants))
        }
        AuthAction::RoleGrant(grant) => {
            let Some(given) = &grant.permission else { return Ok(Err(Rejection::PermissionNotGiven)) };
            if !permission::is_valid(given) {
                return Ok(Err(Rejection::InvalidAuthManagement));
            }
            let Some(mut record) = role(view, &grant.role)? else { return Ok(Err(Rejection::RoleNotFound)) };
            record.grant(given);
            record::put_role(view, &record);
            Ok(Ok(Changed::Grants))
        }
        AuthAction::RoleRevoke(revoke) => {
            let Some(mut record) = role(view, &revoke.role)? else { return Ok(Err(Rejection::RoleNotFound)) };
            if !record.revoke(&revoke.key, &revoke.range_end) {
                return Ok(Err(Rejection::PermissionNotGranted));
            }
            record::put_role(view, &record);
            Ok(Ok(Changed::Grants))
        }
        AuthAction::AssignToken(assign) => {
            if !enabled {
                return Ok(Err(Rejection::AuthNotEnabled));
            }
            // Checked against another password, perhaps: the proposer looks again.
            if assign.auth_revision != change.auth.revision {
                return Ok(Err(Rejection::AuthOldRevision));
            }
            let found = user(view, &assign.user)?;
            Ok(match found {
                Some(found) if !found.no_password => Ok(Changed::Nothing),
                Some(_) | None => Err(Rejection::AuthFailed),
            })
        }
    }
}
