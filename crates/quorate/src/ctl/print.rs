//! Answers of the store in etcdctl's four forms, and in the forms every query of `quoratectl` has.

use quorate_wire::etcdserverpb::{ResponseHeader, WatchResponse};
use quorate_wire::mvccpb::{Event, KeyValue, event::EventType};
use serde_json::{Map, Value, json};

use super::output::{self, Format, WriteOut, go_quoted};
use super::{Failure, Outcome};

/// `-w` as etcdctl has it and `--format` as every query has it.
#[derive(Debug, Clone, clap::Args)]
pub struct Form {
    /// As etcdctl's
    #[arg(short = 'w', long, value_enum)]
    write_out: Option<WriteOut>,
    /// As every query's; pretty is what fits the verb best
    #[arg(short = 'f', long, value_enum, conflicts_with = "write_out")]
    format: Option<Format>,
}

/// Both ways of asking, as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Shape {
    Simple,
    Table,
    Json,
    Fields,
    Yaml,
    Tsv,
}

impl Form {
    /// What was asked for; `pretty` is what `--format pretty` means for the verb.
    #[must_use]
    pub fn shape(&self, pretty: Shape) -> Shape {
        match (self.write_out, self.format) {
            (Some(WriteOut::Simple), _) | (None, None) => Shape::Simple,
            (Some(WriteOut::Table), _) => Shape::Table,
            (Some(WriteOut::Json), _) | (None, Some(Format::Json)) => Shape::Json,
            (Some(WriteOut::Fields), _) => Shape::Fields,
            (None, Some(Format::Pretty)) => pretty,
            (None, Some(Format::Yaml)) => Shape::Yaml,
            (None, Some(Format::Tsv)) => Shape::Tsv,
        }
    }
}

/// One answer in every form it has; what it has not is `None`.
pub struct Answer {
    /// etcdctl's simple form: lines, as bytes because keys and values are bytes.
    pub simple: Vec<Vec<u8>>,
    /// etcdctl's JSON.
    pub json: Value,
    /// etcdctl's fields.
    pub fields: Vec<String>,
    /// Columns and rows, for `table` (with `as_table`) and `tsv`.
    pub columns: Vec<&'static str>,
    /// See `columns`.
    pub rows: Vec<Vec<String>>,
    /// etcdctl has tables for members and endpoints only.
    pub as_table: bool,
}

impl Answer {
    /// Prints it.
    ///
    /// # Errors
    /// It has no such form.
    pub fn print(&self, shape: Shape) -> Outcome {
        match shape {
            Shape::Simple => {
                for line in &self.simple {
                    output::raw_line(line);
                }
            }
            Shape::Json => output::line(&self.json.to_string()),
            Shape::Yaml => output::line(output::yaml(&self.json).trim_end()),
            Shape::Fields => {
                for line in &self.fields {
                    output::line(line);
                }
            }
            Shape::Tsv => output::line(&super::table::tsv(&self.columns, &self.rows)),
            Shape::Table if self.as_table => output::line(&super::table::etcdctl(&self.columns, &self.rows)),
            Shape::Table => return Err(Failure::bad_feature("table not supported as output format")),
        }
        Ok(())
    }
}

/// The header in JSON; zero is left out.
#[must_use]
pub fn header_json(header: Option<&ResponseHeader>) -> Value {
    let header = header.copied().unwrap_or_default();
    let mut object = Map::new();
    number(&mut object, "cluster_id", header.cluster_id);
    number(&mut object, "member_id", header.member_id);
    number(&mut object, "revision", header.revision);
    number(&mut object, "raft_term", header.raft_term);
    Value::Object(object)
}

/// The header's lines in the `fields` form.
#[must_use]
pub fn header_fields(header: Option<&ResponseHeader>) -> Vec<String> {
    let header = header.copied().unwrap_or_default();
    vec![
        format!("\"ClusterID\" : {}", header.cluster_id),
        format!("\"MemberID\" : {}", header.member_id),
        format!("\"Revision\" : {}", header.revision),
        format!("\"RaftTerm\" : {}", header.raft_term),
    ]
}

/// Adds a number unless it is zero.
pub fn number<N: Into<Value> + Default + PartialEq>(object: &mut Map<String, Value>, name: &str, value: N) {
    if value != N::default() {
        object.insert(name.to_owned(), value.into());
    }
}

/// One key and value in JSON.
#[must_use]
pub fn kv_json(kv: &KeyValue) -> Value {
    let mut object = Map::new();
    if !kv.key.is_empty() {
        object.insert("key".to_owned(), output::base64(&kv.key).into());
    }
    number(&mut object, "create_revision", kv.create_revision);
    number(&mut object, "mod_revision", kv.mod_revision);
    number(&mut object, "version", kv.version);
    if !kv.value.is_empty() {
        object.insert("value".to_owned(), output::base64(&kv.value).into());
    }
    number(&mut object, "lease", kv.lease);
    Value::Object(object)
}

/// One key and value in the `fields` form.
#[must_use]
pub fn kv_fields(prefix: &str, kv: &KeyValue) -> Vec<String> {
    vec![
        format!("\"{prefix}Key\" : {}", go_quoted(&kv.key)),
        format!("\"{prefix}CreateRevision\" : {}", kv.create_revision),
        format!("\"{prefix}ModRevision\" : {}", kv.mod_revision),
        format!("\"{prefix}Version\" : {}", kv.version),
        format!("\"{prefix}Value\" : {}", go_quoted(&kv.value)),
        format!("\"{prefix}Lease\" : {}", kv.lease),
    ]
}

/// Columns of a list of keys.
pub const KV_COLUMNS: [&str; 6] = ["key", "value", "create_revision", "mod_revision", "version", "lease"];

/// A row for [`KV_COLUMNS`]. Tabs and line feeds inside are escaped, so that a row stays a row.
#[must_use]
pub fn kv_row(kv: &KeyValue) -> Vec<String> {
    let text = |bytes: &[u8]| {
        let quoted = go_quoted(bytes);
        quoted[1..quoted.len() - 1].replace("\\\"", "\"")
    };
    vec![
        text(&kv.key),
        text(&kv.value),
        kv.create_revision.to_string(),
        kv.mod_revision.to_string(),
        kv.version.to_string(),
        format!("{:x}", kv.lease),
    ]
}

/// A batch of events in etcdctl's forms.
#[must_use]
pub fn watch_answer(response: &WatchResponse) -> Answer {
    let kind = |event: &Event| match event.r#type() {
        EventType::Put => "PUT",
        EventType::Delete => "DELETE",
    };
    let mut simple: Vec<Vec<u8>> = Vec::new();
    let mut fields = header_fields(response.header.as_ref());
    let mut events = Vec::new();
    let mut rows = Vec::new();
    for event in &response.events {
        let kv = event.kv.clone().unwrap_or_default();
        simple.push(kind(event).as_bytes().to_vec());
        fields.push(format!("\"Type\" : {}", kind(event)));
        let mut object = Map::new();
        number(&mut object, "type", event.r#type);
        object.insert("kv".to_owned(), kv_json(&kv));
        if let Some(previous) = &event.prev_kv {
            simple.push(previous.key.to_vec());
            simple.push(previous.value.to_vec());
            fields.extend(kv_fields("Prev", previous));
            object.insert("prev_kv".to_owned(), kv_json(previous));
        }
        simple.push(kv.key.to_vec());
        simple.push(kv.value.to_vec());
        fields.extend(kv_fields("", &kv));
        events.push(Value::Object(object));
        let mut row = vec![kind(event).to_owned()];
        row.extend(kv_row(&kv));
        rows.push(row);
    }
    let mut columns = vec!["type"];
    columns.extend(KV_COLUMNS);
    Answer {
        simple,
        json: json!({
            "Header": header_json(response.header.as_ref()),
            "Events": events,
            "CompactRevision": response.compact_revision,
            "Canceled": response.canceled,
            "Created": response.created,
        }),
        fields,
        columns,
        rows,
        as_table: false,
    }
}
