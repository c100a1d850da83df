//! `history`: past changes of the primary, from the `/history` key.

use clap::Args;
use comfy_table::CellAlignment::{Left, Right};
use serde_json::{Map, Value};

use super::output::{self, Format};
use super::{Context, Outcome, cluster, table};

/// Arguments of `history`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The cluster; by default the one of the configuration, or the only one there is
    cluster: Option<String>,
    /// How to print it
    #[arg(short, long, value_enum, default_value = "pretty")]
    format: Format,
}

const COLUMNS: [&str; 5] = ["TL", "LSN", "Reason", "Timestamp", "New Leader"];

impl Arguments {
    /// Does it.
    ///
    /// # Errors
    /// See [`super::Failure`].
    pub async fn run(&self, context: &Context) -> Outcome {
        let cluster = cluster::read(context, self.cluster.as_deref()).await?;
        output::line(&render(&cluster.history, self.format));
        Ok(())
    }
}

fn render(history: &Value, format: Format) -> String {
    let lines: Vec<&Vec<Value>> =
        history.as_array().into_iter().flatten().filter_map(Value::as_array).collect();
    let objects = || -> Value {
        lines
            .iter()
            .map(|line| {
                let pairs = COLUMNS.iter().zip(*line).filter(|(_, value)| !value.is_null());
                pairs.map(|(column, value)| ((*column).to_owned(), value.clone())).collect::<Map<_, _>>()
            })
            .map(Value::Object)
            .collect()
    };
    let cells = || -> Vec<Vec<String>> {
        let text = |value: Option<&Value>| match value {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        lines.iter().map(|line| (0..COLUMNS.len()).map(|i| text(line.get(i))).collect()).collect()
    };
    match format {
        Format::Json => output::python_json(&objects()),
        Format::Yaml => output::yaml(&objects()),
        Format::Tsv => table::tsv(&COLUMNS, &cells()),
        Format::Pretty => {
            let columns: Vec<_> = COLUMNS
                .iter()
                .map(|name| (*name, if matches!(*name, "TL" | "LSN") { Right } else { Left }))
                .collect();
            table::patronictl(None, &columns, &cells())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_patronictl_prints_it() {
        let history = serde_json::json!([[
            1,
            67_393_352,
            "no recovery target specified",
            "2026-11-20T23:16:15.852463+00:00",
            "node2"
        ]]);
        assert_eq!(
            render(&history, Format::Json),
            r#"[{"TL": 1, "LSN": 67393352, "Reason": "no recovery target specified", "Timestamp": "2026-11-20T23:16:15.852463+00:00", "New Leader": "node2"}]"#
        );
        assert!(
            render(&history, Format::Pretty).contains("|  1 | 67393352 | no recovery target specified |")
        );
        assert_eq!(render(&Value::Null, Format::Json), "[]");
    }
}
