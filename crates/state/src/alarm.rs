//! Alarms: a member found that the cluster must not go on as before. They stand until an operator clears them.
//!
//! NOSPACE stops what grows the store (puts, transactions that could put, lease grants); deletes, compaction, revokes and
//! reads go on, because they are the way out. CORRUPT stops everything that writes keys or leases. Alarms and member
//! announcements are always taken: they are not the data that is in doubt.

use bytes::Bytes;

use crate::apply::Outcome;
use crate::change::Change;
use crate::{Alarm, AlarmKind, Direction, Done, Fault, Rejection, ReplyBody, View, keys};

pub(crate) fn apply(change: &mut Change<'_>, alarm: &Alarm) -> Outcome {
    let Ok(kind) = AlarmKind::try_from(alarm.kind) else { return Ok(Err(Rejection::Unspecified)) };
    if alarm.clear {
        let cleared = |(member, raised): &(u64, AlarmKind)| {
            (alarm.member == 0 || alarm.member == *member) && (kind == AlarmKind::None || kind == *raised)
        };
        for (member, raised) in change.alarms.extract_if(.., |raised| cleared(raised)) {
            change.view.delete(keys::alarm(code(raised), member));
        }
    } else if kind != AlarmKind::None && !change.alarms.contains(&(alarm.member, kind)) {
        change.alarms.push((alarm.member, kind));
        change.view.put(keys::alarm(code(kind), alarm.member), Bytes::new());
    }
    Ok(Ok(ReplyBody::Done(Done {})))
}

/// Raised alarms as (member, kind), by kind and then by member.
pub fn alarms(view: &dyn View) -> Result<Vec<(u64, AlarmKind)>, Fault> {
    view.scan(&keys::alarm_start(), &keys::alarm_end(), Direction::Forward)
        .map(|pair| {
            let (code, member) = keys::alarm_parts(&pair?.0)?;
            let kind = AlarmKind::try_from(i32::from(code)).map_err(|_| Fault::shape("alarm key"))?;
            Ok((member, kind))
        })
        .collect()
}

/// For what may grow the store.
pub(crate) fn check_put(change: &Change<'_>) -> Result<(), Rejection> {
    check_write(change)?;
    if raised(change, AlarmKind::NoSpace) { Err(Rejection::NoSpace) } else { Ok(()) }
}

/// For every other command that writes keys or leases.
pub(crate) fn check_write(change: &Change<'_>) -> Result<(), Rejection> {
    if raised(change, AlarmKind::Corrupt) { Err(Rejection::Corrupt) } else { Ok(()) }
}

fn raised(change: &Change<'_>, kind: AlarmKind) -> bool {
    change.alarms.iter().any(|(_, raised)| *raised == kind)
}

fn code(kind: AlarmKind) -> u8 {
    match kind {
        AlarmKind::None => 0,
        AlarmKind::NoSpace => 1,
        AlarmKind::Corrupt => 2,
    }
}
