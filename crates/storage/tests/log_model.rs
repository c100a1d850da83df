//! The log against a model, with crashes and damage: seeded, so that a failure names what replays it (`LOG_MODEL_SEED=n`).
//!
//! After every acknowledged call the segment files are copied. Two neighbouring copies bound what a crash can leave: any
//! mixture, at any byte, of the bytes before the call's group and after it. Such a mixture must open and show the model
//! before the call or a prefix of the group's records. Anything else that is not what was written must refuse.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use quorate_storage::{Completion, Entry, Log, LogOptions, Position, StorageError, Vote};

const DEADLINE: Duration = Duration::from_secs(60);
const HEADER_BYTES: usize = 4096;

fn options() -> LogOptions {
    LogOptions { segment_bytes: 8192, cache_bytes: 600, queue_bytes: 1 << 20, on_sync: None }
}

/// What a log should say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Model {
    vote: Option<Vote>,
    committed: Option<Position>,
    purged: Option<Position>,
    entries: BTreeMap<u64, (u64, Bytes)>,
}

/// One record's worth of change.
#[derive(Debug, Clone)]
enum Step {
    Append(Entry),
    Vote(Vote),
    Committed(Option<Position>),
    Truncate(Option<Position>),
    Purge(Position),
}

impl Model {
    fn last(&self) -> Option<Position> {
        self.entries
            .last_key_value()
            .map(|(index, (term, _))| Position { term: *term, index: *index })
            .or(self.purged)
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Append(entry) => {
                self.entries.insert(entry.at.index, (entry.at.term, entry.payload.clone()));
            }
            Step::Vote(vote) => self.vote = Some(*vote),
            Step::Committed(at) => self.committed = *at,
            Step::Truncate(None) => self.entries.clear(),
            Step::Truncate(Some(last)) => self.entries.retain(|index, _| *index <= last.index),
            Step::Purge(upto) => {
                self.entries.retain(|index, _| *index > upto.index);
                if self.purged.is_none_or(|purged| purged.index < upto.index) {
                    self.purged = Some(*upto);
                }
            }
        }
    }

    fn of(log: &Log) -> Model {
        let entries = log.entries(0..u64::MAX, usize::MAX).expect("readable");
        let model = Model {
            vote: log.vote(),
            committed: log.committed(),
            purged: log.purged(),
            entries: entries
                .into_iter()
                .map(|entry| (entry.at.index, (entry.at.term, entry.payload)))
                .collect(),
        };
        assert_eq!(log.last(), model.last());
        model
    }
}

/// Segment files by name.
type Image = BTreeMap<String, Vec<u8>>;

/// Purged segments are removed behind, oldest first: a copy during which one vanished is taken again.
fn image(dir: &Path) -> Image {
    'again: loop {
        let mut image = Image::new();
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if !name.ends_with(".log") {
                continue;
            }
            match std::fs::read(&path) {
                Ok(bytes) => drop(image.insert(name, bytes)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue 'again,
                Err(error) => panic!("{error}"),
            }
        }
        return image;
    }
}

fn open(image: &Image) -> (tempfile::TempDir, Result<Log, StorageError>) {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in image {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    let log = Log::open(dir.path(), options());
    (dir, log)
}

fn wait() -> (Completion, impl FnOnce()) {
    let (tell, told) = mpsc::channel();
    let done: Completion = Box::new(move |result| tell.send(result).expect("somebody waits"));
    (done, move || told.recv_timeout(DEADLINE).expect("a completion").expect("on disk"))
}

/// The records of one group, chosen at random but sensible.
fn choose(random: &mut fastrand::Rng, model: &Model) -> Vec<Step> {
    let mut steps = Vec::new();
    let last = model.last();
    if random.u8(0..4) == 0 {
        steps.push(Step::Committed(last));
    }
    let within = |random: &mut fastrand::Rng| {
        let indexes: Vec<_> =
            model.entries.iter().map(|(index, (term, _))| Position { term: *term, index: *index }).collect();
        random.choice(indexes)
    };
    let term = last.map_or(1, |last| last.term) + u64::from(random.u8(0..10) == 0);
    match random.u8(0..20) {
        0..12 => {
            let first = last.map_or(random.u64(0..2), |last| last.index + 1);
            for index in first..first + random.u64(1..5) {
                let mut payload = vec![0; random.usize(0..700)];
                random.fill(&mut payload);
                steps.push(Step::Append(Entry { at: Position { term, index }, payload: payload.into() }));
            }
        }
        12..15 => {
            let node = random.bool().then(|| random.u64(..));
            steps.push(Step::Vote(Vote { term, node, committed: random.bool() }));
        }
        15..17 => steps.push(Step::Truncate(within(random).or(model.purged))),
        17..19 => match within(random) {
            Some(at) => steps.push(Step::Purge(at)),
            None => steps.push(Step::Vote(Vote { term, node: None, committed: false })),
        },
        _ => {
            let index = last.map_or(0, |last| last.index) + random.u64(0..5);
            steps.push(Step::Purge(Position { term, index }));
        }
    }
    steps
}

fn perform(log: &Log, steps: &[Step]) {
    let mut entries = Vec::new();
    let (done, wait) = wait();
    let mut done = Some(done);
    for step in steps {
        match step {
            Step::Append(entry) => entries.push(entry.clone()),
            Step::Committed(at) => log.save_committed(*at),
            Step::Vote(vote) => log.save_vote(*vote, done.take().unwrap()),
            Step::Truncate(last) => log.truncate_after(*last, done.take().unwrap()),
            Step::Purge(upto) => log.purge(*upto, done.take().unwrap()),
        }
    }
    if let Some(done) = done {
        log.append(entries, done);
    }
    wait();
}

/// Where two images of the newest segment differ, or None if the group opened a new segment.
fn difference(before: &Image, after: &Image) -> Option<(String, usize, usize)> {
    let (name, new) = after.last_key_value()?;
    let old = before.get(name)?;
    let first = old.iter().zip(new).position(|(old, new)| old != new)?;
    let last = old.iter().zip(new).rposition(|(old, new)| old != new)?;
    Some((name.clone(), first, last + 1))
}

/// A crash while the group between the two images was written.
fn crash(random: &mut fastrand::Rng, before: &Image, after: &Image) -> Image {
    let Some((name, from, to)) = difference(before, after) else {
        // The group opened a segment, or there was nothing to write: before the rename the file has no name.
        return before.clone();
    };
    let mut torn = before.clone();
    let (old, new) = (torn.get_mut(&name).unwrap(), &after[&name]);
    match random.u8(0..3) {
        // A prefix.
        0 => {
            let cut = random.usize(from..=to);
            old[from..cut].copy_from_slice(&new[from..cut]);
        }
        // Some of its sectors.
        1 => {
            for sector in from / 512..to.div_ceil(512) {
                if random.bool() {
                    let range = (sector * 512).max(from)..((sector + 1) * 512).min(to);
                    old[range.clone()].copy_from_slice(&new[range]);
                }
            }
        }
        // All of it, one byte of it wrong.
        _ => {
            old[from..to].copy_from_slice(&new[from..to]);
            old[random.usize(from..to)] ^= random.u8(1..);
        }
    }
    torn
}

fn run(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::open(dir.path(), options()).unwrap();
    let mut model = Model::default();
    let mut before = image(dir.path());
    let (mut crashes, mut refusals) = (0, 0);
    for step in 0..80 {
        let context = format!("seed {seed} step {step}");
        let steps = choose(&mut random, &model);
        perform(&log, &steps);
        let after = image(dir.path());
        let mut allowed = vec![model.clone()];
        for step in &steps {
            model.apply(step);
            allowed.push(model.clone());
        }
        assert_eq!(Model::of(&log), model, "{context}");

        // A kill: every byte handed to the kernel is there.
        if random.u8(0..4) == 0 {
            let (_dir, log) = open(&after);
            assert_eq!(Model::of(&log.expect(&context)), model, "{context}");
        }
        // A power cut inside the group, then life goes on: what the cut left must not come back.
        if random.u8(0..2) == 0 {
            let torn = crash(&mut random, &before, &after);
            let (dir, log) = open(&torn);
            let log = log.unwrap_or_else(|error| panic!("{context}: a torn tail refuses: {error}"));
            let mut survivor = Model::of(&log);
            assert!(allowed.contains(&survivor), "{context}: {survivor:?} is none of {allowed:?}");
            for _ in 0..random.usize(0..4) {
                let steps = choose(&mut random, &survivor);
                perform(&log, &steps);
                steps.iter().for_each(|step| survivor.apply(step));
            }
            let (_again, log) = open(&image(dir.path()));
            assert_eq!(Model::of(&log.expect(&context)), survivor, "{context}: after the cut");
            crashes += 1;
        }
        // Rot before the newest group: refused. In an older segment, in a header, in an earlier group of the last one.
        if random.u8(0..2) == 0
            && let Some((last, from, _)) = difference(&before, &after)
        {
            let mut rotten = after.clone();
            let names: Vec<_> = rotten.keys().cloned().collect();
            let name = random.choice(names).unwrap();
            let bytes = rotten.get_mut(&name).unwrap();
            let end = if name == last { from } else { bytes.len() };
            let byte = random.usize(0..end);
            bytes[byte] ^= 1 << random.u8(0..8);
            // Behind the records of an older segment are zeros that nobody reads.
            let padding =
                name != last && byte >= HEADER_BYTES && after[&name][byte..].iter().all(|byte| *byte == 0);
            let (_dir, log) = open(&rotten);
            match log {
                Err(StorageError::Damaged { .. }) => refusals += 1,
                Err(error) => panic!("{context}: {error}"),
                Ok(log) => {
                    assert!(padding, "{context}: damage at {byte} of {name} was not noticed");
                    assert_eq!(Model::of(&log), model, "{context}");
                }
            }
        }
        before = after;
        if random.u8(0..10) == 0 {
            log.close(DEADLINE).unwrap();
            log = Log::open(dir.path(), options()).unwrap();
            assert_eq!(Model::of(&log), model, "{context}: reopened");
            before = image(dir.path());
        }
    }
    assert!(
        crashes > 10 && refusals > 5,
        "seed {seed}: only {crashes} crashes and {refusals} refusals: not a test"
    );
}

#[test]
fn model() {
    let seeds = match std::env::var("LOG_MODEL_SEED") {
        Ok(seed) => vec![seed.parse().expect("a number")],
        Err(_) => (0..30).collect(),
    };
    seeds.into_iter().for_each(run);
}

/// After an orderly close no bit of what was acknowledged can go unnoticed, the newest group included.
#[test]
fn after_an_orderly_close_every_flipped_bit_of_every_record_refuses() {
    let at = |index| Position { term: 1, index };
    let entry = |index| Step::Append(Entry { at: at(index), payload: Bytes::from_static(b"payload") });
    let kinds = [
        ("entry", vec![entry(4)]),
        ("vote", vec![Step::Vote(Vote { term: 2, node: Some(3), committed: true })]),
        ("committed", vec![Step::Committed(Some(at(2))), entry(4)]),
        ("truncate", vec![Step::Truncate(Some(at(2)))]),
        ("purge", vec![Step::Purge(at(1))]),
    ];
    for (kind, steps) in kinds {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path(), options()).unwrap();
        perform(&log, &[entry(1), entry(2), entry(3)]);
        let before = image(dir.path());
        perform(&log, &steps);
        let (name, from, to) = difference(&before, &image(dir.path())).unwrap();
        log.close(DEADLINE).unwrap();
        let whole = image(dir.path());
        for bit in from * 8..to * 8 {
            let mut rotten = whole.clone();
            rotten.get_mut(&name).unwrap()[bit / 8] ^= 1 << (bit % 8);
            let (_dir, log) = open(&rotten);
            match log {
                Err(StorageError::Damaged { path, offset, .. }) => {
                    assert!(
                        path.ends_with(&name) && offset as usize <= bit / 8,
                        "{kind}: names the wrong place"
                    );
                }
                other => panic!("{kind}: bit {bit}: {other:?}"),
            }
        }
        // A sector that was lost reads as zeros: that is damage too.
        let mut lost = whole.clone();
        lost.get_mut(&name).unwrap()[from..to].fill(0);
        assert!(matches!(open(&lost).1, Err(StorageError::Damaged { .. })), "{kind}: zeros");
    }
}
