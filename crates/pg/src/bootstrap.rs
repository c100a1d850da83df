//! A new cluster: `initdb` beside, rename, start, roles.
//!
//! Only where there is nothing: missing or empty. The directory appears under its own name when `initdb` has finished and synced it; if
//! what follows fails, it is moved away to `.failed` for the operator to look at, so that the next attempt finds nothing again. It has never
//! been anybody's good copy: nobody knows its system identifier yet.

use std::ffi::OsString;
use std::fs;
use std::time::Duration;

use quorate_ha::StopMode;
use quorate_ha::facts::DataDirectory;

use crate::command::Run;
use crate::config::{BootstrapOptions, Credentials, beside};
use crate::data_dir::Paths;
use crate::error::Error;
use crate::files;
use crate::instance::Instance;
use crate::session::{Session, identifier, literal};

/// `initdb` syncs a few thousand small files.
const INITDB_DEADLINE: Duration = Duration::from_secs(120);
const ROLE_DEADLINE: Duration = Duration::from_secs(10);

pub(crate) async fn run(instance: &Instance, options: &BootstrapOptions) -> Result<(), Error> {
    let config = instance.config();
    let paths = Paths(config);
    instance.nothing_runs()?;
    match instance.data_directory() {
        DataDirectory::Missing | DataDirectory::Empty => {}
        DataDirectory::Initialised(_) => {
            return Err(instance.wrong_directory("is a data directory already".to_owned()));
        }
        DataDirectory::CloneInProgress => {
            return Err(instance.wrong_directory("has an unfinished clone beside it: clone again".to_owned()));
        }
        DataDirectory::Unreadable { why } => return Err(instance.wrong_directory(why)),
    }
    let fresh = paths.bootstrap();
    files::remove_tree(&fresh)?;
    files::create_dir(&fresh, paths.owner())?;
    let made = initdb(instance, options).await;
    if let Err(error) = made {
        files::remove_tree(&fresh)?;
        return Err(error);
    }
    // A rename replaces an empty directory.
    files::rename(&fresh, &config.data_dir)?;
    let begun = async {
        instance.start_as_primary("").await?;
        create_roles(instance, options).await
    };
    if let Err(error) = begun.await {
        instance.stop(StopMode::Immediate).await?;
        let failed = beside(&config.data_dir, ".failed");
        files::remove_tree(&failed)?;
        files::rename(&config.data_dir, &failed)?;
        files::remove(&paths.primary_marker())?;
        return Err(error);
    }
    Ok(())
}

async fn initdb(instance: &Instance, options: &BootstrapOptions) -> Result<(), Error> {
    let config = instance.config();
    let paths = Paths(config);
    let mut args: Vec<OsString> = vec!["-D".into(), paths.bootstrap().into()];
    args.extend(["-U".into(), (&config.superuser.username).into()]);
    let given = |name: &str| options.initdb.iter().any(|(option, _)| option.trim_start_matches('-') == name);
    if !["auth", "auth-local", "auth-host"].into_iter().any(given) {
        // Replaced by our own rules before the first start; it also makes initdb choose scram for passwords.
        args.push("--auth=scram-sha-256".into());
    }
    let pwfile = beside(&config.data_dir, ".pwfile");
    match &config.superuser.password {
        Some(password) => {
            files::replace(&pwfile, format!("{password}\n").as_bytes(), 0o600, paths.owner())?;
            args.extend(["--pwfile".into(), (&pwfile).into()]);
        }
        // Password methods demand a password at initdb.
        None => args.retain(|argument| argument != "--auth=scram-sha-256"),
    }
    for (name, value) in &options.initdb {
        let name = name.trim_start_matches('-');
        // These are ours: another directory or superuser than configured would be unusable.
        if matches!(name, "pgdata" | "username" | "pwfile" | "pwprompt") {
            continue;
        }
        args.push(match value {
            Some(value) => format!("--{name}={value}").into(),
            None => format!("--{name}").into(),
        });
    }
    let made = Run { config, program: "initdb", args, deadline: INITDB_DEADLINE }.wait().await;
    match fs::remove_file(&pwfile) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            files::failing("cannot remove", &pwfile, Err(error))?;
        }
        Ok(()) | Err(_) => {}
    }
    made?;
    Ok(())
}

async fn create_roles(instance: &Instance, options: &BootstrapOptions) -> Result<(), Error> {
    let config = instance.config();
    // Statements with passwords in them: not into the log.
    let mut sql = "SET log_statement = none; SET log_min_duration_statement = -1; SET log_min_error_statement = panic; "
        .to_owned();
    sql.push_str(&role(&config.replication, "REPLICATION"));
    if let Some(rewind) = &config.rewind
        && rewind.username != config.superuser.username
    {
        sql.push_str(&role(rewind, ""));
        let name = identifier(&rewind.username);
        for function in [
            "pg_ls_dir(text, boolean, boolean)",
            "pg_stat_file(text, boolean)",
            "pg_read_binary_file(text)",
            "pg_read_binary_file(text, bigint, bigint, boolean)",
        ] {
            sql.push_str(&format!("GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {name}; "));
        }
    }
    for user in &options.users {
        if let Some(bad) =
            user.options.iter().find(|word| !word.chars().all(|c| c.is_ascii_alphabetic() || c == '_'))
        {
            return Err(instance.wrong_directory(format!("cannot get a role with the option {bad:?}")));
        }
        sql.push_str(&role(&user.credentials, &user.options.join(" ")));
    }
    let session = Session::local(config, ROLE_DEADLINE).await?;
    session.query("create the roles", &sql, ROLE_DEADLINE).await?;
    Ok(())
}

/// Creates a role, or gives an existing one (the superuser used for replication) its password and options.
fn role(credentials: &Credentials, options: &str) -> String {
    let name = identifier(&credentials.username);
    let password = credentials
        .password
        .as_ref()
        .map(|password| format!(" PASSWORD {}", literal(password)))
        .unwrap_or_default();
    let make = format!("CREATE ROLE {name} WITH LOGIN {options}{password}");
    let change = format!("ALTER ROLE {name} WITH LOGIN {options}{password}");
    format!(
        "DO {}; ",
        literal(&format!(
            "BEGIN IF EXISTS (SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = {}) THEN {change}; ELSE {make}; END IF; END",
            literal(&credentials.username)
        ))
    )
}
