//! `PATRONI_*` variables: they win over the file.
//!
//! Container images live on them, so the groups that a node needs are read: the name, the scope, the REST API, the
//! local PostgreSQL and the roles. Each is written into the tree of the file at the path it stands for, and is then
//! read and judged like any other value; a message names the variable.

use super::diagnostics::{Origin, Report, closest};
use super::yaml::Node;

/// Variable without `PATRONI_`, path in the file.
const VARIABLES: &[(&str, &str)] = &[
    ("NAME", "name"),
    ("SCOPE", "scope"),
    ("NAMESPACE", "namespace"),
    ("RESTAPI_LISTEN", "restapi.listen"),
    ("RESTAPI_CONNECT_ADDRESS", "restapi.connect_address"),
    ("RESTAPI_USERNAME", "restapi.authentication.username"),
    ("RESTAPI_PASSWORD", "restapi.authentication.password"),
    ("RESTAPI_CERTFILE", "restapi.certfile"),
    ("RESTAPI_KEYFILE", "restapi.keyfile"),
    ("RESTAPI_CAFILE", "restapi.cafile"),
    ("RESTAPI_VERIFY_CLIENT", "restapi.verify_client"),
    ("RESTAPI_ALLOWLIST", "restapi.allowlist"),
    ("POSTGRESQL_LISTEN", "postgresql.listen"),
    ("POSTGRESQL_CONNECT_ADDRESS", "postgresql.connect_address"),
    ("POSTGRESQL_PROXY_ADDRESS", "postgresql.proxy_address"),
    ("POSTGRESQL_DATA_DIR", "postgresql.data_dir"),
    ("POSTGRESQL_CONFIG_DIR", "postgresql.config_dir"),
    ("POSTGRESQL_BIN_DIR", "postgresql.bin_dir"),
    ("POSTGRESQL_PGPASS", "postgresql.pgpass"),
    ("SUPERUSER_USERNAME", "postgresql.authentication.superuser.username"),
    ("SUPERUSER_PASSWORD", "postgresql.authentication.superuser.password"),
    ("REPLICATION_USERNAME", "postgresql.authentication.replication.username"),
    ("REPLICATION_PASSWORD", "postgresql.authentication.replication.password"),
    ("REWIND_USERNAME", "postgresql.authentication.rewind.username"),
    ("REWIND_PASSWORD", "postgresql.authentication.rewind.password"),
    ("LOG_LEVEL", "log.level"),
    ("LOG_TYPE", "log.type"),
];

/// Groups that Patroni reads and that another part of Quorate takes the place of.
const REPLACED: &[&str] = &["ETCD", "CONSUL", "ZOOKEEPER", "EXHIBITOR", "RAFT"];

/// Writes the variables into the tree. `PATRONI_CONFIGURATION` holds a whole file and is handled by the caller.
pub fn overlay(variables: impl Iterator<Item = (String, String)>, root: &mut Node, report: &mut Report) {
    for (name, value) in variables {
        let Some(short) = name.strip_prefix("PATRONI_") else { continue };
        // An empty variable is how compose files say "not set".
        if short == "CONFIGURATION" || value.is_empty() {
            continue;
        }
        let origin = Origin::Variable(name.clone());
        if let Some((_, path)) = VARIABLES.iter().find(|(variable, _)| *variable == short) {
            let path: Vec<&str> = path.split('.').collect();
            root.set(&path, Node::text(&value, origin));
        } else if REPLACED.iter().any(|group| short.starts_with(group)) {
            report.note(origin, "", "accepted; the store embedded in every node takes its place (see dcs)");
        } else {
            let meant = closest(short, VARIABLES.iter().map(|(variable, _)| *variable))
                .map(|variable| format!("; did you mean PATRONI_{variable}?"));
            report.warning(origin, "", format!("unknown variable, ignored{}", meant.unwrap_or_default()));
        }
    }
}
