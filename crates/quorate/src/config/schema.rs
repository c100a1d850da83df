//! Which keys exist, and what was probably meant by one that does not.
//!
//! Patroni ignores what it does not know, so a slip in the indentation goes unnoticed until the setting is needed: of
//! five field setups two have one (`postgresql:` under `bootstrap:` instead of under `bootstrap.dcs:`, and
//! `recovery_conf:` at the top level). Every key of the file is therefore looked up here. For one that is not known,
//! the likely intention is searched for in this order:
//!
//! 1. a sibling that is spelled almost the same: `lopo_wait` is `loop_wait`;
//! 2. the same key in another place, the one with the longest common path first: `bootstrap.postgresql` is
//!    `bootstrap.dcs.postgresql`;
//! 3. nothing: it is unknown.
//!
//! What Patroni knows and Quorate does not read is no slip: it is in the table with the reason, and the operator reads
//! that reason.

use super::diagnostics::{Report, closest};
use super::yaml::{Node, Value};

/// What happens with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Read as a setting, or a section of settings.
    Read,
    /// Everything beneath is the operator's own.
    Open,
    /// Known from Patroni; has no effect here, for the reason given. A warning.
    Unused(&'static str),
    /// Known from Patroni; something else takes its place. A note.
    Replaced(&'static str),
}

use Use::{Open, Read, Replaced, Unused};

const STORE: &str = "accepted; the store embedded in every node takes its place (see dcs)";
const DRIVER: &str = "there is one driver, the kernel's, ignored";
const NOT_YET: &str = "not supported yet, ignored";
const TLS: &str = "TLS is not supported yet, ignored";
const THREADS: &str = "has no meaning here, ignored";
const SCRIPT: &str = "scripts are not supported yet, ignored";
const LOCAL_SCRIPT: &str = "which programs a node runs is said by its own file only (postgresql.callbacks, pre_promote, before_stop), ignored";
const LOG_FILES: &str =
    "the log goes to standard error; leave files and rotation to the service manager; ignored";
const CLONE: &str =
    "always so: a clone is built beside the data directory and replaces it only when it is complete";
const DYNAMIC_LATER: &str = "kept in the dynamic configuration, without effect yet";

/// Every known key. A section stands before what is in it.
const KNOWN: &[(&str, Use)] = &[
    ("scope", Read),
    ("namespace", Read),
    ("name", Read),
    ("user", Read),
    ("thread_pool_size", Unused(THREADS)),
    ("thread_stack_size", Unused(THREADS)),
    ("restapi", Read),
    ("restapi.listen", Read),
    ("restapi.connect_address", Read),
    ("restapi.authentication", Read),
    ("restapi.authentication.username", Read),
    ("restapi.authentication.password", Read),
    ("restapi.certfile", Unused(TLS)),
    ("restapi.keyfile", Unused(TLS)),
    ("restapi.keyfile_password", Unused(TLS)),
    ("restapi.cafile", Unused(TLS)),
    ("restapi.ciphers", Unused(TLS)),
    ("restapi.verify_client", Unused(TLS)),
    ("restapi.allowlist", Unused(NOT_YET)),
    ("restapi.allowlist_include_members", Unused(NOT_YET)),
    ("restapi.http_extra_headers", Unused(NOT_YET)),
    ("restapi.https_extra_headers", Unused(NOT_YET)),
    ("restapi.request_queue_size", Unused(THREADS)),
    ("restapi.server_tokens", Unused(THREADS)),
    ("restapi.thread_pool_size", Unused(THREADS)),
    ("etcd", Replaced(STORE)),
    ("etcd3", Replaced(STORE)),
    ("zookeeper", Replaced(STORE)),
    ("exhibitor", Replaced(STORE)),
    ("consul", Replaced(STORE)),
    ("raft", Replaced(STORE)),
    ("kubernetes", Unused("Kubernetes as the store is not supported, ignored")),
    ("citus", Unused("Citus is not supported, ignored")),
    ("dcs", Read),
    ("dcs.data_dir", Read),
    ("dcs.listen_peers", Read),
    ("dcs.advertise_peers", Read),
    ("dcs.listen_clients", Read),
    ("dcs.advertise_clients", Read),
    ("dcs.initial_cluster", Read),
    ("dcs.cluster_token", Read),
    ("dcs.initial_cluster_state", Read),
    ("dcs.network", Read),
    ("dcs.heartbeat_interval", Read),
    ("dcs.election_timeout", Read),
    ("dcs.snapshot_count", Read),
    ("dcs.quota_backend_bytes", Read),
    ("dcs.witness", Read),
    ("dcs.cert_file", Read),
    ("dcs.key_file", Read),
    ("dcs.trusted_ca_file", Read),
    ("dcs.client_cert_auth", Read),
    ("dcs.client_crl_file", Read),
    ("dcs.peer_cert_file", Read),
    ("dcs.peer_key_file", Read),
    ("dcs.peer_trusted_ca_file", Read),
    ("dcs.peer_client_cert_auth", Read),
    ("dcs.peer_crl_file", Read),
    ("bootstrap", Read),
    ("bootstrap.dcs", Read),
    ("bootstrap.dcs.preset", Read),
    ("bootstrap.dcs.ttl", Read),
    ("bootstrap.dcs.loop_wait", Read),
    ("bootstrap.dcs.retry_timeout", Read),
    ("bootstrap.dcs.failure_timeout", Read),
    ("bootstrap.dcs.maximum_lag_on_failover", Read),
    ("bootstrap.dcs.maximum_lag_on_syncnode", Unused(DYNAMIC_LATER)),
    ("bootstrap.dcs.max_timelines_history", Unused(DYNAMIC_LATER)),
    ("bootstrap.dcs.primary_start_timeout", Read),
    ("bootstrap.dcs.master_start_timeout", Read),
    ("bootstrap.dcs.primary_stop_timeout", Unused(DYNAMIC_LATER)),
    ("bootstrap.dcs.master_stop_timeout", Unused(DYNAMIC_LATER)),
    ("bootstrap.dcs.synchronous_mode", Read),
    ("bootstrap.dcs.synchronous_mode_strict", Read),
    ("bootstrap.dcs.synchronous_node_count", Read),
    ("bootstrap.dcs.failsafe_mode", Unused(DYNAMIC_LATER)),
    ("bootstrap.dcs.check_timeline", Unused("the timeline is always checked; kept, without effect")),
    ("bootstrap.dcs.pause", Unused(DYNAMIC_LATER)),
    ("bootstrap.dcs.member_slots_ttl", Read),
    ("bootstrap.dcs.slots", Open),
    ("bootstrap.dcs.ignore_slots", Unused(DYNAMIC_LATER)),
    ("bootstrap.dcs.standby_cluster", Unused(DYNAMIC_LATER)),
    ("bootstrap.dcs.postgresql", Read),
    ("bootstrap.dcs.postgresql.use_pg_rewind", Read),
    ("bootstrap.dcs.postgresql.use_slots", Read),
    ("bootstrap.dcs.postgresql.parameters", Open),
    ("bootstrap.dcs.postgresql.pg_hba", Read),
    ("bootstrap.dcs.postgresql.pg_ident", Unused(DYNAMIC_LATER)),
    ("bootstrap.dcs.postgresql.recovery_conf", Unused(DYNAMIC_LATER)),
    ("bootstrap.dcs.postgresql.callbacks", Unused(LOCAL_SCRIPT)),
    ("bootstrap.dcs.postgresql.pre_promote", Unused(LOCAL_SCRIPT)),
    ("bootstrap.dcs.postgresql.before_stop", Unused(LOCAL_SCRIPT)),
    ("bootstrap.initdb", Open),
    ("bootstrap.pg_hba", Read),
    ("bootstrap.method", Unused("only initdb is supported yet, ignored")),
    ("bootstrap.post_bootstrap", Unused(SCRIPT)),
    ("bootstrap.post_init", Unused(SCRIPT)),
    ("bootstrap.users", Unused("gone since Patroni 4: create roles after the bootstrap; ignored")),
    ("postgresql", Read),
    ("postgresql.listen", Read),
    ("postgresql.connect_address", Read),
    ("postgresql.proxy_address", Unused(NOT_YET)),
    ("postgresql.data_dir", Read),
    ("postgresql.config_dir", Unused(NOT_YET)),
    ("postgresql.bin_dir", Read),
    ("postgresql.bin_name", Unused(NOT_YET)),
    ("postgresql.pgpass", Read),
    ("postgresql.authentication", Read),
    ("postgresql.authentication.superuser", Read),
    ("postgresql.authentication.superuser.username", Read),
    ("postgresql.authentication.superuser.password", Read),
    ("postgresql.authentication.replication", Read),
    ("postgresql.authentication.replication.username", Read),
    ("postgresql.authentication.replication.password", Read),
    ("postgresql.authentication.rewind", Read),
    ("postgresql.authentication.rewind.username", Read),
    ("postgresql.authentication.rewind.password", Read),
    ("postgresql.callbacks", Read),
    ("postgresql.callbacks.on_start", Read),
    ("postgresql.callbacks.on_stop", Read),
    ("postgresql.callbacks.on_restart", Read),
    ("postgresql.callbacks.on_reload", Read),
    ("postgresql.callbacks.on_role_change", Read),
    ("postgresql.create_replica_methods", Unused("replicas are cloned by pg_basebackup, ignored")),
    ("postgresql.create_replica_method", Unused("replicas are cloned by pg_basebackup, ignored")),
    ("postgresql.basebackup", Unused(NOT_YET)),
    ("postgresql.parameters", Open),
    ("postgresql.pg_hba", Read),
    ("postgresql.pg_ident", Unused(NOT_YET)),
    ("postgresql.custom_conf", Unused(NOT_YET)),
    ("postgresql.recovery_conf", Unused(NOT_YET)),
    ("postgresql.use_unix_socket", Replaced("the local socket is always used")),
    ("postgresql.use_unix_socket_repl", Unused(NOT_YET)),
    ("postgresql.pg_ctl_timeout", Read),
    (
        "postgresql.use_pg_rewind",
        Unused("belongs to bootstrap.dcs.postgresql (the dynamic configuration), ignored"),
    ),
    (
        "postgresql.use_slots",
        Unused("belongs to bootstrap.dcs.postgresql (the dynamic configuration), ignored"),
    ),
    ("postgresql.remove_data_directory_on_rewind_failure", Replaced(CLONE)),
    ("postgresql.remove_data_directory_on_diverged_timelines", Replaced(CLONE)),
    ("postgresql.pre_promote", Read),
    ("postgresql.before_stop", Read),
    ("tags", Open),
    ("log", Read),
    ("log.level", Read),
    ("log.type", Read),
    ("log.traceback_level", Unused(THREADS)),
    ("log.format", Unused(LOG_FILES)),
    ("log.dateformat", Unused(LOG_FILES)),
    ("log.dir", Unused(LOG_FILES)),
    ("log.file_num", Unused(LOG_FILES)),
    ("log.file_size", Unused(LOG_FILES)),
    ("log.mode", Unused(LOG_FILES)),
    ("log.max_queue_size", Unused(THREADS)),
    ("log.loggers", Unused("use RUST_LOG, ignored")),
    ("log.static_fields", Unused(NOT_YET)),
    ("log.deduplicate_heartbeat_logs", Unused(THREADS)),
    ("guard", Read),
    ("guard.mode", Read),
    ("watchdog", Read),
    ("watchdog.mode", Read),
    ("watchdog.device", Read),
    ("watchdog.safety_margin", Read),
    ("watchdog.driver", Unused(DRIVER)),
    ("ctl", Read),
    ("ctl.authentication", Read),
    ("ctl.authentication.username", Read),
    ("ctl.authentication.password", Read),
    ("ctl.insecure", Unused(TLS)),
    ("ctl.cacert", Unused(TLS)),
    ("ctl.certfile", Unused(TLS)),
    ("ctl.keyfile", Unused(TLS)),
    ("ctl.keyfile_password", Unused(TLS)),
];

/// Two slips seen in the field, with what their writers lost by them.
const CONSEQUENCES: &[(&str, &str)] = &[
    (
        "bootstrap.postgresql",
        " (one level of indentation is missing: the new cluster would start without these settings)",
    ),
    ("recovery_conf", " (a restore_command written here is never used)"),
];

/// Looks every key of the file up.
pub fn check(root: &Node, report: &mut Report) {
    descend(root, "", report);
}

fn descend(node: &Node, parent: &str, report: &mut Report) {
    let Value::Map(entries) = &node.value else { return };
    for entry in entries {
        let path = if parent.is_empty() { entry.key.clone() } else { format!("{parent}.{}", entry.key) };
        match KNOWN.iter().find(|(known, _)| *known == path).map(|(_, usage)| *usage) {
            Some(Read) => descend(&entry.node, &path, report),
            Some(Open) => {}
            Some(Unused(reason)) => report.warning(entry.origin.clone(), path, reason),
            Some(Replaced(reason)) => report.note(entry.origin.clone(), path, reason),
            None => {
                let beneath = match &entry.node.value {
                    Value::Map(_) => ", ignored with everything beneath it",
                    Value::Null
                    | Value::Bool(_)
                    | Value::Integer(_)
                    | Value::Float(_)
                    | Value::String(_)
                    | Value::List(_) => ", ignored",
                };
                let meant = intention(parent, &entry.key).map(|key| format!("; did you mean {key}?"));
                let lost = CONSEQUENCES.iter().find(|(slip, _)| *slip == path).map_or("", |(_, lost)| lost);
                let message = format!("unknown key{beneath}{}{lost}", meant.unwrap_or_default());
                report.warning(entry.origin.clone(), path, message);
            }
        }
    }
}

fn intention(parent: &str, key: &str) -> Option<String> {
    let siblings = KNOWN.iter().filter_map(|(path, _)| match path.rsplit_once('.') {
        Some((section, name)) => (section == parent).then_some(name),
        None => parent.is_empty().then_some(*path),
    });
    if let Some(sibling) = closest(key, siblings) {
        return Some(if parent.is_empty() { sibling.to_owned() } else { format!("{parent}.{sibling}") });
    }
    // The longest common way from the root; of equally near ones the shortest path.
    let nearness = |path: &str| {
        let shared = path.split('.').zip(parent.split('.')).take_while(|(a, b)| a == b).count();
        (shared, std::cmp::Reverse(path.len()))
    };
    KNOWN
        .iter()
        .map(|(path, _)| *path)
        .filter(|path| path.rsplit('.').next() == Some(key))
        .max_by_key(|path| nearness(path))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::Settings;

    #[test]
    fn every_setting_is_a_known_key() {
        fn walk(value: &serde_json::Value, path: &str) {
            let Some(object) = value.as_object() else { return };
            for (key, value) in object {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match KNOWN.iter().find(|(known, _)| *known == path) {
                    Some((_, Read)) => walk(value, &path),
                    Some((_, Open)) => {}
                    other => panic!("{path} is a setting, but the table says {other:?}"),
                }
            }
        }
        walk(&serde_json::to_value(Settings::default()).unwrap(), "");
    }

    #[test]
    fn every_key_stands_in_a_known_section() {
        for (path, _) in KNOWN {
            if let Some((section, _)) = path.rsplit_once('.') {
                assert!(KNOWN.contains(&(section, Read)), "{path}");
            }
        }
    }
}
