//! `get`: reads keys, as etcdctl does.

use clap::Args;
use quorate_wire::etcdserverpb::RangeRequest;
use quorate_wire::etcdserverpb::range_request::{SortOrder, SortTarget};

use super::answer::{Form, Shape};
use super::keys::Selection;
use super::kv::Keys;
use super::{Context, Failure, Outcome};

/// Arguments of `get`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    operation: Operation,
    #[command(flatten)]
    form: Form,
}

/// What is read: also an operation of `txn`.
#[derive(Debug, Args)]
pub struct Operation {
    #[command(flatten)]
    selection: Selection,
    /// As of this revision
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    rev: i64,
    /// At most this many
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
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
    /// Only how many there are (with -w fields)
    #[arg(long)]
    count_only: bool,
    /// Values without their keys
    #[arg(long)]
    print_value_only: bool,
    /// l: up to date; s: what this member has
    #[arg(long, default_value = "l")]
    consistency: String,
}

impl Arguments {
    /// Does it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn run(&self, context: &Context) -> Outcome {
        let request = self.operation.request()?;
        let printer = self.form.printer::<Keys>(context)?;
        if request.count_only && printer.shape != Shape::Fields {
            return Err(Failure::bad_arguments("--count-only is only for `--write-out=fields`"));
        }
        let values_only = self.operation.print_value_only;
        if values_only && printer.shape != Shape::Simple {
            return Err(Failure::bad_arguments("print-value-only is only for `--write-out=simple`"));
        }
        printer.done(&Keys { response: context.store.range(request).await?, values_only })
    }
}

impl Operation {
    /// The request.
    ///
    /// # Errors
    /// Arguments that contradict one another, and words that do not exist.
    pub fn request(&self) -> Result<RangeRequest, Failure> {
        if self.keys_only && self.count_only {
            return Err(Failure::bad_arguments(
                "`--keys-only` and `--count-only` cannot be set at the same time, choose one",
            ));
        }
        let serializable = match self.consistency.as_str() {
            "l" => false,
            "s" => true,
            other => return Err(Failure::bad_feature(format!("unknown consistency flag {other:?}"))),
        };
        let (key, range_end) = self.selection.range("get")?;
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
        Ok(RangeRequest {
            key: key.into(),
            range_end: range_end.into(),
            limit: self.limit,
            revision: self.rev.max(0),
            // clientv3's WithSort: keys in ascending order are what the store gives anyway.
            sort_order: match (target, order) {
                (SortTarget::Key, SortOrder::Ascend) => SortOrder::None,
                (SortTarget::Key, order) => order,
                (_, SortOrder::None) => SortOrder::Ascend,
                (_, order) => order,
            }
            .into(),
            sort_target: target.into(),
            serializable,
            keys_only: self.keys_only,
            count_only: self.count_only,
            ..RangeRequest::default()
        })
    }
}
