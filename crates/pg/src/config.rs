//! What an instance is made of: the local half of the `postgresql` section, and the settings the cluster agrees on.
//!
//! Two structs because they change at different times. [`InstanceConfig`] comes from this node's file and holds for the
//! life of the process. [`Settings`] comes from the `/config` key, may change at any moment, and is written out anew by
//! [`crate::Instance::configure`]. Parameters that must be equal on all nodes are taken from the second one only.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate_ha::facts::Endpoint;

/// The local, constant half.
#[derive(Debug, Clone)]
pub struct InstanceConfig {
    /// The cluster's name; becomes `cluster_name`.
    pub scope: String,
    /// This member's name; becomes the `application_name` of its WAL receiver, which is what
    /// `synchronous_standby_names` lists.
    pub name: String,
    /// `PGDATA`. Its parent must be writable: a clone grows beside it.
    pub data_dir: PathBuf,
    /// Where `postgres`, `initdb`, `pg_ctl`, `pg_basebackup` and `pg_rewind` are. Empty: found on `PATH`.
    pub bin_dir: PathBuf,
    /// `listen_addresses`, one host or address each.
    pub listen_addresses: Vec<String>,
    /// `port`.
    pub port: u16,
    /// How other members reach this instance.
    pub connect_address: Endpoint,
    /// Directory of the local socket, for the agent's own connections. It must be writable by the server's user.
    pub unix_socket_dir: PathBuf,
    /// The superuser that `initdb` creates and that the agent uses locally.
    pub superuser: Credentials,
    /// For streaming and for `pg_basebackup`.
    pub replication: Credentials,
    /// For `pg_rewind`; None: the superuser.
    pub rewind: Option<Credentials>,
    /// Local parameters (`postgresql.parameters`). Those that the cluster must agree on are ignored here.
    pub parameters: BTreeMap<String, String>,
    /// Lines of `pg_hba.conf`; empty: those of [`Settings`], and without any, a sane default.
    pub pg_hba: Vec<String>,
    /// Lines of `pg_ident.conf`; empty: the file is left alone.
    pub pg_ident: Vec<String>,
    /// The password file that is generated for `primary_conninfo` and the client tools, mode 0600. Not inside the data
    /// directory.
    pub pgpass: PathBuf,
    /// The log of the postmaster, as far as `logging_collector` does not take it over.
    pub log_file: PathBuf,
    /// The user that PostgreSQL runs as when this process is root; required then, ignored otherwise.
    pub run_as: Option<RunAs>,
    /// Longest wait for a start, a promotion or a fast stop before the caller gets an answer (`pg_ctl_timeout`).
    pub pg_ctl_timeout: Duration,
    /// Extra options of `pg_basebackup` (`postgresql.basebackup`), as `--name=value` or `--name`.
    pub basebackup_options: Vec<String>,
}

impl InstanceConfig {
    /// A configuration with Patroni's defaults around what has no default.
    #[must_use]
    pub fn new(scope: &str, name: &str, data_dir: &Path, connect_address: Endpoint) -> InstanceConfig {
        InstanceConfig {
            scope: scope.to_owned(),
            name: name.to_owned(),
            data_dir: data_dir.to_owned(),
            bin_dir: PathBuf::new(),
            listen_addresses: vec![connect_address.host.clone()],
            port: connect_address.port,
            connect_address,
            unix_socket_dir: PathBuf::from("/tmp"),
            superuser: Credentials::new("postgres", None),
            replication: Credentials::new("replicator", None),
            rewind: None,
            parameters: BTreeMap::new(),
            pg_hba: Vec::new(),
            pg_ident: Vec::new(),
            pgpass: beside(data_dir, ".pgpass"),
            log_file: beside(data_dir, ".log"),
            run_as: None,
            pg_ctl_timeout: Duration::from_secs(60),
            basebackup_options: Vec::new(),
        }
    }

    /// Whom `pg_rewind` connects as.
    #[must_use]
    pub fn rewind_user(&self) -> &Credentials {
        self.rewind.as_ref().unwrap_or(&self.superuser)
    }
}

/// `path` with `suffix` appended to its last component: a neighbour on the same file system, so that a rename is atomic.
#[must_use]
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(suffix);
    path.with_file_name(name)
}

/// A role and its password. `Debug` does not show the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Role name.
    pub username: String,
    /// Password; None: `pg_hba.conf` must let it in without.
    pub password: Option<String>,
}

impl Credentials {
    /// A role and its password.
    #[must_use]
    pub fn new(username: &str, password: Option<&str>) -> Credentials {
        Credentials { username: username.to_owned(), password: password.map(str::to_owned) }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// An unprivileged user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunAs {
    /// User id, not 0.
    pub uid: u32,
    /// Its primary group.
    pub gid: u32,
}

/// What the cluster agrees on (`/config`, section `postgresql`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// `postgresql.parameters`.
    pub parameters: BTreeMap<String, String>,
    /// `postgresql.pg_hba`; the local list wins if it has lines.
    pub pg_hba: Vec<String>,
    /// `postgresql.pg_ident`; the local list wins if it has lines.
    pub pg_ident: Vec<String>,
}

/// How a new cluster is made (`bootstrap` in the file).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BootstrapOptions {
    /// Options of `initdb` without the leading dashes, in Patroni's list form: `("encoding", Some("UTF8"))`,
    /// `("data-checksums", None)`.
    pub initdb: Vec<(String, Option<String>)>,
    /// More roles to create: name, password, options such as `CREATEDB`.
    pub users: Vec<BootstrapUser>,
}

/// A role to create at bootstrap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootstrapUser {
    /// Name and password.
    pub credentials: Credentials,
    /// Words after `CREATE ROLE name WITH LOGIN`: letters and underscores only, such as `CREATEDB`.
    pub options: Vec<String>,
}
