//! `forecast`: if the primary died now, who would take over, in how long, with how many bytes at risk, and what is in the way.
//!
//! A member makes it from what it sees (`GET /forecast`): the primary is asked first, then the others, since what counts is in
//! the store and everybody reads it.

use clap::Args;
use comfy_table::CellAlignment::{Left, Right};
use serde_json::Value;

use super::cluster::{self, Cluster};
use super::output::{self, Format};
use super::{Context, Failure, Outcome, rest, table};

/// Arguments of `forecast`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The cluster; by default the one of the configuration, or the only one there is
    cluster: Option<String>,
    /// How to print it
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
        let document = ask(&cluster).await?;
        output::line(&match self.format {
            Format::Json => output::python_json(&document),
            Format::Yaml => output::yaml(&document),
            Format::Tsv => candidates(&document),
            Format::Pretty => {
                let mut lines = sentences(&document);
                lines.push(presets(&document));
                lines.join("\n")
            }
        });
        Ok(())
    }
}

/// The first member's answer.
///
/// # Errors
/// No member answered; the last one's trouble is told.
pub async fn ask(cluster: &Cluster) -> Result<Value, Failure> {
    let mut trouble = Failure::new(format!("cluster {} has no members to ask", cluster.scope));
    for (name, api) in cluster.apis() {
        match rest::get(&api, "/forecast").await {
            Ok(answer) if answer.status == 200 => match serde_json::from_str(&answer.body) {
                Ok(document) => return Ok(document),
                Err(error) => trouble = Failure::new(format!("{name} answered what is no JSON: {error}")),
            },
            Ok(answer) => {
                trouble = Failure::new(format!("{name} answered {}: {}", answer.status, answer.body))
            }
            Err(failure) => trouble = failure,
        }
    }
    Err(trouble)
}

/// What it says to people.
#[must_use]
pub fn sentences(document: &Value) -> Vec<String> {
    let lines = document["sentences"].as_array();
    lines.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn candidates(document: &Value) -> String {
    let text = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let columns = ["node", "wins", "lag_bytes", "why"];
    let rows = document.pointer("/forecast/candidates").and_then(Value::as_array);
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .flatten()
        .map(|candidate| columns.iter().map(|column| text(&candidate[*column])).collect())
        .collect();
    table::tsv(&columns, &rows)
}

/// The table of presets: seconds, in a synchronous mode and asynchronous.
fn presets(document: &Value) -> String {
    let seconds = |value: &Value| value.as_f64().map_or("?".to_owned(), |seconds| format!("{seconds} s"));
    let rows: Vec<&Value> = document["presets"].as_array().into_iter().flatten().collect();
    let mut columns =
        vec![("Preset", Left), ("ttl", Right), ("failure_timeout", Right), ("Longest stall", Right)];
    let events: Vec<&str> = rows
        .first()
        .and_then(|row| row["gaps"].as_array())
        .into_iter()
        .flatten()
        .filter_map(|gap| gap["event"].as_str())
        .collect();
    columns.extend(events.iter().map(|event| (*event, Right)));
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let mut cells = vec![row["preset"].as_str().unwrap_or("?").to_owned()];
            cells.extend(["ttl_s", "failure_timeout_s", "tolerated_stall_s"].map(|name| seconds(&row[name])));
            let gaps = row["gaps"].as_array().into_iter().flatten();
            cells.extend(gaps.map(|gap| {
                let (bound, free) = (seconds(&gap["synchronous_s"]), seconds(&gap["asynchronous_s"]));
                if bound == free { bound } else { format!("{bound} / {free}") }
            }));
            cells
        })
        .collect();
    format!(
        "Presets, with the gap of writes to expect (in a synchronous mode / asynchronous):\n{}",
        table::patronictl(None, &columns, &cells)
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn presets_are_a_table_and_candidates_are_rows() {
        let document = json!({
            "sentences": ["If n1 died now, n2 would take over."],
            "forecast": {"candidates": [{"node": "n2", "wins": true, "lag_bytes": 0, "why": "\"the best\""}]},
            "presets": [{"preset": "fast", "ttl_s": 2.0, "failure_timeout_s": 1.0, "tolerated_stall_s": 0.8,
                "gaps": [{"event": "node killed", "synchronous_s": 1.1, "asynchronous_s": 2.5}]}],
        });
        assert_eq!(sentences(&document), ["If n1 died now, n2 would take over."]);
        assert_eq!(candidates(&document), "node\twins\tlag_bytes\twhy\nn2\ttrue\t0\t\"the best\"");
        assert!(
            presets(&document).contains("| fast   | 2 s |             1 s |         0.8 s | 1.1 s / 2.5 s |")
        );
    }
}
