//! From [`Settings`] to what `pg` and `agent` are started with. Reads the system (users, programs) and changes nothing,
//! except for [`prepare`], which makes the directory that the data directory will lie in.

use std::net::ToSocketAddrs as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use quorate_agent::callbacks::Scripts;
use quorate_agent::config::{MARGIN, STOP_BUDGET};
use quorate_agent::watchdog::{self, WatchdogConfig};
use quorate_agent::{AgentConfig, GuardConfig, Hook, RestConfig, guard};
use quorate_ha::facts::Endpoint;
use quorate_pg::{BootstrapOptions, Instance, InstanceConfig, RunAs};

use crate::config::settings::{
    Callbacks, CommandLine, Credentials, HostPort, LayerMode, Postgresql, SafetyMargin, Settings, Watchdog,
};
use crate::process::chain;

/// The local PostgreSQL, as `pg` wants to know it.
///
/// # Errors
/// A sentence with the remedy: no such user, no PostgreSQL here.
pub fn instance_config(settings: &Settings) -> Result<InstanceConfig, String> {
    let postgresql = &settings.postgresql;
    find_postgres(&postgresql.bin_dir)?;
    let mut config = InstanceConfig::new(
        &settings.scope,
        &settings.name,
        &postgresql.data_dir,
        Endpoint { host: postgresql.connect_address.host.clone(), port: postgresql.connect_address.port },
    );
    config.bin_dir.clone_from(&postgresql.bin_dir);
    config.listen_addresses = listen_addresses(&postgresql.listen);
    config.port = postgresql.listen.port;
    config.unix_socket_dir = socket_dir(settings);
    config.superuser = role(&postgresql.authentication.superuser);
    config.replication = role(&postgresql.authentication.replication);
    config.rewind = postgresql.authentication.rewind.as_ref().map(role);
    config.parameters.clone_from(&postgresql.parameters);
    config.pg_hba.clone_from(&postgresql.pg_hba);
    config.pgpass.clone_from(&postgresql.pgpass);
    config.run_as = run_as(&settings.user)?;
    config.pg_ctl_timeout = postgresql.pg_ctl_timeout;
    Ok(config)
}

/// The agent's own half.
#[must_use]
pub fn agent_config(settings: &Settings, on_reload: Hook) -> AgentConfig {
    let address = |address: &HostPort| address.to_string();
    let authentication = settings.restapi.authentication.as_ref().and_then(|credentials| {
        let password = credentials.password.as_ref()?.0.clone();
        Some(quorate_agent::Credentials { username: credentials.username.clone(), password })
    });
    let mut bootstrap = settings.bootstrap.dcs.to_config();
    // Patroni's old place for the lines of a new cluster: they hold unless the dynamic configuration has its own.
    if let Some(postgresql) = bootstrap.get_mut("postgresql").and_then(serde_json::Value::as_object_mut)
        && !settings.bootstrap.pg_hba.is_empty()
        && !postgresql.contains_key("pg_hba")
    {
        postgresql.insert("pg_hba".to_owned(), settings.bootstrap.pg_hba.clone().into());
    }
    AgentConfig {
        scope: settings.scope.clone(),
        namespace: settings.namespace.clone(),
        name: settings.name.clone(),
        postgresql_address: address(&settings.postgresql.connect_address),
        proxy_address: None,
        rest: RestConfig {
            listen: address(&settings.restapi.listen),
            connect_address: address(&settings.restapi.connect_address),
            authentication,
        },
        tags: tags(settings),
        bootstrap: object(bootstrap),
        bootstrap_options: BootstrapOptions {
            initdb: settings
                .bootstrap
                .initdb
                .iter()
                .map(|option| (option.name.clone(), option.value.clone()))
                .collect(),
            users: Vec::new(),
        },
        guard: GuardConfig { mode: settings.guard.mode.into(), ..GuardConfig::default() },
        watchdog: watchdog_config(&settings.watchdog),
        stop_budget: STOP_BUDGET,
        margin: MARGIN,
        scripts: scripts(&settings.postgresql),
        on_reload: Some(on_reload),
    }
}

fn scripts(postgresql: &Postgresql) -> Scripts {
    let words = |command: &Option<CommandLine>| command.as_ref().map(|command| command.words.clone());
    let Callbacks { on_start, on_stop, on_restart, on_reload, on_role_change } = &postgresql.callbacks;
    Scripts {
        on_start: words(on_start),
        on_stop: words(on_stop),
        on_restart: words(on_restart),
        on_reload: words(on_reload),
        on_role_change: words(on_role_change),
        pre_promote: words(&postgresql.pre_promote),
        before_stop: words(&postgresql.before_stop),
    }
}

fn watchdog_config(section: &Watchdog) -> WatchdogConfig {
    let safety = match section.safety_margin {
        None => watchdog::SAFETY,
        Some(SafetyMargin::HalfOfTtl) => watchdog::Safety::Half,
        Some(SafetyMargin::Before(margin)) => watchdog::Safety::Before(margin),
    };
    WatchdogConfig { mode: section.mode.into(), device: section.device.clone(), safety }
}

impl From<LayerMode> for guard::Mode {
    fn from(mode: LayerMode) -> guard::Mode {
        match mode {
            LayerMode::Off => guard::Mode::Off,
            LayerMode::Automatic => guard::Mode::Automatic,
            LayerMode::Required => guard::Mode::Required,
        }
    }
}

impl From<LayerMode> for watchdog::Mode {
    fn from(mode: LayerMode) -> watchdog::Mode {
        match mode {
            LayerMode::Off => watchdog::Mode::Off,
            LayerMode::Automatic => watchdog::Mode::Automatic,
            LayerMode::Required => watchdog::Mode::Required,
        }
    }
}

/// The tags, as the member key carries them.
#[must_use]
pub fn tags(settings: &Settings) -> serde_json::Map<String, serde_json::Value> {
    object(serde_json::to_value(&settings.tags).unwrap_or_default())
}

fn object(value: serde_json::Value) -> serde_json::Map<String, serde_json::Value> {
    match value {
        serde_json::Value::Object(object) => object,
        serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Number(_)
        | serde_json::Value::String(_)
        | serde_json::Value::Array(_) => serde_json::Map::new(),
    }
}

fn role(credentials: &Credentials) -> quorate_pg::Credentials {
    quorate_pg::Credentials::new(
        &credentials.username,
        credentials.password.as_ref().map(|password| password.0.as_str()),
    )
}

/// PostgreSQL wants `*` where others write `0.0.0.0` for every address of both families; what was written is kept.
fn listen_addresses(listen: &HostPort) -> Vec<String> {
    listen.host.split(',').map(|host| host.trim().to_owned()).filter(|host| !host.is_empty()).collect()
}

/// Whether somebody else has PostgreSQL's port, before an `initdb` is begun for a server that could not start. A server that
/// runs in our own data directory has it rightly: the agent will adopt it. An address that this machine does not have
/// (yet) is PostgreSQL's to judge.
///
/// # Errors
/// The sentence with the address and the remedy.
pub fn check_postgres_port(postgres: &Instance) -> Result<(), String> {
    if postgres.runs().map_err(|error| chain(&error))? {
        return Ok(());
    }
    let config = postgres.config();
    for host in &config.listen_addresses {
        let host = if host == "*" { "0.0.0.0" } else { host.trim_matches(['[', ']']) };
        let Ok(addresses) = (host, config.port).to_socket_addrs() else { continue };
        for address in addresses {
            if let Err(error) = std::net::TcpListener::bind(address)
                && error.kind() == std::io::ErrorKind::AddrInUse
            {
                return Err(format!(
                    "PostgreSQL cannot listen on {address}: the port is in use; stop the process that has it (ss -ltnp) or \
                     set another one in postgresql.listen ({error})"
                ));
            }
        }
    }
    Ok(())
}

/// The first directory of `unix_socket_directories`; relative ones lie in the data directory, as PostgreSQL has it.
fn socket_dir(settings: &Settings) -> PathBuf {
    let wished = settings
        .postgresql
        .parameters
        .get("unix_socket_directories")
        .or_else(|| settings.bootstrap.dcs.postgresql.parameters.get("unix_socket_directories"));
    let first = wished.and_then(|list| list.split(',').map(str::trim).find(|dir| !dir.is_empty()));
    match first {
        None => PathBuf::from("/tmp"),
        Some(dir) if Path::new(dir).is_absolute() => PathBuf::from(dir),
        // The data directory is not there before initdb, and a clone replaces it: its parent holds the socket.
        Some(_) => settings.postgresql.data_dir.parent().unwrap_or(Path::new("/tmp")).to_owned(),
    }
}

fn find_postgres(bin_dir: &Path) -> Result<(), String> {
    if !bin_dir.as_os_str().is_empty() {
        return if bin_dir.join("postgres").exists() {
            Ok(())
        } else {
            Err(format!(
                "postgresql.bin_dir: there is no postgres in {}; install PostgreSQL (Debian: apt install postgresql) \
                 or name another directory",
                bin_dir.display()
            ))
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let found = std::env::split_paths(&path)
        .chain(debian.map(|entry| entry.path().join("bin")))
        .any(|dir| dir.join("postgres").exists());
    if found {
        return Ok(());
    }
    Err("there is no postgres in PATH or in /usr/lib/postgresql; install PostgreSQL (Debian: apt install postgresql) \
         or set postgresql.bin_dir"
        .to_owned())
}

/// The user that PostgreSQL runs as; None when this process is not root and keeps its own.
fn run_as(user: &str) -> Result<Option<RunAs>, String> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let passwd = std::fs::read_to_string("/etc/passwd").map_err(|error| {
        format!("PostgreSQL refuses to run as root, and /etc/passwd cannot be read: {error}")
    })?;
    match find_user(&passwd, user) {
        Some(RunAs { uid: 0, .. }) => Err(format!(
            "PostgreSQL refuses to run as root: name another user than {user:?} in user: or --user"
        )),
        Some(found) => Ok(Some(found)),
        None => Err(format!(
            "PostgreSQL refuses to run as root, and there is no system user {user:?}: name one in user: or --user"
        )),
    }
}

fn find_user(passwd: &str, user: &str) -> Option<RunAs> {
    let line = passwd.lines().find(|line| line.split(':').next() == Some(user))?;
    let mut fields = line.split(':').skip(2);
    let uid = fields.next()?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(RunAs { uid, gid })
}

/// Makes the directory that the data directory (and a clone beside it) will lie in, owned by PostgreSQL's user.
///
/// # Errors
/// A sentence with the path.
pub fn prepare(config: &InstanceConfig) -> Result<(), String> {
    let Some(parent) = config.data_dir.parent().filter(|parent| !parent.exists()) else { return Ok(()) };
    let failed = |error: std::io::Error| format!("{}: cannot be made: {error}", parent.display());
    std::fs::create_dir_all(parent).map_err(failed)?;
    std::fs::set_permissions(parent, std::fs::Permissions::from_mode(0o755)).map_err(failed)?;
    if let Some(user) = config.run_as {
        std::os::unix::fs::chown(parent, Some(user.uid), Some(user.gid)).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        crate::config::load(text, std::iter::empty()).0
    }

    #[test]
    fn the_user_is_found_by_name() {
        let passwd = "root:x:0:0::/root:/bin/sh\npostgres:x:106:113:,,,:/var/lib/postgresql:/bin/bash\n";
        assert_eq!(find_user(passwd, "postgres"), Some(RunAs { uid: 106, gid: 113 }));
        assert_eq!(find_user(passwd, "post"), None);
    }

    #[test]
    fn sockets_lie_where_the_server_will_find_them() {
        let with = |dirs: &str| {
            let text = format!(
                "postgresql: {{data_dir: /srv/pg/data, parameters: {{unix_socket_directories: '{dirs}'}}}}\n"
            );
            socket_dir(&settings(&text))
        };
        assert_eq!(with("/run/postgresql, /tmp"), Path::new("/run/postgresql"));
        assert_eq!(with("."), Path::new("/srv/pg"));
        assert_eq!(with(""), Path::new("/tmp"));
    }

    #[test]
    fn old_pg_hba_lines_become_part_of_the_dynamic_configuration() {
        let settings = settings(
            "scope: a\nname: b\nbootstrap: {pg_hba: [host all all all md5], dcs: {ttl: 30}}\ntags: {nofailover: true}\n",
        );
        let config = agent_config(&settings, Hook(std::sync::Arc::new(|| ())));
        assert_eq!(config.bootstrap["postgresql"]["pg_hba"][0], "host all all all md5");
        assert_eq!(config.bootstrap["ttl"], 30);
        assert_eq!(config.tags["nofailover"], true);
    }
}
