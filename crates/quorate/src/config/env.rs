//! `PATRONI_*` and `QUORATE_*` variables: they win over the file.
//!
//! Container images live on them, so the groups that a node needs are read: the name, the scope, the REST API, the
//! local PostgreSQL and the roles; `QUORATE_*` adds the voter's addresses, which Patroni has no word for. Each is written into the tree of the file at the path it stands for, and is then
//! read and judged like any other value; a message names the variable.

use super::diagnostics::{Origin, Report, closest};
use super::yaml::Node;

/// Variable, path in the file.
const VARIABLES: &[(&str, &str)] = &[
    ("PATRONI_NAME", "name"),
    ("PATRONI_SCOPE", "scope"),
    ("PATRONI_NAMESPACE", "namespace"),
    ("PATRONI_RESTAPI_LISTEN", "restapi.listen"),
    ("PATRONI_RESTAPI_CONNECT_ADDRESS", "restapi.connect_address"),
    ("PATRONI_RESTAPI_USERNAME", "restapi.authentication.username"),
    ("PATRONI_RESTAPI_PASSWORD", "restapi.authentication.password"),
    ("PATRONI_RESTAPI_CERTFILE", "restapi.certfile"),
    ("PATRONI_RESTAPI_KEYFILE", "restapi.keyfile"),
    ("PATRONI_RESTAPI_CAFILE", "restapi.cafile"),
    ("PATRONI_RESTAPI_VERIFY_CLIENT", "restapi.verify_client"),
    ("PATRONI_RESTAPI_ALLOWLIST", "restapi.allowlist"),
    ("PATRONI_POSTGRESQL_LISTEN", "postgresql.listen"),
    ("PATRONI_POSTGRESQL_CONNECT_ADDRESS", "postgresql.connect_address"),
    ("PATRONI_POSTGRESQL_PROXY_ADDRESS", "postgresql.proxy_address"),
    ("PATRONI_POSTGRESQL_DATA_DIR", "postgresql.data_dir"),
    ("PATRONI_POSTGRESQL_CONFIG_DIR", "postgresql.config_dir"),
    ("PATRONI_POSTGRESQL_BIN_DIR", "postgresql.bin_dir"),
    ("PATRONI_POSTGRESQL_PGPASS", "postgresql.pgpass"),
    ("PATRONI_SUPERUSER_USERNAME", "postgresql.authentication.superuser.username"),
    ("PATRONI_SUPERUSER_PASSWORD", "postgresql.authentication.superuser.password"),
    ("PATRONI_REPLICATION_USERNAME", "postgresql.authentication.replication.username"),
    ("PATRONI_REPLICATION_PASSWORD", "postgresql.authentication.replication.password"),
    ("PATRONI_REWIND_USERNAME", "postgresql.authentication.rewind.username"),
    ("PATRONI_REWIND_PASSWORD", "postgresql.authentication.rewind.password"),
    ("PATRONI_LOG_LEVEL", "log.level"),
    ("PATRONI_LOG_TYPE", "log.type"),
    ("QUORATE_USER", "user"),
    ("QUORATE_DCS_DATA_DIR", "dcs.data_dir"),
    ("QUORATE_DCS_LISTEN_PEERS", "dcs.listen_peers"),
    ("QUORATE_DCS_ADVERTISE_PEERS", "dcs.advertise_peers"),
    ("QUORATE_DCS_LISTEN_CLIENTS", "dcs.listen_clients"),
    ("QUORATE_DCS_ADVERTISE_CLIENTS", "dcs.advertise_clients"),
    ("QUORATE_DCS_INITIAL_CLUSTER", "dcs.initial_cluster"),
    ("QUORATE_DCS_INITIAL_CLUSTER_STATE", "dcs.initial_cluster_state"),
    ("QUORATE_DCS_CLUSTER_TOKEN", "dcs.cluster_token"),
    ("QUORATE_DCS_CERT_FILE", "dcs.cert_file"),
    ("QUORATE_DCS_KEY_FILE", "dcs.key_file"),
    ("QUORATE_DCS_TRUSTED_CA_FILE", "dcs.trusted_ca_file"),
    ("QUORATE_DCS_CLIENT_CERT_AUTH", "dcs.client_cert_auth"),
    ("QUORATE_DCS_CLIENT_CRL_FILE", "dcs.client_crl_file"),
    ("QUORATE_DCS_PEER_CERT_FILE", "dcs.peer_cert_file"),
    ("QUORATE_DCS_PEER_KEY_FILE", "dcs.peer_key_file"),
    ("QUORATE_DCS_PEER_TRUSTED_CA_FILE", "dcs.peer_trusted_ca_file"),
    ("QUORATE_DCS_PEER_CLIENT_CERT_AUTH", "dcs.peer_client_cert_auth"),
    ("QUORATE_DCS_PEER_CRL_FILE", "dcs.peer_crl_file"),
];

/// Groups that Patroni reads and that another part of Quorate takes the place of.
const REPLACED: &[&str] = &["ETCD", "CONSUL", "ZOOKEEPER", "EXHIBITOR", "RAFT"];

/// Writes the variables into the tree. `PATRONI_CONFIGURATION` holds a whole file and is handled by the caller.
pub fn overlay(variables: impl Iterator<Item = (String, String)>, root: &mut Node, report: &mut Report) {
    for (name, value) in variables {
        let Some(short) = name.strip_prefix("PATRONI_").or_else(|| name.strip_prefix("QUORATE_")) else {
            continue;
        };
        // An empty variable is how compose files say "not set".
        if name == "PATRONI_CONFIGURATION" || value.is_empty() {
            continue;
        }
        let origin = Origin::Variable(name.clone());
        if let Some((_, path)) = VARIABLES.iter().find(|(variable, _)| *variable == name) {
            let path: Vec<&str> = path.split('.').collect();
            root.set(&path, Node::text(&value, origin));
        } else if REPLACED.iter().any(|group| short.starts_with(group)) {
            report.note(origin, "", "accepted; the store embedded in every node takes its place (see dcs)");
        } else {
            let meant = closest(&name, VARIABLES.iter().map(|(variable, _)| *variable))
                .map(|variable| format!("; did you mean {variable}?"));
            report.warning(origin, "", format!("unknown variable, ignored{}", meant.unwrap_or_default()));
        }
    }
}
