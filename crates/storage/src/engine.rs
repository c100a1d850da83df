//! The ordered byte map under the state machine. A view of log and snapshot, never the truth.
//!
//! # What a reader sees while a batch is applied
//!
//! A [`View::get`] is atomic. A [`View::scan`] holds no lock between pairs (a caller may take its time, or write, while it
//! iterates) and therefore may see one part of a concurrent batch and not another. The apply thread, the only writer, is not
//! concerned. Everybody else who reads more than one key and needs them to belong together reads inside
//! [`Engine::consistent`], which lets no batch in, and keeps it short; or reads a [`Engine::freeze`], which lets batches in
//! and does not see them.
//!
//! # How a frozen view works
//!
//! ```text
//!   keys:      a … f │ g … z            the view has handed out everything up to f
//!   writes to: free  │ pre-image first  what it has still to hand out is saved before it is overwritten
//! ```
//!
//! The view reads the live map in small chunks behind its cursor. A batch that touches a key beyond the cursor first saves what
//! stood there (a value, or the fact of absence); the view merges what was saved. Costs: one read per overwritten key while
//! a view is alive, and memory for the pre-images, bounded by [`PRE_IMAGE_BYTES`]. Beyond the bound the view is given up with
//! [`StorageError::Thawed`], never the write.

use bytes::Bytes;
use quorate_state::{Batch, View};

use crate::StorageError;
pub use crate::freeze::PRE_IMAGE_BYTES;

/// Pairs in key order, each fallible, to be iterated on any thread.
pub type Pairs = Box<dyn Iterator<Item = Result<(Bytes, Bytes), StorageError>> + Send>;

/// The pairs of an engine as they were at one instant. Iterate it while batches are written.
pub type Frozen = Pairs;

/// Two engines implement it, sled and memory, and obey one set of scripts.
pub trait Engine: View + Send + Sync + 'static {
    /// Applies `batch` atomically. Visible when it returns; durable only after [`Engine::sync`].
    fn write(&self, batch: &Batch) -> Result<(), StorageError>;
    /// Pushes what was written to the disk. Not needed for safety (log + snapshot are the truth), only for a fast restart.
    fn sync(&self) -> Result<(), StorageError>;
    /// Replaces the whole content by `pairs` (a snapshot being installed). If it fails, or the process ends on the way, the
    /// old content is there, whole. Frozen views are given up. Batches are not let in meanwhile, readers see the old content.
    fn replace(
        &self,
        pairs: &mut dyn Iterator<Item = Result<(Bytes, Bytes), StorageError>>,
    ) -> Result<(), StorageError>;
    /// Bytes on disk (memory: bytes held).
    fn size_bytes(&self) -> u64;
    /// The content as it is now, to be read while it goes on changing: call it between two batches, iterate elsewhere.
    /// Several may be alive; each costs its own pre-images.
    fn freeze(&self) -> Result<Frozen, StorageError>;
    /// Runs `read` while no batch is being applied: all it reads belongs together. Batches wait for it, so keep it short; do
    /// not write in it, and do not nest it (a waiting batch would stand between the two).
    fn consistent(&self, read: &mut dyn FnMut(&dyn View));
}
