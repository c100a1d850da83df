//! The hash that members compare, computed while applying goes on.
//!
//! It reads everything, so it must not hold back what is applied. It need not: it is about a revision, and what is written
//! later changes nothing at or below it. Only compaction does; a hash that was overtaken by one is computed anew, and in the
//! end once with applying held back, so that it ends.

use quorate_state::{KvHash, Revision};

use crate::handle::Inner;
use crate::{Handle, ReadError};

/// Compactions follow each other slowly.
const ATTEMPTS: usize = 3;

impl Handle {
    /// CRC of the keys and their history up to `revision` (0: now), with the compaction revision.
    pub async fn hash_kv(
        &self,
        revision: Revision,
        timeout: std::time::Duration,
    ) -> Result<(u32, Revision), ReadError> {
        let inner = std::sync::Arc::clone(&self.inner);
        let hash = tokio::task::spawn_blocking(move || inner.hash_kv(revision));
        match tokio::time::timeout(timeout, hash).await {
            Ok(hash) => {
                hash.unwrap_or(Err(ReadError::Stopped)).map(|hash| (hash.hash, hash.compact_revision))
            }
            Err(_) => Err(ReadError::TimedOut),
        }
    }
}

impl Inner {
    fn hash_kv(&self, revision: Revision) -> Result<KvHash, ReadError> {
        for _ in 0..ATTEMPTS {
            if self.is_stopped() {
                return Err(ReadError::Stopped);
            }
            let hash = self.consensus.read_loosely(|view| quorate_state::hash_kv(view, revision));
            let compacted = self.read(quorate_state::compacted)?;
            match hash.ok_or(ReadError::Stopped)? {
                Ok(Ok(hash)) if hash.compact_revision == compacted => return Ok(hash),
                Ok(Err(rejection)) => return Err(ReadError::Rejected(rejection)),
                // Overtaken: what it read half of is gone, or was not hidden yet.
                Ok(Ok(_)) | Err(_) => {}
            }
        }
        self.read(|view| quorate_state::hash_kv(view, revision))?.map_err(ReadError::Rejected)
    }
}
