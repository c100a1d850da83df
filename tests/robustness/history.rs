//! A history: what clients asked, when, and what they were told. Data, and nothing else.
//!
//! # Problem
//!
//! A checker that looks while a cluster runs can be asked nothing afterwards. So the run only writes down, and every
//! question is put to what was written: again after a change of a checker, again after somebody doubts a verdict, and
//! again with a lie put into it on purpose (`mutations.rs`).
//!
//! # Model
//!
//! A history is a list of records in the order in which they were complete. A file has one record a line as JSON, so that
//! "line 812" in a verdict is line 812 of the file. All times are nanoseconds of one monotonic clock since the history began:
//! every client lives in one process, so there is no second clock to disagree with.
//!
//! # Outcomes
//!
//! | outcome | what it means for a write |
//! |---|---|
//! | answered | it happened once, between call and return |
//! | refused | the store said no: it never happens |
//! | unknown | no answer, or an answer that says nothing: it may have happened, may still happen, at most once |

use std::io::{BufRead as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// Every key is below this; `range_end` of "everything".
pub(crate) const END: &str = "l";
/// Every key begins with this.
pub(crate) const BEGIN: &str = "k";
/// The client whose reads of everything separate the windows of the search.
pub(crate) const BETWEEN: u32 = 1000;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub(crate) enum Record {
    Start(Start),
    Operation(Operation),
    Opened(Opened),
    Heard(Heard),
    Fault(Fault),
    Hash(Hash),
}

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Start {
    /// "quorate", "etcd".
    pub(crate) system: String,
    pub(crate) seed: u64,
    pub(crate) members: usize,
}

/// A request of a client and what came back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Operation {
    pub(crate) client: u32,
    pub(crate) member: usize,
    pub(crate) call_ns: u64,
    /// When the outcome was known; for an unknown one, when the client gave up.
    pub(crate) return_ns: u64,
    pub(crate) request: Request,
    pub(crate) outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(crate) enum Request {
    Put {
        key: String,
        value: String,
        lease: i64,
        prev_kv: bool,
    },
    /// `end` empty: one key.
    Delete {
        key: String,
        end: String,
        prev_kv: bool,
    },
    /// `revision` 0: now.
    Range {
        key: String,
        end: String,
        revision: i64,
        serializable: bool,
    },
    Txn {
        compares: Vec<Compare>,
        success: Vec<Request>,
        failure: Vec<Request>,
    },
    Compact {
        revision: i64,
    },
    Grant {
        lease: i64,
        ttl_s: i64,
    },
    Renew {
        lease: i64,
    },
    Revoke {
        lease: i64,
    },
    /// Which leases are there?
    Leases,
}

/// What a transaction compares; always for equality.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "compare", rename_all = "snake_case")]
pub(crate) enum Compare {
    Value { key: String, value: String },
    Mod { key: String, revision: i64 },
    Absent { key: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub(crate) enum Outcome {
    Answered(Answer),
    Refused { message: String },
    Unknown { message: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// The header's.
    pub(crate) revision: i64,
    pub(crate) term: u64,
    pub(crate) body: Body,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "body", rename_all = "snake_case")]
pub(crate) enum Body {
    Put { previous: Option<Kv> },
    Delete { deleted: i64, previous: Vec<Kv> },
    Range { kvs: Vec<Kv>, count: i64 },
    Txn { succeeded: bool, bodies: Vec<Body> },
    Lease { ttl_s: i64 },
    Leases { leases: Vec<i64> },
    Done,
}

/// A key at a revision.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Kv {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) create: i64,
    #[serde(rename = "mod")]
    pub(crate) modified: i64,
    pub(crate) version: i64,
    pub(crate) lease: i64,
}

/// A watcher begins, or goes on after its stream ended: a stream of its own each time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Opened {
    pub(crate) watcher: u32,
    pub(crate) stream: u32,
    pub(crate) member: usize,
    pub(crate) at_ns: u64,
    pub(crate) key: String,
    pub(crate) end: String,
    /// 0: from now on.
    pub(crate) start: i64,
    pub(crate) prev_kv: bool,
    pub(crate) no_put: bool,
    pub(crate) no_delete: bool,
}

/// A response of a watch stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Heard {
    pub(crate) stream: u32,
    pub(crate) at_ns: u64,
    pub(crate) revision: i64,
    pub(crate) created: bool,
    /// Some: cancelled. The number is the compaction's revision, or 0.
    pub(crate) canceled: Option<i64>,
    /// More of the same response follows.
    pub(crate) fragment: bool,
    pub(crate) events: Vec<Event>,
}

impl Heard {
    /// A promise that everything up to its revision has been delivered.
    pub(crate) fn is_bookmark(&self) -> bool {
        !self.created && self.canceled.is_none() && self.events.is_empty() && !self.fragment
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Event {
    pub(crate) key: String,
    pub(crate) revision: i64,
    /// None: deleted.
    pub(crate) now: Option<Kv>,
    pub(crate) previous: Option<Kv>,
}

/// What was done to a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fault {
    pub(crate) member: usize,
    pub(crate) at_ns: u64,
    pub(crate) kind: FaultKind,
    /// Whether it led the store at that moment.
    pub(crate) leader: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FaultKind {
    /// `kill -9`, and the process is gone.
    Killed,
    Started,
    /// SIGSTOP.
    Stopped,
    /// SIGCONT.
    Continued,
}

/// A member's hash at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hash {
    pub(crate) member: usize,
    pub(crate) at_ns: u64,
    pub(crate) revision: i64,
    pub(crate) compacted: i64,
    pub(crate) hash: u32,
}

/// A whole run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct History {
    pub(crate) records: Vec<Record>,
}

impl History {
    pub(crate) fn start(&self) -> Option<&Start> {
        self.records.iter().find_map(|record| match record {
            Record::Start(start) => Some(start),
            _ => None,
        })
    }

    /// With their indices in `records`.
    pub(crate) fn operations(&self) -> impl Iterator<Item = (usize, &Operation)> {
        self.records.iter().enumerate().filter_map(|(at, record)| match record {
            Record::Operation(operation) => Some((at, operation)),
            _ => None,
        })
    }

    pub(crate) fn operation(&self, at: usize) -> &Operation {
        match &self.records[at] {
            Record::Operation(operation) => operation,
            other => panic!("line {} is no operation: {other:?}", at + 1),
        }
    }

    pub(crate) fn heard(&self) -> impl Iterator<Item = (usize, &Heard)> {
        self.records.iter().enumerate().filter_map(|(at, record)| match record {
            Record::Heard(heard) => Some((at, heard)),
            _ => None,
        })
    }

    pub(crate) fn opened(&self) -> impl Iterator<Item = (usize, &Opened)> {
        self.records.iter().enumerate().filter_map(|(at, record)| match record {
            Record::Opened(opened) => Some((at, opened)),
            _ => None,
        })
    }

    pub(crate) fn faults(&self) -> impl Iterator<Item = (usize, &Fault)> {
        self.records.iter().enumerate().filter_map(|(at, record)| match record {
            Record::Fault(fault) => Some((at, fault)),
            _ => None,
        })
    }

    pub(crate) fn hashes(&self) -> impl Iterator<Item = (usize, &Hash)> {
        self.records.iter().enumerate().filter_map(|(at, record)| match record {
            Record::Hash(hash) => Some((at, hash)),
            _ => None,
        })
    }

    /// `line n: {the record}`, for people and for `sed -n`.
    pub(crate) fn line(&self, at: usize) -> String {
        let json = serde_json::to_string(&self.records[at]).unwrap_or_default();
        let shown: String = json.chars().take(600).collect();
        format!("line {}: {shown}{}", at + 1, if shown.len() < json.len() { "…" } else { "" })
    }

    /// Writes the file.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let shown = path.display();
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        let file = std::fs::File::create(path).with_context(|| format!("cannot write {shown}"))?;
        let mut file = std::io::BufWriter::new(file);
        for record in &self.records {
            serde_json::to_writer(&mut file, record)?;
            file.write_all(b"\n")?;
        }
        file.flush().with_context(|| format!("cannot write {shown}"))
    }

    /// Reads one that was written.
    pub(crate) fn read(path: &Path) -> Result<History> {
        let shown = path.display();
        let file = std::fs::File::open(path).with_context(|| format!("cannot read {shown}"))?;
        let mut records = Vec::new();
        for (number, line) in std::io::BufReader::new(file).lines().enumerate() {
            let record = serde_json::from_str(&line?)
                .with_context(|| format!("{shown}, line {}: no record of a history", number + 1))?;
            records.push(record);
        }
        Ok(History { records })
    }
}
