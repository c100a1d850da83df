//! The writer thread: takes what waits, writes it at once, syncs once, then tells everybody in order.
//!
//! BEFORE a completion is called: the group's bytes are on disk (one `fdatasync`), and if the group opened a segment, its name
//! is too (rename, directory fsync). AFTER: segments that only held purged entries are removed.
//!
//! A second thread does what must not delay a group: it prepares the next segment and removes old ones.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Instant;

use super::record::Record;
use super::recovery::Tail;
use super::segment::{HEADER_BYTES, Header, MAX_CAPACITY, Segment, Spare};
use super::{Command, Completion, Failure, Shared};
use crate::{DirLock, StorageError, directory};

/// A group stops growing here, so that the first of a burst does not wait for the last: at 1 MiB the write costs as much as
/// the sync on the disks measured.
const GROUP_BYTES: usize = 1 << 20;
/// The group's buffer is given back above this, so that one large entry does not stay in memory for ever.
const BUFFER_KEPT_BYTES: usize = 2 * GROUP_BYTES;

pub(super) struct Writer {
    shared: Arc<Shared>,
    dir: PathBuf,
    tail: Tail,
    housekeeper: Housekeeper,
    buffer: Vec<u8>,
    /// Held until the thread ends: nobody opens the log while a write may be under way.
    _lock: DirLock,
}

/// What one wake-up brought.
struct Group {
    records: Vec<Record>,
    /// For entry records, by their place in `records`: (record, index, ticket).
    entries: Vec<(usize, u64, u64)>,
    done: Vec<Completion>,
    /// The queue is empty and the log is being closed.
    last: bool,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        dir: &Path,
        tail: Tail,
        lock: DirLock,
    ) -> Result<Writer, StorageError> {
        let housekeeper = Housekeeper::start(dir)?;
        housekeeper.prepare(shared.options.segment_bytes);
        Ok(Writer { shared, dir: dir.to_path_buf(), tail, housekeeper, buffer: Vec::new(), _lock: lock })
    }

    pub(super) fn run(mut self) {
        // Last of all, also when this thread panics (an observer or a completion did): whoever waits is told.
        let _end = End(self.shared.clone());
        let mut failed: Option<Failure> = None;
        loop {
            let mut group = self.take();
            if group.last {
                group.records.push(Record::Closed);
            }
            if failed.is_none() {
                match self.commit(&group) {
                    Ok(()) => {}
                    Err(error) => {
                        let failure = Failure { kind: error.kind(), sentence: error.chain().into() };
                        tracing::error!(error = %failure.sentence, "log: a write failed, nothing more will be acknowledged");
                        self.shared.fail(failure.clone());
                        failed = Some(failure);
                    }
                }
            }
            for done in group.done {
                done(match &failed {
                    None => Ok(()),
                    Some(failure) => Err(failure.as_io()),
                });
            }
            if group.last {
                break;
            }
        }
        let Writer { housekeeper, _lock, .. } = self;
        housekeeper.end();
        drop(_lock);
    }

    /// Waits for something that asks to be synced and takes up to [`GROUP_BYTES`] of it.
    fn take(&self) -> Group {
        let mut state = self.shared.state.lock();
        while state.waiting == 0 && !state.closing {
            self.shared.work.wait(&mut state);
        }
        let mut group = Group { records: Vec::new(), entries: Vec::new(), done: Vec::new(), last: false };
        let mut bytes = 0;
        while bytes < GROUP_BYTES
            && let Some(command) = state.queue.pop_front()
        {
            let size = command.size();
            bytes += size;
            state.queued_bytes -= size;
            if !matches!(command, Command::Committed(_)) {
                state.waiting -= 1;
            }
            match command {
                Command::Append { entries, first_ticket, done } => {
                    for (nth, entry) in entries.into_iter().enumerate() {
                        group.entries.push((group.records.len(), entry.at.index, first_ticket + nth as u64));
                        group.records.push(Record::Entry { at: entry.at, payload: entry.payload });
                    }
                    group.done.push(done);
                }
                #[cfg(quorate_sim)]
                Command::Vote(_, done) if crate::sim::broken(crate::sim::Rule::VotesNotWritten) => {
                    group.done.push(done);
                }
                Command::Vote(vote, done) => {
                    group.records.push(Record::Vote(vote));
                    group.done.push(done);
                }
                Command::Committed(at) => group.records.push(Record::Committed(at)),
                Command::Truncate(last, done) => {
                    group.records.push(Record::Truncate(last));
                    group.done.push(done);
                }
                Command::Purge(upto, done) => {
                    group.records.push(Record::Purge(upto));
                    group.done.push(done);
                }
                Command::Wait(done) => group.done.push(done),
            }
        }
        group.last = state.closing && state.queue.is_empty();
        self.shared.space.notify_all();
        group
    }

    /// Puts the group on disk.
    fn commit(&mut self, group: &Group) -> Result<(), StorageError> {
        let size: usize = group.records.iter().map(Record::size).sum();
        if size == 0 {
            return Ok(());
        }
        let room = self.tail.current.as_ref().map_or(0, |segment| segment.capacity - self.tail.end);
        let opening = if (size as u64) <= room { None } else { Some(self.open_next(size as u64)?) };

        self.buffer.clear();
        let (segment, start) = match &opening {
            Some((segment, header)) => {
                self.buffer.extend_from_slice(&header.encode());
                (segment.clone(), 0)
            }
            None => (self.tail.current.clone().expect("there is room in it"), self.tail.end),
        };
        let group_at = start + self.buffer.len() as u64;
        let mut places = Vec::with_capacity(group.entries.len());
        let mut entries = group.entries.iter().peekable();
        for (nth, record) in group.records.iter().enumerate() {
            if let Some((_, index, ticket)) = entries.next_if(|(at, ..)| *at == nth) {
                places.push((*index, *ticket, (start + self.buffer.len() as u64) as u32));
            }
            record.encode(segment.seed, group_at as u32, &mut self.buffer);
        }

        #[cfg(quorate_sim)]
        crate::sim::about_to_write(&self.dir, &segment.path, &segment.file, &self.buffer, start)
            .map_err(StorageError::io("writing", &segment.path))?;
        segment.file.write_all_at(&self.buffer, start).map_err(StorageError::io("writing", &segment.path))?;
        let began = Instant::now();
        segment.file.sync_data().map_err(StorageError::io("syncing", &segment.path))?;
        if let Some(on_sync) = &self.shared.options.on_sync {
            on_sync(began.elapsed());
        }
        #[cfg(quorate_sim)]
        crate::sim::synced(&self.dir, &segment.path, group_at);
        self.tail.end = start + self.buffer.len() as u64;
        if self.buffer.capacity() > BUFFER_KEPT_BYTES {
            self.buffer = Vec::new();
        }

        if opening.is_some() {
            // Only now does the segment get its name: a segment found at start always has a whole header and first group.
            std::fs::rename(self.dir.join(spare_name(segment.number)), &segment.path)
                .map_err(StorageError::io("renaming", &segment.path))?;
            directory::sync(&self.dir)?;
            self.tail.current = Some(segment.clone());
            self.housekeeper.prepare(self.shared.options.segment_bytes);
        }

        let mut purged = false;
        for record in &group.records {
            let standing = &mut self.tail.standing;
            match record {
                Record::Entry { at, .. } => {
                    standing.last = Some(*at);
                    let highest = self.tail.highest.entry(segment.number).or_default();
                    *highest = at.index.max(*highest);
                }
                Record::Vote(vote) => standing.vote = Some(*vote),
                Record::Committed(at) => standing.committed = *at,
                Record::Truncate(last) => standing.truncate_after(*last),
                Record::Purge(upto) => {
                    standing.purge(*upto);
                    purged = true;
                }
                Record::Closed => {}
            }
        }
        let mut state = self.shared.state.lock();
        if opening.is_some() {
            state.segments.insert(segment.number, segment.clone());
        }
        for (index, ticket, offset) in places {
            state.index.arrived(index, ticket, segment.number, offset);
        }
        state.index.evict();
        drop(state);
        if purged {
            self.remove_purged(segment.number);
        }
        Ok(())
    }

    /// The segment after the current one, with room for `size` bytes of records. Not yet under its name.
    fn open_next(&mut self, size: u64) -> Result<(Arc<Segment>, Header), StorageError> {
        let needed = HEADER_BYTES + size;
        let number = self.tail.current.as_ref().map_or(1, |segment| segment.number + 1);
        let spare = match self.housekeeper.take() {
            Some(Ok(spare)) if spare.capacity >= needed => spare,
            // Too small for one large entry, or it could not be prepared earlier: the disk may have room by now. This is not
            // the retry of a failed write: nothing was ever promised about the file.
            Some(Ok(_)) | Some(Err(_)) | None => {
                let capacity = needed.next_multiple_of(HEADER_BYTES).max(self.shared.options.segment_bytes);
                if capacity > MAX_CAPACITY {
                    let path = super::segment::path_of(&self.dir, number);
                    let source =
                        std::io::Error::new(std::io::ErrorKind::FileTooLarge, "one write of more than 4 GiB");
                    return Err(StorageError::Io { action: "preallocating", path, source });
                }
                Spare::prepare(&self.dir, "large.tmp", capacity)?
            }
        };
        let waiting = self.dir.join(spare_name(number));
        std::fs::rename(&spare.path, &waiting).map_err(StorageError::io("renaming", &spare.path))?;
        let header = Header {
            uuid: self.tail.uuid,
            number,
            capacity: spare.capacity,
            previous_end: if number == 1 { 0 } else { self.tail.end },
            standing: self.tail.standing,
        };
        let path = super::segment::path_of(&self.dir, number);
        Ok((Arc::new(Segment::new(&header, path, spare.file)), header))
    }

    /// Removes the oldest segments as long as all they hold was purged *on disk*. Truncated entries count as held: their
    /// truncation may still be in the queue.
    fn remove_purged(&mut self, current: u64) {
        let Some(purged) = self.tail.standing.purged else { return };
        let highest: &mut BTreeMap<u64, u64> = &mut self.tail.highest;
        let mut state = self.shared.state.lock();
        let mut paths = Vec::new();
        while let Some((&number, segment)) = state.segments.first_key_value()
            && number < current
            && highest.get(&number).is_none_or(|highest| *highest <= purged.index)
        {
            paths.push(segment.path.clone());
            state.segments.remove(&number);
            highest.remove(&number);
        }
        drop(state);
        if !paths.is_empty() {
            self.housekeeper.remove(paths);
        }
    }
}

struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// What a spare is called while its first group is written.
fn spare_name(number: u64) -> String {
    format!("opening-{number:016x}.tmp")
}

enum Chore {
    Prepare(u64),
    Remove(Vec<PathBuf>),
}

/// The thread for chores.
struct Housekeeper {
    chores: mpsc::Sender<Chore>,
    /// At most one spare is ever asked for at a time.
    spares: mpsc::Receiver<Result<Spare, StorageError>>,
    thread: JoinHandle<()>,
}

impl Housekeeper {
    fn start(dir: &Path) -> Result<Housekeeper, StorageError> {
        let (chores, todo) = mpsc::channel();
        let (ready, spares) = mpsc::channel();
        let own = dir.to_path_buf();
        let thread = std::thread::Builder::new()
            .name("log-chores".into())
            .spawn(move || {
                for chore in todo {
                    match chore {
                        Chore::Prepare(capacity) => {
                            let spare = Spare::prepare(&own, "spare.tmp", capacity);
                            if let Err(error) = &spare {
                                tracing::warn!(error = %error.chain(), "log: the next segment could not be prepared");
                            }
                            // Fails only when the writer died.
                            let _ = ready.send(spare);
                        }
                        Chore::Remove(paths) => {
                            // Oldest first, so that what a crash leaves is still one run of segments.
                            for path in &paths {
                                if let Err(error) = std::fs::remove_file(path) {
                                    tracing::warn!(path = %path.display(), %error, "log: a purged segment stays");
                                    break;
                                }
                            }
                            if let Err(error) = directory::sync(&own) {
                                tracing::warn!(error = %error.chain(), "log: removal of purged segments not synced");
                            }
                        }
                    }
                }
            })
            .map_err(StorageError::io("starting a thread for", dir))?;
        Ok(Housekeeper { chores, spares, thread })
    }

    fn prepare(&self, capacity: u64) {
        // A send fails only when the thread died; take() then answers None and the writer prepares inline.
        let _ = self.chores.send(Chore::Prepare(capacity));
    }

    fn remove(&self, paths: Vec<PathBuf>) {
        let _ = self.chores.send(Chore::Remove(paths));
    }

    /// Waits for the spare asked for last.
    fn take(&self) -> Option<Result<Spare, StorageError>> {
        self.spares.recv().ok()
    }

    fn end(self) {
        drop(self.chores);
        // `spares` stays until the thread is done: removals may be queued behind a spare nobody takes any more.
        if self.thread.join().is_err() {
            tracing::warn!("log: the chores thread panicked");
        }
    }
}
