//! Mutated inputs for the tests of whoever reads what others wrote: documents, requests, flags, files.
//!
//! # Problem
//!
//! A reader of foreign bytes must answer or refuse, whatever it is given: no panic, no overflow, no endless loop, and what it
//! took it must be able to write and take again. Examples show what their author thought of.
//!
//! # Model
//!
//! A target is a function over bytes and a directory of seeds that are committed beside its crate (`crates/NAME/fuzz/TARGET/`),
//! one input a file. Every seed is given as it is first; then, until the time is over, one of them with a few
//! mutations: flipped bits, bytes and numbers that are known for trouble, pieces removed, repeated, exchanged and taken
//! from other seeds. Blind mutation finds less than mutation guided by coverage, which needs a nightly compiler; it runs wherever
//! the tests run, and the seeds are the same that a guided fuzzer would start from.
//!
//! An input that makes the target panic is written to a file, and the message says where. It belongs among the seeds
//! from then on: that is the regression test.
//!
//! # Bounds
//!
//! `QUORATE_FUZZ_SECONDS` for each target, 2 without it; `QUORATE_SEED` repeats a run as far as its time goes.

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Mutations of one input, at most.
const MUTATIONS: usize = 6;
/// No input grows beyond this many bytes by being mutated: the length is seldom what hurts.
const MAX_BYTES: usize = 64 << 10;
/// Numbers at which something ends, as text.
const NUMBERS: &[&str] = &[
    "0",
    "-1",
    "1",
    "127",
    "256",
    "65535",
    "65536",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1e999",
    "-0",
    "0.5",
    "1e-400",
    "00",
];
/// What means something to one reader or another.
const WORDS: &[&str] = &[
    "{", "}", "[", "]", "\"", "\\", "\\u0000", "\\ud800", ":", ",", "null", "true", "{}", "[]", "\0", "\n",
    "\r\n", "\t", " ", "'", "#", "&a ", "*a", "<<: ", "---\n", "|\n", "!!int ", "=", "--", "\u{fe0f}", "é",
    "\u{202e}", "%", "/", "//", "..",
];

/// Gives `check` the seeds in `corpus` and mutations of them. A panic of `check` is the finding.
///
/// # Panics
/// When `check` does, with the place of the input; when there are no seeds.
pub fn fuzz(corpus: impl AsRef<Path>, check: impl Fn(&[u8])) {
    let corpus = corpus.as_ref();
    let seeds = seeds(corpus);
    assert!(!seeds.is_empty(), "{} holds no seeds", corpus.display());
    for (path, bytes) in &seeds {
        if catch_unwind(AssertUnwindSafe(|| check(bytes))).is_err() {
            panic!("the seed {} fails", path.display());
        }
    }
    let seed = number("QUORATE_SEED").unwrap_or_else(|| fastrand::u64(..));
    let time = Duration::from_secs(number("QUORATE_FUZZ_SECONDS").unwrap_or(2));
    // Past the capture of a test's output: a stack that overflows ends the process, and nothing captured is shown then.
    let _ = writeln!(std::io::stderr(), "fuzz {}: QUORATE_SEED={seed}", name_of(corpus));
    let mut random = fastrand::Rng::with_seed(seed);
    let begin = Instant::now();
    let mut runs = 0_u64;
    while begin.elapsed() < time {
        runs += 1;
        let input = mutated(&seeds, &mut random);
        if catch_unwind(AssertUnwindSafe(|| check(&input))).is_err() {
            let place = keep(corpus, seed, runs, &input);
            panic!("input {runs} of QUORATE_SEED={seed} fails; it is in {place}:\n{}", input.escape_ascii());
        }
    }
    assert!(runs > 0 || time.is_zero(), "not one mutation in {time:?}");
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// In the order of their names.
fn seeds(corpus: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(corpus).unwrap_or_else(|error| panic!("{}: {error}", corpus.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            (path, bytes)
        })
        .collect()
}

fn name_of(corpus: &Path) -> String {
    corpus.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// Where the input that failed is now.
fn keep(corpus: &Path, seed: u64, run: u64, input: &[u8]) -> String {
    let path = std::env::temp_dir().join(format!("quorate-fuzz-{}-{seed}-{run}", name_of(corpus)));
    match std::fs::write(&path, input) {
        Ok(()) => path.display().to_string(),
        Err(error) => format!("no file ({error})"),
    }
}

fn mutated(seeds: &[(PathBuf, Vec<u8>)], random: &mut fastrand::Rng) -> Vec<u8> {
    let any = |random: &mut fastrand::Rng| &seeds[random.usize(..seeds.len())].1;
    let mut input = any(random).clone();
    for _ in 0..random.usize(1..=MUTATIONS) {
        mutate(&mut input, any(random), random);
        input.truncate(MAX_BYTES);
    }
    input
}

/// Changes `input` in one way; `other` lends pieces.
fn mutate(input: &mut Vec<u8>, other: &[u8], random: &mut fastrand::Rng) {
    let at = random.usize(..=input.len());
    match random.u8(0..10) {
        0 | 1 if at < input.len() => input[at] ^= 1 << random.u8(0..8),
        2 if at < input.len() => {
            input[at] = *random.choice(&[0, 1, 0x7f, 0x80, 0xff, b'0', b' ']).unwrap_or(&0)
        }
        3 => splice(input, at..at, random.choice(WORDS).unwrap_or(&"").as_bytes()),
        4 => {
            // A number in the text becomes another one.
            let digits = |from: usize| input[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            let start = (at..input.len()).find(|from| input[*from].is_ascii_digit()).unwrap_or(at);
            let end = start + digits(start);
            splice(input, start..end, random.choice(NUMBERS).unwrap_or(&"").as_bytes());
        }
        5 => {
            let end = (at + random.usize(..32)).min(input.len());
            splice(input, at..end, b"");
        }
        6 => {
            // A piece, many times over: depth, and lists without end.
            let end = (at + random.usize(1..48)).min(input.len());
            let piece = input[at..end].repeat(random.usize(1..64));
            splice(input, at..at, &piece);
        }
        7 => {
            let from = random.usize(..=other.len());
            let to = (from + random.usize(..64)).min(other.len());
            let end = (at + random.usize(..64)).min(input.len());
            splice(input, at..end, &other[from..to]);
        }
        8 => input.truncate(at),
        // Binary lengths and counts.
        _ => {
            let number =
                *random.choice(&[0, 1, 0x7fff_ffff, 0xffff_ffff, 0x1_0000_0000, u64::MAX]).unwrap_or(&0);
            let width = *random.choice(&[2, 4, 8]).unwrap_or(&4);
            let end = (at + width).min(input.len());
            splice(input, at..end, &number.to_le_bytes()[..width]);
        }
    }
}

fn splice(input: &mut Vec<u8>, range: std::ops::Range<usize>, piece: &[u8]) {
    drop(input.splice(range, piece.iter().copied()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_net_catches_a_reader_that_trusts_a_length() {
        let dir = std::env::temp_dir().join(format!("quorate-fuzz-self-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("one"), b"\x03abc").unwrap();
        let reader = |input: &[u8]| {
            if let Some((length, rest)) = input.split_first() {
                let _ = &rest[..usize::from(*length)];
            }
        };
        let caught = catch_unwind(AssertUnwindSafe(|| fuzz(&dir, reader)));
        std::fs::remove_dir_all(&dir).unwrap();
        let message = *caught.expect_err("it was caught").downcast::<String>().unwrap();
        assert!(message.contains("QUORATE_SEED="), "{message}");
        let place = message.split("it is in ").nth(1).unwrap().split(":\n").next().unwrap();
        std::fs::remove_file(place).unwrap();
    }

    #[test]
    fn the_same_seed_gives_the_same_inputs() {
        let seeds =
            [(PathBuf::new(), b"{\"a\": 12, \"b\": [1, 2]}".to_vec()), (PathBuf::new(), b"key: 7".to_vec())];
        let inputs = |seed| {
            let mut random = fastrand::Rng::with_seed(seed);
            (0..500).map(|_| mutated(&seeds, &mut random)).collect::<Vec<_>>()
        };
        assert_eq!(inputs(1), inputs(1));
        assert_ne!(inputs(1), inputs(2));
    }
}
