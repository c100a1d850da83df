//! `put`: writes a key, as etcdctl does.

use std::io::Read;

use clap::Args;
use quorate_wire::etcdserverpb::{PutRequest, PutResponse};

use super::answer::Form;
use super::keys::{Bytes, lease_id};
use super::{Context, Failure, Outcome, output};

/// The largest value that is read from standard input; the store's own limit is far below.
const LARGEST_INPUT: u64 = 64 << 20;

/// Arguments of `put`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    operation: Operation,
    /// Say what would be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    form: Form,
}

/// What is written: also an operation of `txn`.
#[derive(Debug, Args)]
pub struct Operation {
    /// The key, and its value unless it comes from standard input
    #[arg(value_name = "KEY [VALUE]")]
    keys: Vec<Bytes>,
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
}

impl Arguments {
    /// Does it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn run(&self, context: &Context) -> Outcome {
        let printer = self.form.printer::<PutResponse>(context)?;
        let request = self.operation.request()?;
        if self.dry_run {
            output::line(&format!(
                "would put {} ({} bytes) through {}",
                String::from_utf8_lossy(&request.key),
                request.value.len(),
                context.store.endpoints().join(",")
            ));
            return Ok(());
        }
        printer.done(&context.store.tell(async |at| at.kv().put(request.clone()).await).await?)
    }
}

impl Operation {
    /// The request; a missing value is read from standard input.
    ///
    /// # Errors
    /// Arguments that contradict one another.
    pub fn request(&self) -> Result<PutRequest, Failure> {
        let missing = "put command needs 1 argument and input from stdin or 2 arguments";
        let (key, value) = match self.keys.as_slice() {
            [] => return Err(Failure::bad_arguments(missing)),
            [key] if self.ignore_value => (key, Vec::new()),
            [_, ..] if self.ignore_value => {
                return Err(Failure::bad_arguments(
                    "put command needs only 1 argument when 'ignore-value' is set",
                ));
            }
            [key] => {
                let mut value = Vec::new();
                let read = std::io::stdin().take(LARGEST_INPUT).read_to_end(&mut value);
                if read.is_err() || value.is_empty() {
                    return Err(Failure::bad_arguments(missing));
                }
                (key, value)
            }
            [key, value, ..] => (key, value.0.clone()),
        };
        Ok(PutRequest {
            key: key.0.clone().into(),
            value: value.into(),
            lease: lease_id(&self.lease, "bad lease ID")?,
            prev_kv: self.prev_kv,
            ignore_value: self.ignore_value,
            ignore_lease: self.ignore_lease,
        })
    }
}
