//! `compaction`: forgets the history before a revision.

use clap::Args;
use quorate_wire::etcdserverpb::CompactionRequest;

use super::answer::Unformed;
use super::{Context, Failure, Outcome, output};

/// Arguments of `compaction`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[arg(value_name = "REVISION", allow_negative_numbers = true)]
    revision: Vec<String>,
    /// Answer when the old revisions are gone from the disk
    #[arg(long)]
    physical: bool,
    #[command(flatten)]
    unformed: Unformed,
}

impl Arguments {
    /// Does it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn run(&self, context: &Context) -> Outcome {
        self.unformed.check()?;
        let [revision] = self.revision.as_slice() else {
            return Err(Failure::bad_arguments("compaction command needs 1 argument"));
        };
        let revision: i64 = revision
            .parse()
            .map_err(|_| Failure::new(format!("strconv.ParseInt: parsing {revision:?}: invalid syntax")))?;
        let request = CompactionRequest { revision, physical: self.physical };
        context.store.tell(async |at| at.kv().compact(request).await).await?;
        output::line(&format!("compacted revision {revision}"));
        Ok(())
    }
}
