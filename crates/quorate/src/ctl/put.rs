//! `put`: writes a key, as etcdctl does.

use std::io::Read;

use clap::Args;
use quorate_wire::etcdserverpb::PutRequest;
use serde_json::{Map, Value};

use super::print::{Answer, Form, KV_COLUMNS, Shape, header_fields, header_json, kv_fields, kv_json, kv_row};
use super::{Context, Failure, Outcome, output};

/// The largest value that is read from standard input; the store's own limit is far below.
const LARGEST_INPUT: u64 = 64 << 20;

/// Arguments of `put`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The key, and its value unless it comes from standard input
    #[arg(value_name = "KEY [VALUE]")]
    keys: Vec<String>,
    /// Attach this lease (hexadecimal)
    #[arg(long, default_value = "0")]
    lease: String,
    /// Print what was there before
    #[arg(long)]
    prev_kv: bool,
    /// Keep the value, change only the lease
    #[arg(long)]
    ignore_value: bool,
    /// Keep the lease, change only the value
    #[arg(long)]
    ignore_lease: bool,
    /// Say what would be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    form: Form,
}

impl Arguments {
    /// Does it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn run(&self, context: &Context) -> Outcome {
        let request = self.request()?;
        if self.dry_run {
            output::line(&format!(
                "would put {} ({} bytes) through {}",
                String::from_utf8_lossy(&request.key),
                request.value.len(),
                context.store.endpoints().join(",")
            ));
            return Ok(());
        }
        let response = context.store.put(request).await?;
        let mut simple = vec![b"OK".to_vec()];
        let mut fields = header_fields(response.header.as_ref());
        let mut json = Map::new();
        json.insert("header".to_owned(), header_json(response.header.as_ref()));
        if let Some(previous) = &response.prev_kv {
            simple.extend([previous.key.to_vec(), previous.value.to_vec()]);
            fields.extend(kv_fields("Prev", previous));
            json.insert("prev_kv".to_owned(), kv_json(previous));
        }
        Answer {
            simple,
            json: Value::Object(json),
            fields,
            columns: KV_COLUMNS.to_vec(),
            rows: response.prev_kv.iter().map(kv_row).collect(),
            as_table: false,
        }
        .print(self.form.shape(Shape::Simple))
    }

    fn request(&self) -> Result<PutRequest, Failure> {
        let (key, value) = match self.keys.as_slice() {
            [key] if self.ignore_value => (key, Vec::new()),
            [key] => {
                let mut value = Vec::new();
                std::io::stdin()
                    .take(LARGEST_INPUT)
                    .read_to_end(&mut value)
                    .map_err(|error| Failure::new(format!("cannot read standard input: {error}")))?;
                (key, value)
            }
            [key, value] if !self.ignore_value => (key, value.clone().into_bytes()),
            [_, _] => {
                return Err(Failure::bad_arguments(
                    "put command needs only 1 argument when 'ignore-value' is set",
                ));
            }
            _ => {
                return Err(Failure::bad_arguments(
                    "put command needs 1 argument and input from stdin or 2 arguments",
                ));
            }
        };
        let lease = i64::from_str_radix(&self.lease, 16).map_err(|_| {
            Failure::bad_arguments(format!("bad lease ID (expected hexadecimal, found {:?})", self.lease))
        })?;
        Ok(PutRequest {
            key: key.clone().into_bytes().into(),
            value: value.into(),
            lease,
            prev_kv: self.prev_kv,
            ignore_value: self.ignore_value,
            ignore_lease: self.ignore_lease,
        })
    }
}
