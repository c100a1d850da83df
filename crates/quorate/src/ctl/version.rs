//! `version`: of this tool, as etcdctl prints it, and of every member when a cluster is named, as patronictl prints it.

use clap::Args;
use serde_json::Value;

use super::answer::Unformed;
use super::{Context, Outcome, cluster, output, rest};

/// Arguments of `version`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The cluster whose members are asked
    cluster: Option<String>,
    #[command(flatten)]
    unformed: Unformed,
}

impl Arguments {
    /// Does it.
    ///
    /// # Errors
    /// See [`super::Failure`].
    pub async fn run(&self, context: &Context) -> Outcome {
        self.unformed.check()?;
        output::line(&format!("quoratectl version: {}", env!("CARGO_PKG_VERSION")));
        output::line("API version: 3.5");
        let Some(scope) = &self.cluster else { return Ok(()) };
        let cluster = cluster::read(context, Some(scope)).await?;
        output::line("");
        for member in &cluster.members {
            let Some(api) = member.api() else { continue };
            let said = match rest::get(&api, "/patroni").await {
                Err(failure) => format!("failed to get version: {}", failure.message),
                Ok(answer) => {
                    let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
                    let version =
                        body.pointer("/patroni/version").and_then(Value::as_str).unwrap_or("unknown");
                    let server = body.get("server_version").and_then(Value::as_u64).map_or_else(
                        || "unknown".to_owned(),
                        |number| format!("{}.{}", number / 10_000, number % 10_000),
                    );
                    // What the REST API says is the Patroni release whose behaviour it has.
                    format!("Patroni {version} PostgreSQL {server}")
                }
            };
            output::line(&format!("{}: {said}", member.name));
        }
        Ok(())
    }
}
