//! `why`: what happened last, and why, in sentences; from the decision records in the store.
//!
//! The records are read from the store, as `history` is, so this works from every machine and when the members are
//! down, as long as the store answers. `why --not` asks the members: what they are waiting for is in no record.

use clap::Args;
use comfy_table::CellAlignment::{Left, Right};
use quorate_ha::record::{KEPT, incident, tell, when};
use quorate_ha::{Keys, Record};
use quorate_wire::etcdserverpb::RangeRequest;
use quorate_wire::etcdserverpb::range_request::{SortOrder, SortTarget};
use serde_json::{Value, json};

use super::output::{self, Format};
use super::store::prefix_end;
use super::{Context, Failure, Outcome, cluster, forecast, rest, table};

/// Arguments of `why`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The cluster; by default the one of the configuration, or the only one there is
    cluster: Option<String>,
    /// The newest N records, one a line
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=KEPT), conflicts_with = "not")]
    last: Option<u64>,
    /// Why nothing happens, and what would if the primary died now
    #[arg(long)]
    not: bool,
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
        if self.not {
            return not(context, self.cluster.as_deref(), self.format).await;
        }
        let numbered = read(context, self.cluster.as_deref(), self.last.unwrap_or(KEPT)).await?;
        output::line(&match self.last {
            Some(_) => list(&numbered, self.format),
            None => last(&numbered, self.format),
        });
        Ok(())
    }
}

/// The newest records with their numbers, oldest first.
async fn read(context: &Context, scope: Option<&str>, count: u64) -> Result<Vec<(u64, Record)>, Failure> {
    let keys = Keys::new(&context.namespace, &cluster::scope_of(context, scope).await?);
    let prefix = keys.records().into_bytes();
    let request = RangeRequest {
        range_end: prefix_end(&prefix).into(),
        key: prefix.into(),
        limit: i64::try_from(count).unwrap_or(i64::MAX),
        sort_order: SortOrder::Descend.into(),
        sort_target: SortTarget::Key.into(),
        ..RangeRequest::default()
    };
    let response = context.store.range(request).await?;
    // What a later version has written is left out; the others tell the story without it.
    let parsed = response.kvs.iter().rev().filter_map(|kv| {
        let number = keys.record_number(std::str::from_utf8(&kv.key).ok()?)?;
        Some((number, Record::parse(std::str::from_utf8(&kv.value).ok()?).ok()?))
    });
    Ok(parsed.collect())
}

fn value((number, record): &(u64, Record)) -> Value {
    let mut value = record.to_value();
    if let Some(object) = value.as_object_mut() {
        object.insert("number".to_owned(), json!(number));
    }
    value
}

const COLUMNS: [&str; 5] = ["#", "Time", "Node", "Kind", "What"];

fn cells(numbered: &[(u64, Record)]) -> Vec<Vec<String>> {
    let row = |(number, record): &(u64, Record)| {
        let (node, kind) = (record.node.clone(), record.kind.to_string());
        vec![number.to_string(), when(&record.time), node, kind, record.headline()]
    };
    numbered.iter().map(row).collect()
}

fn list(numbered: &[(u64, Record)], format: Format) -> String {
    match format {
        Format::Json => output::python_json(&numbered.iter().map(value).collect()),
        Format::Yaml => output::yaml(&numbered.iter().map(value).collect()),
        Format::Tsv => table::tsv(&COLUMNS, &cells(numbered)),
        Format::Pretty => {
            let columns = COLUMNS.map(|name| (name, if name == "#" { Right } else { Left }));
            table::patronictl(None, &columns, &cells(numbered))
        }
    }
}

fn last(numbered: &[(u64, Record)], format: Format) -> String {
    let records: Vec<Record> = numbered.iter().map(|(_, record)| record.clone()).collect();
    let sentences = tell(&records);
    if format == Format::Pretty {
        return sentences.join("\n");
    }
    let story: Vec<&Record> = incident(&records).map_or_else(Vec::new, |(main, mut details)| {
        details.push(main);
        details
    });
    let shown: Vec<(u64, Record)> =
        numbered.iter().filter(|(_, record)| story.contains(&record)).cloned().collect();
    let document = || json!({"sentences": sentences, "records": shown.iter().map(value).collect::<Vec<_>>()});
    match format {
        Format::Json => output::python_json(&document()),
        Format::Yaml => output::yaml(&document()),
        Format::Tsv | Format::Pretty => table::tsv(&COLUMNS, &cells(&shown)),
    }
}

/// What every node says that it is doing, and what would happen if it had to do something.
async fn not(context: &Context, scope: Option<&str>, format: Format) -> Outcome {
    let cluster = cluster::read(context, scope).await?;
    let mut nodes: Vec<(String, String)> = Vec::new();
    for (name, api) in cluster.apis() {
        let reason = match rest::get(&api, "/patroni").await {
            Ok(answer) => serde_json::from_str::<Value>(&answer.body)
                .ok()
                .and_then(|status| Some(status.pointer("/quorate/reason")?.as_str()?.to_owned()))
                .unwrap_or_else(|| "it does not say".to_owned()),
            Err(failure) => failure.message,
        };
        nodes.push((name, reason));
    }
    let document = forecast::ask(&cluster).await?;
    let then = forecast::sentences(&document);
    output::line(&match format {
        Format::Pretty => {
            let mut lines = vec!["What every node is doing now:".to_owned()];
            lines.extend(nodes.iter().map(|(name, reason)| format!("  {name}: {reason}")));
            lines.extend(then);
            lines.join("\n")
        }
        Format::Json | Format::Yaml => {
            let now: serde_json::Map<String, Value> =
                nodes.into_iter().map(|(name, reason)| (name, reason.into())).collect();
            let value = json!({"now": now, "forecast": document["forecast"], "sentences": then});
            if format == Format::Json { output::python_json(&value) } else { output::yaml(&value) }
        }
        Format::Tsv => {
            let rows: Vec<Vec<String>> = nodes.into_iter().map(|(name, reason)| vec![name, reason]).collect();
            table::tsv(&["Node", "Reason"], &rows)
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn promotion() -> (u64, Record) {
        let json = r#"{"time":"2026-11-21T03:00:05.123456Z","node":"n2","kind":"promotion","how":"quorum",
            "trigger":"it was silent","from":"n1","lock":20,"synchronous":true,"lost_bytes":0,
            "phases":[{"name":"detect","ms":310},{"name":"race","ms":90}]}"#;
        (7, Record::parse(json).expect("a record"))
    }

    #[test]
    fn a_list_is_a_table_and_a_story_is_sentences() {
        let records = [promotion()];
        assert_eq!(
            list(&records, Format::Tsv),
            "#\tTime\tNode\tKind\tWhat\n7\t2026-11-21 03:00:05 UTC\tn2\tpromotion\tn2 became primary after 0.40 s, because the \
             standbys took the lock away from n1"
        );
        assert!(
            list(&records, Format::Pretty).contains("| 7 | 2026-11-21 03:00:05 UTC | n2   | promotion |")
        );
        assert!(
            last(&records, Format::Pretty)
                .starts_with("2026-11-21 03:00:05 UTC: n2 became primary after 0.40 s")
        );
        let json: Value = serde_json::from_str(&last(&records, Format::Json)).expect("JSON");
        assert_eq!(
            (json["records"][0]["number"].as_u64(), json["records"][0]["lock"].as_i64()),
            (Some(7), Some(20))
        );
        assert_eq!(
            last(&[], Format::Pretty),
            "Nothing has been recorded: no failover, no fence, no refusal."
        );
    }
}
