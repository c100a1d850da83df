//! `del`: deletes keys, as etcdctl does.

use clap::Args;
use quorate_wire::etcdserverpb::{DeleteRangeRequest, DeleteRangeResponse, RangeRequest};

use super::answer::Form;
use super::keys::Selection;
use super::{Context, Failure, Outcome, output};

/// Arguments of `del`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    operation: Operation,
    /// Say what would be deleted
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    form: Form,
}

/// What is deleted: also an operation of `txn`.
#[derive(Debug, Args)]
pub struct Operation {
    #[command(flatten)]
    selection: Selection,
    /// Print what was deleted
    #[arg(long)]
    prev_kv: bool,
}

impl Arguments {
    /// Does it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn run(&self, context: &Context) -> Outcome {
        let printer = self.form.printer::<DeleteRangeResponse>(context)?;
        let request = self.operation.request()?;
        if self.dry_run {
            let request = RangeRequest {
                key: request.key,
                range_end: request.range_end,
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
        printer.done(&context.store.tell(async |at| at.kv().delete_range(request.clone()).await).await?)
    }
}

impl Operation {
    /// The request.
    ///
    /// # Errors
    /// Arguments that contradict one another.
    pub fn request(&self) -> Result<DeleteRangeRequest, Failure> {
        let (key, range_end) = self.selection.range("del")?;
        Ok(DeleteRangeRequest { key: key.into(), range_end: range_end.into(), prev_kv: self.prev_kv })
    }
}
