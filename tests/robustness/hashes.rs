//! The members hold the same: equal hashes of equal revisions.
//!
//! Clients see one member at a time, so a copy that went its own way shows only when somebody asks it. At the end all are
//! asked for the hash of the last revision; the compaction's revision is part of the question.

use crate::history::{Hash, History};
use crate::verdict::{Checker, Findings};

pub(crate) fn check(history: &History, findings: &mut Findings) {
    let all: Vec<(usize, &Hash)> = history.hashes().collect();
    for (place, (at, hash)) in all.iter().enumerate() {
        let other = all[..place].iter().find(|(_, other)| {
            (other.revision, other.compacted) == (hash.revision, hash.compacted) && other.hash != hash.hash
        });
        if let Some((other, _)) = other {
            let why = format!("different content at revision {}", hash.revision);
            findings.add(Checker::Hashes, "the members hold the same", *other, Some(*at), why);
        }
    }
    let members = history.start().map_or(0, |start| start.members);
    for member in 0..members {
        if !all.iter().any(|(_, hash)| hash.member == member) {
            // Not a lie of the store, but nothing was proven either.
            let at = all.last().map_or(0, |(at, _)| *at);
            let why = format!("member {member} was not asked for its hash");
            findings.add(Checker::Hashes, "every member was asked", at, None, why);
        }
    }
    if let [(first, one), .., (last, other)] = &all[..]
        && one.compacted != other.compacted
    {
        let why = "they stand at different compactions, so nothing was compared".to_owned();
        findings.add(Checker::Hashes, "every member was asked", *first, Some(*last), why);
    }
}
