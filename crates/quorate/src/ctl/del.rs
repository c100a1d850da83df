//! `del`: deletes keys, as etcdctl does.

use clap::Args;
use quorate_wire::etcdserverpb::{DeleteRangeRequest, RangeRequest};
use serde_json::{Map, Value};

use super::print::{
    Answer, Form, KV_COLUMNS, Shape, header_fields, header_json, kv_fields, kv_json, kv_row, number,
};
use super::{Context, Outcome, output, store};

/// Arguments of `del`.
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
    /// Print what was deleted
    #[arg(long)]
    prev_kv: bool,
    /// Say what would be deleted
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    form: Form,
}

impl Arguments {
    /// Does it.
    ///
    /// # Errors
    /// See [`super::Failure`].
    pub async fn run(&self, context: &Context) -> Outcome {
        let (key, range_end) = store::key_range("del", &self.keys, self.prefix, self.from_key)?;
        if self.dry_run {
            let request = RangeRequest {
                key: key.into(),
                range_end: range_end.into(),
                keys_only: true,
                ..RangeRequest::default()
            };
            let found = context.store.range(request).await?;
            output::line(&format!("would delete {} keys", found.count));
            for kv in &found.kvs {
                output::raw_line(&kv.key);
            }
            return Ok(());
        }
        let request =
            DeleteRangeRequest { key: key.into(), range_end: range_end.into(), prev_kv: self.prev_kv };
        let response = context.store.delete(request).await?;
        let mut simple = vec![response.deleted.to_string().into_bytes()];
        let mut fields = header_fields(response.header.as_ref());
        fields.push(format!("\"Deleted\" : {}", response.deleted));
        for kv in &response.prev_kvs {
            simple.extend([kv.key.to_vec(), kv.value.to_vec()]);
            fields.extend(kv_fields("Prev", kv));
        }
        let mut json = Map::new();
        json.insert("header".to_owned(), header_json(response.header.as_ref()));
        number(&mut json, "deleted", response.deleted);
        if !response.prev_kvs.is_empty() {
            json.insert("prev_kvs".to_owned(), response.prev_kvs.iter().map(kv_json).collect());
        }
        Answer {
            simple,
            json: Value::Object(json),
            fields,
            columns: KV_COLUMNS.to_vec(),
            rows: response.prev_kvs.iter().map(kv_row).collect(),
            as_table: false,
        }
        .print(self.form.shape(Shape::Simple))
    }
}
