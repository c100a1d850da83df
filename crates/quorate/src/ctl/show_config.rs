//! `show-config`: the cluster's dynamic configuration, from the `/config` key.

use clap::Args;

use super::output::{self, Format};
use super::{Context, Failure, Outcome, cluster};

/// Arguments of `show-config`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The cluster; by default the one of the configuration, or the only one there is
    cluster: Option<String>,
    /// yaml (as pretty) or json
    #[arg(short, long, value_enum, default_value = "pretty")]
    format: Format,
}

impl Arguments {
    /// Does it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn run(&self, context: &Context) -> Outcome {
        let cluster = cluster::read(context, self.cluster.as_deref()).await?;
        if cluster.config.is_null() {
            return Err(Failure::new(format!("{} has no dynamic configuration yet", cluster.scope)));
        }
        match self.format {
            // patronictl ends its YAML with an empty line.
            Format::Pretty | Format::Yaml => output::line(&output::yaml(&cluster.config)),
            Format::Json => output::line(&output::python_json(&cluster.config)),
            Format::Tsv => return Err(Failure::bad_feature("a configuration has no rows: use yaml or json")),
        }
        Ok(())
    }
}
