//! The command line of `quorate`.
//!
//! Exit codes: 0 asked to stop (or the configuration is valid), 1 the node failed, 2 the configuration or the command
//! line is wrong; nothing has been changed then.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use quorate_drill::demo::{self, DemoArgs};

use crate::config::diagnostics::{Report, Severity};
use crate::config::etcd_flags::{self, Request};
use crate::config::settings::{LogFormat, Settings};
use crate::ctl::output;
use crate::run::Source;
use crate::{config, telemetry};

/// The configuration is wrong.
pub const EXIT_CONFIGURATION: u8 = 2;

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "quorate",
    version,
    about = "High availability for PostgreSQL with its own consensus inside"
)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Keep one PostgreSQL highly available: a voter of the store and its agent
    Run(Run),
    /// Serve the store alone, with etcd's flags and variables
    #[command(disable_help_flag = true)]
    Store {
        /// See `quorate store --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Started by `run`: stops PostgreSQL when its lease runs out and `run` cannot
    #[command(hide = true, disable_help_flag = true)]
    Guard {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Build a cluster on this machine, take its primary's node away, and count what was lost
    Demo(DemoArgs),
    /// The same stories as fault drills, in rounds and with a report; the table of all of them; a soak; chaos
    Drill(DemoArgs),
}

#[derive(Debug, Args)]
struct Run {
    /// A Patroni file with a `dcs:` section; without it `PATRONI_CONFIGURATION` holds its text
    file: Option<PathBuf>,
    /// Say what is wrong with the configuration and stop there
    #[arg(long, visible_alias = "validate-config")]
    check: bool,
    /// Print the configuration that would be used (passwords hidden) and stop there
    #[arg(long, value_enum, num_args = 0..=1, default_missing_value = "yaml", value_name = "FORMAT")]
    print_config: Option<PrintFormat>,
    /// What has no effect is an error
    #[arg(long)]
    strict: bool,
    /// PostgreSQL's system user when this is started as root [default: postgres]
    #[arg(long)]
    user: Option<String>,
    /// debug, info, warn or error; RUST_LOG wins over it
    #[arg(long)]
    log_level: Option<String>,
    /// plain or json
    #[arg(long, value_enum)]
    log_format: Option<LogFormat>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PrintFormat {
    Yaml,
    Json,
}

impl Cli {
    /// Does it.
    pub fn run(self) -> ExitCode {
        match self.verb {
            Verb::Run(run) => run.run(),
            Verb::Store { arguments } => store(&arguments),
            Verb::Guard { arguments } => crate::guard::run(&arguments),
            Verb::Demo(arguments) => block_on(drill(arguments, demo::Verb::Demo)),
            Verb::Drill(arguments) => block_on(drill(arguments, demo::Verb::Drill)),
        }
    }
}

impl Run {
    fn run(self) -> ExitCode {
        let (name, text) = match self.text() {
            Ok(found) => found,
            Err(sentence) => {
                output::complain(&sentence);
                return ExitCode::from(EXIT_CONFIGURATION);
            }
        };
        let (mut settings, mut report) = config::load(&text, std::env::vars());
        if self.strict {
            report.make_strict();
        }
        if report.has_errors() {
            output::complain(report.render(&name).trim_end());
            return ExitCode::from(EXIT_CONFIGURATION);
        }
        self.override_by_flags(&mut settings);
        if self.check || self.print_config.is_some() {
            return self.checked(&name, &settings, &report);
        }
        telemetry::init(&settings.log.level, settings.log.format);
        announce(&name, &report);
        let source = Source { file: self.file };
        block_on(crate::run::run(&settings, &source))
    }

    fn text(&self) -> Result<(String, String), String> {
        match &self.file {
            Some(path) => std::fs::read_to_string(path)
                .map(|text| (path.display().to_string(), text))
                .map_err(|error| format!("{}: error: cannot be read: {error}", path.display())),
            None => std::env::var("PATRONI_CONFIGURATION")
                .map(|text| ("PATRONI_CONFIGURATION".to_owned(), text))
                .map_err(|_| "error: name a configuration file: quorate run FILE.yml".to_owned()),
        }
    }

    fn override_by_flags(&self, settings: &mut Settings) {
        if let Some(user) = &self.user {
            settings.user.clone_from(user);
        }
        if let Some(level) = &self.log_level {
            settings.log.level.clone_from(level);
        }
        if let Some(format) = self.log_format {
            settings.log.format = format;
        }
    }

    fn checked(&self, name: &str, settings: &Settings, report: &Report) -> ExitCode {
        let findings = report.render(name);
        if !findings.is_empty() {
            output::complain(findings.trim_end());
        }
        match self.print_config {
            Some(PrintFormat::Yaml) => {
                output::line(serde_saphyr::to_string(settings).unwrap_or_default().trim_end());
            }
            Some(PrintFormat::Json) => {
                output::line(&serde_json::to_string_pretty(settings).unwrap_or_default());
            }
            None => output::line(&format!("{name}: the configuration is valid")),
        }
        ExitCode::SUCCESS
    }
}

/// Findings that do not prevent the start go where the log goes.
fn announce(name: &str, report: &Report) {
    for line in report.findings() {
        let text = report.render_one(name, line);
        match line.severity {
            Severity::Note => tracing::info!("{text}"),
            Severity::Warning | Severity::Error => tracing::warn!("{text}"),
        }
    }
}

/// 0: nothing acknowledged was lost. 1: something was, or the story did not come to its end.
async fn drill(arguments: DemoArgs, verb: demo::Verb) -> ExitCode {
    match demo::run(&arguments, verb).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            output::complain(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn store(arguments: &[String]) -> ExitCode {
    let mut report = Report::default();
    let (options, file) = match etcd_flags::parse(arguments, std::env::vars(), &mut report) {
        Request::Help => {
            output::line(etcd_flags::HELP.trim_end());
            return ExitCode::SUCCESS;
        }
        Request::Version => {
            output::line(&format!("quorate store {}", env!("CARGO_PKG_VERSION")));
            return ExitCode::SUCCESS;
        }
        Request::Serve { options, file } => (options, file),
    };
    let file = file.map(|file| file.display().to_string()).unwrap_or_default();
    if report.has_errors() {
        output::complain(report.render(&file).trim_end());
        return ExitCode::from(EXIT_CONFIGURATION);
    }
    telemetry::init(&options.log_level, options.log_format);
    if !file.is_empty() {
        tracing::info!(
            file,
            "the configuration is read from a file alone; other flags and variables are ignored"
        );
    }
    announce(&file, &report);
    block_on(crate::store::serve(&options))
}

/// Threads for network and timers. The store's log, its state machine and the fence have threads of their own, so a few
/// are enough, and an idle node stays small.
const WORKERS: usize = 4;

/// For threads that are about to end, after the task has ended.
const LINGER: Duration = Duration::from_secs(1);

fn block_on(task: impl Future<Output = ExitCode>) -> ExitCode {
    let workers = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, WORKERS);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_name("quorate")
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(task);
            // Everything that must be on disk is there by now. A thread that still waits for a disk that has failed (sled
            // waits for ever after an error) must not keep the process, and with it the ports and the directory.
            runtime.shutdown_timeout(LINGER);
            code
        }
        Err(error) => {
            tracing::error!(%error, "the runtime did not start");
            ExitCode::FAILURE
        }
    }
}
