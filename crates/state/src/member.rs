//! What members say about themselves. Who is a member at all is the membership's matter (consensus), not this file's.

use bytes::Bytes;
use prost::Message;

use crate::apply::Outcome;
use crate::change::Change;
use crate::{Direction, Done, Fault, PublishMember, ReplyBody, View, keys};

/// A member's published attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberRecord {
    /// Its Raft node id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
}

/// What is stored under the id.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct StoredMember {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, repeated, tag = "2")]
    client_urls: Vec<String>,
}

pub(crate) fn publish(change: &mut Change<'_>, publish: &PublishMember) -> Outcome {
    let stored = StoredMember { name: publish.name.clone(), client_urls: publish.client_urls.clone() };
    change.view.put(keys::member(publish.member), stored.encode_to_vec().into());
    Ok(Ok(ReplyBody::Done(Done {})))
}

/// Every member that has announced itself, by id.
pub fn members(view: &dyn View) -> Result<Vec<MemberRecord>, Fault> {
    view.scan(&keys::member_start(), &keys::member_end(), Direction::Forward)
        .map(|pair| {
            let (key, value) = pair?;
            decode(keys::member_id(&key)?, value)
        })
        .collect()
}

fn decode(id: u64, value: Bytes) -> Result<MemberRecord, Fault> {
    let stored = StoredMember::decode(value)
        .map_err(|error| Fault::Undecodable { what: "member", source: Some(error) })?;
    Ok(MemberRecord { id, name: stored.name, client_urls: stored.client_urls })
}
