//! What can be asked about authentication, in the format of the log: tags are never reused (see [`crate::command`]).

use bytes::Bytes;

use crate::Done;

/// A change of users, roles or permissions, or the assignment of a token.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Auth {
    /// Absent only in what a newer build wrote.
    #[prost(oneof = "AuthAction", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12")]
    pub action: Option<AuthAction>,
}

impl Auth {
    /// Wraps an action.
    #[must_use]
    pub fn new(action: AuthAction) -> Auth {
        Auth { action: Some(action) }
    }
}

/// The kinds of [`Auth`].
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
#[allow(missing_docs)]
pub enum AuthAction {
    #[prost(message, tag = "1")]
    Enable(Done),
    #[prost(message, tag = "2")]
    Disable(Done),
    #[prost(message, tag = "3")]
    UserAdd(UserAdd),
    #[prost(message, tag = "4")]
    UserDelete(Name),
    #[prost(message, tag = "5")]
    UserChangePassword(UserChangePassword),
    #[prost(message, tag = "6")]
    UserGrantRole(UserRole),
    #[prost(message, tag = "7")]
    UserRevokeRole(UserRole),
    #[prost(message, tag = "8")]
    RoleAdd(Name),
    #[prost(message, tag = "9")]
    RoleDelete(Name),
    #[prost(message, tag = "10")]
    RoleGrant(RoleGrant),
    #[prost(message, tag = "11")]
    RoleRevoke(RoleRevoke),
    #[prost(message, tag = "12")]
    AssignToken(AssignToken),
}

/// A user's or a role's.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[allow(missing_docs)]
pub struct Name {
    #[prost(string, tag = "1")]
    pub name: String,
}

/// A password never gets here: only its hash does, computed by whoever proposes.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[allow(missing_docs)]
pub struct UserAdd {
    #[prost(string, tag = "1")]
    pub name: String,
    /// In bcrypt's own text form.
    #[prost(bytes = "bytes", tag = "2")]
    pub password_hash: Bytes,
    /// The user is known by a certificate and cannot get a token.
    #[prost(bool, tag = "3")]
    pub no_password: bool,
}

/// Without effect on a user without a password (etcd's rule).
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[allow(missing_docs)]
pub struct UserChangePassword {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub password_hash: Bytes,
}

/// A role of a user.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[allow(missing_docs)]
pub struct UserRole {
    #[prost(string, tag = "1")]
    pub user: String,
    #[prost(string, tag = "2")]
    pub role: String,
}

/// Replaces a permission on the very same range.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[allow(missing_docs)]
pub struct RoleGrant {
    #[prost(string, tag = "1")]
    pub role: String,
    #[prost(message, optional, tag = "2")]
    pub permission: Option<Permission>,
}

/// Takes back the permission on the very same range.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[allow(missing_docs)]
pub struct RoleRevoke {
    #[prost(string, tag = "1")]
    pub role: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub key: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub range_end: Bytes,
}

/// A token was drawn for a user whose password was looked at. Members hear of it from the command; nothing is stored.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct AssignToken {
    /// The secret part. Random, 16 letters.
    #[prost(string, tag = "1")]
    pub token: String,
    /// Whose.
    #[prost(string, tag = "2")]
    pub user: String,
    /// When the password was looked at.
    #[prost(uint64, tag = "3")]
    pub auth_revision: u64,
}

/// What a role may do on a range of keys.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[allow(missing_docs)]
pub struct Permission {
    #[prost(enumeration = "PermissionKind", tag = "1")]
    pub kind: i32,
    #[prost(bytes = "bytes", tag = "2")]
    pub key: Bytes,
    /// As in [`crate::Range::range_end`].
    #[prost(bytes = "bytes", tag = "3")]
    pub range_end: Bytes,
}

/// etcd's permission types, with its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
#[allow(missing_docs)]
pub enum PermissionKind {
    Read = 0,
    Write = 1,
    ReadWrite = 2,
}

/// Where authentication stands. Also what is stored.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct AuthState {
    /// Whether actors are looked at.
    #[prost(bool, tag = "1")]
    pub enabled: bool,
    /// 1 in a store whose users and roles were never touched, +1 with each change.
    #[prost(uint64, tag = "2")]
    pub revision: u64,
}
