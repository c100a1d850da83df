//! The synchronous set, exhaustively: every step from every state keeps "each acknowledged commit is on the best of every
//! promotion quorum", for all sets of up to seven nodes.

use std::collections::{BTreeMap, BTreeSet};

use quorate_ha::Lsn;
use quorate_ha::cluster::{SyncDocument, SyncEntry};
use quorate_ha::facts::SyncEffective;
use quorate_ha::sync::{State, Step, names, promotion_quorum, step};

const NODES: [&str; 7] = ["a", "b", "c", "d", "e", "f", "g"];

fn set(mask: u8) -> BTreeSet<String> {
    NODES.iter().enumerate().filter(|(i, _)| mask >> i & 1 == 1).map(|(_, n)| (*n).to_owned()).collect()
}

/// Can some `confirm` members have a commit that none of `known` has?
fn misses(members: u8, confirm: u32, known: u8) -> bool {
    (members & !known).count_ones() >= confirm
}

/// Every possible commit quorum of every entry meets every possible promotion quorum, and smaller ones need not.
#[test]
fn every_commit_quorum_meets_every_promotion_quorum() {
    let mut judged = 0_u32;
    for nodes in 1..=NODES.len() {
        for members in 1_u8..1 << nodes {
            if 8 - members.leading_zeros() as usize != nodes {
                continue;
            }
            for confirm in 0..=members.count_ones() {
                let entry = SyncEntry { members: set(members), confirm: confirm as usize };
                for known in 0_u8..1 << nodes {
                    let quorum = promotion_quorum(std::slice::from_ref(&entry), &set(known));
                    // With nobody to confirm, a commit is on no standby at all.
                    assert_eq!(
                        quorum,
                        confirm > 0 && !misses(members, confirm, known),
                        "{entry:?} {known:b}"
                    );
                    judged += 1;
                }
            }
        }
    }
    assert!(judged > 50_000, "{judged}");
}

/// What is true of one primary and its standbys. `flushed[i]`: how many of the commits node i has.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct World {
    document: Option<Vec<(u8, usize)>>,
    guc: (u8, usize),
    effective: Option<((u8, usize), u8)>,
    written: u8,
    acknowledged: u8,
    flushed: [u8; 3],
}

fn entry((mask, confirm): (u8, usize)) -> SyncEntry {
    SyncEntry { members: set(mask), confirm }
}

fn mask(entry: &SyncEntry) -> (u8, usize) {
    let members = NODES.iter().enumerate().filter(|(_, n)| entry.members.contains(**n));
    (members.fold(0, |mask, (i, _)| mask | 1 << i), entry.confirm)
}

impl World {
    fn next(&self, wanted: (u8, usize)) -> World {
        let document = self.document.as_ref().map(|entries| SyncDocument {
            leader: Some("p".to_owned()),
            entries: entries.iter().copied().map(entry).collect(),
        });
        let value = names(&entry(self.guc));
        let effective =
            self.effective.map(|(guc, at)| SyncEffective { names: names(&entry(guc)), at: Lsn(at.into()) });
        let flushed: BTreeMap<String, Lsn> =
            self.flushed.iter().enumerate().map(|(i, at)| (NODES[i].to_owned(), Lsn((*at).into()))).collect();
        let state = State {
            me: "p",
            document: document.as_ref(),
            names: &value,
            effective: effective.as_ref(),
            flushed: &flushed,
        };
        let mut next = self.clone();
        match step(&state, Some(&entry(wanted))) {
            Step::Settled | Step::Attach(_) | Step::CatchUp(_) => {}
            Step::Write(document) => {
                let document = document.expect("the mode is on");
                next.document = Some(document.entries.iter().map(mask).collect());
            }
            Step::Set(value) => {
                let target = *next
                    .document
                    .as_ref()
                    .and_then(|entries| entries.last())
                    .expect("listed before it is set");
                assert_eq!(value, names(&entry(target)), "only what the store lists is ever set");
                next.guc = target;
                next.effective = None;
            }
            Step::Confirm(value) => {
                assert_eq!(value, names(&entry(self.guc)));
                next.effective = Some((self.guc, self.written));
            }
        }
        next
    }

    /// S3: whatever quorum of positions is known, its best member has every acknowledged commit.
    fn check(&self) {
        let Some(document) = &self.document else { return };
        let entries: Vec<SyncEntry> = document.iter().copied().map(entry).collect();
        for known in 0_u8..8 {
            if !promotion_quorum(&entries, &set(known)) {
                continue;
            }
            let best = (0..3).filter(|i| known >> i & 1 == 1).map(|i| self.flushed[i]).max().unwrap_or(0);
            assert!(best >= self.acknowledged, "{known:b} known: {self:?}");
        }
    }
}

/// Every interleaving of writes, streaming, acknowledgements and set changes of three standbys.
#[test]
fn no_interleaving_of_changes_loses_a_commit() {
    const WRITES: u8 = 2;
    let start =
        World { document: None, guc: (0, 0), effective: None, written: 0, acknowledged: 0, flushed: [0; 3] };
    let wanted = [(0, 0), (1, 1), (2, 1), (3, 2), (3, 1), (6, 2)];
    let (mut seen, mut queue) = (BTreeSet::from([start.clone()]), vec![start]);
    while let Some(world) = queue.pop() {
        world.check();
        let mut next: Vec<World> = wanted.iter().map(|wanted| world.next(*wanted)).collect();
        if world.written < WRITES {
            next.push(World { written: world.written + 1, ..world.clone() });
        }
        for i in 0..3 {
            if world.flushed[i] < world.written {
                let mut streamed = world.clone();
                streamed.flushed[i] += 1;
                next.push(streamed);
            }
        }
        let (members, confirm) = world.guc;
        let confirmed =
            (0..3).filter(|i| members >> i & 1 == 1 && world.flushed[*i] > world.acknowledged).count();
        // Before the mode has reached the store nothing is promised.
        if world.acknowledged < world.written && confirmed >= confirm && world.document.is_some() {
            next.push(World { acknowledged: world.acknowledged + 1, ..world.clone() });
        }
        // Lists of more entries arise only from changing one's mind again and again; three are enough to see the rule.
        next.retain(|world| world.document.as_ref().is_none_or(|entries| entries.len() <= 3));
        for world in next {
            if seen.insert(world.clone()) {
                queue.push(world);
            }
        }
    }
    assert!(seen.len() > 5_000, "{} states", seen.len());
}
