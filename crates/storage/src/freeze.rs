//! Frozen views: pre-images saved by the writer, merged by the reader. [`crate::engine`] tells the idea.
//!
//! Invariants, for a view with cursor `c` (everything up to `c` was handed out):
//! 1. For every key beyond `c`: its content at the freeze is its pre-image if one is saved, else what the live map holds.
//! 2. Saving pre-images and applying the batch is one step for the reader (the registry's lock is held over both), and so is
//!    reading a chunk and moving the cursor.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use quorate_state::{Batch, Direction, Op, View, ViewError};

use crate::{Frozen, StorageError};

/// Most bytes of pre-images, keys included, that one frozen view may cost. A quarter of a gigabyte database being wholly
/// overwritten while its snapshot is written would reach it; a snapshot is then simply begun anew.
pub const PRE_IMAGE_BYTES: usize = 64 << 20;
/// A chunk ends at this many pairs or bytes: the writer waits for at most one of them.
const CHUNK_PAIRS: usize = 256;
const CHUNK_BYTES: usize = 64 << 10;

/// The views of one engine that are alive.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    views: Mutex<Vec<Saved>>,
}

#[derive(Debug)]
struct Saved {
    id: u64,
    /// Keys up to here were handed out.
    cursor: Option<Bytes>,
    /// Contents at the freeze, of keys that were overwritten since. None: absent.
    images: BTreeMap<Bytes, Option<Bytes>>,
    bytes: usize,
    given_up: Option<&'static str>,
}

impl Saved {
    fn give_up(&mut self, reason: &'static str) {
        self.images = BTreeMap::new();
        self.given_up = Some(reason);
    }
}

/// Held by the writer while it applies what it announced.
pub(crate) struct Announced<'r> {
    _views: MutexGuard<'r, Vec<Saved>>,
}

impl Registry {
    /// BEFORE a batch is applied: saves what it overwrites. The guard is kept until it is applied.
    pub(crate) fn announce<E>(
        &self,
        batch: &Batch,
        get: impl Fn(&[u8]) -> Result<Option<Bytes>, E>,
    ) -> Result<Announced<'_>, E> {
        let mut views = self.views.lock();
        for view in views.iter_mut().filter(|view| view.given_up.is_none()) {
            for op in &batch.ops {
                let (Op::Put { key, .. } | Op::Delete { key }) = op;
                let handed_out = view.cursor.as_ref().is_some_and(|cursor| key <= cursor);
                if handed_out || view.images.contains_key(key) {
                    continue;
                }
                let image = get(key)?;
                view.bytes += key.len() + image.as_ref().map_or(0, Bytes::len);
                // Copied: a key that is a slice of a large request would keep all of it.
                view.images.insert(Bytes::copy_from_slice(key), image);
                if view.bytes > PRE_IMAGE_BYTES {
                    view.give_up("too much was overwritten while it was read");
                    break;
                }
            }
        }
        Ok(Announced { _views: views })
    }

    /// The whole content is about to be replaced: no view survives.
    pub(crate) fn replace(&self) -> Announced<'_> {
        let mut views = self.views.lock();
        for view in views.iter_mut() {
            view.give_up("the content was replaced");
        }
        Announced { _views: views }
    }
}

/// An engine's insides, shared with its frozen views.
pub(crate) trait Freezes: View + Send + Sync + 'static {
    fn registry(&self) -> &Registry;
}

/// Begins a view of `inner` as of now.
pub(crate) fn freeze<I: Freezes>(inner: &Arc<I>) -> Frozen {
    let mut views = inner.registry().views.lock();
    let id = views.iter().map(|view| view.id).max().unwrap_or(0) + 1;
    views.push(Saved { id, cursor: None, images: BTreeMap::new(), bytes: 0, given_up: None });
    drop(views);
    Box::new(Reader { inner: inner.clone(), id, chunk: Vec::new().into_iter(), done: false })
}

struct Reader<I: Freezes> {
    inner: Arc<I>,
    id: u64,
    chunk: std::vec::IntoIter<(Bytes, Bytes)>,
    done: bool,
}

impl<I: Freezes> Reader<I> {
    fn next_chunk(&mut self) -> Result<Vec<(Bytes, Bytes)>, StorageError> {
        let mut views = self.inner.registry().views.lock();
        let view = views.iter_mut().find(|view| view.id == self.id).expect("registered until it is dropped");
        if let Some(reason) = view.given_up {
            return Err(StorageError::Thawed { reason });
        }
        let start = match &view.cursor {
            None => Vec::new(),
            Some(cursor) => [cursor, &[0][..]].concat(),
        };
        let mut live = Vec::new();
        let mut bytes = 0;
        let mut ended = true;
        for pair in self.inner.scan(&start, &[], Direction::Forward) {
            let (key, value) = pair.map_err(unreadable)?;
            bytes += key.len() + value.len();
            live.push((key, value));
            if live.len() == CHUNK_PAIRS || bytes >= CHUNK_BYTES {
                ended = false;
                break;
            }
        }
        // What was saved between the cursor and the end of this chunk belongs into it; at the end, all of it.
        let images = match live.last() {
            Some((last, _)) if !ended => {
                let beyond = view.images.split_off(last);
                let mut here = std::mem::replace(&mut view.images, beyond);
                if let Some((key, image)) = view.images.remove_entry(last) {
                    here.insert(key, image);
                }
                here
            }
            _ => std::mem::take(&mut view.images),
        };
        view.bytes -=
            images.iter().map(|(key, image)| key.len() + image.as_ref().map_or(0, Bytes::len)).sum::<usize>();
        if ended {
            self.done = true;
            // Nothing is left to be saved for.
            view.give_up("it was read to its end");
        } else {
            view.cursor = live.last().map(|(key, _)| key.clone());
        }
        drop(views);
        Ok(merge(live, images))
    }
}

/// Live pairs with the saved contents in place of what overwrote them.
fn merge(live: Vec<(Bytes, Bytes)>, images: BTreeMap<Bytes, Option<Bytes>>) -> Vec<(Bytes, Bytes)> {
    if images.is_empty() {
        return live;
    }
    let mut all: BTreeMap<Bytes, Bytes> = live.into_iter().collect();
    for (key, image) in images {
        match image {
            Some(value) => all.insert(key, value),
            None => all.remove(&key),
        };
    }
    all.into_iter().collect()
}

fn unreadable(error: ViewError) -> StorageError {
    StorageError::Engine { path: Default::default(), source: error.0 }
}

impl<I: Freezes> Iterator for Reader<I> {
    type Item = Result<(Bytes, Bytes), StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(pair) = self.chunk.next() {
                return Some(Ok(pair));
            }
            if self.done {
                return None;
            }
            match self.next_chunk() {
                // A chunk may be empty: all of it was inserted after the freeze.
                Ok(chunk) => self.chunk = chunk.into_iter(),
                Err(error) => {
                    self.done = true;
                    return Some(Err(error));
                }
            }
        }
    }
}

impl<I: Freezes> Drop for Reader<I> {
    fn drop(&mut self) {
        self.inner.registry().views.lock().retain(|view| view.id != self.id);
    }
}
