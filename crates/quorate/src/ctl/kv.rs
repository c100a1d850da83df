//! Answers that hold keys: of `get`, `put`, `del`, `txn` and `watch`.

use prost::Message;
use quorate_wire::etcdserverpb::response_op::Response;
use quorate_wire::etcdserverpb::{
    DeleteRangeResponse, PutResponse, RangeResponse, TxnResponse, WatchResponse,
};
use quorate_wire::mvccpb::event::EventType;
use quorate_wire::mvccpb::{Event, KeyValue};
use serde_json::{Value, json};

use super::answer::{Answer, Rows, Text, header_fields, header_json};
use super::go;

/// Columns of a list of keys.
const COLUMNS: [&str; 6] = ["key", "value", "create_revision", "mod_revision", "version", "lease"];

fn lines(kv: &KeyValue, text: Text) -> [Vec<u8>; 2] {
    [text.bytes(&kv.key), text.bytes(&kv.value)]
}

fn fields(prefix: &str, kv: &KeyValue) -> Vec<String> {
    vec![
        format!("\"{prefix}Key\" : {}", go::quoted(&kv.key)),
        format!("\"{prefix}CreateRevision\" : {}", kv.create_revision),
        format!("\"{prefix}ModRevision\" : {}", kv.mod_revision),
        format!("\"{prefix}Version\" : {}", kv.version),
        format!("\"{prefix}Value\" : {}", go::quoted(&kv.value)),
        format!("\"{prefix}Lease\" : {}", kv.lease),
    ]
}

/// A row for [`COLUMNS`]. Tabs and line feeds inside are escaped, so that a row stays a row.
fn row(kv: &KeyValue) -> Vec<String> {
    let text = |bytes: &[u8]| {
        let quoted = go::quoted(bytes);
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

fn rows<'k>(kvs: impl IntoIterator<Item = &'k KeyValue>) -> Option<Rows> {
    Some(Rows { columns: COLUMNS.to_vec(), rows: kvs.into_iter().map(row).collect() })
}

/// The answer of `get`, and of everything that shows a key.
pub struct Keys {
    /// What the store said.
    pub response: RangeResponse,
    /// `--print-value-only`
    pub values_only: bool,
}

impl Answer for Keys {
    fn simple(&self, text: Text) -> Vec<Vec<u8>> {
        // With --keys-only the value's line stays, empty.
        let all = self.response.kvs.iter().flat_map(|kv| lines(kv, text));
        if self.values_only { all.skip(1).step_by(2).collect() } else { all.collect() }
    }

    fn json(&self, _: Text) -> Value {
        go::json("etcdserverpb.RangeResponse", &self.response)
    }

    fn fields(&self) -> Vec<String> {
        let mut lines = header_fields(self.response.header.as_ref());
        lines.extend(self.response.kvs.iter().flat_map(|kv| fields("", kv)));
        lines.push(format!("\"More\" : {}", self.response.more));
        lines.push(format!("\"Count\" : {}", self.response.count));
        lines
    }

    fn protobuf(&self) -> Vec<u8> {
        self.response.encode_to_vec()
    }

    fn rows(&self) -> Option<Rows> {
        rows(&self.response.kvs)
    }
}

impl Answer for PutResponse {
    fn simple(&self, text: Text) -> Vec<Vec<u8>> {
        let mut all = vec![b"OK".to_vec()];
        all.extend(self.prev_kv.iter().flat_map(|kv| lines(kv, text)));
        all
    }

    fn json(&self, _: Text) -> Value {
        go::json("etcdserverpb.PutResponse", self)
    }

    fn fields(&self) -> Vec<String> {
        let mut lines = header_fields(self.header.as_ref());
        lines.extend(self.prev_kv.iter().flat_map(|kv| fields("Prev", kv)));
        lines
    }

    fn protobuf(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    fn rows(&self) -> Option<Rows> {
        rows(&self.prev_kv)
    }
}

impl Answer for DeleteRangeResponse {
    fn simple(&self, text: Text) -> Vec<Vec<u8>> {
        let mut all = vec![self.deleted.to_string().into_bytes()];
        all.extend(self.prev_kvs.iter().flat_map(|kv| lines(kv, text)));
        all
    }

    fn json(&self, _: Text) -> Value {
        go::json("etcdserverpb.DeleteRangeResponse", self)
    }

    fn fields(&self) -> Vec<String> {
        let mut lines = header_fields(self.header.as_ref());
        lines.push(format!("\"Deleted\" : {}", self.deleted));
        lines.extend(self.prev_kvs.iter().flat_map(|kv| fields("Prev", kv)));
        lines
    }

    fn protobuf(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    fn rows(&self) -> Option<Rows> {
        rows(&self.prev_kvs)
    }
}

impl Answer for TxnResponse {
    fn simple(&self, text: Text) -> Vec<Vec<u8>> {
        let mut all = vec![if self.succeeded { b"SUCCESS".to_vec() } else { b"FAILURE".to_vec() }];
        for op in &self.responses {
            all.push(Vec::new());
            all.extend(match op.response.clone() {
                Some(Response::ResponseRange(response)) => Keys { response, values_only: false }.simple(text),
                Some(Response::ResponsePut(response)) => response.simple(text),
                Some(Response::ResponseDeleteRange(response)) => response.simple(text),
                Some(Response::ResponseTxn(response)) => response.simple(text),
                None => Vec::new(),
            });
        }
        all
    }

    fn json(&self, _: Text) -> Value {
        go::json("etcdserverpb.TxnResponse", self)
    }

    fn fields(&self) -> Vec<String> {
        let mut lines = header_fields(self.header.as_ref());
        lines.push(format!("\"Succeeded\" : {}", self.succeeded));
        for op in &self.responses {
            lines.extend(match op.response.clone() {
                Some(Response::ResponseRange(response)) => Keys { response, values_only: false }.fields(),
                Some(Response::ResponsePut(response)) => response.fields(),
                Some(Response::ResponseDeleteRange(response)) => response.fields(),
                Some(Response::ResponseTxn(response)) => response.fields(),
                None => Vec::new(),
            });
        }
        lines
    }

    fn protobuf(&self) -> Vec<u8> {
        self.encode_to_vec()
    }
}

/// A batch of events. Go prints its own type here and not the message: capital names, nothing left out.
impl Answer for WatchResponse {
    fn simple(&self, text: Text) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        for event in &self.events {
            all.push(kind(event).as_bytes().to_vec());
            all.extend(event.prev_kv.iter().flat_map(|kv| lines(kv, text)));
            all.extend(event.kv.iter().flat_map(|kv| lines(kv, text)));
        }
        all
    }

    fn json(&self, _: Text) -> Value {
        let events: Value = self.events.iter().map(|event| go::json("mvccpb.Event", event)).collect();
        json!({
            "Header": header_json(self.header.as_ref()),
            "Events": if self.events.is_empty() { Value::Null } else { events },
            "CompactRevision": self.compact_revision,
            "Canceled": self.canceled,
            "Created": self.created,
        })
    }

    fn fields(&self) -> Vec<String> {
        let mut lines = header_fields(self.header.as_ref());
        for event in &self.events {
            lines.push(format!("\"Type\" : {}", kind(event)));
            lines.extend(event.prev_kv.iter().flat_map(|kv| fields("Prev", kv)));
            lines.extend(event.kv.iter().flat_map(|kv| fields("", kv)));
        }
        lines
    }

    fn protobuf(&self) -> Vec<u8> {
        // The watch's number is the connection's affair, as in etcdctl.
        WatchResponse { watch_id: 0, cancel_reason: String::new(), fragment: false, ..self.clone() }
            .encode_to_vec()
    }

    fn rows(&self) -> Option<Rows> {
        let line = |event: &Event| {
            let mut cells = vec![kind(event).to_owned()];
            cells.extend(row(&event.kv.clone().unwrap_or_default()));
            cells
        };
        let mut columns = vec!["type"];
        columns.extend(COLUMNS);
        Some(Rows { columns, rows: self.events.iter().map(line).collect() })
    }
}

/// etcdctl's word for what happened.
#[must_use]
pub fn kind(event: &Event) -> &'static str {
    match event.r#type() {
        EventType::Put => "PUT",
        EventType::Delete => "DELETE",
    }
}
