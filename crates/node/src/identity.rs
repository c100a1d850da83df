//! Who this member is, on its disk: a small text file, replaced as a whole.
//!
//! The nonce is drawn when a data directory is first used, before anybody is told of this member. It tells a disk that has
//! been part of the formation from one that was emptied afterwards: a member's id is a promise about what its disk
//! remembers (votes, acknowledged entries), and an empty disk remembers nothing.
//!
//! Once the member has its place, the file also says whose directory this is: the cluster token and the member name it was
//! first used with. A directory that holds a log continues the cluster the log belongs to, whatever the configuration says;
//! an operator who points a new cluster at an old directory would silently serve the old one's keys. So both are compared
//! before anything is opened, and a difference changes nothing. Peer URLs and the list of initial members are not compared:
//! they change in the life of a cluster, and etcd ignores them after the first start too.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::StartError;

const FILE: &str = "member";
const HEADER: &str = "quorate member 2";
/// Before there was a checksum behind the last line.
const HEADER_WITHOUT_SUM: &str = "quorate member 1";

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) nonce: u64,
    pub(crate) place: Place,
    /// None until it has a place.
    pub(crate) owner: Option<Owner>,
    pub(crate) forced: Forced,
}

/// Whether it was made the only voter by force, and has not been started without that order since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forced {
    No,
    /// The cluster has its new id; the log may not have the new membership yet.
    Begun,
    Done,
}

/// Whose directory it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) token: String,
    pub(crate) name: String,
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
    /// Its id is in the membership already: an operator added it, or it was restored from a snapshot or forced to go on alone.
    Joined { cluster: u64, id: u64 },
}

impl Identity {
    /// A disk that was never used.
    pub(crate) fn fresh() -> Identity {
        Identity { nonce: fastrand::u64(1..), place: Place::Fresh, owner: None, forced: Forced::No }
    }

    /// Reads the file, or writes a fresh one. Err, with nothing changed: it is somebody else's.
    pub(crate) fn load(dir: &Path, us: &Owner) -> Result<Identity, StartError> {
        let mut identity = Identity::read(dir)?;
        match &identity.owner {
            Some(owner) if owner != us => Err(StartError::plain(format!(
                "{} belongs to member {:?} of the cluster {:?}, but this is member {:?} of the cluster {:?}: correct name \
                 and cluster token, or name another data directory; nothing was changed",
                dir.display(),
                owner.name,
                owner.token,
                us.name,
                us.token
            ))),
            None if identity.place != Place::Fresh => {
                identity.owner = Some(us.clone());
                identity.store(dir)?;
                Ok(identity)
            }
            Some(_) | None => Ok(identity),
        }
    }

    fn read(dir: &Path) -> Result<Identity, StartError> {
        let path = dir.join(FILE);
        let text = match fs::read(&path) {
            // Bytes that are no text fail the checksum, and get that sentence.
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let identity = Identity::fresh();
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
            Place::Joined { cluster, id } => text.push_str(&format!("joined {cluster:016x} {id:016x}\n")),
        }
        if let Some(Owner { token, name }) = &self.owner {
            text.push_str(&format!("token {token}\nname {name}\n"));
        }
        match self.forced {
            Forced::No => {}
            Forced::Begun => text.push_str("forcing\n"),
            Forced::Done => text.push_str("forced\n"),
        }
        // An id with a flipped bit is an id too, and somebody else's perhaps.
        let sum = crc32c::crc32c(text.as_bytes());
        text.push_str(&format!("end {sum:08x}\n"));
        text
    }
}

fn parse(text: &str) -> Option<Identity> {
    let hex = |word: &str| u64::from_str_radix(word, 16).ok();
    let mut lines = text.lines();
    match lines.next()? {
        HEADER => {
            let (content, end) = text.split_at(text.rfind("end ")?);
            let sum = u32::from_str_radix(end.strip_prefix("end ")?.strip_suffix('\n')?, 16).ok()?;
            if sum != crc32c::crc32c(content.as_bytes()) {
                return None;
            }
        }
        HEADER_WITHOUT_SUM => {}
        _ => return None,
    }
    let nonce = hex(lines.next()?.strip_prefix("nonce ")?)?;
    let words: Vec<&str> = lines.next()?.split(' ').collect();
    let mut place = match words.as_slice() {
        ["fresh"] => Place::Fresh,
        ["founder", cluster, id] => {
            Place::Founder { cluster: hex(cluster)?, id: hex(id)?, founders: BTreeMap::new() }
        }
        ["replacement", cluster, id] => Place::Replacement { cluster: hex(cluster)?, id: hex(id)? },
        ["joined", cluster, id] => Place::Joined { cluster: hex(cluster)?, id: hex(id)? },
        _ => return None,
    };
    let (mut token, mut owner, mut forced) = (None, None, Forced::No);
    for line in lines {
        if line == "end" || line.starts_with("end ") {
            return Some(Identity { nonce, place, owner, forced });
        }
        if let Some(text) = line.strip_prefix("token ") {
            token = Some(text.to_owned());
            continue;
        }
        if let Some(name) = line.strip_prefix("name ") {
            owner = Some(Owner { token: token.take()?, name: name.to_owned() });
            continue;
        }
        match line {
            "forcing" => forced = Forced::Begun,
            "forced" => forced = Forced::Done,
            _ => {}
        }
        if forced != Forced::No {
            continue;
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

/// The id of a member that is restored from the snapshot with this digest: not the one it would have without.
pub(crate) fn restored_id(token: &str, name: &str, peer_url: &str, snapshot: &[u8]) -> u64 {
    digest(&[b"restored", token.as_bytes(), name.as_bytes(), peer_url.as_bytes(), snapshot])
}

/// The id of a cluster that begins with the snapshot with this digest.
pub(crate) fn restored_cluster_id(
    token: &str,
    members: impl IntoIterator<Item = u64>,
    snapshot: &[u8],
) -> u64 {
    digest(&[b"restored cluster", &cluster_id(token, members).to_be_bytes(), snapshot])
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
        let owner = Some(Owner { token: "a token".into(), name: "m 1".into() });
        let place = Place::Founder { cluster: 3, id: 1, founders };
        let identity = Identity { nonce: 7, place, owner, forced: Forced::Done };
        let text = identity.print();
        assert_eq!(parse(&text), Some(identity));
        for cut in 0..text.len() {
            assert_eq!(parse(&text[..cut]), None, "cut at {cut}");
        }
        for bit in 0..text.len() * 8 {
            let mut bytes = text.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let flipped = std::str::from_utf8(&bytes).ok().and_then(parse);
            // A digit of the checksum itself may be written in capitals.
            assert!(flipped.is_none() || flipped == parse(&text), "bit {bit}");
        }
    }

    #[test]
    fn a_file_without_a_checksum_still_counts() {
        let text =
            "quorate member 1\nnonce 0000000000000007\njoined 0000000000000003 0000000000000001\nend\n";
        let identity = parse(text).unwrap();
        assert_eq!((identity.nonce, &identity.place), (7, &Place::Joined { cluster: 3, id: 1 }));
        assert_eq!(parse(&identity.print()), Some(identity));
    }

    #[test]
    fn a_directory_is_its_first_owners() {
        let dir = tempfile::tempdir().unwrap();
        let first = Owner { token: "t1".into(), name: "a".into() };
        let fresh = Identity::load(dir.path(), &first).unwrap();
        assert_eq!(fresh.owner, None, "not before it has a place");
        let second = Owner { token: "t2".into(), name: "a".into() };
        assert_eq!(Identity::load(dir.path(), &second).unwrap(), fresh);
        let placed =
            Identity { place: Place::Joined { cluster: 1, id: 2 }, owner: Some(first.clone()), ..fresh };
        placed.store(dir.path()).unwrap();
        assert_eq!(Identity::load(dir.path(), &first).unwrap(), placed);
        let sentence = Identity::load(dir.path(), &second).unwrap_err().to_string();
        assert!(sentence.contains("\"t1\"") && sentence.contains("\"t2\""), "{sentence}");
        // A file from before owners were written is its next user's.
        Identity { owner: None, ..placed.clone() }.store(dir.path()).unwrap();
        assert_eq!(Identity::load(dir.path(), &first).unwrap(), placed);
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
