//! Who this member is, on its disk: a small text file, replaced as a whole.
//!
//! The nonce is drawn when a data directory is first used, before anybody is told of this member. It tells a disk that has
//! been part of the formation from one that was emptied afterwards: a member's id is a promise about what its disk
//! remembers (votes, acknowledged entries), and an empty disk remembers nothing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::StartError;

const FILE: &str = "member";
const HEADER: &str = "quorate member 1";

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) nonce: u64,
    pub(crate) place: Place,
}

/// Where the member stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// Not in any cluster yet.
    Fresh,
    /// One of those that formed the cluster.
    Founder {
        cluster: u64,
        id: u64,
        /// Nonce by id, of every founder.
        founders: BTreeMap<u64, u64>,
    },
    /// Takes the place of another member, under an id of its own.
    Replacement { cluster: u64, id: u64 },
}

impl Identity {
    /// Reads the file, or writes a fresh one.
    pub(crate) fn load(dir: &Path) -> Result<Identity, StartError> {
        let path = dir.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let identity = Identity { nonce: fastrand::u64(1..), place: Place::Fresh };
                identity.store(dir)?;
                return Ok(identity);
            }
            Err(error) => return Err(StartError::because(format!("reading {}", path.display()), error)),
        };
        parse(&text).ok_or_else(|| {
            StartError::plain(format!(
                "{} does not say who this member is; start it with an empty data directory: it will be replaced and catch \
                 up from the others",
                path.display()
            ))
        })
    }

    /// Written beside, synced, renamed, directory synced: the old file or the new one.
    pub(crate) fn store(&self, dir: &Path) -> Result<(), StartError> {
        let path = dir.join(FILE);
        let write = || -> io::Result<()> {
            let beside: PathBuf = dir.join("member.new");
            let mut file = File::create(&beside)?;
            file.write_all(self.print().as_bytes())?;
            file.sync_all()?;
            fs::rename(&beside, &path)?;
            File::open(dir)?.sync_all()
        };
        write().map_err(|error| StartError::because(format!("writing {}", path.display()), error))
    }

    fn print(&self) -> String {
        let mut text = format!("{HEADER}\nnonce {:016x}\n", self.nonce);
        match &self.place {
            Place::Fresh => text.push_str("fresh\n"),
            Place::Founder { cluster, id, founders } => {
                text.push_str(&format!("founder {cluster:016x} {id:016x}\n"));
                for (id, nonce) in founders {
                    text.push_str(&format!("with {id:016x} {nonce:016x}\n"));
                }
            }
            Place::Replacement { cluster, id } => {
                text.push_str(&format!("replacement {cluster:016x} {id:016x}\n"))
            }
        }
        text.push_str("end\n");
        text
    }
}

fn parse(text: &str) -> Option<Identity> {
    let hex = |word: &str| u64::from_str_radix(word, 16).ok();
    let mut lines = text.lines();
    if lines.next()? != HEADER {
        return None;
    }
    let nonce = hex(lines.next()?.strip_prefix("nonce ")?)?;
    let words: Vec<&str> = lines.next()?.split(' ').collect();
    let mut place = match words.as_slice() {
        ["fresh"] => Place::Fresh,
        ["founder", cluster, id] => {
            Place::Founder { cluster: hex(cluster)?, id: hex(id)?, founders: BTreeMap::new() }
        }
        ["replacement", cluster, id] => Place::Replacement { cluster: hex(cluster)?, id: hex(id)? },
        _ => return None,
    };
    for line in lines {
        if line == "end" {
            return Some(Identity { nonce, place });
        }
        let (id, nonce) = line.strip_prefix("with ")?.split_once(' ')?;
        let Place::Founder { founders, .. } = &mut place else { return None };
        founders.insert(hex(id)?, hex(nonce)?);
    }
    None
}

/// The id of an initial member: the same on every member that computes it.
pub(crate) fn initial_id(token: &str, name: &str, peer_url: &str) -> u64 {
    digest(&[b"member", token.as_bytes(), name.as_bytes(), peer_url.as_bytes()])
}

/// The id of a cluster: its token and its initial members.
pub(crate) fn cluster_id(token: &str, members: impl IntoIterator<Item = u64>) -> u64 {
    let mut ids: Vec<[u8; 8]> = members.into_iter().map(u64::to_be_bytes).collect();
    ids.sort_unstable();
    let mut parts: Vec<&[u8]> = vec![b"cluster", token.as_bytes()];
    parts.extend(ids.iter().map(<[u8; 8]>::as_slice));
    digest(&parts)
}

/// FNV-1a over the length-prefixed parts, then a finalizer, because FNV's high bits mix badly. Never 0. Not a secret, and
/// collisions among the names of one cluster are checked for.
fn digest(parts: &[&[u8]]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut feed = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    for part in parts {
        (part.len() as u64).to_be_bytes().into_iter().for_each(&mut feed);
        part.iter().copied().for_each(&mut feed);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (hash ^ (hash >> 31)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_reads_back_and_a_cut_one_is_refused() {
        let founders = BTreeMap::from([(1, 11), (2, 22)]);
        let identity = Identity { nonce: 7, place: Place::Founder { cluster: 3, id: 1, founders } };
        let text = identity.print();
        assert_eq!(parse(&text), Some(identity));
        for cut in 0..text.len() - 1 {
            assert_eq!(parse(&text[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn ids_depend_on_every_part() {
        let id = initial_id("token", "a", "http://h:1");
        assert_eq!(id, initial_id("token", "a", "http://h:1"));
        assert_ne!(id, initial_id("tokena", "", "http://h:1"));
        assert_ne!(id, initial_id("token", "a", "http://h:2"));
        assert_eq!(cluster_id("t", [1, 2]), cluster_id("t", [2, 1]));
        assert_ne!(cluster_id("t", [1, 2]), cluster_id("u", [1, 2]));
    }
}
