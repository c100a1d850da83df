//! `get`: reads keys, as etcdctl does.

use clap::Args;
use quorate_wire::etcdserverpb::range_request::{SortOrder, SortTarget};
use quorate_wire::etcdserverpb::{RangeRequest, RangeResponse};
use serde_json::{Map, Value};

use super::print::{
    Answer, Form, KV_COLUMNS, Shape, header_fields, header_json, kv_fields, kv_json, kv_row, number,
};
use super::{Context, Failure, Outcome, store};

/// Arguments of `get`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The key, and the end of a range (exclusive)
    #[arg(value_name = "KEY [RANGE_END]")]
    keys: Vec<String>,
    /// Every key that begins with KEY
    #[arg(long)]
    prefix: bool,
    /// Every key from KEY on
    #[arg(long)]
    from_key: bool,
    /// As of this revision
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    rev: i64,
    /// At most this many
    #[arg(long, default_value_t = 0)]
    limit: i64,
    /// ASCEND or DESCEND
    #[arg(long, default_value = "", hide_default_value = true)]
    order: String,
    /// CREATE, KEY, MODIFY, VALUE or VERSION
    #[arg(long, default_value = "", hide_default_value = true)]
    sort_by: String,
    /// Keys without their values
    #[arg(long)]
    keys_only: bool,
    /// Only how many there are
    #[arg(long)]
    count_only: bool,
    /// Values without their keys
    #[arg(long)]
    print_value_only: bool,
    /// l: up to date; s: what this member has
    #[arg(long, default_value = "l")]
    consistency: String,
    #[command(flatten)]
    form: Form,
}

impl Arguments {
    /// Does it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn run(&self, context: &Context) -> Outcome {
        if self.keys_only && self.count_only {
            return Err(Failure::bad_arguments(
                "`--keys-only` and `--count-only` cannot be set at the same time, choose one",
            ));
        }
        let shape = self.form.shape(Shape::Simple);
        if self.print_value_only && shape != Shape::Simple {
            return Err(Failure::bad_arguments("print-value-only is only for `--write-out=simple`"));
        }
        let response = context.store.range(self.request()?).await?;
        self.answer(&response).print(shape)
    }

    fn request(&self) -> Result<RangeRequest, Failure> {
        let (key, range_end) = store::key_range("get", &self.keys, self.prefix, self.from_key)?;
        let order = match self.order.to_ascii_uppercase().as_str() {
            "" => SortOrder::None,
            "ASCEND" => SortOrder::Ascend,
            "DESCEND" => SortOrder::Descend,
            _ => return Err(Failure::bad_feature(format!("bad sort order {}", self.order))),
        };
        let target = match self.sort_by.to_ascii_uppercase().as_str() {
            "" | "KEY" => SortTarget::Key,
            "CREATE" => SortTarget::Create,
            "MODIFY" => SortTarget::Mod,
            "VALUE" => SortTarget::Value,
            "VERSION" => SortTarget::Version,
            _ => return Err(Failure::bad_feature(format!("bad sort target {}", self.sort_by))),
        };
        // Who names a target wants an order.
        let order =
            if order == SortOrder::None && !self.sort_by.is_empty() { SortOrder::Ascend } else { order };
        let serializable = match self.consistency.as_str() {
            "l" => false,
            "s" => true,
            other => return Err(Failure::bad_feature(format!("unknown consistency flag {other:?}"))),
        };
        Ok(RangeRequest {
            key: key.into(),
            range_end: range_end.into(),
            limit: self.limit,
            revision: self.rev,
            sort_order: order.into(),
            sort_target: target.into(),
            serializable,
            keys_only: self.keys_only,
            count_only: self.count_only,
            ..RangeRequest::default()
        })
    }

    fn answer(&self, response: &RangeResponse) -> Answer {
        let mut simple = Vec::new();
        let mut fields = header_fields(response.header.as_ref());
        for kv in &response.kvs {
            if !self.print_value_only {
                simple.push(kv.key.to_vec());
            }
            // With --keys-only the value's line stays, empty.
            simple.push(kv.value.to_vec());
            fields.extend(kv_fields("", kv));
        }
        fields.push(format!("\"More\" : {}", response.more));
        fields.push(format!("\"Count\" : {}", response.count));
        let mut json = Map::new();
        json.insert("header".to_owned(), header_json(response.header.as_ref()));
        if !response.kvs.is_empty() {
            json.insert("kvs".to_owned(), response.kvs.iter().map(kv_json).collect());
        }
        if response.more {
            json.insert("more".to_owned(), true.into());
        }
        number(&mut json, "count", response.count);
        Answer {
            simple,
            json: Value::Object(json),
            fields,
            columns: KV_COLUMNS.to_vec(),
            rows: response.kvs.iter().map(kv_row).collect(),
            as_table: false,
        }
    }
}
