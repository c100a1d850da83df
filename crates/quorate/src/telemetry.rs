//! Logs: lowercase messages on standard error, one line each, plain or JSON.
//!
//! `RUST_LOG` wins over `--log-level` wins over the configuration file, because the one who debugs sits at the shell.
//! A log line carries fields (node, term, index, lease, reason, …); values of keys and secrets never are among them.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::settings::LogFormat;

/// Libraries whose chatter at `info` says nothing to an operator; openraft's at `warn` repeats for every attempt what
/// `consensus` says once (peer lost, peer back).
const QUIET: &str = "h2=warn,hyper=warn,tower=warn,tonic=warn,openraft=error,sled=warn,tokio_postgres=warn";

/// Installs the subscriber of the process. Called once, before anything is logged; a second call changes nothing.
pub fn init(level: &str, format: LogFormat) {
    let filter = EnvFilter::try_from_default_env()
        .or_else(|_| EnvFilter::try_new(format!("{level},{QUIET}")))
        .unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // An installed subscriber stays: tests may run in one process.
    let _ = match format {
        LogFormat::Plain => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}
