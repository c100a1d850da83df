//! Users, roles and the switch, as they are stored.

use bytes::Bytes;
use prost::Message;

use super::{AuthState, Permission};
use crate::{Direction, Fault, Overlay, View, keys};

/// The revision of a store whose users and roles were never touched (etcd's rule).
const UNTOUCHED: u64 = 1;

/// A user. Also what is stored under the name.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct UserRecord {
    /// Not empty.
    #[prost(string, tag = "1")]
    pub name: String,
    /// In bcrypt's own text form; empty without a password.
    #[prost(bytes = "bytes", tag = "2")]
    pub password_hash: Bytes,
    /// Known by a certificate only.
    #[prost(bool, tag = "3")]
    pub no_password: bool,
    /// Sorted, each once. A role may be gone from the store only if it is the root role.
    #[prost(string, repeated, tag = "4")]
    pub roles: Vec<String>,
}

impl UserRecord {
    /// Whether `role` was granted to it.
    #[must_use]
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.binary_search_by(|granted| granted.as_str().cmp(role)).is_ok()
    }
}

/// A role. Also what is stored under the name.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RoleRecord {
    /// Not empty.
    #[prost(string, tag = "1")]
    pub name: String,
    /// By key and then by end, at most one for each range.
    #[prost(message, repeated, tag = "2")]
    pub permissions: Vec<Permission>,
}

impl RoleRecord {
    pub(crate) fn grant(&mut self, given: &Permission) {
        match self.position(&given.key, &given.range_end) {
            Ok(at) => self.permissions[at] = given.clone(),
            Err(at) => self.permissions.insert(at, given.clone()),
        }
    }

    /// False: there is no permission on that range.
    pub(crate) fn revoke(&mut self, key: &[u8], range_end: &[u8]) -> bool {
        let found = self.position(key, range_end);
        if let Ok(at) = found {
            self.permissions.remove(at);
        }
        found.is_ok()
    }

    fn position(&self, key: &[u8], range_end: &[u8]) -> Result<usize, usize> {
        self.permissions
            .binary_search_by(|held| (held.key.as_ref(), held.range_end.as_ref()).cmp(&(key, range_end)))
    }
}

/// Whether authentication is on, and as of which revision.
pub fn auth_state(view: &dyn View) -> Result<AuthState, Fault> {
    match view.get(&keys::auth_state())? {
        Some(stored) => decode("authentication state", stored),
        None => Ok(AuthState { enabled: false, revision: UNTOUCHED }),
    }
}

/// One user.
pub fn user(view: &dyn View, name: &str) -> Result<Option<UserRecord>, Fault> {
    view.get(&keys::user(name))?.map(|stored| decode("user", stored)).transpose()
}

/// Every user, by name.
pub fn users(view: &dyn View) -> Result<Vec<UserRecord>, Fault> {
    all(view, &keys::user(""), &keys::user_end(), "user")
}

/// One role.
pub fn role(view: &dyn View, name: &str) -> Result<Option<RoleRecord>, Fault> {
    view.get(&keys::role(name))?.map(|stored| decode("role", stored)).transpose()
}

/// Every role, by name.
pub fn roles(view: &dyn View) -> Result<Vec<RoleRecord>, Fault> {
    all(view, &keys::role(""), &keys::role_end(), "role")
}

pub(crate) fn put_state(view: &mut Overlay<'_>, state: AuthState) {
    view.put(keys::auth_state(), state.encode_to_vec().into());
}

pub(crate) fn put_user(view: &mut Overlay<'_>, user: &UserRecord) {
    view.put(keys::user(&user.name), user.encode_to_vec().into());
}

pub(crate) fn delete_user(view: &mut Overlay<'_>, name: &str) {
    view.delete(keys::user(name));
}

pub(crate) fn put_role(view: &mut Overlay<'_>, role: &RoleRecord) {
    view.put(keys::role(&role.name), role.encode_to_vec().into());
}

pub(crate) fn delete_role(view: &mut Overlay<'_>, name: &str) {
    view.delete(keys::role(name));
}

fn all<T: Message + Default>(
    view: &dyn View,
    start: &[u8],
    end: &[u8],
    what: &'static str,
) -> Result<Vec<T>, Fault> {
    view.scan(start, end, Direction::Forward).map(|pair| decode(what, pair?.1)).collect()
}

fn decode<T: Message + Default>(what: &'static str, stored: Bytes) -> Result<T, Fault> {
    T::decode(stored).map_err(|error| Fault::Undecodable { what, source: Some(error) })
}
