//! `defrag`: asks members to give back disk space, one after the other.
//!
//! Quorate's own store has nothing to defragment and says so at once; the verb is here for scripts, and for etcd.

use clap::Args;
use quorate_wire::etcdserverpb::DefragmentRequest;

use super::answer::Unformed;
use super::{Context, Failure, Outcome, endpoint, output};

/// Arguments of `defrag`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Every member of the store, not only the given endpoints
    #[arg(long)]
    cluster: bool,
    /// etcd's flag for a directory that is not in use; there is nothing to do in one of Quorate's
    #[arg(long, hide = true)]
    data_dir: Option<String>,
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
        if self.data_dir.is_some() {
            return Err(Failure::bad_feature(
                "--data-dir is not supported: a store of Quorate keeps no holes in its files",
            ));
        }
        let mut failed = false;
        for endpoint in endpoint::endpoints(context, self.cluster).await? {
            let rpc =
                async |at: super::store::Connection| at.maintenance().defragment(DefragmentRequest {}).await;
            match context.store.at(&endpoint, rpc).await {
                Ok(_) => output::line(&format!("Finished defragmenting etcd member[{endpoint}]")),
                Err(reason) => {
                    failed = true;
                    output::complain(&format!("Failed to defragment etcd member[{endpoint}] ({reason})"));
                }
            }
        }
        if failed { Err(Failure::new(String::new())) } else { Ok(()) }
    }
}
