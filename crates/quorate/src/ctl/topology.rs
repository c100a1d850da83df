//! `topology`: the members of a cluster as a tree.

use clap::Args;

use super::cluster::Look;
use super::list::{Repeat, show};
use super::output::Format;
use super::{Context, Outcome};

/// Arguments of `topology`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Clusters; by default the one of the configuration, or the only one there is
    clusters: Vec<String>,
    #[command(flatten)]
    repeat: Repeat,
    /// How to print it
    #[arg(short, long, value_enum, default_value = "pretty")]
    format: Format,
}

impl Arguments {
    /// Does it.
    ///
    /// # Errors
    /// See [`super::Failure`].
    pub async fn run(&self, context: &Context) -> Outcome {
        let look = Look { format: self.format, extended: false, topology: true };
        show(context, &self.clusters, look, false, self.repeat.period()).await
    }
}
