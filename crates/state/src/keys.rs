//! The key spaces of the ordered byte map. One prefix byte each, so that a scan never leaves its space.
//!
//! Integers in keys are big-endian (byte order is number order); a signed lease id has its sign bit flipped for the same
//! reason. A user key that is not the last part of its key is escaped: `00` becomes `00 FF` and the end is `00 01`, which
//! keeps byte order (a key sorts before every longer key that starts with it, because `00 01` is below `00 FF` and below
//! every other byte) and makes the parts separable.

use bytes::Bytes;

use crate::{Fault, LeaseId, Revision};

const META: u8 = 0x01;
const LATEST: u8 = 0x02;
const EVENT: u8 = 0x03;
const VERSION: u8 = 0x04;
const LEASE: u8 = 0x05;
const LEASE_KEY: u8 = 0x06;
const MEMBER: u8 = 0x07;
const ALARM: u8 = 0x08;
const AUTH: u8 = 0x09;

/// Inside [`AUTH`].
const AUTH_STATE: u8 = 0x00;
const AUTH_USER: u8 = 0x01;
const AUTH_ROLE: u8 = 0x02;

const ESCAPED_ZERO: [u8; 2] = [0x00, 0xFF];
const TERMINATOR: [u8; 2] = [0x00, 0x01];

/// Where consensus keeps the last applied position. The value is opaque to this crate.
pub fn applied() -> Bytes {
    Bytes::from_static(b"\x01consensus/applied")
}

/// Where consensus keeps the membership as applied. The value is opaque to this crate.
pub fn membership() -> Bytes {
    Bytes::from_static(b"\x01consensus/membership")
}

/// The published attributes of a member; consensus deletes it when the membership drops the member.
pub fn member(id: u64) -> Bytes {
    prefixed(MEMBER, &id.to_be_bytes())
}

/// True for what the store keeps about itself (its revision, for one), which sorts before everything else.
pub fn is_meta(stored: &[u8]) -> bool {
    stored.first() == Some(&META)
}

/// True for what speaks of the members of one cluster (consensus' own, announcements, alarms): left out when the state begins
/// another cluster's life.
pub fn speaks_of_members(stored: &[u8]) -> bool {
    stored.starts_with(b"\x01consensus/") || matches!(stored, [MEMBER | ALARM, ..])
}

/// The store's revision.
pub(crate) fn revision() -> Bytes {
    Bytes::from_static(b"\x01revision")
}

/// The logical compaction.
pub(crate) fn compacted() -> Bytes {
    Bytes::from_static(b"\x01compacted")
}

/// The compaction whose physical removal is complete.
pub(crate) fn removed() -> Bytes {
    Bytes::from_static(b"\x01removed")
}

pub(crate) fn latest(key: &[u8]) -> Bytes {
    prefixed(LATEST, key)
}

/// First key after every latest record.
pub(crate) fn latest_end() -> Bytes {
    Bytes::from_static(&[LATEST + 1])
}

pub(crate) fn event(main: Revision, sub: u32) -> Bytes {
    let mut key = Vec::with_capacity(13);
    key.push(EVENT);
    key.extend_from_slice(&main.to_be_bytes());
    key.extend_from_slice(&sub.to_be_bytes());
    key.into()
}

pub(crate) fn event_end() -> Bytes {
    Bytes::from_static(&[EVENT + 1])
}

pub(crate) fn event_parts(stored: &[u8]) -> Result<(Revision, u32), Fault> {
    let [EVENT, rest @ ..] = stored else { return Err(Fault::shape("event key")) };
    let (main, sub) = rest.split_first_chunk::<8>().ok_or(Fault::shape("event key"))?;
    let sub = sub.try_into().map_err(|_| Fault::shape("event key"))?;
    Ok((Revision::from_be_bytes(*main), u32::from_be_bytes(sub)))
}

pub(crate) fn version(key: &[u8], main: Revision) -> Bytes {
    let mut stored = version_of(key);
    stored.extend_from_slice(&main.to_be_bytes());
    stored.into()
}

/// The part that all versions of `key` share.
pub(crate) fn version_of(key: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(1 + key.len() + 2 + 8);
    stored.push(VERSION);
    let mut rest = key;
    while let Some(zero) = rest.iter().position(|byte| *byte == 0) {
        stored.extend_from_slice(&rest[..zero]);
        stored.extend_from_slice(&ESCAPED_ZERO);
        rest = &rest[zero + 1..];
    }
    stored.extend_from_slice(rest);
    stored.extend_from_slice(&TERMINATOR);
    stored
}

pub(crate) fn version_start() -> Bytes {
    Bytes::from_static(&[VERSION])
}

pub(crate) fn version_end() -> Bytes {
    Bytes::from_static(&[VERSION + 1])
}

/// Splits into what all versions of the key share, still escaped, and the revision.
pub(crate) fn version_parts(stored: &[u8]) -> Result<(&[u8], Revision), Fault> {
    let (shared, main) = stored.split_last_chunk::<8>().ok_or(Fault::shape("version index key"))?;
    Ok((shared, Revision::from_be_bytes(*main)))
}

pub(crate) fn lease(id: LeaseId) -> Bytes {
    prefixed(LEASE, &ordered(id))
}

pub(crate) fn lease_start() -> Bytes {
    Bytes::from_static(&[LEASE])
}

pub(crate) fn lease_end() -> Bytes {
    Bytes::from_static(&[LEASE + 1])
}

pub(crate) fn lease_id(stored: &[u8]) -> Result<LeaseId, Fault> {
    let [LEASE, id @ ..] = stored else { return Err(Fault::shape("lease key")) };
    Ok(unordered(id.try_into().map_err(|_| Fault::shape("lease key"))?))
}

pub(crate) fn lease_key(id: LeaseId, key: &[u8]) -> Bytes {
    let mut stored = Vec::with_capacity(9 + key.len());
    stored.push(LEASE_KEY);
    stored.extend_from_slice(&ordered(id));
    stored.extend_from_slice(key);
    stored.into()
}

/// First key after all keys of lease `id`.
pub(crate) fn lease_key_end(id: LeaseId) -> Bytes {
    match id.checked_add(1) {
        Some(next) => lease_key(next, b""),
        None => Bytes::from_static(&[LEASE_KEY + 1]),
    }
}

pub(crate) fn lease_key_user_key(stored: &Bytes) -> Result<Bytes, Fault> {
    if stored.len() < 9 { Err(Fault::shape("lease attachment")) } else { Ok(stored.slice(9..)) }
}

pub(crate) fn member_start() -> Bytes {
    Bytes::from_static(&[MEMBER])
}

pub(crate) fn member_end() -> Bytes {
    Bytes::from_static(&[MEMBER + 1])
}

pub(crate) fn member_id(stored: &[u8]) -> Result<u64, Fault> {
    let [MEMBER, id @ ..] = stored else { return Err(Fault::shape("member key")) };
    Ok(u64::from_be_bytes(id.try_into().map_err(|_| Fault::shape("member key"))?))
}

pub(crate) fn alarm(kind: u8, member: u64) -> Bytes {
    let mut stored = Vec::with_capacity(10);
    stored.push(ALARM);
    stored.push(kind);
    stored.extend_from_slice(&member.to_be_bytes());
    stored.into()
}

pub(crate) fn alarm_start() -> Bytes {
    Bytes::from_static(&[ALARM])
}

pub(crate) fn alarm_end() -> Bytes {
    Bytes::from_static(&[ALARM + 1])
}

pub(crate) fn alarm_parts(stored: &[u8]) -> Result<(u8, u64), Fault> {
    let [ALARM, kind, member @ ..] = stored else { return Err(Fault::shape("alarm key")) };
    Ok((*kind, u64::from_be_bytes(member.try_into().map_err(|_| Fault::shape("alarm key"))?)))
}

pub(crate) fn auth_state() -> Bytes {
    Bytes::from_static(&[AUTH, AUTH_STATE])
}

/// With the empty name: the first key of all users.
pub(crate) fn user(name: &str) -> Bytes {
    [&[AUTH, AUTH_USER], name.as_bytes()].concat().into()
}

pub(crate) fn user_end() -> Bytes {
    Bytes::from_static(&[AUTH, AUTH_USER + 1])
}

/// With the empty name: the first key of all roles.
pub(crate) fn role(name: &str) -> Bytes {
    [&[AUTH, AUTH_ROLE], name.as_bytes()].concat().into()
}

pub(crate) fn role_end() -> Bytes {
    Bytes::from_static(&[AUTH, AUTH_ROLE + 1])
}

fn prefixed(prefix: u8, rest: &[u8]) -> Bytes {
    let mut stored = Vec::with_capacity(1 + rest.len());
    stored.push(prefix);
    stored.extend_from_slice(rest);
    stored.into()
}

fn ordered(id: LeaseId) -> [u8; 8] {
    (id ^ LeaseId::MIN).to_be_bytes()
}

fn unordered(bytes: [u8; 8]) -> LeaseId {
    LeaseId::from_be_bytes(bytes) ^ LeaseId::MIN
}

const _: () = assert!(META < LATEST, "the key spaces are in the order of the picture in the crate's essay");
