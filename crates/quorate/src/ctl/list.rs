//! `list`: the members of a cluster, as patronictl prints them.

use std::time::Duration;

use clap::Args;

use super::cluster::{self, Look};
use super::output::{self, Format};
use super::{Context, Outcome};

/// Arguments of `list`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Clusters; by default the one of the configuration, or the only one there is
    clusters: Vec<String>,
    /// Show every column
    #[arg(short, long)]
    extended: bool,
    /// Print the time above the table
    #[arg(short, long)]
    timestamp: bool,
    #[command(flatten)]
    repeat: Repeat,
    /// How to print it
    #[arg(short, long, value_enum, default_value = "pretty")]
    format: Format,
}

/// Printing again and again.
#[derive(Debug, Args)]
pub struct Repeat {
    /// Again every so many seconds
    #[arg(short, long, value_name = "SECONDS")]
    watch: Option<f64>,
    /// Again every two seconds
    #[arg(short = 'W')]
    every_two_seconds: bool,
}

impl Repeat {
    /// None: once.
    #[must_use]
    pub fn period(&self) -> Option<Duration> {
        let seconds = self.watch.or(self.every_two_seconds.then_some(2.0))?;
        Some(Duration::from_secs_f64(if seconds.is_finite() { seconds.clamp(0.1, 86_400.0) } else { 2.0 }))
    }
}

impl Arguments {
    /// Does it.
    ///
    /// # Errors
    /// See [`super::Failure`].
    pub async fn run(&self, context: &Context) -> Outcome {
        let look = Look { format: self.format, extended: self.extended, topology: false };
        show(context, &self.clusters, look, self.timestamp, self.repeat.period()).await
    }
}

/// Prints clusters, once or until interrupted.
///
/// # Errors
/// See [`super::Failure`].
pub async fn show(
    context: &Context,
    scopes: &[String],
    look: Look,
    timestamp: bool,
    period: Option<Duration>,
) -> Outcome {
    loop {
        if let Some(_period) = period {
            // Clear the screen and go to its first line, so that the table stands still.
            output::line("\x1b[2J\x1b[H");
        }
        if timestamp && look.format == Format::Pretty {
            output::line(&jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S").to_string());
        }
        if scopes.is_empty() {
            output::line(&cluster::render(&cluster::read(context, None).await?, look));
        }
        for scope in scopes {
            output::line(&cluster::render(&cluster::read(context, Some(scope)).await?, look));
        }
        let Some(period) = period else { return Ok(()) };
        tokio::select! {
            () = tokio::time::sleep(period) => {}
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}
